//! The clients: what they do, what they are told, and the histories that come of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cutwater_engine::tables::client::{Client, ClientError, Kind, Options, TableSpec, Transaction};
use cutwater_engine::tables::ids::TxId;
use cutwater_io::sim::{Crash, CrashKind, NodeId, Survivors};
use cutwater_io::time;
use cutwater_sim::history::{CallId, History};
use cutwater_sim::plan::Op;
use cutwater_sim::scenario::Violation;
use cutwater_sim::world::World;

use super::CLUSTER;
use crate::oracle::calls::{Interval, Outcome};
use crate::oracle::cuts::Told;
use crate::oracle::linearizable::{Action, Call};
use crate::oracle::serializable::{self, Operation};

/// The table of single keys.
pub(super) const KEYS: &str = "keys";
/// The table of lists.
pub(super) const LISTS: &str = "lists";
/// The table of accounts.
pub(super) const ACCOUNTS: &str = "accounts";

/// How many keys and lists there are.
pub(super) const NAMES: u64 = 8;
const ACCOUNTS_IN_ALL: u64 = 6;
/// What is in an account that nobody has touched.
const FIRST_BALANCE: u64 = 100;

/// A transaction that was made, and what the oracles of cuts must know of it.
#[derive(Clone)]
pub(super) struct Made {
    pub id: TxId,
    pub transaction: serializable::Transaction,
    pub saw: BTreeSet<TxId>,
}

/// What clients were told so far.
#[derive(Default)]
pub(super) struct Record {
    pub calls: Vec<Call>,
    pub made: Vec<Made>,
    /// Of each element of a list, the transaction that appended it.
    writers: BTreeMap<u64, TxId>,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Clients {
    pub world: World,
    nodes: Vec<SocketAddr>,
    told: Arc<Mutex<Record>>,
    history: History<String, String>,
}

/// One client, for as long as the run lasts.
struct One {
    client: Client,
    actor: u16,
    /// What it last saw of each key.
    seen: BTreeMap<u64, Option<u64>>,
}

impl Clients {
    /// Makes the tables, and starts the clients of the plan.
    pub fn start(world: &World, nodes: Vec<SocketAddr>) -> Clients {
        let clients = Clients { world: world.clone(), nodes, told: Arc::default(), history: History::new() };
        let setup = clients.clone();
        // Its end is that of the run, as is that of the others.
        drop(world.client("setup", async move { setup.make_tables().await }));
        for actor in world.actors() {
            let clients = clients.clone();
            drop(world.client(&format!("client-{actor}"), async move {
                let mut ops = clients.world.ops(actor);
                let mut one = None;
                while let Some(op) = ops.next().await {
                    if one.is_none() {
                        let client = clients.connect().await;
                        clients.wait_for_tables(&client).await;
                        one = Some(One { client, actor, seen: BTreeMap::new() });
                    }
                    let one = one.as_mut().expect("it is connected");
                    match clients.apply(one, &op).await {
                        Ok(answer) => clients.world.answered(&op, &answer),
                        Err(violation) => clients.world.object(violation),
                    }
                }
            }));
        }
        clients
    }

    /// Connects for as long as it takes.
    pub async fn connect(&self) -> Client {
        let patience = super::slow_round_trip(&self.world) + Duration::from_millis(1500);
        let options = Options { ask_timeout: patience * 3, timeout: patience * 4 };
        loop {
            if let Ok(client) = Client::connect_with(CLUSTER, self.nodes.clone(), options).await {
                return client;
            }
        }
    }

    /// Without tables there is nothing to do.
    async fn wait_for_tables(&self, client: &Client) {
        while !client.tables().await.is_ok_and(|tables| tables.iter().any(|table| table.name == ACCOUNTS)) {
            time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn make_tables(&self) {
        let client = self.connect().await;
        let number = |name| u16::try_from(self.world.knob(name)).expect("a small number");
        for (name, kind) in
            [(KEYS, Kind::Atomic), (LISTS, Kind::Transactional), (ACCOUNTS, Kind::Transactional)]
        {
            let (partitions, backups) = (number("partitions"), number("backups"));
            while !client.tables().await.is_ok_and(|tables| tables.iter().any(|table| table.name == name)) {
                let spec = TableSpec { name: name.into(), kind, partitions, backups };
                let made = client.create_table(spec).await;
                self.world.note("setup", &format!("{name}: {}", crate::cluster::told(&made)));
                time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// What was told so far.
    pub fn told(&self) -> MutexGuard<'_, Record> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn apply(&self, one: &mut One, op: &Op) -> Result<String, Violation> {
        let value = u64::from(op.id) + 1;
        match op.verb.as_str() {
            "get" | "put" | "delete" | "cas" => Ok(self.single(one, &op.verb, op.args[0], value).await),
            "append" => {
                let both = op.args[2] == 1 && op.args[0] != op.args[1];
                let appended = if both { vec![op.args[0], op.args[1]] } else { vec![op.args[0]] };
                Ok(self.lists(&one.client, one.actor, &[op.args[0], op.args[1]], &appended, value).await)
            }
            "look" => Ok(self.lists(&one.client, one.actor, &[op.args[0], op.args[1]], &[], value).await),
            "transfer" => Ok(self.transfer(one, op.args[0], op.args[1], op.args[2]).await),
            "audit" => self.audit(&one.client).await,
            "table" => Ok(self.table(&one.client, op.args[0]).await),
            "cut" => Ok(one
                .client
                .announce_cut()
                .await
                .map_or_else(|error| error.to_string(), |cut| format!("cut {cut}"))),
            "outage" => {
                self.kill_all(op);
                Ok("every node lost power".into())
            }
            other => unreachable!("{other} is not in the vocabulary"),
        }
    }

    fn kill_all(&self, op: &Op) {
        let down_us = u32::try_from(op.args[0]).expect("within the vocabulary's range");
        for node in 1..=self.world.count("node") {
            let kind = CrashKind::PowerFail(Survivors::Each { permille: 500, key: op.id });
            self.world.env().crash(NodeId(node), Crash { kind, down_us });
        }
    }

    fn answer(&self, id: CallId, outcome: Outcome, what: &str) -> String {
        match outcome {
            Outcome::Done => self.history.ok(id, what.to_owned()),
            Outcome::Failed => self.history.fail(id, what),
            Outcome::Unknown => self.history.info(id, what),
        }
        what.to_owned()
    }

    /// An operation on a single key.
    async fn single(&self, one: &mut One, verb: &str, number: u64, value: u64) -> String {
        let key = format!("k{number}");
        let expected = one.seen.get(&number).copied().flatten();
        let id = self.history.invoke(one.actor, format!("{verb} {key}"));
        let interval = Interval { invoked_us: self.world.now_us(), answered_us: None };
        let begun = match verb {
            "put" => Action::Write(value),
            "delete" => Action::Delete,
            "cas" => Action::CompareAndSet { expected, new: Some(value) },
            _ => Action::Read(None),
        };
        // Others may see what it writes, whether it is answered before the run ends or not.
        let at = {
            let mut told = self.told();
            let outcome = Outcome::Unknown;
            told.calls.push(Call { actor: one.actor, key: key.clone(), interval, outcome, action: begun });
            told.calls.len() - 1
        };
        let client = &one.client;
        let (action, outcome, what) = match verb {
            "get" => match client.get(KEYS, key.as_bytes()).await {
                Ok(found) => {
                    let found = found.map(|bytes| number_of(&bytes));
                    (Action::Read(found), Outcome::Done, format!("{found:?}"))
                }
                Err(error) => (Action::Read(None), Outcome::Failed, error.to_string()),
            },
            "put" => done(Action::Write(value), client.put(KEYS, key.as_bytes(), &value.to_le_bytes()).await),
            "delete" => done(Action::Delete, client.delete(KEYS, key.as_bytes()).await),
            _ => {
                let before = expected.map(u64::to_le_bytes);
                let before = before.as_ref().map(|bytes| &bytes[..]);
                let change = Action::CompareAndSet { expected, new: Some(value) };
                match client.compare_and_set(KEYS, key.as_bytes(), before, Some(&value.to_le_bytes())).await {
                    Ok(Ok(())) => (change, Outcome::Done, "changed".into()),
                    Ok(Err(found)) => {
                        let found = found.map(|bytes| number_of(&bytes));
                        (Action::Read(found), Outcome::Done, format!("it holds {found:?}"))
                    }
                    Err(error) => done(change, Err(error)),
                }
            }
        };
        if outcome == Outcome::Done {
            let now = match action {
                Action::Read(found) => found,
                Action::Write(new) | Action::CompareAndSet { new: Some(new), .. } => Some(new),
                _ => None,
            };
            one.seen.insert(number, now);
        }
        let call = &mut self.told().calls[at];
        call.interval.answered_us = Some(self.world.now_us());
        (call.outcome, call.action) = (outcome, action);
        self.answer(id, outcome, &what)
    }

    /// A transaction over lists.
    pub async fn lists(
        &self,
        client: &Client,
        actor: u16,
        read: &[u64],
        appended: &[u64],
        element: u64,
    ) -> String {
        let id = self.history.invoke(actor, format!("read lists {read:?}, append {element} to {appended:?}"));
        let invoked_us = self.world.now_us();
        let mut transaction = client.transaction();
        let tx = transaction.id();
        let mut operations = Vec::new();
        let failed = self.try_lists(&mut transaction, read, appended, element, &mut operations).await;
        let at = self.begins_to_commit(tx, actor, invoked_us, operations, element);
        let (outcome, what) = match failed {
            Err(error) => (Outcome::Failed, error.to_string()),
            Ok(()) => {
                let ((), outcome, what) = done((), transaction.commit().await);
                (outcome, what)
            }
        };
        let made = &mut self.told().made[at].transaction;
        made.interval.answered_us = Some(self.world.now_us());
        made.outcome = outcome;
        self.answer(id, outcome, &what)
    }

    /// From now on others may see what it appends, whether it is answered before the run ends or not.
    fn begins_to_commit(
        &self,
        tx: TxId,
        actor: u16,
        invoked_us: u64,
        operations: Vec<Operation>,
        element: u64,
    ) -> usize {
        let mut told = self.told();
        if operations.iter().any(|operation| matches!(operation, Operation::Append { .. })) {
            told.writers.insert(element, tx);
        }
        let seen = operations.iter().flat_map(|operation| match operation {
            Operation::ReadList { elements, .. } => elements.clone(),
            _ => Vec::new(),
        });
        let saw = seen
            .filter_map(|element| told.writers.get(&element).copied())
            .filter(|seen| *seen != tx)
            .collect();
        let interval = Interval { invoked_us, answered_us: None };
        let transaction =
            serializable::Transaction { actor, interval, outcome: Outcome::Unknown, operations };
        told.made.push(Made { id: tx, transaction, saw });
        told.made.len() - 1
    }

    async fn try_lists(
        &self,
        transaction: &mut Transaction,
        read: &[u64],
        appended: &[u64],
        element: u64,
        operations: &mut Vec<Operation>,
    ) -> Result<(), ClientError> {
        let mut lists = BTreeMap::new();
        for number in read {
            let key = format!("l{number}");
            let list = transaction.get(LISTS, key.as_bytes()).await?.unwrap_or_default();
            if lists.insert(*number, list.clone()).is_none() {
                operations
                    .push(Operation::ReadList { key, elements: list.chunks(8).map(number_of).collect() });
            }
        }
        for number in appended {
            let key = format!("l{number}");
            let longer = [&lists[number][..], &element.to_le_bytes()].concat();
            transaction.put(LISTS, key.as_bytes(), &longer);
            operations.push(Operation::Append { key, element });
        }
        Ok(())
    }

    async fn transfer(&self, one: &One, from: u64, to: u64, amount: u64) -> String {
        let id = self.history.invoke(one.actor, format!("{amount} from account {from} to {to}"));
        let moved = async {
            let mut transaction = one.client.transaction();
            let mut balances = BTreeMap::new();
            for account in [from, to] {
                let found = transaction.get(ACCOUNTS, format!("a{account}").as_bytes()).await?;
                balances.insert(account, found.map_or(FIRST_BALANCE, |bytes| number_of(&bytes)));
            }
            let amount = amount.min(balances[&from]);
            *balances.get_mut(&from).expect("it was read") -= amount;
            *balances.get_mut(&to).expect("it was read") += amount;
            for (account, balance) in balances {
                transaction.put(ACCOUNTS, format!("a{account}").as_bytes(), &balance.to_le_bytes());
            }
            transaction.commit().await
        };
        let ((), outcome, what) = done((), moved.await);
        self.answer(id, outcome, &what)
    }

    /// Reads all accounts, and judges their sum.
    pub async fn audit(&self, client: &Client) -> Result<String, Violation> {
        let read = async {
            let mut transaction = client.transaction();
            let mut sum = 0;
            for account in 0..ACCOUNTS_IN_ALL {
                let found = transaction.get(ACCOUNTS, format!("a{account}").as_bytes()).await?;
                sum += found.map_or(FIRST_BALANCE, |bytes| number_of(&bytes));
            }
            transaction.commit().await?;
            Ok::<u64, ClientError>(sum)
        };
        match read.await {
            Ok(sum) if sum == ACCOUNTS_IN_ALL * FIRST_BALANCE => Ok("the sum is right".into()),
            Ok(sum) => Err(Violation::new("bank", "the sum of all accounts is always the same")
                .of("sum")
                .expected(ACCOUNTS_IN_ALL * FIRST_BALANCE)
                .found(sum)),
            Err(error) => Ok(error.to_string()),
        }
    }

    /// Makes a table and writes to it, or drops it.
    async fn table(&self, client: &Client, number: u64) -> String {
        let name = format!("t{number}");
        let there = match client.tables().await {
            Ok(tables) => tables.iter().any(|table| table.name == name),
            Err(error) => return error.to_string(),
        };
        let done = match there {
            true => client.drop_table(&name).await,
            false => {
                let spec =
                    TableSpec { name: name.clone(), kind: Kind::Transactional, partitions: 2, backups: 1 };
                match client.create_table(spec).await {
                    Ok(()) => client.put(&name, b"first", b"row").await,
                    Err(error) => Err(error),
                }
            }
        };
        format!(
            "{}: {}",
            if there { "drop" } else { "make" },
            done.map_or_else(|error| error.to_string(), |()| "done".into())
        )
    }

    /// Reads every key once more, as a client of its own.
    pub async fn read_all(&self, client: Client) {
        let actor = u16::MAX;
        let mut one = One { client, actor, seen: BTreeMap::new() };
        for number in 0..NAMES {
            self.single(&mut one, "get", number, 0).await;
        }
        // All of them in one transaction: what is in none of them is lost.
        let all: Vec<u64> = (0..NAMES).collect();
        self.lists(&one.client, actor, &all, &[], 0).await;
    }

    /// What the oracle of cuts must know of the transactions.
    pub fn of_cuts(&self) -> Vec<(TxId, Told)> {
        let of = |made: &Made| {
            let serializable::Transaction { interval, outcome, .. } = made.transaction;
            (made.id, Told { interval, outcome, saw: made.saw.clone() })
        };
        self.told().made.iter().map(of).collect()
    }
}

fn number_of(bytes: impl AsRef<[u8]>) -> u64 {
    u64::from_le_bytes(bytes.as_ref().try_into().expect("all values are of eight bytes"))
}

/// How a call ended that returns nothing.
fn done<T>(what: T, result: Result<(), ClientError>) -> (T, Outcome, String) {
    match result {
        Ok(()) => (what, Outcome::Done, "done".into()),
        Err(error @ (ClientError::OutcomeUnknown { .. } | ClientError::ChangeUnknown { .. })) => {
            (what, Outcome::Unknown, error.to_string())
        }
        Err(error) => (what, Outcome::Failed, error.to_string()),
    }
}
