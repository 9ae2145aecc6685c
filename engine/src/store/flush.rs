//! The flush task: closed memtables become tables of level 0, group by group and in order.
//!
//! Order of durability: contents of the tables, their names, the edits. Only then are the memtables dropped and logs removed
//! that no family needs any more. The edits of a group are one atomic change, whatever the families.

use std::sync::Arc;

use cutwater_io::{point, sometimes};

use super::background::Background;
use super::build::{Build, Built, Target};
use super::error::Error;
use super::families::{Closed, Part};
use super::install::Change;
use super::merge::{Merge, Source};
use super::points::{self, of_families};
use super::rate::{Pace, Priority};
use super::retention::Retention;
use super::shared::{Shared, State};
use super::version::VersionEdit;

/// Flushes until the store closes.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        let job = {
            let state = shared.state();
            if state.is_closing {
                return;
            }
            let may_flush = Background::lets_flush(state.background.as_ref());
            state.families.oldest_closed().filter(|_| may_flush).cloned()
        };
        match job {
            None => shared.flush_wake.notified().await,
            Some(closed) => match flush(&shared, &closed).await {
                Ok(()) => {
                    drop(closed);
                    shared.purge().await;
                }
                Err(e) => {
                    shared.fail("a flush", e);
                }
            },
        }
    }
}

#[tracing::instrument(name = "flush", level = "debug", skip_all)]
async fn flush(shared: &Shared, closed: &Arc<Closed>) -> Result<(), Error> {
    let asks = |part: &&Part| part.options.flush_filter().is_some();
    let _filtering: Vec<_> =
        closed.parts.iter().filter(asks).map(|part| shared.begin_filtering(part.key.id)).collect();
    let (snapshots, parts) = {
        let state = shared.state();
        let is_there = |part: &&Part| state.families.get(part.key.id).is_some();
        (shared.snapshots.sequences(), closed.parts.iter().filter(is_there).collect::<Vec<_>>())
    };
    let mut build = Build::new(&shared.site, || shared.allocate_number());
    let written = write_tables(shared, &parts, &mut build, snapshots).await;
    let tables = match written {
        Ok(tables) => tables,
        Err(e) => {
            shared.discard(build.into_created());
            return Err(e);
        }
    };
    shared.files.counters.flushes.add(1);
    shared.files.counters.flushed_bytes.add(tables.iter().map(Built::len_bytes).sum());
    sometimes!(of_families::FLUSHED_TOGETHER, parts.len() > 1);
    point!(points::FLUSH_BEFORE_MANIFEST);
    let edit = |(part, built): (&&Part, Built)| VersionEdit {
        column_family: part.key.id,
        log_number: Some(closed.next_log_number),
        ..built.into_edit(0)
    };
    let edits = parts.iter().zip(tables).map(edit).collect();
    let change = Change { edits, flushes: Some(closed.clone()), num_levels: 0 };
    shared.install("a flush", change, |state: &mut State| state.families.flushed(&state.set)).await
}

/// Of each part the files, durable with their names.
async fn write_tables<F: FnMut() -> u64>(
    shared: &Shared,
    parts: &[&Part],
    build: &mut Build<'_, F>,
    snapshots: Vec<u64>,
) -> Result<Vec<Built>, Error> {
    let mut tables = Vec::new();
    for part in parts {
        let merge = Merge::new(vec![Source::memtable(part.mem.clone())], None).await?;
        let filter = part.options.flush_filter();
        let pace = Pace::new(shared.site.rate.as_ref(), Priority::Flush);
        let target = Target { filter, pace, ..Target::level0(part.key.id, &part.key.name, &part.options) };
        let mut retention = Retention::of_memtable(&part.mem, snapshots.clone());
        tables.push(build.run(&target, merge, &mut retention).await?);
    }
    point!(points::FLUSH_TABLE_SYNCED);
    shared.site.dir.sync().await?;
    Ok(tables)
}
