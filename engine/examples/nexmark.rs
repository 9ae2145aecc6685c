//! A whole job in one process that you may kill at any moment: coordinator and two workers over loopback, objects and
//! local state in a directory.
//!
//! ```text
//! RUSTFLAGS="" cargo run --release -p cutwater-engine --example nexmark -- DIR --events 200000 --rate 20000
//! kill -9 it, run the same command again: it goes on from the last checkpoint.
//! ```
//! At the end the committed output is compared with the known answer; a finished job that is run again is verified again.

#[cfg(madsim)]
fn main() {
    eprintln!("this is the simulated build; run it with RUSTFLAGS=\"\"");
    std::process::exit(2);
}

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    real::main()
}

#[cfg(not(madsim))]
mod real {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};
    use std::process::ExitCode;
    use std::time::Duration;

    use clap::Parser;
    use cutwater_engine::cluster::local::{LocalCluster, LocalConfig};
    use cutwater_engine::cluster::rpc::{JobPhase, JobSpec};
    use cutwater_engine::stream::queries::{self, Rows, bid_counts};
    use cutwater_engine::stream::record::Record;
    use cutwater_engine::stream::sink::decode_output;
    use cutwater_io::{fs, objects, time};
    use futures::StreamExt;
    use object_store::path::Path as ObjectPath;
    use object_store::{ObjectStore, ObjectStoreExt};

    type Failure = Box<dyn std::error::Error + Send + Sync>;

    const PARTITIONS: u64 = 4;
    const JOB: &str = "nexmark";

    /// Runs a query over Nexmark's bids or events, exactly once.
    #[derive(Parser)]
    struct Arguments {
        /// Where objects and local state are; the job in it goes on.
        dir: PathBuf,
        /// How many events there are in all.
        #[arg(long, default_value_t = 100_000)]
        events: u64,
        /// Parallelism of the keyed operator and the sink.
        #[arg(long, default_value_t = 2)]
        parallelism: u16,
        /// Events per second in all; 0 is no limit.
        #[arg(long, default_value_t = 20_000)]
        rate: u64,
        /// Name of the query: bid_counts, bid_histogram, or q0 to q8 of Nexmark.
        #[arg(long, default_value = bid_counts::NAME)]
        query: String,
    }

    pub(super) fn main() -> ExitCode {
        let arguments = Arguments::parse();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let result = runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(run(arguments)));
        match result {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("nexmark: {error}");
                ExitCode::from(2)
            }
        }
    }

    async fn run(arguments: Arguments) -> Result<bool, Failure> {
        let per_partition = |n: u64| n.div_ceil(PARTITIONS);
        let parameters = [
            ("partitions", PARTITIONS),
            ("events_per_partition", per_partition(arguments.events)),
            ("events_per_second", per_partition(arguments.rate)),
        ];
        let parameters = parameters.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        let job = JobSpec { name: JOB.into(), query: arguments.query.clone(), parameters };
        fs::create_dir_all(&arguments.dir).await?;
        same_job(&arguments.dir, &job).await?;
        let mut config = LocalConfig::new(&arguments.dir, JOB, queries::build);
        (config.job, config.parallelism) = (job.clone(), arguments.parallelism);
        let cluster = LocalCluster::start(&config).await?;
        watch(&cluster).await?;
        verify(&job, cluster.objects_url()).await
    }

    /// The directory remembers which job it holds: positions and state mean nothing to another.
    async fn same_job(dir: &Path, job: &JobSpec) -> Result<(), Failure> {
        let (path, ours) = (dir.join("job.json"), serde_json::to_vec(job)?);
        if fs::try_exists(&path).await? {
            if fs::read(&path).await? != ours {
                return Err(format!(
                    "{} holds a job with other parameters; see job.json in it",
                    dir.display()
                )
                .into());
            }
            println!("going on with the job in {}", dir.display());
            return Ok(());
        }
        let new = dir.join("job.json.new");
        let file = fs::File::create(&new).await?;
        file.write_all_at(&ours, 0).await?;
        file.sync_all().await?;
        fs::rename(&new, &path).await?;
        fs::sync_dir(dir).await?;
        println!("a new job in {}", dir.display());
        Ok(())
    }

    /// Shows how the job gets on until it is finished.
    async fn watch(cluster: &LocalCluster) -> Result<(), Failure> {
        let mut output = Output::open(cluster.objects_url())?;
        let mut shown = String::new();
        loop {
            if let Some(failure) = cluster.failure() {
                return Err(failure.into());
            }
            if let Ok(status) = cluster.client().status().await {
                output.read().await?;
                let rows: u64 = output.rows.values().sum();
                let checkpoint = status.latest_checkpoint.map_or("none".into(), |id| id.to_string());
                let line = format!(
                    "{:?}, attempt {}, {} of {} tasks, checkpoint {checkpoint}, {rows} rows committed",
                    status.phase, status.attempt, status.running_tasks, status.total_tasks,
                );
                if line != shown {
                    println!("{line}");
                    shown = line;
                }
                if status.phase == JobPhase::Finished {
                    return Ok(());
                }
            }
            time::sleep(Duration::from_millis(250)).await;
        }
    }

    async fn verify(job: &JobSpec, objects_url: &str) -> Result<bool, Failure> {
        let mut output = Output::open(objects_url)?;
        output.read().await?;
        let expected = queries::expected(job)?;
        let total: u64 = expected.values().sum();
        if output.rows == expected {
            println!("finished: {total} rows committed, each once, as the known answer says");
            return Ok(true);
        }
        let differs = |row: &Record| {
            (output.rows.get(row).copied().unwrap_or(0), expected.get(row).copied().unwrap_or(0))
        };
        let rows: BTreeSet<_> = output.rows.keys().chain(expected.keys()).collect();
        let wrong: Vec<_> =
            rows.into_iter().map(|row| (row, differs(row))).filter(|(_, (a, b))| a != b).collect();
        println!(
            "finished: WRONG: {} of {total} rows; the first, with how often it was found and expected:",
            wrong.len()
        );
        for (row, (found, expected)) in wrong.iter().take(10) {
            println!("  {}: {found}, {expected}", queries::describe(row));
        }
        Ok(false)
    }

    /// What is committed; each object is read once, for it never changes.
    struct Output {
        store: std::sync::Arc<dyn ObjectStore>,
        seen: BTreeSet<ObjectPath>,
        rows: Rows,
    }

    impl Output {
        fn open(objects_url: &str) -> Result<Output, Failure> {
            let store = objects::open(objects_url)?;
            Ok(Output { store, seen: BTreeSet::new(), rows: Rows::new() })
        }

        async fn read(&mut self) -> Result<(), Failure> {
            let prefix = ObjectPath::from(format!("{JOB}/out"));
            let mut listed = self.store.list(Some(&prefix));
            while let Some(meta) = listed.next().await {
                let path = meta?.location;
                if self.seen.contains(&path) {
                    continue;
                }
                let bytes = self.store.get(&path).await?.bytes().await?;
                for record in decode_output(&bytes)? {
                    *self.rows.entry(record).or_insert(0) += 1;
                }
                self.seen.insert(path);
            }
            Ok(())
        }
    }
}
