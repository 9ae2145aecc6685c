//! Whether a checkpoint, or all that a job retains, could be restored: every file that its metadata names is looked at.
//!
//! What lies at a path tells what it is: an object is metadata, whatever its name; a prefix with `_metadata` in it is a checkpoint; one
//! with a register, or with `chk-*` in it, is a job. The first bytes of the metadata tell whose it is: ours, or Flink's.
//!
//! - **Ours** ([`ours`]): each file is read to its end, and its length and CRC-32C compared; then those of each segment of it. Of a job, the register says which checkpoints
//!   are retained, and the sweeper's rules say what is orphaned.
//! - **Flink's** ([`theirs`]): each file is asked for its length; Flink keeps no checksums. A relative name must stay in the directory of
//!   the metadata, and be there.
//!
//! Nothing is written. A job may go on meanwhile: a checkpoint that is let go while it is looked at will look damaged.
//!
//! Orphans, files that nobody names, cost room and harm nothing: they are listed, and are no damage.
//!
//! Left out: what is in the files. That they are a store that opens is for `store check`.

mod located;
mod ours;
mod report;
mod theirs;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cutwater_io::objects::Path;
use futures::TryStreamExt;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};

use super::read::{self, ReadError};
use super::snapshot::{FileHandle, Segment};
use crate::checkpoint::layout::Layout;
use crate::flink;
pub use located::{Located, Moved};
pub use report::{Checkpoint, Content, Damage, Orphan, Report, Wrong};

/// As many as S3 gives in one answer.
const LISTED_AT_ONCE: usize = 1000;

/// What [`check`] could not even begin with.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// The store failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Neither metadata, nor a checkpoint, nor a job.
    #[error(
        "{path}: no checkpoint: neither metadata, nor a directory with _metadata, a register or chk-* in it"
    )]
    Nothing {
        /// What was given.
        path: String,
    },
    /// The object is something else.
    #[error("{path}: no metadata: it begins with {found}, ours with 4357434d, Flink's with 4960672d")]
    Foreign {
        /// The object.
        path: String,
        /// Its first bytes, in hexadecimal.
        found: String,
    },
}

/// Looks at what is at a place. Damage is in the report, not an error.
///
/// # Errors
/// If the store fails, or there is nothing that could be checked.
pub async fn check(at: &Located, moved: &[Moved]) -> Result<Report, FsckError> {
    let mut files = Files { store: at.store.clone(), seen: BTreeMap::new() };
    let path = at.path.trim_end_matches('/').to_owned();
    if let Some(bytes) = read::get(&*at.store, &path).await? {
        let mut report = Report::default();
        metadata(at, moved, &path, bytes, &mut files, &mut report).await?;
        return Ok(report.counted(&files));
    }
    let named = Layout::metadata_in(&path);
    if let Some(bytes) = read::get(&*at.store, &named).await? {
        let mut report = Report::default();
        metadata(at, moved, &named, bytes, &mut files, &mut report).await?;
        let listed = files.list(&path).await?;
        report.orphans_among(listed, &named);
        return Ok(report.counted(&files));
    }
    let top = files.list(&path).await?;
    let inside = |name: &str| Some(name.strip_prefix(&path)?.trim_start_matches('/').to_owned());
    let is_register = |name: &str| inside(name).is_some_and(|name| name.starts_with("log/"));
    if top.keys().any(|name| is_register(name)) {
        return Ok(ours::job(at, &path, &top, &mut files).await?.counted(&files));
    }
    let is_metadata = |name: &str| {
        inside(name).is_some_and(|name| name.starts_with("chk-") && Layout::directory_of(&name).is_some())
    };
    let found: Vec<&String> = top.keys().filter(|name| is_metadata(name)).collect();
    if found.is_empty() {
        return Err(FsckError::Nothing { path: at.name(&path) });
    }
    let mut report = Report { is_job: true, ..Report::default() };
    for name in found {
        match read::get(&*at.store, name).await? {
            Some(bytes) => metadata(at, moved, name, bytes, &mut files, &mut report).await?,
            None => report.damage(name, name, Wrong::Missing { expected_bytes: None }),
        }
    }
    report.orphans_among(top, "");
    Ok(report.counted(&files))
}

/// One checkpoint by its metadata.
async fn metadata(
    at: &Located,
    moved: &[Moved],
    path: &str,
    bytes: Bytes,
    files: &mut Files,
    report: &mut Report,
) -> Result<(), FsckError> {
    if bytes.starts_with(&flink::MAGIC) {
        theirs::checkpoint(at, moved, path, &bytes, files, report).await?;
    } else if bytes.starts_with(&super::metadata::MAGIC) {
        ours::checkpoint(at, path, &bytes, files, report).await?;
    } else {
        let found = bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>();
        let found = if found.is_empty() { "nothing".into() } else { found };
        // Among others it is one checkpoint that is damaged; alone, it is perhaps none.
        match report.is_job {
            true => report.damage(path, path, Wrong::Metadata { reason: format!("it begins with {found}") }),
            false => return Err(FsckError::Foreign { path: at.name(path), found }),
        }
    }
    Ok(())
}

fn join(directory: &str, name: &str) -> String {
    match directory {
        "" => name.to_owned(),
        directory => format!("{directory}/{name}"),
    }
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    len_bytes: u64,
    /// If it was read.
    crc32c: Option<u32>,
}

/// Files that were looked at; each once, however many checkpoints name it.
struct Files {
    store: Arc<dyn ObjectStore>,
    seen: BTreeMap<String, Option<Seen>>,
}

impl Files {
    /// The length; `None` if the file does not exist.
    async fn len(&mut self, path: &str) -> Result<Option<u64>, ReadError> {
        if let Some(seen) = self.seen.get(path) {
            return Ok(seen.map(|seen| seen.len_bytes));
        }
        let len = read::size(&*self.store, path).await?;
        self.seen.insert(path.into(), len.map(|len_bytes| Seen { len_bytes, crc32c: None }));
        Ok(len)
    }

    /// The length and the checksum, read a piece at a time; `None` if the file does not exist.
    async fn content(&mut self, path: &str) -> Result<Option<(u64, u32)>, ReadError> {
        if let Some(Some(Seen { len_bytes, crc32c: Some(crc32c) })) = self.seen.get(path) {
            return Ok(Some((*len_bytes, *crc32c)));
        }
        if let Some(None) = self.seen.get(path) {
            return Ok(None);
        }
        let location = Path::from(path);
        let open = async {
            match self.store.get(&location).await {
                Ok(result) => Ok(Some(result.into_stream())),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let Some(mut stream) = read::call(path, open).await? else {
            self.seen.insert(path.into(), None);
            return Ok(None);
        };
        let (mut len_bytes, mut crc32c) = (0, 0);
        while let Some(piece) = read::call(path, stream.try_next()).await? {
            len_bytes += piece.len() as u64;
            crc32c = crc32c::crc32c_append(crc32c, &piece);
        }
        self.seen.insert(path.into(), Some(Seen { len_bytes, crc32c: Some(crc32c) }));
        Ok(Some((len_bytes, crc32c)))
    }

    /// True if the file was read and is what the handle says.
    fn is(&self, path: &str, handle: &FileHandle) -> bool {
        let expected = Seen { len_bytes: handle.len_bytes, crc32c: Some(handle.crc32c) };
        self.seen.get(path) == Some(&Some(expected))
    }

    /// The checksum of a part of a file that was found to be long enough; `None` if the file is there no more.
    async fn segment(&self, path: &str, segment: &Segment) -> Result<Option<u32>, ReadError> {
        Ok(self.part(path, segment).await?.map(|content| crc32c::crc32c(&content)))
    }

    /// A part of a file that was found to be long enough; `None` if the file is there no more.
    async fn part(&self, path: &str, segment: &Segment) -> Result<Option<Vec<u8>>, ReadError> {
        if segment.len_bytes == 0 {
            return Ok(Some(Vec::new()));
        }
        let location = Path::from(path);
        let end = segment.offset_bytes.saturating_add(segment.len_bytes);
        let options =
            GetOptions { range: Some(GetRange::Bounded(segment.offset_bytes..end)), ..GetOptions::default() };
        let open = async {
            match self.store.get_opts(&location, options).await {
                Ok(result) => Ok(Some(result.into_stream())),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let Some(mut stream) = read::call(path, open).await? else { return Ok(None) };
        let mut content = Vec::new();
        while let Some(piece) = read::call(path, stream.try_next()).await? {
            content.extend_from_slice(&piece);
        }
        Ok(Some(content))
    }

    /// Everything below, with its length.
    async fn list(&self, directory: &str) -> Result<BTreeMap<String, u64>, ReadError> {
        let prefix = Path::from(directory);
        let listing = self.store.list(Some(&prefix)).map_ok(|meta| (meta.location.to_string(), meta.size));
        let mut answers = listing.try_ready_chunks(LISTED_AT_ONCE);
        let mut all = BTreeMap::new();
        // The time limit is for each answer of the store.
        while let Some(some) =
            read::call(directory, async { answers.try_next().await.map_err(|error| error.1) }).await?
        {
            all.extend(some);
        }
        Ok(all)
    }
}
