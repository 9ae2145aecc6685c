//! An operator, its subtasks, and state that has no key.

use super::channel::{self, ChannelHandle, Side};
use super::keyed::{self, KeyedHandle};
use super::reader::{Malformed, Reader, Reason};
use super::stream::{self, StreamHandle};

const PARTITIONABLE: u8 = 4;
const SEGMENT_PARTITIONABLE: u8 = 17;

/// How an operator is known: derived from its uid, or from its place in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperatorId(pub [u8; 16]);

impl std::fmt::Display for OperatorId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Its name for people. From version 5.
    pub name: Option<String>,
    /// The uid that its author gave it. From version 5.
    pub uid: Option<String>,
    /// How it is known.
    pub id: OperatorId,
    /// How many subtasks it had.
    pub parallelism: u32,
    /// How many key groups it has.
    pub max_parallelism: u32,
    /// State of the operator's coordinator.
    pub coordinator: Option<StreamHandle>,
    /// Those that have state, or have finished; `None` if all have finished.
    pub subtasks: Option<Vec<Subtask>>,
}

/// A subtask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subtask {
    /// Which.
    pub index: u32,
    /// Its state; `None` if it has finished.
    pub state: Option<SubtaskState>,
}

/// State of a subtask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubtaskState {
    /// Without a key, under names.
    pub managed_operator: Option<OperatorHandle>,
    /// Without a key, as the operator writes it.
    pub raw_operator: Option<OperatorHandle>,
    /// By key.
    pub managed_keyed: Option<KeyedHandle>,
    /// By key, as the operator writes it.
    pub raw_keyed: Option<KeyedHandle>,
    /// Records that had arrived.
    pub inputs: Vec<ChannelHandle>,
    /// Records that had not left.
    pub outputs: Vec<ChannelHandle>,
}

/// State without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorHandle {
    /// By name.
    pub parts: Vec<Part>,
    /// Directories of tasks' shared and own merged files, if files are merged.
    pub directories: Option<(String, String)>,
    /// Where it is.
    pub stream: Option<StreamHandle>,
}

/// A named part of state without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// What becomes of it at another parallelism.
    pub mode: Mode,
    /// Where in the stream its items begin.
    pub offsets: Vec<i64>,
}

/// What becomes of a list at another parallelism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each item goes to one subtask.
    Split,
    /// Each subtask gets all items of all.
    Union,
    /// Each subtask has the same.
    Broadcast,
}

/// The next operator.
pub(super) fn read(reader: &mut Reader<'_>, version: i32) -> Result<Operator, Malformed> {
    let mut named = |what| {
        let text = if version >= 5 { reader.utf(what)? } else { String::new() };
        Ok(Some(text).filter(|text| !text.is_empty()))
    };
    let (name, uid) = (named("the name of an operator")?, named("the uid of an operator")?);
    let id =
        OperatorId(reader.take(16, "the id of an operator")?.try_into().expect("as many as were asked for"));
    let parallelism = reader.u31("the parallelism of an operator")?;
    let max_parallelism = reader.u31("the maximum parallelism of an operator")?;
    let offset = reader.offset();
    let coordinator = stream::read(reader, 0)?;
    let what = "the state of an operator's coordinator";
    if !matches!(coordinator, None | Some(StreamHandle::Bytes { .. })) {
        return Err(Reader::wrong(offset, what, Reason::Unexpected { wanted: "bytes" }));
    }
    let count_offset = reader.offset();
    let count = reader.i32("the number of subtasks")?;
    let subtasks = match usize::try_from(count) {
        Err(_) if coordinator.is_some() => return Err(Reader::wrong(offset, what, Reason::Present)),
        Err(_) => None,
        // A finished one is its index alone.
        Ok(count) if count > reader.left() / 4 => {
            let reason = Reason::Truncated { wanted: count as u64 * 4, left: reader.left() };
            return Err(Reader::wrong(count_offset, "the number of subtasks", reason));
        }
        Ok(count) => Some((0..count).map(|_| subtask(reader, version)).collect::<Result<_, _>>()?),
    };
    Ok(Operator { name, uid, id, parallelism, max_parallelism, coordinator, subtasks })
}

fn subtask(reader: &mut Reader<'_>, version: i32) -> Result<Subtask, Malformed> {
    let index = reader.i32("the index of a subtask")?;
    // The complement of an index says that it has finished.
    if index < 0 {
        return Ok(Subtask { index: !index as u32, state: None });
    }
    let state = SubtaskState {
        managed_operator: operator_state(reader)?,
        raw_operator: operator_state(reader)?,
        managed_keyed: keyed::read(reader, 0)?,
        raw_keyed: keyed::read(reader, 0)?,
        inputs: channel::read_all(reader, Side::Input, version)?,
        outputs: channel::read_all(reader, Side::Output, version)?,
    };
    Ok(Subtask { index: index as u32, state: Some(state) })
}

fn operator_state(reader: &mut Reader<'_>) -> Result<Option<OperatorHandle>, Malformed> {
    if reader.i32("whether there is operator state")? == 0 {
        return Ok(None);
    }
    let offset = reader.offset();
    let what = "a handle of operator state";
    let tag = match reader.u8(what)? {
        stream::NULL => return Ok(None),
        tag @ (PARTITIONABLE | SEGMENT_PARTITIONABLE) => tag,
        found => return Err(Reader::wrong(offset, what, Reason::Unknown { found: found.into() })),
    };
    let count = reader.count(7, "the number of named states")?;
    let parts = (0..count).map(|_| part(reader)).collect::<Result<_, _>>()?;
    let mut directories = None;
    if tag == SEGMENT_PARTITIONABLE {
        let own = reader.utf("the directory of a task's files")?;
        directories = Some((own, reader.utf("the directory of shared files")?));
        // Whether it is empty shows in the handle that follows.
        reader.u8("whether a segment is empty")?;
    }
    Ok(Some(OperatorHandle { parts, directories, stream: stream::read(reader, 0)? }))
}

fn part(reader: &mut Reader<'_>) -> Result<Part, Malformed> {
    let name = reader.utf("the name of a state")?;
    let offset = reader.offset();
    let mode = match reader.u8("the mode of a state")? {
        0 => Mode::Split,
        1 => Mode::Union,
        2 => Mode::Broadcast,
        found => {
            let reason = Reason::Unknown { found: found.into() };
            return Err(Reader::wrong(offset, "the mode of a state", reason));
        }
    };
    let count = reader.count(8, "the number of items")?;
    Ok(Part { name, mode, offsets: reader.longs(count, "the offset of an item")? })
}
