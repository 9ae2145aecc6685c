//! A job over HTTP: Flink's endpoints for checkpoints, figures for Prometheus, and a page for people.
//!
//! ```text
//! GET   /                                           the page; it reads what is below
//! GET   /metrics                                    Prometheus' text format
//! GET   /jobs, /jobs/:id
//! PATCH /jobs/:id?mode=cancel
//! GET   /jobs/:id/checkpoints                       counts, summary, latest, history
//! POST  /jobs/:id/checkpoints                       {checkpointType, triggerId, description}
//! GET   /jobs/:id/checkpoints/:trigger              how that gets on
//! GET   /jobs/:id/checkpoints/config
//! GET   /jobs/:id/checkpoints/details/:cid          a number, or latest?status=COMPLETED|FAILED; DELETE deletes it
//! GET   /jobs/:id/checkpoints/details/:cid/subtasks/:vertex
//! POST  /jobs/:id/savepoints, /jobs/:id/stop        and GET .../savepoints/:trigger
//! POST  /jobs/:id/start                             {from, claim, allowNonRestored}, of a job that has ended
//! POST  /savepoint-disposal                         {savepoint-path}, and GET .../:trigger
//! ```
//! The server has no state: all it says it asks a [`view::JobView`], each time. The id of a job is its name.
//!
//! Anybody who can connect may ask for anything, as with Flink; bind it where only friends are. A page of another site in a friend's
//! browser cannot: a request that changes something and names a foreign origin is refused.
//!
//! Left out: TLS and users (a proxy's business), more than one job, Flink's caching of answers for three seconds.

pub mod live;
mod manage;
mod metrics;
mod rest;
pub mod view;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, Request, State};
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use cutwater_io::{entropy, time};
use serde_json::{Value, json};

use view::{Checkpoint, JobView, ViewError, Wish};

/// The longest body of a request, in bytes.
const BODY_MAX_BYTES: usize = 64 << 10;

/// The longest id of a trigger, in bytes.
const TRIGGER_MAX_BYTES: usize = 128;

const PAGE: &str = include_str!("page.html");

/// The page may run itself and ask this server; nothing else, whatever a description says.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

type View = State<Arc<dyn JobView>>;

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: tokio::net::TcpListener,
}

impl Server {
    /// Listens on `address`; port 0 picks a free one.
    ///
    /// # Errors
    /// If it cannot.
    pub async fn bind(address: SocketAddr) -> io::Result<Server> {
        Ok(Server { listener: tokio::net::TcpListener::bind(address).await? })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until it is dropped.
    ///
    /// # Errors
    /// If it can accept no more.
    pub async fn run(self, view: Arc<dyn JobView>) -> io::Result<()> {
        axum::serve(self.listener, router(view)).await
    }
}

fn router(view: Arc<dyn JobView>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics_text))
        .route("/jobs", get(jobs))
        .route("/jobs/{job}", get(job).patch(cancel))
        .route("/jobs/{job}/checkpoints", get(checkpoints).post(trigger_checkpoint))
        .route("/jobs/{job}/checkpoints/config", get(config))
        .route("/jobs/{job}/checkpoints/details/{id}", get(details).delete(manage::delete))
        .route("/jobs/{job}/checkpoints/details/{id}/subtasks/{vertex}", get(subtasks))
        .route("/jobs/{job}/checkpoints/{trigger}", get(progress))
        .route("/jobs/{job}/savepoints", post(trigger_savepoint))
        .route("/jobs/{job}/savepoints/{trigger}", get(progress))
        .route("/jobs/{job}/stop", post(stop))
        .route("/jobs/{job}/start", post(manage::start))
        .route("/savepoint-disposal", post(manage::dispose))
        .route("/savepoint-disposal/{trigger}", get(manage::disposed))
        .fallback(|| async { Failure(StatusCode::NOT_FOUND, "there is nothing of that name".into()) })
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .layer(middleware::from_fn(same_origin))
        .with_state(view)
}

/// An error as Flink words it.
struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        answer(self.0, &json!({ "errors": [self.1] }))
    }
}

impl From<ViewError> for Failure {
    fn from(error: ViewError) -> Failure {
        let status = match error {
            ViewError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            ViewError::Refused(_) => StatusCode::CONFLICT,
        };
        Failure(status, error.to_string())
    }
}

fn answer(status: StatusCode, value: &Value) -> Response {
    let headers: [(HeaderName, &str); 3] = [
        (header::CONTENT_TYPE, "application/json; charset=UTF-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, value.to_string()).into_response()
}

type Answer = Result<Response, Failure>;

fn ok(value: &Value) -> Answer {
    Ok(answer(StatusCode::OK, value))
}

/// Browsers say on whose behalf they change something.
async fn same_origin(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if !matches!(*request.method(), Method::GET | Method::HEAD)
        && let Some(origin) = text(header::ORIGIN)
    {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        if authority.is_none() || authority != text(header::HOST) {
            return Failure(StatusCode::FORBIDDEN, format!("{origin} is another origin")).into_response();
        }
    }
    next.run(request).await
}

async fn page() -> Response {
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_TYPE, "text/html; charset=UTF-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, PAGE).into_response()
}

/// What cannot be known at the moment is missing from the page, and `up` is 0: the scrape itself succeeds.
async fn metrics_text(State(view): View) -> Response {
    let overview = view.overview().await.ok();
    let all = view.checkpoints().await.unwrap_or_default();
    let restored = view.restored().await.ok().flatten();
    let parts = match all.iter().rev().find(|checkpoint| checkpoint.is_completed()) {
        Some(last) => view.parts(last.id).await.ok().flatten().unwrap_or_default(),
        None => Vec::new(),
    };
    let text = metrics::text(overview.as_ref(), &all, &parts, restored.as_ref(), view.name());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn jobs(State(view): View) -> Answer {
    let state = view.overview().await.map_or_else(|_| "RECONCILING".to_owned(), |overview| overview.state);
    ok(&json!({ "jobs": [{ "id": view.name(), "status": state }] }))
}

fn known(view: &Arc<dyn JobView>, job: &str) -> Result<(), Failure> {
    match job == view.name() {
        true => Ok(()),
        false => Err(Failure(StatusCode::NOT_FOUND, format!("Job {job} not found"))),
    }
}

async fn job(State(view): View, Path(job): Path<String>) -> Answer {
    known(&view, &job)?;
    let now = u64::try_from(time::unix_time().as_millis()).unwrap_or(u64::MAX);
    ok(&rest::job(&view.overview().await?, now))
}

async fn cancel(State(view): View, Path(job): Path<String>, RawQuery(query): RawQuery) -> Answer {
    known(&view, &job)?;
    match query.as_deref() {
        None | Some("" | "mode=cancel") => {
            view.wish(&entropy::uuid("engine.web.trigger"), Wish::Cancel, "").await?;
            Ok(answer(StatusCode::ACCEPTED, &json!({})))
        }
        Some(other) => Err(Failure(StatusCode::BAD_REQUEST, format!("{other}: only mode=cancel is known"))),
    }
}

async fn checkpoints(State(view): View, Path(job): Path<String>) -> Answer {
    known(&view, &job)?;
    ok(&rest::checkpoints(&view.checkpoints().await?, view.restored().await?.as_ref()))
}

async fn config(State(view): View, Path(job): Path<String>) -> Answer {
    known(&view, &job)?;
    ok(&rest::config(&view.config().await?))
}

/// The checkpoint of that number; or the latest whose end is as the query wants it, and anyhow has come.
async fn find(view: &Arc<dyn JobView>, id: &str, query: Option<&str>) -> Result<Checkpoint, Failure> {
    let wanted: &[&str] = match query {
        None | Some("") => &["COMPLETED", "FAILED"],
        Some("status=COMPLETED") => &["COMPLETED"],
        Some("status=FAILED") => &["FAILED"],
        Some(other) => {
            let why = format!("{other}: status=COMPLETED and status=FAILED are known");
            return Err(Failure(StatusCode::BAD_REQUEST, why));
        }
    };
    let all = view.checkpoints().await?;
    let found = match id {
        "latest" => all.into_iter().rev().find(|checkpoint| wanted.contains(&checkpoint.status.name())),
        id => all.into_iter().find(|checkpoint| checkpoint.id.to_string() == id),
    };
    found.ok_or_else(|| {
        Failure(
            StatusCode::NOT_FOUND,
            format!("Could not find checkpointing statistics for checkpoint {id}."),
        )
    })
}

async fn details(
    State(view): View,
    Path((job, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Answer {
    known(&view, &job)?;
    let checkpoint = find(&view, &id, query.as_deref()).await?;
    let parts = view.parts(checkpoint.id).await?;
    ok(&rest::item(&checkpoint, parts.as_deref()))
}

async fn subtasks(State(view): View, Path((job, id, vertex)): Path<(String, String, String)>) -> Answer {
    known(&view, &job)?;
    let checkpoint = find(&view, &id, None).await?;
    let parts = view.parts(checkpoint.id).await?.unwrap_or_default();
    match parts.iter().find(|part| part.uid == vertex) {
        Some(part) => ok(&rest::vertex(part, &checkpoint, true)),
        None => Err(Failure(
            StatusCode::NOT_FOUND,
            format!("There is no checkpoint statistics for task {vertex}."),
        )),
    }
}

/// The body of a request: an object, or nothing.
fn object(body: &Bytes) -> Result<Value, Failure> {
    if body.is_empty() {
        return Ok(json!({}));
    }
    match serde_json::from_slice(body) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Failure(StatusCode::BAD_REQUEST, "the body is not a JSON object".into())),
        Err(error) => Err(Failure(StatusCode::BAD_REQUEST, format!("the body: {error}"))),
    }
}

fn text(body: &Value, name: &str) -> Result<Option<String>, Failure> {
    match &body[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(Failure(StatusCode::BAD_REQUEST, format!("{name} is not a text"))),
    }
}

fn truth(body: &Value, name: &str) -> Result<bool, Failure> {
    match &body[name] {
        Value::Null => Ok(false),
        Value::Bool(is) => Ok(*is),
        _ => Err(Failure(StatusCode::BAD_REQUEST, format!("{name} is neither true nor false"))),
    }
}

/// The trigger's id makes asking twice asking once.
async fn asked(view: &Arc<dyn JobView>, body: &Value, wish: Wish) -> Answer {
    let trigger =
        text(body, "triggerId")?.unwrap_or_else(|| entropy::uuid("engine.web.trigger").replace('-', ""));
    if trigger.is_empty() || trigger.len() > TRIGGER_MAX_BYTES {
        let why = format!("triggerId: 1 to {TRIGGER_MAX_BYTES} bytes are allowed");
        return Err(Failure(StatusCode::BAD_REQUEST, why));
    }
    let description = text(body, "description")?.unwrap_or_default();
    view.wish(&trigger, wish, &description).await?;
    Ok(answer(StatusCode::ACCEPTED, &json!({ "request-id": trigger })))
}

async fn trigger_checkpoint(State(view): View, Path(job): Path<String>, body: Bytes) -> Answer {
    known(&view, &job)?;
    let body = object(&body)?;
    let full = match text(&body, "checkpointType")?.as_deref() {
        None | Some("CONFIGURED" | "INCREMENTAL") => false,
        Some("FULL") => true,
        Some(other) => {
            let why = format!("checkpointType {other}: CONFIGURED, FULL and INCREMENTAL are known");
            return Err(Failure(StatusCode::BAD_REQUEST, why));
        }
    };
    asked(&view, &body, Wish::Checkpoint { full }).await
}

fn format(body: &Value) -> Result<String, Failure> {
    let format = text(body, "formatType")?.unwrap_or_else(|| "CANONICAL".into());
    match format.as_str() {
        "CANONICAL" | "NATIVE" => Ok(format),
        other => {
            let why = format!("formatType {other}: CANONICAL and NATIVE are known");
            Err(Failure(StatusCode::BAD_REQUEST, why))
        }
    }
}

async fn trigger_savepoint(State(view): View, Path(job): Path<String>, body: Bytes) -> Answer {
    known(&view, &job)?;
    let body = object(&body)?;
    let (target, format) = (text(&body, "target-directory")?, format(&body)?);
    let cancel = truth(&body, "cancel-job")?;
    asked(&view, &body, Wish::Savepoint { target, format, cancel }).await
}

async fn stop(State(view): View, Path(job): Path<String>, body: Bytes) -> Answer {
    known(&view, &job)?;
    let body = object(&body)?;
    let (target, format) = (text(&body, "targetDirectory")?, format(&body)?);
    let drain = truth(&body, "drain")?;
    asked(&view, &body, Wish::Stop { target, format, drain }).await
}

async fn progress(State(view): View, Path((job, trigger)): Path<(String, String)>) -> Answer {
    known(&view, &job)?;
    match view.progress(&trigger).await? {
        Some(progress) => ok(&rest::progress(&progress)),
        None => Err(Failure(StatusCode::NOT_FOUND, format!("there is no trigger {trigger}"))),
    }
}
