//! The edits of a MANIFEST, one after the other.

use std::path::{Path, PathBuf};

use cutwater_engine::store::filenames::FileKind;
use cutwater_engine::store::version::{self, FileMeta, VersionEdit};
use cutwater_io::fs;
use serde_json::{Map, Value, json};

use super::output::{Failure, Output, in_file};
use super::records;

/// The MANIFEST that CURRENT names, in a directory; or the file itself.
pub(crate) async fn find(path: &Path) -> Result<PathBuf, Failure> {
    let metadata = fs::metadata(path).await.map_err(|e| format!("{}: {e}", path.display()))?;
    if !metadata.is_dir {
        return Ok(path.to_owned());
    }
    let current = FileKind::Current.path(path);
    let content = fs::read(&current).await.map_err(|e| format!("read {}: {e}", current.display()))?;
    let name = std::str::from_utf8(&content).ok().and_then(|text| text.strip_suffix('\n'));
    let kind = name.and_then(FileKind::parse).filter(|kind| matches!(kind, FileKind::Manifest(_)));
    let kind =
        kind.ok_or_else(|| format!("corruption in {}: it does not name a MANIFEST", current.display()))?;
    Ok(kind.path(path))
}

/// Shows each edit with its offset. Where it cannot be read on is shown, too.
pub(crate) async fn show(path: &Path, mut out: Output) -> Result<(), Failure> {
    let path = find(path).await?;
    let data = fs::read(&path).await.map_err(|e| format!("read {}: {e}", path.display()))?;
    let name = path.file_name().unwrap_or_default().display().to_string();
    out.say(&format!("{name}  {} bytes", data.len()), &json!({ "manifest": name, "len_bytes": data.len() }))?;
    let shown = records::each(&data, 0, &mut out, |at, record, out| {
        let edit = version::decode(record).map_err(|m| format!("no edit at byte {at}: {}", m.what))?;
        let fields = fields(&edit, out);
        let texts: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name} {}", plain(value))).collect();
        let text = if texts.is_empty() { "seal".to_owned() } else { texts.join("\n              ") };
        let mut json = Map::from_iter([("at_bytes".to_owned(), json!(at))]);
        json.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Ok(out.say(&format!("  {at:>10}  {text}"), &Value::Object(json))?)
    });
    shown.map_err(|failure| in_file(&path, failure))?;
    out.end()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name} {}", plain(value))).collect();
            fields.join(", ")
        }
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    }
}

/// What an edit says, in the order of the format; what it does not say is left out.
fn fields(edit: &VersionEdit, out: &Output) -> Vec<(&'static str, Value)> {
    let mut fields = Vec::new();
    let mut add = |name, value: Option<Value>| fields.extend(value.map(|value| (name, value)));
    add("family", (edit.column_family > 0).then(|| json!(edit.column_family)));
    add("adds_family", edit.column_family_add.as_ref().map(|name| json!(name)));
    add("drops_family", edit.column_family_drop.then_some(json!(true)));
    add("db_id", edit.db_id.as_ref().map(|id| json!(id)));
    add("comparator", edit.comparator.as_ref().map(|name| json!(name)));
    add("log_number", edit.log_number.map(Value::from));
    add("prev_log_number", edit.prev_log_number.map(Value::from));
    add("next_file_number", edit.next_file_number.map(Value::from));
    add("last_sequence", edit.last_sequence.map(Value::from));
    add("max_family", edit.max_column_family.map(Value::from));
    add("min_log_number_to_keep", edit.min_log_number_to_keep.map(Value::from));
    add("atomic_group_remaining", edit.atomic_group_remaining.map(Value::from));
    for (level, number) in &edit.deleted_files {
        add("deletes_table", Some(json!({ "level": level, "number": number })));
    }
    for (level, file) in &edit.new_files {
        add("adds_table", Some(table(*level, file, out)));
    }
    for file in &edit.blob_additions {
        let json = json!({ "number": file.number, "values": file.total_count, "bytes": file.total_bytes });
        add("adds_blob_file", Some(json));
    }
    for garbage in &edit.blob_garbage {
        let json = json!({ "number": garbage.number, "values": garbage.count, "bytes": garbage.bytes });
        add("counts_garbage", Some(json));
    }
    for log in &edit.wal_additions {
        add("adds_log", Some(json!({ "number": log.number, "synced_bytes": log.synced_bytes })));
    }
    add("deletes_logs_below", edit.wal_deletion.map(Value::from));
    fields
}

/// A table, as a MANIFEST tells of it.
pub(crate) fn table(level: u32, file: &FileMeta, out: &Output) -> Value {
    let mut json = json!({
        "level": level,
        "number": file.number,
        "bytes": file.len_bytes,
        "smallest": out.bytes(&file.smallest.user_key),
        "largest": out.bytes(&file.largest.user_key),
        "sequences": format!("{}..{}", file.smallest_sequence, file.largest_sequence),
    });
    if file.oldest_blob_file_number > 0 {
        json["oldest_blob_file"] = json!(file.oldest_blob_file_number);
    }
    if let Some(crc32c) = file.crc32c() {
        json["crc32c"] = json!(format!("{crc32c:08x}"));
    }
    json
}
