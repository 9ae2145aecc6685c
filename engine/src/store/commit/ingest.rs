//! What the commit task does for an ingestion; see `crate::store::ingest`. It serves nothing else meanwhile, so that there is one order of
//! writes and ingestions.

use std::collections::{BTreeMap, BTreeSet};

use cutwater_io::{point, sometimes};

use super::Commit;
use crate::store::error::Error;
use crate::store::ingest::place::{as_of, level_for};
use crate::store::ingest::{Failed, Staged};
use crate::store::install::Change;
use crate::store::key::MAX_SEQUENCE;
use crate::store::points::of_ingestion as points;
use crate::store::shared::State;
use crate::store::version::VersionEdit;

impl Commit {
    /// Makes the tables part of the store, durably, and returns the sequence number of the last one.
    pub(super) async fn ingest(&mut self, tables: Vec<Staged>) -> Result<u64, Failed> {
        self.settle_for(&tables).await?;
        // No compaction is under way, nor begins, that writes to the places which are chosen now. If one is, there is level 0.
        let placing = self.shared.placing.try_write();
        let (edits, last_sequence) = {
            let state = self.shared.state();
            tables.iter().try_for_each(|(key, _)| state.families.writable(key).map(drop))?;
            edits(&state, tables, placing.is_ok())?
        };
        let change = Change { edits, flushes: None, num_levels: 0 };
        let publish = move |state: &mut State| state.last_sequence = last_sequence;
        let installed = self.shared.install("an ingestion", change, publish).await;
        installed.map_err(|error| Failed { error, may_be_there: true })?;
        self.wals.skip_to(last_sequence + 1);
        point!(points::INSTALLED);
        Ok(last_sequence)
    }

    /// Has all that is older than the tables where it belongs. What their families have in memory goes to tables, whether it overlaps
    /// them or not: what a memtable took before and after would lie in one table, and the sequence numbers of level 0 would not tell any more
    /// which of its tables is newer once two of them are merged (RocksDB #5958, #10922). All else is in durable logs, or a loss of power
    /// could take what was written before. That the logs are durable is written down durably, too: once the tables are there, nothing may be
    /// missing that came before, and damage must not look like a torn tail.
    async fn settle_for(&mut self, tables: &[Staged]) -> Result<(), Error> {
        self.shared.check_writable()?;
        let in_memory = {
            let state = self.shared.state();
            let has_some = |id: &u32| state.families.get(*id).is_some_and(|family| !family.mem.is_empty());
            tables.iter().map(|(key, _)| key.id).filter(has_some).collect::<BTreeSet<u32>>()
        };
        sometimes!(points::FLUSHED_FIRST, !in_memory.is_empty());
        for family in in_memory {
            self.rotate(Some(family)).await?;
        }
        // Whoever waits for what was closed before gets exactly that, so no table may come in between.
        let is_flushed = |state: &mut State| {
            let has_stopped = state.background.is_some() || state.is_closing;
            (has_stopped || state.families.oldest_closed().is_none()).then_some(())
        };
        self.shared.wait_until(is_flushed).await;
        self.shared.check_writable()?;
        self.sync().await?;
        let settled = self.wals.settle().await;
        settled.map_err(|e| self.shared.fail("a sync of the log", e))
    }
}

/// What adds the tables, each as of a sequence number of its own, and the last of these.
fn edits(state: &State, tables: Vec<Staged>, may_go_deep: bool) -> Result<(Vec<VersionEdit>, u64), Error> {
    let mut last_sequence = state.last_sequence;
    if last_sequence + tables.len() as u64 > MAX_SEQUENCE {
        return Err(Error::InvalidRequest("the sequence numbers are used up"));
    }
    let mut edits: BTreeMap<u32, VersionEdit> = BTreeMap::new();
    for (key, file) in tables {
        last_sequence += 1;
        let family = state.set.family(key.id).ok_or_else(|| key.dropped())?;
        let deepest = level_for(&family.version, &file);
        sometimes!(points::LEVEL_BUSY, deepest > 0 && !may_go_deep);
        let level = if may_go_deep { deepest } else { 0 };
        sometimes!(points::PLACED_DEEP, level > 0);
        let edit = edits
            .entry(key.id)
            .or_insert_with(|| VersionEdit { column_family: key.id, ..VersionEdit::default() });
        edit.new_files.push((level as u32, as_of(file, last_sequence)));
    }
    sometimes!(points::SEVERAL_FAMILIES, edits.len() > 1);
    Ok((edits.into_values().collect(), last_sequence))
}
