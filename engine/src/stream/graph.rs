//! What a job does: vertices, and the edges over which records go from one to the next.
//!
//! A vertex has a stable uid, by which its state is found again in a checkpoint of an earlier version of the job. Vertices are
//! numbered in an order in which every edge leads forward, which excludes cycles. Several edges may lead from one vertex to
//! another (its two inputs, say): they share the channels, and each record says for which input it is.
//!
//! A graph is usually built by [`super::job`].

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Error;
use super::exchange::Partitioning;
use super::operator::{KeyedOperator, PlainOperator};
use super::record::{MAX_INPUT, Record};
use super::source::Source;
use crate::checkpoint::assign::{self, VertexPlan};

/// Makes the keyed operator of one subtask.
pub type KeyedFactory = Arc<dyn Fn() -> Box<dyn KeyedOperator> + Send + Sync>;
/// Makes the operator without keys of one subtask.
pub type PlainFactory = Arc<dyn Fn() -> Box<dyn PlainOperator> + Send + Sync>;

/// A job.
#[derive(Clone, Debug)]
pub struct JobGraph {
    /// For people.
    pub name: String,
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
    Keyed(KeyedFactory),
    /// Processes records with state of its subtasks, or none.
    Plain(PlainFactory),
    /// Takes records outside, exactly once.
    Sink,
}

/// Records go from one vertex to another.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Index of the sending vertex.
    pub from: u16,
    /// Index of the receiving vertex; greater than `from`.
    pub to: u16,
    /// Which input of the receiving vertex.
    pub input: u8,
    /// To which of its subtasks.
    pub partitioning: Partitioning,
    /// What happens to records on the way.
    pub step: Option<Step>,
}

/// What a [`Step`] does: it hands on what it makes of a record.
type StepFn = dyn Fn(&Record, &mut dyn FnMut(Record)) -> Result<(), Error> + Send + Sync;

/// A function of records without state.
#[derive(Clone)]
pub struct Step(Arc<StepFn>);

impl Step {
    /// It hands on what it makes of a record, any number of records.
    pub fn new(
        step: impl Fn(&Record, &mut dyn FnMut(Record)) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Step {
        Step(Arc::new(step))
    }

    /// Hands on what it makes of `record`.
    ///
    /// # Errors
    /// If the record is not one of those it takes.
    pub fn run(&self, record: &Record, emit: &mut dyn FnMut(Record)) -> Result<(), Error> {
        (self.0)(record, emit)
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Step")
    }
}

impl std::fmt::Debug for VertexKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            VertexKind::Source(_) => "Source",
            VertexKind::Keyed(_) => "Keyed",
            VertexKind::Plain(_) => "Plain",
            VertexKind::Sink => "Sink",
        })
    }
}

impl JobGraph {
    /// A graph of these parts.
    ///
    /// # Panics
    /// If it cannot be: uids twice, a source with input or a sink with output, anything else without, edges that do not lead
    /// forward, records with state by key that are not spread by hash. Jobs are part of the program.
    pub fn new(name: String, max_parallelism: u16, vertices: Vec<Vertex>, edges: Vec<Edge>) -> JobGraph {
        let graph = JobGraph { name, max_parallelism, vertices, edges };
        graph.check();
        graph
    }

    fn check(&self) {
        assert!((1..=1 << 15).contains(&self.max_parallelism), "max parallelism {}", self.max_parallelism);
        let forward = |edge: &Edge| edge.from < edge.to && usize::from(edge.to) < self.vertices.len();
        assert!(self.edges.iter().all(forward), "edges lead forward");
        for (i, vertex) in (0u16..).zip(&self.vertices) {
            let same_uid = self.vertices.iter().filter(|other| other.uid == vertex.uid).count();
            assert!(same_uid == 1, "uid {:?} is taken twice", vertex.uid);
            let is_source = matches!(vertex.kind, VertexKind::Source(_));
            let is_sink = matches!(vertex.kind, VertexKind::Sink);
            assert!(
                self.inputs(i).is_empty() == is_source,
                "{}: sources, and only they, lack input",
                vertex.uid
            );
            assert!(
                self.outputs(i).is_empty() == is_sink,
                "{}: sinks, and only they, lack output",
                vertex.uid
            );
        }
        for edge in &self.edges {
            let to = &self.vertices[usize::from(edge.to)];
            let is_keyed = matches!(to.kind, VertexKind::Keyed(_));
            assert!(
                !is_keyed || edge.partitioning == Partitioning::Hash,
                "{}: records are spread by {:?}, and state by key",
                to.uid,
                edge.partitioning
            );
            assert!(edge.input <= MAX_INPUT, "{}: input {}", to.uid, edge.input);
        }
    }

    /// True if barriers may overtake records. What was overtaken is handed out by key group at a restore, which is right only where
    /// it was exchanged by key group. (Flink, too, never overtakes on pointwise and broadcast edges.)
    pub fn may_overtake(&self) -> bool {
        self.edges.iter().all(|edge| edge.partitioning == Partitioning::Hash)
    }

    /// The vertices that send to a vertex, each once.
    pub fn inputs(&self, vertex: u16) -> BTreeSet<u16> {
        self.edges.iter().filter(|edge| edge.to == vertex).map(|edge| edge.from).collect()
    }

    /// The vertices that a vertex sends to, each once.
    pub fn outputs(&self, vertex: u16) -> BTreeSet<u16> {
        self.edges.iter().filter(|edge| edge.from == vertex).map(|edge| edge.to).collect()
    }

    /// What the coordinator needs to know about the vertices.
    pub fn plan(&self) -> Vec<VertexPlan> {
        let kind = |vertex: &Vertex| match &vertex.kind {
            VertexKind::Source(source) => assign::VertexKind::Source { partitions: source.partitions() },
            VertexKind::Keyed(_) => assign::VertexKind::Keyed,
            VertexKind::Plain(_) => assign::VertexKind::Plain,
            VertexKind::Sink => assign::VertexKind::Sink,
        };
        let plan =
            |v: &Vertex| VertexPlan { uid: v.uid.clone(), kind: kind(v), max: Some(self.max_parallelism) };
        self.vertices.iter().map(plan).collect()
    }
}
