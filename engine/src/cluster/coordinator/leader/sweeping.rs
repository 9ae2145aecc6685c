//! When it is looked for objects that nobody owns; [`crate::checkpoint::sweep`] says which those are.

use cutwater_io::time::micros;
use std::collections::BTreeSet;

use cutwater_io::{buggify, sometimes};

use super::{Leader, Stage, points};
use crate::checkpoint::{points as checkpoint_points, sweep};
use crate::cluster::coordinator::io;
use crate::cluster::coordinator::now_us;
use crate::cluster::rpc::Attempt;

/// Until the next try, when a change of the register was under way.
const RETRY_US: u64 = 500_000;

impl Leader {
    /// A sweep is worth while now; one that is under way may have looked too early.
    pub(super) fn request_sweep(&mut self) {
        self.sweep_at_us = now_us();
    }

    pub(super) fn sweep_if_due(&mut self, now: u64) {
        if !self.sweeping && (now >= self.sweep_at_us || buggify!(points::SWEEP_NOW)) {
            self.sweeping = true;
            self.sweep_at_us = now + micros(self.context.config.sweep_interval);
            let removals = self.state.removals.iter().cloned().collect();
            self.spawn(io::list(self.context.clone(), removals));
        }
    }

    /// The view is of now, and only taken while nothing is uncertain.
    pub(super) fn sweep(&mut self, listed: Option<Vec<String>>) {
        let current = match (self.stage, self.cluster.current()) {
            (Stage::Ended, _) => Some(Attempt { epoch: self.state.epoch, number: u32::MAX }),
            (_, current) => current.map(|current| current.attempt),
        };
        let (Some(listed), Some(current), Some(machine)) = (listed, current, &self.machine) else {
            self.sweeping = false;
            return;
        };
        if machine.is_completing() {
            self.sweeping = false;
            self.sweep_at_us = now_us() + RETRY_US;
            return;
        }
        let removals: BTreeSet<String> = self.state.removals.iter().cloned().collect();
        let is_empty = |directory: &&String| !listed.iter().any(|path| sweep::is_within(path, directory));
        let empty: BTreeSet<String> = removals.iter().filter(is_empty).cloned().collect();
        // Twice, as a put may land after everybody has given it up.
        self.removed.extend(empty.intersection(&self.once_empty).cloned());
        self.once_empty = empty;
        let view = machine.sweep_view(current, removals);
        let orphans = sweep::orphans(&self.context.layout, &view, &listed);
        sometimes!(checkpoint_points::SWEPT, !orphans.is_empty());
        self.spawn(io::sweep(self.context.clone(), orphans, self.version));
    }
}
