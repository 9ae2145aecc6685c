//! What tests of the command line share: the programs of the examples, built as the test was, and what they print.
#![expect(clippy::disallowed_methods, reason = "these tests start processes and look at real files")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

/// The program of an example, built as this test was. (Cargo builds examples with all tests of a package, but not for one
/// alone; and a real build leaves its own under the same names.)
pub fn example(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let dir = BUILT.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().unwrap().parent().unwrap();
        let mut build = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
        build.args(["build", "--quiet", "--package", "cutwater-sim", "--examples", "--target-dir"]);
        build.arg(profile.parent().unwrap());
        build.args(profile.ends_with("release").then_some("--release"));
        assert!(build.status().unwrap().success(), "{build:?}");
        profile.join("examples")
    });
    dir.join(name)
}

pub fn run(name: &str, args: &[&str]) -> Output {
    Command::new(example(name)).args(args).output().unwrap()
}

pub fn status(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn plans(output: &Output) -> Vec<Value> {
    let lines = stdout(output);
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["type"] == "plan").collect()
}

/// A directory of this test's own.
pub fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}
