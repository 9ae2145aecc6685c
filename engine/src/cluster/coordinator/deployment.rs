//! Which workers there are, and what runs where: a pure machine.
//!
//! A worker is known by its name; what it runs is bound to its connection. When the connection breaks, a new one says
//! hello under the same name, or nothing is heard for too long, the worker is lost, and with it the attempt: the job
//! restarts as a whole from the latest completed checkpoint (one region, in Flink's words).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use cutwater_io::time::micros;

use super::connections::ConnectionId;
use crate::checkpoint::assign::{VertexKind, VertexPlan, key_group_range, restore_all};
use crate::checkpoint::snapshot::{CheckpointId, CheckpointMetadata};
use crate::cluster::rpc::{Attempt, JobPhase, Placement, TaskDeployment, TaskId};

/// A worker that said hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Worker {
    pub connection: ConnectionId,
    pub data_address: SocketAddr,
    pub slots: u16,
    pub last_heard_us: u64,
}

/// A deployment on its way or running.
#[derive(Clone, Debug)]
pub(super) struct Attempted {
    pub attempt: Attempt,
    pub parallelism: u16,
    /// The job is about to end with a savepoint: sources read nothing.
    pub stopping: bool,
    /// All tasks are to run by then.
    pub due_us: u64,
    /// Where each task runs.
    pub workers: BTreeMap<TaskId, ConnectionId>,
    pub running: BTreeSet<TaskId>,
    pub exhausted: BTreeSet<TaskId>,
    /// Of each sink, the newest checkpoint it has committed.
    pub committed: BTreeMap<TaskId, CheckpointId>,
}

/// What to send to one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub connection: ConnectionId,
    pub tasks: Vec<TaskDeployment>,
    pub placements: Vec<Placement>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    workers: BTreeMap<String, Worker>,
    current: Option<Attempted>,
}

impl Cluster {
    /// A worker says hello. True if it replaces one whose tasks are lost thereby.
    pub fn hello(&mut self, name: String, worker: Worker) -> bool {
        self.workers.retain(|other, known| *other == name || known.connection != worker.connection);
        let replaced = self.workers.insert(name, worker);
        replaced.is_some_and(|old| self.runs_on(old.connection))
    }

    /// Something was heard.
    pub fn heard(&mut self, connection: ConnectionId, now_us: u64) {
        for worker in self.workers.values_mut().filter(|worker| worker.connection == connection) {
            worker.last_heard_us = now_us;
        }
    }

    /// The connection is gone. True if it had tasks.
    pub fn lost(&mut self, connection: ConnectionId) -> bool {
        self.workers.retain(|_, worker| worker.connection != connection);
        self.runs_on(connection)
    }

    /// Workers that have been silent for too long.
    pub fn silent(&self, timeout: Duration, now_us: u64) -> Vec<ConnectionId> {
        let silent = |worker: &&Worker| worker.last_heard_us.saturating_add(micros(timeout)) <= now_us;
        self.workers.values().filter(silent).map(|worker| worker.connection).collect()
    }

    /// When the next worker will have been silent for too long.
    pub fn next_silence_us(&self, timeout: Duration) -> Option<u64> {
        self.workers.values().map(|worker| worker.last_heard_us.saturating_add(micros(timeout))).min()
    }

    /// All connections of workers.
    pub fn connections(&self) -> Vec<ConnectionId> {
        self.workers.values().map(|worker| worker.connection).collect()
    }

    /// Sum of the slots.
    pub fn slots(&self) -> u16 {
        self.workers.values().fold(0, |sum: u16, worker| sum.saturating_add(worker.slots))
    }

    /// The attempt is over.
    pub fn end_attempt(&mut self) -> Option<Attempted> {
        self.current.take()
    }

    /// The attempt, if there is one.
    pub fn current(&self) -> Option<&Attempted> {
        self.current.as_ref()
    }

    /// The attempt, if it is that one.
    pub fn current_mut(&mut self, attempt: Attempt) -> Option<&mut Attempted> {
        self.current.as_mut().filter(|current| current.attempt == attempt)
    }

    /// Places all tasks of a new attempt.
    ///
    /// # Panics
    /// If there are fewer slots than `parallelism`, or more than the key groups are asked for.
    #[expect(clippy::too_many_arguments, reason = "what a deployment is made of")]
    pub fn deploy(
        &mut self,
        attempt: Attempt,
        plan: &[VertexPlan],
        from: Option<&CheckpointMetadata>,
        parallelism: u16,
        max_parallelism: u16,
        due_us: u64,
        stopping: bool,
    ) -> Vec<Assignment> {
        let slots = self.spread(parallelism);
        let states = restore_all(plan, from, parallelism, max_parallelism);
        let mut by_worker: BTreeMap<ConnectionId, Vec<TaskDeployment>> = BTreeMap::new();
        let (mut placements, mut workers) = (Vec::new(), BTreeMap::new());
        for (vertex, (plan, states)) in (0u16..).zip(plan.iter().zip(states)) {
            let parallelism = plan.parallelism(parallelism);
            for ((subtask, restore), (connection, data_address)) in (0u16..).zip(states).zip(&slots) {
                let task = TaskId { vertex, subtask };
                let range = key_group_range(subtask, parallelism, max_parallelism);
                by_worker.entry(*connection).or_default().push(TaskDeployment {
                    task,
                    parallelism,
                    range,
                    restore,
                });
                placements.push(Placement { task, data_address: *data_address });
                workers.insert(task, *connection);
            }
        }
        self.current = Some(Attempted {
            attempt,
            parallelism,
            stopping,
            due_us,
            workers,
            running: BTreeSet::new(),
            exhausted: BTreeSet::new(),
            committed: BTreeMap::new(),
        });
        let assignment =
            |(connection, tasks)| Assignment { connection, tasks, placements: placements.clone() };
        by_worker.into_iter().map(assignment).collect()
    }

    /// Workers that are alive and do not start their tasks: what they wait for may never come.
    pub fn overdue(&self, now_us: u64) -> BTreeSet<ConnectionId> {
        let current = self.current.as_ref().filter(|current| now_us >= current.due_us);
        let waiting = current.into_iter().flat_map(|current| {
            current
                .workers
                .iter()
                .filter(|(task, _)| !current.running.contains(task))
                .map(|(_, worker)| *worker)
        });
        waiting.collect()
    }

    /// When a worker is overdue if nothing happens before.
    pub fn next_due_us(&self) -> Option<u64> {
        let current = self.current.as_ref()?;
        (current.running.len() < current.workers.len()).then_some(current.due_us)
    }

    fn runs_on(&self, connection: ConnectionId) -> bool {
        self.current.as_ref().is_some_and(|current| current.workers.values().any(|c| *c == connection))
    }

    /// `n` slots, taking one from each worker in turn.
    fn spread(&self, n: u16) -> Vec<(ConnectionId, SocketAddr)> {
        assert!(n <= self.slots(), "{n} of {} slots", self.slots());
        let mut slots = Vec::new();
        for round in 0..=n {
            let free = self.workers.values().filter(|worker| worker.slots > round);
            slots.extend(free.map(|worker| (worker.connection, worker.data_address)));
        }
        slots.truncate(usize::from(n));
        slots
    }
}

impl Attempted {
    /// True if every task has restored its state.
    pub fn all_run(&self) -> bool {
        self.running.len() == self.workers.len()
    }

    /// How far it is.
    pub fn phase(&self, plan: &[VertexPlan]) -> JobPhase {
        if !self.all_run() {
            JobPhase::Deploying
        } else if self.stopping || self.is_exhausted(plan) {
            JobPhase::Finishing
        } else {
            JobPhase::Running
        }
    }

    /// True if every source has read all there is to read.
    pub fn is_exhausted(&self, plan: &[VertexPlan]) -> bool {
        let source = |kind| matches!(kind, VertexKind::Source { .. });
        let mut sources = self.tasks_of(plan, source).peekable();
        sources.peek().is_some() && sources.all(|task| self.exhausted.contains(&task))
    }

    /// True if every sink has committed `checkpoint`.
    pub fn has_committed(&self, plan: &[VertexPlan], checkpoint: CheckpointId) -> bool {
        let mut sinks = self.tasks_of(plan, |kind| kind == VertexKind::Sink);
        sinks.all(|task| self.committed.get(&task).is_some_and(|newest| *newest >= checkpoint))
    }

    /// The workers that run a source.
    pub fn source_workers(&self, plan: &[VertexPlan]) -> BTreeSet<ConnectionId> {
        let sources = self.tasks_of(plan, |kind| matches!(kind, VertexKind::Source { .. }));
        sources.map(|task| self.workers[&task]).collect()
    }

    /// All its workers.
    pub fn all_workers(&self) -> BTreeSet<ConnectionId> {
        self.workers.values().copied().collect()
    }

    fn tasks_of<'a>(
        &'a self,
        plan: &'a [VertexPlan],
        is: impl Fn(VertexKind) -> bool + 'a,
    ) -> impl Iterator<Item = TaskId> + 'a {
        self.workers.keys().copied().filter(move |task| is(plan[usize::from(task.vertex)].kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Vec<VertexPlan> {
        let vertex = |uid: &str, kind, max| VertexPlan { uid: uid.into(), kind, max };
        vec![
            vertex("source", VertexKind::Source { partitions: 2 }, None),
            vertex("count", VertexKind::Keyed, None),
            vertex("sink", VertexKind::Sink, Some(1)),
        ]
    }

    fn worker(connection: u64, slots: u16) -> Worker {
        let data_address = ([127, 0, 0, 1], u16::try_from(connection).unwrap()).into();
        Worker { connection: ConnectionId(connection), data_address, slots, last_heard_us: 0 }
    }

    #[test]
    fn tasks_are_spread_over_all_workers_within_their_slots() {
        let mut cluster = Cluster::default();
        cluster.hello("a".into(), worker(1, 1));
        cluster.hello("b".into(), worker(2, 3));
        assert_eq!(cluster.slots(), 4);
        let attempt = Attempt { epoch: 1, number: 1 };
        let assignments = cluster.deploy(attempt, &plan(), None, 4, 8, 1000, false);
        let tasks = |c: u64| {
            let of = assignments.iter().find(|a| a.connection == ConnectionId(c)).unwrap();
            of.tasks.iter().map(|t| t.task.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(tasks(1), ["0/0", "1/0", "2/0"]);
        assert_eq!(tasks(2), ["0/1", "1/1", "1/2", "1/3"]);
        assert_eq!(assignments[0].placements.len(), 7);
        assert!(cluster.lost(ConnectionId(1)) && !cluster.lost(ConnectionId(9)));
    }

    #[test]
    fn a_worker_that_comes_back_has_lost_its_tasks() {
        let mut cluster = Cluster::default();
        cluster.hello("a".into(), worker(1, 2));
        cluster.deploy(Attempt { epoch: 1, number: 1 }, &plan(), None, 2, 8, 1000, false);
        assert!(cluster.hello("a".into(), worker(2, 2)));
        assert!(!cluster.hello("b".into(), worker(3, 2)));
        cluster.heard(ConnectionId(3), 50);
        assert_eq!(cluster.silent(Duration::from_micros(40), 60), [ConnectionId(2)]);
        assert_eq!(cluster.next_silence_us(Duration::from_micros(40)), Some(40));
    }
}
