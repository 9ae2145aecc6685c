//! Fixtures, unpacked, and what is found in a store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cutwater_engine::store::{
    Append, Error, FamilyOptions, Iter, MergeWith, Options, ReadOnlyOptions, ReadOnlyStore, Store,
    WalRecovery,
};

/// Keys and values of a family. All fixtures hold text.
pub type Rows = BTreeMap<String, String>;
/// Families, by name.
pub type Content = BTreeMap<String, Rows>;

/// What somebody reads in a directory.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub content: Content,
    pub last_sequence: u64,
}

impl Found {
    /// What `read.cc` prints.
    pub fn parse(printed: &str) -> Found {
        let (mut content, mut last_sequence) = (Content::new(), None);
        for line in printed.lines() {
            match line.split('\t').collect::<Vec<_>>()[..] {
                [family] => drop(content.insert(family.to_owned(), Rows::new())),
                ["seq", number] => last_sequence = Some(number.parse().unwrap()),
                [family, key, value] => {
                    let rows = content.get_mut(family).expect("it was named before");
                    assert_eq!(rows.insert(text(key), text(value)), None, "a key twice: {line}");
                }
                _ => panic!("not a line of a dump: {line}"),
            }
        }
        Found { content, last_sequence: last_sequence.expect("a whole dump ends with it") }
    }
}

fn text(hex: &str) -> String {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    String::from_utf8((0..hex.len()).step_by(2).map(byte).collect()).unwrap()
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store_fixtures/fixtures")
}

/// The names of all that there are.
pub fn names() -> Vec<String> {
    let files = std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> =
        files.map(|name| name.to_str().unwrap().strip_suffix(".tar.zst").unwrap().to_owned()).collect();
    names.sort_unstable();
    names
}

/// A directory of its own, to do with as one likes.
pub struct Fixture {
    scratch: tempfile::TempDir,
}

impl Fixture {
    pub fn unpack(name: &str) -> Fixture {
        let packed = std::fs::read(fixtures().join(format!("{name}.tar.zst"))).unwrap();
        let unpacked = ruzstd::decoding::StreamingDecoder::new(&packed[..]).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        tar::Archive::new(unpacked).unpack(scratch.path()).unwrap();
        Fixture { scratch }
    }

    pub fn dir(&self) -> PathBuf {
        self.scratch.path().join("db")
    }

    /// What RocksDB reads in it.
    pub fn dump(&self) -> Found {
        Found::parse(&self.read("dump"))
    }

    pub fn journal(&self) -> Journal {
        Journal::parse(&self.read("journal"))
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.scratch.path().join(name)).unwrap()
    }
}

/// What was to be written to a directory, in this order.
pub struct Journal {
    batches: Vec<Vec<Change>>,
    /// So many batches were acknowledged.
    pub acknowledged: usize,
}

struct Change {
    family: String,
    key: String,
    /// Nothing for a deletion.
    value: Option<String>,
}

impl Journal {
    fn parse(text: &str) -> Journal {
        let (acknowledged, batches): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| *line == "ok");
        let batches = batches.into_iter().map(|line| {
            let (mut words, mut changes) = (line.split('\t').skip(1), Vec::new());
            while let Some(verb) = words.next() {
                let mut word = || words.next().expect("a line is whole").to_owned();
                let (family, key) = (word(), word());
                changes.push(Change { family, key, value: (verb == "P").then(word) });
            }
            changes
        });
        Journal { batches: batches.collect(), acknowledged: acknowledged.len() }
    }

    /// How many batches there are.
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// What there is after so many batches.
    pub fn after(&self, batches: usize) -> Content {
        let mut content: Content =
            ["default", "one", "two"].map(|name| (name.to_owned(), Rows::new())).into();
        for change in self.batches[..batches].iter().flatten() {
            let rows = content.get_mut(&change.family).expect("all are made at the start");
            match &change.value {
                Some(value) => drop(rows.insert(change.key.clone(), value.clone())),
                None => drop(rows.remove(&change.key)),
            }
        }
        content
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn operator() -> MergeWith {
    MergeWith::new(Append::new(b","))
}

/// Opens a store with all its families, to be written.
pub async fn open(dir: &Path, wal_recovery: WalRecovery) -> Result<Store, Error> {
    let family = FamilyOptions {
        merge_operator: Some(operator()),
        target_file_bytes: 4096,
        max_bytes_for_level_base: 16 << 10,
        ..FamilyOptions::default()
    };
    let names = Store::list_families(dir).await?;
    let others = names.iter().filter(|name| *name != "default").map(|name| (&name[..], family.clone()));
    let options =
        Options { family: family.clone(), wal_recovery, create_if_missing: false, ..Options::default() };
    let others: Vec<_> = others.collect();
    loop {
        match Store::open_families(dir, options.clone(), &others).await {
            Err(Error::Locked { .. }) => cutwater_io::task::yield_now().await,
            other => return other,
        }
    }
}

/// Reads all of a store.
pub async fn found(store: &Store) -> Result<Found, Error> {
    let mut content = Content::new();
    for name in store.families() {
        let rows = rows(store.family(&name).expect("it was named").iter(.., None)).await?;
        content.insert(name, rows);
    }
    Ok(Found { content, last_sequence: store.last_sequence() })
}

/// Reads all of a directory that is only looked at.
pub async fn found_read_only(dir: &Path) -> Result<Found, Error> {
    let families = Store::list_families(dir).await?;
    let merge_operators = families.iter().map(|name| (name.clone(), operator())).collect();
    let options = ReadOnlyOptions { merge_operators, ..ReadOnlyOptions::default() };
    let store = ReadOnlyStore::open(dir, options).await?;
    let mut content = Content::new();
    for name in store.families() {
        let rows = rows(store.iter(&name, ..)?).await?;
        for (key, value) in &rows {
            let found = store.get(&name, key.as_bytes()).await?;
            assert_eq!(found.as_deref(), Some(value.as_bytes()), "{name}: {key}");
        }
        content.insert(name, rows);
    }
    Ok(Found { content, last_sequence: store.last_sequence() })
}

/// Forwards, and then backwards.
async fn rows(mut iter: Iter) -> Result<Rows, Error> {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (mut forwards, mut backwards) = (Vec::new(), Vec::new());
    while let Some((key, value)) = iter.next().await? {
        forwards.push((text(key), text(value)));
    }
    while let Some((key, value)) = iter.prev().await? {
        backwards.push((text(key), text(value)));
    }
    backwards.reverse();
    assert_eq!(forwards, backwards);
    assert!(forwards.is_sorted_by(|a, b| a.0 < b.0));
    Ok(forwards.into_iter().collect())
}
