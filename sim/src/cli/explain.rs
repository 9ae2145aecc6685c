//! `cutwater explain`: what of a failing plan is essential, and when the failure was decided.

use std::time::Duration;

use serde_json::json;

use super::shrink::{Fails, cannot_run, failing, spinner};
use super::source::{self, Source};
use super::{ExplainArgs, Registry, Usage, VIOLATED, duration, jobs};
use crate::capsule::{Means, setting};
use crate::explain::{self, Decided, Essential, Item, VARIANTS};
use crate::plan::Plan;
use crate::program::command_line;
use crate::scenario::Scenario;
use crate::shrink::laboratory::Bench;
use crate::told::{clock, folded, line, words};

pub(super) fn run(registry: &Registry<'_>, args: &ExplainArgs) -> Result<u8, Usage> {
    let time = duration(&args.time)?;
    let (jobs, limit) = (jobs(args.jobs)?, Duration::from_secs(args.limit));
    let Source { scenario, plan, .. } = source::load(registry, &args.what)?;
    let means = Means { scenario, jobs, limit, bar: spinner(args.json) };
    let report = match failing(&means, &plan, &args.what)? {
        Fails::Alike(report) => report,
        Fails::Not(status) => return Ok(status),
    };
    let signature = report.verdict.signature();
    let mut bench = Bench::new(scenario, jobs, limit, Some(time)).with_bar(means.bar.clone());
    let decided = explain::decided(&plan, &signature, &mut bench).map_err(|e| cannot_run(&e))?;
    let essential = explain::essential(&plan, &signature, scenario.personalities(), &mut bench);
    let essential = essential.map_err(|e| cannot_run(&e))?;
    means.bar.finish_and_clear();
    if args.json {
        println!("{}", json!({ "report": report, "essential": essential, "decided": decided }));
    } else {
        print!("{}", crate::cli::failure_head(&report));
        print!(
            "{}",
            essential.map_or_else(
                || NOT_TRIED.into(),
                |essential| essential_text(scenario, &args.what, &plan, &essential)
            )
        );
        print!("{}", decided.as_ref().map_or_else(|| NOT_DECIDED.into(), decided_text));
    }
    Ok(VIOLATED)
}

const NOT_TRIED: &str = "\nEssential\n  unknown: the time was up before every item was tried (--time)\n";
const NOT_DECIDED: &str = "\nDecided\n  unknown: the time was up, or the run leaves no story that could be repeated in other ways\n";

fn essential_text(scenario: &dyn Scenario, what: &str, plan: &Plan, essential: &Essential) -> String {
    let vocabulary = scenario.vocabulary();
    let mut text = String::from("\nEssential (it does not fail without)\n");
    let name = |item: &Item| match item {
        Item::Op(id) => {
            let op = plan.ops.iter().find(|op| op.id == *id);
            op.map_or_else(String::new, |op| format!("op {id}: {}", words::op(op, &vocabulary)))
        }
        Item::Fault(id) => {
            let fault = plan.faults.iter().find(|fault| fault.id == *id);
            fault.map_or_else(String::new, |fault| format!("fault {id}: {}", words::fault(fault)))
        }
        Item::Oddity(name) => format!("buggify {name}"),
        Item::Knob(knob) => {
            let value = plan.knobs.get(knob).copied().unwrap_or_default();
            setting(knob, value, scenario.personalities())
        }
    };
    for item in &essential.needed {
        text.push_str(&folded(&format!("  {}\n", name(item)), 4));
    }
    if essential.needed.is_empty() {
        text.push_str("  no item alone\n");
    }
    if !essential.dispensable.is_empty() {
        text.push_str(&format!(
            "  and none of {} more, each alone; this takes them out together:\n  {}\n",
            essential.dispensable.len(),
            command_line(&["shrink", what])
        ));
    }
    text
}

fn decided_text(decided: &Decided) -> String {
    let mut text = String::from("\nDecided\n");
    if decided.from_the_start {
        text.push_str("  from the start: it fails whatever else is decided differently\n");
    } else {
        text.push_str(&format!("  {}\n", line(&decided.event)));
        text.push_str(&format!(
            "  after this event all of {VARIANTS} runs fail in which everything later is decided anew\n"
        ));
    }
    if !decided.is_monotone {
        text.push_str(
            "  the chance to fail does not only grow with time: this is one such moment of several\n",
        );
    }
    text.push_str("  decided anew from   of the variants fail\n");
    for (at_ns, failed) in &decided.probes {
        text.push_str(&format!("  {}    {failed} of {VARIANTS}\n", clock(at_ns / 1000)));
    }
    text
}
