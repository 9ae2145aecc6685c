//! Oracles of a job, told of every object that is written or deleted, at the moment it takes effect.
//!
//! They read what the coordinator wrote with the engine's own decoders, and know the rules, not the coordinator's state:
//! - `ids`: versions of the register have no gap, epochs and checkpoint ids only grow, every id comes from the reserved ones.
//! - `restorable`: a checkpoint that the register lists has all its files, whole, when it is listed and as long as it is;
//!   once there was one there is always one. A log has every change from its base on. Each segment is in its object, and of an object of several files at least half
//!   is used.
//! - `cut`: no checkpoint has read less of the input than one before it.
//! - `exactly once`: output is committed only of checkpoints that are durable, with the bytes that were staged, and stays.
//! - `list`: what the list of checkpoints says of one changes only forward, and agrees with what is retained.
//! - `no leak`: see [`JobOracle::leaks`].
//!
//! One thing the protocol allows has to be excused: a writer that was paused for long may create an old version of the
//! register anew, after it was removed. Readers take the highest, so it counts for nothing.

use std::collections::{BTreeMap, BTreeSet};

use cutwater_engine::checkpoint::history::EntryStatus;
use cutwater_engine::checkpoint::job_state::{CompletedCheckpoint, JobState};
use cutwater_engine::checkpoint::layout::{Layout, Object};
use cutwater_engine::checkpoint::log::{self, Record};
use cutwater_engine::checkpoint::metadata;
use cutwater_engine::checkpoint::snapshot::{
    CheckpointId, CheckpointMetadata, FileHandle, KeyedSnapshot, SubtaskState,
};
use cutwater_sim::scenario::Violation;

/// What an object holds, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    len_bytes: u64,
    crc32c: u32,
}

/// See the module.
#[derive(Debug)]
pub struct JobOracle {
    layout: Layout,
    /// How many versions of the register are kept.
    keep_versions: u64,
    /// What there is.
    objects: BTreeMap<String, Content>,
    /// What there ever was: a name is never used twice for different bytes.
    ever: BTreeMap<String, Content>,
    /// Metadata that there is, by its path.
    metadata: BTreeMap<String, CheckpointMetadata>,
    head: Option<Record>,
    /// Transactions of checkpoints that were durable at some time, with what they staged.
    durable: BTreeMap<String, FileHandle>,
    newest: Option<CheckpointId>,
    /// Savepoints that were ever listed as present.
    savepoints: BTreeSet<CheckpointId>,
    /// Of each partition, the next record to read after the newest checkpoint.
    positions: BTreeMap<u32, u64>,
}

impl JobOracle {
    /// Watches a job from before its first object.
    pub fn new(layout: Layout, keep_versions: u64) -> JobOracle {
        JobOracle {
            layout,
            keep_versions,
            objects: BTreeMap::new(),
            ever: BTreeMap::new(),
            metadata: BTreeMap::new(),
            head: None,
            durable: BTreeMap::new(),
            newest: None,
            savepoints: BTreeSet::new(),
            positions: BTreeMap::new(),
        }
    }

    /// How the job's objects are named.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The register's value.
    pub fn state(&self) -> Option<&JobState> {
        self.head.as_ref().map(|record| &*record.state)
    }

    /// What the register says can be restored: checkpoints and savepoints.
    pub fn present(&self) -> Vec<CheckpointId> {
        let history = self.state().into_iter().flat_map(|state| &state.history);
        history.filter(|entry| entry.present().is_some()).map(|entry| entry.id).collect()
    }

    /// The metadata of a checkpoint or savepoint that the register says can be restored.
    pub fn restorable(&self, id: CheckpointId) -> Option<&CheckpointMetadata> {
        let entry = self.state()?.history.iter().find(|entry| entry.id == id)?;
        self.metadata.get(&entry.present()?.metadata.path)
    }

    /// The newest checkpoint that was ever listed.
    pub fn newest(&self) -> Option<CheckpointId> {
        self.newest
    }

    /// An object was written.
    ///
    /// # Errors
    /// What does not hold any more.
    pub fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), Violation> {
        let content = Content { len_bytes: bytes.len() as u64, crc32c: crc32c::crc32c(bytes) };
        let Some(object) = self.layout.parse(path) else {
            return Err(Violation::new("no leak", "every object has a name of the layout")
                .of("object")
                .found(path));
        };
        if let Object::Log { version } = object {
            let excused = self.head.as_ref().is_some_and(|head| version < head.version);
            if !excused {
                self.written_once(path, content)?;
                self.append(version, path, bytes)?;
            }
        } else {
            self.written_once(path, content)?;
        }
        self.objects.insert(path.into(), content);
        match object {
            Object::Metadata { .. } | Object::Savepoint { .. } if Layout::directory_of(path).is_some() => {
                let decoded = metadata::decode(bytes, path).map_err(|error| {
                    Violation::new("restorable", "metadata is written whole").of("metadata").found(error)
                })?;
                self.metadata.insert(path.into(), decoded);
                Ok(())
            }
            Object::Output { transaction } => self.committed(&transaction, content),
            _ => Ok(()),
        }
    }

    /// An object was deleted.
    ///
    /// # Errors
    /// If something still needs it.
    pub fn delete(&mut self, path: &str) -> Result<(), Violation> {
        if self.objects.remove(path).is_none() {
            return Ok(());
        }
        match self.layout.parse(path) {
            Some(Object::Log { version })
                if self.head.as_ref().is_some_and(|head| head.version == version) =>
            {
                return Err(Violation::new("ids", "the newest version of the register stays")
                    .of("register")
                    .found(path));
            }
            Some(Object::Output { .. }) => {
                return Err(Violation::new("exactly once", "committed output stays")
                    .of("output")
                    .found(path));
            }
            _ => {}
        }
        match self.needed().into_iter().find(|checkpoint| self.references(checkpoint, path)) {
            None => Ok(()),
            Some(checkpoint) => {
                Err(Violation::new("restorable", "nothing that a listed checkpoint needs is deleted")
                    .of(kind(&self.layout, path))
                    .expected(format!("{path} to stay as long as checkpoint {} is listed", checkpoint.id))
                    .found("it was deleted"))
            }
        }
    }

    /// What can be restored from: what is retained, savepoints that nobody deleted, and what the job was started from.
    fn needed(&self) -> Vec<CompletedCheckpoint> {
        let Some(state) = self.state() else { return Vec::new() };
        let savepoints = state.history.iter().filter(|entry| entry.is_savepoint()).filter_map(|entry| {
            let metadata = entry.present()?.metadata.clone();
            Some(CompletedCheckpoint { id: entry.id, metadata, is_savepoint: true })
        });
        let origin = state.origin().map(|origin| origin.checkpoint.clone());
        state.retained.iter().cloned().chain(savepoints).chain(origin).collect()
    }

    /// Objects that nothing needs any more. Empty once everything is quiet, or there is a leak.
    pub fn leaks(&self) -> Vec<&str> {
        let Some(head) = &self.head else { return self.objects.keys().map(String::as_str).collect() };
        let mut needed: BTreeSet<String> = BTreeSet::new();
        for checkpoint in self.needed() {
            if let Some(metadata) = self.metadata.get(&checkpoint.metadata.path) {
                needed.extend(handles(metadata).map(|handle| handle.path.clone()));
            }
            needed.insert(checkpoint.metadata.path);
        }
        let oldest = head.version.saturating_sub(self.keep_versions);
        let leaked = |path: &&str| match self.layout.parse(path) {
            Some(Object::Log { version }) => version < oldest,
            Some(Object::Output { .. }) => false,
            _ => !needed.contains(*path),
        };
        self.objects.keys().map(String::as_str).filter(leaked).collect()
    }

    fn written_once(&mut self, path: &str, content: Content) -> Result<(), Violation> {
        match self.ever.insert(path.into(), content) {
            Some(before) if before != content => {
                Err(Violation::new("restorable", "no name is used twice for different bytes")
                    .of(kind(&self.layout, path))
                    .expected(format!("{path} to stay {before:?}"))
                    .found(format!("{content:?}")))
            }
            _ => Ok(()),
        }
    }

    fn append(&mut self, version: u64, path: &str, bytes: &[u8]) -> Result<(), Violation> {
        let broken = |property: &str| Violation::new("ids", property).of("register");
        let record: Record = log::decode_record(bytes)
            .map_err(|error| broken("the register is written whole").found(format!("{path}: {error}")))?;
        let next = self.head.as_ref().map_or(1, |head| head.version + 1);
        if version != next || record.version != version {
            return Err(broken("versions have no gap")
                .expected(next)
                .found(format!("{path} with version {}", record.version)));
        }
        if let Some(before) = self.head.take() {
            grows(&before.state, &record.state)?;
        }
        let new: Vec<CompletedCheckpoint> = record
            .state
            .retained
            .iter()
            .filter(|c| self.newest.is_none_or(|newest| c.id > newest))
            .cloned()
            .collect();
        let known: BTreeSet<CheckpointId> = self.savepoints.clone();
        let savepoints: Vec<(CheckpointId, FileHandle)> = record
            .state
            .history
            .iter()
            .filter(|entry| entry.is_savepoint() && !known.contains(&entry.id))
            .filter_map(|entry| Some((entry.id, entry.present()?.metadata.clone())))
            .collect();
        self.head = Some(record);
        for (id, metadata) in savepoints {
            self.savepoints.insert(id);
            self.all_there(id, &metadata)?;
        }
        for checkpoint in new {
            self.listed(&checkpoint)?;
        }
        Ok(())
    }

    /// A checkpoint is listed for the first time: everything it needs is there, whole.
    fn listed(&mut self, checkpoint: &CompletedCheckpoint) -> Result<(), Violation> {
        self.newest = Some(checkpoint.id);
        let metadata = self.all_there(checkpoint.id, &checkpoint.metadata)?;
        self.one_attempt(&metadata)?;
        self.goes_on(&metadata)?;
        for state in metadata.vertices.iter().flat_map(|vertex| &vertex.subtasks) {
            if let SubtaskState::Keyed(keyed) = state {
                well_merged(checkpoint.id, keyed)?;
            }
        }
        for state in metadata.vertices.iter().flat_map(|vertex| &vertex.subtasks) {
            let transactions = state.transactions().iter();
            self.durable.extend(transactions.map(|t| (t.id.clone(), t.staged.clone())));
        }
        Ok(())
    }

    /// The metadata and every file that it names.
    fn all_there(&self, id: CheckpointId, handle: &FileHandle) -> Result<CheckpointMetadata, Violation> {
        self.whole(id, handle)?;
        let Some(metadata) = self.metadata.get(&handle.path).cloned() else {
            return Err(Violation::new("restorable", "a listed checkpoint has metadata")
                .of("metadata")
                .found(id));
        };
        for handle in handles(&metadata) {
            self.whole(id, handle)?;
        }
        Ok(metadata)
    }

    fn whole(&self, id: CheckpointId, handle: &FileHandle) -> Result<(), Violation> {
        let expected = Content { len_bytes: handle.len_bytes, crc32c: handle.crc32c };
        match self.objects.get(&handle.path) {
            Some(found) if *found == expected => Ok(()),
            found => Err(Violation::new("restorable", "every file of a listed checkpoint is there, whole")
                .of(kind(&self.layout, &handle.path))
                .expected(format!("checkpoint {id}: {} with {expected:?}", handle.path))
                .found(found.map_or("nothing".into(), |found| format!("{found:?}")))),
        }
    }

    /// Every job is restored from its newest checkpoint, so that the next one has read as much and more.
    fn goes_on(&mut self, metadata: &CheckpointMetadata) -> Result<(), Violation> {
        for state in metadata.vertices.iter().flat_map(|vertex| &vertex.subtasks) {
            let SubtaskState::Source(source) = state else { continue };
            for position in &source.positions {
                let before = self.positions.insert(position.partition, position.next_offset);
                if before.is_some_and(|before| before > position.next_offset) {
                    return Err(Violation::new(
                        "cut",
                        "source positions only grow from checkpoint to checkpoint",
                    )
                    .of("source position")
                    .expected(format!("partition {} at {before:?} or later", position.partition))
                    .found(format!("checkpoint {} at {}", metadata.id, position.next_offset)));
                }
            }
        }
        Ok(())
    }

    /// The parts of a checkpoint come from one deployment: a mixture would not be a cut.
    fn one_attempt(&self, metadata: &CheckpointMetadata) -> Result<(), Violation> {
        let epoch = self.state().map_or(0, |state| state.epoch);
        let mut attempts = BTreeSet::new();
        for handle in metadata.vertices.iter().flat_map(|v| &v.subtasks).flat_map(SubtaskState::private_files)
        {
            if let Some(Object::Private { attempt, .. }) = self.layout.parse(&handle.path) {
                attempts.insert(attempt);
            }
        }
        if attempts.len() > 1 || attempts.iter().any(|attempt| attempt.epoch != epoch) {
            return Err(Violation::new("ids", "a checkpoint is the work of one deployment of the leader")
                .of("checkpoint")
                .expected(format!("one attempt of epoch {epoch}"))
                .found(format!("checkpoint {} of {attempts:?}", metadata.id)));
        }
        Ok(())
    }

    fn committed(&self, transaction: &str, content: Content) -> Result<(), Violation> {
        let broken = |property: &str| Violation::new("exactly once", property).of("output");
        match self.durable.get(transaction) {
            None => Err(broken("output is committed only of durable checkpoints")
                .expected(format!("transaction {transaction} in a checkpoint that was listed"))
                .found("it was committed before")),
            Some(staged) if (staged.len_bytes, staged.crc32c) != (content.len_bytes, content.crc32c) => {
                Err(broken("what is committed is what was staged")
                    .expected(format!("{staged:?}"))
                    .found(format!("{content:?}")))
            }
            Some(_) => Ok(()),
        }
    }

    fn references(&self, checkpoint: &CompletedCheckpoint, path: &str) -> bool {
        if checkpoint.metadata.path == path {
            return true;
        }
        let Some(metadata) = self.metadata.get(&checkpoint.metadata.path) else { return false };
        // A restore needs staged output only to commit it.
        let states = metadata.vertices.iter().flat_map(|vertex| &vertex.subtasks);
        let transactions = states.flat_map(SubtaskState::transactions);
        let committed = |id: &str| self.objects.contains_key(&self.layout.output(id));
        let is_committed = transactions.into_iter().any(|t| t.staged.path == path && committed(&t.id));
        !is_committed && handles(metadata).any(|handle| handle.path == path)
    }
}

/// The register only grows.
fn grows(before: &JobState, after: &JobState) -> Result<(), Violation> {
    let broken = |property: &str, before: String, after: String| {
        Err(Violation::new("ids", property).of("register").expected(before).found(after))
    };
    if after.epoch < before.epoch {
        return broken("epochs grow", format!("{} or more", before.epoch), after.epoch.to_string());
    }
    if after.epoch == before.epoch && after.leader != before.leader {
        return broken("an epoch has one leader", before.leader.to_string(), after.leader.to_string());
    }
    if after.next_id_bound < before.next_id_bound {
        return broken(
            "reserved ids grow",
            format!("{} or more", before.next_id_bound),
            after.next_id_bound.to_string(),
        );
    }
    let ids = |state: &JobState| state.retained.iter().map(|c| c.id).collect::<Vec<_>>();
    let (old, new) = (ids(before), ids(after));
    // A user may delete the newest of a job that has ended.
    let is_same_start = after.job_version == before.job_version;
    let goes_back = new.last() < old.last() && is_same_start && !after.status.is_terminal();
    if !new.is_sorted_by(|a, b| a < b) || goes_back {
        return broken("checkpoint ids grow", format!("ids above {old:?}"), format!("{new:?}"));
    }
    // What a job stopped with is its user's again when it is brought back.
    if !old.is_empty() && new.is_empty() && is_same_start && !after.status.is_terminal() {
        return broken("once there is a checkpoint there is always one", format!("{old:?}"), "none".into());
    }
    if new.last().is_some_and(|id| id.0 >= after.next_id_bound) {
        return broken(
            "ids come from the reserved ones",
            format!("below {}", after.next_id_bound),
            format!("{new:?}"),
        );
    }
    if after.job_version < before.job_version
        || after.job_version == before.job_version
            && before.status.is_terminal()
            && after.status != before.status
    {
        return broken("an end is the end", format!("{:?}", before.status), format!("{:?}", after.status));
    }
    fates(before, after)?;
    // Ids below the bound of the record before an epoch belong to earlier leaders.
    let late = new.iter().find(|id| after.epoch > before.epoch && !old.contains(id));
    match late {
        Some(id) => broken("a takeover lists no new checkpoint", format!("{old:?}"), id.to_string()),
        None => Ok(()),
    }
}

/// What the list says of a checkpoint changes only forward.
fn fates(before: &JobState, after: &JobState) -> Result<(), Violation> {
    for old in &before.history {
        let Some(new) = after.history.iter().find(|entry| entry.id == old.id) else { continue };
        let is_forward = match (&old.status, &new.status) {
            (EntryStatus::Creating, _) => true,
            (EntryStatus::Present(was), EntryStatus::Cleared { was: still, .. }) => was == still,
            (old, new) => old == new,
        };
        if !is_forward {
            return Err(Violation::new("list", "a fate is final")
                .of("entry")
                .expected(format!("checkpoint {} to stay {}", old.id, old.status))
                .found(&new.status));
        }
    }
    let lost = after.retained.iter().find(|checkpoint| {
        let entry = after.history.iter().find(|entry| entry.id == checkpoint.id);
        entry.is_none_or(|entry| entry.present().is_none())
    });
    match lost {
        None => Ok(()),
        Some(checkpoint) => Err(Violation::new("list", "what is retained is listed as present")
            .of("entry")
            .expected(format!("checkpoint {} present", checkpoint.id))
            .found("it is not")),
    }
}

/// What is merged lies in its objects, and does not keep more garbage than state.
fn well_merged(id: CheckpointId, keyed: &KeyedSnapshot) -> Result<(), Violation> {
    let broken = |property: &str| Violation::new("restorable", property).of("merged object");
    keyed.check_segments().map_err(|reason| {
        broken("segments lie in their objects, one beside the other")
            .found(format!("checkpoint {id}: {reason}"))
    })?;
    let mut used: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for file in keyed.shared.iter().filter(|file| file.segment.is_some()) {
        let (bytes, of) = used.entry(&file.handle.path).or_default();
        *bytes += file.used_bytes();
        *of = file.handle.len_bytes;
    }
    match used.into_iter().find(|(_, (bytes, of))| bytes * 2 < *of) {
        None => Ok(()),
        Some((path, (bytes, of))) => Err(broken("at least half of a merged object is used")
            .expected(format!("checkpoint {id} to use half of the {of} bytes of {path}"))
            .found(format!("{bytes} bytes"))),
    }
}

fn handles(metadata: &CheckpointMetadata) -> impl Iterator<Item = &FileHandle> {
    let states = metadata.vertices.iter().flat_map(|vertex| &vertex.subtasks);
    states.flat_map(|state| state.shared_files().chain(state.private_files()))
}

/// What kind of object it is, for signatures.
fn kind(layout: &Layout, path: &str) -> &'static str {
    match layout.parse(path) {
        Some(Object::Log { .. }) => "register",
        Some(Object::Metadata { .. }) => "metadata",
        Some(Object::Private { .. }) => "private file",
        Some(Object::Shared { .. }) => "shared file",
        Some(Object::Staged { .. }) => "staged output",
        Some(Object::Savepoint { .. }) => "savepoint",
        Some(Object::Output { .. }) => "output",
        None => "object",
    }
}
