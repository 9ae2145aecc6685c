//! Connections: to other nodes, from other nodes, from clients.
//!
//! To each other node goes one connection, which this node dials and on which it only sends; what the other says comes on the other's.
//! What waits for a node is bounded: who is given more than that has it dropped, as if the network had, and those who said it say it again.
//!
//! What a client is told waits until the cut that it was made in has ended ([`Shared::released`]). The answers of a connection go out in
//! the order in which they were made, and so many of its questions are under way at most, so what waits is bounded too.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cutwater_io::net::{Connection, Listener, Receiver, Sender};
use cutwater_io::task::AbortOnDrop;
use cutwater_io::{buggify, task, time};
use tokio::sync::{Semaphore, mpsc};

use super::points;
use super::serve;
use super::shared::{PEER_QUEUE, Shared};
use crate::tables::ids::{CutId, NodeId};
use crate::tables::reason::Reason;
use crate::tables::rpc::{self, Answer, Envelope, Payload};

/// How many questions of one client may be under way.
const CLIENT_QUESTIONS: usize = 256;

/// How long somebody who connects has to say who he is, and a connection to be made.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Keeps a connection to a node for as long as the handle lives.
pub(super) fn dial(shared: &Arc<Shared>, node: NodeId) -> AbortOnDrop<()> {
    let (queue, waiting) = mpsc::channel(PEER_QUEUE);
    shared.add_peer(node, queue);
    let shared = shared.clone();
    task::spawn(async move { keep_connected(shared, node, waiting).await }).abort_on_drop()
}

async fn keep_connected(shared: Arc<Shared>, node: NodeId, mut waiting: mpsc::Receiver<Bytes>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let address = shared.known().state.members.get(usize::from(node)).map(|member| member.address);
        let connected = match address {
            Some(address) => time::timeout(HELLO_TIMEOUT, Connection::connect(address)).await,
            None => return,
        };
        if let Ok(Ok(connection)) = connected {
            pause = FIRST_PAUSE;
            shared.connected(node, true);
            send(&shared, node, connection, &mut waiting).await;
            shared.connected(node, false);
            // What waited for the old connection is as lost as what was on its way.
            while waiting.try_recv().is_ok() {}
        }
        time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Sends what waits until the connection breaks, or the other side closes it.
async fn send(shared: &Shared, node: NodeId, connection: Connection, waiting: &mut mpsc::Receiver<Bytes>) {
    let Connection { mut sender, mut receiver } = connection;
    let hello = Payload::Hello { cluster: shared.config.cluster.clone(), node: Some(shared.own) };
    let sending = async {
        if sender.send(shared.stamp(hello)).await.is_err() {
            return;
        }
        while let Some(frame) = waiting.recv().await {
            if buggify!(points::MESSAGE_LATE) {
                time::sleep(Duration::from_millis(30)).await;
            }
            if let Err(error) = sender.send(frame).await {
                tracing::debug!(node, %error, "the connection broke");
                return;
            }
        }
    };
    // Nothing comes here but the end.
    let closed = async { while let Ok(Some(_)) = receiver.recv().await {} };
    futures::pin_mut!(sending, closed);
    futures::future::select(sending, closed).await;
}

/// Accepts connections for the life of the node.
pub(super) async fn accept(shared: Arc<Shared>, mut listener: Listener) {
    loop {
        match listener.accept().await {
            Ok((connection, peer)) => {
                let shared = shared.clone();
                task::spawn(async move {
                    if let Err(error) = attend(shared, connection).await {
                        tracing::debug!(%peer, %error, "connection broken off");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Decode(#[from] rpc::DecodeError),
    #[error(transparent)]
    Time(#[from] crate::tables::clock::TooFarAhead),
    #[error("no hello in time")]
    Silent(#[from] time::Elapsed),
    #[error("closed before a hello")]
    Closed,
    #[error("{0}")]
    Stranger(String),
}

async fn attend(shared: Arc<Shared>, connection: Connection) -> Result<(), Broken> {
    let Connection { sender, mut receiver } = connection;
    let frame = time::timeout(HELLO_TIMEOUT, receiver.recv()).await??.ok_or(Broken::Closed)?;
    let envelope = rpc::decode(&frame)?;
    let Payload::Hello { cluster, node } = &envelope.payload else {
        return Err(Broken::Stranger("a connection begins with hello".into()));
    };
    if *cluster != shared.config.cluster {
        return Err(Broken::Stranger(format!("it is of cluster {cluster:?}")));
    }
    match node {
        Some(node) if *node != shared.own => {
            shared.receive(&envelope, Some(*node))?;
            attend_node(&shared, *node, receiver).await
        }
        Some(_) => Err(Broken::Stranger("it has the number of this node".into())),
        None => {
            attend_hello(&shared, &envelope).await?;
            attend_client(&shared, sender, receiver).await
        }
    }
}

async fn attend_node(shared: &Arc<Shared>, node: NodeId, mut receiver: Receiver) -> Result<(), Broken> {
    while let Some(frame) = receiver.recv().await? {
        let envelope = rpc::decode(&frame)?;
        shared.receive(&envelope, Some(node))?;
        match envelope.payload {
            Payload::Heartbeat | Payload::Hello { .. } => {}
            Payload::Copy { partition, message } => {
                shared.tell(
                    partition,
                    super::copy::CopyEvent::Message { from: node, message: Box::new(message) },
                );
            }
            Payload::Answer { id, answer } => shared.answered(node, id, *answer),
            Payload::Ask { id, question } => {
                let answering = serve::answer(shared, question);
                let shared = shared.clone();
                task::spawn(async move {
                    if let Some(answer) = answering.await {
                        shared.post(node, Payload::Answer { id, answer: Box::new(answer) });
                    }
                });
            }
        }
    }
    Ok(())
}

/// A client may have heard of a cut from a node that knows more than this one. It is told nothing before this one knows as much.
async fn attend_hello(shared: &Shared, envelope: &Envelope) -> Result<(), Broken> {
    if envelope.cut > shared.known().state.last_cut {
        let known = shared.change(Box::new(|state| Ok(state.clone()))).await;
        let last = known.map_or(0, |known| known.state.last_cut);
        if envelope.cut > last {
            return Err(Broken::Stranger(format!(
                "it speaks of cut {}, and the last is {last}",
                envelope.cut
            )));
        }
    }
    Ok(shared.receive(envelope, None)?)
}

async fn attend_client(shared: &Arc<Shared>, sender: Sender, mut receiver: Receiver) -> Result<(), Broken> {
    let (answers, made) = mpsc::unbounded_channel();
    let _writing = task::spawn(write_answers(shared.clone(), sender, made)).abort_on_drop();
    let room = Arc::new(Semaphore::new(CLIENT_QUESTIONS));
    while let Some(frame) = receiver.recv().await? {
        let envelope = rpc::decode(&frame)?;
        attend_hello(shared, &envelope).await?;
        let Payload::Ask { id, question } = envelope.payload else {
            return Err(Broken::Stranger("a client only asks".into()));
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            let limit = CLIENT_QUESTIONS as u64;
            let overloaded = Answer::Denied(Reason::Overloaded { waiting: limit, limit });
            let _ = answers.send((shared.cut(), id, overloaded));
            continue;
        };
        let answering = serve::answer_client(shared, question);
        let (shared, answers) = (shared.clone(), answers.clone());
        task::spawn(async move {
            if let Some(answer) = answering.await {
                // Who is gone does not want to know.
                let _ = answers.send((shared.cut(), id, answer));
            }
            drop(permit);
        });
    }
    Ok(())
}

async fn write_answers(
    shared: Arc<Shared>,
    mut sender: Sender,
    mut made: mpsc::UnboundedReceiver<(CutId, u64, Answer)>,
) {
    while let Some((cut, id, answer)) = made.recv().await {
        shared.released(cut).await;
        let frame = shared.stamp(Payload::Answer { id, answer: Box::new(answer) });
        if sender.send(frame).await.is_err() {
            return;
        }
    }
}
