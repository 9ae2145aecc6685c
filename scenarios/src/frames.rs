//! What the engine's processes say to each other, in words for the story of a run. The network tells which port a frame goes
//! to; what does not decode there has no name.

use bytes::Bytes;
use cutwater_engine::cluster::rpc::{self, FromCoordinator, ToCoordinator};
use cutwater_engine::stream::channel::ChannelHello;
use cutwater_engine::stream::record::{Decoder, Element};
use cutwater_io::sim::net::Frame;

use crate::cluster::{DATA_PORT, RPC_PORT};

/// The name of a frame.
pub(crate) fn name_frame(frame: &Frame<'_>) -> Option<String> {
    match frame.port {
        RPC_PORT if frame.to_server => rpc::decode(frame.bytes).ok().map(|message| to_coordinator(&message)),
        RPC_PORT => rpc::decode(frame.bytes).ok().map(|message| from_coordinator(&message)),
        DATA_PORT => batch(frame.bytes),
        _ => None,
    }
}

fn to_coordinator(message: &ToCoordinator) -> String {
    match message {
        ToCoordinator::Hello { worker, .. } => format!("Hello of {worker}"),
        ToCoordinator::Acknowledge { checkpoint, task, .. } => format!("Acknowledge {checkpoint} by {task}"),
        ToCoordinator::Decline { checkpoint, task, .. } => format!("Decline {checkpoint} by {task}"),
        ToCoordinator::Running { task, .. } => format!("Running {task}"),
        ToCoordinator::Failed { task, .. } => format!("Failed {task}"),
        ToCoordinator::Exhausted { task, .. } => format!("Exhausted {task}"),
        ToCoordinator::Committed { checkpoint, task, .. } => format!("Committed {checkpoint} by {task}"),
        other => variant(other),
    }
}

fn from_coordinator(message: &FromCoordinator) -> String {
    match message {
        FromCoordinator::Deploy { attempt, tasks, .. } => format!("Deploy {attempt}: {} tasks", tasks.len()),
        FromCoordinator::Trigger { barrier, .. } => format!("Trigger {}", barrier.checkpoint),
        FromCoordinator::NotifyComplete { checkpoint, .. } => format!("NotifyComplete {checkpoint}"),
        FromCoordinator::NotifyAborted { checkpoint, .. } => format!("NotifyAborted {checkpoint}"),
        other => variant(other),
    }
}

/// The name of a variant alone.
fn variant(message: &impl std::fmt::Debug) -> String {
    let text = format!("{message:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().into()
}

/// A frame of a channel: its hello, or a batch of elements.
fn batch(bytes: &[u8]) -> Option<String> {
    if let Ok(hello) = rpc::decode::<ChannelHello>(bytes) {
        return Some(format!("channel {} to {}", hello.from, hello.to));
    }
    let mut decoder = Decoder::new(Bytes::copy_from_slice(bytes));
    let (mut records, mut barriers) = (0u64, String::new());
    while let Some(element) = decoder.element().ok()? {
        match element {
            Element::Record(_) => records += 1,
            Element::Watermark(_) | Element::Idle => {}
            Element::Barrier(barrier) => barriers.push_str(&format!("barrier {}, ", barrier.checkpoint)),
        }
    }
    let s = if records == 1 { "" } else { "s" };
    Some(format!("{barriers}{records} record{s}"))
}
