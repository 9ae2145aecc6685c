//! The commands for a store, on stores that were left by a crash, damaged, or are not there.
#![cfg(not(madsim))]
#![expect(clippy::disallowed_methods, reason = "runs the program, and damages what is on the disk")]

use std::path::{Path, PathBuf};
use std::process::Command;

use cutwater_engine::store::{
    Append, FamilyOptions, MergeWith, Options, Store, TableWriter, WriteBatch, WriteOptions,
};
use tempfile::TempDir;

const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };

/// A store with two families, a table and a blob file, and a log that has more; nobody has closed it.
fn crashed() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let family = FamilyOptions { min_blob_bytes: Some(100), ..FamilyOptions::default() };
        let options = Options { create_missing_families: true, family: family.clone(), ..Options::default() };
        let store = Store::open_families(&dir, options, &[("index", family)]).await.unwrap();
        let index = store.family("index").unwrap();
        for i in 0..10 {
            let mut batch = WriteBatch::new();
            let key = format!("key{i}");
            batch.put(key.as_bytes(), if i % 2 == 0 { &[b'v'; 200] } else { b"short" });
            batch.put_in(&index, b"last", key.as_bytes());
            store.write(batch, LOGGED).await.unwrap();
            if i == 7 {
                store.flush().await.unwrap();
            }
        }
    });
    // What is left of its tasks ends with the runtime.
    drop(runtime);
    (parent, dir)
}

/// A store in which one of three keys has operands.
fn merged() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let merge_operator = Some(MergeWith::new(Append::new(b"+")));
        let family = FamilyOptions { merge_operator, ..FamilyOptions::default() };
        let store = Store::open(&dir, Options { family, ..Options::default() }).await.unwrap();
        let mut batch = WriteBatch::new();
        batch.put(b"a", b"1");
        batch.put(b"b", b"2");
        batch.merge(b"b", b"3");
        batch.put(b"c", b"3");
        store.write(batch, LOGGED).await.unwrap();
    });
    (parent, dir)
}

/// Runs `cutwater-engine store ...`, with the path behind the first argument; gives its status, output and errors.
fn run(arguments: &[&str], path: &Path) -> (Option<i32>, String, String) {
    let (name, rest) = arguments.split_first().unwrap();
    run_store(&[&[*name, path.to_str().unwrap()], rest].concat())
}

/// The same with the arguments as they are.
fn run_store(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutwater-engine"));
    let output = command.arg("store").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn named(dir: &Path, extension: &str) -> PathBuf {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files.into_iter().next().unwrap_or_else(|| panic!("no {extension} in {}", dir.display()))
}

fn listing(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<(PathBuf, Vec<u8>)> =
        entries.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn a_crashed_store_is_looked_at_and_left_as_it_is() {
    let (_parent, dir) = crashed();
    let before = listing(&dir);
    let (status, keys, _) = run(&["scan", "--keys", "--from", "key7", "--limit", "3"], &dir);
    assert_eq!((status, &keys[..]), (Some(0), "key7\nkey8\nkey9\n"), "from a table and from the log");
    let (_, backwards, _) = run(&["scan", "--backwards", "--limit", "1", "--json"], &dir);
    assert_eq!(backwards, "{\"key\":\"key9\",\"value\":\"short\"}\n");
    assert_eq!(run(&["scan", "--family", "index"], &dir).1, "last : key9\n");
    assert_eq!(run(&["scan", "--family", "index", "--hex"], &dir).1, "6c617374 : 6b657939\n");
    let (status, sound, _) = run(&["check"], &dir);
    assert_eq!(status, Some(0));
    assert!(sound.ends_with(": 2 families, 2 tables, 1 blob files, 1 logs: sound\n"), "{sound}");
    let (_, dump, _) = run(&["dump"], &dir);
    assert!(dump.contains("family index  level 0  1 tables"), "{dump}");
    let (_, table, _) = run(&["dump"], &named(&dir, "sst"));
    assert!(table.contains("key1 @") && table.contains("BlobIndex : in blob file "), "{table}");
    let (_, blobs, _) = run(&["dump"], &named(&dir, "blob"));
    assert!(blobs.starts_with("blob file of family 0") && blobs.contains("key0  200 bytes\n"), "{blobs}");
    let (_, manifest, _) = run(&["manifest"], &dir);
    assert!(manifest.contains("adds_family index") && manifest.contains("adds_blob_file"), "{manifest}");
    let (_, wal, _) = run(&["wal"], &dir);
    assert!(wal.contains("Value key8 (200 bytes), Value last (4 bytes) in family 1"), "{wal}");
    assert_eq!(listing(&dir), before, "no byte has changed");
}

#[test]
fn a_check_finds_all_that_is_wrong() {
    let (_parent, dir) = crashed();
    let (table, blob) = (named(&dir, "sst"), named(&dir, "blob"));
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    std::fs::remove_file(&blob).unwrap();
    let (status, output, error) = run(&["check"], &dir);
    assert_eq!(status, Some(1));
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(output.contains(&name(&table)) && output.contains(&name(&blob)), "{output}");
    assert_eq!(error, format!("cutwater-engine: {}: 2 things are wrong\n", dir.display()));
    let (_, lines, _) = run(&["check", "--json"], &dir);
    assert!(lines.lines().last().unwrap().contains("\"sound\":false"), "{lines}");
}

#[test]
fn a_log_that_is_not_whole_is_told() {
    let (_parent, dir) = crashed();
    let log = named(&dir, "log");
    let whole = std::fs::read(&log).unwrap();
    std::fs::write(&log, &whole[..whole.len() - 3]).unwrap();
    let (status, torn, _) = run(&["check"], &dir);
    assert_eq!(status, Some(0), "a crash leaves that");
    assert!(torn.starts_with("note: ") && torn.contains("it ends in a record that is not whole"), "{torn}");
    assert_eq!(run(&["wal"], &dir).0, Some(0));
    let mut flipped = whole;
    flipped[20] ^= 1;
    std::fs::write(&log, flipped).unwrap();
    let (_, flipped, _) = run(&["check"], &dir);
    assert!(flipped.contains("the records behind it will not be applied"), "{flipped}");
    let (status, shown, error) = run(&["wal"], &dir);
    assert_eq!(status, Some(1));
    assert!(shown.contains("not whole, and records follow: "), "{shown}");
    assert!(
        error.starts_with(&format!("cutwater-engine: {}: a record is not whole", log.display())),
        "{error}"
    );
}

#[test]
fn keys_with_operands_do_not_end_a_scan() {
    let (_parent, dir) = merged();
    let (status, shown, error) = run(&["scan"], &dir);
    assert_eq!((status, &shown[..]), (Some(1), "a : 1\nb : (merge operands)\nc : 3\n"));
    assert_eq!(error, "cutwater-engine: 1 keys have merge operands: say with --append what those mean\n");
    let (_, backwards, _) = run(&["scan", "--backwards"], &dir);
    assert_eq!(backwards, "c : 3\nb : (merge operands)\na : 1\n");
    assert_eq!(run(&["scan", "--keys"], &dir).0, Some(0));
    assert_eq!(run(&["scan", "--append", "+"], &dir).1, "a : 1\nb : 2+3\nc : 3\n");
}

#[test]
fn a_store_is_compacted_and_copied() {
    let (parent, dir) = crashed();
    let blob = named(&dir, "blob");
    assert_eq!(run(&["compact", "--compression", "lz4"], &dir).0, Some(0));
    assert_eq!(run(&["compact", "--compression", "none", "--family", "index"], &dir).0, Some(0));
    assert!(blob.exists(), "values stay in their blob files");
    let copy = parent.path().join("copy");
    let (status, made, _) = run(&["checkpoint", copy.to_str().unwrap()], &dir);
    assert_eq!(status, Some(0));
    assert!(made.ends_with(" files, as of write 20\n"), "{made}");
    assert_eq!(run(&["scan"], &copy).1, run(&["scan"], &dir).1);
}

#[test]
fn backups_are_made_listed_checked_restored_and_deleted() {
    let (parent, dir) = crashed();
    let at = |name: &str| parent.path().join(name).to_str().unwrap().to_owned();
    let (db, backups, restored) = (dir.to_str().unwrap(), &at("backups")[..], &at("restored")[..]);
    let backup = |arguments: &[&str]| run_store(&[&["backup"], arguments].concat());
    assert_eq!(backup(&["list", backups]), (Some(0), String::new(), String::new()));
    for id in ["1", "2"] {
        let (status, made, error) = backup(&["create", db, backups]);
        assert_eq!(status, Some(0), "{error}");
        let expected = format!("backup {id}  at ");
        assert!(made.starts_with(&expected) && made.contains("as of write 20  "), "{made}");
    }
    let (_, listed, _) = backup(&["list", backups, "--json"]);
    let is_listed = |id: u32| listed.contains(&format!("\"backup\":{id},"));
    assert!(listed.lines().count() == 2 && is_listed(1) && is_listed(2), "{listed}");
    assert_eq!(backup(&["verify", backups]).1, "backup 1: sound\nbackup 2: sound\n");
    let said = (Some(0), format!("{restored}: restored from backup 2\n"), String::new());
    assert_eq!(backup(&["restore", backups, restored]), said);
    assert_eq!(run(&["scan"], Path::new(restored)).1, run(&["scan"], &dir).1);
    let taken = backup(&["restore", backups, restored, "--id", "1"]);
    let error = format!("cutwater-engine: {restored} exists already\n");
    assert_eq!(taken, (Some(1), String::new(), error));
    let gone = (Some(0), "backup 1 is deleted\n".to_owned(), String::new());
    assert_eq!(backup(&["delete", backups, "--keep", "1"]), gone);
    let (status, _, error) = backup(&["delete", backups, "--id", "1"]);
    assert_eq!((status, error), (Some(1), format!("cutwater-engine: there is no backup 1 in {backups}\n")));
    assert_eq!(backup(&["delete", backups]).0, Some(2), "which one must be said");
    assert_eq!(backup(&["delete", backups, "--id", "2"]).0, Some(0));
    let (status, _, error) = backup(&["restore", backups, &at("other")]);
    assert_eq!((status, error), (Some(1), format!("cutwater-engine: there is no backup in {backups}\n")));
}

#[test]
fn a_damaged_backup_is_named_and_not_restored() {
    let (parent, dir) = crashed();
    let at = |name: &str| parent.path().join(name).to_str().unwrap().to_owned();
    let backups = &at("backups")[..];
    assert_eq!(run_store(&["backup", "create", dir.to_str().unwrap(), backups]).0, Some(0));
    let table = named(&parent.path().join("backups/shared_checksum"), "sst");
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    let (status, said, error) = run_store(&["backup", "verify", backups, "--id", "1"]);
    assert!(said.starts_with("backup 1: ") && said.contains(table.to_str().unwrap()), "{said}");
    assert_eq!((status, error), (Some(1), format!("cutwater-engine: {backups}: 1 thing is wrong\n")));
    let (status, _, error) = run_store(&["backup", "restore", backups, &at("restored")]);
    assert!(status == Some(1) && error.contains("crc32c"), "{error}");
    assert!(!parent.path().join("restored").exists());
}

#[test]
fn a_repair_says_what_is_lost() {
    let (parent, dir) = crashed();
    let before = run(&["scan"], &dir).1;
    let remove_manifest = || {
        let is_manifest =
            |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("MANIFEST-");
        let entries = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(is_manifest).for_each(|path| std::fs::remove_file(path).unwrap());
    };
    remove_manifest();
    assert_eq!(run(&["check"], &dir).0, Some(1));
    let (status, said, error) = run(&["repair"], &dir);
    assert_eq!(status, Some(0), "{said}{error}");
    let made =
        format!("{}: 2 families, 4 tables, 1 blob files, 1 logs converted, as of write 20\n", dir.display());
    assert_eq!(said, made);
    assert_eq!((run(&["scan"], &dir).1, run(&["check"], &dir).0), (before, Some(0)));
    remove_manifest();
    let table = named(&dir, "sst");
    std::fs::write(&table, "rubbish").unwrap();
    let (status, said, error) = run(&["repair", "--json"], &dir);
    assert_eq!((status, error), (Some(1), format!("cutwater-engine: {}: 1 thing is lost\n", dir.display())));
    let name = table.file_name().unwrap().to_str().unwrap();
    assert!(said.starts_with(&format!("{{\"lost\":\"{name}\",\"why\":\"")), "{said}");
    let (status, _, error) = run(&["repair"], &parent.path().join("nothing"));
    assert!(status == Some(1) && error.contains("no store in "), "{error}");
}

#[test]
fn what_cannot_be_done_is_said_in_a_line() {
    let (parent, dir) = crashed();
    let nothing = parent.path().join("nothing");
    let cases: [(&[&str], &Path, String); 5] = [
        (&["scan"], &nothing, format!("no store in {}", nothing.display())),
        (&["scan", "--family", "other"], &dir, format!("there is no family other in {}", dir.display())),
        (
            &["compact", "--compression", "none", "--family", "other"],
            &dir,
            format!("there is no family other in {}", dir.display()),
        ),
        (&["checkpoint", dir.to_str().unwrap()], &dir, format!("{} exists already", dir.display())),
        (
            &["dump"],
            &dir.join("IDENTITY"),
            format!("{}: neither a table, a blob file, a log nor a MANIFEST", dir.join("IDENTITY").display()),
        ),
    ];
    for (arguments, path, expected) in cases {
        let (status, _, error) = run(arguments, path);
        assert_eq!((status, error), (Some(1), format!("cutwater-engine: {expected}\n")), "{arguments:?}");
    }
    assert_eq!(run(&["scan", "--sideways"], &dir).0, Some(2));
}

#[test]
fn properties_are_those_of_what_would_be_recovered() {
    let (_parent, dir) = crashed();
    let before = listing(&dir);
    let (status, output, errors) = run(&["properties"], &dir);
    assert_eq!(status, Some(0), "{errors}");
    for line in ["num-blob-files: 1", "num-entries-active-mem-table: 2", "estimate-num-keys: 10"] {
        assert!(output.contains(&format!("rocksdb.{line}\n")), "{line} in {output}");
    }
    assert!(output.contains("rocksdb.levelstats:\nLevel Files Size(MB)\n"), "{output}");
    let (_, tables, _) = run(&["properties", "--tables", "--family", "index"], &dir);
    assert!(tables.starts_with("level 0  ") && tables.contains("last to last"), "{tables}");
    assert_eq!(listing(&dir), before, "no byte has changed");
}

#[test]
fn tables_are_ingested_all_or_none() {
    let (parent, dir) = crashed();
    let table = |name: &str, keys: [&[u8]; 2]| {
        let path = parent.path().join(name);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut writer = TableWriter::create(&path, &FamilyOptions::default()).await.unwrap();
            for key in keys {
                writer.put(key, b"ingested").await.unwrap();
            }
            writer.finish().await.unwrap();
        });
        path.to_str().unwrap().to_owned()
    };
    let (one, two) = (table("one", [b"key1", b"key2"]), table("two", [b"key2", b"key3"]));
    let (status, _, errors) = run(&["ingest", &one, &two, "--move"], &dir);
    assert!(status == Some(1) && errors.contains("cannot be ingested: it overlaps"), "{errors}");
    let (status, _, errors) = run(&["ingest", &one, "--family", "none"], &dir);
    assert!(status == Some(1) && errors.contains("there is no family none"), "{errors}");
    let (status, output, errors) = run(&["ingest", &one, "--family", "index", "--move"], &dir);
    assert_eq!(status, Some(0), "{errors}");
    assert!(output.contains("1 table ingested, as of write 21"), "{output}");
    assert!(!Path::new(&one).exists() && Path::new(&two).exists());
    let (_, output, _) = run(&["scan", "--family", "index", "--from", "key1", "--to", "key4"], &dir);
    assert_eq!(output, "key1 : ingested\nkey2 : ingested\n");
}
