//! The command line: sweep, fuzz, census, errors, replay, shrink, explain, regress, corpus, bench, list, plan.
//!
//! Exit status: 0 everything held; 1 something did not; 2 bad usage or input (one line: what and where, nothing written);
//! 3 void: a campaign large enough never saw what its scenario demands; 4 a plan run twice went two ways (two digests, or a
//! failure that did not repeat); 130 it was interrupted (Ctrl-C), and what it says and leaves is a part. Of several, an interrupt
//! outranks non-determinism, that a violation, and that a void campaign: each makes the next worth less.

mod bench;
mod campaign;
mod census;
mod corpus;
mod errors;
mod explain;
mod failure;
mod fuzz;
mod github;
mod list;
mod out;
mod regress;
mod replay;
mod report;
mod shrink;
mod source;
mod sweep;
mod table;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use cutwater_io::points::Point;

use crate::program;
use crate::runner::process;
use crate::scenario::Scenario;
use crate::search::explorer::Strategy;
use crate::told::folded;

/// Everything held.
const HELD: u8 = 0;
/// Something did not hold.
const VIOLATED: u8 = 1;
/// Bad usage or bad input.
const USAGE: u8 = 2;
/// The campaign never saw what it must have seen.
const VOID: u8 = 3;
/// A plan run twice went two ways.
const NONDETERMINISTIC: u8 = 4;
/// Somebody pressed Ctrl-C: 128 and the number of the signal, as a shell has it.
const INTERRUPTED: u8 = 130;

/// Says that this process was started again with fixed addresses.
const STARTED_AGAIN: &str = "CUTWATER_ADDRESSES";

/// Runs whole systems inside a deterministic simulation, breaks them, and proves what was recovered.
#[derive(Parser)]
#[command(name = "cutwater", version)]
struct Line {
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Run many seeds (without any command: 1000 of each scenario, for at most 50 seconds)
    Sweep(SweepArgs),
    /// Look for failures until the time is over, and never stop at the first
    Fuzz(FuzzArgs),
    /// Let each call site of a run fail once, in each way that it can
    Errors(ErrorsArgs),
    /// The plans that a guided search has kept
    #[command(subcommand)]
    Corpus(CorpusVerb),
    /// Run one plan again: the same verdict, the same digest
    Replay(ReplayArgs),
    /// Look for the smallest plan that fails the same way
    Shrink(ShrinkArgs),
    /// Tell what of a failing plan is essential, and when the failure was decided
    Explain(ExplainArgs),
    /// Keep failures as tests, and run those that are kept
    #[command(subcommand)]
    Regress(RegressVerb),
    /// Recover from every image that a crash can leave, at every call to the disk
    Census(census::CensusArgs),
    /// Show scenarios, fault classes, points and oracles
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure how much a second of CPU time buys
    Bench(BenchArgs),
    /// Print the plan that a seed names
    Plan {
        /// SCENARIO:SEED
        #[arg(value_name = "SCENARIO:SEED")]
        seed: String,
    },
}

#[derive(Args)]
struct SweepArgs {
    /// Which scenarios; all if none is named
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// Which seeds of each scenario: N for the first N, 0 to N-1; A..B for A to B-1
    #[arg(long, value_name = "N|A..B", default_value = "1000")]
    seeds: String,
    /// Start no more plans after this long (90s, 10m, 2h)
    #[arg(long, value_name = "DURATION")]
    time: Option<String>,
    /// Only the k-th of n parts of the seeds
    #[arg(long, value_name = "k/n")]
    shard: Option<String>,
    #[command(flatten)]
    campaign: CampaignArgs,
}

#[derive(Args)]
struct FuzzArgs {
    /// Which scenarios; all if none is named
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// For how long (90s, 10m, 2h)
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    time: String,
    /// The master seed; the date (20260131) if not given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How plans are chosen
    #[arg(long, default_value = "fresh")]
    strategy: Strategy,
    /// Begin with the plans kept here, and keep those that reach something new
    #[arg(long, value_name = "DIR")]
    corpus: Option<std::path::PathBuf>,
    #[command(flatten)]
    campaign: CampaignArgs,
}

#[derive(Args)]
struct ErrorsArgs {
    /// SCENARIO:SEED, or SCENARIO for seed 0; the faults of its plan are left out
    #[arg(value_name = "SCENARIO[:SEED]")]
    what: String,
    #[command(flatten)]
    campaign: CampaignArgs,
}

#[derive(Subcommand)]
enum CorpusVerb {
    /// Show the plans
    List {
        /// The corpus
        dir: std::path::PathBuf,
    },
    /// Add those plans of other corpora that reach something new
    Merge {
        /// The corpus
        dir: std::path::PathBuf,
        /// Others
        #[arg(required = true)]
        from: Vec<std::path::PathBuf>,
    },
    /// Remove plans that reach nothing that others do not
    Min {
        /// The corpus
        dir: std::path::PathBuf,
    },
}

/// What a sweep and a fuzz have in common.
#[derive(Args, Clone)]
struct CampaignArgs {
    /// How many plans at once; as many as there are processors if not given
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
    /// Run each plan under this many schedules
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    schedules: u64,
    /// JSON lines on stdout: one per plan, then a summary
    #[arg(long)]
    json: bool,
    /// Keep the plans of failures as they are
    #[arg(long)]
    no_shrink: bool,
    /// Leave the report and capsules here; what is there already is moved to earlier-N/
    #[arg(long, value_name = "DIR")]
    out: Option<std::path::PathBuf>,
    /// Of a thousand plans, how many run twice to compare digests; unless 0, the first, too
    #[arg(long, value_name = "PERMILLE", default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=1000))]
    check_determinism: u64,
    /// Kill a plan after so many seconds of real time
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = limit)]
    limit: u64,
    /// Name every cell of the matrix (fault class x point) that stayed empty
    #[arg(long)]
    matrix: bool,
    /// Tell a CI system of failures, in its own words
    #[arg(long, value_name = "SYSTEM")]
    annotate: Option<Annotate>,
}

/// A CI system.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Annotate {
    /// Annotations, and a summary of the step
    Github,
}

#[derive(Args)]
struct BenchArgs {
    /// Which scenarios; all if none is named
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// How long each is measured, in seconds of CPU time
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// As JSON lines
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ShrinkArgs {
    /// SCENARIO:SEED, a plan file, or a capsule
    #[arg(value_name = "SCENARIO:SEED|PATH")]
    what: String,
    /// Write the smallest plan here
    #[arg(long, value_name = "FILE")]
    out: Option<std::path::PathBuf>,
    /// Look for at most this long (30s, 10m)
    #[arg(long, value_name = "DURATION", default_value = "50s")]
    time: String,
    /// Try at most so many smaller plans
    #[arg(long, value_name = "N", default_value_t = 3000, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// How many plans at once; as many as there are processors if not given
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Kill a plan after so many seconds of real time
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = limit)]
    limit: u64,
}

#[derive(Args)]
struct ExplainArgs {
    /// SCENARIO:SEED, a plan file, or a capsule
    #[arg(value_name = "SCENARIO:SEED|PATH")]
    what: String,
    /// Look for at most this long (30s, 10m)
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    time: String,
    /// How many plans at once; as many as there are processors if not given
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Kill a plan after so many seconds of real time
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = limit)]
    limit: u64,
}

#[derive(Subcommand)]
enum RegressVerb {
    /// Keep the minimal plan of a capsule as a regression
    Add {
        /// The capsule
        #[arg(value_name = "DIR")]
        capsule: std::path::PathBuf,
        /// What happened, what was lost, why the mended code does not do it
        #[arg(long, value_name = "TEXT")]
        story: String,
        /// Where regressions are kept
        #[arg(long, value_name = "DIR", default_value = "tests/regressions")]
        to: std::path::PathBuf,
    },
    /// Run the regressions: mended ones must hold and reach what they did, open ones fail as they did
    Run {
        /// A file, or a directory with one at least, at any depth
        #[arg(value_name = "PATH", default_value = "tests/regressions")]
        path: std::path::PathBuf,
        /// Kill a plan after so many seconds of real time
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = limit)]
        limit: u64,
    },
}

#[derive(Args)]
struct ReplayArgs {
    /// SCENARIO:SEED, a plan file, a capsule, or a regression
    #[arg(value_name = "SCENARIO:SEED|PATH")]
    what: String,
    /// Tell what happened, with virtual times
    #[arg(long)]
    trace: bool,
    /// Write what happened as a page that opens in a browser
    #[arg(long, value_name = "FILE")]
    html: Option<std::path::PathBuf>,
    /// Write what happened for ui.perfetto.dev
    #[arg(long, value_name = "FILE")]
    perfetto: Option<std::path::PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Kill the run after so many seconds of real time
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = limit)]
    limit: u64,
}

/// What the commands know.
struct Registry<'a> {
    scenarios: &'a [&'a dyn Scenario],
    points: &'a [Point],
}

/// Bad usage or bad input: one line that says what and where.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

impl<'a> Registry<'a> {
    fn scenario(&self, name: &str) -> Result<&'a dyn Scenario, Usage> {
        let names: Vec<&str> = self.scenarios.iter().map(|s| s.name()).collect();
        self.scenarios
            .iter()
            .find(|s| s.name() == name)
            .copied()
            .ok_or_else(|| Usage(format!("unknown scenario `{name}` (there are {})", names.join(", "))))
    }

    /// Those named, or all if none is.
    fn scenarios(&self, names: &[String]) -> Result<Vec<&'a dyn Scenario>, Usage> {
        if names.is_empty() {
            return Ok(self.scenarios.to_vec());
        }
        names.iter().map(|name| self.scenario(name)).collect()
    }

    /// What `SCENARIO:SEED` names.
    fn seed(&self, text: &str) -> Result<(&'a dyn Scenario, u64), Usage> {
        let (name, seed) = text
            .rsplit_once(':')
            .ok_or_else(|| Usage(format!("`{text}` is not of the form SCENARIO:SEED")))?;
        let scenario = self.scenario(name)?;
        let seed =
            seed.parse().map_err(|_| Usage(format!("`{seed}` in `{text}` is not a seed (0 or more)")))?;
        Ok((scenario, seed))
    }
}

/// The program: what to run is on the command line, what there is to run comes from the caller. `points` are all points of
/// the system, for lists and coverage.
pub fn main(scenarios: &[&dyn Scenario], points: Vec<Point>) -> ExitCode {
    process::end_quietly_on_broken_pipe();
    program::note();
    let line = match Line::try_parse() {
        Ok(line) => line,
        Err(error) if error.use_stderr() => return refuse(&in_one_line(&error)),
        // Help, or the version: asked for, and of many lines.
        Err(error) => error.exit(),
    };
    let registry = Registry { scenarios, points: &points };
    // What runs no plan has no digest.
    if !matches!(line.command, Some(Verb::List { .. } | Verb::Plan { .. })) {
        start_again_with_fixed_addresses();
    }
    let result = match line.command {
        None => {
            let sweep = ["cutwater", "sweep", "--time", "50s"];
            match Line::parse_from(sweep).command {
                Some(Verb::Sweep(args)) => sweep::run(&registry, &args),
                _ => unreachable!("the line above is a sweep"),
            }
        }
        Some(Verb::Sweep(args)) => sweep::run(&registry, &args),
        Some(Verb::Bench(args)) => bench::run(&registry, &args),
        Some(Verb::Fuzz(args)) => fuzz::run(&registry, &args),
        Some(Verb::Errors(args)) => errors::run(&registry, &args),
        Some(Verb::Corpus(verb)) => corpus::run(&registry, &verb),
        Some(Verb::Replay(args)) => replay::run(&registry, &args),
        Some(Verb::Shrink(args)) => shrink::run(&registry, &args),
        Some(Verb::Explain(args)) => explain::run(&registry, &args),
        Some(Verb::Regress(verb)) => regress::run(&registry, &verb),
        Some(Verb::Census(args)) => census::run(&registry, &args),
        Some(Verb::List { json }) => Ok(list::run(&registry, json)),
        Some(Verb::Plan { seed }) => registry.seed(&seed).map(|(scenario, seed)| {
            print!("{}", scenario.generate(seed).to_json());
            HELD
        }),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(usage) => refuse(&usage.to_string()),
    }
}

fn refuse(what: &str) -> ExitCode {
    // Names in a plan are hostile: no line breaks, nothing that steers a terminal.
    eprintln!("cutwater: {}", what.replace(char::is_control, " "));
    ExitCode::from(USAGE)
}

/// What the parser of arguments says, without its hints.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let line = lines.join(" ");
    format!("{} (see --help)", line.strip_prefix("error: ").unwrap_or(&line))
}

/// How many plans run at once.
fn jobs(asked: Option<usize>) -> Result<usize, Usage> {
    match asked {
        Some(0) => Err(Usage("--jobs 0: at least one plan must run at a time".into())),
        Some(jobs) => Ok(jobs),
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
    }
}

/// How long a plan may take, in seconds of real time.
fn limit(text: &str) -> Result<u64, String> {
    let of_a_day = |s: &u64| (1..=86_400).contains(s);
    text.parse().ok().filter(of_a_day).ok_or_else(|| "not a number of seconds from 1 to 86400".into())
}

/// `90s`, `10m`, `2h`.
fn duration(text: &str) -> Result<Duration, Usage> {
    let bad = || Usage(format!("--time {text}: not a duration such as 90s, 10m or 2h"));
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(bad)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    Ok(Duration::from_secs(number.checked_mul(factor).ok_or_else(bad)?))
}

/// Addresses of code and data must not differ between processes: where they could, a hash of a pointer could too.
#[expect(clippy::disallowed_methods, reason = "the environment decides about this process, not about a plan")]
fn start_again_with_fixed_addresses() {
    if std::env::var(STARTED_AGAIN).is_ok() {
        return;
    }
    if !process::fix_addresses() {
        eprintln!(
            "cutwater: this system does not let a process fix its addresses; digests rest on lints alone"
        );
        return;
    }
    let error =
        Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).env(STARTED_AGAIN, "fixed").exec();
    eprintln!("cutwater: could not start again with fixed addresses ({error}); digests rest on lints alone");
}

/// The head of a failure: what was expected, and what was found.
fn failure_head(report: &crate::Report) -> String {
    let [oracle, property, expected, found] = report.verdict.explain();
    let text = format!(
        "FAILURE {}  {}  {oracle}: {property}\n  expected  {expected}\n  found     {found}\n",
        report.verdict.signature(),
        crate::capsule::name(report)
    );
    folded(&text, 12)
}
