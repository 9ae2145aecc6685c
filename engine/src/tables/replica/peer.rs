//! A primary's talk with one copy: what it has, what is on its way to it, and when to begin anew.

use std::collections::VecDeque;
use std::sync::Arc;

use super::copy::{Copy, len_bytes};
use super::event::{Effect, Options};
use super::message::{Message, Session};
use crate::tables::entry::Entry;
use crate::tables::ids::{LogIndex, NodeId};

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) session: Session,
    pub(super) talk: Talk,
    /// It has all entries up to here durable.
    pub(super) acked: LogIndex,
    pub(super) heard_us: u64,
    said_us: u64,
    /// It has said that it lacks what it must have.
    pub(super) is_lost: bool,
}

/// What the talk is about.
#[derive(Clone, Debug)]
pub(super) enum Talk {
    /// It is asked what it has.
    Probing,
    /// It takes rows: those after the entry with this index, once it is known.
    Rows(Option<LogIndex>),
    /// It takes entries.
    Log(Stream),
}

/// Entries on their way.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// The last that was sent.
    sent: LogIndex,
    is_first: bool,
    inflight: VecDeque<(LogIndex, usize)>,
    inflight_bytes: usize,
    /// Entries are being read from the disk.
    is_reading: bool,
    /// Since when an answer is due.
    due_since_us: Option<u64>,
}

impl Peer {
    pub(super) fn new(node: NodeId, now_us: u64) -> Peer {
        Peer {
            node,
            session: 0,
            talk: Talk::Probing,
            acked: 0,
            heard_us: now_us,
            said_us: now_us,
            is_lost: false,
        }
    }

    /// Begins a new session.
    pub(super) fn probe(&mut self, copy: &mut Copy, session: Session) {
        self.session = session;
        self.talk = Talk::Probing;
        self.say(copy, Message::Probe { view: copy.number(), session });
    }

    pub(super) fn say(&mut self, copy: &mut Copy, message: Message) {
        self.said_us = copy.now_us;
        copy.send(self.node, message);
    }

    /// Sends the log from behind `common`, up to which both have the same.
    pub(super) fn stream(&mut self, copy: &mut Copy, options: &Options, common: LogIndex) {
        self.acked = self.acked.min(common);
        self.talk = Talk::Log(Stream {
            sent: common,
            is_first: true,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            is_reading: false,
            due_since_us: None,
        });
        self.send(copy, Vec::new());
        self.pump(copy, options);
    }

    /// Sends as much as may be on its way.
    pub(super) fn pump(&mut self, copy: &mut Copy, options: &Options) {
        while let Talk::Log(stream) = &mut self.talk
            && stream.sent < copy.log.last
            && stream.inflight_bytes < options.max_inflight_bytes
            && !stream.is_reading
        {
            match copy.cached(stream.sent, options.max_message_bytes) {
                Some(entries) => self.send(copy, entries),
                None => {
                    stream.is_reading = true;
                    let (to, session, previous) = (self.node, self.session, stream.sent);
                    let max_bytes = options.max_message_bytes;
                    copy.effects.push(Effect::ReadLog { to, session, previous, max_bytes });
                }
            }
        }
    }

    /// Entries were read from the disk. False if they are not there any more.
    pub(super) fn log_read(
        &mut self,
        copy: &mut Copy,
        options: &Options,
        previous: LogIndex,
        entries: Vec<Arc<Entry>>,
    ) -> bool {
        match &mut self.talk {
            Talk::Log(stream) if stream.is_reading && stream.sent == previous => stream.is_reading = false,
            _ => return true,
        }
        if entries.is_empty() {
            return false;
        }
        self.send(copy, entries);
        self.pump(copy, options);
        true
    }

    fn send(&mut self, copy: &mut Copy, entries: Vec<Arc<Entry>>) {
        let Talk::Log(stream) = &mut self.talk else { return };
        let (previous, cut) = (stream.sent, stream.is_first);
        stream.sent += entries.len() as LogIndex;
        stream.is_first = false;
        stream.due_since_us.get_or_insert(copy.now_us);
        if !entries.is_empty() {
            let bytes = entries.iter().map(|entry| len_bytes(entry)).sum();
            stream.inflight.push_back((stream.sent, bytes));
            stream.inflight_bytes += bytes;
        }
        let (view, session, commit) = (copy.number(), self.session, copy.commit);
        self.say(copy, Message::Append { view, session, previous, cut, entries, commit });
    }

    /// It has entries durable. What it has not been sent it cannot have.
    pub(super) fn appended(&mut self, now_us: u64, up_to: LogIndex) {
        let Talk::Log(stream) = &mut self.talk else { return };
        if up_to > stream.sent {
            return;
        }
        self.acked = self.acked.max(up_to);
        while let Some((last, bytes)) = stream.inflight.front().copied()
            && last <= up_to
        {
            stream.inflight.pop_front();
            stream.inflight_bytes -= bytes;
        }
        stream.due_since_us = (!stream.inflight.is_empty()).then_some(now_us);
    }

    /// True if what was said got no answer for too long.
    pub(super) fn is_stuck(&self, now_us: u64, options: &Options) -> bool {
        match &self.talk {
            Talk::Probing => now_us >= self.said_us + options.retry_us,
            Talk::Rows(_) => now_us >= self.heard_us.max(self.said_us) + 2 * options.retry_us,
            Talk::Log(stream) => stream.due_since_us.is_some_and(|since| now_us >= since + options.retry_us),
        }
    }

    /// Says that the primary lives, if nothing was said for a while.
    pub(super) fn beat(&mut self, copy: &mut Copy, options: &Options) {
        let is_quiet = copy.now_us >= self.said_us + options.heartbeat_us;
        if is_quiet && matches!(&self.talk, Talk::Log(stream) if !stream.is_reading) {
            self.send(copy, Vec::new());
        }
    }

    /// The lowest index that it may have to be sent.
    pub(super) fn keep_from(&self) -> LogIndex {
        match &self.talk {
            Talk::Rows(Some(index)) => index + 1,
            Talk::Rows(None) => LogIndex::MAX,
            Talk::Probing | Talk::Log(_) => self.acked + 1,
        }
    }
}
