//! Tasks of the node that spawns them: tokio's in a real build, the simulation's otherwise.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

#[cfg(madsim)]
use madsim::task as imp;
#[cfg(not(madsim))]
use tokio::task as imp;

/// A spawned task. Dropping it lets the task go on; see [`JoinHandle::abort_on_drop`].
#[derive(Debug)]
pub struct JoinHandle<T>(imp::JoinHandle<T>);

/// The task was aborted or panicked.
#[derive(Debug, thiserror::Error)]
#[error("task did not finish: {0}")]
pub struct JoinError(String);

impl<T> JoinHandle<T> {
    /// Stops the task at its next suspension.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// True once the task has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// A guard that aborts the task when dropped.
    pub fn abort_on_drop(self) -> AbortOnDrop<T> {
        AbortOnDrop(self)
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(|e| JoinError(e.to_string()))
    }
}

/// Aborts its task when dropped. Awaiting it waits for the task.
#[derive(Debug)]
pub struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, JoinError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// Starts a task on this node.
#[track_caller]
#[cfg_attr(not(madsim), expect(clippy::disallowed_methods, reason = "this is the real side of the seam"))]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    JoinHandle(imp::spawn(future))
}

/// Lets other tasks run.
pub async fn yield_now() {
    imp::yield_now().await;
}
