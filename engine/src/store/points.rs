//! Points of this module; see [`mod@cutwater_io::points`].

/// What only damage to durable data leads to.
pub const OF_DAMAGE: &[cutwater_io::points::Point] =
    &[WAL_REFUSED, MANIFEST_REFUSED, BLOCK_REFUSED, of_families::AHEAD_REFUSED];

/// What only a full disk leads to.
pub const OF_SPACE: &[cutwater_io::points::Point] =
    &[RESUME_LOG_BEGUN, RESUME_IN_TABLES, RESUMED, MANIFEST_GIVEN_UP, COMPACTION_WAITS];

cutwater_io::points! {
    point WAL_ROTATED = "store.wal.rotated": "a new log exists, the memtable of the old one is not closed yet";
    point WAL_BEFORE_SYNC = "store.wal.before_sync": "writes are in the log and not durable";
    point WAL_AFTER_SYNC = "store.wal.after_sync": "writes are durable in the log and not yet visible";
    point FLUSH_TABLE_SYNCED = "store.flush.table_synced": "the table of a flush is durable, its name is not, no edit names it";
    point FLUSH_BEFORE_MANIFEST = "store.flush.before_manifest": "the table of a flush is durable with its name, no edit names it";
    point MANIFEST_APPENDED = "store.manifest.appended": "an edit is in the MANIFEST and not durable";
    point MANIFEST_BEFORE_SEAL = "store.manifest.before_seal": "an edit is durable, its seal is not";
    point MANIFEST_SYNCED = "store.manifest.synced": "an edit is durable and not applied in memory";
    point MANIFEST_ROLLED = "store.manifest.rolled": "a new MANIFEST is durable with its name, CURRENT names the old one";
    point CURRENT_BEFORE_RENAME = "store.current.before_rename": "the new CURRENT is durable under its temporary name";
    point CURRENT_AFTER_RENAME = "store.current.after_rename": "CURRENT is renamed, the directory is not synced";
    point COMPACTION_OUTPUTS_SYNCED = "store.compaction.outputs_synced": "the tables of a compaction are durable, no edit names them";
    point COMPACTION_INSTALLED = "store.compaction.installed": "the edit of a compaction is durable, its inputs still exist";
    point OBSOLETE_BEFORE_DELETE = "store.obsolete.before_delete": "files that nothing needs are about to be removed";
    point RECOVERY_TABLE_WRITTEN = "store.recovery.table_written": "recovery wrote a table from the logs, no edit names it";
    point RECOVERY_BEFORE_CURRENT = "store.recovery.before_current": "recovery has all tables durable, CURRENT names the old MANIFEST";
    point RECOVERY_AFTER_CURRENT = "store.recovery.after_current": "recovery switched CURRENT, old logs and orphans still exist";
    point CHECKPOINT_BEFORE_LINKS = "store.checkpoint.before_links": "a checkpoint knows its tables, none is linked";
    point CHECKPOINT_LINKED = "store.checkpoint.linked": "the tables of a checkpoint are linked, it has no CURRENT";
    point CHECKPOINT_BEFORE_RENAME = "store.checkpoint.before_rename": "a checkpoint is complete under its temporary name";
    point CHECKPOINT_AFTER_RENAME = "store.checkpoint.after_rename": "a checkpoint has its name, which is not durable";
    point RESUME_LOG_BEGUN = "store.resume.log_begun": "a store that ran out of space has a new log, what was in memory is in no table";
    point RESUME_IN_TABLES = "store.resume.in_tables": "a store that ran out of space has all in tables, and takes no writes yet";
    buggify ROTATE_EARLY = "store.rotate_early": "a memtable is closed long before it is full";
    buggify WRITE_ALONE = "store.write_alone": "a write goes to the log without those that wait behind it";
    buggify COMPACT_LATER = "store.compact_later": "a compaction that is due waits for a while";
    buggify LINK_LATER = "store.checkpoint.link_later": "a checkpoint knows its tables, and waits for a while before it links them";
    buggify MANIFEST_ROLLS_EARLY = "store.manifest.rolls_early": "a MANIFEST rolls over long before it is large";
    sometimes ENTRY_UNDER_RANGE_DROPPED = "store.compaction.range_dropped": "an entry was dropped, as it lies under a range tombstone";
    sometimes RANGE_TOMBSTONE_DROPPED = "store.compaction.range_tombstone_dropped": "a range tombstone was dropped, as nothing lies under it";
    sometimes RANGE_TOMBSTONE_CUT = "store.compaction.range_tombstone_cut": "a range tombstone was cut where one table ends and the next begins";
    sometimes SINGLE_DELETION_DROPPED = "store.compaction.single_deletion_dropped": "a single deletion was dropped with what it hides";
    sometimes WAL_TORN = "store.recovery.torn_wal": "recovery met a log that does not end in a whole record";
    sometimes WAL_HOLE = "store.recovery.wal_hole": "recovery ignored a log because the one before it had lost its end";
    sometimes WAL_GIVEN_UP = "store.wal.given_up": "a log could not be marked, and a new one was begun";
    sometimes WAL_REPLAYED = "store.recovery.replayed": "recovery replayed writes from a log";
    sometimes MANIFEST_TORN = "store.recovery.torn_manifest": "recovery met a MANIFEST that does not end in a whole record";
    sometimes WAL_REFUSED = "store.recovery.wal_refused": "recovery refused a log of which durable records cannot be read";
    sometimes MANIFEST_REFUSED = "store.recovery.manifest_refused": "recovery refused a MANIFEST of which durable edits cannot be read";
    sometimes BLOCK_REFUSED = "store.table.block_refused": "a block of a table was not what its checksum says";
    sometimes ORPHAN_REMOVED = "store.recovery.orphan_removed": "recovery removed a file that nothing needs";
    sometimes STALLED = "store.write.stalled": "a write waited for a flush or a compaction";
    sometimes TRIVIAL_MOVE = "store.compaction.trivial_move": "a table went one level down without being rewritten";
    sometimes COMPACTED = "store.compaction.merged": "a compaction merged tables";
    sometimes SNAPSHOT_KEPT = "store.compaction.snapshot_kept": "a compaction kept an entry only because a snapshot sees it";
    sometimes TOMBSTONE_DROPPED = "store.compaction.tombstone_dropped": "a compaction dropped a tombstone at the bottom";
    sometimes MERGED = "store.compaction.operands_merged": "a compaction put operands and what lay below them together";
    sometimes MERGED_ALONE = "store.compaction.operands_alone": "a compaction put operands together that had nothing below them";
    sometimes UNIVERSAL_ABOVE = "store.compaction.universal_above": "a compaction put runs together right above an older one";
    sometimes SUBCOMPACTED = "store.compaction.in_parts": "the parts of a compaction were built at the same time";
    sometimes RATE_LIMITED = "store.rate_limited": "a flush or a compaction waited for the limit of what it may write";
    sometimes BACKGROUND_ERROR = "store.background_error": "a failure stopped writes";
    sometimes RESUMED = "store.resumed": "a store that had run out of space takes writes again";
    sometimes MANIFEST_GIVEN_UP = "store.manifest.given_up": "a MANIFEST that could not be written was replaced by a new one";
    sometimes COMPACTION_WAITS = "store.compaction.out_of_space": "a compaction found no space, and is tried again later";
    sometimes MANIFEST_GROUPED = "store.manifest.grouped": "several changes went to the MANIFEST together";
    sometimes GROUP_COMMIT = "store.write.grouped": "several writes went to the log together";
}

/// What only a store with several families meets.
pub mod of_families {
    cutwater_io::points! {
        point FAMILY_ADDED = "store.family.added": "the edit that adds a family is durable, nobody has it open";
        point FAMILY_DROPPED = "store.family.dropped": "the edit that drops a family is durable, its tables still exist";
        sometimes FLUSHED_TOGETHER = "store.family.flushed_together": "memtables of several families became tables in one step";
        sometimes LOGS_SYNCED = "store.family.logs_synced": "logs were made durable before a flush, as another family needs them";
        sometimes DROPPED_MEANWHILE = "store.family.dropped_meanwhile": "a family was dropped while it was flushed or compacted";
        sometimes AHEAD_REFUSED = "store.family.ahead_refused": "recovery refused logs that end before what a family has in tables";
        sometimes RECORD_SKIPPED = "store.family.record_skipped": "recovery passed over a write that is in a table, or of a dropped family";
    }
}

/// What only a family with a compaction filter meets.
pub mod of_filters {
    cutwater_io::points! {
        sometimes REMOVED = "store.filter.removed": "a filter removed a value that had nothing below it";
        sometimes TOMBSTONE_LEFT = "store.filter.tombstone_left": "a filter removed a value and left a tombstone, as there may be older ones";
        sometimes CHANGED = "store.filter.changed": "a filter changed a value";
        sometimes SPARED = "store.filter.spared": "a filter was not asked, as a snapshot sees the value";
        sometimes SNAPSHOT_KEEPS_TABLES = "store.filter.snapshot_keeps_tables": "a snapshot was taken while a filter was at work";
    }
}

/// What an ingestion of tables passes.
pub mod of_ingestion {
    cutwater_io::points! {
        point STAGED = "store.ingest.staged": "the tables of an ingestion have files of the store, whose names are not durable";
        point INSTALLED = "store.ingest.installed": "the edit of an ingestion is durable, it is not answered";
        sometimes FLUSHED_FIRST = "store.ingest.flushed_first": "a memtable was flushed, as a table is to be ingested into its family";
        sometimes PLACED_DEEP = "store.ingest.placed_deep": "an ingested table went below level 0";
        sometimes LEVEL_BUSY = "store.ingest.level_busy": "an ingested table went to level 0 only because a compaction was under way";
        sometimes SEVERAL_FAMILIES = "store.ingest.several_families": "tables of several families were ingested in one step";
        sometimes LINK_REFUSED = "store.ingest.link_refused": "a table to be ingested was copied, as a link to it was refused";
    }
}

/// What backups and their restores pass.
pub mod of_backups {
    cutwater_io::points! {
        point COPIED = "store.backup.copied": "the shared files of a backup are durable, it has no MANIFEST";
        point BEFORE_LISTED = "store.backup.before_listed": "all files of a backup are durable, its meta file has its temporary name";
        point LISTED = "store.backup.listed": "a backup is listed, the name of its meta file is not durable";
        point WITHDRAWN = "store.backup.withdrawn": "a backup is not listed any more, not durably, its files are there";
        point BEFORE_COLLECT = "store.backup.before_collect": "files that no backup names are about to be removed";
        point BEFORE_RESTORED = "store.backup.before_restored": "a restored store is complete under its temporary name";
        point RESTORED = "store.backup.restored": "a restored store has its name, which is not durable";
        sometimes SHARED = "store.backup.shared": "a backup shares a file with one before it";
        sometimes REMAINS = "store.backup.remains": "files of a backup that was never listed were removed";
    }
}
