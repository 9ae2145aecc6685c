//! The commands for a store.

use std::ops::Bound;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use cutwater_engine::store::{
    Append, Checked, Compression, CutLog, Error, Family, FamilyOptions, IngestOptions, MergeWith, Options,
    PROPERTIES, ReadOnlyOptions, ReadOnlyStore, Store, TableInfo,
};
use serde_json::json;

use super::output::{Failure, Output, Style};
use super::{backup, dump, manifest, repair, wal};

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
        /// Merge operands are appended, with this between them (RocksDB's StringAppendOperator). Without it, keys that have
        /// operands are named and have no value.
        #[arg(long, value_name = "DELIMITER")]
        append: Option<String>,
        #[command(flatten)]
        style: Style,
    },
    /// What is known of a family, by RocksDB's names, as opening the store would recover it.
    Properties {
        /// The directory.
        dir: PathBuf,
        /// The family.
        #[arg(long, default_value = "default")]
        family: String,
        /// Its tables, one a line, instead.
        #[arg(long)]
        tables: bool,
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
    /// Opens the store, and merges all levels into the deepest in use. How tables were made is not written down anywhere: all but
    /// the compression is RocksDB's default. Values in blob files stay there.
    Compact {
        /// The directory.
        dir: PathBuf,
        /// How blocks are compressed.
        #[arg(long, value_enum)]
        compression: Codec,
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
    /// Opens the store, and makes tables that were written elsewhere part of it, all or none: by this engine's TableWriter or RocksDB's
    /// SstFileWriter.
    Ingest {
        /// The directory.
        dir: PathBuf,
        /// The tables.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The family.
        #[arg(long, default_value = "default")]
        family: String,
        /// Links the files into the store and takes their names away, where copies would be made.
        #[arg(long = "move")]
        moves: bool,
        /// Merge operands are appended, with this between them (RocksDB's StringAppendOperator). Without it, tables that have
        /// operands are refused.
        #[arg(long, value_name = "DELIMITER")]
        append: Option<String>,
    },
    /// Backups of a store, in a directory of their own, as RocksDB's BackupEngine lays it out.
    #[command(subcommand)]
    Backup(backup::Command),
    /// Makes a store of what can be read, if the MANIFEST or CURRENT is lost or damaged. Nothing is deleted: what is no part of it is
    /// in the directory `lost` afterwards. Exit status 1 if anything was lost.
    Repair {
        /// The directory.
        dir: PathBuf,
        #[command(flatten)]
        style: Style,
    },
}

/// Compressions that are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Codec {
    None,
    Snappy,
    Lz4,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Compression {
        match codec {
            Codec::None => Compression::None,
            Codec::Snappy => Compression::Snappy,
            Codec::Lz4 => Compression::Lz4,
        }
    }
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Dump { path, style } => dump::dump(&path, Output::new(style)).await,
        Command::Manifest { path, style } => manifest::show(&path, Output::new(style)).await,
        Command::Wal { path, style } => wal::show(&path, Output::new(style)).await,
        Command::Properties { dir, family, tables, style } => {
            let store = ReadOnlyStore::open(&dir, ReadOnlyOptions::default()).await?;
            match tables {
                false => properties(&store, &family, Output::new(style)).await,
                true => tables_of(&store, &family, Output::new(style)).await,
            }
        }
        Command::Check { dir, style } => check(&dir, Output::new(style)).await,
        Command::Scan { dir, family, from, to, limit, backwards, keys, append, style } => {
            let range = (
                from.map_or(Bound::Unbounded, |key| Bound::Included(key.into_bytes())),
                to.map_or(Bound::Unbounded, |key| Bound::Excluded(key.into_bytes())),
            );
            let wanted = Wanted { family, range, limit: limit.unwrap_or(u64::MAX), backwards, keys, append };
            scan(&dir, wanted, Output::new(style)).await
        }
        Command::Compact { dir, compression, family } => {
            compact(&dir, compression.into(), family.as_deref()).await
        }
        Command::Checkpoint { dir, target } => checkpoint(&dir, &target).await,
        Command::Ingest { dir, files, family, moves, append } => {
            let operator = append.map(|delimiter| MergeWith::new(Append::new(delimiter.as_bytes())));
            ingest(&dir, &files, &family, IngestOptions { moves }, operator).await
        }
        Command::Backup(command) => backup::run(command).await,
        Command::Repair { dir, style } => repair::run(&dir, Output::new(style)).await,
    }
}

struct Wanted {
    family: String,
    range: (Bound<Vec<u8>>, Bound<Vec<u8>>),
    limit: u64,
    backwards: bool,
    keys: bool,
    append: Option<String>,
}

async fn scan(dir: &Path, wanted: Wanted, mut out: Output) -> Result<(), Failure> {
    let Wanted { family, mut range, mut limit, backwards, keys, append } = wanted;
    let merge_operators =
        append.map(|delimiter| (family.clone(), MergeWith::new(Append::new(delimiter.as_bytes()))));
    let merge_operators = merge_operators.into_iter().collect();
    let options = ReadOnlyOptions { block_cache_bytes: BLOCK_CACHE_BYTES, merge_operators };
    let store = ReadOnlyStore::open(dir, options).await?;
    let mut iter = store.iter(&family, range.clone())?;
    // Before the first key, where the way back begins with a jump.
    let (mut is_fresh, mut unreadable) = (true, 0u64);
    while limit > 0 {
        let entry = match (backwards, std::mem::take(&mut is_fresh)) {
            (false, _) => iter.next().await,
            (true, false) => iter.prev().await,
            (true, true) => iter.seek_to_last().await,
        };
        match entry {
            Ok(None) => break,
            Ok(Some((key, value))) => show_pair(&key, Some(&value), keys, &mut out)?,
            Err(Error::Unmergeable { key, .. }) => {
                unreadable += u64::from(!keys);
                show_pair(&key, None, keys, &mut out)?;
                // An iterator is nowhere after an error: go on behind the key.
                match backwards {
                    true => range.1 = Bound::Excluded(key),
                    false => range.0 = Bound::Excluded(key),
                }
                (iter, is_fresh) = (store.iter(&family, range.clone())?, true);
            }
            Err(error) => return Err(error.into()),
        }
        limit -= 1;
    }
    out.end()?;
    match unreadable {
        0 => Ok(()),
        count => Err(format!("{count} keys have merge operands: say with --append what those mean").into()),
    }
}

/// Without a value: it has operands.
fn show_pair(key: &[u8], value: Option<&[u8]>, keys: bool, out: &mut Output) -> Result<(), Failure> {
    let (key, value) = (out.bytes(key), value.map(|value| out.bytes(value)));
    if keys {
        return Ok(out.say(&key, &json!({ "key": key }))?);
    }
    let json = match &value {
        Some(value) => json!({ "key": key, "value": value }),
        None => json!({ "key": key, "has_operands": true }),
    };
    Ok(out.say(&format!("{key} : {}", value.as_deref().unwrap_or("(merge operands)")), &json)?)
}

async fn check(dir: &Path, mut out: Output) -> Result<(), Failure> {
    let checked = ReadOnlyStore::check(dir).await?;
    let Checked { families, tables, blob_files, logs, cut_logs, verified, errors } = checked;
    for CutLog { path, at_bytes, records_follow } in &cut_logs {
        let what = match records_follow {
            true => "a record is not whole, and the records behind it will not be applied",
            false => "it ends in a record that is not whole",
        };
        let text =
            format!("note: {} at byte {at_bytes}: {what}; nothing says that it was durable", path.display());
        let json = json!({ "cut_log": path, "at_bytes": at_bytes, "records_follow": records_follow });
        out.say(&text, &json)?;
    }
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
        "cut_logs": cut_logs.len(),
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

/// Opens a store to be worked on.
async fn open(dir: &Path, family: FamilyOptions) -> Result<Store, Failure> {
    let names = Store::list_families(dir).await?;
    let others: Vec<(&str, FamilyOptions)> =
        names.iter().skip(1).map(|name| (name.as_str(), family.clone())).collect();
    let options = Options { create_if_missing: false, family, ..Options::default() };
    Ok(Store::open_families(dir, options, &others).await?)
}

async fn compact(dir: &Path, compression: Compression, family: Option<&str>) -> Result<(), Failure> {
    let options = FamilyOptions { compression, ..as_they_are() };
    let store = open(dir, options).await?;
    match family {
        None => store.compact_all().await?,
        Some(name) => named(&store, dir, name)?.compact_all().await?,
    }
    Ok(store.close().await?)
}

fn named(store: &Store, dir: &Path, name: &str) -> Result<Family, Failure> {
    let family = store.family(name);
    Ok(family.ok_or_else(|| format!("there is no family {name} in {}", dir.display()))?)
}

/// Values stay where they are: whether they are to be in blob files is not known here.
fn as_they_are() -> FamilyOptions {
    FamilyOptions { blob_gc_age_percent: 0, ..FamilyOptions::default() }
}

/// Opens a store. What the logs hold goes to tables; nothing else is made anew.
pub(crate) async fn open_as_it_is(dir: &Path) -> Result<Store, Failure> {
    open_as_it_is_with(dir, None).await
}

async fn open_as_it_is_with(dir: &Path, merge_operator: Option<MergeWith>) -> Result<Store, Failure> {
    const NEVER: usize = 1 << 30;
    let options = FamilyOptions {
        level0_compaction_trigger: NEVER,
        level0_stop_writes_trigger: NEVER + 1,
        max_bytes_for_level_base: 1 << 60,
        level_multiplier: 2,
        merge_operator,
        ..as_they_are()
    };
    open(dir, options).await
}

async fn checkpoint(dir: &Path, target: &Path) -> Result<(), Failure> {
    let store = open_as_it_is(dir).await?;
    let made = store.checkpoint(target).await?;
    println!("{}: {} files, as of write {}", target.display(), made.files.len(), made.sequence);
    Ok(store.close().await?)
}

async fn ingest(
    dir: &Path,
    files: &[PathBuf],
    family: &str,
    options: IngestOptions,
    merge_operator: Option<MergeWith>,
) -> Result<(), Failure> {
    let store = open_as_it_is_with(dir, merge_operator).await?;
    let ingested = match named(&store, dir, family) {
        Ok(family) => family.ingest(files, options).await.map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    let closed = store.close().await;
    let (sequence, tables) = (ingested?, files.len());
    closed?;
    let count = if tables == 1 { "1 table".to_owned() } else { format!("{tables} tables") };
    println!("{}: {count} ingested, as of write {sequence}", dir.display());
    Ok(())
}

async fn properties(store: &ReadOnlyStore, family: &str, mut out: Output) -> Result<(), Failure> {
    for name in PROPERTIES {
        let value = store.property(family, name).await?.unwrap_or_default();
        let separator = if value.contains('\n') { "\n" } else { " " };
        out.say(
            &format!("{name}:{separator}{}", value.trim_end()),
            &json!({ "name": name, "value": value }),
        )?;
    }
    out.end()
}

async fn tables_of(store: &ReadOnlyStore, family: &str, mut out: Output) -> Result<(), Failure> {
    for table in store.tables(family).await? {
        let TableInfo {
            level, name, len_bytes, smallest_sequence, largest_sequence, entries, deletions, ..
        } = &table;
        let (smallest, largest) = (out.bytes(&table.smallest), out.bytes(&table.largest));
        let counted = |count: &Option<u64>| count.map_or("?".to_owned(), |count| count.to_string());
        let text = format!(
            "level {level}  {name}  {len_bytes} bytes  {smallest} to {largest}  writes {smallest_sequence} to \
             {largest_sequence}  {} entries, {} tombstones",
            counted(entries),
            counted(deletions),
        );
        let json = json!({
            "level": level,
            "name": name,
            "len_bytes": len_bytes,
            "smallest": smallest,
            "largest": largest,
            "smallest_sequence": smallest_sequence,
            "largest_sequence": largest_sequence,
            "entries": entries,
            "deletions": deletions,
        });
        out.say(&text, &json)?;
    }
    out.end()
}
