//! Checkpoints of ours, one or all that a job's register names.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::prefix::PrefixStore;

use super::located::Located;
use super::report::{Checkpoint, Content, Orphan, Report, Wrong};
use super::{Files, join};
use crate::checkpoint::assign::covers_all;
use crate::checkpoint::changelog::LogSegment;
use crate::checkpoint::job_state::{CompletedCheckpoint, JobState};
use crate::checkpoint::layout::Layout;
use crate::checkpoint::read::{self, ReadError};
use crate::checkpoint::snapshot::{
    CheckpointId, CheckpointMetadata, FileHandle, KeyGroupRange, KeyedSnapshot, Segment, StoreFile,
    SubtaskState,
};
use crate::checkpoint::{metadata, sweep};
use crate::cluster::rpc::Attempt;
use crate::state::changelog::frame;

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
    match root(path, &content) {
        Some(root) => verify(&root, path, &content, files, report).await?,
        None => {
            let reason = match content.savepoint {
                None => format!(
                    "names of files begin with {}/, and the metadata is not below a directory of that name",
                    content.job
                ),
                Some(_) => {
                    "names of files do not lead to the directory of the metadata: the savepoint was moved"
                        .into()
                }
            };
            report.damage(path, path, Wrong::Inconsistent { reason });
        }
    }
    report.checkpoints.push(Checkpoint { path: path.into(), content: Content::Ours(content) });
    Ok(())
}

/// What names in the metadata are relative to: the directory that holds the job's, or the path of a savepoint.
fn root(path: &str, content: &CheckpointMetadata) -> Option<String> {
    let parts: Vec<&str> = path.split('/').collect();
    let own = parts[..parts.len() - 1].join("/");
    if content.savepoint.is_some() {
        let states = content.vertices.iter().flat_map(|vertex| &vertex.subtasks);
        let mut directories =
            states.flat_map(own_files).filter_map(|handle| Some(handle.path.rsplit_once('/')?.0)).peekable();
        // One that names no file is whole wherever it is.
        if directories.peek().is_none() {
            return Some(String::new());
        }
        return directories.find_map(|directory| match own.strip_suffix(directory)? {
            "" => Some(String::new()),
            root => Some(root.strip_suffix('/')?.to_owned()),
        });
    }
    let at = parts.iter().rposition(|part| *part == content.job)?;
    Some(parts[..at].join("/"))
}

/// All files but staged output.
fn own_files(state: &SubtaskState) -> Vec<&FileHandle> {
    let staged: Vec<&str> = state.transactions().iter().map(|t| t.staged.path.as_str()).collect();
    let private = state.private_files().into_iter().filter(|handle| !staged.contains(&handle.path.as_str()));
    state.shared_files().chain(private).collect()
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
        let mut needed: Vec<(&FileHandle, Option<String>)> =
            own_files(state).into_iter().map(|handle| (handle, None)).collect();
        // Committed output has the name of its transaction and the bytes that were staged.
        for transaction in state.transactions() {
            needed.push((&transaction.staged, layout.as_ref().map(|layout| layout.output(&transaction.id))));
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
        if let SubtaskState::Keyed(keyed) = state {
            segments(root, path, keyed, files, report).await;
            log_segments(root, path, keyed, files, report).await;
        }
    }
    Ok(())
}

/// Of files that are segments: whether each is in its object what was written there. What is wrong with an object as a whole is
/// known already, and is not said again of each of its segments.
async fn segments(root: &str, path: &str, keyed: &KeyedSnapshot, files: &Files, report: &mut Report) {
    if let Err(reason) = keyed.check_segments() {
        report.damage(path, path, Wrong::Inconsistent { reason });
        return;
    }
    for StoreFile { handle, segment, .. } in &keyed.shared {
        let (Some(segment), name) = (segment, join(root, &handle.path)) else { continue };
        if !files.is(&name, handle) {
            continue;
        }
        let Segment { offset_bytes, len_bytes, crc32c: expected_crc32c } = *segment;
        let wrong = match files.segment(&name, segment).await {
            Ok(Some(found)) if found == expected_crc32c => continue,
            Ok(Some(found_crc32c)) => {
                Wrong::SegmentChecksum { offset_bytes, len_bytes, found_crc32c, expected_crc32c }
            }
            Ok(None) => Wrong::Missing { expected_bytes: Some(handle.len_bytes) },
            Err(error) => Wrong::Unreadable { reason: error.to_string() },
        };
        report.damage(path, &name, wrong);
    }
}

/// Of a log: whether each segment holds the changes that it should. That the ranges have no gap was checked with the segments.
async fn log_segments(root: &str, path: &str, keyed: &KeyedSnapshot, files: &Files, report: &mut Report) {
    for segment in keyed.changelog.iter().flat_map(|changelog| &changelog.segments) {
        let LogSegment { from, to, handle, part } = segment;
        let name = join(root, &handle.path);
        if !files.is(&name, handle) || part.end_within(handle.len_bytes).is_none() {
            continue;
        }
        let (offset_bytes, reason) = match files.part(&name, part).await {
            Ok(Some(content)) => match frame::open(&content, (*from, *to)).and_then(Iterator::collect) {
                Ok::<Vec<_>, _>(_) => continue,
                Err(malformed) => (part.offset_bytes, malformed.to_string()),
            },
            Ok(None) => {
                report.damage(path, &name, Wrong::Missing { expected_bytes: Some(handle.len_bytes) });
                continue;
            }
            Err(error) => {
                report.damage(path, &name, Wrong::Unreadable { reason: error.to_string() });
                continue;
            }
        };
        report.damage(path, &name, Wrong::LogSegment { offset_bytes, reason });
    }
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
    for handle in restorable(&record.state) {
        let name = join(root, &handle.path);
        if !report.named.insert(name.clone()) {
            continue;
        }
        match compare(&name, handle, files).await {
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

/// Metadata of all that the job could be started from: retained checkpoints, what it was started from, savepoints of its list.
fn restorable(state: &JobState) -> Vec<&FileHandle> {
    let retained = state.retained.iter().chain(state.origin().map(|origin| &origin.checkpoint));
    let retained = retained.map(|CompletedCheckpoint { metadata, .. }| metadata);
    let present = state.history.iter().filter_map(|entry| Some(&entry.present()?.metadata));
    retained.chain(present).collect()
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
    let (current, next_id) = match state.status.is_terminal() {
        true => (Attempt { epoch: u64::MAX, number: u32::MAX }, u64::MAX),
        false => {
            let next_id = state.latest().map_or(0, |latest| latest.id.0 + 1);
            (Attempt { epoch: state.epoch, number: 0 }, next_id)
        }
    };
    let view = sweep::View {
        current,
        next_id: CheckpointId(next_id),
        pending: [].into(),
        abandoned: state.removals.iter().cloned().collect(),
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
