//! Tables: sorted, immutable files of internal keys, in RocksDB's block-based format.
//!
//! Written: format_version 5, crc32c, blocks as they are or with Snappy or LZ4, an index of internal keys with full handles, restarts every 16
//! entries, properties, and a bloom filter of our own kind whose name RocksDB does not know and therefore passes over.
//! Read: format_version 2 to 5, crc32c or XXH3, Snappy, LZ4 and ZSTD, indexes of user keys and with delta-encoded handles, blocks with
//! a hash index, tables that were written outside of a store, whose sequence number only the MANIFEST has.
//! Refused by name: other compressions and dictionaries, no checksum, partitioned or hash indexes of tables, range tombstones.

pub mod block;
pub mod builder;
pub mod cache;
pub mod compression;
pub mod data_block;
pub mod filter;
pub mod format;
pub mod properties;
pub mod reader;

pub use builder::{TableBuilder, TableStats};
pub use cache::{BlockCache, BlockCacheStats};
pub use compression::Compression;
pub use reader::{Caching, Table, TableIter};
