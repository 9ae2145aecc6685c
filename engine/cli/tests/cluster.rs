//! Coordinators, workers and their users as processes: a job runs, is looked at, rescaled, and its coordinator killed.
#![cfg(not(madsim))]
#![expect(clippy::disallowed_methods, reason = "runs the program")]
#![expect(clippy::disallowed_types, reason = "talks to it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_cutwater-engine"))
}

/// Status, output and errors of a command.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = program().args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A process that is killed at the end.
struct Process(Child);

impl Process {
    fn start(arguments: &[&str]) -> Process {
        Process(program().args(arguments).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn status(coordinators: &str) -> Option<Value> {
    let (status, output, _) =
        run(&["status", "--coordinators", coordinators, "--patience", "500ms", "--json"]);
    (status == Some(0)).then(|| serde_json::from_str(&output).unwrap())
}

/// The first status that is as wanted.
fn until(coordinators: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = None;
    for _ in 0..600 {
        last = status(coordinators);
        if let Some(status) = last.as_ref().filter(|status| is_wanted(status)) {
            return status.clone();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("never; the last was {last:?}");
}

fn get(address: &str, path: &str) -> Value {
    call(address, "GET", path, "")
}

fn call(address: &str, method: &str, path: &str, body: &str) -> Value {
    let mut stream = TcpStream::connect(address).unwrap();
    let len = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1)
        .unwrap_or_else(|error| panic!("{error}: {answer}"))
}

fn path(path: &Path) -> String {
    path.to_str().unwrap().into()
}

#[test]
fn a_cluster_runs_a_job_that_is_rescaled_and_loses_its_leader() {
    let scratch = tempfile::tempdir().unwrap();
    let (objects, data) = (path(&scratch.path().join("objects")), path(&scratch.path().join("data")));
    let (first, second, http) = (free_address(), free_address(), free_address());
    let coordinator = |bind: &str, more: &[&str]| {
        let fixed = [
            "coordinator",
            "--job",
            "words",
            "--param",
            "partitions=2",
            "--param",
            "events_per_partition=10000000",
            "--param",
            "events_per_second=500",
            "--objects",
            &objects,
            "--bind",
            bind,
            "--interval",
            "200ms",
            "--retained",
            "2",
            "--tolerable-failures",
            "9",
            "--lease",
            "2s",
        ];
        Process::start(&[&fixed[..], more].concat())
    };
    // A worker empties its own directory, and nothing beside it.
    std::fs::create_dir(&data).unwrap();
    let kept = Path::new(&data).join("a file of somebody else");
    std::fs::write(&kept, "content").unwrap();
    let leader = coordinator(&first, &[]);
    until(&first, |status| status["phase"] == "waiting");
    let _follower = coordinator(&second, &["--http", &http, "--others", &first]);
    let both = format!("{first},{second}");
    let _worker = Process::start(&[
        "worker",
        "--coordinators",
        &both,
        "--objects",
        &objects,
        "--data",
        &data,
        "--slots",
        "2",
    ]);
    until(&both, |status| status["phase"] == "running" && status["latest_checkpoint"].as_u64() > Some(2));

    let (code, said, errors) = run(&["rescale", "2", "--coordinators", &both]);
    assert_eq!(code, Some(0), "{said}{errors}");
    until(&both, |status| status["phase"] == "running" && status["parallelism"] == 2);
    let (code, _, errors) = run(&["rescale", "30000", "--coordinators", &both]);
    assert!(code == Some(1) && errors.contains("refused"), "{errors}");
    assert_eq!(run(&["checkpoint", "--coordinators", &both]).0, Some(0));

    // The page's server is the follower's, and asks the leader.
    let checkpoints = get(&http, "/jobs/words/checkpoints");
    let latest = &checkpoints["latest"]["completed"];
    let id = latest["id"].as_u64().unwrap();
    assert_eq!(get(&http, "/jobs/words")["state"], "RUNNING");
    let place = latest["external_path"].as_str().unwrap();
    assert!(place.starts_with("file:///") && place.ends_with(&format!("words/chk-{id}")), "{place}");

    // A wish is known again by its trigger, and leads to a checkpoint that says so.
    let asked = call(&http, "POST", "/jobs/words/checkpoints", r#"{"triggerId":"by-hand"}"#);
    assert_eq!(asked["request-id"], "by-hand");
    let progress = |_: usize| {
        std::thread::sleep(Duration::from_millis(50));
        get(&http, "/jobs/words/checkpoints/by-hand")["operation"]["checkpointId"].as_u64()
    };
    let made = (0..200).find_map(progress).expect("it is taken");
    assert_eq!(get(&http, &format!("/jobs/words/checkpoints/details/{made}"))["source"], "manual");
    let subtasks = get(&http, &format!("/jobs/words/checkpoints/details/{made}/subtasks/count"));
    assert_eq!(subtasks["num_acknowledged_subtasks"], 2, "{subtasks}");
    for part in subtasks["subtasks"].as_array().unwrap() {
        let times =
            [&part["checkpoint"]["sync"], &part["checkpoint"]["async"], &part["alignment"]["duration"]];
        assert!(times.iter().all(|time| time.is_u64()), "measured: {part}");
    }
    let history = get(&http, "/jobs/words/checkpoints")["history"].clone();
    let item = history.as_array().unwrap().iter().find(|item| item["id"] == made).unwrap().clone();
    assert_eq!((&item["num_acknowledged_subtasks"], &item["num_subtasks"]), (&6.into(), &6.into()), "{item}");
    let (_, shown, _) = run(&["checkpoints", "show", &made.to_string(), "--coordinators", &both]);
    assert!(shown.contains("; aligned after ") && shown.contains(" us, sync "), "{shown}");

    assert!(kept.exists());
    leader.kill();
    let after = until(&both, |status| status["epoch"] == 2 && status["phase"] == "running");
    assert!(after["latest_checkpoint"].as_u64() >= Some(id), "{after}");
    until(&both, |status| status["latest_checkpoint"].as_u64() > Some(id + 2));
    let (code, said, errors) = run(&["fsck", "--quiet", &path(&scratch.path().join("objects/words"))]);
    // The job goes on meanwhile, and may let go of what is just looked at.
    assert!(code == Some(0) || said.contains("missing"), "{said}{errors}");

    // A savepoint that the job survives, the list, and one with which it ends.
    let asked = ["--coordinators", &both, "--description", "before the move"];
    let (code, said, errors) = run(&[&["savepoint", "--type", "native"], &asked[..]].concat());
    assert_eq!(code, Some(0), "{said}{errors}");
    let savepoint = said.trim_end().rsplit(' ').next().unwrap().to_owned();
    assert!(savepoint.starts_with("words/savepoints/savepoint-words-"), "{said}");
    let (code, said, errors) = run(&["fsck", &format!("{objects}/{savepoint}")]);
    assert_eq!(code, Some(0), "{said}{errors}");
    let (_, list, _) = run(&["checkpoints", "list", "--coordinators", &both]);
    assert!(list.contains("(Manual, before the move): present"), "{list}");
    assert!(list.contains("cleared: newer ones took its place"), "{list}");
    let (code, said, errors) = run(&[&["stop", "--target", "moved"], &asked[..]].concat());
    assert_eq!(code, Some(0), "{said}{errors}");
    let last = said.trim_end().rsplit(' ').next().unwrap().to_owned();
    assert!(last.starts_with("moved/savepoint-words-"), "{said}");
    until(&both, |status| status["phase"] == "finished");
    let (code, said, errors) = run(&["fsck", &path(&scratch.path().join("objects/words"))]);
    assert_eq!(code, Some(0), "{said}{errors}");

    // It goes on from there, is cancelled, and its savepoint deleted.
    let (code, said, errors) = run(&["start", "--from", &last, "--coordinators", &both]);
    assert_eq!(code, Some(0), "{said}{errors}");
    until(&both, |status| status["phase"] == "running");
    assert_eq!(get(&http, "/jobs/words/checkpoints")["latest"]["restored"]["is_savepoint"], true);
    assert_eq!(run(&["cancel", "--coordinators", &both]).0, Some(0));
    until(&both, |status| status["phase"] == "cancelled");
    let (_, list, _) = run(&["checkpoints", "list", "--coordinators", &both, "--json"]);
    let entries: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_it =
        |entry: &&Value| entry["location"].as_str().is_some_and(|place| place.starts_with(&savepoint));
    let id = entries.iter().find(is_it).unwrap()["id"].to_string();
    assert_eq!(run(&["checkpoints", "delete", &id, "--coordinators", &both]).0, Some(0));
    let (_, shown, _) = run(&["checkpoints", "show", &id, "--coordinators", &both]);
    assert!(shown.contains("cleared: deleted by a user"), "{shown}");

    // The same over HTTP: not from what is gone, but from the other one, which is then disposed of.
    let start = |place: &str| {
        let from = format!(r#"{{"from":"file://{objects}/{place}"}}"#);
        call(&http, "POST", "/jobs/words/start", &from)
    };
    let refused = start(&savepoint)["errors"][0].to_string();
    assert!(refused.contains("is cleared: deleted by a user"), "{refused}");
    let latest = until(&both, |_| true)["latest_checkpoint"].as_u64();
    assert_eq!(start(&last), serde_json::json!({}));
    until(&both, |status| status["phase"] == "running" && status["latest_checkpoint"].as_u64() > latest);
    assert_eq!(run(&["cancel", "--coordinators", &both]).0, Some(0));
    until(&both, |status| status["phase"] == "cancelled");
    let path = format!(r#"{{"savepoint-path":"file://{objects}/{last}"}}"#);
    let asked = call(&http, "POST", "/savepoint-disposal", &path);
    let trigger = asked["request-id"].as_str().unwrap_or_else(|| panic!("{asked}"));
    assert_eq!(get(&http, &format!("/savepoint-disposal/{trigger}"))["status"]["id"], "COMPLETED");
    let is_gone = |_: usize| {
        std::thread::sleep(Duration::from_millis(100));
        !Path::new(&objects).join(&last).join("_metadata").exists()
    };
    assert!((0..100).any(is_gone), "its files go with the next sweep");
}

#[test]
fn one_process_runs_a_job_to_its_end_and_all_it_leaves_is_sound() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = path(scratch.path());
    let arguments = [
        "run",
        "words",
        "--param",
        "partitions=2",
        "--param",
        "events_per_partition=2000",
        "--param",
        "events_per_second=2000",
        "--dir",
        &dir,
        "--interval",
        "200ms",
        "--retained",
        "3",
        "--http",
        "127.0.0.1:0",
    ];
    let mut process = Process::start(&arguments);
    let mut said = BufReader::new(process.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let first = said.next().unwrap();
    assert!(first.starts_with("job words in "), "{first}");
    let http = said.next().unwrap();
    let http = http
        .strip_prefix("http://")
        .and_then(|rest| rest.strip_suffix("/ shows the job"))
        .unwrap()
        .to_owned();
    assert_eq!(get(&http, "/jobs")["jobs"][0]["id"], "words");
    let last = said.last().unwrap();
    assert!(last.starts_with("Finished: "), "{last}");
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
    let (code, output, errors) = run(&["fsck", &path(&scratch.path().join("objects/words"))]);
    assert_eq!(code, Some(0), "{output}{errors}");
    assert!(output.contains(" 0 orphans: sound\n"), "{output}");
}

#[test]
fn what_makes_no_sense_is_bad_usage() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = path(scratch.path());
    for (arguments, said) in [
        (vec!["run", "--dir", &dir, "--interval", "10"], "a duration like 500ms"),
        (vec!["run", "--dir", &dir, "--query", "nothing"], "this build knows bid_counts"),
        (vec!["run", "--dir", &dir, "--param", "partitions=many"], "no whole number"),
        (vec!["run", "--dir", &dir, "--param", "partitions=1", "--param", "partitions=2"], "given twice"),
        (vec!["run", "--dir", &dir, "--retained", "0"], "at least 1"),
        (vec!["run", "--dir", &dir, "--unaligned", "--max-concurrent", "2"], "max_concurrent must be 1"),
        (vec!["run", "--dir", &dir, "--claim"], "--from"),
        (vec!["status"], "--coordinators"),
        (vec!["status", "--coordinators", "localhost"], "invalid socket address"),
        (
            vec![
                "worker",
                "--coordinators",
                "127.0.0.1:1",
                "--objects",
                &dir,
                "--data",
                &dir,
                "--slots",
                "0",
            ],
            "--slots",
        ),
    ] {
        let (code, output, errors) = run(&arguments);
        assert_eq!((code, &output[..]), (Some(2), ""), "{arguments:?}: {errors}");
        assert!(errors.contains(said), "{arguments:?}: {errors}");
    }
    let (code, _, errors) = run(&["status", "--coordinators", "127.0.0.1:1", "--patience", "1s"]);
    assert!(code == Some(1) && errors.contains("no leader among"), "{errors}");
}
