//! Where the values go that a flush or a compaction writes: into the table, or into a blob file.
//!
//! A large value goes to a blob file, compressed or not. One that is in a blob file already stays there, unless that file is old and
//! is to be emptied: then it is written anew, wherever a new value of its length would go. A value in a blob file that is dropped, or
//! written anew, is garbage where it was.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::cache::BlobCache;
use super::format::RecordHeader;
use super::stored::Stored;
use super::writer::BlobWriter;
use crate::store::build::Target;
use crate::store::error::Error;
use crate::store::filenames::FileKind;
use crate::store::iter::Entry;
use crate::store::key::{Tag, ValueKind};
use crate::store::shared::Site;
use crate::store::version::{BlobAddition, BlobFiles, BlobGarbage};

/// What is known of the values that a compaction reads.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) cache: Arc<BlobCache>,
    pub(crate) files: BlobFiles,
    /// Values of files with a lower number are written anew.
    pub(crate) relocate_below: u64,
}

/// See the module.
pub(crate) struct Placement<'a> {
    site: &'a Site,
    target: &'a Target<'a>,
    open: Option<BlobWriter>,
    finished: Vec<BlobAddition>,
    garbage: BTreeMap<u64, BlobGarbage>,
}

/// What a table holds of an entry.
#[derive(Debug)]
pub(crate) struct Placed<'e> {
    pub(crate) tag: Tag,
    pub(crate) value: Cow<'e, [u8]>,
    /// The blob file that has the value.
    pub(crate) blob: Option<u64>,
}

/// What an entry holds for whoever puts operands on it.
#[derive(Debug)]
pub(crate) enum Held<'e> {
    /// A value, wherever it lies.
    Value(Cow<'e, [u8]>),
    /// It is a tombstone.
    Nothing,
    /// It is of a kind that this store does not read.
    Unknown,
}

impl<'a> Placement<'a> {
    /// Of what goes to `target`.
    pub(crate) fn new(site: &'a Site, target: &'a Target<'a>) -> Placement<'a> {
        Placement { site, target, open: None, finished: Vec::new(), garbage: BTreeMap::new() }
    }

    /// Places the value of an entry. `begin` gives the number of a new blob file.
    pub(crate) async fn place<'e>(
        &mut self,
        entry: Entry<'e>,
        begin: impl FnOnce() -> u64,
    ) -> Result<Placed<'e>, Error> {
        let as_it_is = Placed { tag: entry.tag, value: Cow::Borrowed(entry.value), blob: None };
        match entry.tag.kind() {
            Some(ValueKind::Value) => match self.to_be_separated(entry.value) {
                Some(stored) => self.separate(entry.user_key, entry.tag, &stored, begin).await,
                None => Ok(as_it_is),
            },
            Some(ValueKind::BlobIndex) => {
                let sources = self.sources()?;
                let index = sources.cache.decode(entry.user_key, entry.value)?;
                if index.file >= sources.relocate_below {
                    return Ok(Placed { blob: Some(index.file), ..as_it_is });
                }
                let reader = sources.cache.reader(&sources.files, &index).await?;
                let stored = reader.get_stored(entry.user_key, &index).await?;
                self.count_garbage(index.file, entry.user_key, index.value_bytes);
                if self.can_stay_compressed(&stored) {
                    return self.separate(entry.user_key, entry.tag, &stored, begin).await;
                }
                let value = reader.decompress(&index, stored)?;
                if let Some(stored) = self.to_be_separated(&value) {
                    return self.separate(entry.user_key, entry.tag, &stored, begin).await;
                }
                let tag = Tag::new(entry.tag.sequence(), ValueKind::Value);
                Ok(Placed { tag, value: Cow::Owned(value), blob: None })
            }
            _ => Ok(as_it_is),
        }
    }

    /// What an entry holds.
    pub(crate) async fn read<'e>(&self, entry: &Entry<'e>) -> Result<Held<'e>, Error> {
        match entry.tag.kind() {
            Some(ValueKind::Value) => Ok(Held::Value(Cow::Borrowed(entry.value))),
            Some(ValueKind::BlobIndex) => {
                let sources = self.sources()?;
                let value = sources.cache.value(&sources.files, entry.user_key, entry.value).await?;
                Ok(Held::Value(Cow::Owned(value)))
            }
            Some(ValueKind::Deletion | ValueKind::SingleDeletion) => Ok(Held::Nothing),
            _ => Ok(Held::Unknown),
        }
    }

    /// The entry is not written again.
    pub(crate) fn drop_entry(&mut self, entry: &Entry<'_>) -> Result<(), Error> {
        if entry.tag.kind() == Some(ValueKind::BlobIndex) {
            let index = self.sources()?.cache.decode(entry.user_key, entry.value)?;
            self.count_garbage(index.file, entry.user_key, index.value_bytes);
        }
        Ok(())
    }

    /// All values are written, and durable; the names of their files are not.
    pub(crate) async fn finish(mut self) -> Result<(Vec<BlobAddition>, Vec<BlobGarbage>), Error> {
        self.finish_open().await?;
        Ok((self.finished, self.garbage.into_values().collect()))
    }

    fn sources(&self) -> Result<&'a Sources, Error> {
        let what = "a log with values that lie in blob files";
        self.target.sources.as_ref().ok_or_else(|| Error::unsupported(self.site.dir.path(), what))
    }

    fn is_large(&self, value_bytes: u64) -> bool {
        self.target.options.min_blob_bytes.is_some_and(|min_bytes| value_bytes >= min_bytes)
    }

    /// A value that goes to a blob file, as it is stored there. One that is too long to be compressed stays in the table.
    fn to_be_separated<'v>(&self, value: &'v [u8]) -> Option<Stored<'v>> {
        let is_large = self.is_large(value.len() as u64);
        is_large.then(|| Stored::of(value, self.target.options.blob_compression)).flatten()
    }

    /// True if a value that moves is stored as it would be if it were new. That it is as long as it says is seen by who reads it.
    fn can_stay_compressed(&self, stored: &Stored<'_>) -> bool {
        stored.compression == self.target.options.blob_compression
            && stored.claimed_bytes().is_some_and(|bytes| self.is_large(bytes))
    }

    fn count_garbage(&mut self, number: u64, key: &[u8], value_bytes: u64) {
        let garbage = self.garbage.entry(number).or_insert(BlobGarbage { number, count: 0, bytes: 0 });
        garbage.count += 1;
        // Saturating: the length is what a table says, and the version refuses more than there is.
        garbage.bytes = garbage
            .bytes
            .saturating_add(RecordHeader::record_bytes(key.len(), 0).saturating_add(value_bytes));
    }

    async fn separate<'e>(
        &mut self,
        key: &[u8],
        tag: Tag,
        stored: &Stored<'_>,
        begin: impl FnOnce() -> u64,
    ) -> Result<Placed<'e>, Error> {
        self.target.pace.write(key.len() + stored.bytes.len()).await;
        let writer = match &mut self.open {
            Some(writer) => writer,
            None => {
                let number = begin();
                let path = FileKind::Blob(number).path(self.site.dir.path());
                let compression = self.target.options.blob_compression;
                self.open.insert(BlobWriter::create(&path, number, self.target.family, compression).await?)
            }
        };
        let index = writer.add(key, stored).await?;
        if writer.len_bytes() >= self.target.options.blob_file_bytes {
            self.finish_open().await?;
        }
        let tag = Tag::new(tag.sequence(), ValueKind::BlobIndex);
        Ok(Placed { tag, value: Cow::Owned(index.encode()), blob: Some(index.file) })
    }

    async fn finish_open(&mut self) -> Result<(), Error> {
        if let Some(writer) = self.open.take() {
            self.finished.push(writer.finish().await?);
        }
        Ok(())
    }
}
