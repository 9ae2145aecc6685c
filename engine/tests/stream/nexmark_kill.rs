//! The example `nexmark` as a real process on a real disk, killed with SIGKILL ten times while it runs: each time the same
//! command goes on, no completed checkpoint and no committed row is forgotten, and in the end the output is that of a run
//! that nobody disturbed.
#![cfg(not(madsim))]
#![expect(
    clippy::disallowed_methods,
    reason = "the test starts real processes, kills them in real time, and reads what they leave"
)]

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use cutwater_engine::cluster::rpc::JobSpec;
use cutwater_engine::stream::queries::{self, Rows};
use cutwater_engine::stream::sink::decode_output;

const EVENTS: u64 = 44_000;
/// Events per second of the run that is killed: more than five seconds of work, of which ten short lives do about one.
const RATE: u64 = 8_000;
const SIGKILL: i32 = 9;
/// No single wait takes longer, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// When a process is killed, in milliseconds.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// After its start: in the middle of recovery, or not even there.
    Start(u64),
    /// After it showed a checkpoint that no process before it had shown.
    Checkpoint(u64),
}

const MOMENTS: [Moment; 10] = [
    Moment::Checkpoint(0),
    Moment::Start(5),
    Moment::Checkpoint(250),
    Moment::Start(700),
    Moment::Start(1000),
    Moment::Checkpoint(90),
    Moment::Start(300),
    Moment::Checkpoint(170),
    Moment::Start(1300),
    Moment::Checkpoint(20),
];

/// The example, built as this test was: Cargo does not build it for one test alone, and a simulated build leaves its own
/// under the same name.
fn example() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().unwrap().parent().unwrap();
        let name = match profile.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let mut build = Command::new(std::env::var("CARGO").unwrap_or_else(|_| env!("CARGO").into()));
        build.args(["build", "--quiet", "--package", "cutwater-engine", "--example", "nexmark"]);
        build.args(["--profile", name, "--target-dir"]).arg(profile.parent().unwrap());
        // An empty value still replaces what the configuration says, and so turns the simulation off.
        build.env("RUSTFLAGS", std::env::var("RUSTFLAGS").unwrap_or_default());
        assert!(
            build.status().unwrap().success(),
            "the example does not build; try RUSTFLAGS=\"\" cargo build -p cutwater-engine --example nexmark ({build:?})"
        );
        profile.join("examples/nexmark")
    })
}

/// A process of the example, and what it has said.
struct Process {
    child: Child,
    started: Instant,
    lines: Receiver<String>,
    said: Vec<String>,
}

/// A line that tells how the job gets on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Status {
    checkpoint: Option<u64>,
    rows: u64,
}

impl Status {
    fn parse(line: &str) -> Option<Status> {
        let (_, line) = line.split_once(" tasks, checkpoint ")?;
        let (checkpoint, line) = line.split_once(", ")?;
        let rows = line.strip_suffix(" rows committed")?.parse().ok()?;
        let checkpoint = if checkpoint == "none" { None } else { Some(checkpoint.parse().ok()?) };
        Some(Status { checkpoint, rows })
    }
}

impl Process {
    fn start(dir: &Path, rate: u64) -> Process {
        let mut command = Command::new(example());
        command.arg(dir).args(["--events", &EVENTS.to_string(), "--rate", &rate.to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // Nobody may listen any more.
                let _ = tell.send(line);
            }
        });
        Process { child, started: Instant::now(), lines, said: Vec::new() }
    }

    fn statuses(&self) -> Vec<Status> {
        self.said.iter().filter_map(|line| Status::parse(line)).collect()
    }

    /// Listens until `until` or until the process ends; true if it ended.
    fn listen(&mut self, until: Instant) -> bool {
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => return true,
            }
        }
    }

    /// Waits for the moment at which it is to be killed. `before` is what the processes before it had shown.
    fn wait_for(&mut self, moment: Moment, before: Status) {
        let at = match moment {
            Moment::Start(ms) => self.started + Duration::from_millis(ms),
            Moment::Checkpoint(ms) => {
                while !self.statuses().iter().any(|now| now.checkpoint > before.checkpoint) {
                    assert!(self.started.elapsed() < PATIENCE, "no new checkpoint: {:#?}", self.said);
                    match self.lines.recv_timeout(PATIENCE) {
                        Ok(line) => self.said.push(line),
                        Err(e) => panic!("no new checkpoint: {e}: {:#?}", self.said),
                    }
                }
                Instant::now() + Duration::from_millis(ms)
            }
        };
        self.listen(at);
    }

    /// Kills it, and makes sure that it was alive till then.
    fn kill(&mut self) {
        assert_eq!(
            self.child.try_wait().unwrap(),
            None,
            "it was to be killed while it ran: {:#?}",
            self.said
        );
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(SIGKILL), "{:#?}", self.said);
        assert!(self.listen(Instant::now() + PATIENCE));
    }

    fn finish(&mut self) -> ExitStatus {
        let ended = self.listen(self.started + PATIENCE);
        assert!(ended, "it does not end: {:#?}", self.said);
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is dead already, unless the test failed.
        let _ = self.child.kill();
    }
}

/// What is committed in `dir`, decoded from its files.
fn committed(dir: &Path) -> Rows {
    let mut rows = Rows::new();
    for entry in std::fs::read_dir(dir.join("objects/nexmark/out")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for record in decode_output(&bytes).unwrap() {
            *rows.entry(record).or_default() += 1;
        }
    }
    rows
}

/// The known answer of the job in `dir`.
fn known_answer(dir: &Path) -> Rows {
    let job: JobSpec = serde_json::from_slice(&std::fs::read(dir.join("job.json")).unwrap()).unwrap();
    queries::expected(&job).unwrap()
}

/// Panics if two outputs differ, with some of the rows that do.
fn assert_same(what: &str, expected: &Rows, found: &Rows) {
    let rows = expected.keys().chain(found.keys());
    let differ: Vec<_> = rows
        .filter(|row| expected.get(row) != found.get(row))
        .map(|row| (queries::describe(row), expected.get(row), found.get(row)))
        .take(5)
        .collect();
    assert!(differ.is_empty(), "{what}: row, expected, found: {differ:?}");
}

/// Runs the job to its end in one go, as fast as it gets.
fn run_undisturbed(dir: &Path) -> Process {
    let mut process = Process::start(dir, 0);
    let status = process.finish();
    assert_eq!(status.code(), Some(0), "{:#?}", process.said);
    process
}

fn verdict() -> String {
    format!("finished: {EVENTS} rows committed, each once, as the known answer says")
}

#[test]
fn killed_ten_times_it_commits_what_an_undisturbed_run_commits() {
    let root = tempfile::tempdir().unwrap();
    let (dir, other) = (root.path().join("killed"), root.path().join("undisturbed"));
    let (mut before, mut after_a_checkpoint, mut resumed) = (Status::default(), 0, 0);
    let mut check = |process: &Process, before: &mut Status| {
        let statuses = process.statuses();
        for now in &statuses {
            assert!(
                now.checkpoint >= before.checkpoint && now.rows >= before.rows,
                "{before:?} was forgotten: {:#?}",
                process.said
            );
            *before = *now;
        }
        resumed += u32::from(statuses.first().is_some_and(|first| first.checkpoint.is_some()));
    };
    for (n, moment) in MOMENTS.into_iter().enumerate() {
        let mut process = Process::start(&dir, RATE);
        process.wait_for(moment, before);
        process.kill();
        check(&process, &mut before);
        after_a_checkpoint += u32::from(before.checkpoint.is_some());
        if n > 0 && !process.said.is_empty() {
            assert!(process.said[0].starts_with("going on with the job"), "{:#?}", process.said);
        }
    }
    println!("after ten kills: {before:?} of {EVENTS} events, {after_a_checkpoint} kills after a checkpoint");
    let mut last = Process::start(&dir, RATE);
    let status = last.finish();
    check(&last, &mut before);
    assert_eq!(last.said.last(), Some(&verdict()), "{:#?}", last.said);
    assert_eq!(status.code(), Some(0));
    assert!(after_a_checkpoint >= 5 && resumed >= 5, "{after_a_checkpoint} kills, {resumed} resumptions");

    run_undisturbed(&other);
    let found = committed(&dir);
    assert_same("an undisturbed run", &committed(&other), &found);
    assert_same("the known answer", &known_answer(&dir), &found);
}

#[test]
fn a_finished_job_says_so_and_another_job_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("job");
    run_undisturbed(&dir);
    let files = committed(&dir);
    let again = run_undisturbed(&dir);
    assert!(again.said[0].starts_with("going on with the job"), "{:#?}", again.said);
    assert!(again.said.iter().any(|line| line.starts_with("Finished, ")), "{:#?}", again.said);
    assert_eq!(again.said.last(), Some(&verdict()));
    assert_same("the first run", &files, &committed(&dir));

    let refused = Command::new(example()).arg(&dir).args(["--events", "1000"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("holds a job with other parameters") && stderr.lines().count() == 1, "{stderr}");
    assert_same("the first run", &files, &committed(&dir));
}
