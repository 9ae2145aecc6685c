//! What a power failure leaves.
//!
//! Let `log` be what is pending and `F` what is forced in it. The permissible trees are those that come from applying to the
//! image of the medium, in the order of issue, a set of operations that contains `F` and, with each operation, all that
//! must be there before it. [`survivors`] chooses one such set, [`enumerate_states`] goes through all of them. Torn writes
//! need no rule of their own: each sector is an operation. What a sync was writing may end otherwise, see
//! [`super::mid_sync`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Disk;
use super::log::{MicroOp, Op, OpId};
use super::sync::Health;
use super::tree::{Ino, Listing, Tree};
use crate::sim::{Draw, Key, Survivors, SyncEnd};

/// What became of the pending operations in a power failure.
#[derive(Clone, Debug, Default)]
pub struct CrashRecord {
    /// When, in microseconds of virtual time.
    pub at_us: u64,
    /// Pending operations that reached the medium after all, in the order of their issue.
    pub kept: Vec<MicroOp>,
    /// Pending operations that are gone, in the order of their issue.
    pub lost: Vec<MicroOp>,
    /// Where the lost ones stood among what was not forced, in the order of issue: the numbers of
    /// [`Survivors::Losing`].
    pub losing: Vec<u16>,
    /// Of the lost ones the write that left garbage in its place.
    pub garbage: Option<OpId>,
    /// A path of each inode concerned, as processes saw it before.
    pub paths: BTreeMap<Ino, String>,
}

impl CrashRecord {
    /// The story for a person: a line for each operation that was lost, then for each that was kept.
    pub fn story(&self) -> String {
        let mut story = String::new();
        for (what, ops) in [("lost", &self.lost), ("kept", &self.kept)] {
            for op in self.told(ops) {
                let _ = writeln!(story, "{what} {op}");
            }
        }
        story
    }

    /// A line for each of `ops`.
    pub(super) fn told(&self, ops: &[MicroOp]) -> Vec<String> {
        ops.iter().map(|op| format!("{} (issued {} us)", self.words(op), op.issued_us)).collect()
    }

    /// The operations that were lost, and those that were kept, in words.
    pub fn in_words(&self) -> [Vec<String>; 2] {
        [&self.lost, &self.kept].map(|ops| ops.iter().map(|op| self.words(op)).collect())
    }

    fn words(&self, op: &MicroOp) -> String {
        let garbage = if self.garbage == Some(op.id) { ", which left garbage" } else { "" };
        self.describe(&op.op) + garbage
    }

    fn describe(&self, op: &Op) -> String {
        let path = |ino: &Ino| self.paths.get(ino).cloned().unwrap_or_else(|| format!("inode {}", ino.0));
        match op {
            Op::Data { ino, sector, .. } => format!("write of {} sector {sector}", path(ino)),
            Op::Size { ino, len_bytes } => format!("length of {} = {len_bytes} bytes", path(ino)),
            Op::Zero { ino, sector, from_byte } => {
                format!("zeros of {} sector {sector} from byte {from_byte}", path(ino))
            }
            Op::Link { dir, name, .. } => format!("name {}/{name}", path(dir)),
            Op::Unlink { dir, name, .. } => format!("removal of {}/{name}", path(dir)),
            Op::Rename { from_dir, from, to_dir, to, .. } => {
                format!("rename {}/{from} -> {}/{to}", path(from_dir), path(to_dir))
            }
        }
    }
}

/// The pending operations with their edges as positions.
pub(super) struct Pending {
    pub(super) ops: Vec<MicroOp>,
    pub(super) before: Vec<Vec<usize>>,
    /// What draws know them by.
    idents: Vec<[u64; 3]>,
}

impl Pending {
    pub(super) fn of(disk: &Disk) -> Pending {
        let ops = disk.log.in_order();
        let position: BTreeMap<OpId, usize> = ops.iter().enumerate().map(|(i, op)| (op.id, i)).collect();
        let before = (ops.iter())
            .map(|op| disk.log.befores(op).into_iter().map(|id| position[&id]).collect())
            .collect();
        let idents = disk.idents(&ops);
        Pending { ops, before, idents }
    }

    /// One of `free` by a number: the least by a hash of each by itself, so that others come and go without moving it.
    pub(super) fn pick(&self, free: &[usize], purpose: &str, which: u16, key: &Key) -> usize {
        let hash = |i: &usize| {
            let [place, what, count] = self.idents[*i];
            key.hash(purpose, &[which.into(), place, what, count])
        };
        free.iter().copied().min_by_key(hash).expect("there is one")
    }

    /// The draw of one of the operations.
    pub(super) fn draw(&self, purpose: &str, i: usize, key: &Key) -> Draw {
        key.draw(purpose, &self.idents[i])
    }

    /// The forced operations: closed, because forcing closes.
    pub(super) fn forced(&self) -> Vec<bool> {
        self.ops.iter().map(|op| op.forced).collect()
    }

    /// Adds what must be there before what is there.
    pub(super) fn close_by_adding(&self, set: &mut [bool]) {
        for i in (0..self.ops.len()).rev() {
            if set[i] {
                self.before[i].iter().for_each(|b| set[*b] = true);
            }
        }
    }

    /// Takes out what misses something that must be there before it.
    pub(super) fn close_by_removing(&self, set: &mut [bool]) {
        for i in 0..self.ops.len() {
            set[i] &= self.before[i].iter().all(|b| set[*b]);
        }
    }

    fn is_permissible(&self, set: &[bool]) -> bool {
        (0..self.ops.len())
            .all(|i| if set[i] { self.before[i].iter().all(|b| set[*b]) } else { !self.ops[i].forced })
    }
}

/// Chooses the operations that survive, as a mark for each in the order of issue.
fn survivors(pending: &Pending, choice: &Survivors, key: &Key) -> Vec<bool> {
    let mut set = pending.forced();
    let free: Vec<usize> = (0..set.len()).filter(|i| !set[*i]).collect();
    if free.is_empty() {
        return set;
    }
    match choice {
        Survivors::None => {}
        Survivors::All => set.fill(true),
        Survivors::Prefix(permille) => {
            let keep = free.len() * usize::from(*permille.min(&1000)) / 1000;
            free[..keep].iter().for_each(|i| set[*i] = true);
        }
        Survivors::AllBut(which) => {
            set.fill(true);
            set[pending.pick(&free, "disk.survivor", *which, key)] = false;
            pending.close_by_removing(&mut set);
        }
        Survivors::Only(which) => {
            set[pending.pick(&free, "disk.survivor", *which, key)] = true;
            pending.close_by_adding(&mut set);
        }
        Survivors::Losing(lost) => {
            set.fill(true);
            for which in lost {
                if let Some(i) = free.get(usize::from(*which)) {
                    set[*i] = false;
                }
            }
            pending.close_by_removing(&mut set);
        }
        Survivors::MidSync { rest, .. } => set = survivors(pending, rest, key),
        Survivors::Each { permille, key: name } => {
            let key = key.child("disk.survivors", &[u64::from(*name)]);
            let by_adding = key.chance("by_adding", &[], 500);
            for i in free {
                set[i] = key.chance("op", &pending.idents[i], u64::from(*permille));
            }
            if by_adding {
                pending.close_by_adding(&mut set);
            } else {
                pending.close_by_removing(&mut set);
            }
        }
    }
    assert!(pending.is_permissible(&set), "{choice:?} chose an impermissible set");
    set
}

impl Disk {
    /// How many operations a power failure could take now.
    pub fn at_risk(&self) -> usize {
        self.log.in_order().iter().filter(|op| !op.forced).count()
    }

    /// The power fails: of what is pending, `choice` decides; open files and locks are gone; what was in memory is gone.
    pub fn power_fail(&mut self, choice: &Survivors, now_us: u64) -> CrashRecord {
        self.land_what_is_late();
        self.losses += 1;
        let key = self.key;
        let pending = Pending::of(self);
        let mut set = survivors(&pending, choice, &key);
        let garbage = match choice {
            Survivors::MidSync { end: SyncEnd::Garbage(which), .. } => {
                self.garbage_of(&pending, &mut set, *which)
            }
            _ => None,
        };
        self.now_us = now_us;
        let mut defects = std::mem::take(&mut self.defects);
        let mut tree =
            self.left(&pending, &set, |op, tree, survives| defects.meet(op, tree, survives, now_us));
        defects.settle(&tree, now_us);
        self.defects = defects;
        let mut record = CrashRecord { at_us: now_us, paths: self.paths_of(&pending), ..Default::default() };
        if let Some(i) = garbage {
            self.leave_garbage(&mut tree, &pending, i);
            record.garbage = Some(pending.ops[i].id);
        }
        if matches!(choice, Survivors::MidSync { end: SyncEnd::LandsLater, .. }) {
            self.land_later(&tree, &pending, &set);
        }
        let free = pending.ops.iter().zip(&set).filter(|(op, _)| !op.forced);
        record.losing = free
            .enumerate()
            .filter(|(_, (_, survives))| !**survives)
            .filter_map(|(position, _)| u16::try_from(position).ok())
            .collect();
        for (op, survives) in pending.ops.into_iter().zip(set) {
            if survives { &mut record.kept } else { &mut record.lost }.push(op);
        }
        self.vol = tree.clone();
        self.dur = tree;
        self.log.clear();
        self.fds.clear();
        self.locks.clear();
        self.under_way.clear();
        self.sync_errors.clear();
        self.owed_errors.clear();
        self.health = Health::Working;
        let gone: Vec<Ino> =
            self.labels.keys().copied().filter(|ino| self.vol.inode(*ino).is_none()).collect();
        for ino in gone {
            self.labels.remove(&ino);
        }
        record
    }

    /// What a mount finds if of what is pending the operations in `set` survive. `each` is told of every operation in turn,
    /// with the tree as it is before it and whether it survives.
    pub(super) fn left(
        &self,
        pending: &Pending,
        set: &[bool],
        mut each: impl FnMut(&MicroOp, &Tree, bool),
    ) -> Tree {
        let mut tree = self.dur.clone();
        for (op, survives) in pending.ops.iter().zip(set) {
            each(op, &tree, *survives);
            if *survives {
                op.op.apply(&mut tree);
            }
        }
        if self.config.stale_tail {
            leave_stale_sectors(&mut tree, pending, set, &self.key);
        }
        tree.settle();
        tree
    }

    fn paths_of(&self, pending: &Pending) -> BTreeMap<Ino, String> {
        let mut paths = BTreeMap::new();
        if !pending.ops.is_empty() {
            paths.insert(super::tree::ROOT, String::new());
            self.vol.walk(|path, ino| {
                paths.entry(ino).or_insert_with(|| path.to_owned());
            });
        }
        paths
    }
}

/// A length that reached the medium without its sectors uncovers what was there before, rather than zeros.
fn leave_stale_sectors(tree: &mut Tree, pending: &Pending, set: &[bool], key: &Key) {
    for (i, op) in pending.ops.iter().enumerate().filter(|(i, _)| !set[*i]) {
        let Op::Data { ino, sector, .. } = op.op else { continue };
        let offset = sector * u64::from(tree.sector_bytes());
        let uncovered = tree.len_bytes(ino).is_some_and(|len| offset < len);
        if uncovered && tree.sector(ino, sector).is_none() {
            let mut stale = vec![0; tree.sector_bytes() as usize];
            key.draw("disk.stale", &pending.idents[i]).fill(&mut stale);
            tree.put_sector(ino, sector, stale.into());
        }
    }
}

/// All trees that a power failure may leave now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct States {
    /// The distinct trees.
    pub trees: BTreeSet<Listing>,
    /// How many permissible sets of operations lead to them.
    pub sets: u64,
}

/// Goes through all permissible sets of pending operations. There are exponentially many: for small logs only.
pub fn enumerate_states(disk: &Disk) -> States {
    let pending = Pending::of(disk);
    let mut states = States::default();
    let mut set = vec![false; pending.ops.len()];
    extend(&pending, 0, &mut set, disk.dur.clone(), &mut states);
    states
}

/// Decides about the operation at `at`, given those before it in `set` and their effect in `tree`.
fn extend(pending: &Pending, at: usize, set: &mut [bool], tree: Tree, states: &mut States) {
    let Some(op) = pending.ops.get(at) else {
        states.sets += 1;
        states.trees.insert(tree.listing());
        return;
    };
    if pending.before[at].iter().all(|b| set[*b]) {
        let mut with = tree.clone();
        op.op.apply(&mut with);
        set[at] = true;
        extend(pending, at + 1, set, with, states);
        set[at] = false;
    }
    if !op.forced {
        extend(pending, at + 1, set, tree, states);
    }
}
