//! Plans from seeds, and plans from bytes.
//!
//! A seed draws a *swarm* configuration: which classes of faults exist in this run (each with p = 1/2), how many of each,
//! which operations exist and how often, which knobs leave their defaults. Runs in which few things happen often find what
//! runs in which everything happens rarely do not. Half of all faults are anchored on points of the system, where it is
//! between two durable states, or on the first call after one; the rest on calls into devices, operations and times. A quarter of
//! the sites of `buggify!` is armed. One plan in seven has no faults at all, and no oddities: it tests the oracles.
//!
//! Every draw is keyed by what it decides, so that a new knob or verb leaves the other draws of a seed alone.
//!
//! The same code reads its choices from bytes ([`from_bytes`]), for fuzzers and property tests.

use arbitrary::Unstructured;
use cutwater_io::points::Kind;
use cutwater_io::sim::Key;

use self::choose::{Choose, Source};
use crate::plan::{HORIZON_MAX_US, Op, Plan, VERSION};
use crate::vocabulary::{Arg, Knob, Vocabulary};

mod choose;
pub(crate) mod faults;

/// Of a thousand seeds, how many have no faults.
const FAULT_FREE_PERMILLE: u64 = 150;

/// Of a thousand plans with faults, how many arm a site of `buggify!`.
const ARMED_PERMILLE: u64 = 250;

/// The plan that `seed` names for a scenario.
pub fn swarm(scenario: &str, vocabulary: &Vocabulary, seed: u64) -> Plan {
    let key = Key::root(seed).child(scenario, &[]);
    build(scenario, vocabulary, seed, Source::Keyed(key))
}

/// A valid plan from any bytes.
///
/// # Errors
/// None; the signature is that of `arbitrary`.
pub fn from_bytes(
    scenario: &str,
    vocabulary: &Vocabulary,
    bytes: &mut Unstructured<'_>,
) -> arbitrary::Result<Plan> {
    Ok(build(scenario, vocabulary, 0, Source::Bytes(bytes)))
}

fn build(scenario: &str, vocabulary: &Vocabulary, seed: u64, mut source: Source<'_, '_>) -> Plan {
    let mut plan = Plan {
        version: VERSION,
        scenario: scenario.into(),
        seed,
        schedule_seed: source.choose("schedule", &[], |c| c.between(0, u64::MAX)),
        key: source.choose("key", &[], |c| c.between(0, u64::MAX)),
        horizon_us: source
            .choose("horizon", &[], |c| c.log_within(&vocabulary.horizon_us))
            .clamp(1, HORIZON_MAX_US),
        topology: Default::default(),
        knobs: Default::default(),
        buggify: Vec::new(),
        ops: Vec::new(),
        faults: Vec::new(),
    };
    for (i, role) in vocabulary.roles.iter().enumerate() {
        let count = source.choose("role", &[i as u64], |c| c.within(&role.count));
        plan.topology.insert(role.name.into(), count);
    }
    for knob in vocabulary.knobs.iter().filter(|knob| !knob.pinned) {
        let value = source.choose(&format!("knob.{}", knob.name), &[], |c| knob_value(knob, c));
        plan.knobs.insert(knob.name.into(), value);
    }
    add_ops(&mut plan, vocabulary, &mut source);
    let fault_free = source.choose("fault-free", &[], |c| !c.chance(1000 - FAULT_FREE_PERMILLE));
    if !fault_free {
        plan.buggify = armed(vocabulary, &mut source);
        faults::add(&mut plan, vocabulary, &mut source);
    }
    plan
}

/// The sites of `buggify!` that may fire in this run, in order of name.
fn armed(vocabulary: &Vocabulary, source: &mut Source<'_, '_>) -> Vec<String> {
    let sites = vocabulary.points.iter().filter(|point| point.kind == Kind::Buggify);
    let mut armed: Vec<String> = sites
        .filter(|site| source.choose(&format!("buggify.{}", site.name), &[], |c| c.chance(ARMED_PERMILLE)))
        .map(|site| site.name.to_owned())
        .collect();
    armed.sort();
    armed
}

fn knob_value(knob: &Knob, c: &mut dyn Choose) -> u64 {
    if !c.chance(500) {
        return knob.default;
    }
    match c.between(0, 3) {
        0 => *knob.range.start(),
        1 => *knob.range.end(),
        _ => c.log_within(&knob.range),
    }
}

fn add_ops(plan: &mut Plan, vocabulary: &Vocabulary, source: &mut Source<'_, '_>) {
    if vocabulary.verbs.is_empty() {
        return;
    }
    let actors = source.choose("actors", &[], |c| c.within(&vocabulary.actors)).max(1);
    let count = source.choose("ops", &[], |c| c.log_within(&vocabulary.ops));
    let mut weights: Vec<u64> = vocabulary
        .verbs
        .iter()
        .map(|verb| {
            source.choose(&format!("weight.{}", verb.name), &[], |c| {
                if verb.always || !c.chance(300) { c.log_between(1, 100) } else { 0 }
            })
        })
        .collect();
    if weights.iter().all(|&weight| weight == 0) {
        weights[0] = 1;
    }
    for i in 0..count {
        let op = source.choose("op", &[i], |c| {
            let verb = &vocabulary.verbs[weighted(&weights, c)];
            Op {
                id: i as u32,
                at_us: c.between(0, plan.horizon_us),
                actor: c.between(0, actors - 1) as u16,
                verb: verb.name.into(),
                args: verb.args.iter().map(|arg| arg_value(arg, c)).collect(),
            }
        });
        plan.ops.push(op);
    }
    plan.ops.sort_by_key(|op| (op.at_us, op.id));
}

fn weighted(weights: &[u64], c: &mut dyn Choose) -> usize {
    let mut at = c.between(0, weights.iter().sum::<u64>() - 1);
    for (i, &weight) in weights.iter().enumerate() {
        if at < weight {
            return i;
        }
        at -= weight;
    }
    unreachable!("the draw is below the sum of the weights")
}

fn arg_value(arg: &Arg, c: &mut dyn Choose) -> u64 {
    if arg.log { c.log_within(&arg.range) } else { c.within(&arg.range) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::FaultClass;
    use crate::plan::Anchor;
    use crate::vocabulary::{Role, Verb};
    use proptest::prelude::*;
    use serde_json::Value;

    cutwater_io::points! {
        point ONE = "test.one": "a point";
        sometimes SOME = "test.some": "a condition";
        buggify ODD = "test.odd": "a choice";
    }

    pub(crate) fn vocabulary() -> Vocabulary {
        Vocabulary {
            roles: vec![Role::new("coordinator", "leads", 1..=2), Role::new("worker", "works", 0..=3)],
            actors: 1..=3,
            ops: 0..=50,
            verbs: vec![
                Verb::new("put", "writes").arg("key", 0..=7).log_arg("len_bytes", 0..=100_000).always(),
                Verb::new("sync", "syncs"),
            ],
            knobs: vec![
                Knob::new("buffer_bytes", "bytes", 4096, 0..=u64::MAX),
                Knob::new("broken", "a planted bug", 0, 0..=1).pinned(),
            ],
            points: ALL.to_vec(),
            classes: vec!["wal", "table"],
            faults: FaultClass::ALL.to_vec(),
            horizon_us: 10_000..=60_000_000,
        }
    }

    #[test]
    fn a_seed_always_names_the_same_plan_and_another_another() {
        let v = vocabulary();
        for seed in 0..200 {
            let plan = swarm("s", &v, seed);
            assert_eq!(plan.validate(&v), Ok(()), "seed {seed}");
            assert_eq!(plan, swarm("s", &v, seed));
            assert_ne!(plan.id(), swarm("s", &v, seed + 1).id());
            assert!(!plan.knobs.contains_key("broken"), "a pinned knob stays");
        }
    }

    #[test]
    fn seeds_differ_in_what_exists() {
        let v = vocabulary();
        let plans: Vec<Plan> = (0..2000).map(|seed| swarm("s", &v, seed)).collect();
        let odd = plans.iter().filter(|p| !p.buggify.is_empty()).count();
        assert!((350..550).contains(&odd), "{odd} of 2000 have the oddity");
        let free = plans.iter().filter(|p| p.faults.is_empty()).count();
        assert!((200..400).contains(&free), "{free} of 2000 have no faults");
        let mut points = 0;
        let mut crashes = 0;
        for class in FaultClass::ALL.iter().filter(|class| **class != FaultClass::BeyondBudget) {
            let with = plans.iter().filter(|p| p.faults.iter().any(|f| f.class() == *class)).count();
            assert!((600..1100).contains(&with), "{with} of 2000 have {}", class.name());
        }
        for fault in plans.iter().flat_map(|p| &p.faults) {
            if matches!(fault.class(), FaultClass::ProcessKill | FaultClass::PowerFail) {
                crashes += 1;
                points += usize::from(matches!(fault.at, Anchor::Point { .. }));
            }
        }
        let share = points * 100 / crashes;
        assert!((45..=55).contains(&share), "{share} % of the crashes are at points");
        let without_sync = plans.iter().filter(|p| p.ops.iter().all(|op| op.verb == "put")).count();
        assert!(without_sync > 400, "an operation is off in {without_sync} of 2000");
    }

    /// What a new knob draws leaves everything else of a seed as it was.
    #[test]
    fn draws_are_keyed() {
        let (before, mut more) = (vocabulary(), vocabulary());
        more.knobs.insert(0, Knob::new("new", "a new one", 1, 0..=9));
        for seed in 0..50 {
            let (a, mut b) = (swarm("s", &before, seed), swarm("s", &more, seed));
            b.knobs.remove("new");
            assert_eq!(a, b);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_valid_plan(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
            let v = vocabulary();
            let plan = Plan::arbitrary("s", &v, &mut Unstructured::new(&bytes)).unwrap();
            prop_assert_eq!(plan.validate(&v), Ok(()));
            prop_assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
        }

        /// Wherever it is put, and whether it comes before or after the fields that are known.
        #[test]
        fn a_field_that_is_unknown_is_refused_by_name(seed: u64, place: prop::sample::Index, first: bool) {
            let v = vocabulary();
            let mut plan = serde_json::to_value(swarm("s", &v, seed)).unwrap();
            let name = if first { "a_secret" } else { "z_secret" };
            let mut objects = 0;
            each_object(&mut plan, &mut |_| objects += 1);
            let mut to_go = place.index(objects) as i64;
            each_object(&mut plan, &mut |object| {
                if to_go == 0 {
                    object.insert(name.into(), 1.into());
                }
                to_go -= 1;
            });
            for text in [plan.to_string(), format!("{plan:#}")] {
                let read = Plan::from_json(&text).and_then(|plan| plan.validate(&v));
                let refused = read.expect_err("it is refused").to_string();
                prop_assert!(refused.contains(&format!("`{name}`")) && !refused.contains('\n'), "{}", refused);
            }
        }
    }

    /// Calls `change` with each object in `value`.
    fn each_object(value: &mut Value, change: &mut impl FnMut(&mut serde_json::Map<String, Value>)) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| each_object(item, change)),
            Value::Object(fields) => {
                fields.values_mut().for_each(|field| each_object(field, change));
                change(fields);
            }
            _ => {}
        }
    }
}
