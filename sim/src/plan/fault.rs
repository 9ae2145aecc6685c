//! Faults as data: what each is tied to, and what happens there.

use cutwater_io::sim::{Crash, Damage, SiteFault};
use serde::{Deserialize, Serialize};

use crate::faults::FaultClass;

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Unique among the faults of the plan.
    pub id: u32,
    /// When.
    pub at: Anchor,
    /// What.
    pub act: Act,
}

/// What a fault is tied to. Node 0 is any node of a role; then `nth` counts the passings of all of them together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Anchor {
    /// A virtual time.
    Time {
        /// Microseconds since the start.
        at_us: u64,
    },
    /// A passing of a point.
    Point {
        /// The point's name.
        point: String,
        /// Whose passing.
        node: u64,
        /// The how many-th, from 1.
        nth: u32,
    },
    /// A call into a device.
    Site {
        /// Which call, as in `cutwater_io::sim::Site::name`.
        site: String,
        /// What the target is to the system under test; empty for any, and then `nth` counts them all together.
        class: String,
        /// Whose call.
        node: u64,
        /// The how many-th, from 1.
        nth: u32,
    },
    /// The first call at a site after a passing of a point, made by the node that passed.
    After {
        /// The point's name.
        point: String,
        /// Whose passing.
        node: u64,
        /// The how many-th, from 1.
        nth: u32,
        /// Which call, as in `cutwater_io::sim::Site::name`.
        site: String,
        /// What its target is to the system under test; empty for any.
        class: String,
    },
    /// The moment at which an operation is issued.
    Op {
        /// Its id.
        op: u32,
    },
}

/// What happens. At a point or a site, node 0 is the node that passed there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Act {
    /// To the call itself; only with [`Anchor::Site`] and [`Anchor::After`].
    Site(SiteFault),
    /// A node dies.
    Crash {
        /// Which.
        node: u64,
        /// How, and for how long.
        crash: Crash,
    },
    /// The passing task is held up; only with [`Anchor::Point`].
    Delay {
        /// For how long.
        us: u32,
    },
    /// No task of the node runs.
    Pause {
        /// Which.
        node: u64,
        /// For how long.
        for_us: u64,
    },
    /// Nothing gets from one group to the other.
    Partition {
        /// One side.
        from: Vec<u64>,
        /// The other side.
        to: Vec<u64>,
        /// In both directions.
        both: bool,
        /// For how long.
        for_us: u64,
    },
    /// Connections between two nodes stand still, and go on afterwards.
    Stall {
        /// One node.
        a: u64,
        /// The other.
        b: u64,
        /// For how long.
        for_us: u64,
    },
    /// Connections between two nodes break.
    Reset {
        /// One node.
        a: u64,
        /// The other.
        b: u64,
    },
    /// Everything between two nodes takes `factor` times as long.
    SlowLink {
        /// One node.
        a: u64,
        /// The other.
        b: u64,
        /// How many times, from 2.
        factor: u32,
        /// For how long.
        for_us: u64,
    },
    /// In the first half of the time the nodes are cut off from all others, one after the other in this order; in the second
    /// half they come back, in an order of its own (FoundationDB's swizzled clogging).
    Swizzle {
        /// Which, each once.
        nodes: Vec<u64>,
        /// For how long.
        for_us: u64,
    },
    /// Connections between two nodes become half-open: the process of `forgets` finds them reset, that of `believes` hears of
    /// it only when something that it sends arrives.
    HalfOpen {
        /// The node that believes in them.
        believes: u64,
        /// The node that has forgotten them.
        forgets: u64,
    },
    /// Calls and timers of the node take `factor` times as long.
    SlowNode {
        /// Which.
        node: u64,
        /// How many times, from 2.
        factor: u32,
        /// For how long.
        for_us: u64,
    },
    /// The clocks of the node run fast (above zero) or slow.
    ClockDrift {
        /// Whose.
        node: u64,
        /// By how many parts per million.
        ppm: i32,
        /// For how long.
        for_us: u64,
    },
    /// The wall clock of the node jumps.
    ClockJump {
        /// Whose.
        node: u64,
        /// How far, in microseconds; back if below zero.
        us: i64,
    },
    /// The disk takes no more data.
    DiskFull {
        /// Whose.
        node: u64,
        /// For how long.
        for_us: u64,
        /// Writes are taken, and the syncs that would have to allocate fail.
        #[serde(default)]
        late: bool,
    },
    /// The disk answers nothing, and goes on afterwards.
    DiskStall {
        /// Whose.
        node: u64,
        /// For how long.
        for_us: u64,
    },
    /// Each call to the disk takes longer.
    DiskSlow {
        /// Whose.
        node: u64,
        /// How many times as long.
        factor: u32,
        /// For how long.
        for_us: u64,
    },
    /// Something that lies on a disk is damaged, whether anybody reads it or not.
    Rot {
        /// Whose disk.
        node: u64,
        /// What the file is to the system under test; empty for any.
        class: String,
        /// Tells choices of file and sector apart.
        nth: u32,
        /// How: [`Damage::Eio`] or [`Damage::BitRot`].
        damage: Damage,
    },
    /// The object store answers nobody.
    Outage {
        /// For how long.
        for_us: u64,
    },
    /// The object store tells everybody to slow down.
    ThrottleStore {
        /// For how long.
        for_us: u64,
    },
    /// One node does not reach the object store.
    IsolateFromStore {
        /// Which.
        node: u64,
        /// For how long.
        for_us: u64,
    },
    /// The object store refuses the requests of one node.
    ExpireCredentials {
        /// Whose.
        node: u64,
        /// For how long.
        for_us: u64,
    },
}

impl Act {
    /// The crash that it is, if it is one.
    pub fn crash(&self) -> Option<&Crash> {
        match self {
            Act::Site(SiteFault::CrashBefore(crash) | SiteFault::CrashAfter(crash))
            | Act::Crash { crash, .. } => Some(crash),
            _ => None,
        }
    }

    /// The same, to be changed.
    pub(crate) fn crash_mut(&mut self) -> Option<&mut Crash> {
        match self {
            Act::Site(SiteFault::CrashBefore(crash) | SiteFault::CrashAfter(crash))
            | Act::Crash { crash, .. } => Some(crash),
            _ => None,
        }
    }

    /// How long it lasts; 0 for what happens at once.
    pub fn duration_us(&self) -> u64 {
        match self {
            Act::Site(_)
            | Act::Crash { .. }
            | Act::Reset { .. }
            | Act::Rot { .. }
            | Act::HalfOpen { .. }
            | Act::ClockJump { .. } => 0,
            Act::Delay { us } => u64::from(*us),
            Act::Pause { for_us, .. }
            | Act::Partition { for_us, .. }
            | Act::Stall { for_us, .. }
            | Act::SlowLink { for_us, .. }
            | Act::Swizzle { for_us, .. }
            | Act::SlowNode { for_us, .. }
            | Act::ClockDrift { for_us, .. }
            | Act::DiskFull { for_us, .. }
            | Act::DiskStall { for_us, .. }
            | Act::DiskSlow { for_us, .. }
            | Act::Outage { for_us }
            | Act::ThrottleStore { for_us }
            | Act::IsolateFromStore { for_us, .. }
            | Act::ExpireCredentials { for_us, .. } => *for_us,
        }
    }
}

impl Fault {
    /// Its class.
    pub fn class(&self) -> FaultClass {
        let site = match &self.at {
            Anchor::Site { site, .. } | Anchor::After { site, .. } => site.as_str(),
            _ => "",
        };
        FaultClass::of(site, &self.act)
    }
}
