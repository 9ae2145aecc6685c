//! A copy of the sources in which one bug is planted, under `target/planted`.
//!
//! Only files that differ are touched, and one build directory serves all bugs, so that cargo builds again only the engine and
//! the scenarios.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::bug::Bug;
use super::checked;

/// See the module. All paths are absolute.
pub struct Tree {
    workspace: PathBuf,
    root: PathBuf,
}

/// A patched binary; gone with this.
pub struct Built {
    pub binary: PathBuf,
    /// Real time that it took.
    pub took: Duration,
}

impl Drop for Built {
    fn drop(&mut self) {
        // What is left over is written again by the next run.
        let _ = std::fs::remove_file(&self.binary);
    }
}

impl Tree {
    pub fn new(workspace: &Path) -> Result<Tree, String> {
        let workspace = std::path::absolute(workspace)
            .map_err(|e| format!("--workspace {}: {e}", workspace.display()))?;
        let root = workspace.join("target/planted");
        Ok(Tree { workspace, root })
    }

    fn sources(&self) -> PathBuf {
        self.root.join("tree")
    }

    fn build_dir(&self) -> PathBuf {
        self.root.join("build")
    }

    /// Where searches may leave their plans.
    pub fn scratch(&self) -> Result<PathBuf, String> {
        self.dir("scratch")
    }

    fn dir(&self, name: &str) -> Result<PathBuf, String> {
        let dir = self.root.join(name);
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(dir)
    }

    /// Plants the bug in the copy, and builds it.
    pub fn build(&self, bug: &Bug) -> Result<Built, String> {
        let since = Instant::now();
        self.copy_sources()?;
        self.plant(bug)?;
        self.cargo().map_err(|e| format!("does not build: {e}"))?;
        // The next bug is built into the same place while this one is looked for.
        let (from, to) = (self.build_dir().join("release/cutwater"), self.dir("bin")?.join(&bug.name));
        std::fs::copy(&from, &to).map_err(|e| format!("{}: {e}", from.display()))?;
        Ok(Built { binary: to, took: since.elapsed() })
    }

    /// Brings the copy in line with the working tree. A source that is gone there goes here, too: a module may not be in two
    /// places.
    fn copy_sources(&self) -> Result<(), String> {
        let listing = checked(
            Command::new("git")
                .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
                .current_dir(&self.workspace),
        )?;
        let names: BTreeSet<&str> = listing.split('\0').filter(|name| !name.is_empty()).collect();
        for name in &names {
            let (from, to) = (self.workspace.join(name), self.sources().join(name));
            let Ok(content) = std::fs::read(&from) else {
                // Deleted and not yet committed.
                let _ = std::fs::remove_file(&to);
                continue;
            };
            if std::fs::read(&to).is_ok_and(|old| old == content) {
                continue;
            }
            let parent = to.parent().expect("a file has a directory");
            std::fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
            std::fs::write(&to, content).map_err(|e| format!("{}: {e}", to.display()))?;
        }
        self.remove_others(&self.sources(), &names)
    }

    fn remove_others(&self, dir: &Path, names: &BTreeSet<&str>) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.strip_prefix(self.sources()).expect("it is below").to_string_lossy().into_owned();
            if path.is_dir() {
                self.remove_others(&path, names)?;
            } else if !names.contains(name.as_str()) {
                std::fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Applies the patch, and makes sure that it changed what it names.
    fn plant(&self, bug: &Bug) -> Result<(), String> {
        let mut apply = Command::new("git");
        apply.args(["apply", "--whitespace=nowarn"]).arg(&bug.patch).current_dir(self.sources());
        // Inside of a repository git would silently skip everything: the copy must not be taken for a part of ours.
        checked(apply.env("GIT_CEILING_DIRECTORIES", &self.root))
            .map_err(|e| format!("does not apply: {e}"))?;
        let patch =
            std::fs::read_to_string(&bug.patch).map_err(|e| format!("{}: {e}", bug.patch.display()))?;
        for name in patch.lines().filter_map(|line| line.strip_prefix("+++ b/")) {
            let (ours, theirs) = (self.workspace.join(name), self.sources().join(name));
            if std::fs::read(ours).ok() == std::fs::read(theirs).ok() {
                return Err(format!("{name} is as it was"));
            }
        }
        Ok(())
    }

    fn cargo(&self) -> Result<(), String> {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--quiet", "--package", "cutwater-scenarios", "--bin", "cutwater"]);
        // One small change after the other.
        cargo.env("CARGO_INCREMENTAL", "1").env("CARGO_TARGET_DIR", self.build_dir());
        checked(cargo.current_dir(self.sources())).map(drop).map_err(|output| first_error(&output))
    }
}

/// What a person needs of the compiler's output, in a line.
fn first_error(output: &str) -> String {
    const LEN_MAX: usize = 160;
    let at = output.find("error").unwrap_or(0);
    let line = output[at..].lines().next().unwrap_or_default();
    line.chars().take(LEN_MAX).collect()
}
