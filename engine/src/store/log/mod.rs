//! The framing of WAL and MANIFEST: records in blocks of 32 KiB (7.8.3 `db/log_format.h`).
//!
//! A record is cut into fragments, none of which crosses a block. Each has a header: masked crc32c(4) of what follows the
//! length, length(2), type(1), and in the recyclable form the low half of the log's number(4), which tells a stale record
//! of the file's former life from a new one. A tail of a block too short for a header is zeros.
//!
//! Written: the plain form (and the recyclable one, for tests of the reader). Read: both. Not read: compressed logs, user
//! timestamps; a whole record of such a type is refused by name, for what it holds is no damage and no torn tail.

mod reader;
mod writer;

pub use reader::{Damage, LogEnd, LogReader};
pub use writer::LogWriter;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 32 * 1024;
/// Bytes of a plain header.
pub const HEADER_BYTES: usize = 7;
/// Bytes of a recyclable header.
pub const RECYCLABLE_HEADER_BYTES: usize = 11;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
/// Added to a type in the recyclable form.
const RECYCLABLE: u8 = 4;
/// The first record of a log whose other records are compressed.
const COMPRESSION: u8 = 9;
