//! The simulated world behind the seam: how a harness sets it up, drives it and reads what happened.
//!
//! There is one [`Env`] in a run, registered as a simulator of madsim, so that it hears of every node that is created or
//! killed. It owns the devices ([`clock`], [`disk`], [`net`], [`objects`]), the injector of faults, the counters of points
//! and the trace.
//!
//! A killed process takes no further part: every handle belongs to an incarnation of its node, and a call from an earlier
//! one (destructors run after a kill) has no effect, and is counted in [`Env::stale_calls`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use madsim::plugin::Simulator;
use xxhash_rust::xxh3::xxh3_64;

pub mod clock;
pub mod disk;
mod inject;
mod keyed;
pub mod net;
pub mod objects;
mod owed;
mod trace;

pub use inject::*;
pub use keyed::{Draw, Key};
pub use owed::Owed;
pub use trace::{Event, Fact, Told, Trace, on_recorded};

use crate::points::{Kind, Point};

/// Of a thousand passings of an armed site of `buggify!`, how many fire.
const FIRES_PERMILLE: u64 = 250;

/// A simulated machine; 0 is the harness itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// What a run starts from.
pub struct Config {
    /// Root of all draws.
    pub key: Key,
    /// Keep the events of the trace.
    pub record: bool,
    /// The disks.
    pub disk: disk::Config,
    /// The network.
    pub net: net::Config,
    /// The object store.
    pub objects: objects::Config,
    /// What a path or key is to the system under test.
    pub classify: fn(&Path) -> &'static str,
    /// Where faults strike.
    pub injector: Box<dyn Injector>,
}

/// The world of one run.
pub struct Env {
    time: madsim::time::TimeHandle,
    state: Mutex<State>,
    clocks: clock::Clocks,
    disks: disk::Disks,
    net: net::Network,
    objects: objects::Objects,
    owed: Owed,
}

struct State {
    key: Key,
    classify: fn(&Path) -> &'static str,
    injector: Box<dyn Injector>,
    frame_namer: Option<net::FrameNamer>,
    trace: Trace,
    nodes: BTreeMap<NodeId, Node>,
    points: BTreeMap<&'static str, u64>,
    sometimes: BTreeMap<&'static str, u64>,
    /// The first `never!` that held.
    broken: Option<Point>,
    /// Sites of `buggify!` that may fire in this run.
    armed: BTreeSet<String>,
    sites: BTreeMap<(NodeId, &'static str, &'static str), u64>,
    crashes: Vec<(NodeId, Crash)>,
    on_crash: Option<std::task::Waker>,
    stale_calls: u64,
    redraw: Option<Redraw>,
}

/// From some moment on, everything is drawn anew.
#[derive(Clone, Copy, Debug)]
struct Redraw {
    after_ns: u64,
    variant: u64,
}

#[derive(Default)]
struct Node {
    incarnation: u64,
    passings: BTreeMap<&'static str, u64>,
    entropy: BTreeMap<&'static str, u64>,
}

impl Simulator for Env {
    fn new(_: &madsim::rand::GlobalRng, time: &madsim::time::TimeHandle, _: &madsim::Config) -> Self {
        Env {
            time: time.clone(),
            state: Mutex::new(State {
                key: Key::root(0),
                classify: |_| "other",
                injector: Box::new(Quiet),
                frame_namer: None,
                trace: Trace::new(false),
                nodes: BTreeMap::new(),
                points: BTreeMap::new(),
                sometimes: BTreeMap::new(),
                broken: None,
                armed: BTreeSet::new(),
                sites: BTreeMap::new(),
                crashes: Vec::new(),
                on_crash: None,
                stale_calls: 0,
                redraw: None,
            }),
            clocks: clock::Clocks::default(),
            disks: disk::Disks::default(),
            net: net::Network::default(),
            objects: objects::Objects::default(),
            owed: Owed::default(),
        }
    }

    /// madsim resets a node when it kills it: whatever still runs belongs to an earlier incarnation.
    fn reset_node(&self, id: madsim::task::NodeId) {
        let node = number(id);
        self.state().nodes.entry(node).or_default().incarnation += 1;
        self.disks.process_ended(node);
        self.net.process_ended(self, node);
    }
}

fn number(id: madsim::task::NodeId) -> NodeId {
    thread_local! {
        /// Those met so far: reading one takes longer than what most calls into a device do.
        static READ: RefCell<Vec<(madsim::task::NodeId, NodeId)>> = const { RefCell::new(Vec::new()) };
    }
    READ.with_borrow_mut(|read| match read.iter().find(|(known, _)| *known == id) {
        Some((_, number)) => *number,
        None => {
            // madsim keeps the number private, and shows it.
            let number = NodeId(id.to_string().parse().expect("a madsim node id is shown as its number"));
            read.push((id, number));
            number
        }
    })
}

/// Passes a point; see [`crate::point!`].
pub(crate) async fn pass_point(point: Point) {
    let env = Env::current();
    match env.at_point(point) {
        PointAction::Proceed => {}
        PointAction::Delay(us) => madsim::time::sleep(std::time::Duration::from_micros(us.into())).await,
        PointAction::Crash(crash) => env.crash_here(crash).await,
    }
}

impl Env {
    /// Sets up the world of this run. To be called once, before any node is created.
    pub fn install(config: Config) -> Arc<Env> {
        let env = Env::current();
        let key = config.key.of_devices();
        {
            let mut state = env.state();
            state.key = key;
            state.classify = config.classify;
            state.injector = config.injector;
            state.trace = Trace::new(config.record);
        }
        env.disks.configure(key, config.disk);
        env.net.configure(key, config.net);
        env.objects.configure(key, config.objects);
        env
    }

    /// From the first event, call or passing at or after `after_ns` on, the devices draw and the executor orders tasks in
    /// another way, a different one for each `variant` (from 1). Everything before is as the plan has it.
    pub fn redraw(&self, after_ns: u64, variant: u64) {
        self.state().redraw = Some(Redraw { after_ns, variant });
    }

    /// The world of the run that this task belongs to.
    ///
    /// # Panics
    /// Outside a madsim runtime that has `Env` as a simulator.
    pub fn current() -> Arc<Env> {
        madsim::plugin::simulator::<Env>()
    }

    /// The node this task runs on.
    pub fn node() -> NodeId {
        number(madsim::plugin::node())
    }

    /// The clocks of the nodes.
    pub fn clocks(&self) -> &clock::Clocks {
        &self.clocks
    }

    /// The disks.
    pub fn disks(&self) -> &disk::Disks {
        &self.disks
    }

    /// The network.
    pub fn net(&self) -> &net::Network {
        &self.net
    }

    /// The object store.
    pub fn objects(&self) -> &objects::Objects {
        &self.objects
    }

    /// What the system owes its clients.
    pub fn owed(&self) -> &Owed {
        &self.owed
    }

    /// Virtual time since the start of the run, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.time.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The root of all draws.
    pub fn key(&self) -> Key {
        self.state().key
    }

    /// How often `node` has died; a handle made under a smaller number is dead.
    pub fn incarnation(&self, node: NodeId) -> u64 {
        self.state().nodes.get(&node).map_or(0, |n| n.incarnation)
    }

    /// Counts a call from an earlier incarnation, which had no effect.
    pub fn stale_call(&self) {
        self.state().stale_calls += 1;
    }

    /// Calls from earlier incarnations so far.
    pub fn stale_calls(&self) -> u64 {
        self.state().stale_calls
    }

    /// Adds an event to the trace. `tell` is only called when the run is recorded; it must not call into the world.
    pub fn emit<T: Into<Told>>(&self, node: NodeId, kind: &str, payload: &[u8], tell: impl FnOnce() -> T) {
        let now = self.now_ns();
        let mut state = self.state();
        state.redraw_if_due(now);
        state.trace.add(now, node, kind, payload, tell);
    }

    /// True if the run is recorded. Decides what is told, never what happens.
    pub fn is_recording(&self) -> bool {
        self.state().trace.is_recording()
    }

    /// From now on a recorded frame is called what `namer` says.
    pub fn name_frames(&self, namer: net::FrameNamer) {
        self.state().frame_namer = Some(namer);
    }

    /// What names frames, if there is somebody to tell.
    fn frame_namer(&self) -> Option<net::FrameNamer> {
        let state = self.state();
        state.frame_namer.filter(|_| state.trace.is_recording())
    }

    /// Digest and number of events so far.
    pub fn digest(&self) -> (u128, u64) {
        let state = self.state();
        (state.trace.digest(), state.trace.count())
    }

    /// The recorded events so far.
    pub fn recorded(&self) -> Vec<Event> {
        self.state().trace.recorded().unwrap_or_default().to_vec()
    }

    /// What tells a path or key what it is to the system under test.
    pub fn classifier(&self) -> fn(&Path) -> &'static str {
        self.state().classify
    }

    /// What a path or key is to the system under test.
    pub fn classify(&self, path: &Path) -> &'static str {
        (self.state().classify)(path)
    }

    /// Asks the injector about a call into a device. To be called by devices, holding no lock.
    pub fn at_site(&self, name: &'static str, class: &'static str, target: &str) -> SiteAction {
        let (node, now) = (Env::node(), self.now_ns());
        let mut state = self.state();
        state.redraw_if_due(now);
        let nth = state.sites.entry((node, name, class)).or_default();
        *nth += 1;
        let nth = *nth;
        let action = state.injector.at_site(&Site { name, node, class, target, nth, at_us: now / 1000 });
        if let SiteAction::Strike(fault) = &action {
            let fault = format!("{fault:?}");
            state.trace.add(now, node, "fault.strike", fault.as_bytes(), || {
                Told::from(format!("{name} {target}: {fault}"))
                    .with("place", name)
                    .with("fault", fault.as_str())
                    .with("class", class)
                    .with("nth", nth)
            });
        }
        action
    }

    /// Tells the injector that a fault which damages a disk had an effect.
    pub(crate) fn bites(&self, node: NodeId, bite: disk::Bite) {
        self.state().injector.bites(node, bite);
    }

    fn at_point(&self, point: Point) -> PointAction {
        assert!(point.kind == Kind::Point, "{} is not a point", point.name);
        let (node, now) = (Env::node(), self.now_ns());
        let mut state = self.state();
        state.redraw_if_due(now);
        *state.points.entry(point.name).or_default() += 1;
        let passings = &mut state.nodes.entry(node).or_default().passings;
        let nth = passings.entry(point.name).or_default();
        *nth += 1;
        let nth = *nth;
        state.trace.add(now, node, "point", point.name.as_bytes(), || format!("{} #{nth}", point.name));
        let action = state.injector.at_point(&Passing { point: point.name, node, nth, at_us: now / 1000 });
        if action != PointAction::Proceed {
            let fault = format!("{action:?}");
            state.trace.add(now, node, "fault.strike", fault.as_bytes(), || {
                Told::from(format!("{} #{nth}: {fault}", point.name))
                    .with("place", point.name)
                    .with("nth", nth)
            });
        }
        action
    }

    /// Calls into the devices so far, by their names.
    pub fn calls(&self) -> BTreeMap<&'static str, u64> {
        let mut calls = BTreeMap::new();
        for ((_, name, _), n) in &self.state().sites {
            *calls.entry(*name).or_default() += n;
        }
        calls
    }

    pub(crate) fn saw(&self, point: Point) {
        let is_never = point.kind == Kind::Never;
        assert!(
            is_never || point.kind == Kind::Sometimes,
            "{} is neither a sometimes nor a never",
            point.name
        );
        let mut state = self.state();
        *state.sometimes.entry(point.name).or_default() += 1;
        if is_never {
            state.broken.get_or_insert(point);
            drop(state);
            self.emit(Env::node(), "never", point.name.as_bytes(), || {
                format!("{}: {}", point.name, point.about)
            });
        }
    }

    /// The first [`never!`](crate::never) that held.
    pub fn broken(&self) -> Option<Point> {
        self.state().broken
    }

    /// From now on only these sites of `buggify!` may fire; see [`crate::buggify!`]. In a new world none may.
    pub fn arm(&self, sites: impl IntoIterator<Item = String>) {
        self.state().armed = sites.into_iter().collect();
    }

    /// True if the site is armed and fires at this passing: each does at one in four, by a draw of its own.
    pub(crate) fn fires(&self, site: Point) -> bool {
        assert!(site.kind == Kind::Buggify, "{} is not a buggify", site.name);
        let (node, now) = (Env::node(), self.now_ns());
        let mut state = self.state();
        if !state.armed.contains(site.name) {
            return false;
        }
        let passings = &mut state.nodes.entry(node).or_default().passings;
        let nth = passings.entry(site.name).or_default();
        *nth += 1;
        let ids = [xxh3_64(site.name.as_bytes()), node.0, *nth];
        let fires = state.key.draw("buggify", &ids).chance(FIRES_PERMILLE);
        if fires {
            *state.sometimes.entry(site.name).or_default() += 1;
            state.trace.add(now, node, "buggify", site.name.as_bytes(), || site.name.to_string());
        }
        fires
    }

    /// How often each point was passed.
    pub fn points_passed(&self) -> BTreeMap<&'static str, u64> {
        self.state().points.clone()
    }

    /// How often each `sometimes!` and each `never!` held, and each `buggify!` fired.
    pub fn sometimes_seen(&self) -> BTreeMap<&'static str, u64> {
        self.state().sometimes.clone()
    }

    pub(crate) fn fill_entropy(&self, purpose: &'static str, bytes: &mut [u8]) {
        let node = Env::node();
        let mut state = self.state();
        let nth = state.nodes.entry(node).or_default().entropy.entry(purpose).or_default();
        *nth += 1;
        let nth = *nth;
        state.key.child("entropy", &[node.0]).draw(purpose, &[nth]).fill(bytes);
    }

    /// Kills `node` the way `crash` says. Its restart is the supervisor's, see [`Env::next_crash`].
    pub fn crash(&self, node: NodeId, crash: Crash) {
        let what = format!("{crash:?}");
        self.emit(node, "crash", what.as_bytes(), || {
            let power = matches!(crash.kind, CrashKind::PowerFail(_));
            Told::from(what.clone())
                .with("crash", if power { "power_fail" } else { "process_kill" })
                .with("down_us", u64::from(crash.down_us))
        });
        if let CrashKind::PowerFail(survivors) = &crash.kind {
            self.disks.power_fail(self, node, survivors);
            self.net.machine_lost(node);
        }
        // Ids are made by madsim alone; every node is named after its number.
        madsim::runtime::Handle::current().kill(node.to_string());
        let mut state = self.state();
        state.crashes.push((node, crash));
        if let Some(waker) = state.on_crash.take() {
            waker.wake();
        }
    }

    /// Kills the node of this task the way `crash` says, and never returns.
    pub async fn crash_here(&self, crash: Crash) -> ! {
        self.crash(Env::node(), crash);
        std::future::pending().await
    }

    /// The next node that died and has to be started again after its `down_us`. For the supervisor of a harness.
    pub async fn next_crash(&self) -> (NodeId, Crash) {
        std::future::poll_fn(|cx| {
            let mut state = self.state();
            if state.crashes.is_empty() {
                state.on_crash = Some(cx.waker().clone());
                std::task::Poll::Pending
            } else {
                std::task::Poll::Ready(state.crashes.remove(0))
            }
        })
        .await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn redraw_if_due(&mut self, now_ns: u64) {
        if self.redraw.is_some_and(|redraw| redraw.after_ns <= now_ns) {
            let variant = self.redraw.take().expect("it is there").variant;
            keyed::redraw(variant);
            // The executor draws from a stream: skipping some of it gives the rest another order.
            let mut stream = madsim::rand::thread_rng();
            for _ in 0..variant {
                madsim::rand::RngCore::next_u64(&mut stream);
            }
        }
    }
}
