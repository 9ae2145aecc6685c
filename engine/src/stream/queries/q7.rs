//! Nexmark q7: the highest bids of each ten seconds.
//!
//! ```text
//! bids --auction--> highest, tumbling 10 s --window--> highest, tumbling 10 s --> sink
//! ```
//! The first step does most of the work on all subtasks; the second has one record per auction and window. Bids that are
//! equally high all count.

use serde::{Deserialize, Serialize};

use super::nexmark_events::{self, Bid, Event, json};
use super::{Rows, UnknownQuery};
use crate::cluster::rpc::JobSpec;
use crate::stream::graph::JobGraph;
use crate::stream::window::{AggregateFunction, Windowed, Windows};

/// Name of the query.
pub const NAME: &str = "q7";

const WINDOW_MS: i64 = 10_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    window_start: i64,
    bid: Bid,
}

struct Highest;

impl Highest {
    fn take(highest: &mut Vec<Bid>, bid: Bid) {
        let price = highest.first().map_or(0, |bid| bid.price);
        if bid.price > price {
            highest.clear();
        }
        if bid.price >= price {
            highest.push(bid);
        }
    }
}

impl AggregateFunction<Bid> for Highest {
    /// All of the same price.
    type Accumulator = Vec<Bid>;
    type Out = Vec<Bid>;

    fn create(&self) -> Vec<Bid> {
        Vec::new()
    }
    fn add(&self, highest: &mut Vec<Bid>, bid: Bid) {
        Self::take(highest, bid);
    }
    fn merge(&self, mut a: Vec<Bid>, b: Vec<Bid>) -> Vec<Bid> {
        b.into_iter().for_each(|bid| Self::take(&mut a, bid));
        a
    }
    fn result(&self, highest: Vec<Bid>) -> Vec<Bid> {
        highest
    }
}

/// The graph; see [`super::build`].
///
/// # Errors
/// If a parameter does not fit.
pub fn build(job: &JobSpec) -> Result<JobGraph, UnknownQuery> {
    nexmark_events::build(NAME, job, |events| {
        events()
            .flat_map(Event::bid)
            .key_by(|bid| bid.auction)
            .window(Windows::tumbling(WINDOW_MS))
            .aggregate("of_auction", Highest)
            .flat_map(|highest| {
                let start_ms = highest.window.start_ms;
                highest.value.into_iter().map(move |bid| (start_ms, bid))
            })
            .key_by(|(start_ms, _)| *start_ms)
            .map(|(_start_ms, (_, bid))| bid)
            .window(Windows::tumbling(WINDOW_MS))
            .aggregate("of_all", Highest)
            .flat_map(|highest: Windowed<i64, Vec<Bid>>| {
                let window_start = highest.key;
                highest.value.into_iter().map(move |bid| Row { window_start, bid })
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
        let bids: Vec<Bid> = events.into_iter().filter_map(Event::bid).collect();
        let window = |bid: &Bid| bid.date_time - bid.date_time % 10_000;
        let is_highest = |bid: &&Bid| {
            bids.iter().filter(|other| window(other) == window(bid)).all(|other| other.price <= bid.price)
        };
        bids.iter()
            .filter(is_highest)
            .map(|bid| Row { window_start: window(bid), bid: bid.clone() })
            .collect()
    })
}
