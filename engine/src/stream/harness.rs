//! One keyed operator of a job, without a cluster: for tests of operators.
//!
//! The test brings items, watermarks and restarts, and looks at what comes out. The operator runs as in its task: records and
//! timers one after the other, on a store of its own.
//!
//! Leaves out: steps on edges, channels, barriers, several subtasks.

use std::path::{Path, PathBuf};

use super::Error;
use super::functions::{decode, encode};
use super::graph::{JobGraph, VertexKind};
use super::operator::{Context, KeyedOperator, Moment};
use super::record::Record;
use super::watermark::START_OF_TIME_MS;
use crate::checkpoint::snapshot::KeyGroupRange;
use crate::state::{Data, KeyedState};
use crate::store::Options;

/// See the module.
pub struct Harness {
    uid: String,
    operator: Box<dyn KeyedOperator>,
    state: KeyedState,
    watermark_ms: i64,
    late: u64,
    out: Vec<Record>,
}

impl Harness {
    /// The operator of the vertex `uid`, with a store in `dir`.
    ///
    /// # Errors
    /// If the store cannot be opened.
    ///
    /// # Panics
    /// If the job has no keyed vertex of that name.
    pub async fn open(graph: &JobGraph, uid: &str, dir: &Path) -> Result<Harness, Error> {
        let factory = graph.vertices.iter().find_map(|vertex| match &vertex.kind {
            VertexKind::Keyed(factory) if vertex.uid == uid => Some(factory),
            _ => None,
        });
        let operator = factory.unwrap_or_else(|| panic!("{}: no keyed vertex {uid}", graph.name))();
        let range = KeyGroupRange { first: 0, last: graph.max_parallelism - 1 };
        let dir = PathBuf::from(dir);
        let mut state = KeyedState::open(&dir, Options::default(), range, graph.max_parallelism, &[]).await?;
        state.configure(uid, crate::state::backend::CACHE_BYTES);
        let (watermark_ms, out) = (START_OF_TIME_MS, Vec::new());
        Ok(Harness { uid: uid.into(), operator, state, watermark_ms, late: 0, out })
    }

    /// An item comes on an input.
    ///
    /// # Errors
    /// The operator's.
    pub async fn process<K: Data, T: Data>(
        &mut self,
        input: u8,
        key: &K,
        item: &T,
        time_ms: i64,
    ) -> Result<(), Error> {
        let wrong = |what| Error::Record { operator: self.uid.clone(), what };
        let (key, value) = (encode(key).map_err(wrong)?, encode(item).map_err(wrong)?);
        let record = Record { key, value, time_ms, input };
        self.state.set_key(record.key.clone())?;
        let moment = Moment { time_ms, watermark_ms: self.watermark_ms, input };
        let mut context = Context { state: &mut self.state, moment, late: &mut self.late };
        self.operator.process(record, &mut context, &mut self.out).await
    }

    /// Event time comes to `watermark_ms`: what is due fires.
    ///
    /// # Errors
    /// The operator's.
    pub async fn watermark(&mut self, watermark_ms: i64) -> Result<(), Error> {
        self.watermark_ms = self.watermark_ms.max(watermark_ms);
        while let Some(timer) = self.state.pop_timer(self.watermark_ms).await? {
            let moment = Moment { time_ms: timer.time_ms, watermark_ms: self.watermark_ms, input: 0 };
            let mut context = Context { state: &mut self.state, moment, late: &mut self.late };
            self.operator.on_timer(timer, &mut context, &mut self.out).await?;
        }
        Ok(())
    }

    /// What came out since the last call, with its times.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn take<O: Data>(&mut self) -> Result<Vec<(O, i64)>, Error> {
        let item = |record: Record| Ok((decode(&self.uid, &record.value)?, record.time_ms));
        self.out.drain(..).map(item).collect()
    }

    /// How many records came too late.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// How many timers are set.
    pub fn timers(&self) -> usize {
        self.state.timers()
    }

    /// Closes the store.
    pub async fn close(self) {
        self.state.close().await;
    }
}
