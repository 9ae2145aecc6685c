//! Keyed state whose changes are logged: the log beside the store, from the task's point of view.
//!
//! The store holds every change that the log holds, so that a savepoint is taken from the store alone.

use cutwater_io::sometimes;

use super::log::{Beginning, Log, Part, Upload, UploadId};
use crate::checkpoint::changelog::{LogSegment, MaterialisationId};
use crate::checkpoint::snapshot::{CheckpointId, KeyedSnapshot, StateFormat, StateSchema};
use crate::state::backend::{LinkedSnapshot, Purpose};
use crate::state::increment::Files;
use crate::state::{Error, KeyedState, merging, points};

/// The log of a subtask, and the states that each checkpoint under way knows.
#[derive(Debug)]
pub(in crate::state) struct Logged {
    pub log: Log,
    /// Of checkpoints whose parts are not whole.
    schemas: Vec<(CheckpointId, Vec<StateSchema>)>,
}

impl KeyedState {
    /// Changes are logged from now on; nothing may have been changed since the state was restored or made.
    pub fn start_changelog(&mut self) {
        let beginning = match self.take_restored() {
            Restored::Nothing => Beginning::Nothing,
            Restored::Copied => Beginning::Copied,
            Restored::AsItWas(snapshot) => {
                let KeyedSnapshot { shared, private, changelog, .. } = *snapshot;
                Beginning::Restored { files: [shared, private].concat(), changelog }
            }
        };
        self.set_logged(Logged { log: Log::new(beginning), schemas: Vec::new() });
    }

    fn log(&mut self) -> &mut Log {
        &mut self.logged_mut().expect("asked only where changes are logged").log
    }

    /// Closes what is not closed of the log, if that is `min_bytes` or more; true if it was.
    pub fn seal_log(&mut self, min_bytes: usize) -> bool {
        let log = self.log();
        let is_long = log.tail_bytes() >= min_bytes.max(1);
        if is_long {
            log.seal();
        }
        is_long
    }

    /// How many changes there were.
    pub fn logged_changes(&mut self) -> u64 {
        self.log().next()
    }

    /// How many bytes of changes are in memory because they are not in the object store.
    pub fn waiting_log_bytes(&mut self) -> usize {
        self.log().waiting_bytes()
    }

    /// The next pieces of the log to be uploaded as one object of about `max_bytes`.
    pub fn take_log_upload(&mut self, max_bytes: usize) -> Option<Upload> {
        self.log().take_upload(max_bytes)
    }

    /// See [`Log::uploaded`].
    pub fn log_uploaded(&mut self, upload: UploadId, segments: Vec<LogSegment>) {
        self.log().uploaded(upload, segments);
    }

    /// See [`Log::upload_failed`].
    pub fn log_upload_failed(&mut self, upload: UploadId) -> Vec<CheckpointId> {
        self.log().upload_failed(upload)
    }

    /// See [`Log::pieces`].
    pub fn log_pieces(&mut self) -> usize {
        self.log().pieces()
    }

    /// True if the store has changed since it was last materialised, and is not being materialised.
    pub fn wants_materialisation(&mut self) -> bool {
        !self.log().is_materialising() && self.log().is_behind()
    }

    /// The synchronous part of a materialisation, which references files of the last one unless it is to stand alone.
    ///
    /// # Errors
    /// If the store cannot be flushed or linked: the task has failed.
    pub async fn materialise(
        &mut self,
        stands_alone: bool,
    ) -> Result<(MaterialisationId, LinkedSnapshot), Error> {
        // Its number is that of the directory, which is made first.
        let id = self.log().next_materialisation();
        let (dir, files) = self.link_to(&format!("materialised-{}", id.0)).await?;
        let immutable = |name: &str| files.files.iter().any(|file| file.immutable && file.name == name);
        let mut base = Files::new();
        if !stands_alone {
            let reusable = self.log().reusable().iter().filter(|file| immutable(&file.name));
            base = reusable.map(|file| (file.name.clone(), file.clone())).collect();
            merging::give_up_wasteful(&mut base);
        }
        let begun = self.log().materialise(base.values());
        assert_eq!(begun, id, "one materialisation begins at a time");
        Ok((id, self.linked(Purpose::Materialisation(id), dir, files, base)))
    }

    /// See [`Log::materialised`].
    pub fn materialised(&mut self, id: MaterialisationId, snapshot: KeyedSnapshot, fresh: Vec<String>) {
        assert!(snapshot.private.is_empty(), "a base belongs to more than one checkpoint: {snapshot:?}");
        self.log().materialised(id, snapshot.shared, fresh);
    }

    /// See [`Log::materialisation_failed`].
    pub fn materialisation_failed(&mut self, id: MaterialisationId) -> Vec<CheckpointId> {
        self.log().materialisation_failed(id)
    }

    /// See [`Log::basis`].
    pub fn basis(&mut self) -> Option<MaterialisationId> {
        self.log().basis()
    }

    /// A checkpoint begins with the state as it is, on a materialisation. That is all there is to its synchronous part.
    pub fn begin_logged(&mut self, checkpoint: CheckpointId, base: MaterialisationId) {
        let schema = self.schema();
        let logged = self.logged_mut().expect("asked only where changes are logged");
        logged.log.begin(checkpoint, base);
        logged.schemas.push((checkpoint, schema));
    }

    /// The parts of checkpoints that have become whole.
    pub fn take_parts(&mut self) -> Vec<(CheckpointId, KeyedSnapshot)> {
        let range = self.range();
        let Logged { log, schemas } = self.logged_mut().expect("asked only where changes are logged");
        let mut parts = Vec::new();
        for Part { checkpoint, files, changelog } in log.take_parts() {
            let at = schemas.iter().position(|(id, _)| *id == checkpoint).expect("noted when it began");
            let (_, states) = schemas.remove(at);
            parts.push((
                checkpoint,
                KeyedSnapshot {
                    range,
                    states,
                    format: StateFormat::store(),
                    shared: files,
                    private: Vec::new(),
                    changelog: Some(changelog),
                    in_flight: None,
                },
            ));
        }
        schemas.retain(|(id, _)| log.is_open(*id));
        parts
    }

    /// See [`Log::acknowledged`].
    pub(in crate::state) fn log_acknowledged(&mut self, snapshot: &KeyedSnapshot) {
        if let Some(Logged { log, .. }) = self.logged_mut() {
            log.acknowledged(snapshot.shared_handles().map(|handle| handle.path.as_str()));
        }
    }

    /// See [`Log::garbage`].
    pub fn log_garbage(&mut self) -> Vec<String> {
        let garbage = self.log().garbage();
        sometimes!(points::NEVER_NAMED, !garbage.is_empty());
        garbage
    }
}

/// Where the state of a subtask came from.
#[derive(Debug)]
pub(in crate::state) enum Restored {
    /// It began without any.
    Nothing,
    /// A snapshot of exactly its key groups, whose files are those of the store.
    AsItWas(Box<KeyedSnapshot>),
    /// Entries of other stores.
    Copied,
}
