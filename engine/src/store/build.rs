//! Writes tables from merged entries, and blob files with their large values: what flush, compaction and recovery have in
//! common.
//!
//! A file is written to its final name and synced; nothing refers to it before an edit does, and until then it is an
//! orphan that the next recovery removes.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use cutwater_io::fs::File;
use cutwater_io::{sometimes, task, time};

use super::blob::format::file_bytes;
use super::blob::{Held, Placement, Sources};
use super::compaction::Part;
use super::error::{Error, IoContext};
use super::filenames::FileKind;
use super::filter::{self, Decision, Filtering};
use super::iter::Entry;
use super::key::{InternalKey, Tag, ValueKind};
use super::merge::Merge;
use super::operands::Chain;
use super::options::FamilyOptions;
use super::points::{self, of_filters};
use super::rate::Pace;
use super::retention::Retention;
use super::shared::Site;
use super::table::TableBuilder;
use super::tombstones::RangeTombstone;
use super::version::{BlobAddition, BlobGarbage, FileMeta, VersionEdit};

/// Bytes encoded before they are written.
const WRITE_BYTES: usize = 64 << 10;
/// What a millisecond of modelled CPU time encodes. Bytes.
const BYTES_PER_CPU_MS: u64 = 256 << 10;

/// Tables being written.
pub(crate) struct Build<'a, F> {
    site: &'a Site,
    /// Gives the number of the next file.
    allocate: F,
    /// The files that were begun, to be removed should it fail.
    created: Vec<FileKind>,
}

/// Where tables are to be, and how.
pub(crate) struct Target<'a> {
    pub(crate) family: u32,
    pub(crate) family_name: &'a str,
    pub(crate) options: &'a FamilyOptions,
    pub(crate) level: usize,
    /// Begin another table at the next key once one is this large. Bytes.
    pub(crate) split_bytes: u64,
    /// What is known of values in blob files, if entries may have theirs there.
    pub(crate) sources: Option<Sources>,
    /// What is asked of values that no snapshot sees.
    pub(crate) filter: Option<Filtering<'a>>,
    /// What is kept to in writing.
    pub(crate) pace: Pace,
    /// Which keys are written here; nothing for all. Those before it are not among the entries.
    pub(crate) part: Option<&'a Part>,
}

/// What was written.
#[derive(Debug, Default)]
pub(crate) struct Built {
    pub(crate) tables: Vec<FileMeta>,
    pub(crate) blobs: Vec<BlobAddition>,
    /// What is not needed any more of other blob files.
    pub(crate) garbage: Vec<BlobGarbage>,
}

impl Built {
    /// True if there is no new file.
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.blobs.is_empty()
    }

    /// Both, where `other` has what follows. What is garbage in both is counted together.
    pub(crate) fn and(mut self, other: Built) -> Built {
        self.tables.extend(other.tables);
        self.blobs.extend(other.blobs);
        self.blobs.sort_by_key(|blob| blob.number);
        for more in other.garbage {
            match self.garbage.iter_mut().find(|garbage| garbage.number == more.number) {
                Some(garbage) => {
                    garbage.count += more.count;
                    garbage.bytes = garbage.bytes.saturating_add(more.bytes);
                }
                None => self.garbage.push(more),
            }
        }
        self
    }

    /// What its files take. Bytes.
    pub(crate) fn len_bytes(&self) -> u64 {
        let tables = self.tables.iter().map(|table| table.len_bytes);
        tables.chain(self.blobs.iter().map(file_bytes)).sum()
    }

    /// The edit that adds it, the tables to `level`.
    pub(crate) fn into_edit(self, level: u32) -> VersionEdit {
        VersionEdit {
            new_files: self.tables.into_iter().map(|file| (level, file)).collect(),
            blob_additions: self.blobs,
            blob_garbage: self.garbage,
            ..VersionEdit::default()
        }
    }
}

impl<'a> Target<'a> {
    /// One table of level 0.
    pub(crate) fn level0(family: u32, family_name: &'a str, options: &'a FamilyOptions) -> Self {
        Target {
            family,
            family_name,
            options,
            level: 0,
            split_bytes: u64::MAX,
            sources: None,
            filter: None,
            pace: Pace::default(),
            part: None,
        }
    }
}

struct Output {
    pace: Pace,
    number: u64,
    path: PathBuf,
    file: File,
    offset_bytes: u64,
    /// CRC-32C of all that was written.
    crc32c: u32,
    builder: TableBuilder,
    /// The lowest numbered blob file that has a value of it.
    oldest_blob: Option<u64>,
}

/// The tables of one run.
struct Writing<'t> {
    target: &'t Target<'t>,
    values: Placement<'t>,
    tables: Vec<FileMeta>,
    output: Option<Output>,
    last_key: Vec<u8>,
    /// Those that are not yet in a table, by where they begin.
    tombstones: VecDeque<RangeTombstone>,
    /// The last entry, which is not written yet: a tombstone for a key that was written once. What comes next says whether it is needed.
    single: Option<InternalKey>,
}

impl<'t> Writing<'t> {
    fn new(target: &'t Target<'t>, values: Placement<'t>, tombstones: Vec<RangeTombstone>) -> Self {
        let (output, last_key, single) = (None, Vec::new(), None);
        Writing {
            target,
            values,
            tables: Vec::new(),
            output,
            last_key,
            tombstones: tombstones.into(),
            single,
        }
    }

    /// All entries of a key stay in one table. A range tombstone that goes on there is cut.
    async fn split_before(&mut self, key: &[u8]) -> Result<(), Error> {
        let is_full =
            |o: &mut Output| o.builder.len_bytes() >= self.target.split_bytes && *key != self.last_key[..];
        if let Some(mut full) = self.output.take_if(is_full) {
            self.add_tombstones(&mut full, Some(key));
            self.tables.push(full.finish().await?);
        }
        Ok(())
    }

    /// Takes the range tombstones over keys before this one, or all of them, into a table.
    fn add_tombstones(&mut self, output: &mut Output, before: Option<&[u8]>) {
        let mut rest = VecDeque::new();
        while let Some(tombstone) =
            self.tombstones.pop_front_if(|next| before.is_none_or(|key| next.begin[..] < *key))
        {
            let reaches_on = before.filter(|key| **key < tombstone.end[..]);
            let Some(key) = reaches_on else {
                output.builder.add_range_tombstone(&tombstone);
                continue;
            };
            sometimes!(points::RANGE_TOMBSTONE_CUT, true);
            let key = Bytes::copy_from_slice(key);
            output.builder.add_range_tombstone(&RangeTombstone { end: key.clone(), ..tombstone.clone() });
            rest.push_back(RangeTombstone { begin: key, ..tombstone });
        }
        // They begin before all others that are left.
        rest.append(&mut self.tombstones);
        self.tombstones = rest;
    }

    async fn finish(mut self) -> Result<Built, Error> {
        if let Some(mut last) = self.output.take() {
            self.add_tombstones(&mut last, None);
            self.tables.push(last.finish().await?);
        }
        let (blobs, garbage) = self.values.finish().await?;
        Ok(Built { tables: self.tables, blobs, garbage })
    }
}

impl<'a, F: FnMut() -> u64> Build<'a, F> {
    pub(crate) fn new(site: &'a Site, allocate: F) -> Self {
        Build { site, allocate, created: Vec::new() }
    }

    /// Writes what `retention` keeps of the entries. The files are durable, their names are not.
    pub(crate) async fn run(
        &mut self,
        target: &Target<'_>,
        mut merge: Merge,
        retention: &mut Retention,
    ) -> Result<Built, Error> {
        let mut writing = Writing::new(target, Placement::new(self.site, target), retention.tombstones());
        let mut chain = Chain::default();
        let is_here = |entry: &Entry<'_>| target.part.is_none_or(|part| part.is_before_end(entry.user_key));
        while let Some(entry) = merge.entry().filter(is_here) {
            let is_kept = retention.keeps(&entry);
            self.end_single(&mut writing, Some(&entry), retention).await?;
            if !chain.goes_on(&entry, retention) {
                self.end_chain(&mut writing, &mut chain, retention).await?;
            }
            if !is_kept {
                writing.values.drop_entry(&entry)?;
            } else if chain.takes(&entry, target.options) {
                chain.push(&entry);
            } else if chain.is_empty() && entry.tag.kind() == Some(ValueKind::SingleDeletion) {
                let user_key = Bytes::copy_from_slice(entry.user_key);
                writing.single = Some(InternalKey { user_key, tag: entry.tag });
            } else if chain.is_empty() {
                self.add_filtered(&mut writing, entry, retention).await?;
            } else {
                self.add_merged(&mut writing, &mut chain, entry).await?;
            }
            merge.advance().await?;
        }
        self.end_single(&mut writing, None, retention).await?;
        self.end_chain(&mut writing, &mut chain, retention).await?;
        if writing.output.is_none() && !writing.tombstones.is_empty() {
            writing.output = Some(self.begin(target).await?);
        }
        writing.finish().await
    }

    /// Writes the tombstone of a key that was written once, unless the next entry is what it hides, which is dropped with it.
    async fn end_single(
        &mut self,
        writing: &mut Writing<'_>,
        next: Option<&Entry<'_>>,
        retention: &mut Retention,
    ) -> Result<(), Error> {
        let Some(InternalKey { user_key, tag }) = writing.single.take() else { return Ok(()) };
        let hides = |next: &&Entry<'_>| {
            *next.user_key == user_key[..]
                && matches!(next.tag.kind(), Some(ValueKind::Value | ValueKind::BlobIndex))
                && retention.are_together(tag.sequence(), next.tag.sequence())
        };
        let goes = next.filter(hides).is_some() && retention.drops_single_deletions();
        sometimes!(points::SINGLE_DELETION_DROPPED, goes);
        if goes {
            retention.forget_last();
            return Ok(());
        }
        Box::pin(self.add(writing, Entry { user_key: &user_key, tag, value: b"" })).await
    }

    /// Writes an entry, or what the filter makes of it if no snapshot sees it.
    async fn add_filtered(
        &mut self,
        writing: &mut Writing<'_>,
        entry: Entry<'_>,
        retention: &Retention,
    ) -> Result<(), Error> {
        let Some(filtering) = writing.target.filter.filter(|_| Filtering::is_about(&entry)) else {
            return self.add(writing, entry).await;
        };
        let sequence = entry.tag.sequence();
        let is_spared = retention.is_seen(sequence);
        sometimes!(of_filters::SPARED, is_spared);
        if is_spared {
            return self.add(writing, entry).await;
        }
        Box::pin(async {
            let decision = filtering.decide(&entry, &writing.values).await?;
            let is_over_something = !retention.is_over_nothing(entry.user_key, sequence);
            filter::mark(&decision, is_over_something);
            if decision != Decision::Keep {
                writing.values.drop_entry(&entry)?;
            }
            let with = |kind, value| Entry { user_key: entry.user_key, tag: Tag::new(sequence, kind), value };
            match &decision {
                Decision::Keep => self.add(writing, entry).await,
                Decision::Change(value) => self.add(writing, with(ValueKind::Value, value)).await,
                Decision::Remove if is_over_something => {
                    self.add(writing, with(ValueKind::Deletion, b"")).await
                }
                Decision::Remove => Ok(()),
            }
        })
        .await
    }

    async fn add(&mut self, writing: &mut Writing<'_>, entry: Entry<'_>) -> Result<(), Error> {
        writing.split_before(entry.user_key).await?;
        let open = match &mut writing.output {
            Some(open) => open,
            None => writing.output.insert(self.begin(writing.target).await?),
        };
        let placed = writing
            .values
            .place(entry, || {
                let number = (self.allocate)();
                self.created.push(FileKind::Blob(number));
                number
            })
            .await?;
        open.builder.add(entry.user_key, placed.tag, &placed.value);
        open.oldest_blob = open.oldest_blob.into_iter().chain(placed.blob).min();
        writing.last_key.clear();
        writing.last_key.extend_from_slice(entry.user_key);
        if open.builder.pending_bytes() >= WRITE_BYTES {
            open.write_pending().await?;
        }
        Ok(())
    }

    /// Writes the value that the operands of the chain make of the entry below them, or both as they are if they make none, or if
    /// nothing is known of such an entry. Boxed, as most entries have no operands.
    async fn add_merged(
        &mut self,
        writing: &mut Writing<'_>,
        chain: &mut Chain,
        base: Entry<'_>,
    ) -> Result<(), Error> {
        Box::pin(async {
            let options = writing.target.options;
            let merged = match writing.values.read(&base).await? {
                Held::Value(value) => chain.merged(options, Some(&value)),
                Held::Nothing => chain.merged(options, None),
                Held::Unknown => None,
            };
            match merged {
                Some(merged) => {
                    sometimes!(points::MERGED, true);
                    writing.values.drop_entry(&base)?;
                    self.add(writing, chain.entry(&merged)).await?;
                }
                None => {
                    self.add_operands(writing, chain).await?;
                    self.add(writing, base).await?;
                }
            }
            chain.clear();
            Ok(())
        })
        .await
    }

    /// Nothing more of the chain's key and stratum is at hand.
    async fn end_chain(
        &mut self,
        writing: &mut Writing<'_>,
        chain: &mut Chain,
        retention: &Retention,
    ) -> Result<(), Error> {
        if chain.is_empty() {
            return Ok(());
        }
        Box::pin(async {
            // Asked only for what is so: with a value further down it would make something of nothing.
            let merged = match chain.is_over_nothing(retention) {
                true => chain.merged(writing.target.options, None),
                false => None,
            };
            match merged {
                Some(merged) => {
                    sometimes!(points::MERGED_ALONE, true);
                    self.add(writing, chain.entry(&merged)).await?;
                }
                None => self.add_operands(writing, chain).await?,
            }
            chain.clear();
            Ok(())
        })
        .await
    }

    async fn add_operands(&mut self, writing: &mut Writing<'_>, chain: &Chain) -> Result<(), Error> {
        for operand in chain.operands() {
            self.add(writing, operand).await?;
        }
        Ok(())
    }

    async fn begin(&mut self, target: &Target<'_>) -> Result<Output, Error> {
        let number = (self.allocate)();
        let path = FileKind::Table(number).path(self.site.dir.path());
        self.created.push(FileKind::Table(number));
        let file = File::create_new(&path).await.during("create", &path)?;
        let builder = TableBuilder::new(target.options, target.level, number, &self.site.identity)
            .of_family(target.family, target.family_name);
        let pace = target.pace.clone();
        Ok(Output { pace, number, path, file, offset_bytes: 0, crc32c: 0, builder, oldest_blob: None })
    }

    /// The files that were begun.
    pub(crate) fn into_created(self) -> Vec<FileKind> {
        self.created
    }
}

impl Output {
    async fn write_pending(&mut self) -> Result<(), Error> {
        let bytes = self.builder.take_output();
        self.write(&bytes).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.pace.write(bytes.len()).await;
        time::charge(Duration::from_millis((bytes.len() as u64).div_ceil(BYTES_PER_CPU_MS))).await;
        self.file.write_all_at(bytes, self.offset_bytes).await.during("write", &self.path)?;
        self.offset_bytes += bytes.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        task::yield_now().await;
        Ok(())
    }

    async fn finish(mut self) -> Result<FileMeta, Error> {
        self.write_pending().await?;
        let fresh = TableBuilder::new(&FamilyOptions::default(), 0, 0, "");
        let (stats, end) = std::mem::replace(&mut self.builder, fresh).finish();
        self.write(&end).await?;
        self.file.sync_data().await.during("sync", &self.path)?;
        assert_eq!(stats.file_bytes, self.offset_bytes, "a table has the length that its builder counted");
        let now_s = time::unix_time().as_secs();
        Ok(FileMeta {
            number: self.number,
            len_bytes: stats.file_bytes,
            smallest: stats.smallest,
            largest: stats.largest,
            smallest_sequence: stats.smallest_sequence,
            largest_sequence: stats.largest_sequence,
            oldest_blob_file_number: self.oldest_blob.unwrap_or(0),
            oldest_ancestor_time_s: now_s,
            file_creation_time_s: now_s,
            range_tombstones: Some(stats.range_tombstones),
            ..FileMeta::default()
        }
        .with_crc32c(self.crc32c))
    }
}
