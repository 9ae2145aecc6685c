//! Between a simulated disk and a real directory: so that a tool of the real world can judge what an engine wrote, and so
//! that what the real world wrote can be recovered from. For a harness, outside of any run.
#![expect(clippy::disallowed_methods, reason = "this is the edge between a simulated disk and a real one")]

use std::io;
use std::path::Path;

use super::Disk;
use super::file::OpenMode;

impl Disk {
    /// Writes what processes read below `prefix` into `real_dir`, which is made if it is missing. Damaged sectors are
    /// written with their wrong bytes, those that cannot be read as zeros.
    ///
    /// # Errors
    /// Those of the real file system, with the path.
    pub fn export(&self, prefix: &str, real_dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(real_dir)?;
        let prefix = prefix.trim_matches('/');
        let mut there = Vec::new();
        self.volatile().walk(|path, ino| there.push((path.to_owned(), ino)));
        for (path, ino) in there {
            let path = path.trim_start_matches('/');
            let below = match path.strip_prefix(prefix) {
                Some("") | None => continue,
                Some(below) if prefix.is_empty() => below,
                Some(below) => match below.strip_prefix('/') {
                    Some(below) => below,
                    None => continue,
                },
            };
            let target = real_dir.join(below);
            let written = if self.is_dir(ino) {
                std::fs::create_dir_all(&target)
            } else {
                std::fs::write(&target, self.bytes_as_read(ino))
            };
            written.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", target.display())))?;
        }
        Ok(())
    }

    /// Copies the files and directories of `real_dir` below `prefix`, which is made if it is missing. Nothing is synced.
    ///
    /// # Errors
    /// Those of either file system.
    pub fn import(&mut self, real_dir: &Path, prefix: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> = prefix.ancestors().take_while(|p| self.metadata(p).is_err()).collect();
        while let Some(dir) = missing.pop() {
            if !dir.as_os_str().is_empty() {
                self.create_dir(dir)?;
            }
        }
        let mut entries: Vec<_> = std::fs::read_dir(real_dir)?.collect::<io::Result<_>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let target = prefix.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.import(&entry.path(), &target)?;
                continue;
            }
            let fd = self.open(
                &target,
                OpenMode { write: true, create: true, truncate: true, ..OpenMode::default() },
            )?;
            let content = std::fs::read(entry.path())?;
            let mut at = 0;
            while at < content.len() {
                at += self.write_at(fd, &content[at..], at as u64)?;
            }
            self.close(fd);
        }
        Ok(())
    }
}
