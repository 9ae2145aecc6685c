//! Do the oracles bite? Plants one bug at a time in a copy of the sources, builds it, and looks for it.
//!
//!     cargo run --release --bin planted [NAME..] [--how sweep|errors|census|guided|all] [--shrink] [--json FILE]
//!     cargo run --release --bin planted -- --table FILE [--into docs/bugs.md]
//!
//! A bug is a patch in `tests/bugs/NAME.patch`, see [`bug`]. The sources that are built here never hold a bug: the patch is
//! applied to a copy, see [`tree`], which keeps its build between runs; the next bug is built while the present one is looked
//! for. The patched binary is asked in one or several ways, see [`find`], and what came of it is a row, see [`table`]. A bug
//! that cannot be built is one with a row that says so.
//!
//! With `--json FILE` the rows are kept there, and a run that was interrupted goes on where it was. `--table FILE` makes the
//! tables of such a file and runs nothing.
//!
//! The exit status is 0 if every bug was found that its patch says can be found, 1 if one was not, 2 for bad usage.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a tool for developers: it works on real files and processes"
)]

mod bug;
mod find;
mod table;
mod tree;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use bug::Bug;
use find::{Binary, Limits};
use table::Row;
use tree::{Built, Tree};

#[derive(Parser)]
#[command(about = "Plants one bug at a time in a copy of the sources, and looks for it")]
struct Args {
    /// Names of patches in tests/bugs, without `.patch`; all of them if none is given.
    names: Vec<String>,
    /// How to look.
    #[arg(long, value_enum, default_value = "sweep")]
    how: How,
    /// Look in all of so many seeds. If not given, a sweep ends some seeds after the first failure, or with as many as the
    /// patch demands.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// How long each way of looking but the sweep may take, and shrinking, in seconds.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Longest sequence of the mini workload that a census goes through.
    #[arg(long, value_name = "LENGTH", default_value_t = 3)]
    mini: usize,
    /// How many plans at once; as many as there are processors if not given.
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
    /// Shrink the first failing plan of the way that was the cheapest.
    #[arg(long)]
    shrink: bool,
    /// Keep a line of JSON for each bug in this file; bugs that have one are not looked for again.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Look for bugs that have a line, too.
    #[arg(long, requires = "json")]
    again: bool,
    /// Build and run nothing: only make the tables of what --json kept in this file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["names", "json"])]
    table: Option<PathBuf>,
    /// Put the tables into this document, in the place of those it has.
    #[arg(long, value_name = "DOCUMENT")]
    into: Option<PathBuf>,
    /// The workspace.
    #[arg(long, value_name = "DIR", default_value = ".")]
    workspace: PathBuf,
}

/// How to look for a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum How {
    /// Seeds from 0 on.
    Sweep,
    /// Each call of a run without faults fails once.
    Errors,
    /// All images that a crash can leave of short sequences of operations.
    Census,
    /// A search that keeps and mutates plans which reach something new.
    Guided,
    /// All of these.
    All,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("planted: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool, String> {
    let kept = match args.table.as_ref().or(args.json.as_ref()) {
        Some(file) => table::read(file)?,
        None => BTreeMap::new(),
    };
    let rows = match &args.table {
        Some(file) if kept.is_empty() => return Err(format!("{}: no rows", file.display())),
        Some(_) => kept,
        None => look_for_all(args, kept)?,
    };
    let tables = table::tables(&rows);
    match &args.into {
        Some(document) => put_into(document, &tables)?,
        None => print!("{tables}"),
    }
    Ok(rows.values().all(Row::is_as_demanded))
}

fn put_into(document: &Path, tables: &str) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("--into {}: {e}", document.display());
    let old = std::fs::read_to_string(document).map_err(|e| failed(&e))?;
    let new = table::put_into(&old, tables).map_err(|e| failed(&e))?;
    std::fs::write(document, new).map_err(|e| failed(&e))
}

/// The rows of the bugs that were asked for. Those that are kept and not asked for stay in the file.
fn look_for_all(args: &Args, mut kept: BTreeMap<String, Row>) -> Result<BTreeMap<String, Row>, String> {
    let bugs = bug::read_all(&args.workspace.join("tests/bugs"), &args.names)?;
    let is_done = |bug: &Bug| {
        kept.get(&bug.name).is_some_and(|row| !args.again && row.trouble.is_none() && row.how == args.how)
    };
    let (done, open): (Vec<Bug>, Vec<Bug>) = bugs.into_iter().partition(is_done);
    if !done.is_empty() {
        eprintln!("planted: {} bugs have a row and are not looked for again", done.len());
    }
    let mut rows: BTreeMap<String, Row> =
        done.iter().map(|bug| (bug.name.clone(), kept[&bug.name].clone())).collect();
    let tree = Tree::new(&args.workspace)?;
    let bar = bar(open.len() as u64);
    std::thread::scope(|scope| {
        // A bug is built while the one before it is looked for.
        let (send, built) = mpsc::sync_channel(0);
        let tree = &tree;
        scope.spawn(move || {
            for bug in open {
                let built = tree.build(&bug);
                // Nobody listens after an error.
                if send.send((bug, built)).is_err() {
                    return;
                }
            }
        });
        for (bug, built) in built {
            bar.set_message(bug.name.clone());
            let row = look_for(args, &bug, built, tree);
            bar.suspend(|| eprintln!("{}", row.brief()));
            bar.inc(1);
            rows.insert(bug.name.clone(), row.clone());
            kept.insert(bug.name, row);
            if let Some(file) = &args.json {
                table::write(file, &kept)?;
            }
        }
        bar.finish_and_clear();
        Ok(rows)
    })
}

/// One row. Whatever goes wrong is told in it.
fn look_for(args: &Args, bug: &Bug, built: Result<Built, String>, tree: &Tree) -> Row {
    let since = Instant::now();
    let mut row = Row::new(bug, args.how);
    let looked = built.and_then(|built| {
        row.build_ms = millis(built.took);
        let binary = Binary { path: built.binary.clone(), scratch: tree.scratch()?, jobs: args.jobs };
        look(args, bug, &binary, &mut row)
    });
    row.trouble = looked.err();
    row.elapsed_ms = row.build_ms + millis(since.elapsed());
    row
}

/// Looks in all the ways that were asked for.
fn look(args: &Args, bug: &Bug, binary: &Binary, row: &mut Row) -> Result<(), String> {
    let limits = Limits {
        seeds: args.seeds.unwrap_or_else(|| bug.demand.seeds()),
        all_seeds: args.seeds.is_some(),
        time: Duration::from_secs(args.seconds),
        mini: args.mini,
    };
    let asked = |how| args.how == how || args.how == How::All;
    if asked(How::Sweep) {
        row.ways.push(find::sweep(binary, bug, &limits)?);
    }
    if asked(How::Errors) {
        row.ways.push(find::errors(binary, bug, &limits)?);
    }
    if asked(How::Census) {
        row.ways.extend(find::census(binary, bug, &limits)?);
    }
    if asked(How::Guided) {
        row.ways.push(find::guided(binary, bug, &limits)?);
    }
    if let Some((_, first)) = row.cheapest().filter(|_| args.shrink) {
        row.shrunk = find::shrink(binary, &first.plan, &limits)?;
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn bar(bugs: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} bugs  {elapsed} of about {duration}  {msg}")
            .expect("the template is well formed");
    ProgressBar::new(bugs).with_style(style)
}

/// Runs a command to its end, and returns what it printed.
fn checked(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
