//! Replication of one partition's log: one copy's part in it, as a pure machine. (PacificA.)
//!
//! Who counts is a [`PartitionView`], a value of the register. In a view:
//! - The primary numbers entries, and **commits** one when every copy in sync has it durable. It opens with `Open{view}`; when all
//!   have that, they agree on everything before it, and only then it takes requests and commits.
//! - A read is answered when all copies in sync have said, after it came, that they are still in the view: without leases, who was deposed
//!   does not know. (Of a later view, the primary is one of them, and had not heard of it.)
//! - A backup takes entries in order and only of its own view. It learns what is committed with the next message.
//! - A learner is like a backup, but nobody waits for it. Where the log does not reach back to what it has, it takes rows first. Once
//!   the primary **proposes** to take it in, it counts: the proposal may be in the register before the primary hears so, and the
//!   learner may then be primary of the view after the next without a word from anybody else.
//! - Whoever hears of a higher view stops at once, and reads the register.
//!
//! A primary acts in a view in one life of its process only, which it promises durably before it says a word: else it could, after a crash,
//! write another entry where it has written one that it forgot. So after a restart it asks for the next view with the same copies.
//!
//! What it relies on: the disk keeps the order of steps (what survives a crash is a prefix of them, with all that was said to be
//! durable), and [`PartitionView::may_become`] is asked about every view in the register. That is all; messages may be lost, late, and
//! come from any past.
//!
//! What must never be, and is found out, is a [`Violation`]: the copy then stops for good, loudly.

mod copy;
mod event;
mod follower;
mod message;
mod peer;
mod primary;
#[cfg(test)]
mod simulation;
mod view;

pub use event::{Effect, Event, Found, Options, Violation};
pub use message::{LogShape, Message, RowsChunk, RowsTaken, Session};
pub use view::{IllegalView, PartitionView};

use crate::tables::ids::{LogIndex, NodeId, View};
use copy::Copy;
use follower::Follower;
use primary::Primary;

/// What this copy is in its view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing.
    Idle,
    /// It numbers the entries, and takes requests if it is open.
    Primary {
        /// True if it takes requests.
        open: bool,
    },
    /// It has every committed entry.
    Backup,
    /// It is being brought there.
    Learner,
}

/// One copy. See the module.
#[derive(Clone, Debug)]
pub struct Replica {
    options: Options,
    copy: Copy,
    duty: Duty,
}

#[derive(Clone, Debug)]
enum Duty {
    Idle,
    /// This process was primary in this view in an earlier life.
    Returning,
    Primary(Box<Primary>),
    Follower(Follower),
}

impl Replica {
    /// A copy on node `me`, as its process starts. It does nothing before it knows a view.
    pub fn new(me: NodeId, options: Options, found: Found) -> Replica {
        let copy = Copy::new(me, found);
        Replica { options, copy, duty: Duty::Idle }
    }

    /// Takes an event and says what to do. `now_us` is a clock that does not go back.
    ///
    /// # Panics
    /// If entries are appended while the view is not open.
    pub fn step(&mut self, now_us: u64, event: Event) -> Vec<Effect> {
        self.copy.now_us = now_us;
        if self.copy.fault.is_none() {
            self.take(event);
        }
        std::mem::take(&mut self.copy.effects)
    }

    /// The view, if it is known.
    pub fn view(&self) -> Option<&PartitionView> {
        self.copy.view.as_ref()
    }

    /// What this copy is.
    pub fn role(&self) -> Role {
        match &self.duty {
            Duty::Idle => Role::Idle,
            Duty::Returning => Role::Primary { open: false },
            Duty::Primary(primary) => Role::Primary { open: primary.is_open() && self.copy.ahead.is_none() },
            Duty::Follower(_) if self.copy.is_in_sync() => Role::Backup,
            Duty::Follower(_) => Role::Learner,
        }
    }

    /// The log.
    pub fn log(&self) -> &LogShape {
        &self.copy.log
    }

    /// What is known to be committed.
    pub fn commit(&self) -> LogIndex {
        self.copy.commit
    }

    /// Why it has stopped for good, if it has.
    pub fn fault(&self) -> Option<&Violation> {
        self.copy.fault.as_ref()
    }

    /// The lowest index of the log that this copy may still have to send to another. Below it, only what is applied may be trimmed.
    pub fn keep_from(&self) -> LogIndex {
        match &self.duty {
            Duty::Primary(primary) => primary.keep_from().min(self.copy.commit + 1),
            Duty::Returning => self.copy.log.before + 1,
            Duty::Idle | Duty::Follower(_) => self.copy.commit + 1,
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::View(view) => self.learn(view),
            Event::Message { from, message } => self.hear(from, message),
            Event::Durable(step) => self.durable(step),
            // A learner that began with rows anew has another log than was trimmed.
            Event::Trimmed(before) if before > self.copy.log.last => {}
            Event::Trimmed(before) => self.copy.log.trim(before),
            Event::Tick => self.tick(),
            Event::Append(entries) => match &mut self.duty {
                Duty::Primary(primary) if primary.is_open() && self.copy.ahead.is_none() => {
                    primary.append(&mut self.copy, &self.options, entries);
                }
                _ => panic!("entries are appended in a view that is not open"),
            },
            Event::Read(read) => match &mut self.duty {
                Duty::Primary(primary) if primary.is_open() && self.copy.ahead.is_none() => {
                    primary.read(&mut self.copy, read);
                }
                _ => self.copy.effects.push(Effect::FailReads(vec![read])),
            },
            Event::Disconnected(node) => {
                if let Duty::Primary(primary) = &mut self.duty {
                    primary.disconnected(&mut self.copy, node);
                }
            }
            Event::Down(node) => match &mut self.duty {
                Duty::Primary(primary) => primary.down(&mut self.copy, &self.options, node),
                Duty::Follower(follower) => follower.down(&mut self.copy, &self.options, node),
                Duty::Idle | Duty::Returning => {}
            },
            Event::LogRead { to, session, previous, entries } => {
                if let Duty::Primary(primary) = &mut self.duty {
                    primary.log_read(&mut self.copy, &self.options, (to, session), previous, entries);
                }
            }
            Event::RowsRead { to, session, chunk } => {
                if let Duty::Primary(primary) = &mut self.duty {
                    primary.rows_read(&mut self.copy, to, session, chunk);
                }
            }
            Event::Invite(node) => {
                if let Duty::Primary(primary) = &mut self.duty {
                    primary.invite(&mut self.copy, &self.options, node);
                }
            }
        }
    }

    fn learn(&mut self, view: PartitionView) {
        let copy = &mut self.copy;
        if view.number < copy.promised_before {
            let promised = copy.promised_before;
            return copy.violated(Violation::RegisterWentBack { promised, view: view.number });
        }
        if copy.view.as_ref().is_some_and(|known| known.number >= view.number) {
            return;
        }
        if let Duty::Primary(primary) = &mut self.duty {
            primary.end(copy, view.primary == copy.me);
        }
        copy.ahead = copy.ahead.filter(|ahead| *ahead > view.number);
        copy.asked = None;
        let number = view.number;
        let (is_primary, is_named) = (view.primary == copy.me, view.names(copy.me));
        copy.view = Some(view);
        if copy.is_in_sync() && copy.rows.is_some() {
            return copy.violated(Violation::NotWhole { view: number });
        }
        if is_primary && number > 1 && copy.promised == 0 && copy.log.last == 0 {
            return copy.violated(Violation::DiskLost { view: number });
        }
        self.duty = if !is_named {
            Duty::Idle
        } else if is_primary && copy.promised_before == number {
            Duty::Returning
        } else {
            copy.promise(number);
            match is_primary {
                true => Duty::Primary(Box::new(Primary::begin(copy))),
                false => Duty::Follower(Follower::begin(copy)),
            }
        };
        self.ask_to_return();
    }

    /// A primary of an earlier life asks for a view in which it has not acted.
    fn ask_to_return(&mut self) {
        if let (Duty::Returning, Some(view)) = (&self.duty, &self.copy.view) {
            let next = view.next(self.copy.me, |_| false);
            self.copy.ask(&self.options, next);
        }
    }

    fn hear(&mut self, from: NodeId, message: Message) {
        let copy = &mut self.copy;
        let known = copy.number();
        if message.view() > known {
            return self.heard_ahead(message.view());
        }
        if message.view() < known {
            if !matches!(message, Message::Ahead { .. }) {
                copy.send(from, Message::Ahead { view: known });
            }
            return;
        }
        // Whoever has heard of a higher view has nothing to say in this one.
        if copy.ahead.is_some() {
            return;
        }
        match &mut self.duty {
            Duty::Primary(primary) => primary.hear(copy, &self.options, from, message),
            Duty::Follower(follower) => follower.hear(copy, from, message),
            Duty::Idle | Duty::Returning => {}
        }
    }

    fn heard_ahead(&mut self, view: View) {
        let copy = &mut self.copy;
        if copy.ahead.is_none_or(|ahead| ahead < view) {
            copy.ahead = Some(view);
            copy.refreshed_us = None;
        }
        if let Duty::Primary(primary) = &mut self.duty {
            primary.fail_reads(copy);
        }
        copy.refresh(&self.options);
    }

    fn durable(&mut self, step: u64) {
        self.copy.steps_durable(step);
        self.copy.evict(&self.options);
        match &mut self.duty {
            Duty::Primary(primary) => primary.durable(&mut self.copy, &self.options),
            Duty::Follower(follower) => follower.durable(&mut self.copy),
            Duty::Idle | Duty::Returning => {}
        }
    }

    fn tick(&mut self) {
        if self.copy.ahead.is_some() {
            return self.copy.refresh(&self.options);
        }
        match &mut self.duty {
            Duty::Primary(primary) => primary.tick(&mut self.copy, &self.options),
            Duty::Follower(follower) => follower.tick(&mut self.copy, &self.options),
            Duty::Idle => {}
            Duty::Returning => self.ask_to_return(),
        }
    }
}
