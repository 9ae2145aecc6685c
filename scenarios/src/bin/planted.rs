//! Do the oracles bite? Plants one bug at a time in a copy of the sources, builds it, and looks for it.
//!
//!     cargo run --release --bin planted [NAME..] [--seeds 200]
//!
//! A bug is a patch in `tests/bugs/NAME.patch`, with lines of explanation before the first `diff`:
//!
//!     # the MANIFEST is not synced before its edit is applied
//!     # scenario: store
//!
//! The sources that are built here never hold a bug: the patch is applied to a copy under `target/planted`, which keeps
//! its build between runs. The exit status is 0 if every bug was found within the seeds given.
#![expect(clippy::disallowed_methods, reason = "a tool for developers: it works on real files and processes")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use clap::Parser;

#[derive(Parser)]
#[command(about = "Plants one bug at a time in a copy of the sources, and looks for it")]
struct Args {
    /// Names of patches in tests/bugs, without `.patch`; all of them if none is given.
    names: Vec<String>,
    /// Seeds to look in.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The workspace.
    #[arg(long, default_value = ".")]
    workspace: PathBuf,
}

/// One planted bug.
struct Bug {
    name: String,
    patch: PathBuf,
    about: String,
    scenario: String,
}

/// How it was found.
struct Found {
    /// The first seed that failed.
    seed: u64,
    /// What fired.
    oracle: String,
    /// How many plans failed, of how many.
    failed: usize,
    plans: usize,
    seconds: f64,
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
    let bugs = read_bugs(&args.workspace.join("tests/bugs"), &args.names)?;
    let tree = args.workspace.join("target/planted/tree");
    println!("| bug | what | scenario | oracle | first seed | plans that fail | seconds |");
    println!("|---|---|---|---|---|---|---|");
    let mut all_found = true;
    for bug in &bugs {
        copy_sources(&args.workspace, &tree)?;
        plant(&args.workspace, &tree, bug)?;
        build(&tree).map_err(|e| format!("{}: does not build: {e}", bug.name))?;
        let found = sweep(&tree, bug, args.seeds)?;
        all_found &= found.is_some();
        match found {
            Some(f) => println!(
                "| {} | {} | {} | {} | {} | {} of {} | {:.0} |",
                bug.name, bug.about, bug.scenario, f.oracle, f.seed, f.failed, f.plans, f.seconds
            ),
            None => println!(
                "| {} | {} | {} | **not found** | - | 0 of {} | - |",
                bug.name, bug.about, bug.scenario, args.seeds
            ),
        }
    }
    Ok(all_found)
}

fn read_bugs(dir: &Path, names: &[String]) -> Result<Vec<Bug>, String> {
    let mut patches: Vec<PathBuf> = std::fs::read_dir(dir)
        .map_err(|e| format!("{}: {e}", dir.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "patch"))
        .collect();
    patches.sort();
    let mut bugs = Vec::new();
    for patch in patches {
        let name = patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !names.is_empty() && !names.contains(&name) {
            continue;
        }
        let text = std::fs::read_to_string(&patch).map_err(|e| format!("{}: {e}", patch.display()))?;
        let header: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# ")).collect();
        let scenario = header.iter().find_map(|line| line.strip_prefix("scenario: "));
        let scenario =
            scenario.ok_or_else(|| format!("{}: no line `# scenario: NAME`", patch.display()))?.into();
        let patch = std::path::absolute(&patch).map_err(|e| format!("{}: {e}", patch.display()))?;
        bugs.push(Bug { name, patch, about: header[0].into(), scenario });
    }
    match names.iter().find(|name| !bugs.iter().any(|bug| bug.name == **name)) {
        Some(name) => Err(format!("{}: no {name}.patch", dir.display())),
        None => Ok(bugs),
    }
}

/// Brings the copy in line with the working tree, touching only files that differ, so that cargo rebuilds little.
fn copy_sources(workspace: &Path, tree: &Path) -> Result<(), String> {
    let listing = checked(
        Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(workspace),
    )?;
    for name in listing.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (workspace.join(name), tree.join(name));
        let Ok(content) = std::fs::read(&from) else { continue };
        if std::fs::read(&to).is_ok_and(|old| old == content) {
            continue;
        }
        let parent = to.parent().expect("a file has a directory");
        std::fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
        std::fs::write(&to, content).map_err(|e| format!("{}: {e}", to.display()))?;
    }
    Ok(())
}

/// Applies the patch, and makes sure that it changed what it names.
fn plant(workspace: &Path, tree: &Path, bug: &Bug) -> Result<(), String> {
    let beside =
        std::path::absolute(tree.parent().expect("the copy has a parent")).map_err(|e| e.to_string())?;
    let mut apply = Command::new("git");
    apply.args(["apply", "--whitespace=nowarn"]).arg(&bug.patch).current_dir(tree);
    // Inside of a repository git would silently skip everything: the copy must not be taken for a part of ours.
    checked(apply.env("GIT_CEILING_DIRECTORIES", beside))
        .map_err(|e| format!("{}: does not apply: {e}", bug.name))?;
    let patch = std::fs::read_to_string(&bug.patch).map_err(|e| format!("{}: {e}", bug.patch.display()))?;
    for name in patch.lines().filter_map(|line| line.strip_prefix("+++ b/")) {
        if std::fs::read(workspace.join(name)).ok() == std::fs::read(tree.join(name)).ok() {
            return Err(format!("{}: {name} is as it was", bug.name));
        }
    }
    Ok(())
}

fn build(tree: &Path) -> Result<(), String> {
    let args = ["build", "--release", "--quiet", "--package", "cutwater-scenarios", "--bin", "cutwater"];
    checked(Command::new("cargo").args(args).env("CARGO_TARGET_DIR", target(tree)).current_dir(tree))
        .map(drop)
}

fn target(tree: &Path) -> PathBuf {
    let dir = tree.parent().expect("the copy has a parent").join("build");
    std::path::absolute(&dir).unwrap_or(dir)
}

fn sweep(tree: &Path, bug: &Bug, seeds: u64) -> Result<Option<Found>, String> {
    let start = Instant::now();
    let output = Command::new(target(tree).join("release/cutwater"))
        .args(["sweep", &bug.scenario, "--seeds", &format!("0..{seeds}"), "--json"])
        .stderr(Stdio::null())
        .output()
        .map_err(|e| format!("cutwater: {e}"))?;
    let seconds = start.elapsed().as_secs_f64();
    let lines = String::from_utf8_lossy(&output.stdout);
    let mut plans = 0;
    let mut failures: Vec<(u64, String)> = Vec::new();
    for line in lines.lines() {
        let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let Some(seed) = value["seed"].as_u64() else { continue };
        plans += 1;
        if let Some(oracle) = failed_oracle(&value["verdict"]) {
            failures.push((seed, oracle));
        }
    }
    if plans == 0 {
        return Err(format!("{}: the sweep reported no plan", bug.name));
    }
    failures.sort();
    let failed = failures.len();
    Ok(failures.into_iter().next().map(|(seed, oracle)| Found { seed, oracle, failed, plans, seconds }))
}

/// What fired, if the verdict is not `held`: the oracle and the property it found broken.
fn failed_oracle(verdict: &serde_json::Value) -> Option<String> {
    if verdict == "held" {
        return None;
    }
    let violation = &verdict["violated"];
    match (violation["oracle"].as_str(), violation["property"].as_str()) {
        (Some(oracle), Some(property)) => Some(format!("{oracle}: {property}")),
        _ => Some(verdict.as_object()?.keys().next()?.clone()),
    }
}

fn checked(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
