//! A failure on one screen: the same in the terminal, in JUnit and in the `README.md` of its capsule.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use cutwater_io::sim::{CrashKind, Event};

use super::{Finding, Minimal, Shrinking};
use crate::evidence::{Evidence, Loss, Struck};
use crate::explain::{Item, VARIANTS};
use crate::plan::{Anchor, Fault, Op, Plan};
use crate::program::{lines_to_copy, replay_line};
use crate::shrink::Personalities;
use crate::told::{clock, folded, words};
use crate::verdict::{Report, Verdict};
use crate::vocabulary::Vocabulary;

/// How many items of a plan are shown; the rest is counted.
const ITEMS_MAX: usize = 24;
/// How many operations that a crash lost or kept are shown.
const LOST_MAX: usize = 4;
/// How long a detail may be, in characters.
const DETAIL_MAX: usize = 110;

/// Lines that a user copies.
const COPIED: [&str; 3] = ["replay", "or", "test"];

/// The failure, and how to see it again. `capsule` is the directory that holds it, if there is one.
pub fn one_screen(finding: &Finding, capsule: Option<&Path>) -> String {
    screen(
        &finding.report,
        &finding.seeds,
        finding.minimal.as_ref().map(|m| (&finding.plan, m)),
        finding.unrepeated.as_ref(),
        finding.seed_names_it,
        capsule,
    )
}

/// What the plan of a run is called: by its seed, if the seed alone names it.
pub(crate) fn name(report: &Report) -> String {
    let Report { scenario, seed, plan, .. } = report;
    if report.named_by_seed { format!("{scenario}:{seed}") } else { format!("{scenario} plan {plan}") }
}

/// How another run of the plan ended, which did not fail like the first.
pub(crate) fn unrepeated(again: &Report) -> String {
    let end = match &again.verdict {
        Verdict::Held => "the same plan held".into(),
        verdict => {
            let [oracle, property, ..] = verdict.explain();
            format!("the same plan failed otherwise, with {}  {oracle}: {property}", verdict.signature())
        }
    };
    format!(
        "it did not repeat: run again, {end} (digest {})\nso the plan does not decide it: something outside does, or the \
         machine was too slow for --limit",
        short(&again.digest)
    )
}

/// A failure of which nothing is known but the report of its run; `path` is where its plan is, if no seed names it.
pub(crate) fn plain(report: &Report, path: Option<&Path>) -> String {
    screen(report, &[], None, None, path.is_none() && report.named_by_seed, path)
}

fn screen(
    report: &Report,
    seeds: &[u64],
    minimal: Option<(&Plan, &Minimal)>,
    again: Option<&Report>,
    seed_names_it: bool,
    path: Option<&Path>,
) -> String {
    // Values are told of the smallest plan, for that is the one that is shown; unless it did not fail when it was recorded.
    let signature = report.verdict.signature();
    let smallest = minimal.map(|(_, minimal)| &minimal.outcome.report);
    let told = smallest.filter(|told| told.verdict.signature() == signature).unwrap_or(report);
    let [oracle, property, expected, found] = told.verdict.explain();
    let mut text = String::new();
    let head = format!("FAILURE {signature}  {}  {oracle}: {property}\n", name(report));
    text.push_str(&folded(&head, 12));
    let mut say = |name: &str, what: &str| {
        let line = format!("  {name:<9} {}\n", what.replace('\n', "\n            "));
        // What is to be copied stays in one line.
        text.push_str(&if COPIED.contains(&name) { line } else { folded(&line, 14) });
    };
    say("expected", &expected);
    say("found", &found);
    // Of a run without a report nothing but its plan is known.
    let at = if told.digest.is_empty() {
        "unknown: the run gave no report".into()
    } else {
        format!("{}  digest {}", clock(told.virtual_us), told.digest)
    };
    say("at", &format!("{at}  plan {}", short(&told.plan)));
    if let Some(again) = again {
        say("beware", &format!("{}\n(trace, timeline and history are the second run's)", unrepeated(again)));
    }
    if seeds.len() > 1 {
        say("seeds", &counted(seeds));
    }
    if let Some((original, minimal)) = minimal {
        if !minimal.shrinking.fails_on.is_empty() {
            say("fails on", &fails_on(&minimal.shrinking.fails_on));
        }
        say("minimal", &minimal_plan(original, minimal));
        if let Some(needs) = essential(minimal) {
            say("essential", &needs);
        }
        if let Some(decided) = decided(minimal) {
            say("decided", &decided);
        }
        if !minimal.shrinking.is_deterministic {
            say("beware", "two runs of the minimal plan differ: something outside of the plan decides, too");
        }
        for (signature, other) in &minimal.shrinking.others {
            say("also", &format!("{signature}: another failure, met while shrinking ({})", size(other)));
        }
    }
    if let Some(path) = path {
        say("replay", &replay_line(&path.display().to_string()));
    }
    if seed_names_it {
        let (replay, test) = lines_to_copy(&report.scenario, report.seed);
        say(if path.is_some() { "or" } else { "replay" }, &replay);
        if let Some(test) = test {
            say("test", &test);
        }
    }
    text
}

fn short(hex: &str) -> &str {
    if hex.is_empty() { "-" } else { hex }
}

fn cut(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= DETAIL_MAX {
        return line.into();
    }
    line.chars().take(DETAIL_MAX - 1).chain(['…']).collect()
}

fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn size(plan: &Plan) -> String {
    format!("{}, {}", plural(plan.ops.len(), "op"), plural(plan.faults.len(), "fault"))
}

fn counted(seeds: &[u64]) -> String {
    let first: Vec<String> = seeds.iter().take(8).map(u64::to_string).collect();
    let more = if seeds.len() > 8 { ", …" } else { "" };
    format!("{} fail alike: {}{more}", seeds.len(), first.join(", "))
}

fn fails_on(all: &[(String, bool)]) -> String {
    let of = |wanted: bool| -> Vec<&str> {
        all.iter().filter(|(_, fails)| *fails == wanted).map(|(name, _)| name.as_str()).collect()
    };
    match (of(true).join(", "), of(false).join(", ")) {
        (yes, no) if no.is_empty() => yes,
        (yes, no) => format!("{yes}; not on {no}"),
    }
}

/// The minimal plan in lines.
fn minimal_plan(original: &Plan, minimal: &Minimal) -> String {
    let plan = &minimal.plan;
    let how = match &minimal.shrinking {
        Shrinking { is_minimal: true, .. } => "",
        Shrinking { interrupted: true, .. } => "; interrupted before the last item was tried",
        _ => "; the budget ended before the last item was tried",
    };
    let mut text = format!("{} (from {}; {} runs{how})", size(plan), size(original), minimal.shrinking.runs);
    let settings = settings(plan, minimal.personalities);
    if !settings.is_empty() {
        let _ = write!(text, "\nwith {settings}");
    }
    if !plan.buggify.is_empty() {
        let _ = write!(text, "\nbuggify armed: {}", plan.buggify.join(", "));
    }
    let story = minimal.outcome.story.as_deref().unwrap_or_default();
    let evidence = minimal.outcome.evidence.clone().unwrap_or_default();
    let mut lines: Vec<(u64, String)> = Vec::new();
    for op in &plan.ops {
        lines.push(op_line(op, &minimal.vocabulary, story));
    }
    for fault in &plan.faults {
        lines.push(fault_line(fault, &evidence));
    }
    lines.sort_by_key(|(at_us, _)| *at_us);
    for (_, line) in lines.iter().take(ITEMS_MAX) {
        let _ = write!(text, "\n{line}");
    }
    if lines.len() > ITEMS_MAX {
        let _ = write!(text, "\n… and {} more", lines.len() - ITEMS_MAX);
    }
    text
}

fn settings(plan: &Plan, personalities: Option<Personalities>) -> String {
    let all: BTreeMap<&String, &u64> = plan.topology.iter().chain(&plan.knobs).collect();
    all.iter().map(|(name, value)| setting(name, **value, personalities)).collect::<Vec<_>>().join(" ")
}

/// A knob and its value; of a file system its name.
pub(crate) fn setting(knob: &str, value: u64, personalities: Option<Personalities>) -> String {
    let levels = personalities.filter(|(name, _)| *name == knob).map(|(_, levels)| levels);
    match levels.and_then(|levels| levels.iter().find(|(number, _)| *number == value)) {
        Some((_, name)) => format!("{knob}={name}"),
        None => format!("{knob}={value}"),
    }
}

/// When the operation was issued, and a line for it with its answer, if it had one.
fn op_line(op: &Op, vocabulary: &Vocabulary, story: &[Event]) -> (u64, String) {
    let name = format!("op {}", op.id);
    let what = format!("{name:<8} {}", words::op(op, vocabulary));
    let mark = format!("#{} client", op.id);
    let Some(at) = story.iter().position(|event| event.kind == "op" && event.detail.starts_with(&mark))
    else {
        return (op.at_us, format!("{what}  (never issued)"));
    };
    let issued = &story[at];
    let next = story[at + 1..].iter().filter(|event| event.node == issued.node);
    let answer = next
        .take_while(|event| event.kind != "op")
        .find(|event| matches!(event.kind.as_str(), "client.ok" | "client.fail" | "client.info"))
        .and_then(|event| event.detail.rsplit_once(" -> "))
        .map_or_else(String::new, |(_, answer)| format!("  -> {}", cut(answer)));
    (issued.at_ns / 1000, format!("{what}  at {}{answer}", clock(issued.at_ns / 1000)))
}

/// When the fault struck, and a line for it; more lines for what a power failure took.
fn fault_line(fault: &Fault, evidence: &Evidence) -> (u64, String) {
    let name = format!("fault {}", fault.id);
    let words = words::fault(fault);
    let what = format!("{name:<8} {words}");
    let Some(struck) = evidence.struck.iter().find(|struck| struck.fault == fault.id) else {
        return (u64::MAX, format!("{what}  (never struck)"));
    };
    let node = format!("n{}", struck.node);
    let named = words.split(|c: char| !c.is_alphanumeric()).any(|word| word == node);
    let node = if named || struck.node == 0 { String::new() } else { format!("on n{} ", struck.node) };
    // Where the fault says when, it is said.
    let when = match fault.at {
        Anchor::Time { at_us } if at_us == struck.at_us => String::new(),
        _ => format!("at {}", clock(struck.at_us)),
    };
    let mut line = format!("{what}  {node}{when}").trim_end().to_string();
    if !struck.target.is_empty() {
        let _ = write!(line, " ({})", struck.target);
    }
    if let Some(loss) = loss_of(struck, fault, evidence) {
        for (verb, ops) in [("lost", &loss.lost), ("kept", &loss.kept)] {
            if ops.is_empty() {
                continue;
            }
            let shown = ops.iter().take(LOST_MAX).cloned().collect::<Vec<_>>().join(", ");
            let more = ops.len().saturating_sub(LOST_MAX);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let _ = write!(line, "\n         {verb}: {}{more}", cut(&shown));
        }
    }
    (struck.at_us, line)
}

fn loss_of<'a>(struck: &Struck, fault: &Fault, evidence: &'a Evidence) -> Option<&'a Loss> {
    let crash = fault.act.crash()?;
    let CrashKind::PowerFail(_) = crash.kind else { return None };
    evidence.power_failures.iter().find(|loss| loss.node == struck.node && loss.at_us >= struck.at_us)
}

fn essential(minimal: &Minimal) -> Option<String> {
    let essential = minimal.essential.as_ref()?;
    let name = |item: &Item| match item {
        Item::Op(id) => format!("op {id}"),
        Item::Fault(id) => format!("fault {id}"),
        Item::Knob(name) | Item::Oddity(name) => name.clone(),
    };
    if essential.dispensable.is_empty() {
        return Some("every item above: without any one of them it does not fail".into());
    }
    let names: Vec<String> = essential.dispensable.iter().map(name).collect();
    Some(format!("every item but {}", names.join(", ")))
}

fn decided(minimal: &Minimal) -> Option<String> {
    let decided = minimal.decided.as_ref()?;
    if decided.from_the_start {
        return Some(format!(
            "from the start: {VARIANTS} of {VARIANTS} runs fail whatever else is decided differently"
        ));
    }
    let event = &decided.event;
    let mut text = format!(
        "at {} by n{} {} {}: after it {VARIANTS} of {VARIANTS} variants fail",
        clock(event.at_ns / 1000),
        event.node,
        event.kind,
        cut(&event.detail)
    );
    if let Some((_, failed)) = decided.probes.first() {
        let _ = write!(text, ", from the start {failed}");
    }
    if !decided.is_monotone {
        text.push_str("\n(the chance to fail does not only grow: this is one such moment of several)");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capsule::Shrinking;
    use crate::explain::{Decided, Essential};
    use crate::plan::Act;
    use crate::scenario::Violation;
    use crate::verdict::Outcome;
    use crate::vocabulary::Verb;
    use cutwater_io::sim::{Crash, SiteFault, Survivors};

    fn violation() -> Violation {
        Violation::new("durability", "an acknowledged value is in the log")
            .of("value")
            .expected("14, acknowledged at 66584 us")
            .found("only {1, 2}")
    }

    #[test]
    fn a_failure_fits_a_screen() {
        let verdicts = [
            Verdict::Violated(violation()),
            Verdict::Panicked { message: "no\nway".into(), location: "store.rs:7".into(), node: 2 },
            Verdict::Aborted { signal: 11, stderr: "stack overflow".into() },
            Verdict::Hung { limit_s: 60 },
            Verdict::Invalid { reason: "no".into() },
        ];
        let mut texts: Vec<String> = verdicts
            .into_iter()
            .map(|verdict| {
                let mut report = Report::bare("store", 196, verdict);
                report.virtual_us = 3_723_000_042;
                report.digest = format!("{:032x}", 7);
                plain(&report, None)
            })
            .collect();
        let edited = Report::bare("store", 196, Verdict::Hung { limit_s: 60 });
        texts.push(plain(&edited, Some(Path::new("edited.json"))));
        insta::assert_snapshot!(texts.join("\n"));
    }

    fn event(at_us: u64, node: u64, kind: &str, detail: &str) -> Event {
        Event { at_ns: at_us * 1000, node, kind: kind.into(), detail: detail.into(), facts: BTreeMap::new() }
    }

    fn plan(ops: u32, faults: Vec<Fault>) -> Plan {
        let op = |id| Op { id, at_us: 500, actor: 0, verb: "put".into(), args: vec![u64::from(id), 100] };
        Plan {
            version: 1,
            scenario: "store".into(),
            seed: 196,
            schedule_seed: 1,
            key: 0,
            horizon_us: 1_000_000,
            topology: [("store".into(), 1)].into(),
            knobs: [("buffer_bytes".into(), 64), ("personality".into(), 1)].into(),
            buggify: vec![],
            ops: (0..ops).map(op).collect(),
            faults,
        }
    }

    /// One of every line that there is.
    #[test]
    fn a_failure_that_was_looked_into_fits_a_screen_too() {
        let crash = |kind| Act::Crash { node: 0, crash: Crash { kind, down_us: 0 } };
        let faults = vec![
            Fault {
                id: 7,
                at: Anchor::Point { point: "log.synced".into(), node: 1, nth: 2 },
                act: crash(CrashKind::PowerFail(Survivors::Losing(vec![0]))),
            },
            Fault {
                id: 8,
                at: Anchor::Site { site: "disk.write".into(), class: "wal".into(), node: 0, nth: 1 },
                act: Act::Site(SiteFault::Short),
            },
            Fault { id: 9, at: Anchor::Op { op: 1 }, act: Act::Pause { node: 1, for_us: 1_500 } },
        ];
        let mut minimal_plan = plan(2, faults);
        minimal_plan.knobs.extend((0..12).map(|i| (format!("setting_number_{i}"), 1_000_000)));
        minimal_plan.buggify = vec!["store.early".into(), "store.late".into()];
        let report = Report::bare("store", 196, Verdict::Violated(violation()));
        let place = Anchor::Point { point: "log.synced".into(), node: 1, nth: 2 };
        let evidence = Evidence {
            struck: vec![
                Struck { fault: 7, node: 1, at_us: 900, place: Some(place), target: String::new() },
                Struck { fault: 8, node: 1, at_us: 800, place: None, target: "/db/1.log".into() },
            ],
            near: vec![],
            power_failures: vec![Loss {
                node: 1,
                at_us: 900,
                lost: vec!["write of /db/1.log sector 0".into()],
                kept: (0..6).map(|i| format!("length of /db/{i}.log = 16 bytes")).collect(),
                losing: vec![0],
                before: vec![],
                after: vec![],
            }],
        };
        let story = vec![
            event(600, 2, "op", "#0 client 0: put [0, 100]"),
            event(700, 2, "client.ok", "client 0: put 1 -> done"),
        ];
        let outcome =
            Outcome { story: Some(story), evidence: Some(evidence), ..Outcome::bare(report.clone()) };
        let minimal = Minimal {
            plan: minimal_plan,
            vocabulary: Vocabulary {
                roles: vec![],
                actors: 1..=1,
                ops: 0..=9,
                verbs: vec![Verb::new("put", "writes").arg("key", 0..=7).arg("value_bytes", 1..=100)],
                knobs: vec![],
                points: vec![],
                classes: vec![],
                faults: vec![],
                horizon_us: 1..=1,
            },
            personalities: Some(("personality", &[(1, "btrfs")])),
            outcome,
            shrinking: Shrinking {
                runs: 46,
                is_minimal: false,
                interrupted: false,
                is_deterministic: false,
                fails_on: vec![
                    ("ext4_ordered".into(), false),
                    ("btrfs".into(), true),
                    ("posix_min".into(), true),
                ],
                others: [("0badcafe".into(), plan(3, vec![]))].into(),
            },
            essential: Some(Essential {
                needed: vec![Item::Op(0)],
                dispensable: vec![Item::Op(1), Item::Fault(9)],
            }),
            decided: Some(Decided {
                event: event(900, 1, "disk.power_fail", "1 lost, 6 kept"),
                probes: vec![(0, 1), (900_000, 8)],
                is_monotone: false,
                from_the_start: false,
            }),
            other: Some(Report::bare("store", 196, Verdict::Held)),
        };
        let finding = Finding {
            plan: plan(200, vec![]),
            report,
            seeds: (196..210).collect(),
            seed_names_it: true,
            minimal: Some(minimal),
            unrepeated: None,
        };
        let dir = Path::new("target/cutwater/store-7f3a91c2");
        let text = one_screen(&finding, Some(dir));
        assert!(text.lines().count() <= 40, "a screen has 40 lines");
        assert!(text.contains("setting_number_11=1000000"), "a setting is left out: {text}");
        let mut interrupted = finding.clone();
        interrupted.minimal.as_mut().expect("it has one").shrinking.interrupted = true;
        let text_of_it = one_screen(&interrupted, Some(dir));
        assert!(text_of_it.contains("interrupted before the last item") && !text_of_it.contains("budget"));
        insta::assert_snapshot!(text);
    }
}
