//! Handles of records that were between two subtasks when an unaligned checkpoint was taken.

use super::reader::{Malformed, Reader, Reason};
use super::stream::{self, StreamHandle};

/// Records of one channel, or of all channels of a subtask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelHandle {
    /// The subtask.
    pub subtask: u32,
    /// Which records.
    pub what: Channel,
    /// How much, in bytes.
    pub len_bytes: i64,
    /// Where.
    pub stream: Option<StreamHandle>,
}

/// See [`ChannelHandle::what`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    /// One channel.
    One {
        /// Index of the input gate, or of the result partition.
        gate: i32,
        /// Index of the channel in it.
        channel: i32,
        /// Where in the stream its buffers begin.
        offsets: Vec<i64>,
    },
    /// All, with an index of which begins where. From version 6.
    Merged {
        /// The index, as Flink serialises it.
        index: Vec<u8>,
    },
}

/// On which side of the operator the channels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Input,
    Output,
}

/// All handles of one side of a subtask.
pub(super) fn read_all(
    reader: &mut Reader<'_>,
    side: Side,
    version: i32,
) -> Result<Vec<ChannelHandle>, Malformed> {
    // A merged one is the shortest: subtask, size, null, no index; and its tag.
    let least_bytes = if version >= 6 { 18 } else { 25 };
    let count = reader.count(least_bytes, "the number of channels")?;
    (0..count).map(|_| read(reader, side, version)).collect()
}

fn read(reader: &mut Reader<'_>, side: Side, version: i32) -> Result<ChannelHandle, Malformed> {
    let offset = reader.offset();
    let is_merged = if version >= 6 {
        match (reader.u8("the kind of a channel")?, side) {
            (1, Side::Input) | (2, Side::Output) => false,
            (3, Side::Input) | (4, Side::Output) => true,
            (found, _) => {
                let reason = Reason::Unknown { found: found.into() };
                return Err(Reader::wrong(offset, "the kind of a channel", reason));
            }
        }
    } else {
        false
    };
    let subtask = reader.u31("the subtask of a channel")?;
    if is_merged {
        let len_bytes = reader.i64("the length of channels")?;
        let stream = stream::read(reader, 0)?;
        let index = reader.blob("the index of channels")?.to_vec();
        return Ok(ChannelHandle { subtask, what: Channel::Merged { index }, len_bytes, stream });
    }
    let (gate, channel) = (reader.i32("the gate of a channel")?, reader.i32("the index of a channel")?);
    let count = reader.count(8, "the number of buffers")?;
    let offsets = reader.longs(count, "the offset of a buffer")?;
    let len_bytes = reader.i64("the length of a channel")?;
    let what = Channel::One { gate, channel, offsets };
    Ok(ChannelHandle { subtask, what, len_bytes, stream: stream::read(reader, 0)? })
}
