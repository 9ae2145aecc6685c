//! Nexmark q5: the auctions with the most bids in the last ten seconds, every two seconds.
//!
//! ```text
//! bids --auction--> count, sliding 10 s by 2 s --window--> the most, tumbling 2 s --> sink
//! ```
//! All counts of a window have its last millisecond as their time, which lies in one tumbling window of two seconds. Auctions
//! that are equal all count.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::nexmark_events::{self, Event, json};
use super::{Rows, UnknownQuery};
use crate::cluster::rpc::JobSpec;
use crate::stream::graph::JobGraph;
use crate::stream::window::{AggregateFunction, Count, Window, Windowed, Windows};

/// Name of the query.
pub const NAME: &str = "q5";

const SIZE_MS: i64 = 10_000;
const SLIDE_MS: i64 = 2_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    window_start: i64,
    auction: u64,
    bids: u64,
}

struct Hottest;

type AuctionCount = Windowed<u64, u64>;

impl AggregateFunction<AuctionCount> for Hottest {
    /// The most bids, and the auctions that have so many.
    type Accumulator = (u64, Vec<u64>);
    type Out = (u64, Vec<u64>);

    fn create(&self) -> (u64, Vec<u64>) {
        (0, Vec::new())
    }
    fn add(&self, most: &mut (u64, Vec<u64>), count: AuctionCount) {
        if count.value > most.0 {
            *most = (count.value, vec![count.key]);
        } else if count.value == most.0 {
            most.1.push(count.key);
        }
    }
    fn merge(&self, mut a: (u64, Vec<u64>), mut b: (u64, Vec<u64>)) -> (u64, Vec<u64>) {
        match a.0.cmp(&b.0) {
            std::cmp::Ordering::Less => b,
            std::cmp::Ordering::Greater => a,
            std::cmp::Ordering::Equal => {
                a.1.append(&mut b.1);
                a
            }
        }
    }
    fn result(&self, most: (u64, Vec<u64>)) -> (u64, Vec<u64>) {
        most
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
            .window(Windows::sliding(SIZE_MS, SLIDE_MS))
            .aggregate("count", Count)
            .key_by(|count| count.window)
            .window(Windows::tumbling(SLIDE_MS))
            .aggregate("hottest", Hottest)
            .flat_map(|hottest: Windowed<Window, (u64, Vec<u64>)>| {
                let (window_start, (bids, auctions)) = (hottest.key.start_ms, hottest.value);
                auctions.into_iter().map(move |auction| Row { window_start, auction, bids })
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
        let mut counts: BTreeMap<i64, BTreeMap<u64, u64>> = BTreeMap::new();
        for bid in events.into_iter().filter_map(Event::bid) {
            let last_start = bid.date_time - bid.date_time % 2_000;
            for back in 0..5 {
                *counts.entry(last_start - back * 2_000).or_default().entry(bid.auction).or_default() += 1;
            }
        }
        let mut rows = Vec::new();
        for (window_start, counts) in counts {
            let most = counts.values().copied().max().unwrap_or(0);
            for (auction, bids) in counts.into_iter().filter(|(_, bids)| *bids == most) {
                rows.push(Row { window_start, auction, bids });
            }
        }
        rows
    })
}
