//! Runs one compaction: write the outputs, make them durable with their names, then install the edit. The inputs are
//! removed later, when nobody reads them.

use std::sync::Arc;

use cutwater_io::{point, sometimes};

use super::picker::Compaction;
use crate::store::blob::Sources;
use crate::store::build::{Build, Built, Target};
use crate::store::error::Error;
use crate::store::families::FamilyKey;
use crate::store::merge::{Merge, Source};
use crate::store::points;
use crate::store::retention::Retention;
use crate::store::shared::{Change, Shared, State};
use crate::store::table::Caching;
use crate::store::tombstones::Tombstones;
use crate::store::version::{FileMeta, VersionEdit};

#[tracing::instrument(name = "compaction", level = "debug", skip_all)]
pub(super) async fn run(shared: &Shared, family: u32, compaction: Compaction) -> Result<(), Error> {
    // Should the family be dropped meanwhile, this keeps the inputs from being removed.
    let pinned = shared.state().set.family(family).map(|family| family.version.clone());
    if pinned.is_none() {
        return Ok(());
    }
    let (level, cursor) = (compaction.level, compaction.cursor());
    let output_level = compaction.output_level as u32;
    let mut deleted_files: Vec<(u32, u64)> = Vec::new();
    deleted_files.extend(compaction.upper.iter().map(|f| (level as u32, f.number)));
    deleted_files.extend(compaction.lower.iter().map(|f| (output_level, f.number)));
    let outputs = if compaction.is_trivial_move() {
        sometimes!(points::TRIVIAL_MOVE, true);
        Built { tables: vec![FileMeta::clone(&compaction.upper[0])], ..Built::default() }
    } else {
        sometimes!(points::COMPACTED, true);
        let mut build = Build::new(&shared.site, || shared.allocate_number());
        let counters = &shared.files.counters;
        counters.compactions.add(1);
        counters.compaction_read_bytes.add(compaction.input_bytes());
        match write_outputs(shared, family, compaction, &mut build).await {
            Ok(outputs) => {
                counters.compaction_written_bytes.add(outputs.len_bytes());
                outputs
            }
            Err(e) => {
                build.abandon().await;
                return Err(e);
            }
        }
    };
    let edit = VersionEdit { column_family: family, deleted_files, ..outputs.into_edit(output_level) };
    let go_on_from = |state: &mut State| {
        if let Some(family) = state.families.get_mut(family).filter(|_| output_level as usize != level) {
            family.cursors[level] = cursor;
        }
    };
    shared.install("a compaction", Change::of(edit), go_on_from).await?;
    point!(points::COMPACTION_INSTALLED);
    Ok(())
}

/// Which blob files there are, and which of them are to be emptied. The inputs need no others: what is added later is not theirs.
fn sources_of(shared: &Shared, family: &FamilyKey, gc_age_percent: u8) -> Option<Sources> {
    let files = shared.state().set.family(family.id)?.version.blobs.clone();
    let old = files.iter().len() * usize::from(gc_age_percent) / 100;
    let relocate_below = files.iter().nth(old).map_or(u64::MAX, |first_kept| first_kept.added.number);
    Some(Sources { cache: shared.files.blobs.clone(), files, relocate_below })
}

/// The range tombstones of the inputs.
async fn tombstones_of(
    shared: &Shared,
    inputs: impl Iterator<Item = &Arc<FileMeta>>,
) -> Result<Tombstones, Error> {
    let mut tombstones = Tombstones::default();
    for file in inputs.filter(|file| file.range_tombstones != Some(0)) {
        tombstones.extend(shared.files.tables.open(file).await?.tombstones());
    }
    Ok(tombstones)
}

async fn write_outputs<F: FnMut() -> u64>(
    shared: &Shared,
    family: u32,
    compaction: Compaction,
    build: &mut Build<'_, F>,
) -> Result<Built, Error> {
    let Compaction { level, upper, lower, output_level, deeper } = compaction;
    let tombstones = tombstones_of(shared, upper.iter().chain(&lower)).await?;
    let mut sources = match level {
        0 => upper.into_iter().map(|f| Source::chain(&shared.files.tables, vec![f], Caching::Pass)).collect(),
        _ => vec![Source::chain(&shared.files.tables, upper, Caching::Pass)],
    };
    sources.push(Source::chain(&shared.files.tables, lower, Caching::Pass));
    // Under the lock: whoever takes a snapshot later reads at a sequence number not below any in the inputs.
    let (snapshots, family) = {
        let state = shared.state();
        let family = state.families.get(family).map(|family| (family.key.clone(), family.options.clone()));
        (shared.snapshots.sequences(), family)
    };
    // It was dropped.
    let Some((key, options)) = family else { return Ok(Built::default()) };
    let merge = Merge::new(sources, None).await?;
    let split_bytes = options.target_file_bytes;
    let target = Target {
        family: key.id,
        family_name: &key.name,
        options: &options,
        level: output_level,
        split_bytes,
        sources: sources_of(shared, &key, options.blob_gc_age_percent),
    };
    let outputs =
        build.run(&target, merge, &mut Retention::new(snapshots, Some(deeper)).under(tombstones)).await?;
    point!(points::COMPACTION_OUTPUTS_SYNCED);
    if !outputs.is_empty() {
        shared.site.dir.sync().await?;
    }
    Ok(outputs)
}
