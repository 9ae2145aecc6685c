//! Nexmark q1: the bids with their price in euros, at 0.908 to the dollar (rounded down to the cent). A map.

use super::nexmark_events::{self, Bid, Event, json};
use super::{Rows, UnknownQuery};
use crate::cluster::rpc::JobSpec;
use crate::stream::graph::JobGraph;

/// Name of the query.
pub const NAME: &str = "q1";

/// The graph; see [`super::build`].
///
/// # Errors
/// If a parameter does not fit.
pub fn build(job: &JobSpec) -> Result<JobGraph, UnknownQuery> {
    nexmark_events::build(NAME, job, |events| {
        events()
            .flat_map(Event::bid)
            .map(|bid| Bid { price: bid.price * 908 / 1000, ..bid })
            .sink("sink", |bid| json(&bid));
    })
}

/// See [`super::expected`].
///
/// # Errors
/// If a parameter does not fit.
pub fn expected(job: &JobSpec) -> Result<Rows, UnknownQuery> {
    nexmark_events::expected(NAME, job, |events| {
        let mut rows = Vec::new();
        for event in events {
            if let Event::Bid(mut bid) = event {
                bid.price = bid.price * 908 / 1000;
                rows.push(bid);
            }
        }
        rows
    })
}
