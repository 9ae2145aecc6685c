//! What users ask of a leader: checkpoints and savepoints, an end, a new start, the list.
//!
//! A request that was taken is answered at once, and found again by its trigger id; asking twice under one id asks once. One
//! that changes the register is answered when the change is durable. Everything else is refused with the reason.

use cutwater_io::time::micros;
use cutwater_io::{entropy, reachable};

use super::{Leader, Stage, points, unix_ms};
use crate::checkpoint::coordinator::ID_BLOCK;
use crate::checkpoint::history::{Entry, EntryStatus};
use crate::checkpoint::job_state::{Base, Change, ClaimMode, CompletedCheckpoint, Origin, Status};
use crate::checkpoint::layout::{Layout, Object};
use crate::checkpoint::request::{QUEUE_MAX, Request, RequestKind};
use crate::checkpoint::snapshot::CheckpointId;
use crate::cluster::console::{CheckpointDetails, CheckpointList, Progress, TriggerStatus};
use crate::cluster::coordinator::connections::{ConnectionId, Connections};
use crate::cluster::coordinator::io::{self, Resolved};
use crate::cluster::coordinator::now_us;
use crate::cluster::rpc::FromCoordinator;

/// The longest text a user may give, in bytes.
const TEXT_MAX: usize = 512;

impl Leader {
    pub(super) fn trigger(&mut self, request: Request) -> Result<(), String> {
        if request.trigger_id.is_empty() || request.trigger_id.len() > TEXT_MAX {
            return Err(format!("a trigger id has 1 to {TEXT_MAX} bytes"));
        }
        if request.description.len() > TEXT_MAX {
            return Err(format!("a description has at most {TEXT_MAX} bytes"));
        }
        match self.trigger_status(&request.trigger_id) {
            TriggerStatus::Unknown => {}
            // Asked before; what became of it, the status says.
            _ => return Ok(()),
        }
        if self.ending || self.state.status != Status::Running {
            return Err(format!("the job is {}", self.status_word()));
        }
        let target = match &request.kind {
            RequestKind::Savepoint { target, .. } => target.as_deref(),
            RequestKind::Checkpoint { .. } => None,
        };
        let unique: String =
            entropy::uuid("savepoint").chars().filter(char::is_ascii_hexdigit).take(12).collect();
        let directory = self.context.layout.savepoint(target, &unique);
        let is_plain =
            object_store::path::Path::parse(&directory).is_ok_and(|path| path.as_ref() == directory);
        if !is_plain || directory.len() > crate::checkpoint::barrier::MAX_DIRECTORY_BYTES {
            return Err(format!("{directory:?} is not a path in the object store"));
        }
        let Some(machine) = &mut self.machine else { return Err("the leader has just begun".into()) };
        machine.request(request, directory).map_err(str::to_owned)
    }

    pub(super) fn give_back(&mut self, trigger_id: String, reason: String) {
        if self.given_back.len() == QUEUE_MAX {
            self.given_back.pop_front();
        }
        self.given_back.push_back((trigger_id, reason));
    }

    pub(super) fn trigger_status(&self, trigger_id: &str) -> TriggerStatus {
        if self.machine.as_ref().is_some_and(|machine| machine.is_waiting(trigger_id)) {
            return TriggerStatus::Waiting;
        }
        if let Some((_, reason)) = self.given_back.iter().find(|(id, _)| id == trigger_id) {
            return TriggerStatus::GivenBack { reason: reason.clone() };
        }
        let is_asked = |entry: &Entry| entry.trigger_id.as_deref() == Some(trigger_id);
        match self.entries().into_iter().find(is_asked) {
            Some(entry) => TriggerStatus::Triggered(Box::new(entry)),
            None => TriggerStatus::Unknown,
        }
    }

    /// The list with what is under way and what is noted and not yet in the register.
    fn entries(&self) -> Vec<Entry> {
        let pending = self.machine.iter().flat_map(|machine| machine.pending()).cloned();
        let unlisted: Vec<Entry> = pending.chain(self.notes.iter().cloned()).collect();
        let mut entries = self.state.history.clone();
        entries.retain(|entry| unlisted.iter().all(|other| other.id != entry.id));
        entries.extend(unlisted);
        entries.sort_by_key(|entry| entry.id);
        entries
    }

    pub(super) fn list(&self) -> CheckpointList {
        let entries = self.entries();
        let progress = entries.iter().map(|entry| self.progress(entry)).collect();
        CheckpointList {
            job: self.context.layout.job().into(),
            job_version: self.state.job_version,
            status: self.state.status.clone(),
            config: self.context.config.checkpoint,
            entries,
            completed: self.state.completed,
            failed: self.state.failed + self.notes.len() as u64,
            restores: self.restores,
            restored: self.restored.clone(),
            progress,
        }
    }

    /// Of a checkpoint under way to which nobody has said anything, all subtasks are still missing.
    fn progress(&self, entry: &Entry) -> Progress {
        match self.details.progress(entry.id, self.metadata.get(&entry.id)) {
            Some(progress) => progress,
            None if entry.status == EntryStatus::Creating => {
                let total = self.parallelism().iter().map(|parallelism| u32::from(*parallelism)).sum();
                Progress { total, ..Progress::default() }
            }
            None => Progress::default(),
        }
    }

    /// Of each vertex, now.
    pub(super) fn parallelism(&self) -> Vec<u16> {
        let wanted = self.cluster.current().map_or(self.last_parallelism, |current| current.parallelism);
        self.context.config.plan.iter().map(|vertex| vertex.parallelism(wanted)).collect()
    }

    pub(super) fn checkpoint(&self, id: CheckpointId) -> Option<CheckpointDetails> {
        let entry = self.entries().into_iter().find(|entry| entry.id == id)?;
        let plan = &self.context.config.plan;
        let uids: Vec<String> = plan.iter().map(|vertex| vertex.uid.clone()).collect();
        let vertices = self.details.of(id, &uids, self.metadata.get(&id));
        Some(CheckpointDetails { entry, vertices })
    }

    pub(super) fn delete(&mut self, id: CheckpointId, from: ConnectionId) -> Result<(), String> {
        let entries = self.entries();
        let entry = entries.iter().find(|entry| entry.id == id).ok_or("there is no such checkpoint")?;
        if entry.present().is_none() {
            return Err(format!("it is {}", entry.status));
        }
        let is_start = |change: &Change| matches!(change, Change::Start { .. });
        let queued = self.changes.iter().map(|(change, _)| change);
        let begun = self.in_flight.iter().map(|flight| &flight.change);
        if self.starting.is_some() || queued.chain(begun).any(is_start) {
            return Err("the job is being started; try again".into());
        }
        let is_point = |point: &CompletedCheckpoint| Some(point.metadata.path.as_str()) == entry.location();
        if self.state.restore_point().is_some_and(is_point) && !self.state.status.is_terminal() {
            return Err("the job would be restored from it".into());
        }
        let is_origin =
            |origin: &Origin| origin.checkpoint.metadata.path == entry.location().unwrap_or_default();
        if self.state.origin().is_some_and(is_origin) {
            return Err("the job was started from it, and no checkpoint has completed since".into());
        }
        self.changes.push_back((Change::Clear { id, at_unix_ms: unix_ms() }, Some(from)));
        Ok(())
    }

    /// The files of a savepoint go with the sweep, which looks into its directory from now on.
    pub(super) fn cleared(&mut self, id: CheckpointId, connections: &mut Connections) {
        tracing::info!(checkpoint = %id, "deleted by a user");
        self.let_go(self.state.origin().is_some(), connections);
        self.request_sweep();
    }

    pub(super) fn cancel(&mut self, from: ConnectionId, connections: &mut Connections) -> Result<(), String> {
        if self.ending || self.state.status.is_terminal() {
            return Err(format!("the job is {}", self.status_word()));
        }
        self.end(Status::Cancelled, Some(from), connections);
        Ok(())
    }

    /// Brings an ended job back, once it is known what from.
    pub(super) fn start(
        &mut self,
        from: Option<String>,
        claim: ClaimMode,
        allow_non_restored: bool,
        user: ConnectionId,
    ) -> Result<(), String> {
        if !self.state.status.is_terminal() {
            return Err(format!("the job is {}", self.status_word()));
        }
        let is_busy = !self.changes.is_empty() || self.in_flight.is_some();
        if is_busy || self.starting.is_some() {
            return Err("something else is going on; try again".into());
        }
        let Some(path) = from else {
            self.changes.push_back((Change::Start { base: Base::Nothing, ids: ID_BLOCK }, Some(user)));
            return Ok(());
        };
        let path = plain(&path)?;
        self.refuse_if_gone(&path)?;
        if let Some(own) = self.retained_at(&path) {
            let origin = Origin { checkpoint: own, claim: None, allow_non_restored };
            let base = Base::Origin(Box::new(origin));
            self.changes.push_back((Change::Start { base, ids: ID_BLOCK }, Some(user)));
            return Ok(());
        }
        self.starting = Some(user);
        let context = self.context.clone();
        let resolve = async move { io::resolve(&context, &path, claim, allow_non_restored).await };
        self.spawn(async move { io::Fact::Resolved(resolve.await) });
        Ok(())
    }

    fn retained_at(&self, path: &str) -> Option<CompletedCheckpoint> {
        let mut own = self.state.retained.iter().filter(|checkpoint| !checkpoint.is_savepoint);
        own.rfind(|checkpoint| is_at(&checkpoint.metadata.path, path)).cloned()
    }

    /// What the list knows to be gone or unfinished is not started from, even if there is still something: a sweep may be about
    /// to remove it. Neither is what lies where the job's own checkpoints are and is not retained.
    fn refuse_if_gone(&self, path: &str) -> Result<(), String> {
        for entry in self.entries() {
            let directory = entry.directory().map(Layout::metadata_in);
            let is_it = |at: &str| is_at(at, path);
            let is_here = entry.location().is_some_and(is_it) || directory.as_deref().is_some_and(is_it);
            if is_here && entry.present().is_none() {
                return Err(format!("checkpoint {} is {}", entry.id, entry.status));
            }
        }
        let metadata = match Layout::directory_of(path) {
            Some(_) => path.to_owned(),
            None => Layout::metadata_in(path),
        };
        match self.context.layout.parse(&metadata) {
            Some(Object::Metadata { checkpoint }) if self.retained_at(path).is_none() => {
                Err(format!("checkpoint {checkpoint} is not one of those that the job retains"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn resolved(&mut self, resolved: Resolved, connections: &mut Connections) {
        let Some(user) = self.starting.take() else { return };
        match resolved {
            Ok(origin) if self.state.status.is_terminal() => {
                if let Err(reason) = self.refuse_if_gone(&origin.checkpoint.metadata.path) {
                    connections.send(user, &refused(reason));
                    return;
                }
                let base = Base::Origin(Box::new(origin));
                self.changes.push_back((Change::Start { base, ids: ID_BLOCK }, Some(user)));
            }
            Ok(_) => drop(connections.send(user, &refused(format!("the job is {}", self.status_word())))),
            Err(error) => drop(connections.send(user, &refused(error.to_string()))),
        }
    }

    /// Everything is read anew, as by a leader that has just taken over.
    pub(super) fn started(&mut self) {
        reachable!(points::STARTED_AGAIN);
        self.restarts = 0;
        let settled_us = now_us() + micros(self.context.config.slots_wait);
        self.stage = Stage::Waiting { not_before_us: now_us(), settled_us };
        self.load(std::time::Duration::ZERO);
    }

    fn status_word(&self) -> &'static str {
        match self.state.status {
            _ if self.ending => "about to end",
            Status::Running => "running",
            Status::Stopping { .. } => "being stopped",
            Status::Finished => "finished",
            Status::Cancelled => "cancelled",
            Status::Failed { .. } => "failed",
        }
    }
}

/// A path as the store knows it.
fn plain(path: &str) -> Result<String, String> {
    let path = path.trim_matches('/');
    object_store::path::Path::parse(path).map(String::from).map_err(|error| error.to_string())
}

/// True if `path` is the metadata object or its directory.
fn is_at(metadata: &str, path: &str) -> bool {
    metadata == path || Layout::directory_of(metadata) == Some(path)
}

pub(super) fn refused(reason: String) -> FromCoordinator {
    FromCoordinator::Refused { reason }
}
