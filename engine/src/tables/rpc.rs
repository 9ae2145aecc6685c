//! What nodes and clients say to each other: one frame, one message.
//!
//! ```text
//! protocol version: u8 | envelope: postcard
//! ```
//!
//! **Every** message travels in an [`Envelope`]: from node to node, from node to client, from client to node. It carries the sender's cut, which the
//! receiver starts before it looks at the payload ([docs/snapshots.md], "The cut"), the sender's hybrid time, and the newest version of the
//! register that the sender has seen, so that nobody acts long on an old one. Views travel with the messages of copies, which are about one.
//!
//! A connection begins with [`Payload::Hello`]. Between nodes messages go one way on a connection and each side dials its own; between client and
//! node they go both ways. An answer names the question; it may come in any order, or never.
//!
//! Bytes are hostile: what does not decode breaks the connection, and nothing is allocated beyond the bytes that are there. Who says hello as a
//! node is believed: the network between nodes is trusted, that of clients less, and what only nodes may ask is refused to them.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::cluster_state::{ClusterState, Fate, TableSpec};
use super::entry::Entry;
use super::ids::{CutId, HybridTime, LogIndex, NodeId, PartitionId, TxId, View};
use super::partition::Request;
use super::reason::Reason;
use super::replica::{self, PartitionView};
use super::rows::{Change, Content, Read, Row};

/// The only version of the protocol there is.
pub const PROTOCOL: u8 = 1;

/// What every message travels in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The last cut that the sender has started; of a client the highest it has heard of.
    pub cut: CutId,
    /// The sender's time.
    pub time: HybridTime,
    /// The newest version of the register that it knows.
    pub register: u64,
    /// The message.
    pub payload: Payload,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// The first on a connection.
    Hello {
        /// The name of the cluster: two that share a network do not mix.
        cluster: String,
        /// Who speaks; nothing for a client.
        node: Option<NodeId>,
    },
    /// The sender lives.
    Heartbeat,
    /// From one copy of a partition to another.
    Copy {
        /// Which.
        partition: PartitionId,
        /// The message.
        message: replica::Message,
    },
    /// A question.
    Ask {
        /// Unique to the connection, or between nodes to the life of the sender.
        id: u64,
        /// What.
        question: Question,
    },
    /// Its answer.
    Answer {
        /// Of the question.
        id: u64,
        /// What.
        answer: Box<Answer>,
    },
}

/// What is asked of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Of the primary of a partition: what stands there?
    Read {
        /// Which.
        partition: PartitionId,
        /// Any.
        keys: Vec<Bytes>,
    },
    /// Of the primary of a partition: rows in the order of keys.
    Scan {
        /// Which.
        partition: PartitionId,
        /// Behind this key; from the first if nothing.
        after: Option<Bytes>,
        /// At most so many.
        limit: u32,
    },
    /// Of the primary of a partition: append this.
    Submit {
        /// Which.
        partition: PartitionId,
        /// What. Clients may submit a `Write` only.
        request: Request,
    },
    /// Of the primary of a partition that decides: what became of a transaction?
    Outcome {
        /// Which.
        partition: PartitionId,
        /// The transaction.
        tx: TxId,
    },
    /// Of any node: commit a transaction.
    Commit {
        /// Drawn by the client.
        tx: TxId,
        /// Its parts, in the order of partitions, each once.
        parts: Vec<Part>,
    },
    /// What do you know of the cluster?
    Topology,
    /// A table shall be.
    CreateTable(TableSpec),
    /// A table shall be no more.
    DropTable {
        /// Its name.
        name: String,
    },
    /// A cut shall be announced.
    AnnounceCut,
    /// What has become of a cut?
    Fate {
        /// Which.
        cut: CutId,
    },
    /// What copies have you?
    Report,
    /// Of any node that has a copy: what is applied of its log? For operators and tests.
    Log {
        /// Which.
        partition: PartitionId,
        /// Behind this entry.
        previous: LogIndex,
    },
}

/// A transaction's part in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Which.
    pub partition: PartitionId,
    /// In the order of keys, each once.
    pub reads: Vec<Read>,
    /// In the order of keys, each once.
    pub changes: Vec<Change>,
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The rows of the keys asked for, in their order.
    Rows {
        /// Nothing where there is none.
        rows: Vec<Option<Row>>,
    },
    /// A stretch of rows.
    Scanned {
        /// In the order of keys.
        rows: Vec<(Bytes, Row)>,
        /// All of them are as of this entry.
        index: LogIndex,
        /// There are more.
        more: bool,
    },
    /// It is prepared.
    Prepared,
    /// It is decided, and maybe not finished everywhere.
    Decided {
        /// True if it is committed.
        commit: bool,
        /// Which cuts it is before.
        generation: CutId,
        /// When it committed.
        time: HybridTime,
    },
    /// It has ended here.
    Ended {
        /// True if it is committed.
        commit: bool,
        /// Which cuts it is before.
        generation: CutId,
        /// The version of the rows that it wrote.
        index: LogIndex,
    },
    /// It is prepared and not decided.
    Undecided,
    /// Nothing is known of the transaction.
    Unknown,
    /// It is done, now or before, and there is nothing to say of it.
    Done,
    /// The transaction is committed.
    Committed {
        /// Which cuts it is before.
        generation: CutId,
    },
    /// It is aborted.
    Aborted {
        /// Who was in the way.
        partition: PartitionId,
        /// Why.
        reason: Reason,
    },
    /// Nobody could say in time.
    OutcomeUnknown,
    /// What the node knows of the cluster.
    Topology {
        /// The version of the register.
        version: u64,
        /// Its value.
        state: Box<ClusterState>,
    },
    /// The cut is announced, or this became of it: nothing if it is not remembered.
    Cut {
        /// Which.
        cut: CutId,
        /// What.
        fate: Option<Fate>,
    },
    /// The node's copies.
    Report(Vec<CopyReport>),
    /// Entries of a log that are applied; none if there are no more, or it does not reach back so far.
    Log {
        /// Index of the first.
        first: LogIndex,
        /// In order.
        entries: Vec<Entry>,
    },
    /// It was not done, and will not be.
    Denied(Reason),
}

/// What a node says of a copy that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyReport {
    /// Which.
    pub partition: PartitionId,
    /// The view that it is in.
    pub view: PartitionView,
    /// It leads the view and is open.
    pub is_open: bool,
    /// The index before its log.
    pub log_before: LogIndex,
    /// What it has applied.
    pub applied: LogIndex,
    /// The view of the last `Open` that it has applied.
    pub applied_view: View,
    /// The sum over its rows.
    pub content: Content,
    /// Transactions that are prepared and not finished.
    pub prepared: u64,
    /// Transactions that are decided and not forgotten.
    pub decided: u64,
    /// The last cut in its log.
    pub generation: CutId,
    /// Of each cut that it knows and that has settled, the sum over the rows there.
    pub cuts: Vec<(CutId, Content)>,
}

/// A message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// An empty frame.
    #[error("an empty frame")]
    Empty,
    /// Another protocol.
    #[error("protocol version {found}, this program speaks {PROTOCOL}")]
    Protocol {
        /// As found.
        found: u8,
    },
    /// Not one message and nothing else.
    #[error("malformed message: {0}")]
    Malformed(postcard::Error),
}

/// The frame of a message.
pub fn encode(envelope: &Envelope) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(PROTOCOL);
    let body = postcard::to_stdvec(envelope).expect("messages hold nothing that cannot be encoded");
    frame.extend_from_slice(&body);
    frame.freeze()
}

/// The message of a frame.
///
/// # Errors
/// If it is not exactly one message of this protocol.
pub fn decode(frame: &[u8]) -> Result<Envelope, DecodeError> {
    let (&found, body) = frame.split_first().ok_or(DecodeError::Empty)?;
    if found != PROTOCOL {
        return Err(DecodeError::Protocol { found });
    }
    match postcard::take_from_bytes(body) {
        Ok((envelope, [])) => Ok(envelope),
        Ok(_) => Err(DecodeError::Malformed(postcard::Error::DeserializeBadEncoding)),
        Err(error) => Err(DecodeError::Malformed(error)),
    }
}

impl Question {
    /// The partition whose primary is asked.
    pub fn partition(&self) -> Option<PartitionId> {
        match self {
            Question::Read { partition, .. }
            | Question::Scan { partition, .. }
            | Question::Submit { partition, .. }
            | Question::Outcome { partition, .. } => Some(*partition),
            _ => None,
        }
    }

    /// True if asking twice does no more than asking once, whatever became of the first.
    pub fn is_idempotent(&self) -> bool {
        !matches!(
            self,
            Question::Submit { request: Request::Write { .. }, .. }
                | Question::Commit { .. }
                | Question::CreateTable(_)
                | Question::DropTable { .. }
                | Question::AnnounceCut
        )
    }

    /// True if a client may ask it.
    pub fn is_for_clients(&self) -> bool {
        !matches!(self, Question::Submit { request, .. } if !matches!(request, Request::Write { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::partition::Conflict;
    use proptest::prelude::*;

    fn envelope(payload: Payload) -> Envelope {
        Envelope { cut: 3, time: HybridTime(77), register: 5, payload }
    }

    fn messages() -> Vec<Envelope> {
        let partition = PartitionId { table: 4, number: 2 };
        let key = Bytes::from_static(b"key");
        let part = Part {
            partition,
            reads: vec![Read { key: key.clone(), version: Some(9) }],
            changes: vec![Change { key: key.clone(), value: None }],
        };
        let commit = Question::Commit { tx: TxId(1 << 90), parts: vec![part] };
        let row = Row { version: 9, value: Bytes::from_static(b"value") };
        let denied =
            Answer::Denied(Conflict::Changed { key: key.clone(), read: Some(1), found: None }.into());
        let state = ClusterState::default().joined("n", "d", ([10, 0, 0, 1], 7).into()).unwrap();
        [
            Payload::Hello { cluster: "c".into(), node: Some(3) },
            Payload::Heartbeat,
            Payload::Copy { partition, message: replica::Message::Ahead { view: 8 } },
            Payload::Ask { id: 1, question: commit },
            Payload::Ask { id: 2, question: Question::Read { partition, keys: vec![key.clone()] } },
            Payload::Answer { id: 2, answer: Box::new(Answer::Rows { rows: vec![Some(row), None] }) },
            Payload::Answer { id: 3, answer: Box::new(denied) },
            Payload::Answer {
                id: 4,
                answer: Box::new(Answer::Topology { version: 9, state: Box::new(state) }),
            },
        ]
        .map(envelope)
        .to_vec()
    }

    #[test]
    fn messages_are_read_back_and_parts_of_them_are_not() {
        for message in messages() {
            let frame = encode(&message);
            assert_eq!(decode(&frame).unwrap(), message);
            for len in 0..frame.len() {
                assert!(decode(&frame[..len]).is_err(), "{message:?} cut to {len} bytes");
            }
            let mut longer = frame.to_vec();
            longer.push(0);
            assert!(decode(&longer).is_err());
        }
        assert!(matches!(decode(&[2, 0, 0]), Err(DecodeError::Protocol { found: 2 })));
    }

    #[test]
    fn clients_may_not_speak_for_deciders() {
        let partition = PartitionId { table: 1, number: 0 };
        let submit = |request| Question::Submit { partition, request };
        assert!(
            submit(Request::Write { tx: TxId(1), reads: Vec::new(), changes: Vec::new() }).is_for_clients()
        );
        assert!(!submit(Request::Decide { tx: TxId(1), commit: true }).is_for_clients());
        assert!(!submit(Request::Mark { cut: 1 }).is_for_clients());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), which in 0usize..8, at in 0usize..200) {
            let _ = decode(&bytes);
            bytes.insert(0, PROTOCOL);
            let _ = decode(&bytes);
            let mut damaged = encode(&messages()[which]).to_vec();
            let at = at % damaged.len();
            damaged[at] ^= bytes[0] | 1;
            let _ = decode(&damaged);
        }
    }
}
