//! What writers do.

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use cutwater_engine::store::Snapshot;
use cutwater_io::{fs, time};
use cutwater_sim::plan::Op;
use cutwater_sim::scenario::Violation;
use cutwater_sim::world::Ops;
use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;

use super::content::{KEYS, key, own, same, same_value, value};
use super::families::{Db, Draft};
use super::process::{Exit, Shared, Taken};
use super::repair::copy;
use super::shadows::{is_shadow, judge_again};
use crate::oracle::batches::{Batch, BatchId, Content, Place, Synced};

/// A value this long is not appended to any more. Bytes.
const APPENDED_TO_MAX_BYTES: usize = 4000;

/// A checkpoint is looked at again after each crash; more than a few would only cost time.
const CHECKPOINTS_KEPT: usize = 2;

impl Shared {
    /// One writer: the operations of its part of the plan, on its own keys.
    pub(super) async fn work(&self, db: &Db, actor: usize) -> Result<(), Exit> {
        let mut ops = self.actors[actor].lock().await;
        let mut held = FuturesUnordered::new();
        while let Some(op) = self.next_of(&mut ops, &mut held).await? {
            let result = match op.verb.as_str() {
                "snapshot" => {
                    held.push(self.hold_snapshot(db, db.store.snapshot(), op.args[0]));
                    Ok(())
                }
                _ => self.apply(db, actor, &op).await,
            };
            self.world.answered(
                &op,
                match result {
                    Ok(()) => "done",
                    Err(Exit::Failed) => "the process ends",
                    Err(Exit::OutOfSpace) => "refused for want of space",
                    Err(Exit::Damaged) => "refused as damaged",
                    Err(Exit::Violated(_)) => "wrong",
                },
            );
            match result {
                Err(Exit::OutOfSpace) => self.wait_for_space(db).await?,
                other => other?,
            }
        }
        while let Some(judged) = held.next().await {
            judged?;
        }
        Ok(())
    }

    async fn apply(&self, db: &Db, actor: usize, op: &Op) -> Result<(), Exit> {
        self.look_at_others(db, actor).await?;
        let args = &op.args;
        match op.verb.as_str() {
            "put" => {
                let mut draft = Draft::new(db);
                self.set(&mut draft, actor, self.key(actor, args[0]), value(op, 0, args[1]), op.id.into());
                self.write(db, actor, draft, args[2] == 3).await
            }
            "delete" => {
                let mut draft = Draft::new(db);
                draft.delete(self.key(actor, args[0]));
                self.write(db, actor, draft, args[1] == 3).await
            }
            "batch" => {
                let mut draft = Draft::new(db);
                for i in 0..args[1] {
                    let key = self.key(actor, args[0] + i * 5);
                    match i % 3 {
                        2 => draft.delete(key),
                        _ => self.set(&mut draft, actor, key, value(op, i, args[2]), i + u64::from(op.id)),
                    }
                }
                self.write(db, actor, draft, args[3] == 3).await
            }
            "delete_range" => {
                let mut draft = Draft::new(db);
                draft.delete_range((args[0]..KEYS.min(args[0] + args[1])).map(|number| key(actor, number)));
                if op.id.is_multiple_of(2) {
                    self.set(&mut draft, actor, self.key(actor, args[0]), value(op, 0, 40), op.id.into());
                }
                self.write(db, actor, draft, args[2] == 3).await
            }
            "get" => {
                let key = self.key(actor, args[0]);
                let expected = self.state().batches.content_of(actor).get(&key).cloned();
                let found = self.tolerate("get", db.get(&key).await);
                let found = self.others_are_right(db, actor, found).await?;
                same_value("a read returns the last write", &key, &expected, &found).map_err(Exit::from)
            }
            "scan" => {
                let (from, to) = (key(actor, args[0]), key(actor, args[0] + args[1]));
                let expected: Content =
                    self.state().batches.content_of(actor).range(from.clone()..to.clone()).map(own).collect();
                let found = match op.id % 2 {
                    0 => db.scan(from..to, None).await,
                    _ => db.scan_backwards(from..to).await,
                };
                let found = self.tolerate("scan", found);
                let found = self.others_are_right(db, actor, found).await?;
                same("model", "a scan returns what was written", &expected, &found).map_err(Exit::from)
            }
            "slow_scan" => self.scan_slowly(db, args[0], !op.id.is_multiple_of(2)).await,
            "flush" => {
                if let Some(family) = db.one_of(op.id) {
                    return self.tolerate("flush family", family.flush().await);
                }
                let acknowledged = self.state().batches.acknowledged();
                self.tolerate("flush", db.store.flush().await)?;
                self.state().batches.flushed(acknowledged);
                self.owe();
                Ok(())
            }
            "compact" => match db.one_of(op.id) {
                Some(family) => self.tolerate("compact family", family.compact_all().await),
                None => self.tolerate("compact", db.store.compact_all().await),
            },
            "sync_wal" => {
                let acknowledged = self.state().batches.acknowledged();
                let asked_at = self.logs_end();
                self.tolerate("sync", db.store.sync_wal().await)?;
                self.synced(acknowledged, asked_at);
                self.owe();
                Ok(())
            }
            "family" => self.come_and_go(db, op).await,
            "checkpoint" => self.take_checkpoint(db, op).await,
            "backup" => self.back_up(db, op).await,
            "ingest" => self.ingest(db, actor, op).await,
            "scrub" => self.scrub(&db.store).await,
            "reopen" => {
                // Whatever the answer is, it is closed.
                match self.tolerate("close", db.store.clone().close().await) {
                    Ok(()) | Err(Exit::OutOfSpace) => Err(Exit::Failed),
                    other => other,
                }
            }
            other => unreachable!("{other} is not in the vocabulary"),
        }
    }

    /// One of the keys that the writers of this run use.
    pub(super) fn key(&self, actor: usize, number: u64) -> Vec<u8> {
        key(actor, number % self.world.knob("keys"))
    }

    /// Puts a value, or, one in three if the plan has merges, appends it to whatever is there.
    fn set(&self, draft: &mut Draft<'_>, actor: usize, key: Vec<u8>, value: Vec<u8>, number: u64) {
        let mut state = self.state();
        let before = state.batches.content_of(actor).get(&key);
        let is_short = before.is_none_or(|before| before.len() < APPENDED_TO_MAX_BYTES);
        match self.world.knob("merges") == 1 && number.is_multiple_of(3) && is_short {
            true => draft.append(key, &value, before),
            false => draft.put(key, value),
        }
    }

    /// Writes what was drafted.
    async fn write(&self, db: &Db, actor: usize, draft: Draft<'_>, sync: bool) -> Result<(), Exit> {
        let Draft { batch, changes, .. } = draft;
        let id = self.state().batches.attempt(Batch::new(actor, changes, sync));
        let asked_at = self.logs_end();
        let sequence = match self.tolerate("write", db.write(batch, sync).await) {
            Err(Exit::OutOfSpace) => return self.outlast(db, id).await,
            other => other?,
        };
        self.state().batches.acknowledge(id, sequence)?;
        if sync {
            self.synced(sequence, asked_at);
        }
        self.owe();
        Ok(())
    }

    /// Waits until a store that has refused a batch for want of space takes writes again: nothing comes of the batch then.
    pub(super) async fn outlast(&self, db: &Db, refused: BatchId) -> Result<(), Exit> {
        self.wait_for_space(db).await?;
        self.state().batches.give_up(refused).map_err(Exit::from)
    }

    /// A sync was reported done.
    pub(super) fn synced(&self, sequence: u64, asked_at: Place) {
        let (at_us, answered_at) = (self.world.now_us(), self.logs_end());
        self.state().batches.synced(Synced { sequence, at_us, asked_at, answered_at });
    }

    /// Reads what the other writers are writing just now: what is shown is there for good.
    async fn look_at_others(&self, db: &Db, actor: usize) -> Result<(), Exit> {
        for other in (0..self.actors.len()).filter(|other| *other != actor) {
            let keys = self.state().batches.keys_being_written(other);
            for key in keys {
                let answered = self.state().batches.answered(other);
                let found = self.tolerate("get of another's key", db.get(&key).await)?;
                self.state().batches.judge_foreign_read(other, answered, &key, &found)?;
            }
        }
        self.owe();
        Ok(())
    }

    /// Everything that a snapshot has: the state at its sequence number, of all writers.
    fn judge_snapshot(&self, found: &Content, sequence: u64) -> Result<(), Exit> {
        let mut state = self.state();
        state.batches.judge_cut("model", found, sequence)?;
        state.batches.shown(found);
        drop(state);
        self.owe();
        Ok(())
    }

    /// Holds a snapshot while all writers go on, flush and compact: it stays the state at its sequence number, of all.
    async fn hold_snapshot(&self, db: &Db, snapshot: Snapshot, hold_us: u64) -> Result<(), Exit> {
        let before = self.tolerate("scan of a new snapshot", db.shadows(&snapshot).await)?;
        time::sleep(Duration::from_micros(hold_us)).await;
        let found = self.tolerate("scan of a snapshot", db.scan(.., Some(&snapshot)).await)?;
        let after = self.tolerate("scan of a snapshot", db.shadows(&snapshot).await)?;
        judge_again(&before, &after)?;
        self.judge_snapshot(&found, snapshot.sequence())
    }

    /// Scans a snapshot and stops for a while after the first key, while other writers go on, flush and compact: files that
    /// the scan has yet to read must not go away under it.
    async fn scan_slowly(&self, db: &Db, hold_us: u64, backwards: bool) -> Result<(), Exit> {
        let snapshot = db.store.snapshot();
        let mut found = Content::new();
        for mut iter in db.iters(.., Some(&snapshot)) {
            let mut entry = if backwards { iter.seek_to_last().await } else { iter.seek_to_first().await };
            while let Some((key, value)) = self.tolerate("slow scan", entry)? {
                if found.is_empty() {
                    time::sleep(Duration::from_micros(hold_us)).await;
                }
                if is_shadow(&key).is_none() {
                    found.insert(key, value);
                }
                entry = if backwards { iter.prev().await } else { iter.next().await };
            }
        }
        self.judge_snapshot(&found, snapshot.sequence())
    }

    /// Takes a checkpoint, and judges what is in it. Other writers go on meanwhile: what it holds of theirs is judged as after
    /// a crash. Opening a store writes to it, and would mend what a checkpoint forgot to make durable: so one in two is not
    /// opened itself before the next crash, only a copy of it.
    async fn take_checkpoint(&self, db: &Db, op: &Op) -> Result<(), Exit> {
        let dir = PathBuf::from(format!("/checkpoint-{}", op.id));
        let before = self.state().batches.acknowledged();
        let files = self.tolerate("checkpoint", db.checkpoint(&dir).await)?;
        let taken_us = self.world.now_us();
        if files.sequence < before {
            return Err(Violation::new("checkpoint", "a checkpoint holds what was acknowledged before it")
                .of("checkpoint")
                .expected(format!("sequence {before} or more"))
                .found(files.sequence)
                .into());
        }
        let options = self.options_of_a_copy();
        let probe = PathBuf::from(format!("/probe-{}", op.id));
        let opened = if op.id.is_multiple_of(2) {
            &dir
        } else {
            self.tolerate("copy checkpoint", copy(&files, &dir, &probe).await)?;
            &probe
        };
        let copy = self.tolerate("open checkpoint", self.open(opened, options).await)?;
        let content = self.tolerate("scan checkpoint", copy.scan(.., None).await)?;
        self.tolerate("close checkpoint", copy.close().await)?;
        // What cannot be removed stays; it is not looked at again.
        let _ = fs::remove_dir_all(&probe).await;
        let old: Vec<Taken> = {
            let mut state = self.state();
            state.batches.judge_cut("checkpoint", &content, files.sequence).map_err(Exit::Violated)?;
            state.checkpoints.push(Taken { dir, content, taken_us });
            let surplus = state.checkpoints.len().saturating_sub(CHECKPOINTS_KEPT);
            state.checkpoints.drain(..surplus).collect()
        };
        self.owe();
        for taken in old {
            // What cannot be removed stays; it is not looked at again.
            let _ = fs::remove_dir_all(&taken.dir).await;
        }
        Ok(())
    }

    /// The next operation, if there is one; until its time has come, what is held meanwhile goes on.
    async fn next_of(
        &self,
        ops: &mut Ops,
        held: &mut FuturesUnordered<impl Future<Output = Result<(), Exit>>>,
    ) -> Result<Option<Op>, Exit> {
        let mut next = pin!(async {
            // This one first: operations may be overdue.
            match select(pin!(self.is_over()), pin!(ops.next())).await {
                Either::Left(_) => None,
                Either::Right((op, _)) => op,
            }
        });
        loop {
            if held.is_empty() {
                return Ok(next.await);
            }
            match select(&mut next, held.next()).await {
                Either::Left((op, _)) => return Ok(op),
                Either::Right((judged, _)) => judged.transpose()?.unwrap_or_default(),
            }
        }
    }
}
