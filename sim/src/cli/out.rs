//! What a campaign leaves in a directory: `report.html`, `summary.json`, `junit.xml`, and a capsule for each failure in
//! `capsules/<scenario>-<signature>/`; a census leaves `census.json` and `failures/`.
//!
//! A directory shows one campaign, and nothing that was left there is lost: what an earlier one left is moved, as it is, to
//! `earlier-1/` (`earlier-2/`, ...) below, before the new one begins.
#![expect(clippy::disallowed_methods, reason = "results are written to the real disk")]

use std::io;
use std::path::{Path, PathBuf};

use quick_junit::{NonSuccessKind, Report as Junit, TestCase, TestCaseStatus, TestSuite};

use super::Usage;
use super::campaign::{Campaign, EMPTY, PARTIAL};
use super::report::{self, Kept};
use crate::capsule::{PLAN, named, set_aside};
use crate::census::drive::Census;
use crate::plan::Plan;

/// The directory of the capsules.
const CAPSULES: &str = "capsules";
const REPORT: &str = "report.html";
const SUMMARY: &str = "summary.json";
const JUNIT: &str = "junit.xml";
const CENSUS: &str = "census.json";
/// The directory of the plans of a census.
const FAILURES: &str = "failures";
/// The directory of plans that went two ways.
const DIVERGENCES: &str = "divergences";
/// Everything that a campaign or a census leaves.
const LEFT: [&str; 7] = [CAPSULES, REPORT, SUMMARY, JUNIT, CENSUS, FAILURES, DIVERGENCES];

/// A directory that can be written to.
pub(super) struct Out {
    dir: PathBuf,
}

impl Out {
    /// Creates the directory, and makes sure that it can be written to, before anything is run. What an earlier campaign left
    /// in it is set aside, which is said on stderr.
    pub(super) fn open(dir: &Path) -> Result<Out, Usage> {
        let probe = dir.join(".cutwater");
        let aside = std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(&probe, []))
            .and_then(|()| std::fs::remove_file(&probe))
            .and_then(|()| set_aside(dir, &LEFT))
            .map_err(|e| Usage(format!("--out {}: {e}", dir.display())))?;
        if let Some(aside) = aside {
            eprintln!(
                "cutwater: what an earlier campaign left in {} is in {} now",
                dir.display(),
                aside.display()
            );
        }
        Ok(Out { dir: dir.into() })
    }

    /// The page that tells the results.
    pub(super) fn report(&self) -> PathBuf {
        self.dir.join(REPORT)
    }

    /// Where capsules go.
    pub(super) fn capsules(&self) -> PathBuf {
        self.dir.join(CAPSULES)
    }

    /// Writes a census, and the plans of what failed.
    pub(super) fn census(&self, census: &Census) -> io::Result<()> {
        for broken in &census.violations {
            let path = self.census_plan(&broken.signature);
            let dir = path.parent().expect("it lies in a directory");
            std::fs::create_dir_all(dir).map_err(|e| named(dir, &e))?;
            write(&path, &broken.plan.to_json())?;
        }
        let text = serde_json::to_string_pretty(census).expect("a census is plain data");
        write(&self.dir.join(CENSUS), &(text + "\n"))
    }

    /// Keeps a plan that went two ways and that no seed names; says where.
    pub(super) fn divergence(&self, plan: &Plan) -> io::Result<PathBuf> {
        let dir = self.dir.join(DIVERGENCES);
        std::fs::create_dir_all(&dir).map_err(|e| named(&dir, &e))?;
        let path = dir.join(format!("{}-{}.json", plan.scenario, plan.id()));
        write(&path, &plan.to_json())?;
        Ok(path)
    }

    /// Where the plan of a failure of a census is.
    pub(super) fn census_plan(&self, signature: &str) -> PathBuf {
        self.dir.join(FAILURES).join(format!("census-{signature}")).join(PLAN)
    }

    /// Writes the results.
    pub(super) fn results(&self, campaign: &Campaign) -> io::Result<()> {
        let summary = serde_json::to_string_pretty(campaign).expect("a campaign is plain data");
        write(&self.dir.join(SUMMARY), &(summary + "\n"))?;
        let files = campaign.failures.keys().map(|key| (key.clone(), self.files(key))).collect();
        let kept = Kept { capsules: self.capsules(), files };
        write(&self.report(), &report::html(campaign, &kept))?;
        let junit = junit(campaign).to_string().map_err(io::Error::other)?;
        write(&self.dir.join(JUNIT), &junit)
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

fn write(path: &Path, text: &str) -> io::Result<()> {
    std::fs::write(path, text).map_err(|e| named(path, &e))
}

/// A suite for each scenario; in it a case for each way to fail, and one for all seeds that held. What is wrong with the campaign
/// itself has a suite of its own: none that ran nothing, or not all, is green.
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
            status.set_message(divergence.told.as_str());
            suite.add_test_case(case(name, &format!("seed {} run twice", divergence.seed), status));
        }
        for what in &tally.void {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(what.as_str());
            suite.add_test_case(case(name, "void", status));
        }
        junit.add_test_suite(suite);
    }
    let of_itself = [
        (campaign.interrupted, "ran to its end", NonSuccessKind::Error, PARTIAL),
        (campaign.is_empty(), "void", NonSuccessKind::Failure, EMPTY),
    ];
    for (_, name, kind, message) in of_itself.into_iter().filter(|(is_so, ..)| *is_so) {
        let mut suite = TestSuite::new("campaign");
        let mut status = TestCaseStatus::non_success(kind);
        status.set_message(message);
        suite.add_test_case(case("campaign", name, status));
        junit.add_test_suite(suite);
    }
    junit
}

fn case(scenario: &str, name: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_classname(scenario);
    case
}
