//! Regressions: minimal plans of failures, kept with their story and run before anything else.
//!
//! A file `tests/regressions/<scenario>/<signature>.json` says what went wrong, whether it is mended, the plan, and what a
//! run of the plan must **reach**: the points it passed and how many faults struck when the file was made. A mended one must
//! hold and still reach all of it. A plan that holds because it no longer gets to the place proves nothing: it is *stale*,
//! which is a failure, and so is a file that this build cannot read. One that is not mended must fail the way it did; if it
//! holds, the file is to be marked.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Finding;
use crate::plan::{Invalid, Plan};
use crate::verdict::{Report, Verdict};

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

/// What became of a regression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It holds, and reaches what it must; or it is not mended, and fails the way it did.
    AsItShould,
    /// It is not: one line that says how.
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

    /// Judges a run of the plan.
    pub fn judge(&self, report: &Report) -> Standing {
        let broken = |what: String| Standing::Broken(what);
        let signature = report.verdict.signature();
        match (&report.verdict, self.mended) {
            (Verdict::Invalid { reason }, _) => broken(format!("stale: the plan is none any more: {reason}")),
            (Verdict::Held, true) => match self.reaches.beyond(&Reaches::of(report)) {
                Some(missed) => broken(format!("stale: it holds, and no longer reaches {missed}")),
                None => Standing::AsItShould,
            },
            (Verdict::Held, false) => broken("it holds now: mark it as mended".into()),
            (_, false) if signature == self.signature => Standing::AsItShould,
            _ if signature == self.signature => broken("it is back".into()),
            _ => broken(format!("it fails in another way: {signature}")),
        }
    }
}

/// The source of a test that replays the minimal plan.
pub(super) fn test_source(finding: &Finding, text: &str) -> String {
    let (scenario, signature) = (&finding.report.scenario, finding.report.verdict.signature());
    let story: String = text.lines().map(|line| format!("/// {line}\n")).collect();
    let name = format!("{scenario}_{signature}").replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    format!(
        "// Once it is mended: `cargo cutwater regress add` this directory. `cargo test` then replays it as\n\
         // tests/regressions/{scenario}/{signature}.json, and this is the same as a test of its own.\n\n\
         /// ```text\n{story}/// ```\n\
         #[test]\n\
         fn {name}() {{\n    \
             cutwater_sim::testing::check_regressions(\n        \
                 std::path::Path::new(env!(\"CARGO_BIN_EXE_cutwater\")),\n        \
                 std::path::Path::new(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/../tests/regressions/{scenario}/{signature}.json\")),\n    \
             );\n\
         }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{FaultClass, Receipt};
    use crate::scenario::Violation;

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
            (true, report(Verdict::Held, &["a", "b", "c"], 2), ""),
            (true, report(Verdict::Held, &["a"], 1), "stale: it holds, and no longer reaches b"),
            (
                true,
                report(Verdict::Held, &["a", "b"], 0),
                "stale: it holds, and no longer reaches 1 of 1 faults",
            ),
            (true, report(violated(), &[], 0), "it is back"),
            (true, report(other.clone(), &[], 0), "it fails in another way"),
            (true, report(invalid, &[], 0), "stale: the plan is none any more: no such point"),
            (false, report(violated(), &[], 0), ""),
            (false, report(Verdict::Held, &["a", "b"], 1), "it holds now"),
            (false, report(other, &[], 0), "it fails in another way"),
        ];
        for (mended, report, expected) in cases {
            match regression(mended).judge(&report) {
                Standing::AsItShould => assert_eq!(expected, "", "{report:?}"),
                Standing::Broken(said) => {
                    assert!(!expected.is_empty() && said.starts_with(expected), "{said}")
                }
            }
        }
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
