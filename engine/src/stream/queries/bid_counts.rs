//! Query `bid_counts`: for every bid, the how many-th of its auction it is.
//!
//! ```text
//! bids (Nexmark) --auction--> count --auction--> sink
//! ```
//! Whatever the interleaving of the partitions, the committed records are, for each auction with t bids, (auction, 1) to
//! (auction, t), each once: a known answer that any lost, doubled or reordered update of the state would change.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::UnknownQuery;
use super::count::Count;
use super::nexmark_bids::Bids;
use crate::cluster::rpc::JobSpec;
use crate::stream::graph::{JobGraph, Vertex, VertexKind};
use crate::stream::record::Record;

pub use super::count::numbers;

/// Name of the query.
pub const NAME: &str = "bid_counts";

/// The graph; see [`super::build`].
///
/// # Errors
/// If a parameter does not fit.
pub fn build(job: &JobSpec) -> Result<JobGraph, UnknownQuery> {
    let bids = Bids::new(NAME, job)?;
    let count = || Box::new(Count { name: "count", emit }) as _;
    let vertex = |uid: &str, kind| Vertex { uid: uid.into(), kind };
    let vertices = vec![
        vertex("bids", VertexKind::Source(Arc::new(bids))),
        vertex("count", VertexKind::Keyed(Arc::new(count))),
        vertex("sink", VertexKind::Sink),
    ];
    Ok(JobGraph::chain(bids.max_parallelism(), vertices))
}

fn emit(auction: &bytes::Bytes, count: u64) -> Record {
    Record { key: auction.clone(), value: bytes::Bytes::copy_from_slice(&count.to_be_bytes()) }
}

/// The committed records of a job that has run to its end, as numbers ([`numbers`]) with how often each occurs: once.
///
/// # Errors
/// If a parameter does not fit.
pub fn expected(job: &JobSpec) -> Result<BTreeMap<(u64, u64), u64>, UnknownQuery> {
    let totals = Bids::new(NAME, job)?.totals();
    let counts = totals.into_iter().flat_map(|(auction, total)| (1..=total).map(move |n| ((auction, n), 1)));
    Ok(counts.collect())
}
