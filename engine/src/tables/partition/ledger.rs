//! What follows from the entries of a log without a look at the rows.
//!
//! The primary folds it twice: up to what is applied, and up to what is appended. Everything that decides whether an entry may be appended
//! is in the second.
//!
//! Entries were judged before they were appended, and come from this cluster's own log: one that could not have been admitted here is a
//! broken invariant and panics, in every build.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::locks::Locks;
use super::{REMEMBERED_CUTS, REMEMBERED_OUTCOMES};
use crate::tables::entry::Entry;
use crate::tables::ids::{CutId, HybridTime, LogIndex, PartitionId, TxId, View};
use crate::tables::rows::{Change, Read};

/// A transaction that is prepared here and not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Index of its `Prepare`.
    pub index: LogIndex,
    /// The partition that decides.
    pub decider: PartitionId,
    /// All partitions of the transaction.
    pub participants: Vec<PartitionId>,
    /// What it reads here.
    pub reads: Vec<Read>,
    /// What it will change here.
    pub changes: Vec<Change>,
}

/// What was decided here of a transaction that is not forgotten yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Index of its `Decide`.
    pub index: LogIndex,
    /// True if it is committed.
    pub commit: bool,
    /// Which cuts it is before.
    pub generation: CutId,
    /// When it committed.
    pub time: HybridTime,
    /// Who must hear of it.
    pub participants: Vec<PartitionId>,
}

/// How a transaction ended here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Index of the entry that ended it; also the version of the rows that it wrote.
    pub index: LogIndex,
    /// True if it is committed.
    pub commit: bool,
    /// Which cuts it is before.
    pub generation: CutId,
}

/// The last mark in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The cut.
    pub cut: CutId,
    /// Where it is.
    pub index: LogIndex,
}

/// What a cut still waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Index of the mark.
    pub mark: LogIndex,
    /// From where the log is needed to know the state at the cut.
    pub since: LogIndex,
    /// Transactions that were prepared before the mark and are not finished.
    pub transactions: BTreeSet<TxId>,
    /// Index of the entry after which none is left; the mark's own if there was none.
    pub settled: Option<LogIndex>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Ledger {
    index: LogIndex,
    view: View,
    time: HybridTime,
    mark: Option<Mark>,
    prepared: BTreeMap<TxId, Prepared>,
    decided: BTreeMap<TxId, Decision>,
    outcomes: BTreeMap<TxId, Outcome>,
    outcome_order: VecDeque<TxId>,
    waiting: BTreeMap<CutId, Waiting>,
    load: Option<(u64, u64)>,
    /// Follows from `prepared`.
    #[serde(skip)]
    locks: Locks,
}

/// A ledger as it is stored: without the locks.
#[derive(Deserialize)]
struct Stored {
    index: LogIndex,
    view: View,
    time: HybridTime,
    mark: Option<Mark>,
    prepared: BTreeMap<TxId, Prepared>,
    decided: BTreeMap<TxId, Decision>,
    outcomes: BTreeMap<TxId, Outcome>,
    outcome_order: VecDeque<TxId>,
    waiting: BTreeMap<CutId, Waiting>,
    load: Option<(u64, u64)>,
}

impl From<Stored> for Ledger {
    fn from(stored: Stored) -> Ledger {
        let Stored { index, view, time, mark, prepared, decided, outcomes, outcome_order, waiting, load } =
            stored;
        let mut locks = Locks::default();
        for (tx, prepared) in &prepared {
            locks.take(*tx, prepared.read_keys(), prepared.changed_keys());
        }
        Ledger { index, view, time, mark, prepared, decided, outcomes, outcome_order, waiting, load, locks }
    }
}

impl Prepared {
    fn read_keys(&self) -> impl Iterator<Item = &Bytes> {
        self.reads.iter().map(|read| &read.key)
    }

    fn changed_keys(&self) -> impl Iterator<Item = &Bytes> {
        self.changes.iter().map(|change| &change.key)
    }
}

impl Ledger {
    /// The index of the last entry in it.
    pub fn index(&self) -> LogIndex {
        self.index
    }

    /// The view of the last entry: that of the last `Open`.
    pub fn view(&self) -> View {
        self.view
    }

    /// The highest time in it.
    pub fn time(&self) -> HybridTime {
        self.time
    }

    /// The last mark.
    pub fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// The number of the last mark, 0 if there is none: what is decided now gets it as its generation.
    pub fn generation(&self) -> CutId {
        self.mark.map_or(0, |mark| mark.cut)
    }

    /// Transactions that are prepared and not finished.
    pub fn prepared(&self) -> &BTreeMap<TxId, Prepared> {
        &self.prepared
    }

    /// What was decided here and is not forgotten.
    pub fn decided(&self) -> &BTreeMap<TxId, Decision> {
        &self.decided
    }

    /// How a transaction ended, while it is remembered.
    pub fn outcome(&self, tx: TxId) -> Option<Outcome> {
        self.outcomes.get(&tx).copied()
    }

    /// The last cuts, and what they wait for.
    pub fn cuts(&self) -> &BTreeMap<CutId, Waiting> {
        &self.waiting
    }

    /// Where the next load of an operation goes on; 0 if it has loaded nothing.
    pub fn load_position(&self, operation: u64) -> u64 {
        self.load.filter(|(of, _)| *of == operation).map_or(0, |(_, next)| next)
    }

    /// The locks of what is prepared.
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// The lowest index of a transaction that is prepared; nothing if none is.
    pub fn oldest_prepared(&self) -> Option<LogIndex> {
        self.prepared.values().map(|prepared| prepared.index).min()
    }

    /// What an asker must take a transaction for that is known neither as prepared, decided nor ended: whoever holds a prepared
    /// transaction was told of it by its decider's log, so a decider that knows nothing has forgotten it, and it forgets a commit only when
    /// all have finished.
    pub fn is_unknown(&self, tx: TxId) -> bool {
        !self.prepared.contains_key(&tx)
            && !self.decided.contains_key(&tx)
            && !self.outcomes.contains_key(&tx)
    }

    /// Takes in the entry at `index`, and returns what was prepared if it finishes something.
    ///
    /// # Panics
    /// If it is not the next, or could not have been admitted.
    pub fn fold(&mut self, index: LogIndex, entry: &Entry) -> Option<Prepared> {
        assert_eq!(index, self.index + 1, "entries come without gaps");
        self.index = index;
        match entry {
            Entry::Write { tx, time, changes } => {
                for Change { key, .. } in changes {
                    assert_eq!(self.locks.against_change(key), None, "{tx} writes a locked key");
                }
                self.passes(*time);
                self.remember(*tx, Outcome { index, commit: true, generation: self.generation() });
            }
            Entry::Prepare { tx, decider, participants, reads, changes } => {
                let prepared = Prepared {
                    index,
                    decider: *decider,
                    participants: participants.clone(),
                    reads: reads.clone(),
                    changes: changes.clone(),
                };
                self.locks.take(*tx, prepared.read_keys(), prepared.changed_keys());
                let before = self.prepared.insert(*tx, prepared);
                assert!(before.is_none(), "{tx} is prepared twice");
            }
            Entry::Decide { tx, commit, generation, time } => self.decide(*tx, *commit, *generation, *time),
            Entry::Finish { tx, commit, generation, time } => {
                return self.finish(*tx, *commit, *generation, *time);
            }
            Entry::Forget { tx } => {
                assert!(!self.prepared.contains_key(tx), "{tx} is forgotten and holds locks");
                let decision = self.decided.remove(tx).expect("only what was decided is forgotten");
                let Decision { index, commit, generation, .. } = decision;
                self.remember(*tx, Outcome { index, commit, generation });
            }
            Entry::Mark { cut, since } => self.cut(*cut, *since),
            Entry::Load { operation, next, .. } => self.load = Some((*operation, *next)),
            Entry::Open { view } => {
                assert!(*view > self.view, "view {view} opens after view {}", self.view);
                self.view = *view;
            }
            Entry::Repair { key, .. } => {
                assert_eq!(self.locks.against_change(key), None, "a locked key is repaired");
            }
        }
        None
    }

    fn passes(&mut self, time: HybridTime) {
        self.time = self.time.max(time);
    }

    fn decide(&mut self, tx: TxId, commit: bool, generation: CutId, time: HybridTime) {
        assert_eq!(generation, self.generation(), "{tx} is of another generation than its place says");
        let participants = &self.prepared.get(&tx).expect("only what is prepared is decided").participants;
        let participants = participants.clone();
        self.passes(time);
        let decision = Decision { index: self.index, commit, generation, time, participants };
        assert!(self.decided.insert(tx, decision).is_none(), "{tx} is decided twice");
    }

    fn finish(&mut self, tx: TxId, commit: bool, generation: CutId, time: HybridTime) -> Option<Prepared> {
        self.passes(time);
        let prepared = self.prepared.remove(&tx);
        if let Some(decision) = self.decided.get(&tx) {
            let here = (decision.commit, decision.generation);
            assert_eq!((commit, generation), here, "{tx} finishes otherwise than decided");
        }
        if let Some(prepared) = &prepared {
            let is_late = |mark: &Mark| prepared.index > mark.index && generation < mark.cut;
            let late = self.mark.filter(is_late).filter(|_| commit);
            assert_eq!(late, None, "{tx} was prepared after a cut, and committed before it");
            self.locks.release(tx, prepared.read_keys().chain(prepared.changed_keys()));
            for waiting in self.waiting.values_mut() {
                if waiting.transactions.remove(&tx) && waiting.transactions.is_empty() {
                    waiting.settled = Some(self.index);
                }
            }
        }
        // A commit that finds nothing prepared is a repetition of one that is no longer remembered; an abort says that it shall
        // not be prepared later.
        if prepared.is_some() || !commit {
            self.remember(tx, Outcome { index: self.index, commit, generation });
        }
        prepared
    }

    fn cut(&mut self, cut: CutId, since: LogIndex) {
        assert!(cut > self.generation(), "cut {cut} after cut {}", self.generation());
        assert_eq!(since, self.oldest_prepared().unwrap_or(self.index), "since when cut {cut} needs the log");
        self.mark = Some(Mark { cut, index: self.index });
        let transactions: BTreeSet<TxId> = self.prepared.keys().copied().collect();
        let settled = transactions.is_empty().then_some(self.index);
        self.waiting.insert(cut, Waiting { mark: self.index, since, transactions, settled });
        if self.waiting.len() > REMEMBERED_CUTS {
            self.waiting.pop_first();
        }
    }

    fn remember(&mut self, tx: TxId, outcome: Outcome) {
        if self.outcomes.insert(tx, outcome).is_none() {
            self.outcome_order.push_back(tx);
        }
        if self.outcome_order.len() > REMEMBERED_OUTCOMES {
            let oldest = self.outcome_order.pop_front().expect("there are more than are remembered");
            self.outcomes.remove(&oldest);
        }
    }
}
