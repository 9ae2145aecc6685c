//! Query `bid_histogram`: how popular auctions were when bids came in.
//!
//! ```text
//! bids (Nexmark) --auction--> count --bucket--> count --bucket--> sink
//! ```
//! The first count gives each bid its number n within the auction; the bucket is the base-2 logarithm of n, rounded down;
//! the second count numbers the bids of a bucket. An auction with t bids puts the numbers 1 to t into buckets, in whatever
//! order its bids came: so the committed records are (bucket, 1) to (bucket, total of the bucket), each once.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::UnknownQuery;
use super::count::{Count, record};
use super::nexmark_bids::Bids;
use crate::cluster::rpc::JobSpec;
use crate::stream::graph::{JobGraph, Vertex, VertexKind};
use crate::stream::record::Record;

pub use super::count::numbers;

/// Name of the query.
pub const NAME: &str = "bid_histogram";

/// The graph; see [`super::build`].
///
/// # Errors
/// If a parameter does not fit.
pub fn build(job: &JobSpec) -> Result<JobGraph, UnknownQuery> {
    let bids = Bids::new(NAME, job)?;
    let by_auction = || Box::new(Count { name: "count", emit: to_bucket }) as _;
    let by_bucket = || Box::new(Count { name: "histogram", emit }) as _;
    let vertex = |uid: &str, kind| Vertex { uid: uid.into(), kind };
    let vertices = vec![
        vertex("bids", VertexKind::Source(Arc::new(bids))),
        vertex("count", VertexKind::Keyed(Arc::new(by_auction))),
        vertex("histogram", VertexKind::Keyed(Arc::new(by_bucket))),
        vertex("sink", VertexKind::Sink),
    ];
    Ok(JobGraph::chain(bids.max_parallelism(), vertices))
}

/// The bucket of the bid that is the `count`-th of its auction, from 1.
pub fn bucket(count: u64) -> u64 {
    count.ilog2().into()
}

fn to_bucket(_: &Bytes, count: u64) -> Record {
    record(bucket(count), count)
}

fn emit(bucket: &Bytes, count: u64) -> Record {
    Record { key: bucket.clone(), value: Bytes::copy_from_slice(&count.to_be_bytes()) }
}

/// The committed records of a job that has run to its end, as numbers ([`numbers`]) with how often each occurs: once.
///
/// # Errors
/// If a parameter does not fit.
pub fn expected(job: &JobSpec) -> Result<BTreeMap<(u64, u64), u64>, UnknownQuery> {
    let mut buckets: BTreeMap<u64, u64> = BTreeMap::new();
    for total in Bids::new(NAME, job)?.totals().into_values() {
        (1..=total).for_each(|n| *buckets.entry(bucket(n)).or_default() += 1);
    }
    let counts = buckets.into_iter().flat_map(|(bucket, total)| (1..=total).map(move |n| ((bucket, n), 1)));
    Ok(counts.collect())
}
