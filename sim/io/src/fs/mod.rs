//! Files and directories, with the durability rules of POSIX and nothing more.
//!
//! Every call is `async`. In a real build reads and buffered writes run in place (they are answered by the page cache) and
//! syncs run on the blocking pool. In the simulation every call takes virtual time, another task may run in between, and
//! the node may die before the call returns: then the call never returns.
//!
//! What is durable: file contents after [`File::sync_data`] or [`File::sync_all`]; a *name* (created, linked, renamed,
//! removed) only after [`sync_dir`] of its directory. Closing a file makes nothing durable.
//!
//! Errors are `std::io::Error` with the raw OS code in both worlds (`ENOSPC` is `ErrorKind::StorageFull`, and so on).

use std::io;
use std::path::Path;

#[cfg(not(madsim))]
mod real;
#[cfg(not(madsim))]
use real as imp;
#[cfg(madsim)]
mod simulated;
#[cfg(madsim)]
use simulated as imp;

/// An open file. Dropping it closes it; closing never makes anything durable.
#[derive(Debug)]
pub struct File(imp::File);

/// How to open a file, as in [`std::fs::OpenOptions`].
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    read: bool,
    write: bool,
    create: bool,
    create_new: bool,
    truncate: bool,
}

/// What [`metadata`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Length of a file in bytes; 0 for a directory.
    pub len_bytes: u64,
    /// True for a directory.
    pub is_dir: bool,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name inside the directory.
    pub name: String,
    /// True for a directory.
    pub is_dir: bool,
}

impl OpenOptions {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }
    /// Open for reading.
    pub fn read(mut self, yes: bool) -> Self {
        self.read = yes;
        self
    }
    /// Open for writing.
    pub fn write(mut self, yes: bool) -> Self {
        self.write = yes;
        self
    }
    /// Create the file if it is missing.
    pub fn create(mut self, yes: bool) -> Self {
        self.create = yes;
        self
    }
    /// Create the file; an existing one is `AlreadyExists`.
    pub fn create_new(mut self, yes: bool) -> Self {
        self.create_new = yes;
        self
    }
    /// Cut an existing file to length 0.
    pub fn truncate(mut self, yes: bool) -> Self {
        self.truncate = yes;
        self
    }
    /// Opens `path`.
    ///
    /// # Errors
    /// As open(2).
    pub async fn open(self, path: impl AsRef<Path>) -> io::Result<File> {
        imp::File::open(path.as_ref(), self).await.map(File)
    }
}

impl File {
    /// Opens an existing file for reading.
    pub async fn open(path: impl AsRef<Path>) -> io::Result<File> {
        OpenOptions::new().read(true).open(path).await
    }

    /// Creates a file, or cuts an existing one to length 0, for reading and writing.
    pub async fn create(path: impl AsRef<Path>) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).await
    }

    /// Creates a file for reading and writing; an existing one is `AlreadyExists`.
    pub async fn create_new(path: impl AsRef<Path>) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(path).await
    }

    /// Reads at `offset_bytes` and returns how many bytes there were; fewer than asked is legal, 0 is the end of the file.
    pub async fn read_at(&self, buf: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset_bytes).await
    }

    /// Fills `buf` from `offset_bytes`, retrying short reads and `EINTR`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before `buf` is full.
    pub async fn read_exact_at(&self, mut buf: &mut [u8], mut offset_bytes: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, offset_bytes).await {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buf = &mut buf[n..];
                    offset_bytes += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Writes at `offset_bytes` and returns how many bytes were taken; fewer than given is legal.
    pub async fn write_at(&self, buf: &[u8], offset_bytes: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset_bytes).await
    }

    /// Writes all of `buf` at `offset_bytes`, retrying short writes and `EINTR`. After an error any prefix may be there.
    pub async fn write_all_at(&self, mut buf: &[u8], mut offset_bytes: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.write_at(buf, offset_bytes).await {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    buf = &buf[n..];
                    offset_bytes += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Cuts or extends (with zeros) the file.
    pub async fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.set_len(len_bytes).await
    }

    /// The present length in bytes.
    pub async fn len(&self) -> io::Result<u64> {
        self.0.len().await
    }

    /// fdatasync(2): contents, and the length needed to read them. Not the name.
    ///
    /// After an error the written data must be taken for lost: a later sync that succeeds proves nothing about it.
    pub async fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data().await
    }

    /// fsync(2): contents and all metadata of the file. Not the name. On errors see [`File::sync_data`].
    pub async fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all().await
    }

    /// Takes the exclusive advisory lock; false if another open file holds it. The lock ends with this file.
    pub async fn try_lock(&self) -> io::Result<bool> {
        self.0.try_lock().await
    }
}

/// fsync(2) of a directory: makes the names created, renamed and removed in it durable.
pub async fn sync_dir(path: impl AsRef<Path>) -> io::Result<()> {
    imp::sync_dir(path.as_ref()).await
}

/// rename(2): atomic for readers; durable only after [`sync_dir`] of both directories.
pub async fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    imp::rename(from.as_ref(), to.as_ref()).await
}

/// link(2): a second name for a file.
pub async fn hard_link(original: impl AsRef<Path>, link: impl AsRef<Path>) -> io::Result<()> {
    imp::hard_link(original.as_ref(), link.as_ref()).await
}

/// unlink(2).
pub async fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    imp::remove_file(path.as_ref()).await
}

/// mkdir(2).
pub async fn create_dir(path: impl AsRef<Path>) -> io::Result<()> {
    imp::create_dir(path.as_ref()).await
}

/// Creates a directory and its missing ancestors; an existing directory is fine. Makes nothing durable.
pub async fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    // Not recursive: the compiler cannot prove that the future of a recursive `async fn` is `Send`.
    let mut missing = Vec::new();
    for ancestor in path.as_ref().ancestors().filter(|p| !p.as_os_str().is_empty()) {
        match metadata(ancestor).await {
            Ok(m) if m.is_dir => break,
            Ok(_) => return Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => missing.push(ancestor),
            Err(e) => return Err(e),
        }
    }
    for ancestor in missing.into_iter().rev() {
        match create_dir(ancestor).await {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// rmdir(2): the directory must be empty.
pub async fn remove_dir(path: impl AsRef<Path>) -> io::Result<()> {
    imp::remove_dir(path.as_ref()).await
}

/// Removes a directory with all that is in it. Not atomic: an error or a crash leaves part of it.
pub async fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    // Parents before their children; not recursive, as `create_dir_all`.
    let mut dirs = vec![path.as_ref().to_path_buf()];
    let mut next = 0;
    while let Some(dir) = dirs.get(next).cloned() {
        next += 1;
        for entry in read_dir(&dir).await? {
            let child = dir.join(&entry.name);
            if entry.is_dir {
                dirs.push(child);
            } else {
                remove_file(&child).await?;
            }
        }
    }
    for dir in dirs.iter().rev() {
        remove_dir(dir).await?;
    }
    Ok(())
}

/// The entries of a directory, sorted by name (the order of the operating system carries no meaning).
pub async fn read_dir(path: impl AsRef<Path>) -> io::Result<Vec<DirEntry>> {
    let mut entries = imp::read_dir(path.as_ref()).await?;
    entries.sort();
    Ok(entries)
}

/// stat(2).
pub async fn metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    imp::metadata(path.as_ref()).await
}

/// True if there is something at `path`.
pub async fn try_exists(path: impl AsRef<Path>) -> io::Result<bool> {
    match metadata(path).await {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// The whole contents of a file.
pub async fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let file = File::open(path).await?;
    let len = usize::try_from(file.len().await?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut buf = vec![0; len];
    file.read_exact_at(&mut buf, 0).await?;
    Ok(buf)
}
