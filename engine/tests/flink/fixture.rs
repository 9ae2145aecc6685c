//! Fixtures, unpacked.

use std::path::{Path, PathBuf};

use cutwater_engine::flink::{Metadata, decode};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/flink/fixtures")
}

/// The names of all that there are.
pub fn names() -> Vec<String> {
    let files = std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> =
        files.map(|name| name.to_str().unwrap().strip_suffix(".tar.zst").unwrap().to_owned()).collect();
    names.sort_unstable();
    assert_eq!(names.len(), 8, "{names:?}");
    names
}

/// A directory of its own.
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

    pub fn bytes(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.scratch.path().join(path)).unwrap()
    }

    pub fn text(&self, path: &str) -> String {
        String::from_utf8(self.bytes(path)).unwrap()
    }

    /// The first file of that name, in order.
    pub fn find(&self, name: &str) -> String {
        let described = self.text("described");
        let mut paths = described.lines().filter_map(|line| line.strip_prefix("# ./"));
        paths.find(|path| path.rsplit('/').next() == Some(name)).unwrap().to_owned()
    }

    pub fn metadata(&self, name: &str) -> Metadata {
        decode(&self.bytes(&self.find(name))).unwrap()
    }
}
