//! Each rule broken once; and a small cluster that follows the rules, whose runs must be accepted, whatever is delayed. If times are then
//! changed, the rules written out over all pairs are the judge.

use std::collections::VecDeque;

use bytes::Bytes;
use cutwater_engine::tables::ids::HybridTime;
use cutwater_engine::tables::rows::{Change, Read};
use proptest::prelude::*;

use super::*;

const A: PartitionId = PartitionId { table: 1, number: 0 };
const B: PartitionId = PartitionId { table: 1, number: 1 };

fn change(key: &str) -> Change {
    Change { key: Bytes::copy_from_slice(key.as_bytes()), value: Some(Bytes::new()) }
}

fn one_phase(tx: u128, key: &str) -> Entry {
    Entry::Write { tx: TxId(tx), time: HybridTime(0), changes: vec![change(key)] }
}

fn prepare(tx: u128, key: &str) -> Entry {
    let (participants, changes) = (vec![A, B], vec![change(key)]);
    Entry::Prepare { tx: TxId(tx), decider: A, participants, reads: vec![], changes }
}

fn decide(tx: u128, generation: CutId) -> Entry {
    Entry::Decide { tx: TxId(tx), commit: true, generation, time: HybridTime(0) }
}

fn finish(tx: u128, generation: CutId) -> Entry {
    Entry::Finish { tx: TxId(tx), commit: true, generation, time: HybridTime(0) }
}

fn mark(cut: CutId, since: LogIndex) -> Entry {
    Entry::Mark { cut, since }
}

fn logs(a: &[Entry], b: &[Entry]) -> Cuts {
    let mut cuts = Cuts::new();
    for (partition, log) in [(A, a), (B, b)] {
        for (index, entry) in (1..).zip(log) {
            cuts.entry(partition, index, entry).unwrap();
        }
    }
    cuts
}

fn property<T: std::fmt::Debug>(result: Result<T, Violation>) -> String {
    result.expect_err("it does not hold").property
}

fn told(invoked_us: u64, answered_us: u64, saw: &[u128]) -> Told {
    let interval = Interval { invoked_us, answered_us: Some(answered_us) };
    Told { interval, outcome: Outcome::Done, saw: saw.iter().copied().map(TxId).collect() }
}

#[test]
fn a_transaction_that_was_prepared_before_a_mark_may_be_before_it() {
    let a = [prepare(1, "x"), decide(1, 0), finish(1, 0), mark(1, 4)];
    let b = [prepare(1, "y"), mark(1, 1), finish(1, 0)];
    let mut cuts = logs(&a, &b);
    assert_eq!(cuts.judge_quiet(), Ok(()));
    cuts.settled(A, 1, [TxId(1)].into()).unwrap();
    assert_eq!(cuts.judge(), Ok(()));
    cuts.settled(B, 1, [].into()).unwrap();
    assert_eq!(property(cuts.judge()), "a partition counts to a cut what is before it");
    assert_eq!(
        property(cuts.settled(B, 1, [TxId(1)].into())),
        "copies of a partition agree on what is before a cut"
    );
}

#[test]
fn sides_agree() {
    let a = [prepare(1, "x"), decide(1, 0), finish(1, 0)];
    let cuts = logs(&a, &[prepare(1, "y"), mark(1, 1), finish(1, 1)]);
    assert_eq!(property(cuts.judge()), "a transaction is on one side of a cut everywhere");
    let aborted = Entry::Finish { tx: TxId(1), commit: false, generation: 0, time: HybridTime(0) };
    let cuts = logs(&a, &[prepare(1, "y"), aborted]);
    assert_eq!(property(cuts.judge()), "a transaction has one outcome everywhere");
    let cuts = logs(&a, &[prepare(1, "y")]);
    assert_eq!(cuts.judge(), Ok(()));
    assert_eq!(property(cuts.judge_quiet()), "a transaction is whole in the end");
    let mut cuts = logs(&a, &[]);
    assert_eq!(property(cuts.entry(A, 2, &decide(1, 1))), "copies of a log agree");
}

#[test]
fn the_decider_counts_its_own_marks() {
    let cuts = logs(&[prepare(1, "x"), mark(1, 1), decide(1, 0)], &[]);
    assert_eq!(property(cuts.judge()), "the generation is that of the decider's last mark");
    let late =
        logs(&[prepare(1, "x"), decide(1, 0), finish(1, 0)], &[mark(1, 1), prepare(1, "y"), finish(1, 0)]);
    assert_eq!(property(late.judge()), "what is prepared after the mark of a cut is after the cut");
}

#[test]
fn marks_are_in_order_and_say_what_they_need() {
    assert_eq!(property(logs(&[mark(2, 1), mark(2, 2)], &[]).judge()), "marks grow");
    let early = logs(&[prepare(1, "x"), mark(1, 2)], &[]);
    assert_eq!(property(early.judge()), "a mark says from where on the log is needed");
}

#[test]
fn causes_are_before_their_effects() {
    // The second transaction replaces what the first wrote, and has an earlier generation.
    let a = [
        prepare(2, "z"),
        decide(2, 0),
        finish(2, 0),
        mark(1, 4),
        prepare(1, "x"),
        decide(1, 1),
        finish(1, 1),
    ];
    let b = [prepare(1, "y"), finish(1, 1), prepare(2, "y"), finish(2, 0)];
    assert_eq!(property(logs(&a, &b).judge()), "a cut is closed under causality");
    let mut cuts = logs(&[one_phase(1, "x"), mark(1, 2), one_phase(2, "z")], &[]);
    cuts.transaction(TxId(1), told(0, 9, &[2]));
    assert_eq!(property(cuts.judge()), "a cut is closed under causality");
}

#[test]
fn real_time_of_cuts_that_got_through() {
    // The first is after cut 1, the second before it, though it began later. That is what Ignite's cut allows (apache/ignite#13178).
    let mut cuts = logs(&[mark(1, 1), one_phase(1, "x")], &[one_phase(2, "y"), mark(1, 2)]);
    cuts.announced(1, 5).unwrap();
    cuts.transaction(TxId(1), told(10, 20, &[]));
    cuts.transaction(TxId(2), told(30, 40, &[]));
    assert_eq!(cuts.judge(), Ok(()), "it did not get through");
    cuts.passed(1, 50).unwrap();
    assert_eq!(property(cuts.judge()), "a cut is closed under real time");
    cuts.transaction(TxId(1), told(10, 30, &[]));
    assert_eq!(cuts.judge(), Ok(()));
    // A reader knows of it as well as a writer.
    cuts.transaction(TxId(3), told(21, 25, &[1]));
    assert_eq!(property(cuts.judge()), "a cut is closed under real time");
}

#[test]
fn times_of_the_cut_itself() {
    let mut cuts = logs(&[mark(1, 1), one_phase(1, "x")], &[one_phase(2, "y"), mark(1, 2)]);
    cuts.announced(1, 20).unwrap();
    cuts.passed(1, 50).unwrap();
    cuts.transaction(TxId(1), told(10, 19, &[]));
    assert_eq!(property(cuts.judge()), "what was answered before a cut was announced is before it");
    cuts.transaction(TxId(1), told(10, 30, &[]));
    cuts.transaction(TxId(2), told(51, 60, &[]));
    assert_eq!(property(cuts.judge()), "what begins after a cut got through is after it");
}

#[test]
fn cuts_have_an_order_and_one_fate() {
    let mut cuts = Cuts::new();
    assert_eq!(property(cuts.started(1, 1)), "a cut is announced before it is started");
    assert_eq!(property(cuts.passed(1, 1)), "a cut is announced before it ends");
    let mut cuts = Cuts::new();
    for cut in [1, 2] {
        cuts.announced(cut, cut).unwrap();
        cuts.started(1, cut).unwrap();
    }
    assert_eq!(property(cuts.started(1, 1)), "a node starts cuts in their order");
    cuts.restarted(1);
    cuts.started(1, 2).unwrap();
    assert_eq!(property(cuts.announced(2, 9)), "no number is used twice");
    cuts.given_up(2).unwrap();
    assert_eq!(property(cuts.passed(2, 9)), "a cut gets through or is given up");
}

const PARTITIONS: usize = 3;
const CLIENTS: usize = 4;

/// A node for each partition, and one that drives the transactions of each client. Every message carries the sender's cut.
#[derive(Default)]
struct Cluster {
    now_us: u64,
    cut: CutId,
    passed: CutId,
    nodes: [CutId; PARTITIONS],
    logs: [Vec<Entry>; PARTITIONS],
    rows: BTreeMap<(usize, u8), (LogIndex, TxId)>,
    locks: BTreeMap<(usize, u8), TxId>,
    clients: [Client; CLIENTS],
    next: u128,
    cuts: Cuts,
    told: BTreeMap<TxId, Told>,
}

#[derive(Default)]
struct Client {
    cut: CutId,
    tx: Option<Driven>,
}

struct Driven {
    tx: TxId,
    keys: Vec<(usize, u8)>,
    to_prepare: VecDeque<(usize, u8)>,
    prepared: Vec<(usize, u8)>,
    decided: Option<(bool, CutId)>,
    invoked_us: u64,
    saw: BTreeSet<TxId>,
}

fn id(partition: usize) -> PartitionId {
    PartitionId { table: 1, number: u16::try_from(partition).expect("few") }
}

impl Cluster {
    fn start(&mut self, partition: usize, cut: CutId) {
        if self.nodes[partition] < cut {
            self.nodes[partition] = cut;
            let open = self.locks.iter().filter(|((at, _), _)| *at == partition).map(|(_, tx)| *tx);
            let open: BTreeSet<TxId> = open.collect();
            let is_open = |entry: &&Entry| matches!(entry, Entry::Prepare { tx, .. } if open.contains(tx));
            let first = self.logs[partition].iter().position(|entry| is_open(&entry));
            let since = first.unwrap_or(self.logs[partition].len()) as u64 + 1;
            self.logs[partition].push(mark(cut, since));
            self.cuts.started(u16::try_from(partition).expect("few"), cut).unwrap();
        }
        if self.passed < self.cut && self.nodes.iter().all(|node| *node == self.cut) {
            self.passed = self.cut;
            self.cuts.passed(self.cut, self.now_us).unwrap();
        }
    }

    /// A message from the driver of a client's transaction to the partition, and its answer.
    fn meet(&mut self, client: usize, partition: usize) {
        self.start(partition, self.clients[client].cut);
        self.clients[client].cut = self.nodes[partition];
    }

    fn begin(&mut self, client: usize, choice: u8) {
        self.next += 1;
        let mut keys: Vec<(usize, u8)> = (0..PARTITIONS)
            .filter(|partition| {
                choice & (1 << partition) != 0 || *partition == usize::from(choice) % PARTITIONS
            })
            .map(|partition| (partition, choice >> 3 & 1))
            .collect();
        keys.sort_unstable();
        let mut saw = BTreeSet::new();
        for key in &keys {
            self.meet(client, key.0);
            saw.extend(self.rows.get(key).map(|(_, tx)| *tx));
        }
        let tx = TxId(self.next);
        let to_prepare = keys.iter().copied().collect();
        let (prepared, invoked_us) = (vec![], self.now_us);
        self.clients[client].tx =
            Some(Driven { tx, keys, to_prepare, prepared, decided: None, invoked_us, saw });
    }

    /// The next step of a client's transaction.
    fn step(&mut self, client: usize, choice: u8) {
        let Some(mut driven) = self.clients[client].tx.take() else { return self.begin(client, choice) };
        let tx = driven.tx;
        if let Some(key) = driven.to_prepare.pop_front() {
            self.meet(client, key.0);
            let seen = self.rows.get(&key).copied();
            if self.locks.contains_key(&key) || seen.is_some_and(|(_, other)| !driven.saw.contains(&other)) {
                driven.to_prepare.clear();
                driven.decided = Some((false, 0));
            } else if driven.keys.len() == 1 {
                self.logs[key.0].push(one_phase(tx.0, &key.1.to_string()));
                self.rows.insert(key, (self.logs[key.0].len() as u64, tx));
                driven.decided = Some((true, self.nodes[key.0]));
            } else {
                let name = Bytes::from(key.1.to_string());
                let reads = vec![Read { key: name.clone(), version: seen.map(|(version, _)| version) }];
                let changes = vec![Change { key: name, value: Some(Bytes::new()) }];
                let participants = driven.keys.iter().map(|key| id(key.0)).collect();
                let decider = id(driven.keys[0].0);
                self.logs[key.0].push(Entry::Prepare { tx, decider, participants, reads, changes });
                self.locks.insert(key, tx);
                driven.prepared.push(key);
            }
        } else if let Some((commit, generation)) = driven.decided {
            if let Some(key) = driven.prepared.pop() {
                self.meet(client, key.0);
                self.logs[key.0].push(Entry::Finish { tx, commit, generation, time: HybridTime(0) });
                self.locks.remove(&key);
                if commit {
                    self.rows.insert(key, (self.logs[key.0].len() as u64, tx));
                }
            } else if self.clients[client].cut <= self.passed {
                // Nobody is answered while a cut that the node has started is not through.
                let Driven { invoked_us, saw, .. } = driven;
                let outcome = if commit { Outcome::Done } else { Outcome::Failed };
                let interval = Interval { invoked_us, answered_us: Some(self.now_us) };
                self.told.insert(tx, Told { interval, outcome, saw });
                return;
            }
        } else {
            let decider = driven.keys[0].0;
            self.meet(client, decider);
            driven.decided = Some((true, self.nodes[decider]));
            self.logs[decider].push(decide(tx.0, self.nodes[decider]));
        }
        self.clients[client].tx = Some(driven);
    }

    fn run(script: &[(u8, u8)]) -> Cluster {
        let mut cluster = Cluster::default();
        for (what, choice) in script {
            cluster.now_us += 1;
            match usize::from(*what) {
                0 if cluster.passed == cluster.cut => {
                    cluster.cut += 1;
                    cluster.cuts.announced(cluster.cut, cluster.now_us).unwrap();
                }
                1 => cluster.start(usize::from(*choice) % PARTITIONS, cluster.cut),
                what => cluster.step(what % CLIENTS, *choice),
            }
        }
        for (partition, log) in cluster.logs.iter().enumerate() {
            for (index, entry) in (1..).zip(log) {
                cluster.cuts.entry(id(partition), index, entry).unwrap();
            }
        }
        cluster
    }
}

/// The rules on times, over all pairs.
fn times_hold(cluster: &Cluster, sides: &BTreeMap<TxId, Side>) -> bool {
    let generation = |tx: &TxId| sides.get(tx).map(|side| side.generation);
    let knows =
        |tx: &TxId, told: &Told| told.saw.iter().chain([tx]).filter_map(generation).max().unwrap_or(0);
    let passed = |cut: &CutId| cluster.cuts.cuts.get(cut).and_then(|cut| cut.passed_us);
    cluster.told.iter().all(|(tx, told)| {
        let Some(own) = generation(tx) else { return true };
        let is_after = |cut: &CutId| own >= *cut;
        let began_late =
            |cut: &CutId| passed(cut).is_some_and(|passed_us| passed_us < told.interval.invoked_us);
        let closed = cluster.told.iter().all(|(earlier, other)| {
            let is_earlier = other.outcome == Outcome::Done && other.interval.precedes(&told.interval);
            !is_earlier
                || (1..=knows(earlier, other)).filter(|cut| passed(cut).is_some()).all(|cut| is_after(&cut))
        });
        let announced_us = cluster.cuts.cuts.get(&knows(tx, told)).and_then(|cut| cut.announced_us);
        let is_early = told.outcome == Outcome::Done && told.interval.answered_us < announced_us;
        closed && !is_early && (1..=cluster.cut).all(|cut| !began_late(&cut) || is_after(&cut))
    })
}

fn scripts() -> impl Strategy<Value = Vec<(u8, u8)>> {
    proptest::collection::vec((0u8..14, any::<u8>()), 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn who_follows_the_rules_is_accepted(script in scripts()) {
        let mut cluster = Cluster::run(&script);
        for (tx, told) in cluster.told.clone() {
            cluster.cuts.transaction(tx, told);
        }
        prop_assert_eq!(cluster.cuts.judge(), Ok(()));
    }

    #[test]
    fn other_times_are_judged_as_over_all_pairs(
        script in scripts(),
        shifts in proptest::collection::vec((0usize..60, -60i64..60, -60i64..60), 0..4),
    ) {
        let mut cluster = Cluster::run(&script);
        for (which, begin, end) in shifts {
            if let Some(told) = cluster.told.values_mut().nth(which) {
                let Interval { invoked_us, answered_us } = told.interval;
                let invoked_us = invoked_us.saturating_add_signed(begin);
                told.interval = Interval {
                    invoked_us,
                    answered_us: answered_us.map(|at| at.saturating_add_signed(end).max(invoked_us)),
                };
            }
        }
        for (tx, told) in cluster.told.clone() {
            cluster.cuts.transaction(tx, told);
        }
        let facts = cluster.cuts.logs.iter().map(|(p, log)| (*p, log.facts(*p).unwrap())).collect();
        let sides = sides(&facts).unwrap();
        let verdict = cluster.cuts.judge();
        prop_assert_eq!(verdict.is_ok(), times_hold(&cluster, &sides), "{:?}", verdict);
    }

    #[test]
    fn another_generation_is_found(script in scripts(), which in 0usize..40) {
        let mut cluster = Cluster::run(&script);
        let decided: Vec<(PartitionId, LogIndex)> = cluster.logs.iter().enumerate().flat_map(|(partition, log)| {
            let is_commit = |entry: &Entry| matches!(entry, Entry::Finish { commit: true, .. } | Entry::Decide { .. });
            (1..).zip(log).filter(move |(_, entry)| is_commit(entry)).map(move |(index, _)| (id(partition), index))
        }).collect();
        prop_assume!(!decided.is_empty());
        let (at, place) = decided[which % decided.len()];
        let mut cuts = Cuts::new();
        for (partition, log) in cluster.logs.iter_mut().enumerate() {
            for (index, entry) in (1..).zip(log) {
                if let Entry::Finish { generation, .. } | Entry::Decide { generation, .. } = entry
                    && (id(partition), index) == (at, place)
                {
                    *generation += 1;
                }
                cuts.entry(id(partition), index, entry).unwrap();
            }
        }
        prop_assert!(cuts.judge().is_err());
    }
}
