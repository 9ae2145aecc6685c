//! The simulated disks: one for each node, made on first use, with a file system that keeps after a crash what a real one
//! may keep.
//!
//! [`Disk`] is the model: plain data with synchronous operations. [`Disks`] is the set of them in a run, with what a
//! harness needs to drive them; the asynchronous calls of `cutwater_io::fs` come here with the incarnation of their node.
//!
//! A process that ends loses its open files and locks, nothing else. A machine whose power fails loses what was not
//! forced, as far as [`Survivors`] and the order that the file system keeps say so.
//!
//! What is damaged on a medium is told by its ledger, see [`Damaged`].

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::xxh3_64;

use super::{Damage, Env, Key, NodeId, Survivors, Told};

mod crash;
mod damage;
mod defects;
mod export;
mod file;
mod images;
mod latency;
mod log;
mod mid_sync;
mod model;
mod names;
mod path;
mod personality;
mod space;
mod sync;
mod tree;
mod writeback;

pub use crash::{CrashRecord, States, enumerate_states};
pub use damage::Spared;
pub use defects::{Bite, DamageKind, Damaged};
pub use file::{Fd, OpenFile, OpenMode};
pub use images::{Image, Images};
pub use latency::Pace;
pub(crate) use latency::slowed_us;
pub use log::{Before, Log, MicroOp, Op, OpId, OpKey};
pub use model::{Config, Disk};
pub use personality::{NamesForced, Personality, Rules};
pub use sync::Sync;
pub use tree::{Body, Ino, Inode, Listing, Name, ROOT, Sector, Seen, Tree};
pub use writeback::Writeback;

/// The disks of a run.
#[derive(Debug, Default)]
pub struct Disks {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    key: Key,
    config: Config,
    nodes: BTreeMap<NodeId, NodeDisk>,
    power_failures: Vec<PowerFailure>,
    healed: bool,
}

/// A power failure of a recorded run.
#[derive(Clone, Debug)]
pub struct PowerFailure {
    /// Whose.
    pub node: NodeId,
    /// What became of what was pending.
    pub record: CrashRecord,
    /// What processes saw before.
    pub before: Listing,
    /// What was left.
    pub after: Listing,
}

impl Default for State {
    fn default() -> State {
        State {
            key: Key::root(0),
            config: Config::default(),
            nodes: BTreeMap::new(),
            power_failures: Vec::new(),
            healed: false,
        }
    }
}

#[derive(Debug)]
struct NodeDisk {
    disk: Disk,
    stall_until_us: u64,
    slow: Slow,
    /// A process ended here, and none was seen since.
    may_be_down: bool,
    last_crash: Option<CrashRecord>,
    names_calls: u64,
    met: Met,
}

/// How many calls met a disk in a bad state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Met {
    /// Calls for which there was no space.
    pub full: u64,
    /// Calls that waited for a stall to end.
    pub stalled: u64,
    /// Calls that took longer.
    pub slowed: u64,
}

/// A phase in which everything takes longer.
#[derive(Clone, Copy, Debug)]
struct Slow {
    factor: u64,
    until_us: u64,
}

impl Disks {
    pub(crate) fn configure(&self, key: Key, config: Config) {
        let mut state = self.state();
        state.key = key;
        state.config = config;
        assert!(state.nodes.is_empty(), "the disks are configured before they are used");
    }

    pub(crate) fn process_ended(&self, node: NodeId) {
        if let Some(node) = self.state().nodes.get_mut(&node) {
            node.disk.process_kill();
            node.may_be_down = true;
        }
    }

    pub(crate) fn power_fail(&self, env: &Env, node: NodeId, survivors: &Survivors) {
        let now_us = env.now_ns() / 1000;
        let recording = env.is_recording();
        let before = recording.then(|| self.listing(node));
        let record = self.state().node(node).disk.power_fail(survivors, now_us);
        if let Some(before) = before {
            let after = self.listing(node);
            self.state().power_failures.push(PowerFailure { node, record: record.clone(), before, after });
        }
        let mut payload = Vec::with_capacity(16 + record.lost.len() * 8);
        payload.extend_from_slice(&(record.kept.len() as u64).to_le_bytes());
        for op in record.lost.iter().map(|op| op.id).chain(record.garbage) {
            payload.extend_from_slice(&op.0.to_le_bytes());
        }
        env.emit(node, "disk.power_fail", &payload, || {
            Told::from(format!("{} lost, {} kept\n{}", record.lost.len(), record.kept.len(), record.story()))
                .with("lost", record.told(&record.lost))
                .with("kept", record.told(&record.kept))
        });
        self.state().node(node).last_crash = Some(record);
        self.tell_bites(env, node);
    }

    /// Calls `look` with the disk of a node.
    pub fn with<T>(&self, node: NodeId, look: impl FnOnce(&Disk) -> T) -> T {
        look(&self.state().node(node).disk)
    }

    /// Calls `change` with the disk of a node. For the harness, and for the calls of processes.
    pub fn with_mut<T>(&self, node: NodeId, change: impl FnOnce(&mut Disk) -> T) -> T {
        change(&mut self.state().node(node).disk)
    }

    /// A copy of the disk of a node as it is now.
    pub fn snapshot(&self, node: NodeId) -> Disk {
        self.with(node, Disk::clone)
    }

    /// Puts another disk into a node that is down: a new one, or an old image.
    ///
    /// # Panics
    /// If a process of the node has a file open.
    pub fn replace(&self, node: NodeId, disk: Disk) {
        let mut state = self.state();
        let slot = state.node(node);
        assert!(slot.disk.open_fd_count() == 0, "the disk of {node} is in use");
        slot.disk = disk;
        slot.disk.process_kill();
    }

    /// Sets the size of the disk; `None` for no limit. Writes miss the space, not syncs.
    pub fn set_capacity(&self, node: NodeId, bytes: Option<u64>) {
        self.with_mut(node, |disk| {
            disk.set_capacity(bytes);
            disk.set_late_enospc(false);
        });
    }

    /// From now on nothing strikes, not even a sync that was struck and has not failed yet: a file system that gave up after
    /// the last fault would never be mended.
    pub fn heal(&self) {
        self.state().healed = true;
    }

    pub(crate) fn is_healed(&self) -> bool {
        self.state().healed
    }

    /// The disk answers no call before that moment, in microseconds of virtual time.
    pub fn stall(&self, node: NodeId, until_us: u64) {
        self.state().node(node).stall_until_us = until_us;
    }

    /// Each call takes `factor` times as long until that moment, in microseconds of virtual time.
    pub fn slow(&self, node: NodeId, factor: u32, until_us: u64) {
        self.state().node(node).slow = Slow { factor: factor.max(1).into(), until_us };
    }

    /// How many calls to the disk of the node met it in a bad state so far.
    pub fn met(&self, node: NodeId) -> Met {
        self.state().node(node).met
    }

    /// A call met it in one.
    pub(crate) fn note_met(&self, node: NodeId, note: impl FnOnce(&mut Met)) {
        note(&mut self.state().node(node).met);
    }

    /// How much longer calls take now.
    pub(crate) fn slowness(&self, node: NodeId, now_us: u64) -> u64 {
        let slow = self.state().node(node).slow;
        if now_us < slow.until_us { slow.factor } else { 1 }
    }

    /// The disk takes no more data: writes fail, or, if `late`, the syncs that would have to allocate.
    pub fn fill(&self, node: NodeId, late: bool) {
        self.with_mut(node, |disk| {
            let used = if late { disk.used_on_medium_bytes() } else { disk.used_bytes() };
            disk.set_capacity(Some(used));
            disk.set_late_enospc(late);
        });
    }

    /// False if the file system of the node has given up, and waits for the machine to be started anew.
    pub fn works(&self, node: NodeId) -> bool {
        self.with(node, Disk::works)
    }

    pub(crate) fn stalled_until_us(&self, node: NodeId) -> u64 {
        self.state().node(node).stall_until_us
    }

    /// Bytes in allocated sectors.
    pub fn used_bytes(&self, node: NodeId) -> u64 {
        self.with(node, Disk::used_bytes)
    }

    /// How many files the processes of the node have open.
    pub fn open_fd_count(&self, node: NodeId) -> usize {
        self.with(node, Disk::open_fd_count)
    }

    /// Every path of the node, with what processes see there.
    pub fn listing(&self, node: NodeId) -> Listing {
        self.with(node, Disk::listing)
    }

    /// What the last power failure of the node took.
    pub fn last_crash(&self, node: NodeId) -> Option<CrashRecord> {
        self.state().node(node).last_crash.clone()
    }

    /// What was damaged on the disk of the node, in the order in which it happened.
    pub fn ledger(&self, node: NodeId) -> Vec<Damaged> {
        self.with(node, |disk| disk.ledger().cloned().collect())
    }

    /// From now on these files of the node are not damaged.
    pub fn spare(&self, node: NodeId, spared: Spared) {
        self.with_mut(node, |disk| disk.spare(spared));
    }

    /// How often processes of the node were given damaged bytes, or errors in their place.
    pub fn damage_served(&self, node: NodeId) -> u64 {
        self.with(node, Disk::damage_served)
    }

    /// Damages something that lies on the disk of the node, see [`Disk::damage_at_rest`].
    pub fn damage_at_rest(&self, env: &Env, node: NodeId, class: &str, nth: u32, damage: Damage) -> bool {
        let (now_us, class_of) = (env.now_ns() / 1000, env.classifier());
        let struck = self.with_mut(node, |disk| {
            disk.tick(now_us);
            disk.damage_at_rest(class, nth, damage, class_of).then(|| disk.ledger().last().cloned())
        });
        if let Some(Some(damaged)) = &struck {
            env.emit(node, "disk.fault", format!("{damaged:?}").as_bytes(), || damaged.to_string());
        }
        self.tell_bites(env, node);
        struck.is_some()
    }

    /// Tells the injector what faults have come to that damage the disk of the node.
    pub(crate) fn tell_bites(&self, env: &Env, node: NodeId) {
        for bite in self.with_mut(node, Disk::take_bites) {
            env.bites(node, bite);
        }
    }

    /// Repairs every defect of the disk of the node.
    pub fn lift_damage(&self, node: NodeId) {
        self.with_mut(node, Disk::lift_damage);
    }

    /// The power failures of a recorded run, in order.
    pub fn power_failures(&self) -> Vec<PowerFailure> {
        self.state().power_failures.clone()
    }

    /// Writes what processes of the node see below `prefix` into a real directory.
    ///
    /// # Errors
    /// Those of the real file system.
    pub fn export(&self, node: NodeId, prefix: &str, real_dir: &Path) -> io::Result<()> {
        self.snapshot(node).export(prefix, real_dir)
    }

    /// Copies a real directory below `prefix` on the disk of the node.
    ///
    /// # Errors
    /// Those of either file system.
    pub fn import(&self, node: NodeId, real_dir: &Path, prefix: &Path) -> io::Result<()> {
        self.with_mut(node, |disk| disk.import(real_dir, prefix))
    }

    /// The pace of the calls of `node` on a path; `nth` tells several paces of one path apart.
    pub(crate) fn pace(&self, node: NodeId, path: &str, nth: u64) -> Pace {
        Pace::new(self.state().key.child("disk.pace", &[node.0, xxh3_64(path.as_bytes()), nth]))
    }

    /// Counts a call on the names of `node`, for its latency.
    pub(crate) fn next_names_call(&self, node: NodeId) -> u64 {
        let mut state = self.state();
        let calls = &mut state.node(node).names_calls;
        *calls += 1;
        *calls
    }

    /// True if a process of the node ended and [`Disks::seen_running`] was not called since.
    pub(crate) fn may_be_down(&self, node: NodeId) -> bool {
        self.state().nodes.get(&node).is_some_and(|n| n.may_be_down)
    }

    pub(crate) fn seen_running(&self, node: NodeId) {
        self.state().node(node).may_be_down = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn node(&mut self, node: NodeId) -> &mut NodeDisk {
        let (key, config) = (&self.key, &self.config);
        self.nodes.entry(node).or_insert_with(|| NodeDisk {
            disk: Disk::new(key.child("disk", &[node.0]), config.clone()),
            stall_until_us: 0,
            slow: Slow { factor: 1, until_us: 0 },
            may_be_down: false,
            last_crash: None,
            names_calls: 0,
            met: Met::default(),
        })
    }
}
