//! Links: what lies between two machines, one direction at a time.
//!
//! A link delays (a base per connection, jitter and rare spikes per packet), has a bandwidth that its connections share,
//! and may let nothing through: cut, clogged or stalled. Whether something gets through is asked when it would arrive.

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
}

/// All links.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<LinkId, Link>,
    cuts: BTreeSet<LinkId>,
    clogs: BTreeSet<LinkId>,
    down: BTreeSet<NodeId>,
}

impl Links {
    /// The number of a new connection from, to; from 1.
    pub(super) fn next_connection(&mut self, link: LinkId) -> u64 {
        let connections = &mut self.links.entry(link).or_default().connections;
        *connections += 1;
        *connections
    }

    /// When a packet of `len_bytes` that is sent now would arrive.
    pub(super) fn arrival_ns(
        &mut self,
        link: LinkId,
        pace: &mut Pace,
        len_bytes: usize,
        now_ns: u64,
        config: &Config,
    ) -> u64 {
        let latency_ns = pace.next_ns(link.0 == link.1, config);
        let link = self.links.entry(link).or_default();
        let transfer_ns =
            u128::from(NS_PER_S) * len_bytes as u128 / u128::from(config.bandwidth_bytes_per_s.max(1));
        let transfer_ns = u64::try_from(transfer_ns).unwrap_or(u64::MAX);
        link.busy_until_ns = link.busy_until_ns.max(now_ns).saturating_add(transfer_ns);
        link.busy_until_ns.saturating_add(latency_ns)
    }

    pub(super) fn gate(&self, link: LinkId, now_ns: u64) -> Gate {
        if self.down.contains(&link.1) {
            return Gate::Closed;
        }
        if link.0 == link.1 {
            return Gate::Open;
        }
        if self.cuts.contains(&link) || self.clogs.contains(&link) {
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

    pub(super) fn stall(&mut self, link: LinkId, until_ns: u64) {
        self.links.entry(link).or_default().stalled_until_ns = until_ns;
    }

    /// Ends every cut, clog and stall.
    pub(super) fn heal(&mut self) {
        self.cuts.clear();
        self.clogs.clear();
        self.links.values_mut().for_each(|link| link.stalled_until_ns = 0);
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
