//! What the system logs (its `tracing` events and spans down to DEBUG), for the story of a recorded run.
//!
//! A span is a phase of the system: a flush, a recovery. It is told as two events, with the facts `begins` and `ends`.
//!
//! They are kept beside the trace, not in it: a recorded run must have the digest of one that was not. Each remembers how
//! many events of the trace came before it, so that the two can be merged in order.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cutwater_io::sim::{Env, Event, Fact};
use madsim::time::TimeHandle;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::process;

static LOGGED: Mutex<Logged> = Mutex::new(Logged { events: Vec::new(), spans: BTreeMap::new(), begun: 0 });

struct Logged {
    /// Each with how many events of the trace came before it.
    events: Vec<(u64, Event)>,
    /// Spans that are open, by the numbers that the subscriber gave them (and gives again).
    spans: BTreeMap<u64, Open>,
    begun: u64,
}

/// A span that is open.
struct Open {
    node: u64,
    number: u64,
    name: String,
}

fn logged() -> MutexGuard<'static, Logged> {
    LOGGED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn log(event: Event) {
    let (_, before) = Env::current().digest();
    logged().events.push((before, event));
}

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
        let detail = format!("{}: {}{}", event.metadata().target(), text.message, text.fields);
        log(self::event(&time, Env::node().0, &format!("log.{level}"), detail));
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, _: Context<'_, S>) {
        let Some(time) = TimeHandle::try_current() else { return };
        let mut text = Text::default();
        attributes.record(&mut text);
        let (node, name) = (Env::node().0, format!("{}{}", attributes.metadata().name(), text.fields));
        let number = {
            let mut logged = logged();
            logged.begun += 1;
            let number = logged.begun;
            logged.spans.insert(id.into_u64(), Open { node, number, name: name.clone() });
            number
        };
        log(phase(&time, node, "begins", number, name));
    }

    fn on_close(&self, id: span::Id, _: Context<'_, S>) {
        let open = logged().spans.remove(&id.into_u64());
        // What is dropped after the end of the run has no time.
        if let (Some(open), Some(time)) = (open, TimeHandle::try_current()) {
            log(phase(&time, open.node, "ends", open.number, open.name));
        }
    }
}

fn phase(time: &TimeHandle, node: u64, what: &str, number: u64, name: String) -> Event {
    let mut told = event(time, node, &format!("phase.{what}"), name.clone());
    told.facts.insert(what.into(), Fact::Text(name));
    told.facts.insert("span".into(), Fact::Number(number));
    told
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
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
    let logged = std::mem::take(&mut logged().events);
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
    Event { at_ns, node, kind: kind.into(), detail, facts: BTreeMap::new() }
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
