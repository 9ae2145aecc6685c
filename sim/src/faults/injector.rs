//! Decides, at each call into a device and each passing of a point, whether a fault of the plan strikes there.
//!
//! A fault strikes at most once. What a call or a point cannot do by itself (a partition, a full disk) is handed to the
//! task that delivers states. After [`Shared::heal`] nothing strikes any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};

use cutwater_io::sim::disk::Bite;
use cutwater_io::sim::{Crash, Injector, NodeId, Passing, PointAction, Site, SiteAction, SiteFault};
use futures::channel::mpsc::UnboundedSender;

use super::{FaultClass, Receipts};
use crate::census::{Census, Passed};
use crate::evidence::{Near, Struck};
use crate::plan::{Act, Anchor, Fault, Plan};
use crate::search::coverage::Gather;

/// A state to be delivered, and the node at which its anchor was passed (0 for none).
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) fault: Fault,
    pub(crate) passed_by: NodeId,
}

/// What the injector shares with the world.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<State>>);

struct State {
    healed: bool,
    receipts: Receipts,
    /// Struck, and not yet seen to have been noticed.
    unobserved: BTreeMap<NodeId, Vec<FaultClass>>,
    /// The faults that struck, in order.
    struck: Vec<(Fault, Struck)>,
    /// Operations that were issued.
    issued: BTreeSet<u32>,
    /// In a branch of a census, its horizon.
    cut_us: Option<u64>,
    census: Option<Census>,
    /// Tasks that wait for an operation or the horizon.
    on_cut: Vec<Waker>,
    reached: Gather,
    /// No fault strikes at or after this virtual time, in microseconds.
    over_us: u64,
    /// For each fault that is anchored to a time: what its node did just before and just after; only if that is asked for.
    near: Vec<Near>,
}

impl State {
    /// Nothing of the plan strikes any more: the world is healed, or this is a branch of a census.
    fn still(&self) -> bool {
        self.healed || self.cut_us.is_some()
    }

    /// True if no fault strikes any more.
    fn is_over(&self, now_us: u64) -> bool {
        self.still() || now_us >= self.over_us
    }

    /// `node` does what `what` names, at `at_us`.
    fn does(&mut self, node: NodeId, at_us: u64, what: impl Fn() -> Anchor) {
        for near in &mut self.near {
            near.note(node.0, at_us, &what);
        }
    }

    /// `node` acts: it has noticed what struck it.
    fn acts(&mut self, node: NodeId) {
        if self.unobserved.is_empty() {
            return;
        }
        for class in self.unobserved.remove(&node).unwrap_or_default() {
            self.receipts.entry(class).or_default().observed += 1;
        }
    }

    /// `node` is at a boundary of a census, if one is taken. Returns the crash to make here, if from here on this is one of
    /// its branches.
    fn boundary(&mut self, node: NodeId, at: impl FnOnce() -> Anchor, at_us: u64) -> Option<Crash> {
        let census = self.census.as_mut()?;
        let passed =
            Passed { struck: self.struck.iter().map(|(fault, _)| fault).collect(), issued: &self.issued };
        let fault = census.boundary(node, &at(), at_us, &passed)?;
        self.cut_us = Some(Census::cut_us(at_us));
        self.receipts.entry(fault.class()).or_default().delivered += 1;
        self.unobserved.entry(node).or_default().push(fault.class());
        self.on_cut.drain(..).for_each(Waker::wake);
        let Act::Crash { crash, .. } = fault.act.clone() else { unreachable!("a census crashes") };
        let struck = Struck::new(fault.id, node, at_us).at(fault.at.clone());
        self.struck.push((fault, struck));
        Some(crash)
    }

    /// A node of a role passes `point`; false if no fault strikes any more.
    fn passes(&mut self, node: NodeId, point: &'static str, at_us: u64) -> bool {
        let open = !self.still();
        self.reached.passed(node, point, open);
        open && at_us < self.over_us
    }

    /// A node of a role makes a call; false if no fault strikes any more.
    fn calls(&mut self, site: &Site<'_>) -> bool {
        if self.still() {
            return false;
        }
        self.reached.called(site.node, site.name, site.class);
        site.at_us < self.over_us
    }
}

impl Shared {
    pub(crate) fn new(plan: &Plan, census: Option<Census>) -> Shared {
        let mut receipts = Receipts::new();
        for fault in &plan.faults {
            receipts.entry(fault.class()).or_default().armed += 1;
        }
        Shared(Arc::new(Mutex::new(State {
            healed: false,
            receipts,
            unobserved: BTreeMap::new(),
            reached: Gather::default(),
            struck: Vec::new(),
            issued: BTreeSet::new(),
            cut_us: None,
            census,
            on_cut: Vec::new(),
            over_us: u64::MAX,
            near: Vec::new(),
        })))
    }

    /// No fault strikes at or after this virtual time.
    pub(crate) fn over_from(&self, over_us: u64) {
        self.state().over_us = over_us;
    }

    /// True if no fault strikes any more.
    pub(crate) fn is_over(&self, now_us: u64) -> bool {
        self.state().is_over(now_us)
    }

    /// From now on it is noted what nodes do around the faults that are anchored to times.
    pub(crate) fn watch(&self, plan: &Plan) {
        self.state().near = plan.faults.iter().filter_map(Near::of).collect();
    }

    /// A fault strikes, or is switched on.
    pub(crate) fn strikes(&self, fault: &Fault, struck: Struck) {
        self.state().struck.push((fault.clone(), struck));
    }

    pub(crate) fn evidence(&self) -> (Vec<Struck>, Vec<Near>) {
        let state = self.state();
        (state.struck.iter().map(|(_, struck)| struck.clone()).collect(), state.near.clone())
    }

    /// From now on nothing strikes.
    pub(crate) fn heal(&self) {
        self.state().healed = true;
    }

    /// An operation of the plan is issued.
    pub(crate) fn issued(&self, op: u32) {
        self.state().issued.insert(op);
    }

    /// In a branch of a census, the end of its safety phase in microseconds: no operation is issued any more.
    pub(crate) fn cut_us(&self) -> Option<u64> {
        self.state().cut_us
    }

    /// Waits until this is a branch of a census, or another one than it was.
    pub(crate) async fn next_cut(&self) {
        let before = self.cut_us();
        std::future::poll_fn(|cx| {
            let mut state = self.state();
            if state.cut_us != before {
                return Poll::Ready(());
            }
            state.on_cut.retain(|waker| !waker.will_wake(cx.waker()));
            state.on_cut.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// `node` is at a boundary of a census, if one is taken. Returns the crash to make here, if from here on this is one of
    /// its branches.
    pub(crate) fn boundary(&self, node: NodeId, at: impl FnOnce() -> Anchor, at_us: u64) -> Option<Crash> {
        self.state().boundary(node, at, at_us)
    }

    /// Calls `with` with the census that is taken, if one is.
    pub(crate) fn census<T>(&self, with: impl FnOnce(&mut Census) -> T) -> Option<T> {
        self.state().census.as_mut().map(with)
    }

    /// Ends the census: takes it out.
    pub(crate) fn end_census(&self) -> Option<Census> {
        self.state().census.take()
    }

    pub(crate) fn receipts(&self) -> Receipts {
        self.state().receipts.clone()
    }

    /// A fault of `class` struck `node`.
    pub(crate) fn delivered(&self, class: FaultClass, node: NodeId) {
        let mut state = self.state();
        state.receipts.entry(class).or_default().delivered += 1;
        state.unobserved.entry(node).or_default().push(class);
        state.reached.struck(node, class);
    }

    /// A state of `class` was switched on for `nodes`, or a defect laid; whether it is noticed, a device will tell.
    pub(crate) fn switched_on(&self, class: FaultClass, nodes: &[NodeId]) {
        let mut state = self.state();
        state.receipts.entry(class).or_default().delivered += 1;
        for &node in nodes {
            state.reached.struck(node, class);
        }
    }

    /// A process of `node` starts.
    pub(crate) fn started(&self, node: NodeId) {
        self.state().reached.started(node);
    }

    /// What the run has reached so far.
    pub(crate) fn reached<T>(&self, ask: impl FnOnce(&Gather) -> T) -> T {
        ask(&self.state().reached)
    }

    /// A state of `class` was noticed.
    pub(crate) fn observed(&self, class: FaultClass) {
        self.state().receipts.entry(class).or_default().observed += 1;
    }

    /// `node` acts: it has noticed what struck it.
    pub(crate) fn acts(&self, node: NodeId) {
        self.state().acts(node);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Faults at one place, and how often it was passed by anyone.
#[derive(Default)]
struct Place {
    faults: Vec<(u64, u32, Fault)>,
    passed_by_all: u32,
}

/// The injector of a plan.
pub(crate) struct PlanInjector {
    shared: Shared,
    orders: UnboundedSender<Order>,
    /// Nodes of roles have numbers up to this; faults strike no others.
    nodes: u64,
    points: BTreeMap<String, Place>,
    sites: BTreeMap<String, BTreeMap<String, Place>>,
    /// Faults that wait for a passing, and then for a call.
    after: BTreeMap<String, Place>,
    /// Those whose passing has come, and the node that passed.
    awaiting: Vec<(NodeId, Fault)>,
    /// Calls by (node, site), over all classes of targets.
    calls: BTreeMap<(NodeId, &'static str), u32>,
}

impl PlanInjector {
    pub(crate) fn new(
        plan: &Plan,
        nodes: u64,
        shared: Shared,
        orders: UnboundedSender<Order>,
    ) -> PlanInjector {
        let mut points: BTreeMap<String, Place> = BTreeMap::new();
        let mut sites: BTreeMap<String, BTreeMap<String, Place>> = BTreeMap::new();
        let mut after: BTreeMap<String, Place> = BTreeMap::new();
        for fault in &plan.faults {
            let (place, node, nth) = match &fault.at {
                Anchor::Point { point, node, nth } => (points.entry(point.clone()).or_default(), node, nth),
                Anchor::Site { site, class, node, nth } => {
                    let classes = sites.entry(site.clone()).or_default();
                    (classes.entry(class.clone()).or_default(), node, nth)
                }
                Anchor::After { point, node, nth, .. } => {
                    (after.entry(point.clone()).or_default(), node, nth)
                }
                Anchor::Time { .. } | Anchor::Op { .. } => continue,
            };
            place.faults.push((*node, *nth, fault.clone()));
        }
        PlanInjector {
            shared,
            orders,
            nodes,
            points,
            sites,
            after,
            awaiting: Vec::new(),
            calls: BTreeMap::new(),
        }
    }

    /// The fault that strikes at this call because of how many there were.
    fn counted(&mut self, site: &Site<'_>, calls: u32) -> Option<Fault> {
        let classes = self.sites.get_mut(site.name)?;
        let of_class = classes
            .get_mut(site.class)
            .filter(|_| !site.class.is_empty())
            .and_then(|place| place.strikes(site.node, u32::try_from(site.nth).unwrap_or(u32::MAX)));
        let of_any = classes.get_mut("").and_then(|place| place.strikes(site.node, calls));
        of_class.or(of_any)
    }

    /// The fault that strikes at this call because its node has passed a point.
    fn awaited(&mut self, site: &Site<'_>) -> Option<Fault> {
        let i = self.awaiting.iter().position(|(node, fault)| {
            *node == site.node
                && matches!(&fault.at, Anchor::After { site: name, class, .. }
                    if name == site.name && (class.is_empty() || class == site.class))
        })?;
        Some(self.awaiting.remove(i).1)
    }

    fn order(&self, fault: Fault, node: NodeId) {
        // The receiver lives as long as the run; a run that is over needs no more faults.
        let _ = self.orders.unbounded_send(Order { fault, passed_by: node });
    }

    /// What `fault`, anchored where `node` passes, does there itself; `None` if it was handed on.
    fn crash_of(&self, fault: &Fault, node: NodeId) -> Option<Crash> {
        match &fault.act {
            Act::Crash { node: whose, crash } if *whose == 0 || *whose == node.0 => Some(crash.clone()),
            _ => {
                self.order(fault.clone(), node);
                None
            }
        }
    }
}

impl Place {
    /// The fault that strikes at this passing: the `nth` of `node`, and one more of all.
    fn strikes(&mut self, node: NodeId, nth: u32) -> Option<Fault> {
        self.passed_by_all = self.passed_by_all.saturating_add(1);
        let all = self.passed_by_all;
        let hit = |whose: u64, n: u32| if whose == 0 { n == all } else { whose == node.0 && n == nth };
        let i = self.faults.iter().position(|(whose, n, _)| hit(*whose, *n))?;
        Some(self.faults.remove(i).2)
    }
}

impl Injector for PlanInjector {
    fn at_site(&mut self, site: &Site<'_>) -> SiteAction {
        let mut state = self.shared.state();
        state.acts(site.node);
        if site.node.0 == 0 || site.node.0 > self.nodes {
            return SiteAction::Proceed;
        }
        let place = || Anchor::Site {
            site: site.name.into(),
            class: site.class.into(),
            node: site.node.0,
            nth: u32::try_from(site.nth).unwrap_or(u32::MAX),
        };
        state.does(site.node, site.at_us, place);
        let calls = self.calls.entry((site.node, site.name)).or_default();
        *calls = calls.saturating_add(1);
        let calls = *calls;
        if site.name.starts_with("disk.") {
            let here = || Anchor::Site {
                site: site.name.into(),
                class: String::new(),
                node: site.node.0,
                nth: calls,
            };
            if let Some(crash) = state.boundary(site.node, here, site.at_us) {
                return SiteAction::Strike(SiteFault::CrashBefore(crash));
            }
        }
        if !state.calls(site) {
            return SiteAction::Proceed;
        }
        drop(state);
        let Some(fault) = self.counted(site, calls).or_else(|| self.awaited(site)) else {
            return SiteAction::Proceed;
        };
        let action = match &fault.act {
            Act::Site(what) => Some(what.clone()),
            _ => self.crash_of(&fault, site.node).map(SiteFault::CrashBefore),
        };
        match action {
            Some(what) => {
                // Of damage the disk tells whether there is any.
                if !matches!(what, SiteFault::Damage(_)) {
                    self.shared.delivered(fault.class(), site.node);
                }
                let struck = Struck::new(fault.id, site.node, site.at_us);
                self.shared.strikes(&fault, struck.at(place()).on(site.target));
                SiteAction::Strike(what)
            }
            None => SiteAction::Proceed,
        }
    }

    fn at_point(&mut self, passing: &Passing) -> PointAction {
        let node = passing.node;
        let mut state = self.shared.state();
        state.acts(node);
        if node.0 == 0 || node.0 > self.nodes {
            return PointAction::Proceed;
        }
        let nth = u32::try_from(passing.nth).unwrap_or(u32::MAX);
        let here = || Anchor::Point { point: passing.point.into(), node: node.0, nth };
        if let Some(crash) = state.boundary(node, here, passing.at_us) {
            return PointAction::Crash(crash);
        }
        if !state.passes(node, passing.point, passing.at_us) {
            return PointAction::Proceed;
        }
        state.does(node, passing.at_us, here);
        drop(state);
        if let Some(fault) = self.after.get_mut(passing.point).and_then(|place| place.strikes(node, nth)) {
            self.awaiting.push((node, fault));
        }
        let Some(place) = self.points.get_mut(passing.point) else { return PointAction::Proceed };
        let Some(fault) = place.strikes(node, nth) else { return PointAction::Proceed };
        let action = match &fault.act {
            Act::Delay { us } => Some(PointAction::Delay(*us)),
            _ => self.crash_of(&fault, node).map(PointAction::Crash),
        };
        match action {
            Some(action) => {
                self.shared.delivered(fault.class(), node);
                self.shared.strikes(&fault, Struck::new(fault.id, node, passing.at_us).at(here()));
                action
            }
            None => PointAction::Proceed,
        }
    }

    fn bites(&mut self, node: NodeId, bite: Bite) {
        match bite {
            Bite::Laid(kind) => self.shared.switched_on(FaultClass::of_damage_kind(kind), &[node]),
            Bite::Served(kind) => self.shared.observed(FaultClass::of_damage_kind(kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Receipt;
    use crate::plan::VERSION;
    use cutwater_io::sim::disk::DamageKind;
    use cutwater_io::sim::{CrashKind, Damage, Errno};
    use futures::channel::mpsc;

    const EIO: Act = Act::Site(SiteFault::Fail(Errno::Eio));

    fn injector(faults: Vec<(Anchor, Act)>) -> (PlanInjector, Shared, mpsc::UnboundedReceiver<Order>) {
        let faults = (0..).zip(faults).map(|(id, (at, act))| Fault { id, at, act }).collect();
        let plan = Plan {
            version: VERSION,
            scenario: String::new(),
            seed: 0,
            schedule_seed: 0,
            key: 0,
            horizon_us: 1,
            topology: BTreeMap::new(),
            knobs: BTreeMap::new(),
            buggify: vec![],
            ops: vec![],
            faults,
        };
        let shared = Shared::new(&plan, None);
        let (orders, received) = mpsc::unbounded();
        (PlanInjector::new(&plan, 3, shared.clone(), orders), shared, received)
    }

    fn at_site(class: &str, node: u64, nth: u32) -> Anchor {
        Anchor::Site { site: "disk.write".into(), class: class.into(), node, nth }
    }

    fn at_point(node: u64, nth: u32) -> Anchor {
        Anchor::Point { point: "p".into(), node, nth }
    }

    fn write(injector: &mut PlanInjector, node: u64, class: &'static str, nth: u64) -> bool {
        let site = Site { name: "disk.write", node: NodeId(node), class, target: "/f", nth, at_us: 0 };
        injector.at_site(&site) != SiteAction::Proceed
    }

    fn pass(injector: &mut PlanInjector, node: u64, nth: u64) -> PointAction {
        injector.at_point(&Passing { point: "p", node: NodeId(node), nth, at_us: 0 })
    }

    #[test]
    fn a_site_counts_per_node_and_class_or_over_all() {
        let (mut i, shared, _orders) =
            injector(vec![(at_site("wal", 1, 2), EIO), (at_site("", 2, 3), EIO), (at_site("", 0, 7), EIO)]);
        assert!(!write(&mut i, 1, "wal", 1));
        assert!(!write(&mut i, 2, "wal", 1));
        assert!(!write(&mut i, 2, "wal", 2), "the second write of the log is another node's");
        assert!(write(&mut i, 1, "wal", 2));
        assert!(!write(&mut i, 1, "wal", 2), "it strikes once");
        assert!(write(&mut i, 2, "table", 1), "the third of node 2, of whatever class");
        assert!(write(&mut i, 3, "other", 1), "the seventh of all");
        assert!(!write(&mut i, 3, "other", 2));
        let receipt = shared.receipts()[&FaultClass::DiskError];
        assert_eq!((receipt.armed, receipt.delivered), (3, 3));
    }

    #[test]
    fn a_point_counts_per_node_or_over_all_and_only_nodes_of_roles_are_struck() {
        let crash = Crash { kind: CrashKind::ProcessKill, down_us: 1 };
        let act = Act::Crash { node: 0, crash: crash.clone() };
        let (mut i, _, _orders) = injector(vec![(at_point(0, 3), act.clone()), (at_point(2, 3), act)]);
        assert_eq!(pass(&mut i, 4, 1), PointAction::Proceed, "a client does not count");
        assert_eq!(pass(&mut i, 1, 1), PointAction::Proceed);
        assert_eq!(pass(&mut i, 2, 1), PointAction::Proceed);
        assert_eq!(pass(&mut i, 1, 2), PointAction::Crash(crash.clone()));
        assert_eq!(pass(&mut i, 2, 2), PointAction::Proceed);
        assert_eq!(pass(&mut i, 2, 3), PointAction::Crash(crash));
    }

    #[test]
    fn after_a_point_the_first_call_of_the_node_that_passed_is_struck() {
        let after = |class: &str, nth| Anchor::After {
            point: "p".into(),
            node: 0,
            nth,
            site: "disk.write".into(),
            class: class.into(),
        };
        let (mut i, shared, _orders) = injector(vec![(after("wal", 2), EIO), (after("", 3), EIO)]);
        pass(&mut i, 1, 1);
        assert!(!write(&mut i, 1, "wal", 1), "it waits for the second passing");
        pass(&mut i, 2, 1);
        assert!(!write(&mut i, 1, "wal", 2), "another node passed");
        assert!(!write(&mut i, 2, "table", 1), "another class");
        assert!(write(&mut i, 2, "wal", 1));
        assert!(!write(&mut i, 2, "wal", 2), "it strikes once");
        pass(&mut i, 1, 2);
        assert!(write(&mut i, 1, "table", 1), "of whatever class");
        let matrix = shared.reached(Gather::matrix);
        assert_eq!(matrix[&FaultClass::DiskError], [("p".into(), 2)].into());
    }

    #[test]
    fn states_are_handed_on_and_nothing_strikes_after_heal() {
        let full = Act::DiskFull { node: 0, for_us: 5, late: false };
        let (mut i, shared, mut orders) =
            injector(vec![(at_point(1, 1), full.clone()), (at_point(1, 2), full), (at_site("", 1, 1), EIO)]);
        assert_eq!(pass(&mut i, 1, 1), PointAction::Proceed);
        let order = orders.try_recv().unwrap();
        assert_eq!((order.passed_by, order.fault.id), (NodeId(1), 0));
        shared.heal();
        assert_eq!(pass(&mut i, 1, 2), PointAction::Proceed);
        assert!(!write(&mut i, 1, "wal", 1));
        assert!(orders.try_recv().is_err());
    }

    #[test]
    fn a_fault_is_observed_when_its_node_acts_again() {
        let (mut i, shared, _orders) = injector(vec![(at_site("", 1, 1), EIO)]);
        assert!(write(&mut i, 1, "wal", 1));
        let observed = || shared.receipts()[&FaultClass::DiskError].observed;
        write(&mut i, 2, "wal", 1);
        assert_eq!(observed(), 0, "another node knows nothing");
        write(&mut i, 1, "wal", 2);
        assert_eq!(observed(), 1);
    }

    #[test]
    fn damage_is_delivered_when_the_disk_says_so() {
        let lost = Act::Site(SiteFault::Damage(Damage::LostWrite));
        let (mut i, shared, _orders) =
            injector(vec![(at_site("", 1, 1), lost.clone()), (at_site("", 2, 1), lost)]);
        assert!(write(&mut i, 1, "wal", 1) && write(&mut i, 2, "wal", 1));
        write(&mut i, 1, "wal", 2);
        let receipt = || shared.receipts()[&FaultClass::LostWrite];
        assert_eq!(receipt(), Receipt { armed: 2, delivered: 0, observed: 0 });
        i.bites(NodeId(1), Bite::Laid(DamageKind::LostWrite));
        write(&mut i, 1, "wal", 3);
        assert_eq!(receipt(), Receipt { armed: 2, delivered: 1, observed: 0 });
        i.bites(NodeId(1), Bite::Served(DamageKind::LostWrite));
        assert_eq!(receipt(), Receipt { armed: 2, delivered: 1, observed: 1 });
        assert_eq!(shared.evidence().0.len(), 2, "both struck a call");
    }
}
