//! A job over HTTP, from made-up data: Flink's field names, figures for Prometheus, requests that are refused, and the page in a real
//! browser (skipped where `chromedriver` is absent).
#![cfg(not(madsim))]
#![expect(clippy::disallowed_methods, reason = "these tests start a browser")]
#![expect(clippy::disallowed_types, reason = "they talk to a real server")]

mod made_up;
#[path = "../../../../tests/webdriver/mod.rs"]
mod webdriver;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use cutwater_engine_cli::web::view::Wish;
use made_up::{HOSTILE, Served};
use serde_json::{Value, json};
use webdriver::Browser;

/// An answer: its status, headers and body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

fn request(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    let len = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {len}\r\n{headers}\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.into() }
}

fn get(served: &Served, path: &str) -> Answer {
    request(served.address, "GET", path, "", "")
}

#[test]
fn checkpoints_are_told_in_flinks_words() {
    let served = Served::start();
    assert_eq!(get(&served, "/jobs").json(), json!({ "jobs": [{ "id": "words", "status": "RUNNING" }] }));
    let job = get(&served, "/jobs/words").json();
    assert_eq!(
        (&job["jid"], &job["state"], &job["vertices"][1]["id"]),
        (&json!("words"), &json!("RUNNING"), &json!("counts"))
    );
    let all = get(&served, "/jobs/words/checkpoints").json();
    assert_eq!(
        all["counts"],
        json!({ "restored": 1, "total": 6, "in_progress": 1, "completed": 3, "failed": 2 })
    );
    assert_eq!(all["summary"]["end_to_end_duration"]["max"], 900);
    assert_eq!(all["summary"]["state_size"]["p50"], 2_000_000);
    assert_eq!(all["latest"]["completed"]["id"], 5);
    assert_eq!(all["latest"]["savepoint"]["id"], 4);
    assert_eq!(all["latest"]["failed"]["failure_message"], "expired before completing");
    assert_eq!(all["latest"]["restored"]["id"], 1);
    let history: Vec<u64> =
        all["history"].as_array().unwrap().iter().map(|item| item["id"].as_u64().unwrap()).collect();
    assert_eq!(history, [6, 5, 4, 3, 2, 1], "the newest first");
    // The names that a client of Flink looks for.
    for name in [
        "id",
        "status",
        "is_savepoint",
        "savepointFormat",
        "trigger_timestamp",
        "latest_ack_timestamp",
        "checkpointed_size",
        "state_size",
        "end_to_end_duration",
        "alignment_buffered",
        "processed_data",
        "persisted_data",
        "num_subtasks",
        "num_acknowledged_subtasks",
        "checkpoint_type",
        "tasks",
        "external_path",
        "discarded",
    ] {
        assert!(all["history"][0].get(name).is_some(), "{name}");
    }
    let cleared = &all["history"][5];
    assert_eq!((&cleared["discarded"], &cleared["shown_status"]), (&json!(true), &json!("Cleared")));
    let config = get(&served, "/jobs/words/checkpoints/config").json();
    assert_eq!(
        (&config["interval"], &config["externalization"]["delete_on_cancellation"]),
        (&json!(1000), &json!(false))
    );
    let details = get(&served, "/jobs/words/checkpoints/details/5").json();
    assert_eq!(details["tasks"]["counts"]["num_acknowledged_subtasks"], 2);
    assert_eq!(get(&served, "/jobs/words/checkpoints/details/latest").json()["id"], 5);
    let latest = |query: &str| get(&served, &format!("/jobs/words/checkpoints/details/latest?{query}"));
    assert_eq!(latest("status=COMPLETED").json()["id"], 5);
    assert_eq!(latest("status=FAILED").json()["id"], 3);
    assert_eq!(latest("status=IN_PROGRESS").status, 400, "which one that is, changes all the time");
    let under_way = &all["history"][0];
    assert_eq!((&under_way["num_acknowledged_subtasks"], &under_way["num_subtasks"]), (&json!(1), &json!(3)));
    assert_eq!(
        (&details["persisted_data"], &details["tasks"]["counts"]["persisted_data"]),
        (&json!(70), &json!(10))
    );
    let vertex = get(&served, "/jobs/words/checkpoints/details/5/subtasks/counts").json();
    assert_eq!(vertex["subtasks"][1]["alignment"]["persisted"], 5);
    assert_eq!(vertex["subtasks"][1]["unaligned_checkpoint"], true);
    assert_eq!(vertex["subtasks"][1]["checkpoint"], json!({ "sync": 3, "async": 40 }));
    assert_eq!(vertex["summary"]["alignment"]["duration"]["max"], 7);
    for (path, status) in [
        ("/jobs/other", 404),
        ("/jobs/words/checkpoints/details/99", 404),
        ("/jobs/words/checkpoints/details/5/subtasks/nothing", 404),
        ("/jobs/words/checkpoints/never-asked", 404),
        ("/nothing", 404),
    ] {
        let answer = get(&served, path);
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.json()["errors"][0].is_string(), "{path}");
    }
}

#[test]
fn wishes_are_passed_on_once_for_each_trigger() {
    let served = Served::start();
    let post = |path: &str, body: &str| request(served.address, "POST", path, "", body);
    let answer = post(
        "/jobs/words/checkpoints",
        r#"{"checkpointType":"FULL","triggerId":"abc","description":"before the move"}"#,
    );
    assert_eq!((answer.status, answer.json()), (202, json!({ "request-id": "abc" })));
    let status = get(&served, "/jobs/words/checkpoints/abc").json();
    assert_eq!(
        (&status["status"]["id"], &status["operation"]["checkpointId"]),
        (&json!("COMPLETED"), &json!(7))
    );
    assert_eq!(
        post("/jobs/words/savepoints", r#"{"target-directory":"s3://b/s","formatType":"NATIVE"}"#).status,
        202
    );
    assert_eq!(post("/jobs/words/stop", r#"{"drain":true}"#).status, 202);
    assert_eq!(post("/jobs/words/checkpoints", "").status, 202);
    let drawn = post("/jobs/words/checkpoints", "{}").json()["request-id"].as_str().unwrap().to_owned();
    assert!(drawn.len() == 32 && drawn.bytes().all(|byte| byte.is_ascii_hexdigit()), "{drawn}");
    assert_eq!(request(served.address, "PATCH", "/jobs/words?mode=cancel", "", "").status, 202);
    let wishes = served.wishes();
    assert_eq!(wishes[0], (Wish::Checkpoint { full: true }, "before the move".to_owned()));
    let target = Some("s3://b/s".to_owned());
    assert_eq!(wishes[1].0, Wish::Savepoint { target, format: "NATIVE".into(), cancel: false });
    assert_eq!(wishes[2].0, Wish::Stop { target: None, format: "CANONICAL".into(), drain: true });
    assert_eq!(wishes.len(), 6);
    let long = format!("{{\"triggerId\":\"{}\"}}", "x".repeat(200));
    for (path, body, status) in [
        ("/jobs/words/checkpoints", "{", 400),
        ("/jobs/words/checkpoints", "[]", 400),
        ("/jobs/words/checkpoints", r#"{"checkpointType":"HALF"}"#, 400),
        ("/jobs/words/checkpoints", r#"{"triggerId":7}"#, 400),
        ("/jobs/words/checkpoints", &long, 400),
        ("/jobs/words/checkpoints", &" ".repeat(100_000), 413),
        ("/jobs/words/stop", r#"{"drain":"yes"}"#, 400),
        ("/jobs/words/savepoints", r#"{"formatType":"XML"}"#, 400),
        ("/jobs/other/checkpoints", "{}", 404),
    ] {
        assert_eq!(post(path, body).status, status, "{path} {body:.40}");
    }
    assert_eq!(served.wishes().len(), 6, "none of these came through");
}

#[test]
fn what_is_there_is_started_from_and_deleted() {
    let served = Served::start();
    let post = |path: &str, body: &str| request(served.address, "POST", path, "", body);
    let start = |body: &str| post("/jobs/words/start", body);
    assert_eq!(start(r#"{"from":"words/chk-5","claim":true,"allowNonRestored":true}"#).status, 202);
    let refused = start(r#"{"from":"file:///objects/words/chk-1"}"#);
    assert_eq!(refused.status, 409);
    assert_eq!(refused.json()["errors"][0], "checkpoint 1 is cleared: newer ones took its place");
    assert_eq!(start("{}").status, 202);
    assert_eq!((start(r#"{"claim":true}"#).status, start(r#"{"from":5}"#).status), (400, 400));

    // A savepoint has many names, a checkpoint is none, and what is nowhere cannot be disposed of.
    let dispose = |path: &str| post("/savepoint-disposal", &json!({ "savepoint-path": path }).to_string());
    let names = [
        "file:///objects/words/chk-4/",
        "file:/objects/words/chk-4/_metadata",
        "words/chk-4",
        "/objects/words/chk-4",
    ];
    let triggers = names.map(|name| dispose(name).json()["request-id"].as_str().unwrap().to_owned());
    let trigger = &triggers[0];
    assert!(trigger.len() == 32 && triggers.iter().all(|other| other == trigger), "{triggers:?}");
    let status = get(&served, &format!("/savepoint-disposal/{trigger}")).json();
    assert_eq!(status["status"]["id"], "COMPLETED");
    assert!(status["operation"]["failure-cause"].is_null());
    assert_eq!(dispose("file:///objects/words/chk-5").status, 404);
    assert_eq!(dispose("").status, 404);
    assert_eq!(post("/savepoint-disposal", "{}").status, 400);
    assert_eq!(get(&served, &format!("/savepoint-disposal/{:032x}", 5)).status, 404);
    assert_eq!(get(&served, "/savepoint-disposal/4").status, 404);

    assert_eq!(request(served.address, "DELETE", "/jobs/words/checkpoints/details/5", "", "").status, 202);
    assert_eq!(request(served.address, "DELETE", "/jobs/words/checkpoints/details/99", "", "").status, 404);
    let wishes: Vec<Wish> = served.wishes().into_iter().map(|(wish, _)| wish).collect();
    let from = Some("words/chk-5".to_owned());
    assert_eq!(wishes[0], Wish::Start { from, claim: true, allow_non_restored: true });
    assert_eq!(wishes[1], Wish::Start { from: None, claim: false, allow_non_restored: false });
    assert_eq!((&wishes[2], wishes.last().unwrap()), (&Wish::Delete { id: 4 }, &Wish::Delete { id: 5 }));
}

#[test]
fn a_page_of_another_site_changes_nothing() {
    let served = Served::start();
    let from = |origin: &str| {
        let headers = format!("Origin: {origin}\r\n");
        request(served.address, "POST", "/jobs/words/checkpoints", &headers, "{}").status
    };
    assert_eq!((from("http://evil.example"), from("null")), (403, 403));
    assert!(served.wishes().is_empty());
    assert_eq!(from(&format!("http://{}", served.address)), 202);
    let page = get(&served, "/");
    assert!(page.head.contains("content-security-policy: default-src 'none'"), "{}", page.head);
    assert!(page.head.contains("text/html; charset=utf-8"));
    // The only address in it is a name, and is not fetched.
    let (all, names) = (page.body.matches("://"), page.body.matches("http://www.w3.org/2000/svg"));
    assert_eq!(all.count(), names.count());
}

#[test]
fn figures_have_flinks_names() {
    let served = Served::start();
    let answer = get(&served, "/metrics");
    assert!(answer.head.contains("text/plain; version=0.0.4"));
    let labels = "{job_id=\"words\",job_name=\"words\"}";
    for (name, value) in [
        ("totalNumberOfCheckpoints", 6),
        ("numberOfInProgressCheckpoints", 1),
        ("numberOfCompletedCheckpoints", 3),
        ("numberOfFailedCheckpoints", 2),
        ("lastCheckpointDuration", 900),
        ("lastCheckpointSize", 1000),
        ("lastCheckpointFullSize", 3_000_000),
        ("lastCheckpointPersistedData", 70),
        ("lastCompletedCheckpointId", 5),
        ("numRestarts", 2),
        ("up", 1),
    ] {
        let line = format!("\nflink_jobmanager_job_{name}{labels} {value}\n");
        assert!(answer.body.contains(&line), "{name}: {}", answer.body);
    }
    let sample = "flink_taskmanager_job_task_checkpointAlignmentTime{job_id=\"words\",job_name=\"words\",\
                  task_id=\"counts\",task_name=\"counts\",subtask_index=\"1\"} 7000000\n";
    assert!(answer.body.contains(sample), "{}", answer.body);
    // One line a sample, whatever a location holds.
    let path = answer
        .body
        .lines()
        .find(|line| line.starts_with("flink_jobmanager_job_lastCheckpointExternalPath{"))
        .unwrap();
    assert!(path.ends_with(r#"path="file:///a \"quoted\"\nplace"} 1"#), "{path}");
    for line in answer.body.lines().filter(|line| !line.starts_with('#')) {
        assert!(
            line.starts_with("flink_") && line.rsplit_once(' ').unwrap().1.parse::<u64>().is_ok(),
            "{line}"
        );
    }
}

#[test]
fn a_job_without_a_leader_is_said_to_be_one() {
    let served = Served::start();
    served.lose_leader();
    let answer = get(&served, "/jobs/words");
    assert_eq!((answer.status, answer.json()["errors"][0].as_str().unwrap()), (503, "no leader among []"));
    assert_eq!(get(&served, "/jobs").json()["jobs"][0]["status"], "RECONCILING");
    assert!(
        get(&served, "/metrics")
            .body
            .contains("flink_jobmanager_job_up{job_id=\"words\",job_name=\"words\"} 0\n")
    );
    assert_eq!(get(&served, "/jobs/words/checkpoints").status, 200, "the register still knows");
}

#[test]
fn the_page_starts_an_ended_job_and_deletes_once_it_is_confirmed() {
    let Some(browser) = Browser::start() else { return };
    let served = Served::start();
    browser.open(&format!("http://{}/", served.address));
    until(&browser, "return document.querySelectorAll('#list tbody tr').length === 6");
    assert_eq!(browser.text("#list tbody tr:nth-child(1) td:nth-child(7)"), "Creating1 of 3 subtasks");
    let count =
        |key: &str| browser.run(&format!("return document.querySelectorAll('[data-key^={key}]').length"));
    assert_eq!((count("start"), count("delete")), (json!(0), json!(2)), "it runs");
    served.end();
    until(&browser, "return document.querySelectorAll('[data-key^=start]').length === 6");
    let answer = |key: &str, answer: &str| {
        browser.click(&format!("[data-key={key}]"));
        browser.tell(&format!("alert/{answer}"), &json!({}));
    };
    answer("start-5", "dismiss");
    assert!(served.wishes().is_empty(), "on second thoughts");
    answer("start-1", "accept");
    until(
        &browser,
        "return document.getElementById('said').textContent.includes('1 is cleared: newer ones')",
    );
    assert_eq!(browser.run("return document.getElementById('said').className"), json!("bad"));
    answer("start-4", "accept");
    until(&browser, "return document.getElementById('said').textContent === 'started from checkpoint 4'");
    answer("delete-5", "accept");
    until(&browser, "return document.querySelectorAll('[data-key^=delete]').length === 1");
    let wishes: Vec<Wish> = served.wishes().into_iter().map(|(wish, _)| wish).collect();
    let from = Some("file:///objects/words/chk-4".to_owned());
    let start = Wish::Start { from, claim: false, allow_non_restored: false };
    assert_eq!(wishes, [start, Wish::Delete { id: 5 }]);
    assert_eq!(browser.run("return document.documentElement.scrollWidth <= window.innerWidth"), json!(true));
}

/// Waits until a script says true.
fn until(browser: &Browser, script: &str) {
    for _ in 0..100 {
        if browser.run(script) == json!(true) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("never: {script}: {}", browser.text("body"));
}

#[test]
fn the_page_shows_the_job_to_mouse_and_keyboard_and_hostile_text_as_text() {
    let Some(browser) = Browser::start() else { return };
    let served = Served::start();
    browser.open(&format!("http://{}/", served.address));
    until(&browser, "return document.querySelectorAll('#list tbody tr').length === 6");
    assert_eq!(browser.text("#name"), "words");
    assert_eq!(browser.text("#state"), "RUNNING");
    assert_eq!(browser.text("#list tbody tr:nth-child(2) td:nth-child(2)"), HOSTILE);
    assert_eq!(
        browser.run("return window.pwned === undefined && document.querySelectorAll('img').length === 0"),
        json!(true)
    );
    assert_eq!(
        browser.text("#list tbody tr:nth-child(6) td:nth-child(7)"),
        "Clearednewer checkpoints took its place"
    );
    assert_eq!(browser.run("return document.querySelectorAll('#durations path.dot').length"), json!(3));
    assert!(browser.text("figure:nth-child(2) figcaption").ends_with("at most 2.9 MiB"));
    assert_eq!(browser.run("return document.documentElement.scrollWidth <= window.innerWidth"), json!(true));
    // With the mouse.
    browser.click("#list tbody tr:nth-child(2) button");
    until(&browser, "return document.querySelectorAll('#subtasks tbody tr').length === 3");
    assert_eq!(browser.text("#title"), "Checkpoint 5");
    assert_eq!(browser.text("#subtasks tbody tr:nth-child(2) td:nth-child(8)"), "40 ms");
    // With the keyboard: from the description over the button into the list.
    browser.run("document.getElementById('why').focus()");
    browser.press("\u{e004}");
    browser.press("\u{e004}");
    assert_eq!(
        browser.run("return document.activeElement.getAttribute('aria-label')"),
        json!("Checkpoint 6")
    );
    browser.press("\u{e007}");
    until(&browser, "return document.getElementById('title').textContent === 'Checkpoint 6'");
    // A wish, and a list that grows under the reader's hands.
    browser.run("document.getElementById('why').value = 'by hand'");
    browser.click("#ask button");
    until(&browser, "return document.getElementById('said').textContent === 'checkpoint 7 is complete'");
    assert_eq!(served.wishes(), [(Wish::Checkpoint { full: false }, "by hand".to_owned())]);
    until(&browser, "return document.querySelectorAll('#list tbody tr').length === 7");
    served.lose_leader();
    until(&browser, "return document.getElementById('state').textContent === 'no leader among []'");
    // A failed request of the page is all that the console may tell.
    let log = browser.tell("se/log", &json!({ "type": "browser" }));
    for entry in log.as_array().unwrap() {
        assert!(entry["message"].as_str().unwrap().contains("503 (Service Unavailable)"), "{entry}");
    }
}
