//! What a store has done since it was opened, counted. Nothing depends on the counts: they are for people, and each is right by itself,
//! not all of them at one moment.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::table::BlockCacheStats;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is counted; see [`Statistics`] for what each means.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) writes: Counter,
    pub(crate) written_bytes: Counter,
    pub(crate) wal_bytes: Counter,
    pub(crate) wal_syncs: Counter,
    pub(crate) stalls: Counter,
    pub(crate) stalled_us: Counter,
    pub(crate) gets: Counter,
    pub(crate) seeks: Counter,
    pub(crate) filter_useful: Counter,
    pub(crate) flushes: Counter,
    pub(crate) flushed_bytes: Counter,
    pub(crate) compactions: Counter,
    pub(crate) compaction_read_bytes: Counter,
    pub(crate) compaction_written_bytes: Counter,
    pub(crate) ingested_tables: Counter,
    pub(crate) ingested_bytes: Counter,
    pub(crate) removed_files: Counter,
}

/// What a store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Batches that were written.
    pub writes: u64,
    /// Their length, as they are logged or would be. Bytes.
    pub written_bytes: u64,
    /// What was written to logs for them. Bytes.
    pub wal_bytes: u64,
    /// How often logs were made durable, for any reason.
    pub wal_syncs: u64,
    /// How often writes waited for a flush or a compaction.
    pub stalls: u64,
    /// How long they did. Microseconds.
    pub stalled_us: u64,
    /// Keys that were asked for.
    pub gets: u64,
    /// How often an iterator went to a key, a change of direction included.
    pub seeks: u64,
    /// How often a get did not look into a table as its filter denied the key.
    pub filter_useful: u64,
    /// Groups of memtables that became tables.
    pub flushes: u64,
    /// The tables and blob files of flushes. Bytes.
    pub flushed_bytes: u64,
    /// Compactions, without those that only moved a table.
    pub compactions: u64,
    /// The tables that they read. Bytes.
    pub compaction_read_bytes: u64,
    /// The tables and blob files that they wrote. Bytes.
    pub compaction_written_bytes: u64,
    /// Tables that were ingested.
    pub ingested_tables: u64,
    /// Their length. Bytes.
    pub ingested_bytes: u64,
    /// Files that nothing needed any more, and that were removed.
    pub removed_files: u64,
    /// Blocks that were asked for and in the cache.
    pub block_cache_hits: u64,
    /// Blocks that were asked for and not in the cache.
    pub block_cache_misses: u64,
    /// What the cache takes now. Bytes.
    pub block_cache_used_bytes: u64,
}

impl Counters {
    /// The counts now.
    pub(crate) fn read(&self, block_cache: BlockCacheStats) -> Statistics {
        Statistics {
            writes: self.writes.get(),
            written_bytes: self.written_bytes.get(),
            wal_bytes: self.wal_bytes.get(),
            wal_syncs: self.wal_syncs.get(),
            stalls: self.stalls.get(),
            stalled_us: self.stalled_us.get(),
            gets: self.gets.get(),
            seeks: self.seeks.get(),
            filter_useful: self.filter_useful.get(),
            flushes: self.flushes.get(),
            flushed_bytes: self.flushed_bytes.get(),
            compactions: self.compactions.get(),
            compaction_read_bytes: self.compaction_read_bytes.get(),
            compaction_written_bytes: self.compaction_written_bytes.get(),
            ingested_tables: self.ingested_tables.get(),
            ingested_bytes: self.ingested_bytes.get(),
            removed_files: self.removed_files.get(),
            block_cache_hits: block_cache.hits,
            block_cache_misses: block_cache.misses,
            block_cache_used_bytes: block_cache.used_bytes,
        }
    }
}
