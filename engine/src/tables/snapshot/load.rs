//! Reading one partition of a snapshot for a restore: its rows, then the logs folded onto them, in batches for `Load` entries.
//!
//! A batch says where the next one begins, counted in rows and entries. That goes into the log with the batch, and is what a restore that
//! begins anew is told: what comes before is read and folded again (the fold needs to know the versions), and not given out. So how
//! it is batched, and how often it is begun, makes no difference to the rows.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::chain::Plan;
use super::files::{PartReader, ReadError};
use super::fold::{Digests, Fold, FoldError, Rows};
use super::segment::{Indexed, KeyedRow};
use crate::state::blob::Blobs;
use crate::tables::ids::PartitionId;
use crate::tables::rows::{Change, Content};

#[cfg(test)]
mod tests;

/// Changes of rows, in the order of keys, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Where the next batch begins.
    pub next: u64,
    /// The rows; `None` removes one.
    pub changes: Vec<Change>,
}

/// A partition cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file could not be read, or is not what was written.
    #[error(transparent)]
    File(#[from] ReadError),
    /// A log does not lead where it should.
    #[error("partition {partition}: {source}")]
    Fold {
        /// Of the snapshot.
        partition: PartitionId,
        /// Why.
        source: FoldError,
    },
}

/// Reads a partition.
pub struct Loader<'a> {
    blobs: &'a Blobs,
    plan: Plan<'a>,
    fold: Fold<Digests>,
    source: Source<'a>,
    /// How many items were taken.
    taken: u64,
    /// Before this, nothing is given out.
    from: u64,
}

enum Source<'a> {
    Rows(PartReader<'a, KeyedRow>),
    /// The log of the step with this number.
    Log(usize, PartReader<'a, Indexed>),
    End,
}

impl<'a> Loader<'a> {
    /// From the batch on that begins at `from`; 0 is the first.
    pub fn new(blobs: &'a Blobs, plan: Plan<'a>, from: u64) -> Loader<'a> {
        let source = Source::Rows(PartReader::new(blobs, &plan.base.files));
        Loader { blobs, plan, fold: Fold::new(Digests::default()), source, taken: 0, from }
    }

    /// What the rows come to, as far as they were read. At the end: what the partition must hold.
    pub fn content(&self) -> Content {
        self.fold.rows().content()
    }

    /// The next batch, of about so many bytes; `None` at the end.
    ///
    /// # Errors
    /// If the snapshot cannot be read, or is damaged.
    pub async fn next(&mut self, batch_bytes: usize) -> Result<Option<Batch>, LoadError> {
        let mut rows: BTreeMap<Bytes, Option<Bytes>> = BTreeMap::new();
        let mut len_bytes = 0;
        while len_bytes < batch_bytes {
            let Some(changes) = self.item().await? else { break };
            self.taken += 1;
            if self.taken > self.from {
                for Change { key, value } in changes {
                    len_bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
                    rows.insert(key, value);
                }
            }
        }
        let changes: Vec<Change> = rows.into_iter().map(|(key, value)| Change { key, value }).collect();
        Ok((!changes.is_empty()).then_some(Batch { next: self.taken, changes }))
    }

    /// What the next row or entry changes; `None` at the end.
    async fn item(&mut self) -> Result<Option<Vec<Change>>, LoadError> {
        let partition = self.plan.base.partition;
        let wrong = |source| LoadError::Fold { partition, source };
        loop {
            let next = match &mut self.source {
                Source::Rows(reader) => match reader.next().await? {
                    Some(row) => return Ok(Some(vec![self.fold.base(row)])),
                    None => 0,
                },
                Source::Log(at, reader) => match reader.next().await? {
                    Some(entry) => return self.fold.entry(entry).map(Some).map_err(wrong),
                    None => {
                        self.fold.end().map_err(wrong)?;
                        *at + 1
                    }
                },
                Source::End => return Ok(None),
            };
            self.source = match self.plan.steps.get(next) {
                Some(step) => {
                    self.fold.begin((*step).into());
                    Source::Log(next, PartReader::new(self.blobs, &step.to_part.files))
                }
                None => Source::End,
            };
        }
    }
}
