//! The simulated file system and the real one answer alike: random sequences of calls are made on a real directory and on
//! the model, and every result is compared, the codes of errors included.
#![cfg(madsim)]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "one of the twins is the real file system"
)]

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cutwater_io::sim::Key;
use cutwater_io::sim::disk::{Config, Disk, Fd, OpenMode};
use proptest::prelude::*;

const PATHS: [&str; 16] = [
    "a",
    "b",
    "c",
    "d",
    "d/a",
    "d/b",
    "d/e",
    "d/e/a",
    "e",
    "e/a",
    "a/x",
    "d/../b",
    "d/missing/x",
    "d/e/..",
    TOO_LONG,
    "a/x/..",
];

/// A name of 256 bytes.
const TOO_LONG: &str = "\
    ----------------------------------------------------------------\
    ----------------------------------------------------------------\
    ----------------------------------------------------------------\
    ----------------------------------------------------------------";

#[derive(Clone, Debug)]
enum Do {
    Open { slot: usize, path: usize, mode: [bool; 5] },
    Close { slot: usize },
    Read { slot: usize, offset_bytes: u64, len: usize },
    Write { slot: usize, offset_bytes: u64, len: usize, fill: u8 },
    SetLen { slot: usize, len_bytes: u64 },
    Append { slot: usize, len: usize, fill: u8 },
    Len { slot: usize },
    Sync { slot: usize, data_only: bool },
    SyncDir { path: usize },
    Lock { slot: usize },
    Mkdir { path: usize },
    Remove { path: usize },
    RemoveDir { path: usize },
    Link { from: usize, to: usize },
    Rename { from: usize, to: usize },
    ReadDir { path: usize },
    Stat { path: usize },
}

fn step() -> impl Strategy<Value = Do> {
    let (slot, path) = (0..3usize, 0..PATHS.len());
    let mode = prop_oneof![
        2 => Just([true, true, true, false, false]),
        1 => Just([true, false, false, false, false]),
        1 => Just([false, true, true, false, true]),
        2 => any::<[bool; 5]>(),
    ];
    prop_oneof![
        8 => (slot.clone(), path.clone(), mode).prop_map(|(slot, path, mode)| Do::Open { slot, path, mode }),
        1 => slot.clone().prop_map(|slot| Do::Close { slot }),
        4 => (slot.clone(), 0..9000u64, 0..5000usize)
            .prop_map(|(slot, offset_bytes, len)| Do::Read { slot, offset_bytes, len }),
        5 => (slot.clone(), 0..9000u64, 0..5000usize, 1..=255u8)
            .prop_map(|(slot, offset_bytes, len, fill)| Do::Write { slot, offset_bytes, len, fill }),
        3 => (slot.clone(), 0..9000u64).prop_map(|(slot, len_bytes)| Do::SetLen { slot, len_bytes }),
        1 => slot.clone().prop_map(|slot| Do::Len { slot }),
        2 => slot.clone().prop_map(|slot| Do::Lock { slot }),
        3 => (slot.clone(), 0..5000usize, 1..=255u8)
            .prop_map(|(slot, len, fill)| Do::Append { slot, len, fill }),
        1 => (slot, any::<bool>()).prop_map(|(slot, data_only)| Do::Sync { slot, data_only }),
        1 => path.clone().prop_map(|path| Do::SyncDir { path }),
        5 => path.clone().prop_map(|path| Do::Mkdir { path }),
        3 => path.clone().prop_map(|path| Do::Remove { path }),
        2 => path.clone().prop_map(|path| Do::RemoveDir { path }),
        3 => (path.clone(), path.clone()).prop_map(|(from, to)| Do::Link { from, to }),
        7 => (path.clone(), path.clone()).prop_map(|(from, to)| Do::Rename { from, to }),
        2 => path.clone().prop_map(|path| Do::ReadDir { path }),
        2 => path.prop_map(|path| Do::Stat { path }),
    ]
}

/// What a caller is told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Done,
    Number(u64),
    Bytes(Vec<u8>),
    Bool(bool),
    Entries(Vec<(String, bool)>),
    Stat(u64, bool),
    NotOpen,
    Error(Option<i32>, io::ErrorKind),
}

fn told<T>(result: io::Result<T>, value: impl FnOnce(T) -> Told) -> Told {
    match result {
        Ok(v) => value(v),
        Err(e) => Told::Error(e.raw_os_error(), e.kind()),
    }
}

/// The real twin.
struct Real {
    root: PathBuf,
    slots: BTreeMap<usize, std::fs::File>,
}

impl Real {
    fn apply(&mut self, step: &Do) -> Told {
        let path = |index: &usize| self.root.join(PATHS[*index]);
        let done = |result: io::Result<()>| told(result, |()| Told::Done);
        match step {
            Do::Open { slot, path: p, mode: [read, write, create, create_new, truncate] } => {
                let opened = std::fs::OpenOptions::new()
                    .read(*read)
                    .write(*write)
                    .create(*create)
                    .create_new(*create_new)
                    .truncate(*truncate)
                    .open(path(p));
                told(opened, |file| {
                    self.slots.insert(*slot, file);
                    Told::Done
                })
            }
            Do::Close { slot } => self.slots.remove(slot).map_or(Told::NotOpen, |_| Told::Done),
            Do::Mkdir { path: p } => done(std::fs::create_dir(path(p))),
            Do::Remove { path: p } => done(std::fs::remove_file(path(p))),
            Do::RemoveDir { path: p } => done(std::fs::remove_dir(path(p))),
            Do::Link { from, to } => done(std::fs::hard_link(path(from), path(to))),
            Do::Rename { from, to } => done(std::fs::rename(path(from), path(to))),
            Do::ReadDir { path: p } => told(self.read_dir(&path(p)), Told::Entries),
            Do::Stat { path: p } => told(std::fs::metadata(path(p)), |m| {
                Told::Stat(if m.is_dir() { 0 } else { m.len() }, m.is_dir())
            }),
            Do::SyncDir { path: p } => done(std::fs::File::open(path(p)).and_then(|dir| {
                if !dir.metadata()?.is_dir() {
                    return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
                }
                dir.sync_all()
            })),
            Do::Read { slot, .. }
            | Do::Write { slot, .. }
            | Do::Append { slot, .. }
            | Do::Sync { slot, .. }
            | Do::SetLen { slot, .. }
            | Do::Len { slot }
            | Do::Lock { slot } => self.slots.get(slot).map_or(Told::NotOpen, |file| on_real(file, step)),
        }
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        let mut entries = std::fs::read_dir(path)?
            .map(|entry| {
                let entry = entry?;
                let name = entry.file_name().into_string().expect("the names are ours");
                Ok((name, entry.file_type()?.is_dir()))
            })
            .collect::<io::Result<Vec<_>>>()?;
        entries.sort();
        Ok(entries)
    }
}

fn on_real(file: &std::fs::File, step: &Do) -> Told {
    match step {
        Do::Read { offset_bytes, len, .. } => {
            let mut buf = vec![0xAA; *len];
            told(file.read_at(&mut buf, *offset_bytes), |n| Told::Bytes(buf[..n].to_vec()))
        }
        Do::Write { offset_bytes, len, fill, .. } => {
            told(file.write_at(&vec![*fill; *len], *offset_bytes), |n| Told::Number(n as u64))
        }
        Do::Append { len, fill, .. } => {
            let end = file.metadata().map_or(0, |m| if m.is_dir() { 0 } else { m.len() });
            told(file.write_at(&vec![*fill; *len], end), |n| Told::Number(n as u64))
        }
        Do::Sync { data_only: true, .. } => told(file.sync_data(), |()| Told::Done),
        Do::Sync { data_only: false, .. } => told(file.sync_all(), |()| Told::Done),
        Do::SetLen { len_bytes, .. } => told(file.set_len(*len_bytes), |()| Told::Done),
        // The length of a directory is the file system's own affair.
        Do::Len { .. } => told(file.metadata(), |m| Told::Number(if m.is_dir() { 0 } else { m.len() })),
        Do::Lock { .. } => match file.try_lock() {
            Ok(()) => Told::Bool(true),
            Err(std::fs::TryLockError::WouldBlock) => Told::Bool(false),
            Err(std::fs::TryLockError::Error(e)) => told::<()>(Err(e), |()| Told::Done),
        },
        _ => unreachable!("a call on a path"),
    }
}

/// The simulated twin.
struct Model {
    disk: Disk,
    slots: BTreeMap<usize, Fd>,
}

impl Model {
    fn apply(&mut self, step: &Do) -> Told {
        let path = |index: &usize| Path::new("/").join(PATHS[*index]);
        let done = |result: io::Result<()>| told(result, |()| Told::Done);
        match step {
            Do::Open { slot, path: p, mode: [read, write, create, create_new, truncate] } => {
                let mode = OpenMode {
                    read: *read,
                    write: *write,
                    create: *create,
                    create_new: *create_new,
                    truncate: *truncate,
                };
                let opened = self.disk.open(&path(p), mode);
                told(opened, |fd| {
                    if let Some(old) = self.slots.insert(*slot, fd) {
                        self.disk.close(old);
                    }
                    Told::Done
                })
            }
            Do::Close { slot } => self.slots.remove(slot).map_or(Told::NotOpen, |fd| {
                self.disk.close(fd);
                Told::Done
            }),
            Do::Mkdir { path: p } => done(self.disk.create_dir(&path(p))),
            Do::Remove { path: p } => done(self.disk.remove_file(&path(p))),
            Do::RemoveDir { path: p } => done(self.disk.remove_dir(&path(p))),
            Do::Link { from, to } => done(self.disk.hard_link(&path(from), &path(to))),
            Do::Rename { from, to } => done(self.disk.rename(&path(from), &path(to))),
            Do::ReadDir { path: p } => told(self.disk.read_dir(&path(p)), |entries| {
                Told::Entries(entries.into_iter().map(|e| (e.name, e.is_dir)).collect())
            }),
            Do::Stat { path: p } => told(self.disk.metadata(&path(p)), |m| Told::Stat(m.len_bytes, m.is_dir)),
            Do::SyncDir { path: p } => {
                done(self.disk.begin_sync_dir(&path(p)).and_then(|sync| self.disk.finish_sync(&sync)))
            }
            Do::Read { slot, .. }
            | Do::Write { slot, .. }
            | Do::Append { slot, .. }
            | Do::Sync { slot, .. }
            | Do::SetLen { slot, .. }
            | Do::Len { slot }
            | Do::Lock { slot } => match self.slots.get(slot).copied() {
                None => Told::NotOpen,
                Some(fd) => self.on_file(fd, step),
            },
        }
    }

    fn on_file(&mut self, fd: Fd, step: &Do) -> Told {
        match step {
            Do::Read { offset_bytes, len, .. } => {
                let mut buf = vec![0xAA; *len];
                told(self.disk.read_at(fd, &mut buf, *offset_bytes), |n| Told::Bytes(buf[..n].to_vec()))
            }
            Do::Write { offset_bytes, len, fill, .. } => {
                told(self.disk.write_at(fd, &vec![*fill; *len], *offset_bytes), |n| Told::Number(n as u64))
            }
            Do::Append { len, fill, .. } => {
                let end = self.disk.len(fd).unwrap();
                told(self.disk.write_at(fd, &vec![*fill; *len], end), |n| Told::Number(n as u64))
            }
            Do::Sync { data_only, .. } => {
                let sync = self.disk.begin_sync(fd, *data_only);
                told(sync.and_then(|sync| self.disk.finish_sync(&sync)), |()| Told::Done)
            }
            Do::SetLen { len_bytes, .. } => told(self.disk.set_len(fd, *len_bytes), |()| Told::Done),
            Do::Len { .. } => told(self.disk.len(fd), Told::Number),
            Do::Lock { .. } => told(self.disk.try_lock(fd), Told::Bool),
            _ => unreachable!("a call on a path"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_twins_answer_alike(steps in prop::collection::vec(step(), 1..120), small_sectors: bool) {
        let dir = tempfile::tempdir().unwrap();
        let mut real = Real { root: dir.path().to_owned(), slots: BTreeMap::new() };
        let config =
            Config { sector_bytes: if small_sectors { 512 } else { 4096 }, ..Config::default() };
        let mut model = Model { disk: Disk::new(Key::root(0), config), slots: BTreeMap::new() };
        for (i, step) in steps.iter().enumerate() {
            model.disk.tick(i as u64 * 100_000);
            prop_assert_eq!(model.apply(step), real.apply(step), "step {}: {:?}", i, step);
        }
        let there = tempfile::tempdir().unwrap();
        model.disk.export("/", there.path()).unwrap();
        let mut again = Disk::new(Key::root(0), Config::default());
        again.import(dir.path(), Path::new("/")).unwrap();
        let mut exported = Disk::new(Key::root(0), Config::default());
        exported.import(there.path(), Path::new("/")).unwrap();
        prop_assert_eq!(exported.listing(), again.listing(), "what is exported is what the real twin has");
    }
}
