//! Finding the primary of a partition, and asking it.
//!
//! Who is not the primary says so, and it is looked for again until the time is over. What is not answered is asked again if that does no harm
//! ([`Question::is_idempotent`]); else nobody knows, and that is the answer.

use std::sync::Arc;
use std::time::Duration;

use cutwater_io::time;

use super::serve;
use super::shared::Shared;
use crate::tables::ids::PartitionId;
use crate::tables::reason::Reason;
use crate::tables::rpc::{Answer, Question};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(400);

/// Asks the primary of the question's partition. Nothing if nobody knows whether it was done.
///
/// # Panics
/// If the question is of no partition.
pub(super) async fn ask(shared: &Arc<Shared>, question: Question) -> Option<Answer> {
    let partition = question.partition().expect("a question to a partition");
    let deadline = time::now() + shared.config.route_timeout;
    let mut pause = FIRST_PAUSE;
    let mut is_in_doubt = false;
    loop {
        match once(shared, partition, question.clone()).await {
            // A later refusal says nothing of an earlier attempt.
            Once::Answered(Answer::Denied(reason)) if !reason.is_passing() && !is_in_doubt => {
                return Some(Answer::Denied(reason));
            }
            Once::Answered(Answer::Denied(_)) | Once::NotAsked => {}
            Once::Answered(answer) => return Some(answer),
            Once::Silent if question.is_idempotent() => is_in_doubt = true,
            Once::Silent => return None,
        }
        if time::now() >= deadline {
            return (!is_in_doubt).then_some(Answer::Denied(Reason::NoPrimary(partition)));
        }
        shared.refresh();
        time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// What one attempt led to.
pub(super) enum Once {
    /// An answer.
    Answered(Answer),
    /// It certainly did not arrive.
    NotAsked,
    /// Nothing.
    Silent,
}

/// Asks whoever is the primary now, once.
pub(super) async fn once(shared: &Arc<Shared>, partition: PartitionId, question: Question) -> Once {
    let state = shared.known().state;
    let Some(view) = state.view(partition) else {
        // It may be too new for this node to know of it.
        let is_new = partition.table >= state.next_table;
        return if is_new {
            Once::NotAsked
        } else {
            Once::Answered(Answer::Denied(Reason::PartitionUnknown(partition)))
        };
    };
    if view.primary == shared.own {
        let answering = serve::answer(shared, question);
        return match time::timeout(shared.config.ask_timeout, answering).await {
            Ok(Some(answer)) => Once::Answered(answer),
            Ok(None) | Err(time::Elapsed) => Once::Silent,
        };
    }
    match shared.ask(view.primary, question, shared.config.ask_timeout).await {
        Ok(Some(answer)) => Once::Answered(answer),
        Ok(None) => Once::Silent,
        Err(_) => Once::NotAsked,
    }
}
