//! RocksDB's own tools judge what simulated crashes leave of the store. Skipped, with a message, where they are not
//! installed (Debian: `apt-get install rocksdb-tools`).
//!
//! Runs of the scenario `store` go on with all their faults, and at drawn moments the disk is copied and the copy crashed:
//! mostly by a power failure, now and then only by the death of the process. Two directories come of each copy:
//! - **raw**: straight after the crash. `ldb` recovers it by itself, and must find what our recovery finds, in every family.
//! - **recovered**: the store opened it, scanned it, closed it. Every table in it must be whole.
//!
//! The end of each run, which the scenario itself closed, is judged as well.
//!
//! Nothing of the scenario is left out: families come and go, keys have operands, ranges are deleted, values lie in blob files. `ldb`
//! cannot be told on its command line what operands mean, so each directory gets a file of options that says it.
#![cfg(madsim)]
#![expect(
    clippy::disallowed_methods,
    reason = "these tests start real tools on real files, and runs on fresh threads"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::Duration;

use cutwater_engine::store::{Append, Error, FamilyOptions, MergeWith, Options, Store};
use cutwater_io::sim::disk::Disk;
use cutwater_io::sim::{Config, Env, Key, NodeId, Quiet, Survivors};
use cutwater_scenarios::store::StoreScenario;
use cutwater_sim::faults::Devices;
use cutwater_sim::runner::{Job, What, execute::execute};
use cutwater_sim::{OracleInfo, Plan, Scenario, Verdict, Violation, Vocabulary, World};
use futures::future::{Either, LocalBoxFuture, select};

/// What each family has.
type Content = BTreeMap<String, Rows>;
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Where the scenario has its store, and on which node.
const DB: &str = "/db";
const NODE: NodeId = NodeId(1);
/// What the scenario puts between operands, and nowhere else.
const DELIMITER: &str = "+";
const SEEDS: std::ops::Range<u64> = 0..16;
const CRASHES_PER_RUN: u64 = 5;

/// The scenario `store`, observed: copies of its disk are taken and crashed while it runs.
#[derive(Default)]
struct Observed {
    images: Mutex<Vec<Image>>,
}

/// A disk after a crash.
struct Image {
    label: String,
    disk: Disk,
}

impl Observed {
    async fn take(&self, world: &World) {
        let mut draw = world.key().draw("judge", &[]);
        let horizon_us = world.plan().horizon_us;
        let mut moments: Vec<u64> = (0..CRASHES_PER_RUN).map(|_| draw.below(horizon_us)).collect();
        moments.sort_unstable();
        for at_us in moments {
            world.until(at_us).await;
            let mut disk = world.env().disks().snapshot(NODE);
            let survivors = match draw.below(5) {
                0 => None,
                1 => Some(Survivors::None),
                2 => Some(Survivors::Prefix(draw.below(1001) as u16)),
                _ => Some(Survivors::Each { permille: 500, key: draw.below(1 << 32) as u32 }),
            };
            match &survivors {
                Some(survivors) => drop(disk.power_fail(survivors, world.now_us())),
                None => disk.process_kill(),
            }
            self.keep(format!("store:{} at {at_us} us, {survivors:?}", world.plan().seed), disk);
        }
    }

    fn keep(&self, label: String, disk: Disk) {
        self.images.lock().unwrap().push(Image { label, disk });
    }
}

impl Scenario for Observed {
    fn name(&self) -> &'static str {
        StoreScenario.name()
    }
    fn about(&self) -> &'static str {
        StoreScenario.about()
    }
    fn vocabulary(&self) -> Vocabulary {
        StoreScenario.vocabulary()
    }
    fn oracles(&self) -> &'static [OracleInfo] {
        StoreScenario.oracles()
    }
    /// With operands in half of the plans, and one to three families: the scenario has either in few. Without logs that are tracked:
    /// RocksDB 7.8.3 dies where it opens such a directory for reading only, and does not track logs itself.
    fn generate(&self, seed: u64) -> Plan {
        let mut plan = StoreScenario.generate(seed);
        let forced = [("merges", seed % 2), ("families", 1 + seed % 3), ("track_wals", 0)];
        plan.knobs.extend(forced.map(|(name, value)| (name.to_owned(), value)));
        plan
    }
    fn classify(&self) -> fn(&Path) -> &'static str {
        StoreScenario.classify()
    }
    fn devices(&self, plan: &Plan) -> Devices {
        StoreScenario.devices(plan)
    }
    fn run<'a>(&'a self, world: &'a World) -> LocalBoxFuture<'a, Result<(), Violation>> {
        Box::pin(async move {
            let taking = Box::pin(self.take(world));
            let result = match select(StoreScenario.run(world), taking).await {
                Either::Left((result, _)) => result,
                Either::Right(((), run)) => run.await,
            };
            let disk = world.env().disks().snapshot(NODE);
            self.keep(format!("store:{} at its end", world.plan().seed), disk);
            result
        })
    }
}

/// The images of one run, in the order of their times.
fn images(seed: u64) -> Vec<Image> {
    let run = move || {
        let observed = Observed::default();
        let job = Job::new(&observed, What::Seed(seed));
        let verdict = execute(&job).report.verdict;
        assert_eq!(verdict, Verdict::Held, "store:{seed}");
        observed.images.into_inner().unwrap()
    };
    std::thread::spawn(run).join().unwrap()
}

/// Opens the store on `disk`, scans it, closes it: what it held, and the disk afterwards. Nothing if there is no store.
fn recover(mut disk: Disk) -> Option<(Content, Disk)> {
    let run = move || {
        let mut runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
        runtime.add_simulator::<Env>();
        runtime.set_time_limit(Duration::from_secs(600));
        runtime.block_on(async move {
            let env = Env::install(Config {
                key: Key::root(1),
                record: false,
                disk: Default::default(),
                net: Default::default(),
                objects: Default::default(),
                classify: |_| "other",
                injector: Box::new(Quiet),
            });
            let node = madsim::runtime::Handle::current().create_node().name(NODE.to_string()).build();
            // The run may have been in a time when the disk was full.
            disk.set_capacity(None);
            env.disks().replace(NODE, disk);
            let content = node.spawn(open_and_scan()).await.unwrap();
            content.map(|content| (content, env.disks().snapshot(NODE)))
        })
    };
    std::thread::spawn(run).join().unwrap()
}

async fn open_and_scan() -> Option<Content> {
    let names = match Store::list_families(DB).await {
        Err(Error::NotFound { .. }) => return None,
        listed => listed.unwrap(),
    };
    let family = FamilyOptions {
        write_buffer_bytes: 4096,
        block_bytes: 256,
        target_file_bytes: 4096,
        merge_operator: Some(MergeWith::new(Append::new(DELIMITER.as_bytes()))),
        ..FamilyOptions::default()
    };
    let others: Vec<(&str, FamilyOptions)> =
        names.iter().filter(|name| *name != "default").map(|name| (&name[..], family.clone())).collect();
    let options = Options { family: family.clone(), create_if_missing: false, ..Options::default() };
    let store = match Store::open_families(DB, options, &others).await {
        Err(Error::NotFound { .. }) => return None,
        opened => opened.unwrap(),
    };
    let mut content = Content::new();
    for name in names {
        let rows = content.entry(name.clone()).or_default();
        let mut iter = store.family(&name).unwrap().iter(.., None);
        while let Some((key, value)) = iter.next().await.unwrap() {
            rows.insert(key, value);
        }
    }
    store.close().await.unwrap();
    Some(content)
}

/// True if both tools are there; else a message is printed.
fn have_tools() -> bool {
    ["ldb", "sst_dump"].iter().all(|name| {
        let there = Command::new(name).arg("--version").output().is_ok();
        if !there {
            println!("skipped: {name} is not installed (Debian: apt-get install rocksdb-tools)");
        }
        there
    })
}

fn tool(name: &str, args: &[&str]) -> Output {
    Command::new(name).args(args).output().unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Says to `ldb` what operands mean in these families.
fn write_options<'a>(dir: &Path, families: impl Iterator<Item = &'a String>) {
    let mut text = "[Version]\n  rocksdb_version=7.8.3\n  options_file_version=1.1\n[DBOptions]\n".to_owned();
    for name in families {
        text += &format!(
            "[CFOptions \"{name}\"]\n  merge_operator={{id=StringAppendOperator;delimiter={DELIMITER};}}\n\
             [TableOptions/BlockBasedTable \"{name}\"]\n"
        );
    }
    std::fs::write(dir.join("OPTIONS-000001"), text).unwrap();
}

/// `ldb VERB` on `dir`. An error is what the tool says it is: it may exit with 0 all the same.
fn ldb(dir: &Path, args: &[&str]) -> Result<String, String> {
    let db = format!("--db={}", dir.display());
    let output = tool("ldb", &[&[&db[..], "--try_load_options"], args].concat());
    let said = said(&output);
    let failed =
        ["Failed", "Corruption", "IO error", "Not implemented"].iter().any(|word| said.contains(word));
    if output.status.success() && !failed { Ok(said) } else { Err(said) }
}

fn check_consistency(dir: &Path) -> Result<(), String> {
    let said = ldb(dir, &["checkconsistency"])?;
    if said.trim() == "OK" { Ok(()) } else { Err(said) }
}

fn families(dir: &Path) -> Result<BTreeSet<String>, String> {
    let said = ldb(dir, &["list_column_families"])?;
    let names = said.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(names, _)| names);
    let names = names.ok_or_else(|| format!("no list of families: {said}"))?;
    Ok(names.split(", ").map(str::to_owned).collect())
}

fn scan(dir: &Path, family: &str) -> Result<Rows, String> {
    let said = ldb(dir, &["scan", "--hex", &format!("--column_family={family}")])?;
    let row = |line: &str| {
        let (key, value) = line.split_once(" ==> ").or_else(|| line.split_once(" : "))?;
        Some((bytes(key)?, bytes(value)?))
    };
    said.lines().map(|line| row(line).ok_or_else(|| format!("not a row: {line}"))).collect()
}

/// What `ldb --hex` shows.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.trim().strip_prefix("0x")?.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// `sst_dump --command=verify` on one table. The tool always exits with 0, and checks nothing without the second flag.
fn verify_table(path: &Path) -> Result<(), String> {
    let file = format!("--file={}", path.display());
    let said = said(&tool("sst_dump", &[&file, "--command=verify", "--verify_checksum"]));
    let ok = said.matches("The file is ok").count() == 1 && !said.to_lowercase().contains("corrupt");
    if ok { Ok(()) } else { Err(said) }
}

/// The names of all tables in a directory.
fn tables(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".sst")).collect()
}

/// The names of the tables that the newest version names.
fn live_tables(dir: &Path) -> Result<BTreeSet<String>, String> {
    let said = ldb(dir, &["list_live_files_metadata", "--sort_by_filename"])?;
    let words = said.split(|c: char| c.is_whitespace() || c == '/' || c == ',');
    Ok(words.filter(|word| word.ends_with(".sst")).map(str::to_owned).collect())
}

/// Holds `dir` against `expected`, and says how many tables were verified.
fn judge(dir: &Path, expected: &Content) -> Result<usize, String> {
    let there = families(dir)?;
    if !there.iter().eq(expected.keys()) {
        return Err(format!("the store has the families {:?}, ldb {there:?}", expected.keys()));
    }
    write_options(dir, expected.keys());
    check_consistency(dir)?;
    let live = live_tables(dir)?;
    for name in &live {
        verify_table(&dir.join(name))?;
    }
    for (family, rows) in expected {
        same(rows, &scan(dir, family)?).map_err(|e| format!("family {family}, {e}"))?;
    }
    Ok(live.len())
}

fn same(expected: &Rows, found: &Rows) -> Result<(), String> {
    let differs = |key: &&Vec<u8>| expected.get(*key) != found.get(*key);
    match expected.keys().chain(found.keys()).find(differs) {
        None => Ok(()),
        Some(key) => Err(format!(
            "{}: the store has {:?}, ldb {:?}",
            key.escape_ascii(),
            expected.get(key).map(|value| value.escape_ascii().to_string()),
            found.get(key).map(|value| value.escape_ascii().to_string()),
        )),
    }
}

/// How many range tombstones there are in the tables of `dir`.
fn range_tombstones(dir: &Path) -> Result<usize, String> {
    Ok(ldb(dir, &["list_file_range_deletes"])?.matches("start: ").count())
}

/// What was judged, so that the test cannot pass on nothing.
#[derive(Debug, Default)]
struct Judged {
    stores: usize,
    absent: usize,
    with_families: usize,
    rows: usize,
    /// Rows that operands had a part in.
    merged: usize,
    range_tombstones: usize,
    tables: usize,
    logs_replayed: usize,
}

#[test]
fn rocksdb_accepts_every_crash_and_finds_what_we_find() {
    if !have_tools() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut judged = Judged::default();
    for image in SEEDS.flat_map(images) {
        let Image { label, disk } = image;
        let dir = |name: &str| scratch.path().join(format!("{}-{name}", judged.stores + judged.absent));
        let (raw, recovered) = (dir("raw"), dir("recovered"));
        disk.export(DB, &raw).unwrap();
        let Some((content, after)) = recover(disk) else {
            // The machine died before the store was created; nobody may find one there.
            assert!(check_consistency(&raw).is_err() && !raw.join("CURRENT").exists(), "{label}");
            judged.absent += 1;
            continue;
        };
        after.export(DB, &recovered).unwrap();
        let before =
            judge(&raw, &content).unwrap_or_else(|e| panic!("{label}, straight after the crash: {e}"));
        let after = judge(&recovered, &content).unwrap_or_else(|e| panic!("{label}, recovered: {e}"));
        assert_eq!(tables(&recovered), live_tables(&recovered).unwrap(), "{label}: tables nobody names");
        judged.stores += 1;
        judged.with_families += usize::from(content.len() > 1);
        let values = || content.values().flat_map(Rows::values);
        judged.rows += values().count();
        judged.merged += values().filter(|value| value.contains(&DELIMITER.as_bytes()[0])).count();
        judged.range_tombstones += range_tombstones(&raw).unwrap();
        judged.tables += before + after;
        judged.logs_replayed += usize::from(tables(&raw) != tables(&recovered));
    }
    println!("{judged:?}");
    let enough = judged.stores >= 40
        && judged.with_families >= 15
        && judged.rows >= 300
        && judged.merged >= 5
        && judged.range_tombstones >= 10
        && judged.tables >= 100
        && judged.logs_replayed >= 10;
    assert!(enough, "too little was judged: {judged:?}");
}

/// The judge can say no: each kind of damage is noticed by the tool that is there for it.
#[test]
fn rocksdb_rejects_damage() {
    if !have_tools() {
        return;
    }
    let with_tables = |image: &Image| image.label.ends_with("at its end");
    let image = SEEDS.flat_map(images).find(with_tables).expect("every run has an end");
    let (content, disk) = recover(image.disk).expect("the scenario leaves a store");
    let scratch = tempfile::tempdir().unwrap();
    let export = |name: &str| {
        let dir = scratch.path().join(name);
        disk.export(DB, &dir).unwrap();
        judge(&dir, &content).unwrap();
        let table = dir.join(tables(&dir).first().expect("a compacted store has a table"));
        (dir, table)
    };
    let (dir, table) = export("flipped");
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    let error = judge(&dir, &content).unwrap_err();
    assert!(error.to_lowercase().contains("corrupt"), "{error}");

    let (dir, table) = export("missing");
    std::fs::remove_file(&table).unwrap();
    let error = check_consistency(&dir).unwrap_err();
    assert!(error.contains("No such file"), "{error}");

    let (dir, _) = export("other");
    let mut other = content.clone();
    other.values_mut().find_map(Rows::pop_first).expect("the store holds something");
    assert!(judge(&dir, &other).unwrap_err().contains("the store has None"));
    other.remove("default");
    assert!(judge(&dir, &other).unwrap_err().contains("the families"));
}
