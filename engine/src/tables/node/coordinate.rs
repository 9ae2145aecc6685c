//! Carries out what [`Near`] decides for one transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use cutwater_io::{point, reachable};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::points;
use super::route;
use super::shared::Shared;
use crate::tables::cluster_state::{ClusterState, Kind};
use crate::tables::ids::{PartitionId, TxId};
use crate::tables::near::{Ask, Effect, Heard, Near, Outcome};
use crate::tables::partition::{MAX_PARTICIPANTS, Request};
use crate::tables::reason::Reason;
use crate::tables::rows::MAX_TRANSACTION_BYTES;
use crate::tables::rpc::{Answer, Part, Question};

/// Commits a transaction, or says why not, or that it does not know.
pub(super) async fn commit(shared: Arc<Shared>, tx: TxId, parts: Vec<Part>) -> Answer {
    let next_table = shared.known().state.next_table;
    if parts.iter().any(|part| part.partition.table >= next_table) {
        // The client knows of a table that this node does not know yet: the register is read first.
        let _ = shared.change(Box::new(|state| Ok(state.clone()))).await;
    }
    if let Err(reason) = check(&shared.known().state, &parts) {
        return Answer::Denied(reason);
    }
    let parts: BTreeMap<PartitionId, Part> = parts.into_iter().map(|part| (part.partition, part)).collect();
    let participants = parts.iter().map(|(id, part)| (*id, !part.changes.is_empty())).collect();
    let (mut near, first) = Near::begin(tx, &participants);
    let mut asked = FuturesUnordered::new();
    let mut effects = vec![first];
    loop {
        for effect in std::mem::take(&mut effects) {
            match effect {
                Effect::Ask(partition, ask) => {
                    let question = question(&near, &parts, partition, ask);
                    match ask {
                        Ask::Decide { commit: true } => point!(points::BEFORE_DECIDE),
                        Ask::Prepare if partition != near.decider() => point!(points::DECIDER_PREPARED),
                        _ => {}
                    }
                    let shared = shared.clone();
                    asked.push(async move { (partition, route::ask(&shared, question).await) });
                }
                Effect::Answer(outcome) => return answer(outcome),
            }
        }
        let (partition, answer) = asked.next().await.expect("near has asked, or it has answered");
        effects = near.heard(partition, heard(answer));
    }
}

fn check(state: &ClusterState, parts: &[Part]) -> Result<(), Reason> {
    let malformed = |what: &str| Err(Reason::Malformed(what.into()));
    if parts.is_empty() || !parts.windows(2).all(|pair| pair[0].partition < pair[1].partition) {
        return malformed("the parts of a transaction are not in their order, each once");
    }
    let limit = |what: &str, value: usize, limit: usize| match value > limit {
        true => Err(Reason::TooLarge { what: what.into(), value: value as u64, limit: limit as u64 }),
        false => Ok(()),
    };
    limit("participants of a transaction", parts.len(), MAX_PARTICIPANTS)?;
    let reads = parts.iter().flat_map(|part| &part.reads).map(|read| read.key.len());
    let changes = parts.iter().flat_map(|part| &part.changes);
    let changes = changes.map(|change| change.key.len() + change.value.as_ref().map_or(0, bytes::Bytes::len));
    limit("bytes of a transaction", reads.chain(changes).sum(), MAX_TRANSACTION_BYTES)?;
    for part in parts {
        let table = state.tables.get(&part.partition.table);
        let table = table.ok_or(Reason::PartitionUnknown(part.partition))?;
        if table.kind == Kind::Atomic {
            let (table, is) = (table.name.clone(), "atomic".into());
            return Err(Reason::WrongKind { table, is, what: "transactions".into() });
        }
    }
    Ok(())
}

fn question(near: &Near, parts: &BTreeMap<PartitionId, Part>, partition: PartitionId, ask: Ask) -> Question {
    let tx = near.tx();
    let Part { reads, changes, .. } = parts[&partition].clone();
    let request = match ask {
        Ask::Write => Request::Write { tx, reads, changes },
        Ask::Prepare => {
            let (decider, participants) = (near.decider(), parts.keys().copied().collect());
            Request::Prepare { tx, decider, participants, reads, changes }
        }
        Ask::Decide { commit } => Request::Decide { tx, commit },
    };
    Question::Submit { partition, request }
}

fn heard(answer: Option<Answer>) -> Heard {
    match answer {
        Some(Answer::Prepared) => Heard::Prepared,
        Some(Answer::Decided { commit, generation, .. } | Answer::Ended { commit, generation, .. }) => {
            Heard::Decided { commit, generation }
        }
        Some(Answer::Unknown) => Heard::Unknown,
        Some(Answer::Denied(reason)) => Heard::Refused(reason),
        Some(_) | None => Heard::Silent,
    }
}

fn answer(outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Committed { generation } => Answer::Committed { generation },
        Outcome::Aborted { partition, reason } => Answer::Aborted { partition, reason },
        Outcome::Unknown => {
            reachable!(points::OUTCOME_UNKNOWN);
            Answer::OutcomeUnknown
        }
    }
}
