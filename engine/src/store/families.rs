//! The families of an open store, and what of them is in memory only: for each the memtable that takes writes, and those that
//! are closed. Pure, but for the memtables themselves.
//!
//! Memtables are closed in groups, of one family or of several, and flushed group by group in that order: no family waits
//! behind another that is written more. A group becomes tables in one atomic step. So what is in tables is always, of each
//! family, what had been written to it when some group was closed, and of all families of a group it is the same moment.
//!
//! A family that is dropped takes no more writes and is flushed no more. As long as somebody has it open it is kept aside,
//! with its memtables and its version, for reads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock, Weak};

use tokio::sync::Notify;

use super::error::Error;
use super::key::InternalKey;
use super::memtable::Memtable;
use super::options::FamilyOptions;
use super::shared::WakeOnDrop;
use super::version::{DEFAULT_FAMILY, Version, VersionSet};

/// Which family. There is one of these for each family of an open store: who has it has the family open.
#[derive(Debug)]
pub(crate) struct FamilyKey {
    /// Never that of another family of the store, not even of one that was dropped.
    pub(crate) id: u32,
    pub(crate) name: Arc<str>,
    /// What a dropped family kept can go when nobody has it open any more.
    _wake: WakeOnDrop,
}

impl PartialEq for FamilyKey {
    fn eq(&self, other: &Self) -> bool {
        (self.id, &self.name) == (other.id, &other.name)
    }
}

impl Eq for FamilyKey {}

impl FamilyKey {
    /// `wake` is notified when nobody has the family open any more.
    pub(crate) fn new(id: u32, name: &str, wake: Arc<Notify>) -> Arc<FamilyKey> {
        Arc::new(FamilyKey { id, name: name.into(), _wake: WakeOnDrop(wake) })
    }

    /// The answer to who asks something of a family that was dropped.
    pub(crate) fn dropped(&self) -> Error {
        Error::FamilyDropped { name: self.name.to_string() }
    }
}

/// A family of an open store.
#[derive(Debug)]
pub(crate) struct OpenFamily {
    pub(crate) key: Arc<FamilyKey>,
    pub(crate) options: Arc<FamilyOptions>,
    /// Takes writes.
    pub(crate) mem: Arc<Memtable>,
    /// Closed, oldest first.
    pub(crate) immutable: VecDeque<Arc<Memtable>>,
    /// Where the compaction of each level goes on.
    pub(crate) cursors: Vec<Option<InternalKey>>,
}

impl OpenFamily {
    pub(crate) fn new(key: Arc<FamilyKey>, options: FamilyOptions) -> OpenFamily {
        OpenFamily {
            key,
            cursors: vec![None; options.num_levels],
            options: Arc::new(options),
            mem: Arc::default(),
            immutable: VecDeque::new(),
        }
    }

    /// All its memtables, newest first.
    pub(crate) fn memtables(&self) -> Vec<Arc<Memtable>> {
        [&self.mem].into_iter().chain(self.immutable.iter().rev()).cloned().collect()
    }

    /// True if its memtable is to be closed before it takes another write.
    pub(crate) fn is_full(&self) -> bool {
        self.mem.size_bytes() >= self.options.write_buffer_bytes
    }
}

/// One memtable of a group.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) key: Arc<FamilyKey>,
    pub(crate) options: Arc<FamilyOptions>,
    pub(crate) mem: Arc<Memtable>,
}

/// Memtables that were closed together, and are flushed together.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) parts: Vec<Part>,
    /// Once they are flushed, their families need no logs below this number.
    pub(crate) next_log_number: u64,
    /// The last write when they were closed.
    pub(crate) last_sequence: u64,
    /// What the store consists of since they are in tables. If all families are part of it, and nothing was closed later,
    /// this holds all writes up to `last_sequence`, and none after it.
    pub(crate) installed: OnceLock<Arc<VersionSet>>,
}

impl Closed {
    /// There is nothing to flush: this is in tables.
    pub(crate) fn nothing(set: Arc<VersionSet>) -> Arc<Closed> {
        let last_sequence = set.last_sequence();
        Arc::new(Closed { parts: Vec::new(), next_log_number: 0, last_sequence, installed: set.into() })
    }
}

/// A family that was dropped, for those that have it open.
#[derive(Debug)]
struct Dropped {
    key: Weak<FamilyKey>,
    /// Newest first.
    memtables: Vec<Arc<Memtable>>,
    version: Arc<Version>,
    options: Arc<FamilyOptions>,
}

/// Memtables, newest first, tables, and options of a family.
pub(crate) type Held<'a> = (Vec<Arc<Memtable>>, &'a Arc<Version>, &'a FamilyOptions);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Families {
    open: BTreeMap<u32, OpenFamily>,
    dropped: BTreeMap<u32, Dropped>,
    /// Oldest first.
    queue: VecDeque<Arc<Closed>>,
}

impl Families {
    pub(crate) fn add(&mut self, family: OpenFamily) {
        let before = self.open.insert(family.key.id, family);
        assert!(before.is_none(), "no two families have the same id");
    }

    /// Sets the family aside, with what it held.
    pub(crate) fn drop_family(&mut self, id: u32, version: Arc<Version>) {
        let family = self.open.remove(&id).expect("a family is dropped once");
        let (key, memtables) = (Arc::downgrade(&family.key), family.memtables());
        self.dropped.insert(id, Dropped { key, memtables, version, options: family.options });
    }

    /// Forgets dropped families that nobody has open.
    pub(crate) fn forget_dropped(&mut self) {
        self.dropped.retain(|_, dropped| dropped.key.strong_count() > 0);
    }

    pub(crate) fn default_family(&self) -> &OpenFamily {
        &self.open[&DEFAULT_FAMILY]
    }

    pub(crate) fn get(&self, id: u32) -> Option<&OpenFamily> {
        self.open.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut OpenFamily> {
        self.open.get_mut(&id)
    }

    /// All that are not dropped, by id.
    pub(crate) fn open(&self) -> impl Iterator<Item = &OpenFamily> {
        self.open.values()
    }

    /// What a family that was dropped held: its memtables, newest first, and its tables; and its options.
    pub(crate) fn dropped(&self, id: u32) -> Option<Held<'_>> {
        let dropped = self.dropped.get(&id)?;
        Some((dropped.memtables.clone(), &dropped.version, &dropped.options))
    }

    /// The family, if it takes writes.
    ///
    /// # Errors
    /// If it was dropped, or is of another store.
    pub(crate) fn writable(&self, key: &Arc<FamilyKey>) -> Result<&OpenFamily, Error> {
        let was_dropped = |dropped: &Dropped| std::ptr::eq(dropped.key.as_ptr(), Arc::as_ptr(key));
        match self.open.get(&key.id).filter(|family| Arc::ptr_eq(&family.key, key)) {
            Some(family) => Ok(family),
            None if self.dropped.get(&key.id).is_some_and(was_dropped) => Err(key.dropped()),
            None => Err(Error::InvalidRequest("a family of another store, or of one that was closed since")),
        }
    }

    /// Those whose memtable holds something: of all families, or of one.
    pub(crate) fn to_close(&self, which: Option<u32>) -> Vec<u32> {
        let is_wanted =
            |family: &&OpenFamily| !family.mem.is_empty() && which.is_none_or(|id| id == family.key.id);
        self.open().filter(is_wanted).map(|family| family.key.id).collect()
    }

    /// True if the memtable of another family is in the logs.
    pub(crate) fn is_logged_beside(&self, ids: &[u32]) -> bool {
        self.open().any(|family| !ids.contains(&family.key.id) && family.mem.first_log().is_some())
    }

    /// Closes the memtables of the families that are still there.
    pub(crate) fn close(&mut self, ids: &[u32], next_log_number: u64, last_sequence: u64) {
        let mut parts = Vec::new();
        for id in ids {
            let Some(family) = self.open.get_mut(id) else { continue };
            let mem = std::mem::take(&mut family.mem);
            family.immutable.push_back(mem.clone());
            let (key, options) = (family.key.clone(), family.options.clone());
            parts.push(Part { key, options, mem });
        }
        let installed = OnceLock::new();
        self.queue.push_back(Arc::new(Closed { parts, next_log_number, last_sequence, installed }));
    }

    /// What is to be flushed next.
    pub(crate) fn oldest_closed(&self) -> Option<&Arc<Closed>> {
        self.queue.front()
    }

    /// What is to be flushed last.
    pub(crate) fn newest_closed(&self) -> Option<&Arc<Closed>> {
        self.queue.back()
    }

    /// The oldest group is in tables: its memtables are not needed any more, but by those that have a dropped family open.
    pub(crate) fn flushed(&mut self, set: &Arc<VersionSet>) {
        let closed = self.queue.pop_front().expect("only the flush task takes groups");
        for part in &closed.parts {
            if let Some(family) = self.open.get_mut(&part.key.id) {
                let flushed = family.immutable.pop_front().expect("it was closed");
                assert!(Arc::ptr_eq(&flushed, &part.mem), "memtables are flushed in order");
            }
        }
        let _ = closed.installed.set(set.clone());
    }

    /// The first log that holds what will not be in tables, should `flushed` be (or, if that is nothing, as it is now). What is
    /// written from now on goes to `current_log` or a later one.
    pub(crate) fn first_log(&self, flushed: Option<&Closed>, current_log: u64) -> u64 {
        let is_flushed = |mem: &Arc<Memtable>| {
            flushed.is_some_and(|closed| closed.parts.iter().any(|part| Arc::ptr_eq(&part.mem, mem)))
        };
        let memtables = self.open().flat_map(|family| family.immutable.iter().chain([&family.mem]));
        let unflushed = memtables.filter(|mem| !is_flushed(mem));
        unflushed.filter_map(|mem| mem.first_log()).min().unwrap_or(current_log)
    }

    /// The family whose memtable keeps the oldest log, and that log.
    pub(crate) fn oldest_logged(&self) -> Option<(u32, u64)> {
        let logged = self.open().filter_map(|family| Some((family.mem.first_log()?, family.key.id)));
        logged.min().map(|(log, id)| (id, log))
    }

    /// True if something is in memory that is in no log.
    pub(crate) fn has_unlogged(&self) -> bool {
        self.open().any(|family| family.memtables().iter().any(|mem| mem.has_unlogged()))
    }
}

/// The family whose turn it is after that of `last`, of those that have something to do: each comes once in a round.
pub(crate) fn next_in_turn(ready: &[u32], last: u32) -> Option<u32> {
    ready.iter().copied().find(|id| *id > last).or(ready.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::key::{Tag, ValueKind};

    fn families(ids: &[u32]) -> Families {
        let mut families = Families::default();
        for id in ids {
            let key = FamilyKey::new(*id, "name", Arc::default());
            families.add(OpenFamily::new(key, FamilyOptions::default()));
        }
        families
    }

    fn write(families: &Families, id: u32, log: u64) {
        let mem = &families.get(id).unwrap().mem;
        mem.note_log(log);
        mem.insert("k".into(), Tag::new(1, ValueKind::Value), "v".into());
    }

    fn set() -> Arc<VersionSet> {
        Arc::new(VersionSet::new(2))
    }

    #[test]
    fn a_log_is_needed_until_the_last_memtable_that_it_holds_is_in_a_table() {
        let mut families = families(&[0, 1, 2]);
        assert_eq!(families.first_log(None, 5), 5);
        write(&families, 1, 5);
        write(&families, 2, 6);
        assert_eq!((families.to_close(None), families.to_close(Some(0))), (vec![1, 2], vec![]));
        assert!(families.is_logged_beside(&[2]) && !families.is_logged_beside(&[1, 2]));
        assert_eq!(families.oldest_logged(), Some((1, 5)));
        families.close(&[2], 7, 20);
        families.close(&[1], 8, 30);
        write(&families, 2, 8);
        let oldest = families.oldest_closed().unwrap().clone();
        assert_eq!((families.first_log(Some(&oldest), 8), oldest.last_sequence), (5, 20));
        families.flushed(&set());
        let oldest = families.oldest_closed().unwrap().clone();
        assert_eq!((families.first_log(None, 9), families.first_log(Some(&oldest), 9)), (5, 8));
        families.flushed(&set());
        assert!(families.oldest_closed().is_none() && oldest.installed.get().is_some());
    }

    #[test]
    fn what_was_dropped_needs_no_log_and_is_kept_for_readers_only() {
        let mut families = families(&[0, 1]);
        write(&families, 1, 5);
        families.close(&[1], 6, 20);
        write(&families, 1, 6);
        let key = families.get(1).unwrap().key.clone();
        families.drop_family(1, Arc::new(Version::empty(2)));
        assert_eq!(families.first_log(None, 7), 7);
        assert!(matches!(families.writable(&key), Err(Error::FamilyDropped { .. })));
        // Its memtables are in the queue, and in no table ever.
        families.flushed(&set());
        families.forget_dropped();
        assert_eq!(families.dropped(1).unwrap().0.len(), 2);
        let stranger = FamilyKey::new(0, "name", Arc::default());
        assert!(matches!(families.writable(&stranger), Err(Error::InvalidRequest(_))));
        drop(key);
        families.forget_dropped();
        assert!(families.dropped(1).is_none());
    }

    #[test]
    fn each_family_gets_its_turn() {
        let turns = (0..5).scan(2, |last, _| {
            *last = next_in_turn(&[0, 2, 7], *last)?;
            Some(*last)
        });
        assert_eq!(turns.collect::<Vec<_>>(), [7, 0, 2, 7, 0]);
        assert_eq!(next_in_turn(&[], 1), None);
    }
}
