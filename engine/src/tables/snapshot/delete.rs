//! Deleting a snapshot with its increments: the machine of `delete NAME`.
//!
//! ```text
//! Checking -> Deleting -> Done
//!    |-> Failed | Cancelled
//! ```
//! Documents go first, the last increment before the one that it goes on from: so at every moment what is there is a whole chain, or
//! nothing. Then the files. Once `Deleting` is recorded there is no way back, and whoever takes over goes on: a deletion can be done
//! twice. It is over when a listing shows nothing of it; objects that no snapshot has are left alone. With `Done` the pin of its logs goes.
//!
//! *Not modelled*: a put that was begun before and lands after the last listing. It is a document whose files are gone, which `check`
//! reports, or a file that nobody names.

use serde::{Deserialize, Serialize};

use super::layout::{Layout, Object};
use super::operation::{End, Reason, Record};

#[cfg(test)]
mod tests;

/// What is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Where snapshots are.
    pub root: String,
    /// What it is called.
    pub name: String,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Nothing is deleted yet.
    Checking,
    /// It goes.
    Deleting,
    /// It is gone.
    Done,
    /// It is as it was.
    Failed(Reason),
    /// It is as it was, as was wanted.
    Cancelled,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// List the objects of the name, and look at the register: [`Fact::Listed`].
    List,
    /// One change of the register: this step; with `Done`, nothing is pinned for the name any more. [`Fact::Recorded`].
    Record(Step),
    /// Delete this object: [`Fact::Deleted`]. That there is none is as good.
    Delete(String),
    /// Nothing.
    End(End),
}

/// What was learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// What there is.
    Listed {
        /// Names of objects.
        objects: Vec<String>,
        /// Another operation that may not run beside it.
        busy: Option<(u64, String)>,
    },
    /// The register has the step.
    Recorded,
    /// It is gone.
    Deleted,
    /// The store failed, or did not answer: the same again.
    Again,
    /// Somebody wants it stopped.
    Cancel,
    /// The register says that somebody else owns it.
    NotMine,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Delete {
    layout: Layout,
    step: Step,
    /// What is to be deleted, the next one last.
    left: Vec<String>,
    record: Option<Step>,
    is_superseded: bool,
}

impl Delete {
    /// Goes on from what stands in the register.
    ///
    /// # Errors
    /// If the name cannot be.
    pub fn resume(record: &Record<Request, Step>) -> Result<Delete, Reason> {
        let Request { root, name } = &record.request;
        let layout = Layout::new(root, name).map_err(|error| Reason::Other(error.to_string()))?;
        let step = record.step.clone();
        let mut delete = Delete { layout, step, left: Vec::new(), record: None, is_superseded: false };
        if record.cancel {
            delete.cancel();
        }
        Ok(delete)
    }

    /// What to do next.
    pub fn next(&self) -> Action {
        if self.is_superseded {
            return Action::End(End::Superseded);
        }
        if let Some(step) = &self.record {
            return Action::Record(step.clone());
        }
        match &self.step {
            Step::Checking => Action::List,
            Step::Deleting => self.left.last().cloned().map_or(Action::List, Action::Delete),
            Step::Done => Action::End(End::Done),
            Step::Failed(reason) => Action::End(End::Failed(reason.clone())),
            Step::Cancelled => Action::End(End::Cancelled),
        }
    }

    /// Takes in what was learned.
    ///
    /// # Panics
    /// If the fact is no result of the action that [`Delete::next`] asked for.
    pub fn learn(&mut self, fact: Fact) {
        match (self.next(), fact) {
            (Action::End(_), _) | (_, Fact::Again) => {}
            (_, Fact::NotMine) => self.is_superseded = true,
            (_, Fact::Cancel) => self.cancel(),
            (Action::Record(step), Fact::Recorded) => {
                let is_over = matches!(self.step, Step::Done | Step::Failed(_) | Step::Cancelled);
                assert!(!is_over, "an operation ends once: {:?}, then {step:?}", self.step);
                (self.step, self.record) = (step, None);
            }
            (Action::List, Fact::Listed { objects, busy }) => self.listed(&objects, busy),
            (Action::Delete(_), Fact::Deleted) => drop(self.left.pop()),
            (action, fact) => panic!("{fact:?} is no result of {action:?}"),
        }
    }

    /// In time only before anything was deleted.
    fn cancel(&mut self) {
        if self.step == Step::Checking && self.record.is_none() {
            self.record = Some(Step::Cancelled);
        }
    }

    fn listed(&mut self, objects: &[String], busy: Option<(u64, String)>) {
        let mut ours: Vec<(u64, &String)> =
            objects.iter().filter_map(|path| Some((self.rank(path)?, path))).collect();
        ours.sort_unstable();
        self.record = match (&self.step, busy) {
            (Step::Checking, Some((id, kind))) => Some(Step::Failed(Reason::Busy { id, kind })),
            (Step::Checking, None) if ours.is_empty() => Some(Step::Failed(Reason::NoSnapshot)),
            (Step::Checking, None) => Some(Step::Deleting),
            (_, _) if ours.is_empty() => Some(Step::Done),
            (_, _) => {
                self.left = ours.into_iter().map(|(_, path)| path.clone()).collect();
                None
            }
        };
    }

    /// The higher, the earlier it goes: increments from the last on, the full snapshot, the files.
    fn rank(&self, path: &str) -> Option<u64> {
        match self.layout.parse(path)? {
            Object::Increment { number } => Some(number.saturating_add(1)),
            Object::Snapshot => Some(1),
            Object::File { .. } | Object::Draft { .. } => Some(0),
        }
    }
}
