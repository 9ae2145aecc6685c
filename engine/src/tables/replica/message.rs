//! What the copies of a partition say to each other.
//!
//! Every message names the sender's view. One of a lower view is answered with [`Message::Ahead`] and not acted upon; one of a
//! higher view stops the receiver until it has read the register.
//!
//! A *session* is a stretch of a primary's talk with one copy: it begins with [`Message::Probe`], whose answer says what
//! log the copy has, and ends when anything is lost. The primary numbers sessions upward and lives in one view for one life of its process,
//! so a message of an older session is known for what it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::tables::entry::Entry;
use crate::tables::ids::{LogIndex, View};
use crate::tables::partition::Folded;
use crate::tables::rows::Row;

/// Number of a primary's talk with a copy.
pub type Session = u64;

/// What log a copy has: enough to find where two logs part, without looking at an entry.
///
/// All entries after an `Open` up to the next are of its view, and one primary wrote them in one life. So if two logs have an entry of the
/// same view at the same index, they are the same up to there (Raft calls it log matching).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogShape {
    /// The lowest index that can be read is this + 1: entries up to it are gone, and are in the rows.
    pub before: LogIndex,
    /// The highest index; `before` if the log is empty.
    pub last: LogIndex,
    /// Of each `Open` in the log its index and view, and for `before` the view of its entry.
    pub opens: BTreeMap<LogIndex, View>,
}

impl LogShape {
    /// In which view the entry at `index` was written; 0 for the place before all.
    pub fn view_at(&self, index: LogIndex) -> View {
        self.opens.range(..=index).next_back().map_or(0, |(_, view)| *view)
    }

    /// Takes in an entry behind the last.
    pub fn push(&mut self, entry: &Entry) {
        self.last += 1;
        if let Entry::Open { view } = entry {
            self.opens.insert(self.last, *view);
        }
    }

    /// Forgets what is above `last`.
    ///
    /// # Panics
    /// If that is below what can be read.
    pub fn truncate(&mut self, last: LogIndex) {
        assert!(last >= self.before, "{last} is not in a log that begins after {}", self.before);
        self.last = self.last.min(last);
        self.opens.split_off(&(self.last + 1));
    }

    /// Forgets what is at or below `before`.
    ///
    /// # Panics
    /// If that is above the last.
    pub fn trim(&mut self, before: LogIndex) {
        assert!(before <= self.last, "{before} is not in a log that ends at {}", self.last);
        if before > self.before {
            let view = self.view_at(before);
            self.opens = self.opens.split_off(&before);
            self.opens.insert(before, view);
            self.before = before;
        }
    }

    /// The highest index up to which both are the same; nothing if they have none in common that both can tell.
    pub fn common(&self, other: &LogShape) -> Option<LogIndex> {
        let mut index = self.last.min(other.last);
        loop {
            if index < self.before.max(other.before) {
                return None;
            }
            let (ours, theirs) = (self.view_at(index), other.view_at(index));
            if ours == theirs {
                return Some(index);
            }
            // Views grow along a log: the one with the higher has no entry of it that the other could have.
            let later = if ours > theirs { self } else { other };
            let begin = later.opens.range(..=index).next_back().map_or(0, |(begin, _)| *begin);
            index = begin.checked_sub(1)?;
        }
    }
}

/// How far a learner has taken rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsTaken {
    /// The rows are those after the entry with this index.
    pub index: LogIndex,
    /// All up to this key are there; nothing before the first.
    pub after: Option<Bytes>,
}

/// A stretch of rows in the order of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsChunk {
    /// The rows are those after the entry with this index.
    pub index: LogIndex,
    /// The stretch begins behind this key; nothing for the beginning, where the learner forgets whatever it has.
    pub after: Option<Bytes>,
    /// Keys and rows.
    pub rows: Vec<(Bytes, Row)>,
    /// With the last stretch: the rest of the state at the index.
    pub end: Option<Box<Folded>>,
}

/// A message between copies of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Primary to all others: what log have you?
    Probe {
        /// Of the sender.
        view: View,
        /// The session that begins.
        session: Session,
    },
    /// The answer, and again when a learner has all rows.
    State {
        /// Of the sender.
        view: View,
        /// Of the question.
        session: Session,
        /// What is written, durable or not.
        log: LogShape,
        /// What is applied, and therefore was committed.
        applied: LogIndex,
        /// Set while rows are taken: the log means nothing then.
        rows: Option<RowsTaken>,
    },
    /// Entries. None to say what is committed, and that the primary lives.
    Append {
        /// Of the sender.
        view: View,
        /// Of the talk.
        session: Session,
        /// The first entry has the next index.
        previous: LogIndex,
        /// The first of the session: what the copy has above `previous` is not the primary's, and goes.
        cut: bool,
        /// In order.
        #[serde(with = "shared_entries")]
        entries: Vec<Arc<Entry>>,
        /// What is committed.
        commit: LogIndex,
    },
    /// The answer to each, once what it brought is durable.
    Appended {
        /// Of the sender.
        view: View,
        /// Of the talk.
        session: Session,
        /// All entries up to here are the primary's, and durable.
        up_to: LogIndex,
    },
    /// Are you still in this view?
    Confirm {
        /// Of the sender.
        view: View,
        /// Which question.
        round: u64,
    },
    /// I am.
    Confirmed {
        /// Of the sender.
        view: View,
        /// Which question.
        round: u64,
    },
    /// To a learner: the log does not reach back to where yours ends. Ask for rows.
    TakeRows {
        /// Of the sender.
        view: View,
        /// Of the talk.
        session: Session,
    },
    /// From a learner: the next rows. One stretch is on its way at a time, so a slow learner is not flooded.
    PullRows {
        /// Of the sender.
        view: View,
        /// Of the talk.
        session: Session,
        /// What it has; nothing if it has none.
        taken: Option<RowsTaken>,
    },
    /// The answer.
    Rows {
        /// Of the sender.
        view: View,
        /// Of the talk.
        session: Session,
        /// The rows.
        chunk: RowsChunk,
    },
    /// The view that you speak of is over.
    Ahead {
        /// Of the sender.
        view: View,
    },
}

impl Message {
    /// The sender's view.
    pub fn view(&self) -> View {
        match self {
            Message::Probe { view, .. }
            | Message::State { view, .. }
            | Message::Append { view, .. }
            | Message::Appended { view, .. }
            | Message::Confirm { view, .. }
            | Message::Confirmed { view, .. }
            | Message::TakeRows { view, .. }
            | Message::PullRows { view, .. }
            | Message::Rows { view, .. }
            | Message::Ahead { view } => *view,
        }
    }
}

/// Entries are shared in memory, so that several copies can be sent the same; on the wire they are just entries.
mod shared_entries {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(entries: &[Arc<Entry>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(entries.iter().map(|entry| &**entry))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Arc<Entry>>, D::Error> {
        Ok(Vec::<Entry>::deserialize(deserializer)?.into_iter().map(Arc::new).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A log as the views of its entries, from index 1.
    fn shape(before: LogIndex, views: &[View]) -> LogShape {
        let mut shape = LogShape::default();
        for (i, view) in views.iter().enumerate() {
            let opens = i == 0 || views[i - 1] != *view;
            shape.push(&if opens {
                Entry::Open { view: *view }
            } else {
                Entry::Forget { tx: crate::tables::ids::TxId(0) }
            });
        }
        shape.trim(before);
        shape
    }

    #[test]
    fn logs_part_where_their_views_do() {
        assert_eq!(shape(0, &[1, 1, 1, 1]).common(&shape(0, &[1, 1, 1, 1, 1])), Some(4));
        assert_eq!(shape(0, &[1, 1, 1, 1, 1, 3]).common(&shape(0, &[1, 1, 1, 1, 2])), Some(4));
        assert_eq!(shape(0, &[1, 2]).common(&shape(0, &[])), Some(0));
        assert_eq!(shape(3, &[1, 1, 1, 1]).common(&shape(0, &[1, 1])), None, "gone");
        assert_eq!(shape(2, &[1, 1, 1, 1]).common(&shape(0, &[1, 1])), Some(2), "the place before the first");
        assert_eq!(shape(2, &[1, 1, 2, 2]).common(&shape(0, &[1, 1, 3, 3])), Some(2));
        assert_eq!(shape(3, &[1, 1, 2, 2]).common(&shape(0, &[1, 1, 3, 3])), None);
    }

    proptest! {
        /// The logs are built as primaries build them: each copies the beginning of an older and opens a view of its own.
        #[test]
        fn what_is_common_is_what_is_equal(steps in prop::collection::vec((0usize..8, 0usize..12, 1usize..4), 1..10), trims in (0u64..9, 0u64..9)) {
            let mut logs: Vec<Vec<View>> = vec![Vec::new()];
            for (view, (from, keep, more)) in steps.into_iter().enumerate() {
                let mut log = logs[from % logs.len()].clone();
                log.truncate(keep);
                log.extend(std::iter::repeat_n(view as View + 1, more));
                logs.push(log);
            }
            for one in &logs {
                for other in &logs {
                    let equal = one.iter().zip(other).take_while(|(a, b)| a == b).count() as LogIndex;
                    let (a, b) = (trims.0.min(one.len() as u64), trims.1.min(other.len() as u64));
                    let found = shape(a, one).common(&shape(b, other));
                    prop_assert_eq!(found, (equal >= a.max(b)).then_some(equal));
                }
            }
        }
    }
}
