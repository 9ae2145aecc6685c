//! What was done and has not reached the medium: micro-operations and the order between them.
//!
//! Each micro-operation is atomic: after a crash it is there or it is not. `before` edges say which others must be there
//! if it is; the edges that every file system has are
//! - the operations on one sector, in their order;
//! - the lengths of one file, in their order;
//! - the operations on one name of one directory, in their order (a rename is an operation on two);
//!
//! and the [`Rules`] of the personality add theirs. A sync (or writeback) *forces* operations with all that must be there
//! before them; a crash keeps what is forced. Forced operations are folded into the image of the medium and leave the log
//! as soon as everything they do not commute with has been folded before them, so that applying the rest of the log in
//! its order always gives the right tree.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;

use super::personality::Rules;
use super::tree::{Ino, Name, Sector, Tree};

/// The number of a micro-operation on its disk; numbers grow in the order of issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// What a micro-operation does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a sector (a smaller write carries the merged sector).
    Data {
        /// The file.
        ino: Ino,
        /// The sector's number in the file.
        sector: u64,
        /// Its content.
        content: Sector,
    },
    /// Sets the length.
    Size {
        /// The file.
        ino: Ino,
        /// The new length in bytes.
        len_bytes: u64,
    },
    /// Zeros the rest of a sector, or frees it.
    Zero {
        /// The file.
        ino: Ino,
        /// The sector's number in the file.
        sector: u64,
        /// Where the zeros begin.
        from_byte: u32,
    },
    /// Makes a name.
    Link {
        /// The directory.
        dir: Ino,
        /// The name.
        name: Name,
        /// Where it leads.
        ino: Ino,
        /// Whether that is a directory.
        is_dir: bool,
    },
    /// Removes a name.
    Unlink {
        /// The directory.
        dir: Ino,
        /// The name.
        name: Name,
        /// Where it led.
        ino: Ino,
    },
    /// Moves a name, over another one if there is one.
    Rename {
        /// The old directory.
        from_dir: Ino,
        /// The old name.
        from: Name,
        /// The new directory.
        to_dir: Ino,
        /// The new name.
        to: Name,
        /// Where it leads.
        ino: Ino,
        /// Whether that is a directory.
        is_dir: bool,
    },
}

/// Where the operations on names are kept, beside those of each file.
const NAMES: Ino = Ino(0);

impl Op {
    fn stream(&self) -> Ino {
        match self {
            Op::Data { ino, .. } | Op::Size { ino, .. } | Op::Zero { ino, .. } => *ino,
            Op::Link { .. } | Op::Unlink { .. } | Op::Rename { .. } => NAMES,
        }
    }

    /// The names it touches.
    fn names(&self) -> impl Iterator<Item = (Ino, Name)> {
        let (first, second) = match self {
            Op::Link { dir, name, .. } | Op::Unlink { dir, name, .. } => (Some((*dir, name.clone())), None),
            Op::Rename { from_dir, from, to_dir, to, .. } => {
                (Some((*from_dir, from.clone())), Some((*to_dir, to.clone())))
            }
            _ => (None, None),
        };
        first.into_iter().chain(second)
    }

    /// True if it touches a name in `dir`.
    pub fn touches_dir(&self, dir: Ino) -> bool {
        match self {
            Op::Link { dir: d, .. } | Op::Unlink { dir: d, .. } => *d == dir,
            Op::Rename { from_dir, to_dir, .. } => *from_dir == dir || *to_dir == dir,
            Op::Data { .. } | Op::Size { .. } | Op::Zero { .. } => false,
        }
    }

    /// The inode that a name comes to lead to.
    pub fn target(&self) -> Option<Ino> {
        match self {
            Op::Link { ino, .. } | Op::Rename { ino, .. } => Some(*ino),
            _ => None,
        }
    }

    /// Does it to a tree. Returns the inode that lost a name to another or to none.
    pub fn apply(&self, tree: &mut Tree) -> Option<Ino> {
        match self {
            Op::Data { ino, sector, content } => tree.put_sector(*ino, *sector, content.clone()),
            Op::Size { ino, len_bytes } => tree.set_len(*ino, *len_bytes),
            Op::Zero { ino, sector, from_byte } => tree.zero_sector(*ino, *sector, *from_byte),
            Op::Link { dir, name, ino, is_dir } => return tree.set_entry(*dir, name, *ino, *is_dir),
            Op::Unlink { dir, name, .. } => return tree.remove_entry(*dir, name),
            Op::Rename { from_dir, from, to_dir, to, ino, is_dir } => {
                tree.remove_entry(*from_dir, from);
                return tree.set_entry(*to_dir, to, *ino, *is_dir);
            }
        }
        None
    }
}

/// What must be on the medium before an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// One operation of a file.
    Data(Ino, OpId),
    /// One operation on a name.
    Name(OpId),
    /// All operations of a file up to that number, not included.
    AllData(Ino, OpId),
}

/// An operation that has not left the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MicroOp {
    /// Its number.
    pub id: OpId,
    /// What it does.
    pub op: Op,
    /// What must be there before it. What is named here and no longer in the log has been folded, or lost for ever.
    pub before: Arc<[Before]>,
    /// Certain to survive.
    pub forced: bool,
    /// When it was issued, in microseconds of virtual time.
    pub issued_us: u64,
}

/// Where an operation is in the log: its file (or the names), and its number.
pub type OpKey = (Ino, OpId);

impl MicroOp {
    /// Where it is in the log.
    pub fn key(&self) -> OpKey {
        (self.op.stream(), self.id)
    }
}

/// The log of a disk.
#[derive(Clone, Debug, Default)]
pub struct Log {
    ops: OrdMap<OpKey, MicroOp>,
    next: u64,
    last_of_sector: OrdMap<(Ino, u64), OpId>,
    last_of_size: OrdMap<Ino, OpId>,
    /// Kept only where a rule needs it.
    last_of_file: OrdMap<Ino, OpId>,
    last_of_name: OrdMap<(Ino, Name), OpId>,
    last_name: Option<OpId>,
}

impl Log {
    /// How many operations it holds.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// True if everything has reached the medium.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The number of the next operation.
    pub fn next_id(&self) -> OpId {
        OpId(self.next)
    }

    /// Adds an operation. `extra` is what its caller knows must be there before it, besides what the rules say.
    pub fn issue(&mut self, rules: &Rules, op: Op, mut extra: Vec<Before>, now_us: u64) -> OpId {
        let id = OpId(self.next);
        self.next += 1;
        if rules.file_in_order && op.stream() != NAMES {
            extra.extend(self.last_of_file.insert(op.stream(), id).map(|b| Before::Data(op.stream(), b)));
        }
        match &op {
            Op::Data { ino, sector, .. } | Op::Zero { ino, sector, .. } => {
                extra.extend(self.last_of_sector.insert((*ino, *sector), id).map(|b| Before::Data(*ino, b)));
            }
            Op::Size { ino, .. } => {
                extra.extend(self.last_of_size.insert(*ino, id).map(|b| Before::Data(*ino, b)));
                if rules.names_before_size {
                    extra.extend(self.last_name.map(Before::Name));
                }
            }
            Op::Link { .. } | Op::Unlink { .. } | Op::Rename { .. } => {
                for name in op.names() {
                    extra.extend(self.last_of_name.insert(name, id).filter(|b| *b != id).map(Before::Name));
                }
                let previous = self.last_name.replace(id);
                if rules.names_in_order {
                    extra.extend(previous.map(Before::Name));
                }
            }
        }
        let key = (op.stream(), id);
        self.ops.insert(key, MicroOp { id, op, before: extra.into(), forced: false, issued_us: now_us });
        id
    }

    /// All operations, in the order of their issue.
    pub fn in_order(&self) -> Vec<MicroOp> {
        let mut ops: Vec<MicroOp> = self.ops.values().cloned().collect();
        ops.sort_by_key(|op| op.id);
        ops
    }

    /// The pending operations of a file that were issued before `until`.
    pub fn of_file(&self, ino: Ino, until: OpId) -> impl Iterator<Item = &MicroOp> {
        self.ops.range((ino, OpId(0))..(ino, until)).map(|(_, op)| op)
    }

    /// The pending operations on names that were issued before `until`.
    pub fn names(&self, until: OpId) -> impl Iterator<Item = &MicroOp> {
        self.of_file(NAMES, until)
    }

    /// A pending operation on names.
    pub fn get_name(&self, id: OpId) -> Option<&MicroOp> {
        self.ops.get(&(NAMES, id))
    }

    /// True if something of a sector is pending.
    pub fn is_pending(&self, ino: Ino, sector: u64) -> bool {
        self.last_of_sector.contains_key(&(ino, sector))
    }

    /// The numbers that one operation waits for, as far as they are in the log.
    pub fn befores(&self, op: &MicroOp) -> Vec<OpId> {
        self.before_keys(&op.before).into_iter().map(|(_, id)| id).collect()
    }

    fn before_keys(&self, before: &[Before]) -> Vec<OpKey> {
        let mut keys = Vec::new();
        for b in before {
            match b {
                Before::Data(ino, id) => keys.push((*ino, *id)),
                Before::Name(id) => keys.push((NAMES, *id)),
                Before::AllData(ino, until) => {
                    keys.extend(self.of_file(*ino, *until).map(|op| (*ino, op.id)))
                }
            }
        }
        keys.retain(|key| self.ops.contains_key(key));
        keys
    }

    /// Forces operations with all that must be there before them, and folds what can be folded into `medium`; `landing` is
    /// told of each just before. Returns the inodes that lost a name on the medium.
    pub fn force(
        &mut self,
        keys: impl IntoIterator<Item = OpKey>,
        medium: &mut Tree,
        mut landing: impl FnMut(&MicroOp, &Tree),
    ) -> Vec<Ino> {
        let mut todo: Vec<OpKey> = keys.into_iter().collect();
        let mut streams = BTreeSet::new();
        while let Some(key) = todo.pop() {
            match self.ops.get(&key) {
                Some(op) if !op.forced => {
                    todo.extend(self.before_keys(&op.before));
                    self.ops.get_mut(&key).expect("just seen").forced = true;
                    streams.insert(key.0);
                }
                _ => {}
            }
        }
        streams.into_iter().flat_map(|stream| self.fold(stream, medium, &mut landing)).collect()
    }

    /// Forced names commute with every name that is not forced, because those of one name are forced in their order. Of a
    /// file only the first operations up to one that is not forced: a length does not commute with sectors.
    fn fold(
        &mut self,
        stream: Ino,
        medium: &mut Tree,
        landing: &mut impl FnMut(&MicroOp, &Tree),
    ) -> Vec<Ino> {
        let range = (stream, OpId(0))..(stream, OpId(u64::MAX));
        let foldable: Vec<OpKey> = if stream == NAMES {
            self.ops.range(range).filter(|(_, op)| op.forced).map(|(key, _)| *key).collect()
        } else {
            self.ops.range(range).take_while(|(_, op)| op.forced).map(|(key, _)| *key).collect()
        };
        let mut displaced = Vec::new();
        for key in foldable {
            let op = self.remove(key).expect("just listed");
            landing(&op, medium);
            displaced.extend(op.op.apply(medium));
        }
        displaced
    }

    /// Takes an operation out, whether folded or lost.
    fn remove(&mut self, key: OpKey) -> Option<MicroOp> {
        let op = self.ops.remove(&key)?;
        if self.last_of_file.get(&key.0) == Some(&op.id) {
            self.last_of_file.remove(&key.0);
        }
        match &op.op {
            Op::Data { ino, sector, .. } | Op::Zero { ino, sector, .. } => {
                if self.last_of_sector.get(&(*ino, *sector)) == Some(&op.id) {
                    self.last_of_sector.remove(&(*ino, *sector));
                }
            }
            Op::Size { ino, .. } => {
                if self.last_of_size.get(ino) == Some(&op.id) {
                    self.last_of_size.remove(ino);
                }
            }
            Op::Link { .. } | Op::Unlink { .. } | Op::Rename { .. } => {
                for name in op.op.names() {
                    if self.last_of_name.get(&name) == Some(&op.id) {
                        self.last_of_name.remove(&name);
                    }
                }
                if self.last_name == Some(op.id) {
                    self.last_name = None;
                }
            }
        }
        Some(op)
    }

    /// Takes operations out for ever, with the edges that lead to them.
    pub fn lose(&mut self, lost: &[MicroOp]) {
        for op in lost {
            self.remove(op.key());
        }
    }

    /// Forgets everything pending; numbers go on growing.
    pub fn clear(&mut self) {
        *self = Log { next: self.next, ..Log::default() };
    }

    /// Forgets the operations of an inode that is gone from the medium for good.
    pub fn forget_file(&mut self, ino: Ino) {
        assert!(ino != NAMES);
        let keys: Vec<OpKey> =
            self.ops.range((ino, OpId(0))..(ino, OpId(u64::MAX))).map(|(key, _)| *key).collect();
        for key in keys {
            self.remove(key);
        }
    }

    /// True if a pending operation on a name leads to `ino`.
    pub fn will_name(&self, ino: Ino) -> bool {
        self.names(OpId(u64::MAX)).any(|op| op.op.target() == Some(ino))
    }
}
