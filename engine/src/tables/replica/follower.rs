//! A backup or a learner: takes what its primary sends.

use super::copy::{Copy, Step};
use super::event::{Effect, Options, Violation};
use super::message::{Message, RowsChunk, RowsTaken, Session};
use crate::tables::ids::{LogIndex, NodeId};

/// What a follower keeps in mind.
#[derive(Clone, Debug)]
pub(super) struct Follower {
    heard_us: u64,
    session: Session,
    /// True once the log has been cut to what the primary has: from then on all of it is the primary's.
    joined: bool,
    /// What the primary has committed.
    committed: LogIndex,
    /// Durable up to here was said.
    said: Option<LogIndex>,
    rows: Rows,
    /// The primary has asked what this copy has, while rows were being written.
    owes_state: bool,
}

/// Where a learner is with its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    None,
    Asked {
        at_us: u64,
    },
    /// They are on their way to the disk. The next are asked for unless the session has ended meanwhile.
    Writing {
        goes_on: bool,
    },
}

impl Follower {
    pub(super) fn begin(copy: &Copy) -> Follower {
        let rows = if copy.is_installing() { Rows::Writing { goes_on: false } } else { Rows::None };
        Follower {
            heard_us: copy.now_us,
            session: 0,
            joined: false,
            committed: 0,
            said: None,
            rows,
            owes_state: false,
        }
    }

    pub(super) fn hear(&mut self, copy: &mut Copy, from: NodeId, message: Message) {
        if from != copy.in_view().primary {
            return;
        }
        self.heard_us = copy.now_us;
        match message {
            Message::Probe { session, .. } if session >= self.session => {
                let owes_state = copy.is_installing();
                *self = Follower { session, owes_state, ..Follower::begin(copy) };
                if !owes_state {
                    self.say_state(copy);
                }
            }
            Message::Confirm { view, round } => copy.send(from, Message::Confirmed { view, round }),
            Message::Append { session, .. } if session == self.session && self.rows == Rows::None => {
                self.appended(copy, message);
            }
            Message::TakeRows { session, .. } if session == self.session && self.rows == Rows::None => {
                if copy.is_in_sync() {
                    return copy.violated(Violation::NotWhole { view: copy.number() });
                }
                self.pull(copy);
            }
            Message::Rows { session, chunk, .. } if session == self.session => self.take_rows(copy, chunk),
            _ => {}
        }
    }

    fn appended(&mut self, copy: &mut Copy, message: Message) {
        let Message::Append { previous, cut, entries, commit, .. } = message else { return };
        if cut && !self.joined && previous <= copy.log.last && copy.rows.is_none() {
            if previous < copy.commit {
                return copy.violated(Violation::CommittedLost {
                    view: copy.number(),
                    node: copy.me,
                    applied: copy.commit,
                    last: previous,
                });
            }
            if previous < copy.log.last {
                copy.truncate(previous);
            }
            self.joined = true;
        }
        // Something before it was lost. The primary notices that it has no answer.
        if !self.joined || previous != copy.log.last {
            return;
        }
        self.said = None;
        if !entries.is_empty() {
            copy.persist(entries);
        }
        self.committed = self.committed.max(commit);
        self.durable(copy);
    }

    /// Says what is durable, if that is news, and applies what is committed of it.
    pub(super) fn durable(&mut self, copy: &mut Copy) {
        if let Rows::Writing { goes_on } = self.rows
            && !copy.is_installing()
        {
            self.rows = Rows::None;
            if goes_on && copy.rows.is_some() {
                self.pull(copy);
            } else if goes_on || std::mem::take(&mut self.owes_state) {
                self.say_state(copy);
            }
        }
        if !self.joined || copy.ahead.is_some() {
            return;
        }
        if self.said != Some(copy.durable) {
            self.said = Some(copy.durable);
            let (view, session) = (copy.number(), self.session);
            copy.send(copy.in_view().primary, Message::Appended { view, session, up_to: copy.durable });
        }
        let up_to = self.committed.min(copy.durable);
        if up_to > copy.commit {
            copy.commit = up_to;
            copy.effects.push(Effect::Commit { up_to });
        }
    }

    fn say_state(&self, copy: &mut Copy) {
        let (view, session) = (copy.number(), self.session);
        let (log, applied, rows) = (copy.log.clone(), copy.commit, copy.rows.clone());
        copy.send(copy.in_view().primary, Message::State { view, session, log, applied, rows });
    }

    fn pull(&mut self, copy: &mut Copy) {
        self.rows = Rows::Asked { at_us: copy.now_us };
        let (view, session, taken) = (copy.number(), self.session, copy.rows.clone());
        copy.send(copy.in_view().primary, Message::PullRows { view, session, taken });
    }

    fn take_rows(&mut self, copy: &mut Copy, chunk: RowsChunk) {
        let goes_on = copy.rows.as_ref().is_some_and(|RowsTaken { index, after }| {
            *index == chunk.index && chunk.after == *after && after.is_some()
        });
        if !matches!(self.rows, Rows::Asked { .. }) || !(goes_on || chunk.after.is_none()) {
            return;
        }
        let last_key = chunk.rows.last().map(|(key, _)| key.clone()).or(chunk.after.clone());
        if chunk.end.is_none() && (chunk.rows.is_empty() || last_key == chunk.after) {
            return;
        }
        self.rows = Rows::Writing { goes_on: true };
        if chunk.after.is_none() {
            copy.begin_rows(chunk.index);
        }
        let whole_in = chunk.end.as_ref().map(|folded| folded.ledger.view());
        let step = copy.new_step(Step::Rows(RowsTaken { index: chunk.index, after: last_key }, whole_in));
        copy.effects.push(Effect::Install { step, chunk });
    }

    /// A node is dead. The first of the backups takes over at once, the others in their turn.
    pub(super) fn down(&mut self, copy: &mut Copy, options: &Options, node: NodeId) {
        if node == copy.in_view().primary {
            self.heard_us = self.heard_us.min(copy.now_us.saturating_sub(options.silence_us));
            self.take_over_if_silent(copy, options);
        }
    }

    pub(super) fn tick(&mut self, copy: &mut Copy, options: &Options) {
        if let Rows::Asked { at_us } = self.rows
            && copy.now_us >= at_us + options.retry_us
        {
            self.pull(copy);
        }
        self.take_over_if_silent(copy, options);
    }

    fn take_over_if_silent(&mut self, copy: &mut Copy, options: &Options) {
        let view = copy.in_view();
        let Some(rank) = view.backups.iter().position(|backup| *backup == copy.me) else { return };
        let patience_us = options.silence_us + rank as u64 * options.stagger_us;
        if copy.now_us >= self.heard_us + patience_us {
            let next = view.next(copy.me, |node| node == view.primary);
            copy.ask(options, next);
        }
    }
}
