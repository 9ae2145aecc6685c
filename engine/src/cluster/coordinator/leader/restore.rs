//! From the register to tasks that run: what is restored, and when.
//!
//! Nothing is deployed before the fate of everything that came before is known, and before the checkpoint to restore from was
//! seen to be whole. A checkpoint that cannot be read is never passed over for an older one.

use cutwater_io::sometimes;
use cutwater_io::time::micros;

use super::{Leader, Stage, points, unix_ms};
use crate::checkpoint::coordinator::{Coordinator, Found, ID_BLOCK};
use crate::checkpoint::job_state::Status;
use crate::checkpoint::snapshot::CheckpointMetadata;
use crate::cluster::console::Restored;
use crate::cluster::coordinator::connections::Connections;
use crate::cluster::coordinator::io::{self, Loaded};
use crate::cluster::coordinator::now_us;
use crate::cluster::rpc::{Attempt, FromCoordinator};

impl Leader {
    /// Reads what the register says can be restored from; whatever was being read before is of no interest any more.
    pub(super) fn load(&mut self, after: std::time::Duration) {
        self.loads += 1;
        let load = io::load(self.context.clone(), self.loads, self.state.clone(), after);
        self.loading = Some(io::spawn(&self.context, self.term, load).abort_on_drop());
    }

    /// Retained checkpoints are read: the registry is complete before anything can be subsumed.
    pub(super) fn loaded(&mut self, mut loaded: Loaded) {
        // A user may have ended the job meanwhile, and its checkpoints with it.
        let retained = self.retained_ids();
        loaded.retained.retain(|metadata| retained.contains(&metadata.id));
        loaded.origin = loaded.origin.filter(|_| self.state.origin().is_some());
        let bound = self.state.next_id_bound;
        let is_savepoint = |metadata: &&CheckpointMetadata| {
            self.state.retained.iter().any(|retained| retained.id == metadata.id && retained.is_savepoint)
        };
        let origin = self.state.origin().and_then(|origin| {
            let path = origin.checkpoint.metadata.path.clone();
            Some((loaded.origin.as_ref()?, path, origin.claim?))
        });
        let found = Found {
            retained: loaded.retained.iter().filter(|metadata| !is_savepoint(metadata)).collect(),
            savepoints: loaded.retained.iter().filter(is_savepoint).map(|metadata| metadata.id).collect(),
            origin,
            job_version: self.state.job_version,
            ids: bound - ID_BLOCK..bound,
        };
        let adopted = match &mut self.machine {
            Some(machine) => machine.adopt(found),
            None => Coordinator::new(
                self.context.layout.clone(),
                self.context.config.checkpoint,
                self.context.config.plan.clone(),
                self.state.max_parallelism,
                found,
            )
            .map(|machine| self.machine = Some(machine)),
        };
        if let Err(error) = adopted {
            tracing::error!(%error, "the retained checkpoints contradict each other; reading them again");
            self.load(self.context.config.restart_delay);
            return;
        }
        self.loading = None;
        self.metadata = io::by_id(loaded.retained);
        self.origin = loaded.origin;
        if self.stage == Stage::Ended {
            self.request_sweep();
        }
    }

    /// Starts to restore as soon as the fate of everything before is known and there is where to run.
    pub(super) fn deploy_if_possible(&mut self) {
        let Stage::Waiting { not_before_us, settled_us } = self.stage else { return };
        let now = now_us();
        let settled = self.machine.as_ref().is_some_and(Coordinator::is_settled)
            && self.loading.is_none()
            && !self.ending
            && self.in_flight.is_none()
            && self.changes.is_empty();
        let slots = self.cluster.slots();
        let enough = slots >= self.state.parallelism || slots > 0 && now >= settled_us;
        if !settled || !enough || now < not_before_us {
            return;
        }
        self.stage = Stage::Verifying;
        let from = self.restore_metadata().cloned();
        self.verifications += 1;
        self.spawn(io::verify(self.context.clone(), self.verifications, from));
    }

    fn restore_metadata(&self) -> Option<&CheckpointMetadata> {
        let point = self.state.restore_point()?;
        let is_foreign = self.state.origin().is_some_and(|origin| origin.claim.is_some());
        let found = if is_foreign { self.origin.as_ref() } else { self.metadata.get(&point.id) };
        Some(found.expect("the metadata of whatever may be restored is kept"))
    }

    pub(super) fn deploy(&mut self, connections: &mut Connections) {
        let parallelism = self.state.parallelism.min(self.cluster.slots());
        if self.stage != Stage::Verifying || parallelism == 0 || self.ending {
            self.wait();
            return;
        }
        self.attempts += 1;
        let attempt = Attempt { epoch: self.state.epoch, number: self.attempts };
        let from = self.restore_metadata().cloned();
        sometimes!(points::RESTORED, from.is_some());
        sometimes!(points::SCALED_UP, self.last_parallelism != 0 && parallelism > self.last_parallelism);
        sometimes!(points::SCALED_DOWN, parallelism < self.last_parallelism);
        tracing::info!(%attempt, parallelism, from = ?from.as_ref().map(|from| from.id), "deploys");
        self.note_restore();
        self.last_parallelism = parallelism;
        self.stage = Stage::Deployed;
        let due_us = now_us() + micros(self.context.config.deploy_timeout);
        let stopping = matches!(self.state.status, Status::Stopping { .. });
        sometimes!(points::STOPPING_RESTORED, stopping);
        let assignments = self.cluster.deploy(
            attempt,
            &self.context.config.plan,
            from.as_ref(),
            parallelism,
            self.state.max_parallelism,
            due_us,
            stopping,
        );
        for assignment in assignments {
            let message = FromCoordinator::Deploy {
                attempt,
                job: self.context.config.job.clone(),
                stopping,
                changelog: self.context.config.checkpoint.changelog,
                tasks: assignment.tasks,
                placements: assignment.placements,
            };
            if !connections.send(assignment.connection, &message) {
                self.worker_lost(assignment.connection, "does not read");
            }
        }
    }

    fn note_restore(&mut self) {
        let Some(point) = self.state.restore_point() else { return };
        self.restores += 1;
        let is_savepoint = point.is_savepoint;
        let (id, location) = (point.id, point.metadata.path.clone());
        self.restored = Some(Restored { id, location, is_savepoint, at_unix_ms: unix_ms() });
    }
}
