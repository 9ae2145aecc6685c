//! What is wrong with the medium: defects of sectors, laid over data that stays pristine below, and the ledger of them.
//!
//! A defect belongs to a sector of an inode. It survives crashes and restarts, moves with a rename, and is lifted when
//! another content of the sector (or its end) reaches the medium, when the inode is gone, or by [`Disk::lift_damage`]. What
//! is pending of a sector is read from memory: a defect shows as soon as the sector is clean, as if no clean page stayed in
//! the cache. So a write that is lost takes a defect with it only if it gets through, and a lost write is noticed before
//! any crash.
//!
//! On a file system with checksums ([`Rules::checksums`](super::Rules::checksums)) wrong bytes are an `EIO`.
//!
//! The [ledger](Damaged) tells what was damaged, where, when, and how often a reader was given bad bytes or an error for
//! it. It excuses nothing by itself; an oracle holds it against what was lost.
//!
//! Which sector is struck is drawn for each candidate by itself (the least hash wins): other candidates come and go without
//! moving the choice.
//!
//! Not modelled: damage to metadata (names, lengths), defects that come and go, remapping, checksums of the device itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use imbl::{OrdMap, Vector};
use xxhash_rust::xxh3::xxh3_64;

use super::Disk;
use super::file::{Fd, Piece, pieces};
use super::log::{MicroOp, Op, OpId};
use super::path::os;
use super::sync::Sync;
use super::tree::{Ino, Sector, Tree};
use crate::sim::{Damage, Key};

/// A sector of a file.
pub type SectorAt = (Ino, u64);

/// What became of a place on the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// A path of the file when it happened; empty if it had none.
    pub path: String,
    /// The file.
    pub ino: Ino,
    /// What the file is to the system under test.
    pub class: &'static str,
    /// Where in the file.
    pub bytes: Range<u64>,
    /// What happened there.
    pub kind: DamageKind,
    /// When, in microseconds of virtual time.
    pub at_us: u64,
    /// When the last of it was overwritten, removed or lifted; `None` while some of it is there.
    pub lifted_us: Option<u64>,
    /// How often a reader was given bad bytes, or an error, because of it.
    pub served: u64,
}

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

/// The kinds of damage in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DamageKind {
    /// Reads fail.
    Eio,
    /// A bit is wrong in each read.
    BitRot,
    /// A bit was wrong in one read.
    BitFlip,
    /// A write was acknowledged and is not there.
    LostWrite,
    /// A write went elsewhere, and is not here.
    MisdirectedFrom,
    /// A write that was meant for elsewhere is here.
    MisdirectedTo,
    /// One read gives what was there before.
    StaleRead,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damaged { path, class, bytes, kind, .. } = self;
        write!(f, "{kind:?} in {path} ({class}), bytes {}..{}", bytes.start, bytes.end)
    }
}

/// What a read of a clean sector gives instead of its content.
#[derive(Clone, Debug)]
enum Effect {
    Eio,
    Flip {
        byte: u32,
        bit: u8,
    },
    /// Another content; `None` for zeros.
    Content(Option<Sector>),
}

#[derive(Clone, Debug)]
struct Defect {
    effect: Effect,
    /// Gone after one read.
    once: bool,
    /// Position in the ledger.
    entry: usize,
}

/// A pending write that will not get where it should.
#[derive(Clone, Debug)]
struct Doom {
    at: SectorAt,
    entry: usize,
    /// Where it lands instead, with the entry of that.
    onto: Option<(SectorAt, usize)>,
    /// The old content is read once only.
    once: bool,
}

/// The defects of a medium.
#[derive(Clone, Debug, Default)]
pub(super) struct Defects {
    of_sector: OrdMap<SectorAt, Defect>,
    doomed: OrdMap<OpId, Doom>,
    /// What was on the medium before, for sectors that were overwritten there.
    previous: OrdMap<SectorAt, Sector>,
    ledger: Vector<Damaged>,
    served: u64,
}

impl Defects {
    /// `op` is about to be applied to the medium.
    pub(super) fn landing(&mut self, op: &MicroOp, medium: &Tree, now_us: u64) {
        match &op.op {
            Op::Data { ino, sector, content } => {
                let at = (*ino, *sector);
                let old = medium.sector(*ino, *sector).cloned();
                self.lift(at, now_us);
                if let Some(doom) = self.doomed.remove(&op.id) {
                    self.put(at, Effect::Content(old.clone()), doom.once, doom.entry, now_us);
                    match doom.onto {
                        Some((onto, entry)) if medium.inode(onto.0).is_some() => {
                            self.put(onto, Effect::Content(Some(content.clone())), false, entry, now_us);
                        }
                        Some((_, entry)) => self.ledger[entry].lifted_us = Some(now_us),
                        None => {}
                    }
                }
                if let Some(old) = old {
                    self.previous.insert(at, old);
                }
            }
            Op::Zero { ino, sector, .. } => self.lift((*ino, *sector), now_us),
            Op::Size { ino, len_bytes } => {
                let first_beyond = len_bytes.div_ceil(u64::from(medium.sector_bytes()));
                self.lift_range(*ino, first_beyond, now_us);
            }
            Op::Link { .. } | Op::Unlink { .. } | Op::Rename { .. } => {}
        }
    }

    /// These operations never get to the medium.
    pub(super) fn lost(&mut self, ops: &[MicroOp], now_us: u64) {
        for op in ops {
            if let Some(doom) = self.doomed.remove(&op.id) {
                self.close(&doom, now_us);
            }
        }
    }

    /// The inode is gone for good.
    pub(super) fn forget(&mut self, ino: Ino, now_us: u64) {
        self.lift_range(ino, 0, now_us);
        let gone: Vec<OpId> =
            self.doomed.iter().filter(|(_, doom)| doom.at.0 == ino).map(|(id, _)| *id).collect();
        for id in gone {
            let doom = self.doomed.remove(&id).expect("just listed");
            self.close(&doom, now_us);
        }
        let previous: Vec<SectorAt> =
            self.previous.range((ino, 0)..=(ino, u64::MAX)).map(|(at, _)| *at).collect();
        previous.iter().for_each(|at| drop(self.previous.remove(at)));
    }

    /// After a crash: whatever is not on `medium` is gone.
    pub(super) fn settle(&mut self, medium: &Tree, now_us: u64) {
        let inodes: BTreeSet<Ino> =
            self.of_sector.keys().chain(self.previous.keys()).map(|(ino, _)| *ino).collect();
        for ino in inodes.into_iter().filter(|ino| medium.inode(*ino).is_none()) {
            self.forget(ino, now_us);
        }
    }

    fn put(&mut self, at: SectorAt, effect: Effect, once: bool, entry: usize, now_us: u64) {
        self.lift(at, now_us);
        self.of_sector.insert(at, Defect { effect, once, entry });
    }

    fn lift(&mut self, at: SectorAt, now_us: u64) {
        if let Some(defect) = self.of_sector.remove(&at)
            && !self.of_sector.values().any(|other| other.entry == defect.entry)
        {
            self.ledger[defect.entry].lifted_us = Some(now_us);
        }
    }

    fn lift_range(&mut self, ino: Ino, from: u64, now_us: u64) {
        let range: Vec<SectorAt> =
            self.of_sector.range((ino, from)..=(ino, u64::MAX)).map(|(at, _)| *at).collect();
        range.into_iter().for_each(|at| self.lift(at, now_us));
    }

    /// Closes the entries of a write that will not happen at all.
    fn close(&mut self, doom: &Doom, now_us: u64) {
        for entry in [Some(doom.entry), doom.onto.map(|(_, entry)| entry)].into_iter().flatten() {
            self.ledger[entry].lifted_us = Some(now_us);
        }
    }

    fn enter(&mut self, damaged: Damaged) -> usize {
        self.ledger.push_back(damaged);
        self.ledger.len() - 1
    }

    /// What a read gets of a clean sector from byte `from` on; `bytes` holds what it should get.
    pub(super) fn serve(
        &mut self,
        at: SectorAt,
        from: usize,
        bytes: &mut [u8],
        checksums: bool,
        now_us: u64,
    ) -> io::Result<()> {
        let Some(defect) = self.of_sector.get(&at) else { return Ok(()) };
        let (entry, once) = (defect.entry, defect.once);
        let changed = defect.effect.spoil(from, bytes);
        let fails = matches!(defect.effect, Effect::Eio) || checksums;
        if once {
            self.lift(at, now_us);
        }
        if changed || fails {
            self.ledger[entry].served += 1;
            self.served += 1;
        }
        if fails { Err(os(libc::EIO)) } else { Ok(()) }
    }

    /// As [`Defects::serve`] for what lasts, without anybody being served; `EIO` is zeros. True if that made a difference.
    fn spoil_lasting(&self, at: SectorAt, bytes: &mut [u8]) -> bool {
        let lasting = self.of_sector.get(&at).filter(|defect| !defect.once);
        lasting.is_some_and(|defect| defect.effect.spoil(0, bytes))
    }

    /// False if no sector has a defect.
    pub(super) fn any(&self) -> bool {
        !self.of_sector.is_empty()
    }
}

impl Effect {
    /// Puts what a read gives in the place of what is there; true if that made a difference.
    fn spoil(&self, from: usize, bytes: &mut [u8]) -> bool {
        match self {
            Effect::Eio => {
                bytes.fill(0);
                true
            }
            Effect::Flip { byte, bit } => match (*byte as usize).checked_sub(from) {
                Some(i) if i < bytes.len() => {
                    bytes[i] ^= 1 << bit;
                    true
                }
                _ => false,
            },
            Effect::Content(content) => {
                let to = from + bytes.len();
                let same = match content {
                    Some(content) => content[from..to] == *bytes,
                    None => bytes.iter().all(|byte| *byte == 0),
                };
                match content {
                    Some(content) => bytes.copy_from_slice(&content[from..to]),
                    None => bytes.fill(0),
                }
                !same
            }
        }
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
        self.defects.ledger.iter()
    }

    /// How often readers were given bad bytes, or errors in their place.
    pub fn damage_served(&self) -> u64 {
        self.defects.served
    }

    /// Repairs every defect; pending writes get where they should.
    pub fn lift_damage(&mut self) {
        let now_us = self.now_us;
        let sectors: Vec<SectorAt> = self.defects.of_sector.keys().copied().collect();
        sectors.into_iter().for_each(|at| self.defects.lift(at, now_us));
        let doomed = std::mem::take(&mut self.defects.doomed);
        doomed.values().for_each(|doom| self.defects.close(doom, now_us));
    }

    /// Damages what a read of `len` bytes is about to give. What is pending is read from memory and cannot be damaged:
    /// false if the read covers nothing else.
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
        let is_clean = |piece: &Piece| !self.log.is_pending(ino, piece.sector);
        let clean = pieces(self.sector_bytes(), offset_bytes, there).filter(is_clean);
        let key = self.key.child("disk.read", &[label]);
        let Some(piece) = chosen(&key, clean, |piece| [piece.sector, 0, 0]) else { return false };
        let at = (ino, piece.sector);
        match damage {
            Damage::BitRot { sectors } => self.rot(at, piece.from..piece.from + piece.len, sectors, class),
            Damage::Eio => self.defect(at, 1, DamageKind::Eio, class, false, |_, _| Effect::Eio),
            Damage::BitFlipOnce => {
                let (from, to) = (piece.from, piece.from + piece.len);
                self.defect(at, 1, DamageKind::BitFlip, class, true, |_, content| {
                    rot_of(&content[from..to], from)
                });
            }
            Damage::StaleRead => {
                let old = self.defects.previous.get(&at).cloned();
                self.defect(at, 1, DamageKind::StaleRead, class, true, |_, _| Effect::Content(old.clone()));
            }
            Damage::LostWrite | Damage::Misdirect => return false,
        }
        true
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
        let pending = self.log.of_file(ino, until).filter(|op| op.id >= since && !op.forced);
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
        let entry = self.enter(at, 1, kind, class);
        let onto = (damage == Damage::Misdirect).then(|| self.elsewhere(at, class, class_of)).flatten();
        let onto = onto.map(|onto| (onto, self.enter(onto, 1, DamageKind::MisdirectedTo, class)));
        self.defects.doomed.insert(id, Doom { at, entry, onto, once });
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
            Damage::Eio => self.defect(at, 1, DamageKind::Eio, class, false, |_, _| Effect::Eio),
            Damage::BitRot { sectors } => {
                let visible = self.visible_bytes(at);
                self.rot(at, 0..visible, sectors, class);
            }
            Damage::BitFlipOnce | Damage::LostWrite | Damage::Misdirect | Damage::StaleRead => return false,
        }
        true
    }

    /// Allocated sectors inside the files of a class that are on the medium and have no defect.
    fn sectors_at_rest(&self, class: &str, class_of: fn(&Path) -> &'static str) -> Vec<SectorAt> {
        let mut sectors = Vec::new();
        self.vol.walk(|path, ino| {
            let is_wanted = class.is_empty() || class_of(Path::new(path)) == class;
            if is_wanted && !self.spared.contains(path) {
                sectors.extend(self.vol.sector_numbers(ino).map(|sector| (ino, sector)));
            }
        });
        sectors.retain(|at| {
            self.visible_bytes(*at) > 0
                && self.dur.sector(at.0, at.1).is_some()
                && !self.log.is_pending(at.0, at.1)
                && !self.defects.of_sector.contains_key(at)
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
            .take_while(|sector| *sector == at.1 || self.visible_bytes((at.0, *sector)) > 0)
            .count() as u64;
        let visible: Vec<usize> = (at.1..at.1 + run).map(|s| self.visible_bytes((at.0, s))).collect();
        self.defect(at, run, DamageKind::BitRot, class, false, |sector, content| {
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
        once: bool,
        effect: impl Fn(u64, &[u8]) -> Effect,
    ) {
        let entry = self.enter(at, count, kind, class);
        let zeros = vec![0; self.sector_bytes() as usize];
        for sector in at.1..at.1 + count {
            let content = self.vol.sector(at.0, sector).map_or(&zeros[..], |content| content);
            let effect = effect(sector, content);
            self.defects.put((at.0, sector), effect, once, entry, self.now_us);
        }
    }

    fn enter(&mut self, at: SectorAt, count: u64, kind: DamageKind, class: &'static str) -> usize {
        let size = u64::from(self.sector_bytes());
        let damaged = Damaged {
            path: self.path_of(at.0),
            ino: at.0,
            class,
            bytes: at.1 * size..(at.1 + count) * size,
            kind,
            at_us: self.now_us,
            lifted_us: None,
            served: 0,
        };
        self.defects.enter(damaged)
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
