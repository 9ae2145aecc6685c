//! The rows of a copy, and the step that takes them from one index to a later one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::key::{self, Kind};
use super::open::READ_BYTES;
use super::{AppliedState, Begin, CopyStore, Error, encode, encode_row};
use crate::store::{Snapshot, WriteBatch, WriteOptions};
use crate::tables::entry::Entry;
use crate::tables::ids::LogIndex;
use crate::tables::partition::{Applied, Facts, Folded, Partition, RowChange};
use crate::tables::replica::{RowsChunk, RowsTaken};
use crate::tables::rows::Row;

/// After so many entries the ledger is stored with the next step: what is folded again when the copy is opened. Few in tests, so that crashes
/// find ledgers of every age.
const LEDGER_EVERY: LogIndex = if cfg!(test) { 16 } else { 512 };

/// The rows of a copy and its state, at one index.
#[derive(Debug)]
pub struct Rows {
    copy: CopyStore,
    partition: Partition,
    /// Index of the ledger in the store.
    stored_at: LogIndex,
    /// A step has begun and not ended.
    is_interrupted: bool,
}

/// An entry that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its index.
    pub index: LogIndex,
    /// The entry.
    pub entry: Arc<Entry>,
    /// What it came to.
    pub applied: Applied,
}

/// The rows of a copy as they were at an index, for as long as this is held.
#[derive(Debug)]
pub struct HeldRows {
    copy: CopyStore,
    snapshot: Snapshot,
    index: LogIndex,
}

/// A copy as it was at an index, for one who takes it over.
#[derive(Debug)]
pub struct HeldCopy {
    /// Its rows.
    pub rows: HeldRows,
    /// The rest of it.
    pub folded: Folded,
}

impl Rows {
    pub(super) fn new(copy: CopyStore, partition: Partition, stored_at: LogIndex) -> Rows {
        Rows { copy, partition, stored_at, is_interrupted: false }
    }

    /// The state.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// Holds the rows as they are. What the state says at the same moment is true of them.
    pub fn hold(&self) -> HeldRows {
        let (copy, snapshot) = (self.copy.clone(), self.copy.store.snapshot());
        HeldRows { copy, snapshot, index: self.partition.applied() }
    }

    /// Holds the copy as it is.
    pub fn hold_copy(&self) -> HeldCopy {
        HeldCopy { rows: self.hold(), folded: self.partition.folded().clone() }
    }

    /// Applies entries of the log up to `up_to`, which are committed, as one step; maybe not all of them: a step ends with a mark, so that
    /// the rows at a cut can be [held](Rows::hold), and when it is large. Returns what was applied. It need not be durable on
    /// return: if it is lost, the log makes it again.
    ///
    /// # Errors
    /// The store's, damage, or an entry that is not there. After an error of the store the copy must be opened again.
    ///
    /// # Panics
    /// If an entry could not have been admitted.
    pub async fn apply(&mut self, up_to: LogIndex) -> Result<Vec<Step>, Error> {
        self.check_whole()?;
        if up_to <= self.partition.applied() {
            return Ok(Vec::new());
        }
        let entries = self.copy.read_log(self.partition.applied(), READ_BYTES).await?;
        if entries.is_empty() {
            return Err(self.copy.missing(self.partition.applied() + 1));
        }
        self.is_interrupted = true;
        let steps = self.apply_entries(entries, up_to).await?;
        self.is_interrupted = false;
        Ok(steps)
    }

    async fn apply_entries(&mut self, entries: Vec<Arc<Entry>>, up_to: LogIndex) -> Result<Vec<Step>, Error> {
        let mut known: BTreeMap<Bytes, Option<Row>> = BTreeMap::new();
        let mut steps = Vec::new();
        for entry in entries {
            let index = self.partition.applied() + 1;
            if index > up_to {
                break;
            }
            for key in self.partition.needs(&entry) {
                if !known.contains_key(key) {
                    known.insert(key.clone(), self.copy.row(key, None).await?);
                }
            }
            let applied = self.partition.apply(index, &entry, |key| known.get(key).and_then(Option::as_ref));
            for RowChange { key, row } in &applied.changes {
                known.insert(key.clone(), row.clone());
            }
            let is_mark = matches!(*entry, Entry::Mark { .. });
            steps.push(Step { index, entry, applied });
            if is_mark {
                break;
            }
        }
        self.write(&steps).await?;
        Ok(steps)
    }

    async fn write(&mut self, steps: &[Step]) -> Result<(), Error> {
        let (copy, mut batch) = (self.copy.clone(), WriteBatch::new());
        for RowChange { key, row } in steps.iter().flat_map(|step| &step.applied.changes) {
            let at = key::of(copy.partition, Kind::Row, key);
            match row {
                Some(Row { version, value }) => batch.put(&at, &encode_row(*version, value)),
                None => batch.delete(&at),
            }
        }
        self.add_state(&mut batch);
        if self.partition.applied() >= self.stored_at + LEDGER_EVERY {
            self.add_ledger(&mut batch);
        }
        copy.store.write(batch, WriteOptions::default()).await.map_err(copy.failed())?;
        Ok(())
    }

    fn add_state(&self, batch: &mut WriteBatch) {
        let state =
            AppliedState { index: self.partition.applied(), sums: self.partition.folded().sums.clone() };
        batch.put(&key::of(self.copy.partition, Kind::Applied, &[]), &encode(&state));
    }

    fn add_ledger(&mut self, batch: &mut WriteBatch) {
        batch.put(&key::of(self.copy.partition, Kind::Ledger, &[]), &encode(self.partition.ledger()));
        self.stored_at = self.partition.applied();
    }

    /// Removes the log below `keep_from`, or as much of it as is applied, and returns the highest index that is gone. Who
    /// may still need it is for others to know: copies ([`crate::tables::replica::Replica::keep_from`]), snapshots.
    ///
    /// # Errors
    /// As of [`Rows::apply`].
    pub async fn trim(&mut self, keep_from: LogIndex) -> Result<LogIndex, Error> {
        self.check_whole()?;
        let copy = self.copy.clone();
        let begin: Begin = copy.single(Kind::Begin).await?.unwrap_or_default();
        let before = keep_from.saturating_sub(1).min(self.partition.applied());
        if before <= begin.before {
            return Ok(begin.before);
        }
        let view = copy.view_at(before).await?.unwrap_or(begin.view);
        self.is_interrupted = true;
        let mut batch = WriteBatch::new();
        for kind in [Kind::Entry, Kind::Open] {
            let at = |index| key::at(copy.partition, kind, index);
            batch.delete_range(&at(begin.before), &at(before + 1));
        }
        batch.put(&key::of(copy.partition, Kind::Begin, &[]), &encode(&Begin { before, view }));
        if before > self.stored_at {
            self.add_state(&mut batch);
            self.add_ledger(&mut batch);
        }
        copy.store.write(batch, WriteOptions::default()).await.map_err(copy.failed())?;
        self.is_interrupted = false;
        Ok(before)
    }

    fn check_whole(&self) -> Result<(), Error> {
        if self.is_interrupted {
            return Err(Error::Interrupted { partition: self.copy.partition });
        }
        Ok(())
    }
}

impl HeldRows {
    /// The index: they are the fold of the log up to there.
    pub fn index(&self) -> LogIndex {
        self.index
    }

    /// A row.
    ///
    /// # Errors
    /// The store's, or damage.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Row>, Error> {
        self.copy.row(key, Some(&self.snapshot)).await
    }

    /// What [`crate::tables::partition::Admission::admit`] must know of these keys.
    ///
    /// # Errors
    /// As of [`HeldRows::get`].
    pub async fn facts(&self, keys: impl IntoIterator<Item = &Bytes>) -> Result<Facts, Error> {
        let mut facts = Facts { as_of: self.index, ..Facts::default() };
        for key in keys {
            let version = self.get(key).await?.map(|row| row.version);
            facts.versions.insert(key.clone(), version);
        }
        Ok(facts)
    }

    /// Rows behind a key, in their order: at least one if there is one, and no more than `max_bytes` unless the first is larger. True if those
    /// are all.
    ///
    /// # Errors
    /// As of [`HeldRows::get`].
    pub async fn scan(
        &self,
        after: Option<&Bytes>,
        max_bytes: usize,
    ) -> Result<(Vec<(Bytes, Row)>, bool), Error> {
        let of = |rest: &[u8]| key::of(self.copy.partition, Kind::Row, rest);
        // Directly behind a key comes the same with a zero byte.
        let from = after.map_or_else(|| of(&[]), |after| of(&[after, &[0][..]].concat()));
        let end = key::behind(self.copy.partition, Kind::Row);
        let mut iter = self.copy.store.iter(from..end, Some(&self.snapshot));
        let (mut rows, mut sum_bytes) = (Vec::new(), 0);
        while let Some((key, value)) = iter.next().await.map_err(self.copy.failed())? {
            let key = Bytes::copy_from_slice(key::rest(&key));
            sum_bytes += key.len() + value.len();
            if !rows.is_empty() && sum_bytes > max_bytes {
                return Ok((rows, false));
            }
            let row = self.copy.decode_row(&key, value)?;
            rows.push((key, row));
        }
        Ok((rows, true))
    }
}

impl HeldCopy {
    /// The answer to [`crate::tables::replica::Effect::ReadRows`]: what follows what was taken of this very copy, or the beginning.
    ///
    /// # Errors
    /// As of [`HeldRows::get`].
    pub async fn chunk(&self, taken: Option<&RowsTaken>, max_bytes: usize) -> Result<RowsChunk, Error> {
        let index = self.rows.index();
        let after = taken.filter(|taken| taken.index == index).and_then(|taken| taken.after.clone());
        let (rows, is_all) = self.rows.scan(after.as_ref(), max_bytes).await?;
        let end = is_all.then(|| Box::new(self.folded.clone()));
        Ok(RowsChunk { index, after, rows, end })
    }
}

impl CopyStore {
    async fn row(&self, key: &[u8], snapshot: Option<&Snapshot>) -> Result<Option<Row>, Error> {
        let at = key::of(self.partition, Kind::Row, key);
        let bytes = match snapshot {
            Some(snapshot) => self.store.get_at(snapshot, &at).await,
            None => self.store.get(&at).await,
        };
        bytes.map_err(self.failed())?.map(|bytes| self.decode_row(key, bytes)).transpose()
    }

    fn decode_row(&self, key: &[u8], bytes: Vec<u8>) -> Result<Row, Error> {
        let bytes = Bytes::from(bytes);
        let Some(version) = bytes.first_chunk() else {
            return Err(self.damaged("row", key.escape_ascii(), format!("it has {} bytes", bytes.len())));
        };
        Ok(Row { version: LogIndex::from_le_bytes(*version), value: bytes.slice(8..) })
    }

    /// The view of the last `Open` at or below an index, if that is in the log.
    async fn view_at(&self, index: LogIndex) -> Result<Option<u64>, Error> {
        let (from, end) =
            (key::of(self.partition, Kind::Open, &[]), key::at(self.partition, Kind::Open, index + 1));
        let mut iter = self.store.iter(from..end, None);
        let newest = iter.seek_to_last().await.map_err(self.failed())?;
        newest.map(|(_, value)| self.decode("open", index, &value)).transpose()
    }
}
