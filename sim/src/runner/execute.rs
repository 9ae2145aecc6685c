//! Runs one plan in this thread, which must be a fresh one in a process of its own.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cutwater_io::sim::Env;
use madsim::runtime::Runtime;
use madsim::time::TimeHandle;

use super::pool::{Job, Redraw, What};
use super::story;
use crate::census::{self, Census};
use crate::plan::Plan;
use crate::scenario::{Scenario, Violation};
use crate::told;
use crate::verdict::{Outcome, Report, Verdict, Work};
use crate::world::World;

/// How much virtual time a run may take beyond its horizon before it is judged to have no end: an hour.
const VIRTUAL_BEYOND_HORIZON: Duration = Duration::from_secs(3600);

/// The first panic of the process.
static PANIC: Mutex<Option<Panic>> = Mutex::new(None);

struct Panic {
    message: String,
    location: String,
    node: u64,
    backtrace: String,
}

/// Notes the first panic of this process in place of printing it.
pub(crate) fn note_panics(with_backtrace: bool) {
    std::panic::set_hook(Box::new(move |info| {
        let mut noted = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.is_none() {
            *noted = Some(Panic::new(info, with_backtrace));
        }
    }));
}

impl Panic {
    fn new(info: &PanicHookInfo<'_>, with_backtrace: bool) -> Panic {
        let payload = info.payload();
        let message = payload
            .downcast_ref::<&str>()
            .map(|s| (*s).to_string())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".into());
        let location = info.location().map_or_else(String::new, |l| format!("{}:{}", l.file(), l.line()));
        // madsim's own loop panics outside of every task, where there is no node to ask for.
        let in_task = TimeHandle::try_current().is_some() && !location.contains("/madsim-");
        let node = if in_task { Env::node().0 } else { 0 };
        let backtrace = if with_backtrace {
            std::backtrace::Backtrace::force_capture().to_string()
        } else {
            String::new()
        };
        Panic { message, location, node, backtrace }
    }
}

/// What the noted panic amounts to.
pub(crate) fn panic_verdict() -> Verdict {
    let noted = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(panic) = &*noted else {
        return Verdict::Panicked { message: "an unknown panic".into(), location: String::new(), node: 0 };
    };
    let stuck = |property: &str| {
        Verdict::Violated(
            Violation::new("liveness", property).expected("the run to end").found(panic.message.clone()),
        )
    };
    if panic.location.contains("/madsim-") && panic.message.starts_with("no events") {
        stuck("no deadlock")
    } else if panic.location.contains("/madsim-") && panic.message.starts_with("time limit exceeded") {
        stuck("the scenario ends")
    } else {
        Verdict::Panicked {
            message: panic.message.clone(),
            location: panic.location.clone(),
            node: panic.node,
        }
    }
}

/// Runs `job`.
pub fn execute(job: &Job<'_>) -> Outcome {
    execute_with(job, None).0
}

/// Runs `job`, and takes a census of it: images that are in `Seen` are not looked at. A branch of the run ends in here.
pub(crate) fn execute_with(
    job: &Job<'_>,
    census: Option<(census::Settings, census::Seen)>,
) -> (Outcome, Option<census::Taken>) {
    let (plan, named_by_seed) = (job.plan(), job.named_by_seed());
    let redraw = match &job.what {
        What::Redrawn(_, redraw) => Some(*redraw),
        What::Seed(_) | What::Plan(_) => None,
    };
    let vocabulary = job.scenario.vocabulary();
    let bare = |verdict| {
        let bare = Report::bare(job.scenario.name(), plan.seed, verdict);
        Outcome::bare(Report { plan: plan.id(), named_by_seed, ..bare })
    };
    if let Err(invalid) = plan.validate(&vocabulary) {
        return (bare(Verdict::Invalid { reason: invalid.to_string() }), None);
    }
    if job.record {
        story::listen();
    }
    let mut runtime = Runtime::with_seed_and_config(plan.schedule_seed, madsim::Config::default());
    runtime.add_simulator::<Env>();
    runtime.set_time_limit(Duration::from_micros(plan.horizon_us) + VIRTUAL_BEYOND_HORIZON);
    let set_up: Mutex<Option<(World, TimeHandle)>> = Mutex::new(None);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let devices = job.scenario.devices(&plan);
            let classify = job.scenario.classify();
            let census = census.map(|(settings, seen)| Census::new(settings, seen, &plan, &vocabulary));
            let world = World::new(plan.clone(), vocabulary, devices, classify, job.record, census);
            world.env().name_frames(job.scenario.name_frames());
            if let Some(Redraw { after_ns, variant }) = redraw {
                world.redraw(after_ns, variant);
            }
            *set_up.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((world.clone(), TimeHandle::current()));
            judge(job.scenario, &world).await
        })
    }));
    let verdict = ended.unwrap_or_else(|_| panic_verdict());
    let set_up = set_up.into_inner().unwrap_or_else(PoisonError::into_inner);
    let census = set_up.as_ref().and_then(|(world, _)| world.end_census());
    let taken = census.map(|census| census.finish(&verdict));
    let outcome = match set_up {
        Some((world, time)) => {
            let mut outcome = outcome_of(&world, &time, &plan, verdict, job.record);
            outcome.report.named_by_seed = named_by_seed;
            outcome.report.coverage = job.edges.then(|| world.coverage());
            outcome
        }
        None => bare(verdict),
    };
    // The process is about to end; dropping what still runs would only run its destructors.
    std::mem::forget(runtime);
    (outcome, taken)
}

async fn judge(scenario: &dyn Scenario, world: &World) -> Verdict {
    let result = scenario.run(world).await;
    if let Err(violation) = result {
        world.object(violation);
    }
    world.end().await;
    world.object_to_broken();
    world.violation().map_or(Verdict::Held, Verdict::Violated)
}

/// What the devices had to do.
fn work(env: &Env) -> Work {
    Work {
        disk_calls: env.calls().iter().filter(|(name, _)| name.starts_with("disk.")).map(|(_, n)| n).sum(),
        frames: env.net().counters().frames_sent,
        object_requests: env.objects().counters().requests,
    }
}

fn outcome_of(world: &World, time: &TimeHandle, plan: &Plan, verdict: Verdict, record: bool) -> Outcome {
    let env = world.env();
    let (digest, events) = env.digest();
    let owned = |counts: std::collections::BTreeMap<&'static str, u64>| {
        counts.into_iter().map(|(name, n)| (name.to_string(), n)).collect()
    };
    let story = record.then(|| {
        let mut events = story::merge(env.recorded());
        told::in_words(&mut events, plan);
        if let Some(panic) = &*PANIC.lock().unwrap_or_else(PoisonError::into_inner) {
            events.push(story::event(
                time,
                panic.node,
                "panic",
                format!("{} at {}\n{}", panic.message, panic.location, panic.backtrace),
            ));
        }
        events
    });
    Outcome {
        report: Report {
            scenario: plan.scenario.clone(),
            seed: plan.seed,
            plan: plan.id(),
            verdict,
            digest: format!("{digest:032x}"),
            events,
            virtual_us: u64::try_from(time.elapsed().as_micros()).unwrap_or(u64::MAX),
            cpu_us: 0,
            points: owned(env.points_passed()),
            sometimes: owned(env.sometimes_seen()),
            receipts: world.receipts(),
            matrix: world.matrix(),
            named_by_seed: true,
            coverage: None,
            stale_calls: env.stale_calls(),
            work: work(env),
        },
        story,
        labels: world.labels(),
        evidence: record.then(|| world.evidence()),
        never_struck: world.never_struck(),
    }
}
