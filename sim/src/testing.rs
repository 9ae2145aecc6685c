//! Seeds of a scenario, and regressions, as a `cargo test`.
//!
//! The plans are run by the binary, each in a process of its own: what a test finds beside other tests, in one process with
//! them, replays alone.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;

/// What a test reads of the sweep's output.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Plan(serde::de::IgnoredAny),
    Divergence(serde_json::Value),
    Finding { text: String },
    Summary(serde::de::IgnoredAny),
}

/// Runs seeds of `scenario` with the binary `cutwater`: `MADSIM_TEST_SEED` if it is set, else as many as
/// `MADSIM_TEST_NUM` says, else `default_seeds`.
///
/// # Panics
/// If a seed fails: with the failure, and the two lines that repeat it. If the sweep does not run or end as it should.
#[expect(clippy::disallowed_methods, reason = "these variables are how madsim's users choose seeds")]
pub fn check_seeds(cutwater: &Path, scenario: &str, default_seeds: u64) {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
    };
    let seeds = match number("MADSIM_TEST_SEED") {
        Some(seed) => seed..seed.checked_add(1).expect("the last seed of all is none of a range"),
        None => 0..number("MADSIM_TEST_NUM").unwrap_or(default_seeds),
    };
    let range = format!("{}..{}", seeds.start, seeds.end);
    let output = Command::new(cutwater)
        .args(["sweep", scenario, "--json", "--seeds", &range])
        .output()
        .unwrap_or_else(|e| panic!("{} does not start: {e}", cutwater.display()));
    let stdout = String::from_utf8_lossy(&output.stdout);
    let mut failures = String::new();
    for line in stdout.lines() {
        match serde_json::from_str(line) {
            Ok(Line::Finding { text }) => failures += &text,
            Ok(Line::Divergence(divergence)) => failures += &format!("non-determinism: {divergence:#}\n"),
            Ok(Line::Plan(_) | Line::Summary(_)) => {}
            Err(e) => failures += &format!("not a line of a sweep: {e}: {line}\n"),
        }
    }
    // A sweep as short as a test may well not see all that a campaign must.
    let void = output.status.code() == Some(3);
    assert!(
        failures.is_empty() && (output.status.success() || void),
        "\n{failures}{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs the regressions at `path` (a file, or a directory with files at any depth) with the binary `cutwater`.
///
/// # Panics
/// If one is broken: it does not hold, no longer reaches what it reached, or cannot be read.
pub fn check_regressions(cutwater: &Path, path: &Path) {
    let output = Command::new(cutwater)
        .args(["regress", "run"])
        .arg(path)
        .output()
        .unwrap_or_else(|e| panic!("{} does not start: {e}", cutwater.display()));
    assert!(
        output.status.success(),
        "\n{}{}: {}",
        String::from_utf8_lossy(&output.stdout),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
