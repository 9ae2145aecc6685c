//! What the ledger of the disk says for a store that refuses something.
//!
//! An error is excused only by damage that a reader was *served* since the process started, in a file of the kind that the
//! error names (for a table: in the very file). Damage that nobody has met excuses nothing, and no damage excuses a wrong
//! answer.
//!
//! One kind of loss is excused, too, because no log that is synced once per write can tell it from a torn tail (see
//! `cutwater_engine::store::wal`): after a power failure, damage to the log may cost the last sync. And damage that takes
//! everything at the very end of a log or a MANIFEST, whole sectors of it at once or both of two writes, is beyond the
//! budget: then only what is read must have been written.

use cutwater_engine::store::Error;
use std::path::Path;

use cutwater_io::sim::disk::{DamageKind, Damaged};
use cutwater_io::sim::{Errno, NodeId};
use cutwater_sim::world::World;

use super::process::Shared;

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

    /// What was served since `earlier`. A ledger only grows.
    pub(super) fn since(&self, earlier: &Evidence) -> Served {
        let before = |i: usize| earlier.ledger.get(i).map_or(0, |damaged| damaged.served);
        let new = self.ledger.iter().enumerate().filter(|(i, damaged)| damaged.served > before(*i));
        Served { sector_bytes: self.sector_bytes, damage: new.map(|(_, damaged)| damaged.clone()).collect() }
    }
}

impl Served {
    fn of(&self, classes: &[&str]) -> impl Iterator<Item = &Damaged> {
        self.damage.iter().filter(|damaged| classes.contains(&damaged.class))
    }

    /// True if the error is about something that was served.
    fn explains(&self, error: &Error) -> bool {
        match error {
            Error::Background { source, .. } => self.explains(source),
            // What a bad sector answers; no damage makes a name or space go away.
            Error::Io { path, source, .. } => {
                source.raw_os_error() == Some(Errno::Eio.raw()) && self.is_about(path)
            }
            Error::Corruption { file, .. } => self.is_about(file),
            _ => false,
        }
    }

    /// True if something was served of the kind of `file`, of a table of that very name.
    fn is_about(&self, file: &Path) -> bool {
        match crate::classify(file) {
            // CURRENT and IDENTITY were written under other names, of another class.
            "manifest" | "current" | "other" => self.of(&["manifest", "current", "other"]).next().is_some(),
            "table" => {
                let name = file.file_name();
                self.of(&["table"]).any(|damaged| Path::new(&damaged.path).file_name() == name)
            }
            class => self.of(&[class]).next().is_some(),
        }
    }

    /// True if what was not synced may be missing, although no power failed.
    pub(super) fn hides_the_end(&self) -> bool {
        self.of(&["wal", "manifest"]).next().is_some()
    }

    /// How many of the last syncs may be missing.
    pub(super) fn syncs_forgiven(&self, power_failed: bool) -> usize {
        if power_failed { self.of(&["wal"]).count() } else { 0 }
    }

    /// True if it may have taken everything that stood at the end of a log or a MANIFEST.
    pub(super) fn is_beyond_budget(&self) -> bool {
        let takes_all = |damaged: &Damaged| {
            let is_run = damaged.bytes.end - damaged.bytes.start > self.sector_bytes;
            is_run || damaged.kind == DamageKind::MisdirectedTo
        };
        let edits_lost = self.of(&["manifest"]).filter(|damaged| {
            matches!(
                damaged.kind,
                DamageKind::LostWrite | DamageKind::MisdirectedFrom | DamageKind::StaleRead
            )
        });
        self.of(&["wal", "manifest"]).any(takes_all) || edits_lost.count() > 1
    }
}

impl Shared {
    /// True if the error is the answer to damage that this process was served.
    pub(super) fn is_explained(&self, error: &Error) -> bool {
        let started = self.state().started.clone();
        Evidence::now(&self.world, started.node).since(&started).explains(error)
    }
}
