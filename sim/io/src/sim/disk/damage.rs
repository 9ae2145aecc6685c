//! How a medium comes to be damaged: which sector is struck, and what with.
//!
//! A defect belongs to a sector of an inode. It survives crashes and restarts, moves with a rename, and is lifted when
//! another content of the sector (or its end) reaches the medium, when the inode is gone, or by [`Disk::lift_damage`]. What
//! is pending of a sector is read from memory: a defect shows as soon as the sector is clean, as if no clean page stayed in
//! the cache. So a write that is lost takes a defect with it only if it gets through, and a lost write is noticed before
//! any crash. What becomes of defects, and what readers get, is in [`super::defects`].
//!
//! On a file system with checksums ([`Rules::checksums`](super::Rules::checksums)) wrong bytes are an `EIO`.
//!
//! The [ledger](Damaged) tells what was damaged, where, when, and how often a reader was given bad bytes or an error for
//! it. It excuses nothing by itself; an oracle holds it against what was lost.
//!
//! Which sector is struck is drawn for each candidate by itself (the least hash wins): other candidates come and go without
//! moving the choice. What could make no difference is no candidate: what is not on the medium, what has a lasting defect
//! already, a stale read of what was always so.
//!
//! Not modelled: damage to metadata (names, lengths), defects that come and go, remapping, checksums of the device itself.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::Disk;
use super::defects::{Bite, DamageKind, Damaged, Doom, Effect, Life, SectorAt};
use super::file::{Fd, Piece, pieces};
use super::log::{MicroOp, Op, OpId};
use super::sync::Sync;
use super::tree::Ino;
use crate::sim::{Damage, Key};

/// Which files may not be damaged, by path: those whose other copies may be.
#[derive(Clone, Default)]
pub struct Spared(Option<Arc<IsSpared>>);

type IsSpared = dyn Fn(&Path) -> bool + Send + std::marker::Sync;

impl Spared {
    /// Those for which `is_spared` is true.
    pub fn new(is_spared: impl Fn(&Path) -> bool + Send + std::marker::Sync + 'static) -> Spared {
        Spared(Some(Arc::new(is_spared)))
    }

    fn contains(&self, path: &str) -> bool {
        self.0.as_ref().is_some_and(|is_spared| is_spared(Path::new(path)))
    }
}

impl fmt::Debug for Spared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Spared(by path)" } else { "Spared(nothing)" })
    }
}

/// Which bit rots, by what is there: the same damage in each run that has the same content.
fn rot_of(content: &[u8], from: usize) -> Effect {
    let hash = xxh3_64(content);
    Effect::Flip { byte: (from as u64 + (hash >> 3) % content.len() as u64) as u32, bit: (hash & 7) as u8 }
}

/// The least by a hash of each by itself.
fn chosen<T>(key: &Key, candidates: impl IntoIterator<Item = T>, ids: impl Fn(&T) -> [u64; 3]) -> Option<T> {
    candidates.into_iter().min_by_key(|candidate| key.hash("disk.damage", &ids(candidate)))
}

impl Disk {
    /// From now on these files are not damaged.
    pub fn spare(&mut self, spared: Spared) {
        self.spared = spared;
    }

    /// What was damaged, in the order in which it happened.
    pub fn ledger(&self) -> impl Iterator<Item = &Damaged> {
        self.defects.ledger()
    }

    /// How often readers were given bad bytes, or errors in their place.
    pub fn damage_served(&self) -> u64 {
        self.defects.served()
    }

    /// What faults that damage this disk have come to since the last time.
    pub fn take_bites(&mut self) -> Vec<Bite> {
        self.defects.take_bites()
    }

    /// [`Tree::hash`](super::Tree::hash) of what processes see, and what is damaged in it.
    pub fn seen_hash(&self) -> u128 {
        self.defects.hash_with(self.vol.hash(), &self.vol)
    }

    /// Repairs every defect; pending writes get where they should.
    pub fn lift_damage(&mut self) {
        self.defects.lift_all(self.now_us);
    }

    /// Damages what a read of `len` bytes is about to give; false if nothing of it can be. What is pending is read from memory,
    /// and a hole is not read at all.
    pub fn damage_read(
        &mut self,
        fd: Fd,
        offset_bytes: u64,
        len: usize,
        damage: Damage,
        class: &'static str,
    ) -> bool {
        let Ok(file) = self.open_file(fd) else { return false };
        let ino = file.ino;
        if self.spared.contains(&self.path_of(ino)) {
            return false;
        }
        let end = self.vol.len_bytes(ino).unwrap_or(0);
        let there = usize::try_from(end.saturating_sub(offset_bytes)).unwrap_or(usize::MAX).min(len);
        let label = self.label(ino);
        let can_be = |piece: &Piece| {
            let at = (ino, piece.sector);
            self.is_at_rest(at) && self.would_matter(at, piece.from..piece.from + piece.len, damage)
        };
        let candidates = pieces(self.sector_bytes(), offset_bytes, there).filter(can_be);
        let key = self.key.child("disk.read", &[label]);
        let Some(piece) = chosen(&key, candidates, |piece| [piece.sector, 0, 0]) else { return false };
        let at = (ino, piece.sector);
        match damage {
            Damage::BitRot { sectors } => self.rot(at, piece.from..piece.from + piece.len, sectors, class),
            Damage::Eio => self.defect(at, 1, DamageKind::Eio, class, Life::Lasting, |_, _| Effect::Eio),
            Damage::BitFlipOnce => {
                let (from, to) = (piece.from, piece.from + piece.len);
                self.defect(at, 1, DamageKind::BitFlip, class, Life::ThisRead, |_, content| {
                    rot_of(&content[from..to], from)
                });
            }
            Damage::StaleRead => {
                let old = Effect::Content(self.defects.previous(at).cloned());
                self.defect(at, 1, DamageKind::StaleRead, class, Life::ThisRead, |_, _| old.clone());
            }
            Damage::LostWrite | Damage::Misdirect => return false,
        }
        true
    }

    /// True if the sector lies on the medium, and a read of it would read it there.
    fn is_at_rest(&self, at: SectorAt) -> bool {
        self.dur.sector(at.0, at.1).is_some() && !self.log.is_pending(at.0, at.1)
    }

    /// True if `damage` would make a difference to a read of these bytes of the sector.
    fn would_matter(&self, at: SectorAt, bytes: Range<usize>, damage: Damage) -> bool {
        match damage {
            Damage::Eio | Damage::BitRot { .. } => !self.defects.has_lasting(at),
            Damage::BitFlipOnce => true,
            Damage::StaleRead => {
                let zeros = vec![0; self.sector_bytes() as usize];
                let old = self.defects.previous(at).map_or(&zeros[..], |old| old);
                let mut now = self.vol.sector(at.0, at.1).map_or(&zeros[..], |now| now).to_vec();
                self.defects.spoil_lasting(at, &mut now);
                old[bytes.clone()] != now[bytes]
            }
            Damage::LostWrite | Damage::Misdirect => false,
        }
    }

    /// Damages one of the sectors that were written since `since` by this open file.
    pub fn damage_write(
        &mut self,
        fd: Fd,
        since: OpId,
        damage: Damage,
        class: &'static str,
        class_of: fn(&Path) -> &'static str,
    ) -> bool {
        match self.open_file(fd) {
            Ok(file) => self.doom(file.ino, since, self.log.next_id(), damage, class, class_of),
            Err(_) => false,
        }
    }

    /// Damages one of the sectors that a sync is about to write.
    pub fn damage_sync(
        &mut self,
        sync: &Sync,
        damage: Damage,
        class: &'static str,
        class_of: fn(&Path) -> &'static str,
    ) -> bool {
        let (ino, until) = (sync.ino(), sync.until());
        self.doom(ino, OpId(0), until, damage, class, class_of)
    }

    fn doom(
        &mut self,
        ino: Ino,
        since: OpId,
        until: OpId,
        damage: Damage,
        class: &'static str,
        class_of: fn(&Path) -> &'static str,
    ) -> bool {
        let (kind, once) = match damage {
            Damage::LostWrite => (DamageKind::LostWrite, false),
            Damage::Misdirect => (DamageKind::MisdirectedFrom, false),
            Damage::StaleRead => (DamageKind::StaleRead, true),
            Damage::Eio | Damage::BitRot { .. } | Damage::BitFlipOnce => return false,
        };
        if self.spared.contains(&self.path_of(ino)) {
            return false;
        }
        let can_be = |op: &&MicroOp| op.id >= since && !op.forced && !self.defects.is_doomed(op.id);
        let pending = self.log.of_file(ino, until).filter(can_be);
        // Of each sector the last: the others will be overwritten.
        let writes: BTreeMap<u64, OpId> = pending
            .filter_map(|op| match op.op {
                Op::Data { sector, .. } => Some((sector, op.id)),
                _ => None,
            })
            .collect();
        let key = self.key.child("disk.write", &[self.label(ino)]);
        let Some((sector, id)) = chosen(&key, writes, |(sector, _)| [*sector, 0, 0]) else { return false };
        let at = (ino, sector);
        let entry = self.enter(at, 1, kind, class, None);
        let onto = (damage == Damage::Misdirect).then(|| self.elsewhere(at, class, class_of)).flatten();
        let onto =
            onto.map(|onto| (onto, self.enter(onto, 1, DamageKind::MisdirectedTo, class, Some(entry))));
        self.defects.doom(id, Doom { at, entry, onto, once });
        true
    }

    /// Another sector of a file of that class.
    fn elsewhere(&self, at: SectorAt, class: &str, class_of: fn(&Path) -> &'static str) -> Option<SectorAt> {
        let key = self.key.child("disk.misdirect", &[self.label(at.0), at.1]);
        let candidates = self.sectors_at_rest(class, class_of).into_iter().filter(|other| *other != at);
        chosen(&key, candidates, |(ino, sector)| [self.label(*ino), *sector, 0])
    }

    /// Damages a sector of a file of that class (of any, if it is empty) that lies on the medium: latent damage, in a file
    /// that perhaps nobody reads. `nth` tells choices apart. False if there is no such sector, or the damage needs a call.
    pub fn damage_at_rest(
        &mut self,
        class: &str,
        nth: u32,
        damage: Damage,
        class_of: fn(&Path) -> &'static str,
    ) -> bool {
        let key = self.key.child("disk.at_rest", &[nth.into()]);
        let sectors = self.sectors_at_rest(class, class_of);
        let of_file = |(ino, _): &SectorAt| [self.label(*ino), 0, 1];
        let Some((file, _)) = chosen(&key, sectors.iter().copied(), of_file) else { return false };
        let in_file = sectors.into_iter().filter(|(ino, _)| *ino == file);
        let Some(at) = chosen(&key, in_file, |(ino, sector)| [self.label(*ino), *sector, 2]) else {
            return false;
        };
        let class = class_of(Path::new(&self.path_of(file)));
        match damage {
            Damage::Eio => self.defect(at, 1, DamageKind::Eio, class, Life::Lasting, |_, _| Effect::Eio),
            Damage::BitRot { sectors } => {
                let visible = self.visible_bytes(at);
                self.rot(at, 0..visible, sectors, class);
            }
            Damage::BitFlipOnce | Damage::LostWrite | Damage::Misdirect | Damage::StaleRead => return false,
        }
        true
    }

    /// Allocated sectors inside the files of a class that are on the medium and have no lasting defect.
    fn sectors_at_rest(&self, class: &str, class_of: fn(&Path) -> &'static str) -> Vec<SectorAt> {
        let mut sectors = Vec::new();
        self.vol.walk(|path, ino| {
            let is_wanted = class.is_empty() || class_of(Path::new(path)) == class;
            if is_wanted && !self.spared.contains(path) {
                sectors.extend(self.vol.sector_numbers(ino).map(|sector| (ino, sector)));
            }
        });
        sectors.retain(|at| {
            self.visible_bytes(*at) > 0 && self.is_at_rest(*at) && !self.defects.has_lasting(*at)
        });
        sectors
    }

    /// How much of a sector lies inside its file.
    fn visible_bytes(&self, at: SectorAt) -> usize {
        let size = u64::from(self.sector_bytes());
        self.vol.len_bytes(at.0).unwrap_or(0).saturating_sub(at.1 * size).min(size) as usize
    }

    /// A bit within `bytes` of the sector rots, and one in each of the following ones, `sectors` in all.
    fn rot(&mut self, at: SectorAt, bytes: Range<usize>, sectors: u16, class: &'static str) {
        let count = u64::from(sectors.max(1));
        let run = (at.1..at.1 + count)
            .take_while(|sector| {
                let at = (at.0, *sector);
                self.visible_bytes(at) > 0 && self.is_at_rest(at) && !self.defects.has_lasting(at)
            })
            .count() as u64;
        let visible: Vec<usize> = (at.1..at.1 + run).map(|s| self.visible_bytes((at.0, s))).collect();
        self.defect(at, run, DamageKind::BitRot, class, Life::Lasting, |sector, content| {
            if sector == at.1 {
                rot_of(&content[bytes.clone()], bytes.start)
            } else {
                rot_of(&content[..visible[(sector - at.1) as usize]], 0)
            }
        });
    }

    /// Lays a defect over `count` sectors from `at` on.
    fn defect(
        &mut self,
        at: SectorAt,
        count: u64,
        kind: DamageKind,
        class: &'static str,
        life: Life,
        effect: impl Fn(u64, &[u8]) -> Effect,
    ) {
        let entry = self.enter(at, count, kind, class, None);
        for sector in at.1..at.1 + count {
            let sector_at = (at.0, sector);
            let mut content = vec![0; self.sector_bytes() as usize];
            if let Some(there) = self.vol.sector(at.0, sector) {
                content.copy_from_slice(there);
            }
            // A bit that is wrong already is not flipped back.
            self.defects.spoil_lasting(sector_at, &mut content);
            let effect = effect(sector, &content);
            self.defects.lay(sector_at, effect, life, entry);
        }
    }

    fn enter(
        &mut self,
        at: SectorAt,
        count: u64,
        kind: DamageKind,
        class: &'static str,
        of: Option<usize>,
    ) -> usize {
        let size = u64::from(self.sector_bytes());
        let damaged = Damaged {
            path: self.path_of(at.0),
            ino: at.0,
            class,
            bytes: at.1 * size..(at.1 + count) * size,
            kind,
            at_us: self.now_us,
            laid: false,
            lifted_us: None,
            served: 0,
        };
        self.defects.enter(damaged, of)
    }

    /// The first path that leads to a file, or nothing.
    fn path_of(&self, ino: Ino) -> String {
        let mut found = String::new();
        self.vol.walk(|path, other| {
            if other == ino && (found.is_empty() || path < found.as_str()) {
                found = path.to_owned();
            }
        });
        found
    }

    /// The bytes of a file as reads would give them; zeros where they would fail.
    pub(super) fn bytes_as_read(&self, ino: Ino) -> Vec<u8> {
        self.spoiled(ino).0
    }

    /// True if everybody who reads the whole file is given something wrong, or an error, for damage that lasts.
    pub fn is_damaged(&self, path: &Path) -> bool {
        self.ino(path).is_some_and(|ino| self.spoiled(ino).1)
    }

    /// The bytes as read, and whether they are others than were written.
    fn spoiled(&self, ino: Ino) -> (Vec<u8>, bool) {
        let mut bytes = self.vol.seen(ino).bytes();
        let size = self.sector_bytes() as usize;
        let mut is_damaged = false;
        if self.defects.any() {
            for (sector, chunk) in (0u64..).zip(bytes.chunks_mut(size)) {
                if !self.log.is_pending(ino, sector) {
                    is_damaged |= self.defects.spoil_lasting((ino, sector), chunk);
                }
            }
        }
        (bytes, is_damaged)
    }
}
