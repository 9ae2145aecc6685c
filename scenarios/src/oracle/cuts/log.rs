//! What the log of one partition says about cuts, read without the engine's own fold.

use std::collections::{BTreeMap, BTreeSet};

use cutwater_engine::tables::entry::Entry;
use cutwater_engine::tables::ids::{CutId, LogIndex, PartitionId, TxId};
use cutwater_engine::tables::rows::Change;
use cutwater_sim::scenario::Violation;
use xxhash_rust::xxh3::xxh3_64;

use super::violation;

/// The committed entries that were told of a partition.
#[derive(Debug, Default)]
pub struct Log {
    entries: BTreeMap<LogIndex, (u64, Entry)>,
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub commit: bool,
    /// Which cuts it is before.
    pub generation: CutId,
    /// The partitions that it touches, as far as this log says.
    pub participants: Vec<PartitionId>,
}

/// What a log says, as far as it is known without a gap.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// There is no gap.
    pub is_whole: bool,
    /// How transactions ended that are decided here, or finished after they were prepared, or of this partition alone.
    pub outcomes: Vec<(TxId, Outcome)>,
    /// What was prepared, and the number of the last mark before.
    pub prepared: BTreeMap<TxId, CutId>,
    /// What has taken effect.
    pub finished: BTreeSet<TxId>,
    /// What has taken effect and changed something.
    pub wrote: BTreeSet<TxId>,
    /// Pairs of which the second read or replaced what the first wrote, and the key.
    pub conflicts: BTreeSet<(TxId, TxId, String)>,
}

impl Log {
    /// An entry is committed.
    ///
    /// # Errors
    /// If there is another one.
    pub fn told(&mut self, partition: PartitionId, index: LogIndex, entry: &Entry) -> Result<(), Violation> {
        let bytes = postcard::to_allocvec(entry).expect("an entry can be encoded");
        let digest = xxh3_64(&bytes);
        let known = self.entries.entry(index).or_insert_with(|| (digest, entry.clone()));
        if known.0 == digest {
            return Ok(());
        }
        Err(violation("copies of a log agree")
            .of("entry")
            .expected(format!("entry {index} of {partition} to be {:?}", known.1))
            .found(format!("{entry:?}")))
    }

    /// The entries from the first one without a gap.
    fn known(&self) -> impl Iterator<Item = (LogIndex, &Entry)> {
        let follow = self.entries.iter().zip(1..).take_while(|((index, _), expected)| *index == expected);
        follow.map(|((index, (_, entry)), _)| (*index, entry))
    }

    /// Reads the log.
    ///
    /// # Errors
    /// If marks do not grow, or do not say from where on the log is needed, or a decision has another number than that of the mark before it.
    pub(super) fn facts(&self, partition: PartitionId) -> Result<Facts, Violation> {
        let mut fold = Fold {
            partition,
            facts: Facts::default(),
            cut: 0,
            open: BTreeMap::new(),
            last: BTreeMap::new(),
            writers: BTreeMap::new(),
        };
        let mut known = 0;
        for (index, entry) in self.known() {
            known += 1;
            fold.entry(index, entry)?;
        }
        fold.facts.is_whole = known == self.entries.len();
        Ok(fold.facts)
    }
}

/// A log read up to somewhere.
struct Fold<'a> {
    partition: PartitionId,
    facts: Facts,
    cut: CutId,
    /// What is prepared and not finished, and where.
    open: BTreeMap<TxId, (LogIndex, &'a [PartitionId], &'a [Change])>,
    /// Who wrote a key last.
    last: BTreeMap<&'a [u8], TxId>,
    /// Who wrote rows at an index.
    writers: BTreeMap<LogIndex, TxId>,
}

impl<'a> Fold<'a> {
    fn entry(&mut self, index: LogIndex, entry: &'a Entry) -> Result<(), Violation> {
        match entry {
            Entry::Mark { cut, since } => self.mark(index, *cut, *since)?,
            Entry::Prepare { tx, participants, reads, changes, .. } => {
                self.facts.prepared.insert(*tx, self.cut);
                for read in reads {
                    let cause = read.version.and_then(|version| self.writers.get(&version));
                    self.facts.conflicts.extend(cause.map(|cause| (*cause, *tx, named(&read.key))));
                }
                self.open.insert(*tx, (index, participants, changes));
            }
            Entry::Write { tx, changes, .. } => {
                let participants = vec![self.partition];
                self.outcome(*tx, true, self.cut, participants);
                self.wrote(index, *tx, changes);
            }
            Entry::Decide { tx, commit, generation, .. } => {
                if *generation != self.cut {
                    return Err(violation("the generation is that of the decider's last mark")
                        .expected(format!("{tx} decided in {} with {}", self.partition, self.cut))
                        .found(generation));
                }
                let participants = self.open.get(tx).map(|(_, participants, _)| participants.to_vec());
                self.outcome(*tx, *commit, *generation, participants.unwrap_or_default());
            }
            // Of one that is not prepared it has no effect.
            Entry::Finish { tx, commit, generation, .. } => {
                let Some((_, participants, changes)) = self.open.remove(tx) else { return Ok(()) };
                self.outcome(*tx, *commit, *generation, participants.to_vec());
                if *commit {
                    self.wrote(index, *tx, changes);
                }
            }
            Entry::Forget { .. } | Entry::Load { .. } | Entry::Open { .. } | Entry::Repair { .. } => {}
        }
        Ok(())
    }

    fn mark(&mut self, index: LogIndex, cut: CutId, since: LogIndex) -> Result<(), Violation> {
        let Fold { partition, cut: before, .. } = *self;
        if cut <= before {
            return Err(
                violation("marks grow").found(format!("mark {cut} after {before} in {partition} at {index}"))
            );
        }
        self.cut = cut;
        let expected = self.open.values().map(|(index, ..)| *index).min().unwrap_or(index);
        if since == expected {
            return Ok(());
        }
        Err(violation("a mark says from where on the log is needed")
            .expected(format!("{expected} at mark {cut} of {partition}"))
            .found(since))
    }

    fn outcome(&mut self, tx: TxId, commit: bool, generation: CutId, participants: Vec<PartitionId>) {
        self.facts.outcomes.push((tx, Outcome { commit, generation, participants }));
    }

    fn wrote(&mut self, index: LogIndex, tx: TxId, changes: &'a [Change]) {
        self.facts.finished.insert(tx);
        self.writers.insert(index, tx);
        for change in changes {
            self.facts.wrote.insert(tx);
            let cause = self.last.insert(&change.key, tx);
            self.facts.conflicts.extend(cause.map(|cause| (cause, tx, named(&change.key))));
        }
    }
}

fn named(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
