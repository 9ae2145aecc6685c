//! Nexmark q4: the average price of what was sold, by category.
//!
//! ```text
//! winning bids --category--> average, tumbling over 10 s of closing time --> sink
//! ```
//! The benchmark updates one average per category for ever; here each ten seconds have their own, so that the answer is the
//! same however closings interleave. Averages are rounded down.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::nexmark_events::{self, json};
use super::winning_bids::{Sale, expected_sales, sales};
use super::{Rows, UnknownQuery};
use crate::cluster::rpc::JobSpec;
use crate::stream::graph::JobGraph;
use crate::stream::window::{AggregateFunction, Windows};

/// Name of the query.
pub const NAME: &str = "q4";

const WINDOW_MS: i64 = 10_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    category: u64,
    window_start: i64,
    average: u64,
    sold: u64,
}

struct Average;

impl AggregateFunction<Sale> for Average {
    /// Sum and number.
    type Accumulator = (u64, u64);
    /// Average and number.
    type Out = (u64, u64);

    fn create(&self) -> (u64, u64) {
        (0, 0)
    }
    fn add(&self, (sum, number): &mut (u64, u64), sale: Sale) {
        (*sum, *number) = (*sum + sale.price, *number + 1);
    }
    fn merge(&self, a: (u64, u64), b: (u64, u64)) -> (u64, u64) {
        (a.0 + b.0, a.1 + b.1)
    }
    fn result(&self, (sum, number): (u64, u64)) -> (u64, u64) {
        (sum / number, number)
    }
}

/// The graph; see [`super::build`].
///
/// # Errors
/// If a parameter does not fit.
pub fn build(job: &JobSpec) -> Result<JobGraph, UnknownQuery> {
    nexmark_events::build(NAME, job, |events| {
        sales(events)
            .key_by(|sale| sale.category)
            .window(Windows::tumbling(WINDOW_MS))
            .aggregate("average", Average)
            .map(|windowed| {
                let (average, sold) = windowed.value;
                Row { category: windowed.key, window_start: windowed.window.start_ms, average, sold }
            })
            .sink("sink", |row| json(&row));
    })
}

/// See [`super::expected`].
///
/// # Errors
/// If a parameter does not fit.
pub fn expected(job: &JobSpec) -> Result<Rows, UnknownQuery> {
    nexmark_events::expected(NAME, job, |events| {
        let mut prices: BTreeMap<(u64, i64), Vec<u64>> = BTreeMap::new();
        for sale in expected_sales(&events) {
            let window_start = sale.closed_ms - sale.closed_ms % 10_000;
            prices.entry((sale.category, window_start)).or_default().push(sale.price);
        }
        let row = |((category, window_start), prices): ((u64, i64), Vec<u64>)| {
            let sold = prices.len() as u64;
            Row { category, window_start, average: prices.iter().sum::<u64>() / sold, sold }
        };
        prices.into_iter().map(row).collect()
    })
}
