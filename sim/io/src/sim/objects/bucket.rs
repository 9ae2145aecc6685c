//! A bucket: for each key a linearizable register with versions. Pure; when a request takes effect is decided elsewhere.
//!
//! Listings show the objects themselves; or, for a store that is only eventually consistent there, an index that learns of
//! each change some time later, per key in the order of the changes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use object_store::path::{Path, PathPart};
use object_store::{Attributes, CopyMode, Error, GetOptions, ObjectMeta, PutMode, Result};
use xxhash_rust::xxh3::xxh3_64;

use super::RequestError;

/// What a request asks a bucket to do.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Put {
        key: Path,
        bytes: Bytes,
        attributes: Attributes,
        mode: PutMode,
    },
    Get {
        key: Path,
        options: GetOptions,
    },
    Delete {
        key: Path,
    },
    /// `is_level`: of all that lies under one common prefix only the first, as listings with a delimiter count it.
    ListPage {
        prefix: Path,
        after: Option<Path>,
        keys: usize,
        is_level: bool,
    },
    Copy {
        from: Path,
        to: Path,
        mode: CopyMode,
    },
    CreateUpload {
        key: Path,
        attributes: Attributes,
    },
    PutPart {
        key: Path,
        upload: u64,
        part: usize,
        bytes: Bytes,
    },
    CompleteUpload {
        key: Path,
        upload: u64,
        parts: usize,
    },
    AbortUpload {
        key: Path,
        upload: u64,
    },
}

/// What a bucket answers.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Written { etag: String },
    Found { meta: ObjectMeta, bytes: Bytes, range: std::ops::Range<u64>, attributes: Attributes },
    Page { objects: Vec<ObjectMeta>, more: bool },
    Upload { id: u64 },
    Done,
}

/// A change that others can see.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Put(Path, Bytes),
    Delete(Path),
}

#[derive(Clone, Debug)]
struct Object {
    bytes: Bytes,
    attributes: Attributes,
    version: u64,
    modified: SystemTime,
}

#[derive(Debug)]
struct Upload {
    key: Path,
    attributes: Attributes,
    parts: BTreeMap<usize, Bytes>,
}

/// All objects and unfinished uploads of a bucket.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    objects: BTreeMap<Path, Object>,
    uploads: BTreeMap<u64, Upload>,
    versions: u64,
    uploads_made: u64,
    /// When each key was changed last, in nanoseconds; of removed ones, too.
    changed_ns: BTreeMap<Path, u64>,
    /// What listings show, if they lag behind.
    index: BTreeMap<Path, ObjectMeta>,
    /// What the index does not show yet: when it will, and the number of the change.
    unindexed: BTreeMap<(u64, u64), (Path, Option<ObjectMeta>)>,
    changes: u64,
}

impl Operation {
    /// Its name in traces, and the first half of a site's name.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Operation::Put { .. } => "objects.put",
            Operation::Get { .. } => "objects.get",
            Operation::Delete { .. } => "objects.delete",
            Operation::ListPage { .. } => "objects.list",
            Operation::Copy { .. } => "objects.copy",
            Operation::CreateUpload { .. } => "objects.upload",
            Operation::PutPart { .. } => "objects.part",
            Operation::CompleteUpload { .. } => "objects.complete",
            Operation::AbortUpload { .. } => "objects.abort",
        }
    }

    /// The site at which faults strike it.
    pub(super) fn site(&self) -> &'static str {
        match self {
            Operation::Get { .. } => "objects.get",
            Operation::Delete { .. } | Operation::AbortUpload { .. } => "objects.delete",
            Operation::ListPage { .. } => "objects.list",
            _ => "objects.put",
        }
    }

    /// The key, or the prefix, that it is about.
    pub(super) fn target(&self) -> &Path {
        match self {
            Operation::Put { key, .. }
            | Operation::Get { key, .. }
            | Operation::Delete { key }
            | Operation::Copy { to: key, .. }
            | Operation::CreateUpload { key, .. }
            | Operation::PutPart { key, .. }
            | Operation::CompleteUpload { key, .. }
            | Operation::AbortUpload { key, .. } => key,
            Operation::ListPage { prefix, .. } => prefix,
        }
    }

    /// True if it takes effect only if its key is in a certain state.
    pub(super) fn is_conditional(&self) -> bool {
        match self {
            Operation::Put { mode, .. } => *mode != PutMode::Overwrite,
            Operation::Copy { mode, .. } => *mode == CopyMode::Create,
            _ => false,
        }
    }

    /// Bytes that travel with the request.
    pub(super) fn len_bytes(&self) -> usize {
        match self {
            Operation::Put { bytes, .. } | Operation::PutPart { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }
}

impl Answer {
    /// Bytes that travel with the answer.
    pub(super) fn len_bytes(&self) -> usize {
        match self {
            Answer::Found { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }

    /// A hash of what a reader learns from it.
    pub(super) fn content(&self) -> u64 {
        match self {
            Answer::Found { bytes, .. } => xxh3_64(bytes),
            Answer::Page { objects, .. } => {
                let keys: Vec<&str> = objects.iter().map(|object| object.location.as_ref()).collect();
                xxh3_64(keys.join("\0").as_bytes())
            }
            _ => 0,
        }
    }
}

impl Bucket {
    /// Applies `operation` at once and as a whole. What others can see of it is told to `seen`.
    pub(super) fn apply(
        &mut self,
        operation: &Operation,
        now: SystemTime,
        seen: &mut Vec<Change>,
    ) -> Result<Answer> {
        match operation {
            Operation::Put { key, bytes, attributes, mode } => {
                self.check_mode(key, mode)?;
                Ok(self.write(key, bytes.clone(), attributes.clone(), now, seen))
            }
            Operation::Get { key, options } => self.get(key, options),
            Operation::Delete { key } => {
                if self.objects.remove(key).is_some() {
                    seen.push(Change::Delete(key.clone()));
                }
                Ok(Answer::Done)
            }
            Operation::ListPage { prefix, after, keys, is_level } => {
                let from = page_start(prefix, after.as_ref());
                let objects = self.objects.range::<Path, _>(from).map(|(key, object)| object.meta(key));
                let level = is_level.then(|| Level { prefix, last: after.as_ref() });
                Ok(page(objects, prefix, *keys, level))
            }
            Operation::Copy { from, to, mode } => {
                let object = self.objects.get(from).cloned().ok_or_else(|| not_found(from))?;
                if *mode == CopyMode::Create {
                    self.check_mode(to, &PutMode::Create)?;
                }
                Ok(self.write(to, object.bytes, object.attributes, now, seen))
            }
            Operation::CreateUpload { key, attributes } => {
                self.uploads_made += 1;
                let id = self.uploads_made;
                let upload =
                    Upload { key: key.clone(), attributes: attributes.clone(), parts: BTreeMap::new() };
                self.uploads.insert(id, upload);
                Ok(Answer::Upload { id })
            }
            Operation::PutPart { key, upload, part, bytes } => {
                let upload = self.uploads.get_mut(upload).ok_or_else(|| no_such_upload(key))?;
                upload.parts.insert(*part, bytes.clone());
                Ok(Answer::Done)
            }
            Operation::CompleteUpload { key, upload, parts } => {
                self.complete(key, *upload, *parts, now, seen)
            }
            Operation::AbortUpload { upload, .. } => {
                self.uploads.remove(upload);
                Ok(Answer::Done)
            }
        }
    }

    fn check_mode(&self, key: &Path, mode: &PutMode) -> Result<()> {
        let present = self.objects.get(key);
        match mode {
            PutMode::Overwrite => Ok(()),
            PutMode::Create => match present {
                None => Ok(()),
                Some(object) => Err(Error::AlreadyExists {
                    path: key.to_string(),
                    source: format!("version {} is there", object.version).into(),
                }),
            },
            PutMode::Update(expected) => {
                let found = present.map(Object::etag);
                if found.is_some() && found == expected.e_tag {
                    return Ok(());
                }
                let source = format!("{found:?} is there, {:?} was expected", expected.e_tag).into();
                Err(Error::Precondition { path: key.to_string(), source })
            }
        }
    }

    fn write(
        &mut self,
        key: &Path,
        bytes: Bytes,
        attributes: Attributes,
        now: SystemTime,
        seen: &mut Vec<Change>,
    ) -> Answer {
        self.versions += 1;
        let object =
            Object { bytes: bytes.clone(), attributes, version: self.versions, modified: whole_seconds(now) };
        let etag = object.etag();
        self.objects.insert(key.clone(), object);
        seen.push(Change::Put(key.clone(), bytes));
        Answer::Written { etag }
    }

    fn get(&self, key: &Path, options: &GetOptions) -> Result<Answer> {
        let object = self.objects.get(key).ok_or_else(|| not_found(key))?;
        let meta = object.meta(key);
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            None => 0..meta.size,
            Some(range) => range
                .as_range(meta.size)
                .map_err(|e| Error::Generic { store: super::STORE, source: Box::new(e) })?,
        };
        let bytes = if options.head {
            Bytes::new()
        } else {
            object.bytes.slice(range.start as usize..range.end as usize)
        };
        Ok(Answer::Found { meta, bytes, range, attributes: object.attributes.clone() })
    }

    /// A change of `key` took effect at `now_ns`; listings that lag behind will show it `lag_ns` later.
    pub(super) fn changed(&mut self, key: &Path, now_ns: u64, lag_ns: Option<u64>) {
        self.changed_ns.insert(key.clone(), now_ns);
        let Some(lag_ns) = lag_ns else { return };
        // Of two changes of a key the later one is shown later.
        let waiting =
            self.unindexed.iter().filter(|(_, (k, _))| k == key).map(|((at_ns, _), _)| *at_ns).max();
        let at_ns = (now_ns + lag_ns).max(waiting.unwrap_or(0));
        self.changes += 1;
        let meta = self.objects.get(key).map(|object| object.meta(key));
        self.unindexed.insert((at_ns, self.changes), (key.clone(), meta));
    }

    /// True if `key` was changed at or after that moment.
    pub(super) fn changed_since(&self, key: &Path, since_ns: u64) -> bool {
        self.changed_ns.get(key).is_some_and(|changed_ns| *changed_ns >= since_ns)
    }

    /// A page of a listing that shows what the index knows at `now_ns`.
    pub(super) fn lagging_page(
        &mut self,
        prefix: &Path,
        after: Option<&Path>,
        keys: usize,
        is_level: bool,
        now_ns: u64,
    ) -> Answer {
        while let Some(first) = self.unindexed.first_entry().filter(|first| first.key().0 <= now_ns) {
            match first.remove() {
                (key, Some(meta)) => self.index.insert(key, meta),
                (key, None) => self.index.remove(&key),
            };
        }
        let from = page_start(prefix, after);
        let level = is_level.then_some(Level { prefix, last: after });
        page(self.index.range::<Path, _>(from).map(|(_, meta)| meta.clone()), prefix, keys, level)
    }

    fn complete(
        &mut self,
        key: &Path,
        upload: u64,
        parts: usize,
        now: SystemTime,
        seen: &mut Vec<Change>,
    ) -> Result<Answer> {
        let found = self.uploads.get(&upload).ok_or_else(|| no_such_upload(key))?;
        assert!(found.key == *key, "upload {upload} is of {} and not of {key}", found.key);
        if !(found.parts.len() == parts && found.parts.keys().copied().eq(0..parts)) {
            let source = format!("{key}: {} of {parts} parts were uploaded", found.parts.len());
            return Err(Error::Generic { store: super::STORE, source: source.into() });
        }
        let upload = self.uploads.remove(&upload).expect("it was just found");
        let mut bytes = BytesMut::with_capacity(upload.parts.values().map(Bytes::len).sum());
        upload.parts.values().for_each(|part| bytes.extend_from_slice(part));
        Ok(self.write(key, bytes.freeze(), upload.attributes, now, seen))
    }

    pub(super) fn keys(&self, prefix: &str) -> Vec<String> {
        self.objects.keys().map(Path::to_string).filter(|key| key.starts_with(prefix)).collect()
    }

    pub(super) fn peek(&self, key: &Path) -> Option<Bytes> {
        self.objects.get(key).map(|object| object.bytes.clone())
    }

    /// Bytes of all objects.
    pub(super) fn object_bytes(&self) -> u64 {
        self.objects.values().map(|object| object.bytes.len() as u64).sum()
    }

    /// Unfinished uploads, and the bytes they cost.
    pub(super) fn uploads(&self) -> (usize, u64) {
        let parts = self.uploads.values().flat_map(|upload| upload.parts.values());
        (self.uploads.len(), parts.map(|part| part.len() as u64).sum())
    }
}

impl Object {
    fn etag(&self) -> String {
        format!("\"{}\"", self.version)
    }

    fn meta(&self, key: &Path) -> ObjectMeta {
        ObjectMeta {
            location: key.clone(),
            last_modified: self.modified.into(),
            size: self.bytes.len() as u64,
            e_tag: Some(self.etag()),
            version: None,
        }
    }
}

type PageStart<'a> = (Bound<&'a Path>, Bound<&'a Path>);

fn page_start<'a>(prefix: &'a Path, after: Option<&'a Path>) -> PageStart<'a> {
    match after {
        Some(after) if after > prefix => (Bound::Excluded(after), Bound::Unbounded),
        _ => (Bound::Included(prefix), Bound::Unbounded),
    }
}

/// One level of a listing: see [`Operation::ListPage`].
struct Level<'a> {
    prefix: &'a Path,
    /// What was listed before.
    last: Option<&'a Path>,
}

impl Level<'_> {
    /// The common prefix that hides a key; `None` if the key lies on this level.
    fn common<'k>(&self, key: &'k Path) -> Option<PathPart<'k>> {
        let mut rest = key.prefix_match(self.prefix)?;
        let first = rest.next()?;
        rest.next().map(|_| first)
    }
}

/// The first `keys` of `objects`, which are sorted, that are below `prefix`.
fn page(
    objects: impl Iterator<Item = ObjectMeta>,
    prefix: &Path,
    keys: usize,
    level: Option<Level<'_>>,
) -> Answer {
    let owned = |part: PathPart<'_>| part.as_ref().to_owned();
    let mut common = level.as_ref().and_then(|level| level.common(level.last?)).map(owned);
    let is_shown = |meta: &ObjectMeta| {
        let Some(level) = &level else { return true };
        let before = std::mem::replace(&mut common, level.common(&meta.location).map(owned));
        common.is_none() || common != before
    };
    let mut below = objects
        .take_while(|meta| meta.location.as_ref().starts_with(prefix.as_ref()))
        // A prefix ends with a whole segment, and is not below itself.
        .filter(|meta| meta.location.prefix_match(prefix).is_some_and(|mut rest| rest.next().is_some()))
        .filter(is_shown);
    let objects: Vec<ObjectMeta> = below.by_ref().take(keys.max(1)).collect();
    Answer::Page { objects, more: below.next().is_some() }
}

/// S3 tells the time of a modification in whole seconds.
fn whole_seconds(now: SystemTime) -> SystemTime {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

fn not_found(key: &Path) -> Error {
    Error::NotFound { path: key.to_string(), source: "no such key".into() }
}

/// Also what a completion hears whose first attempt succeeded and lost its answer.
fn no_such_upload(key: &Path) -> Error {
    Error::Generic { store: super::STORE, source: Box::new(RequestError::NoSuchUpload(key.to_string())) }
}
