//! A complete small system and its scenario, in one file: a server that appends values to a log on its disk and
//! acknowledges each once it is durable.
//!
//! ```text
//! cargo run -p cutwater-sim --example toy                                # sweeps
//! cargo run -p cutwater-sim --example toy -- replay log:7 --trace        # one seed, as a story
//! cargo run -p cutwater-sim --example toy -- sweep log_unsynced          # the same server without its fsync
//! ```
//! Every value that was acknowledged must be in the log after any crash, and nothing may be there that was never sent. The
//! second scenario runs a server that forgets to sync: the harness must find that out.

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    cutwater_sim::cli::main(
        &[&scenario::Log { syncs: true }, &scenario::Log { syncs: false }],
        server::ALL.to_vec(),
    )
}

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    cutwater_sim::refuse()
}

/// The system under test. It knows nothing of the simulation: it could run on a real disk and a real network.
#[cfg(madsim)]
mod server {
    use std::io;
    use std::net::SocketAddr;
    use std::sync::Arc;

    use bytes::Bytes;
    use cutwater_io::fs::{self, File};
    use cutwater_io::net::{Connection, Listener};
    use cutwater_io::{point, sometimes, task};
    use futures::lock::Mutex;

    cutwater_io::points! {
        point APPENDED = "log.appended": "a record is written and not yet synced";
        point SYNCED = "log.synced": "a record is durable and not yet acknowledged";
        sometimes TORN_TAIL = "log.torn_tail": "recovery cut off a record that was not whole";
        sometimes RECOVERED = "log.recovered": "recovery found records";
    }

    /// A record: the value, and a checksum that no prefix of zeros or garbage has by accident.
    const RECORD_BYTES: usize = 16;

    struct Log {
        file: File,
        end_bytes: u64,
        values: Vec<u64>,
        syncs: bool,
    }

    fn check(value: u64) -> u64 {
        (value ^ 0x6c6f_6720_746f_7921).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    }

    impl Log {
        /// Reads what there is, cuts off what is not whole, and writes the rest to a new file under the old name.
        ///
        /// The old file will not do: if an earlier process failed to sync it, or its name, the cache takes both for clean,
        /// and no later sync writes them. (The first version of this example went on with it; the sweep found out.)
        async fn open(syncs: bool) -> io::Result<Log> {
            let old = match fs::read("/log").await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                read => read?,
            };
            let mut values = Vec::new();
            for record in old.chunks_exact(RECORD_BYTES) {
                let (value, sum) = record.split_at(8);
                let value = u64::from_le_bytes(value.try_into().expect("eight bytes"));
                if sum != check(value).to_le_bytes() {
                    break;
                }
                values.push(value);
            }
            let end_bytes = (values.len() * RECORD_BYTES) as u64;
            sometimes!(RECOVERED, end_bytes > 0);
            sometimes!(TORN_TAIL, end_bytes < old.len() as u64);
            let file = File::create("/log.new").await?;
            file.write_all_at(&old[..end_bytes as usize], 0).await?;
            file.sync_all().await?;
            fs::rename("/log.new", "/log").await?;
            fs::sync_dir("/").await?;
            Ok(Log { file, end_bytes, values, syncs })
        }

        async fn append(&mut self, value: u64) -> io::Result<()> {
            let mut record = value.to_le_bytes().to_vec();
            record.extend_from_slice(&check(value).to_le_bytes());
            self.file.write_all_at(&record, self.end_bytes).await?;
            point!(APPENDED);
            if self.syncs {
                self.file.sync_data().await?;
            }
            self.end_bytes += RECORD_BYTES as u64;
            self.values.push(value);
            point!(SYNCED);
            Ok(())
        }
    }

    /// Serves until something goes wrong with the disk: then the process ends, and a new one reads what is durable. (A log
    /// that goes on after a failed write or sync would have to know which of its records are.)
    pub async fn serve(address: SocketAddr, syncs: bool) -> io::Result<()> {
        let log = Arc::new(Mutex::new(Log::open(syncs).await?));
        let mut listener = Listener::bind(address).await?;
        let (failed, mut failure) = futures::channel::mpsc::unbounded();
        loop {
            futures::select_biased! {
                error = futures::StreamExt::next(&mut failure) => return error.map_or(Ok(()), Err),
                accepted = futures::FutureExt::fuse(listener.accept()) => {
                    let (connection, _) = accepted?;
                    let (log, failed) = (log.clone(), failed.clone());
                    task::spawn(async move {
                        if let Err(error) = talk(connection, &log).await {
                            // The receiver is gone if the server is.
                            let _ = failed.unbounded_send(error);
                        }
                    });
                }
            }
        }
    }

    /// Answers one client: eight bytes are a value to append, an empty frame asks for all values.
    ///
    /// # Errors
    /// Those of the disk; the connection's only end it.
    async fn talk(mut connection: Connection, log: &Mutex<Log>) -> io::Result<()> {
        while let Ok(Some(frame)) = connection.receiver.recv().await {
            let answer = match <[u8; 8]>::try_from(&frame[..]) {
                Ok(bytes) => {
                    log.lock().await.append(u64::from_le_bytes(bytes)).await?;
                    frame
                }
                Err(_) => log.lock().await.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            };
            if connection.sender.send(answer).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Sends `frame` and waits for its answer.
    pub async fn ask(address: SocketAddr, frame: Bytes) -> io::Result<Bytes> {
        let mut connection = Connection::connect(address).await?;
        connection.sender.send(frame).await?;
        connection.receiver.recv().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// What is run and what must hold.
#[cfg(madsim)]
mod scenario {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::time::Duration;

    use bytes::Bytes;
    use cutwater_io::time;
    use cutwater_sim::history::Answer;
    use cutwater_sim::vocabulary::{Knob, Role, Verb};
    use cutwater_sim::{Demands, FaultClass, History, OracleInfo, Scenario, Violation, Vocabulary, World};
    use futures::FutureExt;
    use futures::future::{LocalBoxFuture, join_all};

    use super::server;

    const PORT: u16 = 7000;

    pub struct Log {
        pub syncs: bool,
    }

    impl Scenario for Log {
        fn name(&self) -> &'static str {
            if self.syncs { "log" } else { "log_unsynced" }
        }
        fn about(&self) -> &'static str {
            if self.syncs {
                "a server appends, syncs, acknowledges"
            } else {
                "the same server without its sync"
            }
        }
        fn vocabulary(&self) -> Vocabulary {
            use FaultClass as F;
            Vocabulary {
                roles: vec![Role::new("server", "keeps the log", 1..=1)],
                actors: 1..=3,
                ops: 5..=60,
                verbs: vec![Verb::new("append", "appends a value made of the operation's id").always()],
                knobs: vec![Knob::new(
                    "patience_ms",
                    "milliseconds a client waits for an answer",
                    300,
                    20..=2_000,
                )],
                points: server::ALL.to_vec(),
                classes: vec!["log"],
                faults: vec![
                    F::ProcessKill,
                    F::PowerFail,
                    F::DiskError,
                    F::DiskFull,
                    F::FsyncFailure,
                    F::DiskSlow,
                    F::NetReset,
                    F::Pause,
                ],
                horizon_us: 200_000..=3_000_000,
            }
        }
        fn oracles(&self) -> &'static [OracleInfo] {
            &[
                OracleInfo {
                    name: "durability",
                    about: "what was acknowledged is there, and nothing that was never sent",
                },
                OracleInfo { name: "liveness", about: "after heal the server answers" },
            ]
        }
        fn demands(&self) -> Demands {
            Demands {
                after_plans: 200,
                delivered: self.vocabulary().faults,
                points: vec![server::APPENDED.name, server::SYNCED.name],
                sometimes: vec![server::RECOVERED.name, server::TORN_TAIL.name],
                ..Demands::default()
            }
        }
        fn classify(&self) -> fn(&Path) -> &'static str {
            |path| if path.ends_with("log") { "log" } else { "other" }
        }
        fn run<'a>(&'a self, world: &'a World) -> LocalBoxFuture<'a, Result<(), Violation>> {
            run(self.syncs, world).boxed_local()
        }
    }

    /// What a client asks for.
    #[derive(Clone, Copy)]
    struct Append(u64);

    impl std::fmt::Display for Append {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "append {}", self.0)
        }
    }

    async fn run(syncs: bool, world: &World) -> Result<(), Violation> {
        let server = world.node_id("server", 0);
        let address = world.address(server, PORT);
        let noting = world.clone();
        world.node("server", 0, move |_| {
            let world = noting.clone();
            async move {
                if let Err(error) = server::serve(address, syncs).await {
                    world.note("server", &format!("gives up: {error}"));
                }
            }
        });

        // Safety: clients append while everything breaks.
        let history: History<Append, ()> = History::new();
        let patience = Duration::from_millis(world.knob("patience_ms"));
        let clients = world.actors().into_iter().map(|actor| {
            let (mut ops, history) = (world.ops(actor), history.clone());
            world.client(&format!("client-{actor}"), async move {
                while let Some(op) = ops.next().await {
                    let value = u64::from(op.id) + 1;
                    let call = history.invoke(actor, Append(value));
                    let frame = Bytes::copy_from_slice(&value.to_le_bytes());
                    match time::timeout(patience, server::ask(address, frame)).await {
                        Ok(Ok(_)) => history.ok(call, ()),
                        Ok(Err(error)) => history.info(call, error),
                        Err(elapsed) => history.info(call, elapsed),
                    }
                }
            })
        });
        join_all(clients.collect::<Vec<_>>()).await;
        world.until_horizon().await;

        // Liveness: nothing breaks any more, the server answers. Safety once more: what it answers is right.
        world.heal().await;
        let reader = world.client("reader", async move {
            loop {
                if let Ok(Ok(all)) =
                    time::timeout(Duration::from_secs(1), server::ask(address, Bytes::new())).await
                {
                    return all;
                }
                time::sleep(Duration::from_millis(50)).await;
            }
        });
        let all = world.within(Duration::from_secs(30), "the server answers", reader).await?;
        judge(&history, &all)
    }

    fn judge(history: &History<Append, ()>, all: &[u8]) -> Result<(), Violation> {
        let found: BTreeSet<u64> =
            all.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("eight bytes"))).collect();
        let entries = history.entries();
        for entry in entries.iter().filter(|entry| entry.answer == Some(Answer::Ok(()))) {
            if !found.contains(&entry.call.0) {
                return Err(Violation::new("durability", "an acknowledged value is in the log")
                    .of("value")
                    .expected(format!("{}, acknowledged at {:?} us", entry.call.0, entry.answered_us))
                    .found(format!("only {found:?}")));
            }
        }
        let sent: BTreeSet<u64> = entries.iter().map(|entry| entry.call.0).collect();
        match found.difference(&sent).next() {
            Some(value) => Err(Violation::new("durability", "every value in the log was sent")
                .of("value")
                .expected(format!("some of {sent:?}"))
                .found(value)),
            None => Ok(()),
        }
    }
}
