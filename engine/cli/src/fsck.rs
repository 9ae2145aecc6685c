//! `fsck`: what `checkpoint::fsck` found, in lines or as JSON.

use clap::Args;
use cutwater_engine::checkpoint::fsck::{self, Checkpoint, Content, FsckError, Located, Moved, Report};
use cutwater_engine::checkpoint::snapshot::{CheckpointMetadata, FileHandle, Segment, SubtaskState};
use cutwater_engine::flink::{self, Place, StreamHandle};
use serde_json::{Value, json};

use super::output::{Failure, Output, Style, Usage};
use super::place::locate;

#[derive(Args)]
pub(crate) struct Command {
    /// The directory of a checkpoint or a savepoint, its metadata, or the directory of a job: a path, a file:// or an s3:// URL.
    path: String,
    /// Names in the metadata that begin with FROM are looked for under TO: of a copy, FROM is where the files were written.
    #[arg(long, value_name = "FROM=TO", value_parser = moved)]
    moved: Vec<Moved>,
    /// Without the files of each operator or vertex.
    #[arg(long, short)]
    quiet: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

fn moved(text: &str) -> Result<Moved, String> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => {
            let to = if to.contains("://") { to.to_owned() } else { absolute(to)? };
            Ok(Moved { from: from.into(), to })
        }
        _ => Err("FROM=TO is wanted".into()),
    }
}

fn absolute(path: &str) -> Result<String, String> {
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    path.to_str().map(str::to_owned).ok_or_else(|| "no text".into())
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    let at = locate(&command.path)?;
    let report = match fsck::check(&at, &command.moved).await {
        Ok(report) => report,
        Err(error @ (FsckError::Nothing { .. } | FsckError::Foreign { .. })) => {
            return Err(Usage(error.to_string()).into());
        }
        Err(error) => return Err(error.into()),
    };
    let mut out = Output::new(Style::plain(command.json));
    for checkpoint in &report.checkpoints {
        match &checkpoint.content {
            Content::Ours(content) => ours(&at, checkpoint, content, command.quiet, &mut out)?,
            Content::Flink(content) => theirs(&at, checkpoint, content, command.quiet, &mut out)?,
        }
    }
    verdict(&at, &report, out)
}

fn verdict(at: &Located, report: &Report, mut out: Output) -> Result<(), Failure> {
    for orphan in &report.orphans {
        let (path, len_bytes) = (at.name(&orphan.path), orphan.len_bytes);
        let text = format!("orphan: {path}: nothing names it ({len_bytes} bytes)");
        out.say(&text, &json!({ "orphan": path, "len_bytes": len_bytes }))?;
    }
    for name in &report.elsewhere {
        let text = format!("not looked at: {name}: it is in another store");
        out.say(&text, &json!({ "elsewhere": name }))?;
    }
    for damage in &report.damage {
        let (path, metadata) = (at.name(&damage.path), at.name(&damage.metadata));
        let text = format!("damage: {path}: {}", damage.wrong);
        out.say(&text, &json!({ "damage": path, "metadata": metadata, "wrong": damage.wrong.to_string() }))?;
    }
    let Report { files, len_bytes, .. } = report;
    let (checkpoints, orphans, wrong) = (report.checkpoints.len(), report.orphans.len(), report.damage.len());
    let verdict = match wrong {
        0 => "sound".to_owned(),
        1 => "1 thing is wrong".to_owned(),
        count => format!("{count} things are wrong"),
    };
    let text = format!(
        "{}: {checkpoints} checkpoints, {files} files, {len_bytes} bytes, {orphans} orphans: {verdict}",
        at.name(&at.path)
    );
    let json = json!({
        "sound": report.is_sound(),
        "path": at.name(&at.path),
        "checkpoints": checkpoints,
        "files": files,
        "len_bytes": len_bytes,
        "orphans": orphans,
        "elsewhere": report.elsewhere.len(),
        "damage": wrong,
    });
    out.say(&text, &json)?;
    out.end()?;
    match report.is_sound() {
        true => Ok(()),
        false => Err(format!("{}: {verdict}", at.name(&at.path)).into()),
    }
}

fn ours(
    at: &Located,
    checkpoint: &Checkpoint,
    content: &CheckpointMetadata,
    quiet: bool,
    out: &mut Output,
) -> Result<(), Failure> {
    let path = at.name(&checkpoint.path);
    let CheckpointMetadata { job, id, max_parallelism, vertices, .. } = content;
    let what = if content.savepoint.is_some() { "savepoint" } else { "checkpoint" };
    let text = format!("{what} {id} of job {job}: {max_parallelism} key groups  {path}");
    let json = json!({
        "checkpoint": id.0,
        "of": "cutwater",
        "job": job,
        "savepoint": content.savepoint.is_some(),
        "description": content.description,
        "max_parallelism": max_parallelism,
        "triggered_unix_ms": content.triggered_unix_ms,
        "completed_unix_ms": content.completed_unix_ms,
        "path": path,
    });
    out.say(&text, &json)?;
    for vertex in vertices {
        let (uid, parallelism) = (&vertex.uid, vertex.subtasks.len());
        let text = format!("  vertex {uid}: parallelism {parallelism}");
        out.say(&text, &json!({ "vertex": uid, "checkpoint": id.0, "parallelism": parallelism }))?;
        for (subtask, state) in vertex.subtasks.iter().enumerate().filter(|_| !quiet) {
            let mut named: Vec<(&str, &str, &FileHandle, Option<Segment>)> = Vec::new();
            if let SubtaskState::Keyed(keyed) = state {
                let shared = keyed.shared.iter().map(|file| ("shared", file));
                let files = shared.chain(keyed.private.iter().map(|file| ("private", file)));
                named.extend(files.map(|(role, file)| (role, &file.name[..], &file.handle, file.segment)));
            }
            let staged = state.transactions().iter().map(|sink| ("staged", &sink.id[..], &sink.staged));
            let in_flight = state.in_flight().map(|in_flight| ("in flight", "records", &in_flight.handle));
            named.extend(staged.chain(in_flight).map(|(role, name, handle)| (role, name, handle, None)));
            for (role, name, handle, segment) in named {
                let (path, len_bytes, crc32c) = (&handle.path, handle.len_bytes, handle.crc32c);
                let part = segment.map_or(String::new(), |Segment { offset_bytes, len_bytes, .. }| {
                    format!(", of which {len_bytes} from {offset_bytes} on")
                });
                let text = format!("    subtask {subtask}  {role} {name}: {path}, {len_bytes} bytes{part}");
                let json = json!({
                    "handle": path, "vertex": uid, "checkpoint": id.0, "subtask": subtask, "role": role,
                    "name": name, "len_bytes": len_bytes, "crc32c": format!("{crc32c:08x}"),
                    "segment": segment.map(|segment| json!({
                        "offset_bytes": segment.offset_bytes, "len_bytes": segment.len_bytes,
                        "crc32c": format!("{:08x}", segment.crc32c),
                    })),
                });
                out.say(&text, &json)?;
            }
        }
    }
    Ok(())
}

fn theirs(
    at: &Located,
    checkpoint: &Checkpoint,
    content: &flink::Metadata,
    quiet: bool,
    out: &mut Output,
) -> Result<(), Failure> {
    let path = at.name(&checkpoint.path);
    let (id, version) = (content.checkpoint, content.version);
    let kind = content.properties.as_ref().map(|of| of.kind.as_str());
    let format = content.properties.as_ref().and_then(|of| of.format.as_deref());
    let text = format!(
        "checkpoint {id} of Flink, metadata version {version}{}{}  {path}",
        kind.map_or_else(String::new, |kind| format!(", {kind}")),
        format.map_or_else(String::new, |format| format!(" ({format})")),
    );
    let json = json!({
        "checkpoint": id, "of": "flink", "version": version, "kind": kind, "format": format, "path": path,
        "flags": content.properties.as_ref().map(|of| &of.flags),
    });
    out.say(&text, &json)?;
    // They come in the order of the operators.
    let mut handles = content.handles().into_iter().peekable();
    for operator in &content.operators {
        let text = format!(
            "  operator {}{}{}: parallelism {}, max parallelism {}, {}",
            operator.id,
            operator.uid.as_ref().map_or_else(String::new, |uid| format!(", uid {}", uid.escape_debug())),
            operator.name.as_ref().map_or_else(String::new, |name| format!(", {}", name.escape_debug())),
            operator.parallelism,
            operator.max_parallelism,
            match &operator.subtasks {
                None => "finished".to_owned(),
                Some(subtasks) => format!("state of {} subtasks", subtasks.len()),
            },
        );
        let json = json!({
            "operator": operator.id.to_string(),
            "checkpoint": id,
            "uid": operator.uid,
            "name": operator.name,
            "parallelism": operator.parallelism,
            "max_parallelism": operator.max_parallelism,
            "finished": operator.subtasks.is_none(),
            "subtasks": operator.subtasks.as_ref().map(Vec::len),
        });
        out.say(&text, &json)?;
        while let Some((place, handle)) = handles.next_if(|(place, _)| std::ptr::eq(place.operator, operator))
        {
            if quiet {
                continue;
            }
            let Place { subtask, role, local_name, .. } = place;
            let subtask_text =
                subtask.map_or_else(|| "coordinator".to_owned(), |subtask| format!("subtask {subtask}"));
            let local = local_name.map_or_else(String::new, |name| format!(" {}", name.escape_debug()));
            let (text, mut json) = shown(handle);
            let fields = json.as_object_mut().expect("it is one");
            fields.insert("operator".into(), operator.id.to_string().into());
            fields.insert("checkpoint".into(), id.into());
            fields.insert("subtask".into(), subtask.into());
            fields.insert("role".into(), role.into());
            fields.insert("name".into(), local_name.into());
            out.say(&format!("    {subtask_text}  {role}{local}: {text}"), &json)?;
        }
    }
    Ok(())
}

/// A handle for people and for machines.
fn shown(handle: &StreamHandle) -> (String, Value) {
    match handle {
        StreamHandle::Bytes { content, .. } => {
            let text = format!("{} bytes in the metadata", content.len());
            (text, json!({ "handle": null, "kind": "bytes", "len_bytes": content.len() }))
        }
        StreamHandle::File { path, len_bytes } => {
            let text = format!("{}, {len_bytes} bytes", path.escape_debug());
            (text, json!({ "handle": path, "kind": "file", "len_bytes": len_bytes }))
        }
        StreamHandle::Relative { path, len_bytes } => {
            let text = format!("./{}, {len_bytes} bytes", path.escape_debug());
            (text, json!({ "handle": path, "kind": "relative", "len_bytes": len_bytes }))
        }
        StreamHandle::Segment { path, from_bytes, len_bytes, .. } => {
            let text = format!("{} from byte {from_bytes}, {len_bytes} bytes", path.escape_debug());
            let json = json!({
                "handle": path, "kind": "segment", "from_bytes": from_bytes, "len_bytes": len_bytes,
            });
            (text, json)
        }
        StreamHandle::EmptySegment | StreamHandle::KeyGroups { .. } => {
            ("nothing of its own".into(), json!({ "handle": null, "kind": "none" }))
        }
    }
}
