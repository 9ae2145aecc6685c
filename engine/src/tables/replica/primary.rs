//! A primary in its view.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::copy::Copy;
use super::event::{Effect, Options, Violation};
use super::message::{LogShape, Message, RowsChunk, RowsTaken, Session};
use super::peer::{Peer, Talk};
use crate::tables::entry::Entry;
use crate::tables::ids::{LogIndex, NodeId};

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Primary {
    open_index: LogIndex,
    is_open: bool,
    /// True once the others were spoken to.
    has_begun: bool,
    peers: BTreeMap<NodeId, Peer>,
    next_session: Session,
    /// The learner counts: it may be in sync already.
    is_promoting: bool,
    reads: Reads,
}

/// Reads that wait until all have confirmed the view.
#[derive(Clone, Debug, Default)]
struct Reads {
    waiting: Vec<u64>,
    round: Option<Round>,
    next_round: u64,
}

/// A question to all: are you still in this view?
#[derive(Clone, Debug)]
struct Round {
    number: u64,
    reads: Vec<u64>,
    at: LogIndex,
    missing: BTreeSet<NodeId>,
    asked_us: u64,
}

impl Primary {
    /// Writes its `Open`. It says nothing before its promise is durable.
    pub(super) fn begin(copy: &mut Copy) -> Primary {
        let view = copy.in_view();
        let number = view.number;
        let others = view.backups.iter().copied().chain(view.learner);
        let peers = others.map(|node| (node, Peer::new(node, copy.now_us))).collect();
        copy.persist(vec![Arc::new(Entry::Open { view: number })]);
        Primary {
            open_index: copy.log.last,
            is_open: false,
            has_begun: false,
            peers,
            next_session: 1,
            is_promoting: false,
            reads: Reads::default(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(super) fn keep_from(&self) -> LogIndex {
        self.peers.values().map(Peer::keep_from).min().unwrap_or(LogIndex::MAX)
    }

    /// The view is over.
    pub(super) fn end(&mut self, copy: &mut Copy, stays: bool) {
        self.fail_reads(copy);
        copy.effects.push(Effect::Closed { stays });
    }

    pub(super) fn append(&mut self, copy: &mut Copy, options: &Options, entries: Vec<Arc<Entry>>) {
        if !entries.is_empty() {
            copy.persist(entries);
            self.peers.values_mut().for_each(|peer| peer.pump(copy, options));
        }
    }

    pub(super) fn durable(&mut self, copy: &mut Copy, options: &Options) {
        if copy.ahead.is_some() {
            return;
        }
        if !self.has_begun && copy.has_promised() {
            self.has_begun = true;
            for peer in self.peers.values_mut() {
                peer.probe(copy, self.next_session);
                self.next_session += 1;
            }
        }
        self.advance(copy, options);
    }

    pub(super) fn hear(&mut self, copy: &mut Copy, options: &Options, from: NodeId, message: Message) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.heard_us = copy.now_us;
        match message {
            Message::State { session, log, applied, rows, .. }
                if session == peer.session && !matches!(peer.talk, Talk::Log(_)) =>
            {
                self.compare(copy, options, from, log, applied, rows);
            }
            Message::Appended { session, up_to, .. } if session == peer.session => {
                peer.appended(copy.now_us, up_to);
                peer.pump(copy, options);
                self.advance(copy, options);
            }
            Message::Confirmed { round, .. } => self.confirmed(copy, from, round),
            Message::PullRows { session, taken, .. }
                if session == peer.session && matches!(peer.talk, Talk::Rows(_)) =>
            {
                let max_bytes = options.max_message_bytes;
                copy.effects.push(Effect::ReadRows { to: from, session, taken, max_bytes });
            }
            _ => {}
        }
    }

    /// A copy says what log it has.
    fn compare(
        &mut self,
        copy: &mut Copy,
        options: &Options,
        from: NodeId,
        log: LogShape,
        applied: LogIndex,
        rows: Option<RowsTaken>,
    ) {
        let ours = &copy.log;
        let is_whole = rows.is_none();
        let is_applied_elsewhere = applied > ours.last
            || (applied >= ours.before.max(log.before) && ours.view_at(applied) != log.view_at(applied));
        if is_whole && is_applied_elsewhere {
            let (view, last) = (copy.number(), ours.last);
            return copy.violated(Violation::CommittedLost { view, node: from, applied, last });
        }
        let common = ours.common(&log).filter(|_| is_whole);
        let is_in_sync = copy.in_view().is_in_sync(from);
        let peer = self.peers.get_mut(&from).expect("who speaks is known");
        match common {
            Some(common) => peer.stream(copy, options, common),
            // It was to have everything that is committed.
            None if is_in_sync => {
                peer.is_lost = true;
                self.drop_the_silent(copy, options);
            }
            None => {
                peer.talk = Talk::Rows(None);
                let (view, session) = (copy.number(), peer.session);
                peer.say(copy, Message::TakeRows { view, session });
            }
        }
    }

    pub(super) fn log_read(
        &mut self,
        copy: &mut Copy,
        options: &Options,
        (to, session): (NodeId, Session),
        previous: LogIndex,
        entries: Vec<Arc<Entry>>,
    ) {
        if let Some(peer) = self.peers.get_mut(&to).filter(|peer| peer.session == session)
            && !peer.log_read(copy, options, previous, entries)
        {
            peer.probe(copy, self.next_session);
            self.next_session += 1;
        }
    }

    pub(super) fn rows_read(&mut self, copy: &mut Copy, to: NodeId, session: Session, chunk: RowsChunk) {
        if let Some(peer) = self.peers.get_mut(&to).filter(|peer| peer.session == session)
            && let Talk::Rows(index) = &mut peer.talk
        {
            *index = Some(chunk.index);
            peer.say(copy, Message::Rows { view: copy.number(), session, chunk });
        }
    }

    pub(super) fn disconnected(&mut self, copy: &mut Copy, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node).filter(|_| self.has_begun && copy.ahead.is_none()) {
            peer.probe(copy, self.next_session);
            self.next_session += 1;
        }
    }

    pub(super) fn down(&mut self, copy: &mut Copy, options: &Options, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.heard_us = peer.heard_us.min(copy.now_us.saturating_sub(options.silence_us));
            self.drop_the_silent(copy, options);
        }
    }

    pub(super) fn invite(&mut self, copy: &mut Copy, options: &Options, node: NodeId) {
        let view = copy.in_view();
        if self.is_open && view.learner.is_none() && !view.names(node) {
            let mut next = view.next(copy.me, |_| false);
            next.learner = Some(node);
            copy.ask(options, next);
        }
    }

    pub(super) fn tick(&mut self, copy: &mut Copy, options: &Options) {
        if !self.has_begun {
            return;
        }
        for peer in self.peers.values_mut() {
            if peer.is_stuck(copy.now_us, options) {
                peer.probe(copy, self.next_session);
                self.next_session += 1;
            }
            peer.beat(copy, options);
        }
        self.drop_the_silent(copy, options);
        self.promote(copy, options);
        self.ask_again(copy, options);
    }

    /// Those who have not been heard of for too long, or lack what they must have.
    fn gone(&self, copy: &Copy, options: &Options) -> BTreeSet<NodeId> {
        let is_gone = |peer: &&Peer| peer.is_lost || copy.now_us >= peer.heard_us + options.silence_us;
        self.peers.values().filter(is_gone).map(|peer| peer.node).collect()
    }

    /// Asks for a view without those who are gone.
    fn drop_the_silent(&mut self, copy: &mut Copy, options: &Options) {
        let gone = self.gone(copy, options);
        if !gone.is_empty() {
            let next = copy.in_view().next(copy.me, |node| gone.contains(&node));
            copy.ask(options, next);
        }
    }

    /// Asks for a view with the learner in sync, once it has everything that is committed. From now on it counts.
    fn promote(&mut self, copy: &mut Copy, options: &Options) {
        let Some(learner) = copy.in_view().learner.filter(|_| self.is_open && copy.has_promised()) else {
            return;
        };
        let peer = &self.peers[&learner];
        let has_all = matches!(peer.talk, Talk::Log(_)) && peer.acked >= copy.commit;
        if (has_all || self.is_promoting) && self.gone(copy, options).is_empty() {
            self.is_promoting = true;
            let mut next = copy.in_view().next(copy.me, |_| false);
            next.backups.extend(next.learner.take());
            copy.ask(options, next);
        }
    }

    /// Who must have an entry, and confirm a read.
    fn voters(&self, copy: &Copy) -> BTreeSet<NodeId> {
        let view = copy.in_view();
        view.backups.iter().copied().chain(view.learner.filter(|_| self.is_promoting)).collect()
    }

    /// Commits what all have.
    fn advance(&mut self, copy: &mut Copy, options: &Options) {
        let acked = self.voters(copy).iter().map(|node| self.peers[node].acked).min();
        let up_to = acked.map_or(copy.durable, |acked| acked.min(copy.durable));
        if up_to >= self.open_index && up_to > copy.commit && copy.has_promised() {
            copy.commit = up_to;
            copy.effects.push(Effect::Commit { up_to });
            if !self.is_open {
                self.is_open = true;
                copy.effects.push(Effect::Opened { view: copy.number(), index: self.open_index });
            }
        }
        self.promote(copy, options);
    }

    pub(super) fn read(&mut self, copy: &mut Copy, read: u64) {
        self.reads.waiting.push(read);
        self.begin_round(copy);
    }

    /// One round at a time: those who come while it goes on wait for the next.
    fn begin_round(&mut self, copy: &mut Copy) {
        if self.reads.round.is_some() || self.reads.waiting.is_empty() {
            return;
        }
        let reads = std::mem::take(&mut self.reads.waiting);
        let missing = self.voters(copy);
        if missing.is_empty() {
            copy.effects.push(Effect::Serve { reads, at: copy.commit });
            return;
        }
        self.reads.next_round += 1;
        let number = self.reads.next_round;
        for node in &missing {
            copy.send(*node, Message::Confirm { view: copy.number(), round: number });
        }
        let (at, asked_us) = (copy.commit, copy.now_us);
        self.reads.round = Some(Round { number, reads, at, missing, asked_us });
    }

    fn confirmed(&mut self, copy: &mut Copy, from: NodeId, number: u64) {
        let Some(round) = self.reads.round.as_mut().filter(|round| round.number == number) else { return };
        round.missing.remove(&from);
        if round.missing.is_empty() {
            let Round { reads, at, .. } = self.reads.round.take().expect("it is there");
            copy.effects.push(Effect::Serve { reads, at });
            self.begin_round(copy);
        }
    }

    /// The question or an answer may be lost.
    fn ask_again(&mut self, copy: &mut Copy, options: &Options) {
        let Some(round) = &mut self.reads.round else { return };
        if copy.now_us >= round.asked_us + options.retry_us {
            round.asked_us = copy.now_us;
            for node in &round.missing {
                copy.send(*node, Message::Confirm { view: copy.number(), round: round.number });
            }
        }
    }

    pub(super) fn fail_reads(&mut self, copy: &mut Copy) {
        let mut reads = self.reads.round.take().map_or_else(Vec::new, |round| round.reads);
        reads.append(&mut self.reads.waiting);
        if !reads.is_empty() {
            copy.effects.push(Effect::FailReads(reads));
        }
    }
}
