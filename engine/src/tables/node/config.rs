//! What a node is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::checkpoint::layout::InvalidName;
use crate::checkpoint::log::KEEP_VERSIONS;
use crate::store;
use crate::tables::cluster_state::Refused;
use crate::tables::membership::MembershipConfig;
use crate::tables::replica;
use crate::tables::settle::Pauses;
use crate::tables::storage;

/// See the module.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The cluster: the root of its register on the object store.
    pub cluster: String,
    /// Unique in the cluster, and the same each time the node starts.
    pub name: String,
    /// Where it listens.
    pub bind: SocketAddr,
    /// Where the others reach it, if that is not `bind`.
    pub advertise: Option<SocketAddr>,
    /// The object store of the cluster; see [`cutwater_io::objects`].
    pub objects_url: String,
    /// Where its store is. What is in it belongs to this node.
    pub data_dir: PathBuf,
    /// Of its store.
    pub store: store::Options,
    /// Of its copies.
    pub replica: replica::Options,
    /// Who is suspected, and when partitions move.
    pub membership: MembershipConfig,
    /// When it asks about transactions that are left.
    pub pauses: Pauses,
    /// Between two looks at the clock.
    pub tick: Duration,
    /// Between two signs of life.
    pub heartbeat: Duration,
    /// Between two looks at the register, if nobody says that it has changed.
    pub poll: Duration,
    /// How long another node has to answer.
    pub ask_timeout: Duration,
    /// How long a primary is looked for.
    pub route_timeout: Duration,
    /// How long a cut may take. Answers to clients are held back for as long.
    pub cut_timeout: Duration,
    /// How many questions may wait in one copy.
    pub max_waiting: usize,
    /// How many entries are kept in the log of a copy for those that come back.
    pub kept_entries: u64,
    /// How many versions of the register are kept.
    pub keep_versions: u64,
}

impl NodeConfig {
    /// With the defaults for times and stores.
    pub fn new(
        cluster: impl Into<String>,
        name: impl Into<String>,
        bind: SocketAddr,
        objects_url: impl Into<String>,
        data_dir: impl Into<PathBuf>,
    ) -> NodeConfig {
        NodeConfig {
            cluster: cluster.into(),
            name: name.into(),
            bind,
            advertise: None,
            objects_url: objects_url.into(),
            data_dir: data_dir.into(),
            store: store::Options::default(),
            replica: replica::Options::default(),
            membership: MembershipConfig {
                suspect_after_us: 2_000_000,
                pause_us: 1_000_000,
                pause_max_us: 60_000_000,
                calm_us: 10_000_000,
            },
            pauses: Pauses { patience_us: 1_000_000, retry_us: 200_000, retry_max_us: 5_000_000 },
            tick: Duration::from_millis(50),
            heartbeat: Duration::from_millis(200),
            poll: Duration::from_secs(1),
            ask_timeout: Duration::from_secs(2),
            route_timeout: Duration::from_secs(5),
            cut_timeout: Duration::from_secs(2),
            max_waiting: 1024,
            kept_entries: 10_000,
            keep_versions: KEEP_VERSIONS,
        }
    }

    /// Where the others reach it.
    pub fn address(&self) -> SocketAddr {
        self.advertise.unwrap_or(self.bind)
    }
}

/// Why a node does not run, or does not run any more.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A value of the configuration.
    #[error("node {name}: {what}")]
    Config {
        /// The node.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The cluster cannot be called that.
    #[error(transparent)]
    Cluster(#[from] InvalidName),
    /// The address.
    #[error("node {name}: listening on {address}: {source}")]
    Bind {
        /// The node.
        name: String,
        /// Where.
        address: SocketAddr,
        /// What the network said.
        source: std::io::Error,
    },
    /// The object store cannot be used.
    #[error(transparent)]
    Objects(#[from] cutwater_io::objects::OpenError),
    /// The cluster refuses the node.
    #[error("node {name} cannot join: {source}")]
    Join {
        /// The node.
        name: String,
        /// Why.
        source: Refused,
    },
    /// The node's own store cannot be opened.
    #[error("node {name} cannot start: {source}")]
    Open {
        /// The node.
        name: String,
        /// What the store said.
        source: store::Error,
    },
    /// The node's own store has failed, or holds what cannot be. It says nothing more to anybody, since what it has acknowledged last may not be what is on its disk.
    #[error("node {name} steps down: {source}")]
    Store {
        /// The node.
        name: String,
        /// What is wrong, and with which copy.
        source: storage::Error,
    },
}
