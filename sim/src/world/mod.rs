//! The world of one run: nodes, clients, time, and the two phases.
//!
//! **Safety**: everything the plan breaks is broken. **Liveness**: after [`World::heal`] nothing breaks any more, and within
//! a bounded virtual time ([`World::within`]) the system must get where it ought to be.
//!
//! Nodes are numbered from 1 in the order of their creation: first those of the vocabulary's roles, in its order, then
//! clients. Node `n<k>` has the address `10.0.0.k`. Faults strike nodes of roles only; clients live outside of the system.
//! A node whose process dies, or whose `init` returns, is started again by the supervisor.
//!
//! *Not modelled*: nodes that join later.

mod ops;
mod supervisor;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cutwater_io::sim::{CrashKind, Env, Key, NodeId, Told};
use futures::channel::{mpsc, oneshot};
use futures::future::LocalBoxFuture;
use madsim::runtime::Handle;

pub use ops::Ops;

use crate::census::Census;
use crate::evidence::Evidence;
use crate::faults::deliver::{self, Devices};
use crate::faults::injector::{Order, PlanInjector, Shared};
use crate::faults::{FaultClass, Receipts};
use crate::plan::{Act, Fault, Op, Plan};
use crate::scenario::Violation;
use crate::search::coverage::{Coverage, Gather, Matrix};
use crate::vocabulary::Vocabulary;

/// The world of one run. Clones are the same world.
#[derive(Clone)]
pub struct World {
    inner: Arc<Inner>,
}

struct Inner {
    plan: Plan,
    vocabulary: Vocabulary,
    env: Arc<Env>,
    handle: Handle,
    /// Size of the disks.
    disk_bytes: Option<u64>,
    clock_offset_us_max: u64,
    faults: Shared,
    orders: mpsc::UnboundedSender<Order>,
    op_faults: BTreeMap<u32, Vec<Fault>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Role and index of each node, or the name of a client.
    labels: BTreeMap<NodeId, String>,
    /// How often each node was started.
    starts: BTreeMap<NodeId, u64>,
    /// Died as this incarnation, and not yet started again.
    down: BTreeMap<NodeId, u64>,
    /// What each node died of the last time.
    died_of: BTreeMap<NodeId, CrashKind>,
    /// How often each node's process ended by itself.
    exits: BTreeMap<NodeId, u64>,
    /// How many pauses hold a life of a node.
    paused: BTreeMap<(NodeId, u64), u32>,
    /// States that are switched on.
    active: BTreeMap<u64, Active>,
    next_active: u64,
    violation: Option<Violation>,
}

/// A state that is switched on.
struct Active {
    act: Act,
    class: FaultClass,
    until_us: u64,
    /// What [`deliver::bites`] said before.
    before: Option<u64>,
}

/// What a node is told when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its number.
    pub node: NodeId,
    /// Which of its role it is, from 0.
    pub index: u64,
    /// The how many-th start it is, from 1.
    pub nth: u64,
    /// What the process before this one died of; `None` for the first. One that ended by itself counts as killed.
    pub died_of: Option<CrashKind>,
}

impl World {
    /// Sets up the world of `plan`. To be called inside the runtime, once, before any node is created.
    pub(crate) fn new(
        plan: Plan,
        vocabulary: Vocabulary,
        devices: Devices,
        classify: fn(&Path) -> &'static str,
        record: bool,
        census: Option<Census>,
    ) -> World {
        let is_census = census.is_some();
        let faults = Shared::new(&plan, census);
        if record {
            faults.watch(&plan);
        }
        let (orders, received) = mpsc::unbounded();
        let nodes = plan.node_count(&vocabulary);
        let injector = PlanInjector::new(&plan, nodes, faults.clone(), orders.clone());
        let key = Key::root(plan.key);
        let disk_bytes = devices.disk.capacity_bytes;
        let clock_offset_us_max = devices.clock_offset_us_max;
        let env = Env::install(devices.config(key, record, classify, Box::new(injector)));
        if is_census {
            env.owed().keep();
        }
        env.arm(plan.buggify.iter().cloned());
        let armed = plan.buggify.join(" ");
        env.emit(NodeId(0), "buggify.armed", armed.as_bytes(), || armed.clone());
        let mut op_faults: BTreeMap<u32, Vec<Fault>> = BTreeMap::new();
        for fault in &plan.faults {
            if let crate::plan::Anchor::Op { op } = fault.at {
                op_faults.entry(op).or_default().push(fault.clone());
            }
        }
        let world = World {
            inner: Arc::new(Inner {
                plan,
                vocabulary,
                env,
                handle: Handle::current(),
                disk_bytes,
                clock_offset_us_max,
                faults,
                orders,
                op_faults,
                state: Mutex::default(),
            }),
        };
        world.supervise(received);
        world
    }

    /// The plan that is run.
    pub fn plan(&self) -> &Plan {
        &self.inner.plan
    }

    /// The simulated devices, the counters and the trace.
    pub fn env(&self) -> &Arc<Env> {
        &self.inner.env
    }

    /// Root of the scenario's own draws, apart from those of the devices.
    pub fn key(&self) -> Key {
        Key::root(self.inner.plan.key).child("scenario", &[])
    }

    /// The value of a setting.
    ///
    /// # Panics
    /// If the vocabulary has no such knob.
    pub fn knob(&self, name: &str) -> u64 {
        let Some(knob) = self.inner.vocabulary.knob(name) else {
            panic!("the vocabulary has no knob {name}")
        };
        self.inner.plan.knobs.get(name).copied().unwrap_or(knob.default)
    }

    /// How many nodes of a role there are.
    ///
    /// # Panics
    /// If the vocabulary has no such role.
    pub fn count(&self, role: &str) -> u64 {
        let Some(role) = self.inner.vocabulary.role(role) else {
            panic!("the vocabulary has no role {role}")
        };
        self.inner.plan.count(role)
    }

    /// The number that node `index` of `role` has, whether or not it was created yet.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn node_id(&self, role: &str, index: u64) -> NodeId {
        assert!(index < self.count(role), "there is no {role}-{index}");
        let before: u64 = self
            .inner
            .vocabulary
            .roles
            .iter()
            .take_while(|r| r.name != role)
            .map(|r| self.inner.plan.count(r))
            .sum();
        NodeId(before + index + 1)
    }

    /// Where node `node` listens on `port`.
    pub fn address(&self, node: NodeId, port: u16) -> SocketAddr {
        SocketAddr::new(ip(node), port)
    }

    /// Creates node `index` of `role` and starts it. `init` is run again after each crash; when it returns, the process has
    /// ended, and is started again after a while.
    ///
    /// # Panics
    /// If nodes are not created in the order of the vocabulary's roles, each role from index 0.
    pub fn node<F, Fut>(&self, role: &str, index: u64, init: F) -> NodeId
    where
        F: Fn(Start) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let node = self.node_id(role, index);
        let init: Init = Arc::new(move |start| Box::pin(init(start)));
        let world = self.clone();
        let task = move || {
            let (world, init) = (world.clone(), init.clone());
            // What is outside of this block runs under a lock of madsim.
            async move {
                let start = world.started(node, index);
                init(start).await;
                world.exited(node).await;
            }
        };
        self.create(node, format!("{role}-{index}"), |builder| builder.init(task));
        deliver::set_clock(&self.inner.env, node, self.inner.clock_offset_us_max);
        node
    }

    /// Runs `future` as a client named `name`, on a node of its own that no fault strikes. The result comes with the
    /// returned future; the client runs whether or not that is polled.
    ///
    /// # Panics
    /// If nodes of roles are missing yet; clients come after them.
    pub fn client<T: Send + 'static>(
        &self,
        name: &str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> LocalBoxFuture<'static, T> {
        let roles = self.inner.plan.node_count(&self.inner.vocabulary);
        let created = self.state().labels.len() as u64;
        assert!(
            created >= roles,
            "clients are created after the {roles} nodes of roles; there are {created}"
        );
        let (tell, told) = oneshot::channel();
        let handle = self.create(NodeId(created + 1), name.into(), |builder| builder);
        handle.spawn(async move {
            // Nobody may be interested in the result.
            let _ = tell.send(future.await);
        });
        Box::pin(async move { told.await.expect("a client ends only with the run") })
    }

    fn create<'a>(
        &'a self,
        node: NodeId,
        label: String,
        with: impl FnOnce(madsim::runtime::NodeBuilder<'a>) -> madsim::runtime::NodeBuilder<'a>,
    ) -> madsim::runtime::NodeHandle {
        assert!(node.0 <= 250, "the simulated network has 250 addresses");
        let builder = self.inner.handle.create_node().name(node.to_string()).ip(ip(node));
        let handle = with(builder).build();
        assert!(
            handle.id().to_string() == node.0.to_string(),
            "{label} was created out of the order of the roles"
        );
        deliver::register(&self.inner.env, node, ip(node));
        self.inner.env.emit(node, "node.create", label.as_bytes(), || label.clone());
        self.state().labels.insert(node, label);
        handle
    }

    /// Client operations of `actor`, each at its time.
    pub fn ops(&self, actor: u16) -> Ops {
        Ops::new(self.clone(), actor)
    }

    /// The clients that the plan has operations for.
    pub fn actors(&self) -> Vec<u16> {
        let mut actors: Vec<u16> = self.inner.plan.ops.iter().map(|op| op.actor).collect();
        actors.sort_unstable();
        actors.dedup();
        actors
    }

    /// Waits for the end of the plan's horizon.
    pub async fn until_horizon(&self) {
        loop {
            // A branch of a census has a horizon of its own.
            let horizon_us = self.inner.faults.cut_us().unwrap_or(self.inner.plan.horizon_us);
            if self.now_us() < horizon_us {
                let moved = std::pin::pin!(self.inner.faults.next_cut());
                let reached = std::pin::pin!(self.until(horizon_us));
                futures::future::select(moved, reached).await;
            } else if !self.is_branch_from_here() {
                return;
            }
        }
    }

    /// Waits until this many microseconds after the start.
    pub async fn until(&self, at_us: u64) {
        let left = at_us.saturating_sub(self.now_us());
        if left > 0 {
            madsim::time::sleep(Duration::from_micros(left)).await;
        }
    }

    /// Virtual time since the start, in microseconds.
    pub fn now_us(&self) -> u64 {
        self.inner.env.now_ns() / 1000
    }

    /// The process of `node` has recovered from whatever it died of: what it does from here on is ordinary work. A census
    /// looks for crashes inside of recoveries up to here.
    pub fn recovered(&self, node: NodeId) {
        self.inner.faults.census(|census| census.recovered(node));
    }

    /// How often the process of `node` has ended by itself (its `init` returned).
    pub fn exits(&self, node: NodeId) -> u64 {
        self.state().exits.get(&node).copied().unwrap_or(0)
    }

    /// Gives `future` this much virtual time.
    ///
    /// # Errors
    /// A violation of `liveness` named `property` if it takes longer.
    pub async fn within<T>(
        &self,
        limit: Duration,
        property: &str,
        future: impl Future<Output = T>,
    ) -> Result<T, Violation> {
        madsim::time::timeout(limit, future).await.map_err(|_| {
            Violation::new("liveness", property)
                .expected(format!("it within {limit:?}"))
                .found(format!("it had not come by {} us", self.now_us()))
        })
    }

    /// Reports a violation from anywhere in the run; the first one stands, whatever the scenario returns.
    pub fn object(&self, violation: Violation) {
        self.note("oracle", &violation.to_string());
        self.state().violation.get_or_insert(violation);
    }

    /// Reports the first `never!` that held, unless an oracle has objected, which knows more of it.
    pub(crate) fn object_to_broken(&self) {
        if let (Some(point), None) = (self.inner.env.broken(), self.violation()) {
            let violation = Violation::new("points", &format!("never: {}", point.about));
            self.object(violation.of(point.name).expected("it never to hold").found("it held"));
        }
    }

    /// Adds a line to the story.
    pub fn note(&self, kind: &str, text: &str) {
        self.note_with(kind, text, |told| told);
    }

    /// Adds a line to the story, with facts for what draws it.
    pub(crate) fn note_with(&self, kind: &str, text: &str, facts: impl FnOnce(Told) -> Told) {
        self.note_in_words(kind, text, || facts(Told::from(text.to_string())));
    }

    /// Adds a line to the story that says what happened in words; the digest has it as a `value`.
    pub(crate) fn note_in_words(&self, kind: &str, value: &str, told: impl FnOnce() -> Told) {
        self.inner.env.emit(Env::node(), kind, value.as_bytes(), told);
    }

    /// Adds to the story what the client of `op` was told in the end.
    pub fn answered(&self, op: &Op, answer: &str) {
        let text = format!("#{} client {}: {answer}", op.id, op.actor);
        self.note_with("op.answer", &text, |told| told.with("op", u64::from(op.id)).with("answer", answer));
    }

    pub(crate) fn violation(&self) -> Option<Violation> {
        self.state().violation.clone()
    }

    /// How many faults of a class have struck so far.
    pub fn delivered(&self, class: FaultClass) -> u64 {
        self.inner.faults.receipts().get(&class).map_or(0, |receipt| receipt.delivered)
    }

    /// From `after_ns` on no fault strikes any more, and everything is drawn anew.
    pub(crate) fn redraw(&self, after_ns: u64, variant: u64) {
        self.inner.faults.over_from(after_ns.div_ceil(1000));
        self.inner.env.redraw(after_ns, variant);
    }

    pub(crate) fn evidence(&self) -> Evidence {
        let (struck, near) = self.inner.faults.evidence();
        let power_failures = self.inner.env.disks().power_failures().into_iter().map(Into::into).collect();
        Evidence { struck, near, power_failures }
    }

    /// The faults of the plan that have not struck, by their ids.
    pub(crate) fn never_struck(&self) -> Vec<u32> {
        let struck: BTreeSet<u32> =
            self.inner.faults.evidence().0.iter().map(|struck| struck.fault).collect();
        self.inner.plan.faults.iter().map(|fault| fault.id).filter(|id| !struck.contains(id)).collect()
    }

    pub(crate) fn end_census(&self) -> Option<Census> {
        self.inner.faults.end_census()
    }

    pub(crate) fn receipts(&self) -> Receipts {
        self.inner.faults.receipts()
    }

    pub(crate) fn matrix(&self) -> Matrix {
        self.inner.faults.reached(Gather::matrix)
    }

    pub(crate) fn coverage(&self) -> Coverage {
        let sometimes = self.inner.env.sometimes_seen();
        self.inner.faults.reached(|reached| reached.coverage(&sometimes))
    }

    pub(crate) fn labels(&self) -> BTreeMap<u64, String> {
        self.state().labels.iter().map(|(node, label)| (node.0, label.clone())).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

type Init = Arc<dyn Fn(Start) -> LocalBoxFuture<'static, ()> + Send + Sync>;

fn ip(node: NodeId) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(node.0).unwrap_or(u8::MAX)))
}
