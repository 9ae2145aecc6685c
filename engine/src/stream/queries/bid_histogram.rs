//! Query `bid_histogram`: how popular auctions were when bids came in.
//!
//! ```text
//! bids (Nexmark) --auction--> count --bucket--> count --bucket--> sink
//! ```
//! The first count gives each bid its number n within the auction; the bucket is the base-2 logarithm of n, rounded down;
//! the second count numbers the bids of a bucket. An auction with t bids puts the numbers 1 to t into buckets, in whatever
//! order its bids came: so the committed records are (bucket, 1) to (bucket, total of the bucket), each once.

use std::collections::BTreeMap;

use super::count::{Count, record};
use super::nexmark_bids::Bids;
use super::{Rows, UnknownQuery};
use crate::cluster::rpc::JobSpec;
use crate::stream::graph::JobGraph;
use crate::stream::job::Job;

pub use super::count::numbers;

/// Name of the query.
pub const NAME: &str = "bid_histogram";

/// The graph; see [`super::build`].
///
/// # Errors
/// If a parameter does not fit.
pub fn build(job: &JobSpec) -> Result<JobGraph, UnknownQuery> {
    let bids = Bids::new(NAME, job)?;
    let job = Job::new(NAME).max_parallelism(bids.max_parallelism());
    job.source("bids", bids)
        .key_by(|(auction, _bidder): &(u64, u64)| *auction)
        .process("count", || Count)
        .key_by(|(_, count)| bucket(*count))
        .process("histogram", || Count)
        .sink("sink", |(bucket, count)| record(bucket, count));
    Ok(job.build())
}

/// The bucket of the bid that is the `count`-th of its auction, from 1.
pub fn bucket(count: u64) -> u64 {
    count.ilog2().into()
}

/// The committed records of a job that has run to its end, with how often each occurs: once.
///
/// # Errors
/// If a parameter does not fit.
pub fn expected(job: &JobSpec) -> Result<Rows, UnknownQuery> {
    let mut buckets: BTreeMap<u64, u64> = BTreeMap::new();
    for total in Bids::new(NAME, job)?.totals().into_values() {
        (1..=total).for_each(|n| *buckets.entry(bucket(n)).or_default() += 1);
    }
    let counts =
        buckets.into_iter().flat_map(|(bucket, total)| (1..=total).map(move |n| (record(bucket, n), 1)));
    Ok(counts.collect())
}
