//! Whether a snapshot is whole: everything that its chain names is read, and what it comes to is compared with what was recorded.
//!
//! For each partition the rows are read and the logs folded onto them, from the full snapshot to the increment that is asked for; at
//! every cut the content sum must be the one that the copies had then. So a flipped byte is found by the checksum of its block, a lost or
//! swapped file by its length and checksum, and an error of who wrote them by the sum. What no document names is reported as well: an
//! orphan of a dead attempt, or a foreign object.
//!
//! A defect is of the snapshot, and told by object and byte; that the store fails is not one, and ends the check with an error.
//! Nothing is written or deleted here.

use std::collections::{BTreeMap, BTreeSet};

use super::chain::{Chain, Link, Step};
use super::document::{Document, Part, Stored};
use super::files::{PartReader, ReadError};
use super::fold::{Digests, Fold, Rows};
use super::layout::Object;
use super::objects::{Found, Objects, StoreError};
use super::segment::{Indexed, KeyedRow};
use crate::state::blob::Blobs;
use crate::tables::ids::{CutId, PartitionId};
use crate::tables::rows::Content;

#[cfg(test)]
pub(super) mod tests;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Files that were read.
    pub files: u64,
    /// How much there was in them.
    pub bytes: u64,
    /// Partitions at cuts whose content is the one that was recorded.
    pub proved: u64,
    /// What is wrong. None: it can be restored.
    pub defects: Vec<Defect>,
    /// Files that no document names, of attempts that failed or are under way.
    pub orphans: Vec<String>,
    /// Objects that no snapshot has.
    pub foreign: Vec<String>,
    /// Later increments that cannot be read: what they name may be among the orphans.
    pub unreadable_later: Vec<String>,
}

impl Report {
    /// True if nothing is wrong up to the increment that was asked for.
    pub fn is_whole(&self) -> bool {
        self.defects.is_empty()
    }

    fn defect(&mut self, object: impl Into<String>, offset_bytes: Option<u64>, what: impl std::fmt::Display) {
        self.defects.push(Defect { object: object.into(), offset_bytes, what: what.to_string() });
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// Where.
    pub object: String,
    /// At which byte, if it is one.
    pub offset_bytes: Option<u64>,
    /// What.
    pub what: String,
}

impl std::fmt::Display for Defect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

/// The check could not be done.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store failed while a file was read.
    #[error(transparent)]
    File(ReadError),
}

/// Checks the snapshot up to increment `number`, 0 for the full one alone.
///
/// # Errors
/// If the store fails.
pub async fn check(objects: &Objects, blobs: &Blobs, number: u64) -> Result<Report, CheckError> {
    let mut report = Report::default();
    let listed = objects.list().await?;
    let (links, later) = documents(objects, number, &listed, &mut report).await?;
    sort_out(objects, &listed, links.values().chain(later.values()), &mut report);
    let chain = match Chain::new(&links, number) {
        Ok(chain) => Some(chain),
        Err(broken) => {
            // What is missing or cannot be read has been told.
            if links.len() as u64 > number {
                report.defect(objects.layout().document(number), None, broken);
            }
            None
        }
    };
    let mut partitions: BTreeSet<PartitionId> = BTreeSet::new();
    partitions.extend(links.values().flat_map(|link| &link.document.parts).map(|part| part.partition));
    for partition in partitions {
        match &chain {
            Some(chain) => prove(blobs, objects, chain, partition, &mut report).await?,
            None => read_only(blobs, &links, partition, &mut report).await?,
        }
    }
    Ok(report)
}

/// The documents up to `number`, and later ones.
async fn documents(
    objects: &Objects,
    number: u64,
    listed: &[String],
    report: &mut Report,
) -> Result<(BTreeMap<u64, Link>, BTreeMap<u64, Link>), CheckError> {
    let layout = objects.layout();
    let there = listed.iter().filter_map(|path| match layout.parse(path)? {
        Object::Snapshot => Some(0),
        Object::Increment { number } => Some(number),
        _ => None,
    });
    // And where each run of numbers ends too early: what is not there is told once, however far the next may be.
    let mut wanted: BTreeSet<u64> =
        there.flat_map(|at| [at, at.saturating_add(1).min(number.max(at))]).collect();
    wanted.extend([0, number]);
    let (mut links, mut after) = (BTreeMap::new(), BTreeMap::new());
    for at in wanted {
        let path = layout.document(at);
        match objects.document(at).await? {
            Found::Document(link) if at <= number => drop(links.insert(at, *link)),
            Found::Document(link) => drop(after.insert(at, *link)),
            Found::Absent if at <= number => report.defect(path, None, "there is no such document"),
            Found::Unusable(error) if at <= number => report.defect(path, None, error),
            Found::Absent => {}
            Found::Unusable(error) => report.unreadable_later.push(error.to_string()),
        }
    }
    Ok((links, after))
}

/// What there is and no document names.
fn sort_out<'a>(
    objects: &Objects,
    listed: &[String],
    links: impl Iterator<Item = &'a Link>,
    report: &mut Report,
) {
    let files = links.flat_map(|link| &link.document.parts).flat_map(|part| &part.files);
    let named: BTreeSet<&str> = files.map(|file| file.path.as_str()).collect();
    for path in listed {
        match objects.layout().parse(path) {
            None => report.foreign.push(path.clone()),
            Some(Object::File { .. } | Object::Draft { .. }) if !named.contains(path.as_str()) => {
                report.orphans.push(path.clone());
            }
            Some(_) => {}
        }
    }
}

/// Makes the partition at each cut of the chain, and compares.
async fn prove(
    blobs: &Blobs,
    objects: &Objects,
    chain: &Chain,
    partition: PartitionId,
    report: &mut Report,
) -> Result<(), CheckError> {
    let part_of = |document: &'_ Document| -> Option<usize> {
        document.parts.binary_search_by_key(&partition, |part| part.partition).ok()
    };
    let mut before: Option<(CutId, &Part)> = None;
    // `None` where something was wrong: what comes after can be read, and not judged.
    let mut fold: Option<Fold<Digests>> = None;
    for Link { document, .. } in chain.links() {
        let Some(part) = part_of(document).map(|at| &document.parts[at]) else {
            (before, fold) = (None, None);
            continue;
        };
        let made = match (part.stored, before, fold.take()) {
            (Stored::Rows, ..) => rows(blobs, part, report).await?,
            (Stored::Log { .. }, Some((from, from_part)), Some(fold)) => {
                let step = Step { from, from_part, to: document.cut, to_part: part, until: None };
                log(blobs, step, fold, report).await?
            }
            (Stored::Log { .. }, ..) => {
                drain::<Indexed>(blobs, part, report).await?;
                None
            }
        };
        before = Some((document.cut, part));
        fold = made.filter(|fold| is_as_recorded(objects, document, part, fold.rows().content(), report));
    }
    Ok(())
}

fn is_as_recorded(
    objects: &Objects,
    document: &Document,
    part: &Part,
    found: Content,
    report: &mut Report,
) -> bool {
    if found == part.content {
        report.proved += 1;
        return true;
    }
    let Part { partition, content, .. } = part;
    report.defect(
        objects.layout().document(document.number()),
        None,
        format!("partition {partition} at cut {}: it comes to {found:?}, and was {content:?}", document.cut),
    );
    false
}

async fn rows(blobs: &Blobs, part: &Part, report: &mut Report) -> Result<Option<Fold<Digests>>, CheckError> {
    let mut fold = Fold::new(Digests::default());
    let mut reader = PartReader::<KeyedRow>::new(blobs, &part.files);
    loop {
        match reader.next().await {
            Ok(Some(row)) if row.row.version > part.settled => {
                let object = part.files.last().map_or_else(String::new, |file| file.path.clone());
                report.defect(object, None, format!("a row of version {}, after the cut", row.row.version));
                return Ok(None);
            }
            Ok(Some(row)) => drop(fold.base(row)),
            Ok(None) => break,
            Err(error) => return failed(error, report),
        }
    }
    counted(part, report);
    Ok(Some(fold))
}

async fn log(
    blobs: &Blobs,
    step: Step<'_>,
    mut fold: Fold<Digests>,
    report: &mut Report,
) -> Result<Option<Fold<Digests>>, CheckError> {
    let part = step.to_part;
    let object = part.files.last().map_or_else(String::new, |file| file.path.clone());
    fold.begin(step.into());
    let mut reader = PartReader::<Indexed>::new(blobs, &part.files);
    loop {
        let folded = match reader.next().await {
            Ok(Some(entry)) => fold.entry(entry).map(drop),
            Ok(None) => break,
            Err(error) => return failed(error, report),
        };
        if let Err(error) = folded {
            report.defect(object, None, error);
            return Ok(None);
        }
    }
    counted(part, report);
    match fold.end() {
        Ok(()) => Ok(Some(fold)),
        Err(error) => {
            report.defect(object, None, error);
            Ok(None)
        }
    }
}

/// Without a chain there is nothing to compare with but the files' own sums.
async fn read_only(
    blobs: &Blobs,
    links: &BTreeMap<u64, Link>,
    partition: PartitionId,
    report: &mut Report,
) -> Result<(), CheckError> {
    let parts = links.values().flat_map(|link| &link.document.parts);
    for part in parts.filter(|part| part.partition == partition) {
        match part.stored {
            Stored::Rows => drain::<KeyedRow>(blobs, part, report).await?,
            Stored::Log { .. } => drain::<Indexed>(blobs, part, report).await?,
        }
    }
    Ok(())
}

async fn drain<I: super::segment::Item>(
    blobs: &Blobs,
    part: &Part,
    report: &mut Report,
) -> Result<(), CheckError> {
    let mut reader = PartReader::<I>::new(blobs, &part.files);
    loop {
        match reader.next().await {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => return failed::<()>(error, report).map(drop),
        }
    }
    counted(part, report);
    Ok(())
}

fn counted(part: &Part, report: &mut Report) {
    report.files += part.files.len() as u64;
    report.bytes += part.files.iter().map(|file| file.len_bytes).sum::<u64>();
}

/// A defect, unless the store failed.
fn failed<T>(error: ReadError, report: &mut Report) -> Result<Option<T>, CheckError> {
    if error.is_transient() {
        return Err(CheckError::File(error));
    }
    report.defect(error.object(), error.offset_bytes(), &error);
    Ok(None)
}
