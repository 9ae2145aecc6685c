//! What users do to a job in the scenarios of a cluster: ask for checkpoints and savepoints, stop it, cancel it, bring it back.
//!
//! A job is brought back only from its newest state, as otherwise its output would rightly contain some records twice: from
//! the savepoint it was stopped with, or from the newest checkpoint that a cancellation left. If that is gone (a user deleted
//! it, or the retention did) the job stays as it is, and what it has committed must be a part of the known answer.

use std::time::Duration;

use cutwater_engine::checkpoint::barrier::{SavepointFormat, Stop};
use cutwater_engine::checkpoint::history::{Entry, Source};
use cutwater_engine::checkpoint::job_state::{ClaimMode, Status};
use cutwater_engine::checkpoint::request::{Request, RequestKind};
use cutwater_io::time;
use cutwater_sim::plan::Op;
use cutwater_sim::scenario::Violation;
use cutwater_sim::vocabulary::Verb;

use crate::cluster::{Cluster, told};

/// The queries after this one, Nexmark's q4 to q8, order or group by event time.
const LAST_TIMELESS_QUERY: u64 = 5;

/// Between two looks at a job that is to be brought back.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The verbs of a user who manages a job.
pub(crate) fn verbs() -> Vec<Verb> {
    vec![
        checkpoint_verb(),
        Verb::new("savepoint", "ask for a savepoint; format 0 is canonical, 1 native").arg("format", 0..=1),
        Verb::new(
            "stop",
            "stop the job with a savepoint; drain 1 lets time run to its end, if the query knows no time",
        )
        .arg("format", 0..=1)
        .arg("drain", 0..=1),
        Verb::new("cancel", "end the job at once"),
        Verb::new(
            "start",
            "bring the ended job back from its newest state; claim 1 makes the savepoint the job's",
        )
        .arg("claim", 0..=1),
        Verb::new("delete", "delete the n-th of what the list says is present").arg("nth", 0..=5),
    ]
}

/// Asks for a checkpoint.
pub(crate) fn checkpoint_verb() -> Verb {
    Verb::new("checkpoint", "ask for a checkpoint now; full 1 references nothing of earlier ones")
        .arg("full", 0..=1)
}

impl Cluster {
    /// Does what a user asks for, and returns what that user was told.
    pub(crate) async fn manage(&self, op: &Op) -> Result<String, Violation> {
        let format = |n: u64| if n == 0 { SavepointFormat::Canonical } else { SavepointFormat::Native };
        Ok(match op.verb.as_str() {
            "checkpoint" => self.ask(op, RequestKind::Checkpoint { full: op.args[0] == 1 }).await,
            "savepoint" => {
                let kind = RequestKind::Savepoint { target: None, format: format(op.args[0]), stop: None };
                self.ask(op, kind).await
            }
            "stop" => {
                // Where event time decides the answer, ending it early would change that.
                let drains = op.args[1] == 1 && self.world.knob("query") <= LAST_TIMELESS_QUERY;
                let stop = Some(if drains { Stop::Drain } else { Stop::Suspend });
                let kind = RequestKind::Savepoint { target: None, format: format(op.args[0]), stop };
                self.ask(op, kind).await
            }
            "cancel" => told(&self.client.cancel().await),
            "start" => match self.newest_state() {
                Some(from) => told(&self.client.start(from, claim(op.args[0]), false).await),
                None => "there is nothing to start from".into(),
            },
            "delete" => {
                let nth = usize::try_from(op.args[0]).expect("a small number");
                let id = self.oracles().job.state().and_then(|state| {
                    Some(state.history.iter().filter(|entry| entry.present().is_some()).nth(nth)?.id)
                });
                match id {
                    Some(id) => told(&self.client.delete_checkpoint(id).await),
                    None => "there are not so many".into(),
                }
            }
            other => unreachable!("{other} is not in the vocabulary"),
        })
    }

    async fn ask(&self, op: &Op, kind: RequestKind) -> String {
        let request =
            Request { trigger_id: format!("op-{}", op.id), kind, description: format!("wish {}", op.id) };
        told(&self.client.trigger(request).await)
    }

    /// Where the newest state of the job is, if it is still there; inside, `None` if it never had one.
    fn newest_state(&self) -> Option<Option<String>> {
        let oracles = self.oracles();
        let state = oracles.job.state()?;
        if oracles.job.newest().is_none() {
            return Some(None);
        }
        let is_newest = |entry: &&Entry| Some(entry.id) == oracles.job.newest();
        let location = |entry: &Entry| entry.present().map(|present| present.metadata.path.clone());
        let own = state.history.iter().find(is_newest).and_then(location);
        // A job that was ended before its first checkpoint since goes on from what it was started from.
        let is_back = state.origin().is_some_and(|origin| Some(origin.checkpoint.id) == oracles.job.newest());
        let origin = state.origin().filter(|_| is_back).map(|origin| origin.checkpoint.metadata.path.clone());
        own.or(origin).map(Some)
    }

    /// True if the job has read and committed everything.
    fn is_complete(&self) -> bool {
        let oracles = self.oracles();
        let Some(state) = oracles.job.state().filter(|state| state.status == Status::Finished) else {
            return false;
        };
        let newest = state.history.iter().find(|entry| Some(entry.id) == oracles.job.newest());
        newest.is_some_and(|entry| entry.source != Source::OnStop)
    }

    /// Waits for the end of the job, and brings it back until it has read all its input or nothing is left to bring it back
    /// from. True in the first case.
    pub(crate) async fn bring_to_an_end(&self) -> bool {
        loop {
            self.until(Cluster::has_ended).await;
            if self.is_complete() {
                return true;
            }
            let Some(from) = self.newest_state() else { return false };
            // Asked in vain as long as something else goes on.
            let answer = self.client.start(from, ClaimMode::NoClaim, false).await;
            self.world.note("start", &told(&answer));
            time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn claim(n: u64) -> ClaimMode {
    if n == 1 { ClaimMode::Claim } else { ClaimMode::NoClaim }
}
