//! Links: what lies between two machines, one direction at a time.
//!
//! A link delays (a base per connection, jitter and rare spikes per packet) and has a bandwidth that its connections share.
//! Each pair of machines is as far apart as a draw says, the same in both directions; a few are very far. A slow link, or
//! one of a slow machine, delays everything by a factor.
//!
//! A link may let nothing through: cut, clogged (itself, or all links of a machine) or stalled. Whether something gets
//! through is asked when it would arrive.

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Config;
use crate::sim::{Key, NodeId};

const NS_PER_US: u64 = 1000;
const NS_PER_S: u64 = 1_000_000_000;

/// From, to.
pub(super) type LinkId = (NodeId, NodeId);

/// What a link does with a packet that would arrive now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// It arrives.
    Open,
    /// It arrives at this time.
    Until(u64),
    /// It does not arrive until someone heals the link.
    Closed,
}

/// Delays of one direction of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    base_ns: u64,
    seed: u64,
    packets: u64,
}

#[derive(Debug, Default)]
struct Link {
    busy_until_ns: u64,
    stalled_until_ns: u64,
    connections: u64,
    shape: Option<Shape>,
    /// How many times slower it is at the moment; 0 and 1 are its usual pace.
    slow_factor: u32,
}

/// How far apart two machines are.
#[derive(Clone, Copy, Debug)]
struct Shape {
    latency_permille: u64,
    bandwidth_bytes_per_s: u64,
}

/// All links.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<LinkId, Link>,
    cuts: BTreeSet<LinkId>,
    clogs: BTreeSet<LinkId>,
    /// Machines all of whose links are clogged, and how many times over.
    clogged_nodes: BTreeMap<NodeId, u32>,
    /// Machines that are slow, and how many times.
    slow_nodes: BTreeMap<NodeId, u32>,
    down: BTreeSet<NodeId>,
}

impl Links {
    /// The number of a new connection from, to; from 1.
    pub(super) fn next_connection(&mut self, link: LinkId) -> u64 {
        let connections = &mut self.links.entry(link).or_default().connections;
        *connections += 1;
        *connections
    }

    /// When a packet of `len_bytes` that is sent now would arrive, and whether something makes it slower than usual.
    pub(super) fn arrival_ns(
        &mut self,
        key: &Key,
        link: LinkId,
        pace: &mut Pace,
        len_bytes: usize,
        now_ns: u64,
        config: &Config,
    ) -> (u64, bool) {
        let slow_node = |node| self.slow_nodes.get(node).copied().unwrap_or(1);
        let slow_node = slow_node(&link.0).max(slow_node(&link.1));
        let loopback = link.0 == link.1;
        let latency_ns = pace.next_ns(loopback, config);
        let id = link;
        let link = self.links.entry(id).or_default();
        let shape = *link.shape.get_or_insert_with(|| Shape::draw(key, id, config));
        let slow_factor = u64::from(link.slow_factor.max(1).saturating_mul(slow_node));
        let latency_ns = latency_ns.saturating_mul(shape.latency_permille) / 1000;
        let transfer_ns =
            u128::from(NS_PER_S) * len_bytes as u128 / u128::from(shape.bandwidth_bytes_per_s.max(1));
        let transfer_ns = u64::try_from(transfer_ns).unwrap_or(u64::MAX).saturating_mul(slow_factor);
        link.busy_until_ns = link.busy_until_ns.max(now_ns).saturating_add(transfer_ns);
        let due_ns = link.busy_until_ns.saturating_add(latency_ns.saturating_mul(slow_factor));
        (due_ns, slow_factor > 1)
    }

    pub(super) fn gate(&self, link: LinkId, now_ns: u64) -> Gate {
        if self.down.contains(&link.1) {
            return Gate::Closed;
        }
        if link.0 == link.1 {
            return Gate::Open;
        }
        let clogged = |node| self.clogged_nodes.contains_key(node);
        if self.cuts.contains(&link) || self.clogs.contains(&link) || clogged(&link.0) || clogged(&link.1) {
            return Gate::Closed;
        }
        match self.links.get(&link).map_or(0, |l| l.stalled_until_ns) {
            until_ns if until_ns > now_ns => Gate::Until(until_ns),
            _ => Gate::Open,
        }
    }

    pub(super) fn cut(&mut self, link: LinkId) {
        self.cuts.insert(link);
    }

    pub(super) fn mend(&mut self, link: LinkId) {
        self.cuts.remove(&link);
    }

    pub(super) fn mend_all(&mut self) {
        self.cuts.clear();
    }

    pub(super) fn clog(&mut self, link: LinkId) {
        self.clogs.insert(link);
    }

    pub(super) fn unclog(&mut self, link: LinkId) {
        self.clogs.remove(&link);
    }

    pub(super) fn clog_node(&mut self, node: NodeId) {
        *self.clogged_nodes.entry(node).or_default() += 1;
    }

    pub(super) fn unclog_node(&mut self, node: NodeId) {
        if let Some(times) = self.clogged_nodes.get_mut(&node) {
            *times -= 1;
            if *times == 0 {
                self.clogged_nodes.remove(&node);
            }
        }
    }

    pub(super) fn slow(&mut self, link: LinkId, factor: u32) {
        self.links.entry(link).or_default().slow_factor = factor;
    }

    pub(super) fn slow_node(&mut self, node: NodeId, factor: u32) {
        self.slow_nodes.insert(node, factor.max(1));
    }

    pub(super) fn stall(&mut self, link: LinkId, until_ns: u64) {
        self.links.entry(link).or_default().stalled_until_ns = until_ns;
    }

    /// Ends every cut, clog and stall; nothing is slower than it was drawn.
    pub(super) fn heal(&mut self) {
        self.cuts.clear();
        self.clogs.clear();
        self.clogged_nodes.clear();
        self.slow_nodes.clear();
        for link in self.links.values_mut() {
            (link.stalled_until_ns, link.slow_factor) = (0, 0);
        }
    }

    pub(super) fn machine_down(&mut self, node: NodeId) {
        self.down.insert(node);
    }

    /// True if it was down.
    pub(super) fn machine_up(&mut self, node: NodeId) -> bool {
        self.down.remove(&node)
    }

    pub(super) fn is_down(&self, node: NodeId) -> bool {
        self.down.contains(&node)
    }
}

impl Shape {
    /// The same for both directions.
    fn draw(key: &Key, (from, to): LinkId, config: &Config) -> Shape {
        let usual = Shape { latency_permille: 1000, bandwidth_bytes_per_s: config.bandwidth_bytes_per_s };
        if from == to {
            return usual;
        }
        let mut draw = key.draw("net.link", &[from.0.min(to.0), from.0.max(to.0)]);
        let spread = draw.lognormal(1000.0, config.link_sigma).clamp(100.0, 10_000.0) as u64;
        let far = draw.chance(config.slow_link_permille.into());
        let factor = draw.log_uniform(2, u64::from(config.slow_link_factor_max.max(2)));
        let factor = if far { factor } else { 1 };
        Shape {
            latency_permille: spread * factor,
            bandwidth_bytes_per_s: usual.bandwidth_bytes_per_s / factor,
        }
    }
}

impl Pace {
    /// The delays of direction `side` (0 is the client's) of the `nth` connection over `link`.
    pub(super) fn draw(key: &Key, link: LinkId, nth: u64, side: u64, config: &Config) -> Pace {
        let mut draw = key.draw("net.latency", &[link.0.0, link.1.0, nth, side]);
        let median_us = config.latency_median_us as f64;
        let base_us = draw.lognormal(median_us, config.latency_sigma).clamp(0.0, median_us * 100.0);
        Pace { base_ns: (base_us * NS_PER_US as f64) as u64, seed: draw.u64(), packets: 0 }
    }

    fn next_ns(&mut self, loopback: bool, config: &Config) -> u64 {
        self.packets += 1;
        if loopback {
            return u64::from(config.loopback_us) * NS_PER_US;
        }
        let jitter = xxh3_64_with_seed(&self.packets.to_le_bytes(), self.seed);
        let spike = xxh3_64_with_seed(&self.packets.to_le_bytes(), !self.seed);
        let mut delay_ns = self.base_ns + part(jitter, u64::from(config.jitter_us) * NS_PER_US);
        if spike % 1000 < u64::from(config.spike_permille) {
            delay_ns += part(jitter.rotate_left(32), u64::from(config.spike_us) * NS_PER_US);
        }
        delay_ns
    }
}

/// `hash` scaled to `0..=most`.
fn part(hash: u64, most: u64) -> u64 {
    ((u128::from(hash) * (u128::from(most) + 1)) >> 64) as u64
}
