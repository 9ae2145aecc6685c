//! Nothing below the command line knows of it: a capsule, a search or a timeline can be made by any program.
#![cfg(madsim)]
#![expect(clippy::disallowed_methods, reason = "this test reads the sources")]

use std::path::{Path, PathBuf};

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn nothing_below_the_command_line_imports_from_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let below = files.iter().filter(|path| !path.starts_with(root.join("cli")));
    let mut looked_at = 0;
    for path in below {
        looked_at += 1;
        let text = std::fs::read_to_string(path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            assert!(!line.contains("crate::cli"), "{}: {line}", path.display());
        }
    }
    assert!(looked_at > 40, "only {looked_at} files");
}
