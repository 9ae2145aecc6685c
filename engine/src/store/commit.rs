//! The commit task: the only one that gives out sequence numbers, appends to the log and fills the memtables.
//!
//! Callers send requests and wait for the answer; one that stops waiting changes nothing (its write is decided as if it had
//! waited). Writes that wait together are appended with one write and made durable with one sync. A write is visible only
//! once it is as durable as it asked to be.
//!
//! All families write to one log. When memtables are closed a new one begins, and if another family still needs the logs of
//! before, those are made durable: else a crash could take from them what was written before something that then is in a
//! table.

mod ingest;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cutwater_io::time::micros;
use cutwater_io::{buggify, point, sometimes, time};
use tokio::sync::{mpsc, oneshot};

use super::batch::{DecodedBatch, Record, WriteBatch};
use super::error::Error;
use super::families::{Closed, FamilyKey};
use super::filenames::FileKind;
use super::ingest::Ingestion;
use super::install::Change;
use super::key::{MAX_SEQUENCE, Tag};
use super::memtable::Memtable;
use super::options::WriteOptions;
use super::points::{self, of_families};
use super::shared::{Shared, State};
use super::version::DEFAULT_FAMILY;
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
    /// Close the memtable of a family, or those of all. The answer is the last group that was closed.
    Rotate(Option<Arc<FamilyKey>>, oneshot::Sender<Result<Arc<Closed>, Error>>),
    /// After the store ran out of space: begin a log that follows no other, and close the memtables of all families. The answer is the
    /// group that was closed.
    BeginAnew(oneshot::Sender<Result<Arc<Closed>, Error>>),
    /// Make tables that were staged part of the store.
    Ingest(Ingestion),
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
            Request::Rotate(family, done) => {
                let result = commit.rotate_for(family).await;
                let _ = done.send(result);
            }
            Request::BeginAnew(done) => {
                let result = commit.begin_anew().await;
                let _ = done.send(result);
            }
            Request::Ingest(Ingestion { tables, done }) => {
                let result = commit.ingest(tables).await;
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
        let touched = group.iter().flat_map(|write| write.batch.families().iter().map(|family| family.id));
        let touched: BTreeSet<u32> = [DEFAULT_FAMILY].into_iter().chain(touched).collect();
        if let Err(e) = self.make_room(&touched).await {
            return answer_all(group.into_iter().map(|write| write.done), &e);
        }
        let (group, memtables) = self.admit(group);
        let (writes, answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|w| ((w.batch, w.options), w.done)).unzip();
        match self.commit(writes, &memtables).await {
            Ok(sequences) => answers.into_iter().zip(sequences).for_each(|(done, s)| {
                let _ = done.send(Ok(s));
            }),
            Err(e) => answer_all(answers, &e),
        }
    }

    /// The writes whose families all take them, and the memtables that these will fill. The others are answered.
    fn admit(&self, group: Vec<Write>) -> (Vec<Write>, Memtables) {
        let state = self.shared.state();
        let log_number = state.current_log();
        let mut memtables = BTreeMap::from([(DEFAULT_FAMILY, state.families.default_family().mem.clone())]);
        let mut admitted = Vec::with_capacity(group.len());
        for write in group {
            let families: Result<Vec<_>, Error> =
                write.batch.families().iter().map(|family| state.families.writable(family)).collect();
            match families.and_then(|families| check_merges(&state, &write.batch).map(|()| families)) {
                Err(e) => {
                    let _ = write.done.send(Err(e));
                }
                Ok(families) => {
                    memtables.extend(families.iter().map(|family| (family.key.id, family.mem.clone())));
                    if !write.options.disable_wal {
                        families.iter().for_each(|family| family.mem.note_log(log_number));
                        if write.batch.changes_default() {
                            memtables[&DEFAULT_FAMILY].note_log(log_number);
                        }
                    }
                    admitted.push(write);
                }
            }
        }
        (admitted, memtables)
    }

    async fn commit(
        &mut self,
        writes: Vec<(WriteBatch, WriteOptions)>,
        memtables: &Memtables,
    ) -> Result<Vec<u64>, Error> {
        let first_sequence = self.shared.state().last_sequence + 1;
        let mut last_sequence = first_sequence - 1;
        let (mut encoded, mut logged, mut lasts) = (Vec::new(), Vec::new(), Vec::new());
        let counters = self.shared.files.counters.clone();
        let wants_sync = writes.iter().any(|(_, options)| options.sync);
        for (batch, options) in writes {
            let count = u64::from(batch.count());
            assert!(last_sequence + count <= MAX_SEQUENCE, "the sequence numbers are used up");
            if count > 0 {
                let bytes = batch.encode(last_sequence + 1);
                counters.writes.add(1);
                counters.written_bytes.add(bytes.len() as u64);
                if !options.disable_wal {
                    logged.push(bytes.clone());
                }
                encoded.push((bytes, options.disable_wal));
            }
            last_sequence += count;
            lasts.push(last_sequence);
        }
        if !logged.is_empty() {
            let before_bytes = self.wals.len_bytes();
            let appended = self.wals.append(&logged, last_sequence + 1).await;
            counters.wal_bytes.add(self.wals.len_bytes() - before_bytes);
            appended.map_err(|e| self.shared.fail("a write to the log", e))?;
        }
        if wants_sync {
            self.sync().await?;
        }
        for (bytes, is_unlogged) in &encoded {
            insert(memtables, bytes, *is_unlogged);
        }
        let mut state = self.shared.state();
        state.last_sequence = last_sequence;
        state.wals.insert(self.wals.number(), self.wals.len_bytes());
        Ok(lasts)
    }

    async fn sync(&mut self) -> Result<(), Error> {
        self.shared.check_writable()?;
        let log_number = self.shared.state().set.first_log();
        let synced = self.wals.sync(log_number).await;
        if let Some(news) = synced.map_err(|e| self.shared.fail("a sync of the log", e))? {
            self.shared.files.counters.wal_syncs.add(1);
            self.mark().await?;
            if self.shared.site.options.track_wals && !news.is_empty() {
                self.shared.install("the tracking of a log", Change::of_logs(news), |_| {}).await?;
            }
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

    /// Waits until the memtables of these families can take a write.
    async fn make_room(&mut self, touched: &BTreeSet<u32>) -> Result<(), Error> {
        loop {
            self.shared.check_writable()?;
            let Some(full) = self.to_rotate(touched) else { return Ok(()) };
            let (is_stalled_now, began) = (is_stalled(&self.shared.state(), full), time::now());
            sometimes!(points::STALLED, is_stalled_now);
            let may_go_on = |state: &mut State| {
                (!is_stalled(state, full) || state.background.is_some() || state.is_closing).then_some(())
            };
            self.shared.wait_until(may_go_on).await;
            if is_stalled_now {
                let counters = &self.shared.files.counters;
                counters.stalls.add(1);
                counters.stalled_us.add(micros(began.elapsed()));
            }
            self.rotate(Some(full)).await?;
        }
    }

    /// A family whose memtable is to be closed first.
    fn to_rotate(&self, touched: &BTreeSet<u32>) -> Option<u32> {
        let state = self.shared.state();
        let rotates_early = |id: u32| {
            state.families.get(id).is_some_and(|family| !family.mem.is_empty())
                && buggify!(points::ROTATE_EARLY)
        };
        let is_full = |id: u32| state.families.get(id).is_some_and(|family| family.is_full());
        let full = touched.iter().copied().find(|id| is_full(*id) || rotates_early(*id));
        full.or_else(|| keeps_too_much(&state, self.shared.site.options.max_total_wal_bytes))
    }

    /// Begins a new log, and returns its number.
    async fn begin_log(&mut self) -> Result<u64, Error> {
        let log_number = self.shared.state().set.first_log();
        let number = self.shared.allocate_number();
        let rotated = self.wals.rotate(number, log_number).await;
        let in_doubt = vec![FileKind::Wal(number)];
        rotated.map_err(|e| self.shared.fail_in_doubt("the creation of a log", e, in_doubt))?;
        self.shared.state().wals.insert(number, 0);
        Ok(number)
    }

    /// Closes what is asked for, and returns the group that was closed last: with its flush all is in tables that was in a closed
    /// memtable.
    async fn rotate_for(&mut self, family: Option<Arc<FamilyKey>>) -> Result<Arc<Closed>, Error> {
        if let Some(family) = &family {
            self.shared.state().families.writable(family)?;
        }
        self.rotate(family.map(|family| family.id)).await?;
        let state = self.shared.state();
        Ok(state.families.newest_closed().cloned().unwrap_or_else(|| Closed::nothing(state.set.clone())))
    }

    /// Closes the memtable of a family, or those of all, if there is anything in them, and begins a new log.
    async fn rotate(&mut self, family: Option<u32>) -> Result<(), Error> {
        self.shared.check_writable()?;
        let family = family.filter(|_| !self.shared.site.options.atomic_flush);
        let (ids, is_needed) = {
            let state = self.shared.state();
            let ids = state.families.to_close(family);
            let is_needed = state.families.is_logged_beside(&ids);
            (ids, is_needed)
        };
        if ids.is_empty() {
            return Ok(());
        }
        let number = self.begin_log().await?;
        if is_needed {
            sometimes!(of_families::LOGS_SYNCED, true);
            self.sync().await?;
        }
        point!(points::WAL_ROTATED);
        let mut state = self.shared.state();
        let last_sequence = state.last_sequence;
        state.families.close(&ids, number, last_sequence);
        drop(state);
        self.shared.flush_wake.notify_one();
        Ok(())
    }

    /// See [`Request::BeginAnew`]. Whatever the logs of before hold, it is not needed once the group is in tables: each family that
    /// something was to be logged of is in it, even if nothing came of that.
    async fn begin_anew(&mut self) -> Result<Arc<Closed>, Error> {
        let number = self.shared.allocate_number();
        let next_sequence = self.shared.state().last_sequence + 1;
        let begun = Wals::create(&self.shared.site, number, next_sequence).await;
        let in_doubt = vec![FileKind::Wal(number)];
        self.wals = begun.map_err(|e| self.shared.fail_in_doubt("the creation of a log", e, in_doubt))?;
        let mut state = self.shared.state();
        state.wals.insert(number, 0);
        let last_sequence = state.last_sequence;
        let ids: Vec<u32> = state.families.open().map(|family| family.key.id).collect();
        state.families.close(&ids, number, last_sequence);
        Ok(state.families.newest_closed().expect("the default family is always there").clone())
    }
}

/// The memtables of the families that a group of writes changes.
type Memtables = BTreeMap<u32, Arc<Memtable>>;

fn answer_all(waiting: impl IntoIterator<Item = oneshot::Sender<Result<u64, Error>>>, error: &Error) {
    for done in waiting {
        let _ = done.send(Err(error.clone()));
    }
}

/// An operand that nobody can put together with anything would make its key unreadable.
fn check_merges(state: &State, batch: &WriteBatch) -> Result<(), Error> {
    let has_operator =
        |id: &u32| state.families.get(*id).is_some_and(|family| family.options.merge_operator.is_some());
    match batch.merges_into().iter().all(has_operator) {
        true => Ok(()),
        false => Err(Error::InvalidRequest("a merge into a family that has no merge operator")),
    }
}

/// True if a memtable of the family must not be closed now. One that was dropped needs no room.
pub(super) fn is_stalled(state: &State, id: u32) -> bool {
    let (Some(family), Some(tables)) = (state.families.get(id), state.set.family(id)) else { return false };
    family.immutable.len() >= family.options.max_immutable_memtables
        || tables.version.levels[0].len() >= family.options.level0_stop_writes_trigger
}

/// The family that keeps the oldest log, if the logs since then are too long.
fn keeps_too_much(state: &State, max_total_wal_bytes: u64) -> Option<u32> {
    // One family that is alone keeps no log that another has done with.
    let has_several = state.families.open().count() > 1;
    let (family, oldest) = state.families.oldest_logged().filter(|_| has_several)?;
    let of_memtables = || state.families.open().map(|family| family.options.memtables_bytes());
    let allowed_bytes = match max_total_wal_bytes {
        0 => of_memtables().fold(0, u64::saturating_add).saturating_mul(4),
        bytes => bytes,
    };
    let kept_bytes: u64 = state.wals.range(oldest..).map(|(_, len_bytes)| len_bytes).sum();
    (kept_bytes > allowed_bytes).then_some(family)
}

fn insert(memtables: &Memtables, bytes: &Bytes, is_unlogged: bool) {
    let batch = DecodedBatch::decode(bytes).expect("a batch that we encoded");
    let mut counted = batch.first_sequence..;
    for record in batch.records {
        let Record::Entry { kind, column_family, key, value } = record else { continue };
        let mem = &memtables[&column_family];
        mem.insert(key, Tag::new(counted.next().expect("it was checked"), kind), value);
        if is_unlogged {
            mem.mark_unlogged();
        }
    }
}
