//! The network as a state machine: calls, arrivals and faults in; packets, wake-ups and events out.
//!
//! Nothing here waits, draws sequentially or knows of tasks. Time is handed in; what is due stands in an agenda with one
//! entry per direction of a connection, for the first packet under way. What has to be told to the outside (events for the
//! trace, tasks to wake) is collected in [`Effects`] and executed at the edge, with no lock held.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;

use bytes::Bytes;

use super::alarm::Alarm;
use super::connection::{Conn, End, Label, Packet, Phase, Side};
use super::link::{Gate, Links, Pace};
use super::{Config, Counters};
use crate::sim::{Key, NodeId};

pub(in crate::sim) type ConnId = u64;

pub(super) const NS_PER_US: u64 = 1000;
/// The first and the last port that is given out (Linux' defaults).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32768..=60999;

/// Something for the trace.
#[derive(Debug)]
pub(super) struct NetEvent {
    pub(super) node: NodeId,
    pub(super) kind: &'static str,
    pub(super) label: Label,
    /// At the client's end.
    pub(super) is_client: bool,
    /// Where the server listens.
    pub(super) port: u16,
    pub(super) frame: Option<Bytes>,
}

/// What to tell the outside.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) events: Vec<NetEvent>,
    pub(super) wakers: Vec<Waker>,
}

#[derive(Debug)]
struct Listening {
    incarnation: u64,
    backlog: VecDeque<ConnId>,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Machine {
    address: Option<IpAddr>,
    listeners: BTreeMap<u16, Listening>,
    ports_given: u64,
}

/// Why nothing can be bound or connected here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressError {
    /// The node has no address, or not this one.
    NotOwn,
    /// Another listener has the port, or no port is free.
    InUse,
    /// No node has the address.
    Unreachable,
}

/// How a connect ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Connected,
    Refused,
    Reset,
}

/// Why a frame cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// The window is full; the waker will be woken.
    WindowFull,
    Reset,
}

/// What there is to receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Received {
    Frame(Bytes),
    EndOfStream,
    Reset,
    /// Nothing yet; the waker will be woken.
    Nothing,
}

/// The whole network.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) key: Option<Key>,
    pub(super) config: Config,
    pub(super) links: Links,
    pub(super) alarm: Alarm,
    pub(super) counters: Counters,
    pub(super) effects: Effects,
    pub(super) conns: BTreeMap<ConnId, Conn>,
    /// When the first packet of which direction is due.
    pub(super) agenda: BTreeSet<(u64, ConnId, End)>,
    conns_made: u64,
    addresses: BTreeMap<IpAddr, NodeId>,
    machines: BTreeMap<NodeId, Machine>,
}

// Addresses, listeners and handshakes.
impl Model {
    pub(super) fn register(&mut self, node: NodeId, address: IpAddr) {
        let before = self.addresses.insert(address, node);
        assert!(before.is_none_or(|n| n == node), "{address} belongs to {before:?} and not to {node}");
        self.machines.entry(node).or_default().address = Some(address);
    }

    pub(super) fn bind(
        &mut self,
        node: NodeId,
        incarnation: u64,
        at: SocketAddr,
    ) -> Result<SocketAddr, AddressError> {
        let machine = self.machines.entry(node).or_default();
        let own = machine.address.ok_or(AddressError::NotOwn)?;
        if at.ip() != own && !at.ip().is_unspecified() {
            return Err(AddressError::NotOwn);
        }
        let port = if at.port() == 0 { machine.free_port().ok_or(AddressError::InUse)? } else { at.port() };
        if machine.listeners.get(&port).is_some_and(|l| l.incarnation == incarnation) {
            return Err(AddressError::InUse);
        }
        machine.listeners.insert(port, Listening { incarnation, backlog: VecDeque::new(), waker: None });
        Ok(SocketAddr::new(at.ip(), port))
    }

    /// Sends the request for a connection.
    pub(super) fn connect(
        &mut self,
        node: NodeId,
        incarnation: u64,
        to: SocketAddr,
        now_ns: u64,
    ) -> Result<ConnId, AddressError> {
        let machine = self.machines.entry(node).or_default();
        let own = machine.address.ok_or(AddressError::NotOwn)?;
        let port = machine.free_port().ok_or(AddressError::InUse)?;
        let server = *self.addresses.get(&to.ip()).ok_or(AddressError::Unreachable)?;
        let label = Label { client: node, server, nth: self.links.next_connection((node, server)) };
        let key = self.key.expect("the network is configured before it is used");
        let pace = |side| Pace::draw(&key, (node, server), label.nth, side, &self.config);
        let client = SocketAddr::new(own, port);
        let conn = Conn {
            label,
            client: Side::new(node, incarnation, client, Phase::Handshake, pace(0)),
            server: Side::new(server, 0, to, Phase::Absent, pace(1)),
        };
        self.conns_made += 1;
        let id = self.conns_made;
        self.conns.insert(id, conn);
        self.event(id, End::Client, "net.connect", None);
        self.push(id, End::Client, Packet::Syn, now_ns);
        Ok(id)
    }

    /// The answer to a connect, once there is one.
    pub(super) fn answer(&mut self, id: ConnId, waker: &Waker) -> Option<Answer> {
        let Some(conn) = self.conns.get_mut(&id) else { return Some(Answer::Reset) };
        match conn.client.phase {
            Phase::Open => Some(Answer::Connected),
            Phase::Refused => Some(Answer::Refused),
            Phase::Broken | Phase::Gone => Some(Answer::Reset),
            Phase::Handshake | Phase::Absent => {
                conn.client.recv_waker = Some(waker.clone());
                None
            }
        }
    }

    /// The next connection for the listener of `incarnation` at `port`, and its peer.
    pub(super) fn accept(
        &mut self,
        node: NodeId,
        incarnation: u64,
        port: u16,
        waker: &Waker,
    ) -> Option<(ConnId, SocketAddr)> {
        let listener = self.listener(node, port)?;
        if listener.incarnation != incarnation {
            return None;
        }
        let Some(id) = listener.backlog.pop_front() else {
            listener.waker = Some(waker.clone());
            return None;
        };
        let conn = self.conns.get_mut(&id).expect("a connection in a backlog is kept");
        conn.server.accepted = true;
        let peer = conn.client.address;
        self.event(id, End::Server, "net.accept", None);
        Some((id, peer))
    }

    /// The listener is dropped by its living process: what waits in its backlog is reset.
    pub(super) fn unlisten(&mut self, node: NodeId, port: u16, now_ns: u64) {
        let listener = self.machines.entry(node).or_default().listeners.remove(&port);
        for id in listener.map(|l| l.backlog).unwrap_or_default() {
            self.abandon(id, End::Server, now_ns);
        }
    }

    fn listener(&mut self, node: NodeId, port: u16) -> Option<&mut Listening> {
        self.machines.get_mut(&node)?.listeners.get_mut(&port)
    }

    /// A request for a connection arrived. False if the backlog is full: it will have to be sent again.
    pub(super) fn syn_arrived(&mut self, id: ConnId, now_ns: u64) -> bool {
        let (backlog, conn) = (self.config.backlog, &self.conns[&id]);
        let (node, port) = (conn.server.node, conn.server.address.port());
        let Some(listener) = self.listener(node, port) else {
            self.counters.refused += 1;
            self.push(id, End::Server, Packet::Refused, now_ns);
            return true;
        };
        if listener.backlog.len() >= backlog {
            return false;
        }
        let incarnation = listener.incarnation;
        let server = &mut self.conn(id).server;
        (server.phase, server.incarnation) = (Phase::Handshake, incarnation);
        self.push(id, End::Server, Packet::SynAck, now_ns);
        true
    }

    /// The client's acknowledgement arrived: the process may accept.
    pub(super) fn ack_arrived(&mut self, id: ConnId, now_ns: u64) {
        let server = &self.conns[&id].server;
        let (node, port, incarnation) = (server.node, server.address.port(), server.incarnation);
        if server.phase != Phase::Handshake {
            return self.reply_reset(id, End::Server, now_ns);
        }
        match self.listener(node, port) {
            Some(listener) if listener.incarnation == incarnation => {
                listener.backlog.push_back(id);
                let waker = listener.waker.take();
                self.effects.wakers.extend(waker);
                self.conn(id).server.phase = Phase::Open;
            }
            _ => self.abandon(id, End::Server, now_ns),
        }
    }
}

// The stream.
impl Model {
    /// Takes a frame from the process at `end`, or has it wait.
    pub(super) fn send(
        &mut self,
        id: ConnId,
        end: End,
        frame: &Bytes,
        now_ns: u64,
        waker: &Waker,
    ) -> Result<(), SendError> {
        let window_bytes = self.config.window_bytes;
        let Some(conn) = self.conns.get_mut(&id) else { return Err(SendError::Reset) };
        let side = conn.side(end);
        if !side.is_connected() {
            return Err(SendError::Reset);
        }
        // A frame beyond the window goes alone.
        if side.in_window_bytes > 0 && side.in_window_bytes + frame.len() > window_bytes {
            side.send_waker = Some(waker.clone());
            self.credit(id, end.other(), now_ns);
            return Err(SendError::WindowFull);
        }
        side.in_window_bytes += frame.len();
        self.counters.frames_sent += 1;
        self.event(id, end, "net.send", Some(frame.clone()));
        self.push(id, end, Packet::Frame(frame.clone()), now_ns);
        Ok(())
    }

    /// What there is for the process at `end`. What arrived before a reset can still be taken (as on Linux).
    pub(super) fn receive(&mut self, id: ConnId, end: End, now_ns: u64, waker: &Waker) -> Received {
        let window_bytes = self.config.window_bytes;
        let Some(conn) = self.conns.get_mut(&id) else { return Received::Reset };
        let someone_waits = conn.side(end.other()).send_waker.is_some();
        let side = conn.side(end);
        if let Some(frame) = side.inbox.pop_front() {
            side.uncredited_bytes += frame.len();
            if someone_waits || side.uncredited_bytes * 2 >= window_bytes {
                self.credit(id, end, now_ns);
            }
            return Received::Frame(frame);
        }
        if side.end_of_stream {
            return Received::EndOfStream;
        }
        if !side.is_connected() {
            return Received::Reset;
        }
        side.recv_waker = Some(waker.clone());
        Received::Nothing
    }

    /// Tells the sender what the process at `end` has taken. TCP does so when half a window is free, and when a sender
    /// that waits probes.
    fn credit(&mut self, id: ConnId, end: End, now_ns: u64) {
        let side = self.conn(id).side(end);
        if side.uncredited_bytes > 0 && side.is_connected() {
            let bytes = std::mem::take(&mut side.uncredited_bytes);
            self.push(id, end, Packet::Credit(bytes), now_ns);
        }
    }

    /// The living process drops its sender: the end of the stream follows what was sent.
    pub(super) fn close_sender(&mut self, id: ConnId, end: End, now_ns: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let side = conn.side(end);
        side.sender_open = false;
        if side.is_connected() {
            self.push(id, end, Packet::Fin, now_ns);
        }
        self.close_if_unheld(id, end, now_ns);
    }

    /// The living process drops its receiver: what arrives from now on is answered with a reset.
    pub(super) fn close_receiver(&mut self, id: ConnId, end: End, now_ns: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.side(end).receiver_open = false;
        self.close_if_unheld(id, end, now_ns);
    }

    fn close_if_unheld(&mut self, id: ConnId, end: End, now_ns: u64) {
        let side = self.conn(id).side(end);
        if side.sender_open || side.receiver_open {
            return;
        }
        // Closing over unread data resets, as TCP does.
        if side.is_connected() && !side.inbox.is_empty() {
            return self.abandon(id, end, now_ns);
        }
        side.phase = Phase::Gone;
        self.forget_if_over(id);
    }

    /// The connection breaks at `end`, whose process may still hold it, and its peer is told.
    pub(super) fn break_from(&mut self, id: ConnId, end: End, now_ns: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.side(end).is_connected() {
            self.drop_outbox(id, end);
            self.push(id, end, Packet::Reset, now_ns);
            self.broken(id, end);
        }
    }

    /// Nobody holds `end` any more, and its peer is told by a reset.
    pub(super) fn abandon(&mut self, id: ConnId, end: End, now_ns: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let side = conn.side(end);
        if side.is_connected() {
            self.push(id, end, Packet::Reset, now_ns);
        }
        self.conn(id).side(end).phase = Phase::Gone;
        self.forget_if_over(id);
    }

    /// Both ends of every connection between `a` and `b` find it reset; what was under way is lost.
    pub(super) fn reset_between(&mut self, a: NodeId, b: NodeId) {
        let between =
            |c: &Conn| (c.client.node, c.server.node) == (a, b) || (c.client.node, c.server.node) == (b, a);
        let ids: Vec<ConnId> = self.conns.iter().filter(|(_, c)| between(c)).map(|(id, _)| *id).collect();
        for id in ids {
            for end in [End::Client, End::Server] {
                self.drop_outbox(id, end);
            }
            for end in [End::Client, End::Server] {
                if self.conn(id).side(end).is_connected() {
                    self.broken(id, end);
                }
            }
            self.forget_if_over(id);
        }
    }

    /// `forgets` forgets its open connections with `believes`, and tells nobody.
    pub(super) fn half_open(&mut self, believes: NodeId, forgets: NodeId) {
        let open = |c: &Conn| c.client.phase == Phase::Open && c.server.phase == Phase::Open;
        let ids: Vec<ConnId> = self.conns.iter().filter(|(_, c)| open(c)).map(|(id, _)| *id).collect();
        for id in ids {
            for end in [End::Client, End::Server] {
                let conn = &self.conns[&id];
                if conn.node(end) == forgets && conn.node(end.other()) == believes {
                    self.drop_outbox(id, end);
                    self.conn(id).side(end).forgotten = true;
                    self.broken(id, end);
                    self.counters.half_opened += 1;
                }
            }
        }
    }

    pub(super) fn broken(&mut self, id: ConnId, end: End) {
        self.counters.resets += 1;
        self.event(id, end, "net.reset", None);
        let side = self.conn(id).side(end);
        side.phase = Phase::Broken;
        let wakers = side.take_wakers();
        self.effects.wakers.extend(wakers.into_iter().flatten());
    }
}

// Machines and links.
impl Model {
    /// The process on `node` is gone. If its machine still runs, the kernel closes its connections: with a reset if data
    /// was left unread or nobody had accepted yet, with an orderly end otherwise. A lost machine says nothing.
    pub(super) fn process_ended(&mut self, node: NodeId, now_ns: u64) {
        if let Some(machine) = self.machines.get_mut(&node) {
            machine.listeners.clear();
        }
        let ids: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, c)| c.client.node == node || c.server.node == node)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            for end in [End::Client, End::Server] {
                if self.conns.get_mut(&id).is_some_and(|c| c.side(end).node == node) {
                    self.process_left(id, end, now_ns);
                }
            }
        }
    }

    fn process_left(&mut self, id: ConnId, end: End, now_ns: u64) {
        let down = self.links.is_down(self.conns[&id].node(end));
        let side = self.conn(id).side(end);
        if side.phase == Phase::Absent {
            return;
        }
        if down {
            side.unattended = true;
            if side.held_since_ns.is_some() {
                self.drop_outbox(id, end);
            }
        } else if side.is_connected() {
            if !side.accepted || !side.inbox.is_empty() {
                self.lose_tail(id, end);
                self.push(id, end, Packet::Reset, now_ns);
            } else if side.sender_open {
                self.push(id, end, Packet::Fin, now_ns);
            }
        }
        let side = self.conn(id).side(end);
        side.phase = Phase::Gone;
        side.inbox.clear();
        let _dead = side.take_wakers();
        self.forget_if_over(id);
    }

    /// A kernel that resets throws away what it had not sent yet: some suffix.
    fn lose_tail(&mut self, id: ConnId, end: End) {
        let key = self.key.expect("the network is configured before it is used");
        let conn = self.conn(id);
        let (label, outbox) = (conn.label, &mut conn.side(end).outbox);
        let ids = [label.client.0, label.server.0, label.nth, end as u64];
        let kept = key.draw("net.kill", &ids).below(outbox.len() as u64 + 1) as usize;
        outbox.truncate(kept);
        if kept == 0 {
            self.drop_outbox(id, end);
        }
    }

    /// `node` runs again after it was lost: what waited for it is sent again.
    pub(super) fn machine_up(&mut self, node: NodeId, now_ns: u64) {
        if self.links.machine_up(node) {
            self.release(now_ns);
        }
    }

    /// Links changed: what they held and would let through now is sent again after a while, in order.
    pub(super) fn release(&mut self, now_ns: u64) {
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            for end in [End::Client, End::Server] {
                let gate = self.links.gate(self.link(id, end), now_ns);
                let (retransmit_us_max, key) = (self.config.retransmit_us_max, self.key);
                let conn = self.conn(id);
                let label = conn.label;
                let side = conn.side(end);
                if side.stalled && gate == Gate::Open {
                    side.stalled = false;
                    // The stall was cut short: what it held is on its way again.
                    if let Some(first) = side.outbox.front_mut() {
                        first.due_ns = now_ns;
                    }
                    self.arm(id, end);
                    continue;
                }
                let Some(since_ns) = side.held_since_ns.filter(|_| gate != Gate::Closed) else { continue };
                side.held_since_ns = None;
                // TCP doubles its timeout: after an outage the next attempt is at most as far off as the outage was long.
                let outage_us = (now_ns - since_ns) / NS_PER_US;
                let most_us = outage_us.clamp(1, u64::from(retransmit_us_max).max(1));
                let ids = [label.client.0, label.server.0, label.nth, end as u64, since_ns];
                let key = key.expect("the network is configured before it is used");
                let delay_us = key.draw("net.retransmit", &ids).between(0, most_us);
                if let Some(first) = side.outbox.front_mut() {
                    first.due_ns = now_ns + delay_us * NS_PER_US;
                }
                self.arm(id, end);
            }
        }
    }
}

impl Machine {
    /// The next port to give out; they go round.
    fn free_port(&mut self) -> Option<u16> {
        let count = u64::from(EPHEMERAL.end() - EPHEMERAL.start()) + 1;
        (0..count).find_map(|_| {
            let port = EPHEMERAL.start() + (self.ports_given % count) as u16;
            self.ports_given += 1;
            (!self.listeners.contains_key(&port)).then_some(port)
        })
    }
}
