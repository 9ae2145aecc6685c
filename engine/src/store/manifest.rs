//! The MANIFEST: a log of version edits, and CURRENT, which names the one that counts.
//!
//! Each edit is synced before anything else is written, so only the last record can be torn; any other damage is corruption.
//! So that this holds for the newest edit, too, a *seal* is written behind each and synced: an empty edit, which changes
//! nothing. What is done once an edit is durable (a log is removed, a flush is reported) could not be undone if damage to
//! that edit were taken for a torn tail. The first edit needs no seal: CURRENT names no MANIFEST without one.
//!
//! A MANIFEST says which it is. The first edit has its number and the uuid of its store, and each later edit the CRC-32C of
//! all before it. So what was written to another MANIFEST and landed here, as a whole or in part, is not taken for this one.
//! RocksDB has a field for the uuid and passes the others over; a MANIFEST that it wrote, which has none, is read as it is.
//!
//! Edits that hold together, of several families, are an atomic group: each says how many follow. They are synced as one. A
//! group that is cut off at the end of a MANIFEST was never durable, and is none; one that does not count down is damage. With
//! several families the first edits of a MANIFEST are several, too, and the last of them then has a seal.
//!
//! CURRENT is switched to a new MANIFEST only after both the contents and the *name* of that are durable. RocksDB 7.8.3
//! leaves the name out, and on a disk that promises no more than POSIX a crash then leaves a CURRENT that names nothing.

use std::path::{Path, PathBuf};

use cutwater_io::fs::{self, File};
use cutwater_io::{point, sometimes};

use super::directory::Directory;
use super::error::{Error, IoContext};
use super::filenames::FileKind;
use super::log::{LogEnd, LogReader, LogWriter};
use super::points;
use super::version::{self, DEFAULT_FAMILY_NAME, VersionEdit, VersionSet};

/// The name of the order of keys, as RocksDB records it.
const COMPARATOR: &str = "leveldb.BytewiseComparator";

/// The MANIFEST that edits go to.
#[derive(Debug)]
pub(crate) struct Manifest {
    number: u64,
    path: PathBuf,
    file: File,
    framing: LogWriter,
    len_bytes: u64,
    /// CRC-32C of all that was written.
    crc32c: u32,
    /// What it ends with is not known.
    is_given_up: bool,
}

impl Manifest {
    /// A new MANIFEST of the store `identity` that begins with these edits, durable with its name. CURRENT does not name it yet.
    pub(crate) async fn create(
        dir: &Directory,
        number: u64,
        identity: &str,
        edits: Vec<VersionEdit>,
    ) -> Result<Manifest, Error> {
        let path = FileKind::Manifest(number).path(dir.path());
        let file = File::create_new(&path).await.during("create", &path)?;
        let framing = LogWriter::new();
        let mut manifest =
            Manifest { number, path, file, framing, len_bytes: 0, crc32c: 0, is_given_up: false };
        let mut edits = edits.into_iter();
        let first = VersionEdit {
            db_id: Some(identity.to_owned()),
            manifest_number: Some(number),
            comparator: Some(COMPARATOR.to_owned()),
            ..edits.next().expect("the default family is there")
        };
        manifest.write(&first).await?;
        let needs_seal = edits.len() > 0;
        for edit in edits {
            manifest.write_next(edit).await?;
        }
        if needs_seal {
            manifest.write_next(VersionEdit::default()).await?;
        }
        point!(points::MANIFEST_APPENDED);
        manifest.sync().await?;
        dir.sync().await?;
        Ok(manifest)
    }

    /// Appends edits, durably, one or a group. After an error it is given up: they may be there or not, or in part.
    ///
    /// # Panics
    /// If it was given up.
    pub(crate) async fn append(&mut self, edits: Vec<VersionEdit>) -> Result<(), Error> {
        assert!(!self.is_given_up, "nothing is appended to a MANIFEST of which nobody knows how it ends");
        // Also if nobody waits for the end of it.
        self.is_given_up = true;
        let appended = self.append_durably(edits).await;
        self.is_given_up = appended.is_err();
        appended
    }

    async fn append_durably(&mut self, edits: Vec<VersionEdit>) -> Result<(), Error> {
        for edit in edits {
            self.write_next(edit).await?;
        }
        point!(points::MANIFEST_APPENDED);
        self.sync().await?;
        self.write_next(VersionEdit::default()).await?;
        point!(points::MANIFEST_BEFORE_SEAL);
        self.sync().await
    }

    async fn write_next(&mut self, edit: VersionEdit) -> Result<(), Error> {
        let comparator = edit.column_family_add.is_some().then(|| COMPARATOR.to_owned());
        self.write(&VersionEdit { follows_crc32c: Some(self.crc32c), comparator, ..edit }).await
    }

    async fn write(&mut self, edit: &VersionEdit) -> Result<(), Error> {
        let mut bytes = Vec::new();
        self.framing.add_record(&version::encode(edit), &mut bytes);
        self.file.write_all_at(&bytes, self.len_bytes).await.during("write", &self.path)?;
        self.len_bytes += bytes.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &bytes);
        Ok(())
    }

    async fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().await.during("sync", &self.path)
    }

    /// Nothing more is to be appended: the next edit needs a new MANIFEST.
    pub(crate) fn give_up(&mut self) {
        self.is_given_up = true;
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.is_given_up
    }

    pub(crate) fn crc32c(&self) -> u32 {
        self.crc32c
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
}

/// Makes CURRENT name a MANIFEST that is durable, durably.
pub(crate) async fn set_current(dir: &Directory, manifest_number: u64) -> Result<(), Error> {
    let temporary = write_current(dir, manifest_number).await?;
    switch_current(dir, &temporary).await
}

/// Writes what CURRENT is to be under a temporary name, which is returned. Should it fail, CURRENT is as it was.
pub(crate) async fn write_current(dir: &Directory, manifest_number: u64) -> Result<PathBuf, Error> {
    let temporary = FileKind::Temporary(manifest_number).path(dir.path());
    let content = format!("{}\n", FileKind::Manifest(manifest_number).name());
    let written = write_durably(&temporary, content.as_bytes()).await;
    if written.is_err() {
        let _ = fs::remove_file(&temporary).await;
    }
    written.map(|()| temporary)
}

/// Makes CURRENT what was written under a temporary name, durably. Should it fail, CURRENT may be either.
pub(crate) async fn switch_current(dir: &Directory, temporary: &Path) -> Result<(), Error> {
    let current = FileKind::Current.path(dir.path());
    point!(points::CURRENT_BEFORE_RENAME);
    if let Err(error) = fs::rename(temporary, &current).await.during("rename", temporary) {
        // If it has its new name all the same, there is none.
        let _ = fs::remove_file(temporary).await;
        return Err(error);
    }
    point!(points::CURRENT_AFTER_RENAME);
    dir.sync().await
}

/// Writes a whole file and syncs its contents, not its name.
pub(crate) async fn write_durably(path: &Path, content: &[u8]) -> Result<(), Error> {
    let file = File::create(path).await.during("create", path)?;
    file.write_all_at(content, 0).await.during("write", path)?;
    file.sync_data().await.during("sync", path)
}

/// What CURRENT and its MANIFEST say.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) set: VersionSet,
    pub(crate) next_file_number: u64,
    /// None for a store that is new.
    pub(crate) source: Option<Source>,
}

/// The MANIFEST that was read.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// The uuid of its store.
    pub(crate) identity: Option<String>,
    /// It is of this engine, which gives a MANIFEST the uuid that IDENTITY has.
    pub(crate) is_bound: bool,
    /// Where it cannot be read on, if that is not its end. Bytes.
    pub(crate) torn_at: Option<u64>,
}

/// Reads CURRENT and its MANIFEST. `levels_of` says how many levels the family with a name may have.
pub(crate) async fn recover(dir: &Path, levels_of: impl Fn(&str) -> usize) -> Result<Recovered, Error> {
    let current = FileKind::Current.path(dir);
    let content = fs::read(&current).await.during("read", &current)?;
    let name = std::str::from_utf8(&content).ok().and_then(|text| text.strip_suffix('\n'));
    let named = name.and_then(FileKind::parse).filter(|kind| matches!(kind, FileKind::Manifest(_)));
    let manifest = named.ok_or_else(|| Error::corruption(&current, 0, "it does not name a MANIFEST"))?;
    let number = manifest.number().expect("a MANIFEST has a number");
    let path = manifest.path(dir);
    let bytes = match fs::read(&path).await {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::corruption(&path, 0, "CURRENT names it, and it is missing"));
        }
        other => other.during("read", &path)?,
    };
    replay(&path, number, &bytes, levels_of)
}

fn replay(
    path: &Path,
    number: u64,
    bytes: &[u8],
    levels_of: impl Fn(&str) -> usize,
) -> Result<Recovered, Error> {
    let mut reader = LogReader::new(bytes, 0);
    let mut set = VersionSet::new(levels_of(DEFAULT_FAMILY_NAME));
    let (mut next_file_number, mut has_log_number, mut has_last_sequence) = (None, false, false);
    let mut group: Vec<(u64, VersionEdit)> = Vec::new();
    let mut binding = Binding::new(number);
    let torn_at = loop {
        let at = reader.offset();
        let record = match reader.next_record() {
            Ok(record) => record,
            Err(LogEnd::Clean { valid_bytes }) => {
                let is_torn = valid_bytes < bytes.len() as u64;
                sometimes!(points::MANIFEST_TORN, is_torn);
                break is_torn.then_some(valid_bytes);
            }
            Err(LogEnd::Unsupported { what, .. }) => return Err(Error::unsupported(path, what)),
            Err(LogEnd::Damaged(damage)) if reader.intact_record_after(damage.record_offset_bytes) => {
                sometimes!(points::MANIFEST_REFUSED, true);
                return Err(Error::corruption(
                    path,
                    damage.offset_bytes,
                    format!("{}, and records follow", damage.what),
                ));
            }
            Err(LogEnd::Damaged(damage)) => {
                sometimes!(points::MANIFEST_TORN, true);
                break Some(damage.record_offset_bytes);
            }
        };
        let edit = version::decode(&record).map_err(|m| Error::malformed(path, at, m))?;
        if let Err(what) = binding.check(&edit, &bytes[..at as usize]) {
            sometimes!(points::MANIFEST_REFUSED, true);
            return Err(Error::corruption(path, at, what));
        }
        check_supported(path, &edit)?;
        let edits = complete_group(path, at, &mut group, edit)?;
        set = set.apply(&edits, &levels_of).map_err(|what| Error::corruption(path, at, what))?;
        for edit in edits {
            next_file_number = edit.next_file_number.or(next_file_number);
            has_log_number |= edit.log_number.is_some();
            has_last_sequence |= edit.last_sequence.is_some();
        }
    };
    sometimes!(points::MANIFEST_TORN, !group.is_empty());
    let torn_at = group.first().map(|(at, _)| *at).or(torn_at);
    let missing = |what: &str| Error::corruption(path, bytes.len() as u64, format!("no {what} in it"));
    let next_file_number = next_file_number.ok_or_else(|| missing("next_file_number"))?;
    if !has_log_number || !has_last_sequence {
        return Err(missing(if has_log_number { "last_sequence" } else { "log_number" }));
    }
    set.check().map_err(|what| Error::corruption(path, bytes.len() as u64, what))?;
    let Binding { identity, is_bound, .. } = binding;
    let source = Source { path: path.to_owned(), identity, is_bound, torn_at };
    Ok(Recovered { set, next_file_number, source: Some(source) })
}

/// Whether edits are of this very MANIFEST.
struct Binding {
    number: u64,
    identity: Option<String>,
    /// The first edit has the number: this engine wrote it, and each edit says what it follows.
    is_bound: bool,
    /// CRC-32C of so much.
    crc32c: u32,
    read_bytes: usize,
}

impl Binding {
    fn new(number: u64) -> Binding {
        Binding { number, identity: None, is_bound: false, crc32c: 0, read_bytes: 0 }
    }

    /// Looks at the edit that comes after all the edits of `before`.
    fn check(&mut self, edit: &VersionEdit, before: &[u8]) -> Result<(), String> {
        if let Some(identity) = &edit.db_id {
            self.identity = Some(identity.clone());
        }
        if before.is_empty() {
            self.is_bound = edit.manifest_number.is_some();
            return match edit.manifest_number {
                Some(number) if number != self.number => {
                    Err(format!("it is {}", FileKind::Manifest(number).name()))
                }
                _ => Ok(()),
            };
        }
        self.crc32c = crc32c::crc32c_append(self.crc32c, &before[self.read_bytes..]);
        self.read_bytes = before.len();
        let expected = self.is_bound.then_some(self.crc32c);
        if edit.manifest_number.is_some() || edit.follows_crc32c != expected {
            return Err("an edit is of another MANIFEST, or of another place in it".to_owned());
        }
        Ok(())
    }
}

/// The edits that can be applied: one that stands alone, or a group with its last.
fn complete_group(
    path: &Path,
    at: u64,
    group: &mut Vec<(u64, VersionEdit)>,
    edit: VersionEdit,
) -> Result<Vec<VersionEdit>, Error> {
    let expected = group.last().map(|(_, last)| last.atomic_group_remaining.unwrap_or(0).wrapping_sub(1));
    let remaining = edit.atomic_group_remaining;
    if expected.is_some() && remaining != expected {
        return Err(Error::corruption(path, at, "an atomic group is not whole"));
    }
    group.push((at, edit));
    let is_whole = remaining.unwrap_or(0) == 0;
    Ok(if is_whole { group.drain(..).map(|(_, edit)| edit).collect() } else { Vec::new() })
}

fn check_supported(path: &Path, edit: &VersionEdit) -> Result<(), Error> {
    match &edit.comparator {
        Some(name) if name != COMPARATOR => Err(Error::unsupported(path, "another comparator")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(edits: &[VersionEdit]) -> Vec<u8> {
        let (mut writer, mut bytes) = (LogWriter::new(), Vec::new());
        for edit in edits {
            writer.add_record(&version::encode(edit), &mut bytes);
        }
        bytes
    }

    fn first() -> VersionEdit {
        VersionSet::new(7).snapshot(9).remove(0)
    }

    #[test]
    fn only_the_last_record_may_be_torn() {
        let step = |n| VersionEdit { next_file_number: Some(n), ..VersionEdit::default() };
        let bytes = log(&[first(), step(10), step(11)]);
        let path = Path::new("MANIFEST-000001");
        assert_eq!(replay(path, 1, &bytes, |_| 7).unwrap().next_file_number, 11);
        assert_eq!(replay(path, 1, &bytes[..bytes.len() - 1], |_| 7).unwrap().next_file_number, 10);
        let mut bad = bytes.clone();
        let in_the_second = bytes.len() - 10;
        bad[in_the_second] ^= 1;
        let error = replay(path, 1, &bad, |_| 7).unwrap_err();
        assert!(error.is_corruption() && error.to_string().ends_with("and records follow"), "{error}");
    }

    /// What [`Manifest`] writes.
    fn bound(number: u64, next_file_numbers: &[u64]) -> Vec<u8> {
        let first = VersionEdit { manifest_number: Some(number), db_id: Some("uuid".to_owned()), ..first() };
        let (mut writer, mut bytes) = (LogWriter::new(), Vec::new());
        writer.add_record(&version::encode(&first), &mut bytes);
        for &next_file_number in next_file_numbers {
            let follows_crc32c = Some(crc32c::crc32c(&bytes));
            let next_file_number = Some(next_file_number);
            let edit = VersionEdit { follows_crc32c, next_file_number, ..VersionEdit::default() };
            writer.add_record(&version::encode(&edit), &mut bytes);
        }
        bytes
    }

    #[test]
    fn what_was_written_to_another_manifest_is_refused() {
        let path = Path::new("MANIFEST-000001");
        let (own, other) = (bound(1, &[10, 11, 12]), bound(2, &[20, 21, 22]));
        let recovered = replay(path, 1, &own, |_| 7).unwrap();
        assert_eq!(recovered.next_file_number, 12);
        let source = recovered.source.unwrap();
        assert!(source.is_bound && source.identity.as_deref() == Some("uuid"));
        let error = replay(path, 1, &other, |_| 7).unwrap_err();
        assert!(error.is_corruption() && error.to_string().ends_with("it is MANIFEST-000002"), "{error}");
        let end_of = |number, numbers: &[u64], nth| bound(number, &numbers[..nth]).len();
        for nth in 0..3 {
            let alien = &other[end_of(2, &[20, 21, 22], nth)..end_of(2, &[20, 21, 22], nth + 1)];
            let (before, after) = (end_of(1, &[10, 11, 12], nth), end_of(1, &[10, 11, 12], nth + 1));
            let spliced = [&own[..before], alien, &own[after..]].concat();
            let error = replay(path, 1, &spliced, |_| 7).unwrap_err();
            assert!(error.is_corruption() && error.to_string().contains("of another MANIFEST"), "{error}");
            // Nor may it go on one that RocksDB wrote, which is bound to nothing.
            let appended = [&log(&[first()])[..], alien].concat();
            assert!(replay(path, 1, &appended, |_| 7).unwrap_err().is_corruption());
        }
        // An edit of this one, at another place in it.
        let (second, third) = (end_of(1, &[10, 11, 12], 1), end_of(1, &[10, 11, 12], 2));
        let skipped = [&own[..second], &own[third..]].concat();
        assert!(replay(path, 1, &skipped, |_| 7).unwrap_err().to_string().contains("another place in it"));
    }

    #[test]
    fn groups_hold_as_a_whole() {
        let part = |remaining, n| VersionEdit {
            atomic_group_remaining: Some(remaining),
            next_file_number: Some(n),
            ..VersionEdit::default()
        };
        let path = Path::new("MANIFEST-000001");
        let whole_bytes = log(&[first()]).len() as u64;
        let open = replay(path, 1, &log(&[first(), part(1, 20)]), |_| 7).unwrap();
        assert_eq!((open.next_file_number, open.source.unwrap().torn_at), (9, Some(whole_bytes)));
        let closed = replay(path, 1, &log(&[first(), part(1, 20), part(0, 21)]), |_| 7).unwrap();
        assert_eq!(closed.next_file_number, 21);
        assert!(
            replay(path, 1, &log(&[first(), part(2, 20), part(0, 21)]), |_| 7).unwrap_err().is_corruption()
        );
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let backwards = Some("rocksdb.ReverseBytewiseComparator".to_owned());
        let edit = VersionEdit { comparator: backwards, ..VersionEdit::default() };
        let error = replay(Path::new("MANIFEST-000001"), 1, &log(&[first(), edit]), |_| 7).unwrap_err();
        assert_eq!(error.to_string(), "MANIFEST-000001 uses an unsupported feature: another comparator");
    }
}
