//! Names of the files of a store, as RocksDB spells them (7.8.3 `file/filename.cc`). One number space serves all kinds.

use std::path::{Path, PathBuf};

/// What a file of a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    /// Names the present MANIFEST.
    Current,
    /// Held locked while the store is open.
    Lock,
    /// The store's uuid.
    Identity,
    /// The log of version edits.
    Manifest(u64),
    /// A write-ahead log.
    Wal(u64),
    /// A table.
    Table(u64),
    /// A blob file.
    Blob(u64),
    /// An options file of RocksDB.
    Options(u64),
    /// On its way to be renamed.
    Temporary(u64),
}

impl FileKind {
    /// What `name` is, or nothing if the store would never write such a name.
    pub fn parse(name: &str) -> Option<FileKind> {
        match name {
            "CURRENT" => return Some(FileKind::Current),
            "LOCK" => return Some(FileKind::Lock),
            "IDENTITY" => return Some(FileKind::Identity),
            _ => {}
        }
        if let Some(number) = name.strip_prefix("MANIFEST-") {
            return parse_number(number).map(FileKind::Manifest);
        }
        if let Some(rest) = name.strip_prefix("OPTIONS-") {
            return match rest.strip_suffix(".dbtmp") {
                Some(number) => parse_number(number).map(FileKind::Temporary),
                None => parse_number(rest).map(FileKind::Options),
            };
        }
        let (number, extension) = name.split_once('.')?;
        let number = parse_number(number)?;
        match extension {
            "log" => Some(FileKind::Wal(number)),
            "sst" | "ldb" => Some(FileKind::Table(number)),
            "blob" => Some(FileKind::Blob(number)),
            "dbtmp" => Some(FileKind::Temporary(number)),
            _ => None,
        }
    }

    /// The number in the name, if the kind has one.
    pub fn number(self) -> Option<u64> {
        match self {
            FileKind::Current | FileKind::Lock | FileKind::Identity => None,
            FileKind::Manifest(n)
            | FileKind::Wal(n)
            | FileKind::Table(n)
            | FileKind::Blob(n)
            | FileKind::Options(n)
            | FileKind::Temporary(n) => Some(n),
        }
    }

    /// The name inside the store's directory.
    pub fn name(self) -> String {
        match self {
            FileKind::Current => "CURRENT".to_owned(),
            FileKind::Lock => "LOCK".to_owned(),
            FileKind::Identity => "IDENTITY".to_owned(),
            FileKind::Manifest(n) => format!("MANIFEST-{n:06}"),
            FileKind::Wal(n) => format!("{n:06}.log"),
            FileKind::Table(n) => format!("{n:06}.sst"),
            FileKind::Blob(n) => format!("{n:06}.blob"),
            FileKind::Options(n) => format!("OPTIONS-{n:06}"),
            FileKind::Temporary(n) => format!("{n:06}.dbtmp"),
        }
    }

    /// The path in `dir`.
    pub fn path(self, dir: &Path) -> PathBuf {
        dir.join(self.name())
    }
}

fn parse_number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for kind in [
            FileKind::Current,
            FileKind::Lock,
            FileKind::Identity,
            FileKind::Manifest(7),
            FileKind::Wal(1_234_567),
            FileKind::Table(0),
            FileKind::Blob(3),
            FileKind::Options(9),
            FileKind::Temporary(12),
        ] {
            assert_eq!(FileKind::parse(&kind.name()), Some(kind));
        }
        assert_eq!(FileKind::parse("000012.ldb"), Some(FileKind::Table(12)));
        for foreign in
            ["", "12", "x.sst", "+1.sst", "1.sst.bak", "MANIFEST-", "99999999999999999999.sst", "current"]
        {
            assert_eq!(FileKind::parse(foreign), None, "{foreign}");
        }
    }
}
