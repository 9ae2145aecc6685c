//! What the logs hold beyond what is in tables, read back at recovery.
//!
//! Logs are replayed to the first record that is not whole (RocksDB's point-in-time mode, its default; for others see
//! [`WalRecovery`]): the result is a prefix of what was written, and holds at least what was durable. Records that are missing
//! although a link or a mark of a log says that they were durable (see [`super::wal`]) are damage, and refused. An I/O error is
//! never taken for the end of a log.
//!
//! A record may be of several families. What is of one that has it in its tables already, as its log number says, or of one
//! that was dropped, is passed over. If the logs end early, no family may have in its tables what was written after that: the
//! result would be no prefix. The store sees to it that this takes damage (see `commit`), so it is refused as such.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cutwater_io::{fs, point, sometimes};

use super::batch::{DecodedBatch, Record};
use super::build::{Build, Built, Target};
use super::error::{Error, IoContext};
use super::filenames::FileKind;
use super::key::{Tag, ValueKind};
use super::log::{Damage, LogEnd, LogReader};
use super::memtable::Memtable;
use super::merge::{Merge, Source};
use super::options::{FamilyOptions, WalRecovery};
use super::points::{self, of_families};
use super::retention::Retention;
use super::shared::Site;
use super::version::VersionSet;
use super::wal::{Head, Link, LogId, Mark};

/// Where a log ends early.
#[derive(Clone, Copy, Debug)]
struct Stop {
    log: u64,
    at_bytes: u64,
}

enum Next {
    Batch { at_bytes: u64, batch: DecodedBatch },
    End { valid_bytes: u64 },
}

/// A log that could not be read to its end. A crash leaves such logs, of what no sync had made durable; so does damage there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutLog {
    /// The log.
    pub path: PathBuf,
    /// From here on nothing of it was applied. Bytes.
    pub at_bytes: u64,
    /// There are whole records behind that.
    pub records_follow: bool,
}

/// What the logs add.
pub(crate) struct Replay<'a> {
    site: &'a Site,
    families: &'a BTreeMap<u32, FamilyOptions>,
    pub(crate) set: VersionSet,
    pub(crate) next_number: u64,
    memtables: BTreeMap<u32, Arc<Memtable>>,
    /// Memtables are kept, however large they get; nothing is written.
    stays_in_memory: bool,
    /// By family.
    pub(crate) built: BTreeMap<u32, Vec<Built>>,
    /// How much of each log was replayed, in bytes.
    replayed_bytes: BTreeMap<u64, u64>,
    /// Logs that could not be read to their end, if nothing is to be written.
    pub(crate) cut: Vec<CutLog>,
    /// The last sequence number replayed.
    pub(crate) last_sequence: Option<u64>,
    /// The log before this one is damaged.
    is_damaged: bool,
    /// The last log that has anything is not whole.
    torn: Option<Stop>,
    /// Where records are missing; what follows is not applied.
    hole: Option<Stop>,
}

impl<'a> Replay<'a> {
    /// `families` are those of the set, with their options.
    pub(crate) fn new(
        site: &'a Site,
        families: &'a BTreeMap<u32, FamilyOptions>,
        set: VersionSet,
        next_number: u64,
    ) -> Self {
        Replay {
            site,
            families,
            set,
            next_number,
            memtables: BTreeMap::new(),
            stays_in_memory: false,
            built: BTreeMap::new(),
            replayed_bytes: BTreeMap::new(),
            cut: Vec::new(),
            last_sequence: None,
            is_damaged: false,
            torn: None,
            hole: None,
        }
    }

    /// Nothing is to be written.
    pub(crate) fn in_memory(self) -> Self {
        Replay { stays_in_memory: true, ..self }
    }

    fn path(&self, log: u64) -> PathBuf {
        FileKind::Wal(log).path(self.site.dir.path())
    }

    /// Replays the next log.
    pub(crate) async fn log(&mut self, number: u64) -> Result<(), Error> {
        let path = self.path(number);
        let data = Bytes::from(fs::read(&path).await.during("read", &path)?);
        let log = LogId { identity: &self.site.identity, number };
        if let Some(Stop { log: before, at_bytes }) = self.hole {
            return refuse_if_durable(&self.path(before), at_bytes, &path, Mark::highest_in(&data, log));
        }
        let mut reader = LogReader::new(&data, number);
        let mut is_first = true;
        let replayed_bytes = loop {
            let (at, batch) = match self.next_batch(&mut reader, &path)? {
                Next::Batch { at_bytes, batch } => (at_bytes, batch),
                Next::End { valid_bytes } => break valid_bytes,
            };
            if std::mem::take(&mut is_first) {
                let head = Link::of(&batch, log);
                if head == Head::Foreign {
                    tracing::info!(log = number, "a log begins as another one does");
                    self.is_damaged = true;
                    break at;
                }
                if self.is_behind_a_hole(&path, &data, log, &batch, head)? {
                    return Ok(());
                }
                self.torn = None;
            }
            if self.mode() == WalRecovery::SkipDamaged && !self.follows(&batch) {
                continue;
            }
            self.apply(number, at, batch).await?;
        };
        self.end_log(log, &path, &data, replayed_bytes, &reader)
    }

    fn mode(&self) -> WalRecovery {
        self.site.options.wal_recovery
    }

    /// The next batch that the mode of recovery lets pass, with its offset, or where the log ends.
    fn next_batch(&mut self, reader: &mut LogReader<'_>, path: &Path) -> Result<Next, Error> {
        loop {
            let at_bytes = reader.offset();
            let record = match reader.next_record() {
                Ok(record) => Bytes::from(record.into_owned()),
                Err(LogEnd::Clean { valid_bytes }) => return Ok(Next::End { valid_bytes }),
                Err(LogEnd::Unsupported { what, .. }) => return Err(Error::unsupported(path, what)),
                Err(LogEnd::Damaged(Damage { record_offset_bytes, offset_bytes, what })) => {
                    tracing::info!(log = %path.display(), offset_bytes, what, "a record of a log is not whole");
                    self.is_damaged = true;
                    let skips = self.mode() == WalRecovery::SkipDamaged;
                    if skips && reader.skip_to_intact_after(record_offset_bytes) {
                        continue;
                    }
                    return Ok(Next::End { valid_bytes: record_offset_bytes });
                }
            };
            match DecodedBatch::decode(&record) {
                Ok(batch) => return Ok(Next::Batch { at_bytes, batch }),
                Err(m) if self.mode() == WalRecovery::SkipDamaged => {
                    tracing::warn!(log = %path.display(), at_bytes, what = m.what, "a record is passed over");
                }
                Err(m) => return Err(Error::malformed(path, at_bytes, m)),
            }
        }
    }

    /// True if writes are missing between what was replayed and a log that begins with this batch, so that it must not be applied.
    fn is_behind_a_hole(
        &mut self,
        path: &Path,
        data: &Bytes,
        log: LogId<'_>,
        first: &DecodedBatch,
        head: Head,
    ) -> Result<bool, Error> {
        if self.mode() == WalRecovery::SkipDamaged {
            return Ok(false);
        }
        let Some(hole) = self.hole_before(path, first, head)? else { return Ok(false) };
        if self.mode() != WalRecovery::PointInTime {
            let what = format!("writes are missing there, as {} says", path.display());
            return Err(Error::corruption(&self.path(hole.log), hole.at_bytes, what));
        }
        sometimes!(points::WAL_HOLE, true);
        tracing::warn!(log = log.number, "a log is ignored, as the one before it lost its end");
        refuse_if_durable(&self.path(hole.log), hole.at_bytes, path, Mark::highest_in(data, log))?;
        self.hole = Some(hole);
        Ok(true)
    }

    /// Judges how the log ended, and remembers where.
    fn end_log(
        &mut self,
        log: LogId<'_>,
        path: &Path,
        data: &Bytes,
        replayed_bytes: u64,
        reader: &LogReader<'_>,
    ) -> Result<(), Error> {
        let is_whole = replayed_bytes == data.len() as u64;
        sometimes!(points::WAL_TORN, !is_whole);
        if !is_whole {
            let records_follow = || reader.intact_record_after(replayed_bytes);
            let refusal = match self.mode() {
                WalRecovery::Absolute => Some("the log does not end in a whole record"),
                WalRecovery::TornTail if records_follow() => {
                    Some("a record is not whole, and records follow")
                }
                _ => None,
            };
            if let Some(what) = refusal {
                return Err(Error::corruption(path, replayed_bytes, what));
            }
            // Who goes on with the store need not know, and the search takes a while.
            if self.stays_in_memory {
                let (path, records_follow) = (path.to_owned(), records_follow());
                self.cut.push(CutLog { path, at_bytes: replayed_bytes, records_follow });
            }
        }
        if !is_whole && self.mode() != WalRecovery::SkipDamaged {
            let mark = Mark::highest_in(data, log).filter(|mark| mark.synced_bytes > replayed_bytes);
            refuse_if_durable(path, replayed_bytes, path, mark)?;
            self.torn = Some(Stop { log: log.number, at_bytes: replayed_bytes });
        }
        self.replayed_bytes.insert(log.number, replayed_bytes);
        Ok(())
    }

    /// What is missing between what was replayed and a log that begins with this batch: where the log before ends early.
    fn hole_before(&self, path: &Path, first: &DecodedBatch, head: Head) -> Result<Option<Stop>, Error> {
        let Head::Link(link) = head else {
            // RocksDB's logs have no links: after damage only the very next write may follow.
            let expected = self.last_sequence.map(|s| s + 1);
            let follows = !self.is_damaged || Some(first.first_sequence) == expected;
            let last = self.replayed_bytes.last_key_value().filter(|_| !follows);
            return Ok(last.map(|(log, at_bytes)| Stop { log: *log, at_bytes: *at_bytes }));
        };
        if link.number < self.set.first_log() {
            return Ok(None);
        }
        let replayed_bytes = self.replayed_bytes.get(&link.number).copied().unwrap_or(0);
        if replayed_bytes < link.synced_bytes {
            let what = format!("{} bytes of it were durable, as {} says", link.synced_bytes, path.display());
            return Err(Error::corruption(&self.path(link.number), replayed_bytes, what));
        }
        // Behind its last write the log may hold marks.
        let hole = Stop { log: link.number, at_bytes: replayed_bytes };
        Ok((replayed_bytes < link.len_bytes).then_some(hole))
    }

    /// True if it is not older than what was replayed: of two writes with one number the first counts.
    fn follows(&self, batch: &DecodedBatch) -> bool {
        batch.count == 0 || self.last_sequence.is_none_or(|last| batch.first_sequence > last)
    }

    async fn apply(&mut self, log: u64, at: u64, batch: DecodedBatch) -> Result<(), Error> {
        if batch.count > 0 {
            if !self.follows(&batch) {
                return Err(Error::corruption(&self.path(log), at, "sequence numbers go back"));
            }
            self.last_sequence = Some(batch.first_sequence + u64::from(batch.count) - 1);
        }
        let mut sequence = batch.first_sequence;
        for record in batch.records {
            match record {
                Record::LogData(_) | Record::Noop => {}
                Record::TwoPhase(_) => return Err(Error::unsupported(&self.path(log), "two-phase commit")),
                Record::Entry { kind, column_family, key, value } => {
                    self.insert(log, column_family, Tag::new(sequence, kind), key, value)?;
                    sequence += 1;
                }
            }
        }
        sometimes!(points::WAL_REPLAYED, batch.count > 0);
        let is_full = |id: &u32, mem: &Memtable| {
            !self.stays_in_memory && mem.size_bytes() >= self.families[id].write_buffer_bytes
        };
        let full: Vec<u32> =
            self.memtables.iter().filter(|(id, mem)| is_full(id, mem)).map(|(id, _)| *id).collect();
        for id in full {
            self.flush_family(id).await?;
        }
        Ok(())
    }

    /// Takes a change over, unless its family has it already, or is gone.
    fn insert(&mut self, log: u64, id: u32, tag: Tag, key: Bytes, value: Bytes) -> Result<(), Error> {
        if self.set.family(id).is_none_or(|family| log < family.version.log_number) {
            sometimes!(of_families::RECORD_SKIPPED, true);
            return Ok(());
        }
        use ValueKind as K;
        match tag.kind() {
            Some(K::Value | K::Merge | K::Deletion | K::SingleDeletion | K::RangeDeletion) => {
                self.memtables.entry(id).or_default().insert(key, tag, value);
                Ok(())
            }
            kind => Err(Error::unsupported(&self.path(log), format!("a write of type {kind:?}"))),
        }
    }

    /// Writes what was replayed to tables, once there are no more logs.
    pub(crate) async fn finish(&mut self) -> Result<(), Error> {
        self.refuse_if_ahead()?;
        let ids: Vec<u32> = self.memtables.keys().copied().collect();
        for id in ids {
            self.flush_family(id).await?;
        }
        Ok(())
    }

    /// What is in tables and what only the logs hold, by family, once there are no more logs.
    pub(crate) fn into_memory(self) -> Result<(VersionSet, BTreeMap<u32, Arc<Memtable>>), Error> {
        self.refuse_if_ahead()?;
        Ok((self.set, self.memtables))
    }

    async fn flush_family(&mut self, id: u32) -> Result<(), Error> {
        let Some(mem) = self.memtables.remove(&id) else { return Ok(()) };
        let next_number = &mut self.next_number;
        let allocate = || {
            *next_number += 1;
            *next_number - 1
        };
        let mut retention = Retention::of_memtable(&mem, Vec::new());
        let merge = Merge::new(vec![Source::memtable(mem)], None).await?;
        let name = &self.set.family(id).expect("others are passed over").name;
        let target = Target::level0(id, name, &self.families[&id]);
        let mut build = Build::new(self.site, allocate);
        let built = build.run(&target, merge, &mut retention).await?;
        self.built.entry(id).or_default().push(built);
        point!(points::RECOVERY_TABLE_WRITTEN);
        Ok(())
    }

    /// A family whose tables go on where the logs end early would be ahead of the others.
    fn refuse_if_ahead(&self) -> Result<(), Error> {
        let Some(stop) = self.hole.or(self.torn) else { return Ok(()) };
        let replayed = self.last_sequence.unwrap_or(0);
        for (_, family) in self.set.families().filter(|(_, family)| family.version.log_number > stop.log) {
            if let Some((_, table)) = family.version.files().find(|(_, f)| f.largest_sequence > replayed) {
                sometimes!(of_families::AHEAD_REFUSED, true);
                let (number, name) = (table.number, &family.name);
                let what =
                    format!("it ends there, and the family {name} has later writes, in table {number}");
                return Err(Error::corruption(&self.path(stop.log), stop.at_bytes, what));
            }
        }
        Ok(())
    }
}

/// A crash takes only what was not durable: records that are missing although a later mark says that they were are damage.
fn refuse_if_durable(missing: &Path, at: u64, witness: &Path, mark: Option<Mark>) -> Result<(), Error> {
    match mark {
        None => Ok(()),
        Some(_) => {
            sometimes!(points::WAL_REFUSED, true);
            let what = format!("what was there was durable, as {} says", witness.display());
            Err(Error::corruption(missing, at, what))
        }
    }
}
