//! The real process, killed ten times with SIGKILL at whatever it was doing: what it committed in the end is the known
//! answer, each row once.
#![cfg(not(madsim))]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

const KILLS: u64 = 10;

/// Examples are not built for tests that are named on the command line, so it is built here.
fn example() -> PathBuf {
    let build = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "cutwater-engine", "--example", "nexmark"])
        .status()
        .expect("cargo starts");
    assert!(build.success(), "the example is built");
    let mut dir = std::env::current_exe().expect("the path of this test");
    // <target>/<profile>/deps/<test>
    for _ in 0..3 {
        dir.pop();
    }
    dir.join("debug/examples/nexmark")
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the time that a real process runs is real")]
fn ten_kills_change_nothing() {
    let (example, dir) = (example(), tempfile::tempdir().expect("a directory"));
    let command = || {
        let mut command = Command::new(&example);
        command.arg(dir.path().join("job")).args(["--events", "60000", "--rate", "12000"]);
        command
    };
    for n in 0..KILLS {
        let mut process = command().stdout(Stdio::null()).spawn().expect("the example starts");
        // From before the first deployment to the middle of a checkpoint.
        std::thread::sleep(Duration::from_millis(500 + n * 137 % 1000));
        assert!(process.try_wait().expect("its status").is_none(), "it was to be killed at work");
        process.kill().expect("SIGKILL");
        process.wait().expect("its end");
    }
    let output = command().output().expect("the example runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("finished: 60000 rows committed, each once"), "{said}");
    assert!(said.contains("going on with the job"), "{said}");
    let again = command().output().expect("the example runs");
    assert!(again.status.success(), "a finished job is verified again");
}
