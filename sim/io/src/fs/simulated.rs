//! stub
use super::{DirEntry, Metadata, OpenOptions};
use std::{io, path::Path};
#[derive(Debug)]
pub(super) struct File;
impl File {
    pub(super) async fn open(_: &Path, _: OpenOptions) -> io::Result<File> {
        unimplemented!()
    }
    pub(super) async fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        unimplemented!()
    }
    pub(super) async fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        unimplemented!()
    }
    pub(super) async fn set_len(&self, _: u64) -> io::Result<()> {
        unimplemented!()
    }
    pub(super) async fn len(&self) -> io::Result<u64> {
        unimplemented!()
    }
    pub(super) async fn sync_data(&self) -> io::Result<()> {
        unimplemented!()
    }
    pub(super) async fn sync_all(&self) -> io::Result<()> {
        unimplemented!()
    }
    pub(super) async fn try_lock(&self) -> io::Result<bool> {
        unimplemented!()
    }
}
pub(super) async fn sync_dir(_: &Path) -> io::Result<()> {
    unimplemented!()
}
pub(super) async fn rename(_: &Path, _: &Path) -> io::Result<()> {
    unimplemented!()
}
pub(super) async fn hard_link(_: &Path, _: &Path) -> io::Result<()> {
    unimplemented!()
}
pub(super) async fn remove_file(_: &Path) -> io::Result<()> {
    unimplemented!()
}
pub(super) async fn create_dir(_: &Path) -> io::Result<()> {
    unimplemented!()
}
pub(super) async fn remove_dir(_: &Path) -> io::Result<()> {
    unimplemented!()
}
pub(super) async fn read_dir(_: &Path) -> io::Result<Vec<DirEntry>> {
    unimplemented!()
}
pub(super) async fn metadata(_: &Path) -> io::Result<Metadata> {
    unimplemented!()
}
