//! A scenario that keeps every device busy, so that a fault of every class has something to bite: what the delivery of
//! faults is tested with.
//!
//! ```text
//! cargo run -p cutwater-sim --example busy -- sweep --seeds 300
//! ```
//! Two or three nodes write and sync files, send each other frames, and put objects; each shrugs off every error. After
//! heal each of them must get through a whole round without one.

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    cutwater_sim::cli::main(&[&busy::Busy], busy::ALL.to_vec())
}

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    cutwater_sim::refuse()
}

#[cfg(madsim)]
mod busy {
    use std::net::SocketAddr;
    use std::time::Duration;

    use bytes::Bytes;
    use cutwater_io::fs::File;
    use cutwater_io::net::{Connection, Listener};
    use cutwater_io::objects::{self, Path};
    use cutwater_io::{fs, point, task, time};
    use cutwater_sim::vocabulary::{Role, Verb};
    use cutwater_sim::{Demands, FaultClass, OracleInfo, Scenario, Violation, Vocabulary, World};
    use futures::future::{LocalBoxFuture, join3};
    use object_store::ObjectStoreExt;

    cutwater_io::points! {
        point ROUND = "busy.round": "a node has been through a round";
        point CLEAN = "busy.clean": "a node has been through a round without an error";
    }

    type Failure = Box<dyn std::error::Error + Send + Sync>;

    pub struct Busy;

    impl Scenario for Busy {
        fn name(&self) -> &'static str {
            "busy"
        }
        fn about(&self) -> &'static str {
            "nodes use the disk, the network and the object store all the time"
        }
        fn vocabulary(&self) -> Vocabulary {
            Vocabulary {
                roles: vec![Role::new("node", "does everything", 2..=3)],
                actors: 1..=1,
                ops: 0..=5,
                verbs: vec![Verb::new("watch", "does nothing but pass the time")],
                knobs: vec![],
                points: ALL.to_vec(),
                classes: vec![],
                faults: FaultClass::ALL
                    .iter()
                    .copied()
                    .filter(|class| *class != FaultClass::BeyondBudget)
                    .collect(),
                horizon_us: 1_000_000..=5_000_000,
            }
        }
        fn oracles(&self) -> &'static [OracleInfo] {
            &[OracleInfo {
                name: "liveness",
                about: "after heal every node gets through a round without an error",
            }]
        }
        fn demands(&self) -> Demands {
            Demands { after_plans: 100, delivered: self.vocabulary().faults, ..Demands::default() }
        }
        fn run<'a>(&'a self, world: &'a World) -> LocalBoxFuture<'a, Result<(), Violation>> {
            Box::pin(run(world))
        }
    }

    async fn run(world: &World) -> Result<(), Violation> {
        let count = world.count("node");
        for index in 0..count {
            let own = world.address(world.node_id("node", index), 1);
            let next = world.address(world.node_id("node", (index + 1) % count), 1);
            world.node("node", index, move |_| live(own, next));
        }
        let mut ops = world.ops(0);
        while ops.next().await.is_some() {}
        world.until_horizon().await;
        world.heal().await;
        let clean = || world.env().points_passed().get(CLEAN.name).copied().unwrap_or(0);
        let enough = clean() + 3 * count;
        world
            .within(Duration::from_secs(60), "rounds go through after heal", async {
                while clean() < enough {
                    time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await
    }

    async fn live(own: SocketAddr, next: SocketAddr) {
        let Ok(mut listener) = Listener::bind(own).await else { return };
        task::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                task::spawn(async move { while let Ok(Some(_)) = connection.receiver.recv().await {} });
            }
        });
        for nth in 0u64.. {
            let patience = Duration::from_millis(500);
            let (disk, net, store) = join3(write(nth), send(next, patience), put(own, nth)).await;
            point!(ROUND);
            match disk.and(net).and(store) {
                Ok(()) => point!(CLEAN),
                Err(error) => tracing::debug!(error, "a round failed"),
            }
        }
    }

    async fn write(nth: u64) -> Result<(), Failure> {
        let file = File::create("/new").await?;
        file.write_all_at(&nth.to_le_bytes(), 0).await?;
        file.sync_all().await?;
        fs::rename("/new", "/old").await?;
        fs::sync_dir("/").await?;
        fs::read("/old").await?;
        Ok(())
    }

    async fn send(next: SocketAddr, patience: Duration) -> Result<(), Failure> {
        time::timeout(patience, async {
            let mut connection = Connection::connect(next).await?;
            for _ in 0..5 {
                connection.sender.send(Bytes::from_static(b"frame")).await?;
                time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        })
        .await?
    }

    async fn put(own: SocketAddr, nth: u64) -> Result<(), Failure> {
        let store = objects::open("sim://busy")?;
        let key = Path::from(format!("{}-{}", own.ip(), nth % 3));
        store.put(&key, Bytes::from_static(b"object").into()).await?;
        store.get(&key).await?;
        store.delete(&key).await?;
        Ok(())
    }
}
