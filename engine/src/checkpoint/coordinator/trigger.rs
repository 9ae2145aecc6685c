//! When which checkpoint is triggered (Flink: `CheckpointRequestDecider`).
//!
//! - Not while another is being prepared, while deletions are behind, while no id is reserved, or while the job is about to
//!   end with a savepoint.
//! - With as many under way as may be, only a savepoint passes, and not if barriers may overtake each other.
//! - A periodic one keeps the minimum pause after the last completion; users wait for nobody.
//! - A user's wish is listed before any task hears of it ([`Decision::Begin`]): see [`crate::checkpoint::history`].

use std::collections::BTreeMap;

use super::pending::{Pending, Phase};
use super::{Coordinator, Decision, ID_BLOCK};
use crate::checkpoint::barrier::{Alignment, CheckpointOptions, Target};
use crate::checkpoint::history::{Entry, EntryStatus, Kind, Source};
use crate::checkpoint::request::{Request, RequestKind, Waiting};
use crate::checkpoint::snapshot::CheckpointId;

/// What the next checkpoint is.
struct Next {
    kind: Kind,
    source: Source,
    description: String,
    trigger_id: Option<String>,
    options: CheckpointOptions,
}

impl Coordinator {
    /// A user wants something. `directory` is the new directory that a savepoint gets.
    ///
    /// # Errors
    /// Why it is refused: then nothing comes of it.
    pub fn request(&mut self, request: Request, directory: String) -> Result<(), &'static str> {
        let Some(run) = &self.run else { return Err("not all tasks run") };
        if run.stopping.is_some() {
            return Err("the job is being stopped");
        }
        if run.last_stage.is_some() && stop(&request).is_some() {
            return Err("the job is about to finish by itself");
        }
        if self.queue.push(request, directory) { Ok(()) } else { Err("too many requests wait") }
    }

    /// True if that request waits.
    pub fn is_waiting(&self, trigger_id: &str) -> bool {
        self.queue.contains(trigger_id)
    }

    /// Deletions must not fall behind without bound (Flink: no trigger while more than that are being cleaned).
    pub(super) fn may_trigger(&self) -> bool {
        let stops = self.run.as_ref().is_none_or(|run| run.stopping.is_some());
        !stops
            && self.pending.values().all(|p| p.phase != Phase::Preparing)
            && self.deletions <= self.config.max_concurrent
            && self.next_id < self.bound
    }

    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < self.config.max_concurrent
    }

    pub(super) fn reserve_ids(&mut self, decisions: &mut Vec<Decision>) {
        if self.run.is_some() && !self.reserving && self.bound - self.next_id < ID_BLOCK / 2 {
            self.reserving = true;
            decisions.push(Decision::ReserveIds(self.bound + ID_BLOCK));
        }
    }

    pub(super) fn trigger(&mut self, now_us: u64, unix_ms: u64, decisions: &mut Vec<Decision>) {
        while self.may_trigger()
            && let Some(next) = self.next(now_us)
        {
            let base_us = self.config.base_interval_us();
            let run = self.run.as_mut().expect("checked by may_trigger");
            // A savepoint is no substitute: nothing is committed with it, and no failure restores from it.
            if let Kind::Checkpoint { .. } = next.kind {
                run.next_periodic_us = now_us + base_us;
            }
            let id = CheckpointId(self.next_id);
            self.next_id += 1;
            if next.options.stop.is_some() {
                run.stopping = Some(id);
            }
            if let Kind::Savepoint { .. } = next.kind {
                run.savepoints.insert(id, next.options.target.clone());
            }
            let is_listed = next.trigger_id.is_some();
            let entry = Entry {
                id,
                kind: next.kind,
                source: next.source,
                description: next.description,
                trigger_id: next.trigger_id,
                job_version: self.job_version,
                epoch: run.attempt.epoch,
                triggered_unix_ms: unix_ms,
                status: EntryStatus::Creating,
            };
            let pending = Pending {
                attempt: run.attempt,
                entry: entry.clone(),
                options: next.options,
                triggered_us: now_us,
                completed_unix_ms: 0,
                states: BTreeMap::new(),
                phase: if is_listed { Phase::Preparing } else { Phase::Collecting },
                _span: tracing::debug_span!("checkpoint", %id),
            };
            decisions.push(match is_listed {
                true => Decision::Begin(Box::new(entry)),
                false => Decision::Trigger(pending.barrier()),
            });
            self.pending.insert(id, pending);
        }
    }

    /// The list names the checkpoint: see [`Decision::Begin`].
    pub fn begun(&mut self, id: CheckpointId, now_us: u64) -> Vec<Decision> {
        // Aborted in the meantime.
        let Some(pending) = self.pending.get_mut(&id) else { return Vec::new() };
        assert!(pending.phase == Phase::Preparing, "{pending:?}");
        pending.phase = Phase::Collecting;
        pending.triggered_us = now_us;
        vec![Decision::Trigger(pending.barrier())]
    }

    fn next(&mut self, now_us: u64) -> Option<Next> {
        let (has_room, nothing_open) = (self.has_room(), self.pending.is_empty());
        let run = self.run.as_ref()?;
        if run.last_stage.is_some_and(|last| last.done.is_some()) {
            return None;
        }
        // Barriers that may overtake others are alone under way.
        let is_forced =
            |request: &Request| request.is_savepoint() && self.config.alignment == Alignment::Aligned;
        if self.queue.head().is_some_and(|head| has_room || is_forced(&head.request)) {
            return self.queue.pop().map(|waiting| self.wanted(waiting));
        }
        let target = if self.must_be_full { Target::Full } else { Target::Increment };
        let own = |source, description: &str| Next {
            kind: Kind::Checkpoint { full: target == Target::Full },
            source,
            description: description.into(),
            trigger_id: None,
            options: CheckpointOptions { target, alignment: self.alignment(), stop: None },
        };
        match run.last_stage {
            Some(_) => nothing_open.then(|| own(Source::EndOfInput, "end of input")),
            None => (has_room && run.next_periodic_us <= now_us).then(|| own(Source::Periodic, "periodic")),
        }
    }

    /// After the last one nothing is processed: it may leave nothing in flight.
    fn alignment(&self) -> Alignment {
        let is_last = self.run.as_ref().is_some_and(|run| run.last_stage.is_some());
        if is_last { Alignment::Aligned } else { self.config.alignment }
    }

    fn wanted(&self, waiting: Waiting) -> Next {
        let Waiting { request: Request { trigger_id, kind, description }, directory } = waiting;
        let (kind, source, options) = match kind {
            RequestKind::Checkpoint { full } => {
                let full = full || self.must_be_full;
                let target = if full { Target::Full } else { Target::Increment };
                let options = CheckpointOptions { target, alignment: self.alignment(), stop: None };
                (Kind::Checkpoint { full }, Source::Manual, options)
            }
            RequestKind::Savepoint { format, stop, .. } => {
                let target = Target::Savepoint { directory: directory.clone(), format };
                // Savepoints are always aligned: what lies in a channel has no canonical form.
                let options = CheckpointOptions { target, stop, ..CheckpointOptions::default() };
                let source = if stop.is_some() { Source::OnStop } else { Source::Manual };
                (Kind::Savepoint { directory, format }, source, options)
            }
        };
        Next { kind, source, description, trigger_id: Some(trigger_id), options }
    }
}

fn stop(request: &Request) -> Option<crate::checkpoint::barrier::Stop> {
    match request.kind {
        RequestKind::Savepoint { stop, .. } => stop,
        RequestKind::Checkpoint { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::checkpoint::assign::{VertexKind, VertexPlan};
    use crate::checkpoint::barrier::SavepointFormat;
    use crate::checkpoint::coordinator::{CheckpointConfig, Found};
    use crate::checkpoint::job_state::Retention;
    use crate::checkpoint::layout::Layout;
    use crate::cluster::rpc::Attempt;

    /// Nothing is committed with a savepoint and no failure restores from it: whoever takes them often must not stand in the
    /// way of the checkpoints.
    #[test]
    fn savepoints_do_not_put_off_the_periodic_checkpoint() {
        let config = CheckpointConfig {
            interval: Duration::from_millis(10),
            min_pause: Duration::from_millis(10),
            timeout: Duration::from_secs(1),
            tolerable_failures: 0,
            retained: 1,
            max_concurrent: 3,
            alignment: Alignment::Aligned,
            retention: Retention::Never,
            changelog: None,
        };
        let kind = VertexKind::Source { partitions: 1 };
        let plan = vec![VertexPlan { uid: "source".into(), kind, max: None }];
        let found = Found { job_version: 1, ids: 1..17, ..Found::default() };
        let mut machine = Coordinator::new(Layout::new("job").unwrap(), config, plan, 8, found)
            .expect("nothing is retained");
        machine.start(Attempt { epoch: 1, number: 1 }, 1, 0, 0);
        let mut periodic = 0;
        for n in 1..=2u64 {
            let kind = RequestKind::Savepoint { target: None, format: SavepointFormat::Native, stop: None };
            let request = Request { trigger_id: n.to_string(), kind, description: String::new() };
            machine.request(request, format!("s{n}")).expect("tasks run");
            for decision in machine.tick(n * 6_000, 1) {
                match decision {
                    Decision::Begin(entry) => drop(machine.begun(entry.id, n * 6_000)),
                    Decision::Trigger(_) => periodic += 1,
                    _ => {}
                }
            }
        }
        periodic += machine.tick(12_000, 1).iter().filter(|d| matches!(d, Decision::Trigger(_))).count();
        assert_eq!(periodic, 1, "due at 10 ms, whatever users ask for at 6 and 12");
    }
}
