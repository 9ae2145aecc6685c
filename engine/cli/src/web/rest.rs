//! Flink's JSON: names and nesting as its REST API has them, so that what was written for Flink reads this, too.
//!
//! What Flink has and this engine does not measure is 0 or absent as Flink has it when it does not know; what this engine has and Flink
//! does not (`description`, `source`, `job_version`, `completed_timestamp`, `reason`) stands beside it.

use serde_json::{Map, Value, json};

use super::view::{Checkpoint, Config, Overview, Progress, Source, Status, VertexPart};

/// `GET /jobs/:id`.
pub(super) fn job(overview: &Overview, now_unix_ms: u64) -> Value {
    let Overview { name, state, attempt, tasks, vertices } = overview;
    let task_state = |running: bool| if running { "RUNNING" } else { "CREATED" };
    let all_run = tasks.0 == tasks.1;
    let vertices: Vec<Value> = vertices
        .iter()
        .map(|vertex| {
            json!({
                "id": vertex.uid,
                "name": vertex.uid,
                "parallelism": vertex.parallelism,
                "status": task_state(all_run),
            })
        })
        .collect();
    json!({
        "jid": name,
        "name": name,
        "state": state,
        "isStoppable": true,
        "now": now_unix_ms,
        "vertices": vertices,
        "status-counts": { "RUNNING": tasks.0, "CREATED": tasks.1.saturating_sub(tasks.0) },
        "epoch": attempt.0,
        "attempt": attempt.1,
    })
}

/// `GET /jobs/:id/checkpoints`.
pub(super) fn checkpoints(all: &[Checkpoint], restored: Option<&Checkpoint>) -> Value {
    let count = |name: &str| all.iter().filter(|checkpoint| checkpoint.status.name() == name).count();
    let newest = |is_wanted: &dyn Fn(&&Checkpoint) -> bool| {
        all.iter().rev().find(is_wanted).map_or(Value::Null, |checkpoint| item(checkpoint, None))
    };
    let completed: Vec<&Checkpoint> = all.iter().filter(|checkpoint| checkpoint.is_completed()).collect();
    let sizes = |of: &dyn Fn(&Checkpoint) -> Option<u64>| {
        statistics(completed.iter().filter_map(|c| of(c)).collect())
    };
    let nothing = || statistics(vec![0; usize::from(!completed.is_empty())]);
    json!({
        "counts": {
            "restored": usize::from(restored.is_some()),
            "total": all.len(),
            "in_progress": count("IN_PROGRESS"),
            "completed": count("COMPLETED"),
            "failed": count("FAILED"),
        },
        "summary": {
            "checkpointed_size": sizes(&|c| Some(c.new_bytes.unwrap_or(c.full_bytes))),
            "state_size": sizes(&|c| Some(c.full_bytes)),
            "end_to_end_duration": sizes(&Checkpoint::duration_ms),
            "alignment_buffered": nothing(),
            "processed_data": nothing(),
            "persisted_data": sizes(&|c| Some(c.persisted_bytes)),
        },
        "latest": {
            "completed": newest(&|c| c.is_completed() && c.savepoint.is_none()),
            "savepoint": newest(&|c| c.is_completed() && c.savepoint.is_some()),
            "failed": newest(&|c| c.status.name() == "FAILED"),
            "restored": restored.map_or(Value::Null, |c| json!({
                "id": c.id,
                "restore_timestamp": c.acknowledged_unix_ms,
                "is_savepoint": c.savepoint.is_some(),
                "savepointFormat": c.savepoint,
                "external_path": c.location,
            })),
        },
        "history": all.iter().rev().map(|checkpoint| item(checkpoint, None)).collect::<Vec<_>>(),
    })
}

/// An item of the history; with `parts`, the details of one checkpoint.
pub(super) fn item(checkpoint: &Checkpoint, parts: Option<&[VertexPart]>) -> Value {
    let Checkpoint { id, description, status, reason, source, savepoint, .. } = checkpoint;
    let latest_ack = checkpoint.acknowledged_unix_ms.map_or(json!(-1), Value::from);
    let checkpoint_type = match (savepoint, source) {
        (None, _) => "CHECKPOINT",
        (Some(_), Source::OnStop) => "SYNC_SAVEPOINT",
        (Some(_), _) => "SAVEPOINT",
    };
    let mut tasks = Map::new();
    for part in parts.into_iter().flatten() {
        tasks.insert(part.uid.clone(), vertex(part, checkpoint, false));
    }
    let known = || parts.into_iter().flatten().flat_map(|part| &part.subtasks);
    let (acknowledged, subtasks) = match parts {
        Some(_) => (known().filter(|subtask| subtask.is_acknowledged).count(), known().count()),
        None => (checkpoint.acknowledged.0 as usize, checkpoint.acknowledged.1 as usize),
    };
    let mut value = json!({
        "className": status.name().to_lowercase(),
        "id": id,
        "status": status.name(),
        "is_savepoint": savepoint.is_some(),
        "savepointFormat": savepoint,
        "trigger_timestamp": checkpoint.triggered_unix_ms,
        "latest_ack_timestamp": latest_ack,
        "checkpointed_size": checkpoint.new_bytes.unwrap_or(checkpoint.full_bytes),
        "state_size": checkpoint.full_bytes,
        "end_to_end_duration": checkpoint.duration_ms().unwrap_or(0),
        "alignment_buffered": 0,
        "processed_data": 0,
        "persisted_data": checkpoint.persisted_bytes,
        "num_subtasks": subtasks,
        "num_acknowledged_subtasks": acknowledged,
        "checkpoint_type": checkpoint_type,
        "tasks": tasks,
        "external_path": checkpoint.location,
        "discarded": *status == Status::Cleared,
        "description": description,
        "source": source.name(),
        "shown_status": shown(*status),
        "job_version": checkpoint.job_version,
        "completed_timestamp": checkpoint.acknowledged_unix_ms,
        "reason": reason,
    });
    if status.name() == "FAILED" {
        value["failure_message"] = json!(reason);
        value["failure_timestamp"] =
            json!(checkpoint.acknowledged_unix_ms.unwrap_or(checkpoint.triggered_unix_ms));
    }
    value
}

/// The word of a list that people read.
fn shown(status: Status) -> &'static str {
    match status {
        Status::Creating => "Creating",
        Status::Present => "Present",
        Status::Cleared => "Cleared",
        Status::Timeout => "Timeout",
        Status::Failed => "Failed",
    }
}

/// `GET /jobs/:id/checkpoints/details/:cid/subtasks/:vertex`, or the same of all vertices, in short.
pub(super) fn vertex(part: &VertexPart, checkpoint: &Checkpoint, with_subtasks: bool) -> Value {
    let of = |get: &dyn Fn(&super::view::SubtaskPart) -> Option<u64>| {
        part.subtasks.iter().filter_map(get).collect::<Vec<u64>>()
    };
    let acknowledged = of(&|subtask| subtask.acknowledged_unix_ms);
    let latest_ack = acknowledged.iter().max().copied();
    let full_bytes: u64 = part.subtasks.iter().map(|subtask| subtask.full_bytes).sum();
    let new_bytes: u64 =
        part.subtasks.iter().map(|subtask| subtask.new_bytes.unwrap_or(subtask.full_bytes)).sum();
    let duration = |ack: u64| ack.saturating_sub(checkpoint.triggered_unix_ms);
    let mut value = json!({
        "id": checkpoint.id,
        "status": checkpoint.status.name(),
        "latest_ack_timestamp": latest_ack.map_or(json!(-1), Value::from),
        "checkpointed_size": new_bytes,
        "state_size": full_bytes,
        "end_to_end_duration": latest_ack.map_or(json!(-1), |ack| duration(ack).into()),
        "alignment_buffered": 0,
        "processed_data": 0,
        "persisted_data": part.subtasks.iter().map(|subtask| subtask.persisted_bytes).sum::<u64>(),
        "num_subtasks": part.subtasks.len(),
        "num_acknowledged_subtasks": part.subtasks.iter().filter(|subtask| subtask.is_acknowledged).count(),
    });
    if with_subtasks {
        value["summary"] = json!({
            "checkpointed_size": statistics(of(&|s| Some(s.new_bytes.unwrap_or(s.full_bytes)))),
            "state_size": statistics(of(&|s| Some(s.full_bytes))),
            "end_to_end_duration": statistics(acknowledged.iter().map(|ack| duration(*ack)).collect()),
            "checkpoint_duration": { "sync": statistics(of(&|s| s.sync_ms)), "async": statistics(of(&|s| s.async_ms)) },
            "alignment": {
                "duration": statistics(of(&|s| s.alignment_ms)),
                "persisted": statistics(of(&|s| s.is_acknowledged.then_some(s.persisted_bytes))),
            },
            "start_delay": statistics(of(&|s| s.start_delay_ms)),
        });
        let subtasks = part.subtasks.iter().enumerate().map(|(index, subtask)| {
            if !subtask.is_acknowledged {
                return json!({ "index": index, "status": "pending_or_failed" });
            }
            let ack = subtask.acknowledged_unix_ms;
            json!({
                "index": index,
                "status": "completed",
                "ack_timestamp": ack,
                "end_to_end_duration": ack.map(duration),
                "checkpointed_size": subtask.new_bytes.unwrap_or(subtask.full_bytes),
                "state_size": subtask.full_bytes,
                "log_size": subtask.log_bytes,
                "checkpoint": { "sync": subtask.sync_ms, "async": subtask.async_ms },
                "alignment": {
                    "buffered": 0,
                    "processed": 0,
                    "persisted": subtask.persisted_bytes,
                    "duration": subtask.alignment_ms,
                },
                "start_delay": subtask.start_delay_ms,
                "unaligned_checkpoint": subtask.is_unaligned,
                "aborted": false,
            })
        });
        value["subtasks"] = subtasks.collect();
    }
    value
}

/// `GET /jobs/:id/checkpoints/config`.
pub(super) fn config(config: &Config) -> Value {
    json!({
        "mode": "exactly_once",
        "interval": config.interval_ms,
        "timeout": config.timeout_ms,
        "min_pause": config.min_pause_ms,
        "max_concurrent": config.max_concurrent,
        "externalization": { "enabled": true, "delete_on_cancellation": !config.retain_on_cancel },
        "state_backend": "cutwater",
        "checkpoint_storage": config.storage,
        "unaligned_checkpoints": config.unaligned,
        "tolerable_failed_checkpoints": config.tolerable_failures,
        "aligned_checkpoint_timeout": config.aligned_timeout_ms,
        "checkpoints_after_tasks_finish": true,
        "state_changelog_enabled": config.changelog,
        "changelog_periodic_materialization_interval": config.materialise_every_ms,
        "num_retained": config.retained,
    })
}

/// `GET /jobs/:id/checkpoints/:trigger` and its like.
pub(super) fn progress(progress: &Progress) -> Value {
    match progress {
        Progress::Working => json!({ "status": { "id": "IN_PROGRESS" } }),
        Progress::Done { id, location } => json!({
            "status": { "id": "COMPLETED" },
            "operation": { "checkpointId": id, "location": location },
        }),
        Progress::Failed { reason } => json!({
            "status": { "id": "COMPLETED" },
            "operation": { "failure-cause": { "class": "cutwater", "stack-trace": reason } },
        }),
    }
}

/// Quantiles are of the nearest rank.
fn statistics(mut values: Vec<u64>) -> Value {
    values.sort_unstable();
    let rank = |per_mille: usize| {
        let at = (values.len() * per_mille).div_ceil(1000).saturating_sub(1);
        values.get(at).copied().unwrap_or(0)
    };
    let sum: u128 = values.iter().map(|value| u128::from(*value)).sum();
    let average = if values.is_empty() { 0 } else { sum / values.len() as u128 };
    json!({
        "min": values.first().copied().unwrap_or(0),
        "max": values.last().copied().unwrap_or(0),
        "avg": u64::try_from(average).unwrap_or(u64::MAX),
        "p50": rank(500),
        "p90": rank(900),
        "p95": rank(950),
        "p99": rank(990),
        "p999": rank(999),
    })
}

#[cfg(test)]
mod tests {
    use super::statistics;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let of = statistics((1..=100).rev().collect());
        assert_eq!((&of["min"], &of["max"], &of["avg"]), (&1.into(), &100.into(), &50.into()));
        assert_eq!((&of["p50"], &of["p95"], &of["p999"]), (&50.into(), &95.into(), &100.into()));
        assert_eq!(statistics(vec![])["p99"], 0);
        assert_eq!(statistics(vec![u64::MAX, u64::MAX])["avg"], u64::MAX);
    }
}
