//! Making a snapshot: the machine of `create NAME [--incremental]`. Facts in, actions out; what it must not forget is a step in the register.
//!
//! ```text
//! Announced -> Cutting(cut) -> Writing(cut) -> Sealing(cut, draft) -> Done
//!      any before Sealing   -> Undoing(cut) -> Failed | Cancelled
//! ```
//! - *Announced*: what is there is looked at, and refused by name if it does not fit. Then one change of the register announces a cut and
//!   records `Cutting`. A cut that is given up is tried again, a few times, with another number.
//! - *Writing*: each partition writes its files and says what they are. A partition that is asked again may write again: names are
//!   never used twice, and what the document does not name is swept.
//! - When all have answered, the document is put under a name of its own as a *draft*, and only then `Sealing` is recorded. So
//!   whoever takes over in `Sealing` puts the same bytes, and whether the put of a predecessor lands late makes no difference.
//! - *Sealing*: the draft is put, if absent, where the document belongs. That is the commit point. An unknown outcome is resolved by
//!   putting again and reading: from here on there is no way back, unless another document is there. A cancel comes too late.
//! - At either end, what no document names of this cut and earlier ones is swept; then `Done`, `Failed` or `Cancelled` is recorded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::chain::{Chain, Link};
use super::document::{Document, Kind, Node, Parent, Part, Stored, Table, TimeRange};
use super::layout::Layout;
use super::objects::{Found, Put};
use super::operation::{End, Reason, Record, Why};
use crate::tables::ids::{CutId, LogIndex, PartitionId};

#[cfg(test)]
mod tests;

/// How many cuts are tried.
const CUTS_TRIED_MAX: u32 = 3;

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Where snapshots are.
    pub root: String,
    /// What it is called.
    pub name: String,
    /// An increment of it.
    pub is_incremental: bool,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Wanted. Nothing is done yet.
    Announced,
    /// A cut is announced.
    Cutting {
        /// Which.
        cut: CutId,
        /// How many were before.
        tried: u32,
    },
    /// The cut got through, and partitions write.
    Writing {
        /// Which.
        cut: CutId,
    },
    /// All is written, and so is the document under another name.
    Sealing {
        /// The cut.
        cut: CutId,
        /// The number of the snapshot: 0 for a full one.
        number: u64,
        /// Where the document is.
        draft: Draft,
    },
    /// What there is of it is deleted.
    Undoing {
        /// The cut.
        cut: CutId,
        /// Why.
        why: Why,
    },
    /// The snapshot is there.
    Done {
        /// The cut.
        cut: CutId,
        /// The number of the snapshot: 0 for a full one.
        number: u64,
    },
    /// It is not.
    Failed(Reason),
    /// It is not, as was wanted.
    Cancelled,
}

/// A document that is not yet where it belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    /// Where it is.
    pub path: String,
    /// xxh3-128 of its bytes.
    pub xxh3: u128,
}

/// What is there when it begins, or goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// What is at each document of the name, up to the first that is absent.
    pub documents: BTreeMap<u64, Found>,
    /// The tables that users see.
    pub tables: Vec<Table>,
    /// The nodes.
    pub topology: Vec<Node>,
    /// Another operation that may not run beside it.
    pub busy: Option<(u64, String)>,
    /// What the register says of the logs that an increment needs: from which cut they are kept, and whether that was given up.
    pub pin: Option<(CutId, bool)>,
}

/// What a partition is to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Its rows at the cut.
    Rows,
    /// Its log from this entry on; its rows if it does not reach back so far.
    Log {
        /// The first entry that is needed.
        since: LogIndex,
    },
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Look at documents, tables and the register: [`Fact::Seen`].
    Look,
    /// One change of the register: announce a cut, and record [`Step::Cutting`] with its number: [`Fact::Announced`].
    Announce {
        /// How many cuts were tried before.
        tried: u32,
    },
    /// Wait until the cut has an end: [`Fact::Passed`] or [`Fact::GivenUp`].
    AwaitCut(CutId),
    /// One change of the register: this step. [`Fact::Recorded`]. With `Done` the logs since its cut are pinned for the name.
    Record(Box<Step>),
    /// Have these partitions write: [`Fact::Written`] of each.
    Write {
        /// The cut.
        cut: CutId,
        /// What.
        wanted: BTreeMap<PartitionId, Want>,
    },
    /// Put the document under a new name: [`Fact::Drafted`].
    PutDraft(Box<Document>),
    /// Put the draft where the document belongs, if that is absent: [`Fact::Put`]. If the draft is gone it was put by a predecessor, who
    /// swept it: then that is [`Put::Exists`].
    Publish {
        /// The draft.
        draft: Draft,
        /// The number of the snapshot.
        number: u64,
    },
    /// Read what is where the document belongs: [`Fact::Read`].
    Read {
        /// The number of the snapshot.
        number: u64,
    },
    /// Have nodes stop writing for the cut, and delete what no document names of this and earlier cuts: [`Fact::Swept`].
    Sweep(CutId),
    /// Nothing.
    End(End),
}

/// What was learned.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// What there is.
    Seen(Box<Sight>),
    /// The register says this cut.
    Announced(CutId),
    /// It was started everywhere.
    Passed,
    /// It was not.
    GivenUp,
    /// The register has the step.
    Recorded,
    /// A partition has written.
    Written(Box<Part>),
    /// The draft is durable.
    Drafted(Draft),
    /// What came of putting the document.
    Put(Put),
    /// What is there; its operation is that of the document.
    Read(Box<Found>),
    /// Nothing is left that should not be.
    Swept,
    /// The store or a node failed, or did not answer: the same again.
    Again,
    /// What was to be done cannot be, or failed for too long.
    Failed(Reason),
    /// Somebody wants it stopped.
    Cancel,
    /// The register says that somebody else owns it.
    NotMine,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Create {
    id: u64,
    layout: Layout,
    is_incremental: bool,
    step: Step,
    cancel: bool,
    sight: Option<Box<Sight>>,
    written: BTreeMap<PartitionId, Part>,
    /// In `Sealing`: the document is put, or something was there.
    sealed: Option<bool>,
    /// The cut was given up: another one is to be announced, after so many.
    again: Option<u32>,
    /// What is to be recorded.
    record: Option<Step>,
    is_superseded: bool,
}

impl Create {
    /// Goes on from what stands in the register.
    ///
    /// # Errors
    /// If the name cannot be.
    pub fn resume(id: u64, record: &Record<Request, Step>) -> Result<Create, Reason> {
        let Request { root, name, is_incremental } = &record.request;
        let layout = Layout::new(root, name).map_err(|error| Reason::Other(error.to_string()))?;
        let mut create = Create {
            id,
            layout,
            is_incremental: *is_incremental,
            step: record.step.clone(),
            cancel: false,
            sight: None,
            written: BTreeMap::new(),
            sealed: None,
            again: None,
            record: None,
            is_superseded: false,
        };
        if record.cancel {
            create.cancel();
        }
        Ok(create)
    }

    /// How far it is.
    pub fn step(&self) -> &Step {
        &self.step
    }

    /// What to do next.
    pub fn next(&self) -> Action {
        if self.is_superseded {
            return Action::End(End::Superseded);
        }
        if let Some(step) = &self.record {
            return Action::Record(Box::new(step.clone()));
        }
        match &self.step {
            Step::Announced | Step::Writing { .. } if self.sight.is_none() => Action::Look,
            Step::Announced => Action::Announce { tried: 0 },
            Step::Cutting { cut, .. } => match self.again {
                Some(tried) => Action::Announce { tried },
                None => Action::AwaitCut(*cut),
            },
            Step::Writing { cut } => self.next_written(*cut),
            Step::Sealing { cut, number, draft } => match self.sealed {
                None => Action::Publish { draft: draft.clone(), number: *number },
                Some(false) => Action::Read { number: *number },
                Some(true) => Action::Sweep(*cut),
            },
            Step::Undoing { cut, .. } => Action::Sweep(*cut),
            Step::Done { .. } => Action::End(End::Done),
            Step::Failed(reason) => Action::End(End::Failed(reason.clone())),
            Step::Cancelled => Action::End(End::Cancelled),
        }
    }

    fn next_written(&self, cut: CutId) -> Action {
        let wanted = match self.wanted() {
            Ok(wanted) => wanted,
            Err(_) => unreachable!("looked at when it was seen"),
        };
        let missing: BTreeMap<PartitionId, Want> =
            wanted.into_iter().filter(|(partition, _)| !self.written.contains_key(partition)).collect();
        if !missing.is_empty() {
            return Action::Write { cut, wanted: missing };
        }
        Action::PutDraft(Box::new(self.document(cut)))
    }

    /// Takes in what was learned.
    ///
    /// [`Fact::Cancel`] may come at any time but while the register is being changed; an action that is under way then is given up.
    ///
    /// # Panics
    /// If the fact is no result of the action that [`Create::next`] asked for.
    pub fn learn(&mut self, fact: Fact) {
        match (self.next(), fact) {
            (Action::End(_), _) | (_, Fact::Again) => {}
            (_, Fact::NotMine) => self.is_superseded = true,
            (_, Fact::Cancel) => self.cancel(),
            (Action::Record(step), Fact::Recorded) => self.entered(*step),
            // What was announced cannot be taken back, and what must be recorded is tried for as long as it takes.
            (
                Action::Record(_) | Action::Publish { .. } | Action::Read { .. } | Action::Sweep(_),
                Fact::Failed(_),
            ) => {}
            (_, Fact::Failed(reason)) => self.undo(Why::Failed(reason)),
            (Action::Look, Fact::Seen(sight)) => self.seen(sight),
            (Action::Announce { tried }, Fact::Announced(cut)) => self.entered(Step::Cutting { cut, tried }),
            (Action::AwaitCut(cut), Fact::Passed) => self.record = Some(Step::Writing { cut }),
            (Action::AwaitCut(cut), Fact::GivenUp) => self.given_up(cut),
            (Action::Write { cut, wanted }, Fact::Written(part)) => self.has_written(cut, &wanted, *part),
            (Action::PutDraft(document), Fact::Drafted(draft)) => {
                let (cut, number) = (document.cut, document.number());
                self.record = Some(Step::Sealing { cut, number, draft });
            }
            (Action::Publish { .. }, Fact::Put(put)) => match put {
                Put::Created => self.sealed = Some(true),
                // Perhaps it is ours, from before.
                Put::Exists => self.sealed = Some(false),
                Put::Unknown => {}
            },
            (Action::Read { number }, Fact::Read(found)) => self.was_there(number, *found),
            (Action::Sweep(_), Fact::Swept) => self.swept(),
            (action, fact) => panic!("{fact:?} is no result of {action:?}"),
        }
    }

    fn entered(&mut self, step: Step) {
        let is_over = matches!(self.step, Step::Done { .. } | Step::Failed(_) | Step::Cancelled);
        assert!(!is_over, "an operation ends once: {:?}, then {step:?}", self.step);
        if matches!(step, Step::Writing { .. }) {
            // Tables may have come and gone.
            self.sight = None;
        }
        self.step = step;
        (self.record, self.again) = (None, None);
        if self.cancel {
            self.cancel();
        }
    }

    /// Somebody wants it stopped: it is undone, if it can be.
    fn cancel(&mut self) {
        self.cancel = true;
        let is_late = |step: &Step| {
            matches!(
                step,
                Step::Sealing { .. }
                    | Step::Undoing { .. }
                    | Step::Done { .. }
                    | Step::Failed(_)
                    | Step::Cancelled
            )
        };
        // A change of the register that is under way may have landed: it is seen through, and looked at then.
        let is_under_way = self.record.is_some();
        if !is_under_way && !is_late(&self.step) {
            self.undo(Why::Cancelled);
        }
    }

    fn undo(&mut self, why: Why) {
        self.record = Some(match (&self.step, why) {
            (Step::Cutting { cut, .. } | Step::Writing { cut } | Step::Sealing { cut, .. }, why) => {
                Step::Undoing { cut: *cut, why }
            }
            (Step::Announced, Why::Failed(reason)) => Step::Failed(reason),
            (Step::Announced, Why::Cancelled) => Step::Cancelled,
            (step, why) => unreachable!("{step:?} is not undone for {why:?}"),
        });
    }

    fn swept(&mut self) {
        self.record = Some(match &self.step {
            Step::Sealing { cut, number, .. } => Step::Done { cut: *cut, number: *number },
            Step::Undoing { why: Why::Failed(reason), .. } => Step::Failed(reason.clone()),
            Step::Undoing { why: Why::Cancelled, .. } => Step::Cancelled,
            step => unreachable!("nothing is swept in {step:?}"),
        });
    }

    fn seen(&mut self, sight: Box<Sight>) {
        let mut documents = sight.documents.values();
        if documents.any(|found| matches!(found, Found::Document(link) if link.document.operation == self.id))
        {
            // A successor has put it, or its document would not be there before `Sealing` is recorded.
            self.is_superseded = true;
            return;
        }
        self.sight = Some(sight);
        let refused = match self.step {
            Step::Announced => self.preconditions().err(),
            // What was held when it was announced may have changed.
            _ => self.wanted().err(),
        };
        if let Some(reason) = refused {
            self.undo(Why::Failed(reason));
        }
    }

    fn sight(&self) -> &Sight {
        self.sight.as_ref().expect("looked before")
    }

    fn preconditions(&self) -> Result<(), Reason> {
        let sight = self.sight();
        if let Some((id, kind)) = sight.busy.clone() {
            return Err(Reason::Busy { id, kind });
        }
        self.wanted().map(drop)
    }

    /// The document to go on from; `None` for a full snapshot.
    fn parent(&self) -> Result<Option<&Link>, Reason> {
        let sight = self.sight();
        let taken = |found: &Found, number: u64| Reason::ObjectTaken {
            object: self.layout.document(number),
            what: match found {
                Found::Unusable(error) => error.to_string(),
                _ => "a document".into(),
            },
        };
        if !self.is_incremental {
            return match sight.documents.get(&0) {
                None | Some(Found::Absent) => Ok(None),
                Some(Found::Document(_)) => Err(Reason::NameTaken),
                Some(other) => Err(taken(other, 0)),
            };
        }
        let mut links = BTreeMap::new();
        for (number, found) in &sight.documents {
            match found {
                Found::Absent => {}
                Found::Document(link) => drop(links.insert(*number, (**link).clone())),
                Found::Unusable(_) => return Err(taken(found, *number)),
            }
        }
        let Some((last, _)) = links.last_key_value() else { return Err(Reason::NoSnapshot) };
        let cut = Chain::new(&links, *last)?.last().cut;
        match sight.pin {
            Some((pinned, false)) if pinned <= cut => {}
            _ => return Err(Reason::PinBroken { cut }),
        }
        match sight.documents.get(last) {
            Some(Found::Document(link)) => Ok(Some(link)),
            _ => unreachable!("it is in the chain"),
        }
    }

    /// What each partition is to write.
    fn wanted(&self) -> Result<BTreeMap<PartitionId, Want>, Reason> {
        let parent = self.parent()?;
        let sight = self.sight();
        if let (Step::Writing { cut }, Some(link)) = (&self.step, parent)
            && link.document.cut >= *cut
        {
            let found = format!("cut {cut} cannot go on from cut {}", link.document.cut);
            return Err(Reason::Chain(found));
        }
        if sight.tables.is_empty() {
            return Err(Reason::NoTables);
        }
        let want = |partition: PartitionId| {
            let parts = parent.map(|link| &link.document.parts).into_iter().flatten();
            let known = parts.into_iter().find(|part| part.partition == partition);
            known.map_or(Want::Rows, |part| Want::Log { since: part.since })
        };
        let partitions = sight
            .tables
            .iter()
            .flat_map(|table| (0..table.partitions).map(|number| PartitionId { table: table.id, number }));
        Ok(partitions.map(|partition| (partition, want(partition))).collect())
    }

    fn given_up(&mut self, cut: CutId) {
        let Step::Cutting { tried, .. } = self.step else { unreachable!("it waited for a cut") };
        let tried = tried + 1;
        if tried >= CUTS_TRIED_MAX {
            return self.undo(Why::Failed(Reason::CutsGivenUp { tried, cut }));
        }
        // Nothing was written for it, so it is as if it had not been.
        self.again = Some(tried);
    }

    fn has_written(&mut self, cut: CutId, wanted: &BTreeMap<PartitionId, Want>, part: Part) {
        let partition = part.partition;
        // Of one that was asked twice, or by a predecessor.
        let Some(want) = wanted.get(&partition) else { return };
        if part.copies.iter().any(|copy| copy.content != part.content) {
            return self.undo(Why::Failed(Reason::CopiesDiffer { partition, cut }));
        }
        let fits = match (want, part.stored) {
            (_, Stored::Rows) => true,
            (Want::Rows, Stored::Log { .. }) => false,
            (Want::Log { since }, Stored::Log { first, .. }) => first <= *since,
        };
        assert!(fits, "partition {partition} was to write {want:?}, and wrote {:?}", part.stored);
        self.written.insert(partition, part);
    }

    /// What all of it comes to.
    fn document(&self, cut: CutId) -> Document {
        let sight = self.sight();
        let parent = self.parent().expect("looked at when it was seen");
        let parts: Vec<Part> = self.written.values().cloned().collect();
        let time = TimeRange {
            latest: parts.iter().map(|part| part.latest).max().unwrap_or_default(),
            closed: parts.iter().map(|part| part.closed).min().unwrap_or_default(),
        };
        let kind = parent.map_or(Kind::Full, |link| {
            let number = link.document.number();
            let parent = Parent { number, cut: link.document.cut, xxh3: link.xxh3 };
            Kind::Increment { number: number + 1, parent }
        });
        let known = |partition: &PartitionId| {
            parent.is_some_and(|link| link.document.parts.iter().any(|part| part.partition == *partition))
        };
        let moved = parts.iter().filter(|part| part.stored == Stored::Rows && known(&part.partition));
        let warnings = moved.map(|part| {
            format!("partition {} has no log back to the cut before: its rows are stored", part.partition)
        });
        Document {
            root: self.layout.root().into(),
            name: self.layout.name().into(),
            kind,
            cut,
            operation: self.id,
            time,
            tables: sight.tables.clone(),
            warnings: warnings.collect(),
            parts,
            topology: sight.topology.clone(),
        }
    }

    /// The document's name was taken before it was put: by itself, or by another.
    fn was_there(&mut self, number: u64, found: Found) {
        let Step::Sealing { draft, .. } = &self.step else { unreachable!("it was sealed") };
        let what = match found {
            // Deleted in between, or not seen yet: the next put decides.
            Found::Absent => {
                self.sealed = None;
                return;
            }
            Found::Document(link) if link.xxh3 == draft.xxh3 => {
                self.sealed = Some(true);
                return;
            }
            Found::Document(link) => format!("the document of operation {}", link.document.operation),
            Found::Unusable(error) => error.to_string(),
        };
        // The name is taken for good, so no put of this operation can land any more.
        self.undo(Why::Failed(Reason::ObjectTaken { object: self.layout.document(number), what }));
    }
}
