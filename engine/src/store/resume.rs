//! The resume task: has a store that ran out of space take writes again once there is some.
//!
//! Nobody says when that is, so it is tried, again and again ([`RETRY_EVERY`]), or when somebody asks for it. An attempt is this:
//!
//! 1. What nothing needs is removed.
//! 2. The commit task begins a new log, which follows no other, and closes the memtables of all families. What failed in a log
//!    before is so decided: a write that was answered with an error is not there, whatever of it is in that log, and a file whose
//!    sync failed is not synced again.
//! 3. The flush task writes what is closed to tables. Its edits say of every family that no log before the new one is needed, so
//!    none of them is ever read again. If it was the MANIFEST that failed, they go to a new one, which decides what the old one left
//!    open.
//! 4. Writes are taken again, and what was kept because it was not decided is removed.
//!
//! A crash on the way finds what a crash after the failure would: the old logs, until the edits are durable; from then on all is
//! in tables. Writes are refused until then, so what the old logs hold is never mixed with what comes later.
//!
//! RocksDB does the same in its `ErrorHandler` and `SstFileManager`, but goes on with the log that failed where it can (#12995,
//! #14313 are bugs of that).

use std::sync::Arc;
use std::time::Duration;

use cutwater_io::{point, sometimes, time};
use tokio::sync::{mpsc, oneshot};

use super::commit::Request;
use super::error::Error;
use super::families::Closed;
use super::points;
use super::shared::{Shared, State};

/// How long after an attempt that failed the next one comes.
pub(crate) const RETRY_EVERY: Duration = Duration::from_millis(500);

/// Attempts to resume, numbered from 1 on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attempts {
    /// The last one that has begun.
    begun: u64,
    /// The last one that was in vain.
    failed: u64,
}

/// Resumes until the store closes.
pub(crate) async fn run(shared: Arc<Shared>, requests: mpsc::WeakSender<Request>) {
    // What the last attempt has closed. Nothing was written since, so the next one need not close anything.
    let mut closed = None;
    while shared.wait_until(has_work).await {
        let _ = time::timeout(RETRY_EVERY, shared.wait_until(must_not_wait)).await;
        let number = begin_attempt(&mut shared.state());
        match attempt(&shared, &requests, &mut closed).await {
            Ok(()) => closed = None,
            Err(error) => {
                tracing::info!(%error, "there is no space yet");
                shared.state().attempts.failed = number;
                shared.wake_all();
            }
        }
    }
}

/// True if the store ran out of space; false if it closes.
fn has_work(state: &mut State) -> Option<bool> {
    if state.is_closing {
        return Some(false);
    }
    state.background.as_ref().is_some_and(|background| !background.is_fatal()).then_some(true)
}

/// Answers if the next attempt is wanted now, or the store closes.
fn must_not_wait(state: &mut State) -> Option<()> {
    let is_wanted = state.background.as_mut().is_some_and(|b| std::mem::take(&mut b.is_retry_wanted));
    (is_wanted || state.is_closing).then_some(())
}

fn begin_attempt(state: &mut State) -> u64 {
    state.attempts.begun += 1;
    state.attempts.begun
}

async fn attempt(
    shared: &Shared,
    requests: &mpsc::WeakSender<Request>,
    begun: &mut Option<Arc<Closed>>,
) -> Result<(), Error> {
    shared.purge().await;
    let closed = match begun {
        Some(closed) => closed.clone(),
        None => begun.insert(begin_anew(requests).await?).clone(),
    };
    point!(points::RESUME_LOG_BEGUN);
    if let Some(background) = &mut shared.state().background {
        background.is_retrying = !background.is_fatal();
    }
    shared.flush_wake.notify_one();
    let outcome = |state: &mut State| match (closed.installed.get(), &state.background) {
        (Some(_), _) => Some(Ok(())),
        (None, Some(background)) if !background.is_retrying => Some(Err(background.error().clone())),
        (None, _) => state.is_closing.then_some(Err(Error::Closed)),
    };
    shared.wait_until(outcome).await?;
    point!(points::RESUME_IN_TABLES);
    let is_over = clear(&mut shared.state());
    sometimes!(points::RESUMED, is_over);
    shared.wake_all();
    Ok(())
}

/// The last group that was closed.
async fn begin_anew(requests: &mpsc::WeakSender<Request>) -> Result<Arc<Closed>, Error> {
    let (done, answer) = oneshot::channel();
    let sender = requests.upgrade().ok_or(Error::Closed)?;
    sender.send(Request::BeginAnew(done)).await.map_err(|_| Error::Closed)?;
    drop(sender);
    answer.await.unwrap_or(Err(Error::Closed))
}

/// Takes writes again, unless something else has failed since the attempt began.
fn clear(state: &mut State) -> bool {
    let Some(background) = state.background.take_if(|background| background.is_retrying) else {
        return false;
    };
    background.doubtful.into_iter().for_each(|file| state.remember_obsolete(file));
    true
}

/// Tries to resume now, and says how that went.
///
/// # Errors
/// What stops writes still.
pub(crate) async fn resume_now(shared: &Shared) -> Result<(), Error> {
    let before = {
        let mut state = shared.state();
        let Some(background) = &mut state.background else { return Ok(()) };
        background.is_retry_wanted = true;
        // One that is under way has seen the disk as it was.
        state.attempts.begun
    };
    shared.wake_all();
    let answer = |state: &mut State| match &state.background {
        None => Some(Ok(())),
        Some(background) if background.is_fatal() || state.attempts.failed > before => {
            Some(Err(background.error().clone()))
        }
        Some(_) => state.is_closing.then_some(Err(Error::Closed)),
    };
    shared.wait_until(answer).await
}
