//! The commands for a store.

use std::ops::Bound;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use cutwater_engine::store::{Checked, FamilyOptions, Options, ReadOnlyStore, Store};
use serde_json::json;

use super::output::{Failure, Output, Style};
use super::{dump, manifest, wal};

/// Blocks of tables that a command keeps in memory. Bytes.
const BLOCK_CACHE_BYTES: u64 = 8 << 20;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// What a store consists of, or what is in one file of it.
    Dump {
        /// The directory, or a table (.sst), a blob file (.blob), a log (.log) or a MANIFEST.
        path: PathBuf,
        #[command(flatten)]
        style: Style,
    },
    /// Keys and values, as opening the store would recover them.
    Scan {
        /// The directory.
        dir: PathBuf,
        /// The family.
        #[arg(long, default_value = "default")]
        family: String,
        /// The first key.
        #[arg(long)]
        from: Option<String>,
        /// The key before which to stop.
        #[arg(long)]
        to: Option<String>,
        /// At most so many keys.
        #[arg(long)]
        limit: Option<u64>,
        /// From the last key to the first.
        #[arg(long)]
        backwards: bool,
        /// Keys alone.
        #[arg(long)]
        keys: bool,
        #[command(flatten)]
        style: Style,
    },
    /// Reads every byte that the store answers for, and compares it with every checksum that there is.
    Check {
        /// The directory.
        dir: PathBuf,
        #[command(flatten)]
        style: Style,
    },
    /// The edits of the MANIFEST.
    Manifest {
        /// The directory, for the MANIFEST that CURRENT names, or a MANIFEST.
        path: PathBuf,
        #[command(flatten)]
        style: Style,
    },
    /// The records of the logs.
    Wal {
        /// The directory, or a log.
        path: PathBuf,
        #[command(flatten)]
        style: Style,
    },
    /// Opens the store, and merges all levels into the deepest in use.
    Compact {
        /// The directory.
        dir: PathBuf,
        /// This family alone.
        #[arg(long)]
        family: Option<String>,
    },
    /// Opens the store, and makes a second one from links to its files.
    Checkpoint {
        /// The directory.
        dir: PathBuf,
        /// Where the checkpoint is to be; it must not exist.
        target: PathBuf,
    },
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Dump { path, style } => dump::dump(&path, Output::new(style)).await,
        Command::Manifest { path, style } => manifest::show(&path, Output::new(style)).await,
        Command::Wal { path, style } => wal::show(&path, Output::new(style)).await,
        Command::Check { dir, style } => check(&dir, Output::new(style)).await,
        Command::Scan { dir, family, from, to, limit, backwards, keys, style } => {
            let range = (
                from.map_or(Bound::Unbounded, |key| Bound::Included(key.into_bytes())),
                to.map_or(Bound::Unbounded, |key| Bound::Excluded(key.into_bytes())),
            );
            let wanted = Wanted { family, range, limit: limit.unwrap_or(u64::MAX), backwards, keys };
            scan(&dir, wanted, Output::new(style)).await
        }
        Command::Compact { dir, family } => compact(&dir, family.as_deref()).await,
        Command::Checkpoint { dir, target } => checkpoint(&dir, &target).await,
    }
}

struct Wanted {
    family: String,
    range: (Bound<Vec<u8>>, Bound<Vec<u8>>),
    limit: u64,
    backwards: bool,
    keys: bool,
}

async fn scan(dir: &Path, wanted: Wanted, mut out: Output) -> Result<(), Failure> {
    let store = ReadOnlyStore::open(dir, BLOCK_CACHE_BYTES).await?;
    let mut iter = store.iter(&wanted.family, wanted.range)?;
    let mut entry = if wanted.backwards { iter.seek_to_last().await? } else { iter.next().await? };
    let mut left = wanted.limit;
    while let Some((key, value)) = entry.filter(|_| left > 0) {
        let (key, value) = (out.bytes(&key), out.bytes(&value));
        match wanted.keys {
            true => out.say(&key, &json!({ "key": key }))?,
            false => out.say(&format!("{key} : {value}"), &json!({ "key": key, "value": value }))?,
        }
        left -= 1;
        entry = if wanted.backwards { iter.prev().await? } else { iter.next().await? };
    }
    out.end()
}

async fn check(dir: &Path, mut out: Output) -> Result<(), Failure> {
    let Checked { families, tables, blob_files, logs, verified, errors } = ReadOnlyStore::check(dir).await?;
    for error in &errors {
        out.say(&error.to_string(), &json!({ "error": error.to_string() }))?;
    }
    let (is_sound, garbage) = (errors.is_empty(), verified.uncounted_garbage);
    let verdict = match errors.len() {
        0 if garbage == 0 => "sound".to_owned(),
        0 => format!("sound; {garbage} values of blob files are garbage and do not count as such"),
        1 => "1 thing is wrong".to_owned(),
        count => format!("{count} things are wrong"),
    };
    let read = format!("{families} families, {tables} tables, {blob_files} blob files, {logs} logs");
    let json = json!({
        "sound": is_sound,
        "families": families,
        "tables": tables,
        "blob_files": blob_files,
        "logs": logs,
        "uncounted_garbage": garbage,
        "errors": errors.len(),
    });
    out.say(&format!("{}: {read}: {verdict}", dir.display()), &json)?;
    out.end()?;
    match is_sound {
        true => Ok(()),
        false => Err(format!("{}: {verdict}", dir.display()).into()),
    }
}

/// Opens a store to be worked on. Its options are not written down anywhere: tables are made with the defaults.
async fn open(dir: &Path) -> Result<Store, Failure> {
    let names = Store::list_families(dir).await?;
    let others: Vec<(&str, FamilyOptions)> =
        names.iter().skip(1).map(|name| (name.as_str(), FamilyOptions::default())).collect();
    let options = Options { create_if_missing: false, ..Options::default() };
    Ok(Store::open_families(dir, options, &others).await?)
}

async fn compact(dir: &Path, family: Option<&str>) -> Result<(), Failure> {
    let store = open(dir).await?;
    match family {
        None => store.compact_all().await?,
        Some(name) => {
            let family = store.family(name).ok_or_else(|| format!("there is no family {name}"))?;
            family.compact_all().await?;
        }
    }
    Ok(store.close().await?)
}

async fn checkpoint(dir: &Path, target: &Path) -> Result<(), Failure> {
    let store = open(dir).await?;
    let made = store.checkpoint(target).await?;
    println!("{}: {} files, as of write {}", target.display(), made.files.len(), made.sequence);
    Ok(store.close().await?)
}
