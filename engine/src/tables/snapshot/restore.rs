//! Restoring a snapshot: the machine of `restore NAME`. Facts in, actions out; what it must not forget is a step in the register.
//!
//! ```text
//! Validating -> Loading(hidden tables) -> Verifying(hidden tables) -> Done
//!          any of them                 -> Failed | Cancelled
//! ```
//! - *Validating*: the chain, the names, the room; then everything that the chain names is read and checked. Nothing is written.
//! - One change of the register makes hidden tables with new ids and records `Loading`. Each partition loads itself through its own log, so
//!   its copies are equal whatever the topology; the log says how far it came, and that is where it goes on.
//! - *Verifying*: what every copy of every partition holds is compared with what the snapshot says, always.
//! - One change of the register makes all tables visible under their names and records `Done`; before it nobody can see a row of
//!   them. Every other end is one change as well: it drops the hidden tables and records why. So there is no step at which half of it is
//!   there, and nothing to sweep.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::chain::{Chain, Link, Target};
use super::document::{Copy, Document, Table};
use super::layout::Layout;
use super::objects::Found;
use super::operation::{End, Reason, Record, Why};
use crate::tables::ids::{PartitionId, TableId};
use crate::tables::rows::Content;

#[cfg(test)]
mod tests;

/// What is to be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Where snapshots are.
    pub root: String,
    /// What it is called.
    pub name: String,
    /// To which state.
    pub target: Target,
    /// Only these tables.
    pub tables: Option<Vec<String>>,
    /// What is added to their names.
    pub suffix: String,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Nothing is written yet.
    Validating,
    /// There are hidden tables, and their partitions load themselves.
    Loading {
        /// By their ids in the snapshot, the hidden ones.
        tables: BTreeMap<TableId, TableId>,
    },
    /// They have, and are compared.
    Verifying {
        /// By their ids in the snapshot, the hidden ones.
        tables: BTreeMap<TableId, TableId>,
        /// What each hidden partition must come to.
        expected: Vec<(PartitionId, Content)>,
    },
    /// The tables are there.
    Done {
        /// Their ids.
        tables: BTreeSet<TableId>,
    },
    /// They are not.
    Failed(Reason),
    /// They are not, as was wanted.
    Cancelled,
}

/// What is there when it begins, or goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// What is at each document of the name, up to the first that is absent.
    pub documents: BTreeMap<u64, Found>,
    /// Names of the tables that users see.
    pub names: BTreeSet<String>,
    /// Another operation that may not run beside it.
    pub busy: Option<(u64, String)>,
    /// How much the nodes can take, in bytes, if that is known.
    pub free_bytes: Option<u64>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Look at documents, tables and the register: [`Fact::Seen`].
    Look,
    /// Check the snapshot up to this number ([`super::check::check`]): [`Fact::Checked`].
    Check(u64),
    /// One change of the register: hidden tables like these, and [`Step::Loading`] with their ids: [`Fact::Hidden`].
    Hide(Vec<Table>),
    /// Have these hidden partitions load themselves from those of the snapshot: [`Fact::Loaded`] of each.
    Load(BTreeMap<PartitionId, PartitionId>),
    /// One change of the register: this step. [`Fact::Recorded`].
    Record(Box<Step>),
    /// Have all copies of these partitions say what they hold: [`Fact::Held`] of each.
    Sum(BTreeSet<PartitionId>),
    /// One change of the register: these tables are visible, under their names, and [`Step::Done`]. [`Fact::Recorded`], or
    /// [`Fact::Failed`] if a name is taken.
    Publish(BTreeSet<TableId>),
    /// One change of the register: these tables are dropped, and this step. [`Fact::Recorded`].
    Drop {
        /// Hidden tables; may be none.
        tables: BTreeSet<TableId>,
        /// [`Step::Failed`] or [`Step::Cancelled`].
        end: Box<Step>,
    },
    /// Nothing.
    End(End),
}

/// What was learned.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// What there is.
    Seen(Box<Sight>),
    /// How many defects there are, and the first.
    Checked(Option<(usize, String)>),
    /// The hidden tables, by their ids in the snapshot.
    Hidden(BTreeMap<TableId, TableId>),
    /// A partition has loaded all that it should, and what that comes to.
    Loaded(PartitionId, Content),
    /// The register has the step.
    Recorded,
    /// What the copies in sync of a partition hold.
    Held(PartitionId, Vec<Copy>),
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
pub struct Restore {
    layout: Layout,
    request: Request,
    step: Step,
    cancel: bool,
    chain: Option<Chain>,
    is_checked: bool,
    loaded: BTreeMap<PartitionId, Content>,
    held: BTreeSet<PartitionId>,
    record: Option<Step>,
    undo: Option<Why>,
    is_superseded: bool,
}

impl Restore {
    /// Goes on from what stands in the register.
    ///
    /// # Errors
    /// If the name cannot be.
    pub fn resume(record: &Record<Request, Step>) -> Result<Restore, Reason> {
        let request = record.request.clone();
        let layout =
            Layout::new(&request.root, &request.name).map_err(|error| Reason::Other(error.to_string()))?;
        let mut restore = Restore {
            layout,
            request,
            step: record.step.clone(),
            cancel: false,
            chain: None,
            is_checked: false,
            loaded: BTreeMap::new(),
            held: BTreeSet::new(),
            record: None,
            undo: None,
            is_superseded: false,
        };
        if record.cancel {
            restore.cancel();
        }
        Ok(restore)
    }

    /// How far it is.
    pub fn step(&self) -> &Step {
        &self.step
    }

    /// How the snapshot's objects are named.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The chain, once it was looked at: who loads a partition asks it for the plan.
    pub fn chain(&self) -> Option<&Chain> {
        self.chain.as_ref()
    }

    /// What to do next.
    pub fn next(&self) -> Action {
        if self.is_superseded {
            return Action::End(End::Superseded);
        }
        if let Some(why) = &self.undo {
            let end = match why {
                Why::Failed(reason) => Step::Failed(reason.clone()),
                Why::Cancelled => Step::Cancelled,
            };
            return Action::Drop { tables: self.hidden(), end: Box::new(end) };
        }
        if let Some(step) = &self.record {
            return Action::Record(Box::new(step.clone()));
        }
        match &self.step {
            Step::Validating | Step::Loading { .. } if self.chain.is_none() => Action::Look,
            Step::Validating if !self.is_checked => Action::Check(self.document().number()),
            Step::Validating => Action::Hide(self.tables().into_iter().cloned().collect()),
            Step::Loading { tables } => {
                let mut missing = self.sources(tables);
                missing.retain(|partition, _| !self.loaded.contains_key(partition));
                Action::Load(missing)
            }
            Step::Verifying { expected, .. } => {
                let partitions = expected.iter().map(|(partition, _)| *partition);
                let missing: BTreeSet<_> =
                    partitions.filter(|partition| !self.held.contains(partition)).collect();
                if missing.is_empty() { Action::Publish(self.hidden()) } else { Action::Sum(missing) }
            }
            Step::Done { .. } => Action::End(End::Done),
            Step::Failed(reason) => Action::End(End::Failed(reason.clone())),
            Step::Cancelled => Action::End(End::Cancelled),
        }
    }

    /// Takes in what was learned.
    ///
    /// [`Fact::Cancel`] may come at any time but while the register is being changed; an action that is under way then is given up.
    ///
    /// # Panics
    /// If the fact is no result of the action that [`Restore::next`] asked for.
    pub fn learn(&mut self, fact: Fact) {
        match (self.next(), fact) {
            (Action::End(_), _) | (_, Fact::Again) => {}
            (_, Fact::NotMine) => self.is_superseded = true,
            (_, Fact::Cancel) => self.cancel(),
            (Action::Record(step), Fact::Recorded) => self.entered(*step),
            (Action::Publish(tables), Fact::Recorded) => self.entered(Step::Done { tables }),
            (Action::Drop { end, .. }, Fact::Recorded) => self.entered(*end),
            // These are changes of the register that nothing can refuse.
            (Action::Record(_) | Action::Drop { .. }, Fact::Failed(_)) => {}
            (_, Fact::Failed(reason)) => self.undo = Some(Why::Failed(reason)),
            (Action::Look, Fact::Seen(sight)) => self.seen(*sight),
            (Action::Check(_), Fact::Checked(None)) => self.is_checked = true,
            (Action::Check(_), Fact::Checked(Some((defects, first)))) => {
                self.undo = Some(Why::Failed(Reason::Damaged { defects, first }));
            }
            (Action::Hide(_), Fact::Hidden(tables)) => self.entered(Step::Loading { tables }),
            (Action::Load(missing), Fact::Loaded(partition, content)) => {
                self.has_loaded(&missing, partition, content)
            }
            (Action::Sum(missing), Fact::Held(partition, copies)) => {
                self.has_held(&missing, partition, &copies)
            }
            (action, fact) => panic!("{fact:?} is no result of {action:?}"),
        }
    }

    fn entered(&mut self, step: Step) {
        assert!(!is_end(&self.step), "an operation ends once: {:?}, then {step:?}", self.step);
        self.step = step;
        (self.record, self.undo) = (None, None);
        if self.cancel {
            self.cancel();
        }
    }

    fn cancel(&mut self) {
        self.cancel = true;
        // A change of the register that is under way may have landed: it is seen through, and looked at then.
        if self.record.is_none() && self.undo.is_none() && !is_end(&self.step) {
            self.undo = Some(Why::Cancelled);
        }
    }

    fn hidden(&self) -> BTreeSet<TableId> {
        match &self.step {
            Step::Loading { tables } | Step::Verifying { tables, .. } => tables.values().copied().collect(),
            _ => BTreeSet::new(),
        }
    }

    fn seen(&mut self, sight: Sight) {
        match self.validate(&sight) {
            Ok(chain) => self.chain = Some(chain),
            Err(reason) => self.undo = Some(Why::Failed(reason)),
        }
    }

    fn validate(&self, sight: &Sight) -> Result<Chain, Reason> {
        let is_begun = self.step != Step::Validating;
        if let Some((id, kind)) = sight.busy.clone().filter(|_| !is_begun) {
            return Err(Reason::Busy { id, kind });
        }
        let Request { target, tables, suffix, .. } = &self.request;
        let (links, last) = self.links(&sight.documents)?;
        let number = if let Target::Increment(number) = target { *number } else { last };
        let chain = Chain::new(&links, number)?;
        let end = chain.end(*target)?;
        let chain = Chain::new(&links, end.number())?;
        let (mut needed_bytes, mut wanted) = (0u64, chain.tables(tables.as_deref())?);
        wanted.sort_by_key(|table| table.id);
        wanted.dedup();
        for Table { id, name, partitions, backups, .. } in wanted {
            let name = format!("{name}{suffix}");
            if sight.names.contains(&name) {
                return Err(Reason::TableThere { table: name });
            }
            for number in 0..*partitions {
                let plan = chain.plan(PartitionId { table: *id, number }, *target)?;
                let files = plan
                    .steps
                    .iter()
                    .map(|step| step.to_part)
                    .chain([plan.base])
                    .flat_map(|part| &part.files);
                let bytes = files.map(|file| file.len_bytes).fold(0, u64::saturating_add);
                needed_bytes = needed_bytes.saturating_add(bytes.saturating_mul(u64::from(*backups) + 1));
            }
        }
        match sight.free_bytes.filter(|free_bytes| !is_begun && *free_bytes < needed_bytes) {
            None => Ok(chain),
            Some(free_bytes) => {
                let why = format!("it takes up to {needed_bytes} bytes, and there are {free_bytes} left");
                Err(Reason::Limit(why))
            }
        }
    }

    /// The documents that can be read, and the last before which none is missing.
    fn links(&self, documents: &BTreeMap<u64, Found>) -> Result<(BTreeMap<u64, Link>, u64), Reason> {
        let (mut links, mut last) = (BTreeMap::new(), 0);
        for (number, found) in documents {
            match found {
                Found::Document(link) => {
                    links.insert(*number, (**link).clone());
                    last = if links.len() as u64 == number + 1 { *number } else { last };
                }
                Found::Unusable(error) if matches!(self.request.target, Target::Increment(to) if to >= *number) =>
                {
                    return Err(Reason::Damaged { defects: 1, first: error.to_string() });
                }
                Found::Unusable(_) | Found::Absent => {}
            }
        }
        Ok((links, last))
    }

    fn document(&self) -> &Document {
        self.chain.as_ref().expect("looked before").last()
    }

    fn tables(&self) -> Vec<&Table> {
        let chain = self.chain.as_ref().expect("looked before");
        let mut tables = chain.tables(self.request.tables.as_deref()).expect("looked at when it was seen");
        tables.sort_by_key(|table| table.id);
        tables.dedup();
        tables
    }

    /// The hidden partitions, and those of the snapshot that they are made of.
    fn sources(&self, hidden: &BTreeMap<TableId, TableId>) -> BTreeMap<PartitionId, PartitionId> {
        let pairs = self.tables().into_iter().filter_map(|table| Some((table, *hidden.get(&table.id)?)));
        let partitions = pairs.flat_map(|(table, new)| {
            let pair =
                move |number| (PartitionId { table: new, number }, PartitionId { table: table.id, number });
            (0..table.partitions).map(pair)
        });
        partitions.collect()
    }

    fn has_loaded(
        &mut self,
        missing: &BTreeMap<PartitionId, PartitionId>,
        partition: PartitionId,
        found: Content,
    ) {
        // Of one that was asked twice, or by a predecessor.
        let Some(source) = missing.get(&partition) else { return };
        let chain = self.chain.as_ref().expect("looked before");
        let plan = chain.plan(*source, self.request.target).expect("looked at when it was seen");
        if let Some(expected) = plan.content().filter(|expected| *expected != found) {
            self.undo = Some(Why::Failed(not_equal(partition, found, expected)));
            return;
        }
        self.loaded.insert(partition, found);
        if missing.len() > 1 {
            return;
        }
        let Step::Loading { tables } = &self.step else { unreachable!("it loads") };
        let expected = self.loaded.iter().map(|(partition, content)| (*partition, *content)).collect();
        self.record = Some(Step::Verifying { tables: tables.clone(), expected });
    }

    fn has_held(&mut self, missing: &BTreeSet<PartitionId>, partition: PartitionId, copies: &[Copy]) {
        let Step::Verifying { expected, .. } = &self.step else { unreachable!("it verifies") };
        let Some((_, expected)) = expected.iter().find(|(known, _)| *known == partition) else { return };
        if !missing.contains(&partition) {
            return;
        }
        match copies.iter().find(|copy| copy.content != *expected) {
            _ if copies.is_empty() => self.undo = Some(Why::Failed(Reason::NoCopy { partition })),
            Some(other) => self.undo = Some(Why::Failed(not_equal(partition, other.content, *expected))),
            None => drop(self.held.insert(partition)),
        }
    }
}

fn not_equal(partition: PartitionId, found: Content, expected: Content) -> Reason {
    Reason::NotEqual { partition, found: format!("{found:?}"), expected: format!("{expected:?}") }
}

fn is_end(step: &Step) -> bool {
    matches!(step, Step::Done { .. } | Step::Failed(_) | Step::Cancelled)
}
