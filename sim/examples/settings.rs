//! A system of your own under test, with its scenario, in 170 lines: a file that is replaced as a whole.
//!
//! ```text
//! cargo run -p cutwater-sim --example settings                             # sweeps
//! cargo run -p cutwater-sim --example settings -- replay settings:5 --trace
//! ```
//! The first half is the system; it knows nothing of the simulation. The second half says what is run and what must hold.
//! `docs/writing-a-scenario.md` walks through it; take out one of the two syncs, and a sweep names the seed that loses data.

#[cfg(madsim)]
mod settings {
    use cutwater_io::fs::{self, File};
    use cutwater_io::point;
    use std::io;

    cutwater_io::points! {
        point WRITTEN = "settings.written": "the new file is durable, and nobody knows it yet";
        point RENAMED = "settings.renamed": "the new file has the name, and a crash may still take it back";
    }

    /// The version that was saved last; 0 if none was.
    pub async fn load() -> io::Result<u64> {
        match fs::read("/settings").await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Ok(bytes) => match <[u8; 8]>::try_from(bytes) {
                Ok(bytes) => Ok(u64::from_le_bytes(bytes)),
                Err(bytes) => Err(io::Error::other(format!("/settings has {} bytes, not 8", bytes.len()))),
            },
            Err(error) => Err(error),
        }
    }

    /// Saves a version. When this returns `Ok`, it is durable.
    pub async fn save(version: u64) -> io::Result<()> {
        let file = File::create("/settings.new").await?;
        file.write_all_at(&version.to_le_bytes(), 0).await?;
        file.sync_all().await?;
        point!(WRITTEN);
        fs::rename("/settings.new", "/settings").await?;
        point!(RENAMED);
        fs::sync_dir("/").await
    }
}

#[cfg(madsim)]
mod scenario {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use cutwater_io::time;
    use cutwater_sim::vocabulary::{Role, Verb};
    use cutwater_sim::world::Ops;
    use cutwater_sim::{Demands, FaultClass, OracleInfo, Scenario, Violation, Vocabulary, World};
    use futures::FutureExt;
    use futures::future::LocalBoxFuture;
    use futures::lock::Mutex as AsyncMutex;

    use super::settings;

    pub struct Settings;

    impl Scenario for Settings {
        fn name(&self) -> &'static str {
            "settings"
        }
        fn about(&self) -> &'static str {
            "a file is replaced as a whole, again and again"
        }
        fn oracles(&self) -> &'static [OracleInfo] {
            &[OracleInfo {
                name: "durability",
                about: "a version that was saved is not lost, none is made up",
            }]
        }
        fn vocabulary(&self) -> Vocabulary {
            use FaultClass as F;
            Vocabulary {
                roles: vec![Role::new("machine", "keeps the file", 1..=1)],
                actors: 1..=1,
                ops: 1..=30,
                verbs: vec![Verb::new("save", "saves the next version").always()],
                knobs: vec![],
                points: settings::ALL.to_vec(),
                classes: vec![],
                faults: vec![F::ProcessKill, F::PowerFail, F::DiskError, F::DiskFull, F::FsyncFailure],
                horizon_us: 50_000..=500_000,
            }
        }
        fn demands(&self) -> Demands {
            Demands {
                after_plans: 500,
                delivered: self.vocabulary().faults,
                points: settings::ALL.iter().map(|point| point.name).collect(),
                ..Demands::default()
            }
        }
        fn run<'a>(&'a self, world: &'a World) -> LocalBoxFuture<'a, Result<(), Violation>> {
            run(world).boxed_local()
        }
    }

    /// What must be there and what may be there. It lives outside of the machine, so that no crash touches it.
    #[derive(Default)]
    struct Owed {
        attempted: u64,
        saved: u64,
        done: bool,
    }

    impl Owed {
        fn judge(&self, found: u64) -> Result<(), Violation> {
            if (self.saved..=self.attempted).contains(&found) {
                return Ok(());
            }
            Err(Violation::new("durability", "the file holds the version saved last, or a later one")
                .of("version")
                .expected(format!("{} to {}", self.saved, self.attempted))
                .found(found))
        }
    }

    /// One process of the machine: it looks at what it finds, then saves version after version. It ends with the first
    /// error; the harness starts the next.
    async fn process(world: World, owed: Arc<Mutex<Owed>>, ops: Arc<AsyncMutex<Ops>>) {
        let Ok(found) = settings::load().await else { return };
        if let Err(violation) = owed.lock().unwrap().judge(found) {
            world.object(violation);
        }
        let mut ops = ops.lock().await;
        while ops.next().await.is_some() {
            let version = {
                let mut owed = owed.lock().unwrap();
                owed.attempted += 1;
                owed.attempted
            };
            let Ok(()) = settings::save(version).await else { return };
            owed.lock().unwrap().saved = version;
        }
        owed.lock().unwrap().done = true;
        std::future::pending().await
    }

    async fn run(world: &World) -> Result<(), Violation> {
        let owed = Arc::new(Mutex::new(Owed::default()));
        let shared = (world.clone(), owed.clone(), Arc::new(AsyncMutex::new(world.ops(0))));
        world.node("machine", 0, move |_| {
            let (world, owed, ops) = shared.clone();
            process(world, owed, ops)
        });
        // Safety: everything breaks. Then nothing does any more, and the work must come to its end.
        world.until_horizon().await;
        world.heal().await;
        world
            .within(Duration::from_secs(10), "every version is saved in the end", async {
                while !owed.lock().unwrap().done {
                    time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await
    }
}

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    cutwater_sim::cli::main(&[&scenario::Settings], settings::ALL.to_vec())
}

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    cutwater_sim::refuse()
}
