//! What a campaign leaves in a directory: `report.html`, `summary.json`, `junit.xml`, and a capsule for each failure in
//! `capsules/<scenario>-<signature>/`. Those of an earlier campaign into the same directory are removed.
#![expect(clippy::disallowed_methods, reason = "results are written to the real disk")]

use std::io;
use std::path::{Path, PathBuf};

use quick_junit::{NonSuccessKind, Report as Junit, TestCase, TestCaseStatus, TestSuite};

use super::Usage;
use super::campaign::Campaign;
use super::report;
use crate::capsule;
use crate::census::drive::Census;

/// The directory of the capsules.
const CAPSULES: &str = "capsules";

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
            .and_then(|()| capsule::forget(&dir.join(CAPSULES)))
            .map_err(|e| Usage(format!("--out {}: {e}", dir.display())))?;
        Ok(Out { dir: dir.into() })
    }

    /// Where capsules go.
    pub(super) fn capsules(&self) -> PathBuf {
        self.dir.join(CAPSULES)
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
        let files = campaign.failures.keys().map(|key| (key.clone(), self.files(key))).collect();
        std::fs::write(self.dir.join("report.html"), report::html(campaign, &files))?;
        let junit = junit(campaign).to_string().map_err(io::Error::other)?;
        std::fs::write(self.dir.join("junit.xml"), junit)
    }

    /// What was kept of a failure.
    fn files(&self, key: &str) -> Vec<String> {
        let dir = self.capsules().join(key);
        // A directory that is not there holds nothing.
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut files: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        files.sort();
        files
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
            status.set_description(failure.text.as_str());
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
