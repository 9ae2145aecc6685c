//! Query `bid_counts`: for every bid, the how many-th of its auction it is.
//!
//! ```text
//! bids (Nexmark) --auction--> count --auction--> sink
//! ```
//! Whatever the interleaving of the partitions, the committed records are, for each auction with t bids, (auction, 1) to
//! (auction, t), each once: a known answer that any lost, doubled or reordered update of the state would change.

use super::count::{Count, record};
use super::nexmark_bids::Bids;
use super::{Rows, UnknownQuery};
use crate::cluster::rpc::JobSpec;
use crate::stream::graph::JobGraph;
use crate::stream::job::Job;

pub use super::count::numbers;

/// Name of the query.
pub const NAME: &str = "bid_counts";

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
        .sink("sink", |(auction, count)| record(auction, count));
    Ok(job.build())
}

/// The committed records of a job that has run to its end, with how often each occurs: once.
///
/// # Errors
/// If a parameter does not fit.
pub fn expected(job: &JobSpec) -> Result<Rows, UnknownQuery> {
    let totals = Bids::new(NAME, job)?.totals();
    let counts =
        totals.into_iter().flat_map(|(auction, total)| (1..=total).map(move |n| (record(auction, n), 1)));
    Ok(counts.collect())
}
