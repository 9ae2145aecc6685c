//! The commit task: the only one that gives out sequence numbers, appends to the log and fills the memtable.
//!
//! Callers send requests and wait for the answer; one that stops waiting changes nothing (its write is decided as if it had
//! waited). Writes that wait together are appended with one write and made durable with one sync. A write is visible only
//! once it is as durable as it asked to be.

use std::sync::Arc;

use bytes::Bytes;
use cutwater_io::{buggify, point, sometimes};
use tokio::sync::{mpsc, oneshot};

use super::batch::{DecodedBatch, Record, WriteBatch};
use super::error::Error;
use super::key::{MAX_SEQUENCE, Tag};
use super::memtable::Memtable;
use super::options::WriteOptions;
use super::points;
use super::shared::{Immutable, Shared, State};
use super::wal::Wals;

/// A group takes no further write once it has this many bytes.
const MAX_GROUP_BYTES: usize = 1 << 20;

/// A write and who waits for it.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) batch: WriteBatch,
    pub(crate) options: WriteOptions,
    /// Gets the last sequence number of the batch.
    pub(crate) done: oneshot::Sender<Result<u64, Error>>,
}

/// What the commit task is asked to do.
#[derive(Debug)]
pub(crate) enum Request {
    Write(Write),
    /// Make all that is in the logs durable.
    Sync(oneshot::Sender<Result<(), Error>>),
    /// Close the memtable; the answer is the id of the last closed one.
    Rotate(oneshot::Sender<Result<u64, Error>>),
    /// Serve nothing more.
    Stop,
}

/// Serves requests until it is told to stop, or nobody can send any.
pub(crate) async fn run(shared: Arc<Shared>, wals: Wals, mut requests: mpsc::Receiver<Request>) {
    let mut commit = Commit { shared, wals };
    let mut next = requests.recv().await;
    while let Some(request) = next.take() {
        match request {
            Request::Write(first) => {
                let group = gather(first, &mut requests, &mut next);
                commit.write(group).await;
            }
            Request::Sync(done) => {
                let result = commit.sync().await;
                let _ = done.send(result);
            }
            Request::Rotate(done) => {
                let result = commit.rotate().await;
                let _ = done.send(result);
            }
            Request::Stop => return commit.settle().await,
        }
        if next.is_none() {
            next = requests.recv().await;
        }
    }
}

/// The writes that wait now. The first request that is none goes to `other`.
fn gather(first: Write, requests: &mut mpsc::Receiver<Request>, other: &mut Option<Request>) -> Vec<Write> {
    let mut len_bytes = first.batch.len_bytes();
    let mut group = vec![first];
    while len_bytes < MAX_GROUP_BYTES && !buggify!(points::WRITE_ALONE) {
        match requests.try_recv() {
            Ok(Request::Write(write)) => {
                len_bytes += write.batch.len_bytes();
                group.push(write);
            }
            Ok(request) => {
                *other = Some(request);
                break;
            }
            Err(_) => break,
        }
    }
    sometimes!(points::GROUP_COMMIT, group.len() > 1);
    group
}

struct Commit {
    shared: Arc<Shared>,
    wals: Wals,
}

impl Commit {
    async fn write(&mut self, group: Vec<Write>) {
        let (writes, answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|w| ((w.batch, w.options), w.done)).unzip();
        match self.commit(writes).await {
            Ok(sequences) => answers.into_iter().zip(sequences).for_each(|(done, s)| {
                let _ = done.send(Ok(s));
            }),
            Err(e) => answers.into_iter().for_each(|done| {
                let _ = done.send(Err(e.clone()));
            }),
        }
    }

    async fn commit(&mut self, writes: Vec<(WriteBatch, WriteOptions)>) -> Result<Vec<u64>, Error> {
        self.make_room().await?;
        let first_sequence = self.shared.state().last_sequence + 1;
        let mut last_sequence = first_sequence - 1;
        let (mut encoded, mut logged, mut lasts) = (Vec::new(), Vec::new(), Vec::new());
        let wants_sync = writes.iter().any(|(_, options)| options.sync);
        for (batch, options) in writes {
            let count = u64::from(batch.count());
            assert!(last_sequence + count <= MAX_SEQUENCE, "the sequence numbers are used up");
            if count > 0 {
                let bytes = batch.encode(last_sequence + 1);
                if !options.disable_wal {
                    logged.push(bytes.clone());
                }
                encoded.push((bytes, options.disable_wal));
            }
            last_sequence += count;
            lasts.push(last_sequence);
        }
        if !logged.is_empty() {
            let appended = self.wals.append(&logged, last_sequence + 1).await;
            appended.map_err(|e| self.shared.fail("a write to the log", e))?;
        }
        if wants_sync {
            self.sync().await?;
        }
        let mem = self.shared.state().mem.clone();
        for (bytes, is_unlogged) in &encoded {
            insert(&mem, bytes, *is_unlogged);
        }
        self.shared.state().last_sequence = last_sequence;
        Ok(lasts)
    }

    async fn sync(&mut self) -> Result<(), Error> {
        self.shared.check_writable()?;
        let log_number = self.shared.state().version.log_number;
        let synced = self.wals.sync(log_number).await;
        if synced.map_err(|e| self.shared.fail("a sync of the log", e))? {
            self.mark().await?;
            point!(points::WAL_AFTER_SYNC);
        }
        Ok(())
    }

    /// Writes down that the log is durable. Where that fails nothing is lost, but part of the mark may be there, so that
    /// nothing may follow it: the next log begins here, and says the same.
    async fn mark(&mut self) -> Result<(), Error> {
        let Err(error) = self.wals.mark().await else { return Ok(()) };
        sometimes!(points::WAL_GIVEN_UP, true);
        tracing::warn!(%error, "a log is given up, as it could not be marked");
        self.begin_log().await?;
        self.wals.mark().await.map_err(|e| self.shared.fail("a mark in the log", e))
    }

    /// The last thing a store does with its log.
    async fn settle(&mut self) {
        if self.shared.state().background.is_none()
            && let Err(error) = self.wals.settle().await
        {
            // What was written is durable all the same.
            tracing::warn!(%error, "the last mark of the log may not be durable");
        }
    }

    /// Waits until the memtable can take a write.
    async fn make_room(&mut self) -> Result<(), Error> {
        loop {
            self.shared.check_writable()?;
            let options = &self.shared.site.options;
            let (len_bytes, is_empty) = {
                let state = self.shared.state();
                (state.mem.size_bytes(), state.mem.is_empty())
            };
            let rotates_early = || !is_empty && buggify!(points::ROTATE_EARLY);
            if len_bytes < options.write_buffer_bytes && !rotates_early() {
                return Ok(());
            }
            let is_stalled = |state: &State| {
                state.immutable.len() >= options.max_immutable_memtables
                    || state.version.levels[0].len() >= options.level0_stop_writes_trigger
            };
            sometimes!(points::STALLED, is_stalled(&self.shared.state()));
            let may_go_on = |state: &mut State| {
                (!is_stalled(state) || state.background.is_some() || state.is_closing).then_some(())
            };
            self.shared.wait_until(may_go_on).await;
            self.rotate().await?;
        }
    }

    /// Begins a new log, and returns its number.
    async fn begin_log(&mut self) -> Result<u64, Error> {
        let log_number = self.shared.state().version.log_number;
        let number = self.shared.allocate_number();
        let rotated = self.wals.rotate(number, log_number).await;
        rotated.map_err(|e| self.shared.fail("the creation of a log", e))?;
        self.shared.state().wals.insert(number);
        Ok(number)
    }

    /// Closes the memtable, if there is anything in it, and begins a new log.
    async fn rotate(&mut self) -> Result<u64, Error> {
        self.shared.check_writable()?;
        let (is_empty, last_closed) = {
            let state = self.shared.state();
            (state.mem.is_empty(), state.mem.id() - 1)
        };
        if is_empty {
            return Ok(last_closed);
        }
        let number = self.begin_log().await?;
        point!(points::WAL_ROTATED);
        let mut state = self.shared.state();
        let fresh = Arc::new(Memtable::new(last_closed + 2));
        let mem = std::mem::replace(&mut state.mem, fresh);
        state.immutable.push_back(Immutable { mem, next_log_number: number });
        drop(state);
        self.shared.flush_wake.notify_one();
        Ok(last_closed + 1)
    }
}

fn insert(mem: &Memtable, bytes: &Bytes, is_unlogged: bool) {
    let batch = DecodedBatch::decode(bytes).expect("a batch that we encoded");
    for (sequence, record) in (batch.first_sequence..).zip(batch.records) {
        match record {
            Record::Entry { kind, key, value, .. } => mem.insert(key, Tag::new(sequence, kind), value),
            other => unreachable!("a batch of ours holds {other:?}"),
        }
    }
    if is_unlogged {
        mem.mark_unlogged();
    }
}
