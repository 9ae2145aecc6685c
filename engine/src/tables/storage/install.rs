//! Rows that a learner takes, stretch by stretch. Each is one batch with how far it goes, so a crash only costs the stretch that was on its
//! way. The last makes the copy whole, in the same batch, once the sum over all that came is the primary's.

use super::key::{self, Kind};
use super::{AppliedState, Begin, CopyStore, Error, Taken, encode, encode_row};
use crate::store::{WriteBatch, WriteOptions};
use crate::tables::partition::Folded;
use crate::tables::replica::{RowsChunk, RowsTaken};
use crate::tables::rows::Content;

impl CopyStore {
    /// Writes rows, durably. A stretch from the beginning removes everything first but the promise. After the last, which comes
    /// with the end, the copy is to be opened again.
    ///
    /// # Errors
    /// The store's, damage, a stretch that does not follow the one before, or rows that are not the primary's; nothing is changed by
    /// the last two.
    pub async fn install(&self, chunk: &RowsChunk) -> Result<(), Error> {
        let mut batch = WriteBatch::new();
        let mut content = match &chunk.after {
            None => {
                let first = key::of(self.partition, Kind::Begin, &[]);
                batch.delete_range(&first, &key::behind_all(self.partition));
                Content::default()
            }
            Some(after) => {
                let taken: Option<Taken> = self.single(Kind::Taken).await?;
                let follows = |taken: &Taken| {
                    taken.rows.index == chunk.index && taken.rows.after.as_ref() == Some(after)
                };
                let not_next =
                    || self.damaged("stretch of rows behind", after.escape_ascii(), "it is not the next");
                taken.filter(follows).ok_or_else(not_next)?.content
            }
        };
        for (key, row) in &chunk.rows {
            batch.put(&key::of(self.partition, Kind::Row, key), &encode_row(row.version, &row.value));
            content.add(key, &row.value);
        }
        let at = key::of(self.partition, Kind::Taken, &[]);
        match &chunk.end {
            Some(folded) => {
                self.check_end(folded, chunk, content)?;
                batch.delete(&at);
                self.add_end(&mut batch, folded);
            }
            None => {
                let after = chunk.rows.last().map(|(key, _)| key.clone()).or_else(|| chunk.after.clone());
                let rows = RowsTaken { index: chunk.index, after };
                batch.put(&at, &encode(&Taken { rows, content }));
            }
        }
        let durably = WriteOptions { sync: true, disable_wal: false };
        self.store.write(batch, durably).await.map(drop).map_err(self.failed())
    }

    fn check_end(&self, folded: &Folded, chunk: &RowsChunk, found: Content) -> Result<(), Error> {
        let expected = folded.sums.content;
        if found != expected {
            return Err(Error::Content { partition: self.partition, found, expected });
        }
        if folded.ledger.index() != chunk.index {
            return Err(self.damaged(Kind::Ledger.name(), folded.ledger.index(), "it comes with other rows"));
        }
        Ok(())
    }

    fn add_end(&self, batch: &mut WriteBatch, folded: &Folded) {
        let Folded { ledger, sums } = folded;
        let index = ledger.index();
        let mut put = |kind, value: Vec<u8>| batch.put(&key::of(self.partition, kind, &[]), &value);
        put(Kind::Begin, encode(&Begin { before: index, view: ledger.view() }));
        put(Kind::Applied, encode(&AppliedState { index, sums: sums.clone() }));
        put(Kind::Ledger, encode(ledger));
    }
}
