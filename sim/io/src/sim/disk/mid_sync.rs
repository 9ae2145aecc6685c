//! Syncs that are under way when the power fails.
//!
//! A buffered write is one moment of this model, and so is writeback: neither is ever half done. A sync takes time. What it was
//! writing can come to an odd end if the plan says so ([`SyncEnd`]):
//!
//! - *Garbage*: of one sector the bytes that were to change are random afterwards, and the new length of the file is there
//!   without them if the order of the file system lets it. What was acknowledged without a sync under way is never touched, nor
//!   are bytes of the sector that the sync was not to change: devices keep those ("powersafe overwrite"), and engines that append
//!   to a log rely on it. A file system with checksums writes elsewhere and tells the difference, so there is no garbage on one.
//! - *Late landing*: the content and the lengths that the crash takes get to the medium after all, but only when the node dies
//!   the next time. Who recovers from the crash reads the old state, who recovers after that the new one (rocksdb#7621,
//!   pebble#984). What has been written anew by then stays.
//!
//! Not modelled: names that land late, garbage in more than one sector.

use super::Disk;
use super::crash::Pending;
use super::log::{MicroOp, Op, OpId};
use super::sync::Sync;
use super::tree::{Ino, Sector, Tree};

/// The syncs of files that have begun and not ended: for each its file, and what it is about.
pub(super) type UnderWay = imbl::OrdMap<u64, (Ino, OpId)>;

/// What will have reached the medium when the node dies the next time.
#[derive(Clone, Debug, Default)]
pub(super) struct Late {
    ops: Vec<(Op, Found)>,
    /// Files were opened so often before the crash: as long as no more were, nobody has recovered from it.
    opened: u64,
}

/// What a crash left where something lands later.
#[derive(Clone, Debug)]
enum Found {
    Content(Option<Sector>),
    Length(u64),
}

impl Disk {
    /// A sync ended without a result: its process is gone, or an error struck it.
    pub fn abandon_sync(&mut self, sync: &Sync) {
        self.under_way.remove(&sync.nth());
    }

    /// How often a sync of a file has begun.
    pub(super) fn syncs_begun(&self) -> u64 {
        self.next_sync
    }

    /// The positions of those pending operations that a sync is writing.
    pub(super) fn written_mid_sync(&self, pending: &Pending) -> Vec<usize> {
        let is_written = |op: &MicroOp| {
            let (file, id) = op.key();
            !op.forced && self.under_way.values().any(|(ino, until)| *ino == file && id < *until)
        };
        (0..pending.ops.len()).filter(|i| is_written(&pending.ops[*i])).collect()
    }

    /// Of the writes that a sync was at, the one that leaves garbage; only one that shows. It is taken out of `set`, with what
    /// depends on it, and the length that uncovers it is added if the order of the file system lets it survive without the
    /// write.
    pub(super) fn garbage_of(&self, pending: &Pending, set: &mut Vec<bool>, which: u16) -> Option<usize> {
        if self.rules.checksums {
            return None;
        }
        let (mut left, others): (Vec<usize>, Vec<usize>) = (self.written_mid_sync(pending).into_iter())
            .partition(|i| matches!(pending.ops[*i].op, Op::Data { .. }));
        let is_size = |i: &usize| matches!(pending.ops[*i].op, Op::Size { .. });
        let sizes: Vec<usize> = others.into_iter().filter(is_size).collect();
        while !left.is_empty() {
            let i = pending.pick(&left, "disk.garbage", which, &self.key);
            left.retain(|other| *other != i);
            let mut uncovered = set.clone();
            uncovered[i] = false;
            pending.close_by_removing(&mut uncovered);
            for size in sizes.iter().filter(|size| pending.ops[**size].key().0 == pending.ops[i].key().0) {
                let mut with = uncovered.clone();
                with[*size] = true;
                pending.close_by_adding(&mut with);
                if !with[i] {
                    uncovered = with;
                }
            }
            let tree = self.left(pending, &uncovered, |_, _, _| {});
            if !self.bytes_to_change(&tree, &pending.ops[i].op).is_empty() {
                *set = uncovered;
                return Some(i);
            }
        }
        None
    }

    /// Leaves garbage in the place of the write at `i` in `tree`, in which it is missing.
    pub(super) fn leave_garbage(&self, tree: &mut Tree, pending: &Pending, i: usize) {
        let op = &pending.ops[i].op;
        let Op::Data { ino, sector, .. } = op else { unreachable!("only data changes bytes") };
        let mut content = vec![0; self.sector_bytes() as usize];
        if let Some(there) = tree.sector(*ino, *sector) {
            content.copy_from_slice(there);
        }
        let mut garbage = content.clone();
        pending.draw("disk.garbage.bytes", i, &self.key).fill(&mut garbage);
        for byte in self.bytes_to_change(tree, op) {
            content[byte] = garbage[byte];
        }
        tree.put_sector(*ino, *sector, content.into());
    }

    /// The bytes of a sector that a write would have changed, as far as they lie inside the file.
    fn bytes_to_change(&self, tree: &Tree, op: &Op) -> Vec<usize> {
        let Op::Data { ino, sector, content } = op else { return Vec::new() };
        let size = u64::from(self.sector_bytes());
        let visible = tree.len_bytes(*ino).unwrap_or(0).saturating_sub(sector * size).min(size) as usize;
        let there = |byte: usize| tree.sector(*ino, *sector).map_or(0, |there| there[byte]);
        (0..visible).filter(|byte| there(*byte) != content[*byte]).collect()
    }

    /// What a sync was writing, and `set` loses, will land when the node dies the next time.
    pub(super) fn land_later(&mut self, tree: &Tree, pending: &Pending, set: &[bool]) {
        let lost = self.written_mid_sync(pending).into_iter().filter(|i| !set[*i]);
        let ops = lost.filter_map(|i| {
            let op = pending.ops[i].op.clone();
            let found = match &op {
                Op::Data { ino, sector, .. } => Found::Content(tree.sector(*ino, *sector).cloned()),
                Op::Size { ino, .. } => Found::Length(tree.len_bytes(*ino)?),
                _ => return None,
            };
            Some((op, found))
        });
        self.late = Late { ops: ops.collect(), opened: self.next_fd };
    }

    /// The node dies: what was to land later does, where nothing was written since.
    pub(super) fn land_what_is_late(&mut self) {
        if self.late.ops.is_empty() || self.late.opened == self.next_fd {
            return;
        }
        self.losses += 1;
        for (op, found) in std::mem::take(&mut self.late).ops {
            let (ino, is_untouched) = match (&op, found) {
                (Op::Data { ino, sector, .. }, Found::Content(content)) => {
                    (*ino, self.dur.sector(*ino, *sector) == content.as_ref())
                }
                (Op::Size { ino, .. }, Found::Length(len_bytes)) => {
                    (*ino, self.dur.len_bytes(*ino) == Some(len_bytes))
                }
                _ => continue,
            };
            if is_untouched && self.dur.inode(ino).is_some() && self.vol.inode(ino).is_some() {
                op.apply(&mut self.dur);
                self.reread(ino);
            }
        }
    }
}
