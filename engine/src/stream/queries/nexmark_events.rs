//! The events of Nexmark (Tucker et al. 2002; generator of the crate `nexmark`), as a source that can be read from any offset:
//! of 50 events one is a new person, three are new auctions, 46 are bids.
//!
//! Event number `offset * partitions + partition` is at (partition, offset). Its time is that of its number, ten milliseconds
//! after the one before, so that times only grow in a partition: nothing is ever late. Each event's random generator is
//! seeded by its id; the parameter `seed` shifts the ids, which gives other events with other people and auctions.
//!
//! Not as in the benchmark: no filler bytes, no channels and URLs of bids.

use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event;
use serde::{Deserialize, Serialize};

use super::parameters::Parameters;
use super::{Rows, UnknownQuery};
use crate::cluster::rpc::JobSpec;
use crate::stream::graph::JobGraph;
use crate::stream::job::{Job, Stream};
use crate::stream::record::Record;
use crate::stream::source::{Reader, Source, item_record};

/// Events in one round of the generator; ids are shifted by multiples of it, which leaves their types as they are.
const ROUND: usize = 50;
/// Far more rounds than a source reads, so that two seeds share no event. A multiple of 100: the generator's favourites are
/// people and auctions with round numbers, and the first of each seed is one.
const ROUNDS_PER_SEED: usize = 100 << 17;
/// Event time moves 10 ms with each event.
const EVENTS_PER_SECOND: usize = 100;
/// The time of the first event, in milliseconds: 2015-07-15, as in Apache Beam's Nexmark.
const BASE_TIME_MS: u64 = 1_436_918_400_000;

/// A person who buys and sells.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the benchmark's own words")]
pub struct Person {
    pub id: u64,
    pub name: String,
    pub city: String,
    pub state: String,
    pub date_time: i64,
}

/// An auction of an item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the benchmark's own words")]
pub struct Auction {
    pub id: u64,
    pub initial_bid: u64,
    pub reserve: u64,
    pub date_time: i64,
    pub expires: i64,
    pub seller: u64,
    pub category: u64,
}

/// A bid in an auction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the benchmark's own words")]
pub struct Bid {
    pub auction: u64,
    pub bidder: u64,
    pub price: u64,
    pub date_time: i64,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the benchmark's own words")]
pub enum Event {
    Person(Person),
    Auction(Auction),
    Bid(Bid),
}

/// The events of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events(Parameters);

struct EventReader(EventGenerator);

impl Events {
    /// All of them, in the order of their numbers.
    pub fn all(&self) -> Vec<Event> {
        let count = self.0.events_per_partition * u64::from(self.0.partitions);
        let mut reader = EventReader(self.generator().with_offset(0));
        (0..count).map(|_| reader.event()).collect()
    }

    fn generator(&self) -> EventGenerator {
        let seed = usize::try_from(self.0.seed).expect("a 64-bit machine");
        EventGenerator::new(NexmarkConfig {
            first_event_id: seed * ROUND * ROUNDS_PER_SEED,
            base_time: BASE_TIME_MS,
            first_rate: EVENTS_PER_SECOND,
            next_rate: EVENTS_PER_SECOND,
            avg_person_byte_size: 0,
            avg_auction_byte_size: 0,
            avg_bid_byte_size: 0,
            // A table of ten thousand channels would be built at the first event.
            hot_channel_ratio: usize::MAX,
            ..NexmarkConfig::default()
        })
    }
}

impl EventReader {
    fn event(&mut self) -> Event {
        let time = |ms: u64| i64::try_from(ms).expect("in the present era");
        match self.0.next().expect("the generator is endless") {
            event::Event::Person(person) => Event::Person(Person {
                id: person.id as u64,
                name: person.name,
                city: person.city,
                state: person.state,
                date_time: time(person.date_time),
            }),
            event::Event::Auction(auction) => Event::Auction(Auction {
                id: auction.id as u64,
                initial_bid: auction.initial_bid as u64,
                reserve: auction.reserve as u64,
                date_time: time(auction.date_time),
                expires: time(auction.expires),
                seller: auction.seller as u64,
                category: auction.category as u64,
            }),
            event::Event::Bid(bid) => Event::Bid(Bid {
                auction: bid.auction as u64,
                bidder: bid.bidder as u64,
                price: bid.price as u64,
                date_time: time(bid.date_time),
            }),
        }
    }
}

impl Event {
    /// When, in milliseconds.
    pub fn time_ms(&self) -> i64 {
        match self {
            Event::Person(person) => person.date_time,
            Event::Auction(auction) => auction.date_time,
            Event::Bid(bid) => bid.date_time,
        }
    }

    /// The person, if it is one.
    pub fn person(self) -> Option<Person> {
        if let Event::Person(person) = self { Some(person) } else { None }
    }

    /// The auction, if it is one.
    pub fn auction(self) -> Option<Auction> {
        if let Event::Auction(auction) = self { Some(auction) } else { None }
    }

    /// The bid, if it is one.
    pub fn bid(self) -> Option<Bid> {
        if let Event::Bid(bid) = self { Some(bid) } else { None }
    }
}

impl Source for Events {
    fn partitions(&self) -> u32 {
        self.0.partitions
    }
    fn records_per_partition(&self) -> u64 {
        self.0.events_per_partition
    }
    fn records_per_second(&self) -> u64 {
        self.0.events_per_second
    }
    fn reader(&self, partition: u32, offset: u64) -> Box<dyn Reader> {
        let number = offset * u64::from(self.0.partitions) + u64::from(partition);
        Box::new(EventReader(self.generator().with_offset(number).with_step(self.0.partitions.into())))
    }
}

impl Reader for EventReader {
    fn next(&mut self) -> Record {
        let event = self.event();
        item_record(&event).at(event.time_ms())
    }
}

/// The graph of a query over events: `query` says what becomes of them.
pub(super) fn build(
    name: &'static str,
    job: &JobSpec,
    query: impl FnOnce(&dyn Fn() -> Stream<Event>),
) -> Result<JobGraph, UnknownQuery> {
    let events = Events(Parameters::of(name, job)?);
    let job = Job::new(name).max_parallelism(events.0.max_parallelism);
    let source = job.source("events", events);
    query(&|| source.clone());
    drop(source);
    Ok(job.build())
}

/// What a query over events must have committed: `answer` computes it.
pub(super) fn expected<R: Serialize>(
    name: &'static str,
    job: &JobSpec,
    answer: impl FnOnce(Vec<Event>) -> Vec<R>,
) -> Result<Rows, UnknownQuery> {
    let events = Events(Parameters::of(name, job)?);
    let mut rows = Rows::new();
    for row in answer(events.all()) {
        *rows.entry(json(&row)).or_default() += 1;
    }
    Ok(rows)
}

/// A committed record: a row as a line of JSON. Its key is a hash of that, which spreads rows over the sinks.
pub(super) fn json<R: Serialize>(row: &R) -> Record {
    let line = serde_json::to_vec(row).expect("rows are plain structures");
    let key = xxhash_rust::xxh3::xxh3_64(&line).to_be_bytes();
    Record::new(key.to_vec(), line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(parameters: &[(&str, u64)]) -> Events {
        let parameters = parameters.iter().map(|(name, value)| (name.to_string(), *value)).collect();
        let job = JobSpec { name: "job".into(), query: "test".into(), parameters };
        Events(Parameters::of("test", &job).unwrap())
    }

    #[test]
    fn partitions_share_the_events_out_and_times_grow() {
        let events = events(&[("partitions", 3), ("events_per_partition", 200), ("seed", 7)]);
        let all = events.all();
        for partition in 0..3u32 {
            let mut reader = events.reader(partition, 5);
            let mut last = 0;
            for offset in 5..200usize {
                let record = reader.next();
                assert_eq!(record.value, item_record(&all[offset * 3 + partition as usize]).value);
                assert!(record.time_ms >= last);
                last = record.time_ms;
            }
        }
    }

    #[test]
    fn auctions_have_bids_and_sellers_are_known() {
        for seed in [0, 1, 1 << 20] {
            let all = events(&[("seed", seed)]).all();
            let people: Vec<u64> = all.iter().cloned().filter_map(Event::person).map(|p| p.id).collect();
            let auctions: Vec<Auction> = all.iter().cloned().filter_map(Event::auction).collect();
            let bids: Vec<Bid> = all.iter().cloned().filter_map(Event::bid).collect();
            let known = auctions.iter().filter(|auction| people.contains(&auction.seller)).count();
            let in_time = |bid: &Bid| {
                auctions
                    .iter()
                    .any(|a| a.id == bid.auction && (a.date_time..=a.expires).contains(&bid.date_time))
            };
            assert!(known > auctions.len() / 4, "{known} of {} sellers", auctions.len());
            assert!(bids.iter().filter(|bid| in_time(bid)).count() > bids.len() / 4);
        }
    }
}
