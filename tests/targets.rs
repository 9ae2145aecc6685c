//! The functions that fuzzers call, over the committed seeds of `fuzz/seeds` and over random bytes: on a stable toolchain, with
//! every `cargo test`.
#![cfg(madsim)]
#![expect(clippy::disallowed_methods, reason = "seeds lie on the real disk")]

use std::path::{Path, PathBuf};

use cutwater_io::sim::Key;
use cutwater_scenarios::targets::{self, TARGETS};

/// Random inputs for each target.
const RANDOM: u64 = 300;
/// The longest of them, in bytes.
const LEN_MAX: u64 = 2_000;

fn seeds(target: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_target_survives_its_seeds_cut_and_changed() {
    for (name, target) in TARGETS {
        let paths = seeds(name);
        assert!(!paths.is_empty(), "{name} has no seed");
        for path in paths {
            let bytes = std::fs::read(&path).unwrap();
            target(&bytes);
            for nth in 0..30 {
                let mut draw = Key::root(nth).draw(name, &[bytes.len() as u64]);
                let mut changed = bytes[..draw.between(0, bytes.len() as u64) as usize].to_vec();
                for _ in 0..draw.between(1, 4) {
                    if !changed.is_empty() {
                        let at = draw.below(changed.len() as u64) as usize;
                        changed[at] = draw.u64() as u8;
                    }
                }
                target(&changed);
            }
        }
    }
}

#[test]
fn every_target_survives_random_bytes() {
    for (name, target) in TARGETS {
        for nth in 0..RANDOM {
            let mut draw = Key::root(nth).draw(name, &[]);
            let mut bytes = vec![0; draw.log_uniform(1, LEN_MAX) as usize];
            draw.fill(&mut bytes);
            // Small numbers reach further than large ones: lengths and tags.
            if draw.chance(500) {
                bytes.iter_mut().for_each(|byte| *byte &= 0x1f);
            }
            target(&bytes);
        }
    }
}

#[test]
fn each_target_has_a_binary() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/Cargo.toml"));
    let manifest = manifest.unwrap();
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml has no {name}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    assert!(std::panic::catch_unwind(|| targets::run("no such target", &[])).is_err());
}
