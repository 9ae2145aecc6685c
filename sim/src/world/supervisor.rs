//! What the harness does beside the scenario: starts dead nodes again, delivers faults that are not answers to a call,
//! heals, ends the run.

use std::time::Duration;

use cutwater_io::sim::{Crash, CrashKind, Key, NodeId, Told};
use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use madsim::task::spawn_local;
use madsim::time::sleep;

use super::{Active, Start, World};
use crate::evidence::Struck;
use crate::faults::FaultClass;
use crate::faults::deliver;
use crate::faults::injector::Order;
use crate::plan::{Act, Anchor};
use crate::told::words;

/// How long the operating system waits before it starts a process again that ended by itself, in microseconds.
const RESTART_AFTER_EXIT_US: u32 = 50_000;

impl World {
    pub(super) fn supervise(&self, mut orders: UnboundedReceiver<Order>) {
        let world = self.clone();
        spawn_local(async move {
            loop {
                let (node, crash) = world.inner.env.next_crash().await;
                world.restart_later(node, crash);
            }
        });
        let world = self.clone();
        spawn_local(async move {
            while let Some(order) = orders.next().await {
                spawn_local(world.clone().deliver(order));
            }
        });
        for fault in &self.inner.plan.faults {
            if let Anchor::Time { at_us } = fault.at {
                let order = Order { fault: fault.clone(), passed_by: NodeId(0) };
                let world = self.clone();
                spawn_local(async move {
                    world.until(at_us).await;
                    world.deliver(order).await;
                });
            }
        }
    }

    fn restart_later(&self, node: NodeId, crash: Crash) {
        let incarnation = self.inner.env.incarnation(node);
        {
            let mut state = self.state();
            state.down.insert(node, incarnation);
            state.died_of.insert(node, crash.kind.clone());
        }
        let world = self.clone();
        spawn_local(async move {
            sleep(Duration::from_micros(crash.down_us.into())).await;
            world.restart(node, incarnation);
        });
    }

    /// Starts `node` again, unless somebody has done so since it died as this incarnation.
    fn restart(&self, node: NodeId, incarnation: u64) {
        {
            let mut state = self.state();
            if state.down.get(&node) != Some(&incarnation) {
                return;
            }
            state.down.remove(&node);
        }
        deliver::started(&self.inner.env, node);
        self.inner.handle.restart(node.to_string());
        self.inner.faults.acts(node);
    }

    /// A node's process starts.
    pub(super) fn started(&self, node: NodeId, index: u64) -> Start {
        let (nth, died_of) = {
            let mut state = self.state();
            let died_of = state.died_of.get(&node).cloned();
            let nth = state.starts.entry(node).or_default();
            *nth += 1;
            (*nth, died_of)
        };
        self.inner.faults.started(node);
        self.inner.env.emit(node, "node.start", &nth.to_le_bytes(), || format!("start {nth}"));
        Start { node, index, nth, died_of }
    }

    /// A node's process ends by itself; never returns.
    pub(super) async fn exited(&self, node: NodeId) {
        *self.state().exits.entry(node).or_default() += 1;
        self.inner.env.emit(node, "node.exit", &[], || "the process ended by itself".to_string());
        self.inner
            .env
            .crash_here(Crash { kind: CrashKind::ProcessKill, down_us: RESTART_AFTER_EXIT_US })
            .await;
    }

    async fn deliver(self, order: Order) {
        if self.inner.faults.is_over(self.now_us()) {
            return;
        }
        let (id, class) = (order.fault.id, order.fault.class());
        let node = match target(&order.fault.act) {
            Some(0) | None => order.passed_by,
            Some(node) => NodeId(node),
        };
        let act = resolve(order.fault.act.clone(), order.passed_by);
        let strikes = || self.inner.faults.strikes(&order.fault, Struck::new(id, node, self.now_us()));
        let alive = node.0 != 0 && !self.inner.handle.is_exit(node.to_string());
        match &act {
            Act::Crash { crash, .. } if alive => {
                self.inner.faults.delivered(class, node);
                strikes();
                self.inner.env.crash(node, crash.clone());
            }
            Act::Pause { for_us, .. } if alive => {
                self.inner.faults.delivered(class, node);
                strikes();
                self.fault("fault.on", id, class, &act);
                self.pause(node, *for_us).await;
                self.fault("fault.off", id, class, &act);
            }
            // A dead node can neither die nor pause.
            Act::Crash { .. } | Act::Pause { .. } => {}
            _ if !deliver::applies(&act) => {}
            _ => {
                strikes();
                self.switch(id, class, act).await;
            }
        }
    }

    /// Tells that a state is switched on or off.
    fn fault(&self, kind: &str, id: u32, class: FaultClass, act: &Act) {
        self.note_in_words(kind, &format!("{act:?}"), || {
            Told::from(words::act(act))
                .with("fault", u64::from(id))
                .with("class", class.name())
                .with("nodes", concerned(act).iter().map(ToString::to_string).collect::<Vec<_>>())
                .with("for_us", act.duration_us())
        });
    }

    /// Stops the process of `node` for a while. Of several pauses the last one to end lets it go on.
    async fn pause(&self, node: NodeId, for_us: u64) {
        let life = (node, self.inner.env.incarnation(node));
        *self.state().paused.entry(life).or_default() += 1;
        self.inner.handle.pause(node.to_string());
        sleep(Duration::from_micros(for_us)).await;
        let last = {
            let mut state = self.state();
            let pauses = state.paused.get_mut(&life);
            let last = pauses.map(|pauses| {
                *pauses -= 1;
                *pauses == 0
            });
            if last == Some(true) {
                state.paused.remove(&life);
            }
            last
        };
        // A process that was started meanwhile has pauses of its own, and a healed world has none.
        if last == Some(true) && self.inner.env.incarnation(node) == life.1 {
            self.inner.handle.resume(node.to_string());
        }
    }

    /// Cuts nodes off in the first half of the time, and lets them back in the second, each at a moment of its own.
    async fn swizzle(&self, fault: u32, nodes: &[u64], for_us: u64) {
        let key = Key::root(self.inner.plan.key).child("swizzle", &[fault.into()]);
        let (half_us, begun_us) = (for_us / 2, self.now_us());
        let mut off_us: Vec<u64> =
            (0..).zip(nodes).map(|(i, _)| key.draw("off", &[i]).between(0, half_us)).collect();
        off_us.sort_unstable();
        let mut steps: Vec<(u64, u64, bool)> =
            nodes.iter().zip(off_us).map(|(node, at_us)| (at_us, *node, true)).collect();
        steps.extend(
            nodes.iter().map(|&node| (half_us + key.draw("on", &[node]).between(0, half_us), node, false)),
        );
        // Of one moment: off before on.
        steps.sort_by_key(|(at_us, _, off)| (*at_us, !off));
        for (at_us, node, off) in steps {
            self.until(begun_us + at_us).await;
            if self.inner.faults.is_over(self.now_us()) {
                return;
            }
            self.note("fault.swizzle", &format!("{} {}", NodeId(node), if off { "off" } else { "on" }));
            deliver::clog(&self.inner.env, NodeId(node), off);
        }
        self.until(begun_us + for_us).await;
    }

    /// Switches a state on, and off after its time.
    async fn switch(&self, id: u32, class: FaultClass, act: Act) {
        let env = &self.inner.env;
        let for_us = act.duration_us();
        let before = deliver::bites(env, &act);
        let struck = self.struck_by(&act);
        self.fault("fault.on", id, class, &act);
        if for_us == 0 {
            deliver::switch_on(env, &act, 0);
            match (before, target(&act)) {
                // Of damage the disk tells whether there is any.
                _ if matches!(act, Act::Rot { .. }) => {}
                (None, Some(node)) => self.inner.faults.delivered(class, NodeId(node)),
                // A reset without a connection is none.
                _ if deliver::bites(env, &act) > before => {
                    self.inner.faults.switched_on(class, &struck);
                    self.inner.faults.observed(class);
                }
                _ => {}
            }
            return;
        }
        match target(&act) {
            Some(node) if before.is_none() => self.inner.faults.delivered(class, NodeId(node)),
            _ => self.inner.faults.switched_on(class, &struck),
        }
        let number = {
            let mut state = self.state();
            state.next_active += 1;
            let number = state.next_active;
            let until_us = self.now_us() + for_us;
            state.active.insert(number, Active { act: act.clone(), class, until_us, before });
            number
        };
        self.switch_on_active();
        match &act {
            Act::Swizzle { nodes, .. } => self.swizzle(id, nodes, for_us).await,
            _ => sleep(Duration::from_micros(for_us)).await,
        }
        let Some(active) = self.state().active.remove(&number) else { return };
        self.settle(&active);
        self.fault("fault.off", id, class, &active.act);
        deliver::switch_off(env, &active.act, self.inner.disk_bytes);
        // What overlaps with it goes on.
        self.switch_on_active();
    }

    /// The nodes that a state strikes; what everybody shares strikes every node of a role.
    fn struck_by(&self, act: &Act) -> Vec<NodeId> {
        let nodes: Vec<u64> = match act {
            Act::Partition { from, to, .. } => from.iter().chain(to).copied().collect(),
            Act::Stall { a, b, .. } | Act::Reset { a, b } => vec![*a, *b],
            _ => match target(act) {
                Some(node) => vec![node],
                None => (1..=self.inner.plan.node_count(&self.inner.vocabulary)).collect(),
            },
        };
        nodes.into_iter().map(NodeId).collect()
    }

    /// Switches on whatever is active; of two on the same device the one that lasts longer has the last word.
    fn switch_on_active(&self) {
        let mut active: Vec<(u64, Act)> =
            self.state().active.values().map(|active| (active.until_us, active.act.clone())).collect();
        active.sort_by_key(|(until_us, _)| *until_us);
        for (until_us, act) in &active {
            deliver::switch_on(&self.inner.env, act, *until_us);
        }
    }

    /// Writes the receipt of a state that ends.
    fn settle(&self, active: &Active) {
        if active.before.is_some() && deliver::bites(&self.inner.env, &active.act) > active.before {
            self.inner.faults.observed(active.class);
        }
    }

    /// The last boundary of a census: the horizon. True if from here on this is a branch, in which a node has just died.
    pub(super) fn is_branch_from_here(&self) -> bool {
        if self.inner.faults.census(|census| census.is_golden()) != Some(true) {
            return false;
        }
        let at_us = self.inner.plan.horizon_us;
        (1..=self.inner.plan.node_count(&self.inner.vocabulary)).map(NodeId).any(|node| {
            let created = self.state().labels.contains_key(&node);
            let alive = created && !self.inner.handle.is_exit(node.to_string());
            let boundary = || self.inner.faults.boundary(node, || Anchor::Time { at_us }, at_us);
            let crash = alive.then(boundary).flatten();
            crash.map(|crash| self.inner.env.crash(node, crash)).is_some()
        })
    }

    /// Ends the safety phase: no fault strikes any more, partitions are healed, disks and the object store work, and all
    /// nodes have been started.
    pub async fn heal(&self) {
        self.note("heal", "no faults from here on");
        self.inner.faults.heal();
        self.state().paused.clear();
        let active = std::mem::take(&mut self.state().active);
        active.values().for_each(|active| self.settle(active));
        let nodes: Vec<NodeId> = self.state().labels.keys().copied().collect();
        deliver::heal(&self.inner.env, &nodes, self.inner.disk_bytes);
        for node in &nodes {
            self.inner.handle.resume(node.to_string());
        }
        // The supervisor hears of the last crashes.
        sleep(Duration::from_millis(1)).await;
        let down: Vec<(NodeId, u64)> = self.state().down.iter().map(|(n, i)| (*n, *i)).collect();
        for (node, incarnation) in down {
            self.restart(node, incarnation);
        }
    }

    /// Ends the run: kills every node, and lets what they held be dropped.
    pub(crate) async fn end(&self) {
        self.inner.faults.heal();
        let nodes: Vec<NodeId> = self.state().labels.keys().copied().collect();
        for node in nodes {
            self.inner.handle.kill(node.to_string());
        }
        sleep(Duration::from_millis(1)).await;
        self.note("end", "");
    }
}

/// The one node that `act` names, if it names one.
fn target(act: &Act) -> Option<u64> {
    match act {
        Act::Crash { node, .. }
        | Act::Pause { node, .. }
        | Act::DiskFull { node, .. }
        | Act::DiskStall { node, .. }
        | Act::DiskSlow { node, .. }
        | Act::Rot { node, .. }
        | Act::SlowNode { node, .. }
        | Act::ClockDrift { node, .. }
        | Act::ClockJump { node, .. }
        | Act::ExpireCredentials { node, .. }
        | Act::IsolateFromStore { node, .. } => Some(*node),
        _ => None,
    }
}

/// The nodes that `act` is about; none if it is about all.
fn concerned(act: &Act) -> Vec<NodeId> {
    match act {
        Act::Partition { from, to, .. } => from.iter().chain(to).copied().map(NodeId).collect(),
        Act::Stall { a, b, .. } | Act::Reset { a, b } => vec![NodeId(*a), NodeId(*b)],
        _ => target(act).map(NodeId).into_iter().collect(),
    }
}

/// `act` with the node that passed in the place of node 0.
fn resolve(mut act: Act, passed_by: NodeId) -> Act {
    let put = |node: &mut u64| {
        if *node == 0 {
            *node = passed_by.0;
        }
    };
    match &mut act {
        Act::Crash { node, .. }
        | Act::Pause { node, .. }
        | Act::DiskFull { node, .. }
        | Act::DiskStall { node, .. }
        | Act::DiskSlow { node, .. }
        | Act::Rot { node, .. }
        | Act::SlowNode { node, .. }
        | Act::ClockDrift { node, .. }
        | Act::ClockJump { node, .. }
        | Act::ExpireCredentials { node, .. }
        | Act::IsolateFromStore { node, .. } => put(node),
        Act::Partition { from, to, .. } => from.iter_mut().chain(to).for_each(put),
        Act::Swizzle { nodes, .. } => nodes.iter_mut().for_each(put),
        Act::Stall { a, b, .. }
        | Act::Reset { a, b }
        | Act::SlowLink { a, b, .. }
        | Act::HalfOpen { believes: a, forgets: b } => {
            put(a);
            put(b);
        }
        Act::Site(_) | Act::Delay { .. } | Act::Outage { .. } | Act::ThrottleStore { .. } => {}
    }
    act
}
