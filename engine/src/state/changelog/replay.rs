//! The log of a snapshot, read and applied to a store that holds its base.
//!
//! Changes are complete values, so that applying one twice changes nothing, and only those of the store's own key groups are
//! applied: at another parallelism several tasks read one log, and one task several.

use std::time::Duration;

use cutwater_io::{point, sometimes, time};

use super::frame::{self, Malformed};
use crate::checkpoint::changelog::LogSegment;
use crate::checkpoint::snapshot::{KeyGroupRange, KeyedSnapshot};
use crate::state::blob::Blobs;
use crate::state::{Error, KeyedState, key_groups, points};
use crate::store::WriteBatch;

/// Changes that are written at once.
const BATCH_CHANGES: usize = 256;

/// Applies what the log of `snapshot` says of the key groups of `into`.
///
/// # Errors
/// If a segment is missing or not what was written, or the store fails. What was applied before that stays.
pub(in crate::state) async fn replay(
    blobs: &Blobs,
    snapshot: &KeyedSnapshot,
    into: &KeyedState,
) -> Result<(), Error> {
    let Some(changelog) = &snapshot.changelog else { return Ok(()) };
    let Some(both) = key_groups::intersect(snapshot.range, into.range()) else { return Ok(()) };
    for segment in &changelog.segments {
        let content = blobs.read_segment(&segment.handle, &segment.part).await?;
        let malformed = |source| Error::LogSegment {
            path: segment.handle.path.clone(),
            offset_bytes: segment.part.offset_bytes,
            source,
        };
        apply(segment, &content, snapshot.range, both, into, malformed).await?;
        point!(points::RESTORE_REPLAYING);
    }
    sometimes!(points::REPLAYED, !changelog.segments.is_empty());
    sometimes!(points::REPLAYED_RESCALED, !changelog.segments.is_empty() && snapshot.range != into.range());
    Ok(())
}

async fn apply(
    segment: &LogSegment,
    content: &[u8],
    written: KeyGroupRange,
    wanted: KeyGroupRange,
    into: &KeyedState,
    malformed: impl Fn(Malformed) -> Error,
) -> Result<(), Error> {
    let (mut batch, mut count) = (WriteBatch::new(), 0);
    for change in frame::open(content, (segment.from, segment.to)).map_err(&malformed)? {
        let frame::Change { offset, key, value } = change.map_err(&malformed)?;
        let wrong = |what| malformed(Malformed::Key { offset, what });
        let group = key_groups::group_of_store_key(key).ok_or_else(|| wrong("no key group"))?;
        if !(written.first..=written.last).contains(&group) {
            return Err(wrong("a foreign key group"));
        }
        if !(wanted.first..=wanted.last).contains(&group) {
            continue;
        }
        match value {
            Some(value) => batch.put(key, value),
            None => batch.delete(key),
        }
        count += 1;
        if count % BATCH_CHANGES == 0 {
            into.adopt(std::mem::take(&mut batch)).await?;
            time::charge(Duration::from_millis(1)).await;
        }
    }
    if count % BATCH_CHANGES != 0 {
        into.adopt(batch).await?;
    }
    Ok(())
}
