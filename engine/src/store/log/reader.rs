//! Reads framed records back, and says how the log ended.
//!
//! What a crash can do to a log that is appended to: cut it anywhere, and leave any part of what was not synced unwritten,
//! as zeros. So the first fragment that is not whole ends the log; whether that is a torn tail or damage to something that
//! was durable, framing alone cannot tell. [`LogReader::intact_record_after`] says whether another record begins later in
//! the file, which settles it for a MANIFEST (each edit is synced before the next is written).
//!
//! RocksDB skips the rest of a block when it meets a header of zeros, and goes on with the next block. That can jump over a
//! sector that was lost; here zeros end the log, and only zeros may follow them.

use std::borrow::Cow;

use super::*;
use crate::store::coding::masked_crc32c;

/// Reads the records of a log that is in memory.
#[derive(Clone, Debug)]
pub struct LogReader<'a> {
    data: &'a [u8],
    log_number: u32,
    at: usize,
}

/// Where a log stops to be readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where the record begins that is not whole.
    pub record_offset_bytes: u64,
    /// Where in it the damage is.
    pub offset_bytes: u64,
    /// What was found.
    pub what: &'static str,
}

/// How a log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEnd {
    /// After a whole record; what follows, if anything, is zeros or the file's former life.
    Clean {
        /// Length of all records read.
        valid_bytes: u64,
    },
    /// In a record that is not whole.
    Damaged(Damage),
    /// At a record that is whole, and of a kind that is not read here. What it means for those behind it nobody knows.
    Unsupported {
        /// Where it begins.
        offset_bytes: u64,
        /// Which feature of RocksDB it is.
        what: &'static str,
    },
}

enum Fragment<'a> {
    Whole { kind: u8, payload: &'a [u8] },
    End,
    Bad { at: usize, what: &'static str },
    Foreign { at: usize, what: &'static str },
}

/// Why no fragment of this log begins in some place.
enum NoFragment {
    /// It is not whole.
    Broken(&'static str),
    /// It is whole, and of the file's former life.
    Stale,
    /// It is whole, and of a kind that is not read here.
    Foreign(&'static str),
}

impl<'a> LogReader<'a> {
    /// At the start of `data`. The number of the log is compared with that in recyclable records.
    pub fn new(data: &'a [u8], log_number: u64) -> Self {
        LogReader { data, log_number: log_number as u32, at: 0 }
    }

    /// The offset of the record that comes next.
    pub fn offset(&self) -> u64 {
        self.at as u64
    }

    /// The next record, or how the log ended.
    pub fn next_record(&mut self) -> Result<Cow<'a, [u8]>, LogEnd> {
        let start = self.at;
        let mut assembled: Option<Vec<u8>> = None;
        let damaged = |at: usize, what| {
            let (record_offset_bytes, offset_bytes) = (start as u64, at as u64);
            Err(LogEnd::Damaged(Damage { record_offset_bytes, offset_bytes, what }))
        };
        let mut at = start;
        loop {
            let fragment_at = at;
            match self.fragment(&mut at) {
                Fragment::Bad { at, what } => return damaged(at, what),
                Fragment::Foreign { at, what } => {
                    return Err(LogEnd::Unsupported { offset_bytes: at as u64, what });
                }
                Fragment::End if assembled.is_some() => return damaged(fragment_at, "a record is cut off"),
                Fragment::End => return Err(LogEnd::Clean { valid_bytes: start as u64 }),
                Fragment::Whole { kind, payload } => match (kind, &mut assembled) {
                    (FULL, None) => {
                        self.at = at;
                        return Ok(Cow::Borrowed(payload));
                    }
                    // An old writer could leave an empty first fragment at the end of a block and start anew.
                    (FULL, Some(before)) if before.is_empty() => {
                        self.at = at;
                        return Ok(Cow::Borrowed(payload));
                    }
                    (FIRST, None) => assembled = Some(payload.to_vec()),
                    (FIRST, Some(before)) if before.is_empty() => *before = payload.to_vec(),
                    (MIDDLE, Some(before)) => before.extend_from_slice(payload),
                    (LAST, Some(before)) => {
                        before.extend_from_slice(payload);
                        self.at = at;
                        return Ok(Cow::Owned(std::mem::take(before)));
                    }
                    (FULL | FIRST, _) => return damaged(fragment_at, "a record has no last fragment"),
                    _ => return damaged(fragment_at, "a record has no first fragment"),
                },
            }
        }
    }

    /// True if an intact record begins anywhere in the file after the one at `offset_bytes`, block structure or not.
    pub fn intact_record_after(&self, offset_bytes: u64) -> bool {
        self.first_intact_after(offset_bytes).is_some()
    }

    fn first_intact_after(&self, offset_bytes: u64) -> Option<usize> {
        let at = usize::try_from(offset_bytes).unwrap_or(usize::MAX).min(self.data.len());
        // The record's own first fragment lies behind the padding, if it begins with that.
        let from = self.after_padding(at).saturating_add(1);
        (from..self.data.len()).find(|start| {
            let mut at = *start;
            matches!(self.whole_fragment(&mut at), Ok((FULL | FIRST, _)))
        })
    }

    /// Moves on to the next intact record that begins after `offset_bytes`, as [`LogReader::intact_record_after`] finds it; false
    /// if there is none.
    pub fn skip_to_intact_after(&mut self, offset_bytes: u64) -> bool {
        let found = self.first_intact_after(offset_bytes);
        self.at = found.unwrap_or(self.data.len());
        found.is_some()
    }

    /// The record that begins at `at` and is not cut into fragments, if it is intact.
    pub fn whole_record_at(&self, at: usize) -> Option<&'a [u8]> {
        let mut at = at;
        match self.whole_fragment(&mut at) {
            Ok((FULL, payload)) => Some(payload),
            _ => None,
        }
    }

    /// Where the fragment begins that comes next at `at`.
    fn after_padding(&self, at: usize) -> usize {
        let room = BLOCK_BYTES - at % BLOCK_BYTES;
        // The recyclable form pads where the plain one would begin a fragment; had that been lost, the next is no first one.
        let is_padding = |tail: &[u8]| tail.len() == room && tail.iter().all(|b| *b == 0);
        let tail = self.data.get(at..(at + room).min(self.data.len())).unwrap_or_default();
        let padded = room < HEADER_BYTES || room < RECYCLABLE_HEADER_BYTES && is_padding(tail);
        if padded { at + room } else { at }
    }

    fn fragment(&self, at: &mut usize) -> Fragment<'a> {
        *at = self.after_padding(*at);
        let here = *at;
        let rest = self.data.get(here..).unwrap_or_default();
        if rest.is_empty() {
            return Fragment::End;
        }
        if rest.len() < HEADER_BYTES {
            let zeros = rest.iter().all(|b| *b == 0);
            return if zeros {
                Fragment::End
            } else {
                Fragment::Bad { at: here, what: "a header is cut off" }
            };
        }
        if rest[4..7] == [0, 0, 0] {
            let zeros = rest.iter().all(|b| *b == 0);
            let what = "a header of zeros, with data after it";
            return if zeros { Fragment::End } else { Fragment::Bad { at: here, what } };
        }
        match self.whole_fragment(at) {
            Ok((kind, payload)) => Fragment::Whole { kind, payload },
            Err(NoFragment::Stale) => Fragment::End,
            Err(NoFragment::Broken(what)) => Fragment::Bad { at: here, what },
            Err(NoFragment::Foreign(what)) => Fragment::Foreign { at: here, what },
        }
    }

    /// The fragment at `at`, which is then moved past it.
    fn whole_fragment(&self, at: &mut usize) -> Result<(u8, &'a [u8]), NoFragment> {
        let broken = |what| Err(NoFragment::Broken(what));
        let here = *at;
        let rest = self.data.get(here..).unwrap_or_default();
        if rest.len() < HEADER_BYTES {
            return broken("a header is cut off");
        }
        let (header_bytes, kind) = match rest[6] {
            kind @ 5..=8 => (RECYCLABLE_HEADER_BYTES, kind - RECYCLABLE),
            kind => (HEADER_BYTES, kind),
        };
        let len = usize::from(u16::from_le_bytes([rest[4], rest[5]]));
        let end = header_bytes + len;
        if here % BLOCK_BYTES + end > BLOCK_BYTES {
            return broken("a record crosses its block");
        }
        if end > rest.len() {
            return broken("a record is cut off");
        }
        let stored = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
        if masked_crc32c(&rest[6..end]) != stored {
            return broken("a record's checksum does not match");
        }
        if header_bytes == RECYCLABLE_HEADER_BYTES && rest[7..11] != self.log_number.to_le_bytes() {
            return Err(NoFragment::Stale);
        }
        match kind {
            FULL..=LAST => {
                *at = here + end;
                Ok((kind, &rest[header_bytes..end]))
            }
            COMPRESSION => Err(NoFragment::Foreign("a compressed log")),
            _ => Err(NoFragment::Foreign("a record of an unknown type in a log")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(writer: &mut LogWriter, records: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for record in records {
            writer.add_record(record, &mut out);
        }
        out
    }

    fn read_all(data: &[u8], number: u64) -> (Vec<Vec<u8>>, LogEnd) {
        let mut reader = LogReader::new(data, number);
        let mut records = Vec::new();
        loop {
            match reader.next_record() {
                Ok(record) => records.push(record.into_owned()),
                Err(end) => return (records, end),
            }
        }
    }

    fn records() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let small = prop::collection::vec(any::<u8>(), 0..40);
        let near_a_block = (BLOCK_BYTES - 40..BLOCK_BYTES + 40).prop_map(|n| vec![7u8; n]);
        let large = (0usize..100_000).prop_map(|n| vec![9u8; n]);
        prop::collection::vec(prop_oneof![6 => small, 2 => near_a_block, 1 => large], 0..12)
    }

    #[test]
    fn zeros_in_the_middle_do_not_hide_a_hole() {
        // A sector of an unsynced log was lost and later ones were not: reading on at the next block, as RocksDB does,
        // would apply a later write without the earlier one.
        let mut data = write(&mut LogWriter::new(), &vec![vec![1u8; 1000]; 60]);
        data[5035..5547].fill(0);
        let (records, end) = read_all(&data, 0);
        assert_eq!(records.len(), 5);
        assert!(matches!(end, LogEnd::Damaged(d) if d.what == "a header of zeros, with data after it"));
        let cut = data.iter().take(5035).copied().chain([0; 4000]).collect::<Vec<_>>();
        assert_eq!(read_all(&cut, 0), (records, LogEnd::Clean { valid_bytes: 5035 }));
    }

    #[test]
    fn a_whole_record_of_another_type_is_no_torn_tail() {
        let mut data = write(&mut LogWriter::new(), &[vec![1u8; 100]]);
        let offset_bytes = data.len() as u64;
        for (kind, what) in [(9u8, "a compressed log"), (130, "a record of an unknown type in a log")] {
            data.truncate(offset_bytes as usize);
            let body = [kind, 7, 0, 0, 0];
            data.extend_from_slice(&masked_crc32c(&body).to_le_bytes());
            data.extend_from_slice(&[4, 0]);
            data.extend_from_slice(&body);
            let whole = (vec![vec![1u8; 100]], LogEnd::Unsupported { offset_bytes, what });
            assert_eq!(read_all(&data, 0), whole);
            *data.last_mut().unwrap() ^= 1;
            assert!(matches!(read_all(&data, 0).1, LogEnd::Damaged(d) if d.what.contains("checksum")));
        }
    }

    #[test]
    fn records_of_the_former_life_end_the_log() {
        let old = write(&mut LogWriter::recyclable(3), &vec![vec![1u8; 100]; 3]);
        let mut data = write(&mut LogWriter::recyclable(4), &[vec![2u8; 100]]);
        let valid_bytes = data.len() as u64;
        data.extend_from_slice(&old[data.len()..]);
        assert_eq!(read_all(&data, 4), (vec![vec![2u8; 100]], LogEnd::Clean { valid_bytes }));
        assert_eq!(read_all(&old, 4), (vec![], LogEnd::Clean { valid_bytes: 0 }));
    }

    #[test]
    fn a_flipped_bit_is_told_from_a_torn_tail() {
        let data = write(&mut LogWriter::new(), &vec![vec![1u8; 100]; 4]);
        for at in [108usize, 111, 112, 113, 150] {
            let mut bad = data.clone();
            bad[at] ^= 1;
            let mut reader = LogReader::new(&bad, 0);
            assert!(reader.next_record().is_ok());
            let Err(LogEnd::Damaged(damage)) = reader.next_record() else {
                panic!("byte {at} was not noticed")
            };
            assert_eq!(damage.record_offset_bytes, 107);
            assert!(reader.intact_record_after(damage.record_offset_bytes), "byte {at}");
        }
        let mut torn = data.clone();
        torn[400] ^= 1;
        assert!(!LogReader::new(&torn, 0).intact_record_after(321));
    }

    proptest! {
        #[test]
        fn roundtrip(records in records(), number: u64, recyclable: bool) {
            let mut writer = if recyclable { LogWriter::recyclable(number) } else { LogWriter::new() };
            let data = write(&mut writer, &records);
            prop_assert_eq!(read_all(&data, number), (records, LogEnd::Clean { valid_bytes: data.len() as u64 }));
        }

        #[test]
        fn a_cut_leaves_a_prefix(records in records(), cut: prop::sample::Index) {
            let mut data = write(&mut LogWriter::new(), &records);
            data.truncate(cut.index(data.len() + 1));
            let (read, end) = read_all(&data, 0);
            prop_assert!(records.starts_with(&read));
            if let LogEnd::Damaged(damage) = end {
                prop_assert!(!LogReader::new(&data, 0).intact_record_after(damage.record_offset_bytes));
            }
        }

        #[test]
        fn a_changed_byte_never_changes_a_record(records in records(), at: prop::sample::Index, xor in 1u8..) {
            let mut data = write(&mut LogWriter::new(), &records);
            prop_assume!(!data.is_empty());
            let at = at.index(data.len());
            data[at] ^= xor;
            let (read, _) = read_all(&data, 0);
            prop_assert!(records.starts_with(&read));
        }

        #[test]
        fn anything_is_read_without_panic(data in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..9], 0..300)) {
            let _ = read_all(&data, 0);
            LogReader::new(&data, 0).intact_record_after(0);
        }
    }
}
