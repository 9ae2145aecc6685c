//! The asynchronous parts of the checkpoints of one task, by the checkpoint or by what else they are of.
//!
//! Each runs as a task of its own, so that uploads go on while records are processed. Dropping this aborts all of them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use cutwater_io::task::{self, JoinError, JoinHandle};

use crate::checkpoint::snapshot::CheckpointId;

pub(super) struct Background<T, K = CheckpointId>(BTreeMap<K, JoinHandle<T>>);

impl<T: Send + 'static, K: Copy + Debug + Ord> Background<T, K> {
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
    /// If there is one of it that has not ended.
    pub(super) fn start(&mut self, of: K, part: impl Future<Output = T> + Send + 'static) {
        let previous = self.0.insert(of, task::spawn(part));
        assert!(previous.is_none(), "{of:?} has one part of each kind");
    }

    /// The next part to end; waits for ever if there is none.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> (K, Result<T, JoinError>) {
        poll_fn(|cx| {
            for (of, handle) in &mut self.0 {
                if let Poll::Ready(result) = Pin::new(handle).poll(cx) {
                    let of = *of;
                    self.0.remove(&of);
                    return Poll::Ready((of, result));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Aborts a part if it has not ended, waits in a task of its own for its end, then does `then`.
    pub(super) fn cancel_and(&mut self, of: K, then: impl Future<Output = ()> + Send + 'static) {
        let handle = self.0.remove(&of);
        task::spawn(async move {
            if let Some(handle) = handle {
                handle.abort();
                drop(handle.await);
            }
            then.await;
        });
    }
}

impl<T, K> Drop for Background<T, K> {
    fn drop(&mut self) {
        self.0.values().for_each(JoinHandle::abort);
    }
}
