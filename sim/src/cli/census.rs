//! `cutwater census`: recover from every image that a crash can leave.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use cutwater_io::sim::disk::Personality;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{HELD, INTERRUPTED, Registry, USAGE, Usage, VIOLATED, VOID, out};
use crate::census::drive::{self, Broken, Census};
use crate::census::{Settings, mini::MiniWorkload};
use crate::plan::Plan;
use crate::program::replay_line;
use crate::runner::process;
use crate::scenario::Scenario;
use crate::told::{folded, words};
use crate::verdict::Verdict;
use crate::vocabulary::Vocabulary;

/// How many seeds are looked at if none is named.
const SEEDS: u64 = 8;
/// The longest word of a mini workload; an alphabet of ten has a hundred million of the next.
const MINI_MAX: usize = 6;

/// How many operations of a plan are told: the last ones, for they are nearest to the crash.
const LAST_OPS: usize = 8;

#[derive(Args)]
pub(super) struct CensusArgs {
    /// Which plan; with only a scenario, the first seeds without their faults
    #[arg(value_name = "SCENARIO[:SEED]")]
    what: String,
    /// Crash only this node; all nodes of the system if not given
    #[arg(long, value_name = "N", default_value_t = 0)]
    node: u64,
    /// 2: crash inside of recoveries, too, of one image in 16
    #[arg(long, value_name = "1|2", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    depth: u8,
    /// All images at every moment, and with --depth 2 inside of every recovery
    #[arg(long)]
    exhaustive: bool,
    /// All sequences of up to so many operations (the mini workload)
    #[arg(long, value_name = "LENGTH")]
    mini: Option<usize>,
    /// How many images to look at where there are too many
    #[arg(long, value_name = "N", default_value_t = 8)]
    images: usize,
    /// How many processes at once; as many as there are processors if not given
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
    /// Start no more after this long (90s, 10m, 2h)
    #[arg(long, value_name = "DURATION")]
    time: Option<String>,
    /// posix_min (if not given), btrfs, xfs, ext4_ordered or rocksdb_fi
    #[arg(long, value_name = "NAME")]
    personality: Option<String>,
    /// JSON lines on stdout: one per way to fail, then a summary
    #[arg(long)]
    json: bool,
    /// Leave census.json and failing plans here, earlier ones in earlier-N/
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Kill a branch after so many seconds of real time
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = super::limit)]
    limit: u64,
}

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum JsonLine<'a> {
    Violation(&'a Broken),
    Summary {
        scenario: &'a str,
        /// The file system, if the scenario has a choice.
        personality: Option<&'a str>,
        #[serde(flatten)]
        census: &'a Census,
    },
}

/// Takes the census, and returns the exit status.
pub(super) fn run(registry: &Registry<'_>, args: &CensusArgs) -> Result<u8, Usage> {
    let (scenario, seed) = if args.what.contains(':') {
        registry.seed(&args.what).map(|(scenario, seed)| (scenario, Some(seed)))?
    } else {
        (registry.scenario(&args.what)?, None)
    };
    let jobs = super::jobs(args.jobs)?;
    let mini = mini(scenario, seed, args)?;
    let time = args.time.as_deref().map(super::duration).transpose()?;
    let until_ms =
        time.map(|t| process::real_ms().saturating_add(u64::try_from(t.as_millis()).unwrap_or(u64::MAX)));
    let settings = Settings {
        node: args.node,
        depth: args.depth,
        exhaustive: args.exhaustive,
        sample: args.images,
        // One plan has both processors to itself; of many, each has one.
        jobs: if seed.is_some() { jobs } else { 1 },
        limit_s: u32::try_from(args.limit).expect("it is at most a day"),
        until_ms,
    };
    let vocabulary = scenario.vocabulary();
    let file_system = file_system(&vocabulary, scenario.name(), args.personality.as_deref())?;
    let words = || mini.iter().flat_map(|(mini, length)| mini.plans(scenario.name(), &vocabulary, *length));
    let seeds: Vec<Plan> = match (&mini, seed) {
        (Some(_), _) => Vec::new(),
        (None, Some(seed)) => vec![scenario.generate(seed)],
        (None, None) => {
            (0..SEEDS).map(|seed| Plan { faults: Vec::new(), ..scenario.generate(seed) }).collect()
        }
    };
    let has_node = |plan: &Plan| args.node <= plan.node_count(&vocabulary);
    let total = words().count() + seeds.iter().filter(|plan| has_node(plan)).count();
    let plans = words().chain(seeds).filter(has_node);
    let mut plans = plans.map(|plan| on_file_system(plan, file_system)).peekable();
    if plans.peek().is_none() {
        return Err(Usage(format!("--node {}: no plan of {} has so many nodes", args.node, args.what)));
    }
    let out = args.out.as_deref().map(out::Out::open).transpose()?;
    process::catch_interrupt();
    let bar = bar(total as u64, args.json);
    let outer = if seed.is_some() { 1 } else { jobs };
    let census = drive::run(scenario, &mut plans, &settings, outer, &mut |census| {
        bar.set_position(census.plans);
        bar.set_message(format!("{} images, {} ways to fail", census.tally.recovered, census.failing));
    });
    bar.finish_and_clear();
    let census = census.map_err(|e| Usage(format!("the census could not go on: {e}")))?;
    if let Some(out) = &out {
        out.census(&census).map_err(|e| Usage(format!("the census could not leave its results: {e}")))?;
    }
    if args.json {
        print!("{}", json(scenario, file_system, &census));
    } else {
        print!("{}", text(scenario, file_system, &census, out.as_ref()));
    }
    Ok(status(&census))
}

/// The mini workload of `--mini`.
fn mini(
    scenario: &dyn Scenario,
    seed: Option<u64>,
    args: &CensusArgs,
) -> Result<Option<(MiniWorkload, usize)>, Usage> {
    let Some(length) = args.mini else { return Ok(None) };
    if seed.is_some() {
        return Err(Usage(format!("--mini {length}: goes through sequences, not through a seed")));
    }
    if !(1..=MINI_MAX).contains(&length) {
        return Err(Usage(format!("--mini {length}: not a length from 1 to {MINI_MAX}")));
    }
    let mini = scenario.mini();
    let mini = mini.ok_or_else(|| Usage(format!("--mini: {} has no mini workload", scenario.name())))?;
    Ok(Some((mini, length)))
}

/// The knob that chooses the file system, by its number in [`Personality::ALL`].
const KNOB: &str = "personality";

/// The file system of `--personality`; `None` if the scenario has no choice, and none was made.
fn file_system(
    vocabulary: &Vocabulary,
    scenario: &str,
    asked: Option<&str>,
) -> Result<Option<Personality>, Usage> {
    let known = |name: &str| Personality::ALL.iter().find(|personality| personality.name() == name);
    match (asked, vocabulary.knob(KNOB)) {
        (None, None) => Ok(None),
        (None, Some(_)) => Ok(Some(Personality::default())),
        (Some(name), None) => {
            Err(Usage(format!("--personality {name}: {scenario} has no choice of file systems")))
        }
        (Some(name), Some(_)) => known(name).map(|found| Some(*found)).ok_or_else(|| {
            let names: Vec<&str> = Personality::ALL.iter().map(|p| p.name()).collect();
            Usage(format!("--personality {name}: there are {}", names.join(", ")))
        }),
    }
}

/// The plan on this file system.
fn on_file_system(mut plan: Plan, file_system: Option<Personality>) -> Plan {
    if let Some(number) = Personality::ALL.iter().position(|known| Some(*known) == file_system) {
        plan.knobs.insert(KNOB.into(), number as u64);
    }
    plan
}

fn status(census: &Census) -> u8 {
    if process::interrupted() {
        return INTERRUPTED;
    }
    let invalid =
        |broken: &Broken| broken.signature == Verdict::Invalid { reason: String::new() }.signature();
    if census.violations.iter().any(invalid) {
        USAGE
    } else if !census.violations.is_empty() {
        VIOLATED
    } else if census.tally.recovered == 0 || census.trouble.is_some() {
        VOID
    } else {
        HELD
    }
}

fn json(scenario: &dyn Scenario, file_system: Option<Personality>, census: &Census) -> String {
    let personality = file_system.map(Personality::name);
    let violations = census.violations.iter().map(JsonLine::Violation);
    let summary = JsonLine::Summary { scenario: scenario.name(), personality, census };
    let lines = violations.chain(std::iter::once(summary));
    lines.map(|line| serde_json::to_string(&line).expect("a census is plain data") + "\n").collect()
}

fn text(
    scenario: &dyn Scenario,
    file_system: Option<Personality>,
    census: &Census,
    out: Option<&out::Out>,
) -> String {
    let mut text = String::new();
    let (tally, vocabulary) = (&census.tally, scenario.vocabulary());
    for broken in &census.violations {
        let name = scenario.name();
        let head = format!(
            "FAILURE {}  {name}  {}: {}\n  expected  {}\n  found     {}\n",
            broken.signature, broken.oracle, broken.property, broken.expected, broken.found
        );
        text.push_str(&folded(&head, 12));
        let _ = writeln!(text, "  images    {}", broken.count);
        text.push_str(&plan_text(broken, &vocabulary, out));
        let verb =
            if broken.reproduced { "fails alike" } else { "does not fail alike: only the branch does" };
        let _ = writeln!(text, "  alone     the plan {verb}");
        if broken.undisturbed {
            let _ = writeln!(
                text,
                "  mind      a plan fails this way without any crash of the census: look there first"
            );
        }
        text.push('\n');
    }
    let least = if tally.sampled > 0 { ">= " } else { "" };
    let on = file_system.map_or_else(String::new, |on| format!(" on {}", on.name()));
    let plural = if census.plans == 1 { "" } else { "s" };
    let _ = writeln!(text, "census of {}{on}: {} plan{plural}", scenario.name(), census.plans);
    let _ = writeln!(text, "  boundaries   {:>10}   calls to disks and points", tally.boundaries);
    let _ = writeln!(text, "  moments      {:>10}   of these, something could be new at", tally.moments);
    let _ =
        writeln!(text, "  permissible  {:>10}   sets of survivors", format!("{least}{}", tally.permissible));
    let _ = writeln!(text, "  images       {:>10}   looked at", tally.images);
    let _ = writeln!(text, "  distinct     {:>10}   new, or more is owed", tally.distinct);
    let _ = writeln!(
        text,
        "  recovered    {:>10}   {} of them inside of a recovery",
        tally.recovered, tally.inside_recovery
    );
    let _ = writeln!(text, "  violations   {:>10}", census.violations.len());
    let per_s = |us: u64| (tally.recovered * 1_000_000).checked_div(us).unwrap_or(0);
    let _ = writeln!(
        text,
        "  time         {:>8.1} s   {} images/s; {:.1} s of CPU, {} images per CPU second",
        census.elapsed_ms as f64 / 1e3,
        per_s(census.elapsed_ms * 1000),
        census.cpu_us as f64 / 1e6,
        per_s(census.cpu_us)
    );
    if census.cut_short {
        let by = if process::interrupted() { "it was interrupted" } else { "the time was over" };
        let _ = writeln!(text, "  cut short: {by} before all plans and images were looked at");
    }
    if let Some(trouble) = &census.trouble {
        let _ = writeln!(text, "  not all branches could start: {trouble}");
    }
    text
}

/// Where the plan is and how to replay it, or its last operations and its faults in a few words.
fn plan_text(broken: &Broken, vocabulary: &Vocabulary, out: Option<&out::Out>) -> String {
    if let Some(out) = out {
        let path = out.census_plan(&broken.signature).display().to_string();
        return format!("  plan      {path}\n  replay    {}\n", replay_line(&path));
    }
    let ops = &broken.plan.ops;
    let before = ops.len().saturating_sub(LAST_OPS);
    let last: Vec<String> = ops[before..].iter().map(|op| words::call(op, vocabulary)).collect();
    let more = if before > 0 { format!(" ... and {before} before") } else { String::new() };
    let plural = if ops.len() == 1 { "" } else { "s" };
    let mut text = format!("  plan      {} operation{plural}: {}{more}\n", ops.len(), last.join(", "));
    for fault in &broken.plan.faults {
        let _ = writeln!(text, "            {}", words::fault(fault));
    }
    folded(&text, 12) + "  keep      --out DIR writes it there as a plan that can be replayed\n"
}

fn bar(total: u64, json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} plans  {msg}  {elapsed} of about {duration}")
            .expect("the template is well formed");
    ProgressBar::new(total).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Op;
    use crate::vocabulary::Verb;

    #[test]
    fn of_a_long_plan_the_last_operations_are_told_on_lines_that_fit() {
        let words = Vocabulary {
            roles: vec![],
            actors: 1..=1,
            ops: 0..=100,
            verbs: vec![Verb::new("put", "writes").arg("key", 0..=99).arg("value_bytes", 0..=9)],
            knobs: vec![],
            points: vec![],
            classes: vec![],
            faults: vec![],
            horizon_us: 1..=1,
        };
        let plan = r#"{"version":1,"scenario":"store","seed":7,"schedule_seed":1,"key":2,"horizon_us":1000,
            "topology":{},"knobs":{},"ops":[],"faults":[{"id":0,"at":{"site":{"site":"disk.write","class":"wal",
            "node":1,"nth":4}},"act":{"site":{"CrashBefore":{"kind":{"PowerFail":{"Losing":[1]}},"down_us":9}}}}]}"#;
        let mut plan = Plan::from_json(plan).unwrap();
        let put = |id| Op { id, at_us: 0, actor: 0, verb: "put".into(), args: vec![u64::from(id), 9] };
        plan.ops = (0..40).map(put).collect();
        let text = String::new;
        let mut broken = Broken {
            signature: text(),
            oracle: text(),
            property: text(),
            expected: text(),
            found: text(),
            count: 1,
            undisturbed: false,
            reproduced: true,
            plan,
        };
        let told = plan_text(&broken, &words, None);
        assert!(
            told.starts_with("  plan      40 operations: put key=32 value_bytes=9, put key=33 "),
            "{told}"
        );
        assert!(told.contains("put key=39 value_bytes=9 ... and 32 before\n"), "{told}");
        assert!(told.lines().all(|line| line.chars().count() <= 100), "{told}");
        broken.plan.ops.truncate(1);
        assert!(
            plan_text(&broken, &words, None)
                .starts_with("  plan      1 operation: put key=0 value_bytes=9\n")
        );
    }
}
