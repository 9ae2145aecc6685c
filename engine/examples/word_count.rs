//! A job of one's own, to be copied: how often does each word occur in each minute of event time?
//!
//! ```text
//! RUSTFLAGS="" cargo run --release -p cutwater-engine --example word_count -- DIR
//! ```
//! It runs in this process, with a coordinator and two workers, on a directory. Kill it at any moment and run it again: it goes
//! on from its last checkpoint, and each count is there once.

#[cfg(madsim)]
fn main() {
    eprintln!("this is the simulated build; run it with RUSTFLAGS=\"\"");
    std::process::exit(2);
}

#[cfg(not(madsim))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("where to keep state and output: word_count DIR")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(word_count::run(dir.as_ref()))
}

#[cfg(not(madsim))]
mod word_count {
    use std::path::Path;

    use cutwater_engine::cluster::local::{LocalCluster, LocalConfig};
    use cutwater_engine::cluster::rpc::JobSpec;
    use cutwater_engine::stream::graph::JobGraph;
    use cutwater_engine::stream::job::Job;
    use cutwater_engine::stream::queries::UnknownQuery;
    use cutwater_engine::stream::record::Record;
    use cutwater_engine::stream::source::Generated;
    use cutwater_engine::stream::window::{Count, Windows};

    const TEXT: [&str; 4] = [
        "the stream runs on and on",
        "the edge of the pier splits the stream",
        "the pier takes the storm",
        "and the bridge stands",
    ];
    const MINUTE_MS: i64 = 60_000;

    /// The job. Coordinator and workers each build it, and must come to the same.
    fn job(_: &JobSpec) -> Result<JobGraph, UnknownQuery> {
        // Two partitions of three hundred lines, one line in each second of event time.
        let lines = Generated {
            partitions: 2,
            per_partition: 300,
            per_second: 100,
            out_of_orderness_ms: 0,
            item: |partition: u32, offset: u64| {
                let line = TEXT[(partition as usize + offset as usize) % TEXT.len()];
                (line.to_owned(), offset as i64 * 1000)
            },
        };
        let job = Job::new("word_count");
        job.source("lines", lines)
            .flat_map(|line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .key_by(|word| word.clone())
            .window(Windows::tumbling(MINUTE_MS))
            .aggregate("count", Count)
            .sink("counts", |count| {
                let minute = count.window.start_ms / MINUTE_MS;
                Record::new(format!("minute {minute}: {}", count.key), count.value.to_string())
            });
        Ok(job.build())
    }

    pub(super) async fn run(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let cluster = LocalCluster::start(&LocalConfig::new(dir, "word_count", job)).await?;
        let mut shown = None;
        cluster
            .finished(|status| {
                if shown != status.latest_checkpoint {
                    shown = status.latest_checkpoint;
                    println!("{:?}, checkpoint {}", status.phase, shown.map_or(0, |id| id.0));
                }
            })
            .await?;
        let mut counts = cluster.committed().await?;
        counts.sort();
        for count in counts {
            println!("{} {}", String::from_utf8_lossy(&count.key), String::from_utf8_lossy(&count.value));
        }
        Ok(())
    }
}
