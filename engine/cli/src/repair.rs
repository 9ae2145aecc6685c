//! Makes a store of what can be read.

use std::path::Path;

use cutwater_engine::store::{Lost, Repaired, repair};
use serde_json::json;

use super::output::{Failure, Output};

pub(crate) async fn run(dir: &Path, mut out: Output) -> Result<(), Failure> {
    let Repaired { families, tables, blob_files, logs, last_sequence, lost } = repair(dir).await?;
    for Lost { name, why } in &lost {
        out.say(&format!("lost: {name}: {why}"), &json!({ "lost": name, "why": why }))?;
    }
    let text = format!(
        "{}: {} families, {tables} tables, {blob_files} blob files, {logs} logs converted, as of write {last_sequence}",
        dir.display(),
        families.len(),
    );
    let json = json!({
        "families": families,
        "tables": tables,
        "blob_files": blob_files,
        "logs": logs,
        "last_sequence": last_sequence,
        "lost": lost.len(),
    });
    out.say(&text, &json)?;
    out.end()?;
    match lost.len() {
        0 => Ok(()),
        1 => Err(format!("{}: 1 thing is lost", dir.display()).into()),
        count => Err(format!("{}: {count} things are lost", dir.display()).into()),
    }
}
