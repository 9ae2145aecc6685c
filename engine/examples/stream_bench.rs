//! How fast a job is, how long its checkpoints take, and how long it stands still when something is lost.
//!
//! ```text
//! RUSTFLAGS="" cargo run --release -p cutwater-engine --example stream_bench -- DIR
//! ```
//! The job counts and sums by key: random keys out of `--keys`, state in an incremental store, a checkpoint every
//! `--interval-ms`. It runs in this process, with a coordinator and one worker, on a directory. After the run at full speed, a
//! task fails, and then the job is stopped with a savepoint and started again from it; each time it is measured until the next
//! record is processed.

#[cfg(madsim)]
fn main() {
    eprintln!("this is the simulated build; run it with RUSTFLAGS=\"\"");
    std::process::exit(2);
}

#[cfg(not(madsim))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use clap::Parser;
    let options = bench::Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(bench::run(&options))
}

#[cfg(not(madsim))]
mod bench {
    use std::path::PathBuf;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use cutwater_engine::checkpoint::barrier::{SavepointFormat, Stop};
    use cutwater_engine::checkpoint::history::{EntryStatus, Present};
    use cutwater_engine::checkpoint::job_state::ClaimMode;
    use cutwater_engine::checkpoint::request::{Request, RequestKind};
    use cutwater_engine::cluster::console::TriggerStatus;
    use cutwater_engine::cluster::local::{LocalCluster, LocalConfig};
    use cutwater_engine::cluster::rpc::{JobPhase, JobSpec};
    use cutwater_engine::state::kinds::ValueState;
    use cutwater_engine::stream::Error;
    use cutwater_engine::stream::functions::{Collector, ProcessFunction};
    use cutwater_engine::stream::graph::JobGraph;
    use cutwater_engine::stream::job::Job;
    use cutwater_engine::stream::operator::Context;
    use cutwater_engine::stream::queries::UnknownQuery;
    use cutwater_engine::stream::record::Record;
    use cutwater_engine::stream::source::Generated;
    use cutwater_io::time;

    /// See the file.
    #[derive(clap::Parser)]
    pub(super) struct Options {
        /// Objects and local state; should be empty
        dir: PathBuf,
        /// Distinct keys
        #[arg(long, default_value_t = 100_000)]
        keys: u64,
        /// How long to run at full speed, in seconds
        #[arg(long, default_value_t = 15)]
        seconds: u64,
        /// Subtasks of each step
        #[arg(long, default_value_t = 2)]
        parallelism: u16,
        /// From one checkpoint to the next, in milliseconds
        #[arg(long, default_value_t = 1000)]
        interval_ms: u64,
    }

    /// Records that were processed.
    static PROCESSED: AtomicU64 = AtomicU64::new(0);
    /// The next record fails its task.
    static FAIL: AtomicBool = AtomicBool::new(false);
    /// When the failure was.
    static FAILED_AT: Mutex<Option<time::Instant>> = Mutex::new(None);

    /// How many records a task processes before it says so.
    const TOLD_RECORDS: u64 = 256;
    /// A row is emitted every so many records of a key.
    const ROW_RECORDS: u64 = 1000;

    const TOTALS: ValueState<(u64, u64)> = ValueState::new("count and sum");

    #[derive(Default)]
    struct Totals {
        untold: u64,
    }

    #[async_trait]
    impl ProcessFunction<u64, (u64, u64)> for Totals {
        type Out = (u64, u64);

        async fn process(
            &mut self,
            key: &u64,
            (_, value): (u64, u64),
            context: &mut Context<'_>,
            out: &mut Collector<'_, (u64, u64)>,
        ) -> Result<(), Error> {
            let (count, sum) = TOTALS.get(context).await?.unwrap_or((0, 0));
            let totals = (count + 1, sum.wrapping_add(value));
            TOTALS.put(context, &totals).await?;
            if totals.0.is_multiple_of(ROW_RECORDS) {
                out.collect((*key, totals.1));
            }
            self.untold += 1;
            if self.untold == TOLD_RECORDS {
                self.untold = 0;
                PROCESSED.fetch_add(TOLD_RECORDS, Ordering::Relaxed);
                if FAIL.swap(false, Ordering::Relaxed) {
                    *FAILED_AT.lock().expect("no panic under the lock") = Some(time::now());
                    return Err(Error::Record {
                        operator: "totals".into(),
                        what: "this one fails on purpose".into(),
                    });
                }
            }
            Ok(())
        }
    }

    fn job(spec: &JobSpec) -> Result<JobGraph, UnknownQuery> {
        let keys = spec.parameters["keys"];
        let items = Generated {
            partitions: u32::try_from(spec.parameters["partitions"]).expect("a small number"),
            per_partition: u64::MAX >> 20,
            per_second: 0,
            out_of_orderness_ms: 0,
            item: move |partition: u32, offset: u64| {
                // The finaliser of SplitMix64: keys without an order.
                let mut n = (offset << 8 | u64::from(partition)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                ((n % keys, offset), i64::try_from(offset >> 10).unwrap_or(i64::MAX))
            },
        };
        let job = Job::new("stream_bench");
        job.source("items", items)
            .key_by(|(key, _): &(u64, u64)| *key)
            .process("totals", Totals::default)
            .sink("rows", |(key, sum): (u64, u64)| Record::new(key.to_string(), sum.to_string()));
        Ok(job.build())
    }

    pub(super) async fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
        let mut config = LocalConfig::new(&options.dir, "stream_bench", job);
        config.job.parameters.insert("keys".into(), options.keys);
        config.job.parameters.insert("partitions".into(), options.parallelism.into());
        (config.workers, config.parallelism) = (1, options.parallelism);
        config.checkpoint_interval = Duration::from_millis(options.interval_ms);
        let cluster = LocalCluster::start(&config).await?;
        until_processed(0).await;

        // The first seconds fill the caches.
        time::sleep(Duration::from_secs(2)).await;
        let (from, started) = (processed(), time::now());
        time::sleep(Duration::from_secs(options.seconds)).await;
        let rate = (processed() - from) as f64 / started.elapsed().as_secs_f64();
        println!("{:.2} M records/s", rate / 1e6);
        checkpoints(&cluster).await?;

        FAIL.store(true, Ordering::Relaxed);
        while FAILED_AT.lock().expect("no panic under the lock").is_none() {
            time::sleep(Duration::from_millis(1)).await;
        }
        // What the other tasks of the attempt still process does not count.
        time::sleep(Duration::from_millis(5)).await;
        let failed_at = FAILED_AT.lock().expect("no panic under the lock").expect("it has failed");
        until_attempt(&cluster, 2).await?;
        until_processed(processed()).await;
        println!("recovery from the failure of a task: {} ms", failed_at.elapsed().as_millis());

        time::sleep(Duration::from_secs(2)).await;
        let savepoint = stop(&cluster).await?;
        let (from, started) = (processed(), time::now());
        cluster.client().start(Some(savepoint), ClaimMode::NoClaim, false).await?;
        until_processed(from).await;
        println!("restore from the savepoint: {} ms", started.elapsed().as_millis());
        Ok(())
    }

    fn processed() -> u64 {
        PROCESSED.load(Ordering::Relaxed)
    }

    async fn until_processed(more_than: u64) {
        while processed() <= more_than {
            time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn until_attempt(cluster: &LocalCluster, number: u32) -> Result<(), Box<dyn std::error::Error>> {
        loop {
            if let Some(failure) = cluster.failure() {
                return Err(failure.into());
            }
            if let Ok(status) = cluster.client().status().await
                && (status.attempt.number >= number && status.phase == JobPhase::Running)
            {
                return Ok(());
            }
            time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn checkpoints(cluster: &LocalCluster) -> Result<(), Box<dyn std::error::Error>> {
        let list = cluster.client().checkpoints().await?;
        let mut durations_ms = Vec::new();
        let mut last = None;
        for entry in &list.entries {
            if let EntryStatus::Present(present) | EntryStatus::Cleared { was: present, .. } = &entry.status {
                durations_ms.push(present.completed_unix_ms.saturating_sub(entry.triggered_unix_ms));
                last = Some(present);
            }
        }
        durations_ms.sort_unstable();
        let at = |percent: usize| {
            durations_ms.get(durations_ms.len() * percent / 100).copied().unwrap_or_default()
        };
        let (state_bytes, new_bytes) = last.map_or((0, 0), |p: &Present| (p.state_bytes, p.new_bytes));
        println!(
            "{} checkpoints: {} ms (p50), {} ms (p90); the last holds {} KiB, {} KiB of them new",
            durations_ms.len(),
            at(50),
            at(90),
            state_bytes >> 10,
            new_bytes >> 10
        );
        Ok(())
    }

    /// Stops the job with a savepoint; returns where that is.
    async fn stop(cluster: &LocalCluster) -> Result<String, Box<dyn std::error::Error>> {
        let (format, stop) = (SavepointFormat::Native, Some(Stop::Suspend));
        let request = Request {
            trigger_id: "stop".into(),
            kind: RequestKind::Savepoint { target: None, format, stop },
            description: "the end of the benchmark".into(),
        };
        let started = time::now();
        cluster.client().trigger(request).await?;
        loop {
            if let TriggerStatus::GivenBack { reason } = cluster.client().trigger_status("stop").await? {
                return Err(reason.into());
            }
            if cluster.client().status().await?.phase == JobPhase::Finished {
                break;
            }
            time::sleep(Duration::from_millis(1)).await;
        }
        println!("stop with a savepoint: {} ms", started.elapsed().as_millis());
        match cluster.client().trigger_status("stop").await? {
            TriggerStatus::Triggered(entry) => match entry.location() {
                Some(location) => Ok(location.into()),
                None => Err(entry.status.to_string().into()),
            },
            other => Err(format!("{other:?}").into()),
        }
    }
}
