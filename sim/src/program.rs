//! What this program is called, and lines to copy that call it.
//!
//! The alias `cargo cutwater` runs the project's own binary. Any other one (an example, a patched build, a system of your own)
//! has other scenarios, and must be called by its path: every line that a user may copy is made here.

use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;

use xxhash_rust::xxh3::Xxh3;

/// The alias of the project's own binary, see `.cargo/config.toml`.
const ALIAS: &str = "cargo cutwater";

/// How this program is called, if not by its alias.
static PROGRAM: OnceLock<String> = OnceLock::new();

/// Notes how this program is called.
pub(crate) fn note() {
    let Ok(path) = std::env::current_exe() else { return };
    let dir = path.parent().and_then(Path::parent).and_then(Path::file_name);
    if path.file_name() == Some("cutwater".as_ref()) && dir == Some("target".as_ref()) {
        return;
    }
    let here = std::env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(&here).map_or(path.clone(), Path::to_path_buf);
    // A shell takes for a path what has a slash in it.
    let path = if path.components().count() == 1 { Path::new(".").join(path) } else { path };
    // Set once, at the start.
    let _ = PROGRAM.set(path.display().to_string());
}

/// The path of this program; `None` if it is the one that the alias calls.
pub(crate) fn program() -> Option<&'static str> {
    PROGRAM.get().map(String::as_str)
}

/// Names this build of the program: a hash of its executable. `None` if it cannot be read.
#[expect(clippy::disallowed_types, reason = "the program itself lies on the real disk")]
pub(crate) fn build() -> Option<String> {
    let mut hash = Xxh3::new();
    let mut file = std::fs::File::open("/proc/self/exe").ok()?;
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk).ok()? {
            0 => return Some(format!("{:016x}", hash.digest())),
            n => hash.update(&chunk[..n]),
        }
    }
}

/// What to type to have this program do something; `words` are the verb and what follows it.
pub(crate) fn command_line(words: &[&str]) -> String {
    let program = program().map_or_else(|| ALIAS.into(), quoted);
    words.iter().fold(program, |line, word| line + " " + &quoted(word))
}

/// What to type to have `what` (a plan, a capsule, SCENARIO:SEED) run again.
pub(crate) fn replay_line(what: &str) -> String {
    command_line(&["replay", what, "--trace"])
}

/// What a user copies to see a failure again: a line, and one more that does it as a test, where there is such a test.
pub(crate) fn lines_to_copy(scenario: &str, seed: u64) -> (String, Option<String>) {
    let test = || format!("MADSIM_TEST_SEED={seed} cargo test --test seeds {scenario} -- --exact");
    (replay_line(&format!("{scenario}:{seed}")), program().is_none().then(test))
}

/// A word as a shell takes it for one.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-:=+,@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_to_copy_survives_a_shell() {
        assert_eq!(replay_line("store:7"), "cargo cutwater replay store:7 --trace");
        assert_eq!(
            command_line(&["replay", "my results/$(x)/it's"]),
            "cargo cutwater replay 'my results/$(x)/it'\\''s'"
        );
    }
}
