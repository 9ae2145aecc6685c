//! Oracle `cut`: what a checkpoint holds, opened from its objects alone at any parallelism.
//!
//! The job counts, so that a state says how many records of each key it has seen. Between two vertices there is what was in
//! flight. With both, each edge is a balance that must come out exactly, per key:
//!
//! ```text
//! counted by the first vertex  + in flight to it = input before the source positions
//! counted by the second vertex + in flight to it = what the first must have emitted, having counted as it has
//! ```
//! A record that is in neither, or in both, or on the wrong side of a barrier, breaks one of them.
//!
//! *Not judged here*: what is in flight to the sink, which the committed output shows in the end. Queries that do more than count:
//! their state also depends on how far the watermark was, which positions do not say. They must restore.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cutwater_engine::checkpoint::assign::{key_group_range, restore_all};
use cutwater_engine::checkpoint::snapshot::{CheckpointMetadata, InFlight, KeyedSnapshot, SubtaskState};
use cutwater_engine::cluster::rpc::{JobSpec, TaskId};
use cutwater_engine::state::blob::{self, Blobs, Retry};
use cutwater_engine::state::{self, StateId, key_groups};
use cutwater_engine::store::{self, Options};
use cutwater_engine::stream::graph::{JobGraph, VertexKind};
use cutwater_engine::stream::queries::{self, bid_counts, bid_histogram};
use cutwater_engine::stream::record::Element;
use cutwater_engine::stream::{self, in_flight};
use cutwater_io::objects;
use cutwater_sim::scenario::Violation;

/// Counts by the key under which a store keeps them.
type Counts = BTreeMap<Vec<u8>, u64>;

/// What a checkpoint holds for one vertex.
#[derive(Debug, Default)]
pub struct Held {
    counted: Counts,
    in_flight: Counts,
}

/// Why a checkpoint did not restore.
#[derive(Debug, thiserror::Error)]
pub enum ColdError {
    /// The state of a subtask.
    #[error(transparent)]
    State(#[from] state::Error),
    /// What was in flight.
    #[error(transparent)]
    Stream(#[from] stream::Error),
    /// A restored store.
    #[error(transparent)]
    Store(store::Error),
    /// The content.
    #[error("{0}")]
    Wrong(String),
}

impl ColdError {
    /// True if the object store failed, rather than an object.
    pub fn is_transient(&self) -> bool {
        let (ColdError::State(state::Error::Blob(source))
        | ColdError::Stream(stream::Error::InFlight { source, .. })) = self
        else {
            return false;
        };
        matches!(source, blob::Error::Request { .. } | blob::Error::NoAnswer { .. })
    }
}

/// True if all that the job keeps is counts.
fn counts(job: &JobSpec) -> bool {
    [bid_counts::NAME, bid_histogram::NAME].contains(&job.query.as_str())
}

/// The key of a number, as it travels.
fn encoded(key: u64) -> Vec<u8> {
    postcard::to_allocvec(&key).expect("a number")
}

/// Where the count of a key is in a store.
fn store_key(key: &[u8], max_parallelism: u16) -> Vec<u8> {
    key_groups::store_key(key_groups::key_group(key, max_parallelism), StateId::of("count").0, key)
}

fn graph(job: &JobSpec) -> JobGraph {
    queries::build(job).expect("the knobs are within the query's ranges")
}

/// Restores the keyed vertices of a checkpoint as tasks would, from a bucket at `url`. By the index of the vertex.
///
/// # Errors
/// If it does not restore.
pub async fn restore(
    job: &JobSpec,
    metadata: &CheckpointMetadata,
    parallelism: u16,
    url: &str,
    options: &Options,
) -> Result<BTreeMap<u16, Held>, ColdError> {
    let objects = objects::open(url).map_err(|error| ColdError::Wrong(error.to_string()))?;
    let blobs = Blobs::new(objects, Retry::default());
    let (graph, max) = (graph(job), metadata.max_parallelism);
    let plan = graph.plan();
    let handed = restore_all(&plan, Some(metadata), parallelism, max);
    let mut vertices = BTreeMap::new();
    for ((vertex, subtasks), plan) in (0u16..).zip(handed).zip(&plan) {
        if !matches!(graph.vertices[usize::from(vertex)].kind, VertexKind::Keyed(_)) {
            continue;
        }
        let held: &mut Held = vertices.entry(vertex).or_default();
        for (subtask, states) in (0u16..).zip(subtasks) {
            let task = TaskId { vertex, subtask };
            let range = key_group_range(subtask, plan.parallelism(parallelism), max);
            let (mut snapshots, mut parts): (Vec<KeyedSnapshot>, Vec<InFlight>) = (Vec::new(), Vec::new());
            for state in states {
                match state {
                    SubtaskState::Keyed(keyed) => snapshots.push(keyed),
                    SubtaskState::InFlight(part) => parts.push(part),
                    other => return Err(ColdError::Wrong(format!("{task} is handed {other:?}"))),
                }
            }
            let dir = PathBuf::from(format!("/cold/{}-{task}", metadata.id));
            let state =
                state::restore::restore(&blobs, &dir, options.clone(), range, max, &snapshots).await?;
            if counts(job) {
                count_state(&state, &mut held.counted).await?;
            }
            state.close().await;
            for (_, elements) in in_flight::read(&blobs, task, range, max, &parts).await? {
                for element in elements {
                    let Element::Record(record) = element else { continue };
                    *held.in_flight.entry(store_key(&record.key, max)).or_default() += 1;
                }
            }
        }
    }
    Ok(vertices)
}

async fn count_state(state: &state::KeyedState, counts: &mut Counts) -> Result<(), ColdError> {
    let mut iter = state.store().iter(.., None);
    while let Some((key, value)) = iter.next().await.map_err(ColdError::Store)? {
        let count = postcard::from_bytes(&value);
        let count = count.map_err(|_| ColdError::Wrong(format!("a count of {} bytes", value.len())))?;
        counts.insert(key, count);
    }
    Ok(())
}

/// Compares what the vertices hold.
///
/// # Errors
/// If a balance does not come out.
pub fn judge(
    job: &JobSpec,
    metadata: &CheckpointMetadata,
    held: &BTreeMap<u16, Held>,
) -> Result<(), Violation> {
    if !counts(job) {
        return Ok(());
    }
    let mut expected = input_at(job, metadata);
    for (vertex, Held { counted, in_flight }) in held {
        let mut found = counted.clone();
        for (key, count) in in_flight {
            *found.entry(key.clone()).or_default() += count;
        }
        let differs = expected.keys().chain(found.keys()).find(|key| expected.get(*key) != found.get(*key));
        if let Some(key) = differs {
            let property = "state and what was in flight are the input before the source positions";
            let (id, of) = (metadata.id, if *vertex == 1 { "key" } else { "derived key" });
            return Err(Violation::new("cut", property)
                .of(of)
                .expected(format!(
                    "checkpoint {id}: {key:02x?} of vertex {vertex} {:?} times",
                    expected.get(key)
                ))
                .found(format!("{:?} counted and {:?} in flight", counted.get(key), in_flight.get(key))));
        }
        expected = emitted(counted, metadata.max_parallelism);
    }
    Ok(())
}

/// The records before the positions in the metadata, by key.
fn input_at(job: &JobSpec, metadata: &CheckpointMetadata) -> Counts {
    let graph = graph(job);
    let VertexKind::Source(source) = &graph.vertices[0].kind else {
        unreachable!("the first vertex is the source")
    };
    let mut counts = Counts::new();
    for state in metadata.vertices.iter().flat_map(|vertex| &vertex.subtasks) {
        let SubtaskState::Source(snapshot) = state else { continue };
        for position in &snapshot.positions {
            let mut reader = source.reader(position.partition, 0);
            for _ in 0..position.next_offset {
                let (auction, _bidder): (u64, u64) =
                    postcard::from_bytes(&reader.next().value).expect("the items of bids");
                *counts.entry(store_key(&encoded(auction), metadata.max_parallelism)).or_default() += 1;
            }
        }
    }
    counts
}

/// What the first count of [`bid_histogram`] has emitted, by key, when it has counted so much.
fn emitted(counted: &Counts, max_parallelism: u16) -> Counts {
    let mut counts = Counts::new();
    for n in counted.values().flat_map(|total| 1..=*total) {
        let key = encoded(bid_histogram::bucket(n));
        *counts.entry(store_key(&key, max_parallelism)).or_default() += 1;
    }
    counts
}
