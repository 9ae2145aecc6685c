//! Switches faults that are states on and off, through the controls of the devices. The only file that calls them.

use cutwater_io::sim::{Config, Crash, CrashKind, Env, Injector, Key, NodeId, Survivors, disk, net, objects};

use crate::plan::Act;
use crate::told::words;

/// How the devices of a run behave when nothing is broken.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    /// The disks.
    pub disk: disk::Config,
    /// The network.
    pub net: net::Config,
    /// The object store.
    pub objects: objects::Config,
    /// How far the wall clock of a node may be off from the start, in microseconds. Each has an offset of its own.
    pub clock_offset_us_max: u64,
}

impl Devices {
    pub(crate) fn config(
        self,
        key: Key,
        record: bool,
        classify: fn(&std::path::Path) -> &'static str,
        injector: Box<dyn Injector>,
    ) -> Config {
        Config { key, record, disk: self.disk, net: self.net, objects: self.objects, classify, injector }
    }
}

/// Tells the network where a node is.
pub(crate) fn register(env: &Env, node: NodeId, ip: std::net::IpAddr) {
    env.net().register(node, ip);
}

/// Sets the wall clock of a node: a quarter of them right, a quarter off by `max_us`, the others by something between.
pub(crate) fn set_clock(env: &Env, node: NodeId, max_us: u64) {
    if max_us == 0 {
        return;
    }
    let mut draw = env.key().draw("clock.offset", &[node.0]);
    let size = match draw.below(4) {
        0 => return,
        1 => max_us,
        _ => draw.log_uniform(1, max_us),
    };
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    let us = if draw.chance(500) { -size } else { size };
    env.clocks().set_off(node, us);
    env.emit(node, "clock.offset", &us.to_le_bytes(), || {
        let how = if us < 0 { "behind" } else { "ahead" };
        format!("its wall clock is {} {how}", words::ms(us.unsigned_abs()))
    });
}

/// Tells the network that a node's machine runs again.
pub(crate) fn started(env: &Env, node: NodeId) {
    env.net().machine_started(node);
}

/// True if `act` still makes sense with its nodes filled in: one that passed may be the other one, too.
pub(crate) fn applies(act: &Act) -> bool {
    match act {
        Act::Partition { from, to, .. } => !from.iter().any(|node| to.contains(node)),
        Act::Stall { a, b, .. }
        | Act::Reset { a, b }
        | Act::SlowLink { a, b, .. }
        | Act::HalfOpen { believes: a, forgets: b } => a != b,
        _ => true,
    }
}

/// Switches `act` on until `until_us`; on what is on already it only moves the end.
pub(crate) fn switch_on(env: &Env, act: &Act, until_us: u64) {
    match act {
        Act::Partition { from, to, both, .. } => {
            let (from, to) = (ids(from), ids(to));
            env.net().partition(&from, &to);
            if *both {
                env.net().partition(&to, &from);
            }
        }
        Act::Stall { a, b, .. } => {
            env.net().stall(NodeId(*a), NodeId(*b), until_us);
            env.net().stall(NodeId(*b), NodeId(*a), until_us);
        }
        Act::Reset { a, b } => env.net().reset(NodeId(*a), NodeId(*b)),
        Act::SlowLink { a, b, factor, .. } => env.net().slow(NodeId(*a), NodeId(*b), *factor),
        Act::HalfOpen { believes, forgets } => env.net().half_open(NodeId(*believes), NodeId(*forgets)),
        Act::SlowNode { node, factor, .. } => slow_node(env, *node, *factor),
        Act::ClockDrift { node, ppm, .. } => env.clocks().drift(NodeId(*node), *ppm),
        Act::ClockJump { node, us } => env.clocks().jump(NodeId(*node), *us),
        Act::DiskFull { node, late, .. } => env.disks().fill(NodeId(*node), *late),
        Act::DiskStall { node, .. } => env.disks().stall(NodeId(*node), until_us),
        Act::DiskSlow { node, factor, .. } => env.disks().slow(NodeId(*node), *factor, until_us),
        Act::Rot { node, class, nth, damage } => {
            env.disks().damage_at_rest(env, NodeId(*node), class, *nth, *damage);
        }
        Act::Outage { .. } => env.objects().outage(until_us),
        Act::ThrottleStore { .. } => env.objects().throttle(until_us),
        Act::IsolateFromStore { node, .. } => env.objects().isolate(NodeId(*node)),
        Act::ExpireCredentials { node, .. } => env.objects().deny(NodeId(*node)),
        // These are answers to a call, or the supervisor's.
        Act::Site(_) | Act::Crash { .. } | Act::Delay { .. } | Act::Pause { .. } | Act::Swizzle { .. } => {}
    }
}

/// Switches `act` off again. What was given an end ends by itself.
pub(crate) fn switch_off(env: &Env, act: &Act, disk_bytes: Option<u64>) {
    match act {
        Act::Partition { from, to, both, .. } => {
            let (from, to) = (ids(from), ids(to));
            env.net().mend(&from, &to);
            if *both {
                env.net().mend(&to, &from);
            }
        }
        Act::DiskFull { node, .. } => env.disks().set_capacity(NodeId(*node), disk_bytes),
        Act::SlowLink { a, b, .. } => env.net().slow(NodeId(*a), NodeId(*b), 1),
        Act::SlowNode { node, .. } => slow_node(env, *node, 1),
        Act::ClockDrift { node, .. } => env.clocks().drift(NodeId(*node), 0),
        Act::IsolateFromStore { node, .. } => env.objects().rejoin(NodeId(*node)),
        Act::ExpireCredentials { node, .. } => env.objects().allow(NodeId(*node)),
        _ => {}
    }
}

/// Ends every fault that is a state of a device.
pub(crate) fn heal(env: &Env, nodes: &[NodeId], disk_bytes: Option<u64>) {
    env.net().heal();
    env.objects().heal();
    env.clocks().heal();
    env.disks().heal();
    env.arm([]);
    for node in nodes {
        env.disks().set_capacity(*node, disk_bytes);
        env.disks().stall(*node, 0);
        env.disks().slow(*node, 1, 0);
        if !env.disks().works(*node) {
            // A file system that has given up comes back only with its machine.
            env.crash(*node, Crash { kind: CrashKind::PowerFail(Survivors::None), down_us: 0 });
        }
    }
}

/// Cuts `node` off from all others, or ends that.
pub(crate) fn clog(env: &Env, node: NodeId, on: bool) {
    if on { env.net().clog_node(node) } else { env.net().unclog_node(node) }
}

/// A count of a device that grows when `act` bites, if there is one.
pub(crate) fn bites(env: &Env, act: &Act) -> Option<u64> {
    match act {
        Act::Partition { .. } | Act::Stall { .. } => Some(env.net().counters().packets_held),
        Act::Swizzle { .. } => Some(env.net().counters().packets_held),
        Act::SlowLink { .. } => Some(env.net().counters().packets_slowed),
        Act::HalfOpen { .. } => Some(env.net().counters().half_opened),
        Act::ExpireCredentials { .. } => Some(env.objects().counters().denied),
        Act::Reset { .. } => Some(env.net().counters().resets),
        Act::Outage { .. } | Act::ThrottleStore { .. } => Some(env.objects().counters().refused),
        Act::IsolateFromStore { .. } => Some(env.objects().counters().unreachable),
        Act::DiskFull { node, .. } => Some(env.disks().met(NodeId(*node)).full),
        Act::DiskStall { node, .. } => Some(env.disks().met(NodeId(*node)).stalled),
        Act::DiskSlow { node, .. } => Some(env.disks().met(NodeId(*node)).slowed),
        Act::SlowNode { node, .. } => Some(env.clocks().slowed(NodeId(*node))),
        Act::ClockDrift { node, .. } => Some(env.clocks().drifted(NodeId(*node))),
        _ => None,
    }
}

fn slow_node(env: &Env, node: u64, factor: u32) {
    env.clocks().slow_down(NodeId(node), factor);
    env.net().slow_node(NodeId(node), factor);
}

fn ids(nodes: &[u64]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}
