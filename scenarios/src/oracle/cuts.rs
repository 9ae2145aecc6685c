//! Oracle `cuts`: what a cut is, judged by the logs of the partitions, by what nodes tell of cuts, and by what clients were told.
//!
//! A transaction has one number everywhere, its *generation*: it is before cut k if that is below k. So what is before a cut grows from
//! cut to cut by itself, and what is to be judged is the generation. The rules are those of docs/snapshots.md; in brackets the names
//! that they have for Ignite's cuts (IEP-89):
//! - the generation is decided once, from the decider's log, and all participants have the same (C2, C3), and the whole transaction;
//! - who prepared after the mark of a cut is not before it (C5);
//! - who saw or replaced what is after a cut is not before it: cuts are closed under causality;
//! - who began after somebody was told of anything after a cut is not before it: cuts that got through are closed under real time (C8);
//! - what was answered before a cut was announced is before it, and what began after it got through is not;
//! - nodes start cuts in the order of their numbers, none before it was announced, and a cut does not both get through and not (C6);
//! - what a partition says was before a cut is what its log says (C4, F2).
//!
//! Fed in any order, judged when it is asked. Of a log counts what is told of it from its first entry without a gap.
//!
//! *Not judged*: what rows a snapshot holds (that is the content sums' affair); transactions of which no log is told.

pub mod log;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use cutwater_engine::tables::entry::Entry;
use cutwater_engine::tables::ids::{CutId, LogIndex, NodeId, PartitionId, TxId};
use cutwater_sim::scenario::Violation;

use super::calls::{Interval, Outcome};
use log::{Facts, Log};

/// A transaction, as its client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// From its first operation to the answer to its commit.
    pub interval: Interval,
    /// How it ended.
    pub outcome: Outcome,
    /// The transactions whose writes it read.
    pub saw: BTreeSet<TxId>,
}

/// What became of a cut, in microseconds of virtual time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cut {
    /// Nobody knew of it before.
    announced_us: Option<u64>,
    /// It was started everywhere by then.
    passed_us: Option<u64>,
    is_given_up: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Cuts {
    logs: BTreeMap<PartitionId, Log>,
    told: BTreeMap<TxId, Told>,
    cuts: BTreeMap<CutId, Cut>,
    /// The cut that each life of a node started last.
    started: BTreeMap<NodeId, CutId>,
    /// What partitions say was before a cut.
    settled: BTreeMap<(PartitionId, CutId), BTreeSet<TxId>>,
}

fn violation(property: &str) -> Violation {
    Violation::new("cuts", property).of("cut")
}

/// What is known of a transaction's side: from the logs.
#[derive(Clone, Debug)]
struct Side {
    generation: CutId,
    /// Who says so.
    at: PartitionId,
    /// All that it touches.
    participants: BTreeSet<PartitionId>,
}

type FactsOf = BTreeMap<PartitionId, Facts>;
type Sides = BTreeMap<TxId, Side>;

impl Cuts {
    /// Nothing is known yet.
    pub fn new() -> Cuts {
        Cuts::default()
    }

    /// A copy of the partition has this entry, and it is committed.
    ///
    /// # Errors
    /// If another copy has another one there.
    pub fn entry(&mut self, partition: PartitionId, index: LogIndex, entry: &Entry) -> Result<(), Violation> {
        self.logs.entry(partition).or_default().told(partition, index, entry)
    }

    /// The register is about to announce the cut.
    ///
    /// # Errors
    /// If it was announced before.
    pub fn announced(&mut self, cut: CutId, now_us: u64) -> Result<(), Violation> {
        let known = self.cuts.entry(cut).or_default();
        match known.announced_us.replace(now_us) {
            None => Ok(()),
            Some(_) => {
                Err(violation("no number is used twice").found(format!("cut {cut} is announced again")))
            }
        }
    }

    /// The register says that the cut was started everywhere.
    ///
    /// # Errors
    /// If it was given up before.
    pub fn passed(&mut self, cut: CutId, now_us: u64) -> Result<(), Violation> {
        let known = self.cuts.entry(cut).or_default();
        known.passed_us.get_or_insert(now_us);
        self.one_fate(cut)
    }

    /// The register says that the cut was given up.
    ///
    /// # Errors
    /// If it got through before.
    pub fn given_up(&mut self, cut: CutId) -> Result<(), Violation> {
        self.cuts.entry(cut).or_default().is_given_up = true;
        self.one_fate(cut)
    }

    fn one_fate(&self, cut: CutId) -> Result<(), Violation> {
        let known = &self.cuts[&cut];
        if known.announced_us.is_none() {
            return Err(violation("a cut is announced before it ends").found(format!("cut {cut}: {known:?}")));
        }
        match known.passed_us {
            Some(_) if known.is_given_up => Err(violation("a cut gets through or is given up")
                .expected(format!("one of them for cut {cut}"))
                .found("both")),
            _ => Ok(()),
        }
    }

    /// A node started the cut.
    ///
    /// # Errors
    /// If it was not announced yet, or the node had started a later one.
    pub fn started(&mut self, node: NodeId, cut: CutId) -> Result<(), Violation> {
        if self.cuts.get(&cut).is_none_or(|known| known.announced_us.is_none()) {
            return Err(violation("a cut is announced before it is started")
                .found(format!("node {node} starts cut {cut}")));
        }
        match self.started.insert(node, cut) {
            Some(before) if before >= cut => Err(violation("a node starts cuts in their order")
                .expected(format!("node {node} to start a cut after {before}"))
                .found(format!("cut {cut}"))),
            _ => Ok(()),
        }
    }

    /// A node begins another life: it may start its last cut again.
    pub fn restarted(&mut self, node: NodeId) {
        self.started.remove(&node);
    }

    /// A client began or ended a transaction; what is told last counts.
    pub fn transaction(&mut self, tx: TxId, told: Told) {
        self.told.insert(tx, told);
    }

    /// A copy of the partition has settled for the cut, and says which transactions that wrote to it are before.
    ///
    /// # Errors
    /// If another copy said otherwise.
    pub fn settled(
        &mut self,
        partition: PartitionId,
        cut: CutId,
        before: BTreeSet<TxId>,
    ) -> Result<(), Violation> {
        match self.settled.get(&(partition, cut)) {
            Some(known) if *known != before => {
                let other: Vec<_> = known.symmetric_difference(&before).map(ToString::to_string).collect();
                Err(violation("copies of a partition agree on what is before a cut").found(format!(
                    "partition {partition} at cut {cut}: copies differ in {}",
                    other.join(", ")
                )))
            }
            _ => {
                self.settled.insert((partition, cut), before);
                Ok(())
            }
        }
    }

    /// Judges all that was told.
    ///
    /// # Errors
    /// What does not hold.
    pub fn judge(&self) -> Result<(), Violation> {
        self.judged().map(drop)
    }

    /// Judges what must hold when nothing is under way any more: each committed transaction has finished wherever it prepared.
    ///
    /// # Errors
    /// The transaction that has not.
    pub fn judge_quiet(&self) -> Result<(), Violation> {
        let (facts, sides) = self.judged()?;
        for (tx, side) in &sides {
            for partition in &side.participants {
                let Some(facts) = facts.get(partition) else { continue };
                let must_be_there = facts.is_whole || facts.prepared.contains_key(tx);
                if must_be_there && !facts.finished.contains(tx) {
                    return Err(violation("a transaction is whole in the end")
                        .expected(format!("{tx} finished in all of its partitions"))
                        .found(format!("not in {partition}")));
                }
            }
        }
        Ok(())
    }

    fn judged(&self) -> Result<(FactsOf, Sides), Violation> {
        let facts = self.logs.iter().map(|(partition, log)| Ok((*partition, log.facts(*partition)?)));
        let facts = facts.collect::<Result<BTreeMap<_, _>, Violation>>()?;
        let sides = sides(&facts)?;
        facts.iter().try_for_each(|(partition, facts)| judge_log(*partition, facts, &sides))?;
        self.judge_settled(&facts, &sides)?;
        self.judge_clients(&sides)?;
        self.judge_real_time(&sides)?;
        Ok((facts, sides))
    }

    /// What partitions say was before their cuts is what their logs say.
    fn judge_settled(&self, facts: &FactsOf, sides: &Sides) -> Result<(), Violation> {
        let wrong = |tx: &TxId, side: &Side, partition: PartitionId, cut: CutId, found: &str| {
            Err(violation("a partition counts to a cut what is before it")
                .expected(format!(
                    "{tx} of generation {} in partition {partition} at cut {cut}",
                    side.generation
                ))
                .found(found))
        };
        for ((partition, cut), before) in &self.settled {
            let late = before
                .iter()
                .filter_map(|tx| Some((tx, sides.get(tx)?)))
                .find(|(_, side)| side.generation >= *cut);
            if let Some((tx, side)) = late {
                return wrong(tx, side, *partition, *cut, "it is counted, and is after the cut");
            }
            let wrote = facts.get(partition).into_iter().flat_map(|facts| &facts.wrote);
            let mut wrote = wrote.filter_map(|tx| Some((tx, sides.get(tx)?)));
            let missing = wrote.find(|(tx, side)| side.generation < *cut && !before.contains(tx));
            if let Some((tx, side)) = missing {
                return wrong(tx, side, *partition, *cut, "it is not counted, and is before the cut");
            }
        }
        Ok(())
    }

    /// The highest cut that the client knows something after, once it is answered.
    fn knows(&self, tx: &TxId, told: &Told, sides: &Sides) -> CutId {
        told.saw
            .iter()
            .chain([tx])
            .filter_map(|tx| sides.get(tx))
            .map(|side| side.generation)
            .max()
            .unwrap_or(0)
    }

    /// Each transaction against what it saw, and against the times of the cuts.
    fn judge_clients(&self, sides: &Sides) -> Result<(), Violation> {
        for (tx, told) in &self.told {
            let own = sides.get(tx).map(|side| side.generation);
            let seen = told.saw.iter().filter_map(|seen| Some((seen, sides.get(seen)?.generation)));
            if let Some((own, (seen, later))) =
                own.and_then(|own| Some((own, seen.max_by_key(|(_, later)| *later)?)))
                && later > own
            {
                return Err(violation("a cut is closed under causality").found(format!(
                    "{tx} of generation {own} read what {seen} of generation {later} wrote"
                )));
            }
            let answered_us = told.interval.answered_us.filter(|_| told.outcome == Outcome::Done);
            let knows = self.knows(tx, told, sides);
            let announced_us = self.cuts.get(&knows).and_then(|cut| cut.announced_us);
            if let (Some(answered_us), Some(announced_us)) = (answered_us, announced_us)
                && answered_us < announced_us
            {
                return Err(violation("what was answered before a cut was announced is before it")
                    .expected(format!("{tx}, answered at {answered_us} us, before cut {knows}, announced at {announced_us} us"))
                    .found("after"));
            }
            let Some(own) = own else { continue };
            let passed = self
                .cuts
                .range(own + 1..)
                .find(|(_, cut)| cut.passed_us.is_some_and(|passed_us| passed_us < told.interval.invoked_us));
            if let Some((cut, Cut { passed_us, .. })) = passed {
                return Err(violation("what begins after a cut got through is after it")
                    .expected(format!(
                        "{tx} ({}) after cut {cut}, which was through at {passed_us:?} us",
                        told.interval
                    ))
                    .found(format!("generation {own}")));
            }
        }
        Ok(())
    }

    /// Nobody who begins after somebody was told of anything after a cut is before it.
    fn judge_real_time(&self, sides: &Sides) -> Result<(), Violation> {
        let is_done = |told: &Told| told.outcome == Outcome::Done;
        let done = self.told.iter().filter(|(_, told)| is_done(told));
        let mut ends: Vec<(u64, CutId, TxId)> = done
            .filter_map(|(tx, told)| Some((told.interval.answered_us?, self.knows(tx, told, sides), *tx)))
            .collect();
        ends.sort_unstable();
        // Of each prefix, the one that knows most.
        let mut most: Vec<(CutId, TxId)> = Vec::with_capacity(ends.len());
        for (_, knows, tx) in &ends {
            let before = most.last().copied().unwrap_or((0, *tx));
            most.push(if *knows > before.0 { (*knows, *tx) } else { before });
        }
        for (tx, told) in &self.told {
            let Some(side) = sides.get(tx) else { continue };
            let over = ends.partition_point(|(answered_us, ..)| *answered_us < told.interval.invoked_us);
            let Some((knows, earlier)) = over.checked_sub(1).map(|at| most[at]) else { continue };
            if knows <= side.generation {
                continue;
            }
            let between =
                self.cuts.range(side.generation + 1..=knows).find(|(_, cut)| cut.passed_us.is_some());
            if let Some((cut, _)) = between {
                return Err(violation("a cut is closed under real time")
                    .expected(format!(
                        "{tx} ({}) after cut {cut}, as {earlier} was or saw, and was answered before",
                        told.interval
                    ))
                    .found(format!("generation {}", side.generation)));
            }
        }
        Ok(())
    }
}

/// What the logs say of each committed transaction: the same everywhere, and as it was decided.
fn sides(facts: &FactsOf) -> Result<Sides, Violation> {
    let mut sides: BTreeMap<TxId, Side> = BTreeMap::new();
    let mut aborted: BTreeMap<TxId, PartitionId> = BTreeMap::new();
    let all =
        facts.iter().flat_map(|(partition, facts)| facts.outcomes.iter().map(move |one| (partition, one)));
    for (partition, (tx, log::Outcome { commit, generation, participants })) in all {
        let other = if *commit { aborted.get(tx) } else { sides.get(tx).map(|side| &side.at) };
        if let Some(other) = other {
            return Err(violation("a transaction has one outcome everywhere")
                .of("transaction")
                .expected(format!("{tx} in {partition} as in {other}"))
                .found(if *commit { "committed" } else { "aborted" }));
        }
        if !commit {
            aborted.entry(*tx).or_insert(*partition);
            continue;
        }
        let new = Side { generation: *generation, at: *partition, participants: BTreeSet::new() };
        let side = sides.entry(*tx).or_insert(new);
        side.participants.extend(participants);
        if side.generation != *generation {
            return Err(violation("a transaction is on one side of a cut everywhere")
                .expected(format!("{tx} in {partition} of generation {}, as in {}", side.generation, side.at))
                .found(format!("generation {generation}")));
        }
    }
    Ok(sides)
}

/// Who prepared after a mark is not before its cut; nor is who read or replaced what is after it.
fn judge_log(partition: PartitionId, facts: &Facts, sides: &Sides) -> Result<(), Violation> {
    for (tx, mark) in &facts.prepared {
        if let Some(side) = sides.get(tx).filter(|side| side.generation < *mark) {
            return Err(violation("what is prepared after the mark of a cut is after the cut")
                .expected(format!(
                    "{tx}, prepared in {partition} after mark {mark}, of that generation or later"
                ))
                .found(side.generation));
        }
    }
    for (cause, effect, key) in &facts.conflicts {
        let (Some(one), Some(other)) = (sides.get(cause), sides.get(effect)) else { continue };
        if one.generation > other.generation {
            let found = format!(
                "in {partition}, {effect} of generation {} read or replaced {key}, which {cause} of generation {} wrote",
                other.generation, one.generation
            );
            return Err(violation("a cut is closed under causality").found(found));
        }
    }
    Ok(())
}
