//! The primary's side: whether a request may be appended, judged by everything that is appended, applied or not.
//!
//! It begins when the primary has applied its `Open`, with nothing in between, and ends with the view. Rows are read from the store before,
//! so the facts may be older than what has been applied since: of every entry that a fact might miss, the keys that it
//! changes are kept here, with the versions that they get.
//!
//! A request that was admitted before is known again by its transaction, and answered alike.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::fold::Partition;
use super::ledger::{Ledger, Prepared};
use super::request::{Admitted, Conflict, Facts, Known, Refused, Request};
use crate::tables::entry::Entry;
use crate::tables::ids::{CutId, HybridTime, LogIndex, PartitionId, TxId};
use crate::tables::rows::{Change, Read};

/// So many keys of applied entries are kept for facts that were read before.
const KEPT_KEYS: usize = 4096;

/// See the module.
#[derive(Clone, Debug)]
pub struct Admission {
    partition: PartitionId,
    /// Of all that is appended.
    ledger: Ledger,
    applied: LogIndex,
    /// Versions of the keys that changed after entry `oldest_facts`; none if the row is gone.
    versions: BTreeMap<Bytes, (LogIndex, Option<LogIndex>)>,
    /// The keys that each of these entries changes.
    changed: BTreeMap<LogIndex, Vec<Bytes>>,
    kept_keys: usize,
    oldest_facts: LogIndex,
}

impl Admission {
    /// Begins where everything appended is applied.
    pub fn new(partition: &Partition) -> Admission {
        Admission {
            partition: partition.id(),
            ledger: partition.ledger().clone(),
            applied: partition.applied(),
            versions: BTreeMap::new(),
            changed: BTreeMap::new(),
            kept_keys: 0,
            oldest_facts: partition.applied(),
        }
    }

    /// What follows from all that is appended.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The index that the next entry gets.
    pub fn next_index(&self) -> LogIndex {
        self.ledger.index() + 1
    }

    /// Judges a request. If it says [`Admitted::Append`] the entry counts as appended from now on, at
    /// [`next_index`](Admission::next_index) as it was. `now` is the node's hybrid time.
    ///
    /// # Errors
    /// Why it may not be appended; nothing has changed then.
    pub fn admit(&mut self, request: &Request, facts: &Facts, now: HybridTime) -> Result<Admitted, Refused> {
        request.check(self.partition)?;
        let admitted = self.judge(request, facts, now)?;
        if let Admitted::Append(entry) = &admitted {
            self.appended(entry);
        }
        Ok(admitted)
    }

    /// Everything up to `index` is applied.
    pub fn applied(&mut self, index: LogIndex) {
        assert!(index <= self.ledger.index(), "entry {index} is applied and was not appended");
        self.applied = self.applied.max(index);
        while self.kept_keys > KEPT_KEYS {
            match self.changed.first_key_value() {
                Some((oldest, _)) if *oldest <= self.applied => self.let_go(),
                _ => break,
            }
        }
    }

    /// Forgets the keys of the oldest entry that is kept.
    fn let_go(&mut self) {
        let (index, keys) = self.changed.pop_first().expect("there is one");
        self.kept_keys -= keys.len();
        self.oldest_facts = index;
        for key in keys {
            if self.versions.get(&key).is_some_and(|(changed, _)| *changed == index) {
                self.versions.remove(&key);
            }
        }
    }

    fn judge(&self, request: &Request, facts: &Facts, now: HybridTime) -> Result<Admitted, Refused> {
        let append = |entry| Ok(Admitted::Append(entry));
        match request {
            Request::Write { tx, reads, changes } => {
                if let Some(known) = self.known(*tx) {
                    return Ok(known);
                }
                self.check(facts, reads, changes)?;
                append(Entry::Write { tx: *tx, time: self.later_than_all(now), changes: changes.clone() })
            }
            Request::Prepare { tx, decider, participants, reads, changes } => {
                if let Some(known) = self.known(*tx) {
                    return Ok(known);
                }
                self.check(facts, reads, changes)?;
                let (decider, participants) = (*decider, participants.clone());
                let (reads, changes) = (reads.clone(), changes.clone());
                append(Entry::Prepare { tx: *tx, decider, participants, reads, changes })
            }
            Request::Decide { tx, commit } => self.judge_decide(*tx, *commit, now),
            Request::Settle { tx } => Ok(match self.known(*tx) {
                Some(known) => known,
                None => Admitted::Append(Entry::Finish {
                    tx: *tx,
                    commit: false,
                    generation: self.ledger.generation(),
                    time: self.later_than_all(now),
                }),
            }),
            Request::Finish { tx, commit, generation, time } => {
                self.judge_finish(*tx, *commit, *generation, *time)
            }
            Request::Forget { tx } => Ok(match self.ledger.decided().get(tx) {
                Some(_) if self.ledger.prepared().contains_key(tx) => {
                    return Err(Refused::Malformed(
                        "a transaction is to be forgotten that is not finished here",
                    ));
                }
                Some(_) => Admitted::Append(Entry::Forget { tx: *tx }),
                None => Admitted::Nothing,
            }),
            Request::Mark { cut } => self.judge_mark(*cut),
            Request::Load { operation, at, next, changes } => {
                self.judge_load(*operation, *at, *next, changes)
            }
            Request::Repair { key, seen, value } => {
                let found = self.version(facts, key)?;
                if !seen.contains(&found) {
                    let read = seen.iter().copied().max().flatten();
                    return Err(Conflict::Changed { key: key.clone(), read, found }.into());
                }
                self.check_unlocked_change(key)?;
                append(Entry::Repair { key: key.clone(), seen: seen.clone(), value: value.clone() })
            }
        }
    }

    /// What is known of a transaction. That an end is known outweighs that it is decided: it is the later.
    fn known(&self, tx: TxId) -> Option<Admitted> {
        let known = |index, state| Some(Admitted::Known { index, state });
        if let Some(outcome) = self.ledger.outcome(tx) {
            return known(outcome.index, Known::Ended(outcome));
        }
        if let Some(decision) = self.ledger.decided().get(&tx) {
            return known(decision.index, Known::Decided(decision.clone()));
        }
        self.ledger.prepared().get(&tx).and_then(|prepared| known(prepared.index, Known::Prepared))
    }

    fn judge_decide(&self, tx: TxId, commit: bool, now: HybridTime) -> Result<Admitted, Refused> {
        if let Some(known @ Admitted::Known { state: Known::Decided(_) | Known::Ended(_), .. }) =
            self.known(tx)
        {
            return Ok(known);
        }
        match self.ledger.prepared().get(&tx) {
            None => Ok(Admitted::Unknown),
            Some(Prepared { decider, .. }) if *decider != self.partition => Err(Refused::Malformed(
                "a transaction is to be decided by another partition than its decider",
            )),
            Some(_) => Ok(Admitted::Append(Entry::Decide {
                tx,
                commit,
                generation: self.ledger.generation(),
                time: self.later_than_all(now),
            })),
        }
    }

    fn judge_finish(
        &self,
        tx: TxId,
        commit: bool,
        generation: CutId,
        time: HybridTime,
    ) -> Result<Admitted, Refused> {
        if let Some(outcome) = self.ledger.outcome(tx) {
            if outcome.commit != commit {
                return Err(Refused::Contradicts { tx });
            }
            return Ok(Admitted::Known { index: outcome.index, state: Known::Ended(outcome) });
        }
        if let Some(decision) = self.ledger.decided().get(&tx)
            && (decision.commit, decision.generation, decision.time) != (commit, generation, time)
        {
            return Err(Refused::Contradicts { tx });
        }
        let Some(prepared) = self.ledger.prepared().get(&tx) else {
            return Ok(Admitted::Nothing);
        };
        if prepared.decider == self.partition && !self.ledger.decided().contains_key(&tx) {
            return Err(Refused::Malformed("a transaction is to be finished before its decider has decided"));
        }
        match self.ledger.mark() {
            Some(mark) if commit && prepared.index > mark.index && generation < mark.cut => {
                Err(Refused::BeforeItsCut { tx, cut: mark.cut, generation })
            }
            _ => Ok(Admitted::Append(Entry::Finish { tx, commit, generation, time })),
        }
    }

    fn judge_mark(&self, cut: CutId) -> Result<Admitted, Refused> {
        let last = self.ledger.generation();
        if cut <= last {
            return Err(Refused::OldCut { cut, last });
        }
        let since = self.ledger.oldest_prepared().unwrap_or(self.next_index());
        Ok(Admitted::Append(Entry::Mark { cut, since }))
    }

    fn judge_load(
        &self,
        operation: u64,
        at: u64,
        next: u64,
        changes: &[Change],
    ) -> Result<Admitted, Refused> {
        let expected = self.ledger.load_position(operation);
        if next <= expected {
            return Ok(Admitted::Nothing);
        }
        if at != expected {
            return Err(Refused::LoadGap { operation, at, expected });
        }
        for change in changes {
            self.check_unlocked_change(&change.key)?;
        }
        Ok(Admitted::Append(Entry::Load { operation, next, changes: changes.to_vec() }))
    }

    /// Whether nothing stands in the way of a transaction.
    fn check(&self, facts: &Facts, reads: &[Read], changes: &[Change]) -> Result<(), Refused> {
        for Read { key, version } in reads {
            let found = self.version(facts, key)?;
            if let Some(by) = self.ledger.locks().against_read(key) {
                return Err(Conflict::Locked { key: key.clone(), by }.into());
            }
            if found != *version {
                return Err(Conflict::Changed { key: key.clone(), read: *version, found }.into());
            }
        }
        changes.iter().try_for_each(|change| self.check_unlocked_change(&change.key))
    }

    fn check_unlocked_change(&self, key: &Bytes) -> Result<(), Refused> {
        match self.ledger.locks().against_change(key) {
            Some(by) => Err(Conflict::Locked { key: key.clone(), by }.into()),
            None => Ok(()),
        }
    }

    /// The version of a row after everything that is appended.
    fn version(&self, facts: &Facts, key: &Bytes) -> Result<Option<LogIndex>, Refused> {
        if facts.as_of < self.oldest_facts {
            return Err(Refused::Stale { as_of: facts.as_of, oldest: self.oldest_facts });
        }
        match (self.versions.get(key), facts.versions.get(key)) {
            (Some((_, version)), _) | (None, Some(version)) => Ok(*version),
            (None, None) => Err(Refused::Malformed("a row was not read that must be known")),
        }
    }

    fn later_than_all(&self, now: HybridTime) -> HybridTime {
        now.max(HybridTime(self.ledger.time().0 + 1))
    }

    fn appended(&mut self, entry: &Entry) {
        let index = self.next_index();
        let finished = self.ledger.fold(index, entry);
        let changes: Vec<(&Bytes, bool)> = match entry {
            Entry::Write { changes, .. } | Entry::Load { changes, .. } => exists_after(changes),
            Entry::Finish { commit: true, .. } => {
                finished.as_ref().map_or_else(Vec::new, |prepared| exists_after(&prepared.changes))
            }
            // It was judged by the very version that it will find.
            Entry::Repair { key, value, .. } => vec![(key, value.is_some())],
            Entry::Finish { .. }
            | Entry::Prepare { .. }
            | Entry::Decide { .. }
            | Entry::Forget { .. }
            | Entry::Mark { .. }
            | Entry::Open { .. } => Vec::new(),
        };
        for (key, exists) in &changes {
            self.versions.insert((*key).clone(), (index, exists.then_some(index)));
        }
        if !changes.is_empty() {
            self.kept_keys += changes.len();
            let keys = changes.into_iter().map(|(key, _)| key.clone()).collect();
            self.changed.insert(index, keys);
        }
    }
}

fn exists_after(changes: &[Change]) -> Vec<(&Bytes, bool)> {
    changes.iter().map(|change| (&change.key, change.value.is_some())).collect()
}
