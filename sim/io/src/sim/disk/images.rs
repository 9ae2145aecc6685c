//! The images that a power failure may leave now, as choices that a plan can name.
//!
//! A log of pending operations permits a number of sets of survivors, see [`super::crash`]. If they are few, all of them are
//! listed. If they are many, a sample is: nothing and everything; the prefixes; for each operation, all but it and what
//! depends on it, and nothing but it and what it depends on. Experience with file systems says that most of what a sloppy
//! order of syncs can break shows in one of these.
//!
//! While a sync is under way there are two more, in which one sector that it was writing is garbage.
//!
//! Each image comes with a hash of what is seen in it, so that those that cannot be told apart need to be looked at once.

use super::Disk;
use super::crash::Pending;
use crate::sim::{Draw, Survivors, SyncEnd};

/// What a power failure may leave now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// How many sets of operations may survive; if they are not all listed, a lower bound.
    pub sets: u64,
    /// All of them are listed.
    pub all: bool,
    /// The images, each once; in the order in which they were found.
    pub images: Vec<Image>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The choice that leaves it; [`Survivors::Losing`], or one of the extremes.
    pub survivors: Survivors,
    /// [`Tree::hash`](super::Tree::hash) of what is left, and what is damaged in it.
    pub hash: u128,
}

impl Disk {
    /// The images that a power failure may leave now: all of them if no more than `all_up_to` sets may survive, otherwise a
    /// sample of up to `sample`, the extremes first and the rest drawn.
    pub fn images(&self, all_up_to: usize, sample: usize, draw: &mut Draw) -> Images {
        let pending = Pending::of(self);
        let (mut sets, all) = pending.sets(all_up_to);
        if !all {
            sets = pending.sample(sample, draw);
        }
        let count = sets.len() as u64;
        let mut images: Vec<Image> = Vec::new();
        let mut add = |image: Image| {
            if images.iter().all(|earlier| earlier.hash != image.hash) {
                images.push(image);
            }
        };
        for set in sets {
            add(Image { hash: self.hash_after(&pending, &set, None), survivors: pending.choice(&set) });
        }
        for (set, which) in self.with_garbage(&pending) {
            let hash = self.hash_after(&pending, &set, Some(which));
            let rest = Box::new(pending.choice(&set));
            let survivors = Survivors::MidSync { end: SyncEnd::Garbage(which), rest };
            add(Image { hash, survivors });
        }
        Images { sets: if all { count } else { count.max(all_up_to as u64 + 1) }, all, images }
    }

    /// Changes whenever there may be images that there were none of before: when something is issued or damaged, or a sync
    /// begins. What a sync or writeback forces only takes images away.
    pub fn moment(&self) -> [u64; 2] {
        [self.log.next_id().0, self.losses + self.defects.changes() + self.syncs_begun()]
    }

    /// The hash of what would be left, and what would be damaged in it.
    fn hash_after(&self, pending: &Pending, set: &[bool], garbage: Option<u16>) -> u128 {
        let mut set = set.to_vec();
        let garbage = garbage.and_then(|which| self.garbage_of(pending, &mut set, which));
        let mut defects = self.defects.clone();
        let mut tree = if defects.any_or_doomed() {
            self.left(pending, &set, |op, tree, survives| defects.meet(op, tree, survives, self.now_us))
        } else {
            self.left(pending, &set, |_, _, _| {})
        };
        defects.settle(&tree, self.now_us);
        if let Some(i) = garbage {
            self.leave_garbage(&mut tree, pending, i);
        }
        defects.hash_with(tree.hash(), &tree)
    }

    /// What is lost, and which garbage it leaves, at a moment at which a sync is under way: nothing survives but what must,
    /// or everything else does.
    fn with_garbage(&self, pending: &Pending) -> Vec<(Vec<bool>, u16)> {
        if self.written_mid_sync(pending).is_empty() {
            return Vec::new();
        }
        let none = pending.forced();
        let all = vec![true; none.len()];
        vec![(none, 0), (all, 0)]
    }
}

impl Pending {
    /// All permissible sets, or `false` and the first of them if they are more than `most`.
    fn sets(&self, most: usize) -> (Vec<Vec<bool>>, bool) {
        let mut sets = Vec::new();
        let all = self.extend_set(0, &mut vec![false; self.ops.len()], most, &mut sets);
        (sets, all)
    }

    /// Decides about the operations from `at` on; `false` as soon as there are more sets than `most`. Every decision about
    /// the first operations leads to a set, so that the time is bounded by the sets found.
    fn extend_set(&self, at: usize, set: &mut Vec<bool>, most: usize, sets: &mut Vec<Vec<bool>>) -> bool {
        if at == set.len() {
            if sets.len() == most {
                return false;
            }
            sets.push(set.clone());
            return true;
        }
        if self.before[at].iter().all(|b| set[*b]) {
            set[at] = true;
            let within = self.extend_set(at + 1, set, most, sets);
            set[at] = false;
            if !within {
                return false;
            }
        }
        self.ops[at].forced || self.extend_set(at + 1, set, most, sets)
    }

    /// Nothing, everything, and up to `most` in all of the prefixes, the sets without one operation and those with only
    /// one.
    fn sample(&self, most: usize, draw: &mut Draw) -> Vec<Vec<bool>> {
        let forced = self.forced();
        let free: Vec<usize> = (0..forced.len()).filter(|i| !forced[*i]).collect();
        let mut candidates = Vec::with_capacity(free.len() * 3);
        for (n, &i) in free.iter().enumerate() {
            let mut prefix = forced.clone();
            free[..n].iter().for_each(|kept| prefix[*kept] = true);
            let mut without = vec![true; forced.len()];
            without[i] = false;
            self.close_by_removing(&mut without);
            let mut only = forced.clone();
            only[i] = true;
            self.close_by_adding(&mut only);
            candidates.extend([prefix, without, only]);
        }
        let mut sets = vec![forced.clone(), vec![true; forced.len()]];
        sets.truncate(most.max(1));
        while sets.len() < most && !candidates.is_empty() {
            let drawn = draw.below(candidates.len() as u64) as usize;
            let candidate = candidates.swap_remove(drawn);
            if !sets.contains(&candidate) {
                sets.push(candidate);
            }
        }
        sets
    }

    /// The choice that leaves `set`.
    fn choice(&self, set: &[bool]) -> Survivors {
        let free: Vec<usize> = (0..set.len()).filter(|i| !self.ops[*i].forced).collect();
        let lost = free.iter().enumerate().filter(|(_, i)| !set[**i]);
        let lost: Vec<u16> = lost.filter_map(|(n, _)| u16::try_from(n).ok()).collect();
        match lost.len() {
            0 => Survivors::All,
            n if n == free.len() => Survivors::None,
            _ => Survivors::Losing(lost),
        }
    }
}
