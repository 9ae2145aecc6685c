//! The command line: sweep, replay, census, list, plan.
//!
//! Exit status: 0 everything held; 1 something did not; 2 bad usage or input (one line: what and where, nothing written);
//! 3 void: a campaign large enough never saw what its scenario demands; 4 a plan run twice gave two digests. Of several,
//! non-determinism outranks a violation, and that a void campaign: each makes the next worth less.

mod campaign;
mod census;
mod corpus;
mod failure;
mod fuzz;
mod list;
mod out;
mod replay;
mod sweep;
mod table;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use clap::{Args, Parser, Subcommand};
use cutwater_io::points::Point;

use crate::runner::process;
use crate::scenario::Scenario;
use crate::search::explorer::Strategy;

/// Everything held.
const HELD: u8 = 0;
/// Something did not hold.
const VIOLATED: u8 = 1;
/// Bad usage or bad input.
const USAGE: u8 = 2;
/// The campaign never saw what it must have seen.
const VOID: u8 = 3;
/// A plan run twice gave two digests.
const NONDETERMINISTIC: u8 = 4;

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
    /// The plans that a guided search has kept
    #[command(subcommand)]
    Corpus(CorpusVerb),
    /// Run one plan again: the same verdict, the same digest
    Replay(ReplayArgs),
    /// Recover from every image that a crash can leave, at every call to the disk
    Census(census::CensusArgs),
    /// Show scenarios, fault classes, points and oracles
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
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
    /// How many seeds of each scenario, from 0, or which: A..B (without B)
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
    /// Write summary.json, junit.xml and failures/ here (a fuzz: target/cutwater/fuzz if not given)
    #[arg(long, value_name = "DIR")]
    out: Option<std::path::PathBuf>,
    /// Of a thousand plans, how many are run twice to compare digests
    #[arg(long, value_name = "PERMILLE", default_value_t = 20)]
    check_determinism: u64,
    /// Kill a plan that takes longer than this many seconds of real time
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
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
struct ReplayArgs {
    /// SCENARIO:SEED, or a plan file
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
    /// Kill the run if it takes longer than this many seconds of real time
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
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
    let line = Line::parse();
    let registry = Registry { scenarios, points: &points };
    let result = match line.command {
        None => {
            start_again_with_fixed_addresses();
            let sweep = ["cutwater", "sweep", "--time", "50s"];
            match Line::parse_from(sweep).command {
                Some(Verb::Sweep(args)) => sweep::run(&registry, &args),
                _ => unreachable!("the line above is a sweep"),
            }
        }
        Some(Verb::Sweep(args)) => {
            start_again_with_fixed_addresses();
            sweep::run(&registry, &args)
        }
        Some(Verb::Fuzz(args)) => {
            start_again_with_fixed_addresses();
            fuzz::run(&registry, &args)
        }
        Some(Verb::Corpus(verb)) => {
            start_again_with_fixed_addresses();
            corpus::run(&registry, &verb)
        }
        Some(Verb::Replay(args)) => {
            start_again_with_fixed_addresses();
            replay::run(&registry, &args)
        }
        Some(Verb::Census(args)) => {
            start_again_with_fixed_addresses();
            census::run(&registry, &args)
        }
        Some(Verb::List { json }) => Ok(list::run(&registry, json)),
        Some(Verb::Plan { seed }) => registry.seed(&seed).map(|(scenario, seed)| {
            print!("{}", scenario.generate(seed).to_json());
            HELD
        }),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(usage) => {
            // Names in a plan are hostile: no line breaks, nothing that steers a terminal.
            let line = usage.to_string().replace(char::is_control, " ");
            eprintln!("cutwater: {line}");
            ExitCode::from(USAGE)
        }
    }
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

/// What a user copies to see a failure again: two lines.
pub(crate) fn lines_to_copy(scenario: &str, seed: u64) -> [String; 2] {
    [
        format!("cargo cutwater replay {scenario}:{seed} --trace"),
        format!("MADSIM_TEST_SEED={seed} cargo test --test seeds {scenario} -- --exact"),
    ]
}

pub(crate) use replay::read as read_plan_file;

/// A failure as people read it.
pub(crate) fn failure_text(report: &crate::Report) -> String {
    failure::text(report)
}

/// Virtual time as `hh:mm:ss.uuuuuu`.
pub(crate) fn clock(us: u64) -> String {
    let s = us / 1_000_000;
    format!("{:02}:{:02}:{:02}.{:06}", s / 3600, s / 60 % 60, s % 60, us % 1_000_000)
}
