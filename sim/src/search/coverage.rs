//! What a run reached: the matrix of fault classes and points, the edges, the calls into devices.
//!
//! **Matrix.** A fault *meets* a point if it strikes at its passing, or if the point is the last that the struck node has
//! passed: the node is then somewhere between that point and the next. A state that strikes several nodes (a partition)
//! meets one point on each. A process that has not passed a point since it started is at none.
//!
//! **Edges.** A node's *signature* is the last point it passed, the one before, and the class of the fault that struck it
//! last. An edge is a signature and what happened next: a point, a fault, a new start. The points of a dead process stay in
//! the signature as "the one before", so that a recovery is told apart by where the node had died. Each `sometimes!` that held
//! is an edge, too, by the magnitude of how often. Edges are hashed into 64 Ki numbers, the same in every build.
//!
//! **Calls.** How often each node made each call on each class of targets while faults could still strike.
//!
//! Nothing here touches the digest.

use std::collections::{BTreeMap, BTreeSet};

use cutwater_io::sim::NodeId;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::faults::FaultClass;

/// How many edges there can be.
pub const EDGES: usize = 1 << 16;

/// How often a fault of each class met each point.
pub type Matrix = BTreeMap<FaultClass, BTreeMap<String, u64>>;

/// What a run reached, as far as only a search asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Edges, ascending.
    pub edges: Vec<u16>,
    /// Calls into devices, by node.
    pub calls: Vec<Calls>,
    /// Passings of points, by node.
    pub passings: Vec<Passings>,
}

/// How often a node made a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// Which call, see `cutwater_io::sim::Site::name`.
    pub site: String,
    /// What its target is to the system.
    pub class: String,
    /// Whose call.
    pub node: u64,
    /// How often, before the world was healed.
    pub count: u32,
}

/// How often a node passed a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passings {
    /// Which point.
    pub point: String,
    /// Whose passing.
    pub node: u64,
    /// How often, before the world was healed.
    pub count: u32,
}

/// Adds `more` to `sum`.
pub fn add(sum: &mut Matrix, more: &Matrix) {
    for (class, points) in more {
        let row = sum.entry(*class).or_default();
        for (point, n) in points {
            *row.entry(point.clone()).or_default() += n;
        }
    }
}

/// Gathers what a run reaches, as the injector and the supervisor tell it.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    nodes: BTreeMap<NodeId, Signature>,
    matrix: BTreeMap<(FaultClass, &'static str), u64>,
    edges: BTreeSet<u16>,
    calls: BTreeMap<(NodeId, &'static str, &'static str), u32>,
    passings: BTreeMap<(NodeId, &'static str), u32>,
}

/// Where a node is.
#[derive(Clone, Copy, Debug, Default)]
struct Signature {
    last: Option<&'static str>,
    before: Option<&'static str>,
    struck_by: Option<FaultClass>,
}

impl Signature {
    fn edge(&self, what: &str, which: &str) -> u16 {
        let name = |point: Option<&str>| xxh3_64(point.unwrap_or_default().as_bytes());
        let parts = [
            name(self.last),
            name(self.before),
            name(self.struck_by.map(FaultClass::name)),
            xxh3_64(what.as_bytes()),
            xxh3_64(which.as_bytes()),
        ];
        fold(&parts)
    }
}

fn fold(parts: &[u64]) -> u16 {
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_le_bytes()).collect();
    (xxh3_64(&bytes) >> 48) as u16
}

impl Gather {
    /// `node` passes `point`; `open` as long as faults can strike.
    pub(crate) fn passed(&mut self, node: NodeId, point: &'static str, open: bool) {
        let signature = self.nodes.entry(node).or_default();
        self.edges.insert(signature.edge("point", point));
        signature.before = signature.last;
        signature.last = Some(point);
        if open {
            *self.passings.entry((node, point)).or_default() += 1;
        }
    }

    /// `node` makes a call while faults can strike.
    pub(crate) fn called(&mut self, node: NodeId, site: &'static str, class: &'static str) {
        *self.calls.entry((node, site, class)).or_default() += 1;
    }

    /// A fault strikes `node`, which is where it is.
    pub(crate) fn struck(&mut self, node: NodeId, class: FaultClass) {
        let signature = self.nodes.entry(node).or_default();
        self.edges.insert(signature.edge("fault", class.name()));
        signature.struck_by = Some(class);
        if let Some(point) = signature.last {
            *self.matrix.entry((class, point)).or_default() += 1;
        }
    }

    /// A process of `node` starts.
    pub(crate) fn started(&mut self, node: NodeId) {
        let signature = self.nodes.entry(node).or_default();
        self.edges.insert(signature.edge("start", ""));
        signature.before = signature.last.or(signature.before);
        signature.last = None;
    }

    /// Which classes met which points.
    pub(crate) fn matrix(&self) -> Matrix {
        let mut matrix = Matrix::new();
        for ((class, point), n) in &self.matrix {
            matrix.entry(*class).or_default().insert((*point).to_string(), *n);
        }
        matrix
    }

    /// The rest; `sometimes` is how often each of them held.
    pub(crate) fn coverage(&self, sometimes: &BTreeMap<&'static str, u64>) -> Coverage {
        let held = sometimes.iter().map(|(name, n)| {
            fold(&[xxh3_64(b"sometimes"), xxh3_64(name.as_bytes()), u64::from(n.ilog2().min(8))])
        });
        let edges: BTreeSet<u16> = self.edges.iter().copied().chain(held).collect();
        let calls = self.calls.iter().map(|((node, site, class), count)| Calls {
            site: (*site).into(),
            class: (*class).into(),
            node: node.0,
            count: *count,
        });
        let passings = self.passings.iter().map(|((node, point), count)| Passings {
            point: (*point).into(),
            node: node.0,
            count: *count,
        });
        Coverage { edges: edges.into_iter().collect(), calls: calls.collect(), passings: passings.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);

    #[test]
    fn a_fault_meets_the_point_that_its_node_passed_last() {
        let mut gather = Gather::default();
        gather.struck(NODE, FaultClass::DiskError);
        assert!(gather.matrix().is_empty(), "the node is at no point yet");
        gather.passed(NODE, "a", true);
        gather.passed(NODE, "b", true);
        gather.struck(NODE, FaultClass::DiskError);
        gather.struck(NODE, FaultClass::PowerFail);
        gather.started(NODE);
        gather.struck(NODE, FaultClass::PowerFail);
        gather.struck(NodeId(2), FaultClass::PowerFail);
        let matrix = gather.matrix();
        assert_eq!(matrix[&FaultClass::DiskError], [("b".into(), 1)].into());
        assert_eq!(matrix[&FaultClass::PowerFail], [("b".into(), 1)].into(), "after a start it is at none");
    }

    #[test]
    fn what_comes_next_is_another_edge_in_another_state() {
        let run = |steps: &dyn Fn(&mut Gather)| {
            let mut gather = Gather::default();
            steps(&mut gather);
            gather.coverage(&BTreeMap::new()).edges
        };
        let plain = run(&|g| ["a", "b", "a", "b"].iter().for_each(|p| g.passed(NODE, p, true)));
        let longer = run(&|g| ["a", "b", "a", "b", "a", "b"].iter().for_each(|p| g.passed(NODE, p, true)));
        assert_eq!(plain.len(), 4, "none-none, none-a, a-b, b-a");
        assert_eq!(plain, longer, "going round once more is nothing new");
        let struck = run(&|g| {
            ["a", "b"].iter().for_each(|p| g.passed(NODE, p, true));
            g.struck(NODE, FaultClass::Pause);
            ["a", "b"].iter().for_each(|p| g.passed(NODE, p, true));
        });
        assert_eq!(
            struck.iter().filter(|e| !plain.contains(e)).count(),
            3,
            "the pause, and what followed it"
        );
        let died_at = |point: &'static str| {
            run(&|g| {
                g.passed(NODE, point, true);
                g.struck(NODE, FaultClass::PowerFail);
                g.started(NODE);
                g.passed(NODE, "recovery", true);
            })
        };
        assert_ne!(died_at("a").last(), died_at("b").last(), "recovery remembers where the node died");
    }

    #[test]
    fn calls_and_passings_count_only_while_faults_can_strike() {
        let mut gather = Gather::default();
        gather.passed(NODE, "a", true);
        gather.passed(NODE, "a", false);
        gather.called(NODE, "disk.write", "wal");
        gather.called(NODE, "disk.write", "wal");
        let coverage = gather.coverage(&[("seen", 3)].into());
        assert_eq!(coverage.passings, [Passings { point: "a".into(), node: 1, count: 1 }]);
        assert_eq!(coverage.calls[0].count, 2);
        assert_eq!(coverage.edges.len(), 3);
    }
}
