//! The compaction task: merges tables, so that reads meet few of them and what was overwritten or deleted goes away. Which ones
//! says the style of the family: [`leveled`] or [`universal`].

mod job;
mod leveled;
mod parts;
mod picked;
mod universal;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cutwater_io::{buggify, sometimes, time};

use super::background::is_missing_space;
use super::error::Error;
use super::families::{OpenFamily, next_in_turn};
use super::options::CompactionStyle;
use super::points;
use super::resume::RETRY_EVERY;
use super::shared::{ManualCompaction, Shared, State};
use super::version::DEFAULT_FAMILY;
use leveled::{anew, pick_for_blobs, whole_level};
pub(crate) use parts::Part;
use picked::Compaction;

/// How long a compaction that could run now waits if it is made to.
const LATER: Duration = Duration::from_millis(20);

/// Compacts until the store closes. The families with something to do come in turn, each with one compaction.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut last = DEFAULT_FAMILY;
    loop {
        shared.purge().await;
        let picking = shared.placing.read().await;
        let (manual, next, error) = {
            let mut state = shared.state();
            if state.is_closing {
                return;
            }
            let manual = std::mem::take(&mut state.manual_compactions);
            let mut due: BTreeMap<u32, Compaction> =
                state.families.open().filter_map(|f| due(&state, f)).collect();
            let ids: Vec<u32> = due.keys().copied().collect();
            let next = next_in_turn(&ids, last).and_then(|id| due.remove_entry(&id));
            (manual, next, state.background.as_ref().map(|background| background.error().clone()))
        };
        if !manual.is_empty() {
            drop(picking);
            for ManualCompaction { family, done } in manual {
                let result = match &error {
                    Some(e) => Err(e.clone()),
                    None => compact_all(&shared, family).await,
                };
                shared.purge().await;
                let _ = done.send(result);
            }
        } else if let (Some((id, compaction)), None) = (next, error) {
            if buggify!(points::COMPACT_LATER) {
                drop(picking);
                time::sleep(LATER).await;
                continue;
            }
            last = id;
            let compacted = compact(&shared, id, compaction).await;
            drop(picking);
            if let Err(error) = compacted
                && is_missing_space(&error, shared.site.dir.path())
            {
                sometimes!(points::COMPACTION_WAITS, true);
                tracing::warn!(%error, "a compaction finds no space, and is tried again later");
                let closes = |state: &mut State| state.is_closing.then_some(());
                let _ = time::timeout(RETRY_EVERY, shared.wait_until(closes)).await;
            }
        } else {
            drop(picking);
            shared.compact_wake.notified().await;
        }
    }
}

/// What is due in a family, if anything.
fn due(state: &State, family: &OpenFamily) -> Option<(u32, Compaction)> {
    let id = family.key.id;
    let version = &state.set.family(id)?.version;
    let options = &family.options;
    let picked = match &options.compaction_style {
        CompactionStyle::Leveled => leveled::pick(version, options, &family.cursors),
        CompactionStyle::Universal(universal) => universal::pick(version, options, universal),
    };
    Some((id, picked.or_else(|| pick_for_blobs(version, options))?))
}

/// One that finds no space for its tables changes nothing, and stops nobody, unless writes wait for compactions.
async fn compact(shared: &Arc<Shared>, family: u32, compaction: Compaction) -> Result<(), Error> {
    let result = job::run(shared, family, compaction).await;
    let can_wait =
        |e: &Error| is_missing_space(e, shared.site.dir.path()) && !has_full_level0(&shared.state());
    result.map_err(|e| if can_wait(&e) { e } else { shared.fail("a compaction", e) })
}

/// True if no memtable of some family can be closed before a compaction.
fn has_full_level0(state: &State) -> bool {
    let is_full = |family: &OpenFamily| {
        let tables = state.set.family(family.key.id).map_or(0, |family| family.version.levels[0].len());
        tables >= family.options.level0_stop_writes_trigger
    };
    state.families.open().any(is_full)
}

/// Moves everything of a family, or of all, to the deepest level in use, or to level 1; in the universal style, to the deepest there is.
async fn compact_all(shared: &Arc<Shared>, family: Option<u32>) -> Result<(), Error> {
    let ids: Vec<u32> = {
        let state = shared.state();
        state.families.open().map(|f| f.key.id).filter(|id| family.is_none_or(|only| only == *id)).collect()
    };
    for id in ids {
        compact_family(shared, id).await?;
    }
    Ok(())
}

/// There is nothing to do in one that was dropped.
async fn compact_family(shared: &Arc<Shared>, id: u32) -> Result<(), Error> {
    let version = || shared.state().set.family(id).map(|family| family.version.clone());
    let is_universal = shared.state().families.get(id).is_some_and(|family| family.options.is_universal());
    let deepest = || version().and_then(|v| v.files().map(|(level, _)| level).max()).unwrap_or(0).max(1);
    if is_universal {
        let _picking = shared.placing.read().await;
        if let Some(compaction) = version().and_then(|version| universal::pick_all(&version)) {
            compact(shared, id, compaction).await?;
        }
    } else {
        for level in 0..deepest() {
            let _picking = shared.placing.read().await;
            let compaction = version().and_then(|version| whole_level(&version, level));
            if let Some(compaction) = compaction {
                compact(shared, id, compaction).await?;
            }
        }
    }
    let _picking = shared.placing.read().await;
    // What has only moved, or was there before, was not asked of the filter. (RocksDB's `kIfHaveCompactionFilter`.)
    if job::has_filter(shared, id)
        && let Some(compaction) = version().and_then(|version| anew(&version, deepest()))
    {
        compact(shared, id, compaction).await?;
    }
    Ok(())
}
