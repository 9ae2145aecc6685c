//! The process that holds the store, and what is judged each time it comes up.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cutwater_engine::store::{
    Append, CompactionStyle, Error, FamilyOptions, MergeWith, Options, Severity, Store, Universal,
};
use cutwater_io::sim::Errno;
use cutwater_io::sim::disk::{Disk, Ino};
use cutwater_io::time;
use cutwater_sim::faults::FaultClass;
use cutwater_sim::scenario::Violation;
use cutwater_sim::world::{Ops, Start, World};
use xxhash_rust::xxh3::Xxh3;

use super::backups::BackedUp;
use super::budget::{ManifestEnd, hides_the_unsynced, may_replace_the_end, syncs_forgiven};
use super::content::{DELIMITER, list, same};
use super::evidence::{Evidence, Served};
use super::families::Db;
use super::scratch::Fates;
use super::shadows;
use crate::oracle::batches::{Batches, Content, Readable, digest};

/// Where the store is.
pub(super) const DB: &str = "/db";
const LIVENESS_LIMIT: Duration = Duration::from_secs(60);
/// How often a writer asks whether there is space again.
const SPACE_POLL: Duration = Duration::from_millis(100);

/// What is under the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    /// What a sync made durable stays as it is.
    Sound,
    /// It can be damaged: the store may refuse what its ledger explains.
    Damaged,
}

/// Runs the plan of `world`.
pub(crate) async fn run(world: &World, medium: Medium) -> Result<(), Violation> {
    let shared = Arc::new(Shared::new(world, medium));
    let on_start = shared.clone();
    world.node("store", 0, move |start| {
        let shared = on_start.clone();
        async move { shared.process(start).await }
    });
    world.until_horizon().await;
    world.heal().await;
    shared.set_stage(Stage::Last);
    world.within(LIVENESS_LIMIT, "a healed store finishes its work", shared.wait_for(Stage::Done)).await
}

/// What the run is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Operations run.
    Work,
    /// Nothing breaks any more: the next process to come up makes the last checks.
    Last,
    /// They are made.
    Done,
}

/// What outlives the process: the operations to come, and what the oracles know.
pub(super) struct Shared {
    pub(super) world: World,
    pub(super) medium: Medium,
    stage: tokio::sync::watch::Sender<Stage>,
    pub(super) actors: Vec<tokio::sync::Mutex<Ops>>,
    pub(super) backing_up: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) batches: Batches,
    pub(super) checkpoints: Vec<Taken>,
    /// Families that came, and may have gone.
    pub(super) scratch: Fates,
    /// There was one in this run: a copy may still have it.
    pub(super) has_scratch: bool,
    /// Those that are not purged.
    pub(super) backups: Vec<BackedUp>,
    /// When recovery was judged the last time, in microseconds of virtual time.
    judged_us: u64,
    /// How often the disk had lost what was not durable.
    losses: u64,
    /// What readers had been served of the damage then.
    judged: Evidence,
    /// The log that was written to since then, at first.
    first_log: u64,
    /// The ends of the MANIFESTs that processes found since then.
    pub(super) manifest_ends: Vec<ManifestEnd>,
    /// And when the process started.
    pub(super) started: Evidence,
    /// Lives of the process in a row that ended at damage.
    pub(super) refused: u32,
    /// Tables that were damaged before the store took them.
    pub(super) damaged_before: BTreeSet<Ino>,
    /// The store is being replaced.
    pub(super) replacing: bool,
}

/// A checkpoint that was reported done.
#[derive(Clone)]
pub(super) struct Taken {
    pub(super) dir: PathBuf,
    pub(super) content: Content,
    /// When, in microseconds of virtual time.
    pub(super) taken_us: u64,
}

/// Why a process ends.
pub(super) enum Exit {
    /// The store failed: come again.
    Failed,
    /// The store takes no writes until there is space.
    OutOfSpace,
    /// The store refused what is damaged.
    Damaged,
    /// Something did not hold.
    Violated(Violation),
}

impl From<Violation> for Exit {
    fn from(violation: Violation) -> Exit {
        Exit::Violated(violation)
    }
}

impl Shared {
    fn new(world: &World, medium: Medium) -> Shared {
        let actors = world.actors();
        Shared {
            world: world.clone(),
            medium,
            stage: tokio::sync::watch::Sender::new(Stage::Work),
            actors: actors.iter().map(|&actor| tokio::sync::Mutex::new(world.ops(actor))).collect(),
            backing_up: tokio::sync::Mutex::default(),
            state: Mutex::default(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set_stage(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// Nothing breaks any more: no further operation is begun. What is under way must be answered.
    pub(super) async fn is_over(&self) {
        self.wait_for(Stage::Last).await;
    }

    async fn wait_for(&self, stage: Stage) {
        // The sender lives in `self`.
        let _ = self.stage.subscribe().wait_for(|now| *now >= stage).await;
    }

    /// One life of the process.
    async fn process(&self, start: Start) {
        if *self.stage.borrow() == Stage::Done {
            return std::future::pending().await;
        }
        match self.live(start).await {
            Ok(()) | Err(Exit::Failed | Exit::OutOfSpace) => self.state().refused = 0,
            Err(Exit::Damaged) => self.state().refused += 1,
            Err(Exit::Violated(violation)) => {
                self.world.object(violation);
                self.set_stage(Stage::Done);
            }
        }
    }

    async fn live(&self, start: Start) -> Result<(), Exit> {
        self.state().started = Evidence::now(&self.world, start.node);
        let ends = self.manifest_ends();
        self.state().manifest_ends.extend(ends);
        if self.is_beyond_retries() {
            return self.replace().await;
        }
        let db = self.tolerate("open", self.open(DB, self.options()).await)?;
        self.judge_recovery(&db, &start).await?;
        self.judge_checkpoints().await?;
        self.judge_backups().await?;
        self.world.recovered(start.node);
        let last = *self.stage.borrow() == Stage::Last;
        if last {
            return self.last_checks(db).await;
        }
        let writers = self.actors.iter().enumerate().map(|(actor, _)| Box::pin(self.work(&db, actor)));
        // A writer that fails ends them all.
        futures::future::try_join_all(writers).await?;
        self.tolerate("close", db.close().await)?;
        if *self.stage.borrow() == Stage::Work {
            self.wait_for(Stage::Last).await;
        }
        Ok(())
    }

    /// An error of the store ends the process, unless it may not occur at all.
    pub(super) fn tolerate<T>(&self, during: &str, result: Result<T, Error>) -> Result<T, Exit> {
        result.map_err(|error| {
            self.world.note("store.error", &format!("{during}: {error}"));
            match (self.medium, self.honest(during, &error)) {
                (Medium::Damaged, _) if self.is_explained(&error) => Exit::Damaged,
                (_, Some(violation)) => Exit::Violated(violation),
                (_, None) if self.waits_for_space(&error) => Exit::OutOfSpace,
                (_, None) => Exit::Failed,
            }
        })
    }

    /// True if a writer that meets `error` waits until it has passed, in this run.
    fn waits_for_space(&self, error: &Error) -> bool {
        error.severity() == Some(Severity::OutOfSpace) && self.world.knob("waits_for_space") == 1
    }

    /// Waits until the store takes writes again.
    pub(super) async fn wait_for_space(&self, db: &Db) -> Result<(), Exit> {
        loop {
            match self.tolerate("resume", db.store.resume().await) {
                Err(Exit::OutOfSpace) => time::sleep(SPACE_POLL).await,
                other => return other,
            }
        }
    }

    /// A violation if `error` may not occur in this scenario.
    fn honest(&self, during: &str, error: &Error) -> Option<Violation> {
        if let Error::Background { source, .. } = error {
            return self.honest(during, source);
        }
        let property = match error {
            error if error.is_corruption() => "no corruption is reported where no durable byte was damaged",
            Error::Unsupported { .. } | Error::InvalidOption { .. } | Error::InvalidRequest(_) => {
                "the store does not refuse what it wrote itself"
            }
            // No fault takes a name away that was durable.
            Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
                "a file that the store names is there"
            }
            Error::Locked { .. } => "the lock of a process ends with it",
            // Another writer opens it anew.
            Error::Closed => return None,
            Error::Io { source, .. } if self.has_struck(source) => return None,
            _ => "the store fails only if the disk does",
        };
        Some(
            Violation::new("honesty", property)
                .of(culprit(error))
                .expected("no such error")
                .found(format!("{during}: {error}")),
        )
    }

    /// True if a fault of this run can be behind what a call to the disk answered.
    fn has_struck(&self, error: &io::Error) -> bool {
        use FaultClass as F;
        let classes: &[F] = match error.kind() {
            ErrorKind::StorageFull => &[F::DiskFull, F::FsyncFailure],
            ErrorKind::ReadOnlyFilesystem => &[F::FsyncFailure],
            _ if error.raw_os_error() == Some(Errno::Eio.raw()) => {
                &[F::DiskError, F::FsyncFailure, F::ReadError]
            }
            _ => &[],
        };
        classes.iter().any(|class| self.world.delivered(*class) > 0)
    }

    pub(super) fn options(&self) -> Options {
        let knob = |name| self.world.knob(name);
        let family = FamilyOptions {
            write_buffer_bytes: knob("write_buffer_bytes"),
            max_immutable_memtables: knob("max_immutable_memtables") as usize,
            block_bytes: knob("block_bytes") as usize,
            target_file_bytes: knob("target_file_bytes"),
            max_bytes_for_level_base: knob("level_base_bytes"),
            level_multiplier: knob("level_multiplier"),
            level0_compaction_trigger: knob("level0_trigger") as usize,
            level0_stop_writes_trigger: knob("level0_trigger") as usize + 8,
            bloom_bits_per_key: knob("bloom_bits") as u32,
            merge_operator: Some(MergeWith::new(Append::new(DELIMITER))),
            compaction_filter: self.has_shadows().then(|| shadows::filter(knob("filter") == 2)),
            compaction_style: match knob("universal") {
                0 => CompactionStyle::Leveled,
                _ => CompactionStyle::Universal(Universal {
                    size_ratio_percent: knob("size_ratio_percent") as u32,
                    max_size_amplification_percent: knob("size_amplification_percent") as u32,
                    ..Universal::default()
                }),
            },
            compression: crate::compression(knob("compression")),
            min_blob_bytes: Some(knob("min_blob_bytes")).filter(|bytes| *bytes > 0),
            blob_compression: crate::compression(knob("blob_compression")),
            blob_file_bytes: knob("blob_file_bytes"),
            blob_gc_age_percent: knob("blob_gc_age_percent") as u8,
            blob_gc_force_percent: knob("blob_gc_force_percent") as u8,
            ..FamilyOptions::default()
        };
        Options {
            family,
            create_missing_families: true,
            atomic_flush: knob("atomic_flush") == 1,
            max_total_wal_bytes: knob("max_total_wal_bytes"),
            track_wals: knob("track_wals") == 1,
            max_subcompactions: knob("max_subcompactions") as usize,
            rate_limit_bytes_per_s: Some(knob("rate_limit_kib_per_s"))
                .filter(|kib| *kib > 0)
                .map(|kib| kib.max(64) << 10),
            max_manifest_bytes: knob("max_manifest_bytes"),
            block_cache_bytes: knob("block_cache_bytes"),
            ..Options::default()
        }
    }

    /// In a copy nothing may be missing.
    pub(super) fn options_of_a_copy(&self) -> Options {
        Options { create_if_missing: false, create_missing_families: false, ..self.options() }
    }

    /// Opens the store in `dir` with the families of this run.
    pub(super) async fn open(&self, dir: impl AsRef<Path>, options: Options) -> Result<Db, Error> {
        let may_be_others = self.state().has_scratch;
        let db = Db::open(dir, options, self.world.knob("families") as usize, may_be_others).await?;
        Ok(if self.has_shadows() { db.with_shadows(&self.world) } else { db })
    }

    fn has_shadows(&self) -> bool {
        self.world.knob("filter") > 0
    }

    /// Compares what recovery found with what was written, and goes on from there.
    async fn judge_recovery(&self, db: &Db, start: &Start) -> Result<(), Exit> {
        let found = self.tolerate("scan after open", db.scan(.., None).await);
        let power_failed = self
            .world
            .env()
            .disks()
            .last_crash(start.node)
            .is_some_and(|crash| crash.at_us >= self.state().judged_us);
        let content = match found {
            Err(Exit::Damaged) => {
                let readable = self.survey(db).await?;
                self.judge_readable(&readable, power_failed)?;
                return Err(Exit::Damaged);
            }
            other => other?,
        };
        let losses = self.losses();
        let loss = self.loss(power_failed);
        let summary = {
            let mut state = self.state();
            let keeps_all = !power_failed && losses == state.losses && !loss.hides_the_unsynced;
            state.batches.forgive_syncs(loss.syncs_forgiven);
            match state.batches.recover(&content, keeps_all) {
                Err(violation) if loss.is_beyond_budget => {
                    state.batches.recover_anything(&content)?;
                    format!("{} keys, after damage beyond the budget: {violation}", content.len())
                }
                judged => judged?,
            }
        };
        self.judge_from_now_on();
        self.owe();
        self.world.note("recovered", &summary);
        self.judge_scratch(db, loss.is_beyond_budget || loss.syncs_forgiven > 0).await
    }

    /// What is there was judged: what happened before excuses nothing any more.
    pub(super) fn judge_from_now_on(&self) {
        let first_log = self.logs_end().log;
        let losses = self.losses();
        let mut state = self.state();
        state.judged = Evidence::now(&self.world, state.started.node());
        state.judged_us = self.world.now_us();
        state.losses = losses;
        state.first_log = first_log;
        state.manifest_ends.clear();
    }

    /// What may be missing for damage that was served since recovery was judged the last time.
    fn loss(&self, power_failed: bool) -> Loss {
        let state = self.state();
        let served: Served = Evidence::now(&self.world, state.started.node()).since(&state.judged);
        let (syncs, hits) = (state.batches.syncs(), served.in_logs(state.first_log));
        Loss {
            syncs_forgiven: syncs_forgiven(syncs, &hits, power_failed),
            hides_the_unsynced: hides_the_unsynced(syncs, &hits),
            is_beyond_budget: may_replace_the_end(syncs, &hits, power_failed)
                || served.hides_an_edit(&state.manifest_ends),
        }
    }

    /// Tells a census what the store owes now.
    pub(super) fn owe(&self) {
        self.world.env().owed().is("store", || {
            let state = self.state();
            let mut hash = Xxh3::new();
            hash.update(&state.batches.digest().to_le_bytes());
            for taken in &state.checkpoints {
                hash.update(taken.dir.as_os_str().as_encoded_bytes());
                hash.update(&digest(&taken.content).to_le_bytes());
            }
            for backup in &state.backups {
                hash.update(&backup.id.to_le_bytes());
                hash.update(&digest(&backup.content).to_le_bytes());
            }
            hash.update(format!("{:?}", state.scratch).as_bytes());
            hash.digest()
        });
    }

    /// Judges what can be read of a store in which something cannot.
    pub(super) fn judge_readable(&self, readable: &Readable, power_failed: bool) -> Result<(), Exit> {
        let loss = self.loss(power_failed);
        let state = self.state();
        match state.batches.judge_readable(readable, loss.syncs_forgiven) {
            Err(_) if loss.is_beyond_budget => state.batches.was_written(readable).map_err(Exit::Violated),
            judged => judged.map_err(Exit::Violated),
        }
    }

    /// How often the disk has lost what was not durable, without a power failure too: in failed syncs.
    fn losses(&self) -> u64 {
        let node = self.state().started.node();
        self.world.env().disks().with(node, Disk::losses)
    }

    /// Every checkpoint that was reported done still opens, with the content it was taken of.
    async fn judge_checkpoints(&self) -> Result<(), Exit> {
        let taken = self.state().checkpoints.clone();
        for checkpoint in taken {
            match self.open_checkpoint(&checkpoint).await {
                // It shares its tables with the store, and their damage; nothing will come of it any more.
                Err(Exit::Damaged) => self.state().checkpoints.retain(|other| other.dir != checkpoint.dir),
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Opens what was taken, and returns what is read there: what it was taken of.
    pub(super) async fn open_checkpoint(&self, taken: &Taken) -> Result<Content, Exit> {
        let options = self.options_of_a_copy();
        let dir = &taken.dir;
        let db = match self.open(dir, options).await {
            Err(Error::NotFound { .. }) => {
                let violation = Violation::new("checkpoint", "a finished checkpoint is durable");
                return Err(violation
                    .of("checkpoint")
                    .expected(format!("a store in {}", dir.display()))
                    .found("none")
                    .into());
            }
            other => self.tolerate("open checkpoint", other)?,
        };
        let content = self.tolerate("scan checkpoint", db.scan(.., None).await)?;
        self.tolerate("close checkpoint", db.close().await)?;
        same("checkpoint", "a checkpoint holds the content it was taken of", &taken.content, &content)?;
        Ok(content)
    }

    /// What must hold of a store that nothing disturbs.
    async fn last_checks(&self, db: Db) -> Result<(), Exit> {
        let before = self.tolerate("last scan", db.scan(.., None).await)?;
        self.tolerate("last compaction", db.store.compact_all().await)?;
        let compacted = self.tolerate("scan after compaction", db.scan(.., None).await)?;
        same("model", "compaction leaves the content as it was", &before, &compacted)?;
        self.close_and_count(db).await?;
        let db = self.tolerate("last open", self.open(DB, self.options()).await)?;
        let reopened = self.tolerate("last scan", db.scan(.., None).await)?;
        same("durability", "a clean close and open loses nothing", &before, &reopened)?;
        self.close_and_count(db).await?;
        self.set_stage(Stage::Done);
        std::future::pending().await
    }

    /// Has the store check itself. Of the tables that it passes none is damaged: what was there all the time, and lasts, it
    /// must have met.
    pub(super) async fn scrub(&self, store: &Store) -> Result<(), Exit> {
        let before = self.damaged_tables(&store.live_files());
        match store.verify().await {
            Ok(verified) if verified.uncounted_garbage > 0 => {
                Err(Violation::new("structure", "what no table needs of a blob file counts as garbage")
                    .of("blob")
                    .expected("none that does not")
                    .found(format!("{} values", verified.uncounted_garbage))
                    .into())
            }
            Ok(_) => {
                let names: Vec<String> = before.iter().map(|(name, _)| name.clone()).collect();
                let after = self.damaged_tables(&names);
                match before.into_iter().find(|table| after.contains(table)) {
                    None => Ok(()),
                    Some((name, _)) => Err(Violation::new("scrub", "a scrub passes nothing that is damaged")
                        .of("table")
                        .expected(format!("an error that names {name}"))
                        .found("none")
                        .into()),
                }
            }
            Err(error) if self.medium == Medium::Damaged => self.tolerate("scrub", Err(error)),
            Err(error) => Err(Violation::new("structure", "levels are disjoint and tables whole")
                .of("version")
                .expected("no error")
                .found(error)
                .into()),
        }
    }

    /// Checks the tables, closes the store, and counts what it left.
    async fn close_and_count(&self, db: Db) -> Result<(), Exit> {
        self.scrub(&db.store).await?;
        let tables = db.tables();
        let live = db.store.live_files();
        let blobs = live.iter().filter(|name| crate::classify(Path::new(name)) == "blob").count();
        self.tolerate("close", db.close().await)?;
        let names = self.tolerate("list", list(Path::new(DB)).await)?;
        for (class, expected) in [("table", tables), ("blob", blobs), ("wal", 1), ("manifest", 1)] {
            let found: Vec<&String> =
                names.iter().filter(|name| crate::classify(Path::new(name)) == class).collect();
            if found.len() != expected {
                return Err(Violation::new("structure", "a closed store has no file that nothing names")
                    .of(class)
                    .expected(format!("{expected} files"))
                    .found(format!("{found:?}"))
                    .into());
            }
        }
        Ok(())
    }
}

/// What may be missing.
struct Loss {
    syncs_forgiven: usize,
    hides_the_unsynced: bool,
    is_beyond_budget: bool,
}

/// The kind of file that an error names.
fn culprit(error: &Error) -> &'static str {
    match error {
        Error::Io { path: file, .. } | Error::Corruption { file, .. } | Error::Unsupported { file, .. } => {
            crate::classify(file)
        }
        _ => "store",
    }
}
