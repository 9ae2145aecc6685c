//! Scenario `store`: one machine, one store, up to three writers.
//!
//! The machine `n1` opens a store in `/db` and runs the plan's operations on it: writes (some of them synced), deletes,
//! batches, reads, scans, snapshots held for a while, flushes, compactions, checkpoints, backups, clean reopens. It is killed, loses
//! power, meets disk errors, failed syncs, full and slow disks, at points inside flush, compaction, recovery and
//! checkpoint. Each time it comes up again it first judges what it finds.
//!
//! What must hold:
//! - **durability**: what was acknowledged as synced is there; what is there was written; what is there of each writer is a
//!   prefix of its writes, and over all writers a prefix of the order of sequence numbers. After a mere kill nothing
//!   acknowledged is missing, synced or not. Before each operation a writer looks at what the others are writing just now;
//!   what it is shown counts as acknowledged.
//! - **model**: reads, scans and snapshots of the running store equal a map.
//! - **filter**: what a compaction filter removes or changes is what it says, nothing older comes back, and no snapshot sees any
//!   of it.
//! - **checkpoint**: a checkpoint that was reported done opens, now and after every later crash, with the content it was
//!   taken of.
//! - **backup**: a backup that was reported done is listed until it is purged, and a listed backup restores what it was taken
//!   of, now and after every later crash.
//! - **structure**: levels are disjoint, every table exists with its length and checksums, and a quiet store has no file
//!   that its version does not name.
//! - **honesty**: nothing injected here damages what a sync made durable, so the store never reports corruption.
//! - **liveness**: once nothing breaks any more, operations under way are answered, and the store opens, compacts and closes,
//!   within a minute of virtual time.
//!
//! A writer that meets an error does what an application would: it takes the store down and opens it again; or, if the disk is
//! full, it waits until the store takes writes again, which then has nothing of what it refused. Sizes are tiny
//! (memtables of some KiB, tables of a few blocks, blob files of a few values), so that a run of a few hundred
//! operations flushes, compacts and rolls its MANIFEST over many times.
//!
//! *Not in it*: damage of durable data (see [`crate::damage`]).

mod backups;
mod budget;
mod content;
mod evidence;
mod families;
mod ingest;
mod ops;
mod process;
mod repair;
mod scratch;
mod shadows;

use std::path::Path;

use cutwater_engine::store::points;
use cutwater_io::points::{Kind, Point};
use cutwater_sim::census::mini::{Letter, MiniWorkload};
use cutwater_sim::faults::{Devices, FaultClass};
use cutwater_sim::plan::Plan;
use cutwater_sim::scenario::{Demands, OracleInfo, Scenario, Violation};
use cutwater_sim::shrink::Personalities;
use cutwater_sim::vocabulary::{Knob, Role, Verb, Vocabulary};
use cutwater_sim::world::World;
use futures::future::LocalBoxFuture;

use content::KEYS;
pub(crate) use process::{Medium, run};

/// What a store can pass.
pub(crate) fn points() -> impl Iterator<Item = Point> {
    let parts = [
        points::of_families::ALL,
        points::of_backups::ALL,
        points::of_filters::ALL,
        points::of_ingestion::ALL,
    ];
    points::ALL.iter().chain(parts.into_iter().flatten()).copied()
}

/// See the module.
pub struct StoreScenario;

impl Scenario for StoreScenario {
    fn name(&self) -> &'static str {
        "store"
    }

    fn about(&self) -> &'static str {
        "one store: writes, flush, compaction, checkpoint, reopen, under crashes and disk faults"
    }

    fn vocabulary(&self) -> Vocabulary {
        use FaultClass as F;
        Vocabulary {
            roles: vec![Role::new("store", "holds the store", 1..=1)],
            actors: 1..=3,
            ops: 20..=400,
            verbs: vec![
                Verb::new("put", "write one key")
                    .arg("key", 0..=23)
                    .log_arg("len", 0..=3000)
                    .arg("sync_if_3", 0..=3)
                    .always(),
                Verb::new("delete", "delete one key").arg("key", 0..=23).arg("sync_if_3", 0..=3),
                Verb::new("batch", "write and delete several keys atomically")
                    .arg("key", 0..=23)
                    .arg("count", 1..=8)
                    .log_arg("len", 0..=800)
                    .arg("sync_if_3", 0..=3),
                Verb::new(
                    "delete_range",
                    "delete a range of keys, and, one in two, write its first one anew",
                )
                .arg("key", 0..=23)
                .arg("count", 1..=12)
                .arg("sync_if_3", 0..=3),
                Verb::new("get", "read one key").arg("key", 0..=23),
                Verb::new("scan", "read a range, one in two backwards")
                    .arg("key", 0..=23)
                    .arg("count", 1..=24),
                Verb::new("snapshot", "hold a snapshot while the writer goes on, then scan it")
                    .arg("hold_us", 0..=400_000),
                Verb::new(
                    "slow_scan",
                    "scan a snapshot, one in two backwards, and stop for a while after the first key",
                )
                .arg("hold_us", 0..=400_000),
                Verb::new(
                    "ingest",
                    "write tables of some keys, one in two over a range that they delete, and ingest them",
                )
                .arg("key", 0..=23)
                .arg("count", 1..=12)
                .log_arg("len", 0..=800),
                Verb::new("flush", "flush the memtable"),
                Verb::new("compact", "compact everything"),
                Verb::new("sync_wal", "make all writes so far durable"),
                Verb::new("family", "create a family, write to it, and drop it after a while")
                    .arg("hold_us", 0..=100_000),
                Verb::new("checkpoint", "take a checkpoint, and open it"),
                Verb::new("reopen", "close the store and open it again"),
                Verb::new("backup", "make a backup, restore it, and keep the newest two"),
            ],
            knobs: vec![
                crate::personality_knob(),
                Knob::new("small_sectors", "1: the disk writes 512 bytes atomically, 0: 4096", 0, 0..=1),
                Knob::new(
                    "sync_us",
                    "median time of a sync, in microseconds; flushes lag behind writes if it is long",
                    1200,
                    100..=60_000,
                ),
                Knob::new("stale_tail", "1: unwritten sectors of a tail read as garbage", 0, 0..=1),
                Knob::new(
                    "keys",
                    "keys that each writer writes to; few are overwritten often",
                    KEYS,
                    1..=KEYS,
                ),
                Knob::new("write_buffer_bytes", "size of a memtable, in bytes", 8 << 10, 512..=256 << 10),
                Knob::new("max_immutable_memtables", "closed memtables before writes stall", 2, 1..=4),
                Knob::new("block_bytes", "size of a data block, in bytes", 512, 64..=8192),
                Knob::new(
                    "target_file_bytes",
                    "size of a compacted table, in bytes",
                    8 << 10,
                    1024..=256 << 10,
                ),
                Knob::new("level_base_bytes", "size of level 1, in bytes", 16 << 10, 2048..=1 << 20),
                Knob::new("level_multiplier", "growth per level", 4, 2..=10),
                Knob::new("level0_trigger", "tables in level 0 that start a compaction", 3, 1..=8),
                Knob::new(
                    "max_manifest_bytes",
                    "size at which the MANIFEST rolls over, in bytes",
                    4096,
                    256..=1 << 20,
                ),
                Knob::new("bloom_bits", "bits of the filter per key", 10, 0..=20),
                Knob::new("families", "families that the keys are spread over", 1, 1..=3),
                Knob::new("atomic_flush", "1: all families are flushed together", 0, 0..=1),
                Knob::new(
                    "max_total_wal_bytes",
                    "length of the logs at which the family that keeps them is flushed, in bytes; 0: by the memtables",
                    0,
                    0..=64 << 10,
                ),
                Knob::new(
                    "merges",
                    "1: one change in three appends to whatever is there, as a merge operand",
                    0,
                    0..=1,
                ),
                Knob::new("track_wals", "1: the MANIFEST tracks what was synced of the logs", 0, 0..=1),
                Knob::new(
                    "waits_for_space",
                    "1: a writer that meets a full disk waits until the store has resumed, 0: it opens the store again",
                    0,
                    0..=1,
                ),
                Knob::new(
                    "filter",
                    "1: keys have shadows, which a filter takes in compactions, 2: in flushes, too",
                    0,
                    0..=2,
                ),
                Knob::new("universal", "1: sorted runs of a size are compacted, 0: level by level", 0, 0..=1),
                Knob::new(
                    "size_ratio_percent",
                    "how much larger a run may be than those that it is merged with",
                    1,
                    0..=100,
                ),
                Knob::new(
                    "size_amplification_percent",
                    "how large all runs but the oldest may be, as a share of that",
                    200,
                    10..=400,
                ),
                Knob::new("max_subcompactions", "parts that a compaction is cut into at most", 1, 1..=4),
                Knob::new(
                    "rate_limit_kib_per_s",
                    "what flushes and compactions may write in a second, in KiB, 64 at least; 0: all they want",
                    0,
                    0..=256,
                ),
                crate::compression_knob(),
                Knob::new(
                    "min_blob_bytes",
                    "values from this length on go to blob files; 0: none do",
                    0,
                    0..=1000,
                ),
                Knob::new(
                    "blob_compression",
                    "values in blob files: 0 as they are, 1 Snappy, 2 LZ4",
                    0,
                    0..=2,
                ),
                Knob::new("blob_file_bytes", "size of a blob file, in bytes", 4096, 512..=64 << 10),
                Knob::new(
                    "blob_gc_age_percent",
                    "the oldest blob files that compactions empty, in percent",
                    25,
                    0..=100,
                ),
                Knob::new(
                    "blob_gc_force_percent",
                    "how much garbage in the oldest blob files has tables compacted, in percent; 100: none does",
                    100,
                    1..=100,
                ),
                Knob::new(
                    "block_cache_bytes",
                    "blocks of tables kept in memory, in bytes; 0 for none",
                    16 << 10,
                    0..=64 << 10,
                ),
            ],
            // What only damage brings about is seen by the scenario `damage`.
            points: points().filter(|point| !points::OF_DAMAGE.contains(point)).collect(),
            classes: vec!["wal", "table", "blob", "manifest", "current", "other"],
            faults: vec![
                F::ProcessKill,
                F::PowerFail,
                F::DiskError,
                F::DiskFull,
                F::FsyncFailure,
                F::DiskSlow,
                F::Pause,
                F::SlowNode,
                F::ClockDrift,
                F::ClockJump,
            ],
            horizon_us: 500_000..=8_000_000,
        }
    }

    fn oracles(&self) -> &'static [OracleInfo] {
        &[
            OracleInfo {
                name: "durability",
                about: "what was synced is recovered; what is recovered is a prefix of what was written",
            },
            OracleInfo { name: "model", about: "reads, scans and snapshots equal a map" },
            OracleInfo {
                name: "filter",
                about: "a filter takes what it says and no more, nothing older comes back, no snapshot sees any of it",
            },
            OracleInfo {
                name: "checkpoint",
                about: "a finished checkpoint opens with its content, after every later crash too",
            },
            OracleInfo {
                name: "backup",
                about: "a listed backup restores what it was taken of, after every later crash too",
            },
            OracleInfo {
                name: "structure",
                about: "levels disjoint, tables whole, no file that nothing names",
            },
            OracleInfo {
                name: "honesty",
                about: "no corruption is reported where no durable byte was damaged",
            },
            OracleInfo {
                name: "liveness",
                about: "once nothing breaks, calls are answered, and the store opens, compacts and closes, within 60 s",
            },
        ]
    }

    fn demands(&self) -> Demands {
        let all = self.vocabulary().points;
        Demands {
            after_plans: 1000,
            delivered: self.vocabulary().faults,
            points: all.iter().filter(|p| p.kind == Kind::Point).map(|p| p.name).collect(),
            // Two plans in a thousand see a hole between logs, and four a log given up: a campaign of a thousand cannot be asked
            // for one.
            sometimes: all
                .iter()
                .filter(|p| p.kind != Kind::Point)
                .filter(|p| !["store.recovery.wal_hole", "store.wal.given_up"].contains(&p.name))
                .map(|p| p.name)
                .collect(),
            ..Demands::default()
        }
    }

    fn mini(&self) -> Option<MiniWorkload> {
        let put = |key, len, sync| Letter::new("put", &[key, len, sync]).of_key(key as u8);
        let (small, blob) = (40, 100);
        Some(MiniWorkload {
            letters: vec![
                put(0, small, 0),
                put(1, small, 0),
                put(0, small, 3),
                put(1, small, 3),
                put(0, blob, 0),
                put(1, blob, 0),
                Letter::new("delete", &[0, 0]).of_key(0),
                // Of both keys: the second is the fifth from the first, of four.
                Letter::new("batch", &[0, 2, small, 0]),
                Letter::new("flush", &[]),
                Letter::new("compact", &[]),
                Letter::new("sync_wal", &[]),
                Letter::new("snapshot", &[1_500]),
                Letter::new("family", &[0]),
                Letter::new("ingest", &[0, 2, small]),
                Letter::new("checkpoint", &[]),
                Letter::new("reopen", &[]),
            ],
            knobs: [
                ("keys", 4),
                // Two tables in level 0 are enough for a compaction, and two edits for a new MANIFEST.
                ("level0_trigger", 2),
                ("max_manifest_bytes", 256),
                // A value of 100 bytes is a blob, and lies in a file of its own that the next compaction empties.
                ("min_blob_bytes", 64),
                ("blob_file_bytes", 512),
                ("blob_gc_age_percent", 100),
            ]
            .into(),
            gap_us: 1_000,
            rest_us: 200_000,
        })
    }

    fn personalities(&self) -> Option<Personalities> {
        Some(crate::PERSONALITIES)
    }

    fn classify(&self) -> fn(&Path) -> &'static str {
        crate::classify
    }

    fn devices(&self, plan: &Plan) -> Devices {
        crate::devices(plan)
    }

    fn run<'a>(&'a self, world: &'a World) -> LocalBoxFuture<'a, Result<(), Violation>> {
        Box::pin(run(world, Medium::Sound))
    }
}
