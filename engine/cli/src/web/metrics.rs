//! A job's figures in Prometheus' text format, under the names that Flink's reporter gives them, so that a dashboard for Flink shows them.

use std::fmt::Write;

use super::view::{Checkpoint, Overview, VertexPart};

/// The page; `parts` are those of the last completed checkpoint.
pub(super) fn text(
    overview: Option<&Overview>,
    all: &[Checkpoint],
    parts: &[VertexPart],
    restored: Option<&Checkpoint>,
    job: &str,
) -> String {
    let mut out = String::new();
    let labels = format!("job_id=\"{0}\",job_name=\"{0}\"", escaped(job));
    let mut say = |name: &str, kind: &str, help: &str, more: &str, value: u64| {
        let name = format!("flink_jobmanager_job_{name}");
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{{labels}{more}}} {value}");
    };
    let count = |name: &str| all.iter().filter(|c| c.status.name() == name).count() as u64;
    // A counter would promise that it never falls, and the list is of bounded length.
    let mut counts = |name: &str, help: &str, value: u64| say(name, "gauge", help, "", value);
    counts("totalNumberOfCheckpoints", "Checkpoints of all kinds.", all.len() as u64);
    counts("numberOfInProgressCheckpoints", "Checkpoints under way.", count("IN_PROGRESS"));
    counts("numberOfCompletedCheckpoints", "Checkpoints that were completed.", count("COMPLETED"));
    counts("numberOfFailedCheckpoints", "Checkpoints that failed.", count("FAILED"));
    if let Some(last) = all.iter().rev().find(|c| c.is_completed()) {
        counts(
            "lastCheckpointDuration",
            "Of the last one, in milliseconds.",
            last.duration_ms().unwrap_or(0),
        );
        counts(
            "lastCheckpointSize",
            "What the last one wrote, in bytes.",
            last.new_bytes.unwrap_or(last.full_bytes),
        );
        counts("lastCheckpointFullSize", "What the last one references, in bytes.", last.full_bytes);
        counts("lastCheckpointProcessedData", "Bytes processed during alignment.", 0);
        counts("lastCheckpointPersistedData", "Bytes of channels in the last one.", last.persisted_bytes);
        counts("lastCompletedCheckpointId", "Number of the last one.", last.id);
        if let Some(location) = &last.location {
            let path = format!(",path=\"{}\"", escaped(location));
            say("lastCheckpointExternalPath", "gauge", "Where the last one is, as a label.", &path, 1);
        }
    }
    if let Some(ms) = restored.and_then(|restored| restored.acknowledged_unix_ms) {
        say(
            "lastCheckpointRestoreTimestamp",
            "gauge",
            "When the job was restored, in milliseconds since 1970.",
            "",
            ms,
        );
    }
    if let Some(overview) = overview {
        let restarts = u64::from(overview.attempt.1.saturating_sub(1));
        say("numRestarts", "gauge", "Restarts under this leader.", "", restarts);
        say("fullRestarts", "gauge", "Restarts under this leader.", "", restarts);
        say("numRunningTasks", "gauge", "Tasks that run.", "", overview.tasks.0.into());
    }
    say("up", "gauge", "Whether a leader answers.", "", overview.is_some().into());
    alignment(parts, &labels, &mut out);
    out
}

/// Flink has this figure by task, and in nanoseconds.
fn alignment(parts: &[VertexPart], labels: &str, out: &mut String) {
    let name = "flink_taskmanager_job_task_checkpointAlignmentTime";
    let subtasks = parts.iter().flat_map(|part| {
        part.subtasks.iter().enumerate().map(move |(index, subtask)| (&part.uid, index, subtask.alignment_ms))
    });
    let mut samples = subtasks.filter_map(|(uid, index, ms)| Some((uid, index, ms?))).peekable();
    if samples.peek().is_some() {
        let help = "Alignment in the last completed checkpoint, in nanoseconds.";
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
    }
    for (uid, index, ms) in samples {
        let uid = escaped(uid);
        let more = format!("task_id=\"{uid}\",task_name=\"{uid}\",subtask_index=\"{index}\"");
        let _ = writeln!(out, "{name}{{{labels},{more}}} {}", ms.saturating_mul(1_000_000));
    }
}

/// The value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
