//! What a job does: vertices, and the edges over which records go from one to the next.
//!
//! Every edge is a hash exchange by key group. A vertex has a stable uid, by which its state is found again in a checkpoint
//! of an earlier version of the job. Vertices are numbered in an order in which every edge leads forward, which excludes
//! cycles.

use std::sync::Arc;

use super::operator::KeyedOperator;
use super::source::Source;
use crate::checkpoint::assign::{self, VertexPlan};

/// Makes the operator of one subtask.
pub type OperatorFactory = Arc<dyn Fn() -> Box<dyn KeyedOperator> + Send + Sync>;

/// A job.
#[derive(Clone, Debug)]
pub struct JobGraph {
    /// Number of key groups; part of the identity of all state of the job.
    pub max_parallelism: u16,
    /// See [`Vertex`].
    pub vertices: Vec<Vertex>,
    /// See [`Edge`].
    pub edges: Vec<Edge>,
}

/// A step of the job.
#[derive(Clone, Debug)]
pub struct Vertex {
    /// Stable and unique in the job.
    pub uid: String,
    /// What it does.
    pub kind: VertexKind,
}

/// See [`Vertex::kind`].
#[derive(Clone)]
pub enum VertexKind {
    /// Brings records from outside.
    Source(Arc<dyn Source>),
    /// Processes records with state by key.
    Keyed(OperatorFactory),
    /// Takes records outside, exactly once.
    Sink,
}

/// Records go from one vertex to another, by key group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// Index of the sending vertex.
    pub from: u16,
    /// Index of the receiving vertex; greater than `from`.
    pub to: u16,
}

impl std::fmt::Debug for VertexKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            VertexKind::Source(_) => "Source",
            VertexKind::Keyed(_) => "Keyed",
            VertexKind::Sink => "Sink",
        })
    }
}

impl JobGraph {
    /// A chain: each vertex sends to the next.
    ///
    /// # Panics
    /// If it is not source, keyed vertices, sink with different uids: queries are part of the program.
    pub fn chain(max_parallelism: u16, vertices: Vec<Vertex>) -> JobGraph {
        let last = u16::try_from(vertices.len()).expect("a few vertices").saturating_sub(1);
        let edges = (0..last).map(|from| Edge { from, to: from + 1 }).collect();
        let graph = JobGraph { max_parallelism, vertices, edges };
        graph.check();
        graph
    }

    fn check(&self) {
        assert!((1..=1 << 15).contains(&self.max_parallelism), "max parallelism {}", self.max_parallelism);
        for (i, vertex) in (0u16..).zip(&self.vertices) {
            let same_uid = self.vertices.iter().filter(|other| other.uid == vertex.uid).count();
            assert!(same_uid == 1, "uid {:?} is taken twice", vertex.uid);
            let is_source = matches!(vertex.kind, VertexKind::Source(_));
            let is_sink = matches!(vertex.kind, VertexKind::Sink);
            assert!(
                self.inputs(i).next().is_none() == is_source,
                "{}: sources, and only they, lack input",
                vertex.uid
            );
            assert!(
                self.outputs(i).next().is_none() == is_sink,
                "{}: sinks, and only they, lack output",
                vertex.uid
            );
        }
        let forward = |edge: &Edge| edge.from < edge.to && usize::from(edge.to) < self.vertices.len();
        assert!(self.edges.iter().all(forward), "edges lead forward");
    }

    /// The vertices that send to a vertex.
    pub fn inputs(&self, vertex: u16) -> impl Iterator<Item = u16> {
        self.edges.iter().filter(move |edge| edge.to == vertex).map(|edge| edge.from)
    }

    /// The vertices that a vertex sends to.
    pub fn outputs(&self, vertex: u16) -> impl Iterator<Item = u16> {
        self.edges.iter().filter(move |edge| edge.from == vertex).map(|edge| edge.to)
    }

    /// What the coordinator needs to know about the vertices.
    pub fn plan(&self) -> Vec<VertexPlan> {
        let kind = |vertex: &Vertex| match &vertex.kind {
            VertexKind::Source(source) => assign::VertexKind::Source { partitions: source.partitions() },
            VertexKind::Keyed(_) => assign::VertexKind::Keyed,
            VertexKind::Sink => assign::VertexKind::Sink,
        };
        let plan =
            |v: &Vertex| VertexPlan { uid: v.uid.clone(), kind: kind(v), max: Some(self.max_parallelism) };
        self.vertices.iter().map(plan).collect()
    }
}
