//! What a connection is made of: two sides, each with the packets it has under way and what has arrived for it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::task::Waker;

use bytes::Bytes;

use super::link::Pace;
use crate::sim::NodeId;

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::sim) enum End {
    Client,
    Server,
}

impl End {
    pub(super) fn other(self) -> End {
        match self {
            End::Client => End::Server,
            End::Server => End::Client,
        }
    }
}

/// Names a connection in traces and draws: client, server, and the how many-th between them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label {
    pub(super) client: NodeId,
    pub(super) server: NodeId,
    pub(super) nth: u64,
}

/// What travels.
#[derive(Clone, Debug)]
pub(super) enum Packet {
    /// The client asks for a connection.
    Syn,
    /// The server's kernel agrees.
    SynAck,
    /// The client's kernel knows; the server's process may accept.
    Ack,
    /// Nobody listens.
    Refused,
    Frame(Bytes),
    /// The receiver took so many bytes: the window opens again.
    Credit(usize),
    /// Nothing more will be sent.
    Fin,
    /// The connection is no more.
    Reset,
}

#[derive(Debug)]
pub(super) struct Queued {
    pub(super) due_ns: u64,
    pub(super) packet: Packet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A server that has not heard of it.
    Absent,
    /// A client that waits, or a server that waits for the client's acknowledgement.
    Handshake,
    Open,
    /// A client that was turned away.
    Refused,
    /// Reset; the process may still hold its handles.
    Broken,
    /// No process holds it; what arrives is answered with a reset.
    Gone,
}

/// One end of a connection: what it has sent and what it has received.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
    pub(super) address: SocketAddr,
    pub(super) phase: Phase,
    /// The server's process has the connection; until then only its kernel does.
    pub(super) accepted: bool,

    pub(super) pace: Pace,
    /// In order of arrival.
    pub(super) outbox: VecDeque<Queued>,
    /// When the agenda looks at the outbox next.
    pub(super) armed_ns: Option<u64>,
    /// Since when the first packet waits for its link.
    pub(super) held_since_ns: Option<u64>,
    /// The first packet waits for the end of a stall.
    pub(super) stalled: bool,
    /// The kernel has forgotten the connection without telling its peer.
    pub(super) forgotten: bool,
    /// Nobody is left to send again what does not get through.
    pub(super) unattended: bool,
    /// Bytes of frames sent and not yet credited.
    pub(super) in_window_bytes: usize,
    pub(super) sender_open: bool,
    pub(super) send_waker: Option<Waker>,

    pub(super) inbox: VecDeque<Bytes>,
    /// Bytes of frames taken and not yet credited.
    pub(super) uncredited_bytes: usize,
    pub(super) end_of_stream: bool,
    pub(super) receiver_open: bool,
    pub(super) recv_waker: Option<Waker>,
}

impl Side {
    pub(super) fn new(node: NodeId, incarnation: u64, address: SocketAddr, phase: Phase, pace: Pace) -> Side {
        Side {
            node,
            incarnation,
            address,
            phase,
            accepted: phase == Phase::Handshake,
            pace,
            outbox: VecDeque::new(),
            armed_ns: None,
            held_since_ns: None,
            stalled: false,
            forgotten: false,
            unattended: false,
            in_window_bytes: 0,
            sender_open: true,
            send_waker: None,
            inbox: VecDeque::new(),
            uncredited_bytes: 0,
            end_of_stream: false,
            receiver_open: true,
            recv_waker: None,
        }
    }

    /// True while packets of the stream may be sent.
    pub(super) fn is_connected(&self) -> bool {
        matches!(self.phase, Phase::Handshake | Phase::Open)
    }

    pub(super) fn take_wakers(&mut self) -> [Option<Waker>; 2] {
        [self.send_waker.take(), self.recv_waker.take()]
    }
}

/// Both sides.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) label: Label,
    pub(super) client: Side,
    pub(super) server: Side,
}

impl Conn {
    pub(super) fn side(&mut self, end: End) -> &mut Side {
        match end {
            End::Client => &mut self.client,
            End::Server => &mut self.server,
        }
    }

    pub(super) fn node(&self, end: End) -> NodeId {
        match end {
            End::Client => self.client.node,
            End::Server => self.server.node,
        }
    }

    /// True when no process can observe it any more.
    pub(super) fn is_over(&self) -> bool {
        let gone = |side: &Side| matches!(side.phase, Phase::Gone | Phase::Absent);
        gone(&self.client) && gone(&self.server)
    }
}
