//! A directory that is filled under a temporary name, and renamed once all of it is durable: under its own name it is there as
//! a whole, or not at all. On return from the last step the name is durable, too.
//!
//! The temporary name is the name with `.tmp` behind it. What is there under it is removed if all that is in it has names that a store
//! gives, so that an earlier attempt left it; else it is somebody else's, and neither it nor the name is taken.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use cutwater_io::fs;

use super::creation::create_dir_durably;
use super::error::{Error, IoContext};
use super::filenames::FileKind;

/// See the module.
#[derive(Debug)]
pub(crate) struct Staging<'d> {
    dir: &'d Path,
    parent: &'d Path,
    temporary: PathBuf,
    has_name: AtomicBool,
}

impl<'d> Staging<'d> {
    /// Prepares for `dir`, which must not exist. `durable_parents` are directories whose own names are known to be durable; that
    /// of `dir` is one of them on return. What an earlier attempt left is removed; the directory to fill is not there yet.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] of the directory or of its temporary name, or I/O.
    pub(crate) async fn begin(
        dir: &'d Path,
        durable_parents: &mut BTreeSet<PathBuf>,
    ) -> Result<Staging<'d>, Error> {
        if fs::try_exists(dir).await.during("stat", dir)? {
            return Err(Error::AlreadyExists { path: dir.to_owned() });
        }
        let name = dir.file_name().ok_or(Error::InvalidRequest("the directory to be made has no name"))?;
        let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // One that exists may have been made by a process that died before it had synced the name.
        if !durable_parents.contains(parent) {
            create_dir_durably(parent).await?;
            durable_parents.insert(parent.to_owned());
        }
        let mut temporary_name = name.to_owned();
        temporary_name.push(".tmp");
        let temporary = parent.join(temporary_name);
        if fs::try_exists(&temporary).await.during("stat", &temporary)? {
            let left = fs::read_dir(&temporary).await.during("read", &temporary)?;
            if left.iter().any(|entry| FileKind::parse(&entry.name).is_none()) {
                return Err(Error::AlreadyExists { path: temporary });
            }
            fs::remove_dir_all(&temporary).await.during("remove", &temporary)?;
        }
        Ok(Staging { dir, parent, temporary, has_name: AtomicBool::new(false) })
    }

    /// What is to be filled, and to be durable with all that is in it before [`Staging::rename`].
    pub(crate) fn path(&self) -> &Path {
        &self.temporary
    }

    /// Gives the directory its name.
    pub(crate) async fn rename(&self) -> Result<(), Error> {
        fs::rename(&self.temporary, self.dir).await.during("rename", &self.temporary)?;
        self.has_name.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the name durable.
    pub(crate) async fn sync_name(&self) -> Result<(), Error> {
        fs::sync_dir(self.parent).await.during("sync", self.parent)
    }

    /// Removes what there is after a failure: not acknowledged, it must not look as if it were. What cannot be removed is the
    /// caller's to clean.
    pub(crate) async fn abandon(&self) {
        let _ = fs::remove_dir_all(&self.temporary).await;
        // Under that name may be what somebody else has made meanwhile.
        if self.has_name.load(Ordering::Relaxed) {
            let _ = fs::remove_dir_all(self.dir).await;
        }
    }
}
