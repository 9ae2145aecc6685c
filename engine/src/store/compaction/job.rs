//! Runs one compaction: write the outputs, make them durable with their names, then install the edit. The inputs are
//! removed later, when nobody reads them.
//!
//! A large one is built in parts, each by a task of its own, on threads of their own if the runtime has several. Together they are
//! one change: all are durable, with their names, before the edit names any.

use std::sync::Arc;

use bytes::Bytes;
use cutwater_io::{point, sometimes, task};

use super::parts::{Part, parts};
use super::picked::Compaction;
use crate::store::blob::Sources;
use crate::store::build::{Build, Built, Target};
use crate::store::error::Error;
use crate::store::families::FamilyKey;
use crate::store::filenames::FileKind;
use crate::store::filter::Filtering;
use crate::store::install::Change;
use crate::store::key::Tag;
use crate::store::merge::{Merge, Source};
use crate::store::options::FamilyOptions;
use crate::store::points;
use crate::store::rate::{Pace, Priority};
use crate::store::retention::Retention;
use crate::store::shared::{Shared, State};
use crate::store::table::Caching;
use crate::store::tombstones::Tombstones;
use crate::store::version::{FileMeta, VersionEdit};

#[tracing::instrument(name = "compaction", level = "debug", skip_all)]
pub(super) async fn run(shared: &Arc<Shared>, family: u32, compaction: Compaction) -> Result<(), Error> {
    // Should the family be dropped meanwhile, this keeps the inputs from being removed.
    let pinned = shared.state().set.family(family).map(|family| family.version.clone());
    if pinned.is_none() {
        return Ok(());
    }
    let _filtering = has_filter(shared, family).then(|| shared.begin_filtering(family));
    let (level, cursor) = (compaction.level(), compaction.cursor());
    let output_level = compaction.output_level as u32;
    let deleted_files = compaction.files().map(|(level, file)| (level as u32, file.number)).collect();
    let outputs = if compaction.is_trivial_move() {
        sometimes!(points::TRIVIAL_MOVE, true);
        let tables = compaction.files().map(|(_, file)| FileMeta::clone(file)).collect();
        Built { tables, ..Built::default() }
    } else {
        sometimes!(points::COMPACTED, true);
        let counters = &shared.files.counters;
        counters.compactions.add(1);
        counters.compaction_read_bytes.add(compaction.input_bytes());
        let outputs = write_outputs(shared, family, compaction).await?;
        shared.files.counters.compaction_written_bytes.add(outputs.len_bytes());
        outputs
    };
    let edit = VersionEdit { column_family: family, deleted_files, ..outputs.into_edit(output_level) };
    let go_on_from = move |state: &mut State| {
        if let Some(family) = state.families.get_mut(family).filter(|_| cursor.is_some()) {
            family.cursors[level] = cursor;
        }
    };
    shared.install("a compaction", Change::of(edit), go_on_from).await?;
    point!(points::COMPACTION_INSTALLED);
    Ok(())
}

pub(super) fn has_filter(shared: &Shared, family: u32) -> bool {
    let state = shared.state();
    state.families.get(family).is_some_and(|family| family.options.compaction_filter.is_some())
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

/// What all parts of a compaction have in common.
struct Work {
    shared: Arc<Shared>,
    key: Arc<FamilyKey>,
    options: Arc<FamilyOptions>,
    compaction: Compaction,
    tombstones: Tombstones,
    /// Ascending.
    snapshots: Vec<u64>,
    sources: Option<Sources>,
}

/// The files that a part began, and what it came to.
type PartBuilt = (Vec<FileKind>, Result<Built, Error>);

async fn write_outputs(shared: &Arc<Shared>, family: u32, compaction: Compaction) -> Result<Built, Error> {
    let tombstones = tombstones_of(shared, compaction.files().map(|(_, file)| file)).await?;
    // Under the lock: whoever takes a snapshot later reads at a sequence number not below any in the inputs.
    let (snapshots, family) = {
        let state = shared.state();
        let family = state.families.get(family).map(|family| (family.key.clone(), family.options.clone()));
        (shared.snapshots.sequences(), family)
    };
    // It was dropped.
    let Some((key, options)) = family else { return Ok(Built::default()) };
    let files: Vec<Arc<FileMeta>> = compaction.files().map(|(_, file)| file.clone()).collect();
    // To level 0 goes one table.
    let most = if compaction.output_level == 0 { 1 } else { shared.site.options.max_subcompactions };
    let parts = parts(&files, most, options.target_file_bytes);
    sometimes!(points::SUBCOMPACTED, parts.len() > 1);
    let is_above = compaction.inputs.len() > 1 && !compaction.deeper.is_empty();
    sometimes!(points::UNIVERSAL_ABOVE, is_above && options.is_universal());
    let sources = sources_of(shared, &key, options.blob_gc_age_percent);
    let shared = shared.clone();
    let work = Arc::new(Work { shared, key, options, compaction, tombstones, snapshots, sources });
    let outputs = work.build(parts).await?;
    point!(points::COMPACTION_OUTPUTS_SYNCED);
    if !outputs.is_empty() {
        work.shared.site.dir.sync().await?;
    }
    Ok(outputs)
}

impl Work {
    /// Builds all parts. If one fails, nothing is left of any.
    async fn build(self: &Arc<Self>, parts: Vec<Part>) -> Result<Built, Error> {
        let built = match <[Part; 1]>::try_from(parts) {
            Ok([whole]) => vec![self.build_part(whole).await],
            Err(parts) => self.build_at_once(parts).await,
        };
        let mut created = Vec::new();
        let mut whole = Ok(Built::default());
        for (files, part) in built {
            created.extend(files);
            whole = whole.and_then(|before: Built| Ok(before.and(part?)));
        }
        if whole.is_err() {
            self.shared.discard(created);
        }
        whole
    }

    async fn build_at_once(self: &Arc<Self>, parts: Vec<Part>) -> Vec<PartBuilt> {
        let begin = |part| {
            let work = self.clone();
            task::spawn(async move { work.build_part(part).await }).abort_on_drop()
        };
        let tasks: Vec<_> = parts.into_iter().map(begin).collect();
        let mut built = Vec::new();
        for task in tasks {
            built.push(task.await.expect("a part of a compaction is not aborted before the whole is"));
        }
        built
    }

    async fn build_part(&self, part: Part) -> PartBuilt {
        let mut build = Build::new(&self.shared.site, || self.shared.allocate_number());
        let built = self.write_part(&part, &mut build).await;
        (build.into_created(), built)
    }

    async fn write_part<F: FnMut() -> u64>(
        &self,
        part: &Part,
        build: &mut Build<'_, F>,
    ) -> Result<Built, Error> {
        let Compaction { inputs, output_level, deeper } = &self.compaction;
        let source = |tables: &Vec<Arc<FileMeta>>| {
            Source::chain(&self.shared.files.tables, tables.clone(), Caching::Pass)
        };
        let inputs = inputs.iter().map(|run| source(&run.tables)).collect();
        let from = part.from.as_ref().map(|key: &Bytes| (&key[..], Tag::seek(u64::MAX)));
        let merge = Merge::new(inputs, from).await?;
        let level = self.compaction.level();
        let target = Target {
            family: self.key.id,
            family_name: &self.key.name,
            options: &self.options,
            level: *output_level,
            split_bytes: if *output_level == 0 { u64::MAX } else { self.options.target_file_bytes },
            sources: self.sources.clone(),
            filter: self.options.compaction_filter.as_ref().map(|with| Filtering { with, level }),
            pace: Pace::new(self.shared.site.rate.as_ref(), Priority::Compaction),
            part: Some(part),
        };
        let retention = Retention::new(self.snapshots.clone(), Some(deeper.clone()));
        build.run(&target, merge, &mut retention.under(part.of(&self.tombstones))).await
    }
}
