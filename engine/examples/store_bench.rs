//! How fast the store is, on real files: fills, reads, scans, recovery, a checkpoint.
//!
//! ```text
//! RUSTFLAGS="" cargo run --release -p cutwater-engine --example store_bench -- DIR 1000000 all
//! engine/bench/compare DIR 1000000        # the same with RocksDB in turns, and the ratios
//! ```
//! Keys have 16 bytes, a permuted number and padding; values 100, which do not compress. Latencies are those of the callers;
//! CPU time is that of all threads, work in the background until it has settled included; write amplification is what was
//! passed to write calls, the log included, by what was written by the user. Reads are done in the store that `fillrandom`
//! left, each after a quarter as many to warm up.
#![cfg_attr(
    not(madsim),
    expect(clippy::disallowed_methods, reason = "it measures the real clock, and makes room on real disks")
)]

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
    use std::path::{Path, PathBuf};
    use std::process::ExitCode;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use clap::Parser;
    use cutwater_engine::store::{Error, FamilyOptions, Options, Store, WriteBatch, WriteOptions};
    use cutwater_io::task;

    type Failure = Box<dyn std::error::Error + Send + Sync>;

    const TESTS: &[&str] = &[
        "fillseq",
        "fillbatch100",
        "fillrandom",
        "overwrite",
        "fillsync",
        "fillsync4",
        "readrandom",
        "readrandom-large",
        "readmissing",
        "seekrandom10",
        "readseq",
        "reopen",
        "walrecover",
        "checkpoint",
        "blobfill",
        "bloboverwrite",
        "blobread",
    ];
    const KEY_BYTES: usize = 16;
    const VALUE_BYTES: usize = 100;
    /// Of the tests of blob files, which have a sixth as many keys.
    const BLOB_VALUE_BYTES: usize = 4096;
    const MIN_BLOB_BYTES: u64 = 512;
    const SYNCED_WRITES: u64 = 2000;
    /// What `walrecover` writes to the log. Bytes.
    const LOG_BYTES: u64 = 64 << 20;
    const LARGE_CACHE_MIB: u64 = 256;
    const WRITE_SEED: u64 = 88_172_645_463_325_252;
    const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };

    /// Measures the store.
    #[derive(Clone, Debug, Parser)]
    struct Arguments {
        /// Where the stores are made. What these tests left there before is removed.
        dir: PathBuf,
        /// How many keys there are.
        n: u64,
        /// Which tests, separated by commas, or `all`.
        tests: String,
        /// The cache of blocks. MiB.
        #[arg(long, default_value_t = 8)]
        cache_mib: u64,
        /// A JSON object per test.
        #[arg(long)]
        json: bool,
    }

    pub(super) fn main() -> ExitCode {
        let arguments = Arguments::parse();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        // On a worker, as a task beside those of the store: the main thread would have to be woken for each answer.
        let result = runtime.map_err(Failure::from).and_then(|runtime| {
            runtime.block_on(async { task::spawn(run(arguments)).await.map_err(Failure::from)? })
        });
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        }
    }

    async fn run(arguments: Arguments) -> Result<(), Failure> {
        let tests: Vec<&str> = match &arguments.tests[..] {
            "all" => TESTS.to_vec(),
            some => some.split(',').collect(),
        };
        if let Some(unknown) = tests.iter().find(|test| !TESTS.contains(test)) {
            return Err(format!("unknown test {unknown}; there are: {}", TESTS.join(", ")).into());
        }
        for test in tests {
            Arc::new(Bench::new(&arguments, test)).test(test).await?;
        }
        Ok(())
    }

    /// Xorshift (Marsaglia, 2003).
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }
    }

    /// Latencies in nanoseconds, sixteen buckets per power of two.
    struct Histogram {
        buckets: Vec<u64>,
        count: u64,
    }

    impl Histogram {
        fn new() -> Self {
            Histogram { buckets: vec![0; 64 * 16], count: 0 }
        }

        fn add(&mut self, latency: Duration) {
            let ns = latency.as_nanos() as u64;
            let exponent = (ns | 1).ilog2();
            let step = if exponent >= 4 { ns >> (exponent - 4) & 15 } else { ns & 15 };
            self.buckets[exponent as usize * 16 + step as usize] += 1;
            self.count += 1;
        }

        fn merge(&mut self, other: &Histogram) {
            self.buckets.iter_mut().zip(&other.buckets).for_each(|(a, b)| *a += b);
            self.count += other.count;
        }

        fn quantile_us(&self, quantile: f64) -> f64 {
            let target = (self.count as f64 * quantile) as u64;
            let mut seen = 0;
            let reached = self.buckets.iter().position(|count| {
                seen += count;
                seen > target
            });
            let (exponent, step) = reached.map_or((0, 0), |i| (i / 16, i % 16));
            let ns = if exponent >= 4 {
                (16 + step) as f64 * (1u64 << (exponent - 4)) as f64
            } else {
                step as f64
            };
            ns / 1e3
        }
    }

    /// CPU time of the process so far, in seconds. The kernel counts it in hundredths.
    fn cpu_s() -> f64 {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
        ticks.iter().sum::<f64>() / 100.0
    }

    /// What the process has passed to write calls so far. Bytes.
    fn written_bytes() -> f64 {
        let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
        line.and_then(|v| v.parse().ok()).unwrap_or_default()
    }

    struct Start {
        at: Instant,
        cpu_s: f64,
        written_bytes: f64,
    }

    impl Start {
        fn now() -> Start {
            Start { at: Instant::now(), cpu_s: cpu_s(), written_bytes: written_bytes() }
        }
    }

    struct Bench {
        dir: PathBuf,
        n: u64,
        options: Options,
        is_json: bool,
        values: Vec<u8>,
    }

    impl Bench {
        fn new(arguments: &Arguments, test: &str) -> Self {
            let mut random = Random(WRITE_SEED);
            let n = if test.starts_with("blob") { arguments.n / 6 } else { arguments.n };
            Bench {
                dir: arguments.dir.clone(),
                n: n.max(1),
                options: Options { block_cache_bytes: arguments.cache_mib << 20, ..Options::default() },
                is_json: arguments.json,
                values: (0..1 << 20).map(|_| random.next() as u8).collect(),
            }
        }

        fn key(&self, i: u64) -> [u8; KEY_BYTES] {
            let mut key = *b"number..padding_";
            key[..8].copy_from_slice(&i.to_be_bytes());
            key
        }

        fn value(&self, i: u64) -> &[u8] {
            self.value_of(i, VALUE_BYTES)
        }

        fn value_of(&self, i: u64, len_bytes: usize) -> &[u8] {
            let at = (i as usize * 131) % (self.values.len() - len_bytes);
            &self.values[at..at + len_bytes]
        }

        fn permuted(&self, i: u64) -> u64 {
            i.wrapping_mul(11_400_714_819_323_198_485).wrapping_add(0x9e37_79b9_7f4a_7c15) % self.n
        }

        fn fresh(&self, name: &str) -> Result<PathBuf, Failure> {
            let path = self.dir.join(name);
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            std::fs::create_dir_all(&self.dir)?;
            Ok(path)
        }

        async fn open(&self, path: &Path) -> Result<Store, Failure> {
            Ok(Store::open(path, self.options.clone()).await?)
        }

        /// With values of some length in blob files, of which the oldest quarter is emptied.
        async fn open_blobs(&self, path: &Path) -> Result<Store, Failure> {
            let family =
                FamilyOptions { min_blob_bytes: Some(MIN_BLOB_BYTES), ..self.options.family.clone() };
            Ok(Store::open(path, Options { family, ..self.options.clone() }).await?)
        }

        async fn open_random(&self) -> Result<Store, Failure> {
            self.open(&self.dir.join("random")).await
        }

        async fn test(self: Arc<Self>, test: &str) -> Result<(), Failure> {
            match test {
                "fillseq" => {
                    let store = self.open(&self.fresh("sequential")?).await?;
                    self.fill(test, &store, self.n, 1, 1, LOGGED).await?;
                    store.close().await?;
                }
                "fillbatch100" => {
                    let store = self.open(&self.fresh("batch")?).await?;
                    self.fill(test, &store, self.n, 100, 1, LOGGED).await?;
                    store.close().await?;
                }
                "fillrandom" => {
                    let store = self.open(&self.fresh("random")?).await?;
                    self.fill(test, &store, self.n, 1, 1, LOGGED).await?;
                    store.close().await?;
                }
                "overwrite" => {
                    let store = self.open_random().await?;
                    self.fill(test, &store, self.n, 1, 1, LOGGED).await?;
                    let start = Start::now();
                    store.compact_all().await?;
                    self.report("compactall", 1, &start, start.at.elapsed(), None, 0.0);
                    store.close().await?;
                }
                "fillsync" | "fillsync4" => {
                    let store = self.open(&self.fresh("sync")?).await?;
                    let synced = WriteOptions { sync: true, disable_wal: false };
                    let writers = if test == "fillsync" { 1 } else { 4 };
                    self.fill(test, &store, SYNCED_WRITES, 1, writers, synced).await?;
                    store.close().await?;
                }
                "readrandom" | "readrandom-large" | "readmissing" | "seekrandom10" => self.read(test).await?,
                "readseq" => {
                    let store = self.open_random().await?;
                    for is_measured in [false, true] {
                        let start = Start::now();
                        let mut iter = store.iter(.., None);
                        let mut rows = 0;
                        while iter.next().await?.is_some() {
                            rows += 1;
                        }
                        if is_measured {
                            self.report(test, rows, &start, start.at.elapsed(), None, 0.0);
                        }
                    }
                    store.close().await?;
                }
                "reopen" => {
                    let start = Start::now();
                    let store = self.open_random().await?;
                    self.report(test, 1, &start, start.at.elapsed(), None, 0.0);
                    store.close().await?;
                }
                "walrecover" => self.recover(test).await?,
                "checkpoint" => {
                    let store = self.open_random().await?;
                    for i in 0..1000 {
                        store.put(&self.key(i), self.value(i), LOGGED).await?;
                    }
                    let target = self.fresh("checkpoint")?;
                    let start = Start::now();
                    store.checkpoint(&target).await?;
                    self.report(test, 1, &start, start.at.elapsed(), None, 0.0);
                    store.close().await?;
                }
                "blobfill" => {
                    let store = self.open_blobs(&self.fresh("blobs")?).await?;
                    self.fill(test, &store, self.n, 1, 1, LOGGED).await?;
                    store.close().await?;
                }
                "bloboverwrite" => {
                    let store = self.open_blobs(&self.dir.join("blobs")).await?;
                    self.fill(test, &store, self.n, 1, 1, LOGGED).await?;
                    store.close().await?;
                }
                "blobread" => self.read(test).await?,
                other => unreachable!("{other} is in the list of tests"),
            }
            Ok(())
        }

        async fn fill(
            self: &Arc<Self>,
            test: &str,
            store: &Store,
            ops: u64,
            batch_len: u64,
            writers: u64,
            options: WriteOptions,
        ) -> Result<(), Failure> {
            let is_sequential = matches!(test, "fillseq" | "fillbatch100");
            let value_bytes = if test.starts_with("blob") { BLOB_VALUE_BYTES } else { VALUE_BYTES };
            let start = Start::now();
            let tasks: Vec<_> = (0..writers)
                .map(|writer| {
                    let (bench, store) = (self.clone(), store.clone());
                    task::spawn(async move {
                        let mut random = Random(WRITE_SEED + writer);
                        let mut latencies = Histogram::new();
                        let mut batch = WriteBatch::new();
                        for i in (writer..ops).step_by(writers as usize) {
                            let before = Instant::now();
                            let number = if is_sequential { i } else { bench.permuted(random.next()) };
                            batch.put(&bench.key(number), bench.value_of(i, value_bytes));
                            if u64::from(batch.count()) == batch_len {
                                store.write(std::mem::take(&mut batch), options).await?;
                            }
                            latencies.add(before.elapsed());
                        }
                        Ok::<_, Error>(latencies)
                    })
                })
                .collect();
            let mut latencies = Histogram::new();
            for task in tasks {
                latencies.merge(&task.await??);
            }
            let elapsed = start.at.elapsed();
            self.settle(store).await?;
            let user_bytes = (ops * (KEY_BYTES + value_bytes) as u64) as f64;
            self.report(test, ops, &start, elapsed, Some(&latencies), user_bytes);
            Ok(())
        }

        /// Until flush and compactions have nothing to do.
        async fn settle(&self, store: &Store) -> Result<(), Failure> {
            store.flush().await?;
            let mut levels = store.levels();
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let now = store.levels();
                let is_due = now[0].0 >= self.options.family.level0_compaction_trigger;
                if !is_due && now == levels {
                    return Ok(());
                }
                levels = now;
            }
        }

        async fn read(&self, test: &str) -> Result<(), Failure> {
            let mut options = self.options.clone();
            if test == "readrandom-large" {
                options.block_cache_bytes = LARGE_CACHE_MIB << 20;
            }
            let store = match test {
                "blobread" => self.open_blobs(&self.dir.join("blobs")).await?,
                _ => Store::open(self.dir.join("random"), options).await?,
            };
            let ops = if test == "seekrandom10" { self.n / 10 } else { self.n / 2 };
            let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ ops);
            for _ in 0..ops / 4 {
                self.call(test, &store, &mut random).await?;
            }
            let mut latencies = Histogram::new();
            let start = Start::now();
            for _ in 0..ops {
                let before = Instant::now();
                self.call(test, &store, &mut random).await?;
                latencies.add(before.elapsed());
            }
            self.report(test, ops, &start, start.at.elapsed(), Some(&latencies), 0.0);
            store.close().await?;
            Ok(())
        }

        async fn call(&self, test: &str, store: &Store, random: &mut Random) -> Result<(), Failure> {
            let mut key = self.key(self.permuted(random.next()));
            if test == "seekrandom10" {
                let mut iter = store.iter(.., None);
                let mut found = iter.seek(&key).await?;
                for _ in 0..10 {
                    if found.is_none() {
                        break;
                    }
                    found = iter.next().await?;
                }
            } else {
                if test == "readmissing" {
                    key[KEY_BYTES - 1] = b'!';
                }
                store.get(&key).await?;
            }
            Ok(())
        }

        /// Writes a log, is gone as if killed, and opens the store again.
        async fn recover(&self, test: &str) -> Result<(), Failure> {
            let path = self.fresh("log")?;
            let records = LOG_BYTES / (KEY_BYTES + VALUE_BYTES + 23) as u64;
            let large = Options {
                family: FamilyOptions { write_buffer_bytes: 4 << 30, ..self.options.family.clone() },
                ..self.options.clone()
            };
            let store = Store::open(&path, large).await?;
            let mut random = Random(WRITE_SEED);
            for i in 0..records {
                store.put(&self.key(self.permuted(random.next())), self.value(i), LOGGED).await?;
            }
            drop(store);
            let (start, store) = loop {
                let start = Start::now();
                match Store::open(&path, self.options.clone()).await {
                    // Its tasks give the directory free once they have noticed.
                    Err(Error::Locked { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                    opened => break (start, opened?),
                }
            };
            self.report(test, records, &start, start.at.elapsed(), None, 0.0);
            store.close().await?;
            Ok(())
        }

        fn report(
            &self,
            test: &str,
            ops: u64,
            start: &Start,
            elapsed: Duration,
            latencies: Option<&Histogram>,
            user_bytes: f64,
        ) {
            let seconds = elapsed.as_secs_f64();
            let (ops_per_s, cpu_s) = (ops as f64 / seconds, cpu_s() - start.cpu_s);
            let quantiles = latencies.map(|l| (l.quantile_us(0.5), l.quantile_us(0.99)));
            let amplification =
                (user_bytes > 0.0).then(|| (written_bytes() - start.written_bytes) / user_bytes);
            if self.is_json {
                let line = serde_json::json!({
                    "test": test,
                    "ops": ops,
                    "seconds": seconds,
                    "ops_per_s": ops_per_s,
                    "p50_us": quantiles.map(|q| q.0),
                    "p99_us": quantiles.map(|q| q.1),
                    "cpu_s": cpu_s,
                    "write_amp": amplification,
                });
                println!("{line}");
                return;
            }
            let mut line = format!("{test:<17} {ops_per_s:>11.0} op/s {seconds:>9.3} s  cpu {cpu_s:>6.2} s");
            if let Some((p50_us, p99_us)) = quantiles {
                line += &format!("  p50 {p50_us:>7.2} us  p99 {p99_us:>8.2} us");
            }
            if let Some(amplification) = amplification {
                line += &format!("  write-amp {amplification:.2}");
            }
            println!("{line}");
        }
    }
}
