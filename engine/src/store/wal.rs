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
//!
//! A value may hold any bytes, those of a log included, and a write may land where another was meant to go. So both are
//! bound: they name the uuid of their store and the number of their log, and a mark the place where it stands. Whatever is
//! bound otherwise says nothing here; a log that begins with the link of another one has lost its beginning.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use cutwater_io::fs::File;
use cutwater_io::point;

use super::batch::{BATCH_HEADER_BYTES, DecodedBatch, Record, WriteBatch};
use super::coding::{Cursor, put_fixed64, put_length_prefixed};
use super::directory::Directory;
use super::error::{Error, IoContext};
use super::filenames::FileKind;
use super::log::{HEADER_BYTES, LogReader, LogWriter};
use super::points;
use super::shared::Site;
use super::version::WalAddition;

const LINK_MAGIC: &[u8] = b"cutwater.wal.follows-log:";
const MARK_MAGIC: &[u8] = b"cutwater.wal.durable-log:";
/// From the begin of a mark's record to its magic: headers of the record and the batch, tag and length of the log data.
const BEFORE_MARK_MAGIC: usize = HEADER_BYTES + BATCH_HEADER_BYTES + 2;

/// Which log: what a mark and a link are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogId<'a> {
    /// The uuid of the store.
    pub(crate) identity: &'a str,
    /// The number of the log in it.
    pub(crate) number: u64,
}

impl LogId<'_> {
    fn encode<const N: usize>(&self, magic: &[u8], numbers: [u64; N]) -> Vec<u8> {
        let mut out = magic.to_vec();
        put_length_prefixed(&mut out, self.identity.as_bytes());
        put_fixed64(&mut out, self.number);
        numbers.into_iter().for_each(|number| put_fixed64(&mut out, number));
        out
    }

    /// The numbers of log data that was encoded for this very log.
    fn decode<const N: usize>(&self, magic: &[u8], log_data: &[u8]) -> Option<[u64; N]> {
        let mut cursor = Cursor::new(log_data.strip_prefix(magic)?);
        let is_own = cursor.length_prefixed().ok()? == self.identity.as_bytes()
            && cursor.fixed64().ok()? == self.number;
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = cursor.fixed64().ok()?;
        }
        (is_own && cursor.is_empty()).then_some(numbers)
    }
}

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

/// What the first record of a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// The link of this log.
    Link(Link),
    /// The link of another log, so that nothing here is this log's own.
    Foreign,
    /// No link.
    Other,
}

impl Link {
    fn encode(self, log: LogId<'_>) -> Vec<u8> {
        log.encode(LINK_MAGIC, [self.number, self.len_bytes, self.synced_bytes])
    }

    /// What the first batch of `log` is.
    pub(crate) fn of(first: &DecodedBatch, log: LogId<'_>) -> Head {
        match noted(first).filter(|data| data.starts_with(LINK_MAGIC)) {
            None => Head::Other,
            Some(data) => match log.decode(LINK_MAGIC, data) {
                None => Head::Foreign,
                Some([number, len_bytes, synced_bytes]) => {
                    Head::Link(Link { number, len_bytes, synced_bytes })
                }
            },
        }
    }
}

/// What a log says about itself and the logs before it: all of those that are still needed were durable as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Where its record begins in the log. Bytes.
    at_bytes: u64,
    /// How much of the log was durable. Bytes.
    pub(crate) synced_bytes: u64,
}

impl Mark {
    fn encode(self, log: LogId<'_>) -> Vec<u8> {
        log.encode(MARK_MAGIC, [self.at_bytes, self.synced_bytes])
    }

    /// The highest mark of `log` that is intact anywhere in `data`, whatever lies between.
    pub(crate) fn highest_in(data: &Bytes, log: LogId<'_>) -> Option<Mark> {
        let reader = LogReader::new(data, log.number);
        let magics = data.windows(MARK_MAGIC.len()).enumerate().filter(|(_, bytes)| *bytes == MARK_MAGIC);
        let starts = magics.filter_map(|(at, _)| at.checked_sub(BEFORE_MARK_MAGIC));
        let marks = starts.filter_map(|start| {
            let record = Bytes::copy_from_slice(reader.whole_record_at(start)?);
            let batch = DecodedBatch::decode(&record).ok()?;
            let [at_bytes, synced_bytes] = log.decode(MARK_MAGIC, noted(&batch)?)?;
            (at_bytes == start as u64).then_some(Mark { at_bytes, synced_bytes })
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
    /// What was told to be durable, in bytes.
    told_bytes: u64,
}

impl Wal {
    async fn create(dir: &Path, number: u64) -> Result<Wal, Error> {
        let path = FileKind::Wal(number).path(dir);
        let file = File::create_new(&path).await.during("create", &path)?;
        let framing = LogWriter::new();
        let (len_bytes, payload_bytes, synced_bytes, told_bytes) = (0, 0, 0, 0);
        let is_name_durable = false;
        Ok(Wal {
            number,
            path,
            file,
            framing,
            len_bytes,
            payload_bytes,
            synced_bytes,
            is_name_durable,
            told_bytes,
        })
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
    dir: Directory,
    /// The uuid of the store.
    identity: String,
    current: Wal,
    closed: Vec<Wal>,
    /// True until the link to the predecessor is written.
    needs_link: bool,
    /// True from a sync that forced records until that is written down.
    needs_mark: bool,
    /// The sequence number of the next write: a log must not name a lower one, not even in a batch without changes.
    next_sequence: u64,
}

impl Wals {
    /// Begins the first log after a recovery.
    pub(crate) async fn create(site: &Site, number: u64, next_sequence: u64) -> Result<Wals, Error> {
        let (dir, identity) = (site.dir.clone(), site.identity.clone());
        let current = Wal::create(dir.path(), number).await?;
        let (needs_link, needs_mark) = (false, false);
        Ok(Wals { dir, identity, current, closed: Vec::new(), needs_link, needs_mark, next_sequence })
    }

    /// The number of the log that is written.
    pub(crate) fn number(&self) -> u64 {
        self.current.number
    }

    /// Its length. Bytes.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.current.len_bytes
    }

    /// The next write has `next_sequence`: others have taken the numbers before.
    pub(crate) fn skip_to(&mut self, next_sequence: u64) {
        assert!(next_sequence >= self.next_sequence, "sequence numbers grow");
        self.next_sequence = next_sequence;
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
        self.needs_link = false;
        self.current.payload_bytes = self.current.len_bytes;
        self.next_sequence = next_sequence;
        Ok(())
    }

    /// The first record of a log, if it follows another.
    fn add_link(&mut self, out: &mut Vec<u8>) {
        if !self.needs_link {
            return;
        }
        let before = self.closed.last().expect("the predecessor is kept until the link is written");
        let (number, len_bytes, synced_bytes) = (before.number, before.payload_bytes, before.synced_bytes);
        let link = Link { number, len_bytes, synced_bytes: synced_bytes.min(len_bytes) };
        let log = LogId { identity: &self.identity, number: self.current.number };
        self.current.framing.add_record(&note(&link.encode(log), self.next_sequence), out);
    }

    /// Writes down, behind what was synced, that it was. After an error nothing more may be appended to this log: part of the
    /// mark may be there.
    pub(crate) async fn mark(&mut self) -> Result<(), Error> {
        if !self.needs_mark {
            return Ok(());
        }
        let mut out = Vec::new();
        self.add_link(&mut out);
        let link_bytes = out.len() as u64;
        let Wals { identity, current, next_sequence, .. } = self;
        let (begin_bytes, synced_bytes) = (current.len_bytes, current.synced_bytes);
        // One that a block's border cuts in two would not be found behind damage: another follows it.
        loop {
            let at_bytes = begin_bytes + (out.len() + current.framing.padding_bytes()) as u64;
            let log = LogId { identity, number: current.number };
            let mark = note(&Mark { at_bytes, synced_bytes }.encode(log), *next_sequence);
            let fits = current.framing.fits(mark.len());
            current.framing.add_record(&mark, &mut out);
            if fits {
                break;
            }
        }
        current.write(&out).await?;
        if link_bytes > 0 {
            current.payload_bytes = begin_bytes + link_bytes;
        }
        (self.needs_link, self.needs_mark) = (false, false);
        Ok(())
    }

    /// Makes all that was appended durable, older logs first: a write must not outlive one before it. Nothing if it was; else
    /// it is to be [marked](Wals::mark), and these logs are worth to be [tracked](super::Options::track_wals): those that will
    /// not get longer, and the one that is written if this was its first sync.
    pub(crate) async fn sync(&mut self, log_number: u64) -> Result<Option<Vec<WalAddition>>, Error> {
        let (closed, current) = (&mut self.closed, &mut self.current);
        let mut needed: Vec<&mut Wal> = closed.iter_mut().filter(|w| w.number >= log_number).collect();
        needed.push(current);
        if needed.iter().all(|w| w.is_durable()) {
            return Ok(None);
        }
        self.needs_mark |= needed.iter().any(|w| w.payload_bytes > 0);
        point!(points::WAL_BEFORE_SYNC);
        for wal in &mut needed {
            wal.sync().await?;
        }
        if needed.iter().any(|w| !w.is_name_durable) {
            self.dir.sync().await?;
            needed.iter_mut().for_each(|w| w.is_name_durable = true);
        }
        let last = needed.len() - 1;
        let is_news = |(i, wal): &(usize, &mut Wal)| {
            wal.synced_bytes > 0 && (wal.told_bytes == 0 || (*i < last && wal.told_bytes < wal.synced_bytes))
        };
        let news = needed.into_iter().enumerate().filter(is_news).map(|(_, wal)| {
            wal.told_bytes = wal.synced_bytes;
            WalAddition { number: wal.number, synced_bytes: Some(wal.synced_bytes) }
        });
        let news = news.collect();
        self.forget_closed(log_number);
        Ok(Some(news))
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
        let fresh = Wal::create(self.dir.path(), number).await?;
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

/// The log data of a [`note`]. No writer can make one: a batch without changes is not logged.
fn noted(batch: &DecodedBatch) -> Option<&Bytes> {
    match &batch.records[..] {
        [Record::LogData(data)] => Some(data),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogId<'_> = LogId { identity: "2f1c9b1e-5d0f-4c52-9d3c-0d3c3f6f5a11", number: 7 };
    const OF_ANOTHER_STORE: LogId<'_> = LogId { identity: "7a0f3a52-0c3e-4b57-8f0e-6f2f6c6b9d22", number: 7 };

    /// A log with marks, as far as this of `synced_bytes`, and records between them.
    fn marked(log: LogId<'_>, synced_bytes: &[u64]) -> Vec<u8> {
        let (mut framing, mut data) = (LogWriter::new(), Vec::new());
        for &synced_bytes in synced_bytes {
            let mark = Mark { at_bytes: data.len() as u64, synced_bytes };
            framing.add_record(&note(&mark.encode(log), 1), &mut data);
            framing.add_record(&[0xaa; 1000], &mut data);
        }
        data
    }

    fn highest(data: &[u8], log: LogId<'_>) -> Option<u64> {
        Mark::highest_in(&Bytes::copy_from_slice(data), log).map(|mark| mark.synced_bytes)
    }

    #[test]
    fn the_highest_intact_mark_is_found_behind_damage() {
        let mut data = marked(LOG, &[100, 300, 200]);
        assert_eq!(highest(&data, LOG), Some(300));
        let second =
            data.windows(MARK_MAGIC.len()).enumerate().filter(|(_, w)| *w == MARK_MAGIC).nth(1).unwrap().0;
        data[second + MARK_MAGIC.len() + 1] ^= 1;
        assert_eq!(highest(&data, LOG), Some(200));
    }

    #[test]
    fn a_mark_says_something_only_of_its_own_log_and_where_it_stands() {
        let data = marked(LOG, &[100]);
        assert_eq!(highest(&data, LOG), Some(100));
        assert_eq!(highest(&data, LogId { number: 8, ..LOG }), None);
        assert_eq!(highest(&data, OF_ANOTHER_STORE), None);
        // Stored as a value, in the very log that it was copied from.
        let mut batch = WriteBatch::new();
        batch.put(b"copy", &data);
        let (mut framing, mut holder) = (LogWriter::new(), Vec::new());
        framing.add_record(&batch.encode(1), &mut holder);
        assert!(holder.windows(data.len()).any(|window| window == data), "it is there as it was");
        assert_eq!(highest(&holder, LOG), None);
    }

    #[test]
    fn a_mark_knows_its_place_wherever_a_block_ends() {
        for filled in super::super::log::BLOCK_BYTES - 300..super::super::log::BLOCK_BYTES {
            let (mut framing, mut data) = (LogWriter::new(), Vec::new());
            framing.add_record(&vec![0xaa; filled - HEADER_BYTES], &mut data);
            let at_bytes = (data.len() + framing.padding_bytes()) as u64;
            let mark = note(&Mark { at_bytes, synced_bytes: 9 }.encode(LOG), 1);
            let fits = framing.fits(mark.len());
            framing.add_record(&mark, &mut data);
            assert_eq!(highest(&data, LOG), fits.then_some(9), "{filled}");
        }
    }

    #[test]
    fn a_link_is_read_back_in_its_own_log_only() {
        let link = Link { number: 6, len_bytes: 1 << 40, synced_bytes: 0 };
        let head = |batch: &Bytes, log| Link::of(&DecodedBatch::decode(batch).unwrap(), log);
        let batch = note(&link.encode(LOG), 1);
        assert_eq!(head(&batch, LOG), Head::Link(link));
        assert_eq!(head(&batch, LogId { number: 8, ..LOG }), Head::Foreign);
        assert_eq!(head(&batch, OF_ANOTHER_STORE), Head::Foreign);
        assert_eq!(head(&note(LINK_MAGIC, 1), LOG), Head::Foreign);
        assert_eq!(head(&note(b"note", 1), LOG), Head::Other);
        // Before links were bound to a log they had another name: such a log is one without a link, not another's.
        assert_eq!(head(&note(b"cutwater.wal.follows:\x06\x80\x08\x00", 1), LOG), Head::Other);
        // What a writer adds to its changes is its own affair.
        let mut written = WriteBatch::new();
        written.log_data(&link.encode(OF_ANOTHER_STORE));
        written.put(b"k", b"v");
        assert_eq!(head(&written.encode(1), LOG), Head::Other);
    }
}
