//! A job that nobody runs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cutwater_engine_cli::web::Server;
use cutwater_engine_cli::web::view::{
    Checkpoint, Config, JobView, Overview, Progress, Source, Status, SubtaskPart, Vertex, VertexPart,
    ViewError, Wish,
};

pub const HOSTILE: &str = "</script><img src=x onerror=\"window.pwned=1\"><b>&amp;";

#[derive(Default)]
struct State {
    is_leaderless: bool,
    has_ended: bool,
    triggers: BTreeSet<String>,
    wishes: Vec<(Wish, String)>,
}

#[derive(Default)]
struct MadeUp(Mutex<State>);

/// A job that is served until this is dropped.
pub struct Served {
    pub address: SocketAddr,
    job: Arc<MadeUp>,
    _runtime: tokio::runtime::Runtime,
}

impl Served {
    pub fn start() -> Served {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build().unwrap();
        let server = runtime.block_on(Server::bind(([127, 0, 0, 1], 0).into())).unwrap();
        let (address, job) = (server.local_addr().unwrap(), Arc::<MadeUp>::default());
        runtime.spawn(server.run(job.clone()));
        Served { address, job, _runtime: runtime }
    }

    pub fn wishes(&self) -> Vec<(Wish, String)> {
        self.job.0.lock().unwrap().wishes.clone()
    }

    pub fn end(&self) {
        self.job.0.lock().unwrap().has_ended = true;
    }

    pub fn lose_leader(&self) {
        self.job.0.lock().unwrap().is_leaderless = true;
    }
}

fn checkpoint(id: u64, status: Status, reason: Option<&str>) -> Checkpoint {
    let triggered_unix_ms = 1_700_000_000_000 + id * 1000;
    Checkpoint {
        id,
        description: format!("the {id}th"),
        status,
        reason: reason.map(str::to_owned),
        source: Source::Periodic,
        savepoint: None,
        triggered_unix_ms,
        acknowledged_unix_ms: matches!(status, Status::Present | Status::Cleared)
            .then_some(triggered_unix_ms + 100 * id),
        new_bytes: Some(1000),
        full_bytes: 1_000_000,
        job_version: Some(2),
        location: Some(format!("file:///objects/words/chk-{id}")),
        acknowledged: if status == Status::Creating { (1, 3) } else { (3, 3) },
        persisted_bytes: 70,
    }
}

#[async_trait]
impl JobView for MadeUp {
    fn name(&self) -> &str {
        "words"
    }

    async fn overview(&self) -> Result<Overview, ViewError> {
        if self.0.lock().unwrap().is_leaderless {
            return Err(ViewError::Unavailable("no leader among []".into()));
        }
        let state = if self.0.lock().unwrap().has_ended { "FINISHED" } else { "RUNNING" };
        let vertex = |uid: &str, parallelism| Vertex { uid: uid.into(), parallelism };
        Ok(Overview {
            name: "words".into(),
            state: state.into(),
            attempt: (4, 3),
            tasks: (3, 3),
            vertices: vec![vertex("source", 1), vertex("counts", 2)],
        })
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, ViewError> {
        let mut all = vec![
            checkpoint(1, Status::Cleared, Some("newer checkpoints took its place")),
            checkpoint(2, Status::Failed, Some("declined by counts/1: disk full")),
            checkpoint(3, Status::Timeout, Some("expired before completing")),
            checkpoint(4, Status::Present, None),
            checkpoint(5, Status::Present, None),
            checkpoint(6, Status::Creating, None),
        ];
        all[3].savepoint = Some("CANONICAL");
        all[3].source = Source::Manual;
        all[3].full_bytes = 2_000_000;
        all[4].description = HOSTILE.into();
        all[4].acknowledged_unix_ms = Some(all[4].triggered_unix_ms + 900);
        all[4].full_bytes = 3_000_000;
        all[4].location = Some("file:///a \"quoted\"\nplace".into());
        let state = self.0.lock().unwrap();
        if state.triggers.iter().any(|trigger| trigger.len() == 32) {
            all.push(checkpoint(7, Status::Present, None));
        }
        for checkpoint in &mut all {
            if state.wishes.iter().any(|(wish, _)| *wish == Wish::Delete { id: checkpoint.id }) {
                (checkpoint.status, checkpoint.reason) = (Status::Cleared, Some("deleted by a user".into()));
            }
        }
        Ok(all)
    }

    async fn parts(&self, id: u64) -> Result<Option<Vec<VertexPart>>, ViewError> {
        let subtask = |ms: u64| SubtaskPart {
            is_acknowledged: true,
            acknowledged_unix_ms: Some(1_700_000_000_000 + id * 1000 + ms),
            full_bytes: 500_000,
            new_bytes: Some(500),
            sync_ms: Some(3),
            async_ms: Some(40),
            alignment_ms: Some(7),
            start_delay_ms: Some(1),
            persisted_bytes: 5,
            log_bytes: 3,
            is_unaligned: true,
        };
        let part = |uid: &str, subtasks| VertexPart { uid: uid.into(), subtasks };
        Ok(Some(vec![part("source", vec![subtask(10)]), part("counts", vec![subtask(20), subtask(90)])]))
    }

    async fn restored(&self) -> Result<Option<Checkpoint>, ViewError> {
        Ok(Some(checkpoint(1, Status::Cleared, None)))
    }

    async fn config(&self) -> Result<Config, ViewError> {
        Ok(Config {
            interval_ms: 1000,
            retained: 5,
            retain_on_cancel: true,
            storage: "file:///objects".into(),
            ..Config::default()
        })
    }

    async fn wish(&self, trigger: &str, wish: Wish, description: &str) -> Result<(), ViewError> {
        if let Wish::Start { from: Some(from), .. } = &wish
            && from.ends_with("/chk-1")
        {
            let why = "checkpoint 1 is cleared: newer ones took its place";
            return Err(ViewError::Refused(why.into()));
        }
        let mut state = self.0.lock().unwrap();
        if state.triggers.insert(trigger.into()) {
            state.wishes.push((wish, description.into()));
        }
        Ok(())
    }

    async fn progress(&self, trigger: &str) -> Result<Option<Progress>, ViewError> {
        let is_known = self.0.lock().unwrap().triggers.contains(trigger);
        Ok(is_known.then_some(Progress::Done { id: Some(7), location: None }))
    }
}
