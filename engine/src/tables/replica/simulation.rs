//! Copies on a network that loses, on disks that crash, with a register that decides: whatever happens, in whatever order, no committed entry
//! is lost, nobody reads the past, and in the end it opens again.
//!
//! Messages of a pair of nodes are in order until their connection breaks, which loses those on their way. A crash leaves a prefix of the disk's
//! steps, with all that were reported durable. A proposal lands some time after it was made, also when its maker is dead, and its maker hears
//! of it some time after that, or never.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::tables::entry::Entry;
use crate::tables::ids::{HybridTime, TxId};
use crate::tables::partition::{Folded, Ledger};
use crate::tables::rows::Row;

const OPTIONS: Options = Options {
    heartbeat_us: 100,
    retry_us: 300,
    silence_us: 2_000,
    stagger_us: 500,
    max_inflight_bytes: 500,
    max_message_bytes: 150,
    cache_bytes: 200,
};

/// What is on a disk. Row `i` holds entry `i`, so that rows say which entries were applied.
#[derive(Clone, Debug, Default)]
struct Disk {
    promised: View,
    log: LogShape,
    entries: BTreeMap<LogIndex, Arc<Entry>>,
    applied: LogIndex,
    rows: BTreeMap<Bytes, Row>,
    taken: Option<RowsTaken>,
}

#[derive(Clone, Debug)]
enum Op {
    Promise(View),
    Persist(LogIndex, Vec<Arc<Entry>>),
    Truncate(LogIndex),
    Install(RowsChunk),
    Apply(LogIndex),
    Trim(LogIndex),
}

fn row_key(index: LogIndex) -> Bytes {
    Bytes::copy_from_slice(&index.to_be_bytes())
}

impl Disk {
    fn perform(&mut self, op: &Op) {
        match op {
            Op::Promise(view) => self.promised = *view,
            Op::Persist(first, entries) => {
                assert_eq!(*first, self.log.last + 1);
                for entry in entries {
                    self.log.push(entry);
                    self.entries.insert(self.log.last, entry.clone());
                }
            }
            Op::Truncate(last) => {
                assert!(*last >= self.applied, "applied entries are removed");
                self.log.truncate(*last);
                self.entries.split_off(&(last + 1));
            }
            Op::Install(chunk) => self.install(chunk),
            Op::Apply(up_to) => {
                for index in self.applied + 1..=*up_to {
                    let value = postcard::to_stdvec(&*self.entries[&index]).unwrap().into();
                    self.rows.insert(row_key(index), Row { version: index, value });
                }
                self.applied = self.applied.max(*up_to);
            }
            Op::Trim(before) => {
                self.log.trim(*before);
                self.entries = self.entries.split_off(&(before + 1));
            }
        }
    }

    fn install(&mut self, chunk: &RowsChunk) {
        if chunk.after.is_none() {
            *self = Disk { promised: self.promised, ..Disk::default() };
        }
        self.rows.extend(chunk.rows.iter().cloned());
        let after = chunk.rows.last().map(|(key, _)| key.clone()).or(chunk.after.clone());
        self.taken = Some(RowsTaken { index: chunk.index, after });
        if let Some(folded) = &chunk.end {
            let opens = [(chunk.index, folded.ledger.view())].into();
            self.log = LogShape { before: chunk.index, last: chunk.index, opens };
            self.applied = chunk.index;
            self.taken = None;
            assert_eq!(self.rows.len() as u64, chunk.index, "all rows came, each once");
        }
    }

    fn entry_of_row(&self, index: LogIndex) -> Entry {
        postcard::from_bytes(&self.rows[&row_key(index)].value).unwrap()
    }

    fn folded(&self) -> Folded {
        let mut ledger = Ledger::default();
        (1..=self.applied).for_each(|index| drop(ledger.fold(index, &self.entry_of_row(index))));
        Folded { ledger, ..Folded::default() }
    }
}

struct Node {
    life: u32,
    replica: Option<Replica>,
    durable: Disk,
    now: Disk,
    queue: VecDeque<(Option<u64>, Op)>,
    held: Option<Disk>,
}

/// On its way to or from the register.
#[derive(Clone, Debug)]
enum Asked {
    Propose(NodeId, PartitionView),
    Answer(NodeId, u32),
}

struct World {
    now_us: u64,
    nodes: Vec<Node>,
    links: BTreeMap<(NodeId, NodeId), VecDeque<Message>>,
    blocked: BTreeSet<(NodeId, NodeId)>,
    register: PartitionView,
    asked: Vec<Asked>,
    /// What was ever committed, from index 1.
    committed: Vec<Arc<Entry>>,
    committers: BTreeMap<View, NodeId>,
    next_id: u128,
    /// Of each read, how much was committed when it was asked.
    reads: BTreeMap<u64, LogIndex>,
    served: u64,
}

impl World {
    fn new(nodes: u16, copies: u16) -> World {
        let node = |_| Node {
            life: 0,
            replica: None,
            durable: Disk::default(),
            now: Disk::default(),
            queue: VecDeque::new(),
            held: None,
        };
        let register = PartitionView { number: 1, primary: 0, backups: (1..copies).collect(), learner: None };
        let mut world = World {
            now_us: 0,
            nodes: (0..nodes).map(node).collect(),
            links: BTreeMap::new(),
            blocked: BTreeSet::new(),
            register,
            asked: Vec::new(),
            committed: Vec::new(),
            committers: BTreeMap::new(),
            next_id: 0,
            reads: BTreeMap::new(),
            served: 0,
        };
        (0..nodes).for_each(|node| world.start(node));
        world
    }

    fn node(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    fn start(&mut self, node: NodeId) {
        // A process that starts writes itself into the register, so what an earlier life asked for comes too late.
        self.asked.retain(|asked| !matches!(asked, Asked::Propose(by, _) if *by == node));
        let at = self.node(node);
        let Disk { promised, log, applied, taken, .. } = at.durable.clone();
        at.life += 1;
        at.replica = Some(Replica::new(node, OPTIONS, Found { promised, log, applied, rows: taken }));
        let life = at.life;
        self.asked.push(Asked::Answer(node, life));
    }

    /// Of what waits for the disk, `keep` steps survive.
    fn crash(&mut self, node: NodeId, keep: usize) {
        let at = self.node(node);
        at.replica = None;
        at.held = None;
        for (_, op) in std::mem::take(&mut at.queue).into_iter().take(keep) {
            at.durable.perform(&op);
        }
        at.now = at.durable.clone();
        self.links.retain(|(from, to), _| *from != node && *to != node);
        for other in 0..self.nodes.len() as NodeId {
            self.step(other, Event::Disconnected(node));
        }
    }

    fn cut(&mut self, a: NodeId, b: NodeId) {
        self.links.remove(&(a, b));
        self.links.remove(&(b, a));
        self.step(a, Event::Disconnected(b));
        self.step(b, Event::Disconnected(a));
    }

    fn step(&mut self, node: NodeId, event: Event) {
        let now_us = self.now_us;
        let Some(replica) = &mut self.node(node).replica else { return };
        let effects = replica.step(now_us, event);
        let answers: Vec<Event> =
            effects.into_iter().filter_map(|effect| self.perform(node, effect)).collect();
        answers.into_iter().for_each(|answer| self.step(node, answer));
    }

    fn write(&mut self, node: NodeId, step: Option<u64>, op: Op) {
        let at = self.node(node);
        at.now.perform(&op);
        at.queue.push_back((step, op));
    }

    /// Carries out an effect, and returns what is read for it.
    fn perform(&mut self, node: NodeId, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Send { to, message } => {
                if !self.blocked.contains(&(node, to)) && self.node(to).replica.is_some() {
                    self.links.entry((node, to)).or_default().push_back(message);
                }
            }
            Effect::Promise { step, view } => self.write(node, Some(step), Op::Promise(view)),
            Effect::Persist { step, first, entries } => {
                self.write(node, Some(step), Op::Persist(first, entries));
            }
            Effect::Truncate { step, last } => self.write(node, Some(step), Op::Truncate(last)),
            Effect::Install { step, chunk } => self.write(node, Some(step), Op::Install(chunk)),
            Effect::Commit { up_to } => self.commit(node, up_to),
            Effect::ReadLog { to, session, previous, .. } => {
                let entries: Vec<_> = self
                    .node(node)
                    .durable
                    .entries
                    .range(previous + 1..)
                    .take(2)
                    .map(|(_, e)| e.clone())
                    .collect();
                let is_there = self.node(node).durable.log.before <= previous;
                let entries = if is_there { entries } else { Vec::new() };
                return Some(Event::LogRead { to, session, previous, entries });
            }
            Effect::ReadRows { to, session, taken, .. } => {
                let chunk = self.read_rows(node, taken);
                return Some(Event::RowsRead { to, session, chunk });
            }
            Effect::Serve { reads, at } => {
                assert!(self.node(node).now.applied >= at);
                for read in reads {
                    let before = self.reads.remove(&read).expect("served once");
                    assert!(
                        at >= before,
                        "read {read} sees {at} entries, and {before} were committed before it"
                    );
                    self.served += 1;
                }
            }
            Effect::FailReads(reads) => {
                for read in reads {
                    self.reads.remove(&read).expect("answered once");
                }
            }
            Effect::Propose(view) => self.asked.push(Asked::Propose(node, view)),
            Effect::Refresh => {
                let life = self.node(node).life;
                self.asked.push(Asked::Answer(node, life));
            }
            Effect::Opened { index, .. } => assert_eq!(self.node(node).now.log.last, index),
            Effect::Closed { .. } => {}
            Effect::Fault(violation) => panic!("node {node}: {violation}"),
        }
        None
    }

    fn read_rows(&mut self, node: NodeId, taken: Option<RowsTaken>) -> RowsChunk {
        let at = self.node(node);
        let taken = taken.filter(|taken| at.held.as_ref().is_some_and(|held| held.applied == taken.index));
        if taken.is_none() {
            at.held = Some(at.now.clone());
        }
        let held = at.held.as_ref().expect("just held");
        let after = taken.and_then(|taken| taken.after);
        let behind = |key: &Bytes| after.as_ref().is_none_or(|after| key > after);
        let mut rest = held.rows.iter().filter(|(key, _)| behind(key));
        let rows = rest.by_ref().take(2).map(|(key, row)| (key.clone(), row.clone())).collect();
        let end = rest.next().is_none().then(|| Box::new(held.folded()));
        RowsChunk { index: held.applied, after, rows, end }
    }

    fn commit(&mut self, node: NodeId, up_to: LogIndex) {
        let at = &self.nodes[usize::from(node)];
        let replica = at.replica.as_ref().unwrap();
        let view = replica.view().unwrap().number;
        for index in at.now.applied + 1..=up_to {
            let entry = at.now.entries[&index].clone();
            match self.committed.get(index as usize - 1) {
                Some(known) => assert_eq!(*known, entry, "node {node} commits another entry {index}"),
                None => {
                    assert!(matches!(replica.role(), Role::Primary { .. }), "only a primary commits first");
                    self.committed.push(entry);
                }
            }
        }
        if matches!(replica.role(), Role::Primary { .. }) {
            let first = *self.committers.entry(view).or_insert(node);
            assert_eq!(first, node, "two primaries commit in view {view}");
        }
        self.write(node, None, Op::Apply(up_to));
    }

    fn deliver(&mut self, link: (NodeId, NodeId)) {
        if let Some(message) = self.links.get_mut(&link).and_then(VecDeque::pop_front) {
            self.step(link.1, Event::Message { from: link.0, message });
        }
        self.links.retain(|_, queue| !queue.is_empty());
    }

    /// The first `count` steps that wait for a disk are done.
    fn sync(&mut self, node: NodeId, count: usize) {
        let at = self.node(node);
        let mut reported = None;
        for (step, op) in at.queue.drain(..count.min(at.queue.len())) {
            at.durable.perform(&op);
            reported = step.or(reported);
        }
        if let Some(step) = reported {
            self.step(node, Event::Durable(step));
        }
    }

    fn register(&mut self, which: usize) {
        match self.asked.remove(which) {
            Asked::Propose(by, next) => {
                if self.register.may_become(&next, by).is_ok() {
                    self.register = next;
                }
                let life = self.node(by).life;
                self.asked.push(Asked::Answer(by, life));
            }
            Asked::Answer(to, life) if self.node(to).life == life => {
                let view = self.register.clone();
                self.step(to, Event::View(view));
            }
            Asked::Answer(..) => {}
        }
    }

    fn is_open(&self, node: NodeId) -> bool {
        let replica = self.nodes[usize::from(node)].replica.as_ref();
        replica.is_some_and(|replica| replica.role() == Role::Primary { open: true })
    }

    fn append(&mut self, node: NodeId, count: usize) {
        if self.is_open(node) {
            let entries = (0..count).map(|_| {
                self.next_id += 1;
                let tx = TxId(self.next_id);
                Arc::new(Entry::Write { tx, time: HybridTime(0), changes: Vec::new() })
            });
            let entries = entries.collect();
            self.step(node, Event::Append(entries));
        }
    }

    fn read(&mut self, node: NodeId) {
        self.next_id += 1;
        let read = self.next_id as u64;
        self.reads.insert(read, self.committed.len() as LogIndex);
        if self.node(node).replica.is_some() {
            self.step(node, Event::Read(read));
        }
    }

    fn trim(&mut self, node: NodeId) {
        let at = self.node(node);
        let Some(replica) = &at.replica else { return };
        let before = at.now.applied.min(replica.keep_from().saturating_sub(1));
        if before > at.now.log.before && at.now.taken.is_none() {
            self.write(node, None, Op::Trim(before));
            self.step(node, Event::Trimmed(before));
        }
    }

    /// One thing happens, as drawn.
    fn happen(&mut self, (what, a, b): (u8, u8, u8)) {
        let count = self.nodes.len();
        let (node, other) = (usize::from(a) % count, usize::from(b) % count);
        let (node, other) = (node as NodeId, other as NodeId);
        match what % 64 {
            0..24 => {
                let links: Vec<_> = self.links.keys().copied().collect();
                if let Some(link) = links.get(usize::from(a) % links.len().max(1)) {
                    (0..=b % 4).for_each(|_| self.deliver(*link));
                }
            }
            24..34 => self.sync(node, usize::from(b % 4) + 1),
            34..42 => {
                self.now_us += u64::from(b) * 4;
                self.step(node, Event::Tick);
            }
            42..48 if !self.asked.is_empty() => self.register(usize::from(b) % self.asked.len()),
            48..52 => (0..count as NodeId).for_each(|node| self.append(node, usize::from(b % 3) + 1)),
            52..55 => self.read(node),
            55 => self.crash(node, usize::from(b % 5)),
            56..58 if self.node(node).replica.is_none() => self.start(node),
            58 => self.cut(node, other),
            59 => {
                self.blocked.extend([(node, other), (other, node)]);
                self.cut(node, other);
            }
            60 => self.blocked.clear(),
            61 => self.step(node, Event::Invite(other)),
            62 => self.trim(node),
            63 => self.step(node, Event::Down(other)),
            _ => {}
        }
    }

    /// Time passes in which nothing fails.
    fn quiet(&mut self, rounds: usize) {
        for _ in 0..rounds {
            for node in 0..self.nodes.len() as NodeId {
                self.sync(node, usize::MAX);
                self.step(node, Event::Tick);
            }
            (0..self.asked.len()).for_each(|_| self.register(0));
            while let Some(link) = self.links.keys().next().copied() {
                self.deliver(link);
            }
            self.now_us += 50;
        }
    }

    /// Everything is mended: it must open, take an entry, and agree.
    fn heal(&mut self) {
        self.blocked.clear();
        for node in 0..self.nodes.len() as NodeId {
            if self.node(node).replica.is_none() {
                self.start(node);
            }
        }
        self.quiet(400);
        let primary = self.register.primary;
        assert!(
            self.is_open(primary),
            "{:?} does not open: {:?}",
            self.register,
            self.nodes[usize::from(primary)].replica
        );
        let before = self.committed.len();
        self.append(primary, 1);
        self.read(primary);
        self.quiet(40);
        assert_eq!(self.committed.len(), before + 1);
        for copy in self.register.clone().in_sync() {
            let at = self.node(copy);
            assert_eq!(at.durable.applied as usize, before + 1, "a copy in sync has everything");
            let rows: Vec<Entry> = (1..=at.durable.applied).map(|i| at.durable.entry_of_row(i)).collect();
            assert!(rows.iter().eq(self.committed.iter().map(|entry| &**entry)));
        }
    }
}

fn run(nodes: u16, copies: u16, things: Vec<(u8, u8, u8)>) -> World {
    let mut world = World::new(nodes, copies);
    world.quiet(10);
    for thing in things {
        world.happen(thing);
    }
    world.heal();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_committed_is_lost_and_nobody_reads_the_past(
        nodes in 1u16..=4,
        copies in 1u16..=3,
        things in prop::collection::vec(any::<(u8, u8, u8)>(), 0..600),
    ) {
        run(nodes, copies.min(nodes), things);
    }
}

#[test]
fn a_learner_takes_rows_where_the_log_is_gone_and_then_counts() {
    let mut world = World::new(2, 1);
    world.quiet(10);
    for _ in 0..5 {
        world.append(0, 2);
        world.quiet(2);
    }
    world.trim(0);
    assert_eq!(world.nodes[0].now.log.before, 11);
    world.step(0, Event::Invite(1));
    world.quiet(60);
    assert_eq!(world.register.backups, [1]);
    assert!(world.nodes[1].now.log.before >= 11, "it has rows of there, and no log before");
    world.crash(0, 0);
    world.quiet(100);
    assert_eq!((world.register.primary, world.register.backups.len()), (1, 0));
    assert!(world.is_open(1));
    world.heal();
}

#[test]
fn a_primary_that_starts_again_does_not_go_on_in_its_view() {
    let mut world = World::new(2, 2);
    world.quiet(10);
    world.append(0, 1);
    // The backup gets an entry that the primary forgets.
    let link = (0, 1);
    world.deliver(link);
    world.sync(1, 9);
    world.crash(0, 0);
    world.start(0);
    world.quiet(5);
    assert_eq!(world.register.number, 2);
    world.append(0, 1);
    world.quiet(5);
    world.heal();
}

#[test]
fn a_lost_disk_is_noticed() {
    let mut replica = Replica::new(0, OPTIONS, Found::default());
    let view = PartitionView { number: 4, primary: 0, backups: Vec::new(), learner: None };
    let effects = replica.step(0, Event::View(view));
    assert_eq!(effects, [Effect::Fault(Violation::DiskLost { view: 4 })]);
    assert!(replica.step(1, Event::Tick).is_empty(), "it has stopped for good");
}
