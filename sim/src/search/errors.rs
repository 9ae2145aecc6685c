//! Every call site fails once, in every way: the plans of an error-return sweep.
//!
//! Most errors of a device are handled by code that no test ever ran. A golden run without faults tells which calls there
//! are: each combination of site, class of target and node. For each of them, each error that can happen there, and each of
//! the first, the second and the last such call, there is a plan with exactly that one fault. The number of plans grows with the
//! number of call sites, not with the length of the run, and up to the fault each run is the golden one.
//!
//! *Left out*: two faults in one run, which are for the swarm and for the search.

use std::collections::BTreeMap;

use super::coverage::Coverage;
use crate::faults::{FaultClass, sites};
use crate::plan::{Act, Anchor, Fault, Plan};
use crate::vocabulary::Vocabulary;

/// Calls that are told apart: the site, the class of the target (empty for all of them), the node.
type CallSite = (String, String, u64);

/// The sweep of one plan.
#[derive(Clone, Debug)]
pub struct ErrorSweep {
    /// How many call sites the golden run had.
    pub call_sites: usize,
    /// The plans, one fault each.
    pub plans: Vec<Plan>,
}

/// `plan` without its faults.
pub fn golden(plan: &Plan) -> Plan {
    Plan { faults: Vec::new(), ..plan.clone() }
}

/// The plans that the golden run of `golden` leads to; `reached` is what it was seen to do.
pub fn sweep(golden: &Plan, vocabulary: &Vocabulary, reached: &Coverage) -> ErrorSweep {
    let call_sites = call_sites(vocabulary, reached);
    let mut plans = Vec::new();
    for ((site, class, node), count) in &call_sites {
        let mut nths = vec![1, 2, *count];
        nths.retain(|nth| nth <= count);
        nths.dedup();
        for error in sites::errors_at(site) {
            if !vocabulary.faults.contains(&FaultClass::of(site, &Act::Site(error.clone()))) {
                continue;
            }
            plans.extend(nths.iter().map(|nth| {
                let at = Anchor::Site { site: site.clone(), class: class.clone(), node: *node, nth: *nth };
                let fault = Fault { id: 0, at, act: Act::Site(error.clone()) };
                Plan { faults: vec![fault], ..golden.clone() }
            }));
        }
    }
    ErrorSweep { call_sites: call_sites.len(), plans }
}

/// How often each call was made. Classes that the vocabulary has no word for are taken together, as a plan cannot name them.
fn call_sites(vocabulary: &Vocabulary, reached: &Coverage) -> BTreeMap<CallSite, u32> {
    let mut sites: BTreeMap<CallSite, u32> = BTreeMap::new();
    let mut all: BTreeMap<(&str, u64), (u32, bool)> = BTreeMap::new();
    for calls in &reached.calls {
        let named = vocabulary.classes.contains(&calls.class.as_str());
        if named {
            sites.insert((calls.site.clone(), calls.class.clone(), calls.node), calls.count);
        }
        // A fault without a class counts the calls of every class.
        let (count, has_unnamed) = all.entry((&calls.site, calls.node)).or_default();
        *count = count.saturating_add(calls.count);
        *has_unnamed |= !named;
    }
    for ((site, node), (count, _)) in all.into_iter().filter(|(_, (_, has_unnamed))| *has_unnamed) {
        sites.insert((site.to_string(), String::new(), node), count);
    }
    sites
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::VERSION;
    use crate::search::coverage::Calls;

    fn vocabulary() -> Vocabulary {
        Vocabulary {
            roles: vec![crate::vocabulary::Role::new("store", "stores", 2..=2)],
            actors: 1..=1,
            ops: 0..=0,
            verbs: vec![],
            knobs: vec![],
            points: vec![],
            classes: vec!["wal"],
            faults: vec![FaultClass::DiskError, FaultClass::NetReset],
            horizon_us: 1..=1,
        }
    }

    #[test]
    fn each_call_site_fails_at_its_first_second_and_last_call() {
        let plan = Plan {
            version: VERSION,
            scenario: "s".into(),
            seed: 0,
            schedule_seed: 0,
            key: 0,
            horizon_us: 1,
            topology: [("store".into(), 2)].into(),
            knobs: BTreeMap::new(),
            buggify: vec![],
            ops: vec![],
            faults: vec![],
        };
        let calls = |site: &str, class: &str, node, count| Calls {
            site: site.into(),
            class: class.into(),
            node,
            count,
        };
        let reached = Coverage {
            calls: vec![
                calls("disk.unlink", "wal", 1, 9),
                calls("disk.unlink", "wal", 2, 1),
                calls("net.send", "tcp", 1, 2),
                calls("objects.put", "wal", 1, 5),
            ],
            ..Coverage::default()
        };
        let sweep = sweep(&plan, &vocabulary(), &reached);
        assert_eq!(sweep.call_sites, 4);
        let at: Vec<(String, String, u64, u32)> = sweep
            .plans
            .iter()
            .map(|plan| match &plan.faults[..] {
                [Fault { at: Anchor::Site { site, class, node, nth }, .. }] => {
                    (site.clone(), class.clone(), *node, *nth)
                }
                other => panic!("one fault at a call: {other:?}"),
            })
            .collect();
        let expected = [
            ("disk.unlink", "wal", 1, 1),
            ("disk.unlink", "wal", 1, 2),
            ("disk.unlink", "wal", 1, 9),
            ("disk.unlink", "wal", 2, 1),
            ("net.send", "", 1, 1),
            ("net.send", "", 1, 2),
        ];
        assert_eq!(at, expected.map(|(s, c, node, nth)| (s.to_string(), c.to_string(), node, nth)));
        for plan in &sweep.plans {
            assert_eq!(plan.validate(&vocabulary()), Ok(()));
        }
    }
}
