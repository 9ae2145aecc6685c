//! What the ledger of the disk says for a store that refuses something.
//!
//! An error is excused only by damage that a reader was *served* since the process started, in the very file that the error
//! names. A file is an inode: a table of a checkpoint is that of the store, one of a backup is not. CURRENT, IDENTITY and
//! the MANIFEST of a directory speak of each other, so damage to one of them excuses an error that names another. Damage
//! that nobody has met excuses nothing, and no damage excuses a wrong answer.
//!
//! What may be missing without an error says [`super::budget`].

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use cutwater_engine::store::Error;
use cutwater_engine::store::filenames::FileKind;
use cutwater_io::sim::disk::{DamageKind, Damaged, Ino};
use cutwater_io::sim::{Errno, NodeId};
use cutwater_sim::world::World;

use super::budget::{Hit, ManifestEnd};
use super::process::{DB, Medium, Shared};
use crate::oracle::batches::Place;

/// How often each damage of a disk was served to a reader.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    node: NodeId,
    sector_bytes: u64,
    ledger: Vec<Damaged>,
}

impl Default for Evidence {
    fn default() -> Evidence {
        Evidence { node: NodeId(1), sector_bytes: 0, ledger: Vec::new() }
    }
}

/// Damage that was served in a stretch of time.
#[derive(Clone, Debug)]
pub(super) struct Served {
    sector_bytes: u64,
    damage: Vec<Damaged>,
}

impl Evidence {
    /// What was served up to now.
    pub(super) fn now(world: &World, node: NodeId) -> Evidence {
        let disks = world.env().disks();
        let sector_bytes = disks.with(node, |disk| u64::from(disk.sector_bytes()));
        Evidence { node, sector_bytes, ledger: disks.ledger(node) }
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    /// What was served since `earlier`, and what lies on the same sectors: a read that gave what had been there before gave nothing
    /// of a write that went astray, and the record which that write held is missing all the same. A ledger only grows.
    pub(super) fn since(&self, earlier: &Evidence) -> Served {
        let before = |i: usize| earlier.ledger.get(i).map_or(0, |damaged| damaged.served);
        let is_new = |i: usize| self.ledger[i].served > before(i);
        let served: Vec<&Damaged> =
            (0..self.ledger.len()).filter(|i| is_new(*i)).map(|i| &self.ledger[i]).collect();
        let counts = |(i, damaged): &(usize, &Damaged)| {
            is_new(*i) || (lies(damaged) && served.iter().any(|other| is_same_place(damaged, other)))
        };
        let damage =
            self.ledger.iter().enumerate().filter(counts).map(|(_, damaged)| damaged.clone()).collect();
        Served { sector_bytes: self.sector_bytes, damage }
    }
}

/// True if there is a defect on the medium.
fn lies(damaged: &Damaged) -> bool {
    damaged.laid && damaged.lifted_us.is_none()
}

/// True if a sector has both defects.
fn is_same_place(one: &Damaged, other: &Damaged) -> bool {
    one.ino == other.ino && one.bytes.start < other.bytes.end && other.bytes.start < one.bytes.end
}

impl Served {
    /// True if one of these files was served damaged.
    fn is_in(&self, files: &BTreeSet<Ino>) -> bool {
        self.damage.iter().any(|damaged| files.contains(&damaged.ino))
    }

    fn is_wide(&self, damaged: &Damaged) -> bool {
        let is_run = damaged.bytes.end - damaged.bytes.start > self.sector_bytes;
        is_run || damaged.kind == DamageKind::MisdirectedTo
    }

    /// What was served of the store's own logs, from this number on.
    pub(super) fn in_logs(&self, from_log: u64) -> Vec<Hit> {
        let hit = |damaged: &Damaged| {
            let log = own_log(Path::new(&damaged.path)).filter(|log| *log >= from_log)?;
            Some(Hit { log, bytes: damaged.bytes.clone(), is_wide: self.is_wide(damaged) })
        };
        self.damage.iter().filter_map(hit).collect()
    }

    /// True if the newest edit of one of these may be hidden.
    pub(super) fn hides_an_edit(&self, ends: &[ManifestEnd]) -> bool {
        ends.iter().any(|end| {
            let own = self.damage.iter().filter(|damaged| damaged.ino == end.ino);
            let places: Vec<(Range<u64>, bool)> =
                own.map(|damaged| (damaged.bytes.clone(), self.is_wide(damaged))).collect();
            end.is_hidden_by(&places)
        })
    }
}

/// The number of a log of the store, by the path.
fn own_log(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    match FileKind::parse(name) {
        Some(FileKind::Wal(number)) if path.parent() == Some(Path::new(DB)) => Some(number),
        _ => None,
    }
}

/// What an error is about, if damage can cause it.
fn concerns(error: &Error) -> Option<&Path> {
    match error {
        Error::Background { source, .. } => concerns(source),
        // What a bad sector answers; no damage makes a name or space go away.
        Error::Io { path, source, .. } => {
            (source.raw_os_error() == Some(Errno::Eio.raw())).then_some(path.as_path())
        }
        Error::Corruption { file, .. } => Some(file),
        // Who opens a store knows its families, or has listed them: a MANIFEST that says something else may have been damaged in one of
        // the reads, or lack its end.
        Error::FamiliesNotOpened { dir, .. } | Error::NoSuchFamily { dir, .. } => Some(dir),
        _ => None,
    }
}

impl Shared {
    /// True if the error is the answer to damage that this process was served.
    pub(super) fn is_explained(&self, error: &Error) -> bool {
        let Some(path) = concerns(error) else { return false };
        let files = self.files_behind(path);
        let state = self.state();
        let served = Evidence::now(&self.world, state.started.node).since(&state.started);
        // Without its newest edit a MANIFEST asks for logs and tables that it had let go of.
        let is_hidden = path.starts_with(DB) && served.hides_an_edit(&state.manifest_ends);
        served.is_in(&files) || is_hidden
    }

    /// The files that an error may be about which names this path.
    fn files_behind(&self, path: &Path) -> BTreeSet<Ino> {
        let node = self.state().started.node;
        self.world.env().disks().with(node, |disk| {
            if matches!(crate::classify(path), "table" | "blob" | "wal") {
                return disk.ino(path).into_iter().collect();
            }
            let (dir, entries) = match (disk.read_dir(path), path.parent()) {
                (Ok(entries), _) => (path, entries),
                (Err(_), Some(dir)) => (dir, disk.read_dir(dir).unwrap_or_default()),
                (Err(_), None) => return BTreeSet::new(),
            };
            let paths = entries.iter().map(|entry| dir.join(&entry.name));
            let own = paths.filter(|path| !matches!(crate::classify(path), "table" | "blob" | "wal"));
            own.filter_map(|path| disk.ino(&path)).collect()
        })
    }

    /// Where the logs of the store end now.
    pub(super) fn logs_end(&self) -> Place {
        if self.medium == Medium::Sound {
            return Place::default();
        }
        let node = self.state().started.node;
        self.world.env().disks().with(node, |disk| {
            let entries = disk.read_dir(Path::new(DB)).unwrap_or_default();
            let logs = entries.iter().filter_map(|entry| own_log(&Path::new(DB).join(&entry.name)));
            let Some(log) = logs.max() else { return Place::default() };
            let len_bytes = disk.metadata(&FileKind::Wal(log).path(Path::new(DB))).map(|m| m.len_bytes);
            Place { log, offset_bytes: len_bytes.unwrap_or(0) }
        })
    }

    /// How the MANIFESTs of the store end that are there now.
    pub(super) fn manifest_ends(&self) -> Vec<ManifestEnd> {
        if self.medium == Medium::Sound {
            return Vec::new();
        }
        let node = self.state().started.node;
        self.world.env().disks().with(node, |disk| {
            let is_own =
                |path: &Path| path.parent() == Some(Path::new(DB)) && crate::classify(path) == "manifest";
            let listing = disk.listing();
            let own = listing.iter().filter(|(path, _)| is_own(Path::new(path)));
            own.filter_map(|(path, seen)| ManifestEnd::of(disk.ino(Path::new(path))?, &seen.bytes()))
                .collect()
        })
    }

    /// The files at these paths.
    pub(super) fn inos(&self, paths: &[PathBuf]) -> BTreeSet<Ino> {
        if self.medium == Medium::Sound {
            return BTreeSet::new();
        }
        let node = self.state().started.node;
        self.world.env().disks().with(node, |disk| paths.iter().filter_map(|path| disk.ino(path)).collect())
    }

    /// These files are tables of the store now. What is wrong in them already was so when it took them, where no checksum covers it: in the
    /// unused bytes of a footer. It has none of before to hold that against.
    pub(super) fn taken_as_they_are(&self, inos: &BTreeSet<Ino>) {
        let node = self.state().started.node;
        let names: Vec<String> = self.world.env().disks().with(node, |disk| {
            disk.read_dir(Path::new(DB)).unwrap_or_default().into_iter().map(|entry| entry.name).collect()
        });
        let damaged = self.damaged_tables(&names).into_iter().map(|(_, ino)| ino);
        let before: Vec<Ino> = damaged.filter(|ino| inos.contains(ino)).collect();
        self.state().damaged_before.extend(before);
    }

    /// Which of the store's tables and blob files everybody now reads as damaged who reads them whole.
    pub(super) fn damaged_tables(&self, names: &[String]) -> Vec<(String, Ino)> {
        let (node, before) = {
            let state = self.state();
            (state.started.node, state.damaged_before.clone())
        };
        self.world.env().disks().with(node, |disk| {
            let damaged = |name: &String| {
                let path = Path::new(DB).join(name);
                let ino = disk.ino(&path).filter(|ino| disk.is_damaged(&path) && !before.contains(ino))?;
                Some((name.clone(), ino))
            };
            names
                .iter()
                .filter(|name| matches!(crate::classify(Path::new(name)), "table" | "blob"))
                .filter_map(damaged)
                .collect()
        })
    }
}
