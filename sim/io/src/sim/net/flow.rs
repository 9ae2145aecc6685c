//! Packets under way: when they are due, whether their link lets them arrive, and what they do where they arrive.
//!
//! Each direction of a connection is a queue in order of arrival; the agenda knows the first of it. A link that lets nothing
//! through holds the first packet, and so all behind it.

use std::task::Waker;

use bytes::Bytes;

use super::connection::{Conn, End, Packet, Phase, Queued};
use super::link::{Gate, LinkId};
use super::model::{ConnId, Model, NS_PER_US, NetEvent};

impl Model {
    pub(super) fn push(&mut self, id: ConnId, end: End, packet: Packet, now_ns: u64) {
        let link = self.link(id, end);
        let len_bytes = if let Packet::Frame(frame) = &packet { frame.len() } else { 0 };
        let key = self.key.expect("the network is configured before it is used");
        let conn = self.conns.get_mut(&id).expect("packets are sent on connections that exist");
        let side = conn.side(end);
        let (due_ns, slowed) =
            self.links.arrival_ns(&key, link, &mut side.pace, len_bytes, now_ns, &self.config);
        self.counters.packets_slowed += u64::from(slowed);
        let due_ns = due_ns.max(side.outbox.back().map_or(0, |last| last.due_ns));
        side.outbox.push_back(Queued { due_ns, packet });
        if side.held_since_ns.is_none() {
            self.arm(id, end);
        }
    }

    /// Puts the first packet under way into the agenda.
    pub(super) fn arm(&mut self, id: ConnId, end: End) {
        let side = self.conns.get_mut(&id).expect("packets are sent on connections that exist").side(end);
        let due_ns = side.outbox.front().map(|first| first.due_ns);
        let before_ns = std::mem::replace(&mut side.armed_ns, due_ns);
        if before_ns == due_ns {
            return;
        }
        if let Some(at_ns) = before_ns {
            self.agenda.remove(&(at_ns, id, end));
        }
        if let Some(at_ns) = due_ns {
            self.agenda.insert((at_ns, id, end));
            self.alarm.announce(at_ns);
        }
    }

    pub(super) fn drop_outbox(&mut self, id: ConnId, end: End) {
        let side = self.conn(id).side(end);
        let lost = side.outbox.iter().filter(|q| matches!(q.packet, Packet::Frame(_))).count();
        side.outbox.clear();
        (side.held_since_ns, side.stalled) = (None, false);
        self.counters.frames_lost += lost as u64;
        self.arm(id, end);
    }

    /// Lets arrive what is due, and says when more is.
    pub(super) fn run_due(&mut self, now_ns: u64, waker: &Waker) -> Option<u64> {
        while let Some(&(at_ns, id, end)) = self.agenda.first()
            && at_ns <= now_ns
        {
            self.agenda.pop_first();
            self.conn(id).side(end).armed_ns = None;
            self.arrive(id, end, now_ns);
        }
        let next_ns = self.agenda.first().map(|(at_ns, ..)| *at_ns);
        self.alarm.set(next_ns, waker);
        next_ns
    }

    /// Lets the first packet that `end` has under way arrive, if the link lets it.
    fn arrive(&mut self, id: ConnId, end: End, now_ns: u64) {
        let gate = self.links.gate(self.link(id, end), now_ns);
        let side = self.conn(id).side(end);
        if gate != Gate::Open && side.unattended {
            return self.drop_outbox(id, end);
        }
        let Some(first) = side.outbox.front_mut() else { return };
        side.stalled = matches!(gate, Gate::Until(_));
        match gate {
            Gate::Open => {
                let packet = first.packet.clone();
                side.outbox.pop_front();
                if matches!(packet, Packet::Syn) && !self.syn_arrived(id, now_ns) {
                    let again_ns = now_ns + u64::from(self.config.retransmit_us_max) * NS_PER_US;
                    let outbox = &mut self.conn(id).side(end).outbox;
                    outbox.push_front(Queued { due_ns: again_ns, packet });
                } else {
                    self.deliver(id, end.other(), packet, now_ns);
                }
            }
            Gate::Until(until_ns) => {
                first.due_ns = until_ns;
                self.counters.packets_held += 1;
            }
            Gate::Closed => {
                side.held_since_ns = Some(now_ns);
                self.counters.packets_held += 1;
                return;
            }
        }
        if self.conns.contains_key(&id) {
            self.arm(id, end);
            self.forget_if_over(id);
        }
    }

    /// `packet` has arrived at `end`.
    fn deliver(&mut self, id: ConnId, end: End, packet: Packet, now_ns: u64) {
        let side = self.conn(id).side(end);
        let phase = side.phase;
        match packet {
            Packet::Syn => {}
            Packet::SynAck if phase == Phase::Handshake => {
                side.phase = Phase::Open;
                self.wake(id, end);
                self.push(id, end, Packet::Ack, now_ns);
            }
            Packet::Refused if phase == Phase::Handshake => {
                side.phase = Phase::Refused;
                self.event(id, end, "net.refused", None);
                self.wake(id, end);
            }
            Packet::Ack => self.ack_arrived(id, now_ns),
            Packet::Frame(frame) if side.is_connected() && side.receiver_open => {
                side.inbox.push_back(frame.clone());
                self.counters.frames_delivered += 1;
                self.event(id, end, "net.deliver", Some(frame));
                self.wake(id, end);
            }
            Packet::Frame(_) if side.is_connected() => self.break_from(id, end, now_ns),
            Packet::SynAck | Packet::Frame(_) => self.reply_reset(id, end, now_ns),
            Packet::Credit(bytes) => {
                side.in_window_bytes = side.in_window_bytes.saturating_sub(bytes);
                let waker = side.send_waker.take();
                self.effects.wakers.extend(waker);
            }
            Packet::Fin if side.is_connected() => {
                side.end_of_stream = true;
                self.event(id, end, "net.end", None);
                self.wake(id, end);
            }
            Packet::Reset if side.is_connected() => {
                self.drop_outbox(id, end);
                self.broken(id, end);
            }
            Packet::Refused | Packet::Fin | Packet::Reset => {}
        }
    }

    /// The kernel of `end` knows no such connection any more.
    pub(super) fn reply_reset(&mut self, id: ConnId, end: End, now_ns: u64) {
        let side = self.conn(id).side(end);
        let said = side.outbox.iter().any(|q| matches!(q.packet, Packet::Reset));
        if (side.phase == Phase::Gone || side.forgotten) && !said {
            side.unattended = false;
            self.push(id, end, Packet::Reset, now_ns);
        }
    }

    fn wake(&mut self, id: ConnId, end: End) {
        let waker = self.conn(id).side(end).recv_waker.take();
        self.effects.wakers.extend(waker);
    }

    pub(super) fn event(&mut self, id: ConnId, end: End, kind: &'static str, frame: Option<Bytes>) {
        let conn = self.conn(id);
        let (is_client, port) = (end == End::Client, conn.server.address.port());
        let event = NetEvent { node: conn.side(end).node, kind, label: conn.label, is_client, port, frame };
        self.effects.events.push(event);
    }

    pub(super) fn conn(&mut self, id: ConnId) -> &mut Conn {
        self.conns.get_mut(&id).expect("handles and packets belong to connections that exist")
    }

    /// The link that the packets of `end` take.
    pub(super) fn link(&self, id: ConnId, end: End) -> LinkId {
        let conn = &self.conns[&id];
        (conn.node(end), conn.node(end.other()))
    }

    pub(super) fn forget_if_over(&mut self, id: ConnId) {
        if self.conns.get(&id).is_some_and(Conn::is_over) {
            for end in [End::Client, End::Server] {
                self.drop_outbox(id, end);
            }
            self.conns.remove(&id);
        }
    }
}
