//! What a task does for the log of its changes: uploads pieces of it, has the store materialised, and hands checkpoints their parts.
//!
//! All decisions are those of `state::changelog::log`; here are the uploads and the clock. A materialisation and an upload belong to no
//! checkpoint: none of them ends because one is aborted.
//!
//! What a failed upload would have made is tried again when changes are uploaded next; a failed materialisation after half a minute,
//! or when a checkpoint has nothing else to be built on. Checkpoints that waited for either are declined.
//!
//! The store is materialised every so often, and early when the log has become one of very many segments: each is named in every
//! checkpoint, and read one by one in a restore. The first moment is drawn: not all subtasks flush at once, and a job that often starts
//! over gets there now and then.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use cutwater_io::task::JoinError;
use cutwater_io::time::micros;
use cutwater_io::{entropy, sometimes, time};
use futures::FutureExt;
use tokio::sync::oneshot;

use super::TaskContext;
use super::background::Background;
use crate::checkpoint::barrier::Target;
use crate::checkpoint::changelog::{LogSegment, MaterialisationId};
use crate::checkpoint::snapshot::{CheckpointId, KeyedSnapshot};
use crate::state::changelog::log::UploadId;
use crate::state::changelog::{ChangelogOptions, upload as log_upload};
use crate::state::upload::{self, Names, Uploaded};
use crate::state::{self, KeyedState, blob, dirs, points};
use crate::stream::Error;

/// Pieces are put together to objects of about so many bytes.
const OBJECT_BYTES: usize = 16 << 20;
/// With more than this in memory because the object store does not take it, a task processes nothing more.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// A log of more segments than this is long: the store is materialised out of turn.
const PIECES_MAX: usize = 512;
/// After a materialisation that failed none is begun for so long, unless a checkpoint needs one.
const RETRY_PAUSE: Duration = Duration::from_secs(30);

/// The part of a checkpoint, or why there is none.
pub(super) type Part = Result<KeyedSnapshot, String>;

/// See the module.
pub(super) struct Changelog {
    options: ChangelogOptions,
    uploads: Background<Result<Vec<LogSegment>, blob::Error>, UploadId>,
    /// What the uploads that have not ended may have written.
    uploading: BTreeMap<UploadId, Uploaded>,
    materialisations: Background<Result<KeyedSnapshot, state::Error>, MaterialisationId>,
    /// What those that have not ended may have written, their links, and how much had been logged when they began.
    materialising: BTreeMap<MaterialisationId, (Uploaded, PathBuf, u64)>,
    /// Who waits for the parts of checkpoints.
    waiting: BTreeMap<CheckpointId, oneshot::Sender<Part>>,
    materialise_at: time::Instant,
    /// A log that is long is no reason to materialise before this.
    long_from: time::Instant,
    upload_at: time::Instant,
}

/// What may happen next.
pub(super) enum Happening {
    Uploaded(UploadId, Result<Result<Vec<LogSegment>, blob::Error>, JoinError>),
    Materialised(MaterialisationId, Result<Result<KeyedSnapshot, state::Error>, JoinError>),
    /// It is time for something.
    Due,
}

impl Changelog {
    /// Begins to log the changes of a state that was just restored or made.
    pub(super) fn start(options: ChangelogOptions, state: &mut KeyedState) -> Changelog {
        state.start_changelog();
        let now = time::now();
        // Without a base no checkpoint can complete.
        let drawn_us = 1 + entropy::u64("changelog.first") % micros(options.materialise_every).max(1);
        let pause = if state.basis().is_some() { Duration::from_micros(drawn_us) } else { Duration::ZERO };
        Changelog {
            options,
            uploads: Background::new(),
            uploading: BTreeMap::new(),
            materialisations: Background::new(),
            materialising: BTreeMap::new(),
            waiting: BTreeMap::new(),
            materialise_at: now + pause,
            long_from: now,
            upload_at: now + options.upload_every,
        }
    }

    /// Waits for the next thing to happen.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Happening {
        let due = time::sleep_until(self.materialise_at.min(self.upload_at)).fuse();
        let (uploaded, materialised) = (self.uploads.next().fuse(), self.materialisations.next().fuse());
        futures::pin_mut!(due, uploaded, materialised);
        futures::select_biased! {
            (upload, result) = uploaded => Happening::Uploaded(upload, result),
            (id, result) = materialised => Happening::Materialised(id, result),
            () = due => Happening::Due,
        }
    }

    /// True if too much waits to be uploaded: more must not be processed.
    pub(super) fn is_full(&self, state: &mut KeyedState) -> bool {
        state.waiting_log_bytes() > WAITING_BYTES_MAX
    }

    /// Records were processed.
    pub(super) fn look(&mut self, context: &TaskContext, state: &mut KeyedState) {
        if state.seal_log(self.options.upload_bytes) {
            self.upload(context, state, true);
        }
    }

    /// The synchronous part of a checkpoint. Its part is sent when all of it is in the object store.
    pub(super) async fn begin(
        &mut self,
        context: &TaskContext,
        state: &mut KeyedState,
        checkpoint: CheckpointId,
        target: &Target,
    ) -> Result<oneshot::Receiver<Part>, Error> {
        let stands_alone = *target == Target::Full;
        let base = match state.basis().filter(|_| !stands_alone) {
            Some(base) => base,
            None => self.materialise(context, state, stands_alone).await?,
        };
        state.begin_logged(checkpoint, base);
        let (done, part) = oneshot::channel();
        self.waiting.insert(checkpoint, done);
        self.upload(context, state, false);
        self.settle(context, state);
        Ok(part)
    }

    /// The checkpoint will never be complete.
    pub(super) fn abort(&mut self, checkpoint: CheckpointId) {
        self.waiting.remove(&checkpoint);
    }

    /// Does what is to be done because of it.
    pub(super) async fn happened(
        &mut self,
        happening: Happening,
        context: &TaskContext,
        state: &mut KeyedState,
    ) -> Result<(), Error> {
        match happening {
            Happening::Due => self.due(context, state).await?,
            Happening::Uploaded(id, result) => {
                let uploaded = self.uploading.remove(&id).expect("noted when it began");
                match result.map_err(|source| Error::Uploading { task: context.task(), source })? {
                    Ok(segments) => state.log_uploaded(id, segments),
                    Err(error) => {
                        tracing::warn!(task = %context.task(), %error, "changes could not be uploaded");
                        discard(context, uploaded, None);
                        self.give_up(state.log_upload_failed(id), &error.to_string());
                    }
                }
            }
            Happening::Materialised(id, result) => {
                let (uploaded, links, logged) = self.materialising.remove(&id).expect("noted when it began");
                match result.map_err(|source| Error::Uploading { task: context.task(), source })? {
                    Ok(snapshot) => {
                        sometimes!(points::MATERIALISED_UNDER_LOAD, state.logged_changes() > logged);
                        state.materialised(id, snapshot, uploaded.paths());
                    }
                    Err(error) => {
                        tracing::warn!(task = %context.task(), %error, "the store could not be materialised");
                        self.long_from = time::now() + RETRY_PAUSE;
                        self.materialise_at = self.materialise_at.min(self.long_from);
                        discard(context, uploaded, Some(links));
                        self.give_up(state.materialisation_failed(id), &error.to_string());
                        // Damage does not go away: only a restore replaces the file.
                        if matches!(error, state::Error::Damaged { .. }) {
                            return Err(error.into());
                        }
                    }
                }
            }
        }
        self.settle(context, state);
        Ok(())
    }

    async fn due(&mut self, context: &TaskContext, state: &mut KeyedState) -> Result<(), Error> {
        let now = time::now();
        let is_long = self.long_from <= now && state.log_pieces() > PIECES_MAX;
        if self.materialise_at <= now || is_long {
            self.materialise_at = now + self.options.materialise_every;
            if state.wants_materialisation() {
                self.materialise(context, state, false).await?;
            }
        }
        if self.upload_at <= now {
            self.upload_at = now + self.options.upload_every;
            state.seal_log(1);
            self.upload(context, state, true);
        }
        Ok(())
    }

    /// Links the store and begins to upload what is new of it.
    async fn materialise(
        &mut self,
        context: &TaskContext,
        state: &mut KeyedState,
        stands_alone: bool,
    ) -> Result<MaterialisationId, Error> {
        let (id, linked) = state.materialise(stands_alone).boxed().await?;
        let uploaded = Uploaded::default();
        let logged = state.logged_changes();
        self.materialising.insert(id, (uploaded.clone(), linked.dir.clone(), logged));
        let (blobs, names, options) = (context.blobs.clone(), context.names(), context.upload);
        self.materialisations
            .start(id, async move { upload::upload(&blobs, &names, &linked, options, &uploaded).await });
        Ok(id)
    }

    /// Begins to upload what is sealed and needed. What nobody waits for waits until nothing is under way: a slow store gets fewer
    /// and longer objects.
    fn upload(&mut self, context: &TaskContext, state: &mut KeyedState, is_early: bool) {
        if is_early && !self.uploading.is_empty() {
            return;
        }
        while let Some(pieces) = state.take_log_upload(OBJECT_BYTES) {
            sometimes!(points::LOG_UPLOADED_EARLY, is_early);
            let (id, uploaded) = (pieces.id, Uploaded::default());
            self.uploading.insert(id, uploaded.clone());
            let (blobs, path) = (context.blobs.clone(), context.names().shared());
            self.uploads.start(id, async move { log_upload::upload(&blobs, path, pieces, &uploaded).await });
        }
    }

    fn give_up(&mut self, checkpoints: Vec<CheckpointId>, reason: &str) {
        for checkpoint in checkpoints {
            if let Some(waiting) = self.waiting.remove(&checkpoint) {
                // Nobody waits for a checkpoint that was aborted.
                drop(waiting.send(Err(reason.into())));
            }
        }
    }

    /// Hands out the parts that have become whole, and deletes what nothing needs.
    pub(super) fn settle(&mut self, context: &TaskContext, state: &mut KeyedState) {
        for (checkpoint, part) in state.take_parts() {
            if let Some(waiting) = self.waiting.remove(&checkpoint) {
                drop(waiting.send(Ok(part)));
            }
        }
        let garbage = state.log_garbage();
        if !garbage.is_empty() {
            let blobs = context.blobs.clone();
            cutwater_io::task::spawn(async move {
                for path in &garbage {
                    blobs.discard(path).await;
                }
            });
        }
    }
}

/// Deletes what an upload that has failed may have left, there and here.
fn discard(context: &TaskContext, uploaded: Uploaded, links: Option<PathBuf>) {
    let blobs = context.blobs.clone();
    cutwater_io::task::spawn(async move {
        uploaded.discard(&blobs).await;
        if let Some(links) = links {
            dirs::remove(&links).await;
        }
    });
}
