//! The log of a subtask: each rule by an example, and all of them by any order of events against a model of the registry.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::checkpoint::snapshot::{FileHandle, Segment};

fn handle(path: &str, len_bytes: u64) -> FileHandle {
    FileHandle { path: path.into(), len_bytes, crc32c: 0 }
}

/// Where the pieces of an upload are when it is done.
fn segments(upload: &Upload) -> Vec<LogSegment> {
    let len_bytes = upload.pieces.iter().map(|(_, _, bytes)| bytes.len() as u64).sum();
    let handle = handle(&format!("log-{}", upload.id.0), len_bytes);
    let mut offset_bytes = 0;
    let segment = |(from, to, bytes): &(u64, u64, Bytes)| {
        let part = Segment { offset_bytes, len_bytes: bytes.len() as u64, crc32c: 0 };
        offset_bytes += part.len_bytes;
        LogSegment { from: *from, to: *to, handle: handle.clone(), part }
    };
    upload.pieces.iter().map(segment).collect()
}

fn file(name: &str) -> StoreFile {
    StoreFile::whole(name, handle(name, 1))
}

fn append(log: &mut Log, changes: u64) {
    for _ in 0..changes {
        log.append(b"key", Some(b"value"));
    }
}

fn upload_all(log: &mut Log) {
    while let Some(upload) = log.take_upload(1 << 20) {
        log.uploaded(upload.id, segments(&upload));
    }
}

/// Materialises all at once.
fn materialise(log: &mut Log) -> MaterialisationId {
    let id = log.materialise([].into_iter());
    let name = format!("base-{}", id.0);
    log.materialised(id, vec![file(&name)], vec![name]);
    id
}

fn take(log: &mut Log) -> Part {
    let mut parts = log.take_parts();
    assert_eq!(parts.len(), 1, "{parts:?}");
    parts.remove(0)
}

#[test]
fn a_checkpoint_is_the_base_and_what_was_changed_since() {
    let mut log = Log::new(Beginning::Nothing);
    append(&mut log, 3);
    let base = log.basis().unwrap();
    log.begin(CheckpointId(1), base);
    assert!(log.take_parts().is_empty(), "nothing is uploaded");
    append(&mut log, 2);
    upload_all(&mut log);
    let part = take(&mut log);
    assert_eq!(
        (part.changelog.base_seq, part.changelog.to),
        (0, 3),
        "what came after the barrier is not in it"
    );
    assert!(log.take_parts().is_empty(), "a part is given out once");
}

#[test]
fn the_log_is_truncated_when_a_checkpoint_on_the_new_base_is_confirmed_and_not_before() {
    let mut log = Log::new(Beginning::Nothing);
    append(&mut log, 3);
    log.begin(CheckpointId(1), log.basis().unwrap());
    let base = materialise(&mut log);
    append(&mut log, 1);
    log.begin(CheckpointId(2), base);
    upload_all(&mut log);
    assert_eq!(log.take_parts().len(), 2);
    assert!(!log.complete(CheckpointId(1)), "1 is built on the old base");
    assert_eq!(log.pieces.front().unwrap().from, 0);
    assert!(log.complete(CheckpointId(2)));
    assert_eq!(log.pieces.front().unwrap().from, 3);
    assert!(!log.complete(CheckpointId(1)) && !log.complete(CheckpointId(7)), "not ours, or not any more");
}

#[test]
fn an_object_that_was_never_named_is_garbage_and_one_that_was_is_not_ours() {
    let mut log = Log::new(Beginning::Nothing);
    append(&mut log, 3);
    log.seal();
    upload_all(&mut log);
    append(&mut log, 1);
    log.begin(CheckpointId(1), log.basis().unwrap());
    upload_all(&mut log);
    let part = take(&mut log);
    log.acknowledged(part.changelog.segments.iter().map(|s| s.handle.path.as_str()));
    log.abort(CheckpointId(1));
    append(&mut log, 1);
    log.seal();
    upload_all(&mut log);
    let base = materialise(&mut log);
    assert_eq!(log.garbage(), [""; 0], "nothing is confirmed");
    log.begin(CheckpointId(2), base);
    drop(log.take_parts());
    log.complete(CheckpointId(2));
    assert_eq!(log.garbage(), ["log-3"], "the first two were named, though by an aborted checkpoint");
}

/// What was not uploaded when a materialisation made it superfluous is not kept until a checkpoint is confirmed: a task that stops
/// because too much waits takes no barrier, and none would be.
#[test]
fn what_no_checkpoint_will_ask_for_does_not_wait() {
    let mut log = Log::new(Beginning::Nothing);
    append(&mut log, 3);
    log.begin(CheckpointId(1), log.basis().unwrap());
    append(&mut log, 2);
    let base = materialise(&mut log);
    assert!(log.waiting_bytes() > 0, "checkpoint 1 needs it");
    assert_eq!(log.pieces(), 0, "nothing is behind the base");
    log.abort(CheckpointId(1));
    assert_eq!(log.waiting_bytes(), 0);
    assert!(log.take_upload(1 << 20).is_none());
    append(&mut log, 1);
    log.begin(CheckpointId(2), base);
    upload_all(&mut log);
    assert_eq!(take(&mut log).changelog.base_seq, 5);
    assert_eq!(log.pieces(), 1);
}

#[test]
fn what_stands_alone_is_not_gone_behind() {
    let mut log = Log::new(Beginning::Nothing);
    append(&mut log, 1);
    let old = materialise(&mut log);
    let alone = log.materialise([].into_iter());
    log.begin(CheckpointId(1), alone);
    assert_eq!(log.basis(), Some(alone), "if 1 completes, the old base dies with it");
    append(&mut log, 1);
    log.begin(CheckpointId(2), alone);
    upload_all(&mut log);
    assert!(log.take_parts().is_empty(), "both wait");
    assert_eq!(log.materialisation_failed(alone), [CheckpointId(1), CheckpointId(2)]);
    assert_eq!(log.basis(), Some(old), "nothing is built on the one that failed");
}

#[test]
fn a_copied_state_has_no_base_until_it_is_materialised() {
    let mut log = Log::new(Beginning::Copied);
    assert!(log.basis().is_none() && log.is_behind());
    let base = log.materialise([].into_iter());
    assert!(!log.is_behind());
    log.begin(CheckpointId(1), log.basis().unwrap());
    log.materialised(base, vec![file("a")], vec!["a".into()]);
    assert_eq!(take(&mut log).files, [file("a")]);
}

#[test]
fn a_restored_log_goes_on() {
    let mut log = Log::new(Beginning::Nothing);
    append(&mut log, 2);
    log.begin(CheckpointId(1), log.basis().unwrap());
    upload_all(&mut log);
    let Part { files, mut changelog, .. } = take(&mut log);
    // Names are never used twice.
    changelog.segments[0].handle.path = "of another attempt".into();
    let mut log = Log::new(Beginning::Restored { files, changelog: Some(changelog.clone()) });
    append(&mut log, 1);
    log.begin(CheckpointId(2), log.basis().unwrap());
    upload_all(&mut log);
    let again = take(&mut log).changelog;
    assert_eq!(again.segments[..1], changelog.segments);
    assert_eq!((again.base_seq, again.to), (0, 3));
}

#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    Seal,
    TakeUpload,
    Uploaded(bool),
    Materialise { stands_alone: bool },
    Materialised { newest: bool, fails: bool },
    Begin { stands_alone: bool },
    Acknowledge,
    Complete,
    Notify,
    Abort,
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..5).prop_map(Step::Append),
        1 => Just(Step::Seal),
        3 => Just(Step::TakeUpload),
        3 => prop::bool::weighted(0.8).prop_map(Step::Uploaded),
        2 => prop::bool::weighted(0.2).prop_map(|stands_alone| Step::Materialise { stands_alone }),
        2 => (prop::bool::weighted(0.3), prop::bool::weighted(0.2))
            .prop_map(|(newest, fails)| Step::Materialised { newest, fails }),
        3 => prop::bool::weighted(0.2).prop_map(|stands_alone| Step::Begin { stands_alone }),
        3 => Just(Step::Acknowledge),
        3 => Just(Step::Complete),
        2 => Just(Step::Notify),
        1 => Just(Step::Abort),
        2 => Just(Step::Sweep),
    ]
}

/// The log, and a coordinator that keeps the newest completed checkpoint and deletes what it owns and that one does not need.
struct World {
    log: Log,
    objects: BTreeSet<String>,
    uploads: Vec<Upload>,
    materialisations: Vec<(MaterialisationId, Vec<StoreFile>)>,
    next: u64,
    /// Numbers of changes at the barriers.
    barriers: BTreeMap<CheckpointId, u64>,
    changes: u64,
    /// Parts that are whole and not acknowledged.
    whole: BTreeMap<CheckpointId, Part>,
    acknowledged: BTreeMap<CheckpointId, Part>,
    /// Owned by the coordinator: the last checkpoint that named each.
    registry: BTreeMap<String, CheckpointId>,
    retained: Option<Part>,
    notices: Vec<CheckpointId>,
}

fn paths(part: &Part) -> Vec<String> {
    let files = part.files.iter().map(|file| file.handle.path.clone());
    files.chain(part.changelog.segments.iter().map(|segment| segment.handle.path.clone())).collect()
}

impl World {
    fn new() -> World {
        World {
            log: Log::new(Beginning::Nothing),
            objects: BTreeSet::new(),
            uploads: Vec::new(),
            materialisations: Vec::new(),
            next: 0,
            barriers: BTreeMap::new(),
            changes: 0,
            whole: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            registry: BTreeMap::new(),
            retained: None,
            notices: Vec::new(),
        }
    }

    fn materialise(&mut self, stands_alone: bool) -> MaterialisationId {
        // Tables live for three materialisations.
        let reused: Vec<StoreFile> = match stands_alone {
            true => Vec::new(),
            false => self.log.reusable().iter().rev().take(2).rev().cloned().collect(),
        };
        let id = self.log.materialise(reused.iter());
        self.materialisations.push((id, reused));
        id
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append(changes) => {
                append(&mut self.log, changes);
                self.changes += changes;
            }
            Step::Seal => self.log.seal(),
            Step::TakeUpload => self.uploads.extend(self.log.take_upload(40)),
            Step::Uploaded(succeeds) => {
                if self.uploads.is_empty() {
                    return;
                }
                let upload = self.uploads.remove(0);
                if succeeds {
                    let segments = segments(&upload);
                    self.objects.insert(segments[0].handle.path.clone());
                    self.log.uploaded(upload.id, segments);
                } else {
                    for lost in self.log.upload_failed(upload.id) {
                        self.barriers.remove(&lost);
                    }
                }
            }
            Step::Materialise { stands_alone } => {
                if !self.log.is_materialising() {
                    self.materialise(stands_alone);
                }
            }
            Step::Materialised { newest, fails } => {
                if self.materialisations.is_empty() {
                    return;
                }
                let at = if newest { self.materialisations.len() - 1 } else { 0 };
                let (id, mut files) = self.materialisations.remove(at);
                // Nothing will be built on one that is overtaken: what it references may be gone.
                let is_overtaken = self.log.bases.keys().next_back() > Some(&id);
                for file in &files {
                    let is_there = self.objects.contains(&file.handle.path);
                    assert!(is_there || is_overtaken, "{id} references {file:?}");
                }
                if fails {
                    for lost in self.log.materialisation_failed(id) {
                        self.barriers.remove(&lost);
                    }
                    return;
                }
                let name = format!("base-{}", id.0);
                self.objects.insert(name.clone());
                files.push(file(&name));
                self.log.materialised(id, files, vec![name]);
            }
            Step::Begin { stands_alone } => {
                self.next += 1;
                let base = match self.log.basis().filter(|_| !stands_alone) {
                    Some(base) => base,
                    None => self.materialise(stands_alone),
                };
                self.log.begin(CheckpointId(self.next), base);
                self.barriers.insert(CheckpointId(self.next), self.changes);
            }
            Step::Acknowledge => {
                let Some((id, part)) = self.whole.pop_first() else { return };
                let named = paths(&part);
                self.log.acknowledged(named.iter().map(String::as_str));
                // A late part is not believed, but what it names is the registry's.
                let is_late = self.retained.as_ref().is_some_and(|retained| id < retained.checkpoint);
                for path in named {
                    let is_there = self.objects.contains(&path);
                    assert!(is_late || is_there, "checkpoint {id} names {path}, which is gone");
                    if is_there {
                        let last = self.registry.entry(path).or_insert(id);
                        *last = id.max(*last);
                    }
                }
                if !is_late {
                    self.acknowledged.insert(id, part);
                }
            }
            Step::Complete => {
                let Some((id, part)) = self.acknowledged.pop_first() else { return };
                self.retained = Some(part);
                self.notices.push(id);
                // Whatever is older will never be complete, and the task hears of that some time.
                let unused = self.registry.extract_if(.., |_, last| *last < id);
                for (path, _) in unused {
                    self.objects.remove(&path);
                }
                self.barriers.remove(&id);
            }
            Step::Notify => {
                if !self.notices.is_empty() {
                    self.log.complete(self.notices.remove(0));
                }
            }
            Step::Abort => {
                let Some((id, _)) = self.barriers.pop_first() else { return };
                self.whole.remove(&id);
                self.acknowledged.remove(&id);
                self.log.abort(id);
            }
            Step::Sweep => {
                for path in self.log.garbage() {
                    assert!(!self.registry.contains_key(&path), "{path} is not ours");
                    self.objects.remove(&path);
                }
            }
        }
        for part in self.log.take_parts() {
            assert_eq!(part.changelog.to, self.barriers[&part.checkpoint], "all before the barrier");
            self.whole.insert(part.checkpoint, part);
        }
        self.log.check();
        let newest = self.retained.as_ref().map(|retained| retained.checkpoint);
        let alive = self.acknowledged.values().chain(self.whole.values());
        let alive = alive.filter(|part| Some(part.checkpoint) > newest);
        for part in self.retained.iter().chain(alive) {
            for path in paths(part) {
                assert!(self.objects.contains(&path), "{path} of {part:?} is gone");
            }
        }
    }

    /// Everything ends: what is left are objects that somebody names.
    fn settle(&mut self) {
        while !self.uploads.is_empty() {
            self.step(Step::Uploaded(true));
        }
        while !self.materialisations.is_empty() {
            self.step(Step::Materialised { newest: false, fails: false });
        }
        while !self.barriers.is_empty() {
            self.step(Step::Abort);
        }
        while !self.notices.is_empty() {
            self.step(Step::Notify);
        }
        self.step(Step::Sweep);
        let newest = self.log.reusable().iter().map(|file| file.handle.path.clone());
        let pieces = self.log.pieces.iter().filter_map(|piece| match &piece.content {
            Content::There(segment) => Some(segment.handle.path.clone()),
            _ => None,
        });
        let needed: BTreeSet<String> = newest.chain(pieces).chain(self.registry.keys().cloned()).collect();
        assert_eq!(self.objects.difference(&needed).next(), None, "nobody deletes it");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_order_of_events_leaves_a_gap_or_deletes_what_is_needed(steps in proptest::collection::vec(step(), 0..80)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.settle();
    }
}
