//! The coordinator of one transaction. Pure: answers in, questions out.
//!
//! A transaction of one partition is one `Write`. One of several is prepared at its **decider** first, the lowest partition that it
//! changes, and when that is in the decider's log at all others at once. When all are prepared the decider is asked to decide: its
//! `Decide` entry is the commit point. Finishing is the decider's affair ([`super::settle`]), so near holds nothing that anybody could miss.
//!
//! What the client is told is certain, or named as unknown:
//! - A *refusal* leaves no trace in a log, and somebody who has refused never says later that he is prepared. So with one refusal the
//!   transaction can only be aborted, whoever decides.
//! - A decider that is *silent* when asked to prepare: aborted too. Nobody else was asked or ever will be, so it can at most settle it.
//! - *Silence* of another: the decider is asked to abort, and its answer is the truth, even if it is "committed".
//! - Silence of the decider when asked to decide: the outcome is unknown, unless somebody had refused.
//! - A single write that is not answered: unknown. It is never sent again.
//!
//! Not here: when silence is silence, and how a primary is found.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{CutId, PartitionId, TxId};
use super::reason::Reason;

/// What near asks of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// All of it, in one phase.
    Write,
    /// Its part.
    Prepare,
    /// Of the decider: the outcome.
    Decide {
        /// True if all have prepared.
        commit: bool,
    },
}

/// What a partition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Its part is prepared.
    Prepared,
    /// It is decided, or has ended, like this.
    Decided {
        /// True if it is committed.
        commit: bool,
        /// Which cuts it is before.
        generation: CutId,
    },
    /// It knows nothing of it, although it has been told: it was decided long ago.
    Unknown,
    /// It was not done, and no trace of it is left.
    Refused(Reason),
    /// No answer in time.
    Silent,
}

/// How it ended, as far as near knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is committed.
    Committed {
        /// Which cuts it is before.
        generation: CutId,
    },
    /// It is aborted.
    Aborted {
        /// Who was in the way.
        partition: PartitionId,
        /// Why.
        reason: Reason,
    },
    /// Near does not know.
    Unknown,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask a partition.
    Ask(PartitionId, Ask),
    /// Tell the client. Nothing follows.
    Answer(Outcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Writing,
    PreparingDecider,
    PreparingOthers,
    Deciding,
    Over,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Near {
    tx: TxId,
    decider: PartitionId,
    others: BTreeSet<PartitionId>,
    waiting: BTreeSet<PartitionId>,
    step: Step,
    /// Why it cannot be committed, and whether that is certain.
    obstacle: Option<(PartitionId, Reason, bool)>,
}

/// The partition that decides: the lowest that is changed, or the lowest of all if none is. `participants` says of each partition
/// whether it is changed.
pub fn decider(participants: &BTreeMap<PartitionId, bool>) -> Option<PartitionId> {
    let changed = participants.iter().find(|(_, is_changed)| **is_changed);
    changed.or_else(|| participants.iter().next()).map(|(partition, _)| *partition)
}

impl Near {
    /// Begins a transaction over `participants`, each with whether it is changed, and says what to ask first.
    ///
    /// # Panics
    /// If there are no participants.
    pub fn begin(tx: TxId, participants: &BTreeMap<PartitionId, bool>) -> (Near, Effect) {
        let decider = decider(participants).expect("a transaction of nothing needs nobody");
        let others: BTreeSet<PartitionId> = participants.keys().copied().filter(|p| *p != decider).collect();
        let (step, ask) = match others.is_empty() {
            true => (Step::Writing, Ask::Write),
            false => (Step::PreparingDecider, Ask::Prepare),
        };
        let near = Near { tx, decider, others, waiting: [decider].into(), step, obstacle: None };
        (near, Effect::Ask(decider, ask))
    }

    /// The transaction.
    pub fn tx(&self) -> TxId {
        self.tx
    }

    /// Who decides.
    pub fn decider(&self) -> PartitionId {
        self.decider
    }

    /// Takes in what a partition says; what was not asked is ignored.
    pub fn heard(&mut self, partition: PartitionId, heard: Heard) -> Vec<Effect> {
        if !self.waiting.remove(&partition) {
            return Vec::new();
        }
        match (self.step, heard) {
            (Step::Over, _) => Vec::new(),
            // Whoever asked before has got that far: it is the truth.
            (_, Heard::Decided { commit: true, generation }) => self.over(Outcome::Committed { generation }),
            (_, Heard::Decided { commit: false, .. }) => {
                let (partition, reason) = self.why(partition, Reason::Settled);
                self.over(Outcome::Aborted { partition, reason })
            }
            (Step::Writing, Heard::Refused(reason)) => self.over(Outcome::Aborted { partition, reason }),
            (Step::Writing, _) => self.over(Outcome::Unknown),
            (Step::PreparingDecider, Heard::Prepared) => {
                self.step = Step::PreparingOthers;
                self.waiting = self.others.clone();
                self.others.iter().map(|other| Effect::Ask(*other, Ask::Prepare)).collect()
            }
            (Step::PreparingDecider, Heard::Refused(reason)) => {
                self.over(Outcome::Aborted { partition, reason })
            }
            (Step::PreparingDecider, Heard::Silent | Heard::Unknown) => {
                self.over(Outcome::Aborted { partition, reason: Reason::NoPrimary(partition) })
            }
            (Step::PreparingOthers, Heard::Prepared) => self.decide_when_all_have_answered(),
            (Step::PreparingOthers, Heard::Refused(reason)) => {
                self.obstacle = Some((partition, reason, true));
                self.decide_when_all_have_answered()
            }
            (Step::PreparingOthers, Heard::Silent | Heard::Unknown) => {
                let silent = (partition, Reason::NoPrimary(partition), false);
                self.obstacle.get_or_insert(silent);
                self.decide_when_all_have_answered()
            }
            (Step::Deciding, _) => match self.obstacle.take() {
                Some((partition, reason, true)) => self.over(Outcome::Aborted { partition, reason }),
                _ => self.over(Outcome::Unknown),
            },
        }
    }

    fn why(&mut self, partition: PartitionId, otherwise: Reason) -> (PartitionId, Reason) {
        self.obstacle.take().map_or((partition, otherwise), |(partition, reason, _)| (partition, reason))
    }

    fn decide_when_all_have_answered(&mut self) -> Vec<Effect> {
        if !self.waiting.is_empty() {
            return Vec::new();
        }
        self.step = Step::Deciding;
        self.waiting.insert(self.decider);
        vec![Effect::Ask(self.decider, Ask::Decide { commit: self.obstacle.is_none() })]
    }

    fn over(&mut self, outcome: Outcome) -> Vec<Effect> {
        self.step = Step::Over;
        self.waiting.clear();
        vec![Effect::Answer(outcome)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::partition::Conflict;
    use proptest::prelude::*;

    fn partition(number: u16) -> PartitionId {
        PartitionId { table: 1, number }
    }

    fn conflict() -> Reason {
        Conflict::Locked { key: bytes::Bytes::from_static(b"k"), by: TxId(9) }.into()
    }

    fn begin(changed: &[bool]) -> (Near, Effect) {
        let participants =
            changed.iter().zip(0..).map(|(is_changed, number)| (partition(number), *is_changed));
        Near::begin(TxId(1), &participants.collect())
    }

    #[test]
    fn one_partition_is_one_write() {
        let (mut near, first) = begin(&[true]);
        assert_eq!(first, Effect::Ask(partition(0), Ask::Write));
        let silent = near.clone().heard(partition(0), Heard::Silent);
        assert_eq!(silent, [Effect::Answer(Outcome::Unknown)]);
        let done = near.heard(partition(0), Heard::Decided { commit: true, generation: 3 });
        assert_eq!(done, [Effect::Answer(Outcome::Committed { generation: 3 })]);
        assert_eq!(near.heard(partition(0), Heard::Silent), [], "once");
    }

    #[test]
    fn the_decider_prepares_before_anybody_else_is_asked() {
        let (mut near, first) = begin(&[false, true, true]);
        assert_eq!(first, Effect::Ask(partition(1), Ask::Prepare), "the lowest that is changed");
        let mut refused = near.clone();
        let reason = conflict();
        let answer = Effect::Answer(Outcome::Aborted { partition: partition(1), reason: reason.clone() });
        assert_eq!(refused.heard(partition(1), Heard::Refused(reason)), [answer], "nobody else knows of it");
        let others = near.heard(partition(1), Heard::Prepared);
        assert_eq!(others, [0, 2].map(|other| Effect::Ask(partition(other), Ask::Prepare)));
        assert_eq!(near.heard(partition(2), Heard::Prepared), []);
        let decide = near.heard(partition(0), Heard::Prepared);
        assert_eq!(decide, [Effect::Ask(partition(1), Ask::Decide { commit: true })]);
        assert_eq!(
            near.heard(partition(1), Heard::Unknown),
            [Effect::Answer(Outcome::Unknown)],
            "never committed"
        );
    }

    #[test]
    fn silence_is_unknown_unless_somebody_refused() {
        let prepared = || {
            let (mut near, _) = begin(&[true, true, true]);
            near.heard(partition(0), Heard::Prepared);
            near
        };
        let mut near = prepared();
        near.heard(partition(1), Heard::Silent);
        let decide = near.heard(partition(2), Heard::Prepared);
        assert_eq!(decide, [Effect::Ask(partition(0), Ask::Decide { commit: false })]);
        let committed = near.clone().heard(partition(0), Heard::Decided { commit: true, generation: 1 });
        assert_eq!(
            committed,
            [Effect::Answer(Outcome::Committed { generation: 1 })],
            "it was settled before"
        );
        assert_eq!(near.heard(partition(0), Heard::Silent), [Effect::Answer(Outcome::Unknown)]);
        let mut near = prepared();
        near.heard(partition(1), Heard::Silent);
        near.heard(partition(2), Heard::Refused(conflict()));
        let aborted = Outcome::Aborted { partition: partition(2), reason: conflict() };
        assert_eq!(near.heard(partition(0), Heard::Silent), [Effect::Answer(aborted)]);
    }

    proptest! {
        /// Partitions behave as theirs do: who refuses never prepares, and the decider decides once, by itself if it must.
        #[test]
        fn what_the_client_is_told_is_true(
            count in 1u16..5,
            behaviour in proptest::collection::vec((0u8..4, any::<bool>()), 5),
            order in proptest::collection::vec(0usize..8, 0..32),
            settles in any::<bool>(),
        ) {
            let participants: BTreeMap<PartitionId, bool> = (0..count).map(|n| (partition(n), true)).collect();
            let (mut near, first) = Near::begin(TxId(1), &participants);
            let mut asked = vec![first];
            let mut prepared: BTreeSet<PartitionId> = BTreeSet::new();
            let mut decided: Option<bool> = None;
            let mut written = false;
            let mut order = order.into_iter();
            let mut told = None;
            while !asked.is_empty() {
                let Effect::Ask(at, ask) = asked.remove(order.next().unwrap_or(0) % asked.len()) else { unreachable!() };
                let (how, is_answer_lost) = behaviour[usize::from(at.number)];
                let heard = match (ask, how) {
                    (Ask::Write | Ask::Prepare, 0) => Heard::Refused(conflict()),
                    // It never arrives.
                    (_, 1) => Heard::Silent,
                    (Ask::Write, _) => {
                        written = true;
                        Heard::Decided { commit: true, generation: 0 }
                    }
                    (Ask::Prepare, _) => {
                        prepared.insert(at);
                        Heard::Prepared
                    }
                    (Ask::Decide { commit }, _) => {
                        if settles {
                            decided.get_or_insert(prepared.len() == usize::from(count));
                        }
                        Heard::Decided { commit: *decided.get_or_insert(commit), generation: 0 }
                    }
                };
                let heard = if is_answer_lost { Heard::Silent } else { heard };
                for effect in near.heard(at, heard) {
                    match effect {
                        Effect::Answer(outcome) => told = Some(outcome),
                        ask => asked.push(ask),
                    }
                }
            }
            // Long after, the decider settles what is open.
            let all = prepared.len() == usize::from(count);
            let is_committed = written || decided.unwrap_or(all && prepared.contains(&near.decider()));
            match told.expect("near always answers") {
                Outcome::Committed { .. } => prop_assert!(is_committed),
                Outcome::Aborted { .. } => prop_assert!(!is_committed),
                Outcome::Unknown => {}
            }
        }
    }
}
