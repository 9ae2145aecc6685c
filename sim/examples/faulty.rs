//! Scenarios that fail on purpose, one for each way in which a run can end: what the harness itself is tested with.
//!
//! ```text
//! cargo run -p cutwater-sim --example faulty -- sweep healthy --seeds 1000
//! ```
//! There is no system under test and no device: nodes that tick and pass a point, and are killed and paused.

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    faulty::main()
}

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    cutwater_sim::refuse()
}

#[cfg(madsim)]
mod faulty {
    use std::process::ExitCode;
    use std::time::Duration;

    use cutwater_io::{never, point, sometimes, time};
    use cutwater_sim::vocabulary::{Knob, Role, Verb};
    use cutwater_sim::{Demands, FaultClass, OracleInfo, Scenario, Violation, Vocabulary, World};
    use futures::FutureExt;
    use futures::future::LocalBoxFuture;

    cutwater_io::points! {
        point TICK = "faulty.tick": "a node has ticked";
        point NEVER = "faulty.never": "no node gets here";
        sometimes RESTARTED = "faulty.restarted": "a node was started again";
        never BROKEN = "faulty.broken": "a node that breaks was started again";
    }

    /// How a scenario fails.
    #[derive(Clone, Copy, PartialEq)]
    enum Way {
        Healthy,
        Violates,
        Breaks,
        Panics,
        Aborts,
        Hangs,
        Flickers,
        Stalls,
        Drifts,
        Blind,
    }

    struct Faulty {
        name: &'static str,
        about: &'static str,
        way: Way,
    }

    const ALL_WAYS: [Faulty; 10] = [
        Faulty { name: "healthy", about: "nodes tick, die, and tick again", way: Way::Healthy },
        Faulty { name: "violates", about: "an oracle objects once a node was killed", way: Way::Violates },
        Faulty { name: "breaks", about: "what must never hold does, and no oracle knows", way: Way::Breaks },
        Faulty { name: "panics", about: "a node panics", way: Way::Panics },
        Faulty { name: "aborts", about: "a node aborts the process", way: Way::Aborts },
        Faulty { name: "hangs", about: "a task never yields", way: Way::Hangs },
        Faulty {
            name: "flickers",
            about: "hangs once, as long as there is no file $FAULTY_MARK",
            way: Way::Flickers,
        },
        Faulty { name: "stalls", about: "after heal nothing happens any more", way: Way::Stalls },
        Faulty { name: "drifts", about: "a node uses randomness from outside", way: Way::Drifts },
        Faulty { name: "blind", about: "demands a point that is never passed", way: Way::Blind },
    ];

    pub(super) fn main() -> ExitCode {
        let scenarios: Vec<&dyn Scenario> = ALL_WAYS.iter().map(|s| s as &dyn Scenario).collect();
        cutwater_sim::cli::main(&scenarios, ALL.to_vec())
    }

    impl Scenario for Faulty {
        fn name(&self) -> &'static str {
            self.name
        }
        fn about(&self) -> &'static str {
            self.about
        }
        fn vocabulary(&self) -> Vocabulary {
            Vocabulary {
                roles: vec![Role::new("ticker", "ticks", 1..=3)],
                actors: 1..=2,
                ops: 0..=10,
                verbs: vec![Verb::new("look", "looks at the clock")],
                knobs: vec![Knob::new("tick_ms", "milliseconds between ticks", 10, 1..=100)],
                points: ALL.to_vec(),
                classes: vec![],
                faults: vec![FaultClass::ProcessKill, FaultClass::Pause],
                horizon_us: 100_000..=1_000_000,
            }
        }
        fn oracles(&self) -> &'static [OracleInfo] {
            &[OracleInfo { name: "ticking", about: "after heal every node ticks" }]
        }
        fn demands(&self) -> Demands {
            let points = if self.way == Way::Blind { vec!["faulty.never"] } else { vec!["faulty.tick"] };
            Demands {
                after_plans: 20,
                delivered: vec![FaultClass::ProcessKill],
                points,
                ..Demands::default()
            }
        }
        fn run<'a>(&'a self, world: &'a World) -> LocalBoxFuture<'a, Result<(), Violation>> {
            run(self.way, world).boxed_local()
        }
    }

    async fn run(way: Way, world: &World) -> Result<(), Violation> {
        let tick = Duration::from_millis(world.knob("tick_ms"));
        for index in 0..world.count("ticker") {
            world.node("ticker", index, move |start| async move {
                sometimes!(RESTARTED, start.nth > 1);
                never!(BROKEN, way == Way::Breaks && start.nth > 1);
                assert_eq!(start.nth > 1, start.died_of.is_some(), "{start:?}");
                fail_on_node(way, start.nth);
                loop {
                    time::sleep(tick).await;
                    point!(TICK);
                }
            });
        }
        let mut ops = world.ops(0);
        while ops.next().await.is_some() {}
        world.until_horizon().await;
        world.heal().await;
        let before = ticks(world);
        let limit = Duration::from_secs(10);
        world
            .within(limit, "every node ticks after heal", async {
                let enough = if way == Way::Stalls { u64::MAX } else { before + 2 * world.count("ticker") };
                while ticks(world) < enough {
                    time::sleep(tick).await;
                }
            })
            .await?;
        let killed = world.env().sometimes_seen().contains_key(RESTARTED.name);
        if way == Way::Violates && killed {
            return Err(Violation::new("ticking", "no node dies").of("node").expected("none").found("one"));
        }
        Ok(())
    }

    fn ticks(world: &World) -> u64 {
        world.env().points_passed().get(TICK.name).copied().unwrap_or(0)
    }

    #[expect(
        clippy::disallowed_methods,
        clippy::disallowed_types,
        reason = "the point of `drifts` and `flickers` is to break this rule"
    )]
    fn fail_on_node(way: Way, starts: u64) {
        match way {
            Way::Panics if starts > 1 => panic!("a second start"),
            Way::Aborts if starts > 1 => std::process::abort(),
            Way::Hangs if starts > 1 => loop {
                std::hint::spin_loop();
            },
            Way::Flickers => {
                let mark = std::env::var_os("FAULTY_MARK");
                let is_first = mark.is_some_and(|mark| std::fs::File::create_new(mark).is_ok());
                if is_first {
                    loop {
                        std::hint::spin_loop();
                    }
                }
            }
            Way::Drifts => {
                let uuid = std::fs::read("/proc/sys/kernel/random/uuid").unwrap_or_default();
                let node = cutwater_io::sim::Env::node();
                cutwater_io::sim::Env::current()
                    .emit(node, "outside", &uuid, || String::from_utf8_lossy(&uuid).trim().to_string());
            }
            _ => {}
        }
    }
}
