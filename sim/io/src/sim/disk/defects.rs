//! What is wrong with the medium, sector by sector, and the ledger of it.
//!
//! Defects of a sector lie in *layers* over content that stays pristine below: a read goes through them from the earliest to
//! the latest. One that shows in one read only lies over the others and uncovers them again. A write that gets there lifts
//! them all; one that is lost leaves them as they were, for it has overwritten nothing.
//!
//! A write that is *doomed* damages nothing until its moment to land has come. If a crash takes it, or if it would have
//! changed nothing, there never was a defect: the ledger says so ([`Damaged::laid`]), and nobody is told ([`Bite`]).

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::ops::Range;

use imbl::{OrdMap, Vector};
use xxhash_rust::xxh3::Xxh3;

use super::log::{MicroOp, Op, OpId};
use super::path::os;
use super::tree::{Ino, Sector, Tree};

/// A sector of a file.
pub(super) type SectorAt = (Ino, u64);

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
    /// A defect lay on the medium for it, or a reader got something else. False as long as a write that will go astray is
    /// pending, and for good if it never gets to the medium or would have changed nothing.
    pub laid: bool,
    /// When the last of it was overwritten, removed or lifted; `None` while some of it is there.
    pub lifted_us: Option<u64>,
    /// How often a reader was given bad bytes, or an error, because of it.
    pub served: u64,
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

/// What a disk has to tell of a fault that damages it; of each at most once of either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bite {
    /// There is a defect, or a reader got something else.
    Laid(DamageKind),
    /// A reader was given bad bytes, or an error.
    Served(DamageKind),
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damaged { path, class, bytes, kind, .. } = self;
        write!(f, "{kind:?} in {path} ({class}), bytes {}..{}", bytes.start, bytes.end)
    }
}

/// What a read of a clean sector gives instead of what lies below.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    Eio,
    Flip {
        byte: u32,
        bit: u8,
    },
    /// Another content; `None` for zeros.
    Content(Option<Sector>),
}

/// How long a defect lasts that nobody overwrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Lasting,
    /// Until the sector is read.
    OneRead,
    /// To the end of the next read of the file, whether that gets here or not.
    ThisRead,
}

#[derive(Clone, Debug)]
struct Defect {
    effect: Effect,
    life: Life,
    /// Position in the ledger.
    entry: usize,
}

/// A pending write that will not get where it should.
#[derive(Clone, Debug)]
pub(super) struct Doom {
    pub(super) at: SectorAt,
    pub(super) entry: usize,
    /// Where it lands instead, with the entry of that.
    pub(super) onto: Option<(SectorAt, usize)>,
    /// It gets there, and the old content is read once.
    pub(super) once: bool,
}

/// The defects of a medium.
#[derive(Clone, Debug, Default)]
pub(super) struct Defects {
    /// Those of each sector, the earliest first; none is empty.
    of_sector: OrdMap<SectorAt, Vec<Defect>>,
    doomed: OrdMap<OpId, Doom>,
    /// What was on the medium before, for sectors that were overwritten there.
    previous: OrdMap<SectorAt, Sector>,
    ledger: Vector<Damaged>,
    /// For each entry of the ledger the first of the same fault.
    fault_of: Vector<usize>,
    served: u64,
    this_read: Option<SectorAt>,
    bites: Vec<Bite>,
}

impl Defects {
    /// `op` is about to be applied to the medium.
    pub(super) fn landing(&mut self, op: &MicroOp, medium: &Tree, now_us: u64) {
        match &op.op {
            Op::Data { ino, sector, content } => {
                let at = (*ino, *sector);
                let old = medium.sector(*ino, *sector).cloned();
                match self.doomed.remove(&op.id) {
                    Some(doom) if !doom.once => self.go_astray(&doom, old, content, medium, now_us),
                    doom => {
                        self.lift(at, now_us);
                        if let Some(Doom { entry, .. }) = doom {
                            if is_content(old.as_ref(), content) {
                                self.ledger[entry].lifted_us = Some(now_us);
                            } else {
                                self.lay(at, Effect::Content(old.clone()), Life::OneRead, entry);
                            }
                        }
                        if let Some(old) = old {
                            self.previous.insert(at, old);
                        }
                    }
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

    /// A write that does not get where it should leaves there what was, defects included, and overwrites something else.
    fn go_astray(&mut self, doom: &Doom, old: Option<Sector>, content: &Sector, medium: &Tree, now_us: u64) {
        if is_content(old.as_ref(), content) && !self.of_sector.contains_key(&doom.at) {
            self.ledger[doom.entry].lifted_us = Some(now_us);
        } else {
            let left = Defect { effect: Effect::Content(old), life: Life::Lasting, entry: doom.entry };
            self.of_sector.entry(doom.at).or_default().insert(0, left);
            self.tell_laid(doom.entry);
        }
        let Some((onto, entry)) = doom.onto else { return };
        let there = medium.sector(onto.0, onto.1);
        if there.is_none() || (is_content(there, content) && !self.of_sector.contains_key(&onto)) {
            self.ledger[entry].lifted_us = Some(now_us);
        } else {
            self.lift(onto, now_us);
            self.lay(onto, Effect::Content(Some(content.clone())), Life::Lasting, entry);
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

    /// In a crash: `op` is about to be applied to the medium, or is lost.
    pub(super) fn meet(&mut self, op: &MicroOp, medium: &Tree, survives: bool, now_us: u64) {
        if survives {
            self.landing(op, medium, now_us);
        } else {
            self.lost(std::slice::from_ref(op), now_us);
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

    /// Everything is repaired, and pending writes get where they should.
    pub(super) fn lift_all(&mut self, now_us: u64) {
        let sectors: Vec<SectorAt> = self.of_sector.keys().copied().collect();
        sectors.into_iter().for_each(|at| self.lift(at, now_us));
        let doomed = std::mem::take(&mut self.doomed);
        doomed.values().for_each(|doom| self.close(doom, now_us));
    }

    /// Lays a defect over what is there.
    pub(super) fn lay(&mut self, at: SectorAt, effect: Effect, life: Life, entry: usize) {
        self.of_sector.entry(at).or_default().push(Defect { effect, life, entry });
        if life == Life::ThisRead {
            self.this_read = Some(at);
        } else {
            self.tell_laid(entry);
        }
    }

    /// A pending write will not get where it should.
    pub(super) fn doom(&mut self, id: OpId, doom: Doom) {
        self.doomed.insert(id, doom);
    }

    /// True if a pending write is doomed already.
    pub(super) fn is_doomed(&self, id: OpId) -> bool {
        self.doomed.contains_key(&id)
    }

    fn lift(&mut self, at: SectorAt, now_us: u64) {
        for defect in self.of_sector.remove(&at).unwrap_or_default() {
            self.close_if_gone(defect.entry, now_us);
        }
    }

    fn lift_range(&mut self, ino: Ino, from: u64, now_us: u64) {
        let range: Vec<SectorAt> =
            self.of_sector.range((ino, from)..=(ino, u64::MAX)).map(|(at, _)| *at).collect();
        range.into_iter().for_each(|at| self.lift(at, now_us));
    }

    /// Takes away the defects of a sector that have had their one read.
    fn uncover(&mut self, at: SectorAt, is_over: impl Fn(Life) -> bool, now_us: u64) {
        let Some(layers) = self.of_sector.get_mut(&at) else { return };
        let (over, left) = std::mem::take(layers).into_iter().partition(|defect| is_over(defect.life));
        *layers = left;
        if layers.is_empty() {
            self.of_sector.remove(&at);
        }
        let over: Vec<Defect> = over;
        over.iter().for_each(|defect| self.close_if_gone(defect.entry, now_us));
    }

    fn close_if_gone(&mut self, entry: usize, now_us: u64) {
        if !self.of_sector.values().flatten().any(|other| other.entry == entry) {
            self.ledger[entry].lifted_us = Some(now_us);
        }
    }

    /// Closes the entries of a write that will not happen at all.
    fn close(&mut self, doom: &Doom, now_us: u64) {
        for entry in [Some(doom.entry), doom.onto.map(|(_, entry)| entry)].into_iter().flatten() {
            self.ledger[entry].lifted_us = Some(now_us);
        }
    }

    /// Adds an entry to the ledger: of a fault of its own, or of the one that has that entry.
    pub(super) fn enter(&mut self, damaged: Damaged, of: Option<usize>) -> usize {
        let entry = self.ledger.len();
        self.ledger.push_back(damaged);
        self.fault_of.push_back(of.unwrap_or(entry));
        entry
    }

    fn tell_laid(&mut self, entry: usize) {
        let is_first = !self.any_of_fault(entry, |damaged| damaged.laid);
        self.ledger[entry].laid = true;
        if is_first {
            self.bites.push(Bite::Laid(self.ledger[entry].kind));
        }
    }

    fn tell_served(&mut self, entry: usize) {
        self.tell_laid(entry);
        let is_first = !self.any_of_fault(entry, |damaged| damaged.served > 0);
        self.ledger[entry].served += 1;
        if is_first {
            self.bites.push(Bite::Served(self.ledger[entry].kind));
        }
    }

    fn any_of_fault(&self, entry: usize, is_so: impl Fn(&Damaged) -> bool) -> bool {
        let fault = self.fault_of[entry];
        let entries = (fault..self.ledger.len()).take_while(|i| self.fault_of[*i] == fault);
        entries.into_iter().any(|i| is_so(&self.ledger[i]))
    }

    /// What there is to tell since the last time.
    pub(super) fn take_bites(&mut self) -> Vec<Bite> {
        std::mem::take(&mut self.bites)
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
        let Some(layers) = self.of_sector.get(&at) else { return Ok(()) };
        let right = bytes.to_vec();
        let (mut fails, mut causes) = (false, Vec::new());
        for Defect { effect, life, entry } in layers {
            if fails && matches!(effect, Effect::Flip { .. }) {
                continue;
            }
            let changes = effect.spoil(from, bytes) || fails;
            fails = matches!(effect, Effect::Eio);
            if changes && *life != Life::Lasting && matches!(effect, Effect::Content(_)) {
                // For one read there is nothing of what lies below.
                causes.clear();
            }
            if changes || checksums {
                causes.push(*entry);
            }
        }
        let fails = fails || checksums;
        if fails || bytes != right {
            causes.into_iter().for_each(|entry| self.tell_served(entry));
            self.served += 1;
        }
        self.uncover(at, |life| life != Life::Lasting, now_us);
        if fails { Err(os(libc::EIO)) } else { Ok(()) }
    }

    /// A read of a file is over: what was meant for it alone is gone.
    pub(super) fn end_read(&mut self, now_us: u64) {
        if let Some(at) = self.this_read.take() {
            self.uncover(at, |life| life == Life::ThisRead, now_us);
        }
    }

    /// As [`Defects::serve`] for what lasts, without anybody being served; `EIO` is zeros. True if a read would fail, or give
    /// something else.
    pub(super) fn spoil_lasting(&self, at: SectorAt, bytes: &mut [u8]) -> bool {
        let Some(layers) = self.of_sector.get(&at) else { return false };
        let right = bytes.to_vec();
        let mut fails = false;
        for Defect { effect, .. } in layers.iter().filter(|defect| defect.life == Life::Lasting) {
            if fails && matches!(effect, Effect::Flip { .. }) {
                continue;
            }
            fails = matches!(effect, Effect::Eio);
            effect.spoil(0, bytes);
        }
        fails || bytes != right
    }

    /// What a read of a sector would give that gets what was there before; `None` for zeros.
    pub(super) fn previous(&self, at: SectorAt) -> Option<&Sector> {
        self.previous.get(&at)
    }

    /// True if a sector has a defect that lasts.
    pub(super) fn has_lasting(&self, at: SectorAt) -> bool {
        self.of_sector.get(&at).is_some_and(|layers| layers.iter().any(|d| d.life == Life::Lasting))
    }

    /// False if no sector has a defect.
    pub(super) fn any(&self) -> bool {
        !self.of_sector.is_empty()
    }

    /// False if neither a sector nor a pending write has anything wrong.
    pub(super) fn any_or_doomed(&self) -> bool {
        self.any() || !self.doomed.is_empty()
    }

    pub(super) fn ledger(&self) -> impl Iterator<Item = &Damaged> {
        self.ledger.iter()
    }

    /// How often readers were given bad bytes, or errors in their place.
    pub(super) fn served(&self) -> u64 {
        self.served
    }

    /// Grows whenever a defect comes, or goes because it was read.
    pub(super) fn changes(&self) -> u64 {
        self.ledger.len() as u64 + self.served
    }

    /// Mixes `hash`, that of what is seen in `tree`, with what is wrong with it: where, and what readers get or will get
    /// once what is pending has landed. The same as `hash` if nothing is wrong.
    pub(super) fn hash_with(&self, hash: u128, tree: &Tree) -> u128 {
        if !self.any_or_doomed() {
            return hash;
        }
        let mut hasher = Xxh3::new();
        hasher.update(&hash.to_le_bytes());
        let mut paths = Vec::new();
        tree.walk(|path, ino| paths.push((path.to_owned(), ino)));
        for (path, ino) in paths {
            hasher.update(path.as_bytes());
            for ((_, sector), layers) in self.of_sector.range((ino, 0)..=(ino, u64::MAX)) {
                hasher.update(&sector.to_le_bytes());
                layers.iter().for_each(|defect| defect.hash(&mut hasher));
            }
            for doom in self.doomed.values().filter(|doom| doom.at.0 == ino) {
                let (onto_ino, onto) = doom.onto.map_or((0, 0), |((ino, sector), _)| (ino.0, sector));
                for part in [doom.at.1, doom.once.into(), onto_ino, onto] {
                    hasher.update(&part.to_le_bytes());
                }
            }
        }
        hasher.digest128()
    }
}

impl Defect {
    fn hash(&self, hasher: &mut Xxh3) {
        hasher.update(&[u8::from(self.life == Life::Lasting)]);
        match &self.effect {
            Effect::Eio => hasher.update(&[0]),
            Effect::Flip { byte, bit } => {
                hasher.update(&[1, *bit]);
                hasher.update(&byte.to_le_bytes());
            }
            Effect::Content(None) => hasher.update(&[2]),
            Effect::Content(Some(content)) => {
                hasher.update(&[3]);
                hasher.update(content);
            }
        }
    }
}

impl Effect {
    /// Puts what a read gives in the place of what is there; true if that made a difference.
    pub(super) fn spoil(&self, from: usize, bytes: &mut [u8]) -> bool {
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

/// True if `sector` reads as `content`; a sector that is missing reads as zeros.
fn is_content(sector: Option<&Sector>, content: &Sector) -> bool {
    match sector {
        Some(sector) => sector == content,
        None => content.iter().all(|byte| *byte == 0),
    }
}
