//! A planted bug: a patch, with lines of explanation before its first `diff`.
//!
//!     # the MANIFEST is not synced before its edit is applied
//!     # scenario: store
//!     # source: LevelDB #333 and its kind: an edit is trusted before it is durable
//!     # demands: seeds 300
//!
//! The first line says what is wrong. `demands` says in how many seeds a sweep must have found it (300 if there is no such
//! line), or `nothing, REASON` for a bug that the harness is known not to see.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Seeds that a bug may take if its patch does not say.
const SEEDS: u64 = 300;

/// See the module.
pub struct Bug {
    pub name: String,
    /// Absolute.
    pub patch: PathBuf,
    pub about: String,
    pub source: String,
    pub scenario: String,
    pub demand: Demand,
}

/// What is asked of the harness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Demand {
    /// That a sweep finds the bug in the first so many seeds.
    Seeds(u64),
    /// Nothing, for this reason.
    Nothing(String),
}

impl Demand {
    /// How many seeds to sweep.
    pub fn seeds(&self) -> u64 {
        match self {
            Demand::Seeds(seeds) => *seeds,
            Demand::Nothing(_) => SEEDS,
        }
    }

    fn parse(text: &str) -> Option<Demand> {
        if let Some(reason) = text.strip_prefix("nothing, ") {
            return Some(Demand::Nothing(reason.into()));
        }
        let seeds = text.strip_prefix("seeds ")?.parse().ok()?;
        (seeds > 0).then_some(Demand::Seeds(seeds))
    }
}

/// The bugs in a directory, by name: those that are named, or all.
pub fn read_all(dir: &Path, names: &[String]) -> Result<Vec<Bug>, String> {
    let mut patches: Vec<PathBuf> = std::fs::read_dir(dir)
        .map_err(|e| format!("{}: {e}", dir.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "patch"))
        .collect();
    patches.sort();
    let name_of = |patch: &Path| patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(name) = names.iter().find(|name| !patches.iter().any(|patch| name_of(patch) == **name)) {
        return Err(format!("{}: no {name}.patch", dir.display()));
    }
    let wanted = |patch: &&PathBuf| names.is_empty() || names.contains(&name_of(patch));
    patches.iter().filter(wanted).map(|patch| read(patch, name_of(patch))).collect()
}

fn read(patch: &Path, name: String) -> Result<Bug, String> {
    let bad = |what: &str| format!("{}: {what}", patch.display());
    let text = std::fs::read_to_string(patch).map_err(|e| bad(&e.to_string()))?;
    let header: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# ")).collect();
    let field = |key: &str| header.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    let about = *header.first().ok_or_else(|| bad("it does not begin with `# ` and what is wrong"))?;
    let scenario = field("scenario").ok_or_else(|| bad("no line `# scenario: NAME`"))?;
    let source = field("source").ok_or_else(|| bad("no line `# source: WHERE IT IS FROM`"))?;
    let demand = match field("demands") {
        None => Demand::Seeds(SEEDS),
        Some(text) => Demand::parse(text)
            .ok_or_else(|| bad("`# demands:` is neither `seeds N` nor `nothing, REASON`"))?,
    };
    Ok(Bug {
        name,
        patch: std::path::absolute(patch).map_err(|e| bad(&e.to_string()))?,
        about: about.into(),
        source: source.into(),
        scenario: scenario.into(),
        demand,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demand_is_a_number_of_seeds_or_a_reason() {
        assert_eq!(Demand::parse("seeds 1000"), Some(Demand::Seeds(1000)));
        assert_eq!(Demand::parse("nothing, why"), Some(Demand::Nothing("why".into())));
        for text in ["", "seeds", "seeds 0", "seeds x", "nothing", "1000"] {
            assert_eq!(Demand::parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_patch_says_what_it_is() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bugs");
        let bugs = read_all(&dir, &[]).expect("the patches are there and whole");
        assert!(bugs.len() > 50, "{} bugs", bugs.len());
        for bug in bugs {
            assert!(
                ["store", "damage", "checkpoint", "restore", "savepoint"].contains(&bug.scenario.as_str()),
                "{}",
                bug.name
            );
        }
        assert!(read_all(&dir, &["no-such-bug".into()]).is_err());
    }
}
