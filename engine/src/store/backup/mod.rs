//! Backups: copies of a store in a directory of their own, which share no byte with it, and with each other what is the same.
//!
//! The directory is laid out as that of RocksDB's `BackupEngine`, so `ldb restore` restores from it, `ldb backup` adds to it, and what
//! RocksDB made is read here:
//!
//! - `meta/N` says what backup N consists of ([`meta`]);
//! - `shared_checksum/` has tables and blob files, each with its checksum and length in its name;
//! - `private/N/` has the MANIFEST and CURRENT of backup N.
//!
//! What is promised:
//! - A backup is listed once all of it is durable, names included; `meta/N` gets its name last. A listed backup restores exactly what
//!   it was taken of, whatever dies at whatever moment, and whatever other backups come and go.
//! - What an interrupted backup left is not listed, is never made part of another one, and goes with the next change.
//! - A backup that is deleted first stops being listed, durably, and then loses the files that no other one names.
//! - A restored store is there as a whole or not at all, and durable on return. What does not have its checksum is not restored.
//!
//! Names whose sync failed may never become durable, however often their directory is synced later. So a backup whose last sync
//! failed is withdrawn, and before one is deleted the names of those that stay are made anew.
//!
//! A backup has what the store had in tables when it began, after a flush of all families, and no log. It has no options either. Who
//! changes the directory locks it; who reads it does not, and must not have a backup deleted meanwhile.

mod catalogue;
mod create;
mod delete;
mod meta;
mod restore;

use std::path::{Path, PathBuf};

use cutwater_io::fs::{self, File};

use super::creation::{create_dir_durably, take_lock};
use super::db::Store;
use super::error::{Error, IoContext};
use catalogue::{Catalogue, Listed, MetaName};
use meta::{Meta, PRIVATE_DIR, SHARED_DIR};

/// Where the meta files are.
const META_DIR: &str = "meta";
/// No meta file is longer. Bytes.
const MAX_META_BYTES: u64 = 64 << 20;

/// A directory of backups; see the module. Nothing is open between calls.
#[derive(Clone, Debug)]
pub struct Backups {
    dir: PathBuf,
}

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Its number. A later one has a higher one.
    pub id: u32,
    /// When it was made, by the wall clock, since 1970. Seconds.
    pub time_s: u64,
    /// The last write that is in it.
    pub sequence: u64,
    /// How many files it consists of, shared ones included.
    pub files: usize,
    /// Their length. Bytes.
    pub len_bytes: u64,
}

/// What is in a directory of backups.
#[derive(Debug, Default)]
pub struct BackupsFound {
    /// The backups, oldest first.
    pub backups: Vec<Backup>,
    /// Those that cannot be restored: the meta file cannot be read, or a file is missing or has another length. By number.
    pub damaged: Vec<DamagedBackup>,
}

/// A backup that cannot be restored.
#[derive(Debug)]
pub struct DamagedBackup {
    /// Its number.
    pub id: u32,
    /// The first thing that is wrong.
    pub error: Error,
}

impl Backups {
    /// The backups in `dir`. They need not be there yet; the first one that is created makes the directory.
    pub fn at(dir: impl AsRef<Path>) -> Backups {
        Backups { dir: dir.as_ref().to_owned() }
    }

    /// Makes a backup of an open store, and copies what no backup has yet. Durable on return. Writers go on meanwhile.
    ///
    /// # Errors
    /// [`Error::Locked`], what stopped writes to the store, damage of it, or I/O. Then there is no new backup, unless the disk
    /// fails once more while it is taken back: what is listed then is whole.
    pub async fn create(&self, store: &Store) -> Result<Backup, Error> {
        let _lock = self.lock().await?;
        let catalogue = self.load().await?;
        // Before anything goes that has a number.
        let id = catalogue.next_id().ok_or(Error::InvalidRequest("no number is left for a backup"))?;
        delete::collect(&self.dir, &catalogue).await?;
        let set = store.settled().await?;
        create::run(&self.dir, id, &catalogue, store.shared(), &set).await?;
        self.describe(id, &self.meta(id).await?).await
    }

    /// The backups that are there. One that cannot be read does not take the others away.
    ///
    /// # Errors
    /// The directory cannot be read. One that is not there has none.
    pub async fn list(&self) -> Result<BackupsFound, Error> {
        let catalogue = self.load().await?;
        let mut found = BackupsFound::default();
        for (id, listed) in catalogue.listed {
            match self.describe(id, &listed.meta).await {
                Ok(backup) => found.backups.push(backup),
                Err(error) => found.damaged.push(DamagedBackup { id, error }),
            }
        }
        let unreadable = catalogue.unreadable.into_iter();
        found.damaged.extend(unreadable.map(|(id, error)| DamagedBackup { id, error }));
        found.damaged.sort_by_key(|damaged| damaged.id);
        Ok(found)
    }

    /// Reads every byte of a backup, and returns of each file that is not what was written, or cannot be read, what is wrong.
    ///
    /// # Errors
    /// [`Error::NoSuchBackup`], or a meta file that is damaged or cannot be read.
    pub async fn verify(&self, id: u32) -> Result<Vec<Error>, Error> {
        Ok(restore::verify(&self.dir, &self.meta(id).await?).await)
    }

    /// Restores a backup to `target`, which must not exist. On return the store is there, and durable.
    ///
    /// # Errors
    /// [`Error::NoSuchBackup`], [`Error::AlreadyExists`], damage of the backup, or I/O. Then there is nothing at `target`, or what
    /// somebody else has there.
    pub async fn restore(&self, id: u32, target: impl AsRef<Path>) -> Result<(), Error> {
        restore::run(&self.dir, &self.meta(id).await?, target.as_ref()).await
    }

    /// Deletes a backup, damaged or not, and what no other one needs of it.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::NoSuchBackup`], or I/O. Then the backup is there as before, unless its deletion was durable and
    /// only files are left that nothing needs.
    pub async fn delete(&self, id: u32) -> Result<(), Error> {
        let _lock = self.lock().await?;
        let catalogue = self.load().await?;
        if !catalogue.is_there(id) {
            return Err(self.no_such(id));
        }
        delete::withdraw(&self.dir, &catalogue, &[id].into()).await?;
        self.collect().await
    }

    /// Deletes all but the newest `keep` backups, and returns the numbers of those that went. Backups whose meta file cannot be read
    /// do not count, and stay.
    ///
    /// # Errors
    /// As [`Backups::delete`].
    pub async fn purge(&self, keep: usize) -> Result<Vec<u32>, Error> {
        let _lock = self.lock().await?;
        let catalogue = self.load().await?;
        let surplus = catalogue.surplus(keep);
        if !surplus.is_empty() {
            delete::withdraw(&self.dir, &catalogue, &surplus).await?;
        }
        self.collect().await?;
        Ok(surplus.into_iter().collect())
    }

    /// Removes what no backup names. Every change of the directory does so, too.
    ///
    /// # Errors
    /// [`Error::Locked`] or I/O.
    pub async fn collect_garbage(&self) -> Result<(), Error> {
        let _lock = self.lock().await?;
        self.collect().await
    }

    async fn collect(&self) -> Result<(), Error> {
        delete::collect(&self.dir, &self.load().await?).await
    }

    /// Locks the directory, which is there with all its parts, durably, on return.
    async fn lock(&self) -> Result<File, Error> {
        for part in [META_DIR, SHARED_DIR, PRIVATE_DIR] {
            create_dir_durably(&self.dir.join(part)).await?;
        }
        take_lock(&self.dir).await
    }

    /// Looks at all that is there.
    async fn load(&self) -> Result<Catalogue, Error> {
        let mut catalogue = Catalogue::default();
        for name in names(&self.dir.join(META_DIR)).await? {
            match MetaName::parse(&name) {
                Some(MetaName::Withdrawn(id)) => drop(catalogue.withdrawn.insert(id)),
                Some(MetaName::Unfinished(id)) => drop(catalogue.unfinished.insert(id)),
                Some(MetaName::Listed(id)) => match self.read_meta(id).await {
                    Ok(listed) => drop(catalogue.listed.insert(id, listed)),
                    Err(error) => drop(catalogue.unreadable.insert(id, error)),
                },
                None => {}
            }
        }
        let private = names(&self.dir.join(PRIVATE_DIR)).await?;
        catalogue.private = private.iter().filter_map(|name| catalogue::id(name)).collect();
        catalogue.shared = names(&self.dir.join(SHARED_DIR)).await?.into_iter().collect();
        Ok(catalogue)
    }

    async fn meta(&self, id: u32) -> Result<Meta, Error> {
        match fs::try_exists(meta_path(&self.dir, id)).await.during("stat", &self.dir)? {
            true => self.read_meta(id).await.map(|listed| listed.meta),
            false => Err(self.no_such(id)),
        }
    }

    async fn read_meta(&self, id: u32) -> Result<Listed, Error> {
        let path = meta_path(&self.dir, id);
        let len_bytes = fs::metadata(&path).await.during("stat", &path)?.len_bytes;
        if len_bytes > MAX_META_BYTES {
            return Err(Error::corruption(&path, MAX_META_BYTES, format!("it has {len_bytes} bytes")));
        }
        let bytes = fs::read(&path).await.during("read", &path)?;
        match Meta::decode(id, &bytes) {
            Ok(meta) => Ok(Listed { meta, bytes }),
            Err(wrong) => Err(Error::corruption(&path, wrong.offset_bytes, wrong.what)),
        }
    }

    /// What a meta file and the lengths of its files say.
    async fn describe(&self, id: u32, meta: &Meta) -> Result<Backup, Error> {
        let Meta { time_s, sequence, files } = meta;
        let mut len_bytes = 0u64;
        for file in files {
            len_bytes = len_bytes.saturating_add(restore::len_bytes(&self.dir, file).await?);
        }
        Ok(Backup { id, time_s: *time_s, sequence: *sequence, files: files.len(), len_bytes })
    }

    fn no_such(&self, id: u32) -> Error {
        Error::NoSuchBackup { dir: self.dir.clone(), id }
    }
}

fn meta_path(dir: &Path, id: u32) -> PathBuf {
    dir.join(META_DIR).join(id.to_string())
}

/// The names in a directory, which need not be there.
async fn names(dir: &Path) -> Result<Vec<String>, Error> {
    if !fs::try_exists(dir).await.during("stat", dir)? {
        return Ok(Vec::new());
    }
    Ok(fs::read_dir(dir).await.during("read", dir)?.into_iter().map(|entry| entry.name).collect())
}

/// Makes `meta/id` have this content, at once or not at all. The content is durable, the name is not.
async fn name_meta(dir: &Path, id: u32, content: &[u8]) -> Result<(), Error> {
    let path = meta_path(dir, id);
    let temporary = path.with_extension(&catalogue::TEMPORARY[1..]);
    super::manifest::write_durably(&temporary, content).await?;
    cutwater_io::point!(super::points::of_backups::BEFORE_LISTED);
    fs::rename(&temporary, &path).await.during("rename", &temporary)
}
