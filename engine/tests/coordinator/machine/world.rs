//! The machine of the coordinator, and a model of the world around it: what it decides is carried out there, and what it must
//! hold after each decision is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cutwater_engine::checkpoint::assign::{VertexKind, VertexPlan, key_group_range};
use cutwater_engine::checkpoint::barrier::{Alignment, SavepointFormat, Stop, Target};
use cutwater_engine::checkpoint::coordinator::{
    Acknowledged, CheckpointConfig, Coordinator, Decision, Found,
};
use cutwater_engine::checkpoint::history::EntryStatus;
use cutwater_engine::checkpoint::job_state::{Base, Change, ClaimMode, JobState, Origin, Retention, Status};
use cutwater_engine::checkpoint::layout::Layout;
use cutwater_engine::checkpoint::registry::Registry;
use cutwater_engine::checkpoint::request::{Request, RequestKind};
use cutwater_engine::checkpoint::snapshot::*;
use cutwater_engine::cluster::rpc::{Attempt, Declined, TaskId};

pub(super) const MAX_PARALLELISM: u16 = 8;
pub(super) const ATTEMPT: Attempt = Attempt { epoch: 1, number: 1 };

pub(super) fn layout() -> Layout {
    Layout::new("job").unwrap()
}

pub(super) fn config(retained: usize, max_concurrent: usize, tolerable_failures: u32) -> CheckpointConfig {
    CheckpointConfig {
        interval: Duration::from_millis(10),
        min_pause: Duration::from_millis(2),
        timeout: Duration::from_millis(100),
        tolerable_failures,
        retained,
        max_concurrent,
        retention: Retention::Never,
        changelog: None,
        alignment: Alignment::Aligned,
    }
}

pub(super) fn plan() -> Vec<VertexPlan> {
    let vertex = |uid: &str, kind| VertexPlan { uid: uid.into(), kind, max: None };
    vec![
        vertex("source", VertexKind::Source { partitions: 2 }),
        vertex("count", VertexKind::Keyed),
        vertex("sink", VertexKind::Sink),
    ]
}

pub(super) fn handle(path: String) -> FileHandle {
    FileHandle { path, len_bytes: 1, crc32c: 0 }
}

pub(super) fn task(vertex: u16, subtask: u16) -> TaskId {
    TaskId { vertex, subtask }
}

pub(super) fn failed() -> Declined {
    Declined::Failed("no".into())
}

pub(super) fn tasks() -> Vec<TaskId> {
    (0..3).flat_map(|vertex| (0..2).map(move |subtask| task(vertex, subtask))).collect()
}

/// The part of `task` in a savepoint in `directory`.
pub(super) fn savepoint_part(id: CheckpointId, task: TaskId, directory: &str) -> SubtaskState {
    let path = format!("{directory}/u-{}-{}", task.vertex, task.subtask);
    match task.vertex {
        0 => part(ATTEMPT, id, task, &[]),
        1 => SubtaskState::Keyed(KeyedSnapshot {
            range: key_group_range(task.subtask, 2, MAX_PARALLELISM),
            states: Vec::new(),
            format: StateFormat::canonical(),
            shared: Vec::new(),
            private: vec![StoreFile::whole("f", handle(path))],
            changelog: None,
            in_flight: None,
        }),
        _ => SubtaskState::from(Vec::<SinkTransaction>::new()),
    }
}

/// The part of `task` in checkpoint `id`, of a store that holds the tables `shared`.
pub(super) fn part(attempt: Attempt, id: CheckpointId, task: TaskId, shared: &[String]) -> SubtaskState {
    let layout = layout();
    let file = |path| StoreFile::whole("f", handle(path));
    match task.vertex {
        0 => SubtaskState::from(vec![SourcePosition { partition: task.subtask.into(), next_offset: id.0 }]),
        1 => SubtaskState::Keyed(KeyedSnapshot {
            range: key_group_range(task.subtask, 2, MAX_PARALLELISM),
            states: Vec::new(),
            format: StateFormat::store(),
            shared: shared.iter().cloned().map(file).collect(),
            private: vec![file(layout.private(id, attempt, task, "u"))],
            changelog: None,
            in_flight: None,
        }),
        _ => SubtaskState::from(vec![SinkTransaction {
            id: format!("{attempt}-{id}-{}", task.subtask),
            staged: handle(layout.staged(attempt, &format!("{id}-{}", task.subtask))),
        }]),
    }
}

/// The machine, and a model of the world around it: the register, the files that were deleted, what the tasks know.
pub(super) struct World {
    pub(super) machine: Coordinator,
    pub(super) register: JobState,
    pub(super) metadata: BTreeMap<CheckpointId, CheckpointMetadata>,
    pub(super) attempt: Attempt,
    pub(super) now_us: u64,
    pub(super) retain: usize,
    /// Not yet answered.
    pub(super) writes: Vec<CheckpointMetadata>,
    pub(super) changes: Vec<Change>,
    pub(super) triggered: Vec<CheckpointId>,
    pub(super) notified: Vec<CheckpointId>,
    pub(super) aborted: BTreeSet<CheckpointId>,
    pub(super) deleted: BTreeSet<String>,
    /// The tables that a keyed task named in each checkpoint: what it may build on once it believes that one complete.
    pub(super) bases: BTreeMap<(CheckpointId, TaskId), Vec<String>>,
    pub(super) uploads: u64,
    pub(super) restart: bool,
    pub(super) first_of_attempt: CheckpointId,
    pub(super) targets: BTreeMap<CheckpointId, Target>,
    pub(super) paths: BTreeMap<CheckpointId, String>,
    pub(super) notes: Vec<cutwater_engine::checkpoint::history::Entry>,
    pub(super) requests: u64,
    /// Requests that were taken and have had no end.
    pub(super) asked: BTreeSet<String>,
}

impl World {
    pub(super) fn new(retain: usize, max_concurrent: usize, tolerable: u32) -> World {
        let register =
            JobState::taken_over(None, "127.0.0.1:1".parse().unwrap(), 16, MAX_PARALLELISM, 2, Base::Newest);
        let config = config(retain, max_concurrent, tolerable);
        let found = Found { job_version: 1, ids: 1..17, ..Found::default() };
        let machine = Coordinator::new(layout(), config, plan(), MAX_PARALLELISM, found).unwrap();
        let mut world = World {
            machine,
            register,
            metadata: BTreeMap::new(),
            attempt: ATTEMPT,
            now_us: 0,
            retain,
            writes: Vec::new(),
            changes: Vec::new(),
            triggered: Vec::new(),
            notified: Vec::new(),
            aborted: BTreeSet::new(),
            deleted: BTreeSet::new(),
            bases: BTreeMap::new(),
            uploads: 0,
            restart: false,
            first_of_attempt: CheckpointId(0),
            targets: BTreeMap::new(),
            paths: BTreeMap::new(),
            notes: Vec::new(),
            requests: 0,
            asked: BTreeSet::new(),
        };
        world.machine.start(ATTEMPT, 2, 0, 0);
        world
    }

    pub(super) fn retained_ids(&self) -> Vec<CheckpointId> {
        self.register.retained.iter().map(|completed| completed.id).collect()
    }

    pub(super) fn folded(&self) -> Registry {
        Registry::rebuilt(self.retained_ids().iter().map(|id| &self.metadata[id])).unwrap()
    }

    /// Every path that a restore from any retained checkpoint needs.
    pub(super) fn needed(&self) -> BTreeSet<String> {
        let mut needed = BTreeSet::new();
        let savepoints = self.register.history.iter().filter(|entry| entry.is_savepoint());
        let listed = savepoints.filter_map(|entry| Some((entry.id, entry.present()?.metadata.path.clone())));
        let origin = self.register.origin().map(|origin| &origin.checkpoint);
        let held = self.register.retained.iter().chain(origin).map(|c| (c.id, c.metadata.path.clone()));
        for (id, path) in listed.chain(held) {
            needed.insert(path);
            for state in self.metadata[&id].vertices.iter().flat_map(|v| &v.subtasks) {
                needed.extend(state.shared_files().map(|h| h.path.clone()));
                needed.extend(state.private_files().iter().map(|h| h.path.clone()));
            }
        }
        needed
    }

    pub(super) fn execute(&mut self, decisions: Vec<Decision>) {
        for decision in decisions {
            match decision {
                Decision::Trigger(barrier) => {
                    let id = barrier.checkpoint;
                    assert!(self.triggered.last().is_none_or(|last| *last < id), "ids grow");
                    assert!(id.0 < self.register.next_id_bound, "an id that nobody reserved");
                    self.triggered.push(id);
                    self.targets.insert(id, barrier.options.target);
                }
                Decision::ReserveIds(bound) => self.changes.push(Change::ReserveIds { bound }),
                Decision::Begin(entry) => self.changes.push(Change::Begin(entry)),
                Decision::WriteMetadata { metadata, path } => {
                    match &self.targets[&metadata.id] {
                        Target::Savepoint { directory, .. } => {
                            assert_eq!(path, Layout::metadata_in(directory))
                        }
                        Target::Increment | Target::Full => assert_eq!(path, layout().metadata(metadata.id)),
                    }
                    self.paths.insert(metadata.id, path);
                    let parts: usize = metadata.vertices.iter().map(|v| v.subtasks.len()).sum();
                    assert_eq!(parts, 6, "a part of every task");
                    self.writes.push(*metadata);
                }
                Decision::Complete { entry, stops } => {
                    if let Some(trigger_id) = &entry.trigger_id {
                        self.answer(trigger_id.clone());
                    }
                    self.changes.push(match entry.is_savepoint() && !stops {
                        true => Change::Savepoint(entry),
                        false => Change::Complete { entry, retain: self.retain, stops },
                    });
                }
                Decision::NotifyComplete(id) => {
                    assert_eq!(self.register.latest().map(|c| c.id), Some(id), "I1: durable before a commit");
                    assert!(!self.aborted.contains(&id));
                    self.notified.push(id);
                }
                Decision::Forget(id) => {
                    assert!(self.aborted.insert(id), "{id} aborted twice");
                    assert!(!self.retained_ids().contains(&id));
                }
                Decision::Delete(paths) => {
                    let needed = self.needed();
                    for path in paths {
                        assert!(!needed.contains(&path), "I2, I4: {path} is referenced");
                        self.deleted.insert(path);
                    }
                    self.machine.deleted();
                }
                Decision::Note(entry) => {
                    let is_fate =
                        matches!(entry.status, EntryStatus::Failed { .. } | EntryStatus::TimedOut { .. });
                    assert!(is_fate, "{entry:?}");
                    self.notes.push(*entry.clone());
                    if let Some(trigger_id) = entry.trigger_id {
                        self.answer(trigger_id);
                    }
                }
                Decision::GiveBack { trigger_id, .. } => self.answer(trigger_id),
                Decision::Restart(_) => self.restart = true,
            }
        }
    }

    /// The one end of a request.
    pub(super) fn answer(&mut self, trigger_id: String) {
        assert!(self.asked.remove(&trigger_id), "{trigger_id} was never asked for, or answered before");
    }

    pub(super) fn ask(&mut self, pick: usize) {
        self.requests += 1;
        let trigger_id = self.requests.to_string();
        let stop = [None, None, Some(Stop::Suspend), Some(Stop::Drain)][pick / 4 % 4];
        let kind = match pick % 4 {
            0 | 1 => RequestKind::Checkpoint { full: pick.is_multiple_of(4) },
            _ => RequestKind::Savepoint { target: None, format: SavepointFormat::Native, stop },
        };
        let directory = layout().savepoint(None, &trigger_id);
        let request = Request { trigger_id: trigger_id.clone(), kind, description: "please".into() };
        if self.machine.request(request, directory).is_ok() {
            self.asked.insert(trigger_id);
        }
    }

    /// The task names the tables of the base it believes complete, without the oldest ones, and a new one. That base may
    /// be any of the last few, as notifications arrive when they like.
    pub(super) fn acknowledge(&mut self, id: CheckpointId, task: TaskId, base: Option<CheckpointId>) {
        if let Target::Savepoint { directory, .. } = &self.targets[&id] {
            // A task knows only what was triggered in its own attempt.
            if id < self.first_of_attempt {
                return;
            }
            let state = savepoint_part(id, task, directory);
            let (outcome, decisions) = self.machine.acknowledge(self.attempt, id, task, state, 1);
            assert!(!matches!(outcome, Acknowledged::Refused(_)), "{outcome:?}");
            self.execute(decisions);
            return;
        }
        let base = base.filter(|_| self.targets[&id] == Target::Increment);
        let mut shared = base.and_then(|base| self.bases.get(&(base, task))).cloned().unwrap_or_default();
        if shared.len() > 2 {
            shared.remove(0);
        }
        self.uploads += 1;
        shared.push(layout().shared(self.attempt, &format!("u{}", self.uploads)));
        let state = part(self.attempt, id, task, &shared);
        let (outcome, decisions) = self.machine.acknowledge(self.attempt, id, task, state, 1);
        if outcome == Acknowledged::Taken {
            self.bases.insert((id, task), shared);
        }
        self.execute(decisions);
    }

    pub(super) fn step(&mut self, op: u8, pick: usize) {
        let recent = self.triggered.len().min(4);
        let id = (recent > 0).then(|| self.triggered[self.triggered.len() - 1 - pick % recent]);
        match (op, id) {
            (0, _) => {
                self.now_us += 3_000 * (pick as u64 % 4 + 1);
                let decisions = self.machine.tick(self.now_us, 1);
                self.execute(decisions);
            }
            (1..=4, Some(id)) => {
                let mut bases: Vec<_> = self.notified.iter().rev().take(3).copied().map(Some).collect();
                bases.push(None);
                self.acknowledge(id, tasks()[pick % 6], bases[(pick / 6) % bases.len()]);
            }
            // All of one checkpoint, so that some do complete.
            (5..=6, Some(_)) => {
                let id = *self.triggered.last().unwrap();
                for task in tasks() {
                    self.acknowledge(id, task, self.notified.last().copied());
                }
            }
            (7, _) if !self.writes.is_empty() => self.write(pick),
            (8, _) if !self.changes.is_empty() => self.land(),
            (9, Some(id)) => {
                let why = if pick.is_multiple_of(3) { Declined::Superseded } else { failed() };
                let decisions = self.machine.decline(self.attempt, id, task(1, 0), &why, 1);
                self.execute(decisions);
            }
            (11, _) => self.ask(pick),
            (10, _) if self.restart || pick.is_multiple_of(4) => self.restart(),
            _ => {}
        }
    }

    pub(super) fn write(&mut self, pick: usize) {
        let metadata = self.writes.remove(pick % self.writes.len());
        let id = metadata.id;
        self.metadata.insert(id, metadata);
        let decisions = if pick.is_multiple_of(7) {
            self.machine.metadata_failed(id, "store", 1)
        } else {
            self.machine.metadata_written(id, handle(self.paths[&id].clone()))
        };
        self.execute(decisions);
    }

    pub(super) fn land(&mut self) {
        let change = self.changes.remove(0);
        self.register =
            self.register.changed(&change).noted(&std::mem::take(&mut self.notes), &BTreeSet::new());
        assert_eq!(self.register.check(), Ok(()), "after {change:?}");
        let decisions = match change {
            Change::ReserveIds { bound } => {
                self.machine.ids_reserved(bound);
                Vec::new()
            }
            Change::Begin(entry) => self.machine.begun(entry.id, self.now_us),
            Change::Complete { entry, .. } | Change::Savepoint(entry) => {
                self.machine.completed(entry.id, &self.retained_ids(), self.now_us, 1)
            }
            other => panic!("{other:?}"),
        };
        self.execute(decisions);
    }

    pub(super) fn settle(&mut self) {
        while !self.writes.is_empty() {
            self.write(1);
        }
        while !self.changes.is_empty() {
            self.land();
        }
    }

    pub(super) fn restart(&mut self) {
        let decisions = self.machine.stop("lost", 1);
        self.execute(decisions);
        while !self.changes.is_empty() {
            self.land();
        }
        assert_eq!(self.machine.pending().count(), 0, "no pending survives a restore");
        assert!(self.asked.is_empty(), "requests without an end: {:?}", self.asked);
        self.attempt.number += 1;
        self.restart = false;
        self.bases.clear();
        self.notified.clear();
        if matches!(self.register.status, Status::Stopping { .. }) {
            self.bring_back();
        }
        let last = self.triggered.last().map_or(0, |last| last.0);
        self.first_of_attempt = CheckpointId(last + 1);
        self.machine.start(self.attempt, 2, self.now_us, 7);
    }

    /// The job has stopped with a savepoint; a user brings it back from there, claiming it every other time.
    pub(super) fn bring_back(&mut self) {
        let savepoint = self.register.latest().unwrap().clone();
        assert!(savepoint.is_savepoint);
        let end = Change::End { status: Status::Finished, keep: false, at_unix_ms: 1 };
        self.register = self.register.changed(&end);
        let decisions = self.machine.let_go(&[], false);
        self.execute(decisions);
        assert!(self.machine.registry().entries().is_empty(), "nothing is left of an ended job");
        let claim = if savepoint.id.0.is_multiple_of(2) { ClaimMode::Claim } else { ClaimMode::NoClaim };
        let (path, metadata) = (savepoint.metadata.path.clone(), self.metadata[&savepoint.id].clone());
        let origin = Origin { checkpoint: savepoint, claim: Some(claim), allow_non_restored: false };
        self.register =
            self.register.changed(&Change::Start { base: Base::Origin(Box::new(origin)), ids: 16 });
        let bound = self.register.next_id_bound;
        let (job_version, origin) = (self.register.job_version, Some((&metadata, path, claim)));
        let found = Found { job_version, origin, ids: bound - 16..bound, ..Found::default() };
        self.machine.adopt(found).unwrap();
    }

    pub(super) fn check(&self) {
        assert!(self.register.retained.len() <= self.retain);
        assert!(self.deleted.is_disjoint(&self.needed()), "a retained checkpoint does not restore");
        // The registry holds at least what the retained checkpoints imply, with at least that use.
        let registered = self.machine.registry().entries();
        for (path, entry) in self.folded().entries() {
            assert!(registered.get(path).is_some_and(|found| found.last_used >= entry.last_used));
        }
        for path in registered.keys() {
            assert!(!self.deleted.contains(path), "{path} is registered and deleted");
        }
    }
}
