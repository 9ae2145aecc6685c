//! An embedded LSM store in RocksDB's on-disk format.
//!
//! A write goes to the log ([`log`], `wal`) and to a memtable; full memtables become tables ([`table`]) of level 0 (`flush`);
//! tables of a level are merged into the next (`compaction`). Large values may lie beside the tables ([`blob`]). Which tables
//! make up the store is a [`version`], and each change of it is an edit in the MANIFEST (`manifest`). `recovery` puts the parts
//! together again after whatever happened; `checkpoint` makes a second store from hard links, `backup` copies that share no byte. `repair` makes a store of what is
//! left of one without its MANIFEST. `ingest` takes tables in that were written elsewhere (`table_writer`).
//!
//! A store is several such trees, its families, that share the log ([`Family`]); a batch over several is one write.
//!
//! What it promises:
//! - A write acknowledged with `sync` survives the loss of power, one in the log survives the loss of the process; what is
//!   recovered is a prefix of what was written, each batch whole or not at all.
//! - A write is shown to readers only once it is as durable as it asked to be: what somebody read of a write with `sync`
//!   survives the loss of power, and what was read of any logged write that of the process. A write that fails is shown to
//!   nobody before the store is opened again; if it failed for want of space and the store has resumed, it is never.
//! - Nothing more is assumed of the disk than POSIX says: contents are durable when synced, names when their directory is.
//! - A failed sync is never repeated on the same file and never answered with success. It stops writes, with an error that
//!   says what failed, until the store is opened again and has found out what is really there.
//! - A full disk stops writes until there is space, and loses nothing that was acknowledged ([`Severity`]).
//! - Bytes are checked whenever they are read. Damage is an error that names file and offset.
//!
//! Not here: transactions, wide columns, user-defined timestamps. Their marks in the formats are known, and are refused by name.

mod background;
mod backup;
pub mod batch;
pub mod blob;
mod build;
mod checkpoint;
pub mod coding;
mod commit;
mod compaction;
mod cover;
mod creation;
mod db;
mod directory;
mod error;
mod families;
mod family;
pub mod filenames;
mod files;
mod filter;
mod flush;
mod ingest;
mod install;
mod iter;
pub mod key;
pub mod log;
mod manifest;
mod memtable;
mod merge;
mod operands;
mod options;
pub mod points;
mod property;
mod rate;
mod read;
mod read_only;
mod recovery;
mod repair;
mod replay;
mod resume;
mod retention;
mod shared;
mod snapshot;
mod staging;
mod statistics;
pub mod table;
mod table_writer;
mod tables;
pub mod tombstones;
mod ttl;
mod verify;
pub mod version;
mod wal;

pub use background::Severity;
pub use backup::{Backup, Backups, BackupsFound, DamagedBackup};
pub use batch::WriteBatch;
pub use checkpoint::{CheckpointFile, CheckpointFiles};
pub use db::Store;
pub use error::Error;
pub use family::Family;
pub use filter::{CompactionFilter, Decision, FilterWith};
pub use ingest::IngestOptions;
pub use iter::{Entry, Iter, Seek};
pub use operands::{Append, MergeOperator, MergeWith};
pub use options::{CompactionStyle, FamilyOptions, Options, Universal, WalRecovery, WriteOptions};
pub use property::{PROPERTIES, TableInfo};
pub use read_only::{Checked, ReadOnlyOptions, ReadOnlyStore};
pub use repair::{Lost, Repaired, repair};
pub use replay::CutLog;
pub use snapshot::Snapshot;
pub use statistics::Statistics;
pub use table::{BlockCacheStats, Compression};
pub use table_writer::{TableWriter, WrittenTable};
pub use ttl::Ttl;
pub use verify::Verified;
