//! The store with the keys of the writers spread over families.
//!
//! A key belongs to one family for good, chosen by its last digit, so that nearly every batch is over several. The oracles know
//! nothing of it: what a scan of the store returns is the union of the families. Each has memtables of another size, so that
//! they are not flushed in step, and what one has in tables is still in the logs for another.

use std::collections::BTreeSet;
use std::path::Path;

use cutwater_engine::store::{
    CheckpointFiles, Error, Family, FamilyOptions, Iter, Options, Snapshot, Store, TableWriter, WriteBatch,
    WriteOptions,
};

use super::content::DELIMITER;
use super::scratch;
use super::shadows::{self, is_shadow, shadow_of};
use crate::oracle::batches::{Changes, Content};
use cutwater_sim::world::World;

/// An open store.
pub(super) struct Db {
    pub(super) store: Store,
    /// Those of the writers' keys, the default one first.
    families: Vec<Family>,
    /// Keys have shadows. What is wrong with them is told to the world.
    shadows: Option<World>,
    /// Options of tables that it is to ingest.
    table_options: FamilyOptions,
}

impl Db {
    /// Opens the store in `dir` with `count` families of keys, and whatever others there are if there `may_be_others`.
    pub(super) async fn open(
        dir: impl AsRef<Path>,
        options: Options,
        count: usize,
        may_be_others: bool,
    ) -> Result<Db, Error> {
        let mut names: BTreeSet<String> = (1..count).map(name).collect();
        if may_be_others {
            let there = match Store::list_families(&dir).await {
                Err(Error::NotFound { .. }) => Vec::new(),
                listed => listed?,
            };
            names.extend(there.into_iter().filter(|name| scratch::is_one(name)));
        }
        let family_options = |(i, name)| {
            let write_buffer_bytes = options.family.write_buffer_bytes * (i as u64 + 2);
            (name, FamilyOptions { write_buffer_bytes, ..options.family.clone() })
        };
        let others: Vec<(&str, FamilyOptions)> =
            names.iter().map(String::as_str).enumerate().map(family_options).collect();
        let store = Store::open_families(dir, options.clone(), &others).await?;
        let named = (1..count).map(|i| store.family(&name(i)).expect("it was opened, or created"));
        let families = std::iter::once(store.default_family()).chain(named).collect();
        Ok(Db { store, families, shadows: None, table_options: options.family })
    }

    /// With a shadow for each key.
    pub(super) fn with_shadows(self, world: &World) -> Db {
        Db { shadows: Some(world.clone()), ..self }
    }

    fn of(&self, key: &[u8]) -> &Family {
        &self.families[self.place_of(key)]
    }

    pub(super) async fn write(&self, batch: WriteBatch, sync: bool) -> Result<u64, Error> {
        self.store.write(batch, WriteOptions { sync, disable_wal: false }).await
    }

    pub(super) async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.of(key).get(key).await
    }

    /// One iterator for each family.
    pub(super) fn iters(
        &self,
        range: impl std::ops::RangeBounds<Vec<u8>> + Clone,
        snapshot: Option<&Snapshot>,
    ) -> Vec<Iter> {
        self.families.iter().map(|family| family.iter(range.clone(), snapshot)).collect()
    }

    /// What is in the range, at a snapshot or now. Without a snapshot one family is read after the other.
    pub(super) async fn scan(
        &self,
        range: impl std::ops::RangeBounds<Vec<u8>> + Clone,
        snapshot: Option<&Snapshot>,
    ) -> Result<Content, Error> {
        let mut seen = Content::new();
        for mut iter in self.iters(range, snapshot) {
            while let Some((key, value)) = iter.next().await? {
                seen.insert(key, value);
            }
        }
        Ok(self.without_shadows(seen))
    }

    /// All shadows that a snapshot shows.
    pub(super) async fn shadows(&self, snapshot: &Snapshot) -> Result<Content, Error> {
        let mut shadows = Content::new();
        for mut iter in self.iters(.., Some(snapshot)).into_iter().filter(|_| self.shadows.is_some()) {
            while let Some((key, value)) = iter.next().await? {
                if is_shadow(&key).is_some() {
                    shadows.insert(key, value);
                }
            }
        }
        Ok(shadows)
    }

    /// What was read of keys that follow each other; judges their shadows.
    fn without_shadows(&self, seen: Content) -> Content {
        let Some(world) = &self.shadows else { return seen };
        let (shadows, content) = seen.into_iter().partition(|(key, _)| is_shadow(key).is_some());
        if let Err(violation) = shadows::judge(&content, &shadows) {
            world.object(violation);
        }
        content
    }

    /// What [`Db::scan`] returns of the present, read from the other end.
    pub(super) async fn scan_backwards(
        &self,
        range: impl std::ops::RangeBounds<Vec<u8>> + Clone,
    ) -> Result<Content, Error> {
        let mut seen = Content::new();
        for mut iter in self.iters(range, None) {
            let mut entry = iter.seek_to_last().await?;
            while let Some((key, value)) = entry {
                seen.insert(key, value);
                entry = iter.prev().await?;
            }
        }
        Ok(self.without_shadows(seen))
    }

    /// One of the families, if there are several: operations that may be of all or of one are of one in two cases.
    pub(super) fn one_of(&self, number: u32) -> Option<&Family> {
        let is_of_one = self.families.len() > 1 && number.is_multiple_of(2);
        is_of_one.then(|| &self.families[(number / 2) as usize % self.families.len()])
    }

    pub(super) async fn checkpoint(&self, dir: &Path) -> Result<CheckpointFiles, Error> {
        self.store.checkpoint(dir).await
    }

    /// Writes a table at `path` that deletes the keys in the range, and then makes these changes, and those of the shadows.
    pub(super) async fn write_table(
        &self,
        path: &Path,
        range: Option<(&[u8], &[u8])>,
        changes: &Changes,
    ) -> Result<(), Error> {
        let mut writer = TableWriter::create(path, &self.table_options).await?;
        if let Some((begin, end)) = range {
            writer.delete_range(begin, end)?;
        }
        for (key, value) in changes {
            let shadow = self.shadows.is_some().then(|| shadow_of(key));
            for key in [key].into_iter().chain(&shadow) {
                match value {
                    Some(value) => writer.put(key, value).await?,
                    None => writer.delete(key).await?,
                }
            }
        }
        writer.finish().await.map(drop)
    }

    /// Which of the families the key belongs to, by its place among them.
    pub(super) fn place_of(&self, key: &[u8]) -> usize {
        key.last().map_or(0, |digit| usize::from(*digit)) % self.families.len()
    }

    /// The families of keys.
    pub(super) fn families(&self) -> &[Family] {
        &self.families
    }

    /// How many tables there are, of all families of keys.
    pub(super) fn tables(&self) -> usize {
        self.families.iter().flat_map(Family::levels).map(|(files, _)| files).sum()
    }

    pub(super) async fn close(self) -> Result<(), Error> {
        let Db { store, families, .. } = self;
        drop(families);
        store.close().await
    }
}

/// A batch that is being put together, and what it makes of the keys.
pub(super) struct Draft<'d> {
    db: &'d Db,
    pub(super) batch: WriteBatch,
    pub(super) changes: Changes,
}

impl<'d> Draft<'d> {
    pub(super) fn new(db: &'d Db) -> Draft<'d> {
        Draft { db, batch: WriteBatch::new(), changes: Changes::new() }
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.batch.put_in(self.db.of(&key), &key, &value);
        self.put_shadow(&key, &value);
        self.changes.push((key, Some(value)));
    }

    pub(super) fn delete(&mut self, key: Vec<u8>) {
        self.batch.delete_in(self.db.of(&key), &key);
        if self.db.shadows.is_some() {
            self.batch.delete_in(self.db.of(&key), &shadow_of(&key));
        }
        self.changes.push((key, None));
    }

    fn put_shadow(&mut self, key: &[u8], value: &[u8]) {
        if self.db.shadows.is_some() {
            self.batch.put_in(self.db.of(key), &shadow_of(key), value);
        }
    }

    /// Deletes keys that follow each other, in every family: whoever has them. Their shadows, too.
    pub(super) fn delete_range(&mut self, keys: impl Iterator<Item = Vec<u8>>) {
        let keys: Vec<Vec<u8>> = keys.collect();
        let Some((first, last)) = keys.first().zip(keys.last()) else { return };
        let behind = [&shadow_of(last)[..], b"\0"].concat();
        self.db.families.iter().for_each(|family| self.batch.delete_range_in(family, first, &behind));
        self.changes.extend(keys.into_iter().map(|key| (key, None)));
    }

    /// Appends to what the key has after the changes so far: `before` them it had this.
    pub(super) fn append(&mut self, key: Vec<u8>, operand: &[u8], before: Option<&Vec<u8>>) {
        let changed = self.changes.iter().rev().find(|(changed, _)| *changed == key);
        let now = changed.map_or(before, |(_, value)| value.as_ref());
        let whole = now.map_or_else(|| operand.to_vec(), |now| [now, DELIMITER, operand].concat());
        self.batch.merge_in(self.db.of(&key), &key, operand);
        self.put_shadow(&key, &whole);
        self.changes.push((key, Some(whole)));
    }
}

fn name(number: usize) -> String {
    format!("keys{number}")
}
