//! Files of partitions on their way to and from an object store: the edge around [`super::segment`].
//!
//! A partition has as many files as its rows or its log need; each is put as a whole, if absent, under a name of its own, and put again
//! if the outcome is not known. They are read in chunks, so that a chunk and a block are in memory, and compared with what their
//! document says of them.

use cutwater_io::entropy;

use super::document::FileRef;
use super::layout::Layout;
use super::segment::{Item, Malformed, Reader, Unwritable, Writer};
use crate::checkpoint::snapshot::FileHandle;
use crate::state::blob::{self, Blobs};
use crate::tables::ids::{CutId, PartitionId};

/// How much of a file is read at once, in bytes.
const CHUNK_BYTES: u64 = 1 << 20;

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The store went on failing.
    #[error(transparent)]
    Store(#[from] blob::Error),
    /// An item is over a limit.
    #[error("partition {partition}: {source}")]
    Item {
        /// Of which partition.
        partition: PartitionId,
        /// What is wrong.
        source: Unwritable,
    },
}

/// A file could not be read, or is not what was written.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not there, has another length, or the store went on failing.
    #[error(transparent)]
    Store(#[from] blob::Error),
    /// Its bytes are wrong.
    #[error("object {object}, {source}")]
    Malformed {
        /// The file.
        object: String,
        /// Where and what.
        source: Malformed,
    },
    /// It is a good file, but another one.
    #[error("object {object}: {what} {found}, the document says {expected}")]
    Other {
        /// The file.
        object: String,
        /// What differs.
        what: &'static str,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// It does not go on from the file before.
    #[error("object {object}: it does not go on from where the file before it ends")]
    Disorder {
        /// The file.
        object: String,
    },
}

impl ReadError {
    /// True if the store failed, rather than a file.
    pub fn is_transient(&self) -> bool {
        matches!(self, ReadError::Store(blob::Error::Request { .. } | blob::Error::NoAnswer { .. }))
    }

    /// The file.
    pub fn object(&self) -> &str {
        match self {
            ReadError::Store(
                blob::Error::Name { path }
                | blob::Error::Request { path, .. }
                | blob::Error::NoAnswer { path, .. }
                | blob::Error::Missing { path }
                | blob::Error::Foreign { path, .. }
                | blob::Error::ForeignSegment { path, .. },
            ) => path,
            ReadError::Malformed { object, .. }
            | ReadError::Other { object, .. }
            | ReadError::Disorder { object } => object,
        }
    }

    /// Where in the file, if that is known.
    pub fn offset_bytes(&self) -> Option<u64> {
        match self {
            ReadError::Malformed { source, .. } => Some(source.offset_bytes),
            _ => None,
        }
    }
}

/// Writes the files of a partition.
#[derive(Debug)]
pub struct PartWriter<'a, I: Item> {
    blobs: &'a Blobs,
    layout: &'a Layout,
    cut: CutId,
    partition: PartitionId,
    writer: Writer<I>,
    files: Vec<FileRef>,
}

impl<'a, I: Item> PartWriter<'a, I> {
    /// Of a partition at a cut.
    pub fn new(blobs: &'a Blobs, layout: &'a Layout, cut: CutId, partition: PartitionId) -> Self {
        PartWriter { blobs, layout, cut, partition, writer: Writer::default(), files: Vec::new() }
    }

    /// Appends an item, and puts a file if it is full.
    ///
    /// # Errors
    /// If the item is over a limit, or the store went on failing.
    ///
    /// # Panics
    /// If items are not in order.
    pub async fn push(&mut self, item: &I) -> Result<(), WriteError> {
        let partition = self.partition;
        self.writer.push(item).map_err(|source| WriteError::Item { partition, source })?;
        if self.writer.is_full() { self.put().await } else { Ok(()) }
    }

    async fn put(&mut self) -> Result<(), WriteError> {
        let next = self.writer.next_file();
        let (bytes, summary) = std::mem::replace(&mut self.writer, next).finish();
        let unique = entropy::uuid("tables.snapshot.file").replace('-', "");
        let path = self.layout.file(self.cut, self.partition, I::CONTENT, &unique);
        let handle = self.blobs.create(&path, bytes).await?;
        assert_eq!(
            (handle.len_bytes, handle.crc32c),
            (summary.len_bytes, summary.crc32c),
            "what was put is what was made"
        );
        let (len_bytes, crc32c, xxh3, items) =
            (summary.len_bytes, summary.crc32c, summary.xxh3, summary.items);
        self.files.push(FileRef { path, len_bytes, crc32c, xxh3, items });
        Ok(())
    }

    /// The files, all of them durable.
    ///
    /// # Errors
    /// If the store went on failing.
    pub async fn finish(mut self) -> Result<Vec<FileRef>, WriteError> {
        if self.writer.has_items() {
            self.put().await?;
        }
        Ok(self.files)
    }
}

/// Reads the files of a partition, one after the other.
pub struct PartReader<'a, I: Item> {
    blobs: &'a Blobs,
    files: std::slice::Iter<'a, FileRef>,
    current: Option<Current<'a, I>>,
    last: Option<I::Place>,
}

struct Current<'a, I: Item> {
    file: &'a FileRef,
    reader: Reader<I>,
    fed_bytes: u64,
}

impl<'a, I: Item> PartReader<'a, I> {
    /// Of these files.
    pub fn new(blobs: &'a Blobs, files: &'a [FileRef]) -> Self {
        PartReader { blobs, files: files.iter(), current: None, last: None }
    }

    /// The next item; `None` at the end, when all files were as their document says.
    ///
    /// # Errors
    /// If one is not.
    pub async fn next(&mut self) -> Result<Option<I>, ReadError> {
        loop {
            let Some(current) = &mut self.current else {
                let Some(file) = self.files.next() else { return Ok(None) };
                self.current = Some(Current { file, reader: Reader::default(), fed_bytes: 0 });
                continue;
            };
            let object = || current.file.path.clone();
            let item = current
                .reader
                .next_item()
                .map_err(|source| ReadError::Malformed { object: object(), source })?;
            if let Some(item) = item {
                let place = item.place();
                if self.last.as_ref().is_some_and(|last| !I::follows(last, &place)) {
                    return Err(ReadError::Disorder { object: object() });
                }
                self.last = Some(place);
                return Ok(Some(item));
            }
            let len_bytes = current.file.len_bytes;
            if current.fed_bytes < len_bytes {
                let end = len_bytes.min(current.fed_bytes + CHUNK_BYTES);
                let FileRef { path, crc32c, .. } = current.file;
                let handle = FileHandle { path: path.clone(), len_bytes, crc32c: *crc32c };
                let chunk = self.blobs.read_part(&handle, current.fed_bytes..end).await?;
                current.reader.feed(&chunk);
                current.fed_bytes = end;
            } else {
                self.current.take().map_or(Ok(()), Current::check)?;
            }
        }
    }
}

impl<I: Item> Current<'_, I> {
    fn check(self) -> Result<(), ReadError> {
        let Current { file, reader, .. } = self;
        let object = file.path.clone();
        let summary = match reader.finish() {
            Ok(summary) => summary,
            Err(source) => return Err(ReadError::Malformed { object, source }),
        };
        let differences = [
            ("length", u128::from(summary.len_bytes), u128::from(file.len_bytes)),
            ("crc32c", u128::from(summary.crc32c), u128::from(file.crc32c)),
            ("xxh3", summary.xxh3, file.xxh3),
            ("items", u128::from(summary.items), u128::from(file.items)),
        ];
        match differences.into_iter().find(|(_, found, expected)| found != expected) {
            None => Ok(()),
            Some((what, found, expected)) => {
                let (found, expected) = (format!("{found:x}"), format!("{expected:x}"));
                Err(ReadError::Other { object, what, found, expected })
            }
        }
    }
}
