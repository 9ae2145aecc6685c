//! Cuts records into framed fragments.

use super::*;
use crate::store::coding::{masked_crc32c, put_fixed32};

/// Frames records. It only encodes: the caller writes the bytes, all of them, in order.
#[derive(Clone, Debug, Default)]
pub struct LogWriter {
    block_offset: usize,
    recyclable: Option<u32>,
}

impl LogWriter {
    /// For a new log in the plain form.
    pub fn new() -> Self {
        Self::default()
    }

    /// For a new log in the recyclable form; `log_number` is cut to 32 bits.
    pub fn recyclable(log_number: u64) -> Self {
        LogWriter { block_offset: 0, recyclable: Some(log_number as u32) }
    }

    fn header_bytes(&self) -> usize {
        if self.recyclable.is_some() { RECYCLABLE_HEADER_BYTES } else { HEADER_BYTES }
    }

    /// How many zeros come before the next record: what is left of its block, if that is too short for a header.
    pub fn padding_bytes(&self) -> usize {
        let room = BLOCK_BYTES - self.block_offset;
        if room < self.header_bytes() { room } else { 0 }
    }

    /// True if a record of `len_bytes` would not be cut into fragments.
    pub fn fits(&self, len_bytes: usize) -> bool {
        let begin = (self.block_offset + self.padding_bytes()) % BLOCK_BYTES;
        begin + self.header_bytes() + len_bytes <= BLOCK_BYTES
    }

    /// Appends the framed record to `out`.
    pub fn add_record(&mut self, record: &[u8], out: &mut Vec<u8>) {
        let header_bytes = self.header_bytes();
        let mut rest = record;
        let mut is_first = true;
        loop {
            let padding_bytes = self.padding_bytes();
            out.resize(out.len() + padding_bytes, 0);
            self.block_offset = (self.block_offset + padding_bytes) % BLOCK_BYTES;
            let room = BLOCK_BYTES - self.block_offset;
            let (fragment, after) = rest.split_at(rest.len().min(room - header_bytes));
            let kind = match (is_first, after.is_empty()) {
                (true, true) => FULL,
                (true, false) => FIRST,
                (false, false) => MIDDLE,
                (false, true) => LAST,
            };
            self.add_fragment(kind, fragment, out);
            self.block_offset += header_bytes + fragment.len();
            if after.is_empty() {
                return;
            }
            (rest, is_first) = (after, false);
        }
    }

    fn add_fragment(&self, kind: u8, fragment: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        put_fixed32(out, 0);
        out.extend_from_slice(&(fragment.len() as u16).to_le_bytes());
        match self.recyclable {
            None => out.push(kind),
            Some(number) => {
                out.push(kind + RECYCLABLE);
                put_fixed32(out, number);
            }
        }
        out.extend_from_slice(fragment);
        let crc = masked_crc32c(&out[start + 6..]);
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    }
}
