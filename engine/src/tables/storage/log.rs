//! The log of a copy: written before anything is said about it, read for those who lag.

use std::sync::Arc;

use super::key::{self, Kind};
use super::{CopyStore, Error, encode};
use crate::store::{WriteBatch, WriteOptions};
use crate::tables::entry::Entry;
use crate::tables::ids::{LogIndex, View};

/// A change of the log, as [`crate::tables::replica::Effect`] asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogStep {
    /// Remember the view.
    Promise(View),
    /// Write entries.
    Persist {
        /// Index of the first.
        first: LogIndex,
        /// The entries.
        entries: Vec<Arc<Entry>>,
    },
    /// Remove what is above the index.
    Truncate(LogIndex),
}

const DURABLY: WriteOptions = WriteOptions { sync: true, disable_wal: false };

impl CopyStore {
    /// Makes changes of the log, in their order, as one. They are durable on return.
    ///
    /// # Errors
    /// The store's. What is there then is known when the copy is opened again.
    pub async fn write_log(&self, steps: &[LogStep]) -> Result<(), Error> {
        let mut batch = WriteBatch::new();
        for step in steps {
            self.add_step(&mut batch, step);
        }
        if !batch.is_empty() {
            self.store.write(batch, DURABLY).await.map_err(self.failed())?;
        }
        Ok(())
    }

    fn add_step(&self, batch: &mut WriteBatch, step: &LogStep) {
        let at = |kind, index| key::at(self.partition, kind, index);
        match step {
            LogStep::Promise(view) => batch.put(&key::of(self.partition, Kind::Promise, &[]), &encode(view)),
            LogStep::Persist { first, entries } => {
                for (index, entry) in (*first..).zip(entries) {
                    batch.put(&at(Kind::Entry, index), &encode(&**entry));
                    if let Entry::Open { view } = &**entry {
                        batch.put(&at(Kind::Open, index), &encode(view));
                    }
                }
            }
            LogStep::Truncate(last) => {
                for kind in [Kind::Entry, Kind::Open] {
                    batch.delete_range(&at(kind, last + 1), &key::behind(self.partition, kind));
                }
            }
        }
    }

    /// The entries behind `previous`, at least one if there is one, and no more than `max_bytes` unless the first is larger. None if they
    /// are gone, or not there yet.
    ///
    /// # Errors
    /// The store's, damage, or an entry that is missing among others.
    pub async fn read_log(&self, previous: LogIndex, max_bytes: usize) -> Result<Vec<Arc<Entry>>, Error> {
        let (from, end) =
            (key::at(self.partition, Kind::Entry, previous + 1), key::behind(self.partition, Kind::Entry));
        let mut iter = self.store.iter(from..end, None);
        let (mut entries, mut sum_bytes) = (Vec::new(), 0);
        while let Some((key, value)) = iter.next().await.map_err(self.failed())? {
            let expected = previous + 1 + entries.len() as LogIndex;
            if key::index(&key) != Some(expected) {
                return self.is_gone(expected).await?.then(Vec::new).ok_or(self.missing(expected));
            }
            sum_bytes += value.len();
            if !entries.is_empty() && sum_bytes > max_bytes {
                break;
            }
            entries.push(Arc::new(self.decode("entry", expected, &value)?));
        }
        Ok(entries)
    }

    async fn is_gone(&self, index: LogIndex) -> Result<bool, Error> {
        let begin: super::Begin = self.single(Kind::Begin).await?.unwrap_or_default();
        Ok(index <= begin.before)
    }

    pub(super) fn missing(&self, index: LogIndex) -> Error {
        Error::Missing { partition: self.partition, index }
    }
}
