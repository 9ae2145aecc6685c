//! The write-ahead log: batches, framed.
//!
//! Logs form a chain. Each but the first after a recovery begins with an empty batch whose log data says how long its
//! predecessor is and how much of it was durable (RocksDB reads it as what it is: nothing). Recovery can so tell a log that
//! lost its end, even at a record's border, from one that ended there, and does not apply what came after a hole. Should
//! even the durable part be missing or damaged, it is corruption, and refused.
//!
//! After each sync follows a *mark*, the same kind of empty batch, which says how much of the log is durable, with all logs
//! before it. A crash can only take what no sync had forced, so a record that cannot be read although a mark behind it says
//! that it was durable is damage, not a torn tail (Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage",
//! FAST 2018: answering damage by truncation loses committed data). The mark itself is made durable by the next sync, by the
//! kernel's writeback, or when the store is closed; until then a power failure can take it, and damage to the records of
//! that last sync looks like a torn tail. A second sync for each would close that window, at twice the price of a write.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use cutwater_io::fs::{self, File};
use cutwater_io::point;

use super::batch::{BATCH_HEADER_BYTES, DecodedBatch, Record, WriteBatch};
use super::coding::{Cursor, put_varint};
use super::error::{Error, IoContext};
use super::filenames::FileKind;
use super::log::{HEADER_BYTES, LogReader, LogWriter};
use super::points;

const LINK_MAGIC: &[u8] = b"cutwater.wal.follows:";
const MARK_MAGIC: &[u8] = b"cutwater.wal.durable:";
/// From the begin of a mark's record to its magic: headers of the record and the batch, tag and length of the log data.
const BEFORE_MARK_MAGIC: usize = HEADER_BYTES + BATCH_HEADER_BYTES + 2;

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

/// What a log says about itself and the logs before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The log it stands in. All before it that are still needed were durable as a whole.
    pub(crate) number: u64,
    /// How much of this one was durable. Bytes.
    pub(crate) synced_bytes: u64,
}

impl Mark {
    fn encode(self) -> Vec<u8> {
        let mut out = MARK_MAGIC.to_vec();
        put_varint(&mut out, self.number);
        put_varint(&mut out, self.synced_bytes);
        out
    }

    fn decode(log_data: &[u8]) -> Option<Mark> {
        let mut cursor = Cursor::new(log_data.strip_prefix(MARK_MAGIC)?);
        Some(Mark { number: cursor.varint64().ok()?, synced_bytes: cursor.varint64().ok()? })
    }

    /// The highest mark of log `number` that is intact anywhere in `data`, whatever lies between.
    pub(crate) fn highest_in(data: &Bytes, number: u64) -> Option<Mark> {
        let reader = LogReader::new(data, number);
        let magics = data.windows(MARK_MAGIC.len()).enumerate().filter(|(_, bytes)| *bytes == MARK_MAGIC);
        let starts = magics.filter_map(|(at, _)| at.checked_sub(BEFORE_MARK_MAGIC));
        let batches = starts.filter_map(|start| {
            DecodedBatch::decode(&Bytes::copy_from_slice(reader.whole_record_at(start)?)).ok()
        });
        let marks = batches.flat_map(|batch| batch.records).filter_map(|record| match record {
            Record::LogData(data) => Mark::decode(&data).filter(|mark| mark.number == number),
            _ => None,
        });
        marks.max_by_key(|mark| mark.synced_bytes)
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
    /// Length up to the last record that is no mark. Bytes.
    payload_bytes: u64,
    synced_bytes: u64,
    is_name_durable: bool,
}

impl Wal {
    async fn create(dir: &Path, number: u64) -> Result<Wal, Error> {
        let path = FileKind::Wal(number).path(dir);
        let file = File::create_new(&path).await.during("create", &path)?;
        let framing = LogWriter::new();
        let (len_bytes, payload_bytes, synced_bytes, is_name_durable) = (0, 0, 0, false);
        Ok(Wal { number, path, file, framing, len_bytes, payload_bytes, synced_bytes, is_name_durable })
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(bytes, self.len_bytes).await.during("write", &self.path)?;
        self.len_bytes += bytes.len() as u64;
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), Error> {
        let len_bytes = self.len_bytes;
        self.file.sync_data().await.during("sync", &self.path)?;
        self.synced_bytes = len_bytes;
        Ok(())
    }

    /// True if nothing of value would be lost; a mark says only what is known anyway.
    fn is_durable(&self) -> bool {
        self.is_name_durable && self.synced_bytes >= self.payload_bytes
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
    /// The sequence number of the next write: a log must not name a lower one, not even in a batch without changes.
    next_sequence: u64,
}

impl Wals {
    /// Begins the first log after a recovery.
    pub(crate) async fn create(dir: &Path, number: u64, next_sequence: u64) -> Result<Wals, Error> {
        let current = Wal::create(dir, number).await?;
        Ok(Wals { dir: dir.to_owned(), current, closed: Vec::new(), needs_link: false, next_sequence })
    }

    /// Appends batches with one write; the write after them has `next_sequence`. After an error nothing more may be
    /// appended: part of them may be there.
    pub(crate) async fn append(&mut self, batches: &[Bytes], next_sequence: u64) -> Result<(), Error> {
        let mut out = Vec::new();
        self.add_link(&mut out);
        for batch in batches {
            self.current.framing.add_record(batch, &mut out);
        }
        self.current.write(&out).await?;
        self.current.payload_bytes = self.current.len_bytes;
        self.next_sequence = next_sequence;
        Ok(())
    }

    /// The first record of a log, if it follows another.
    fn add_link(&mut self, out: &mut Vec<u8>) {
        if !std::mem::take(&mut self.needs_link) {
            return;
        }
        let before = self.closed.last().expect("the predecessor is kept until the link is written");
        let (number, len_bytes, synced_bytes) = (before.number, before.payload_bytes, before.synced_bytes);
        let link = Link { number, len_bytes, synced_bytes: synced_bytes.min(len_bytes) };
        self.current.framing.add_record(&note(&link.encode(), self.next_sequence), out);
    }

    /// Writes down, behind what was synced, that it was.
    async fn mark(&mut self) -> Result<(), Error> {
        let mut out = Vec::new();
        self.add_link(&mut out);
        let payload_bytes = self.current.payload_bytes.max(self.current.len_bytes + out.len() as u64);
        let linked = !out.is_empty();
        let Wal { number, synced_bytes, .. } = self.current;
        let mark = note(&Mark { number, synced_bytes }.encode(), self.next_sequence);
        // One that a block's border cuts in two would not be found behind damage: another follows it.
        loop {
            let fits = self.current.framing.fits(mark.len());
            self.current.framing.add_record(&mark, &mut out);
            if fits {
                break;
            }
        }
        self.current.write(&out).await?;
        if linked {
            self.current.payload_bytes = payload_bytes;
        }
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
        let has_records = needed.iter().any(|w| w.payload_bytes > 0);
        point!(points::WAL_BEFORE_SYNC);
        for wal in &mut needed {
            wal.sync().await?;
        }
        if needed.iter().any(|w| !w.is_name_durable) {
            fs::sync_dir(&self.dir).await.during("sync", &self.dir)?;
            needed.iter_mut().for_each(|w| w.is_name_durable = true);
        }
        self.forget_closed(log_number);
        if has_records {
            self.mark().await?;
        }
        point!(points::WAL_AFTER_SYNC);
        Ok(())
    }

    /// Makes the last mark durable, as nothing may follow for long.
    pub(crate) async fn settle(&mut self) -> Result<(), Error> {
        if self.current.is_durable() && self.current.synced_bytes < self.current.len_bytes {
            self.current.sync().await?;
        }
        Ok(())
    }

    /// Goes on with a new log.
    pub(crate) async fn rotate(&mut self, number: u64, log_number: u64) -> Result<(), Error> {
        assert!(number > self.current.number, "logs are numbered in order");
        let fresh = Wal::create(&self.dir, number).await?;
        let before = std::mem::replace(&mut self.current, fresh);
        // A log without a record is no link of the chain: its own link was never written.
        if before.payload_bytes > 0 {
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

/// A batch without changes that holds log data.
fn note(log_data: &[u8], next_sequence: u64) -> Bytes {
    let mut batch = WriteBatch::new();
    batch.log_data(log_data);
    batch.encode(next_sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_intact_mark_is_found_behind_damage() {
        let (mut framing, mut log) = (LogWriter::new(), Vec::new());
        for synced_bytes in [100, 300, 200] {
            framing.add_record(&note(&Mark { number: 7, synced_bytes }.encode(), 1), &mut log);
            framing.add_record(&[0xaa; 1000], &mut log);
        }
        let whole = Bytes::from(log.clone());
        assert_eq!(Mark::highest_in(&whole, 7), Some(Mark { number: 7, synced_bytes: 300 }));
        assert_eq!(Mark::highest_in(&whole, 8), None, "a mark of another log says nothing");
        let second =
            log.windows(MARK_MAGIC.len()).enumerate().filter(|(_, w)| *w == MARK_MAGIC).nth(1).unwrap().0;
        log[second + MARK_MAGIC.len() + 1] ^= 1;
        assert_eq!(Mark::highest_in(&log.into(), 7), Some(Mark { number: 7, synced_bytes: 200 }));
    }

    #[test]
    fn a_link_is_read_back_and_other_log_data_is_none() {
        let link = Link { number: 7, len_bytes: 1 << 40, synced_bytes: 0 };
        assert_eq!(Link::decode(&link.encode()), Some(link));
        assert_eq!(Link::decode(b"cutwater.wal.follows:"), None);
        assert_eq!(Link::decode(b"note"), None);
    }
}
