//! Ingestion: tables that were written elsewhere, by a [`TableWriter`](super::TableWriter) or RocksDB's `SstFileWriter`, become part of the
//! store as they are.
//!
//! In order: every file is read to its end and checked (`check`), before anything is done. Each gets a link or a copy in the store's
//! directory under a new number, durable with its name (`stage`). Then the commit task, which has no write under way, flushes the
//! memtables of the families that the tables are for, gives each table a sequence number above all that was written so far, and installs them in one
//! atomic edit (`super::commit`), each on the deepest level where it is under nothing older (`place`). Whoever took a snapshot before
//! does not see them, and every later write is above them.
//!
//! What makes a table's entries newer is the MANIFEST alone: all of them have the sequence number 0 in the file, and are read as of the one
//! that the edit has for the table (RocksDB's way since 5.16, `write_global_seqno` being false). So no file is ever written to, which
//! somebody else may share. It also means that a table is worth nothing without its MANIFEST; see `super::repair`.
//!
//! A file that nothing refers to is removed, by the ingestion that failed, or by the next recovery. Not so if it is not known whether
//! the edit is durable: both outcomes must find their files.

mod check;
pub(crate) mod place;
mod stage;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cutwater_io::{fs, point, time};
use tokio::sync::{mpsc, oneshot};

use super::commit::Request;
use super::error::Error;
use super::families::FamilyKey;
use super::filenames::FileKind;
use super::points::of_ingestion as points;
use super::shared::Shared;
use super::version::FileMeta;
use check::check_all;

/// How tables are ingested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngestOptions {
    /// The files are linked into the store, not copied, and lose their own names once that is durable. Where a link is refused, as
    /// between file systems, they are copied all the same. (RocksDB's `move_files`, with `failed_move_fall_back_to_copy`.) A file that was
    /// linked is synced as it is: if a sync of it has failed before, in whoever wrote it or in an ingestion, it is to be written anew or
    /// copied, as the kernel may count as durable what is not.
    pub moves: bool,
}

/// A file, and the family that it is for.
pub(crate) type Wanted = (Arc<FamilyKey>, PathBuf);

/// A table that is to be installed, and its family.
pub(crate) type Staged = (Arc<FamilyKey>, FileMeta);

/// What the commit task is asked to install.
#[derive(Debug)]
pub(crate) struct Ingestion {
    pub(crate) tables: Vec<Staged>,
    /// Gets the sequence number of the last table.
    pub(crate) done: oneshot::Sender<Result<u64, Failed>>,
}

/// Why tables were not ingested.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// They may turn out to be there when the store is opened again.
    pub(crate) may_be_there: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed { error, may_be_there: false }
    }
}

/// Ingests the files. It is a task, as who waits for it may give up, and the copies must not be left behind. One at a time.
#[tracing::instrument(name = "ingestion", level = "debug", skip_all)]
pub(super) async fn run(
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    wanted: Vec<Wanted>,
    options: IngestOptions,
) -> Result<u64, Error> {
    let _one_at_a_time = shared.ingesting.lock().await;
    // No family goes while its tables are on the way.
    let _stays = shared.families_change.lock().await;
    shared.check_writable()?;
    let checked = check_all(&shared, &wanted).await?;
    let mut staged = Vec::new();
    let copied = stage_all(&shared, &checked, options, &mut staged).await;
    let ingested = match copied {
        Ok(()) => install(&requests, staged.clone()).await,
        Err(error) => Err(error.into()),
    };
    match ingested {
        Ok(sequence) => {
            let counters = &shared.files.counters;
            counters.ingested_tables.add(staged.len() as u64);
            counters.ingested_bytes.add(staged.iter().map(|(_, file)| file.len_bytes).sum());
            if options.moves {
                remove_all(wanted.iter().map(|(_, path)| path.clone())).await;
            }
            Ok(sequence)
        }
        Err(Failed { error, may_be_there }) => {
            if !may_be_there {
                let dir = shared.site.dir.path();
                remove_all(staged.iter().map(|(_, file)| FileKind::Table(file.number).path(dir))).await;
            }
            Err(error)
        }
    }
}

/// Gives each table a file of the store, durable with its name. What was begun is in `staged`, even if it fails.
async fn stage_all(
    shared: &Shared,
    checked: &[(Wanted, FileMeta)],
    options: IngestOptions,
    staged: &mut Vec<Staged>,
) -> Result<(), Error> {
    let now_s = time::unix_time().as_secs();
    for ((key, source), meta) in checked {
        let number = shared.allocate_number();
        let times = FileMeta { oldest_ancestor_time_s: now_s, file_creation_time_s: now_s, ..meta.clone() };
        let file = FileMeta { number, ..times };
        staged.push((key.clone(), file.clone()));
        let target = FileKind::Table(number).path(shared.site.dir.path());
        stage::stage(source, &target, &file, options.moves).await?;
    }
    point!(points::STAGED);
    shared.site.dir.sync().await
}

/// Has the commit task install the tables.
async fn install(requests: &mpsc::Sender<Request>, tables: Vec<Staged>) -> Result<u64, Failed> {
    let (done, answer) = oneshot::channel();
    let request = Request::Ingest(Ingestion { tables, done });
    requests.send(request).await.map_err(|_| Error::Closed)?;
    // Without an answer the task was stopped, wherever it was.
    answer.await.unwrap_or(Err(Failed { error: Error::Closed, may_be_there: true }))
}

async fn remove_all(paths: impl Iterator<Item = PathBuf>) {
    for path in paths {
        if let Err(error) = fs::remove_file(&path).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a file that is not needed any more stays");
        }
    }
}

/// The table is sound, and cannot be ingested.
fn refused(path: &Path, what: impl Into<String>) -> Error {
    Error::NotIngestible { file: path.to_owned(), what: what.into() }
}
