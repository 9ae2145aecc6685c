//! The compaction task: merges tables of one level into the next, so that reads meet few tables and what was overwritten
//! or deleted goes away.

mod job;
mod picker;

use std::sync::Arc;
use std::time::Duration;

use cutwater_io::{buggify, time};

use super::error::Error;
use super::points;
use super::shared::Shared;
use picker::{Compaction, pick, whole_level};

/// How long a compaction that could run now waits if it is made to.
const LATER: Duration = Duration::from_millis(20);

/// Compacts until the store closes.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        shared.purge().await;
        let (manual, next, error) = {
            let mut state = shared.state();
            if state.is_closing {
                return;
            }
            let manual = std::mem::take(&mut state.manual_compactions);
            let next = pick(&state.version, &shared.site.options, &state.cursors);
            (manual, next, state.background.clone())
        };
        if !manual.is_empty() {
            let result = match error {
                Some(e) => Err(e),
                None => compact_all(&shared).await,
            };
            shared.purge().await;
            manual.into_iter().for_each(|done| {
                let _ = done.send(result.clone());
            });
        } else if let (Some(compaction), None) = (next, error) {
            if buggify!(points::COMPACT_LATER) {
                time::sleep(LATER).await;
                continue;
            }
            let _ = compact(&shared, compaction).await;
        } else {
            shared.compact_wake.notified().await;
        }
    }
}

async fn compact(shared: &Shared, compaction: Compaction) -> Result<(), Error> {
    let result = job::run(shared, compaction).await;
    result.map_err(|e| shared.fail("a compaction", e))
}

/// Moves everything to the deepest level in use, or to level 1.
async fn compact_all(shared: &Shared) -> Result<(), Error> {
    let deepest = {
        let state = shared.state();
        state.version.files().map(|(level, _)| level).max().unwrap_or(0).max(1)
    };
    for level in 0..deepest {
        let compaction = whole_level(&shared.state().version, level);
        if let Some(compaction) = compaction {
            compact(shared, compaction).await?;
        }
    }
    Ok(())
}
