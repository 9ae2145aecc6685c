//! `cutwater-engine`: the engine's directories from a shell.
//!
//! ```text
//! RUSTFLAGS="" cargo run --release -p cutwater-engine-cli -- store check DIR
//! ```
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
mod manifest;
#[cfg(not(madsim))]
mod output;
#[cfg(not(madsim))]
mod records;
#[cfg(not(madsim))]
mod repair;
#[cfg(not(madsim))]
mod store;
#[cfg(not(madsim))]
mod wal;

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    use clap::Parser;

    #[derive(Parser)]
    #[command(name = "cutwater-engine", version, about = "The engine's directories from a shell")]
    struct Arguments {
        #[command(subcommand)]
        part: Part,
    }

    #[derive(clap::Subcommand)]
    enum Part {
        /// A store: an LSM tree in RocksDB's format.
        #[command(subcommand)]
        Store(store::Command),
    }

    let Arguments { part: Part::Store(command) } = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(store::run(command)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) if output::is_closed(&failure) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cutwater-engine: {failure}");
            std::process::ExitCode::FAILURE
        }
    }
}
