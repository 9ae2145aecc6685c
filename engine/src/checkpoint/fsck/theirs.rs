//! Flink's checkpoints and savepoints.

use super::located::{Located, Moved};
use super::report::{Checkpoint, Content, Report, Wrong};
use super::{Files, join};
use crate::checkpoint::read::ReadError;
use crate::flink::{self, StreamHandle};

/// A checkpoint by its metadata.
pub(super) async fn checkpoint(
    at: &Located,
    moved: &[Moved],
    path: &str,
    bytes: &[u8],
    files: &mut Files,
    report: &mut Report,
) -> Result<(), ReadError> {
    let content = match flink::decode(bytes) {
        Ok(content) => content,
        Err(error) => {
            report.damage(path, path, Wrong::Metadata { reason: error.to_string() });
            return Ok(());
        }
    };
    if content.trailing_bytes > 0 {
        let reason = format!("{} bytes follow the end", content.trailing_bytes);
        report.damage(path, path, Wrong::Inconsistent { reason });
    }
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    for (place, handle) in content.handles() {
        match handle {
            StreamHandle::Bytes { .. } | StreamHandle::EmptySegment | StreamHandle::KeyGroups { .. } => {}
            StreamHandle::File { path: name, len_bytes } if place.role == flink::CHANGES => {
                match at.path_of(name, moved) {
                    Some(file) => segment(path, &file, *len_bytes, files, report).await,
                    None => drop(report.elsewhere.insert(name.clone())),
                }
            }
            StreamHandle::File { path: name, len_bytes } => match at.path_of(name, moved) {
                Some(file) => whole(path, &file, *len_bytes, files, report).await,
                None => drop(report.elsewhere.insert(name.clone())),
            },
            StreamHandle::Segment { path: name, from_bytes, len_bytes, .. } => {
                match at.path_of(name, moved) {
                    Some(file) => {
                        segment(path, &file, from_bytes.saturating_add(*len_bytes), files, report).await
                    }
                    None => drop(report.elsewhere.insert(name.clone())),
                }
            }
            StreamHandle::Relative { path: relative, len_bytes } => match within(directory, relative) {
                None => {
                    let wrong = Wrong::Leaves { relative: relative.clone() };
                    report.damage(path, &join(directory, relative), wrong);
                }
                Some(file) => {
                    report.named.insert(file.clone());
                    match files.len(&file).await {
                        Ok(None) => {
                            report.damage(path, &file, Wrong::RelativeMissing { relative: relative.clone() });
                        }
                        _ => whole(path, &file, *len_bytes, files, report).await,
                    }
                }
            },
        }
    }
    report.checkpoints.push(Checkpoint { path: path.into(), content: Content::Flink(content) });
    Ok(())
}

async fn whole(metadata: &str, file: &str, expected_bytes: u64, files: &mut Files, report: &mut Report) {
    report.named.insert(file.into());
    match files.len(file).await {
        Err(error) => report.damage(metadata, file, Wrong::Unreadable { reason: error.to_string() }),
        Ok(None) => {
            report.damage(metadata, file, Wrong::Missing { expected_bytes: Some(expected_bytes) });
        }
        Ok(Some(found_bytes)) if found_bytes != expected_bytes => {
            report.damage(metadata, file, Wrong::Length { found_bytes, expected_bytes });
        }
        Ok(Some(_)) => {}
    }
}

async fn segment(metadata: &str, file: &str, expected_bytes: u64, files: &mut Files, report: &mut Report) {
    report.named.insert(file.into());
    match files.len(file).await {
        Err(error) => report.damage(metadata, file, Wrong::Unreadable { reason: error.to_string() }),
        Ok(None) => report.damage(metadata, file, Wrong::Missing { expected_bytes: None }),
        Ok(Some(found_bytes)) if found_bytes < expected_bytes => {
            report.damage(metadata, file, Wrong::Segment { found_bytes, expected_bytes });
        }
        Ok(Some(_)) => {}
    }
}

/// The path of a relative name; `None` if it leads out of the directory.
fn within(directory: &str, relative: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    match relative.starts_with('/') || parts.is_empty() {
        true => None,
        false => Some(join(directory, &parts.join("/"))),
    }
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn relative_names_stay_inside_or_lead_out() {
        assert_eq!(within("job/chk-1", "a").as_deref(), Some("job/chk-1/a"));
        assert_eq!(within("job/chk-1", "x/../a").as_deref(), Some("job/chk-1/a"));
        for out in ["../chk-2/a", "x/../../a", "/etc/passwd", "", ".", "a/.."] {
            assert_eq!(within("job/chk-1", out), None, "{out}");
        }
    }
}
