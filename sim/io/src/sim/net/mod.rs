//! The simulated network: framed, ordered connections between machines, over links that delay, fill up and break.
//!
//! Modelled
//! - A handshake of three packets; refusal where nobody listens; a connect over a cut link, or to a machine that is down,
//!   waits until that changes.
//! - Each pair of machines has its own distance: a factor on latencies and a bandwidth that its connections share; a few
//!   links are slow for the whole run, others for a while, and so are all links of a slow machine.
//! - Latency per connection, jitter and spikes per packet, a window in bytes per direction: a sender waits when it is full,
//!   and the news that it opened travels back over the network.
//! - A link is asked when something would *arrive*. A cut, clogged or stalled direction lets nothing through: no frame, no
//!   end of stream, no reset. What it held is sent again some time after it healed, in order.
//! - A process that dies has its connections closed by its kernel; a machine that is lost says nothing at all, and its
//!   peers stay half-open until they send to the restarted machine, which answers with a reset. The same without a death:
//!   one end forgets the connection (a middlebox dropped it), the other believes in it until it sends.
//! - madsim drops the futures of a killed node after the kill: handles know their incarnation, and dead ones do nothing.
//!
//! Not modelled: loss or reordering within a connection (TCP repairs them; they show as delay); datagrams, and so
//! duplication (the seam offers streams only, and a system that cannot send a datagram cannot meet one twice); name resolution,
//! keep-alive, a peer that gives up sending again, routing (each pair of machines has its own link), corrupted frames.
//!
//! Draws are keyed by (client, server, how many-th connection between them), never sequential.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use xxhash_rust::xxh3::xxh3_64;

use super::{Env, Key, NodeId, Told};

pub(in crate::sim) mod alarm;
mod connection;
mod edge;
mod flow;
mod link;
mod model;

pub(crate) use edge::{Bound, Endpoint, connect};
use model::{Effects, Model};

/// Latency, bandwidth and patience of the network.
#[derive(Clone, Debug)]
pub struct Config {
    /// Median over connections of the base latency one way, in microseconds.
    pub latency_median_us: u32,
    /// Shape of the log-normal distribution of base latencies.
    pub latency_sigma: f64,
    /// Each packet takes up to so many microseconds more.
    pub jitter_us: u32,
    /// So many of 1,000 packets are spikes.
    pub spike_permille: u32,
    /// A spike takes up to so many microseconds more.
    pub spike_us: u32,
    /// Latency from a machine to itself, in microseconds.
    pub loopback_us: u32,
    /// Bandwidth of a link in one direction, in bytes per second.
    pub bandwidth_bytes_per_s: u64,
    /// Shape of the log-normal distribution, around 1, of the factor by which the latencies of a pair of machines differ.
    pub link_sigma: f64,
    /// So many of 1,000 pairs of machines are far apart.
    pub slow_link_permille: u32,
    /// Those have up to so many times the latency, and as much less bandwidth.
    pub slow_link_factor_max: u32,
    /// Bytes that can be under way and unread in one direction of a connection. A larger frame goes alone.
    pub window_bytes: usize,
    /// After a link healed, what it held arrives after at most so many microseconds.
    pub retransmit_us_max: u32,
    /// Connections that wait to be accepted, per listener.
    pub backlog: usize,
}

impl Default for Config {
    /// A data centre: half a millisecond, 1 Gbit/s, windows of 256 KiB; one link in twenty leads out of it.
    fn default() -> Config {
        Config {
            latency_median_us: 500,
            latency_sigma: 0.4,
            jitter_us: 200,
            spike_permille: 2,
            spike_us: 40_000,
            loopback_us: 30,
            bandwidth_bytes_per_s: 125_000_000,
            link_sigma: 0.4,
            slow_link_permille: 50,
            slow_link_factor_max: 50,
            window_bytes: 256 << 10,
            retransmit_us_max: 1_000_000,
            backlog: 128,
        }
    }
}

/// What the network did so far: a fault that held or lost nothing has not bitten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames taken from senders.
    pub frames_sent: u64,
    /// Frames that arrived.
    pub frames_delivered: u64,
    /// Frames that were under way when their connection broke.
    pub frames_lost: u64,
    /// Times that a packet was held by a link that let nothing through.
    pub packets_held: u64,
    /// Ends of connections that found it reset.
    pub resets: u64,
    /// Packets that a slow link or a slow machine delayed.
    pub packets_slowed: u64,
    /// Connections of which one end was made to forget.
    pub half_opened: u64,
    /// Connects that were refused because nobody listened.
    pub refused: u64,
}

/// The network of a run: controls for a harness.
///
/// Times are virtual, in microseconds since the start of the run. All controls take effect at once.
#[derive(Debug, Default)]
pub struct Network {
    model: Mutex<Model>,
}

impl Network {
    pub(crate) fn configure(&self, key: Key, config: Config) {
        {
            let mut model = self.model();
            model.key = Some(key);
            model.config = config;
        }
        let env = std::sync::Arc::downgrade(&Env::current());
        let _detached = madsim::task::spawn(work_off(env));
    }

    /// `node` has `address`. To be called for every node before it uses the network.
    ///
    /// # Panics
    /// If the address belongs to another node.
    pub fn register(&self, node: NodeId, address: IpAddr) {
        self.model().register(node, address);
    }

    /// Cuts the links from each of `from` to each of `to`, in this direction only.
    pub fn partition(&self, from: &[NodeId], to: &[NodeId]) {
        let mut model = self.model();
        for link in pairs(from, to) {
            model.links.cut(link);
        }
    }

    /// Cuts the links between each of `a` and each of `b`, in both directions.
    pub fn partition_both(&self, a: &[NodeId], b: &[NodeId]) {
        self.partition(a, b);
        self.partition(b, a);
    }

    /// Mends the cuts from each of `from` to each of `to`, in this direction only.
    pub fn mend(&self, from: &[NodeId], to: &[NodeId]) {
        self.change(|model| pairs(from, to).for_each(|link| model.links.mend(link)));
    }

    /// Mends all cuts; clogs and stalls stay.
    pub fn mend_all(&self) {
        self.change(|model| model.links.mend_all());
    }

    /// Lets nothing through between `a` and `b`, independently of partitions.
    pub fn clog(&self, a: NodeId, b: NodeId) {
        let mut model = self.model();
        model.links.clog((a, b));
        model.links.clog((b, a));
    }

    /// Ends a clog.
    pub fn unclog(&self, a: NodeId, b: NodeId) {
        self.change(|model| {
            model.links.unclog((a, b));
            model.links.unclog((b, a));
        });
    }

    /// Lets nothing through between `node` and any other, independently of partitions and other clogs; to be ended as often
    /// as it was begun.
    pub fn clog_node(&self, node: NodeId) {
        self.model().links.clog_node(node);
    }

    /// Ends one [`Network::clog_node`].
    pub fn unclog_node(&self, node: NodeId) {
        self.change(|model| model.links.unclog_node(node));
    }

    /// Between `a` and `b` everything takes `factor` times as long; 1 is the usual pace. What is under way is not touched.
    pub fn slow(&self, a: NodeId, b: NodeId, factor: u32) {
        let mut model = self.model();
        model.links.slow((a, b), factor);
        model.links.slow((b, a), factor);
    }

    /// On all links of `node` everything takes `factor` times as long; 1 is the usual pace.
    pub fn slow_node(&self, node: NodeId, factor: u32) {
        self.model().links.slow_node(node, factor);
    }

    /// What arrives from `from` at `to` before `until_us` arrives then. A stall under way may be cut short.
    pub fn stall(&self, from: NodeId, to: NodeId, until_us: u64) {
        self.change(|model| model.links.stall((from, to), until_us.saturating_mul(1000)));
    }

    /// Ends every cut, clog, stall and slowness. What a stall held arrives soon, as after a cut.
    pub fn heal(&self) {
        self.change(|model| model.links.heal());
    }

    /// Every open connection between `believes` and `forgets` becomes half-open: the process of `forgets` finds it reset, and
    /// the other end learns nothing until something that it sends arrives and is answered by a reset.
    pub fn half_open(&self, believes: NodeId, forgets: NodeId) {
        self.change(|model| model.half_open(believes, forgets));
    }

    /// Resets every connection between `a` and `b`: both ends find out at once, frames under way are lost.
    pub fn reset(&self, a: NodeId, b: NodeId) {
        self.change(|model| model.reset_between(a, b));
    }

    /// The machine of `node` loses its power: when its process is killed, nothing will tell its peers. To be called before
    /// the kill.
    pub fn machine_lost(&self, node: NodeId) {
        self.model().links.machine_down(node);
    }

    /// The machine of `node` runs again. A restarted process that binds or connects implies it.
    pub fn machine_started(&self, node: NodeId) {
        self.change_at(|model, now_ns| model.machine_up(node, now_ns));
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.model().counters
    }

    /// The process of `node` was killed. madsim holds its locks here: nothing of its handles may be called.
    pub(crate) fn process_ended(&self, env: &Env, node: NodeId) {
        let now_ns = env.now_ns();
        self.run(env, |model| model.process_ended(node, now_ns));
    }

    fn change(&self, change: impl FnOnce(&mut Model)) {
        self.change_at(|model, now_ns| {
            change(model);
            model.release(now_ns);
        });
    }

    fn change_at(&self, change: impl FnOnce(&mut Model, u64)) {
        let env = Env::current();
        let now_ns = env.now_ns();
        self.run(&env, |model| change(model, now_ns));
    }

    /// Runs a step of the model, then tells the outside what came of it.
    fn run<T>(&self, env: &Env, step: impl FnOnce(&mut Model) -> T) -> T {
        let (result, effects) = {
            let mut model = self.model();
            let result = step(&mut model);
            (result, std::mem::take(&mut model.effects))
        };
        tell(env, effects);
        result
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pairs<'a>(from: &'a [NodeId], to: &'a [NodeId]) -> impl Iterator<Item = (NodeId, NodeId)> + 'a {
    from.iter().flat_map(move |f| to.iter().filter(move |t| *t != f).map(move |t| (*f, *t)))
}

/// A frame of the system under test, on its way.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Where the server of its connection listens.
    pub port: u16,
    /// True if the client sent it.
    pub to_server: bool,
    /// Its content.
    pub bytes: &'a [u8],
}

/// Says what a frame is, for people. It may be anything.
pub type FrameNamer = fn(&Frame<'_>) -> Option<String>;

fn tell(env: &Env, effects: Effects) {
    let namer = if effects.events.is_empty() { None } else { env.frame_namer() };
    for event in effects.events {
        let frame = event.frame.as_deref().unwrap_or_default();
        let label = event.label;
        let parts = [label.client.0, label.server.0, label.nth, xxh3_64(frame)];
        let mut payload = [0; 32];
        for (bytes, part) in payload.chunks_exact_mut(8).zip(parts) {
            bytes.copy_from_slice(&part.to_le_bytes());
        }
        env.emit(event.node, event.kind, &payload, || {
            let (client, server) = (label.client, label.server);
            let to_server = event.is_client == (event.kind == "net.send");
            let name = (event.frame.is_some())
                .then(|| namer?(&Frame { port: event.port, to_server, bytes: frame }))
                .flatten();
            let shown = name.as_deref().unwrap_or_default();
            let space = if shown.is_empty() { "" } else { " " };
            let peer = if event.is_client { server } else { client };
            Told::from(format!("{client}>{server}#{} {} bytes{space}{shown}", label.nth, frame.len()))
                .with("connection", format!("{client}>{server}#{}", label.nth))
                .with("peer", peer.0)
                .with("bytes", frame.len() as u64)
                .with("end", if event.is_client { "client" } else { "server" })
                .with_some("message", name.clone())
        });
    }
    for waker in effects.wakers {
        waker.wake();
    }
}

async fn work_off(env: Weak<Env>) {
    alarm::work_off(|now_ns, waker| {
        let env = env.upgrade()?;
        Some(env.net.run(&env, |model| model.run_due(now_ns, waker)))
    })
    .await;
}
