//! What must hold in the end, and what the register tells along the way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cutwater_engine::checkpoint::layout::{Layout, Object};
use cutwater_engine::checkpoint::log::{Record, decode_record};
use cutwater_engine::tables::client::Client;
use cutwater_engine::tables::cluster_state::{ClusterState, Fate};
use cutwater_engine::tables::ids::{CutId, NodeId, PartitionId};
use cutwater_engine::tables::replica::PartitionView;
use cutwater_engine::tables::rpc::CopyReport;
use cutwater_io::sim::objects::ObjectChange;
use cutwater_io::time;
use cutwater_sim::scenario::Violation;
use cutwater_sim::world::World;

use super::CLUSTER;
use super::clients::Clients;
use crate::oracle::cuts::Cuts;
use crate::oracle::{linearizable, serializable};

/// Virtual time in which a healed cluster must be whole, and in which it must answer every key.
const WHOLE_LIMIT: Duration = Duration::from_secs(120);

/// The register as it was last seen, and the oracle of cuts.
pub(super) struct Watched {
    pub cuts: Cuts,
    fates: BTreeMap<CutId, Fate>,
    views: BTreeMap<PartitionId, PartitionView>,
}

/// Watches the register from before its first version.
pub(super) fn watch(world: &World) -> Arc<Mutex<Watched>> {
    let watched =
        Arc::new(Mutex::new(Watched { cuts: Cuts::new(), fates: BTreeMap::new(), views: BTreeMap::new() }));
    let (told, world_of_watch) = (watched.clone(), world.clone());
    let layout = Layout::new(CLUSTER).expect("a plain name");
    world.env().objects().observe(Box::new(move |event| {
        world_of_watch.env().owed().more("objects", event.key.as_bytes());
        let ObjectChange::Put(bytes) = &event.change else { return };
        if !matches!(layout.parse(&event.key), Some(Object::Log { .. })) {
            return;
        }
        let mut watched = told.lock().unwrap_or_else(PoisonError::into_inner);
        match watched.version(bytes, world_of_watch.now_us()) {
            Ok(told) => world_of_watch.note("register", &told),
            Err(violation) => world_of_watch.object(violation),
        }
    }));
    watched
}

impl Watched {
    /// A version was written: what is new in it, in words.
    fn version(&mut self, bytes: &[u8], now_us: u64) -> Result<String, Violation> {
        let record: Record<ClusterState> = decode_record(bytes).map_err(|error| {
            Violation::new("cuts", "the register is written whole").of("register").found(error)
        })?;
        for (cut, known) in &record.state.cuts {
            let before = self.fates.insert(*cut, known.fate);
            if before.is_none() {
                self.cuts.announced(*cut, now_us)?;
            }
            match known.fate {
                Fate::StartedEverywhere if before != Some(known.fate) => self.cuts.passed(*cut, now_us)?,
                Fate::GivenUp if before != Some(known.fate) => self.cuts.given_up(*cut)?,
                _ => {}
            }
        }
        let mut news = vec![format!("version {}", record.version)];
        for (partition, _, view) in record.state.partitions() {
            if self.views.insert(partition, view.clone()).as_ref() != Some(view) {
                let PartitionView { number, primary, backups, learner } = view;
                let learner = learner.map_or(String::new(), |learner| format!(", learner {learner}"));
                news.push(format!("{partition} view {number}: {primary} with {backups:?}{learner}"));
            }
        }
        Ok(news.join("; "))
    }
}

/// What each node says of its copies, with the cluster that it is of.
struct Look {
    state: Arc<ClusterState>,
    reports: BTreeMap<(PartitionId, NodeId), CopyReport>,
}

impl Look {
    async fn take(client: &Client) -> Option<Look> {
        let by_address = client.reports().await.ok()?;
        let state = client.cluster_state().await.ok()?;
        let mut reports = BTreeMap::new();
        for (member, node) in state.members.iter().zip(0..) {
            for report in by_address.get(&member.address)? {
                reports.insert((report.partition, node), report.clone());
            }
        }
        Some(Look { state, reports })
    }

    /// Why the cluster is not whole yet.
    fn lacks(&self) -> Option<String> {
        let nodes = self.state.members.len();
        self.state.partitions().find_map(|(partition, table, view)| {
            let all = usize::from(table.backups).min(nodes - 1);
            let lacks = |what: &str| Some(format!("partition {partition} {what}: {view:?}"));
            if view.backups.len() != all || view.learner.is_some() {
                return lacks("lacks copies");
            }
            let Some(primary) = self.reports.get(&(partition, view.primary)) else {
                return lacks("has no primary");
            };
            if !primary.is_open || primary.view != *view {
                return lacks("is not open");
            }
            for node in view.in_sync() {
                let Some(report) = self.reports.get(&(partition, node)) else { return lacks("lacks a copy") };
                if report.prepared > 0 || report.decided > 0 {
                    return lacks("has transactions under way");
                }
                if report.applied != primary.applied {
                    return lacks("has a copy that lags");
                }
            }
            None
        })
    }

    /// All copies of a partition hold the same.
    fn judge_copies(&self) -> Result<(), Violation> {
        for (partition, _, view) in self.state.partitions() {
            let primary = &self.reports[&(partition, view.primary)];
            for node in view.backups.iter().copied() {
                let backup = &self.reports[&(partition, node)];
                let cuts: BTreeMap<_, _> = primary.cuts.iter().copied().collect();
                let differs =
                    backup.cuts.iter().find(|(cut, content)| cuts.get(cut).is_some_and(|own| own != content));
                let is_equal =
                    backup.content == primary.content && backup.applied_view == primary.applied_view;
                if !is_equal || differs.is_some() {
                    return Err(Violation::new("copies", "copies of a partition are equal")
                        .of("copy")
                        .expected(format!("{partition} on node {}: {primary:?}", view.primary))
                        .found(format!("on node {node}: {backup:?}")));
                }
            }
        }
        Ok(())
    }
}

/// Waits until the healed cluster is whole.
async fn whole(world: &World, clients: &Clients, name: &str) -> Result<(Client, Look), Violation> {
    let lacking = Arc::new(Mutex::new(String::from("nobody answers")));
    let (clients, told) = (clients.clone(), lacking.clone());
    let whole = world.client(name, async move {
        let client = clients.connect().await;
        loop {
            if let Some(look) = Look::take(&client).await {
                match look.lacks() {
                    None => return (client, look),
                    Some(lacks) => *told.lock().unwrap_or_else(PoisonError::into_inner) = lacks,
                }
            }
            time::sleep(Duration::from_millis(100)).await;
        }
    });
    let property = "a healed cluster has every partition open, with all its copies, and nothing under way";
    world.within(WHOLE_LIMIT, property, whole).await.inspect_err(|_| {
        let lacks = lacking.lock().unwrap_or_else(PoisonError::into_inner).clone();
        world.note("judge", &lacks);
    })
}

/// Waits until the healed cluster is whole, and judges everything.
pub(super) async fn judge(
    world: &World,
    clients: &Clients,
    watched: &Arc<Mutex<Watched>>,
) -> Result<(), Violation> {
    let (client, look) = whole(world, clients, "judge").await?;
    look.judge_copies()?;
    let of_reads = clients.clone();
    let read = world.client("reader", async move {
        of_reads.read_all(client.clone()).await;
        of_reads.audit(&client).await
    });
    world.within(WHOLE_LIMIT, "a healed cluster answers every key", read).await??;
    judge_histories(clients)?;
    // What the last reader has begun ends, too.
    let (client, look) = whole(world, clients, "last judge").await?;
    look.judge_copies()?;
    let read = world.client("log reader", async move { logs(&client, &look).await });
    let logs = world.within(WHOLE_LIMIT, "a healed cluster tells its logs", read).await?;
    let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
    for (partition, first, entries) in logs {
        for (index, entry) in (first..).zip(&entries) {
            watched.cuts.entry(partition, index, entry)?;
        }
    }
    for (tx, told) in clients.of_cuts() {
        watched.cuts.transaction(tx, told);
    }
    watched.cuts.judge()?;
    watched.cuts.judge_quiet()
}

/// The log of every copy, as far as it goes back.
async fn logs(
    client: &Client,
    look: &Look,
) -> Vec<(PartitionId, u64, Vec<cutwater_engine::tables::entry::Entry>)> {
    let mut logs = Vec::new();
    for ((partition, node), report) in &look.reports {
        let address = look.state.members[usize::from(*node)].address;
        if let Ok(entries) = client.log(address, *partition, report.log_before).await {
            logs.push((*partition, report.log_before + 1, entries));
        }
    }
    logs
}

fn judge_histories(clients: &Clients) -> Result<(), Violation> {
    let told = clients.told();
    linearizable::check(&told.calls)?;
    let transactions: Vec<serializable::Transaction> =
        told.made.iter().map(|made| made.transaction.clone()).collect();
    serializable::check(&transactions, serializable::Model::StrictSerializable)
}
