//! The asynchronous parts of the checkpoints of one task.
//!
//! Each runs as a task of its own, so that uploads go on while records are processed. Dropping this aborts all of them.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use cutwater_io::task::{self, JoinError, JoinHandle};

use crate::checkpoint::snapshot::CheckpointId;

pub(super) struct Background<T>(BTreeMap<CheckpointId, JoinHandle<T>>);

impl<T: Send + 'static> Background<T> {
    pub(super) fn new() -> Self {
        Background(BTreeMap::new())
    }

    /// True if none is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Starts a part.
    ///
    /// # Panics
    /// If the checkpoint has one that has not ended.
    pub(super) fn start(&mut self, checkpoint: CheckpointId, part: impl Future<Output = T> + Send + 'static) {
        let previous = self.0.insert(checkpoint, task::spawn(part));
        assert!(previous.is_none(), "checkpoint {checkpoint} has one part of each kind");
    }

    /// The next part to end; waits for ever if there is none.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> (CheckpointId, Result<T, JoinError>) {
        poll_fn(|cx| {
            for (checkpoint, handle) in &mut self.0 {
                if let Poll::Ready(result) = Pin::new(handle).poll(cx) {
                    let checkpoint = *checkpoint;
                    self.0.remove(&checkpoint);
                    return Poll::Ready((checkpoint, result));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Aborts a part if it has not ended, waits in a task of its own for its end, then does `then`.
    pub(super) fn cancel_and(
        &mut self,
        checkpoint: CheckpointId,
        then: impl Future<Output = ()> + Send + 'static,
    ) {
        let handle = self.0.remove(&checkpoint);
        task::spawn(async move {
            if let Some(handle) = handle {
                handle.abort();
                drop(handle.await);
            }
            then.await;
        });
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.0.values().for_each(JoinHandle::abort);
    }
}
