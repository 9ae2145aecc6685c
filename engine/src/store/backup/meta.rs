//! The meta file of a backup: which files it consists of, and their checksums, as RocksDB writes it (7.8.3
//! `utilities/backup/backup_engine.cc`, schema version 1). Pure.
//!
//! It is text: the time, the sequence number, an optional line of whoever made it, how many files there are, then a file a line.
//! RocksDB has no checksum for it. Ours has: the optional line holds the number of the backup and the CRC-32C of all other
//! lines, so that a meta file that was damaged, or written in the place of another, blames itself and not the files that it names.
//!
//! A shared file has its number, checksum and length in its name, so backups share what is the same, whatever store it is of. A
//! name leads nowhere but into the directory of backups, and each file is restored under a name that a store has.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::store::filenames::FileKind;

/// Where the files are that backups share.
pub(crate) const SHARED_DIR: &str = "shared_checksum";
/// Where they were in old versions of RocksDB, which may still be read.
const OLD_SHARED_DIR: &str = "shared";
/// Where each backup has its own.
pub(crate) const PRIVATE_DIR: &str = "private";
/// Begins the line that binds a meta file to its backup.
const BOUND: &str = "cutwater";

/// What a meta file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// When the backup was made, since 1970. Seconds.
    pub(crate) time_s: u64,
    /// The last write that is in it.
    pub(crate) sequence: u64,
    pub(crate) files: Vec<MetaFile>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MetaFile {
    /// In the directory of backups.
    pub(crate) path: String,
    pub(crate) crc32c: u32,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) offset_bytes: u64,
    pub(crate) what: String,
}

impl MetaFile {
    /// Of a table or a blob file with this name in its store.
    pub(crate) fn shared(name: &str, crc32c: u32, len_bytes: u64) -> MetaFile {
        let (number, extension) = name.split_once('.').expect("a table or a blob file");
        MetaFile { path: format!("{SHARED_DIR}/{number}_{crc32c}_{len_bytes}.{extension}"), crc32c }
    }

    /// Of the backup `id` alone.
    pub(crate) fn private(id: u32, name: &str, crc32c: u32) -> MetaFile {
        MetaFile { path: format!("{PRIVATE_DIR}/{id}/{name}"), crc32c }
    }

    /// What it is in the restored store.
    pub(crate) fn restored(&self) -> Option<FileKind> {
        let (dir, name) = self.path.rsplit_once('/')?;
        if dir == SHARED_DIR {
            return SharedName::parse(name).map(|shared| shared.kind);
        }
        let kind = FileKind::parse(name)?;
        (!matches!(kind, FileKind::Lock | FileKind::Temporary(_))).then_some(kind)
    }

    /// Its length, if its name has it. Bytes.
    pub(crate) fn len_bytes(&self) -> Option<u64> {
        let (dir, name) = self.path.rsplit_once('/')?;
        (dir == SHARED_DIR).then(|| SharedName::parse(name)).flatten().map(|shared| shared.len_bytes)
    }

    fn check(&self, id: u32) -> Result<(), String> {
        let path = &self.path;
        let parts: Vec<&str> = path.split('/').collect();
        let is_inside = match parts[..] {
            [SHARED_DIR | OLD_SHARED_DIR, name] => is_plain(name),
            [PRIVATE_DIR, of, name] => is_plain(name) && of == id.to_string(),
            _ => false,
        };
        if !is_inside {
            return Err(format!("{path:?} is no file of this backup"));
        }
        if self.restored().is_none() {
            return Err(format!("{path:?} is no file of a store"));
        }
        let named = SharedName::parse(parts[parts.len() - 1]).and_then(|shared| shared.crc32c);
        match named {
            Some(named) if parts[0] == SHARED_DIR && named != self.crc32c => {
                Err(format!("{path:?} has the checksum {} here", self.crc32c))
            }
            _ => Ok(()),
        }
    }
}

/// A name in the directory of shared files.
pub(crate) struct SharedName {
    pub(crate) kind: FileKind,
    /// Unless it has the name of a session of RocksDB instead.
    crc32c: Option<u32>,
    pub(crate) len_bytes: u64,
}

impl SharedName {
    /// Nothing if it is none.
    pub(crate) fn parse(name: &str) -> Option<SharedName> {
        let (stem, extension) = name.split_once('.')?;
        let mut parts = stem.split('_');
        let (number, content, len_bytes) = (parts.next()?, parts.next()?, parts.next()?);
        let kind = FileKind::parse(&format!("{number}.{extension}"))?;
        let is_session = content.starts_with('s');
        let crc32c = if is_session { None } else { Some(content.parse().ok()?) };
        let is_shared = matches!(kind, FileKind::Table(_) | FileKind::Blob(_));
        let len_bytes = len_bytes.parse().ok()?;
        (is_shared && parts.next().is_none()).then_some(SharedName { kind, crc32c, len_bytes })
    }
}

/// Neither hidden nor a way to elsewhere.
fn is_plain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.starts_with('.') && name.bytes().all(is_plain)
}

impl Meta {
    /// The meta file of the backup `id`.
    pub(crate) fn encode(&self, id: u32) -> String {
        let Meta { time_s, sequence, files } = self;
        let head = format!("{time_s}\n{sequence}\n");
        let mut tail = format!("{}\n", files.len());
        for MetaFile { path, crc32c } in files {
            let _ = writeln!(tail, "{path} crc32 {crc32c}");
        }
        let bound = binding(id, head.as_bytes(), tail.as_bytes());
        let bound: String = bound.bytes().map(|byte| format!("{byte:02X}")).collect();
        format!("{head}metadata {bound}\n{tail}")
    }

    /// Reads the meta file of the backup `id`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn decode(id: u32, bytes: &[u8]) -> Result<Meta, Wrong> {
        let mut lines = Lines { bytes, at: 0 };
        let (time_s, sequence) = (lines.number("the time")?, lines.number("the sequence number")?);
        let head = &bytes[..lines.at];
        let before = lines.at;
        match lines.text("the number of files")?.strip_prefix("metadata ") {
            None => lines.at = before,
            Some(hex) => {
                let said = from_hex(hex).ok_or_else(|| wrong(before, "the metadata is not hexadecimal"))?;
                let is_ours = said.starts_with(BOUND.as_bytes());
                if is_ours && said != binding(id, head, &bytes[lines.at..]).into_bytes() {
                    return Err(wrong(before, format!("it is not what was written for the backup {id}")));
                }
            }
        }
        let count = lines.number("the number of files")?;
        let mut files = Vec::new();
        let mut restored = BTreeSet::new();
        while lines.at < bytes.len() {
            let at = lines.at;
            let file = file(lines.text("a file")?).map_err(|what| wrong(at, what))?;
            file.check(id).map_err(|what| wrong(at, what))?;
            if !restored.insert(file.restored()) {
                return Err(wrong(at, format!("{:?} is there twice", file.path)));
            }
            files.push(file);
        }
        if files.len() as u64 != count {
            return Err(wrong(bytes.len(), format!("it has {} files, and says {count}", files.len())));
        }
        if !restored.contains(&Some(FileKind::Current)) {
            return Err(wrong(bytes.len(), "it has no CURRENT"));
        }
        Ok(Meta { time_s, sequence, files })
    }
}

/// `shared_checksum/000012_1234_567.sst crc32 1234`
fn file(line: &str) -> Result<MetaFile, String> {
    let mut words = line.split(' ');
    let path = words.next().unwrap_or_default().to_owned();
    match (words.next(), words.next().map(str::parse), words.next()) {
        (Some("crc32"), Some(Ok(crc32c)), None) => Ok(MetaFile { path, crc32c }),
        _ => Err(format!("{path:?} has no checksum")),
    }
}

fn binding(id: u32, head: &[u8], tail: &[u8]) -> String {
    let crc32c = crc32c::crc32c_append(crc32c::crc32c(head), tail);
    format!("{BOUND} {id} {crc32c:08x}")
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8]| match *pair {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect()
}

fn wrong(offset_bytes: usize, what: impl Into<String>) -> Wrong {
    Wrong { offset_bytes: offset_bytes as u64, what: what.into() }
}

struct Lines<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Lines<'b> {
    /// The next line, which must be whole.
    fn text(&mut self, what: &str) -> Result<&'b str, Wrong> {
        let at = self.at;
        let rest = &self.bytes[at..];
        let len = rest.iter().position(|byte| *byte == b'\n');
        let len = len.ok_or_else(|| wrong(at, format!("it ends where {what} should be")))?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| wrong(at, "it is not text"))
    }

    fn number(&mut self, what: &str) -> Result<u64, Wrong> {
        let at = self.at;
        let line = self.text(what)?;
        let is_schema = line.starts_with("schema_version");
        let bad =
            if is_schema { format!("{line} is not supported") } else { format!("{line:?} is not {what}") };
        line.parse().map_err(|_| wrong(at, bad))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Meta {
        let files = vec![
            MetaFile::shared("000018.sst", 285_151_575, 1010),
            MetaFile::shared("000009.blob", 1_164_494_584, 104),
            MetaFile::private(3, "MANIFEST-000022", 1_151_518_169),
            MetaFile::private(3, "CURRENT", 7),
        ];
        Meta { time_s: 1_700_000_000, sequence: 42, files }
    }

    /// As RocksDB writes it, with these files.
    fn foreign(files: &[&str]) -> Result<Meta, String> {
        let text = format!("1795849455\n2\n{}\n{}\n", files.len(), files.join("\n"));
        Meta::decode(1, text.as_bytes()).map_err(|wrong| wrong.what)
    }

    #[test]
    fn a_meta_file_is_read_back_and_any_change_of_it_is_found() {
        let text = meta().encode(3);
        assert_eq!(Meta::decode(3, text.as_bytes()), Ok(meta()));
        assert!(Meta::decode(4, text.as_bytes()).unwrap_err().what.contains("for the backup 4"));
        for cut in 0..text.len() {
            assert!(Meta::decode(3, &text.as_bytes()[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(read) = Meta::decode(3, &bytes) {
                assert_eq!(read, meta(), "a byte of the line that is only ours changed, at {at}");
            }
        }
    }

    #[test]
    fn what_rocksdb_writes_is_read() {
        let read = foreign(&[
            "shared_checksum/000018_sERVERRFFFFYU76T6BISP_1010.sst crc32 285151575",
            "shared_checksum/000009_1164494584_104.blob crc32 1164494584",
            "private/1/MANIFEST-000022 crc32 1151518169",
            "private/1/CURRENT crc32 2877112724",
            "private/1/OPTIONS-000024 crc32 3679531975",
        ]);
        let files = read.unwrap().files;
        let restored: Vec<String> = files.iter().map(|file| file.restored().unwrap().name()).collect();
        assert_eq!(restored, ["000018.sst", "000009.blob", "MANIFEST-000022", "CURRENT", "OPTIONS-000024"]);
        assert_eq!((files[0].len_bytes(), files[2].len_bytes()), (Some(1010), None));
    }

    #[test]
    fn what_leads_elsewhere_or_is_no_store_is_refused() {
        const CURRENT: &str = "private/1/CURRENT crc32 7";
        for (line, what) in [
            ("../db/000001.sst crc32 1", "is no file of this backup"),
            ("private/2/MANIFEST-000001 crc32 1", "is no file of this backup"),
            ("private/1/../MANIFEST-000001 crc32 1", "is no file of this backup"),
            ("/etc/passwd crc32 1", "is no file of this backup"),
            ("private/1/passwd crc32 1", "is no file of a store"),
            ("private/1/LOCK crc32 1", "is no file of a store"),
            ("shared_checksum/000001_1.sst crc32 1", "is no file of a store"),
            ("shared_checksum/000001_1_2.log crc32 1", "is no file of a store"),
            ("shared_checksum/000001_1_2.sst crc32 3", "has the checksum 3 here"),
            ("shared_checksum/000001_1_2.sst crc32 99999999999", "has no checksum"),
            ("shared_checksum/000001_1_2.sst", "has no checksum"),
            (CURRENT, "is there twice"),
        ] {
            let refused = foreign(&[CURRENT, line]).unwrap_err();
            assert!(refused.ends_with(what), "{line}: {refused}");
        }
        assert_eq!(Meta::decode(1, b"1\n2\n0\n").unwrap_err().what, "it has no CURRENT");
        let many = Meta::decode(1, b"1\n2\n18446744073709551615\n").unwrap_err().what;
        assert_eq!(many, "it has 0 files, and says 18446744073709551615");
        let newer = Meta::decode(1, b"schema_version 2.0\n1\n").unwrap_err().what;
        assert_eq!(newer, "schema_version 2.0 is not supported");
    }
}
