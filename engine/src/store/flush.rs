//! The flush task: closed memtables become tables of level 0, one by one and in order.
//!
//! Order of durability: contents of the table, its name, the edit. Only then is the memtable dropped and its log removed.

use std::sync::Arc;

use cutwater_io::point;

use super::build::{Build, Built};
use super::error::Error;
use super::merge::{Merge, Source};
use super::points;
use super::retention::Retention;
use super::shared::{Immutable, Shared};
use super::version::VersionEdit;

/// Flushes until the store closes.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        let job = {
            let state = shared.state();
            if state.is_closing {
                return;
            }
            state.immutable.front().filter(|_| state.background.is_none()).cloned()
        };
        match job {
            None => shared.flush_wake.notified().await,
            Some(memtable) => match flush(&shared, &memtable).await {
                Ok(()) => shared.purge().await,
                Err(e) => {
                    shared.fail("a flush", e);
                }
            },
        }
    }
}

#[tracing::instrument(name = "flush", level = "debug", skip_all)]
async fn flush(shared: &Shared, memtable: &Immutable) -> Result<(), Error> {
    let snapshots = {
        let _state = shared.state();
        shared.snapshots.sequences()
    };
    let mut build = Build::new(&shared.site, || shared.allocate_number(), u64::MAX);
    let written = write_table(shared, memtable, &mut build, snapshots).await;
    let built = match written {
        Ok(built) => built,
        Err(e) => {
            build.abandon().await;
            return Err(e);
        }
    };
    point!(points::FLUSH_BEFORE_MANIFEST);
    let id = memtable.mem.id();
    let edit = VersionEdit {
        log_number: Some(memtable.next_log_number),
        last_sequence: Some(memtable.mem.last_sequence()),
        ..built.into_edit(0)
    };
    let done = |state: &mut super::shared::State| {
        let flushed = state.immutable.pop_front().expect("only the flush task takes memtables");
        assert_eq!(flushed.mem.id(), id, "memtables are flushed in order");
        state.flushed_memtable = id;
    };
    shared.install("a flush", edit, done).await
}

async fn write_table<F: FnMut() -> u64>(
    shared: &Shared,
    memtable: &Immutable,
    build: &mut Build<'_, F>,
    snapshots: Vec<u64>,
) -> Result<Built, Error> {
    let merge = Merge::new(vec![Source::memtable(memtable.mem.clone())], None).await?;
    let built = build.run(merge, &mut Retention::new(snapshots, None)).await?;
    point!(points::FLUSH_TABLE_SYNCED);
    shared.site.dir.sync().await?;
    Ok(built)
}
