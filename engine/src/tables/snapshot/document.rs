//! The document of a snapshot: `SNAPSHOT` of a full one, `INCREMENT` of an increment.
//!
//! It is put last, if absent, when everything that it names is durable: a snapshot exists if and only if its document does. It names
//! every file with length and checksums, and for each partition where its log stood and what its rows came to, so that whoever
//! reads can tell whether it got what was written, and what the files should fold to. An increment names its parent by number, cut and
//! checksum of the parent's document: chains cannot be mixed, and cannot have a hole.
//!
//! It is sealed with the envelope of everything the coordinator of checkpoints writes; a later format is refused by its number.
//! What is read is checked against itself and against the name that it was read from.
//!
//! About positions in the log of a partition at a cut: the *mark* is where the cut passes; *since* is the first entry that is needed to
//! go on from here (a transaction prepared there was not finished at the mark); *settled* is the last that the state at the cut
//! needs (the last `Finish` of a transaction before the cut). About times: *latest* is the time of the last transaction before the
//! cut, and everything that is after the cut has a time above *closed*.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::layout::{Content, Layout, Object};
use crate::checkpoint::Malformed;
use crate::checkpoint::envelope;
use crate::tables::ids::{CutId, HybridTime, LogIndex, NodeId, PartitionId, TableId, View};
use crate::tables::rows;

const MAGIC: [u8; 4] = *b"CWTS";
/// Partitions that a table has at most.
const MAX_PARTITIONS: u16 = 1024;
/// Copies that a partition has at most beside the primary.
const MAX_BACKUPS: u8 = 6;
/// The longest name of a table, in bytes.
const MAX_TABLE_NAME_BYTES: usize = 255;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Where the snapshot is.
    pub root: String,
    /// What it is called.
    pub name: String,
    /// Full, or an increment.
    pub kind: Kind,
    /// The cut.
    pub cut: CutId,
    /// The operation that made it: how one that goes on after a crash knows its own document.
    pub operation: u64,
    /// Which times it can be restored to.
    pub time: TimeRange,
    /// The tables, in the order of their ids.
    pub tables: Vec<Table>,
    /// Every partition of every table, in order.
    pub parts: Vec<Part>,
    /// The nodes at the time, in order.
    pub topology: Vec<Node>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Whether a snapshot stands alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// It does.
    Full,
    /// It goes on from another.
    Increment {
        /// From 1.
        number: u64,
        /// From what it goes on.
        parent: Parent,
    },
}

/// A snapshot from which an increment goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Its number; 0 is the full snapshot.
    pub number: u64,
    /// Its cut.
    pub cut: CutId,
    /// xxh3-128 of its document.
    pub xxh3: u128,
}

/// The times around a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeRange {
    /// Of the last transaction before the cut.
    pub latest: HybridTime,
    /// What is after the cut is later than this.
    pub closed: HybridTime,
}

/// A table as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its id at the time.
    pub id: TableId,
    /// Its name.
    pub name: String,
    /// True if it takes single operations, and no transactions.
    pub is_atomic: bool,
    /// How many partitions it has.
    pub partitions: u16,
    /// How many copies of each beside the primary.
    pub backups: u8,
}

/// A partition at the cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Which.
    pub partition: PartitionId,
    /// In which view of it.
    pub view: View,
    /// Where the cut passes in its log.
    pub mark: LogIndex,
    /// The first entry that is needed to go on from here; at most the mark.
    pub since: LogIndex,
    /// The last entry that was needed to get here; at least the mark.
    pub settled: LogIndex,
    /// Of its last transaction before the cut.
    pub latest: HybridTime,
    /// What it has after the cut is later than this.
    pub closed: HybridTime,
    /// What its rows come to at the cut.
    pub content: rows::Content,
    /// What the copies that were in sync came to: the same, each.
    pub copies: Vec<Copy>,
    /// What is stored of it.
    pub stored: Stored,
    /// In which files, in the order of what they hold. None if there are no rows.
    pub files: Vec<FileRef>,
}

/// What is stored of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stored {
    /// Its rows at the cut.
    Rows,
    /// Its log, from where its parent needs it to where the cut was settled.
    Log {
        /// The first entry.
        first: LogIndex,
        /// The last entry.
        last: LogIndex,
    },
}

impl Stored {
    /// Of what kind its files are.
    pub fn content(self) -> Content {
        match self {
            Stored::Rows => Content::Rows,
            Stored::Log { .. } => Content::Log,
        }
    }
}

/// A copy of a partition, and what its rows came to at the cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// The node.
    pub node: NodeId,
    /// The sum.
    pub content: rows::Content,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Its name.
    pub path: String,
    /// Its length.
    pub len_bytes: u64,
    /// CRC-32C of the whole.
    pub crc32c: u32,
    /// xxh3-128 of the whole.
    pub xxh3: u128,
    /// How many rows or entries it has.
    pub items: u64,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
}

/// A document cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {reason}")]
pub struct DocumentError {
    /// Where it was read.
    pub object: String,
    /// What is wrong with it.
    pub reason: Malformed,
}

/// The checksum by which an increment knows its parent.
pub fn checksum(bytes: &[u8]) -> u128 {
    xxh3_128(bytes)
}

impl Document {
    /// The number of the increment, 0 for the full snapshot.
    pub fn number(&self) -> u64 {
        match self.kind {
            Kind::Full => 0,
            Kind::Increment { number, .. } => number,
        }
    }

    /// The bytes of it.
    ///
    /// # Panics
    /// If it contradicts itself: nobody would read it.
    pub fn encode(&self) -> Bytes {
        let checked = self.check();
        assert!(checked.is_ok(), "a document that contradicts itself: {checked:?}");
        envelope::seal(MAGIC, envelope::FIRST_VERSION, self)
    }

    /// The document that was read from `object`, which is of this layout.
    ///
    /// # Errors
    /// If the bytes are damaged, foreign, of another format version, contradict themselves, or belong elsewhere.
    pub fn decode(layout: &Layout, object: &str, bytes: &[u8]) -> Result<Document, DocumentError> {
        let wrong = |reason| DocumentError { object: object.into(), reason };
        let document: Document = envelope::open(MAGIC, envelope::FIRST_VERSION, bytes).map_err(wrong)?;
        let layout_of = document.check().map_err(|why| wrong(Malformed::Inconsistent(why)))?;
        let expected = layout_of.document(document.number());
        if layout_of != *layout || expected != object {
            return Err(wrong(Malformed::Inconsistent(format!("it is the document of {expected}"))));
        }
        Ok(document)
    }

    /// Whether it agrees with itself.
    ///
    /// # Errors
    /// Where it does not.
    pub fn check(&self) -> Result<Layout, String> {
        let layout = Layout::new(&self.root, &self.name).map_err(|error| error.to_string())?;
        if layout.root() != self.root {
            return Err(format!("root {:?} with slashes around it", self.root));
        }
        if self.cut == 0 {
            return Err("cut 0 is before the first".into());
        }
        if let Kind::Increment { number, parent } = self.kind {
            if number.checked_sub(1) != Some(parent.number) {
                return Err(format!("increment {number} goes on from {}", parent.number));
            }
            if parent.cut >= self.cut || parent.cut == 0 {
                return Err(format!("cut {} goes on from cut {}", self.cut, parent.cut));
            }
        }
        self.check_tables()?;
        if !self.topology.is_sorted_by(|a, b| a.id < b.id) {
            return Err("nodes are not in order".into());
        }
        let mut paths = BTreeSet::new();
        for part in &self.parts {
            self.check_part(part).map_err(|why| format!("partition {}: {why}", part.partition))?;
            for file in &part.files {
                check_file(&layout, self.cut, part, file).map_err(|why| format!("{}: {why}", file.path))?;
                if !paths.insert(&file.path) {
                    return Err(format!("{} is named twice", file.path));
                }
            }
        }
        let latest = self.parts.iter().map(|part| part.latest).max();
        let closed = self.parts.iter().map(|part| part.closed).min();
        if (latest, closed) != (Some(self.time.latest), Some(self.time.closed)) {
            return Err(format!("times {:?}, those of its partitions {latest:?} and {closed:?}", self.time));
        }
        Ok(layout)
    }

    fn check_tables(&self) -> Result<(), String> {
        if !self.tables.is_sorted_by(|a, b| a.id < b.id) {
            return Err("tables are not in order".into());
        }
        let names: BTreeSet<&str> = self.tables.iter().map(|table| table.name.as_str()).collect();
        if names.len() < self.tables.len() {
            return Err("two tables have one name".into());
        }
        for Table { name, partitions, backups, .. } in &self.tables {
            if name.is_empty() || name.len() > MAX_TABLE_NAME_BYTES {
                return Err(format!("a table's name of {} bytes", name.len()));
            }
            if !(1..=MAX_PARTITIONS).contains(partitions) || *backups > MAX_BACKUPS {
                return Err(format!("table {name} of {partitions} partitions with {backups} backups"));
            }
        }
        let expected = self
            .tables
            .iter()
            .flat_map(|table| (0..table.partitions).map(|number| PartitionId { table: table.id, number }));
        if !expected.eq(self.parts.iter().map(|part| part.partition)) {
            return Err("its partitions are not those of its tables".into());
        }
        if self.parts.is_empty() { Err("it holds no table".into()) } else { Ok(()) }
    }

    fn check_part(&self, part: &Part) -> Result<(), String> {
        let Part { mark, since, settled, content, .. } = *part;
        if !(1..=mark).contains(&since) || settled < mark {
            return Err(format!("mark at {mark}, needed from {since}, settled at {settled}"));
        }
        if !part.copies.is_sorted_by(|a, b| a.node < b.node) || part.copies.is_empty() {
            return Err("copies that are not in order, or none".into());
        }
        if let Some(other) = part.copies.iter().find(|copy| copy.content != content) {
            return Err(format!("the copy on node {} is another", other.node));
        }
        let items = part.files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.items));
        match part.stored {
            Stored::Rows if items != Some(content.rows) => {
                Err(format!("{} rows, and files with {items:?}", content.rows))
            }
            Stored::Rows => Ok(()),
            Stored::Log { .. } if self.kind == Kind::Full => Err("a full snapshot without rows".into()),
            Stored::Log { first, last } => {
                let len = last.checked_sub(first).and_then(|len| len.checked_add(1));
                let is_from = first >= 1 && first <= mark && last == settled;
                if !is_from || len != items {
                    return Err(format!(
                        "entries {first} to {last}, settled at {settled}, and files with {items:?}"
                    ));
                }
                Ok(())
            }
        }
    }
}

fn check_file(layout: &Layout, cut: CutId, part: &Part, file: &FileRef) -> Result<(), String> {
    let expected = Object::File { cut, partition: part.partition, content: part.stored.content() };
    if layout.parse(&file.path).as_ref() != Some(&expected) {
        return Err(format!("no name of {expected:?}"));
    }
    if file.items == 0 || file.len_bytes == 0 {
        return Err("it is empty".into());
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A document of one table with one partition that is empty.
    pub(in crate::tables::snapshot) fn document(kind: Kind, cut: CutId) -> Document {
        let content = rows::Content::default();
        let part = Part {
            partition: PartitionId { table: 1, number: 0 },
            view: 1,
            mark: cut * 10,
            since: cut * 10,
            settled: cut * 10,
            latest: HybridTime(cut * 100),
            closed: HybridTime(cut * 100 + 50),
            content,
            copies: vec![Copy { node: 1, content }],
            stored: Stored::Rows,
            files: vec![],
        };
        let table = Table { id: 1, name: "t".into(), is_atomic: false, partitions: 1, backups: 0 };
        Document {
            root: "root".into(),
            name: "s".into(),
            kind,
            cut,
            operation: 7,
            time: TimeRange { latest: part.latest, closed: part.closed },
            tables: vec![table],
            parts: vec![part],
            topology: vec![Node { id: 1, name: "n1".into() }],
            warnings: vec!["nothing to worry about".into()],
        }
    }

    fn layout() -> Layout {
        Layout::new("root", "s").unwrap()
    }

    #[test]
    fn it_is_read_back_and_every_flipped_byte_is_found() {
        let document = document(Kind::Full, 3);
        let (bytes, path) = (document.encode(), layout().document(0));
        assert_eq!(Document::decode(&layout(), &path, &bytes).as_ref(), Ok(&document));
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x10;
            assert!(Document::decode(&layout(), &path, &damaged).is_err(), "byte {at}");
            assert!(Document::decode(&layout(), &path, &bytes[..at]).is_err());
        }
    }

    #[test]
    fn it_belongs_where_it_lies() {
        let bytes = document(Kind::Full, 3).encode();
        let elsewhere = Layout::new("root", "other").unwrap();
        let found = Document::decode(&elsewhere, &elsewhere.document(0), &bytes).unwrap_err();
        assert_eq!(found.to_string(), "root/other/SNAPSHOT: it is the document of root/s/SNAPSHOT");
        assert!(Document::decode(&layout(), &layout().document(1), &bytes).is_err());
    }

    #[test]
    fn a_later_version_is_refused_by_its_number() {
        let mut bytes = document(Kind::Full, 3).encode().to_vec();
        bytes[4] = 9;
        let covered = bytes.len() - 4;
        let crc = crate::store::coding::masked_crc32c(&bytes[..covered]);
        bytes[covered..].copy_from_slice(&crc.to_le_bytes());
        let found = Document::decode(&layout(), &layout().document(0), &bytes).unwrap_err();
        assert_eq!(found.reason, Malformed::Version { found: 9, newest: envelope::FIRST_VERSION });
    }

    #[test]
    fn contradictions_are_found() {
        type Break = fn(&mut Document);
        let file =
            || FileRef { path: "root/s/3/1-0-a.rows".into(), len_bytes: 10, crc32c: 1, xxh3: 1, items: 1 };
        let breaks: [(&str, Break); 16] = [
            ("cut 0", |d| d.cut = 0),
            ("snapshot name", |d| d.name = "a/b".into()),
            ("slashes", |d| d.root = "root/".into()),
            ("one name", |d| d.tables.push(Table { id: 2, ..d.tables[0].clone() })),
            ("not in order", |d| d.tables.push(d.tables[0].clone())),
            ("0 partitions", |d| d.tables[0].partitions = 0),
            ("not those of its tables", |d| d.tables[0].partitions = 2),
            ("needed from", |d| d.parts[0].since = d.parts[0].mark + 1),
            ("settled at", |d| d.parts[0].settled = 1),
            ("node 1 is another", |d| d.parts[0].copies[0].content.rows = 1),
            ("copies", |d| d.parts[0].copies.clear()),
            ("without rows", |d| d.parts[0].stored = Stored::Log { first: 1, last: 30 }),
            ("times", |d| d.time.latest.0 += 1),
            ("times", |d| d.parts[0].closed.0 += 1),
            ("goes on from 1", |d| {
                d.kind = Kind::Increment { number: 1, parent: Parent { number: 1, cut: 1, xxh3: 0 } };
            }),
            ("goes on from cut 3", |d| {
                d.kind = Kind::Increment { number: 1, parent: Parent { number: 0, cut: 3, xxh3: 0 } };
            }),
        ];
        for (expected, change) in breaks {
            let mut document = document(Kind::Full, 3);
            change(&mut document);
            let found = document.check().expect_err(expected);
            assert!(found.contains(expected), "{found:?} does not say {expected:?}");
        }
        let with = |files: Vec<FileRef>| {
            let mut document = document(Kind::Full, 3);
            let part = &mut document.parts[0];
            part.content.rows = files.iter().map(|file| file.items).sum();
            part.copies[0].content = part.content;
            part.files = files;
            document.check()
        };
        assert_eq!(with(vec![file()]), Ok(layout()));
        assert!(with(vec![file(), file()]).unwrap_err().contains("named twice"));
        assert!(with(vec![FileRef { path: "root/s/4/1-0-a.rows".into(), ..file() }]).is_err());
        assert!(with(vec![FileRef { path: "root/s/3/1-0-a.log".into(), ..file() }]).is_err());
        assert!(with(vec![FileRef { items: 0, ..file() }]).is_err());
    }
}
