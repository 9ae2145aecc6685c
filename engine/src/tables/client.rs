//! What a user calls.
//!
//! ```no_run
//! # async fn example() -> Result<(), cutwater_engine::tables::client::ClientError> {
//! use cutwater_engine::tables::client::{Client, TableSpec, Kind};
//!
//! let client = Client::connect("bank", vec!["10.0.0.1:7100".parse().unwrap()]).await?;
//! let spec = TableSpec { name: "accounts".into(), kind: Kind::Transactional, partitions: 16, backups: 1 };
//! client.create_table(spec).await?;
//! client.put("accounts", b"alice", b"100").await?;
//!
//! // Reads are checked when it commits: if somebody was faster, it is a conflict, and one begins again.
//! let mut transaction = client.transaction();
//! let alice = transaction.get("accounts", b"alice").await?;
//! assert_eq!(alice.as_deref(), Some(&b"100"[..]));
//! transaction.put("accounts", b"alice", b"90");
//! transaction.put("accounts", b"bob", b"10");
//! transaction.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The client asks any node who has which partition, and then the primaries. What can be asked twice without harm it asks again, of whoever is the primary
//! then, for as long as [`Options::timeout`]. A write is never sent twice: if its answer is lost the error is [`ClientError::OutcomeUnknown`],
//! and [`Client::outcome`] may know more.
//!
//! It repeats the highest cut that it has heard of in each message, so what it does after it has learned of a cut is not before that cut, on whatever node.

mod link;
mod transaction;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cutwater_io::{entropy, time};

pub use super::cluster_state::{Fate, Kind, TableSpec};
pub use transaction::Transaction;

use super::cluster_state::ClusterState;
use super::entry::Entry;
use super::ids::{CutId, LogIndex, PartitionId, TxId};
use super::partition::Request;
use super::reason::Reason;
use super::rows::{Change, MAX_KEY_BYTES, MAX_VALUE_BYTES, Read, Row};
use super::rpc::{Answer, CopyReport, Question};
use link::{Lost, Network};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(400);

/// How patient a client is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long one node has to answer.
    pub ask_timeout: Duration,
    /// How long an operation may take in all.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options { ask_timeout: Duration::from_secs(5), timeout: Duration::from_secs(20) }
    }
}

/// Why an operation has no result. Unless it says otherwise, nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Another transaction was in the way: begin again.
    #[error("conflict on key {}: {why}", key.escape_ascii())]
    Conflict {
        /// The key; empty if it is not known which.
        key: Bytes,
        /// What happened to it.
        why: String,
    },
    /// It may have been done, or may be done yet: [`Client::outcome`] may know more.
    #[error("the outcome of transaction {tx} is unknown")]
    OutcomeUnknown {
        /// Which.
        tx: TxId,
    },
    /// It may have been done, or may be done yet.
    #[error("the outcome of {what} is unknown")]
    ChangeUnknown {
        /// What was asked.
        what: String,
    },
    /// No primary answered in time.
    #[error("no primary of partition {partition} answers")]
    NoPrimary {
        /// Which.
        partition: PartitionId,
    },
    /// No node answered in time.
    #[error("none of the nodes {nodes:?} answers")]
    NoNode {
        /// Whom it knows.
        nodes: Vec<SocketAddr>,
    },
    /// There is no such table.
    #[error("there is no table {table:?}")]
    TableUnknown {
        /// As given.
        table: String,
    },
    /// The table is of the other kind.
    #[error("table {table:?} is {is}: no {what}")]
    WrongKind {
        /// The table.
        table: String,
        /// What it is.
        is: String,
        /// What was asked.
        what: String,
    },
    /// More than a limit allows.
    #[error("{what}: {value}, the limit is {limit}")]
    TooLarge {
        /// Of what.
        what: String,
        /// What was asked for.
        value: u64,
        /// What is allowed.
        limit: u64,
    },
    /// Too much waits already.
    #[error("{0}")]
    Overloaded(String),
    /// The cluster refuses.
    #[error("{0}")]
    Refused(String),
}

/// A stretch of rows of one partition, all as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// In the order of keys.
    pub rows: Vec<(Bytes, Bytes)>,
    /// The entry of the partition's log that the rows are as of.
    pub index: LogIndex,
    /// There are more behind the last.
    pub more: bool,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is committed.
    Committed,
    /// It is aborted.
    Aborted,
    /// It is under way, or was never begun, or is not remembered any more.
    Unknown,
}

/// A user of a cluster. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    network: Network,
    nodes: Vec<SocketAddr>,
    topology: Mutex<Topology>,
}

#[derive(Clone, Default)]
struct Topology {
    version: u64,
    state: Arc<ClusterState>,
}

impl Client {
    /// Connects to the cluster of that name through any of `nodes`.
    ///
    /// # Errors
    /// If none of them answers.
    pub async fn connect(cluster: &str, nodes: Vec<SocketAddr>) -> Result<Client, ClientError> {
        Client::connect_with(cluster, nodes, Options::default()).await
    }

    /// [`Client::connect`], as patient as told.
    ///
    /// # Errors
    /// If none of the nodes answers.
    pub async fn connect_with(
        cluster: &str,
        nodes: Vec<SocketAddr>,
        options: Options,
    ) -> Result<Client, ClientError> {
        let network = Network::new(cluster);
        let client =
            Client { inner: Arc::new(Inner { options, network, nodes, topology: Mutex::default() }) };
        client.learn().await?;
        Ok(client)
    }

    /// Makes a table. Once it returns, it is durable.
    ///
    /// # Errors
    /// If it exists or cannot be.
    pub async fn create_table(&self, spec: TableSpec) -> Result<(), ClientError> {
        self.change(Question::CreateTable(spec), "a table that was to be made").await.map(|_| ())
    }

    /// Drops a table with all its rows.
    ///
    /// # Errors
    /// If there is none.
    pub async fn drop_table(&self, table: &str) -> Result<(), ClientError> {
        self.learn().await?;
        self.table(table)?;
        self.change(Question::DropTable { name: table.into() }, "a table that was to be dropped")
            .await
            .map(|_| ())
    }

    /// The tables that there are.
    ///
    /// # Errors
    /// If no node answers.
    pub async fn tables(&self) -> Result<Vec<TableSpec>, ClientError> {
        let state = self.learn().await?;
        let seen = state.tables.values().filter(|table| !table.hidden);
        let spec = |table: &super::cluster_state::Table| TableSpec {
            name: table.name.clone(),
            kind: table.kind,
            partitions: u16::try_from(table.views.len()).expect("few partitions"),
            backups: table.backups,
        };
        Ok(seen.map(spec).collect())
    }

    /// Announces a cut, and waits until it has ended.
    ///
    /// # Errors
    /// If one is under way, or no node answers.
    pub async fn announce_cut(&self) -> Result<CutId, ClientError> {
        match self.change(Question::AnnounceCut, "a cut that was to be announced").await? {
            Answer::Cut { cut, .. } => Ok(cut),
            other => Err(unexpected(&other)),
        }
    }

    /// What became of a cut; nothing if that is not remembered.
    ///
    /// # Errors
    /// If no node answers.
    pub async fn fate(&self, cut: CutId) -> Result<Option<Fate>, ClientError> {
        Ok(self.learn().await?.fate(cut))
    }

    /// The row of a key.
    ///
    /// # Errors
    /// If the primary does not answer in time, or the row stays locked.
    pub async fn get(&self, table: &str, key: &[u8]) -> Result<Option<Bytes>, ClientError> {
        Ok(self.read(table, key).await?.1.map(|row| row.value))
    }

    /// Writes a row.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put(&self, table: &str, key: &[u8], value: &[u8]) -> Result<(), ClientError> {
        self.write(table, key, Some(Bytes::copy_from_slice(value)), None).await
    }

    /// Removes a row, whether there is one or not.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete(&self, table: &str, key: &[u8]) -> Result<(), ClientError> {
        self.write(table, key, None, None).await
    }

    /// Writes a row, or removes it, if it holds what is expected; `None` is that there is none. Says what it holds otherwise.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn compare_and_set(
        &self,
        table: &str,
        key: &[u8],
        expected: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<Result<(), Option<Bytes>>, ClientError> {
        let deadline = time::now() + self.inner.options.timeout;
        loop {
            let (_, row) = self.read(table, key).await?;
            let found = row.as_ref().map(|row| row.value.clone());
            if found.as_deref() != expected {
                return Ok(Err(found));
            }
            let version = row.map(|row| row.version);
            let written = self.write(table, key, value.map(Bytes::copy_from_slice), Some(version)).await;
            match written {
                // Somebody was faster: perhaps with the same value.
                Err(ClientError::Conflict { .. }) if time::now() < deadline => {}
                other => return other.map(Ok),
            }
        }
    }

    /// Rows of one partition behind `after`, at most `limit`: all as of one moment.
    ///
    /// # Errors
    /// If the primary does not answer in time, or a row stays locked.
    pub async fn scan(
        &self,
        table: &str,
        partition: u16,
        after: Option<&[u8]>,
        limit: u32,
    ) -> Result<Scanned, ClientError> {
        let (id, _) = self.find(table).await?;
        let partition = PartitionId { table: id, number: partition };
        let after = after.map(Bytes::copy_from_slice);
        match self.ask_primary(table, Question::Scan { partition, after, limit }).await? {
            Answer::Scanned { rows, index, more } => Ok(Scanned {
                rows: rows.into_iter().map(|(key, row)| (key, row.value)).collect(),
                index,
                more,
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// Begins a transaction. Nothing is sent before it reads or commits.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.clone())
    }

    /// What became of a transaction whose outcome was unknown, if anybody still knows; `key` is any that it wrote.
    ///
    /// # Errors
    /// If the primary does not answer in time.
    pub async fn outcome(&self, tx: TxId, table: &str, key: &[u8]) -> Result<Known, ClientError> {
        let partition = self.partition(table, key).await?;
        match self.ask_primary(table, Question::Outcome { partition, tx }).await? {
            Answer::Decided { commit: true, .. } | Answer::Ended { commit: true, .. } => Ok(Known::Committed),
            Answer::Decided { .. } | Answer::Ended { .. } => Ok(Known::Aborted),
            _ => Ok(Known::Unknown),
        }
    }

    /// What each node says of its copies, by its address. For operators and tests.
    ///
    /// # Errors
    /// If no node says what the cluster is.
    pub async fn reports(&self) -> Result<BTreeMap<SocketAddr, Vec<CopyReport>>, ClientError> {
        let state = self.learn().await?;
        let mut reports = BTreeMap::new();
        for member in &state.members {
            if let Ok(Answer::Report(report)) = self.ask(member.address, Question::Report).await {
                reports.insert(member.address, report);
            }
        }
        Ok(reports)
    }

    /// The log of a partition that a node has a copy of, as far as it is applied and still there, from behind `previous`. For operators and tests.
    ///
    /// # Errors
    /// If the node does not answer, or has no copy.
    pub async fn log(
        &self,
        node: SocketAddr,
        partition: PartitionId,
        previous: LogIndex,
    ) -> Result<Vec<Entry>, ClientError> {
        let mut log = Vec::new();
        loop {
            let question = Question::Log { partition, previous: previous + log.len() as u64 };
            match self.ask(node, question).await {
                Ok(Answer::Log { entries, .. }) if entries.is_empty() => return Ok(log),
                Ok(Answer::Log { entries, .. }) => log.extend(entries),
                Ok(Answer::Denied(reason)) => return Err(error_of(reason, "")),
                Ok(other) => return Err(unexpected(&other)),
                Err(_) => return Err(ClientError::NoNode { nodes: vec![node] }),
            }
        }
    }

    /// The cluster as some node knows it. For operators and tests.
    ///
    /// # Errors
    /// If no node answers.
    pub async fn cluster_state(&self) -> Result<Arc<ClusterState>, ClientError> {
        self.learn().await
    }
}

impl Client {
    fn topology(&self) -> Topology {
        self.inner.topology.lock().expect("nobody panics with it").clone()
    }

    /// Asks any node what the cluster is. An older answer than one before is none.
    async fn learn(&self) -> Result<Arc<ClusterState>, ClientError> {
        match self.ask_any(&Question::Topology).await? {
            Answer::Topology { version, state } => {
                let mut topology = self.inner.topology.lock().expect("nobody panics with it");
                if version > topology.version {
                    *topology = Topology { version, state: Arc::from(state) };
                }
                Ok(topology.state.clone())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The nodes that it knows, those of the cluster first.
    fn known_nodes(&self) -> Vec<SocketAddr> {
        let members = self.topology().state.members.iter().map(|member| member.address).collect::<Vec<_>>();
        let given = self.inner.nodes.iter().copied().filter(|node| !members.contains(node));
        members.iter().copied().chain(given).collect()
    }

    async fn ask(&self, node: SocketAddr, question: Question) -> Result<Answer, Lost> {
        self.inner.network.ask(node, question, self.inner.options.ask_timeout).await
    }

    /// Asks the nodes in turn, beginning with any, until one answers.
    async fn ask_any(&self, question: &Question) -> Result<Answer, ClientError> {
        let deadline = time::now() + self.inner.options.timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            let nodes = self.known_nodes();
            let first = usize::try_from(entropy::u64("tables.client.node") % nodes.len().max(1) as u64)
                .expect("few nodes");
            for node in nodes.iter().cycle().skip(first).take(nodes.len()) {
                match self.ask(*node, question.clone()).await {
                    Ok(Answer::Denied(Reason::Overloaded { .. })) | Err(_) => {}
                    Ok(answer) => return Ok(answer),
                }
            }
            if time::now() >= deadline {
                return Err(ClientError::NoNode { nodes });
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Asks one node after the other until one was certainly reached.
    async fn change(&self, question: Question, what: &str) -> Result<Answer, ClientError> {
        let unknown = || ClientError::ChangeUnknown { what: what.into() };
        let deadline = time::now() + self.inner.options.timeout;
        loop {
            for node in self.known_nodes() {
                match self.ask(node, question.clone()).await {
                    Ok(Answer::Denied(reason)) if reason.is_passing() => {}
                    Ok(Answer::Denied(reason)) => return Err(error_of(reason, "")),
                    Ok(Answer::OutcomeUnknown) | Err(Lost::Unknown) => return Err(unknown()),
                    Ok(answer) => {
                        self.learn().await?;
                        return Ok(answer);
                    }
                    Err(Lost::NotSent) => {}
                }
            }
            if time::now() >= deadline {
                return Err(ClientError::NoNode { nodes: self.known_nodes() });
            }
            time::sleep(LAST_PAUSE).await;
        }
    }

    fn table(&self, name: &str) -> Result<(super::ids::TableId, u16), ClientError> {
        let topology = self.topology();
        let unknown = || ClientError::TableUnknown { table: name.into() };
        let (id, table) = topology.state.table(name).ok_or_else(unknown)?;
        Ok((id, u16::try_from(table.views.len()).expect("few partitions")))
    }

    /// The table as it was last known, or else as it is now.
    async fn find(&self, name: &str) -> Result<(super::ids::TableId, u16), ClientError> {
        match self.table(name) {
            Ok(found) => Ok(found),
            Err(_) => {
                self.learn().await?;
                self.table(name)
            }
        }
    }

    async fn partition(&self, table: &str, key: &[u8]) -> Result<PartitionId, ClientError> {
        let (id, _) = self.find(table).await?;
        let topology = self.topology();
        let number = topology.state.tables.get(&id).map_or(0, |table| table.partition_of(key));
        Ok(PartitionId { table: id, number })
    }

    async fn read(&self, table: &str, key: &[u8]) -> Result<(PartitionId, Option<Row>), ClientError> {
        check_key(key)?;
        let partition = self.partition(table, key).await?;
        let question = Question::Read { partition, keys: vec![Bytes::copy_from_slice(key)] };
        match self.ask_primary(table, question).await? {
            Answer::Rows { rows } => Ok((partition, rows.into_iter().next().flatten())),
            other => Err(unexpected(&other)),
        }
    }

    /// Writes one row; `version` is what it must have.
    async fn write(
        &self,
        table: &str,
        key: &[u8],
        value: Option<Bytes>,
        version: Option<Option<LogIndex>>,
    ) -> Result<(), ClientError> {
        check_key(key)?;
        check_limit("bytes of a value", value.as_ref().map_or(0, Bytes::len), MAX_VALUE_BYTES)?;
        let partition = self.partition(table, key).await?;
        let key = Bytes::copy_from_slice(key);
        let tx = new_tx();
        let reads = version.map(|version| Read { key: key.clone(), version }).into_iter().collect();
        let request = Request::Write { tx, reads, changes: vec![Change { key, value }] };
        match self.ask_primary(table, Question::Submit { partition, request }).await? {
            Answer::Ended { commit: true, .. } => Ok(()),
            _ => Err(ClientError::OutcomeUnknown { tx }),
        }
    }

    /// Asks the primary of the question's partition, for as long as it makes sense.
    async fn ask_primary(&self, table: &str, question: Question) -> Result<Answer, ClientError> {
        let partition = question.partition().expect("a question to a partition");
        let tx = match &question {
            Question::Submit { request: Request::Write { tx, .. }, .. } => Some(*tx),
            _ => None,
        };
        let deadline = time::now() + self.inner.options.timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            let state = self.topology().state;
            let view = state.view(partition);
            let address = view
                .and_then(|view| state.members.get(usize::from(view.primary)))
                .map(|member| member.address);
            let Some(address) = address else {
                return Err(ClientError::TableUnknown { table: table.into() });
            };
            let last = match (self.ask(address, question.clone()).await, tx) {
                // Rows are locked for a moment only, as long as nothing is broken.
                (Ok(Answer::Denied(reason @ Reason::Locked { .. })), None) => error_of(reason, table),
                (Ok(Answer::Denied(Reason::NotPrimary(_))), _)
                | (Err(Lost::NotSent), _)
                | (Err(Lost::Unknown), None) => ClientError::NoPrimary { partition },
                (Ok(Answer::Denied(reason @ Reason::Overloaded { .. })), _) => error_of(reason, table),
                (Ok(Answer::Denied(reason)), _) => return Err(error_of(reason, table)),
                (Ok(answer), _) => return Ok(answer),
                (Err(Lost::Unknown), Some(tx)) => return Err(ClientError::OutcomeUnknown { tx }),
            };
            if time::now() >= deadline {
                return Err(last);
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
            self.learn().await?;
        }
    }
}

/// Drawn at random, so that nobody needs to be asked for one.
fn new_tx() -> TxId {
    let mut bytes = [0; 16];
    entropy::fill("tables.client.tx", &mut bytes);
    TxId(u128::from_le_bytes(bytes))
}

fn check_limit(what: &str, value: usize, limit: usize) -> Result<(), ClientError> {
    match value > limit {
        true => Err(ClientError::TooLarge { what: what.into(), value: value as u64, limit: limit as u64 }),
        false => Ok(()),
    }
}

fn check_key(key: &[u8]) -> Result<(), ClientError> {
    check_limit("bytes of a key", key.len(), MAX_KEY_BYTES)
}

fn unexpected(answer: &Answer) -> ClientError {
    ClientError::Refused(format!("a node answered with something else: {answer:?}"))
}

fn error_of(reason: Reason, table: &str) -> ClientError {
    let why = reason.to_string();
    match reason {
        Reason::Changed { key, .. } | Reason::Locked { key, .. } => ClientError::Conflict { key, why },
        Reason::Settled => ClientError::Conflict { key: Bytes::new(), why },
        Reason::NotPrimary(partition) | Reason::NoPrimary(partition) => ClientError::NoPrimary { partition },
        Reason::PartitionUnknown(_) => ClientError::TableUnknown { table: table.into() },
        Reason::WrongKind { table, is, what } => ClientError::WrongKind { table, is, what },
        Reason::TooLarge { what, value, limit } => ClientError::TooLarge { what, value, limit },
        Reason::Overloaded { .. } => ClientError::Overloaded(why),
        Reason::Malformed(_) | Reason::Cluster(_) | Reason::Broken(_) => ClientError::Refused(why),
    }
}
