//! The fold with the rows in it: which rows an entry changes, what it does that somebody waits for, and the sums.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ledger::{Ledger, Prepared, Waiting};
use crate::tables::entry::Entry;
use crate::tables::ids::{CutId, HybridTime, LogIndex, PartitionId, TxId, View};
use crate::tables::rows::{Change, Content, Row};

/// The sums over the rows of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Of the rows as they are.
    pub content: Content,
    /// Of the rows at each cut that the ledger knows, as far as it has settled.
    pub cuts: BTreeMap<CutId, Content>,
}

/// The whole state but for the rows, at one index. With the rows at that index it is a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folded {
    /// What follows from the entries.
    pub ledger: Ledger,
    /// What follows from the rows.
    pub sums: Sums,
}

/// A cut of this partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where it is, and what it waits for.
    pub waiting: Waiting,
    /// The sum over the rows at the cut; final once it has settled.
    pub content: Content,
}

/// What becomes of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// The key.
    pub key: Bytes,
    /// What stands there now; nothing if it is removed.
    pub row: Option<Row>,
}

/// What an entry did that somebody may wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A transaction of this partition alone is committed; the entry's index is the version of its rows.
    Written(TxId),
    /// It is prepared.
    Prepared(TxId),
    /// It is decided here: the participants must finish it.
    Decided(TxId),
    /// It is finished; false if it is aborted.
    Finished(TxId, bool),
    /// The decider has forgotten it.
    Forgotten(TxId),
    /// A cut passes here. Rows as they are after this entry belong to it, and only what is prepared now may still be added.
    Marked(CutId),
    /// No transaction that is prepared can be before this cut any more.
    Settled(CutId),
    /// A primary has begun its view.
    Opened(View),
    /// Rows of an operation are there; it goes on at the number.
    Loaded(u64, u64),
    /// A repair was made, or found another version than it was meant for.
    Repaired(bool),
}

/// What an entry comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows to be written, in the order of keys.
    pub changes: Vec<RowChange>,
    /// In the order in which they came about.
    pub effects: Vec<Effect>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    id: PartitionId,
    folded: Folded,
}

impl Partition {
    /// As it was left.
    pub fn new(id: PartitionId, folded: Folded) -> Partition {
        Partition { id, folded }
    }

    /// Which.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// The index of the last entry that was applied.
    pub fn applied(&self) -> LogIndex {
        self.folded.ledger.index()
    }

    /// The state but for the rows.
    pub fn folded(&self) -> &Folded {
        &self.folded
    }

    /// What follows from the entries.
    pub fn ledger(&self) -> &Ledger {
        &self.folded.ledger
    }

    /// The sum over the rows.
    pub fn content(&self) -> Content {
        self.folded.sums.content
    }

    /// A cut, while it is known.
    pub fn cut(&self, cut: CutId) -> Option<Cut> {
        let waiting = self.folded.ledger.cuts().get(&cut)?.clone();
        let content = self.folded.sums.cuts[&cut];
        Some(Cut { waiting, content })
    }

    /// Whether `key` may be read now. A transaction that will change it may be decided, and its client may know that: the row as it is
    /// would be an answer from the past. Who is refused asks again a little later.
    ///
    /// # Errors
    /// The transaction.
    pub fn may_read(&self, key: &[u8]) -> Result<(), TxId> {
        self.folded.ledger.locks().against_read(key).map_or(Ok(()), Err)
    }

    /// The keys whose rows must be known to apply `entry` next.
    pub fn needs<'a>(&'a self, entry: &'a Entry) -> Vec<&'a Bytes> {
        let of = |changes: &'a [Change]| changes.iter().map(|change| &change.key).collect();
        match entry {
            Entry::Write { changes, .. } | Entry::Load { changes, .. } => of(changes),
            Entry::Finish { tx, commit: true, .. } => {
                self.folded.ledger.prepared().get(tx).map_or_else(Vec::new, |prepared| of(&prepared.changes))
            }
            Entry::Repair { key, .. } => vec![key],
            Entry::Finish { .. }
            | Entry::Prepare { .. }
            | Entry::Decide { .. }
            | Entry::Forget { .. }
            | Entry::Mark { .. }
            | Entry::Open { .. } => Vec::new(),
        }
    }

    /// Applies the next entry. `row` tells the rows that it [needs](Partition::needs), as they are before it.
    ///
    /// # Panics
    /// If it is not the next, or could not have been admitted.
    pub fn apply<'a>(
        &mut self,
        index: LogIndex,
        entry: &Entry,
        row: impl Fn(&[u8]) -> Option<&'a Row>,
    ) -> Applied {
        let settled_before = self.settled();
        let finished = self.folded.ledger.fold(index, entry);
        let mut applied = Applied::default();
        let Folded { ledger, sums } = &mut self.folded;
        match entry {
            Entry::Write { tx, changes, .. } => {
                applied.changes = sums.change(index, changes, row, &[]);
                applied.effects.push(Effect::Written(*tx));
            }
            Entry::Load { operation, next, changes } => {
                applied.changes = sums.change(index, changes, row, &[]);
                applied.effects.push(Effect::Loaded(*operation, *next));
            }
            Entry::Finish { tx, commit, generation, .. } => {
                if let (Some(Prepared { index: at, changes, .. }), true) = (&finished, commit) {
                    let before = ledger.cuts().iter().filter(|(cut, w)| *generation < **cut && *at < w.mark);
                    let cuts: Vec<CutId> = before.map(|(cut, _)| *cut).collect();
                    applied.changes = sums.change(index, changes, row, &cuts);
                }
                applied.effects.push(Effect::Finished(*tx, *commit));
            }
            Entry::Repair { key, seen, value } => {
                let is_seen = seen.contains(&row(key).map(|row| row.version));
                if is_seen {
                    let change = Change { key: key.clone(), value: value.clone() };
                    applied.changes = sums.change(index, &[change], row, &[]);
                }
                applied.effects.push(Effect::Repaired(is_seen));
            }
            Entry::Mark { cut, .. } => {
                sums.cuts.insert(*cut, sums.content);
                sums.cuts.retain(|cut, _| ledger.cuts().contains_key(cut));
                applied.effects.push(Effect::Marked(*cut));
            }
            Entry::Prepare { tx, .. } => applied.effects.push(Effect::Prepared(*tx)),
            Entry::Decide { tx, .. } => applied.effects.push(Effect::Decided(*tx)),
            Entry::Forget { tx } => applied.effects.push(Effect::Forgotten(*tx)),
            Entry::Open { view } => applied.effects.push(Effect::Opened(*view)),
        }
        let newly = self.settled().into_iter().filter(|cut| !settled_before.contains(cut));
        applied.effects.extend(newly.map(Effect::Settled));
        applied
    }

    fn settled(&self) -> Vec<CutId> {
        let cuts = self.folded.ledger.cuts().iter();
        cuts.filter(|(_, waiting)| waiting.settled.is_some()).map(|(cut, _)| *cut).collect()
    }
}

impl Sums {
    /// Makes changes, now and at the cuts they are before, and says what becomes of the rows.
    fn change<'a>(
        &mut self,
        index: LogIndex,
        changes: &[Change],
        row: impl Fn(&[u8]) -> Option<&'a Row>,
        cuts: &[CutId],
    ) -> Vec<RowChange> {
        for Change { key, value } in changes {
            let old = row(key);
            let at_cuts =
                self.cuts.iter_mut().filter(|(cut, _)| cuts.contains(cut)).map(|(_, content)| content);
            for content in at_cuts.chain([&mut self.content]) {
                if let Some(old) = old {
                    content.remove(key, &old.value);
                }
                if let Some(value) = value {
                    content.add(key, value);
                }
            }
        }
        let becomes = |Change { key, value }: &Change| RowChange {
            key: key.clone(),
            row: value.clone().map(|value| Row { version: index, value }),
        };
        changes.iter().map(becomes).collect()
    }
}

/// The time of an entry's commit, for those that have one.
pub fn commit_time(entry: &Entry) -> Option<HybridTime> {
    match entry {
        Entry::Write { time, .. } | Entry::Decide { time, .. } | Entry::Finish { time, .. } => Some(*time),
        Entry::Prepare { .. }
        | Entry::Forget { .. }
        | Entry::Mark { .. }
        | Entry::Load { .. }
        | Entry::Open { .. }
        | Entry::Repair { .. } => None,
    }
}
