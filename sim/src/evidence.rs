//! What a recorded run leaves beside its trace: which faults struck, where, and what each power failure took.
//!
//! None of it is part of the digest. It is what a failure is explained with, and what tells the shrinker that a fault never
//! struck, what a fault that is anchored to a time hit in truth, and which operations a power failure lost.

use cutwater_io::sim::NodeId;
use cutwater_io::sim::disk::{Listing, PowerFailure, Seen};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::plan::{Act, Anchor, Fault};

/// What a recorded run leaves beside its trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The faults that struck, in order.
    pub struck: Vec<Struck>,
    /// What nodes did around the faults that are anchored to times.
    pub near: Vec<Near>,
    /// The power failures, in order.
    pub power_failures: Vec<Loss>,
}

/// A fault that struck.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Struck {
    /// Its id.
    pub fault: u32,
    /// The node; 0 if it is none's alone.
    pub node: u64,
    /// Virtual time in microseconds.
    pub at_us: u64,
    /// The call or the point, of this node, if there was one.
    pub place: Option<Anchor>,
    /// The path, key or address of the call; empty if there was none.
    pub target: String,
}

impl Struck {
    pub(crate) fn new(fault: u32, node: NodeId, at_us: u64) -> Struck {
        Struck { fault, node: node.0, at_us, place: None, target: String::new() }
    }
    pub(crate) fn at(mut self, place: Anchor) -> Struck {
        self.place = Some(place);
        self
    }
    pub(crate) fn on(mut self, target: &str) -> Struck {
        self.target = target.into();
        self
    }
}

/// What the node of a fault that is anchored to a time did around it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Near {
    /// The fault.
    pub fault: u32,
    node: u64,
    at_us: u64,
    before: Option<Anchor>,
    point_before: Option<Anchor>,
    after: Option<Anchor>,
    point_after: Option<Anchor>,
}

impl Near {
    /// `None` for a fault that is not anchored to a time, or has no node of its own.
    pub(crate) fn of(fault: &Fault) -> Option<Near> {
        let Anchor::Time { at_us } = fault.at else { return None };
        let node = match &fault.act {
            Act::Crash { node, .. }
            | Act::Pause { node, .. }
            | Act::DiskFull { node, .. }
            | Act::DiskStall { node, .. }
            | Act::IsolateFromStore { node, .. } => *node,
            _ => return None,
        };
        let (before, point_before, after, point_after) = Default::default();
        Some(Near { fault: fault.id, node, at_us, before, point_before, after, point_after })
    }

    pub(crate) fn note(&mut self, node: u64, at_us: u64, what: &impl Fn() -> Anchor) {
        if node != self.node || (self.after.is_some() && self.point_after.is_some()) {
            return;
        }
        let what = what();
        let is_point = matches!(what, Anchor::Point { .. });
        let (any, point) = if at_us < self.at_us {
            (&mut self.before, &mut self.point_before)
        } else {
            (&mut self.after, &mut self.point_after)
        };
        // Of what comes after, the first; of what comes before, the last.
        let first = at_us >= self.at_us;
        let slot = if is_point { point } else { any };
        if !first || slot.is_none() {
            *slot = Some(what);
        }
    }

    /// Places to which the fault could be anchored instead, the likeliest first.
    pub fn places(&self) -> Vec<Anchor> {
        let all = [&self.after, &self.point_before, &self.point_after, &self.before];
        all.into_iter().flatten().cloned().collect()
    }
}

/// What a power failure took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Whose.
    pub node: u64,
    /// When, in microseconds of virtual time.
    pub at_us: u64,
    /// Operations that were not forced to the medium and are gone.
    pub lost: Vec<String>,
    /// Operations that reached it after all.
    pub kept: Vec<String>,
    /// The lost ones as the numbers of `Survivors::Losing`.
    pub losing: Vec<u16>,
    /// What processes saw before: a line for each path.
    pub before: Vec<String>,
    /// What was left.
    pub after: Vec<String>,
}

impl From<PowerFailure> for Loss {
    fn from(failure: PowerFailure) -> Loss {
        let [lost, kept] = failure.record.in_words();
        Loss {
            node: failure.node.0,
            at_us: failure.record.at_us,
            lost,
            kept,
            losing: failure.record.losing,
            before: lines(&failure.before),
            after: lines(&failure.after),
        }
    }
}

/// A listing for people: path, length, and a hash of the content.
fn lines(listing: &Listing) -> Vec<String> {
    let line = |(path, seen): (&String, &Seen)| match seen {
        Seen::Dir => format!("{path}/"),
        Seen::File { len_bytes, .. } => {
            format!("{path}  {len_bytes} bytes  {:016x}", xxh3_64(&seen.bytes()))
        }
    };
    listing.iter().map(line).collect()
}
