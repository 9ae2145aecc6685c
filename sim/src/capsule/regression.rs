//! Regressions: minimal plans of failures, kept with their story and run before anything else.
//!
//! A file `tests/regressions/<scenario>/<signature>.json` says what went wrong, whether it is mended, the plan, and what a
//! run of the plan must **reach**: the points it passed and how many faults struck when the file was made. A mended one must
//! hold and still reach all of it. A plan that holds because it no longer gets to the place proves nothing: it is *stale*,
//! which is a failure, and so is a file that this build cannot read. One that is not mended must fail the way it did; if it
//! holds, the file is to be marked.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Finding;
use crate::plan::{Invalid, Plan};
use crate::program::{command_line, program};
use crate::verdict::{Report, Verdict};
use crate::vocabulary::Vocabulary;

/// The version of regression files that this build reads and writes.
pub const VERSION: u32 = 1;

/// A failure that is to be remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regression {
    /// See [`VERSION`].
    pub regression: u32,
    /// What happened, what was lost, why the mended code does not do it.
    pub story: String,
    /// Names the failure.
    pub signature: String,
    /// The engine was mended: the plan must hold.
    pub mended: bool,
    /// What a run of the plan must reach.
    pub reaches: Reaches,
    /// The minimal plan.
    pub plan: Plan,
}

/// What a run reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reaches {
    /// Points that are passed.
    pub points: BTreeSet<String>,
    /// How many faults strike.
    pub faults: u64,
}

impl Reaches {
    /// What the run of this report reached.
    pub fn of(report: &Report) -> Reaches {
        Reaches {
            points: report.points.keys().cloned().collect(),
            faults: report.receipts.values().map(|receipt| receipt.delivered).sum(),
        }
    }

    /// What is reached beyond `other`, in words; `None` if there is nothing.
    pub fn beyond(&self, other: &Reaches) -> Option<String> {
        let unseen: Vec<&str> = self.points.difference(&other.points).map(String::as_str).collect();
        if !unseen.is_empty() {
            return Some(unseen.join(", "));
        }
        let faults = self.faults.saturating_sub(other.faults);
        (faults > 0).then(|| format!("{faults} of {} faults", self.faults))
    }

    /// What both reach.
    pub fn common(&self, other: &Reaches) -> Reaches {
        Reaches {
            points: self.points.intersection(&other.points).cloned().collect(),
            faults: self.faults.min(other.faults),
        }
    }
}

/// What became of a regression: what was expected of it, and what came, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It holds, and reaches what it must; or it is not mended, and fails the way it did.
    AsItShould(String),
    /// It does not, or nobody can tell any more.
    Broken(String),
}

impl Regression {
    /// Reads a regression. Its plan is not yet held against a vocabulary.
    ///
    /// # Errors
    /// Not JSON, another version, an unknown or missing field.
    pub fn from_json(text: &str) -> Result<Regression, Invalid> {
        #[derive(Deserialize)]
        struct Header {
            regression: Option<u64>,
        }
        let header: Header =
            serde_json::from_str(text).map_err(|e| Invalid(format!("not a regression: {e}")))?;
        match header.regression {
            Some(v) if v == u64::from(VERSION) => {}
            Some(v) => {
                return Err(Invalid(format!(
                    "regression of version {v}; this build reads version {VERSION}"
                )));
            }
            None => return Err(Invalid("not a regression: no field `regression`".into())),
        }
        let read: Regression =
            serde_json::from_str(text).map_err(|e| Invalid(format!("malformed regression: {e}")))?;
        Plan::from_json(&read.plan.to_json())?;
        Ok(read)
    }

    /// The regression as a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a regression is plain data") + "\n"
    }

    /// True if `other` keeps the same failure: the same signature, from the same operations and faults under the same settings.
    ///
    /// What decides nothing is left out (the seed), and so is what `add` may change (the horizon) and what differs between two
    /// seeds that show the same (the order of tasks, the draws of devices, the numbers of faults). Where there is one node, "any node" is that one.
    pub fn keeps_the_same(&self, other: &Regression, vocabulary: &Vocabulary) -> bool {
        let essence = |plan: &Plan| essence(plan, vocabulary);
        self.signature == other.signature
            && self.plan.scenario == other.plan.scenario
            && essence(&self.plan) == essence(&other.plan)
    }

    /// What is expected of a run of the plan.
    pub fn expected(&self) -> String {
        if self.mended {
            "mended: it must hold and reach what it did".into()
        } else {
            format!("open: it must fail with {}", self.signature)
        }
    }

    /// Judges a run of the plan.
    pub fn judge(&self, report: &Report) -> Standing {
        let [oracle, property, ..] = report.verdict.explain();
        let signature = report.verdict.signature();
        let missed = self.reaches.beyond(&Reaches::of(report));
        let (stands, came) = match (&report.verdict, self.mended, missed) {
            (Verdict::Invalid { reason }, ..) => {
                (false, format!("stale: the plan is none any more: {reason}"))
            }
            (Verdict::Held, true, None) => (true, "it does".into()),
            (Verdict::Held, true, Some(missed)) => {
                (false, format!("stale: it holds, and no longer reaches {missed}"))
            }
            (Verdict::Held, false, _) => (false, "it holds now: if it is mended, add it once more".into()),
            (_, true, _) if signature == self.signature => {
                (false, format!("it is back: {signature}  {oracle}: {property}"))
            }
            (_, false, _) if signature == self.signature => (true, format!("it does: {oracle}: {property}")),
            _ => (false, format!("it fails in another way: {signature}  {oracle}: {property}")),
        };
        let line = format!("{}; {came}", self.expected());
        if stands { Standing::AsItShould(line) } else { Standing::Broken(line) }
    }
}

/// A plan without what does not tell two failures apart.
fn essence(plan: &Plan, vocabulary: &Vocabulary) -> Value {
    let mut plan = plan.clone();
    plan.faults.iter_mut().for_each(|fault| fault.id = 0);
    plan.knobs.retain(|name, value| vocabulary.knob(name).is_none_or(|knob| knob.default != *value));
    plan.topology.retain(|name, count| vocabulary.role(name).is_none_or(|role| role.count.start() != count));
    let mut essence = json!([&plan.topology, &plan.knobs, &plan.buggify, &plan.ops, &plan.faults]);
    if plan.node_count(vocabulary) == 1 {
        name_the_node(&mut essence);
    }
    essence
}

/// Says node 1 where it says any.
fn name_the_node(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(name_the_node),
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "node" && *value == 0 {
                    *value = 1.into();
                }
                name_the_node(value);
            }
        }
        _ => {}
    }
}

/// What to type to keep the capsule in `dir` as a regression, but for the story.
pub(super) fn add_line(dir: &Path) -> String {
    command_line(&["regress", "add", &dir.display().to_string()]) + " --story \"...\""
}

/// The source of a test that replays the minimal plan of the capsule in `dir`.
pub(super) fn test_source(finding: &Finding, text: &str, dir: &Path) -> String {
    let (scenario, signature) = (&finding.report.scenario, finding.report.verdict.signature());
    let story: String = text.lines().map(|line| format!("/// {line}\n")).collect();
    let name = format!("{scenario}_{signature}").replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let add = add_line(dir);
    // In the package of the binary cargo says where it is; another program is known by its path alone.
    let program =
        program().map_or_else(|| "env!(\"CARGO_BIN_EXE_cutwater\")".into(), |path| format!("{path:?}"));
    format!(
        "// Once it is mended, keep it:\n//\n//     {add}\n//\n\
         // and `cargo test` replays tests/regressions/{scenario}/{signature}.json. This is the same as a test of its own.\n\n\
         /// ```text\n{story}/// ```\n\
         #[test]\n\
         fn {name}() {{\n    \
             cutwater_sim::testing::check_regressions(\n        \
                 std::path::Path::new({program}),\n        \
                 std::path::Path::new(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/../tests/regressions/{scenario}/{signature}.json\")),\n    \
             );\n\
         }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{FaultClass, Receipt};
    use crate::plan::{Act, Anchor, Fault};
    use crate::scenario::Violation;
    use crate::vocabulary::{Knob, Role};

    fn regression(mended: bool) -> Regression {
        let plan = Plan {
            version: crate::plan::VERSION,
            scenario: "store".into(),
            seed: 0,
            schedule_seed: 0,
            key: 0,
            horizon_us: 1,
            topology: Default::default(),
            knobs: Default::default(),
            buggify: vec![],
            ops: vec![],
            faults: vec![],
        };
        let reaches = Reaches { points: ["a".to_string(), "b".into()].into(), faults: 1 };
        let signature = violated().signature();
        Regression { regression: VERSION, story: "a story".into(), signature, mended, reaches, plan }
    }

    fn violated() -> Verdict {
        Verdict::Violated(Violation::new("durability", "it is there"))
    }

    fn report(verdict: Verdict, points: &[&str], faults: u64) -> Report {
        let mut report = Report::bare("store", 0, verdict);
        report.points = points.iter().map(|point| (point.to_string(), 1)).collect();
        let receipt = Receipt { armed: 1, delivered: faults, observed: 0 };
        report.receipts = [(FaultClass::PowerFail, receipt)].into();
        report
    }

    #[test]
    fn a_mended_one_holds_and_reaches_its_points_or_is_broken() {
        let other = Verdict::Hung { limit_s: 1 };
        let invalid = Verdict::Invalid { reason: "no such point".into() };
        let cases = [
            (true, report(Verdict::Held, &["a", "b", "c"], 2), "it does"),
            (true, report(Verdict::Held, &["a"], 1), "stale: it holds, and no longer reaches b"),
            (
                true,
                report(Verdict::Held, &["a", "b"], 0),
                "stale: it holds, and no longer reaches 1 of 1 faults",
            ),
            (true, report(violated(), &[], 0), "it is back: d9cbf76d  durability: it is there"),
            (true, report(other.clone(), &[], 0), "it fails in another way: "),
            (true, report(invalid, &[], 0), "stale: the plan is none any more: no such point"),
            (false, report(violated(), &[], 0), "it does: durability: it is there"),
            (false, report(Verdict::Held, &["a", "b"], 1), "it holds now: if it is mended, add it once more"),
            (false, report(other, &[], 0), "it fails in another way: "),
        ];
        for (mended, report, expected) in cases {
            let (stands, said) = match regression(mended).judge(&report) {
                Standing::AsItShould(said) => (true, said),
                Standing::Broken(said) => (false, said),
            };
            assert_eq!(stands, expected.starts_with("it does"), "{said}");
            let (must, came) = said.split_once("; ").unwrap();
            assert!(came.starts_with(expected), "{said}");
            let word = if mended { "mended: it must hold" } else { "open: it must fail with" };
            assert!(must.starts_with(word), "{said}");
        }
    }

    #[test]
    fn the_same_failure_is_known_again_whatever_its_plan_calls_the_only_node() {
        let vocabulary = Vocabulary {
            roles: vec![Role::new("store", "keeps", 1..=2)],
            actors: 1..=1,
            ops: 0..=1,
            verbs: vec![],
            knobs: vec![Knob::new("sync_us", "of a sync", 9, 1..=10)],
            points: vec![],
            classes: vec![],
            faults: vec![],
            horizon_us: 1..=10,
        };
        let with = |node: u64, nth: u32| {
            let mut regression = regression(true);
            regression.plan.faults = vec![Fault {
                id: 3,
                at: Anchor::Point { point: "log.synced".into(), node, nth },
                act: Act::Pause { node, for_us: 5 },
            }];
            regression
        };
        let same = |a: &Regression, b: &Regression| a.keeps_the_same(b, &vocabulary);
        let mut other = with(0, 1);
        (other.plan.seed, other.plan.horizon_us, other.plan.schedule_seed, other.mended) = (7, 9, 8, false);
        other.plan.faults[0].id = 8;
        other.plan.knobs = [("sync_us".to_string(), 9)].into();
        other.plan.topology = [("store".to_string(), 1)].into();
        assert!(same(&with(1, 1), &other), "node 0 is the only one");
        assert!(!same(&with(1, 2), &other), "another passing");
        other.plan.knobs = [("sync_us".to_string(), 1)].into();
        assert!(!same(&with(1, 1), &other), "another setting");
        let two = |mut regression: Regression| {
            regression.plan.topology = [("store".to_string(), 2)].into();
            regression
        };
        assert!(!same(&two(with(1, 1)), &two(with(0, 1))), "any of two nodes is another plan than the first");
        let renamed = Regression { signature: "0badcafe".into(), ..with(1, 1) };
        assert!(!same(&with(1, 1), &renamed), "another failure");
    }

    #[test]
    fn a_file_is_read_back_or_refused_in_one_line() {
        let written = regression(true).to_json();
        assert_eq!(Regression::from_json(&written).unwrap(), regression(true));
        let spoilt = [
            String::new(),
            "{}".into(),
            written.replace("\"regression\": 1", "\"regression\": 2"),
            written.replace("\"version\": 1", "\"version\": 3"),
            written.replace("\"mended\"", "\"fixed\""),
        ];
        for text in spoilt {
            let refused = Regression::from_json(&text).unwrap_err().to_string();
            assert!(!refused.contains('\n') && !refused.is_empty());
        }
    }
}
