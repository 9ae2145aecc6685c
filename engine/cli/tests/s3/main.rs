//! Everything over S3's protocol, spoken to a server on loopback: the register's one condition, its protocol, and the life of a job
//! from the shell.
//!
//! The server is moto's (`pip install 'moto[server]'`), found in `target/moto` or with the `python3` of the path; where there is none
//! the tests say that they skip. Endpoint and credentials come from the environment, as people give them; the parts that run
//! in this process are therefore run by it once more, as a child with that environment.
//!
//!     RUSTFLAGS="" cargo test -p cutwater-engine-cli --features s3 --test s3
#![cfg(all(not(madsim), feature = "s3"))]
#![expect(clippy::disallowed_methods, reason = "runs the program, and a server")]
#![expect(clippy::disallowed_types, reason = "looks for a free port")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cutwater_engine::checkpoint::job_state::{Base, JobState};
use cutwater_engine::checkpoint::layout::Layout;
use cutwater_engine::checkpoint::log::{Outcome, Record};
use cutwater_engine::checkpoint::read::newest_record;
use cutwater_engine::checkpoint::write::append;
use cutwater_io::objects;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde_json::Value;

const BUCKET: &str = "cutwater";

/// A process that is killed at the end.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server with an empty bucket, and the programs that know where it is.
struct S3 {
    port: u16,
    _server: Process,
}

impl S3 {
    /// `None`, with a message, if there is no server to be had.
    fn start() -> Option<S3> {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let own = package.join("../../target/moto/bin/python3");
        let python = if own.exists() { own.as_path() } else { Path::new("python3") };
        let has_moto = Command::new(python).args(["-c", "import moto.server"]).stderr(Stdio::null()).status();
        if !has_moto.is_ok_and(|status| status.success()) {
            eprintln!("skipped: {} has no moto here", python.display());
            return None;
        }
        let mut server = Command::new(python);
        server
            .arg(package.join("tests/s3/server.py"))
            .arg(BUCKET)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut server = Process(server.spawn().unwrap());
        let said = BufReader::new(server.0.stdout.take().unwrap()).lines().next();
        let port = said.expect("the server says its port").unwrap().parse().unwrap();
        Some(S3 { port, _server: server })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.envs([
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port).as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "somebody"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ]);
        command
    }

    fn program(&self) -> Command {
        self.command(env!("CARGO_BIN_EXE_cutwater-engine"))
    }

    /// Status, output and errors of a command.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = self.program().args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// What a command says that must succeed.
    fn done(&self, arguments: &[&str]) -> String {
        let (code, said, errors) = self.run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {said}{errors}");
        said
    }

    fn process(&self, arguments: &[&str]) -> Process {
        Process(self.program().args(arguments).stdout(Stdio::null()).spawn().unwrap())
    }

    /// The first status that is as wanted.
    fn until(&self, coordinator: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        for _ in 0..900 {
            let asked = ["status", "--coordinators", coordinator, "--patience", "500ms", "--json"];
            let (code, said, _) = self.run(&asked);
            last = (code == Some(0)).then(|| serde_json::from_str(&said).unwrap());
            if let Some(status) = last.as_ref().filter(|status| is_wanted(status)) {
                return status.clone();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("never; the last was {last:?}");
    }

    /// Runs an ignored test of this file in the environment.
    fn test(&self, name: &str) {
        let this = std::env::current_exe().unwrap();
        let mut command = self.command(this.to_str().unwrap());
        let status = command.args(["--exact", name, "--ignored", "--nocapture"]).status().unwrap();
        assert!(status.success(), "{name}");
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn an_object_is_created_once_whoever_tries() {
    let Some(s3) = S3::start() else { return };
    s3.test("child_creates_objects");
}

/// The only promise of a store that the engine relies on. One that breaks it loses jobs, and shall be known by it.
#[tokio::test]
#[ignore = "run by another, with an environment"]
async fn child_creates_objects() {
    let store = objects::open(&format!("s3://{BUCKET}/condition")).unwrap();
    let create = |name: String, content: &'static str| {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let store = &store;
        async move { store.put_opts(&objects::Path::from(name), content.into(), options).await }
    };
    create("first".into(), "a").await.unwrap();
    let again = create("first".into(), "b").await;
    assert!(
        matches!(again, Err(object_store::Error::AlreadyExists { .. })),
        "the server does not refuse to overwrite: {again:?}"
    );
    for round in 0..20 {
        let name = format!("race/{round}");
        let (a, b) = futures::join!(create(name.clone(), "a"), create(name.clone(), "b"));
        let winner = match (&a, &b) {
            (Ok(_), Err(object_store::Error::AlreadyExists { .. })) => "a",
            (Err(object_store::Error::AlreadyExists { .. }), Ok(_)) => "b",
            both => panic!("of two that create {name} exactly one must win: {both:?}"),
        };
        let found = store.get(&objects::Path::from(name)).await.unwrap().bytes().await.unwrap();
        assert_eq!(found, winner);
    }
}

#[test]
fn of_two_writers_of_the_register_one_wins() {
    let Some(s3) = S3::start() else { return };
    s3.test("child_writes_the_register");
}

#[tokio::test]
#[ignore = "run by another, with an environment"]
async fn child_writes_the_register() {
    let store = objects::open(&format!("s3://{BUCKET}/register")).unwrap();
    let layout = Layout::new("job").unwrap();
    let mut newest: Option<Record> = None;
    for round in 1..=15 {
        let propose = |writer: &str| {
            let previous = newest.as_ref().map(|record| &*record.state);
            let leader = "127.0.0.1:1".parse().unwrap();
            let state = JobState::taken_over(previous, leader, 16, 8, 2, Base::Newest);
            Record { version: round, writer: format!("{writer} {round}"), state: Box::new(state) }
        };
        let (a, b) = (propose("a"), propose("b"));
        let outcomes =
            futures::join!(append(&*store, &layout, a.clone()), append(&*store, &layout, b.clone()));
        let winner = match outcomes {
            (Outcome::Landed, Outcome::Lost(to)) if *to == a => a,
            (Outcome::Lost(to), Outcome::Landed) if *to == b => b,
            outcomes => panic!("round {round}: {outcomes:?}"),
        };
        newest = newest_record(&*store, &layout).await.unwrap();
        assert_eq!(newest, Some(winner), "round {round}");
    }
}

#[test]
fn a_job_lives_in_s3() {
    let Some(s3) = S3::start() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (objects, data) = (format!("s3://{BUCKET}/jobs"), scratch.path().to_str().unwrap());
    let at = free_address();
    let job: Vec<&str> = "coordinator --job words --param partitions=2 --param events_per_partition=10000000 \
                          --param events_per_second=200 --interval 500ms --retained 2 --tolerable-failures 9 --lease 5s"
        .split_whitespace()
        .collect();
    let start = || s3.process(&[&job[..], &["--objects", &objects, "--bind", &at]].concat());
    let coordinator = start();
    let worker = ["worker", "--coordinators", &at, "--objects", &objects, "--data", data, "--slots", "2"];
    let _worker = s3.process(&worker);
    let is_at = |status: &Value, id| {
        status["phase"] == "running"
            && status["latest_checkpoint"].as_u64().is_some_and(|latest| latest >= id)
    };
    let status = s3.until(&at, |status| is_at(status, 3));
    let id = status["latest_checkpoint"].as_u64().unwrap();

    // The next leader finds all of it in the bucket.
    drop(coordinator);
    let _coordinator = start();
    let after = s3.until(&at, |status| status["epoch"] == 2 && is_at(status, id + 1));
    assert!(after["latest_checkpoint"].as_u64() > Some(id), "{after}");

    // Savepoints, and an end with one.
    let users = ["--coordinators", &at];
    let said = s3.done(&[&["savepoint", "--type", "native"], &users[..]].concat());
    let native = said.trim_end().rsplit(' ').next().unwrap().to_owned();
    let said = s3.done(&[&["savepoint"], &users[..]].concat());
    let canonical = said.trim_end().rsplit(' ').next().unwrap().to_owned();
    for savepoint in [&native, &canonical] {
        assert!(savepoint.starts_with("words/savepoints/savepoint-words-"), "{savepoint}");
        s3.done(&["fsck", &format!("{objects}/{savepoint}")]);
    }
    let said = s3.done(&[&["stop"], &users[..]].concat());
    let last = said.trim_end().rsplit(' ').next().unwrap().to_owned();
    s3.until(&at, |status| status["phase"] == "finished");
    let said = s3.done(&["fsck", &format!("{objects}/words")]);
    assert!(said.contains(": sound"), "{said}");

    // It goes on from each of them, and from the one with which it ended last.
    for (round, savepoint) in [&native, &canonical, &last].into_iter().enumerate() {
        let before = s3.until(&at, |_| true)["latest_checkpoint"].as_u64().unwrap_or(0);
        s3.done(&[&["start", "--from", savepoint], &users[..]].concat());
        s3.until(&at, |status| is_at(status, before + 2));
        s3.done(&[&["cancel"], &users[..]].concat());
        s3.until(&at, |status| status["phase"] == "cancelled");
        s3.done(&["fsck", "--quiet", &format!("{objects}/words")]);
        let list = s3.done(&[&["checkpoints", "list"], &users[..]].concat());
        assert!(list.contains("present"), "round {round}: {list}");
    }
}
