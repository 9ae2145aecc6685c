//! The operating system's files. Buffered calls run in place; syncs run on tokio's blocking pool.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "this is the real side of the seam")]

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::{DirEntry, Metadata, OpenOptions};

#[derive(Debug)]
pub(super) struct File(Arc<std::fs::File>);

impl File {
    pub(super) async fn open(path: &Path, options: OpenOptions) -> io::Result<File> {
        let file = std::fs::OpenOptions::new()
            .read(options.read)
            .write(options.write)
            .create(options.create)
            .create_new(options.create_new)
            .truncate(options.truncate)
            .open(path)?;
        Ok(File(Arc::new(file)))
    }

    pub(super) async fn read_at(&self, buf: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset_bytes)
    }

    pub(super) async fn write_at(&self, buf: &[u8], offset_bytes: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset_bytes)
    }

    pub(super) async fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.set_len(len_bytes)
    }

    pub(super) async fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    pub(super) async fn sync_data(&self) -> io::Result<()> {
        let file = self.0.clone();
        blocking(move || file.sync_data()).await
    }

    pub(super) async fn sync_all(&self) -> io::Result<()> {
        let file = self.0.clone();
        blocking(move || file.sync_all()).await
    }

    pub(super) async fn try_lock(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(std::fs::TryLockError::WouldBlock) => Ok(false),
            Err(std::fs::TryLockError::Error(e)) => Err(e),
        }
    }
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(call).await.map_err(io::Error::other)?
}

pub(super) async fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = std::fs::File::open(path)?;
    if !dir.metadata()?.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
    }
    blocking(move || dir.sync_all()).await
}

pub(super) async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

pub(super) async fn hard_link(original: &Path, link: &Path) -> io::Result<()> {
    std::fs::hard_link(original, link)
}

pub(super) async fn remove_file(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)
}

pub(super) async fn create_dir(path: &Path) -> io::Result<()> {
    std::fs::create_dir(path)
}

pub(super) async fn remove_dir(path: &Path) -> io::Result<()> {
    std::fs::remove_dir(path)
}

pub(super) async fn read_dir(path: &Path) -> io::Result<Vec<DirEntry>> {
    std::fs::read_dir(path)?
        .map(|entry| {
            let entry = entry?;
            let is_dir = entry.file_type()?.is_dir();
            let name = entry.file_name().into_string().map_err(|name| {
                io::Error::new(io::ErrorKind::InvalidData, format!("file name is not UTF-8: {name:?}"))
            })?;
            Ok(DirEntry { name, is_dir })
        })
        .collect()
}

pub(super) async fn metadata(path: &Path) -> io::Result<Metadata> {
    let m = std::fs::metadata(path)?;
    Ok(Metadata { len_bytes: if m.is_dir() { 0 } else { m.len() }, is_dir: m.is_dir() })
}
