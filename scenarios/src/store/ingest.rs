//! Tables that a writer makes of its own keys, and has the store ingest.
//!
//! To the oracles an ingestion is one more batch of the writer: there as a whole or not at all, in all families, and durable once it is
//! answered. Each family gets a table of the keys that it has, or two; one in two also deletes the range that its keys lie in.

use std::path::PathBuf;

use cutwater_engine::store::{Family, IngestOptions};
use cutwater_io::fs;
use cutwater_sim::plan::Op;

use super::content::value;
use super::families::Db;
use super::process::{Exit, Shared};
use super::shadows::shadow_of;
use crate::oracle::batches::{Batch, Changes};

/// A family with more keys than this gets two tables.
const KEYS_PER_TABLE: usize = 4;

impl Shared {
    pub(super) async fn ingest(&self, db: &Db, actor: usize, op: &Op) -> Result<(), Exit> {
        let (mut files, mut changes) = (Vec::new(), Changes::new());
        let deletes = op.id.is_multiple_of(2);
        for (place, family) in db.families().iter().enumerate() {
            let wanted = self.wanted(db, actor, op, place);
            let mut paths = Vec::new();
            for part in wanted.chunks(KEYS_PER_TABLE) {
                let path = PathBuf::from(format!("/ingest-{}-{place}-{}.sst", op.id, paths.len()));
                let part = part.to_vec();
                let (first, last) = (&part[0].0, &part[part.len() - 1].0);
                let behind = [&shadow_of(last)[..], b"\0"].concat();
                let range = deletes.then_some((&first[..], &behind[..]));
                self.tolerate("write a table", db.write_table(&path, range, &part).await)?;
                paths.push(path);
                // Only keys of this family are in its tables.
                let gone = |number| self.key(actor, number);
                let in_range =
                    |key: &Vec<u8>| deletes && first <= key && key <= last && db.place_of(key) == place;
                changes
                    .extend((0..self.world.knob("keys")).map(gone).filter(in_range).map(|key| (key, None)));
                changes.extend(part);
            }
            files.push((family.clone(), paths));
        }
        self.install(db, actor, files, changes, !(op.id / 2).is_multiple_of(2)).await
    }

    /// Keys of a family and what becomes of them, ascending.
    fn wanted(&self, db: &Db, actor: usize, op: &Op, place: usize) -> Changes {
        let numbers = (0..op.args[1]).map(|i| (op.args[0] + i * 3) % self.world.knob("keys"));
        let mut wanted: Changes = Vec::new();
        for number in numbers {
            let key = self.key(actor, number);
            let value = (!number.is_multiple_of(4)).then(|| value(op, number, op.args[2]));
            wanted.push((key, value));
        }
        wanted.retain(|(key, _)| db.place_of(key) == place);
        wanted.sort();
        wanted.dedup_by(|a, b| a.0 == b.0);
        wanted
    }

    async fn install(
        &self,
        db: &Db,
        actor: usize,
        files: Vec<(Family, Vec<PathBuf>)>,
        changes: Changes,
        moves: bool,
    ) -> Result<(), Exit> {
        let id = self.state().batches.attempt(Batch::new(actor, changes, true));
        let (asked_at, sources) =
            (self.logs_end(), files.iter().flat_map(|(_, paths)| paths.clone()).collect::<Vec<_>>());
        let sources = self.inos(&sources);
        let ingested = db.store.ingest_families(&files, IngestOptions { moves }).await;
        let sequence = match self.tolerate("ingest", ingested) {
            Err(Exit::OutOfSpace) => return self.outlast(db, id).await,
            other => other?,
        };
        self.state().batches.acknowledge(id, sequence)?;
        self.synced(sequence, asked_at);
        self.taken_as_they_are(&sources);
        self.owe();
        for path in files.iter().flat_map(|(_, paths)| paths).filter(|_| !moves) {
            // What cannot be removed stays; it is not looked at again.
            let _ = fs::remove_file(path).await;
        }
        Ok(())
    }
}
