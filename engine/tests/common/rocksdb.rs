//! RocksDB's own tools as judges. Where they are not installed (Debian: `apt-get install rocksdb-tools`) there is no judgement, and
//! a message says so.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Output and errors of a tool, or nothing if it is not installed.
pub fn tool(name: &str, args: &[&str]) -> Option<String> {
    match Command::new(name).args(args).output() {
        Ok(output) => Some(
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        ),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: {name} is not installed");
            None
        }
        Err(e) => panic!("{name}: {e}"),
    }
}

pub fn db_arg(dir: &Path) -> String {
    format!("--db={}", dir.display())
}

/// The keys and values of a family, as far as they are text.
pub fn scan(dir: &Path, family: &str) -> Option<BTreeMap<String, String>> {
    // An OPTIONS file that RocksDB left may name other families than there are by now.
    let family = format!("--column_family={family}");
    let output = tool("ldb", &[&db_arg(dir), "--try_load_options=false", &family, "scan"])?;
    let rows = output.lines().filter_map(|line| line.split_once(" ==> ").or(line.split_once(" : ")));
    Some(rows.map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned())).collect())
}

/// What RocksDB says to a directory whose default family should hold `model`.
pub fn judge(dir: &Path, model: &BTreeMap<String, String>) {
    let Some(consistency) = tool("ldb", &[&db_arg(dir), "checkconsistency"]) else { return };
    assert!(consistency.trim().ends_with("OK"), "{consistency}");
    let manifest = tool("ldb", &[&db_arg(dir), "manifest_dump", "--verbose"]).unwrap();
    assert!(!manifest.contains("Error") && !manifest.contains("Corruption"), "{manifest}");
    let file = format!("--file={}", dir.display());
    let Some(tables) = tool("sst_dump", &[&file, "--command=verify", "--verify_checksum"]) else { return };
    let count = tables.matches("The file is ok").count();
    let expected = tables.lines().filter(|l| l.starts_with("Process ")).count();
    assert!(count > 0 && count == expected && !tables.to_lowercase().contains("corrupt"), "{tables}");
    assert_eq!(scan(dir, "default").unwrap(), *model);
}

/// The families that `ldb` finds, but for the default one, each with its content; nothing if there is no `ldb`.
#[allow(dead_code, reason = "not all tests have families")]
pub fn families_by_rocksdb(dir: &Path) -> Option<BTreeMap<String, BTreeMap<String, String>>> {
    let listed = tool("ldb", &[&db_arg(dir), "list_column_families"])?;
    let names = listed.split_once('{').unwrap().1.split_once('}').unwrap().0.split(", ");
    let others = names.filter(|name| *name != "default");
    Some(others.map(|name| (name.to_owned(), scan(dir, name).unwrap())).collect())
}
