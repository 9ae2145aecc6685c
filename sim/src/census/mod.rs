//! The census: every image that a crash can leave, one crash at a time, each recovered and judged.
//!
//! A sweep strikes here and there. A census strikes everywhere: it runs a plan once (the *golden* run), and at each
//! *boundary* (a call of a node to its disk, a point) it asks the disk which images a power failure could leave at this
//! very moment. For each that was not seen before, it **forks**: the golden run goes on as if nothing had happened, and the
//! child, an exact copy of the whole simulation, lets the node lose power with that image, recover, and be judged by all the
//! oracles of the scenario. Virtual time makes this invisible: a run that waits for its children loses none. No scenario
//! has to know of it, and nothing is re-run: what a branch costs is what comes after the crash.
//!
//! - After the crash of a branch nothing else breaks, no client asks for anything more, and the horizon is near: a branch
//!   is the recovery, and the scenario's own last checks.
//! - An image is checked once for what is *owed* at its moment ([`cutwater_io::sim::Owed`]): the same image is worth another
//!   look when clients were promised more since.
//! - A process that is killed with its machine left alone is an image, too, one at each moment.
//! - At depth 2 a branch does the same in its turn, from the crash to the end of its recovery: crashes inside recoveries.
//! - A branch that does not hold is told as a plan ([`Cut`]): the operations up to the crash, the faults that struck, and the
//!   crash with the list of what it loses. The plan is then run on its own, to make sure that it fails alike.
//!
//! Two censuses of the same plans with the same settings report the same, in whatever order their branches end: results are
//! taken in the order of the forks.
//!
//! *Not covered*: boundaries of calls to the network and the object store; two nodes that lose power at the same moment;
//! what an earlier fault of another kind would change, unless the plan has it.
//!
//! - `branches`: boundaries, forks and what comes back, inside of a run;
//! - `window`: children whose results are taken in order;
//! - [`drive`]: many plans, one process each, and what they add up to;
//! - [`mini`]: all short sequences of operations.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::plan::{Fault, HORIZON_MAX_US, Plan};
use crate::verdict::Verdict;

mod branches;
pub mod drive;
pub mod mini;
mod window;

pub(crate) use branches::{Census, Passed};

/// How a census is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whose boundaries; 0 for all nodes of roles.
    pub node: u64,
    /// 1: crashes of the plan's run. 2: crashes inside the recoveries from these, too.
    pub depth: u8,
    /// All sets of survivors at every moment, and the second level in every branch.
    pub exhaustive: bool,
    /// How many images are looked at where there are too many for all.
    pub sample: usize,
    /// How many branches of one run may run at once.
    pub jobs: usize,
    /// How long a branch may take, in seconds of real time.
    pub limit_s: u32,
    /// No branch starts after this moment, in milliseconds of [`crate::runner::process::real_ms`].
    pub until_ms: Option<u64>,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Calls to disks and points that were passed.
    pub boundaries: u64,
    /// Boundaries at which there could be something new: more was issued to the disk, or owed, than at the last one.
    pub moments: u64,
    /// Sets of survivors that are permissible, over all moments; a lower bound if any were sampled.
    pub permissible: u64,
    /// Moments with too many sets to go through all.
    pub sampled: u64,
    /// Images looked at, over all moments.
    pub images: u64,
    /// Images that differ from all before, or are owed more.
    pub distinct: u64,
    /// Branches that ended with a verdict.
    pub recovered: u64,
    /// Of these, branches inside of a recovery.
    pub inside_recovery: u64,
    /// Runs of which no more images were looked at for want of time.
    pub left_out: u64,
}

impl Tally {
    fn add(&mut self, more: &Tally) {
        self.boundaries += more.boundaries;
        self.moments += more.moments;
        self.permissible += more.permissible;
        self.sampled += more.sampled;
        self.images += more.images;
        self.distinct += more.distinct;
        self.recovered += more.recovered;
        self.inside_recovery += more.inside_recovery;
        self.left_out += more.left_out;
    }
}

/// A branch as a plan: what of the golden run came before its crash, and the crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The faults that had struck, and the crashes of the census.
    pub faults: Vec<Fault>,
    /// The operations that had been issued.
    pub issued: BTreeSet<u32>,
    /// Shortly after the last crash.
    pub horizon_us: u64,
}

impl Cut {
    /// The plans that may repeat the branch of a run of `base`, from the one that says most precisely what happened to the
    /// one that changes `base` the least.
    ///
    /// A client without further operations may be done, and do what it does then, where in the branch it still waited. So
    /// the first plan keeps the next operation of each client, at the horizon; the second does without; the third keeps them
    /// all, and goes on after the recovery.
    pub fn plans(&self, base: &Plan) -> Vec<Plan> {
        let horizon_us = self.horizon_us.min(HORIZON_MAX_US);
        let mut waiting = base.clone();
        waiting.faults.clone_from(&self.faults);
        waiting.horizon_us = horizon_us;
        let mut next: BTreeMap<u16, (u64, u32)> = BTreeMap::new();
        for op in base.ops.iter().filter(|op| !self.issued.contains(&op.id)) {
            let first = next.entry(op.actor).or_insert((op.at_us, op.id));
            *first = (*first).min((op.at_us, op.id));
        }
        let next: BTreeSet<u32> = next.values().map(|(_, id)| *id).collect();
        waiting.ops.retain(|op| self.issued.contains(&op.id) || next.contains(&op.id));
        waiting.ops.iter_mut().for_each(|op| op.at_us = op.at_us.min(horizon_us));
        let mut done = waiting.clone();
        done.ops.retain(|op| self.issued.contains(&op.id));
        let whole =
            Plan { faults: self.faults.clone(), horizon_us: base.horizon_us.max(horizon_us), ..base.clone() };
        vec![waiting, done, whole]
    }
}

/// A way in which branches fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How many branches fail this way.
    pub count: u64,
    /// A plan fails this way by itself, without a crash of the census.
    pub undisturbed: bool,
    /// How the first of them ended.
    pub verdict: Verdict,
    /// The first of them, as a plan.
    pub cut: Cut,
}

impl Finding {
    /// `plan` fails by itself.
    fn of_plan(plan: &Plan, verdict: Verdict) -> Finding {
        let issued = plan.ops.iter().map(|op| op.id).collect();
        let cut = Cut { faults: plan.faults.clone(), issued, horizon_us: plan.horizon_us };
        Finding { count: 1, undisturbed: true, verdict, cut }
    }
}

/// Failures by signature.
pub(crate) type Findings = BTreeMap<String, Finding>;

/// Adds failures that come after those that are there.
fn add_findings(findings: &mut Findings, more: Findings) {
    for (signature, finding) in more {
        match findings.entry(signature) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(finding);
            }
            std::collections::btree_map::Entry::Occupied(mut place) => place.get_mut().count += finding.count,
        }
    }
}

/// The images that were looked at, each for what was owed, and whether its recovery was gone through as well.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(BTreeSet<u64>);

impl Seen {
    /// True if it was not looked at before, or not as deeply; `below` levels below it will be gone through now.
    fn insert(&mut self, key: u64, below: u8) -> bool {
        let deeper = |below: u8| key.wrapping_add(u64::from(below));
        let new = self.0.insert(deeper(below));
        if new {
            self.0.extend((0..below).map(deeper));
        }
        new
    }
}

/// What a run, or a branch, gives back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    /// How it ended.
    pub(crate) verdict: Verdict,
    /// The digest of the run; empty of a branch.
    pub(crate) digest: String,
    /// What was looked at from it.
    pub(crate) tally: Tally,
    /// What was found from it.
    pub(crate) findings: Findings,
    /// The keys of [`Seen`] that it added.
    pub(crate) seen: Vec<u64>,
    /// Why not all branches could be started.
    pub(crate) trouble: Option<String>,
}

impl Taken {
    /// Nothing but the end of a run.
    fn of(verdict: Verdict) -> Taken {
        Taken {
            verdict,
            digest: String::new(),
            tally: Tally::default(),
            findings: Findings::new(),
            seen: Vec::new(),
            trouble: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Op, VERSION};

    #[test]
    fn an_image_is_seen_as_deeply_as_it_was_looked_at() {
        let mut seen = Seen::default();
        assert!(seen.insert(1 << 20, 0));
        assert!(!seen.insert(1 << 20, 0));
        assert!(seen.insert(1 << 20, 1), "its recovery was not gone through");
        assert!(!seen.insert(1 << 20, 1));
        assert!(seen.insert(2 << 20, 1));
        assert!(!seen.insert(2 << 20, 0));
    }

    #[test]
    fn a_cut_keeps_what_was_issued_and_what_each_client_waits_for() {
        let op = |id, at_us, actor| Op { id, at_us, actor, verb: "put".into(), args: vec![] };
        let base = Plan {
            version: VERSION,
            scenario: String::new(),
            seed: 0,
            schedule_seed: 0,
            key: 0,
            horizon_us: 100,
            topology: BTreeMap::new(),
            knobs: BTreeMap::new(),
            buggify: vec![],
            ops: vec![op(0, 5, 0), op(1, 6, 1), op(2, 50, 0), op(3, 60, 0), op(4, 7, 1)],
            faults: vec![],
        };
        let cut = Cut { faults: vec![], issued: [0, 1].into(), horizon_us: 20 };
        let ops = |plan: &Plan| plan.ops.iter().map(|op| (op.id, op.at_us)).collect::<Vec<_>>();
        let plans = cut.plans(&base);
        assert_eq!(ops(&plans[0]), [(0, 5), (1, 6), (2, 20), (4, 7)], "one that is late stays late");
        assert_eq!(ops(&plans[1]), [(0, 5), (1, 6)]);
        assert_eq!((plans[0].horizon_us, plans[1].horizon_us, plans[2].horizon_us), (20, 20, 100));
        assert_eq!(plans[2].ops, base.ops);
    }
}
