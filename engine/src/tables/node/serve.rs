//! What a node answers to questions.
//!
//! Questions to a partition go into the queue of its copy, in the order in which they came. All others are answered here.

use std::sync::Arc;

use cutwater_io::point;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::copy::CopyEvent;
use super::register::{Change, ChangeError};
use super::shared::Shared;
use super::{coordinate, points, route};
use crate::tables::cluster_state::{ClusterState, Kind, TableSpec};
use crate::tables::ids::PartitionId;
use crate::tables::partition::Request;
use crate::tables::reason::Reason;
use crate::tables::rpc::{Answer, Question};

/// Nothing if nobody knows what came of it.
pub(super) type Answering = BoxFuture<'static, Option<Answer>>;

/// Answers a question of another node, or of this one.
pub(super) fn answer(shared: &Arc<Shared>, question: Question) -> Answering {
    if let Some(partition) = question.partition() {
        return ask_copy(shared, partition, question);
    }
    let shared = shared.clone();
    match question {
        Question::Commit { tx, parts } => coordinate::commit(shared, tx, parts).map(Some).boxed(),
        Question::Topology => {
            let known = shared.known();
            let state = Box::new((*known.state).clone());
            futures::future::ready(Some(Answer::Topology { version: known.version, state })).boxed()
        }
        Question::CreateTable(spec) => create_table(shared, spec).boxed(),
        Question::DropTable { name } => {
            change(shared, Box::new(move |state| state.table_dropped(&name)), |_| Answer::Done).boxed()
        }
        Question::AnnounceCut => {
            let own = shared.own;
            let announced = |state: &ClusterState| Answer::Cut { cut: state.last_cut, fate: None };
            change(shared, Box::new(move |state| state.cut_announced(own)), announced).boxed()
        }
        Question::Fate { cut } => {
            let fate = shared.known().state.fate(cut);
            futures::future::ready(Some(Answer::Cut { cut, fate })).boxed()
        }
        Question::Report => report(shared).boxed(),
        Question::Log { partition, previous } => {
            let (reply, answer) = oneshot::channel();
            match shared.tell(partition, CopyEvent::Log { previous, reply }) {
                true => answer.map(Result::ok).boxed(),
                false => {
                    futures::future::ready(Some(Answer::Denied(Reason::PartitionUnknown(partition)))).boxed()
                }
            }
        }
        Question::Read { .. }
        | Question::Scan { .. }
        | Question::Submit { .. }
        | Question::Outcome { .. } => {
            unreachable!("questions of partitions were answered above")
        }
    }
}

/// Answers a question of a client: only what clients may ask. Who asks this node for a partition that it does not lead is told so.
pub(super) fn answer_client(shared: &Arc<Shared>, question: Question) -> Answering {
    let denied = |reason| futures::future::ready(Some(Answer::Denied(reason))).boxed();
    if !question.is_for_clients() {
        return denied(Reason::Malformed("only nodes ask that".into()));
    }
    if let Some(partition) = question.partition()
        && let Err(reason) = check_table(shared, partition, &question)
    {
        return denied(reason);
    }
    answer(shared, question)
}

fn check_table(shared: &Shared, partition: PartitionId, question: &Question) -> Result<(), Reason> {
    let state = shared.known().state;
    let table = state.tables.get(&partition.table).filter(|table| !table.hidden);
    let Some(table) = table.filter(|table| usize::from(partition.number) < table.views.len()) else {
        // It may be too new for this node to know of it.
        shared.refresh();
        let is_new = partition.table >= state.next_table;
        return Err(if is_new { Reason::NotPrimary(partition) } else { Reason::PartitionUnknown(partition) });
    };
    let Question::Submit { request: Request::Write { reads, changes, .. }, .. } = question else {
        return Ok(());
    };
    let is_of_one_key = changes.len() <= 1
        && reads.len() <= 1
        && reads.iter().all(|r| changes.iter().all(|c| c.key == r.key));
    if table.kind == Kind::Atomic && !is_of_one_key {
        let (table, is) = (table.name.clone(), "atomic".into());
        return Err(Reason::WrongKind { table, is, what: "operations on several keys".into() });
    }
    Ok(())
}

fn ask_copy(shared: &Arc<Shared>, partition: PartitionId, question: Question) -> Answering {
    let (reply, answer) = oneshot::channel();
    if !shared.tell(partition, CopyEvent::Ask { question, reply }) {
        shared.refresh();
        return futures::future::ready(Some(Answer::Denied(Reason::NotPrimary(partition)))).boxed();
    }
    // A copy that ends without an answer leaves it open what it has done.
    answer.map(Result::ok).boxed()
}

async fn create_table(shared: Arc<Shared>, spec: TableSpec) -> Option<Answer> {
    let alive = shared.alive();
    change(shared, Box::new(move |state| state.table_created(&spec, false, &alive)), |_| Answer::Done).await
}

async fn change(
    shared: Arc<Shared>,
    change: Change,
    done: impl Fn(&ClusterState) -> Answer,
) -> Option<Answer> {
    match shared.change(change).await {
        Ok(known) => {
            point!(points::CLUSTER_CHANGED);
            Some(done(&known.state))
        }
        Err(ChangeError::Refused(refused)) => Some(Answer::Denied(Reason::Cluster(refused.to_string()))),
        Err(ChangeError::Unknown) => Some(Answer::OutcomeUnknown),
    }
}

async fn report(shared: Arc<Shared>) -> Option<Answer> {
    let mut reports = Vec::new();
    for partition in shared.copies() {
        let (reply, report) = oneshot::channel();
        if shared.tell(partition, CopyEvent::Report(reply))
            && let Ok(report) = report.await
        {
            reports.push(report);
        }
    }
    Some(Answer::Report(reports))
}

/// What a partition's primary says to a question of a copy here, once.
pub(super) async fn ask_once(
    shared: &Arc<Shared>,
    partition: PartitionId,
    question: Question,
) -> Option<Answer> {
    match route::once(shared, partition, question).await {
        route::Once::Answered(answer) => Some(answer),
        route::Once::NotAsked | route::Once::Silent => None,
    }
}
