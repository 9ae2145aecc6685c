//! What every handle ends in: bytes in the metadata itself, or a file, or a part of one.

use super::keyed::KeyGroups;
use super::reader::{MAX_DEPTH, Malformed, Reader, Reason};

pub(super) const NULL: u8 = 0;
const BYTES: u8 = 1;
const FILE: u8 = 2;
pub(super) const KEY_GROUPS: u8 = 3;
const RELATIVE: u8 = 6;
const SEGMENT: u8 = 15;
const EMPTY_SEGMENT: u8 = 16;

/// Where bytes of state are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamHandle {
    /// In the metadata itself.
    Bytes {
        /// A name that is unique to them.
        name: String,
        /// They.
        content: Vec<u8>,
    },
    /// A file by its full name, a URI as a rule.
    File {
        /// The name.
        path: String,
        /// Length of the whole file.
        len_bytes: u64,
    },
    /// A file by its name relative to the directory that the metadata is in. Flink writes it for every file that it believes to
    /// be there; some are not (FLINK-39964).
    Relative {
        /// The name.
        path: String,
        /// Length of the whole file.
        len_bytes: u64,
    },
    /// A part of a file that several handles share.
    Segment {
        /// Full name of the file.
        path: String,
        /// Where the part begins.
        from_bytes: u64,
        /// How long it is.
        len_bytes: u64,
        /// Of one checkpoint, or of several.
        scope: Scope,
        /// Unique to the part.
        logical: String,
    },
    /// A part that holds nothing.
    EmptySegment,
    /// A stream in which key groups begin at known offsets.
    KeyGroups {
        /// Which, and where.
        groups: KeyGroups,
        /// The stream.
        stream: Option<Box<StreamHandle>>,
    },
}

/// Who may reference a [segment](StreamHandle::Segment).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One checkpoint.
    Exclusive,
    /// Several.
    Shared,
}

/// The next handle, if it is not null.
pub(super) fn read(reader: &mut Reader<'_>, depth: u32) -> Result<Option<StreamHandle>, Malformed> {
    let offset = reader.offset();
    let what = "a state handle";
    if depth >= MAX_DEPTH {
        return Err(Reader::wrong(offset, what, Reason::Depth));
    }
    Ok(Some(match reader.u8(what)? {
        NULL => return Ok(None),
        BYTES => {
            let name = reader.utf("the name of bytes")?;
            StreamHandle::Bytes { name, content: reader.blob("bytes of state")?.to_vec() }
        }
        FILE => {
            let len_bytes = reader.u63("the length of a file")?;
            StreamHandle::File { path: reader.utf("the path of a file")?, len_bytes }
        }
        RELATIVE => {
            let path = reader.utf("the relative path of a file")?;
            StreamHandle::Relative { path, len_bytes: reader.u63("the length of a file")? }
        }
        KEY_GROUPS => {
            let groups = KeyGroups::read(reader)?;
            StreamHandle::KeyGroups { groups, stream: read(reader, depth + 1)?.map(Box::new) }
        }
        SEGMENT => {
            let from_bytes = reader.u63("the beginning of a segment")?;
            let len_bytes = reader.u63("the length of a segment")?;
            let scope_offset = reader.offset();
            let scope = match reader.i32("the scope of a segment")? {
                0 => Scope::Exclusive,
                1 => Scope::Shared,
                found => {
                    let reason = Reason::Unknown { found: found.into() };
                    return Err(Reader::wrong(scope_offset, "the scope of a segment", reason));
                }
            };
            let path = reader.utf("the path of a segment's file")?;
            let logical = reader.utf("the id of a segment")?;
            StreamHandle::Segment { path, from_bytes, len_bytes, scope, logical }
        }
        EMPTY_SEGMENT => StreamHandle::EmptySegment,
        found => return Err(Reader::wrong(offset, what, Reason::Unknown { found: found.into() })),
    }))
}
