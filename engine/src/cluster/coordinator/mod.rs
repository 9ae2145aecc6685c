//! A coordinator candidate: a process that leads the job or waits to.
//!
//! One task owns all state and takes in one event at a time; connections and calls to the object store run beside it and
//! report back as events. It never waits for any of them. What is decided is decided by pure machines
//! (`checkpoint::coordinator`, `checkpoint::log`, `cluster::leadership`, `deployment`); this is their edge.
//!
//! A leader that loses a change of the register steps down at once: it drops its connections and everything it knows, and
//! starts over as a candidate. Results of calls that it began before carry the term in which they were begun and are
//! ignored in a later one. A leader whose change of the register stays without an outcome for a lease stops answering pings,
//! so that a candidate with a better way to the store may take over.

mod connections;
mod deployment;
mod io;
mod leader;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cutwater_io::net::{Connection, Listener};
use cutwater_io::task::{self, AbortOnDrop};
use cutwater_io::time::micros;
use cutwater_io::{buggify, entropy, objects, reachable, sometimes, time};
use object_store::ObjectStore;
use tokio::sync::mpsc;

use super::leadership::{Leadership, Move, Observation};
use super::points;
use super::rpc::{FromCoordinator, JobSpec, ToCoordinator};
use crate::checkpoint::assign::VertexPlan;
use crate::checkpoint::coordinator::{CheckpointConfig, ID_BLOCK};
use crate::checkpoint::job_state::{Base, ClaimMode, JobState};
use crate::checkpoint::layout::{InvalidName, Layout};
use crate::checkpoint::log::{Outcome, Record};
use crate::checkpoint::metadata;
use crate::checkpoint::read::ReadError;
use connections::{ConnectionId, Connections};
use io::Fact;
use leader::Leader;

/// How many events may wait for the owner.
const QUEUE: usize = 1024;

/// What a coordinator candidate needs to know.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// Name of the process, for people.
    pub name: String,
    /// Where it accepts connections of workers, users and other candidates.
    pub bind: SocketAddr,
    /// What others connect to, if that is not `bind`.
    pub advertise: Option<SocketAddr>,
    /// The object store; see [`cutwater_io::objects::open`].
    pub objects_url: String,
    /// The job.
    pub job: JobSpec,
    /// Its vertices, in the order of the job graph.
    pub plan: Vec<VertexPlan>,
    /// Number of key groups; cannot change over the life of the job.
    pub max_parallelism: u16,
    /// Parallelism of a new job; later the register's counts.
    pub parallelism: u16,
    /// What a new job starts from; one that exists goes on from where it was.
    pub start_from: Option<StartFrom>,
    /// State of vertices that the job does not have any more may be left behind.
    pub allow_non_restored: bool,
    /// How often the job may be restarted without a checkpoint in between, before it has failed; `None` is for ever.
    pub restarts_max: Option<u32>,
    /// When checkpoints are taken.
    pub checkpoint: CheckpointConfig,
    /// How long a leader may be silent before a candidate takes over; a drawn half of it comes on top. At least four times
    /// [`ping_limit`](CoordinatorConfig::ping_limit).
    pub lease: Duration,
    /// How long a candidate waits for the answer of a leader: what connecting and a round trip take over the slowest link,
    /// at least. Candidates that wait for less depose each other for ever.
    pub ping_limit: Duration,
    /// How long a worker may be silent before it is given up.
    pub heartbeat_timeout: Duration,
    /// How long a deployment waits for more workers when there are fewer slots than wanted.
    pub slots_wait: Duration,
    /// From the loss of an attempt, or a failed restore, to the next deployment.
    pub restart_delay: Duration,
    /// A deployment whose tasks do not all run by then is given up, and with it the workers whose tasks do not.
    pub deploy_timeout: Duration,
    /// From one sweep for orphans to the next, at most; a sweep also follows each deployment.
    pub sweep_interval: Duration,
    /// How many of the newest versions of the register are kept, at least 2;
    /// [`KEEP_VERSIONS`](crate::checkpoint::log::KEEP_VERSIONS) is a good number.
    pub keep_versions: u64,
}

/// A checkpoint or savepoint that a job is started from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFrom {
    /// Its directory or its metadata object, in the object store.
    pub path: String,
    /// Whose it is from then on.
    pub claim: ClaimMode,
}

/// Why a coordinator cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The job's name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The object store.
    #[error(transparent)]
    Objects(#[from] objects::OpenError),
    /// The address.
    #[error("{address}: {source}")]
    Bind {
        /// Where it should have listened.
        address: SocketAddr,
        /// Why it cannot.
        source: std::io::Error,
    },
    /// The job exists with another number of key groups.
    #[error("job {job} has {found} key groups, configured are {configured}")]
    MaxParallelism {
        /// The job.
        job: String,
        /// In the register.
        found: u16,
        /// In the configuration.
        configured: u16,
    },
    /// The new job cannot start from what it was told to.
    #[error("job {job} cannot start: {source}")]
    Start {
        /// The job.
        job: String,
        /// Why.
        source: Box<ReadError>,
    },
    /// The lease is over before a slow leader was heard.
    #[error("configuration: lease is {lease:?} and must be at least four times ping_limit, {:?}", *ping_limit * 4)]
    ShortLease {
        /// As configured.
        lease: Duration,
        /// As configured.
        ping_limit: Duration,
    },
    /// The configuration contradicts itself.
    #[error("configuration: {0}")]
    Configuration(&'static str),
}

/// Something happened.
enum Event {
    Connected(ConnectionId, Connection),
    Message(ConnectionId, ToCoordinator),
    Closed(ConnectionId),
    /// A call begun in that term has a result.
    Done(u64, Fact),
}

/// What all parts of the process need.
struct Context {
    config: CoordinatorConfig,
    store: Arc<dyn ObjectStore>,
    layout: Layout,
    address: SocketAddr,
    events: mpsc::Sender<Event>,
}

impl Context {
    /// The job, as what wants to start from a checkpoint.
    fn fit(&self, allow_non_restored: bool) -> metadata::Job<'_> {
        metadata::Job {
            plan: &self.config.plan,
            max_parallelism: self.config.max_parallelism,
            allow_non_restored: allow_non_restored || self.config.allow_non_restored,
        }
    }
}

enum Role {
    /// Waits for the moment given, then looks at the register; or is looking.
    Candidate {
        leadership: Leadership,
        look_at_us: Option<u64>,
    },
    /// Looks at what the new job is to start from.
    Resolving,
    /// Has proposed itself.
    TakingOver {
        record: Record,
        _append: AbortOnDrop<()>,
    },
    Leader(Box<Leader>),
}

/// Runs a candidate until it is dropped.
///
/// # Errors
/// If it cannot listen, cannot open the store, or the job exists with another number of key groups. Failures of calls are
/// not errors: they are tried again.
pub async fn run(config: CoordinatorConfig) -> Result<(), Error> {
    check(&config)?;
    let layout = Layout::new(&config.job.name)?;
    let store = objects::open(&config.objects_url)?;
    let bind = config.bind;
    let listener = Listener::bind(bind).await.map_err(|source| Error::Bind { address: bind, source })?;
    let address = config.advertise.unwrap_or_else(|| listener.local_addr());
    let (events, queue) = mpsc::channel(QUEUE);
    let _accept = task::spawn(connections::accept(listener, events.clone())).abort_on_drop();
    let context = Arc::new(Context { config, store, layout, address, events });
    Process::new(context).run(queue).await
}

fn check(config: &CoordinatorConfig) -> Result<(), Error> {
    if config.parallelism == 0 || config.parallelism > config.max_parallelism {
        return Err(Error::Configuration("parallelism must be from 1 to max_parallelism"));
    }
    config.checkpoint.check().map_err(Error::Configuration)?;
    if config.keep_versions < 2 {
        return Err(Error::Configuration("keep_versions must be at least 2"));
    }
    let (lease, ping_limit) = (config.lease, config.ping_limit);
    if ping_limit.is_zero() {
        return Err(Error::Configuration("ping_limit must be more than 0"));
    }
    if lease / 4 < ping_limit {
        return Err(Error::ShortLease { lease, ping_limit });
    }
    if config.plan.is_empty() {
        return Err(Error::Configuration("the job has no vertices"));
    }
    Ok(())
}

fn now_us() -> u64 {
    time::now().as_micros()
}

struct Process {
    context: Arc<Context>,
    connections: Connections,
    role: Role,
    term: u64,
}

impl Process {
    fn new(context: Arc<Context>) -> Process {
        let role = candidate(&context);
        Process { context, connections: Connections::default(), role, term: 0 }
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Event>) -> Result<(), Error> {
        loop {
            // At least a millisecond: a deadline that was not dealt with must not become a loop. At most an hour, for timers.
            let wait = self.next_deadline_us().saturating_sub(now_us()).clamp(1_000, 3_600_000_000);
            match time::timeout(Duration::from_micros(wait), queue.recv()).await {
                Ok(Some(event)) => self.take(event)?,
                Ok(None) => unreachable!("the context holds a sender"),
                Err(time::Elapsed) => {}
            }
            self.proceed();
        }
    }

    fn next_deadline_us(&self) -> u64 {
        match &self.role {
            Role::Candidate { look_at_us, .. } => look_at_us.unwrap_or(u64::MAX / 2),
            Role::Resolving | Role::TakingOver { .. } => u64::MAX / 2,
            Role::Leader(leader) => leader.next_deadline_us(),
        }
    }

    fn proceed(&mut self) {
        match &mut self.role {
            Role::Candidate { leadership, look_at_us } if look_at_us.is_some_and(|at| at <= now_us()) => {
                *look_at_us = None;
                let known = leadership.leader();
                io::spawn(&self.context, self.term, io::observe(self.context.clone(), known));
            }
            Role::Leader(leader) => {
                if !leader.proceed(&mut self.connections) {
                    self.step_down();
                }
            }
            Role::Candidate { .. } | Role::Resolving | Role::TakingOver { .. } => {}
        }
    }

    fn take(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Connected(id, connection) => self.connections.add(id, connection, &self.context.events),
            Event::Message(id, message) => self.message(id, message),
            Event::Closed(id) => {
                self.connections.close(id);
                if let Role::Leader(leader) = &mut self.role {
                    leader.closed(id);
                }
            }
            Event::Done(term, fact) if term == self.term => self.fact(fact)?,
            Event::Done(..) => {}
        }
        Ok(())
    }

    fn message(&mut self, id: ConnectionId, message: ToCoordinator) {
        if let Role::Leader(leader) = &mut self.role {
            leader.message(id, message, &mut self.connections);
            return;
        }
        let leader = match &self.role {
            Role::Candidate { leadership, .. } => leadership.leader(),
            _ => None,
        };
        self.connections.send(id, &FromCoordinator::NotLeader { leader });
        self.connections.close(id);
    }

    fn fact(&mut self, fact: Fact) -> Result<(), Error> {
        match (&mut self.role, fact) {
            (Role::Candidate { .. }, Fact::Observed(observation)) => return self.observed(observation),
            (Role::Resolving, Fact::Resolved(resolved)) => return self.start_from(resolved),
            (Role::TakingOver { .. }, Fact::Appended(outcome)) => self.taken_over(outcome),
            (Role::Leader(leader), fact) => {
                let leads = leader.fact(fact, &mut self.connections);
                if !leads {
                    self.step_down();
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn observed(&mut self, observation: Observation) -> Result<(), Error> {
        let Role::Candidate { leadership, look_at_us } = &mut self.role else { return Ok(()) };
        let previous = match leadership.observe(observation, now_us()) {
            Move::Wait { us } => {
                *look_at_us = Some(now_us() + us);
                return Ok(());
            }
            Move::TakeOver { previous } => previous,
        };
        let config = &self.context.config;
        if let Some(found) = previous.as_ref().map(|r| r.state.max_parallelism)
            && found != config.max_parallelism
        {
            let (job, configured) = (config.job.name.clone(), config.max_parallelism);
            return Err(Error::MaxParallelism { job, found, configured });
        }
        if let (None, Some(StartFrom { path, claim })) = (&previous, &config.start_from) {
            let (context, path, claim) = (self.context.clone(), path.trim_matches('/').to_owned(), *claim);
            let allow = config.allow_non_restored;
            let resolve = async move { Fact::Resolved(io::resolve(&context, &path, claim, allow).await) };
            io::spawn(&self.context, self.term, resolve);
            self.role = Role::Resolving;
            return Ok(());
        }
        self.take_over(previous, Base::Newest);
        Ok(())
    }

    /// What a new job is to start from was looked at, before anything was changed.
    fn start_from(&mut self, resolved: io::Resolved) -> Result<(), Error> {
        match resolved {
            Ok(origin) => self.take_over(None, Base::Origin(Box::new(origin))),
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "what the job starts from cannot be read; trying again");
                self.step_down();
                if let Role::Candidate { look_at_us, .. } = &mut self.role {
                    *look_at_us = Some(now_us() + micros(self.context.config.restart_delay).max(1_000));
                }
            }
            Err(error) => {
                let job = self.context.config.job.name.clone();
                return Err(Error::Start { job, source: Box::new(error) });
            }
        }
        Ok(())
    }

    /// Proposes itself as the leader.
    fn take_over(&mut self, previous: Option<Record>, base: Base) {
        let config = &self.context.config;
        let state = JobState::taken_over(
            previous.as_ref().map(|record| &*record.state),
            self.context.address,
            ID_BLOCK,
            config.max_parallelism,
            config.parallelism,
            base,
        );
        let record = Record {
            version: previous.map_or(0, |record| record.version) + 1,
            writer: entropy::uuid("log.writer"),
            state: Box::new(state),
        };
        tracing::info!(name = config.name, epoch = record.state.epoch, "takes over");
        let append = io::take_over(self.context.clone(), record.clone());
        let append = io::spawn(&self.context, self.term, append).abort_on_drop();
        self.role = Role::TakingOver { record, _append: append };
    }

    fn taken_over(&mut self, outcome: Outcome) {
        let Role::TakingOver { record, .. } = &self.role else { return };
        if outcome != Outcome::Landed {
            self.step_down();
            return;
        }
        let record = record.clone();
        sometimes!(points::TOOK_OVER, record.state.epoch > 1);
        self.term += 1;
        self.role = Role::Leader(Box::new(Leader::new(self.context.clone(), self.term, record)));
    }

    /// Forgets everything and starts over.
    fn step_down(&mut self) {
        if let Role::Leader(leader) = &self.role {
            reachable!(points::DEPOSED);
            tracing::info!(name = self.context.config.name, epoch = leader.epoch(), "steps down");
        }
        self.term += 1;
        self.connections.close_all();
        self.role = candidate(&self.context);
    }
}

fn candidate(context: &Context) -> Role {
    let now = now_us();
    let jitter = entropy::u64("leadership.jitter");
    let mut lease = context.config.lease;
    // Impatience costs a restart of the job, never its state.
    if buggify!(points::IMPATIENT) {
        lease /= 8;
    }
    let leadership = Leadership::new(context.address, lease, jitter, now);
    Role::Candidate { leadership, look_at_us: Some(now) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::assign::VertexKind;
    use crate::checkpoint::barrier::Alignment;

    fn config(lease: Duration, ping_limit: Duration) -> CoordinatorConfig {
        let second = Duration::from_secs(1);
        CoordinatorConfig {
            name: "c".into(),
            bind: ([127, 0, 0, 1], 0).into(),
            advertise: None,
            objects_url: "memory:///".into(),
            job: JobSpec { name: "job".into(), query: "count".into(), parameters: Default::default() },
            plan: vec![VertexPlan { uid: "sink".into(), kind: VertexKind::Sink, max: None }],
            max_parallelism: 8,
            parallelism: 1,
            start_from: None,
            allow_non_restored: false,
            restarts_max: None,
            checkpoint: CheckpointConfig {
                interval: second,
                min_pause: second,
                timeout: second,
                tolerable_failures: 0,
                retained: 1,
                max_concurrent: 1,
                retention: Default::default(),
                changelog: None,
                alignment: Alignment::Aligned,
            },
            lease,
            ping_limit,
            heartbeat_timeout: second,
            slots_wait: second,
            restart_delay: second,
            deploy_timeout: second,
            sweep_interval: second,
            keep_versions: 2,
        }
    }

    #[test]
    fn a_lease_that_a_slow_leader_cannot_keep_is_refused_by_name() {
        let ms = Duration::from_millis;
        assert!(check(&config(ms(200), ms(50))).is_ok());
        let error = check(&config(ms(199), ms(50))).unwrap_err();
        let expected = "configuration: lease is 199ms and must be at least four times ping_limit, 200ms";
        assert_eq!(error.to_string(), expected);
        assert!(check(&config(ms(199), ms(0))).is_err());
    }

    #[test]
    fn checkpoints_that_overtake_are_refused_side_by_side() {
        let mut config = config(Duration::from_secs(1), Duration::from_millis(1));
        config.checkpoint.max_concurrent = 2;
        assert!(check(&config).is_ok());
        for alignment in [Alignment::Unaligned, Alignment::AlignedFor { timeout_us: 1 }] {
            config.checkpoint.alignment = alignment;
            assert!(check(&config).unwrap_err().to_string().contains("max_concurrent must be 1"));
        }
    }
}
