//! What a process finds of a copy when it starts. The state is the fold of the log from scratch, though only its end is read.

use std::collections::BTreeMap;

use super::key::{self, Kind};
use super::{AppliedState, Begin, CopyStore, Error, Rows, Taken};
use crate::store::{Store, WriteBatch, WriteOptions};
use crate::tables::ids::{LogIndex, PartitionId, View};
use crate::tables::partition::{Folded, Ledger, Partition};
use crate::tables::replica::{Found, LogShape};

/// So much of the log is read at once, roughly. Bytes.
pub(super) const READ_BYTES: usize = 1 << 20;

/// A copy that was opened.
#[derive(Debug)]
pub struct Opened {
    /// For [`crate::tables::replica::Replica::new`].
    pub found: Found,
    /// Its rows and its state. Empty while a learner takes rows.
    pub rows: Rows,
}

/// All partitions of which a store has something, in their order.
///
/// # Errors
/// The store's, as such.
pub async fn partitions(store: &Store) -> Result<Vec<PartitionId>, crate::store::Error> {
    let (begin, end) = key::copies();
    let mut iter = store.iter(begin.clone()..end, None);
    let mut found = Vec::new();
    let mut next = iter.seek(&begin).await?;
    while let Some((key, _)) = next {
        next = match key::partition_of(&key) {
            Some(partition) => {
                found.push(partition);
                iter.seek(&key::behind_all(partition)).await?
            }
            None => iter.next().await?,
        };
    }
    Ok(found)
}

impl CopyStore {
    /// Opens the copy, which may be new.
    ///
    /// # Errors
    /// The store's, damage, or parts that do not fit each other.
    pub async fn open(&self) -> Result<Opened, Error> {
        let promised: View = self.single(Kind::Promise).await?.unwrap_or_default();
        if let Some(Taken { rows, .. }) = self.single(Kind::Taken).await? {
            let found = Found { promised, rows: Some(rows), ..Found::default() };
            let empty = Partition::new(self.partition, Folded::default());
            return Ok(Opened { found, rows: Rows::new(self.clone(), empty, 0) });
        }
        let AppliedState { index: applied, sums } = self.single(Kind::Applied).await?.unwrap_or_default();
        let log = self.shape().await?;
        let mut ledger: Ledger = self.single(Kind::Ledger).await?.unwrap_or_default();
        let stored_at = ledger.index();
        if !(log.before <= stored_at && stored_at <= applied && applied <= log.last) {
            let why =
                format!("at {stored_at}, with {applied} applied, a log from {} to {}", log.before, log.last);
            return Err(self.damaged(Kind::Ledger.name(), "", why));
        }
        self.fold_on(&mut ledger, applied).await?;
        if ledger.view() != log.view_at(applied) || ledger.cuts().keys().ne(sums.cuts.keys()) {
            return Err(self.damaged(Kind::Applied.name(), applied, "it does not fit the log"));
        }
        self.check_tail(applied, log.last).await?;
        let partition = Partition::new(self.partition, Folded { ledger, sums });
        let found = Found { promised, log, applied, rows: None };
        Ok(Opened { found, rows: Rows::new(self.clone(), partition, stored_at) })
    }

    /// Removes everything of the copy, durably.
    ///
    /// # Errors
    /// The store's.
    pub async fn clear(&self) -> Result<(), Error> {
        let mut batch = WriteBatch::new();
        batch.delete_range(&key::of(self.partition, Kind::Promise, &[]), &key::behind_all(self.partition));
        let durably = WriteOptions { sync: true, disable_wal: false };
        self.store.write(batch, durably).await.map(drop).map_err(self.failed())
    }

    async fn shape(&self) -> Result<LogShape, Error> {
        let Begin { before, view } = self.single(Kind::Begin).await?.unwrap_or_default();
        let mut opens = BTreeMap::new();
        if before > 0 {
            opens.insert(before, view);
        }
        let end = key::behind(self.partition, Kind::Entry);
        let mut iter = self.store.iter(key::at(self.partition, Kind::Entry, before + 1)..end, None);
        let newest = iter.seek_to_last().await.map_err(self.failed())?;
        let last = match newest {
            Some((key, _)) => {
                key::index(&key).ok_or_else(|| self.damaged("entry", key.escape_ascii(), "its key"))?
            }
            None => before,
        };
        let end = key::at(self.partition, Kind::Open, last.saturating_add(1));
        let mut iter = self.store.iter(key::at(self.partition, Kind::Open, before + 1)..end, None);
        while let Some((key, value)) = iter.next().await.map_err(self.failed())? {
            let index =
                key::index(&key).ok_or_else(|| self.damaged("open", key.escape_ascii(), "its key"))?;
            opens.insert(index, self.decode("open", index, &value)?);
        }
        if !opens.values().is_sorted_by(|a, b| a < b) {
            return Err(self.damaged("open", before, "views do not grow along the log"));
        }
        Ok(LogShape { before, last, opens })
    }

    /// Folds the log into a ledger up to an index.
    async fn fold_on(&self, ledger: &mut Ledger, up_to: LogIndex) -> Result<(), Error> {
        while ledger.index() < up_to {
            let entries = self.read_log(ledger.index(), READ_BYTES).await?;
            if entries.is_empty() {
                return Err(self.missing(ledger.index() + 1));
            }
            for entry in entries.into_iter().take_while_up_to(ledger.index(), up_to) {
                ledger.fold(ledger.index() + 1, &entry);
            }
        }
        Ok(())
    }

    /// Reads what is not applied: it must be whole before anybody is told that it is there.
    async fn check_tail(&self, mut from: LogIndex, last: LogIndex) -> Result<(), Error> {
        while from < last {
            let count = self.read_log(from, READ_BYTES).await?.len() as LogIndex;
            if count == 0 {
                return Err(self.missing(from + 1));
            }
            from += count;
        }
        Ok(())
    }
}

/// The items behind index `from`, up to the one at `up_to`.
trait TakeUpTo: Iterator + Sized {
    fn take_while_up_to(self, from: LogIndex, up_to: LogIndex) -> impl Iterator<Item = Self::Item> {
        self.zip(from + 1..=up_to).map(|(item, _)| item)
    }
}

impl<I: Iterator> TakeUpTo for I {}
