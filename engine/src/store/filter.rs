//! Compaction filters: what a user wants gone, or changed, goes or changes when a compaction meets it.
//!
//! A filter is asked of values that are as the present sees them: the newest entry of its key among the inputs, a plain value,
//! in a table or in a blob file. It is not asked of what a snapshot may see. RocksDB has ignored snapshots since 6.0; here a snapshot
//! shows the same as long as it is held, also one that is taken while the filter is at work: that one goes on reading the tables
//! from before (see [`Shared::begin_filtering`]).
//!
//! A value that is removed leaves a tombstone, unless nothing older of its key lies deeper: an older value never comes back.
//!
//! *Not asked*: of operands and of values that operands of the same compaction lie on (the result is a plain value, and asked
//! of the next time), of tombstones, of tables that only move a level down, of what recovery and repair write.

use std::fmt::Debug;
use std::sync::Arc;

use cutwater_io::sometimes;

use super::blob::{Held, Placement};
use super::error::Error;
use super::iter::Entry;
use super::key::ValueKind;
use super::options::FamilyOptions;
use super::points::of_filters as points;
use super::shared::{Shared, lock};

/// What becomes of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It stays.
    Keep,
    /// The key is deleted.
    Remove,
    /// The key has this value from now on.
    Change(Vec<u8>),
}

/// Decides what becomes of values that compactions meet. (RocksDB's `CompactionFilter`.)
///
/// When a value is met, and how often, is decided by compactions; a read shows it as it was until then. So a filter should decide
/// the same for the same key and value, or, as time goes by, once and for all. What was removed counts as deleted by `delete`: keys that
/// are removed by `single_delete` are not to be filtered.
pub trait CompactionFilter: Debug + Send + Sync {
    /// Its name. Two filters with the same name are the same.
    fn name(&self) -> &str;

    /// What becomes of `value`. `level` is the uppermost of the levels that are merged; 0 in a flush.
    fn decide(&self, level: usize, key: &[u8], value: &[u8]) -> Decision;

    /// Of a value that lies in a blob file: what becomes of it, if the key says that. `None` has the value read, and
    /// [`CompactionFilter::decide`] asked.
    fn decide_by_key(&self, level: usize, key: &[u8]) -> Option<Decision> {
        let _ = (level, key);
        None
    }

    /// True if it is to be asked when memtables are flushed, too. (RocksDB's `ShouldFilterTableFileCreation`.)
    fn filters_flushes(&self) -> bool {
        false
    }
}

/// The filter of a family. Two are the same if they have the same name.
#[derive(Clone, Debug)]
pub struct FilterWith(Arc<dyn CompactionFilter>);

impl FilterWith {
    /// This one.
    pub fn new(filter: impl CompactionFilter + 'static) -> FilterWith {
        FilterWith(Arc::new(filter))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0.name()
    }
}

impl PartialEq for FilterWith {
    fn eq(&self, other: &FilterWith) -> bool {
        self.name() == other.name()
    }
}

impl Eq for FilterWith {}

/// A filter at work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filtering<'a> {
    pub(crate) with: &'a FilterWith,
    /// The uppermost level of what is merged.
    pub(crate) level: usize,
}

impl Filtering<'_> {
    /// True if it can be asked of the entry.
    pub(crate) fn is_about(entry: &Entry<'_>) -> bool {
        matches!(entry.tag.kind(), Some(ValueKind::Value | ValueKind::BlobIndex))
    }

    /// What becomes of an entry that it is about.
    ///
    /// # Errors
    /// I/O or damage, where the value lies in a blob file.
    pub(crate) async fn decide(&self, entry: &Entry<'_>, values: &Placement<'_>) -> Result<Decision, Error> {
        let Filtering { with: FilterWith(filter), level } = *self;
        if entry.tag.kind() == Some(ValueKind::BlobIndex)
            && let Some(decision) = filter.decide_by_key(level, entry.user_key)
        {
            return Ok(decision);
        }
        Ok(match values.read(entry).await? {
            Held::Value(value) => filter.decide(level, entry.user_key, &value),
            Held::Nothing | Held::Unknown => Decision::Keep,
        })
    }
}

/// As long as there is one, snapshots keep what the family has when they are taken.
#[derive(Debug)]
pub(crate) struct BegunFiltering<'a> {
    shared: &'a Shared,
    family: u32,
}

impl Shared {
    /// The filter of the family is at work, from before it is known which snapshots there are until after its results are
    /// installed: a snapshot that comes meanwhile is not among those that were spared, so it must not see the results.
    pub(crate) fn begin_filtering(&self, family: u32) -> BegunFiltering<'_> {
        self.state().filtering.push(family);
        BegunFiltering { shared: self, family }
    }
}

impl Drop for BegunFiltering<'_> {
    fn drop(&mut self) {
        let filtering = &mut lock(&self.shared.state).filtering;
        let at = filtering.iter().position(|family| *family == self.family);
        filtering.swap_remove(at.expect("it is there until this"));
    }
}

impl FamilyOptions {
    /// The filter, if flushes are to ask it.
    pub(crate) fn flush_filter(&self) -> Option<Filtering<'_>> {
        let with = self.compaction_filter.as_ref().filter(|with| with.0.filters_flushes())?;
        Some(Filtering { with, level: 0 })
    }
}

/// Marks what a decision came to.
pub(crate) fn mark(decision: &Decision, leaves_tombstone: bool) {
    let is_removed = *decision == Decision::Remove;
    sometimes!(points::REMOVED, is_removed && !leaves_tombstone);
    sometimes!(points::TOMBSTONE_LEFT, is_removed && leaves_tombstone);
    sometimes!(points::CHANGED, matches!(decision, Decision::Change(_)));
}
