//! Scenario `tables`: partitioned, replicated, transactional tables, broken while clients read and write.
//!
//! Three to five nodes, and clients that know nothing of what breaks. There are three tables: single keys that are read, written and compared
//! (of the atomic kind), lists that transactions over several partitions read and append to, and accounts that money goes between. Users make and drop
//! further tables, and announce cuts.
//!
//! What must hold (the pure checkers stand in [`crate::oracle`]):
//! - single keys are linearizable, transactions strictly serializable, the sum of all accounts stays the same;
//! - what was acknowledged is there in the end: the last reads belong to the histories;
//! - once nothing breaks, every partition is open with all its copies, copies are equal, row by row and cut by cut, and no transaction is left
//!   that is prepared or undecided;
//! - cuts have the same transactions on all sides, in every log, and are closed under what clients saw and when ([`crate::oracle::cuts`]).
//!
//! *Not in it*: damage of disks (a copy that finds damage stops, and nobody repairs it yet), snapshots, nodes that join late.

mod clients;
mod judge;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use cutwater_engine::store::{FamilyOptions, Options};
use cutwater_engine::tables::membership::MembershipConfig;
use cutwater_engine::tables::node::{self, NodeConfig};
use cutwater_engine::tables::settle::Pauses;
use cutwater_engine::tables::{points, replica};
use cutwater_io::points::Kind;
use cutwater_sim::faults::{Devices, FaultClass};
use cutwater_sim::plan::Plan;
use cutwater_sim::scenario::{Demands, OracleInfo, Scenario, Violation};
use cutwater_sim::shrink::Personalities;
use cutwater_sim::vocabulary::{Knob, Role, Verb, Vocabulary};
use cutwater_sim::world::World;
use futures::future::LocalBoxFuture;

use clients::Clients;

/// Where nodes listen.
pub(crate) const PORT: u16 = 7100;

const CLUSTER: &str = "tables";
const URL: &str = "sim://tables";

/// See the module.
pub struct TablesScenario;

fn faults() -> Vec<FaultClass> {
    let is_out =
        |class: &FaultClass| FaultClass::DAMAGE.contains(class) || *class == FaultClass::BeyondBudget;
    FaultClass::ALL.iter().copied().filter(|class| !is_out(class)).collect()
}

fn verbs() -> Vec<Verb> {
    vec![
        Verb::new("get", "read a single key").arg("key", 0..=7).always(),
        Verb::new("put", "write a single key").arg("key", 0..=7).always(),
        Verb::new("delete", "remove a single key").arg("key", 0..=7),
        Verb::new("cas", "change a single key, if it holds what this client saw last").arg("key", 0..=7),
        Verb::new(
            "append",
            "a transaction: read two lists, append to the first, and to the second if both is 1",
        )
        .arg("first", 0..=7)
        .arg("second", 0..=7)
        .arg("both", 0..=1)
        .always(),
        Verb::new("look", "a transaction that only reads two lists").arg("first", 0..=7).arg("second", 0..=7),
        Verb::new("transfer", "a transaction: money from one account to another")
            .arg("from", 0..=5)
            .arg("to", 0..=5)
            .log_arg("amount", 1..=50),
        Verb::new("audit", "a transaction that reads all accounts"),
        Verb::new("table", "make a table of that number, or drop it if it is there").arg("number", 0..=2),
        Verb::new("cut", "announce a cut"),
        Verb::new("outage", "every node loses power at once; down_us is until they come back")
            .log_arg("down_us", 1000..=2_000_000),
    ]
}

fn knobs() -> Vec<Knob> {
    vec![
        crate::personality_knob(),
        Knob::new("partitions", "of each table", 3, 1..=8),
        Knob::new("backups", "of each partition", 1, 0..=2),
        Knob::new(
            "suspect_ms",
            "silence after which a node is suspected, in milliseconds, beyond slow links",
            400,
            100..=3000,
        ),
        Knob::new("poll_ms", "between two looks at the register, in milliseconds", 300, 50..=2000),
        Knob::new("cut_timeout_ms", "how long a cut may take, in milliseconds", 800, 20..=4000),
        Knob::new("patience_ms", "how long a transaction may be prepared, in milliseconds", 300, 20..=3000),
        Knob::new(
            "calm_ms",
            "without a suspicion before partitions move for balance, in milliseconds",
            1000,
            100..=5000,
        ),
        Knob::new("message_bytes", "of log or rows in one message", 64 << 10, 32..=64 << 10),
        Knob::new("cache_bytes", "of log in memory for copies that lag", 64 << 10, 0..=64 << 10),
        Knob::new("kept_entries", "of a log, for copies that come back", 10_000, 0..=10_000),
        Knob::new("max_waiting", "questions in one copy", 256, 4..=256),
        Knob::new("keep_versions", "versions of the register that are kept", 8, 2..=32),
        Knob::new("write_buffer_bytes", "size of a memtable, in bytes", 4096, 512..=64 << 10),
        crate::compression_knob(),
        Knob::new("net_us", "median latency between two machines, one way, in microseconds", 500, 50..=5_000),
        Knob::new(
            "window_bytes",
            "what may be under way in a connection, in bytes",
            256 << 10,
            2048..=256 << 10,
        ),
        Knob::new(
            "store_spacing_us",
            "the object store lets a prefix have one request per so many microseconds; 0: as many as come",
            0,
            0..=10_000,
        ),
        Knob::new("page_keys", "keys in a page of a listing", 1000, 1..=1000),
    ]
}

impl Scenario for TablesScenario {
    fn name(&self) -> &'static str {
        "tables"
    }

    fn about(&self) -> &'static str {
        "replicated transactional tables: crashes, partitions and changes of views in the middle of transactions and cuts"
    }

    fn vocabulary(&self) -> Vocabulary {
        Vocabulary {
            roles: vec![Role::new("node", "has copies of partitions", 3..=5)],
            actors: 1..=4,
            ops: 8..=150,
            verbs: verbs(),
            knobs: knobs(),
            points: points::ALL.to_vec(),
            classes: vec!["wal", "table", "manifest", "current", "register", "other"],
            faults: faults(),
            horizon_us: 2_000_000..=10_000_000,
        }
    }

    fn oracles(&self) -> &'static [OracleInfo] {
        &[
            OracleInfo {
                name: "linearizable",
                about: "operations on a single key have an order that agrees with time",
            },
            OracleInfo {
                name: "serializable",
                about: "transactions have an order that explains what they read and agrees with time",
            },
            OracleInfo { name: "bank", about: "the sum of all accounts is always the same" },
            OracleInfo {
                name: "copies",
                about: "copies of a partition are equal, row by row and cut by cut",
            },
            OracleInfo {
                name: "cuts",
                about: "a cut has whole transactions, the same on all sides, and is closed under what was seen and when",
            },
            OracleInfo {
                name: "liveness",
                about: "once nothing breaks, within 120 s every partition is open, has all its copies, and no transaction is left",
            },
        ]
    }

    fn demands(&self) -> Demands {
        let of = |kind| points::ALL.iter().filter(move |point| point.kind == kind).map(|point| point.name);
        Demands {
            after_plans: 1000,
            delivered: faults(),
            points: of(Kind::Point).collect(),
            sometimes: of(Kind::Sometimes).chain(of(Kind::Buggify)).collect(),
            ..Demands::default()
        }
    }

    fn personalities(&self) -> Option<Personalities> {
        Some(crate::PERSONALITIES)
    }

    fn classify(&self) -> fn(&Path) -> &'static str {
        crate::classify
    }

    fn name_frames(&self) -> cutwater_io::sim::net::FrameNamer {
        crate::frames::name_frame
    }

    fn devices(&self, plan: &Plan) -> Devices {
        crate::devices(plan)
    }

    fn run<'a>(&'a self, world: &'a World) -> LocalBoxFuture<'a, Result<(), Violation>> {
        Box::pin(run(world))
    }
}

async fn run(world: &World) -> Result<(), Violation> {
    let cuts = judge::watch(world);
    let nodes: Vec<SocketAddr> =
        (0..world.count("node")).map(|i| world.address(world.node_id("node", i), PORT)).collect();
    for i in 0..world.count("node") {
        let config = config(world, i);
        let log = world.clone();
        world.node("node", i, move |_| {
            let (config, log) = (config.clone(), log.clone());
            async move {
                if let Err(error) = node::run(config).await {
                    log.note("process", &format!("node: {error}"));
                }
            }
        });
    }
    let clients = Clients::start(world, nodes);
    world.until_horizon().await;
    world.heal().await;
    judge::judge(world, &clients, &cuts).await
}

/// How long a message may take and be answered over a link that is slow without being broken, twice over.
fn slow_round_trip(world: &World) -> Duration {
    Duration::from_micros(4 * world.knob("net_us") * u64::from(crate::SLOW_LINK_FACTOR_MAX) * 2)
}

fn config(world: &World, index: u64) -> NodeConfig {
    let bind = world.address(world.node_id("node", index), PORT);
    let mut config = NodeConfig::new(CLUSTER, format!("node-{index}"), bind, URL, "/node");
    let ms = |name| Duration::from_millis(world.knob(name));
    let us = |duration: Duration| u64::try_from(duration.as_micros()).expect("a short time");
    let bytes = |name| usize::try_from(world.knob(name)).expect("a small number");
    let suspect = ms("suspect_ms") + slow_round_trip(world);
    config.store = store_options(world);
    config.tick = suspect / 20;
    config.heartbeat = suspect / 5;
    config.poll = ms("poll_ms");
    config.ask_timeout = suspect * 2;
    config.route_timeout = suspect * 6;
    config.cut_timeout = ms("cut_timeout_ms");
    config.replica = replica::Options {
        heartbeat_us: us(suspect / 5),
        retry_us: us(suspect / 2),
        silence_us: us(suspect),
        stagger_us: us(suspect / 4),
        max_message_bytes: bytes("message_bytes"),
        max_inflight_bytes: bytes("message_bytes") * 4,
        cache_bytes: bytes("cache_bytes"),
    };
    config.membership = MembershipConfig {
        suspect_after_us: us(suspect),
        pause_us: us(suspect),
        pause_max_us: us(suspect) * 8,
        calm_us: us(ms("calm_ms")),
    };
    config.pauses = Pauses {
        patience_us: us(ms("patience_ms")),
        retry_us: us(suspect / 2),
        retry_max_us: us(suspect) * 4,
    };
    config.max_waiting = bytes("max_waiting");
    config.kept_entries = world.knob("kept_entries");
    config.keep_versions = world.knob("keep_versions");
    config
}

fn store_options(world: &World) -> Options {
    Options {
        family: FamilyOptions {
            write_buffer_bytes: world.knob("write_buffer_bytes"),
            block_bytes: 256,
            target_file_bytes: 4096,
            max_bytes_for_level_base: 16 << 10,
            level_multiplier: 4,
            level0_compaction_trigger: 3,
            level0_stop_writes_trigger: 12,
            compression: crate::compression(world.knob("compression")),
            ..FamilyOptions::default()
        },
        max_manifest_bytes: 4096,
        ..Options::default()
    }
}
