//! The chain of documents from a full snapshot to the increment that is to be restored: pure, over documents that were read.
//!
//! Each increment names its parent by number, cut and checksum, so there is one chain or a named reason why there is none. For each
//! partition the chain says where to begin (the last increment that holds its rows) and which logs to go on with. Whether they reach far
//! enough back is checked here, before anything is loaded.
//!
//! *A point in time* lies between two cuts. It can be restored if there is a cut with nothing later than it, and a later one after which
//! there is nothing as early: then the logs between them have all of it. Otherwise it is refused, and the error says what could be.

use std::collections::BTreeMap;

use super::document::{Document, Kind, Part, Stored, Table};
use crate::tables::ids::{CutId, HybridTime, LogIndex, PartitionId};

/// A document, and the checksum of the bytes that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The document.
    pub document: Document,
    /// [`super::document::checksum`] of its bytes.
    pub xxh3: u128,
}

/// Why there is no chain, or it does not lead where it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// There is no full snapshot.
    #[error("there is no full snapshot of that name")]
    NoSnapshot,
    /// An increment is missing.
    #[error("increment {number} is missing")]
    Hole {
        /// Which.
        number: u64,
    },
    /// A document is not where it belongs.
    #[error("where increment {number} should be is the document of increment {found}")]
    Misplaced {
        /// What was asked for.
        number: u64,
        /// What is there.
        found: u64,
    },
    /// A document is of another snapshot.
    #[error("increment {number} is of snapshot {found}, not of {expected}")]
    OtherSnapshot {
        /// Which.
        number: u64,
        /// Of what it is.
        found: String,
        /// Of what the full one is.
        expected: String,
    },
    /// An increment goes on from another document than the one before it.
    #[error(
        "increment {number} goes on from cut {expected_cut} ({expected_xxh3:032x}), and before it is cut {found_cut} ({found_xxh3:032x})"
    )]
    ForeignParent {
        /// Which.
        number: u64,
        /// The cut that it names.
        expected_cut: CutId,
        /// The checksum that it names.
        expected_xxh3: u128,
        /// The cut before it.
        found_cut: CutId,
        /// The checksum of the document before it.
        found_xxh3: u128,
    },
    /// Cuts do not grow.
    #[error("increment {number} is of cut {cut}, and the one before it of cut {before}")]
    CutOrder {
        /// Which.
        number: u64,
        /// Its cut.
        cut: CutId,
        /// The cut before it.
        before: CutId,
    },
    /// An increment has a log of a partition that the document before it does not have.
    #[error("increment {number} has a log of partition {partition}, which is not in what it goes on from")]
    MissingPartition {
        /// Which.
        number: u64,
        /// The partition.
        partition: PartitionId,
    },
    /// A log does not go on from where the document before it ends.
    #[error(
        "increment {number}: the log of partition {partition} begins at {first}, and is needed from {since}"
    )]
    LogGap {
        /// Which.
        number: u64,
        /// The partition.
        partition: PartitionId,
        /// Where it begins.
        first: LogIndex,
        /// From where it is needed.
        since: LogIndex,
    },
    /// A log goes back.
    #[error("increment {number}: the mark of partition {partition} is at {mark}, and before it at {before}")]
    LogGoesBack {
        /// Which.
        number: u64,
        /// The partition.
        partition: PartitionId,
        /// Where.
        mark: LogIndex,
        /// Where before.
        before: LogIndex,
    },
    /// A table keeps its id and its schema along a chain.
    #[error("increment {number}: table {table} is not the one that it was")]
    OtherTable {
        /// Which.
        number: u64,
        /// The table's name.
        table: String,
    },
    /// A table that is wanted is not in the snapshot.
    #[error("there is no table {table} in it, only {}", known.join(", "))]
    NoTable {
        /// The name.
        table: String,
        /// The tables that there are.
        known: Vec<String>,
    },
    /// The time is before everything that can be restored.
    #[error("time {time} us cannot be restored, the earliest that can is {earliest} us", time = time.0, earliest = earliest.0)]
    TooEarly {
        /// What was asked for.
        time: HybridTime,
        /// What there is.
        earliest: HybridTime,
    },
    /// The time is after everything that can be restored.
    #[error("time {time} us cannot be restored, the latest that can is {latest} us", time = time.0, latest = latest.0)]
    TooLate {
        /// What was asked for.
        time: HybridTime,
        /// What there is.
        latest: HybridTime,
    },
    /// A partition moved, or was made, between the cuts around the time: there are its rows at the cut, and no log.
    #[error("time {time} us cannot be restored: increment {number} has no log of partition {partition}", time = time.0)]
    NoLog {
        /// What was asked for.
        time: HybridTime,
        /// The increment.
        number: u64,
        /// The partition.
        partition: PartitionId,
    },
}

/// What to restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Target {
    /// The state at the cut of an increment; 0 is the full snapshot.
    Increment(u64),
    /// The state at a time: all transactions that committed then or earlier.
    Time(HybridTime),
}

/// A chain that holds, up to somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    links: Vec<Link>,
}

/// A log to go on with: from one cut to the next in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// The cut that is there.
    pub from: CutId,
    /// The partition there.
    pub from_part: &'a Part,
    /// The cut to go to.
    pub to: CutId,
    /// The partition there, with the files of the log between.
    pub to_part: &'a Part,
    /// Without what is later than this.
    pub until: Option<HybridTime>,
}

/// How to make one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan<'a> {
    /// Whose files are its rows.
    pub base: &'a Part,
    /// What to go on with, in order.
    pub steps: Vec<Step<'a>>,
    /// Without what is later than this.
    pub until: Option<HybridTime>,
}

impl Plan<'_> {
    /// What the rows must come to; `None` at a time between cuts, of which nobody recorded it.
    pub fn content(&self) -> Option<crate::tables::rows::Content> {
        let last = self.steps.last().map_or(self.base, |step| step.to_part);
        self.until.is_none().then_some(last.content)
    }
}

impl Chain {
    /// The chain up to increment `number`, of the documents that were read.
    ///
    /// # Errors
    /// Why there is none.
    pub fn new(read: &BTreeMap<u64, Link>, number: u64) -> Result<Chain, Broken> {
        let mut links: Vec<Link> = Vec::new();
        for at in 0..=number {
            let Some(link) = read.get(&at) else {
                return Err(if at == 0 { Broken::NoSnapshot } else { Broken::Hole { number: at } });
            };
            let found = link.document.number();
            if found != at {
                return Err(Broken::Misplaced { number: at, found });
            }
            if let Some(before) = links.last() {
                check_link(before, link)?;
            }
            links.push(link.clone());
        }
        Ok(Chain { links })
    }

    /// The documents, from the full snapshot on.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The document that it leads to.
    pub fn last(&self) -> &Document {
        &self.links.last().expect("a chain has a full snapshot").document
    }

    /// The tables that are wanted, all if nothing is said, at the end of the chain.
    ///
    /// # Errors
    /// If one is not there.
    pub fn tables(&self, wanted: Option<&[String]>) -> Result<Vec<&Table>, Broken> {
        let tables = &self.last().tables;
        let Some(wanted) = wanted else { return Ok(tables.iter().collect()) };
        let find = |name: &String| {
            tables.iter().find(|table| table.name == *name).ok_or_else(|| Broken::NoTable {
                table: name.clone(),
                known: tables.iter().map(|table| table.name.clone()).collect(),
            })
        };
        wanted.iter().map(find).collect()
    }

    /// The document at which the way to the target ends: that of its increment, or of the first cut after which nothing is as early as its
    /// time.
    ///
    /// # Errors
    /// If the chain does not lead there.
    pub fn end(&self, target: Target) -> Result<&Document, Broken> {
        self.end_at(target).map(|at| &self.links[at].document)
    }

    fn end_at(&self, target: Target) -> Result<usize, Broken> {
        let time = match target {
            Target::Increment(number) => {
                let at = self.links.iter().position(|link| link.document.number() == number);
                return at.ok_or(Broken::Hole { number });
            }
            Target::Time(time) => time,
        };
        let earliest = self.links[0].document.time.latest;
        if time < earliest {
            return Err(Broken::TooEarly { time, earliest });
        }
        let latest = self.links.iter().map(|link| link.document.time.closed).max().unwrap_or_default();
        let is_closed = |link: &Link| link.document.time.closed >= time;
        self.links.iter().position(is_closed).ok_or(Broken::TooLate { time, latest })
    }

    /// How to make a partition of the document at the target's end.
    ///
    /// # Errors
    /// If the chain does not lead there, or the logs of the partition do not lead to the target's time.
    ///
    /// # Panics
    /// If that document has no such partition.
    pub fn plan(&self, partition: PartitionId, target: Target) -> Result<Plan<'_>, Broken> {
        let part = |at: usize| self.links[at].document.parts.iter().find(|part| part.partition == partition);
        let end = self.end_at(target)?;
        assert!(part(end).is_some(), "partition {partition} is not in the document");
        let rows_at = |at: &usize| part(*at).is_some_and(|part| part.stored == Stored::Rows);
        let base = (0..=end).rev().find(rows_at).expect("a chain whose logs go on from rows");
        let until = match target {
            // Nothing at this cut is later, and after it nothing is as early: the time is that of the cut.
            Target::Time(time) if self.links[end].document.time.latest > time => Some(time),
            _ => None,
        };
        let base_part = part(base).expect("it has rows");
        if let Some(time) = until.filter(|time| base_part.latest > *time) {
            let number = self.links[base].document.number();
            return Err(Broken::NoLog { time, number, partition });
        }
        let step = |at: usize| Step {
            from: self.links[at - 1].document.cut,
            from_part: part(at - 1).expect("logs go on from the document before"),
            to: self.links[at].document.cut,
            to_part: part(at).expect("logs go on to the last document"),
            until,
        };
        Ok(Plan { base: base_part, steps: (base + 1..=end).map(step).collect(), until })
    }
}

fn check_link(before: &Link, link: &Link) -> Result<(), Broken> {
    let (old, new) = (&before.document, &link.document);
    let number = new.number();
    let Kind::Increment { parent, .. } = new.kind else { return Err(Broken::Misplaced { number, found: 0 }) };
    if (&old.root, &old.name) != (&new.root, &new.name) {
        let (found, expected) = (format!("{}/{}", new.root, new.name), format!("{}/{}", old.root, old.name));
        return Err(Broken::OtherSnapshot { number, found, expected });
    }
    if new.cut <= old.cut {
        return Err(Broken::CutOrder { number, cut: new.cut, before: old.cut });
    }
    if (parent.cut, parent.xxh3) != (old.cut, before.xxh3) {
        return Err(Broken::ForeignParent {
            number,
            expected_cut: parent.cut,
            expected_xxh3: parent.xxh3,
            found_cut: old.cut,
            found_xxh3: before.xxh3,
        });
    }
    for table in &new.tables {
        if old.tables.iter().any(|other| other.id == table.id && other != table) {
            return Err(Broken::OtherTable { number, table: table.name.clone() });
        }
    }
    for part in &new.parts {
        let partition = part.partition;
        let known =
            old.parts.binary_search_by_key(&partition, |part| part.partition).ok().map(|at| &old.parts[at]);
        match (part.stored, known) {
            (Stored::Log { .. }, None) => return Err(Broken::MissingPartition { number, partition }),
            (Stored::Log { first, .. }, Some(known)) if first > known.since => {
                return Err(Broken::LogGap { number, partition, first, since: known.since });
            }
            (_, Some(known)) if part.mark <= known.mark => {
                return Err(Broken::LogGoesBack { number, partition, mark: part.mark, before: known.mark });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::snapshot::document::tests::document;
    use crate::tables::snapshot::document::{FileRef, Parent};
    use crate::tables::snapshot::layout::{Content, Layout};

    const P: PartitionId = PartitionId { table: 1, number: 0 };

    /// A full snapshot at cut 1, and increments at cuts 2, 3, .., each with a log.
    fn links(increments: u64) -> BTreeMap<u64, Link> {
        let mut links = BTreeMap::new();
        let mut before: Option<Link> = None;
        for number in 0..=increments {
            let mut new = document(Kind::Full, number + 1);
            if let Some(before) = &before {
                let parent = Parent { number: number - 1, cut: number, xxh3: before.xxh3 };
                new.kind = Kind::Increment { number, parent };
                with_log(&mut new, before.document.parts[0].since);
            }
            let link = Link { xxh3: super::super::document::checksum(&new.encode()), document: new };
            links.insert(number, link.clone());
            before = Some(link);
        }
        links
    }

    fn with_log(document: &mut Document, first: LogIndex) {
        let path = Layout::new("root", "s").unwrap().file(document.cut, P, Content::Log, "a");
        let part = &mut document.parts[0];
        let last = part.settled;
        part.stored = Stored::Log { first, last };
        part.files = vec![FileRef { path, len_bytes: 9, crc32c: 0, xxh3: 0, items: last - first + 1 }];
    }

    fn time(time: u64) -> Target {
        Target::Time(HybridTime(time))
    }

    #[test]
    fn a_chain_leads_to_each_of_its_increments() {
        let links = links(3);
        for number in 0..=3 {
            let chain = Chain::new(&links, number).unwrap();
            assert_eq!(chain.last().number(), number);
            let plan = chain.plan(P, Target::Increment(number)).unwrap();
            let cuts: Vec<_> = plan.steps.iter().map(|step| (step.from, step.to, step.until)).collect();
            let expected: Vec<_> = (1..=number).map(|number| (number, number + 1, None)).collect();
            assert_eq!((plan.base.mark, cuts), (10, expected));
            assert_eq!(plan.content(), Some(chain.last().parts[0].content));
        }
        assert_eq!(Chain::new(&links, 4), Err(Broken::Hole { number: 4 }));
    }

    #[test]
    fn rows_in_an_increment_begin_anew() {
        let mut links = links(2);
        let rows = document(links[&2].document.kind.clone(), 3);
        links.get_mut(&2).unwrap().document = rows;
        let chain = Chain::new(&links, 2).unwrap();
        let plan = chain.plan(P, Target::Increment(2)).unwrap();
        assert_eq!((plan.base.mark, plan.steps.len()), (30, 0));
        let refused = chain.plan(P, time(251)).unwrap_err();
        assert_eq!(refused, Broken::NoLog { time: HybridTime(251), number: 2, partition: P });
        assert!(chain.plan(P, time(250)).is_ok());
    }

    #[test]
    fn a_time_between_cuts_takes_the_logs_around_it() {
        // Cut k has nothing later than 100 k, and after it nothing is as early as 100 k + 50.
        let chain = Chain::new(&links(3), 3).unwrap();
        let plan = |at: u64| {
            let plan = chain.plan(P, time(at))?;
            let steps: Vec<_> =
                plan.steps.iter().map(|step| (step.from, step.to, step.until.map(|t| t.0))).collect();
            Ok((plan.base.mark, steps))
        };
        assert_eq!(plan(100), Ok((10, vec![])));
        assert_eq!(plan(150), Ok((10, vec![])));
        assert_eq!(plan(151), Ok((10, vec![(1, 2, Some(151))])));
        assert_eq!(plan(199), Ok((10, vec![(1, 2, Some(199))])));
        assert_eq!(plan(200), Ok((10, vec![(1, 2, None)])), "nothing of it is later");
        assert_eq!(plan(251), Ok((10, vec![(1, 2, Some(251)), (2, 3, Some(251))])));
        assert_eq!(plan(450), Ok((10, vec![(1, 2, None), (2, 3, None), (3, 4, None)])));
        assert_eq!(plan(99), Err(Broken::TooEarly { time: HybridTime(99), earliest: HybridTime(100) }));
        assert_eq!(plan(451), Err(Broken::TooLate { time: HybridTime(451), latest: HybridTime(450) }));
    }

    #[test]
    fn each_defect_has_its_name() {
        type Break = fn(&mut BTreeMap<u64, Link>);
        let broken = |change: Break| {
            let mut links = links(2);
            change(&mut links);
            Chain::new(&links, 2).unwrap_err()
        };
        assert_eq!(broken(|links| drop(links.remove(&0))), Broken::NoSnapshot);
        assert_eq!(broken(|links| drop(links.remove(&1))), Broken::Hole { number: 1 });
        let swapped = broken(|links| {
            let other = links[&1].clone();
            links.insert(2, other);
        });
        assert_eq!(swapped, Broken::Misplaced { number: 2, found: 1 });
        let other = broken(|links| links.get_mut(&1).unwrap().document.name = "other".into());
        assert!(matches!(other, Broken::OtherSnapshot { number: 1, .. }));
        let foreign = broken(|links| links.get_mut(&0).unwrap().xxh3 ^= 1);
        assert!(matches!(foreign, Broken::ForeignParent { number: 1, .. }));
        let order = broken(|links| links.get_mut(&2).unwrap().document.cut = 2);
        assert_eq!(order, Broken::CutOrder { number: 2, cut: 2, before: 2 });
        let missing = broken(|links| links.get_mut(&1).unwrap().document.parts.clear());
        assert_eq!(missing, Broken::MissingPartition { number: 2, partition: P });
        let gap = broken(|links| links.get_mut(&1).unwrap().document.parts[0].since = 5);
        assert_eq!(gap, Broken::LogGap { number: 2, partition: P, first: 20, since: 5 });
        let back = broken(|links| links.get_mut(&2).unwrap().document.parts[0].mark = 20);
        assert_eq!(back, Broken::LogGoesBack { number: 2, partition: P, mark: 20, before: 20 });
        let table = broken(|links| links.get_mut(&2).unwrap().document.tables[0].backups = 5);
        assert_eq!(table, Broken::OtherTable { number: 2, table: "t".into() });
    }

    #[test]
    fn tables_are_found_by_their_names() {
        let chain = Chain::new(&links(0), 0).unwrap();
        assert_eq!(chain.tables(None).unwrap().len(), 1);
        assert_eq!(chain.tables(Some(&["t".into()])).unwrap()[0].name, "t");
        let missing = chain.tables(Some(&["u".into()])).unwrap_err();
        assert_eq!(missing.to_string(), "there is no table u in it, only t");
    }
}
