//! Do the oracles bite? Plants one bug at a time in a copy of the sources, builds it, and looks for it.
//!
//!     cargo run --release --bin planted [NAME..] [--how sweep|errors|census|guided|all] [--seeds N] [--shrink]
//!
//! A bug is a patch in `tests/bugs/NAME.patch`, see [`bug`]. The sources that are built here never hold a bug: the patch is
//! applied to a copy, see [`tree`], which keeps its build between runs. The patched binary is then asked in one or several
//! ways, see [`find`], and what it found goes into one row of a table, see [`table`].
//!
//! The exit status is 0 if every bug was found that its patch says can be found, 1 if one was not, 2 for bad usage.
#![expect(clippy::disallowed_methods, reason = "a tool for developers: it works on real files and processes")]

mod bug;
mod find;
mod table;
mod tree;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Parser, ValueEnum};

use bug::{Bug, Demand};
use find::{Binary, Found, Limits};
use tree::Tree;

#[derive(Parser)]
#[command(about = "Plants one bug at a time in a copy of the sources, and looks for it")]
struct Args {
    /// Names of patches in tests/bugs, without `.patch`; all of them if none is given.
    names: Vec<String>,
    /// How to look.
    #[arg(long, value_enum, default_value = "sweep")]
    how: How,
    /// Seeds that a sweep looks in; as many as the patch demands if not given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// How long a census and a guided search may look (90s, 10m).
    #[arg(long, default_value = "60s")]
    time: String,
    /// Longest sequence of the mini workload that a census goes through.
    #[arg(long, default_value_t = 3)]
    mini: usize,
    /// How many plans at once; as many as there are processors if not given.
    #[arg(long)]
    jobs: Option<usize>,
    /// Shrink the first failing plan, and say how large it then is.
    #[arg(long)]
    shrink: bool,
    /// Write a line of JSON for each bug to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The workspace.
    #[arg(long, default_value = ".")]
    workspace: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
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
    let bugs = bug::read_all(&args.workspace.join("tests/bugs"), &args.names)?;
    let tree = Tree::new(&args.workspace)?;
    let mut json = String::new();
    println!("{}", table::HEAD);
    let mut all_found = true;
    for bug in &bugs {
        tree.copy_sources()?;
        tree.plant(bug)?;
        tree.build().map_err(|e| format!("{}: does not build: {e}", bug.name))?;
        let found = look(args, bug, &tree)?;
        all_found &= found.iter().any(Found::is_found) || matches!(bug.demand, Demand::Nothing(_));
        println!("{}", table::row(bug, &found));
        json += &format!("{}\n", table::json(bug, &found));
        if let Some(file) = &args.json {
            std::fs::write(file, &json).map_err(|e| format!("--json {}: {e}", file.display()))?;
        }
    }
    Ok(all_found)
}

/// Looks in all the ways that were asked for.
fn look(args: &Args, bug: &Bug, tree: &Tree) -> Result<Vec<Found>, String> {
    let binary = Binary { path: tree.binary(), scratch: tree.scratch(), jobs: args.jobs };
    let limits = Limits { time: args.time.clone(), mini: args.mini };
    let asked = |how| args.how == how || args.how == How::All;
    let mut found = Vec::new();
    if asked(How::Sweep) {
        let seeds = args.seeds.unwrap_or_else(|| bug.demand.seeds());
        found.push(find::sweep(&binary, bug, seeds)?);
    }
    if asked(How::Errors) {
        found.push(find::errors(&binary, bug)?);
    }
    if asked(How::Census) {
        found.extend(find::census(&binary, bug, &limits)?);
    }
    if asked(How::Guided) {
        found.push(find::guided(&binary, bug, &limits)?);
    }
    if args.shrink {
        for one in &mut found {
            find::shrink(&binary, bug, one)?;
        }
    }
    Ok(found)
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
