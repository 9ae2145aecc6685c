//! A stateful stream engine, and the parts it is made of.
//!
//! - [`store`]: an embedded LSM store in RocksDB's on-disk format.
//! - [`state`]: keyed state on the store, split into key groups.
//! - [`stream`]: the dataflow: sources, keyed operators, barriers, sinks.
//! - [`checkpoint`]: the coordinator of checkpoints: trigger, registry, completed checkpoints, restore.
//! - [`flink`]: a reader of what checkpoints of Apache Flink are made of.
//! - [`cluster`]: the processes: coordinator candidates and workers, and how they talk.
//! - [`tables`]: partitioned, replicated, transactional tables.
//!
//! Everything here touches the world only through `cutwater-io`, and so runs both on real machines and inside the
//! simulation.

pub mod checkpoint;
pub mod cluster;
pub mod flink;
pub mod points;
pub mod state;
pub mod store;
pub mod stream;
pub mod tables;
