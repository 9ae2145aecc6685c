//! Inside of a run: boundaries, the images there, a fork for each that is new, and what comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, PipeWriter, Write};

use cutwater_io::sim::{Crash, CrashKind, Env, Key, NodeId};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::window::{Ending, Window};
use super::{Cut, Finding, Seen, Settings, Taken, add_findings};
use crate::faults::FaultClass;
use crate::plan::{Act, Anchor, Fault, Plan};
use crate::runner::process::{self, Forked};
use crate::verdict::Verdict;
use crate::vocabulary::Vocabulary;

/// All sets of survivors are gone through if they are no more than this.
const ALL_UP_TO: usize = 64;
/// The same in an exhaustive census.
const ALL_UP_TO_EXHAUSTIVE: usize = 1 << 14;
/// Of so many branches, one is gone through on the second level, unless the census is exhaustive.
const SECOND_LEVEL_ONE_IN: u64 = 16;
/// How many moments of a recovery are looked at in a census that is not exhaustive.
const SECOND_LEVEL_MOMENTS: u64 = 64;
/// How long a node that a branch crashes is down, in microseconds.
const DOWN_US: u32 = 1_000;
/// From the crash of a branch to its horizon, in microseconds.
const REST_US: u64 = 2_000;
/// How many results of branches may be waited for while the next one starts; see [`Window`].
const WINDOW: usize = 8;

/// What of the plan has happened so far.
#[derive(Debug)]
pub(crate) struct Passed<'a> {
    /// Faults that struck.
    pub(crate) struck: Vec<&'a Fault>,
    /// Operations that were issued.
    pub(crate) issued: &'a BTreeSet<u32>,
}

/// A census from inside of a run.
pub(crate) struct Census {
    settings: Settings,
    /// What decides a recovery beside the disk: the scenario, the settings of the system, the nodes.
    key: u64,
    draws: Key,
    points: BTreeSet<&'static str>,
    kinds: (bool, bool),
    /// Levels of crashes above this run.
    level: u8,
    /// The node that crashed in this branch.
    crashed: Option<NodeId>,
    looking: bool,
    moments_left: u64,
    last: BTreeMap<NodeId, Moment>,
    seen: Seen,
    added: Vec<u64>,
    window: Window<Cut>,
    to: Option<PipeWriter>,
    taken: Taken,
}

/// When an image can be new.
#[derive(PartialEq, Eq)]
struct Moment {
    disk: [u64; 2],
    owed: u64,
    all: bool,
}

/// A crash that a branch would make.
struct Candidate {
    kind: CrashKind,
    key: u64,
}

impl Census {
    pub(crate) fn new(settings: Settings, seen: Seen, plan: &Plan, vocabulary: &Vocabulary) -> Census {
        let recovery = serde_json::to_vec(&(&plan.scenario, &plan.topology, &plan.knobs, &plan.buggify));
        let has = |class| vocabulary.faults.contains(&class);
        Census {
            key: xxh3_64(&recovery.expect("numbers by name")),
            draws: Key::root(plan.key).child("census", &[]),
            points: vocabulary.points.iter().map(|point| point.name).collect(),
            kinds: (has(FaultClass::PowerFail), has(FaultClass::ProcessKill)),
            level: 0,
            crashed: None,
            looking: true,
            moments_left: u64::MAX,
            last: BTreeMap::new(),
            seen,
            added: Vec::new(),
            window: Window::new(WINDOW, settings.jobs),
            to: None,
            taken: Taken::of(Verdict::Held),
            settings,
        }
    }

    /// `node` is at a boundary. Returns the crash to make there, and what to note of it, in each of the branches; in the run
    /// itself, which goes on, never.
    pub(crate) fn boundary(
        &mut self,
        node: NodeId,
        at: &Anchor,
        at_us: u64,
        passed: &Passed<'_>,
    ) -> Option<Fault> {
        let of = self.crashed.map_or(self.settings.node, |node| node.0);
        let concerned = of == 0 || of == node.0;
        if !self.looking || !concerned || !self.can_be_named(at) {
            return None;
        }
        self.taken.tally.boundaries += 1;
        let candidates = self.candidates(node, passed);
        for candidate in candidates {
            self.taken.tally.images += 1;
            let below = self.below(&candidate);
            if !self.insert(candidate.key, below) {
                continue;
            }
            self.taken.tally.distinct += 1;
            if self.settings.until_ms.is_some_and(|until| process::real_ms() >= until) {
                self.taken.tally.left_out += 1;
                self.looking = false;
                return None;
            }
            let crash = Crash { kind: candidate.kind, down_us: DOWN_US };
            let id = passed.struck.iter().map(|fault| fault.id + 1).max().unwrap_or(0);
            let fault = Fault { id, at: at.clone(), act: Act::Crash { node: node.0, crash } };
            if self.branch(node, &fault, at_us, passed, below) {
                return Some(fault);
            }
        }
        None
    }

    /// The moment at which a branch that crashes at `at_us` ends its safety phase.
    pub(crate) fn cut_us(at_us: u64) -> u64 {
        at_us + REST_US
    }

    /// True in the run that the census began with.
    pub(crate) fn is_golden(&self) -> bool {
        self.level == 0
    }

    /// `node` is up again: in a branch, what comes now is no recovery.
    pub(crate) fn recovered(&mut self, node: NodeId) {
        if self.level > 0 && self.crashed == Some(node) {
            self.looking = false;
        }
    }

    /// The run is over. A branch reports, and ends its process here.
    pub(crate) fn finish(mut self, verdict: &Verdict) -> Taken {
        loop {
            match self.window.take_first(&mut wind_up(self.settings.limit_s)) {
                Ok(Some(ending)) => self.take(ending),
                Ok(None) => break,
                Err(error) => {
                    self.taken.trouble = Some(error.to_string());
                    break;
                }
            }
        }
        self.window.kill();
        self.taken.verdict = verdict.clone();
        self.taken.seen = std::mem::take(&mut self.added);
        if let Some(mut to) = self.to.take() {
            let bytes = serde_json::to_vec(&self.taken).expect("plain data");
            let sent = to.write_all(&bytes);
            process::exit_now(i32::from(sent.is_err()));
        }
        self.taken
    }

    /// A plan can only name points of its scenario.
    fn can_be_named(&self, at: &Anchor) -> bool {
        match at {
            Anchor::Point { point, .. } => self.points.contains(point.as_str()),
            _ => true,
        }
    }

    /// The crashes that may leave something new now.
    fn candidates(&mut self, node: NodeId, passed: &Passed<'_>) -> Vec<Candidate> {
        let env = Env::current();
        let owed = env.owed().digest();
        let disk = env.disks().with(node, |disk| disk.moment());
        let moment = Moment { disk, owed, all: true };
        // A sample may draw other images the next time; what was gone through as a whole was.
        if self.last.get(&node).is_some_and(|last| *last == moment) {
            return Vec::new();
        }
        if self.moments_left == 0 {
            self.looking = false;
            return Vec::new();
        }
        self.moments_left -= 1;
        self.taken.tally.moments += 1;
        let all_up_to = if self.settings.exhaustive { ALL_UP_TO_EXHAUSTIVE } else { ALL_UP_TO };
        let mut draw = self.draws.draw("sample", &[node.0, disk[0], disk[1], owed]);
        let (images, seen_by_processes) = env
            .disks()
            .with(node, |disk| (disk.images(all_up_to, self.settings.sample, &mut draw), disk.seen_hash()));
        self.taken.tally.permissible += images.sets;
        self.taken.tally.sampled += u64::from(!images.all);
        self.last.insert(node, Moment { all: images.all, ..moment });
        let key = |kind: &str, hash: u128| {
            let mut bytes = hash.to_le_bytes().to_vec();
            bytes.extend([owed, self.key, node.0].into_iter().flat_map(u64::to_le_bytes));
            bytes.extend(kind.as_bytes());
            xxh3_64(&bytes)
        };
        let mut candidates = Vec::new();
        // What else struck may have left its mark beside the tree; and a kill after a power failure loses what one alone does
        // not.
        let crash = |class| matches!(class, FaultClass::ProcessKill | FaultClass::PowerFail);
        let struck: Vec<FaultClass> = passed.struck.iter().map(|fault| fault.class()).collect();
        let others: Vec<FaultClass> = struck.iter().copied().filter(|class| !crash(*class)).collect();
        if self.kinds.1 {
            let key = key(&format!("kill {struck:?}"), seen_by_processes);
            candidates.push(Candidate { kind: CrashKind::ProcessKill, key });
        }
        if self.kinds.0 {
            let power = format!("power {others:?}");
            candidates.extend(images.images.into_iter().map(|image| Candidate {
                key: key(&power, image.hash),
                kind: CrashKind::PowerFail(image.survivors),
            }));
        }
        candidates
    }

    /// How many levels below the branch of this candidate are gone through.
    fn below(&self, candidate: &Candidate) -> u8 {
        let left = self.settings.depth.saturating_sub(self.level + 1);
        let chosen = self.settings.exhaustive
            || xxh3_64_with_seed(&candidate.key.to_le_bytes(), 2).is_multiple_of(SECOND_LEVEL_ONE_IN);
        if chosen { left } else { 0 }
    }

    fn insert(&mut self, key: u64, below: u8) -> bool {
        let new = self.seen.insert(key, below);
        if new {
            self.added.extend((0..=below).map(|below| key.wrapping_add(u64::from(below))));
        }
        new
    }

    /// Starts a branch; true in the branch.
    fn branch(&mut self, node: NodeId, crash: &Fault, at_us: u64, passed: &Passed<'_>, below: u8) -> bool {
        let limit_s = self.settings.limit_s;
        let forked = loop {
            match self.window.before_next(&mut wind_up(limit_s)) {
                Ok(Some(ending)) => self.take(ending),
                Ok(None) => break process::branch(),
                Err(error) => break Err(error),
            }
        };
        match forked {
            Ok(Forked::Parent(child)) => {
                let struck = passed.struck.iter().copied().chain([crash]);
                let faults = struck.cloned().collect();
                let cut = Cut { faults, issued: passed.issued.clone(), horizon_us: Census::cut_us(at_us) };
                self.window.push(cut, child);
                false
            }
            Ok(Forked::Child(to)) => {
                process::alarm(limit_s);
                self.level += 1;
                self.crashed = Some(node);
                self.looking = below > 0;
                self.moments_left = if self.settings.exhaustive { u64::MAX } else { SECOND_LEVEL_MOMENTS };
                self.settings.jobs = 1;
                self.window = Window::new(1, 1);
                self.added.clear();
                self.last.clear();
                self.to = Some(to);
                self.taken = Taken::of(Verdict::Held);
                true
            }
            Err(error) => {
                self.taken.trouble = Some(error.to_string());
                self.looking = false;
                false
            }
        }
    }

    /// Takes the result of a branch.
    fn take(&mut self, ending: Ending<Cut>) {
        let taken: Taken = serde_json::from_slice(&ending.report).unwrap_or_else(|_| {
            let verdict = if ending.ended.signal == process::ALARM {
                Verdict::Hung { limit_s: self.settings.limit_s.into() }
            } else {
                Verdict::Aborted { signal: ending.ended.signal, stderr: String::new() }
            };
            Taken::of(verdict)
        });
        self.taken.tally.recovered += 1;
        self.taken.tally.inside_recovery += u64::from(self.level > 0);
        self.taken.tally.add(&taken.tally);
        for key in taken.seen {
            if self.seen.0.insert(key) {
                self.added.push(key);
            }
        }
        if !taken.verdict.held() {
            let finding =
                Finding { count: 1, undisturbed: false, verdict: taken.verdict.clone(), cut: ending.what };
            add_findings(&mut self.taken.findings, [(taken.verdict.signature(), finding)].into());
        }
        add_findings(&mut self.taken.findings, taken.findings);
        self.taken.trouble = self.taken.trouble.take().or(taken.trouble);
    }
}

/// While a run waits for its branches, its own watchdog is at rest.
fn wind_up(limit_s: u32) -> impl FnMut() -> io::Result<()> {
    move || {
        process::alarm(limit_s);
        Ok(())
    }
}
