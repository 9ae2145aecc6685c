//! What flows through a channel: records, and between them barriers and what is known of event time.
//!
//! A frame is a batch of elements, one after the other, without a count. The low half of an element's first byte says what
//! it is:
//!
//! | | |
//! |---|---|
//! | 1 `key value` | a record without a time (both parts as a varint length and that many bytes) |
//! | 2 `barrier` | a barrier (postcard, after its varint length) |
//! | 3 `time` | a watermark (zigzag varint, milliseconds) |
//! | 4 | the channel is idle |
//! | 5 `time key value` | a record with its time |
//!
//! The high half is 0, but for records: there it is the input of the receiver that they are for. Decoding copies nothing (keys
//! and values are slices of the frame) and allocates no more than the frame's length allows: what a length promises must be
//! there.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::checkpoint::barrier::{Barrier, MAX_DIRECTORY_BYTES};

/// The longest frame of a channel that is accepted, in bytes. Batches are far smaller unless a single record is large.
pub const MAX_BATCH_BYTES: usize = 1 << 20;
/// The longest key or value, in bytes.
pub const MAX_PART_BYTES: usize = MAX_BATCH_BYTES / 4;
/// The longest encoding of a barrier, in bytes.
const MAX_BARRIER_BYTES: usize = MAX_DIRECTORY_BYTES + 64;

/// The time of a record that has none, in milliseconds: before all others.
pub const NO_TIME_MS: i64 = i64::MIN;
/// The highest number of an input of a vertex.
pub const MAX_INPUT: u8 = 15;

const RECORD: u8 = 1;
const BARRIER: u8 = 2;
const WATERMARK: u8 = 3;
const IDLE: u8 = 4;
const TIMED_RECORD: u8 = 5;

/// A key and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// Decides which subtask gets it.
    pub key: Bytes,
    /// Opaque to the stream.
    pub value: Bytes,
    /// Event time in milliseconds, or [`NO_TIME_MS`].
    pub time_ms: i64,
    /// Which input of the receiving vertex it is for; 0 if that has but one.
    pub input: u8,
}

/// One thing in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Element {
    /// Data.
    Record(Record),
    /// The records before it belong to the checkpoint, those after it do not.
    Barrier(Barrier),
    /// No record with a time up to and including this one (in milliseconds) follows. The channel is not idle.
    Watermark(i64),
    /// Nobody shall wait for watermarks of this channel until the next one comes.
    Idle,
}

/// Bytes that are not elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed batch at byte {at_byte}: {what}")]
pub struct Malformed {
    /// Where.
    pub at_byte: usize,
    /// What is wrong there.
    pub what: &'static str,
}

impl Element {
    /// About how much memory it holds, in bytes; never 0.
    pub fn len_bytes(&self) -> usize {
        match self {
            Element::Record(record) => 1 + record.key.len() + record.value.len(),
            Element::Barrier(_) | Element::Watermark(_) | Element::Idle => 1,
        }
    }

    /// Appends the element to a batch.
    ///
    /// # Panics
    /// If a key or value is longer than [`MAX_PART_BYTES`]: operators do not make such.
    pub fn encode(&self, batch: &mut BytesMut) {
        match self {
            Element::Record(record) => record.encode_as_element(batch),
            Element::Barrier(barrier) => {
                batch.put_u8(BARRIER);
                let encoded =
                    postcard::to_stdvec(barrier).expect("a barrier holds nothing that cannot be encoded");
                assert!(encoded.len() <= MAX_BARRIER_BYTES, "a barrier of {} bytes", encoded.len());
                put_varint(batch, encoded.len() as u64);
                batch.put_slice(&encoded);
            }
            Element::Watermark(time_ms) => {
                batch.put_u8(WATERMARK);
                put_varint(batch, zigzag(*time_ms));
            }
            Element::Idle => batch.put_u8(IDLE),
        }
    }
}

impl Record {
    /// Without a time, for the only input.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Record {
        Record { key: key.into(), value: value.into(), time_ms: NO_TIME_MS, input: 0 }
    }

    /// The same at a time.
    pub fn at(self, time_ms: i64) -> Record {
        Record { time_ms, ..self }
    }

    /// Appends what [`Element::Record`] of it would be.
    ///
    /// # Panics
    /// As [`Element::encode`]; or if the input is above [`MAX_INPUT`].
    pub fn encode_as_element(&self, batch: &mut BytesMut) {
        assert!(self.input <= MAX_INPUT, "input {}", self.input);
        if self.time_ms == NO_TIME_MS {
            batch.put_u8(RECORD | self.input << 4);
        } else {
            batch.put_u8(TIMED_RECORD | self.input << 4);
            put_varint(batch, zigzag(self.time_ms));
        }
        self.encode(batch);
    }

    /// Appends key and value, each after its length.
    ///
    /// # Panics
    /// As [`Element::encode`].
    pub fn encode(&self, out: &mut BytesMut) {
        for part in [&self.key, &self.value] {
            assert!(part.len() <= MAX_PART_BYTES, "a key or value of {} bytes", part.len());
            put_varint(out, part.len() as u64);
            out.put_slice(part);
        }
    }
}

/// Reads elements or records from bytes that may be anything.
#[derive(Debug)]
pub struct Decoder {
    bytes: Bytes,
    len: usize,
}

impl Decoder {
    /// Of a batch, or of any concatenation of records.
    pub fn new(bytes: Bytes) -> Decoder {
        let len = bytes.len();
        Decoder { bytes, len }
    }

    /// True if nothing is left.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { at_byte: self.len - self.bytes.len(), what }
    }

    /// The next element; `None` at the end.
    ///
    /// # Errors
    /// If what follows is not one.
    pub fn element(&mut self) -> Result<Option<Element>, Malformed> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let at = self.malformed("no element");
        let first = self.bytes.get_u8();
        let (what, input) = (first & 0xf, first >> 4);
        let element = match what {
            RECORD => Element::Record(Record { input, ..self.parts()? }),
            TIMED_RECORD => {
                let time_ms = self.time()?;
                Element::Record(Record { time_ms, input, ..self.parts()? })
            }
            _ if input > 0 => return Err(at),
            BARRIER => Element::Barrier(self.barrier()?),
            WATERMARK => Element::Watermark(self.time()?),
            IDLE => Element::Idle,
            _ => return Err(at),
        };
        Ok(Some(element))
    }

    fn time(&mut self) -> Result<i64, Malformed> {
        let bits = self.varint()?;
        Ok((bits >> 1) as i64 ^ -((bits & 1) as i64))
    }

    /// The next record without a tag before it; `None` at the end.
    ///
    /// # Errors
    /// If what follows is not one.
    pub fn record(&mut self) -> Result<Option<Record>, Malformed> {
        if self.bytes.is_empty() { Ok(None) } else { self.parts().map(Some) }
    }

    fn barrier(&mut self) -> Result<Barrier, Malformed> {
        let encoded = self.part()?;
        if encoded.len() > MAX_BARRIER_BYTES {
            return Err(self.malformed("a barrier that is too long"));
        }
        match postcard::take_from_bytes(&encoded) {
            Ok((barrier, [])) => Ok(barrier),
            _ => Err(self.malformed("not a barrier")),
        }
    }

    fn parts(&mut self) -> Result<Record, Malformed> {
        Ok(Record::new(self.part()?, self.part()?))
    }

    fn part(&mut self) -> Result<Bytes, Malformed> {
        let len = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        if len > MAX_PART_BYTES {
            return Err(self.malformed("a key or value that is too long"));
        }
        if len > self.bytes.len() {
            return Err(self.malformed("a key or value that is cut off"));
        }
        Ok(self.bytes.split_to(len))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.bytes.is_empty() {
                return Err(self.malformed("a number that is cut off"));
            }
            let byte = self.bytes.get_u8();
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed("a number of more than 64 bits"))
    }
}

/// Small numbers of either sign become small ones without.
fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::snapshot::CheckpointId;
    use proptest::prelude::*;

    fn elements() -> impl Strategy<Value = Vec<Element>> {
        let part = || proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        let time = || prop_oneof![Just(NO_TIME_MS), Just(i64::MAX), any::<i64>(), -200..200i64];
        let record = (part(), part(), time(), 0..=MAX_INPUT)
            .prop_map(|(key, value, time_ms, input)| Element::Record(Record { key, value, time_ms, input }));
        let barrier = any::<u64>().prop_map(|id| Element::Barrier(Barrier::aligned(CheckpointId(id))));
        let watermark = time().prop_map(Element::Watermark);
        proptest::collection::vec(prop_oneof![record, barrier, watermark, Just(Element::Idle)], 0..20)
    }

    fn decode(bytes: &[u8]) -> Result<Vec<Element>, Malformed> {
        let mut decoder = Decoder::new(Bytes::copy_from_slice(bytes));
        std::iter::from_fn(|| decoder.element().transpose()).collect()
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(elements in elements()) {
            let mut batch = BytesMut::new();
            elements.iter().for_each(|e| e.encode(&mut batch));
            prop_assert_eq!(decode(&batch).unwrap(), elements);
        }

        #[test]
        fn a_cut_batch_is_refused_or_a_prefix(elements in elements(), cut: proptest::sample::Index) {
            let mut batch = BytesMut::new();
            elements.iter().for_each(|e| e.encode(&mut batch));
            batch.truncate(cut.index(batch.len() + 1));
            if let Ok(decoded) = decode(&batch) {
                prop_assert!(elements.starts_with(&decoded));
            }
        }

        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_promised_length_is_not_believed() {
        assert_eq!(
            decode(&[RECORD, 0xff, 0xff, 0xff, 0xff, 0x0f]).unwrap_err().what,
            "a key or value that is too long"
        );
        assert_eq!(
            decode(&[RECORD, 5, 1]).unwrap_err(),
            Malformed { at_byte: 2, what: "a key or value that is cut off" }
        );
        assert_eq!(decode(&[9]).unwrap_err(), Malformed { at_byte: 0, what: "no element" });
        assert_eq!(decode(&[BARRIER; 12]).unwrap_err().what, "not a barrier");
        assert!(decode(&[&[BARRIER][..], &[0xff; 10]].concat()).is_err());
    }
}
