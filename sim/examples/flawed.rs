//! Small systems with one flaw each, of which the smallest plan that shows it is known: what the shrinker is tested with.
//!
//! ```text
//! cargo run -p cutwater-sim --example flawed -- sweep third_put --seeds 30
//! cargo run -p cutwater-sim --example flawed -- shrink recover_twice:4
//! ```
//! All of them are one desk: a process that keeps a map, writes the whole of it to a file for each change, and reads it
//! again when it starts. The flaws differ in what it takes to see them: operations alone, clients at the same time, a crash,
//! two crashes, an error, a pause.

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    let scenarios: Vec<&dyn cutwater_sim::Scenario> = scenario::ALL_FLAWS.iter().map(|s| s as _).collect();
    cutwater_sim::cli::main(&scenarios, desk::ALL.to_vec())
}

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    cutwater_sim::refuse()
}

/// The system under test.
#[cfg(madsim)]
mod desk {
    use std::collections::BTreeMap;
    use std::io;
    use std::time::Duration;

    use cutwater_io::fs::{self, File};
    use cutwater_io::{point, time};

    cutwater_io::points! {
        point CHANGED = "desk.changed": "a change is durable and not yet acknowledged";
        point RECOVERING = "desk.recovering": "the journal is read";
    }

    /// What is wrong.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub enum Flaw {
        Unsynced,
        ErrorIgnored,
        ThirdPut,
        StaleDelete,
        RecoverTwice,
        BigValue,
        TwoAdds,
        Paused,
    }

    /// A value, and how long it claims to be.
    pub type Values = BTreeMap<u64, (u64, u64)>;
    /// The key that `add` counts under.
    pub const COUNTER: u64 = u64::MAX;
    const PATIENCE: Duration = Duration::from_millis(100);

    pub struct Desk {
        flaw: Flaw,
        pub values: Values,
        puts: BTreeMap<u64, u64>,
        deleted: Option<(u64, (u64, u64))>,
    }

    impl Desk {
        pub async fn open(flaw: Flaw) -> io::Result<Desk> {
            let mut desk = Desk { flaw, values: Values::new(), puts: BTreeMap::new(), deleted: None };
            desk.load().await?;
            if flaw == Flaw::RecoverTwice
                && let Some(journal) = read("/journal").await?
            {
                fs::remove_file("/journal").await?;
                fs::sync_dir("/").await?;
                point!(RECOVERING);
                desk.values.extend(decode(&journal));
                desk.write("/desk").await?;
            }
            Ok(desk)
        }

        async fn load(&mut self) -> io::Result<()> {
            self.values = read("/desk").await?.map(|bytes| decode(&bytes)).unwrap_or_default();
            if self.flaw == Flaw::BigValue {
                self.values.retain(|_, (_, len)| *len < 1000);
            }
            Ok(())
        }

        async fn write(&self, path: &str) -> io::Result<()> {
            let bytes: Vec<u8> = self
                .values
                .iter()
                .flat_map(|(k, (v, len))| [*k, *v, *len])
                .flat_map(u64::to_le_bytes)
                .collect();
            let new = format!("{path}.new");
            let file = File::create(&new).await?;
            let written = file.write_all_at(&bytes, 0).await;
            if self.flaw != Flaw::ErrorIgnored {
                written?;
            }
            if self.flaw != Flaw::Unsynced {
                file.sync_all().await?;
            }
            fs::rename(&new, path).await?;
            fs::sync_dir("/").await
        }

        async fn change(&mut self, key: u64, to: Option<(u64, u64)>) -> io::Result<()> {
            let started = time::now();
            let before = self.values.get(&key).copied();
            match to {
                Some(value) => self.values.insert(key, value),
                None => self.values.remove(&key),
            };
            self.write(if self.flaw == Flaw::RecoverTwice { "/journal" } else { "/desk" }).await?;
            point!(CHANGED);
            if self.flaw == Flaw::Paused && started.elapsed() > PATIENCE {
                // Takes itself for too late, and forgets to say so.
                self.values.remove(&key);
                self.values.extend(before.map(|before| (key, before)));
                self.write("/desk").await?;
            }
            Ok(())
        }

        pub async fn put(&mut self, key: u64, value: u64, len: u64) -> io::Result<()> {
            let puts = self.puts.entry(key).or_default();
            *puts += 1;
            if self.flaw == Flaw::ThirdPut && *puts == 3 {
                return Ok(());
            }
            self.change(key, Some((value, len))).await
        }

        pub async fn delete(&mut self, key: u64) -> io::Result<()> {
            self.deleted = self.values.get(&key).map(|value| (key, *value)).or(self.deleted);
            self.change(key, None).await
        }

        pub async fn compact(&mut self) -> io::Result<()> {
            match self.deleted.take() {
                Some((key, value)) if self.flaw == Flaw::StaleDelete => self.change(key, Some(value)).await,
                _ => Ok(()),
            }
        }

        pub async fn reopen(&mut self) -> io::Result<()> {
            // The journal is the newest there is; a clean close leaves it behind.
            if self.flaw == Flaw::RecoverTwice { Ok(()) } else { self.load().await }
        }

        pub fn counter(&self) -> u64 {
            self.values.get(&COUNTER).map_or(0, |(count, _)| *count)
        }

        pub async fn set_counter(&mut self, count: u64) -> io::Result<()> {
            self.change(COUNTER, Some((count, 0))).await
        }
    }

    async fn read(path: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            bytes => bytes.map(|bytes| Some(bytes.to_vec())),
        }
    }

    fn decode(bytes: &[u8]) -> Values {
        let word =
            |chunk: &[u8], i: usize| u64::from_le_bytes(chunk[i * 8..][..8].try_into().expect("eight bytes"));
        bytes.chunks_exact(24).map(|chunk| (word(chunk, 0), (word(chunk, 1), word(chunk, 2)))).collect()
    }
}

/// What is run and what must hold: of each key the last acknowledged change is there, or one that was asked for after it.
#[cfg(madsim)]
mod scenario {
    use std::collections::BTreeMap;
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use cutwater_io::time;
    use cutwater_sim::plan::Op;
    use cutwater_sim::vocabulary::{Knob, Role, Verb};
    use cutwater_sim::world::Ops;
    use cutwater_sim::{FaultClass, OracleInfo, Scenario, Violation, Vocabulary, World};
    use futures::FutureExt;
    use futures::future::{LocalBoxFuture, join_all};
    use futures::lock::Mutex as Turn;

    use super::desk::{ALL, COUNTER, Desk, Flaw, Values};

    pub struct Flawed {
        name: &'static str,
        about: &'static str,
        flaw: Flaw,
    }

    pub const ALL_FLAWS: [Flawed; 8] = [
        Flawed { name: "unsynced", about: "a put and a power failure", flaw: Flaw::Unsynced },
        Flawed { name: "error_ignored", about: "a put and a failed write", flaw: Flaw::ErrorIgnored },
        Flawed { name: "third_put", about: "three puts of one key", flaw: Flaw::ThirdPut },
        Flawed { name: "stale_delete", about: "a put, a delete, a compaction", flaw: Flaw::StaleDelete },
        Flawed { name: "recover_twice", about: "a put and two crashes", flaw: Flaw::RecoverTwice },
        Flawed { name: "big_value", about: "a large put, and a reopen or a crash", flaw: Flaw::BigValue },
        Flawed { name: "two_adds", about: "two clients at once", flaw: Flaw::TwoAdds },
        Flawed { name: "paused", about: "a put and a pause", flaw: Flaw::Paused },
    ];

    impl Scenario for Flawed {
        fn name(&self) -> &'static str {
            self.name
        }
        fn about(&self) -> &'static str {
            self.about
        }
        fn vocabulary(&self) -> Vocabulary {
            use FaultClass as F;
            Vocabulary {
                roles: vec![Role::new("desk", "keeps the map", 1..=1)],
                actors: 1..=3,
                ops: 10..=120,
                verbs: vec![
                    Verb::new("put", "writes a key").arg("key", 0..=5).log_arg("len", 0..=4000).always(),
                    Verb::new("delete", "deletes a key").arg("key", 0..=5),
                    Verb::new("add", "adds one to the counter"),
                    Verb::new("compact", "forgets what was deleted"),
                    Verb::new("reopen", "reads the file again"),
                ],
                knobs: vec![Knob::new("think_ms", "milliseconds that an addition takes", 2, 1..=20)],
                points: ALL.to_vec(),
                classes: vec![],
                faults: vec![F::ProcessKill, F::PowerFail, F::DiskError, F::DiskSlow, F::Pause],
                horizon_us: 200_000..=3_000_000,
            }
        }
        fn oracles(&self) -> &'static [OracleInfo] {
            &[OracleInfo { name: "memory", about: "the last acknowledged change is there" }]
        }
        fn run<'a>(&'a self, world: &'a World) -> LocalBoxFuture<'a, Result<(), Violation>> {
            run(self.flaw, world).boxed_local()
        }
    }

    /// What was asked for: key, value (`None` for a deletion), acknowledged.
    type Attempts = Arc<Mutex<Vec<(u64, Option<u64>, bool)>>>;

    struct Shared {
        flaw: Flaw,
        think: Duration,
        clients: BTreeMap<u16, Turn<Ops>>,
        attempts: Attempts,
        /// What the running process holds.
        seen: Mutex<Option<Values>>,
    }

    async fn run(flaw: Flaw, world: &World) -> Result<(), Violation> {
        let clients = world.actors().into_iter().map(|actor| (actor, Turn::new(world.ops(actor)))).collect();
        let think = Duration::from_millis(world.knob("think_ms"));
        let shared =
            Arc::new(Shared { flaw, think, clients, attempts: Attempts::default(), seen: Mutex::default() });
        let for_node = shared.clone();
        world.node("desk", 0, move |_| {
            let shared = for_node.clone();
            async move {
                *shared.seen.lock().unwrap() = None;
                // An error ends the process; the next one reads what is there.
                let _ = shared.process().await;
            }
        });
        world.until_horizon().await;
        world.heal().await;
        let read = async {
            loop {
                time::sleep(Duration::from_millis(20)).await;
                if let Some(seen) = shared.seen.lock().unwrap().clone() {
                    return seen;
                }
            }
        };
        // Whatever was under way at the horizon comes to its end.
        time::sleep(Duration::from_secs(5)).await;
        let seen = world.within(Duration::from_secs(20), "the desk opens", read).await?;
        judge(&shared.attempts.lock().unwrap(), &seen)
    }

    impl Shared {
        async fn process(&self) -> io::Result<()> {
            let desk = Turn::new(Desk::open(self.flaw).await?);
            *self.seen.lock().unwrap() = Some(desk.lock().await.values.clone());
            let clients = self.clients.values().map(|ops| async {
                while let Some(op) = ops.lock().await.next().await {
                    self.one(&desk, &op).await?;
                }
                Ok::<(), io::Error>(())
            });
            futures::future::try_join_all(clients.collect::<Vec<_>>()).await?;
            join_all([futures::future::pending::<()>()]).await;
            Ok(())
        }

        async fn one(&self, desk: &Turn<Desk>, op: &Op) -> io::Result<()> {
            let value = u64::from(op.id) + 1;
            if op.verb == "add" {
                return self.add(desk).await;
            }
            let mut desk = desk.lock().await;
            let key = op.args.first().copied().unwrap_or_default();
            match op.verb.as_str() {
                "put" => {
                    let nth = self.attempt(key, Some(value));
                    desk.put(key, value, op.args[1]).await?;
                    self.done(nth);
                }
                "delete" => {
                    let nth = self.attempt(key, None);
                    desk.delete(key).await?;
                    self.done(nth);
                }
                "compact" => desk.compact().await?,
                _ => desk.reopen().await?,
            }
            *self.seen.lock().unwrap() = Some(desk.values.clone());
            Ok(())
        }

        async fn add(&self, desk: &Turn<Desk>) -> io::Result<()> {
            let mut held = Some(desk.lock().await);
            let count = held.as_ref().map_or(0, |desk| desk.counter());
            if self.flaw == Flaw::TwoAdds {
                held = None;
            }
            time::sleep(self.think).await;
            let mut desk = match held {
                Some(desk) => desk,
                None => desk.lock().await,
            };
            let nth = self.attempt(COUNTER, Some(count + 1));
            desk.set_counter(count + 1).await?;
            self.done(nth);
            *self.seen.lock().unwrap() = Some(desk.values.clone());
            Ok(())
        }

        fn attempt(&self, key: u64, value: Option<u64>) -> usize {
            let mut attempts = self.attempts.lock().unwrap();
            attempts.push((key, value, false));
            attempts.len() - 1
        }

        fn done(&self, nth: usize) {
            self.attempts.lock().unwrap()[nth].2 = true;
        }
    }

    fn judge(attempts: &[(u64, Option<u64>, bool)], seen: &Values) -> Result<(), Violation> {
        let adds = attempts.iter().filter(|(key, _, done)| *key == COUNTER && *done).count() as u64;
        let counted = seen.get(&COUNTER).map_or(0, |(count, _)| *count);
        if counted < adds {
            return Err(Violation::new("memory", "every addition counts").expected(adds).found(counted));
        }
        for key in 0..6 {
            let of_key: Vec<_> = attempts.iter().filter(|(k, ..)| *k == key).collect();
            let last = of_key.iter().rposition(|(_, _, done)| *done);
            let mut allowed: Vec<Option<u64>> =
                of_key[last.unwrap_or(0)..].iter().map(|(_, value, _)| *value).collect();
            if last.is_none() {
                allowed.push(None);
            }
            let found = seen.get(&key).map(|(value, _)| *value);
            if !allowed.contains(&found) {
                return Err(Violation::new("memory", "the last acknowledged change is there")
                    .of("key")
                    .expected(format!("key {key} to be one of {allowed:?}"))
                    .found(format!("{found:?}")));
            }
        }
        Ok(())
    }
}
