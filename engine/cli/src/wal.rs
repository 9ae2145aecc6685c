//! The logs of a store, record by record, as far as they can be read.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use cutwater_engine::store::batch::{DecodedBatch, Record};
use cutwater_engine::store::filenames::FileKind;
use cutwater_io::fs;
use serde_json::{Value, json};

use super::output::{Failure, Output, in_file};
use super::records;

/// Shows a log, or all of a directory, oldest first.
pub(crate) async fn show(path: &Path, mut out: Output) -> Result<(), Failure> {
    if !fs::metadata(path).await.map_err(|e| format!("{}: {e}", path.display()))?.is_dir {
        show_log(path, &mut out).await?;
        return out.end();
    }
    let mut logs: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(path).await? {
        if let Some(FileKind::Wal(number)) = FileKind::parse(&entry.name) {
            logs.push((number, path.join(entry.name)));
        }
    }
    logs.sort_unstable();
    for (_, log) in logs {
        show_log(&log, &mut out).await?;
    }
    out.end()
}

/// One log.
pub(crate) async fn show_log(path: &Path, out: &mut Output) -> Result<(), Failure> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = FileKind::parse(name).and_then(FileKind::number).unwrap_or(0);
    let data = fs::read(path).await.map_err(|e| format!("{}: {e}", path.display()))?;
    out.say(&format!("{name}  {} bytes", data.len()), &json!({ "log": number, "len_bytes": data.len() }))?;
    let shown = records::each(&data, number, out, show_batch);
    shown.map_err(|failure| in_file(path, failure))
}

fn show_batch(at: u64, record: &Bytes, out: &mut Output) -> Result<(), Failure> {
    let batch =
        DecodedBatch::decode(record).map_err(|m| format!("no batch of writes at byte {at}: {}", m.what))?;
    let (mut texts, mut records) = (Vec::new(), Vec::new());
    for record in &batch.records {
        let (text, json) = describe(record, out);
        texts.push(text);
        records.push(json);
    }
    let what = match texts.is_empty() {
        true => "nothing".to_owned(),
        false => texts.join(", "),
    };
    let text = format!("  {at:>10}  {:>8}  {what}", batch.first_sequence);
    let json =
        json!({ "at_bytes": at, "sequence": batch.first_sequence, "count": batch.count, "records": records });
    Ok(out.say(&text, &json)?)
}

fn describe(record: &Record, out: &Output) -> (String, Value) {
    match record {
        Record::Entry { kind, column_family, key, value } => {
            let (key, kind) = (out.bytes(key), format!("{kind:?}"));
            let of = if *column_family == 0 { String::new() } else { format!(" in family {column_family}") };
            let text = format!("{kind} {key} ({} bytes){of}", value.len());
            let json =
                json!({ "kind": kind, "family": column_family, "key": key, "value": out.bytes(value) });
            (text, json)
        }
        // Links and marks of this engine begin with words, and go on with a uuid and numbers.
        Record::LogData(data) => {
            let shown = out.bytes(&data[..data.len().min(24)]);
            (format!("log data {shown}"), json!({ "kind": "LogData", "data": out.bytes(data) }))
        }
        Record::Noop => ("noop".to_owned(), json!({ "kind": "Noop" })),
        Record::TwoPhase(tag) => {
            (format!("two-phase marker {tag}"), json!({ "kind": "TwoPhase", "tag": tag }))
        }
    }
}
