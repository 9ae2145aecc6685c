//! Runs one compaction: write the outputs, make them durable with their names, then install the edit. The inputs are
//! removed later, when nobody reads them.

use cutwater_io::{point, sometimes};

use super::picker::Compaction;
use crate::store::blob::Sources;
use crate::store::build::{Build, Built};
use crate::store::error::Error;
use crate::store::merge::{Merge, Source};
use crate::store::points;
use crate::store::retention::Retention;
use crate::store::shared::{Shared, State};
use crate::store::table::Caching;
use crate::store::version::{FileMeta, VersionEdit};

#[tracing::instrument(name = "compaction", level = "debug", skip_all)]
pub(super) async fn run(shared: &Shared, compaction: Compaction) -> Result<(), Error> {
    let (level, cursor) = (compaction.level, compaction.cursor());
    let output_level = level as u32 + 1;
    let mut deleted_files: Vec<(u32, u64)> = Vec::new();
    deleted_files.extend(compaction.upper.iter().map(|f| (level as u32, f.number)));
    deleted_files.extend(compaction.lower.iter().map(|f| (output_level, f.number)));
    let outputs = if compaction.is_trivial_move() {
        sometimes!(points::TRIVIAL_MOVE, true);
        Built { tables: vec![FileMeta::clone(&compaction.upper[0])], ..Built::default() }
    } else {
        sometimes!(points::COMPACTED, true);
        let mut build =
            Build::new(&shared.site, || shared.allocate_number(), shared.site.options.target_file_bytes)
                .of_level(level + 1)
                .with_sources(sources(shared));
        match write_outputs(shared, compaction, &mut build).await {
            Ok(outputs) => outputs,
            Err(e) => {
                build.abandon().await;
                return Err(e);
            }
        }
    };
    let edit = VersionEdit { deleted_files, ..outputs.into_edit(output_level) };
    shared.install("a compaction", edit, |state: &mut State| state.cursors[level] = cursor).await?;
    point!(points::COMPACTION_INSTALLED);
    Ok(())
}

/// Which blob files there are, and which of them are to be emptied. The inputs need no others: what is added later is not theirs.
fn sources(shared: &Shared) -> Sources {
    let files = shared.state().version.blobs.clone();
    let old = files.iter().len() * usize::from(shared.site.options.blob_gc_age_percent) / 100;
    let relocate_below = files.iter().nth(old).map_or(u64::MAX, |first_kept| first_kept.added.number);
    Sources { cache: shared.blobs.clone(), files, relocate_below }
}

async fn write_outputs<F: FnMut() -> u64>(
    shared: &Shared,
    compaction: Compaction,
    build: &mut Build<'_, F>,
) -> Result<Built, Error> {
    let Compaction { level, upper, lower, deeper } = compaction;
    let mut sources = match level {
        0 => upper.into_iter().map(|f| Source::chain(&shared.tables, vec![f], Caching::Pass)).collect(),
        _ => vec![Source::chain(&shared.tables, upper, Caching::Pass)],
    };
    sources.push(Source::chain(&shared.tables, lower, Caching::Pass));
    // Under the lock: whoever takes a snapshot later reads at a sequence number not below any in the inputs.
    let snapshots = {
        let _state = shared.state();
        shared.snapshots.sequences()
    };
    let merge = Merge::new(sources, None).await?;
    let outputs = build.run(merge, &mut Retention::new(snapshots, Some(deeper))).await?;
    point!(points::COMPACTION_OUTPUTS_SYNCED);
    if !outputs.is_empty() {
        shared.site.dir.sync().await?;
    }
    Ok(outputs)
}
