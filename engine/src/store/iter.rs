//! Ordered reading: the user's [`Iter`] shows of each key the newest entry that its snapshot can see, in either direction.
//!
//! Below it, [`super::merge`] gives the entries of all sources by internal key: of a key, the newest first. Backward they
//! come oldest first, so which one is seen is known only when the key ends.

use std::ops::Bound;
use std::sync::Arc;

use super::blob::BlobCache;
use super::cover::Cover;
use super::error::Error;
use super::key::{Tag, ValueKind};
use super::merge::{Merge, Source};
use super::operands::{MergeWith, fold};
use super::shared::WakeOnDrop;
use super::statistics::Counters;
use super::version::Version;

/// An entry of the tree, where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What the user calls it.
    pub user_key: &'a [u8],
    /// Which write of it.
    pub tag: Tag,
    /// The value; empty for a tombstone.
    pub value: &'a [u8],
}

/// Where to move in a sequence of entries, and in which direction to go on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek<'a> {
    /// The first entry; then forward.
    First,
    /// The first one not before the internal key; then forward.
    NotBefore(&'a [u8], Tag),
    /// The last entry; then backward.
    Last,
    /// The last one before the internal key; then backward.
    Before(&'a [u8], Tag),
}

impl Seek<'_> {
    /// True if it goes on backward.
    pub fn is_backward(self) -> bool {
        matches!(self, Seek::Last | Seek::Before(..))
    }
}

/// Before all entries of its user key.
const BEFORE: Tag = Tag(u64::MAX);

/// Where an [`Iter`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before the first key of the range.
    Start,
    /// On a key.
    Key,
    /// Behind the last key of the range.
    End,
    /// Nowhere, since a move failed.
    Nowhere,
}

/// A key and its value.
type Pair = (Vec<u8>, Vec<u8>);

/// A position among the keys of a range, as of one moment. It begins before the first. Each move returns the key it is then
/// on with its value, or nothing if it went beyond the range, on either side; from there one can move back into it. After
/// an error it is nowhere, and [`Iter::next`] and [`Iter::prev`] find nothing until a seek.
///
/// It pins what it reads; a store that was closed in between can no longer protect the files, and the iterator then may end
/// with an I/O error.
#[derive(Debug)]
pub struct Iter {
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
    reads: Reads,
    cover: Cover,
    merge: Merge,
    at: At,
    /// The key it is on.
    key: Vec<u8>,
    _wake: WakeOnDrop,
}

/// What an iterator shows, and with what it makes values of entries.
#[derive(Debug)]
pub(crate) struct Reads {
    /// Nothing that was written later is seen.
    pub(crate) sequence: u64,
    pub(crate) version: Arc<Version>,
    pub(crate) blobs: Arc<BlobCache>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) merge_operator: Option<MergeWith>,
}

impl Reads {
    async fn value_of(
        &self,
        key: &[u8],
        kind: Option<ValueKind>,
        value: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, Error> {
        value_of(&self.blobs, &self.version, key, kind, value).await
    }

    /// The value of a key with operands, on the newest entry below them, if there is one.
    async fn merged(
        &self,
        key: &[u8],
        base: Option<(Option<ValueKind>, Vec<u8>)>,
        oldest_first: &[Vec<u8>],
    ) -> Result<Vec<u8>, Error> {
        let base = match base {
            Some((kind, value)) => self.value_of(key, kind, value).await?,
            None => None,
        };
        fold(self.merge_operator.as_ref(), key, base.as_deref(), oldest_first)
    }
}

impl Iter {
    pub(crate) fn new(
        (start, end): (Bound<Vec<u8>>, Bound<Vec<u8>>),
        reads: Reads,
        cover: Cover,
        sources: Vec<Source>,
        wake: WakeOnDrop,
    ) -> Iter {
        let (merge, at, key) = (Merge::idle(sources), At::Start, Vec::new());
        Iter { start, end, reads, cover, merge, at, key, _wake: wake }
    }

    /// Moves to the next key, from before the first to the first.
    ///
    /// # Errors
    /// I/O, damage, or a kind of entry that is not supported; so for all moves.
    pub async fn next(&mut self) -> Result<Option<Pair>, Error> {
        match self.at {
            At::Start => self.seek_to_first().await,
            At::Key if self.merge.is_backward() => {
                let key = behind(&self.key);
                self.forward(Some(Seek::NotBefore(&key, BEFORE))).await
            }
            At::Key => self.forward(None).await,
            At::End | At::Nowhere => Ok(None),
        }
    }

    /// Moves to the key before, from behind the last to the last.
    pub async fn prev(&mut self) -> Result<Option<Pair>, Error> {
        match self.at {
            At::End => self.seek_to_last().await,
            At::Key if !self.merge.is_backward() => {
                let key = self.key.clone();
                self.backward(Some(Seek::Before(&key, BEFORE))).await
            }
            At::Key => self.backward(None).await,
            At::Start | At::Nowhere => Ok(None),
        }
    }

    /// Moves to the first key of the range.
    pub async fn seek_to_first(&mut self) -> Result<Option<Pair>, Error> {
        let from = match &self.start {
            Bound::Included(key) => Some(key.clone()),
            Bound::Excluded(key) => Some(behind(key)),
            Bound::Unbounded => None,
        };
        let to = from.as_ref().map_or(Seek::First, |key| Seek::NotBefore(key, BEFORE));
        self.forward(Some(to)).await
    }

    /// Moves to the last key of the range.
    pub async fn seek_to_last(&mut self) -> Result<Option<Pair>, Error> {
        let before = match &self.end {
            Bound::Included(key) => Some(behind(key)),
            Bound::Excluded(key) => Some(key.clone()),
            Bound::Unbounded => None,
        };
        let to = before.as_ref().map_or(Seek::Last, |key| Seek::Before(key, BEFORE));
        self.backward(Some(to)).await
    }

    /// Moves to the first key of the range that is not before `key`.
    pub async fn seek(&mut self, key: &[u8]) -> Result<Option<Pair>, Error> {
        if self.is_before_start(key) {
            return self.seek_to_first().await;
        }
        self.forward(Some(Seek::NotBefore(key, BEFORE))).await
    }

    /// Moves to the last key of the range that is not behind `key`.
    pub async fn seek_for_prev(&mut self, key: &[u8]) -> Result<Option<Pair>, Error> {
        if self.is_behind_end(key) {
            return self.seek_to_last().await;
        }
        let key = behind(key);
        self.backward(Some(Seek::Before(&key, BEFORE))).await
    }

    async fn forward(&mut self, to: Option<Seek<'_>>) -> Result<Option<Pair>, Error> {
        let found = self.find_forward(to).await;
        self.settle(found, At::End)
    }

    async fn backward(&mut self, to: Option<Seek<'_>>) -> Result<Option<Pair>, Error> {
        let found = self.find_backward(to).await;
        self.settle(found, At::Start)
    }

    fn settle(&mut self, found: Result<Option<Vec<u8>>, Error>, beyond: At) -> Result<Option<Pair>, Error> {
        self.at = match &found {
            Ok(Some(_)) => At::Key,
            Ok(None) => beyond,
            Err(_) => At::Nowhere,
        };
        Ok(found?.map(|value| (self.key.clone(), value)))
    }

    /// The value of the next key, which becomes the one it is on. Without a seek the present one is passed over.
    async fn find_forward(&mut self, to: Option<Seek<'_>>) -> Result<Option<Vec<u8>>, Error> {
        let mut is_decided = to.is_none();
        if let Some(to) = to {
            self.seek_sources(to).await?;
        }
        while let Some(entry) = self.merge.entry() {
            if self.is_behind_end(entry.user_key) {
                return Ok(None);
            }
            let is_older = is_decided && *entry.user_key == self.key[..];
            if !is_older && entry.tag.sequence() <= self.reads.sequence {
                self.key.clear();
                self.key.extend_from_slice(entry.user_key);
                is_decided = true;
                if self.cover.covering(entry.user_key, self.reads.sequence) > entry.tag.sequence() {
                    self.merge.advance().await?;
                    continue;
                }
                let (kind, value) = (entry.tag.kind(), entry.value.to_vec());
                if kind == Some(ValueKind::Merge) {
                    return Box::pin(self.merge_forward()).await.map(Some);
                }
                if let Some(value) = self.reads.value_of(&self.key, kind, value).await? {
                    return Ok(Some(value));
                }
            }
            self.merge.advance().await?;
        }
        Ok(None)
    }

    /// The value of the key, of which the merge is on the newest operand. The merge moves to what lies below the operands.
    async fn merge_forward(&mut self) -> Result<Vec<u8>, Error> {
        let (mut operands, mut base) = (Vec::new(), None);
        let covering = self.cover.covering(&self.key, self.reads.sequence);
        let counts = |entry: &Entry<'_>| *entry.user_key == self.key[..] && entry.tag.sequence() >= covering;
        while let Some(entry) = self.merge.entry().filter(counts) {
            let (kind, value) = (entry.tag.kind(), entry.value.to_vec());
            if kind != Some(ValueKind::Merge) {
                base = Some((kind, value));
                break;
            }
            operands.push(value);
            self.merge.advance().await?;
        }
        operands.reverse();
        self.reads.merged(&self.key, base, &operands).await
    }

    /// The value of the key before, which becomes the one it is on. The merge has passed over the present one.
    async fn find_backward(&mut self, to: Option<Seek<'_>>) -> Result<Option<Vec<u8>>, Error> {
        if let Some(to) = to {
            self.seek_sources(to).await?;
        }
        while let Some(entry) = self.merge.entry() {
            if self.is_before_start(entry.user_key) {
                return Ok(None);
            }
            self.key.clear();
            self.key.extend_from_slice(entry.user_key);
            let (mut base, mut operands) = (None, Vec::new());
            let covering = self.cover.covering(&self.key, self.reads.sequence);
            while let Some(entry) = self.merge.entry().filter(|entry| *entry.user_key == self.key[..]) {
                if entry.tag.sequence() <= self.reads.sequence && entry.tag.sequence() >= covering {
                    let (kind, value) = (entry.tag.kind(), entry.value.to_vec());
                    if kind == Some(ValueKind::Merge) {
                        operands.push(value);
                    } else {
                        operands.clear();
                        base = Some((kind, value));
                    }
                }
                self.merge.advance().await?;
            }
            if !operands.is_empty() {
                return Box::pin(self.reads.merged(&self.key, base, &operands)).await.map(Some);
            }
            if let Some((kind, value)) = base
                && let Some(value) = self.reads.value_of(&self.key, kind, value).await?
            {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    async fn seek_sources(&mut self, to: Seek<'_>) -> Result<(), Error> {
        self.reads.counters.seeks.add(1);
        // Boxed, as most iterators do not come here.
        if self.cover.is_incomplete() {
            Box::pin(self.cover.complete()).await?;
        }
        self.merge.seek(to).await
    }

    fn is_before_start(&self, key: &[u8]) -> bool {
        match &self.start {
            Bound::Included(start) => *key < start[..],
            Bound::Excluded(start) => *key <= start[..],
            Bound::Unbounded => false,
        }
    }

    fn is_behind_end(&self, key: &[u8]) -> bool {
        match &self.end {
            Bound::Included(end) => *key > end[..],
            Bound::Excluded(end) => *key >= end[..],
            Bound::Unbounded => false,
        }
    }
}

/// The smallest key behind `key`.
fn behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// What the newest entry of a key says: its value, wherever that lies, or that there is none.
pub(crate) async fn value_of(
    blobs: &BlobCache,
    version: &Version,
    key: &[u8],
    kind: Option<ValueKind>,
    value: Vec<u8>,
) -> Result<Option<Vec<u8>>, Error> {
    match kind {
        Some(ValueKind::Value) => Ok(Some(value)),
        // Boxed, as most values lie in tables, and all reads would be as large as this one.
        Some(ValueKind::BlobIndex) => Box::pin(blobs.value(&version.blobs, key, &value)).await.map(Some),
        Some(ValueKind::Deletion | ValueKind::SingleDeletion) => Ok(None),
        other => Err(Error::unsupported(std::path::Path::new("an entry"), format!("value type {other:?}"))),
    }
}
