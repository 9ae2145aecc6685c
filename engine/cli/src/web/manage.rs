//! What is done to checkpoints that are there: one is deleted, or an ended job starts from it.
//!
//! A savepoint is disposed of as in Flink, by its path and with a trigger to ask about, though it has happened when the request is
//! answered. The server remembers nothing: the trigger *is* the number of the savepoint, and the list says what became of it.

use cutwater_engine::checkpoint::layout::Layout;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use cutwater_io::entropy;
use serde_json::json;

use super::view::{Checkpoint, JobView, Progress, Status, Wish};
use super::{Answer, Failure, View, answer, find, known, object, ok, rest, text, truth};

fn accepted() -> Response {
    answer(StatusCode::ACCEPTED, &json!({}))
}

/// A wish that is answered when it has come true.
async fn done(view: &Arc<dyn JobView>, wish: Wish) -> Answer {
    view.wish(&entropy::uuid("engine.web.trigger"), wish, "").await?;
    Ok(accepted())
}

/// `DELETE /jobs/:id/checkpoints/details/:cid`
pub(super) async fn delete(State(view): View, Path((job, id)): Path<(String, String)>) -> Answer {
    known(&view, &job)?;
    let id = find(&view, &id, None).await?.id;
    done(&view, Wish::Delete { id }).await
}

/// `POST /jobs/:id/start`
pub(super) async fn start(State(view): View, Path(job): Path<String>, body: Bytes) -> Answer {
    known(&view, &job)?;
    let body = object(&body)?;
    let wish = Wish::Start {
        from: text(&body, "from")?,
        claim: truth(&body, "claim")?,
        allow_non_restored: truth(&body, "allowNonRestored")?,
    };
    if let Wish::Start { from: None, claim: true, .. } = wish {
        return Err(Failure(StatusCode::BAD_REQUEST, "claim: there is no `from` to claim".into()));
    }
    done(&view, wish).await
}

/// `POST /savepoint-disposal`
pub(super) async fn dispose(State(view): View, body: Bytes) -> Answer {
    let body = object(&body)?;
    let Some(path) = text(&body, "savepoint-path")? else {
        return Err(Failure(StatusCode::BAD_REQUEST, "savepoint-path is missing".into()));
    };
    let storage = view.config().await?.storage;
    let all = view.checkpoints().await?;
    let is_it =
        |checkpoint: &&Checkpoint| checkpoint.savepoint.is_some() && is_at(checkpoint, &storage, &path);
    let Some(Checkpoint { id, .. }) = all.iter().rev().find(is_it) else {
        let why = format!("{path}: no savepoint of {} is there", view.name());
        return Err(Failure(StatusCode::NOT_FOUND, why));
    };
    view.wish(&entropy::uuid("engine.web.trigger"), Wish::Delete { id: *id }, "").await?;
    Ok(answer(StatusCode::ACCEPTED, &json!({ "request-id": format!("{id:032x}") })))
}

/// `GET /savepoint-disposal/:trigger`
pub(super) async fn disposed(State(view): View, Path(trigger): Path<String>) -> Answer {
    let id = u64::from_str_radix(&trigger, 16).ok().filter(|_| trigger.len() == 32);
    let all = view.checkpoints().await?;
    let savepoint = all.iter().find(|checkpoint| Some(checkpoint.id) == id && checkpoint.savepoint.is_some());
    match savepoint {
        Some(Checkpoint { status: Status::Cleared, .. }) => {
            ok(&rest::progress(&Progress::Done { id, location: None }))
        }
        // It was refused: nothing of that name was begun.
        _ => Err(Failure(StatusCode::NOT_FOUND, format!("there is no trigger {trigger}"))),
    }
}

/// True if `path` is the directory or the metadata of the checkpoint: its URL, or its path in the store.
fn is_at(checkpoint: &Checkpoint, storage: &str, path: &str) -> bool {
    let Some(location) = &checkpoint.location else { return false };
    let path = path.trim_end_matches('/');
    let path = Layout::directory_of(path).unwrap_or(path);
    let is_url = match path.strip_prefix("file:") {
        // One slash and three mean the same.
        Some(rest) => location.strip_prefix("file://") == Some(&format!("/{}", rest.trim_start_matches('/'))),
        None => location == path || location.strip_prefix("file://") == Some(path),
    };
    is_url || *location == format!("{}/{}", storage.trim_end_matches('/'), path.trim_start_matches('/'))
}
