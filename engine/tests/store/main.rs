//! The store from outside: what its users are promised, by part. What crashes may do to it is the scenarios' matter; what RocksDB
//! wrote is read in `store_fixtures`.

#[path = "../common/mod.rs"]
mod common;
#[cfg(not(madsim))]
#[path = "../common/rocksdb.rs"]
mod rocksdb;
#[cfg(madsim)]
#[path = "../common/simulated.rs"]
mod simulated;

mod backup;
mod blob_gc;
mod by_rocksdb;
mod damage;
mod families;
mod families_crash;
mod filter;
mod logs;
mod merge;
mod model;
mod properties;
mod read_only;
mod repair;
mod space;
