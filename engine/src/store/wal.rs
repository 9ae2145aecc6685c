//! The write-ahead log: batches, framed.
//!
//! Logs form a chain. Each but the first after a recovery begins with an empty batch whose log data says how long its
//! predecessor is and how much of it was durable (RocksDB reads it as what it is: nothing). Recovery can so tell a log that
//! lost its end, even at a record's border, from one that ended there, and does not apply what came after a hole. Should
//! even the durable part be missing or damaged, it is corruption, and refused.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use cutwater_io::fs::{self, File};
use cutwater_io::point;

use super::batch::WriteBatch;
use super::coding::{Cursor, put_varint};
use super::error::{Error, IoContext};
use super::filenames::FileKind;
use super::log::LogWriter;
use super::points;

const LINK_MAGIC: &[u8] = b"cutwater.wal.follows:";

/// What a log says about the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// The log before.
    pub(crate) number: u64,
    /// Its length in bytes.
    pub(crate) len_bytes: u64,
    /// How much of it was durable, at least. Bytes.
    pub(crate) synced_bytes: u64,
}

impl Link {
    fn encode(self) -> Vec<u8> {
        let mut out = LINK_MAGIC.to_vec();
        for value in [self.number, self.len_bytes, self.synced_bytes] {
            put_varint(&mut out, value);
        }
        out
    }

    /// Nothing if the log data is something else.
    pub(crate) fn decode(log_data: &[u8]) -> Option<Link> {
        let mut cursor = Cursor::new(log_data.strip_prefix(LINK_MAGIC)?);
        let mut next = || cursor.varint64().ok();
        Some(Link { number: next()?, len_bytes: next()?, synced_bytes: next()? })
    }
}

/// A log that is written, or was and waits for its sync.
#[derive(Debug)]
struct Wal {
    number: u64,
    path: PathBuf,
    file: File,
    framing: LogWriter,
    len_bytes: u64,
    synced_bytes: u64,
    is_name_durable: bool,
}

impl Wal {
    async fn create(dir: &Path, number: u64) -> Result<Wal, Error> {
        let path = FileKind::Wal(number).path(dir);
        let file = File::create_new(&path).await.during("create", &path)?;
        let framing = LogWriter::new();
        Ok(Wal { number, path, file, framing, len_bytes: 0, synced_bytes: 0, is_name_durable: false })
    }

    async fn sync(&mut self) -> Result<(), Error> {
        let len_bytes = self.len_bytes;
        self.file.sync_data().await.during("sync", &self.path)?;
        self.synced_bytes = len_bytes;
        Ok(())
    }

    fn is_durable(&self) -> bool {
        self.is_name_durable && self.synced_bytes == self.len_bytes
    }
}

/// The log that is written, and those before it that are not durable yet.
#[derive(Debug)]
pub(crate) struct Wals {
    dir: PathBuf,
    current: Wal,
    closed: Vec<Wal>,
    /// True until the link to the predecessor is written.
    needs_link: bool,
}

impl Wals {
    /// Begins the first log after a recovery.
    pub(crate) async fn create(dir: &Path, number: u64) -> Result<Wals, Error> {
        let current = Wal::create(dir, number).await?;
        Ok(Wals { dir: dir.to_owned(), current, closed: Vec::new(), needs_link: false })
    }

    /// Appends batches with one write. After an error nothing more may be appended: part of them may be there.
    pub(crate) async fn append(&mut self, first_sequence: u64, batches: &[Bytes]) -> Result<(), Error> {
        let mut out = Vec::new();
        if self.needs_link {
            let before = self.closed.last().expect("the predecessor is kept until the link is written");
            let link = Link {
                number: before.number,
                len_bytes: before.len_bytes,
                synced_bytes: before.synced_bytes,
            };
            let mut batch = WriteBatch::new();
            batch.log_data(&link.encode());
            self.current.framing.add_record(&batch.encode(first_sequence), &mut out);
            self.needs_link = false;
        }
        for batch in batches {
            self.current.framing.add_record(batch, &mut out);
        }
        let Wal { file, path, len_bytes, .. } = &mut self.current;
        file.write_all_at(&out, *len_bytes).await.during("write", path)?;
        *len_bytes += out.len() as u64;
        Ok(())
    }

    /// Makes all that was appended durable, older logs first: a write must not outlive one before it.
    pub(crate) async fn sync(&mut self, log_number: u64) -> Result<(), Error> {
        let (closed, current) = (&mut self.closed, &mut self.current);
        let mut needed: Vec<&mut Wal> = closed.iter_mut().filter(|w| w.number >= log_number).collect();
        needed.push(current);
        if needed.iter().all(|w| w.is_durable()) {
            return Ok(());
        }
        point!(points::WAL_BEFORE_SYNC);
        for wal in &mut needed {
            wal.sync().await?;
        }
        if needed.iter().any(|w| !w.is_name_durable) {
            fs::sync_dir(&self.dir).await.during("sync", &self.dir)?;
            needed.iter_mut().for_each(|w| w.is_name_durable = true);
        }
        self.forget_closed(log_number);
        point!(points::WAL_AFTER_SYNC);
        Ok(())
    }

    /// Goes on with a new log.
    pub(crate) async fn rotate(&mut self, number: u64, log_number: u64) -> Result<(), Error> {
        assert!(number > self.current.number, "logs are numbered in order");
        let fresh = Wal::create(&self.dir, number).await?;
        let before = std::mem::replace(&mut self.current, fresh);
        // A log without a record is no link of the chain: its own link was never written.
        if before.len_bytes > 0 {
            self.forget_closed(log_number);
            self.closed.push(before);
            self.needs_link = true;
        }
        Ok(())
    }

    fn forget_closed(&mut self, log_number: u64) {
        let keep = if self.needs_link { self.closed.pop() } else { None };
        self.closed.retain(|w| w.number >= log_number && !w.is_durable());
        self.closed.extend(keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_back_and_other_log_data_is_none() {
        let link = Link { number: 7, len_bytes: 1 << 40, synced_bytes: 0 };
        assert_eq!(Link::decode(&link.encode()), Some(link));
        assert_eq!(Link::decode(b"cutwater.wal.follows:"), None);
        assert_eq!(Link::decode(b"note"), None);
    }
}
