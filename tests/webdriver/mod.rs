//! A real browser, driven by WebDriver, which is JSON over HTTP; the little of it that is needed is spoken by hand.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// A laptop's screen.
pub const SCREEN: (u64, u64) = (1280, 800);

/// A browser, and what is open in it.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    /// It may say more, and must not find its pipe closed.
    _said: BufReader<ChildStdout>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts a browser; `None`, with a message, if there is none.
    pub fn start() -> Option<Browser> {
        let driver =
            Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut driver) = driver else {
            eprintln!("skipped: there is no chromedriver here");
            return None;
        };
        let mut said = BufReader::new(driver.stdout.take().unwrap());
        let port = said
            .by_ref()
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.split("successfully on port ").nth(1)?.trim_end_matches('.').parse().ok())
            .expect("chromedriver says its port");
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Browser { driver, port, session: String::new(), _said: said, _profile: profile };
        let quiet = [
            "headless=new",
            "no-sandbox",
            "disable-gpu",
            "disable-quic",
            "disable-dev-shm-usage",
            "no-first-run",
            "disable-background-networking",
            "disable-component-update",
            "disable-sync",
            "hide-scrollbars",
        ];
        let mut args: Vec<String> = quiet.iter().map(|arg| format!("--{arg}")).collect();
        args.push(format!("--user-data-dir={}", browser._profile.path().display()));
        let capabilities = json!({"alwaysMatch": {
            "goog:chromeOptions": {"args": args},
            "goog:loggingPrefs": {"browser": "ALL"},
        }});
        let session = browser.call("POST", "/session", &json!({"capabilities": capabilities}));
        browser.session = session["sessionId"].as_str().expect("a session has an id").into();
        // The viewport, not the window, is what a page sees.
        let metrics = json!({"width": SCREEN.0, "height": SCREEN.1, "deviceScaleFactor": 1, "mobile": false});
        let command = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics});
        browser.tell("goog/cdp/execute", &command);
        Some(browser)
    }

    /// One request; its value.
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut reader = BufReader::new(stream);
        let mut len = 0;
        for line in reader.by_ref().lines() {
            let line = line.unwrap().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                len = value.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut answer = vec![0; len];
        reader.read_exact(&mut answer).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let value = answer["value"].clone();
        assert!(value["error"].is_null(), "{method} {path}: {}", value["message"]);
        value
    }

    pub fn tell(&self, what: &str, body: &Value) -> Value {
        self.call("POST", &format!("/session/{}/{what}", self.session), body)
    }

    pub fn open(&self, url: &str) {
        self.tell("url", &json!({"url": url}));
    }

    /// The value of a script's `return`.
    pub fn run(&self, script: &str) -> Value {
        self.tell("execute/sync", &json!({"script": script, "args": []}))
    }

    pub fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({}).textContent", json!(selector));
        self.run(&script).as_str().unwrap_or_default().into()
    }

    /// Clicks as a person does: where something lies on top, this fails.
    pub fn click(&self, selector: &str) {
        let found = self.tell("element", &json!({"using": "css selector", "value": selector}));
        let (_, id) = found.as_object().unwrap().iter().next().unwrap();
        self.tell(&format!("element/{}/click", id.as_str().unwrap()), &json!({}));
    }

    pub fn press(&self, key: &str) {
        let keys = [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})];
        self.tell("actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": keys}]}));
    }

    /// Left, top, right and bottom of each element, in pixels.
    pub fn boxes(&self, selector: &str) -> Vec<[f64; 4]> {
        let script = format!(
            "return [...document.querySelectorAll({})].map(e => {{ const r = e.getBoundingClientRect(); \
             return [r.left, r.top, r.right, r.bottom]; }})",
            json!(selector)
        );
        serde_json::from_value(self.run(&script)).unwrap()
    }

    /// What the console says; a page that works says nothing.
    pub fn assert_quiet_console(&self) {
        let log = self.tell("se/log", &json!({"type": "browser"}));
        assert_eq!(log, json!([]), "the console of the browser");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.call("DELETE", &format!("/session/{}", self.session), &json!({}));
        }
        // It ends its browsers with it.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
