//! The one place that builds the names of a snapshot's objects, and reads them back.
//!
//! ```text
//! <root>/NAME/<cut>/<table>-<partition>-<u>.rows              rows of a partition at a cut
//! <root>/NAME/<cut>/<table>-<partition>-<u>.log               entries of a partition between two cuts
//! <root>/NAME/<cut>/draft-<u>                                 a document on its way to its name
//! <root>/NAME/SNAPSHOT                                        the document of the full snapshot
//! <root>/NAME/increments/<0000000000000001>/INCREMENT         the document of an increment
//! ```
//!
//! The number of a cut is never used twice, and `<u>` is random: an attempt can never harm another, and no name is ever used for two
//! contents. Only the documents have names that two attempts may want, and they are put if absent. What no document names is an
//! orphan of an attempt, and the name tells of which.

use crate::tables::ids::{CutId, PartitionId};

/// Of the full snapshot.
const SNAPSHOT: &str = "SNAPSHOT";
/// Of an increment.
const INCREMENT: &str = "INCREMENT";
const INCREMENTS: &str = "increments";
const DRAFT: &str = "draft";
/// Digits of an increment's number, as Ignite has it.
const NUMBER_DIGITS: usize = 16;
/// The longest name of a snapshot.
const MAX_NAME_BYTES: usize = 64;
/// The longest `<u>`.
const MAX_UNIQUE_BYTES: usize = 32;
/// The longest root.
const MAX_ROOT_BYTES: usize = 512;

/// Names of the objects of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Without a slash at either end; may be empty.
    root: String,
    name: String,
}

/// A snapshot cannot be called that, or cannot be there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Of the snapshot.
    #[error("snapshot name {name:?}: 1 to {MAX_NAME_BYTES} letters, digits or '_' are allowed")]
    Name {
        /// The name given.
        name: String,
    },
    /// Of the place where snapshots are.
    #[error(
        "root {root:?}: up to {MAX_ROOT_BYTES} letters, digits, '-', '_' or '.', in parts that '/' separates, none of them '.' or '..'"
    )]
    Root {
        /// The root given.
        root: String,
    },
}

/// What a file of a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Content {
    /// Its rows.
    Rows,
    /// A part of its log.
    Log,
}

impl Content {
    fn extension(self) -> &'static str {
        match self {
            Content::Rows => "rows",
            Content::Log => "log",
        }
    }
}

/// What the name of an object says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// The document of the full snapshot.
    Snapshot,
    /// The document of an increment.
    Increment {
        /// From 1.
        number: u64,
    },
    /// A document on its way to its name.
    Draft {
        /// Of which cut.
        cut: CutId,
    },
    /// A file of a partition.
    File {
        /// Of which cut.
        cut: CutId,
        /// Of which partition.
        partition: PartitionId,
        /// What it holds.
        content: Content,
    },
}

impl Layout {
    /// The names of snapshot `name` under `root`.
    ///
    /// # Errors
    /// If they could not be the names of objects in every store.
    pub fn new(root: &str, name: &str) -> Result<Layout, InvalidName> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(is_allowed) {
            return Err(InvalidName::Name { name: name.into() });
        }
        let root = root.trim_matches('/');
        let is_part = |part: &str| {
            let allowed = |c: char| is_allowed(c) || c == '-' || c == '.';
            !part.is_empty() && part != "." && part != ".." && part.chars().all(allowed)
        };
        if root.len() > MAX_ROOT_BYTES || !(root.is_empty() || root.split('/').all(is_part)) {
            return Err(InvalidName::Root { root: root.into() });
        }
        Ok(Layout { root: root.into(), name: name.into() })
    }

    /// Where snapshots are.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// What the snapshot is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where all of its objects are, without a slash at the end.
    pub fn prefix(&self) -> String {
        if self.root.is_empty() { self.name.clone() } else { format!("{}/{}", self.root, self.name) }
    }

    /// The document of the full snapshot (0) or of an increment.
    pub fn document(&self, increment: u64) -> String {
        match increment {
            0 => format!("{}/{SNAPSHOT}", self.prefix()),
            number => format!("{}/{INCREMENTS}/{number:0NUMBER_DIGITS$}/{INCREMENT}", self.prefix()),
        }
    }

    /// Where the files of a cut are, without a slash at the end.
    pub fn cut_prefix(&self, cut: CutId) -> String {
        format!("{}/{cut}", self.prefix())
    }

    /// A file of a partition at a cut. `unique` is up to 32 lower-case hexadecimal digits, drawn for it.
    pub fn file(&self, cut: CutId, partition: PartitionId, content: Content, unique: &str) -> String {
        format!("{}/{partition}-{unique}.{}", self.cut_prefix(cut), content.extension())
    }

    /// A document on its way to its name. `unique` as for a file.
    pub fn draft(&self, cut: CutId, unique: &str) -> String {
        format!("{}/{DRAFT}-{unique}", self.cut_prefix(cut))
    }

    /// What `path` is; `None` if this layout could not have built it.
    pub fn parse(&self, path: &str) -> Option<Object> {
        let path = path.strip_prefix(&self.prefix())?.strip_prefix('/')?;
        if path == SNAPSHOT {
            return Some(Object::Snapshot);
        }
        let (directory, name) = path.rsplit_once('/')?;
        if let Some(digits) = directory.strip_prefix(INCREMENTS).and_then(|rest| rest.strip_prefix('/')) {
            let number = parse_increment(digits)?;
            return (name == INCREMENT).then_some(Object::Increment { number });
        }
        let cut = number(directory)?;
        if let Some(unique) = name.strip_prefix(DRAFT).and_then(|rest| rest.strip_prefix('-')) {
            return is_unique(unique).then_some(Object::Draft { cut });
        }
        let (name, content) = [Content::Rows, Content::Log].into_iter().find_map(|content| {
            Some((name.strip_suffix(content.extension())?.strip_suffix('.')?, content))
        })?;
        let mut parts = name.split('-');
        let partition = PartitionId { table: number(parts.next()?)?, number: number(parts.next()?)? };
        let unique = parts.next()?;
        (is_unique(unique) && parts.next().is_none()).then_some(Object::File { cut, partition, content })
    }
}

/// An increment's number: from 1, with the number of digits that [`Layout::document`] writes.
fn parse_increment(digits: &str) -> Option<u64> {
    let is_number = digits.len() >= NUMBER_DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    let is_canonical = digits.len() == NUMBER_DIGITS || !digits.starts_with('0');
    (is_number && is_canonical).then(|| digits.parse().ok())?.filter(|number| *number > 0)
}

fn is_unique(unique: &str) -> bool {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (1..=MAX_UNIQUE_BYTES).contains(&unique.len()) && unique.bytes().all(is_digit)
}

/// A decimal number as `format!` writes it: no sign, no leading zeros.
fn number<T: std::str::FromStr>(digits: &str) -> Option<T> {
    let is_canonical = digits == "0" || !digits.starts_with('0');
    (is_canonical && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_built_is_read_back(
            root in "|[-a-z0-9_]{1,9}|[a-z]{1,3}/[0-9.]{3}x",
            name in "[a-zA-Z0-9_]{1,64}",
            cut: u64,
            increment in 1u64..,
            table: u32,
            partition: u16,
            unique in "[0-9a-f]{1,32}",
            is_log: bool,
        ) {
            let layout = Layout::new(&root, &name).unwrap();
            let content = if is_log { Content::Log } else { Content::Rows };
            let partition = PartitionId { table, number: partition };
            let pairs = [
                (layout.document(0), Object::Snapshot),
                (layout.draft(cut, &unique), Object::Draft { cut }),
                (layout.document(increment), Object::Increment { number: increment }),
                (layout.file(cut, partition, content, &unique), Object::File { cut, partition, content }),
            ];
            for (path, object) in pairs {
                prop_assert_eq!(object_store::path::Path::from(path.as_str()).to_string(), path.as_str());
                prop_assert_eq!(layout.parse(&path), Some(object), "{}", path);
            }
        }

        #[test]
        fn reading_any_name_is_safe(path in ".{0,40}", tail in "[-0-9a-z_./]{0,40}") {
            let layout = Layout::new("root", "s").unwrap();
            layout.parse(&path);
            for directory in ["", "increments/", "1/", "1/1-1-"] {
                layout.parse(&format!("root/s/{directory}{tail}"));
            }
        }
    }

    #[test]
    fn foreign_names_are_nothing() {
        let layout = Layout::new("/root/", "s").unwrap();
        assert_eq!(layout.prefix(), "root/s");
        for path in [
            "",
            "root/s",
            "root/s/",
            "root/s/snapshot",
            "root/st/SNAPSHOT",
            "root/s/1/SNAPSHOT",
            "root/s/increments/1/INCREMENT",
            "root/s/increments/0000000000000000/INCREMENT",
            "root/s/increments/00000000000000001/INCREMENT",
            "root/s/increments/0000000000000001/SNAPSHOT",
            "root/s/1/draft-",
            "root/s/1/draft-x",
            "root/s/01/1-1-a.rows",
            "root/s/1/1-1-.rows",
            "root/s/1/1-1-A.rows",
            "root/s/1/1-1-a.txt",
            "root/s/1/1-1-a",
            "root/s/1/1-70000-a.rows",
            "root/s/1/1-1-a-b.rows",
            "root/s/1/x/1-1-a.rows",
        ] {
            assert_eq!(layout.parse(path), None, "{path}");
        }
        assert_eq!(layout.document(1), "root/s/increments/0000000000000001/INCREMENT");
    }

    #[test]
    fn names_that_a_store_might_not_keep_are_refused() {
        for name in ["", "a-b", "a b", "ä", "a/b", ".", &"x".repeat(65)] {
            assert_eq!(Layout::new("r", name), Err(InvalidName::Name { name: name.into() }));
        }
        for root in ["..", "a//b", "a/../b", "a b"] {
            assert_eq!(Layout::new(root, "s"), Err(InvalidName::Root { root: root.into() }));
        }
    }
}
