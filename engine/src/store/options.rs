//! How a store is to behave. The defaults are those of RocksDB; a simulation uses tiny values, and those must work too.

use super::error::Error;
use super::filter::FilterWith;
use super::operands::MergeWith;
use super::table::Compression;

/// Options of a store. Checked when it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Options of the default family.
    pub family: FamilyOptions,
    /// Whatever asks for a flush, flush all families, in one atomic step: a batch over several families then stays whole even
    /// if it was not logged.
    pub atomic_flush: bool,
    /// With several families: once the logs that a memtable still needs are this long, its family is flushed, so that a
    /// family that is seldom written does not keep all logs; 0 for four times what the memtables of all may take. Bytes.
    pub max_total_wal_bytes: u64,
    /// What is done at a log that does not end in a whole record.
    pub wal_recovery: WalRecovery,
    /// Write down in the MANIFEST how much of each log was made durable, so that one that is lost as a whole is missed when the store
    /// is opened. That costs an edit for each log that is synced. (RocksDB's `track_and_verify_wals_in_manifest`; what a MANIFEST
    /// knows is held against the logs in any case.)
    pub track_wals: bool,
    /// A large compaction is cut by keys into so many parts, which are built at the same time.
    pub max_subcompactions: usize,
    /// What flushes and compactions together may write in a second; nothing for no limit. Flushes go first. Bytes.
    pub rate_limit_bytes_per_s: Option<u64>,
    /// A MANIFEST this large is replaced by a new one. Bytes.
    pub max_manifest_bytes: u64,
    /// What blocks of tables may take in memory once they were read; 0 for none. Bytes.
    pub block_cache_bytes: u64,
    /// Create the store if there is none.
    pub create_if_missing: bool,
    /// Create the families that are to be opened and are not there.
    pub create_missing_families: bool,
    /// Read the footer and the index of every table when the store is opened (their presence and length is always checked).
    pub paranoid_checks: bool,
}

/// What recovery does where a log cannot be read on. (RocksDB's `WALRecoveryMode`.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WalRecovery {
    /// The writes end there, and the store is what it was then. What is known to have been durable must be there, or the store is
    /// not opened. (`kPointInTimeRecovery`.)
    #[default]
    PointInTime,
    /// The end of a log may be torn, as a crash leaves it. Whatever else is wrong, such as records behind the one that is not
    /// whole, or writes missing between two logs, is refused. (`kTolerateCorruptedTailRecords`, which lets the latter pass.)
    TornTail,
    /// Every log must be whole: for a store that was closed, or whose disk keeps the order of writes. (`kAbsoluteConsistency`.)
    Absolute,
    /// To save what can be saved: whatever is not whole is passed over, and all that can be read is applied. What is recovered is
    /// no moment of the past: writes are missing in the middle, in one family and not in another.
    /// (`kSkipAnyCorruptedRecords`.)
    SkipDamaged,
}

/// How a family is compacted. (RocksDB's `CompactionStyle`.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompactionStyle {
    /// Each level is several times as large as the one above, and goes down table by table: little space, few runs to read, much is
    /// written.
    #[default]
    Leveled,
    /// Runs of a size are merged as a whole: less is written, and more space is taken and more runs are read.
    Universal(Universal),
}

/// Options of the universal style. (RocksDB's `CompactionOptionsUniversal`.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Universal {
    /// A run is merged with those before it unless it is larger than they are together, and this share on top. Percent.
    pub size_ratio_percent: u32,
    /// Fewer runs are not merged.
    pub min_merge_width: usize,
    /// More runs are not merged at once, unless it is all of them.
    pub max_merge_width: usize,
    /// All is merged when what is not in the oldest run is this share of it. Percent.
    pub max_size_amplification_percent: u32,
}

impl Default for Universal {
    fn default() -> Self {
        Universal {
            size_ratio_percent: 1,
            min_merge_width: 2,
            max_merge_width: usize::MAX,
            max_size_amplification_percent: 200,
        }
    }
}

/// Options of one family. Checked when it is opened or created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyOptions {
    /// A memtable this large is closed and flushed. Bytes.
    pub write_buffer_bytes: u64,
    /// Writes stall while this many closed memtables wait for their flush.
    pub max_immutable_memtables: usize,
    /// A data block of a table is closed when it is this large. Bytes.
    pub block_bytes: usize,
    /// What merge operands mean; without one, merges into the family are refused.
    pub merge_operator: Option<MergeWith>,
    /// What compactions ask of the values that they meet.
    pub compaction_filter: Option<FilterWith>,
    /// How the blocks of new tables are compressed. Tables are read whatever theirs is.
    pub compression: Compression,
    /// If there are any, instead of `compression`: for each level, the last for all deeper ones.
    pub compression_per_level: Vec<Compression>,
    /// Values of at least so many bytes go to blob files; `None` for no blob files (those that are there are read). Bytes.
    pub min_blob_bytes: Option<u64>,
    /// How the values in new blob files are compressed: all of a file, those that get longer as well. Files are read whatever theirs
    /// is. (RocksDB's `blob_compression_type`.)
    pub blob_compression: Compression,
    /// A blob file is closed when it is this large. Bytes.
    pub blob_file_bytes: u64,
    /// Compactions write the values anew that they find in the oldest so many percent of the blob files, until those are empty;
    /// 0 for never.
    pub blob_gc_age_percent: u8,
    /// If at least so much of what the oldest of these files hold is garbage, tables are compacted only to empty them. A share of 100; 100
    /// for never (RocksDB's `blob_garbage_collection_force_threshold`).
    pub blob_gc_force_percent: u8,
    /// How it is decided which tables are compacted together. It may be changed whenever the store is opened.
    pub compaction_style: CompactionStyle,
    /// A compaction closes an output table when it is this large. Bytes.
    pub target_file_bytes: u64,
    /// What level 1 may hold before it is compacted into level 2. Bytes.
    pub max_bytes_for_level_base: u64,
    /// Each further level may hold this many times what the one above may.
    pub level_multiplier: u64,
    /// Level 0 is compacted when it has this many tables; in the universal style, the family when it has as many sorted runs.
    pub level0_compaction_trigger: usize,
    /// Writes stall while level 0 has this many tables.
    pub level0_stop_writes_trigger: usize,
    /// Bits of the bloom filter per key; 0 for no filter.
    pub bloom_bits_per_key: u32,
    /// Levels of the tree, level 0 included.
    pub num_levels: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            family: FamilyOptions::default(),
            atomic_flush: false,
            max_total_wal_bytes: 0,
            wal_recovery: WalRecovery::default(),
            track_wals: false,
            max_subcompactions: 1,
            rate_limit_bytes_per_s: None,
            max_manifest_bytes: 1 << 30,
            block_cache_bytes: 32 << 20,
            create_if_missing: true,
            create_missing_families: false,
            paranoid_checks: true,
        }
    }
}

impl Default for FamilyOptions {
    fn default() -> Self {
        FamilyOptions {
            write_buffer_bytes: 64 << 20,
            max_immutable_memtables: 2,
            block_bytes: 4096,
            merge_operator: None,
            compaction_filter: None,
            compression: Compression::None,
            compression_per_level: Vec::new(),
            min_blob_bytes: None,
            blob_compression: Compression::None,
            blob_file_bytes: 256 << 20,
            blob_gc_age_percent: 25,
            blob_gc_force_percent: 100,
            compaction_style: CompactionStyle::Leveled,
            target_file_bytes: 64 << 20,
            max_bytes_for_level_base: 256 << 20,
            level_multiplier: 10,
            level0_compaction_trigger: 4,
            level0_stop_writes_trigger: 36,
            bloom_bits_per_key: 10,
            num_levels: 7,
        }
    }
}

/// More levels than this no family has.
pub(crate) const MAX_LEVELS: usize = 64;

impl Options {
    /// Refuses what cannot work, by the name of the option.
    ///
    /// # Errors
    /// [`Error::InvalidOption`].
    pub fn validate(&self) -> Result<(), Error> {
        self.family.validate()?;
        let rate = self.rate_limit_bytes_per_s;
        first_broken([
            ("max_manifest_bytes", self.max_manifest_bytes >= 64, "must be at least 64"),
            ("max_subcompactions", (1..=64).contains(&self.max_subcompactions), "must be 1 to 64"),
            ("rate_limit_bytes_per_s", rate.is_none_or(|rate| rate >= 1024), "must be at least 1024"),
        ])
    }
}

impl FamilyOptions {
    const NO_ZSTD: &str = "ZSTD is read and not written";

    /// Refuses what cannot work, by the name of the option.
    ///
    /// # Errors
    /// [`Error::InvalidOption`].
    pub fn validate(&self) -> Result<(), Error> {
        if let CompactionStyle::Universal(universal) = &self.compaction_style {
            self.validate_universal(universal)?;
        }
        first_broken([
            ("write_buffer_bytes", self.write_buffer_bytes >= 64, "must be at least 64"),
            ("max_immutable_memtables", self.max_immutable_memtables >= 1, "must be at least 1"),
            ("block_bytes", (16..=1 << 28).contains(&self.block_bytes), "must be 16 to 2^28"),
            ("compression", self.compression.is_written(), Self::NO_ZSTD),
            (
                "compression_per_level",
                self.compression_per_level.iter().all(|compression| compression.is_written()),
                Self::NO_ZSTD,
            ),
            ("blob_compression", self.blob_compression.is_written(), Self::NO_ZSTD),
            ("blob_file_bytes", self.blob_file_bytes >= 64, "must be at least 64"),
            ("blob_gc_age_percent", self.blob_gc_age_percent <= 100, "must be at most 100"),
            ("blob_gc_force_percent", (1..=100).contains(&self.blob_gc_force_percent), "must be 1 to 100"),
            ("target_file_bytes", self.target_file_bytes >= 64, "must be at least 64"),
            ("max_bytes_for_level_base", self.max_bytes_for_level_base >= 64, "must be at least 64"),
            ("level_multiplier", (2..=1000).contains(&self.level_multiplier), "must be 2 to 1000"),
            ("level0_compaction_trigger", self.level0_compaction_trigger >= 1, "must be at least 1"),
            (
                "level0_stop_writes_trigger",
                self.level0_stop_writes_trigger > self.level0_compaction_trigger,
                "must be above level0_compaction_trigger, or writes would wait for a compaction that never starts",
            ),
            ("bloom_bits_per_key", self.bloom_bits_per_key <= 64, "must be at most 64"),
            ("num_levels", (2..=MAX_LEVELS).contains(&self.num_levels), "must be 2 to 64"),
        ])
    }

    pub(crate) fn is_universal(&self) -> bool {
        matches!(self.compaction_style, CompactionStyle::Universal(_))
    }

    fn validate_universal(&self, universal: &Universal) -> Result<(), Error> {
        let Universal { min_merge_width, max_merge_width, .. } = *universal;
        let is_reached = |stop: usize| {
            stop.checked_sub(self.level0_compaction_trigger).is_some_and(|more| more + 1 >= min_merge_width)
        };
        first_broken([
            ("min_merge_width", min_merge_width >= 2, "must be at least 2"),
            ("max_merge_width", max_merge_width >= min_merge_width, "must be at least min_merge_width"),
            (
                "level0_stop_writes_trigger",
                is_reached(self.level0_stop_writes_trigger),
                "must be at least level0_compaction_trigger and min_merge_width together less one, or writes would wait for a compaction that never starts",
            ),
        ])
    }

    /// How the tables of a level are compressed.
    pub(crate) fn compression_of(&self, level: usize) -> Compression {
        let deepest = self.compression_per_level.len().saturating_sub(1);
        self.compression_per_level.get(level.min(deepest)).copied().unwrap_or(self.compression)
    }

    /// What `level` (from 1) may hold before it must be compacted, in bytes.
    pub(crate) fn level_target_bytes(&self, level: usize) -> u64 {
        let steps = u32::try_from(level.saturating_sub(1)).unwrap_or(u32::MAX);
        self.max_bytes_for_level_base.saturating_mul(self.level_multiplier.saturating_pow(steps))
    }

    /// What the memtables may take before writes stall, roughly. Bytes.
    pub(crate) fn memtables_bytes(&self) -> u64 {
        self.write_buffer_bytes.saturating_mul(self.max_immutable_memtables as u64 + 1)
    }
}

/// The first option that does not hold: its name, whether it holds, what it must.
fn first_broken<const N: usize>(checks: [(&'static str, bool, &str); N]) -> Result<(), Error> {
    match checks.into_iter().find(|(_, holds, _)| !holds) {
        Some((option, _, reason)) => Err(Error::InvalidOption { option, reason: reason.to_owned() }),
        None => Ok(()),
    }
}

/// Options of one write. The default is written to the log and not synced: it survives the death of the process, not that
/// of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Answer only when the write and all before it (that were logged) are durable.
    pub sync: bool,
    /// Do not log. The write becomes durable with the next flush or checkpoint, and is lost if the process dies before.
    pub disable_wal: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_refused_by_name() {
        assert!(Options::default().validate().is_ok());
        let bad = FamilyOptions { level0_stop_writes_trigger: 4, ..FamilyOptions::default() };
        assert!(
            Options { family: bad, ..Options::default() }
                .validate()
                .unwrap_err()
                .to_string()
                .starts_with("option level0_stop_writes_trigger: must be above")
        );
    }

    #[test]
    fn the_universal_style_must_be_able_to_go_on() {
        let check = |min_merge_width, max_merge_width, level0_stop_writes_trigger| {
            let universal = Universal { min_merge_width, max_merge_width, ..Universal::default() };
            let compaction_style = CompactionStyle::Universal(universal);
            let options =
                FamilyOptions { compaction_style, level0_stop_writes_trigger, ..FamilyOptions::default() };
            options.validate().map_err(|e| e.to_string().split(':').next().unwrap_or_default().to_owned())
        };
        assert_eq!(check(2, usize::MAX, 5), Ok(()));
        assert_eq!(check(1, 9, 5), Err("option min_merge_width".to_owned()));
        assert_eq!(check(4, 3, 9), Err("option max_merge_width".to_owned()));
        assert_eq!(check(4, 4, 6), Err("option level0_stop_writes_trigger".to_owned()));
        assert_eq!(check(4, 4, 7), Ok(()));
    }

    #[test]
    fn each_level_has_its_compression_and_zstd_is_refused() {
        let (none, lz4) = (Compression::None, Compression::Lz4);
        let options = FamilyOptions { compression: lz4, ..FamilyOptions::default() };
        assert_eq!((options.compression_of(0), options.compression_of(6)), (lz4, lz4));
        let options = FamilyOptions { compression_per_level: vec![none, none, lz4], ..options };
        assert_eq!([1, 2, 6].map(|level| options.compression_of(level)), [none, lz4, lz4]);
        let options = FamilyOptions { compression_per_level: vec![none, Compression::Zstd], ..options };
        let refused = options.validate().unwrap_err().to_string();
        assert_eq!(refused, "option compression_per_level: ZSTD is read and not written");
        let options = FamilyOptions { blob_compression: Compression::Zstd, ..FamilyOptions::default() };
        let refused = options.validate().unwrap_err().to_string();
        assert_eq!(refused, "option blob_compression: ZSTD is read and not written");
    }

    #[test]
    fn level_targets_grow_and_do_not_overflow() {
        let options =
            FamilyOptions { max_bytes_for_level_base: 100, level_multiplier: 10, ..FamilyOptions::default() };
        assert_eq!(options.level_target_bytes(1), 100);
        assert_eq!(options.level_target_bytes(3), 10_000);
        assert_eq!(options.level_target_bytes(63), u64::MAX);
    }
}
