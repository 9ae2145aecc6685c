//! Nexmark q8: who has registered and opened an auction within the same ten seconds?
//!
//! ```text
//! people --id------┐
//!                  ├-- join in tumbling windows of 10 s --> sink
//! auctions --seller┘
//! ```

use serde::{Deserialize, Serialize};

use super::nexmark_events::{self, Auction, Event, Person, json};
use super::{Rows, UnknownQuery};
use crate::cluster::rpc::JobSpec;
use crate::stream::graph::JobGraph;
use crate::stream::window::{Window, Windows};

/// Name of the query.
pub const NAME: &str = "q8";

const WINDOW_MS: i64 = 10_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    id: u64,
    name: String,
    window_start: i64,
}

fn meet(_: &u64, window: Window, people: Vec<Person>, auctions: Vec<Auction>) -> Vec<Row> {
    if auctions.is_empty() {
        return Vec::new();
    }
    let row = |person: Person| Row { id: person.id, name: person.name, window_start: window.start_ms };
    people.into_iter().map(row).collect()
}

/// The graph; see [`super::build`].
///
/// # Errors
/// If a parameter does not fit.
pub fn build(job: &JobSpec) -> Result<JobGraph, UnknownQuery> {
    nexmark_events::build(NAME, job, |events| {
        let people = events().flat_map(Event::person).key_by(|person| person.id);
        let auctions = events().flat_map(Event::auction).key_by(|auction| auction.seller);
        people
            .join(auctions)
            .window(Windows::tumbling(WINDOW_MS))
            .apply("new_sellers", meet)
            .sink("sink", |row| json(&row));
    })
}

/// See [`super::expected`].
///
/// # Errors
/// If a parameter does not fit.
pub fn expected(job: &JobSpec) -> Result<Rows, UnknownQuery> {
    nexmark_events::expected(NAME, job, |events| {
        let mut rows = Vec::new();
        for event in &events {
            let Event::Person(person) = event else { continue };
            let window_start = person.date_time - person.date_time % 10_000;
            let sells = |event: &Event| match event {
                Event::Auction(auction) => {
                    auction.seller == person.id && auction.date_time / 10_000 == window_start / 10_000
                }
                _ => false,
            };
            if events.iter().any(sells) {
                rows.push(Row { id: person.id, name: person.name.clone(), window_start });
            }
        }
        rows
    })
}
