//! Nexmark q0: the bids, as they are. What it costs to do nothing.

use super::nexmark_events::{self, Bid, Event, json};
use super::{Rows, UnknownQuery};
use crate::cluster::rpc::JobSpec;
use crate::stream::graph::JobGraph;

/// Name of the query.
pub const NAME: &str = "q0";

/// The graph; see [`super::build`].
///
/// # Errors
/// If a parameter does not fit.
pub fn build(job: &JobSpec) -> Result<JobGraph, UnknownQuery> {
    nexmark_events::build(NAME, job, |events| {
        events().flat_map(Event::bid).sink("sink", |bid: Bid| json(&bid));
    })
}

/// See [`super::expected`].
///
/// # Errors
/// If a parameter does not fit.
pub fn expected(job: &JobSpec) -> Result<Rows, UnknownQuery> {
    nexmark_events::expected(NAME, job, |events| events.into_iter().filter_map(Event::bid).collect())
}
