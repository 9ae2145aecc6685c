//! The compaction task: merges tables of one level into the next, so that reads meet few tables and what was overwritten
//! or deleted goes away.

mod job;
mod picker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cutwater_io::{buggify, time};

use super::error::Error;
use super::families::{OpenFamily, next_in_turn};
use super::points;
use super::shared::{ManualCompaction, Shared, State};
use super::version::DEFAULT_FAMILY;
use picker::{Compaction, pick, whole_level};

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
            (manual, next, state.background.clone())
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
            let _ = compact(&shared, id, compaction).await;
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
    Some((id, pick(version, &family.options, &family.cursors)?))
}

async fn compact(shared: &Shared, family: u32, compaction: Compaction) -> Result<(), Error> {
    let result = job::run(shared, family, compaction).await;
    result.map_err(|e| shared.fail("a compaction", e))
}

/// Moves everything of a family, or of all, to the deepest level in use, or to level 1.
async fn compact_all(shared: &Shared, family: Option<u32>) -> Result<(), Error> {
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
async fn compact_family(shared: &Shared, id: u32) -> Result<(), Error> {
    let version = || shared.state().set.family(id).map(|family| family.version.clone());
    let deepest = version().and_then(|v| v.files().map(|(level, _)| level).max()).unwrap_or(0).max(1);
    for level in 0..deepest {
        let _picking = shared.placing.read().await;
        let compaction = version().and_then(|version| whole_level(&version, level));
        if let Some(compaction) = compaction {
            compact(shared, id, compaction).await?;
        }
    }
    Ok(())
}
