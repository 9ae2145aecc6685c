//! `cutwater-engine`: the engine from a shell: its processes, its jobs, and what they leave on disks.
//!
//! ```text
//! RUSTFLAGS="" cargo run --release -p cutwater-engine-cli -- store check DIR
//! RUSTFLAGS="" cargo run --release -p cutwater-engine-cli -- fsck CHECKPOINT
//! ```
//!
//! `fsck` looks at checkpoints, ours and Flink's.
//!
//! `store dump`, `scan`, `properties`, `check`, `manifest` and `wal` only read: they neither take the lock nor write a byte, whatever state a
//! crash has left. `store compact`, `ingest`, `checkpoint` and `backup create` open the store as any user does;
//! `repair` makes one of what can be read, and renames what cannot. What people read goes to standard output, or
//! with `--json` one JSON object a line; what went wrong goes to standard error, in one line that names file and offset.
//!
//! The exit status is 0, 1 if something is damaged or could not be done, 2 for bad usage.

#[cfg(madsim)]
fn main() {
    eprintln!("this is the simulated build; run it with RUSTFLAGS=\"\"");
    std::process::exit(2);
}

#[cfg(not(madsim))]
mod backup;
#[cfg(not(madsim))]
mod dump;
#[cfg(not(madsim))]
mod fsck;
#[cfg(not(madsim))]
mod job;
#[cfg(not(madsim))]
mod manifest;
#[cfg(not(madsim))]
mod output;
#[cfg(not(madsim))]
mod place;
#[cfg(not(madsim))]
mod records;
#[cfg(not(madsim))]
mod repair;
#[cfg(not(madsim))]
mod store;
#[cfg(not(madsim))]
mod wal;

#[cfg(not(madsim))]
#[derive(clap::Parser)]
#[command(
    name = "cutwater-engine",
    version,
    about = "A stateful stream engine: its processes, its jobs, what they leave on disks"
)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[cfg(not(madsim))]
#[derive(clap::Subcommand)]
enum Part {
    /// A store: an LSM tree in RocksDB's format.
    #[command(subcommand)]
    Store(store::Command),
    /// A checkpoint, a savepoint, or all that a job retains, of this engine or of Flink: whether everything is there that a restore
    /// needs. Exit status 1 if not.
    Fsck(fsck::Command),
    /// A coordinator of a job: leads it, or waits to.
    Coordinator(Box<job::process::Coordinator>),
    /// A worker: runs the tasks that it is told to run.
    Worker(job::process::Worker),
    /// A job in this one process, until it is finished: for a quick start.
    Run(Box<job::process::Run>),
    /// What a job is doing.
    Status(job::ask::Status),
    /// Another parallelism for a job: it restarts from its latest checkpoint.
    Rescale(job::ask::Rescale),
    /// A checkpoint of a job, now.
    Checkpoint(job::snapshot::Checkpoint),
    /// A savepoint of a job, which goes on.
    Savepoint(job::snapshot::Savepoint),
    /// A savepoint, and with it the end of a job; `start --from` goes on from there.
    Stop(job::snapshot::StopJob),
    /// The end of a job, at once.
    Cancel(job::ask::Cancel),
    /// Brings back a job that has ended, from nothing or from a checkpoint or savepoint.
    Start(job::ask::Start),
    /// The checkpoints and savepoints of a job.
    #[command(subcommand)]
    Checkpoints(job::snapshot::Checkpoints),
}

#[cfg(not(madsim))]
async fn run(part: Part) -> Result<(), output::Failure> {
    match part {
        Part::Store(command) => store::run(command).await,
        Part::Fsck(command) => fsck::run(command).await,
        Part::Coordinator(command) => job::process::coordinator(*command).await,
        Part::Worker(command) => job::process::worker(command).await,
        Part::Run(command) => job::process::run(*command).await,
        Part::Status(command) => job::ask::status(command).await,
        Part::Rescale(command) => job::ask::rescale(command).await,
        Part::Checkpoint(command) => job::snapshot::checkpoint(command).await,
        Part::Savepoint(command) => job::snapshot::savepoint(command).await,
        Part::Stop(command) => job::snapshot::stop(command).await,
        Part::Cancel(command) => job::ask::cancel(command).await,
        Part::Start(command) => job::ask::start(command).await,
        Part::Checkpoints(command) => job::snapshot::list(command).await,
    }
}

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    use clap::Parser;

    let Arguments { part } = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(part)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) if output::is_closed(&failure) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cutwater-engine: {failure}");
            std::process::ExitCode::from(if failure.is::<output::Usage>() { 2 } else { 1 })
        }
    }
}
