//! The bids of Nexmark (Tucker et al. 2002; generator of the crate `nexmark`), as a source that can be read from any offset.
//!
//! Bid number `offset * partitions + partition` of the benchmark's event sequence is the record at (partition, offset); each
//! event's random generator is seeded by the event's id, so that it is a pure function of that number. The parameter
//! `seed` shifts the ids, which gives another sequence with other auctions.
//!
//! Items: (auction, bidder), without a time.

use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::{Event, EventType};

use super::UnknownQuery;
use super::parameters::Parameters;
use crate::cluster::rpc::JobSpec;
use crate::stream::record::Record;
use crate::stream::source::{Reader, Source, item_record};

/// Events in one round of the generator; ids are shifted by multiples of it, which leaves their types as they are.
const ROUND: usize = 50;
/// Far more rounds than a source reads, so that two seeds share no event.
const ROUNDS_PER_SEED: usize = 1 << 24;

/// The bids of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bids(Parameters);

struct BidReader(EventGenerator);

impl Bids {
    /// By the job's [`Parameters`].
    ///
    /// # Errors
    /// If they are not such.
    pub fn new(query: &'static str, job: &JobSpec) -> Result<Bids, UnknownQuery> {
        Parameters::of(query, job).map(Bids)
    }

    /// Number of key groups of the job.
    pub fn max_parallelism(&self) -> u16 {
        self.0.max_parallelism
    }

    /// The auctions of all bids, with how many there are of each: what any run must have seen.
    pub fn totals(&self) -> std::collections::BTreeMap<u64, u64> {
        let mut totals = std::collections::BTreeMap::new();
        for partition in 0..self.0.partitions {
            let mut reader = self.generator(partition, 0);
            for _ in 0..self.0.events_per_partition {
                *totals.entry(reader.bid().0).or_insert(0) += 1;
            }
        }
        totals
    }

    fn generator(&self, partition: u32, offset: u64) -> BidReader {
        let narrow = |n: u64| usize::try_from(n).expect("a 64-bit machine");
        let config = NexmarkConfig {
            first_event_id: narrow(self.0.seed) * ROUND * ROUNDS_PER_SEED,
            // Fields that are not used: no filler, and no table of ten thousand channels to build at the first event.
            avg_bid_byte_size: 0,
            hot_channel_ratio: usize::MAX,
            ..NexmarkConfig::default()
        };
        let number = offset * u64::from(self.0.partitions) + u64::from(partition);
        let generator = EventGenerator::new(config)
            .with_type_filter(EventType::Bid)
            .with_offset(number)
            .with_step(self.0.partitions.into());
        BidReader(generator)
    }
}

impl BidReader {
    /// Auction and bidder of the next bid.
    fn bid(&mut self) -> (u64, u64) {
        match self.0.next() {
            Some(Event::Bid(bid)) => (bid.auction as u64, bid.bidder as u64),
            other => unreachable!("the generator is endless and filters bids: {other:?}"),
        }
    }
}

impl Source for Bids {
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
        Box::new(self.generator(partition, offset))
    }
}

impl Reader for BidReader {
    fn next(&mut self) -> Record {
        item_record(&self.bid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bids(parameters: &[(&str, u64)]) -> Result<Bids, UnknownQuery> {
        let parameters = parameters.iter().map(|(name, value)| (name.to_string(), *value)).collect();
        Bids::new("test", &JobSpec { name: "job".into(), query: "test".into(), parameters })
    }

    #[test]
    fn a_record_is_a_function_of_partition_and_offset() {
        for seed in [0, 1, 1 << 20] {
            let bids = bids(&[("partitions", 3), ("events_per_partition", 200), ("seed", seed)]).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            for partition in 0..3 {
                let mut reader = bids.reader(partition, 0);
                let all: Vec<Record> = (0..200).map(|_| reader.next()).collect();
                for offset in [0, 1, 57, 199] {
                    assert_eq!(bids.reader(partition, offset).next(), all[usize::try_from(offset).unwrap()]);
                }
                seen.extend(all);
            }
            assert!(seen.len() > 100, "the partitions differ: {}", seen.len());
        }
    }

    #[test]
    fn seeds_share_no_auction() {
        let of = |seed| bids(&[("seed", seed)]).unwrap().totals();
        let (a, b) = (of(1), of(2));
        assert!(a.keys().all(|auction| !b.contains_key(auction)));
        assert_eq!(a.values().sum::<u64>(), 4000);
    }

    #[test]
    fn parameters_are_checked() {
        assert!(bids(&[]).is_ok());
        let message = |parameters| bids(parameters).unwrap_err().to_string();
        assert_eq!(
            message(&[("partitions", 0)]),
            "query test: parameter partitions: 0 is not within 1..=1024"
        );
        assert!(
            message(&[("nonsense", 0)])
                .starts_with("query test: parameter nonsense: unknown; there are partitions,")
        );
    }
}
