//! Nexmark q2: the bids in auctions whose number is a multiple of 123. A filter.

use super::nexmark_events::{self, Event, json};
use super::{Rows, UnknownQuery};
use crate::cluster::rpc::JobSpec;
use crate::stream::graph::JobGraph;

/// Name of the query.
pub const NAME: &str = "q2";

/// (auction, price)
type Row = (u64, u64);

/// The graph; see [`super::build`].
///
/// # Errors
/// If a parameter does not fit.
pub fn build(job: &JobSpec) -> Result<JobGraph, UnknownQuery> {
    nexmark_events::build(NAME, job, |events| {
        events()
            .flat_map(Event::bid)
            .filter(|bid| bid.auction % 123 == 0)
            .map(|bid| -> Row { (bid.auction, bid.price) })
            .sink("sink", |row| json(&row));
    })
}

/// See [`super::expected`].
///
/// # Errors
/// If a parameter does not fit.
pub fn expected(job: &JobSpec) -> Result<Rows, UnknownQuery> {
    nexmark_events::expected(NAME, job, |events| {
        let mut rows: Vec<Row> = Vec::new();
        for event in events {
            match event {
                Event::Bid(bid) if bid.auction.is_multiple_of(123) => rows.push((bid.auction, bid.price)),
                _ => {}
            }
        }
        rows
    })
}
