//! What a sweep leaves in a directory: `summary.json`, `junit.xml`, and `failures/<scenario>-<signature>/` with the plan and the story
//! of the first run of each failure.
#![expect(clippy::disallowed_methods, reason = "results are written to the real disk")]

use std::io;
use std::path::{Path, PathBuf};

use quick_junit::{NonSuccessKind, Report as Junit, TestCase, TestCaseStatus, TestSuite};

use super::Usage;
use super::campaign::Campaign;
use super::failure;
use crate::census::drive::Census;
use crate::plan::Plan;
use crate::verdict::{Outcome, Report};

/// A directory that can be written to.
pub(super) struct Out {
    dir: PathBuf,
}

impl Out {
    /// Creates the directory, and makes sure that it can be written to, before anything is run.
    pub(super) fn open(dir: &Path) -> Result<Out, Usage> {
        let probe = dir.join(".cutwater");
        std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(&probe, []))
            .and_then(|()| std::fs::remove_file(&probe))
            .map_err(|e| Usage(format!("--out {}: {e}", dir.display())))?;
        Ok(Out { dir: dir.into() })
    }

    /// Keeps a failure: the plan, and the story of the run that was recorded.
    pub(super) fn failure(&self, plan: &Plan, report: &Report, recorded: &Outcome) -> io::Result<()> {
        let dir =
            self.dir.join("failures").join(format!("{}-{}", report.scenario, report.verdict.signature()));
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("plan.json"), plan.to_json())?;
        let story = format!("{}\n{}", failure::text(report), failure::story(recorded));
        std::fs::write(dir.join("story.txt"), story)
    }

    /// Writes a census, and the plans of what failed.
    pub(super) fn census(&self, census: &Census) -> io::Result<()> {
        for broken in &census.violations {
            let path = self.dir.join(census_plan(&broken.signature));
            std::fs::create_dir_all(path.parent().expect("it lies in a directory"))?;
            std::fs::write(path, broken.plan.to_json())?;
        }
        let text = serde_json::to_string_pretty(census).expect("a census is plain data");
        std::fs::write(self.dir.join("census.json"), text + "\n")
    }

    /// Writes the results.
    pub(super) fn results(&self, campaign: &Campaign) -> io::Result<()> {
        let summary = serde_json::to_string_pretty(campaign).expect("a campaign is plain data");
        std::fs::write(self.dir.join("summary.json"), summary + "\n")?;
        let junit = junit(campaign).to_string().map_err(io::Error::other)?;
        std::fs::write(self.dir.join("junit.xml"), junit)
    }
}

/// Where in the directory the plan of a failure of a census is.
pub(super) fn census_plan(signature: &str) -> String {
    format!("failures/census-{signature}/plan.json")
}

/// A suite for each scenario; in it a case for each way to fail, and one for all seeds that held.
fn junit(campaign: &Campaign) -> Junit {
    let mut junit = Junit::new("cutwater");
    for (name, tally) in &campaign.scenarios {
        let mut suite = TestSuite::new(name.as_str());
        let mut held =
            TestCase::new(format!("{} of {} seeds held", tally.held, tally.plans), TestCaseStatus::success());
        held.set_classname(name.as_str());
        suite.add_test_case(held);
        for failure in campaign.failures.values().filter(|f| f.first.scenario == *name) {
            let [oracle, property, ..] = failure.first.verdict.explain();
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(format!("{oracle}: {property}"));
            status.set_description(failure::text(&failure.first));
            suite.add_test_case(case(name, &failure.first.verdict.signature(), status));
        }
        for divergence in campaign.divergences.iter().filter(|d| d.scenario == *name) {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            status.set_message(format!("two digests: {}", divergence.digests.join(", ")));
            suite.add_test_case(case(name, &format!("seed {} run twice", divergence.seed), status));
        }
        for what in &tally.void {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(what.as_str());
            suite.add_test_case(case(name, "void", status));
        }
        junit.add_test_suite(suite);
    }
    junit
}

fn case(scenario: &str, name: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_classname(scenario);
    case
}
