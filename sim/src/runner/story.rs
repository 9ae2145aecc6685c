//! What the system logs (its `tracing` events down to DEBUG), for the story of a recorded run.
//!
//! They are kept beside the trace, not in it: a recorded run must have the digest of one that was not. Each remembers how
//! many events of the trace came before it, so that the two can be merged in order.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use cutwater_io::sim::{Env, Event};
use madsim::time::TimeHandle;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::process;

static LOGGED: Mutex<Vec<(u64, Event)>> = Mutex::new(Vec::new());

struct Listener;

impl<S: tracing::Subscriber> Layer<S> for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        // madsim logs its own doings under its own locks, and with ids that depend on the process.
        *metadata.level() <= tracing::Level::DEBUG && !metadata.target().starts_with("madsim")
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let Some(time) = TimeHandle::try_current() else { return };
        let mut text = Text::default();
        event.record(&mut text);
        let level = event.metadata().level().as_str().to_lowercase();
        let (_, before) = Env::current().digest();
        let detail = format!("{}: {}{}", event.metadata().target(), text.message, text.fields);
        let entry = (before, self::event(&time, Env::node().0, &format!("log.{level}"), detail));
        LOGGED.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string does not fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

/// From now on this process keeps what the system logs.
pub(super) fn listen() {
    let subscriber = tracing_subscriber::registry().with(Listener);
    // Fails if there is one already, which then stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// The events of the trace with the logged ones between them.
pub(super) fn merge(trace: Vec<Event>) -> Vec<Event> {
    let logged = std::mem::take(&mut *LOGGED.lock().unwrap_or_else(PoisonError::into_inner));
    let mut merged = Vec::with_capacity(trace.len() + logged.len());
    let mut logged = logged.into_iter().peekable();
    for (i, event) in trace.into_iter().enumerate() {
        while let Some((_, earlier)) = logged.next_if(|(before, _)| *before <= i as u64) {
            merged.push(earlier);
        }
        merged.push(event);
    }
    merged.extend(logged.map(|(_, event)| event));
    merged
}

/// An event now.
pub(super) fn event(time: &TimeHandle, node: u64, kind: &str, detail: String) -> Event {
    let at_ns = u64::try_from(time.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Event { at_ns, node, kind: kind.into(), detail }
}

/// Keeps an event where it outlives this process: of a run that hangs or aborts there is nothing else.
pub(super) fn keep(event: &Event) {
    let mut line = serde_json::to_vec(event).expect("an event is plain data");
    line.push(b'\n');
    process::keep_trace(&line);
}

/// What a child that gave no report had kept: its events, and what its nodes are.
pub(super) fn unfinished(trace: Option<&[u8]>) -> (Option<Vec<Event>>, BTreeMap<u64, String>) {
    let lines = trace.map(|bytes| bytes.split(|byte| *byte == b'\n'));
    // The first line may be cut off by the limit of what is kept, the last by the end of the process.
    let events: Option<Vec<Event>> =
        lines.map(|lines| lines.filter_map(|line| serde_json::from_slice(line).ok()).collect());
    let created = events.iter().flatten().filter(|event| event.kind == "node.create");
    let labels = created.map(|event| (event.node, event.detail.clone())).collect();
    (events, labels)
}
