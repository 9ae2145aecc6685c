//! A replay held against what a capsule keeps of the same plan.
//!
//! The same program must repeat the run bit for bit. Another build may run the plan in another way: that is what it was built
//! for, and is told calmly. A capsule knows which program wrote it by a hash of its executable, whatever directory it ran in.

use std::io;
use std::path::Path;

use serde::Serialize;

use super::write::{self, ReadBack};
use crate::program;
use crate::verdict::{Report, Verdict};

/// How a run compares with the one that the capsule keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Comparison {
    verdict: Likeness,
    digest: Likeness,
    /// In words.
    told: String,
    /// One program ran one plan in two ways.
    #[serde(skip)]
    pub(crate) parted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Likeness {
    Same,
    /// The same failure, with other values.
    Alike,
    Other,
    /// There is nothing to compare.
    Unknown,
}

impl Comparison {
    /// In words, as many lines as it takes.
    pub(crate) fn told(&self) -> &str {
        &self.told
    }

    fn unknown(told: &str) -> Comparison {
        let unknown = Likeness::Unknown;
        Comparison { verdict: unknown, digest: unknown, told: told.into(), parted: false }
    }
}

/// Holds `now` against what the capsule at `path` (its directory, or a plan in it) keeps of this plan; `None` if there is no
/// capsule.
///
/// # Errors
/// The capsule cannot be read.
pub(crate) fn compare(path: &Path, now: &Report) -> io::Result<Option<Comparison>> {
    let dir = if path.is_dir() { Some(path) } else { path.parent() };
    let Some(kept) = dir.map(write::read_back).transpose()?.flatten() else { return Ok(None) };
    Ok(Some(against(&kept, now, program::build().as_deref())))
}

fn against(kept: &ReadBack, now: &Report, build: Option<&str>) -> Comparison {
    let reports = kept.minimal.iter().map(|minimal| &minimal.report).chain([&kept.report]);
    let Some(then) = reports.into_iter().find(|report| report.plan == now.plan) else {
        return Comparison::unknown("it keeps no run of this plan, which was edited since");
    };
    if kept.unrepeated.is_some() {
        return Comparison::unknown("the failure did not repeat when it was written, either");
    }
    let verdict = if then.verdict == now.verdict {
        Likeness::Same
    } else if then.verdict.signature() == now.verdict.signature() {
        Likeness::Alike
    } else {
        Likeness::Other
    };
    // A run without a report has no digest, and one that the watchdog ended says nothing of digests.
    let hung = [then, now].iter().any(|report| matches!(report.verdict, Verdict::Hung { .. }));
    let digest = if hung || then.digest.is_empty() || now.digest.is_empty() {
        Likeness::Unknown
    } else if then.digest == now.digest {
        Likeness::Same
    } else {
        Likeness::Other
    };
    let same_build = kept.versions.as_ref().and_then(|versions| versions.build.as_deref()).zip(build);
    let same_build = same_build.map(|(then, now)| then == now);
    let differs = verdict != Likeness::Same || digest == Likeness::Other;
    let mut told = match verdict {
        Likeness::Same => "same verdict".into(),
        Likeness::Alike => {
            let [_, _, expected, found] = then.verdict.explain();
            format!("the same failure with other values (then expected {expected}, found {found})")
        }
        _ => format!("another verdict (then {})", ended(&then.verdict)),
    };
    told.push_str(&match digest {
        Likeness::Same => ", same digest".into(),
        Likeness::Unknown => ", no digest to compare".into(),
        _ => format!(", another digest (then {})", then.digest),
    });
    if differs {
        told.push_str(match same_build {
            Some(true) => "\nthe same program wrote it: something outside of the plan decides",
            Some(false) => {
                "\nanother build of the program wrote it, and this one may well run it in another way"
            }
            None => "\nit does not say which build of the program wrote it",
        });
    }
    Comparison { verdict, digest, told, parted: differs && !hung && same_build == Some(true) }
}

fn ended(verdict: &Verdict) -> String {
    let [oracle, property, ..] = verdict.explain();
    if verdict.held() { "it held".into() } else { format!("{}  {oracle}: {property}", verdict.signature()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capsule::write::{ReadBackMinimal, ReadBackVersions};
    use crate::scenario::Violation;

    fn report(plan: &str, digest: &str, found: Option<&str>) -> Report {
        let violation = |found| Verdict::Violated(Violation::new("durability", "it is there").found(found));
        let verdict = found.map_or(Verdict::Held, violation);
        Report { plan: plan.into(), digest: digest.into(), ..Report::bare("store", 1, verdict) }
    }

    fn kept() -> ReadBack {
        ReadBack {
            versions: Some(ReadBackVersions { build: Some("b1".into()) }),
            report: report("first", "d0", Some("none")),
            unrepeated: None,
            minimal: Some(ReadBackMinimal { report: report("least", "d1", Some("none")) }),
        }
    }

    #[test]
    fn a_run_is_the_same_or_it_is_said_what_differs_and_whose_fault_that_is() {
        let cases = [
            (report("least", "d1", Some("none")), "b1", "same verdict, same digest", false),
            (report("least", "d1", Some("none")), "b2", "same verdict, same digest", false),
            (report("first", "d0", Some("none")), "b1", "same verdict, same digest", false),
            (
                report("least", "d2", Some("none")),
                "b2",
                "same verdict, another digest (then d1)\nanother build of the program wrote it",
                false,
            ),
            (
                report("least", "d2", Some("none")),
                "b1",
                "same verdict, another digest (then d1)\nthe same program wrote it: something outside",
                true,
            ),
            (report("least", "d2", Some("two")), "b2", "the same failure with other values (then", false),
            (report("least", "d2", None), "b2", "another verdict (then d9cbf76d  durability: it is", false),
            (report("edited", "d2", None), "b1", "it keeps no run of this plan", false),
        ];
        for (now, build, says, parted) in cases {
            let compared = against(&kept(), &now, Some(build));
            assert!(compared.told().starts_with(says), "{}", compared.told());
            assert_eq!(compared.parted, parted, "{}", compared.told());
        }
        let unsaid = ReadBack { versions: None, ..kept() };
        let compared = against(&unsaid, &report("least", "d2", None), Some("b1"));
        assert!(
            compared.told().ends_with("does not say which build of the program wrote it"),
            "{compared:?}"
        );
        assert!(!compared.parted);
        let hung = Report { verdict: Verdict::Hung { limit_s: 1 }, ..report("least", "", None) };
        let compared = against(&kept(), &hung, Some("b1"));
        assert!(!compared.parted && compared.told().contains("no digest to compare"), "{compared:?}");
    }
}
