//! Backups of a store, in a directory of their own.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use cutwater_engine::store::{Backup, Backups, BackupsFound};
use serde_json::{Value, json};

use super::output::{Failure, Output, Style};
use super::store;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Opens a store, and makes a backup of it. What an earlier one has is not copied again.
    Create {
        /// The store.
        dir: PathBuf,
        /// The directory of backups.
        backups: PathBuf,
        #[command(flatten)]
        style: Style,
    },
    /// The backups that there are, oldest first.
    List {
        /// The directory of backups.
        backups: PathBuf,
        #[command(flatten)]
        style: Style,
    },
    /// Reads every byte of a backup, or of all, and compares it with its checksum.
    Verify {
        /// The directory of backups.
        backups: PathBuf,
        /// This one alone.
        #[arg(long)]
        id: Option<u32>,
        #[command(flatten)]
        style: Style,
    },
    /// Makes a store of a backup.
    Restore {
        /// The directory of backups.
        backups: PathBuf,
        /// Where the store is to be; it must not exist.
        target: PathBuf,
        /// Which one; the newest, if none is named.
        #[arg(long)]
        id: Option<u32>,
    },
    /// Deletes a backup, or all but the newest, and what no other one needs.
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Delete {
        /// The directory of backups.
        backups: PathBuf,
        /// This one, damaged or not.
        #[arg(long, group = "which")]
        id: Option<u32>,
        /// All but the newest so many.
        #[arg(long, group = "which")]
        keep: Option<usize>,
    },
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Create { dir, backups, style } => create(&dir, &backups, Output::new(style)).await,
        Command::List { backups, style } => list(&backups, Output::new(style)).await,
        Command::Verify { backups, id, style } => verify(&backups, id, Output::new(style)).await,
        Command::Restore { backups, target, id } => {
            let id = match id {
                Some(id) => id,
                None => newest(&backups).await?,
            };
            Backups::at(&backups).restore(id, &target).await?;
            println!("{}: restored from backup {id}", target.display());
            Ok(())
        }
        Command::Delete { backups, id, keep } => {
            let backups = Backups::at(&backups);
            let deleted = match (id, keep) {
                (Some(id), _) => backups.delete(id).await.map(|()| vec![id])?,
                (None, keep) => backups.purge(keep.unwrap_or(usize::MAX)).await?,
            };
            for id in deleted {
                println!("backup {id} is deleted");
            }
            Ok(())
        }
    }
}

async fn create(dir: &Path, backups: &Path, mut out: Output) -> Result<(), Failure> {
    let store = store::open_as_it_is(dir).await?;
    let made = Backups::at(backups).create(&store).await?;
    store.close().await?;
    show(&made, &mut out)?;
    out.end()
}

async fn list(backups: &Path, mut out: Output) -> Result<(), Failure> {
    let BackupsFound { backups: listed, damaged } = Backups::at(backups).list().await?;
    for backup in &listed {
        show(backup, &mut out)?;
    }
    for lost in &damaged {
        say_wrong(lost.id, &lost.error.to_string(), &mut out)?;
    }
    out.end()?;
    verdict(backups, damaged.len())
}

async fn verify(dir: &Path, id: Option<u32>, mut out: Output) -> Result<(), Failure> {
    let backups = Backups::at(dir);
    let ids = match id {
        Some(id) => vec![id],
        None => {
            let BackupsFound { backups, damaged } = backups.list().await?;
            backups.iter().map(|backup| backup.id).chain(damaged.iter().map(|lost| lost.id)).collect()
        }
    };
    let mut wrong = 0;
    for id in ids {
        let errors = backups.verify(id).await.unwrap_or_else(|error| vec![error]);
        for error in &errors {
            say_wrong(id, &error.to_string(), &mut out)?;
        }
        wrong += errors.len();
        if errors.is_empty() {
            out.say(&format!("backup {id}: sound"), &json!({ "backup": id, "sound": true }))?;
        }
    }
    out.end()?;
    verdict(dir, wrong)
}

async fn newest(dir: &Path) -> Result<u32, Failure> {
    let found = Backups::at(dir).list().await?;
    let newest = found.backups.last().map(|backup| backup.id);
    Ok(newest.ok_or_else(|| format!("there is no backup in {}", dir.display()))?)
}

fn show(backup: &Backup, out: &mut Output) -> Result<(), Failure> {
    let Backup { id, time_s, sequence, files, len_bytes } = backup;
    let text = format!("backup {id}  at {time_s}  as of write {sequence}  {files} files  {len_bytes} bytes");
    let json: Value =
        json!({ "backup": id, "time_s": time_s, "sequence": sequence, "files": files, "bytes": len_bytes });
    Ok(out.say(&text, &json)?)
}

fn say_wrong(id: u32, error: &str, out: &mut Output) -> Result<(), Failure> {
    Ok(out.say(&format!("backup {id}: {error}"), &json!({ "backup": id, "error": error }))?)
}

fn verdict(dir: &Path, wrong: usize) -> Result<(), Failure> {
    match wrong {
        0 => Ok(()),
        1 => Err(format!("{}: 1 thing is wrong", dir.display()).into()),
        count => Err(format!("{}: {count} things are wrong", dir.display()).into()),
    }
}
