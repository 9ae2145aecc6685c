//! What a primary does about transactions that are under way in its partition. Pure.
//!
//! As the **decider**, of what is decided: it asks every participant to finish, for as long as it takes, finishes its own part, and then
//! forgets. Of what is prepared and not decided for a while: near may be dead, so it asks the participants whether they are prepared, or from
//! now on refuse, and decides itself.
//!
//! As a **participant**, of what is prepared and not finished for a while: it asks the decider. One that knows nothing of the transaction has
//! forgotten it, and it forgets a commit only when everybody has finished: so *unknown is aborted*.
//!
//! All of it follows from the partition's own log and can begin anew at any time, in another process: only who has answered, and when to ask
//! again, is kept here. Questions are repeated with growing pauses.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{CutId, HybridTime, PartitionId, TxId};
use super::partition::{Ledger, Request};

/// Pauses, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// How long a transaction may be prepared before somebody is asked about it.
    pub patience_us: u64,
    /// Before a question is repeated, at first.
    pub retry_us: u64,
    /// And in the end.
    pub retry_max_us: u64,
}

/// What is asked of another partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Finish it like this.
    Finish {
        /// True if it is committed.
        commit: bool,
        /// As decided.
        generation: CutId,
        /// As decided.
        time: HybridTime,
    },
    /// Are you prepared? If not, refuse from now on.
    Settle,
    /// What did you decide?
    Outcome,
}

/// What another partition answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has finished.
    Finished,
    /// It is prepared.
    Prepared,
    /// It is not, and will not be.
    Refuses,
    /// It has decided like this.
    Decided {
        /// True if it is committed.
        commit: bool,
        /// As decided.
        generation: CutId,
        /// As decided.
        time: HybridTime,
    },
    /// It has not decided.
    Undecided,
    /// It knows nothing of it.
    Unknown,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask another partition about a transaction.
    Ask(TxId, PartitionId, Question),
    /// Put this to the own partition. If it is refused it comes again.
    Submit(Request),
}

/// The answer of a decider to [`Question::Outcome`]. The caller has made sure that it still is the primary, and that all it has
/// appended is applied.
pub fn outcome(ledger: &Ledger, tx: TxId) -> Answer {
    if let Some(decision) = ledger.decided().get(&tx) {
        return Answer::Decided {
            commit: decision.commit,
            generation: decision.generation,
            time: decision.time,
        };
    }
    // What has ended and is forgotten was finished by everybody: who still asks was prepared a second time, by a message that came late.
    if ledger.prepared().contains_key(&tx) { Answer::Undecided } else { Answer::Unknown }
}

#[derive(Clone, Debug, Default)]
struct UnderWay {
    since_us: u64,
    finished: BTreeSet<PartitionId>,
    votes: BTreeMap<PartitionId, bool>,
    /// When each partition may be asked again, and the pause after that.
    again: BTreeMap<PartitionId, (u64, u64)>,
    /// Until when what was submitted has time to be applied.
    submitted_until_us: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Settler {
    partition: PartitionId,
    pauses: Pauses,
    under_way: BTreeMap<TxId, UnderWay>,
}

impl Settler {
    /// Of a partition, when its primary opens.
    pub fn new(partition: PartitionId, pauses: Pauses) -> Settler {
        Settler { partition, pauses, under_way: BTreeMap::new() }
    }

    /// What is due. `ledger` is that of what is applied.
    pub fn tick(&mut self, ledger: &Ledger, now_us: u64) -> Vec<Effect> {
        self.under_way
            .retain(|tx, _| ledger.prepared().contains_key(tx) || ledger.decided().contains_key(tx));
        let all: BTreeSet<TxId> = ledger.prepared().keys().chain(ledger.decided().keys()).copied().collect();
        let mut effects = Vec::new();
        for tx in all {
            self.under_way.entry(tx).or_insert_with(|| UnderWay { since_us: now_us, ..UnderWay::default() });
            self.consider(tx, ledger, now_us, &mut effects);
        }
        effects
    }

    /// Takes in an answer and says what is due then. `now` is the node's hybrid time.
    pub fn heard(
        &mut self,
        tx: TxId,
        from: PartitionId,
        answer: Answer,
        ledger: &Ledger,
        now_us: u64,
        now: HybridTime,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(under_way) = self.under_way.get_mut(&tx) else { return effects };
        match answer {
            Answer::Finished => {
                under_way.finished.insert(from);
            }
            Answer::Prepared => {
                under_way.votes.insert(from, true);
            }
            Answer::Refuses => {
                under_way.votes.insert(from, false);
            }
            Answer::Decided { commit, generation, time } => {
                effects.extend(self.finish(tx, from, ledger, (commit, generation, time)));
            }
            Answer::Unknown => {
                effects.extend(self.finish(tx, from, ledger, (false, ledger.generation(), now)));
            }
            Answer::Undecided => {}
        }
        self.consider(tx, ledger, now_us, &mut effects);
        effects
    }

    /// A participant does as its decider says.
    fn finish(
        &self,
        tx: TxId,
        from: PartitionId,
        ledger: &Ledger,
        (commit, generation, time): (bool, CutId, HybridTime),
    ) -> Option<Effect> {
        let prepared = ledger.prepared().get(&tx)?;
        let is_its_word = prepared.decider == from && from != self.partition;
        is_its_word.then_some(Effect::Submit(Request::Finish { tx, commit, generation, time }))
    }

    fn consider(&mut self, tx: TxId, ledger: &Ledger, now_us: u64, effects: &mut Vec<Effect>) {
        let Some(under_way) = self.under_way.get_mut(&tx) else { return };
        let own = self.partition;
        let (prepared, decision) = (ledger.prepared().get(&tx), ledger.decided().get(&tx));
        let is_old = now_us.saturating_sub(under_way.since_us) >= self.pauses.patience_us;
        let submitted = match (decision, prepared) {
            (Some(decision), prepared) => {
                let (commit, generation, time) = (decision.commit, decision.generation, decision.time);
                let others =
                    decision.participants.iter().filter(|p| **p != own && !under_way.finished.contains(p));
                let others: Vec<PartitionId> = others.copied().collect();
                let is_last = others.is_empty();
                let question = Question::Finish { commit, generation, time };
                under_way.ask(others, tx, question, now_us, self.pauses, effects);
                match prepared {
                    Some(_) => Some(Request::Finish { tx, commit, generation, time }),
                    None => is_last.then_some(Request::Forget { tx }),
                }
            }
            (None, Some(prepared)) if prepared.decider == own => {
                if !is_old {
                    return;
                }
                let others =
                    prepared.participants.iter().filter(|p| **p != own && !under_way.votes.contains_key(p));
                let others: Vec<PartitionId> = others.copied().collect();
                let is_refused = under_way.votes.values().any(|vote| !vote);
                let commit = others.is_empty() && !is_refused;
                let decides = commit || is_refused;
                if !decides {
                    under_way.ask(others, tx, Question::Settle, now_us, self.pauses, effects);
                }
                decides.then_some(Request::Decide { tx, commit })
            }
            (None, Some(prepared)) => {
                if is_old {
                    under_way.ask(
                        vec![prepared.decider],
                        tx,
                        Question::Outcome,
                        now_us,
                        self.pauses,
                        effects,
                    );
                }
                None
            }
            (None, None) => None,
        };
        if let Some(request) = submitted.filter(|_| now_us >= under_way.submitted_until_us) {
            under_way.submitted_until_us = now_us + self.pauses.retry_us;
            effects.push(Effect::Submit(request));
        }
    }

    /// Its entry is applied: what comes next need not wait.
    pub fn applied(&mut self, tx: TxId) {
        if let Some(under_way) = self.under_way.get_mut(&tx) {
            under_way.submitted_until_us = 0;
        }
    }
}

impl UnderWay {
    /// Asks those whose pause is over.
    fn ask(
        &mut self,
        whom: Vec<PartitionId>,
        tx: TxId,
        question: Question,
        now_us: u64,
        pauses: Pauses,
        effects: &mut Vec<Effect>,
    ) {
        for partition in whom {
            let (at_us, pause_us) = self.again.get(&partition).copied().unwrap_or((0, pauses.retry_us));
            if now_us >= at_us {
                let longer_us = (pause_us * 2).min(pauses.retry_max_us.max(pauses.retry_us));
                self.again.insert(partition, (now_us + pause_us, longer_us));
                effects.push(Effect::Ask(tx, partition, question));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::entry::Entry;

    const PAUSES: Pauses = Pauses { patience_us: 100, retry_us: 10, retry_max_us: 40 };
    const TX: TxId = TxId(7);

    fn partition(number: u16) -> PartitionId {
        PartitionId { table: 1, number }
    }

    fn prepare(decider: u16) -> Entry {
        let participants = [0, 1, 2].map(partition).to_vec();
        Entry::Prepare {
            tx: TX,
            decider: partition(decider),
            participants,
            reads: Vec::new(),
            changes: Vec::new(),
        }
    }

    fn ledger(entries: &[Entry]) -> Ledger {
        let mut ledger = Ledger::default();
        for (entry, index) in entries.iter().zip(1..) {
            ledger.fold(index, entry);
        }
        ledger
    }

    fn asked(effects: &[Effect]) -> Vec<(u16, Question)> {
        let asked = effects.iter().filter_map(|effect| match effect {
            Effect::Ask(_, partition, question) => Some((partition.number, *question)),
            Effect::Submit(_) => None,
        });
        asked.collect()
    }

    fn submitted(effects: &[Effect]) -> Vec<&Request> {
        let submitted = effects.iter().filter_map(|effect| match effect {
            Effect::Submit(request) => Some(request),
            Effect::Ask(..) => None,
        });
        submitted.collect()
    }

    #[test]
    fn a_decision_is_driven_until_all_have_finished_and_then_forgotten() {
        let (time, generation) = (HybridTime(5), 0);
        let decide = Entry::Decide { tx: TX, commit: true, generation, time };
        let finish = Entry::Finish { tx: TX, commit: true, generation, time };
        let decided = ledger(&[prepare(0), decide.clone()]);
        let mut settler = Settler::new(partition(0), PAUSES);
        let first = settler.tick(&decided, 0);
        let question = Question::Finish { commit: true, generation, time };
        assert_eq!(asked(&first), [(1, question), (2, question)]);
        assert_eq!(submitted(&first), [&Request::Finish { tx: TX, commit: true, generation, time }]);
        let finished = ledger(&[prepare(0), decide, finish]);
        settler.applied(TX);
        assert_eq!(settler.heard(TX, partition(1), Answer::Finished, &finished, 1, time), []);
        assert_eq!(asked(&settler.tick(&finished, 10)), [(2, question)], "again, who has not answered");
        assert_eq!(asked(&settler.tick(&finished, 20)), [], "after a longer pause");
        assert_eq!(asked(&settler.tick(&finished, 30)), [(2, question)]);
        let last = settler.heard(TX, partition(2), Answer::Finished, &finished, 31, time);
        assert_eq!(submitted(&last), [&Request::Forget { tx: TX }]);
    }

    #[test]
    fn a_decider_settles_what_near_has_left() {
        let prepared = ledger(&[prepare(0)]);
        let time = HybridTime(5);
        for vote in [true, false] {
            let mut settler = Settler::new(partition(0), PAUSES);
            assert_eq!(settler.tick(&prepared, 0), []);
            assert_eq!(settler.tick(&prepared, 99), [], "near may live");
            assert_eq!(asked(&settler.tick(&prepared, 100)), [(1, Question::Settle), (2, Question::Settle)]);
            assert_eq!(settler.heard(TX, partition(1), Answer::Prepared, &prepared, 101, time), []);
            let answer = if vote { Answer::Prepared } else { Answer::Refuses };
            let last = settler.heard(TX, partition(2), answer, &prepared, 102, time);
            assert_eq!(submitted(&last), [&Request::Decide { tx: TX, commit: vote }]);
        }
    }

    #[test]
    fn a_participant_does_what_its_decider_says_and_takes_unknown_for_aborted() {
        let prepared = ledger(&[prepare(1)]);
        let time = HybridTime(5);
        let mut settler = Settler::new(partition(0), PAUSES);
        settler.tick(&prepared, 0);
        assert_eq!(asked(&settler.tick(&prepared, 100)), [(1, Question::Outcome)]);
        assert_eq!(settler.heard(TX, partition(1), Answer::Undecided, &prepared, 101, time), []);
        let decided = Answer::Decided { commit: true, generation: 3, time };
        assert_eq!(settler.heard(TX, partition(2), decided, &prepared, 101, time), [], "not its decider");
        let told = settler.heard(TX, partition(1), decided, &prepared, 101, time);
        assert_eq!(submitted(&told), [&Request::Finish { tx: TX, commit: true, generation: 3, time }]);
        let unknown = settler.heard(TX, partition(1), Answer::Unknown, &prepared, 101, HybridTime(9));
        let aborted = Request::Finish { tx: TX, commit: false, generation: 0, time: HybridTime(9) };
        assert_eq!(submitted(&unknown), [&aborted]);
    }

    #[test]
    fn a_decider_says_what_it_knows() {
        let (time, generation) = (HybridTime(5), 0);
        let decide = Entry::Decide { tx: TX, commit: true, generation, time };
        let finish = Entry::Finish { tx: TX, commit: true, generation, time };
        assert_eq!(outcome(&ledger(&[]), TX), Answer::Unknown);
        assert_eq!(outcome(&ledger(&[prepare(0)]), TX), Answer::Undecided);
        let decided = Answer::Decided { commit: true, generation, time };
        assert_eq!(outcome(&ledger(&[prepare(0), decide.clone()]), TX), decided);
        assert_eq!(
            outcome(&ledger(&[prepare(0), decide.clone(), finish.clone()]), TX),
            decided,
            "until it is forgotten"
        );
        let forgotten = [prepare(0), decide, finish, Entry::Forget { tx: TX }];
        assert_eq!(outcome(&ledger(&forgotten), TX), Answer::Unknown);
    }
}
