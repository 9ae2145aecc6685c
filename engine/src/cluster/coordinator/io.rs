//! The coordinator's calls to the world: each runs beside the owner and reports one fact.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cutwater_io::task::{self, JoinHandle};
use cutwater_io::{buggify, point, reachable, time};

use super::{Context, Event, points};
use crate::checkpoint::job_state::{ClaimMode, CompletedCheckpoint, JobState, Origin};
use crate::checkpoint::log::{Outcome, Record};
use crate::checkpoint::metadata::Place;
use crate::checkpoint::read::ReadError;
use crate::checkpoint::snapshot::{CheckpointId, CheckpointMetadata, FileHandle};
use crate::checkpoint::{metadata, points as checkpoint_points, read, write};
use crate::cluster::client::ask;
use crate::cluster::leadership::Observation;
use crate::cluster::rpc::{FromCoordinator, ToCoordinator};

/// What a call led to.
pub(super) enum Fact {
    /// The register, and whether its leader answers.
    Observed(Observation),
    /// A change of the register has an outcome.
    Appended(Outcome),
    /// What the register says can be restored from.
    Loaded(u64, Box<Loaded>),
    /// What a user wants to start from is whole and fits the job, or not.
    Resolved(Resolved),
    /// The checkpoint to restore from is readable and its files are there, or not.
    Verified(u64, Result<(), ReadError>),
    /// The metadata of a checkpoint is durable, or not.
    MetadataWritten(CheckpointId, Result<FileHandle, ReadError>),
    /// Files were deleted, as far as that was possible.
    Deleted,
    /// The objects that a sweep may judge; `None` if they could not be listed.
    Listed(Option<Vec<String>>),
    /// Orphans were deleted, as far as that was possible.
    Swept,
    /// The highest version of the register, if it could be listed.
    Newest(Option<u64>),
}

/// See [`Fact::Loaded`].
pub(super) struct Loaded {
    /// The metadata of all retained checkpoints.
    pub retained: Vec<CheckpointMetadata>,
    /// Of what the job was started from, if that is not retained.
    pub origin: Option<CheckpointMetadata>,
}

/// See [`Fact::Resolved`].
pub(super) type Resolved = Result<Origin, ReadError>;

/// Runs a call and reports its fact to the owner, marked with the term.
pub(super) fn spawn(
    context: &Context,
    term: u64,
    call: impl Future<Output = Fact> + Send + 'static,
) -> JoinHandle<()> {
    let events = context.events.clone();
    task::spawn(async move {
        let fact = call.await;
        // Nobody listens when the process ends.
        let _ = events.send(Event::Done(term, fact)).await;
    })
}

pub(super) async fn observe(context: Arc<Context>, known: Option<SocketAddr>) -> Fact {
    let register = read::newest_record::<JobState>(&*context.store, &context.layout).await;
    let register = register.inspect_err(|error| tracing::warn!(%error, "the register cannot be read")).ok();
    let leader = register.as_ref().map_or(known, |record| record.as_ref().map(|record| record.state.leader));
    let pong = match leader {
        Some(leader) if leader != context.address => ping(leader, context.config.ping_limit).await,
        _ => None,
    };
    Fact::Observed(Observation { register, pong })
}

async fn ping(leader: SocketAddr, limit: Duration) -> Option<u64> {
    match ask(leader, &ToCoordinator::Ping, limit).await {
        Ok(FromCoordinator::Pong { epoch }) => Some(epoch),
        _ => None,
    }
}

pub(super) async fn take_over(context: Arc<Context>, record: Record) -> Fact {
    point!(points::BEFORE_TAKEOVER);
    let outcome = write::append(&*context.store, &context.layout, record).await;
    if outcome == Outcome::Landed {
        point!(points::AFTER_TAKEOVER);
    }
    Fact::Appended(outcome)
}

pub(super) async fn append(context: Arc<Context>, record: Record) -> Fact {
    let newest = record.version;
    // Long enough for others to take over, and to trim the version that is about to be created.
    if buggify!(points::APPEND_LATE) {
        time::sleep(context.config.lease * 3).await;
    }
    let outcome = write::append(&*context.store, &context.layout, record).await;
    if outcome == Outcome::Landed {
        // Beside, so that nobody waits for it.
        let context = context.clone();
        task::spawn(async move {
            write::trim(&*context.store, &context.layout, newest, context.config.keep_versions).await
        });
    }
    Fact::Appended(outcome)
}

/// Reads all retained checkpoints, and tries until it can: an unreadable one is never passed over for an older one.
pub(super) async fn load(context: Arc<Context>, number: u64, state: JobState, after: Duration) -> Fact {
    time::sleep(after).await;
    loop {
        match load_all(&context, &state).await {
            Ok(loaded) => return Fact::Loaded(number, Box::new(loaded)),
            Err(error) => {
                reachable!(points::RESTORE_RETRIED);
                tracing::warn!(%error, "a retained checkpoint cannot be read; trying again");
                time::sleep(context.config.restart_delay.max(Duration::from_millis(1))).await;
            }
        }
    }
}

async fn load_all(context: &Context, state: &JobState) -> Result<Loaded, ReadError> {
    let mut loaded = Loaded { retained: Vec::new(), origin: None };
    let allow = state.origin().is_some_and(|origin| origin.allow_non_restored);
    for checkpoint in &state.retained {
        let place = match checkpoint.is_savepoint {
            true => Place::Elsewhere,
            false => Place::Checkpoint(&context.layout, checkpoint.id),
        };
        loaded.retained.push(load_one(context, checkpoint, place, allow).await?);
    }
    if let Some(origin) = state.origin().filter(|origin| origin.claim.is_some()) {
        loaded.origin = Some(load_one(context, &origin.checkpoint, Place::Elsewhere, allow).await?);
    }
    Ok(loaded)
}

async fn load_one(
    context: &Context,
    checkpoint: &CompletedCheckpoint,
    place: Place<'_>,
    allow_non_restored: bool,
) -> Result<CheckpointMetadata, ReadError> {
    let found = read::load_metadata(&*context.store, checkpoint).await?;
    metadata::validate(&found, &checkpoint.metadata.path, place, &context.fit(allow_non_restored))?;
    Ok(found)
}

/// Finds out whether the job can start from what is at `path`: the directory of a checkpoint or savepoint, or its metadata
/// object under whatever name. Nothing is changed.
pub(super) async fn resolve(
    context: &Context,
    path: &str,
    claim: ClaimMode,
    allow_non_restored: bool,
) -> Resolved {
    let (metadata, found) = read::resolve(&*context.store, path).await?;
    metadata::validate(&found, &metadata.path, Place::Elsewhere, &context.fit(allow_non_restored))?;
    read::verify_files(&*context.store, &context.layout, &found).await?;
    let checkpoint = CompletedCheckpoint { id: found.id, metadata, is_savepoint: found.savepoint.is_some() };
    Ok(Origin { checkpoint, claim: Some(claim), allow_non_restored })
}

pub(super) async fn verify(
    context: Arc<Context>,
    number: u64,
    checkpoint: Option<CheckpointMetadata>,
) -> Fact {
    let verified = match &checkpoint {
        Some(checkpoint) => read::verify_files(&*context.store, &context.layout, checkpoint).await,
        None => Ok(()),
    };
    point!(checkpoint_points::AFTER_RESTORE_READ);
    if verified.is_ok() {
        point!(points::BEFORE_DEPLOY);
    }
    Fact::Verified(number, verified)
}

pub(super) async fn write_metadata(
    context: Arc<Context>,
    path: String,
    metadata: CheckpointMetadata,
) -> Fact {
    let limit = context.config.checkpoint.timeout;
    let written = write::write_metadata(&*context.store, path, &metadata, limit).await;
    Fact::MetadataWritten(metadata.id, written)
}

pub(super) async fn delete(context: Arc<Context>, paths: Vec<String>) -> Fact {
    point!(checkpoint_points::BEFORE_DELETE);
    write::delete(&*context.store, paths).await;
    Fact::Deleted
}

pub(super) async fn list(context: Arc<Context>, abandoned: BTreeSet<String>) -> Fact {
    let listed = read::list_sweepable(&*context.store, &context.layout, &abandoned).await;
    Fact::Listed(listed.inspect_err(|error| tracing::info!(%error, "no sweep")).ok())
}

pub(super) async fn sweep(context: Arc<Context>, orphans: Vec<String>, newest: u64) -> Fact {
    write::delete(&*context.store, orphans).await;
    write::trim_all(&*context.store, &context.layout, newest, context.config.keep_versions).await;
    Fact::Swept
}

pub(super) async fn check_register(context: Arc<Context>, version: u64) -> Fact {
    Fact::Newest(read::newest_version(&*context.store, &context.layout, version).await.ok())
}

/// The metadata of retained checkpoints, by id.
pub(super) fn by_id(loaded: Vec<CheckpointMetadata>) -> BTreeMap<CheckpointId, CheckpointMetadata> {
    loaded.into_iter().map(|metadata| (metadata.id, metadata)).collect()
}
