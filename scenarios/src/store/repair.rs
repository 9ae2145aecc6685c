//! What remains right of a damaged store, and how it is replaced.
//!
//! A store that refused once is opened again: what struck only one read is gone. One that refuses twice in a row is
//! replaced, as an operator would: first it is opened without checking every table, to see that what can be read is right;
//! then the newest copy that is whole (a backup, or a checkpoint, which shares its tables with the store) becomes the store,
//! or an empty one if there is none.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cutwater_engine::store::{CheckpointFiles, Error, Options};
use cutwater_io::fs::{self, File};

use super::content::{KEYS, key, same_value};
use super::families::{Db, Draft};
use super::process::{DB, Exit, Shared};
use crate::oracle::batches::{Content, Readable};

/// Lives in a row that may end at damage before the store is replaced.
const RETRIES: u32 = 2;

impl Shared {
    pub(super) fn is_beyond_retries(&self) -> bool {
        let state = self.state();
        state.replacing || state.refused >= RETRIES
    }

    /// Reads every key by itself; those whose read is refused are left out.
    pub(super) async fn survey(&self, db: &Db) -> Result<Readable, Exit> {
        let mut readable = BTreeMap::new();
        for (actor, number) in (0..self.actors.len()).flat_map(|actor| (0..KEYS).map(move |n| (actor, n))) {
            let key = key(actor, number);
            match self.tolerate("survey", db.get(&key).await) {
                Ok(value) => drop(readable.insert(key, value)),
                Err(Exit::Damaged | Exit::Failed) => {}
                Err(violated) => return Err(violated),
            }
        }
        Ok(readable)
    }

    /// If a read of the writer was refused as damaged: its other keys read as ever, or are refused, too.
    pub(super) async fn others_are_right<T>(
        &self,
        db: &Db,
        actor: usize,
        found: Result<T, Exit>,
    ) -> Result<T, Exit> {
        if !matches!(found, Err(Exit::Damaged)) {
            return found;
        }
        for number in 0..KEYS {
            let key = key(actor, number);
            let expected = self.state().batches.content_of(actor).get(&key).cloned();
            match self.tolerate("survey", db.get(&key).await) {
                Ok(value) => {
                    same_value("what is not damaged is read as it was written", &key, &expected, &value)?;
                }
                Err(Exit::Damaged | Exit::Failed) => {}
                Err(violated) => return Err(violated),
            }
        }
        found
    }

    /// Replaces the store by the newest whole copy of it.
    pub(super) async fn replace(&self) -> Result<(), Exit> {
        if !self.state().replacing {
            self.salvage().await?;
            self.state().replacing = true;
        }
        let content = self.whole_copy().await?;
        self.world.note("replace", &format!("{} keys from a copy", content.len()));
        match fs::remove_dir_all(DB).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Exit::Failed),
            _ => {}
        }
        let db = self.tolerate("open anew", self.open(DB, self.options()).await)?;
        for (key, value) in &content {
            let mut draft = Draft::new(&db);
            draft.put(key.clone(), value.clone());
            self.tolerate("write anew", db.write(draft.batch, false).await)?;
        }
        self.tolerate("flush anew", db.store.flush().await)?;
        self.tolerate("close anew", db.close().await)?;
        {
            let mut state = self.state();
            state.batches.begin_anew(&content);
            state.scratch.clear();
            state.replacing = false;
            state.refused = 0;
        }
        // Its logs have the numbers of the former one's.
        self.judge_from_now_on();
        Ok(())
    }

    /// What can be read of the store without opening every table first is right.
    async fn salvage(&self) -> Result<(), Exit> {
        let options = Options { paranoid_checks: false, create_if_missing: false, ..self.options() };
        // Whether power failed before is not known here any more; what may be missing was judged when it was found.
        let power_failed = true;
        let db = match self.open(DB, options).await {
            Err(Error::NotFound { .. }) => {
                let keys = (0..self.actors.len()).flat_map(|actor| (0..KEYS).map(move |n| key(actor, n)));
                return self.judge_readable(&keys.map(|key| (key, None)).collect(), power_failed);
            }
            opened => match self.tolerate("open to salvage", opened) {
                Err(Exit::Damaged) => return Ok(()),
                other => other?,
            },
        };
        let readable = self.survey(&db).await?;
        let judged = self.judge_readable(&readable, power_failed);
        // It may well fail: it is to be replaced.
        let _ = db.close().await;
        judged
    }

    /// What is read of the newest copy that is whole, and is what it was taken of; nothing if there is none.
    async fn whole_copy(&self) -> Result<Content, Exit> {
        loop {
            let (backup, checkpoint) = {
                let state = self.state();
                let backup = state.backups.iter().max_by_key(|backup| backup.taken_us).cloned();
                (backup, state.checkpoints.iter().max_by_key(|taken| taken.taken_us).cloned())
            };
            let taken_us = checkpoint.as_ref().map(|taken| taken.taken_us);
            match (backup.filter(|backup| Some(backup.taken_us) > taken_us), checkpoint) {
                (Some(backup), _) => match self.restored_as(&backup).await {
                    Err(Exit::Damaged) => self.forget(&[backup.id]),
                    read => return read,
                },
                (None, Some(taken)) => match self.open_checkpoint(&taken).await {
                    Err(Exit::Damaged) => self.state().checkpoints.retain(|other| other.dir != taken.dir),
                    read => return read,
                },
                (None, None) => return Ok(Content::new()),
            }
        }
    }
}

/// Copies the files of a checkpoint to a new directory, and checks that they are what was written.
pub(super) async fn copy(files: &CheckpointFiles, from: &Path, to: &Path) -> Result<(), Error> {
    io("create", to, fs::create_dir(to).await)?;
    for file in &files.files {
        let (from, to) = (from.join(&file.name), to.join(&file.name));
        let content = io("read", &from, fs::read(&from).await)?;
        if file.crc32c.is_some_and(|expected| expected != crc32c::crc32c(&content)) {
            let what = "it is not what was written".to_owned();
            return Err(Error::Corruption { file: from, offset_bytes: 0, what });
        }
        io("write", &to, write(&to, &content).await)?;
    }
    Ok(())
}

async fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let file = File::create_new(path).await?;
    file.write_all_at(content, 0).await?;
    file.sync_data().await
}

fn io<T>(op: &'static str, path: &Path, result: std::io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Io { op, path: path.into(), source: Arc::new(source) })
}
