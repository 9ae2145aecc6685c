//! The sink: output that becomes visible exactly once, by two-phase commit with the checkpoints.
//!
//! - **Epoch**: what is emitted between two barriers is one transaction, named after (attempt, task, checkpoint); such a
//!   name is never used twice in the life of a job.
//! - **Pre-commit**: at the barrier the transaction is staged as one object, and its handle is part of the checkpoint, and of
//!   every later one until the transaction is known to be committed (its checkpoint may have been aborted, or the
//!   notification may be under way). If its staging has not ended when the next barrier comes it is staged once more, under
//!   the same name: the same bytes.
//! - **Commit**: when checkpoint n is complete, every transaction of a checkpoint <= n is written to its final name,
//!   create-if-absent. A name that is taken by the same bytes is committed already.
//! - **Restore**: every transaction that the checkpoint holds is committed before any input is read; the notification may
//!   have been lost with the attempt that staged it.
//!
//! - **Savepoint**: it gets copies of all that is not known to be committed, in its own directory, and nothing else changes: the
//!   transactions go on, into the next checkpoint.
//!
//! Committed objects are thus a function of the completed checkpoints alone. Empty epochs leave nothing.
//!
//! Who deletes staged objects: the task, those of a committed transaction (a checkpoint that names one finds the committed
//! object in its place), but not while a checkpoint whose fate is open names them; the sweeper, what a dead attempt left.

pub mod output;
pub mod transactions;

pub use output::{OutputError, decode_output};

use bytes::Bytes;
use cutwater_io::{point, sometimes};

use super::{Error, points};
use crate::checkpoint::layout::{Layout, Object};
use crate::checkpoint::snapshot::{CheckpointId, FileHandle, SinkTransaction};
use crate::cluster::rpc::Attempt;
use crate::state::blob::{self, Blobs};
use transactions::Transaction;

/// Stages transactions under a checkpoint.
///
/// # Errors
/// If the store goes on failing: the checkpoint is declined, and the next one stages again.
pub async fn stage(
    blobs: &Blobs,
    layout: &Layout,
    attempt: Attempt,
    checkpoint: CheckpointId,
    transactions: Vec<Transaction>,
) -> Result<Vec<SinkTransaction>, blob::Error> {
    point!(points::SINK_BEFORE_STAGE);
    let mut staged = Vec::with_capacity(transactions.len());
    for transaction in transactions {
        sometimes!(points::RESTAGED, transaction.checkpoint < checkpoint);
        let path = layout.staged(attempt, &transaction.id);
        let staged_as = blobs.create(&path, transaction.content).await?;
        staged.push(SinkTransaction { id: transaction.id, staged: staged_as });
    }
    point!(points::SINK_AFTER_STAGE);
    Ok(staged)
}

/// Commits a transaction; tries until it is done.
///
/// # Errors
/// If its name is taken by other content, which would be a violation of the names' uniqueness.
pub async fn commit(blobs: &Blobs, layout: &Layout, id: &str, content: Bytes) -> Result<(), Error> {
    let failed = |source| Error::Output { transaction: id.into(), source };
    point!(points::SINK_BEFORE_COMMIT);
    let blobs = blobs.with_retry(blobs.retry().forever());
    blobs.create(&layout.output(id), content).await.map_err(failed)?;
    point!(points::SINK_AFTER_COMMIT);
    Ok(())
}

/// Deletes staged objects of committed transactions, as far as the store lets us.
pub async fn unstage(blobs: &Blobs, paths: &[String]) {
    point!(points::SINK_BEFORE_DELETE);
    for path in paths {
        blobs.discard(path).await;
    }
}

/// Commits a transaction of a restored checkpoint, which may have been committed before; tries until it is done.
///
/// # Errors
/// If it was not committed and its staged content is gone or is not what was written: output would be lost.
pub async fn recommit(blobs: &Blobs, layout: &Layout, transaction: &SinkTransaction) -> Result<(), Error> {
    let id = transaction.id.as_str();
    let failed = |source| Error::Output { transaction: id.into(), source };
    let blobs = blobs.with_retry(blobs.retry().forever());
    point!(points::SINK_BEFORE_RECOMMIT);
    let committed = FileHandle { path: layout.output(id), ..transaction.staged.clone() };
    match blobs.check(&committed).await {
        Ok(()) => {
            sometimes!(points::RECOMMIT_FOUND, true);
        }
        Err(blob::Error::Missing { .. }) => match blobs.read(&transaction.staged).await {
            Ok(content) => {
                commit(&blobs, layout, id, content).await?;
                sometimes!(points::RECOMMITTED, true);
            }
            // The job that staged it has committed it.
            Err(blob::Error::Missing { path }) if committed_elsewhere(&blobs, transaction).await => {
                tracing::debug!(path, "staged and committed by another job");
            }
            Err(source) => return Err(failed(source)),
        },
        Err(source) => return Err(failed(source)),
    }
    // What lies in a savepoint belongs to it.
    if matches!(layout.parse(&transaction.staged.path), Some(Object::Staged { .. })) {
        unstage(&blobs, std::slice::from_ref(&transaction.staged.path)).await;
    }
    Ok(())
}

async fn committed_elsewhere(blobs: &Blobs, transaction: &SinkTransaction) -> bool {
    let Some(path) = Layout::output_of(&transaction.staged.path, &transaction.id) else { return false };
    blobs.check(&FileHandle { path, ..transaction.staged.clone() }).await.is_ok()
}
