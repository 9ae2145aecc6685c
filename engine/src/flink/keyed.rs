//! Handles of keyed state.

use super::reader::{MAX_DEPTH, Malformed, Reader, Reason};
use super::stream::{self, StreamHandle};

const KEY_GROUPS_V2: u8 = 12;
const SAVEPOINT_KEY_GROUPS: u8 = 7;
const INCREMENTAL: u8 = 5;
const INCREMENTAL_V2: u8 = 11;
const CHANGELOG: u8 = 8;
const CHANGELOG_V2: u8 = 14;
const CHANGES_IN_PLACE: u8 = 9;
const CHANGES_IN_FILES: u8 = 10;
const CHANGES_IN_FILES_V2: u8 = 13;

/// Key groups that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl Range {
    fn read(reader: &mut Reader<'_>) -> Result<Range, Malformed> {
        let first = reader.u31("the first key group")?;
        Ok(Range { first, count: reader.u31("the number of key groups")? })
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.count {
            0 => write!(f, "none"),
            count => write!(f, "{}..={}", self.first, u64::from(self.first) + u64::from(count) - 1),
        }
    }
}

/// Key groups, and where each begins in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyGroups {
    /// Which.
    pub range: Range,
    /// One for each; -1 for one that holds nothing.
    pub offsets: Vec<i64>,
}

impl KeyGroups {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<KeyGroups, Malformed> {
        let first = reader.u31("the first key group")?;
        let count = reader.count(8, "the number of key groups")?;
        let offsets = reader.longs(count, "the offset of a key group")?;
        let count = u32::try_from(count).expect("it was read as one");
        Ok(KeyGroups { range: Range { first, count }, offsets })
    }
}

/// A file of a local store, and where its content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// Its name in the store's directory.
    pub name: String,
    /// The content.
    pub stream: Option<StreamHandle>,
}

/// Keyed state of one subtask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyedHandle {
    /// All of it in one stream.
    Whole {
        /// Which key groups, and where they begin.
        groups: KeyGroups,
        /// In the canonical format of savepoints, which every backend reads.
        is_canonical: bool,
        /// The stream.
        stream: Option<StreamHandle>,
        /// Unique to the handle, if the format has it.
        id: Option<String>,
    },
    /// Files of a store, some of them shared with other checkpoints.
    Incremental {
        /// The checkpoint that made the handle.
        checkpoint: i64,
        /// Unique to the store.
        backend: String,
        /// Which key groups.
        range: Range,
        /// What this checkpoint added, in bytes; if known.
        added_bytes: Option<i64>,
        /// What is known of the store's column families.
        meta: Option<StreamHandle>,
        /// Files that other checkpoints may reference.
        shared: Vec<LocalFile>,
        /// Files of this checkpoint alone.
        private: Vec<LocalFile>,
        /// Unique to the handle, if the format has it.
        id: Option<String>,
    },
    /// A base, and the changes since.
    Changelog {
        /// Which key groups.
        range: Range,
        /// What this checkpoint added, in bytes.
        added_bytes: i64,
        /// The base.
        base: Vec<KeyedHandle>,
        /// The changes.
        changes: Vec<KeyedHandle>,
        /// Of the base.
        materialization: i64,
        /// The checkpoint of the base, if the format has it.
        checkpoint: Option<i64>,
        /// Unique to the handle.
        id: String,
    },
    /// Changes in the metadata itself.
    ChangesInPlace {
        /// Which key groups.
        range: Range,
        /// The first, and the one after the last, in the order of the log.
        sequences: (i64, i64),
        /// The key group of each change (-1 for what is of none), and the change.
        changes: Vec<(i32, Vec<u8>)>,
        /// Unique to the handle.
        id: String,
    },
    /// Changes in files.
    ChangesInFiles {
        /// Which key groups.
        range: Range,
        /// Where in which stream they begin.
        streams: Vec<(i64, Option<StreamHandle>)>,
        /// How much they are, in bytes.
        len_bytes: i64,
        /// What this checkpoint added, in bytes.
        added_bytes: i64,
        /// Unique to the handle.
        id: String,
        /// The storage of changes, if the format has it.
        storage: Option<String>,
    },
}

/// The next handle, if it is not null.
pub(super) fn read(reader: &mut Reader<'_>, depth: u32) -> Result<Option<KeyedHandle>, Malformed> {
    let offset = reader.offset();
    let what = "a handle of keyed state";
    if depth >= MAX_DEPTH {
        return Err(Reader::wrong(offset, what, Reason::Depth));
    }
    Ok(Some(match reader.u8(what)? {
        stream::NULL => return Ok(None),
        tag @ (stream::KEY_GROUPS | KEY_GROUPS_V2 | SAVEPOINT_KEY_GROUPS) => {
            let groups = KeyGroups::read(reader)?;
            let stream = stream::read(reader, depth + 1)?;
            let id = (tag == KEY_GROUPS_V2).then(|| id(reader)).transpose()?;
            KeyedHandle::Whole { groups, is_canonical: tag == SAVEPOINT_KEY_GROUPS, stream, id }
        }
        tag @ (INCREMENTAL | INCREMENTAL_V2) => incremental(reader, tag == INCREMENTAL_V2, depth)?,
        tag @ (CHANGELOG | CHANGELOG_V2) => changelog(reader, tag == CHANGELOG_V2, depth)?,
        CHANGES_IN_PLACE => {
            let range = Range::read(reader)?;
            let sequences = (reader.i64("the first change")?, reader.i64("the last change")?);
            let count = reader.count(8, "the number of changes")?;
            let change = |reader: &mut Reader<'_>| {
                Ok((reader.i32("the key group of a change")?, reader.blob("a change")?.to_vec()))
            };
            let changes = (0..count).map(|_| change(reader)).collect::<Result<_, _>>()?;
            KeyedHandle::ChangesInPlace { range, sequences, changes, id: id(reader)? }
        }
        tag @ (CHANGES_IN_FILES | CHANGES_IN_FILES_V2) => {
            let range = Range::read(reader)?;
            let count = reader.count(9, "the number of streams")?;
            let one = |reader: &mut Reader<'_>| {
                Ok((reader.i64("the offset in a stream")?, stream::read(reader, depth + 1)?))
            };
            let streams = (0..count).map(|_| one(reader)).collect::<Result<_, _>>()?;
            let len_bytes = reader.i64("the length of changes")?;
            let added_bytes = reader.i64("the added length")?;
            let id = id(reader)?;
            let named = tag == CHANGES_IN_FILES_V2;
            let storage = named.then(|| reader.utf("the storage of changes")).transpose()?;
            KeyedHandle::ChangesInFiles { range, streams, len_bytes, added_bytes, id, storage }
        }
        found => return Err(Reader::wrong(offset, what, Reason::Unknown { found: found.into() })),
    }))
}

fn id(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    reader.utf("the id of a handle")
}

fn incremental(reader: &mut Reader<'_>, is_v2: bool, depth: u32) -> Result<KeyedHandle, Malformed> {
    let checkpoint = reader.i64("the checkpoint of a handle")?;
    let backend = reader.utf("the id of a store")?;
    let range = Range::read(reader)?;
    let added_bytes = is_v2.then(|| reader.i64("the added length")).transpose()?;
    let meta = stream::read(reader, depth + 1)?;
    let shared = local_files(reader, depth)?;
    let private = local_files(reader, depth)?;
    let id = is_v2.then(|| id(reader)).transpose()?;
    Ok(KeyedHandle::Incremental { checkpoint, backend, range, added_bytes, meta, shared, private, id })
}

fn local_files(reader: &mut Reader<'_>, depth: u32) -> Result<Vec<LocalFile>, Malformed> {
    let count = reader.count(3, "the number of files")?;
    let file = |reader: &mut Reader<'_>| {
        let name = reader.utf("the local name of a file")?;
        Ok(LocalFile { name, stream: stream::read(reader, depth + 1)? })
    };
    (0..count).map(|_| file(reader)).collect()
}

fn changelog(reader: &mut Reader<'_>, is_v2: bool, depth: u32) -> Result<KeyedHandle, Malformed> {
    let range = Range::read(reader)?;
    let added_bytes = reader.i64("the added length")?;
    // Flink skips handles that are null here.
    let mut handles = |what| {
        let count = reader.count(1, what)?;
        let mut handles = Vec::new();
        for _ in 0..count {
            handles.extend(read(reader, depth + 1)?);
        }
        Ok(handles)
    };
    let base = handles("the number of handles of a base")?;
    let changes = handles("the number of handles of changes")?;
    let materialization = reader.i64("the id of a materialization")?;
    let checkpoint = is_v2.then(|| reader.i64("the checkpoint of a base")).transpose()?;
    Ok(KeyedHandle::Changelog {
        range,
        added_bytes,
        base,
        changes,
        materialization,
        checkpoint,
        id: id(reader)?,
    })
}
