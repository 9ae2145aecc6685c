//! Open files: what open, read, write, truncate and lock do.
//!
//! A write is an operation for each sector that it touches, and one for the length if the file grows. A write smaller than
//! a sector carries the merged sector, as the page cache does.
//!
//! Any call fails with `EIO` or `EROFS` on a file system that has given up after a failed sync.
//!
//! Not modelled: append mode, mmap, direct I/O, asynchronous requests within one call.

use std::io;
use std::path::Path;

use super::Disk;
use super::log::{Before, Op};
use super::path::{Place, os};
use super::tree::{Ino, Sector};

/// The largest file offset, as on ext4 with blocks of 4 KiB.
const FILE_BYTES_MAX: u64 = 1 << 44;

/// The number of an open file; never used twice in the life of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fd(pub u64);

/// How to open a file, as in [`crate::fs::OpenOptions`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    /// Open for reading.
    pub read: bool,
    /// Open for writing.
    pub write: bool,
    /// Create the file if it is missing.
    pub create: bool,
    /// Create the file; an existing one is `EEXIST`.
    pub create_new: bool,
    /// Cut an existing file to length 0.
    pub truncate: bool,
}

/// An open file description.
#[derive(Clone, Debug)]
pub struct OpenFile {
    /// What is open.
    pub ino: Ino,
    /// Open for reading.
    pub read: bool,
    /// Open for writing.
    pub write: bool,
    /// How many failed syncs of the inode this open file has been told of, or was opened after.
    pub errors_seen: u64,
}

impl Disk {
    /// open(2).
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`, `EISDIR`, `ENOTDIR`, `ENOSPC`, `InvalidInput` for a mode that makes no sense.
    pub fn open(&mut self, path: &Path, mode: OpenMode) -> io::Result<Fd> {
        let OpenMode { read, write, create, create_new, truncate } = mode;
        let changes = create || create_new || truncate;
        let makes_sense = write || (read && !changes);
        if !makes_sense {
            // The standard library refuses this itself, without a code of the operating system.
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither readable nor writable as asked",
            ));
        }
        self.check_health(write)?;
        let ino = match self.resolve(path)? {
            Place::Entry { ino: Some(_), .. } | Place::Dir(_) if create_new => return Err(os(libc::EEXIST)),
            Place::Entry { dir, name, ino: None, .. } => {
                if !create && !create_new {
                    return Err(os(libc::ENOENT));
                }
                self.check_space_for_name()?;
                let ino = self.new_ino(dir, &name);
                self.issue(Op::Link { dir, name, ino, is_dir: false }, vec![]);
                ino
            }
            place => place.ino().expect("the other case was just seen"),
        };
        if self.is_dir(ino) && write {
            return Err(os(libc::EISDIR));
        }
        if truncate && self.vol.len_bytes(ino) != Some(0) {
            self.issue(Op::Size { ino, len_bytes: 0 }, vec![]);
        }
        let errors_seen = self.sync_errors.get(&ino).map_or(0, |errors| errors.count);
        self.next_fd += 1;
        let fd = Fd(self.next_fd);
        self.fds.insert(fd, OpenFile { ino, read, write, errors_seen });
        Ok(fd)
    }

    /// close(2): gives up the lock, frees what has no name any more, and makes nothing durable.
    pub fn close(&mut self, fd: Fd) {
        if let Some(OpenFile { ino, .. }) = self.fds.remove(&fd) {
            if self.locks.get(&ino) == Some(&fd) {
                self.locks.remove(&ino);
            }
            self.free_if_unused(ino);
        }
    }

    pub(super) fn open_file(&self, fd: Fd) -> io::Result<&OpenFile> {
        self.fds.get(&fd).ok_or_else(|| os(libc::EBADF))
    }

    /// pread(2). Gives what is before a sector that cannot be read, and fails if there is nothing.
    ///
    /// # Errors
    /// `EBADF`, `EISDIR`, `EIO` for a damaged sector.
    pub fn read_at(&mut self, fd: Fd, buf: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        let read = self.read(fd, buf, offset_bytes);
        self.defects.end_read(self.now_us);
        read
    }

    fn read(&mut self, fd: Fd, buf: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        self.check_health(false)?;
        let file = self.open_file(fd)?;
        if !file.read {
            return Err(os(libc::EBADF));
        }
        if i64::try_from(offset_bytes).is_err() {
            return Err(os(libc::EINVAL));
        }
        if self.is_dir(file.ino) {
            return Err(os(libc::EISDIR));
        }
        let ino = file.ino;
        let len_bytes = self.vol.len_bytes(ino).expect("an open file has an inode");
        let there = usize::try_from(len_bytes.saturating_sub(offset_bytes)).unwrap_or(usize::MAX);
        let n = there.min(buf.len());
        for piece in pieces(self.sector_bytes(), offset_bytes, n) {
            let target = &mut buf[piece.at..piece.at + piece.len];
            match self.vol.sector(ino, piece.sector) {
                Some(content) => target.copy_from_slice(&content[piece.from..piece.from + piece.len]),
                None => target.fill(0),
            }
            if self.defects.any() && !self.log.is_pending(ino, piece.sector) {
                let (at, checksums) = ((ino, piece.sector), self.rules.checksums);
                match self.defects.serve(at, piece.from, target, checksums, self.now_us) {
                    Err(_) if piece.at > 0 => return Ok(piece.at),
                    served => served?,
                }
            }
        }
        Ok(n)
    }

    /// pwrite(2). Takes what there is space for.
    ///
    /// # Errors
    /// `EBADF`, `ENOSPC` if there is no space for the first byte, `EFBIG`.
    pub fn write_at(&mut self, fd: Fd, buf: &[u8], offset_bytes: u64) -> io::Result<usize> {
        self.check_health(true)?;
        let file = self.open_file(fd)?;
        if !file.write {
            return Err(os(libc::EBADF));
        }
        if i64::try_from(offset_bytes).is_err() {
            return Err(os(libc::EINVAL));
        }
        if buf.is_empty() {
            return Ok(0);
        }
        if offset_bytes >= FILE_BYTES_MAX {
            return Err(os(libc::EFBIG));
        }
        let room = usize::try_from(FILE_BYTES_MAX - offset_bytes).unwrap_or(usize::MAX);
        let (ino, buf) = (file.ino, &buf[..buf.len().min(room)]);
        let mut new_sectors = Vec::new();
        let mut written = 0;
        for piece in pieces(self.sector_bytes(), offset_bytes, buf.len()) {
            let old = self.vol.sector(ino, piece.sector);
            if old.is_none() && !self.has_space() {
                break;
            }
            let bytes = &buf[piece.at..piece.at + piece.len];
            let content = merged(old, bytes, piece.from, self.sector_bytes());
            let is_new = old.is_none() || self.dur.sector(ino, piece.sector).is_none();
            let id = self.issue(Op::Data { ino, sector: piece.sector, content }, vec![]);
            if is_new && self.rules.data_before_size {
                new_sectors.push(Before::Data(ino, id));
            }
            written += piece.len;
        }
        if written == 0 {
            return Err(os(libc::ENOSPC));
        }
        let end = offset_bytes + written as u64;
        if self.vol.len_bytes(ino).is_some_and(|len| end > len) {
            self.issue(Op::Size { ino, len_bytes: end }, new_sectors);
        }
        Ok(written)
    }

    /// ftruncate(2).
    ///
    /// # Errors
    /// `EINVAL` if the file is not open for writing, `EFBIG`.
    pub fn set_len(&mut self, fd: Fd, len_bytes: u64) -> io::Result<()> {
        self.check_health(true)?;
        let file = self.open_file(fd)?;
        let ino = file.ino;
        if !file.write || i64::try_from(len_bytes).is_err() {
            return Err(os(libc::EINVAL));
        }
        if len_bytes > FILE_BYTES_MAX {
            return Err(os(libc::EFBIG));
        }
        let old_len_bytes = self.vol.len_bytes(ino).expect("an open file has an inode");
        let size = u64::from(self.sector_bytes());
        let (sector, from_byte) = (len_bytes / size, (len_bytes % size) as u32);
        let mut before = Vec::new();
        if len_bytes < old_len_bytes && from_byte > 0 && self.vol.sector(ino, sector).is_some() {
            let zero = self.issue(Op::Zero { ino, sector, from_byte }, vec![]);
            if self.rules.data_before_size {
                before.push(Before::Data(ino, zero));
            }
        }
        if len_bytes != old_len_bytes {
            self.issue(Op::Size { ino, len_bytes }, before);
        }
        Ok(())
    }

    /// The present length in bytes.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn len(&self, fd: Fd) -> io::Result<u64> {
        self.check_health(false)?;
        let ino = self.open_file(fd)?.ino;
        Ok(self.vol.len_bytes(ino).expect("an open file has an inode"))
    }

    /// flock(2) with `LOCK_EX | LOCK_NB`: false if another open file has it.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn try_lock(&mut self, fd: Fd) -> io::Result<bool> {
        let ino = self.open_file(fd)?.ino;
        match self.locks.get(&ino) {
            Some(holder) => Ok(*holder == fd),
            None => {
                self.locks.insert(ino, fd);
                Ok(true)
            }
        }
    }
}

/// A part of a transfer that lies in one sector.
pub(super) struct Piece {
    pub(super) sector: u64,
    /// First byte in the sector.
    pub(super) from: usize,
    /// First byte in the buffer.
    pub(super) at: usize,
    pub(super) len: usize,
}

pub(super) fn pieces(sector_bytes: u32, offset_bytes: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let position = offset_bytes + at as u64;
        let from = (position % u64::from(sector_bytes)) as usize;
        let piece = Piece {
            sector: position / u64::from(sector_bytes),
            from,
            at,
            len: (len - at).min(sector_bytes as usize - from),
        };
        at += piece.len;
        (piece.len > 0).then_some(piece)
    })
}

fn merged(old: Option<&Sector>, bytes: &[u8], from: usize, sector_bytes: u32) -> Sector {
    if bytes.len() == sector_bytes as usize {
        return bytes.into();
    }
    let mut content = old.map_or_else(|| vec![0; sector_bytes as usize], |old| old.to_vec());
    content[from..from + bytes.len()].copy_from_slice(bytes);
    content.into()
}
