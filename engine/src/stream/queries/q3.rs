//! Nexmark q3: who in Oregon, Idaho or California sells something of category 10? An incremental join.
//!
//! ```text
//! people --id-----┐
//!                 ├-- who sells -- sink
//! auctions --seller┘
//! ```
//! Either side may come first: a person is remembered for the auctions that come later, auctions wait for their seller. Each
//! pair is emitted once, whichever came last.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::nexmark_events::{self, Auction, Event, Person, json};
use super::{Rows, UnknownQuery};
use crate::cluster::rpc::JobSpec;
use crate::state::{ListState, ValueState};
use crate::stream::Error;
use crate::stream::functions::{CoProcessFunction, Collector};
use crate::stream::graph::JobGraph;
use crate::stream::operator::Context;

/// Name of the query.
pub const NAME: &str = "q3";

const STATES: [&str; 3] = ["or", "id", "ca"];
const CATEGORY: u64 = 10;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    name: String,
    city: String,
    state: String,
    auction: u64,
}

struct WhoSells;

const SELLER: ValueState<Person> = ValueState::new("seller");
const WAITING: ListState<u64> = ListState::new("waiting");

fn row(person: &Person, auction: u64) -> Row {
    let Person { name, city, state, .. } = person.clone();
    Row { name, city, state, auction }
}

#[async_trait]
impl CoProcessFunction<u64, Person, Auction> for WhoSells {
    type Out = Row;

    async fn process_left(
        &mut self,
        _: &u64,
        person: Person,
        context: &mut Context<'_>,
        out: &mut Collector<'_, Row>,
    ) -> Result<(), Error> {
        for auction in WAITING.get(context).await? {
            out.collect(row(&person, auction));
        }
        WAITING.clear(context).await?;
        Ok(SELLER.put(context, &person).await?)
    }

    async fn process_right(
        &mut self,
        _: &u64,
        auction: Auction,
        context: &mut Context<'_>,
        out: &mut Collector<'_, Row>,
    ) -> Result<(), Error> {
        match SELLER.get(context).await? {
            Some(person) => out.collect(row(&person, auction.id)),
            None => WAITING.add(context, &auction.id).await?,
        }
        Ok(())
    }
}

/// The graph; see [`super::build`].
///
/// # Errors
/// If a parameter does not fit.
pub fn build(job: &JobSpec) -> Result<JobGraph, UnknownQuery> {
    nexmark_events::build(NAME, job, |events| {
        let people = events().flat_map(Event::person).filter(|p| STATES.contains(&p.state.as_str()));
        let auctions = events().flat_map(Event::auction).filter(|auction| auction.category == CATEGORY);
        people
            .key_by(|person| person.id)
            .join(auctions.key_by(|auction| auction.seller))
            .process("who_sells", || WhoSells)
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
        for auction in events.iter().filter_map(|event| event.clone().auction()) {
            let seller = events.iter().find_map(|event| match event {
                Event::Person(person) if person.id == auction.seller => Some(person),
                _ => None,
            });
            if let Some(seller) = seller
                && auction.category == 10
                && ["or", "id", "ca"].contains(&seller.state.as_str())
            {
                rows.push(row(seller, auction.id));
            }
        }
        rows
    })
}
