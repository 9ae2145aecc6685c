//! Values that expire: a compaction filter that removes what was written too long ago.
//!
//! A value carries the time when it was written as a suffix of four bytes, little-endian seconds since 1970, as RocksDB's `DBWithTTL`
//! writes it (7.8.3 `utilities/ttl/db_ttl_impl.cc`). It has expired when that time and the time to live together lie before now, and goes
//! when a compaction meets it. Until then it is read.
//!
//! The times are those of the wall clock. If that goes back, values stay longer, and none goes before its time; if it goes
//! ahead, they go as early as it says. A value without room for a time is none of those, and stays.
//!
//! *Not here*: a store that stamps and strips by itself. Operands are merged as they are, suffix and all, so a family with a
//! merge operator needs one that knows of the suffix.

use std::time::Duration;

use cutwater_io::time;

use super::filter::{CompactionFilter, Decision};

/// Length of the time behind a value. Bytes.
const TIME_BYTES: usize = 4;

/// Removes values that were written too long ago. See the module.
#[derive(Clone, Debug)]
pub struct Ttl {
    /// How long a value lives. Seconds; 0 for ever.
    ttl_s: u32,
    name: String,
}

impl Ttl {
    /// Values live this long, in seconds; 0 for ever.
    pub fn new(ttl_s: u32) -> Ttl {
        Ttl { ttl_s, name: format!("Delete By TTL: {ttl_s} s") }
    }

    /// The value as it is to be put, written now.
    pub fn stamp(value: &[u8]) -> Vec<u8> {
        Ttl::stamp_at(value, time::unix_time())
    }

    /// The value as it is to be put, written so long after 1970. Beyond the year 2106 all times are the same.
    pub fn stamp_at(value: &[u8], written: Duration) -> Vec<u8> {
        let written_s = u32::try_from(written.as_secs()).unwrap_or(u32::MAX);
        [value, &written_s.to_le_bytes()].concat()
    }

    /// The value that was stamped, and when, in seconds since 1970; nothing if it is too short to have been.
    pub fn strip(stamped: &[u8]) -> Option<(&[u8], u32)> {
        let (value, written_s) = stamped.split_last_chunk::<TIME_BYTES>()?;
        Some((value, u32::from_le_bytes(*written_s)))
    }

    fn decide_at(&self, stamped: &[u8], now: Duration) -> Decision {
        let has_expired =
            |(_, written_s): (_, u32)| u64::from(written_s) + u64::from(self.ttl_s) < now.as_secs();
        match Ttl::strip(stamped).is_some_and(has_expired) && self.ttl_s > 0 {
            true => Decision::Remove,
            false => Decision::Keep,
        }
    }
}

impl CompactionFilter for Ttl {
    fn name(&self) -> &str {
        &self.name
    }

    fn decide(&self, _level: usize, _key: &[u8], value: &[u8]) -> Decision {
        self.decide_at(value, time::unix_time())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN_S: u64 = 1_700_000_000;

    fn decide(ttl_s: u32, now_s: u64) -> Decision {
        let stamped = Ttl::stamp_at(b"value", Duration::from_secs(WRITTEN_S));
        Ttl::new(ttl_s).decide_at(&stamped, Duration::from_secs(now_s))
    }

    #[test]
    fn a_value_goes_after_its_time_and_not_at_it() {
        assert_eq!(decide(100, WRITTEN_S + 100), Decision::Keep);
        assert_eq!(decide(100, WRITTEN_S + 101), Decision::Remove);
        assert_eq!(decide(0, u64::MAX), Decision::Keep, "it lives for ever");
        assert_eq!(decide(u32::MAX, WRITTEN_S + 100), Decision::Keep, "the sum does not wrap round");
    }

    #[test]
    fn a_clock_that_goes_back_takes_nothing() {
        assert_eq!(decide(100, WRITTEN_S - 1), Decision::Keep);
        assert_eq!(decide(100, 0), Decision::Keep);
    }

    #[test]
    fn a_stamp_is_four_bytes_and_what_is_shorter_stays() {
        let stamped = Ttl::stamp_at(b"v", Duration::from_secs(0x0403_0201));
        assert_eq!(
            (&stamped[..], Ttl::strip(&stamped)),
            (&b"v\x01\x02\x03\x04"[..], Some((&b"v"[..], 0x0403_0201)))
        );
        assert_eq!(Ttl::strip(b"abc"), None);
        assert_eq!(Ttl::new(1).decide_at(b"abc", Duration::MAX), Decision::Keep);
    }
}
