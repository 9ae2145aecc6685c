//! A small simulated world for the tests of the network and the object store.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cutwater_io::sim::{
    Config, Crash, CrashKind, Env, Injector, Key, NodeId, Passing, PointAction, Site, SiteAction, SiteFault,
    Survivors, disk, net, objects,
};
use madsim::runtime::{Handle, Runtime};
use madsim::task::JoinHandle;

/// Faults at the n-th call of a site, by any node.
#[derive(Default)]
pub struct Scripted(pub Vec<(&'static str, u64, SiteFault)>);

impl Injector for Scripted {
    fn at_site(&mut self, site: &Site<'_>) -> SiteAction {
        let found = self.0.iter().find(|(name, nth, _)| *name == site.name && *nth == site.nth);
        found.map_or(SiteAction::Proceed, |(.., fault)| SiteAction::Strike(fault.clone()))
    }
    fn at_point(&mut self, _: &Passing) -> PointAction {
        PointAction::Proceed
    }
}

/// What a test may vary.
pub struct Setup {
    pub seed: u64,
    pub schedule_seed: u64,
    pub nodes: u64,
    pub net: net::Config,
    pub objects: objects::Config,
    pub faults: Vec<(&'static str, u64, SiteFault)>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            seed: 1,
            schedule_seed: 1,
            nodes: 3,
            net: net::Config::default(),
            objects: objects::Config::default(),
            faults: Vec::new(),
        }
    }
}

#[derive(Clone)]
pub struct World {
    pub env: Arc<Env>,
}

/// Runs `scenario` in a world of its own, on a thread of its own, and returns its result, the digest and the count of events.
#[expect(
    clippy::disallowed_methods,
    reason = "a simulation needs a fresh thread: std seeds its hash maps per thread"
)]
pub fn run<F, T>(setup: Setup, scenario: impl FnOnce(World) -> F + Send + 'static) -> (T, (u128, u64))
where
    F: Future<Output = T>,
    T: Send + 'static,
{
    let run = move || {
        let mut runtime = Runtime::with_seed_and_config(setup.schedule_seed, Default::default());
        runtime.set_time_limit(Duration::from_secs(600));
        runtime.add_simulator::<Env>();
        runtime.block_on(async move {
            let env = Env::install(Config {
                key: Key::root(setup.seed),
                record: true,
                disk: disk::Config::default(),
                net: setup.net,
                objects: setup.objects,
                classify: |_| "other",
                injector: Box::new(Scripted(setup.faults)),
            });
            for n in 1..=setup.nodes {
                Handle::current().create_node().name(format!("n{n}")).build();
                env.net().register(NodeId(n), ip(n));
            }
            let result = scenario(World { env: env.clone() }).await;
            (result, env.digest())
        })
    };
    std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

pub fn ip(node: u64) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, node as u8))
}

pub fn address(node: u64, port: u16) -> SocketAddr {
    SocketAddr::new(ip(node), port)
}

pub async fn sleep_ms(ms: u64) {
    cutwater_io::time::sleep(Duration::from_millis(ms)).await;
}

pub const KILL: Crash = Crash { kind: CrashKind::ProcessKill, down_us: 0 };
pub const POWER_FAIL: Crash = Crash { kind: CrashKind::PowerFail(Survivors::None), down_us: 0 };

impl World {
    /// Starts a task on node `n`.
    pub fn on<F>(&self, n: u64, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        Handle::current().get_node(format!("n{n}")).expect("the node exists").spawn(task)
    }

    pub fn crash(&self, n: u64, crash: Crash) {
        self.env.crash(NodeId(n), crash);
    }

    pub fn restart(&self, n: u64) {
        Handle::current().restart(format!("n{n}"));
    }

    pub fn now_ms(&self) -> u64 {
        self.env.now_ns() / 1_000_000
    }
}
