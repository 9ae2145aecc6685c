//! What a job is written in: streams of items, from sources through functions to sinks.
//!
//! ```ignore
//! let job = Job::new("word_count");
//! job.source("lines", lines)
//!     .flat_map(|line: String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
//!     .key_by(|word| word.clone())
//!     .window(Windows::tumbling(60_000))
//!     .aggregate("count", Count)
//!     .sink("counts", |count| Record::new(count.key, count.value.to_string()));
//! let graph = job.build();
//! ```
//! A uid names each vertex: it must be unique in the job and stay over its versions, because state is found again by it.
//! Mapping, filtering and keying have no uid: they keep nothing, and run in the task of the vertex before them. Items are
//! anything that serde can write; they travel and are kept in postcard.
//!
//! Whatever cannot be is a panic when the job is built: jobs are part of the program.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::Error;
use super::exchange::Partitioning;
use super::functions::{
    BroadcastFunction, CoProcess, CoProcessFunction, Plain, Process, ProcessFunction, StreamFunction,
    WithBroadcast, decode, encode,
};
use super::graph::{Edge, JobGraph, Step, Vertex, VertexKind};
use super::join::WindowJoin;
use super::operator::{KeyedOperator, PlainOperator};
use super::record::Record;
use super::source::Source;
use super::window::{Aggregate, AggregateFunction, Window, Windowed, Windows};
use crate::state::Data;

/// Number of key groups unless something else is said.
const MAX_PARALLELISM: u16 = 128;

/// A job under construction. Clones are the same job.
#[derive(Clone, Debug)]
pub struct Job(Rc<RefCell<Building>>);

#[derive(Debug)]
struct Building {
    name: String,
    max_parallelism: u16,
    vertices: Vec<Vertex>,
    edges: Vec<Edge>,
}

/// What items a record of a vertex becomes, each with its time.
type Pipe<T> = Arc<dyn Fn(&Record, &mut dyn FnMut(T, i64)) -> Result<(), Error> + Send + Sync>;

/// Of one vertex, on the way to the next.
struct Branch<T> {
    from: u16,
    pipe: Pipe<T>,
}

impl<T> Clone for Branch<T> {
    fn clone(&self) -> Self {
        Branch { from: self.from, pipe: self.pipe.clone() }
    }
}

/// Items. A clone is the same items once more.
#[derive(Clone)]
#[must_use = "a stream that goes nowhere is no part of the job"]
pub struct Stream<T> {
    job: Job,
    branches: Vec<Branch<T>>,
    partitioning: Partitioning,
}

/// Items with keys: all of a key meet in one place.
#[must_use = "a stream that goes nowhere is no part of the job"]
pub struct KeyedStream<K, T> {
    job: Job,
    branches: Vec<Branch<(K, T)>>,
}

/// Items with keys, to be put into windows.
#[must_use = "a stream that goes nowhere is no part of the job"]
pub struct WindowedStream<K, T> {
    stream: KeyedStream<K, T>,
    windows: Windows,
}

/// Two keyed streams that meet by key.
#[must_use = "streams that go nowhere are no part of the job"]
pub struct Joined<K, L, R> {
    left: KeyedStream<K, L>,
    right: KeyedStream<K, R>,
}

/// Two keyed streams that meet by key and window.
#[must_use = "streams that go nowhere are no part of the job"]
pub struct WindowJoined<K, L, R> {
    joined: Joined<K, L, R>,
    windows: Windows,
}

impl Job {
    /// Without anything in it.
    pub fn new(name: &str) -> Job {
        let (vertices, edges) = (Vec::new(), Vec::new());
        let building = Building { name: name.into(), max_parallelism: MAX_PARALLELISM, vertices, edges };
        Job(Rc::new(RefCell::new(building)))
    }

    /// With another number of key groups than 128: the most that the job can ever be scaled to. It cannot be changed once there
    /// is a checkpoint.
    pub fn max_parallelism(self, max_parallelism: u16) -> Job {
        self.0.borrow_mut().max_parallelism = max_parallelism;
        self
    }

    /// The items of a source: the values of its records in postcard, see [`super::source::Generated`].
    pub fn source<T: Data>(&self, uid: &str, source: impl Source + 'static) -> Stream<T> {
        let from = self.vertex(uid, VertexKind::Source(Arc::new(source)));
        self.items_of(uid, from)
    }

    /// The graph of the job.
    ///
    /// # Panics
    /// If it cannot be run; see [`JobGraph::new`].
    pub fn build(self) -> JobGraph {
        let building = self.0.borrow();
        let Building { name, max_parallelism, vertices, edges } = &*building;
        JobGraph::new(name.clone(), *max_parallelism, vertices.clone(), edges.clone())
    }

    fn vertex(&self, uid: &str, kind: VertexKind) -> u16 {
        let vertices = &mut self.0.borrow_mut().vertices;
        vertices.push(Vertex { uid: uid.into(), kind });
        u16::try_from(vertices.len() - 1).expect("a few vertices")
    }

    fn edge(&self, edge: Edge) {
        self.0.borrow_mut().edges.push(edge);
    }

    fn items_of<T: Data>(&self, uid: &str, from: u16) -> Stream<T> {
        let uid = uid.to_owned();
        let pipe: Pipe<T> = Arc::new(move |record, emit| {
            emit(decode(&uid, &record.value)?, record.time_ms);
            Ok(())
        });
        let (job, partitioning) = (self.clone(), Partitioning::Forward);
        Stream { job, branches: vec![Branch { from, pipe }], partitioning }
    }

    fn keyed<O: Data>(
        &self,
        uid: &str,
        make: impl Fn() -> Box<dyn KeyedOperator> + Send + Sync + 'static,
        connect: impl FnOnce(u16),
    ) -> Stream<O> {
        let vertex = self.vertex(uid, VertexKind::Keyed(Arc::new(make)));
        connect(vertex);
        self.items_of(uid, vertex)
    }

    fn plain<O: Data>(
        &self,
        uid: &str,
        make: impl Fn() -> Box<dyn PlainOperator> + Send + Sync + 'static,
        connect: impl FnOnce(u16),
    ) -> Stream<O> {
        let vertex = self.vertex(uid, VertexKind::Plain(Arc::new(make)));
        connect(vertex);
        self.items_of(uid, vertex)
    }
}

impl<T: 'static> Branch<T> {
    fn then<U: 'static>(
        self,
        f: impl Fn(T, i64, &mut dyn FnMut(U, i64)) + Send + Sync + 'static,
    ) -> Branch<U> {
        let Branch { from, pipe } = self;
        Branch {
            from,
            pipe: Arc::new(move |record, emit| pipe(record, &mut |item, time_ms| f(item, time_ms, emit))),
        }
    }

    /// An edge over which a record of each item goes.
    fn edge(
        self,
        to: u16,
        input: u8,
        partitioning: Partitioning,
        record: impl Fn(T) -> Result<Record, String> + Send + Sync + 'static,
    ) -> Edge {
        let Branch { from, pipe } = self;
        let step = Step::new(move |before, emit| {
            let mut failed = None;
            pipe(before, &mut |item, time_ms| match record(item) {
                Ok(record) => emit(record.at(time_ms)),
                Err(what) => failed = Some(what),
            })?;
            failed.map_or(Ok(()), |what| Err(Error::Record { operator: format!("vertex {to}"), what }))
        });
        Edge { from, to, input, partitioning, step: Some(step) }
    }
}

impl<T: Data> Stream<T> {
    fn then<U: 'static>(
        self,
        f: impl Fn(T, i64, &mut dyn FnMut(U, i64)) + Clone + Send + Sync + 'static,
    ) -> Stream<U> {
        let branches = self.branches.into_iter().map(|branch| branch.then(f.clone())).collect();
        Stream { job: self.job, branches, partitioning: self.partitioning }
    }

    /// Each item becomes another.
    pub fn map<U: Data>(self, f: impl Fn(T) -> U + Clone + Send + Sync + 'static) -> Stream<U> {
        self.then(move |item, time_ms, emit| emit(f(item), time_ms))
    }

    /// Some items stay.
    pub fn filter(self, f: impl Fn(&T) -> bool + Clone + Send + Sync + 'static) -> Stream<T> {
        self.then(move |item, time_ms, emit| {
            if f(&item) {
                emit(item, time_ms);
            }
        })
    }

    /// Each item becomes any number of others.
    pub fn flat_map<U: Data, I: IntoIterator<Item = U>>(
        self,
        f: impl Fn(T) -> I + Clone + Send + Sync + 'static,
    ) -> Stream<U> {
        self.then(move |item, time_ms, emit| f(item).into_iter().for_each(|item| emit(item, time_ms)))
    }

    /// Each item has the time that it says, in milliseconds. It must not be before what the source has promised.
    pub fn timed_by(self, f: impl Fn(&T) -> i64 + Clone + Send + Sync + 'static) -> Stream<T> {
        self.then(move |item, _, emit| {
            let time_ms = f(&item);
            emit(item, time_ms);
        })
    }

    /// The items of both.
    pub fn union(mut self, other: Stream<T>) -> Stream<T> {
        self.branches.extend(other.branches);
        self
    }

    /// The same, spread evenly over the subtasks of the next vertex.
    pub fn rebalance(self) -> Stream<T> {
        Stream { partitioning: Partitioning::Rebalance, ..self }
    }

    /// All items of a key will meet.
    pub fn key_by<K: Data>(self, key: impl Fn(&T) -> K + Clone + Send + Sync + 'static) -> KeyedStream<K, T> {
        let keyed = self.then(move |item, time_ms, emit| {
            let key = key(&item);
            emit((key, item), time_ms);
        });
        KeyedStream { job: keyed.job, branches: keyed.branches }
    }

    /// A function with state of its subtasks.
    pub fn process<F: StreamFunction<T> + 'static>(
        self,
        uid: &str,
        make: impl Fn() -> F + Send + Sync + 'static,
    ) -> Stream<F::Out> {
        let (job, name) = (self.job.clone(), uid.to_owned());
        let make = move || Box::new(Plain { uid: name.clone(), function: make(), of: PhantomData }) as _;
        job.plain(uid, make, |to| self.connect(to, 0))
    }

    /// A function that knows what is broadcast to all its subtasks.
    pub fn process_with<B: Data, F: BroadcastFunction<T, B> + 'static>(
        self,
        uid: &str,
        broadcast: Stream<B>,
        make: impl Fn() -> F + Send + Sync + 'static,
    ) -> Stream<F::Out> {
        let (job, name) = (self.job.clone(), uid.to_owned());
        let make =
            move || Box::new(WithBroadcast { uid: name.clone(), function: make(), of: PhantomData }) as _;
        job.plain(uid, make, |to| {
            self.connect(to, 0);
            Stream { partitioning: Partitioning::Broadcast, ..broadcast }.connect(to, 1);
        })
    }

    /// Writes a record of each item, exactly once. Records of the same key (the record's own) go to the same subtask and keep
    /// their order.
    pub fn sink(self, uid: &str, record: impl Fn(T) -> Record + Clone + Send + Sync + 'static) {
        let to = self.job.vertex(uid, VertexKind::Sink);
        for branch in self.branches {
            let record = record.clone();
            self.job.edge(branch.edge(to, 0, Partitioning::Hash, move |item| Ok(record(item))));
        }
    }

    fn connect(self, to: u16, input: u8) {
        for branch in self.branches {
            let record = |item: T| Ok(Record::new(Bytes::new(), encode(&item)?));
            self.job.edge(branch.edge(to, input, self.partitioning, record));
        }
    }
}

impl<K: Data, T: Data> KeyedStream<K, T> {
    /// Each item becomes another, of the same key.
    pub fn map<U: Data>(self, f: impl Fn((&K, T)) -> U + Clone + Send + Sync + 'static) -> KeyedStream<K, U> {
        let then = |branch: Branch<(K, T)>| {
            let f = f.clone();
            branch.then(move |(key, item), time_ms, emit: &mut dyn FnMut((K, U), i64)| {
                let item = f((&key, item));
                emit((key, item), time_ms);
            })
        };
        KeyedStream { job: self.job, branches: self.branches.into_iter().map(then).collect() }
    }

    /// A function with state and timers of the keys.
    pub fn process<F: ProcessFunction<K, T> + 'static>(
        self,
        uid: &str,
        make: impl Fn() -> F + Send + Sync + 'static,
    ) -> Stream<F::Out> {
        let (job, name) = (self.job.clone(), uid.to_owned());
        let make = move || Box::new(Process { uid: name.clone(), function: make(), of: PhantomData }) as _;
        job.keyed(uid, make, |to| self.connect(to, 0))
    }

    /// To be aggregated in windows of event time.
    pub fn window(self, windows: Windows) -> WindowedStream<K, T> {
        WindowedStream { stream: self, windows }
    }

    /// To meet another stream, by key.
    pub fn join<R: Data>(self, right: KeyedStream<K, R>) -> Joined<K, T, R> {
        Joined { left: self, right }
    }

    fn connect(self, to: u16, input: u8) {
        for branch in self.branches {
            let record = |(key, item): (K, T)| Ok(Record::new(encode(&key)?, encode(&item)?));
            self.job.edge(branch.edge(to, input, Partitioning::Hash, record));
        }
    }
}

impl<K: Data, T: Data + Clone> WindowedStream<K, T> {
    /// What the items of each key and window come to, when the window is over.
    ///
    /// # Panics
    /// If the windows have no length.
    pub fn aggregate<A: AggregateFunction<T>>(self, uid: &str, aggregate: A) -> Stream<Windowed<K, A::Out>> {
        self.windows.check(uid);
        let (job, name, windows) = (self.stream.job.clone(), uid.to_owned(), self.windows);
        let aggregate = Arc::new(aggregate);
        let make = move || {
            let operator: Aggregate<A, K, T> =
                Aggregate { uid: name.clone(), windows, aggregate: aggregate.clone(), of: PhantomData };
            Box::new(operator) as _
        };
        job.keyed(uid, make, |to| self.stream.connect(to, 0))
    }
}

impl<K: Data, L: Data, R: Data> Joined<K, L, R> {
    /// A function of both, with state and timers of the keys.
    pub fn process<F: CoProcessFunction<K, L, R> + 'static>(
        self,
        uid: &str,
        make: impl Fn() -> F + Send + Sync + 'static,
    ) -> Stream<F::Out> {
        let (job, name) = (self.left.job.clone(), uid.to_owned());
        let make = move || Box::new(CoProcess { uid: name.clone(), function: make(), of: PhantomData }) as _;
        job.keyed(uid, make, |to| self.connect(to))
    }

    /// Only what is in the same window meets.
    pub fn window(self, windows: Windows) -> WindowJoined<K, L, R> {
        WindowJoined { joined: self, windows }
    }

    fn connect(self, to: u16) {
        self.left.connect(to, 0);
        self.right.connect(to, 1);
    }
}

impl<K: Data, L: Data, R: Data> WindowJoined<K, L, R> {
    /// What the items of both sides of each key and window come to, when the window is over. One side may be empty.
    ///
    /// # Panics
    /// If the windows have no length or are sessions, which would have to be merged on both sides.
    pub fn apply<O: Data>(
        self,
        uid: &str,
        join: impl Fn(&K, Window, Vec<L>, Vec<R>) -> Vec<O> + Send + Sync + 'static,
    ) -> Stream<O> {
        self.windows.check(uid);
        assert!(!matches!(self.windows, Windows::Session { .. }), "{uid}: sessions are not joined");
        let (job, name, windows) = (self.joined.left.job.clone(), uid.to_owned(), self.windows);
        let join: Arc<super::join::JoinFn<K, L, R, O>> = Arc::new(join);
        let make = move || Box::new(WindowJoin { uid: name.clone(), windows, join: join.clone() }) as _;
        job.keyed(uid, make, |to| self.joined.connect(to))
    }
}
