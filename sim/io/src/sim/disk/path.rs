//! From paths to inodes, with the errors of Linux.
//!
//! Paths are absolute; a relative one is taken from the root. There are no symbolic links. As with
//! [`std::path::Path::components`], a `.` and a slash at the end mean nothing.

use std::io;
use std::path::{Component, Path};

use super::Disk;
use super::tree::{Ino, Inode, Name, ROOT};

/// The longest name in a directory, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// An error of the operating system.
pub(super) fn os(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// Refuses a name that is too long.
pub(super) fn check_name(name: &str) -> io::Result<()> {
    if name.len() > NAME_BYTES_MAX { Err(os(libc::ENAMETOOLONG)) } else { Ok(()) }
}

/// Where a path ends.
pub(super) enum Place {
    /// A name in a directory, whether there is something or not.
    Entry {
        /// The directory.
        dir: Ino,
        /// The name.
        name: Name,
        /// What is there.
        ino: Option<Ino>,
        /// The directories from the root down to `dir`.
        ancestors: Vec<Ino>,
    },
    /// The root, or a directory reached by `.` or `..`.
    Dir(Ino),
}

impl Place {
    pub(super) fn ino(&self) -> Option<Ino> {
        match self {
            Place::Entry { ino, .. } => *ino,
            Place::Dir(ino) => Some(*ino),
        }
    }
}

impl Disk {
    /// Walks `path`; only its last name may be missing.
    pub(super) fn resolve(&self, path: &Path) -> io::Result<Place> {
        let place = self.resolve_parent(path)?;
        if let Place::Entry { name, .. } = &place {
            check_name(name)?;
        }
        Ok(place)
    }

    /// As [`Disk::resolve`], without a judgement of the last name.
    pub(super) fn resolve_parent(&self, path: &Path) -> io::Result<Place> {
        let mut components = path.components().peekable();
        if components.peek().is_none() {
            return Err(os(libc::ENOENT));
        }
        let mut above = vec![ROOT];
        while let Some(component) = components.next() {
            let last = components.peek().is_none();
            let dir = *above.last().expect("the root stays");
            match component {
                Component::ParentDir if above.len() > 1 => drop(above.pop()),
                Component::Normal(name) => {
                    let name = name.to_str().ok_or_else(|| os(libc::EINVAL))?;
                    let ino = self.vol.entry(dir, name);
                    if last {
                        return Ok(Place::Entry { dir, name: name.into(), ino, ancestors: above });
                    }
                    check_name(name)?;
                    let ino = ino.ok_or_else(|| os(libc::ENOENT))?;
                    if !self.is_dir(ino) {
                        return Err(os(libc::ENOTDIR));
                    }
                    above.push(ino);
                }
                _ => {}
            }
        }
        Ok(Place::Dir(*above.last().expect("the root stays")))
    }

    /// The inode at `path`.
    pub(super) fn lookup(&self, path: &Path) -> io::Result<Ino> {
        self.resolve(path)?.ino().ok_or_else(|| os(libc::ENOENT))
    }

    pub(super) fn is_dir(&self, ino: Ino) -> bool {
        self.vol.inode(ino).is_some_and(Inode::is_dir)
    }
}
