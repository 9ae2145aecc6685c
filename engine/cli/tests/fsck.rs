//! `fsck` on checkpoints of ours and of Flink's: sound ones, and each kind of damage.
#![cfg(not(madsim))]
#![expect(clippy::disallowed_methods, reason = "runs the program, and damages what is on the disk")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use cutwater_engine::checkpoint::history::{Entry, EntryStatus, Kind, Present, Source};
use cutwater_engine::checkpoint::job_state::{Base, Change, JobState};
use cutwater_engine::checkpoint::layout::Layout;
use cutwater_engine::checkpoint::log::{Record, encode_record};
use cutwater_engine::checkpoint::metadata;
use cutwater_engine::checkpoint::snapshot::{
    CheckpointId, CheckpointMetadata, FileHandle, KeyGroupRange, KeyedSnapshot, Segment, SinkTransaction,
    StateFormat, StoreFile, SubtaskState, VertexState,
};
use cutwater_engine::cluster::rpc::{Attempt, TaskId};
use serde_json::Value;
use tempfile::TempDir;

const OLD: Attempt = Attempt { epoch: 1, number: 1 };
const NOW: Attempt = Attempt { epoch: 2, number: 1 };

/// The directory of a job with two retained checkpoints that share a file, and a staged transaction that is committed already.
struct Job {
    root: TempDir,
    layout: Layout,
}

impl Job {
    fn new() -> Job {
        Job::with(|base| vec![StoreFile::whole("000007.sst", base)])
    }

    /// Whose tables lie in one object.
    fn with(tables: impl Fn(FileHandle) -> Vec<StoreFile>) -> Job {
        let job = Job { root: tempfile::tempdir().unwrap(), layout: Layout::new("job").unwrap() };
        let shared = tables(job.write(&job.layout.shared(OLD, "base"), b"a table"));
        let leader = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut state = JobState::taken_over(None, leader, 64, 8, 1, Base::Newest);
        for id in [3, 4] {
            let entry = Box::new(job.checkpoint(id, shared.clone()));
            state = state.changed(&Change::Complete { entry, retain: 2, stops: false });
        }
        let state = JobState::taken_over(Some(&state), leader, 64, 8, 1, Base::Newest);
        let record = Record { version: 9, writer: "nonce".into(), state: Box::new(state) };
        job.write(&job.layout.log(9), &encode_record(&record));
        job
    }

    fn write(&self, path: &str, bytes: &[u8]) -> FileHandle {
        let file = self.root.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
        FileHandle { path: path.into(), len_bytes: bytes.len() as u64, crc32c: crc32c::crc32c(bytes) }
    }

    fn checkpoint(&self, id: u64, shared: Vec<StoreFile>) -> Entry {
        let id = CheckpointId(id);
        let private = |subtask, name: &str| {
            let task = TaskId { vertex: 1, subtask };
            self.write(&self.layout.private(id, OLD, task, name), format!("{name} of {subtask}").as_bytes())
        };
        let keyed = |subtask: u16| {
            SubtaskState::Keyed(KeyedSnapshot {
                states: Vec::new(),
                range: KeyGroupRange { first: subtask * 4, last: subtask * 4 + 3 },
                format: StateFormat::store(),
                changelog: None,
                in_flight: None,
                shared: shared.clone(),
                private: vec![StoreFile::whole("CURRENT", private(subtask, "current"))],
            })
        };
        let committed = format!("t-{id}");
        let output = self.write(&self.layout.output(&committed), b"records");
        let staged = FileHandle { path: self.layout.staged(OLD, &committed), ..output };
        let content = CheckpointMetadata {
            job: "job".into(),
            id,
            description: "by hand".into(),
            savepoint: None,
            max_parallelism: 8,
            triggered_unix_ms: 1,
            completed_unix_ms: 2,
            vertices: vec![
                VertexState { uid: "counts".into(), subtasks: vec![keyed(0), keyed(1)] },
                VertexState {
                    uid: "sink".into(),
                    subtasks: vec![vec![SinkTransaction { id: committed, staged }].into()],
                },
            ],
        };
        Entry {
            id,
            kind: Kind::Checkpoint { full: false },
            source: Source::Periodic,
            description: String::new(),
            trigger_id: None,
            job_version: 1,
            epoch: 1,
            triggered_unix_ms: 1,
            status: EntryStatus::Present(Present {
                metadata: self.write(&self.layout.metadata(id), &metadata::encode(&content)),
                completed_unix_ms: 2,
                state_bytes: 0,
                new_bytes: 0,
            }),
        }
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.root.path().join("job").join(inside)
    }

    /// The only file in a directory that has `part` in its name.
    fn file(&self, directory: &str, part: &str) -> PathBuf {
        let entries = std::fs::read_dir(self.path(directory)).unwrap().map(|entry| entry.unwrap().path());
        let mut found: Vec<_> =
            entries.filter(|path| path.file_name().unwrap().to_str().unwrap().contains(part)).collect();
        found.sort();
        found.swap_remove(0)
    }
}

/// Runs `cutwater-engine fsck ...`; gives its status, output and errors.
fn fsck(path: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutwater-engine"));
    let output = command.arg("fsck").arg(path).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The lines that say what is wrong.
fn damage(path: &Path, arguments: &[&str]) -> Vec<String> {
    let (status, output, errors) = fsck(path, arguments);
    let lines: Vec<String> =
        output.lines().filter(|line| line.starts_with("damage: ")).map(str::to_owned).collect();
    assert_eq!(status, Some(i32::from(!lines.is_empty())), "{output}{errors}");
    lines
}

#[test]
fn a_sound_job_is_sound_from_each_side() {
    let job = Job::new();
    let (status, output, errors) = fsck(&job.path(""), &[]);
    assert_eq!((status, &errors[..]), (Some(0), ""), "{output}");
    assert!(
        output.contains("checkpoint 3 of job job") && output.contains("checkpoint 4 of job job"),
        "{output}"
    );
    assert!(output.contains("subtask 1  private CURRENT: job/chk-4/1-1-1-1-current, 12 bytes"), "{output}");
    // How long the metadata is depends on its format.
    assert!(
        output.contains(": 2 checkpoints, 9 files, ") && output.ends_with(" bytes, 0 orphans: sound\n"),
        "{output}"
    );
    for path in ["chk-4", "chk-4/_metadata"] {
        let (status, output, _) = fsck(&job.path(path), &["--quiet"]);
        assert_eq!(status, Some(0), "{output}");
        assert!(output.contains(": 1 checkpoints, 4 files, 38 bytes, 0 orphans: sound\n"), "{output}");
    }
    let url = format!("file://{}", job.path("chk-4").display());
    assert_eq!(fsck(Path::new(&url), &[]).0, Some(0));
    // Its name does not matter, its place does.
    std::fs::rename(job.path("chk-4/_metadata"), job.path("chk-4/renamed")).unwrap();
    assert_eq!(fsck(&job.path("chk-4/renamed"), &[]).0, Some(0));
}

#[test]
fn json_is_one_object_a_line() {
    let job = Job::new();
    let (_, output, _) = fsck(&job.path("chk-3"), &["--json"]);
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["checkpoint"], 3);
    assert_eq!(lines[1]["vertex"], "counts");
    assert_eq!(lines[2]["handle"], "job/shared/1-1/base");
    let last = lines.last().unwrap();
    assert_eq!((&last["sound"], &last["damage"]), (&Value::Bool(true), &Value::from(0)));
}

#[test]
fn each_damage_of_ours_is_named() {
    let says = |spoil: &dyn Fn(&Job), path: &str, expected: &[&str]| {
        let job = Job::new();
        spoil(&job);
        let lines = damage(&job.path(path), &[]);
        assert_eq!(lines.len(), expected.len(), "{lines:#?}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.contains(expected), "{line}: {expected}");
        }
    };
    let remove = |job: &Job| std::fs::remove_file(job.path("shared/1-1/base")).unwrap();
    says(&remove, "chk-3", &["job/shared/1-1/base: missing"]);
    says(&remove, "", &["job/shared/1-1/base: missing", "job/shared/1-1/base: missing"]);
    let longer = |job: &Job| std::fs::write(job.file("chk-3", "1-0-current"), b"longer than it was").unwrap();
    says(&longer, "chk-3", &["1-1-1-0-current: 18 bytes long, and should be 12"]);
    says(&longer, "chk-4", &[]);
    let other = |job: &Job| std::fs::write(job.path("shared/1-1/base"), b"A table").unwrap();
    says(&other, "chk-4", &["job/shared/1-1/base: checksum "]);
    let uncommitted = |job: &Job| std::fs::remove_file(job.path("out/t-3")).unwrap();
    says(&uncommitted, "chk-3", &["job/sink/staged/1-1/t-3: missing"]);
    let flipped = |job: &Job| {
        let mut bytes = std::fs::read(job.path("chk-4/_metadata")).unwrap();
        bytes[20] ^= 1;
        std::fs::write(job.path("chk-4/_metadata"), bytes).unwrap();
    };
    says(&flipped, "chk-4", &["chk-4/_metadata: metadata: checksum "]);
    says(&flipped, "", &["chk-4/_metadata: checksum "]);
    let gone = |job: &Job| std::fs::remove_file(job.path("chk-4/_metadata")).unwrap();
    says(&gone, "", &["chk-4/_metadata: missing"]);
    let cut = |job: &Job| std::fs::write(job.path("log/00000000000000000009"), b"CWJL").unwrap();
    says(&cut, "", &["log/00000000000000000009: register: truncated: 4 bytes"]);
    let elsewhere = |job: &Job| std::fs::rename(job.path(""), job.root.path().join("renamed")).unwrap();
    let job = Job::new();
    elsewhere(&job);
    let lines = damage(&job.root.path().join("renamed/chk-3"), &[]);
    assert!(lines[0].contains("names of files begin with job/"), "{lines:?}");
}

#[test]
fn each_segment_of_a_merged_object_is_looked_at() {
    let merged = |second: Segment| {
        Job::with(move |handle| {
            let first = Segment { offset_bytes: 0, len_bytes: 2, crc32c: crc32c::crc32c(b"a ") };
            let segments = [("000007.sst", first), ("000008.sst", second)];
            let file = |(name, segment): (&str, Segment)| StoreFile {
                name: name.into(),
                handle: handle.clone(),
                segment: Some(segment),
            };
            segments.map(file).into()
        })
    };
    let right = Segment { offset_bytes: 2, len_bytes: 5, crc32c: crc32c::crc32c(b"table") };
    let sound = merged(right);
    assert_eq!(fsck(&sound.path(""), &[]).0, Some(0));
    let wrong = merged(Segment { crc32c: 0, ..right });
    let (code, out, _) = fsck(&wrong.path(""), &[]);
    assert!(code == Some(1) && out.contains("5 bytes from 2 on: checksum"), "{code:?} {out}");
    let outside = merged(Segment { offset_bytes: 3, ..right });
    let (code, out, _) = fsck(&outside.path(""), &[]);
    assert!(code == Some(1) && out.contains("000008.sst lies outside of its object"), "{code:?} {out}");
}

#[test]
fn orphans_are_listed_and_are_no_damage() {
    let job = Job::new();
    let task = TaskId { vertex: 1, subtask: 0 };
    let orphans = [
        job.layout.metadata(CheckpointId(2)),
        job.layout.private(CheckpointId(3), OLD, task, "left"),
        job.layout.shared(OLD, "left"),
        job.layout.staged(OLD, "left"),
    ];
    // The leader of the register may be at work.
    let at_work = [job.layout.shared(NOW, "new"), job.layout.private(CheckpointId(66), NOW, task, "new")];
    for path in orphans.iter().chain(&at_work) {
        job.write(path, b"content");
    }
    let (status, output, _) = fsck(&job.path(""), &["--quiet"]);
    assert_eq!(status, Some(0), "{output}");
    let mut found: Vec<&str> = output
        .lines()
        .filter_map(|line| line.strip_prefix("orphan: "))
        .map(|line| line.split(": ").next().unwrap())
        .map(|path| &path[path.find("/job/").unwrap() + 1..])
        .collect();
    found.sort_unstable();
    assert_eq!(found, orphans);
    let (_, output, _) = fsck(&job.path("chk-3"), &["--quiet"]);
    assert_eq!(output.lines().filter(|line| line.starts_with("orphan: ")).count(), 1, "{output}");
}

#[test]
fn what_is_no_checkpoint_is_bad_usage() {
    let job = Job::new();
    std::fs::create_dir(job.path("empty")).unwrap();
    for (path, said) in [
        ("empty", "no checkpoint"),
        ("nothing", "No such file"),
        ("shared/1-1/base", "no metadata: it begins with 61207461"),
    ] {
        let (status, output, errors) = fsck(&job.path(path), &[]);
        assert_eq!((status, &output[..]), (Some(2), ""), "{errors}");
        assert!(errors.contains(said), "{errors}");
    }
    assert_eq!(fsck(Path::new("ftp://host/path"), &[]).0, Some(2));
    assert_eq!(fsck(&job.path(""), &["--moved", "nothing"]).0, Some(2));
}

/// A fixture of `engine/tests/flink`: its scratch directory, and how its absolute names lead there.
fn flink(name: &str) -> (TempDir, String) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/flink/fixtures");
    let packed = std::fs::read(fixtures.join(format!("{name}.tar.zst"))).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let unpacked = ruzstd::decoding::StreamingDecoder::new(&packed[..]).unwrap();
    tar::Archive::new(unpacked).unpack(scratch.path()).unwrap();
    let moved = format!("file:/tmp/cutwater-flink/{name}={}", scratch.path().display());
    (scratch, moved)
}

/// The directory that begins so.
fn directory(parent: &Path, begins: &str) -> PathBuf {
    let entries = std::fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().path());
    let is_wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        path.is_dir() && name.starts_with(begins) && (!begins.is_empty() || name.len() == 32)
    };
    let mut found: Vec<PathBuf> = entries.filter(is_wanted).collect();
    found.sort();
    found.swap_remove(0)
}

#[test]
fn what_flink_left_is_sound() {
    for name in ["incremental", "inline", "changelog", "unaligned", "merged", "unaligned-6"] {
        let (scratch, moved) = flink(name);
        let job = directory(scratch.path(), "");
        for path in [job.clone(), directory(&job, "chk-"), directory(&job, "chk-").join("_metadata")] {
            let (status, output, errors) = fsck(&path, &["--moved", &moved]);
            assert_eq!(status, Some(0), "{name}: {output}{errors}");
            assert!(output.contains("sound\n") && !output.contains("not looked at"), "{name}: {output}");
        }
    }
    let (scratch, moved) = flink("merged");
    let (_, output, _) = fsck(&directory(scratch.path(), ""), &["--moved", &moved]);
    let counts = "operator 7968152a5bbe1581827fbee6788b6bd1, uid counts, Counts \u{e4}\u{1f30a}: parallelism 2, max parallelism 4";
    assert!(output.contains(counts), "{output}");
    assert!(output.contains("subtask 0  keyed state, shared") && output.contains(" from byte "), "{output}");
    let (scratch, _) = flink("canonical");
    let (status, output, _) = fsck(&directory(scratch.path(), "savepoint-"), &[]);
    assert_eq!(status, Some(0), "all names of a savepoint are relative: {output}");
    assert!(output.contains("Savepoint (CANONICAL)"), "{output}");
}

/// FLINK-39964: a native savepoint was claimed, and the first incremental checkpoint after that kept its files under relative names
/// that lead nowhere. Flink 1.20.1 said it was completed.
#[test]
fn a_completed_checkpoint_that_flink_cannot_restore_is_damaged() {
    let (scratch, moved) = flink("claimed");
    let savepoint = directory(scratch.path(), "savepoint-");
    assert_eq!(damage(&savepoint, &[]), [""; 0]);
    let lines = damage(&directory(scratch.path(), ""), &["--moved", &moved]);
    assert_eq!(lines.len(), 6, "{lines:#?}");
    assert!(
        lines.iter().all(|line| line.contains("relative to its own directory, where it is not")),
        "{lines:#?}"
    );
    assert!(lines[0].contains("FLINK-39964"));
}

#[test]
fn each_damage_of_flinks_is_named() {
    let (scratch, moved) = flink("incremental");
    let job = directory(scratch.path(), "");
    let checkpoint = directory(&job, "chk-");
    let first = |directory: &Path| {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('_'));
        files.sort();
        files.swap_remove(0)
    };
    let bytes = std::fs::read(first(&job.join("shared"))).unwrap();
    std::fs::write(first(&job.join("shared")), &bytes[1..]).unwrap();
    let lines = damage(&checkpoint, &["--moved", &moved]);
    assert!(lines.len() == 1 && lines[0].contains("bytes long, and should be"), "{lines:?}");
    std::fs::remove_file(first(&job.join("shared"))).unwrap();
    let lines = damage(&checkpoint, &["--moved", &moved]);
    assert!(lines.len() == 1 && lines[0].ends_with(": missing"), "{lines:?}");
    let mut cut = std::fs::read(checkpoint.join("_metadata")).unwrap();
    cut.truncate(100);
    std::fs::write(checkpoint.join("_metadata"), cut).unwrap();
    let lines = damage(&checkpoint, &["--moved", &moved]);
    assert!(lines.len() == 1 && lines[0].contains("metadata: at byte "), "{lines:?}");

    // A name of another store is said to be one, and one that leads out of the directory is damage even if it leads to a file.
    let (scratch, moved) = flink("incremental");
    let job = directory(scratch.path(), "");
    let checkpoint = directory(&job, "chk-");
    let elsewhere = moved.split_once('=').unwrap().0.to_owned() + "=s3://bucket/copy";
    let (status, output, _) = fsck(&checkpoint, &["--moved", &elsewhere]);
    assert_eq!(status, Some(0));
    assert!(output.contains("not looked at: file:/tmp/cutwater-flink/incremental/"), "{output}");
    let (scratch, _) = flink("canonical");
    let savepoint = directory(scratch.path(), "savepoint-");
    let metadata = std::fs::read(savepoint.join("_metadata")).unwrap();
    let name = first(&savepoint).file_name().unwrap().to_str().unwrap().to_owned();
    let at = metadata.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
    let leaves = format!("../{}", &name[3..]);
    std::fs::copy(savepoint.join(&name), scratch.path().join(&name[3..])).unwrap();
    let changed = [&metadata[..at], leaves.as_bytes(), &metadata[at + name.len()..]].concat();
    std::fs::write(savepoint.join("_metadata"), changed).unwrap();
    let lines = damage(&savepoint, &[]);
    assert!(lines.len() == 1 && lines[0].contains("leaves the directory of the metadata"), "{lines:?}");
}
