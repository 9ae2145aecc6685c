//! Cuts over several partitions, with transactions in flight: every message carries its sender's cut, whoever receives a higher one
//! marks it first, and that is all it takes.
//!
//! One node per partition, two more on which clients are served. Messages arrive in any order, entries are applied at any time, those who drive
//! a transaction die, and its decider then settles it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::tests::{Site, content_of, fold, key};
use super::*;
use crate::tables::entry::Entry;
use crate::tables::ids::{CutId, LogIndex, PartitionId, TxId};
use crate::tables::rows::{Change, Read, Row};

const SITES: u16 = 3;
const NEARS: usize = 2;
const KEYS: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Near(usize),
    Site(usize),
}

/// What is on its way, with the cut of its sender.
#[derive(Clone, Debug)]
enum Message {
    Request { to: usize, from: From, request: Request, facts: Facts, cut: CutId },
    Answer { to: From, from: usize, tx: TxId, answer: Answer, cut: CutId },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Prepared,
    Refused,
    Finished,
}

type Waiter = (From, TxId, Answer);

#[derive(Clone, Debug)]
struct Driven {
    near: usize,
    parts: BTreeMap<usize, (Vec<Read>, Vec<Change>)>,
    facts: BTreeMap<usize, Facts>,
    prepared: BTreeSet<usize>,
}

impl Driven {
    fn decider(&self) -> usize {
        *self.parts.first_key_value().unwrap().0
    }
}

struct World {
    sites: Vec<Site>,
    cuts: Vec<CutId>,
    near_cuts: [CutId; NEARS],
    messages: Vec<Message>,
    /// Who wants to know when an entry is applied.
    waiters: BTreeMap<(usize, LogIndex), Vec<Waiter>>,
    driven: BTreeMap<TxId, Driven>,
    settling: BTreeMap<TxId, BTreeSet<usize>>,
    finishing: BTreeMap<TxId, BTreeSet<usize>>,
    next_tx: u128,
    next_cut: CutId,
}

fn id(site: usize) -> PartitionId {
    PartitionId { table: 1, number: site as u16 }
}

impl World {
    fn new() -> World {
        World {
            sites: (0..usize::from(SITES)).map(|site| Site::new(id(site))).collect(),
            cuts: vec![0; usize::from(SITES)],
            near_cuts: [0; NEARS],
            messages: Vec::new(),
            waiters: BTreeMap::new(),
            driven: BTreeMap::new(),
            settling: BTreeMap::new(),
            finishing: BTreeMap::new(),
            next_tx: 0,
            next_cut: 1,
        }
    }

    /// The one rule: a higher cut is begun before anything else is done.
    fn hears(&mut self, site: usize, cut: CutId) {
        if cut > self.cuts[site] {
            self.cuts[site] = cut;
            self.sites[site].admit(&Request::Mark { cut }, &Facts::default()).unwrap();
        }
    }

    fn begin(&mut self, near: usize, sites: u8, bits: u8, value: u8) {
        self.next_tx += 1;
        let tx = TxId(self.next_tx);
        let mut driven =
            Driven { near, parts: BTreeMap::new(), facts: BTreeMap::new(), prepared: BTreeSet::new() };
        for site in (0..self.sites.len()).filter(|site| sites & (1 << site) != 0) {
            // Its answer to a read carries the cut, like any other.
            self.near_cuts[near] = self.near_cuts[near].max(self.cuts[site]);
            let may_read = |k: &u8| self.sites[site].partition.may_read(&key(*k)).is_ok();
            let facts = self.sites[site].facts((0..KEYS).map(key));
            let read = |k: u8| Read { key: key(k), version: facts.versions[&key(k)] };
            let change = |k: u8| {
                let value = (!value.is_multiple_of(5)).then(|| Bytes::from(vec![value, k]));
                Change { key: key(k), value }
            };
            let reads = (0..KEYS).filter(|k| bits & (1 << k) != 0).filter(may_read).map(read).collect();
            let changes = (0..KEYS).filter(|k| (bits >> 3) & (1 << k) != 0).map(change).collect();
            driven.parts.insert(site, (reads, changes));
            driven.facts.insert(site, facts);
        }
        if driven.parts.len() == 1 {
            let (site, (reads, changes)) = driven.parts.pop_first().unwrap();
            let facts = driven.facts.remove(&site).unwrap();
            let request = Request::Write { tx, reads, changes };
            self.request(site, From::Near(near), request, facts);
        } else if driven.parts.len() > 1 {
            let decider = driven.decider();
            self.driven.insert(tx, driven);
            self.prepare(tx, decider);
        }
    }

    fn prepare(&mut self, tx: TxId, site: usize) {
        let driven = &self.driven[&tx];
        let (reads, changes) = driven.parts[&site].clone();
        let (facts, near) = (driven.facts[&site].clone(), driven.near);
        let participants = driven.parts.keys().map(|site| id(*site)).collect();
        let request = Request::Prepare { tx, decider: id(driven.decider()), participants, reads, changes };
        self.request(site, From::Near(near), request, facts);
    }

    fn request(&mut self, to: usize, from: From, request: Request, facts: Facts) {
        let cut = match from {
            From::Near(near) => self.near_cuts[near],
            From::Site(site) => self.cuts[site],
        };
        self.messages.push(Message::Request { to, from, request, facts, cut });
    }

    fn deliver(&mut self, which: usize) {
        match self.messages.swap_remove(which % self.messages.len()) {
            Message::Request { to, from, request, facts, cut } => {
                self.hears(to, cut);
                self.handle(to, from, request, facts);
            }
            Message::Answer { to: From::Near(near), from, tx, answer, cut } => {
                self.near_cuts[near] = self.near_cuts[near].max(cut);
                self.near_hears(tx, from, answer);
            }
            Message::Answer { to: From::Site(site), from, tx, answer, cut } => {
                self.hears(site, cut);
                self.decider_hears(site, tx, from, answer);
            }
        }
    }

    fn handle(&mut self, site: usize, from: From, request: Request, facts: Facts) {
        let (tx, done) = match &request {
            Request::Write { tx, .. } | Request::Decide { tx, .. } | Request::Finish { tx, .. } => {
                (*tx, Answer::Finished)
            }
            Request::Prepare { tx, .. } => (*tx, Answer::Prepared),
            Request::Settle { tx } => (*tx, Answer::Refused),
            _ => unreachable!("not sent"),
        };
        let is_asked = matches!(request, Request::Prepare { .. } | Request::Settle { .. });
        let next = self.sites[site].admission.next_index();
        let (index, answer) = match self.sites[site].admit(&request, &facts) {
            Ok(Admitted::Append(_)) => (next, done),
            Ok(Admitted::Known { index, state: Known::Ended(Outcome { commit: false, .. }) }) if is_asked => {
                (index, Answer::Refused)
            }
            Ok(Admitted::Known { index, .. }) if is_asked => (index, Answer::Prepared),
            Ok(Admitted::Known { index, .. }) => (index, done),
            Ok(Admitted::Nothing | Admitted::Unknown) => (0, done),
            Err(Refused::Conflict(_) | Refused::Stale { .. }) => (0, Answer::Refused),
            Err(refused) => panic!("{refused}"),
        };
        if index > self.sites[site].partition.applied() {
            self.waiters.entry((site, index)).or_default().push((from, tx, answer));
        } else {
            self.answer(site, from, tx, answer);
        }
    }

    fn answer(&mut self, site: usize, to: From, tx: TxId, answer: Answer) {
        self.messages.push(Message::Answer { to, from: site, tx, answer, cut: self.cuts[site] });
    }

    fn apply(&mut self, site: usize) {
        let Some(applied) = self.sites[site].apply() else { return };
        let index = self.sites[site].partition.applied();
        for (from, tx, answer) in self.waiters.remove(&(site, index)).unwrap_or_default() {
            self.answer(site, from, tx, answer);
        }
        for effect in applied.effects {
            if let Effect::Decided(tx) = effect {
                self.settling.remove(&tx);
                self.finishing.insert(tx, BTreeSet::new());
                let Decision { commit, generation, time, participants, .. } =
                    self.sites[site].partition.ledger().decided()[&tx].clone();
                for participant in participants {
                    let request = Request::Finish { tx, commit, generation, time };
                    let to = usize::from(participant.number);
                    self.request(to, From::Site(site), request, Facts::default());
                }
            }
        }
    }

    fn near_hears(&mut self, tx: TxId, from: usize, answer: Answer) {
        let Some(driven) = self.driven.get_mut(&tx) else { return };
        match answer {
            Answer::Prepared => {
                driven.prepared.insert(from);
                let (decider, prepared) = (driven.decider(), driven.prepared.len());
                if prepared == driven.parts.len() {
                    self.decide(tx, true);
                } else if prepared == 1 {
                    let others: Vec<usize> = driven.parts.keys().copied().filter(|s| *s != decider).collect();
                    others.into_iter().for_each(|site| self.prepare(tx, site));
                }
            }
            Answer::Refused => self.decide(tx, false),
            Answer::Finished => {}
        }
    }

    fn decide(&mut self, tx: TxId, commit: bool) {
        let driven = self.driven.remove(&tx).unwrap();
        let request = Request::Decide { tx, commit };
        self.request(driven.decider(), From::Near(driven.near), request, Facts::default());
    }

    /// A decider loses patience with one that nobody drives any more.
    fn settle(&mut self, which: usize) {
        let undecided: Vec<(usize, TxId, Vec<PartitionId>)> = (0..self.sites.len())
            .flat_map(|site| {
                let ledger = self.sites[site].partition.ledger();
                let is_ours = |(tx, p): &(&TxId, &Prepared)| {
                    p.decider == id(site) && !ledger.decided().contains_key(tx)
                };
                let each = |(tx, p): (&TxId, &Prepared)| (site, *tx, p.participants.clone());
                ledger.prepared().iter().filter(is_ours).map(each).collect::<Vec<_>>()
            })
            .collect();
        if let Some((site, tx, participants)) = undecided.get(which % undecided.len().max(1)).cloned() {
            self.settling.insert(tx, BTreeSet::new());
            for participant in participants {
                let to = usize::from(participant.number);
                self.request(to, From::Site(site), Request::Settle { tx }, Facts::default());
            }
        }
    }

    fn decider_hears(&mut self, site: usize, tx: TxId, from: usize, answer: Answer) {
        match answer {
            Answer::Finished => {
                let Some(finished) = self.finishing.get_mut(&tx) else { return };
                finished.insert(from);
                let all =
                    self.sites[site].partition.ledger().decided().get(&tx).map(|d| d.participants.len());
                if Some(finished.len()) == all {
                    self.finishing.remove(&tx);
                    self.sites[site].admit(&Request::Forget { tx }, &Facts::default()).unwrap();
                }
            }
            Answer::Prepared | Answer::Refused => {
                let Some(prepared) = self.settling.get_mut(&tx) else { return };
                prepared.insert(from);
                let all =
                    self.sites[site].partition.ledger().prepared().get(&tx).map(|p| p.participants.len());
                let is_refused = answer == Answer::Refused;
                if is_refused || Some(prepared.len()) == all {
                    self.settling.remove(&tx);
                    let request = Request::Decide { tx, commit: !is_refused };
                    self.sites[site].admit(&request, &Facts::default()).unwrap();
                }
            }
        }
    }

    fn happen(&mut self, (what, a, b, c): (u8, u8, u8, u8)) {
        match what % 16 {
            0..4 => self.begin(usize::from(c) % NEARS, a, b, c),
            4..9 if !self.messages.is_empty() => self.deliver(usize::from(a) << 3 | usize::from(b)),
            9..13 => self.apply(usize::from(a) % self.sites.len()),
            13 => {
                // Somebody hears of a new cut from the register.
                let cut = self.next_cut;
                self.next_cut += 1;
                match usize::from(a) % (self.sites.len() + NEARS) {
                    near if near < NEARS => self.near_cuts[near] = cut,
                    site => self.hears(site - NEARS, cut),
                }
            }
            14 => {
                // Who drives it has died.
                let nth = usize::from(a) % self.driven.len().max(1);
                let tx = self.driven.keys().nth(nth).copied();
                tx.map(|tx| self.driven.remove(&tx));
            }
            15 => self.settle(usize::from(a)),
            _ => {}
        }
    }

    /// Everything comes to its end, and every partition has every cut.
    fn end(&mut self) {
        for round in 0.. {
            assert!(round < 50, "it does not end");
            while !self.messages.is_empty() {
                self.deliver(0);
            }
            for site in 0..self.sites.len() {
                while self.sites[site].partition.applied() < self.sites[site].log.len() as LogIndex {
                    self.apply(site);
                }
            }
            if self.messages.is_empty()
                && self.sites.iter().all(|s| s.partition.ledger().prepared().is_empty())
            {
                break;
            }
            if self.messages.is_empty() {
                self.driven.clear();
                self.settling.clear();
                self.settle(0);
            }
        }
    }
}

/// The side of each transaction at a partition, as its log says, and which transaction wrote each version.
fn sides(log: &[Entry]) -> (BTreeMap<TxId, (bool, CutId)>, BTreeMap<LogIndex, TxId>) {
    let (mut sides, mut writers, mut last) = (BTreeMap::new(), BTreeMap::new(), 0);
    for (i, entry) in log.iter().enumerate() {
        match entry {
            Entry::Mark { cut, .. } => last = *cut,
            Entry::Write { tx, .. } => {
                sides.insert(*tx, (true, last));
                writers.insert(i as LogIndex + 1, *tx);
            }
            Entry::Finish { tx, commit, generation, .. } => {
                sides.insert(*tx, (*commit, *generation));
                writers.insert(i as LogIndex + 1, *tx);
            }
            _ => {}
        }
    }
    (sides, writers)
}

/// The rows at a cut, by what a cut is: the log to its mark, and what finishes later with a lower generation.
fn rows_at(site: &Site, cut: CutId) -> Option<(BTreeMap<Bytes, Row>, LogIndex)> {
    let mark = site.log.iter().position(|entry| matches!(entry, Entry::Mark { cut: c, .. } if *c == cut))?;
    let (mut partition, mut rows) = (Partition::new(site.partition.id(), Folded::default()), BTreeMap::new());
    let (mut at_cut, mut last) = (BTreeMap::new(), mark as LogIndex + 1);
    for (i, entry) in site.log.iter().enumerate() {
        let applied = fold(&mut partition, &mut rows, entry);
        if i == mark {
            at_cut = rows.clone();
        }
        if i > mark && matches!(entry, Entry::Finish { commit: true, generation, .. } if *generation < cut) {
            for RowChange { key, row } in applied.changes {
                match row {
                    Some(row) => drop(at_cut.insert(key, row)),
                    None => drop(at_cut.remove(&key)),
                }
            }
            last = i as LogIndex + 1;
        }
    }
    Some((at_cut, last))
}

fn judge(world: &World) {
    let logs: Vec<_> = world.sites.iter().map(|site| sides(&site.log)).collect();
    let mut side_of: BTreeMap<TxId, (bool, CutId)> = BTreeMap::new();
    for (tx, side) in logs.iter().flat_map(|(sides, _)| sides) {
        let known = side_of.entry(*tx).or_insert(*side);
        if known.0 || side.0 {
            assert_eq!(known, side, "transaction {tx} has two sides");
        }
    }
    for (site, (_, writers)) in world.sites.iter().zip(&logs) {
        for entry in &site.log {
            let Entry::Prepare { tx, reads, .. } = entry else { continue };
            let (committed, generation) = side_of[tx];
            for read in reads.iter().filter(|_| committed) {
                let writer = read.version.map(|version| side_of[&writers[&version]]);
                assert!(
                    writer.is_none_or(|(_, before)| before <= generation),
                    "transaction {tx} is before a cut that what it has read is after"
                );
            }
        }
        for cut in site.partition.ledger().cuts().keys() {
            let known = site.partition.cut(*cut).unwrap();
            let (rows, last) = rows_at(site, *cut).expect("its mark is in the log");
            assert_eq!(known.content, content_of(&rows), "the sum at cut {cut}");
            let settled = known.waiting.settled.expect("nothing is prepared any more");
            assert!(settled >= last, "cut {cut} settled at {settled}, and changed at {last}");
            let prepares = site.log.iter().enumerate().filter(|(_, e)| matches!(e, Entry::Prepare { .. }));
            for (at, entry) in prepares {
                let Entry::Prepare { tx, .. } = entry else { continue };
                let (index, mark) = (at as LogIndex + 1, known.waiting.mark);
                let end = logs_end(&site.log, *tx);
                if index < mark && end > mark {
                    assert!(
                        index >= known.waiting.since,
                        "cut {cut} needs {index}, and keeps {}",
                        known.waiting.since
                    );
                }
                if index > mark && side_of[tx].0 {
                    assert!(side_of[tx].1 >= *cut, "prepared after cut {cut} and before it");
                }
            }
        }
    }
}

fn logs_end(log: &[Entry], of: TxId) -> LogIndex {
    let end = log.iter().position(|entry| matches!(entry, Entry::Finish { tx, .. } if *tx == of));
    end.expect("everything has finished") as LogIndex + 1
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn a_transaction_is_on_one_side_of_a_cut_everywhere(
        drawn in prop::collection::vec(any::<(u8, u8, u8, u8)>(), 0..200),
    ) {
        let mut world = World::new();
        drawn.into_iter().for_each(|drawn| world.happen(drawn));
        world.end();
        judge(&world);
    }
}
