//! Directories that RocksDB 7.8.3 wrote, packed in `fixtures` with what RocksDB itself reads in them, and what this store makes of
//! them. Nothing of RocksDB is needed, so our reading is held against RocksDB's everywhere; where its tools are installed they
//! judge, too, what we leave of a directory and what they make of a damaged one.
//!
//! - [`features`]: one feature of the format each. It is read, and the directory goes on as ours; or it is refused by name.
//! - [`kills`]: the writer was killed inside RocksDB, between two durable states.
//! - [`damage`]: one directory, damaged in eighteen ways, in each mode of recovery.
//!
//! `regenerate` writes all fixtures anew with `write.cc`, and reads them with `read.cc`.
#![cfg(not(madsim))]
#![expect(
    clippy::disallowed_methods,
    reason = "what is on the disk is looked at and damaged behind the engine's back"
)]

mod damage;
mod features;
mod fixture;
mod kills;
#[path = "../common/rocksdb.rs"]
mod rocksdb;
