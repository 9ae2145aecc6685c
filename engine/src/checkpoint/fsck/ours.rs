//! Checkpoints of ours, one or all that a job's register names.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::prefix::PrefixStore;

use super::located::Located;
use super::report::{Checkpoint, Content, Orphan, Report, Wrong};
use super::{Files, join};
use crate::checkpoint::assign::covers_all;
use crate::checkpoint::layout::Layout;
use crate::checkpoint::log::{JobState, Status};
use crate::checkpoint::read::{self, ReadError};
use crate::checkpoint::snapshot::{
    CheckpointId, CheckpointMetadata, FileHandle, KeyGroupRange, SubtaskState,
};
use crate::checkpoint::{metadata, sweep};
use crate::cluster::rpc::Attempt;

/// A checkpoint by its metadata.
pub(super) async fn checkpoint(
    at: &Located,
    path: &str,
    bytes: &[u8],
    files: &mut Files,
    report: &mut Report,
) -> Result<(), ReadError> {
    let content = match metadata::decode(bytes, &at.name(path)) {
        Ok(content) => content,
        Err(error) => {
            report.damage(path, path, Wrong::Metadata { reason: error.reason.to_string() });
            return Ok(());
        }
    };
    match root(path, &content.job) {
        Some(root) => verify(&root, path, &content, files, report).await?,
        None => {
            let reason = format!(
                "names of files begin with {}/, and the metadata is not below a directory of that name",
                content.job
            );
            report.damage(path, path, Wrong::Inconsistent { reason });
        }
    }
    report.checkpoints.push(Checkpoint { path: path.into(), content: Content::Ours(content) });
    Ok(())
}

/// What names in the metadata are relative to: the directory that holds the job's.
fn root(path: &str, job: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').collect();
    let at = parts.iter().rposition(|part| *part == job)?;
    Some(parts[..at].join("/"))
}

async fn verify(
    root: &str,
    path: &str,
    content: &CheckpointMetadata,
    files: &mut Files,
    report: &mut Report,
) -> Result<(), ReadError> {
    if let Err(reason) = metadata::files(content) {
        report.damage(path, path, Wrong::Inconsistent { reason: reason.to_string() });
    }
    for vertex in &content.vertices {
        let ranges: Vec<KeyGroupRange> = vertex.subtasks.iter().filter_map(range).collect();
        if !ranges.is_empty() && !covers_all(&ranges, content.max_parallelism) {
            let reason = format!("vertex {}: key groups not covered exactly once: {ranges:?}", vertex.uid);
            report.damage(path, path, Wrong::Inconsistent { reason });
        }
    }
    let layout = Layout::new(&content.job).ok();
    for state in content.vertices.iter().flat_map(|vertex| &vertex.subtasks) {
        let mut needed: Vec<(&FileHandle, Option<String>)> = Vec::new();
        match (state, &layout) {
            // Committed output has the name of its transaction and the bytes that were staged.
            (SubtaskState::Sink(transactions), Some(layout)) => {
                needed.extend(transactions.iter().map(|t| (&t.staged, Some(layout.output(&t.id)))));
            }
            _ => {
                needed.extend(state.shared_files().chain(state.private_files()).map(|handle| (handle, None)))
            }
        }
        for (handle, instead) in needed {
            let name = join(root, &handle.path);
            report.named.insert(name.clone());
            let mut wrong = compare(&name, handle, files).await;
            if let (Some(Wrong::Missing { .. }), Some(committed)) = (&wrong, instead) {
                wrong = compare(&join(root, &committed), handle, files).await;
            }
            if let Some(wrong) = wrong {
                report.damage(path, &name, wrong);
            }
        }
    }
    Ok(())
}

fn range(state: &SubtaskState) -> Option<KeyGroupRange> {
    match state {
        SubtaskState::Keyed(keyed) => Some(keyed.range),
        _ => None,
    }
}

/// What is wrong with a file, if anything.
async fn compare(path: &str, handle: &FileHandle, files: &mut Files) -> Option<Wrong> {
    let (expected_bytes, expected_crc32c) = (handle.len_bytes, handle.crc32c);
    match files.content(path).await {
        Err(error) => Some(Wrong::Unreadable { reason: error.to_string() }),
        Ok(None) => Some(Wrong::Missing { expected_bytes: Some(expected_bytes) }),
        Ok(Some((found_bytes, _))) if found_bytes != expected_bytes => {
            Some(Wrong::Length { found_bytes, expected_bytes })
        }
        Ok(Some((_, found_crc32c))) if found_crc32c != expected_crc32c => {
            Some(Wrong::Checksum { found_crc32c, expected_crc32c })
        }
        Ok(Some(_)) => None,
    }
}

/// All that the register of a job names. `listed` is everything below `path`.
pub(super) async fn job(
    at: &Located,
    path: &str,
    listed: &BTreeMap<String, u64>,
    files: &mut Files,
) -> Result<Report, ReadError> {
    let mut report = Report { is_job: true, ..Report::default() };
    let (root, name) = path.rsplit_once('/').unwrap_or(("", path));
    let layout = Layout::new(name)?;
    let below = PrefixStore::new(Arc::clone(&at.store), root);
    let record = match read::newest_record(&below, &layout).await {
        Ok(Some(record)) => record,
        Ok(None) => {
            let reason = "no version has the name of one".into();
            report.damage(path, &join(root, &layout.log_prefix()), Wrong::Register { reason });
            return Ok(report);
        }
        Err(ReadError::Record { path: version, reason }) => {
            let version = join(root, &version);
            report.damage(&version, &version, Wrong::Register { reason: reason.to_string() });
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    for completed in &record.state.retained {
        let name = join(root, &completed.metadata.path);
        report.named.insert(name.clone());
        match compare(&name, &completed.metadata, files).await {
            Some(wrong) => report.damage(&name, &name, wrong),
            None => match read::get(&*at.store, &name).await? {
                Some(bytes) => checkpoint(at, &name, &bytes, files, &mut report).await?,
                None => report.damage(&name, &name, Wrong::Missing { expected_bytes: None }),
            },
        }
    }
    report.orphans = orphans(root, &layout, &record.state, listed, &report);
    Ok(report)
}

/// What the sweeper of the next leader would delete at once. The work of the register's leader is left alone, for it may live; but an id
/// at or below the latest completed one is in nobody's hands any more.
fn orphans(
    root: &str,
    layout: &Layout,
    state: &JobState,
    listed: &BTreeMap<String, u64>,
    report: &Report,
) -> Vec<Orphan> {
    let below = |path: &str| match root {
        "" => Some(path.to_owned()),
        root => Some(path.strip_prefix(root)?.strip_prefix('/')?.to_owned()),
    };
    let (current, next_id) = match state.status {
        Status::Finished => (Attempt { epoch: u64::MAX, number: u32::MAX }, u64::MAX),
        Status::Running => {
            let next_id = state.latest().map_or(0, |latest| latest.id.0 + 1);
            (Attempt { epoch: state.epoch, number: 0 }, next_id)
        }
    };
    let view = sweep::View {
        current,
        next_id: CheckpointId(next_id),
        pending: [].into(),
        referenced: report.named.iter().filter_map(|path| below(path)).collect(),
    };
    let names: Vec<String> = listed.keys().filter_map(|path| below(path)).collect();
    let orphans = sweep::orphans(layout, &view, &names).into_iter();
    let orphan = |path: String| {
        let path = join(root, &path);
        Orphan { len_bytes: listed.get(&path).copied().unwrap_or(0), path }
    };
    orphans.map(orphan).collect()
}
