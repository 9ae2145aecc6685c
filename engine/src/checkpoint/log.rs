//! The register: the one value that all who work together agree on. Of a job it is who leads it and which checkpoints are complete
//! ([`JobState`]), of a cluster of tables who has which partition.
//!
//! One value per job or cluster, versioned, on an object store that offers nothing but create-if-absent. Version `n` is the object
//! `<name>/log/<n>`; the highest version is the truth and holds the whole [`Value`]. To change it a writer creates
//! version `n + 1`: of two writers who both saw `n`, one wins. For a job this one register is leadership, fencing, the store of
//! completed checkpoints and the counter of their ids at once, so that none of them can disagree with another.
//!
//! [`Append`] is the protocol of one change, as facts in and steps out. What makes it safe:
//! - **An unknown outcome is resolved, never guessed.** A put that failed or timed out may have landed, or may land later.
//!   The same bytes are put again under the same version until the store says something definite: created, or it exists;
//!   then it is read, and the writer's nonce says whose it is. A put that lands late finds the name taken.
//! - **A win is only a win at the top.** Old versions are deleted (all but the last few), so a writer that was
//!   paused for long could create an old version again and believe it had won. Therefore a creator lists afterwards:
//!   if a higher version exists it has been superseded, whether or not its record counted, and must not act on it.
//!   The record it left behind is below the maximum, read by nobody, and removed like any other old version.
//!   The maximum itself is never deleted.
//! - **Epochs only grow.** (A rule of jobs.) A takeover writes epoch + 1. Every other record keeps its predecessor's epoch; a writer that
//!   loses to anybody steps down and starts over as a candidate, without a blind retry on a higher version.
//!
//! Not relied on: clocks, leases, overwrites, compare-and-swap by tag. Relied on: create-if-absent is atomic, and reading and
//! listing see every put that was acknowledged before (S3, GCS, Azure and local directories all say so).

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::envelope::{self, Malformed};
use super::job_state::JobState;

/// What a register can hold.
pub trait Value: Clone + std::fmt::Debug + PartialEq + Serialize + DeserializeOwned {
    /// The first bytes of each version: a register of one kind is never taken for one of another.
    const MAGIC: [u8; 4];

    /// Whether the value contradicts itself.
    ///
    /// # Errors
    /// What contradicts what.
    fn check(&self) -> Result<(), String>;
}

impl Value for JobState {
    const MAGIC: [u8; 4] = *b"CWJL";

    fn check(&self) -> Result<(), String> {
        JobState::check(self)
    }
}

/// How many of the newest versions are kept unless configured otherwise. More than one, so that a reader who listed just
/// before a change still finds what it listed.
pub const KEEP_VERSIONS: u64 = 8;

/// A version of the register, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record<V = JobState> {
    /// From 1.
    pub version: u64,
    /// Unique to this attempt to write: how a writer knows its own record again.
    pub writer: String,
    /// The value.
    pub state: Box<V>,
}

/// The bytes of a record.
pub fn encode_record<V: Value>(record: &Record<V>) -> Bytes {
    envelope::seal(V::MAGIC, envelope::FIRST_VERSION, record)
}

/// The record in `bytes`.
///
/// # Errors
/// If the bytes are damaged, foreign, of another format version, or contradict themselves.
pub fn decode_record<V: Value>(bytes: &[u8]) -> Result<Record<V>, Malformed> {
    let record: Record<V> = envelope::open(V::MAGIC, envelope::FIRST_VERSION, bytes)?;
    record.state.check().map_err(Malformed::Inconsistent)?;
    Ok(record)
}

/// One change of the register on its way: tell it what was learned, do what it says next.
#[derive(Clone, Debug)]
pub struct Append<V = JobState> {
    record: Record<V>,
    next: Step<V>,
    doubted: bool,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<V = JobState> {
    /// Create the version, if absent, with the same bytes as ever.
    Put,
    /// Read the version.
    Read,
    /// List the versions and find the highest.
    List,
    /// The outcome is known.
    Done(Outcome<V>),
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<V = JobState> {
    /// It is the truth.
    Landed,
    /// There is a higher version by somebody else. Whether this one counted is theirs to know.
    Superseded,
    /// Somebody else's record has the version.
    Lost(Box<Record<V>>),
    /// The version holds something that cannot be read. Nothing can be concluded, nothing may be done.
    Unreadable(Malformed),
}

/// What was learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact<V = JobState> {
    /// The put created the object.
    Created,
    /// The put found that the object exists.
    Exists,
    /// The version's content.
    Content(Result<Record<V>, Malformed>),
    /// The version existed and does no more: it was deleted because it is old.
    Gone,
    /// The highest version there is.
    Newest(u64),
    /// The call failed or timed out, and may yet have its effect.
    Unknown,
}

impl<V: Value> Append<V> {
    /// Proposes `record`, whose version is one above what was read.
    pub fn new(record: Record<V>) -> Append<V> {
        Append { record, next: Step::Put, doubted: false }
    }

    /// What to do next.
    pub fn next(&self) -> &Step<V> {
        &self.next
    }

    /// The proposal.
    pub fn record(&self) -> &Record<V> {
        &self.record
    }

    /// True if there was a moment when the outcome was unknown.
    pub fn doubted(&self) -> bool {
        self.doubted
    }

    /// Takes in the result of the step that [`Append::next`] asked for.
    ///
    /// # Panics
    /// If the fact is no result of that step.
    pub fn learn(&mut self, fact: Fact<V>) {
        let version = self.record.version;
        self.next = match (&self.next, fact) {
            (Step::Put, Fact::Created) => Step::List,
            (Step::Put, Fact::Exists) => Step::Read,
            (Step::Read, Fact::Content(Ok(found))) if found.writer == self.record.writer => Step::List,
            (Step::Read, Fact::Content(Ok(found))) => Step::Done(Outcome::Lost(Box::new(found))),
            (Step::Read, Fact::Content(Err(malformed))) => Step::Done(Outcome::Unreadable(malformed)),
            (Step::Read, Fact::Gone) => Step::Done(Outcome::Superseded),
            (Step::List, Fact::Newest(newest)) if newest == version => Step::Done(Outcome::Landed),
            // Lower cannot be, as the maximum is never deleted; if it is, somebody else has a hand in it.
            (Step::List, Fact::Newest(_)) => Step::Done(Outcome::Superseded),
            (step @ (Step::Put | Step::Read | Step::List), Fact::Unknown) => {
                self.doubted = true;
                step.clone()
            }
            (step, fact) => panic!("{fact:?} is no result of {step:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::history::{Entry, EntryStatus, Kind, Present, Source};
    use crate::checkpoint::job_state::{Base, Change, CompletedCheckpoint, Status};
    use crate::checkpoint::snapshot::{CheckpointId, FileHandle};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn state(leader: u16, previous: Option<&JobState>) -> JobState {
        JobState::taken_over(previous, ([10, 0, 0, 1], leader).into(), 4, 8, 2, Base::Newest)
    }

    fn completed(id: u64) -> CompletedCheckpoint {
        let metadata = FileHandle { path: format!("job/chk-{id}/_metadata"), len_bytes: 1, crc32c: 2 };
        CompletedCheckpoint { id: CheckpointId(id), metadata, is_savepoint: false }
    }

    fn complete(id: u64) -> Change {
        let CompletedCheckpoint { id, metadata, .. } = completed(id);
        let present = Present { metadata, completed_unix_ms: 7, state_bytes: 1, new_bytes: 1 };
        let entry = Entry {
            id,
            kind: Kind::Checkpoint { full: false },
            source: Source::Periodic,
            description: String::new(),
            trigger_id: None,
            job_version: 1,
            epoch: 1,
            triggered_unix_ms: 5,
            status: EntryStatus::Present(present),
        };
        Change::Complete { entry: Box::new(entry), retain: 2, stops: false }
    }

    #[test]
    fn takeovers_and_changes_keep_what_must_outlive_a_leader() {
        let first = state(1, None);
        assert_eq!((first.epoch, first.next_id_bound), (1, 5));
        let first = first.changed(&Change::Rescale { parallelism: 4 });
        let first = first.changed(&complete(3));
        let second = state(2, Some(&first));
        assert_eq!((second.epoch, second.next_id_bound, second.parallelism), (2, 9, 4));
        assert_eq!(second.latest(), Some(&completed(3)));
        let mut last = second;
        for id in [5, 7, 8] {
            last = last.changed(&complete(id));
        }
        assert_eq!(last.retained, [completed(7), completed(8)]);
        let words: Vec<String> = last.history.iter().map(|entry| entry.status.to_string()).collect();
        let cleared = "cleared: newer ones took its place";
        assert_eq!(words, [cleared, cleared, "present", "present"]);
        let end = Change::End { status: Status::Finished, keep: false, at_unix_ms: 9 };
        let ended = last.changed(&end);
        assert_eq!((ended.status.is_terminal(), ended.retained.len()), (true, 0));
        assert_eq!(ended.history[3].status.to_string(), "cleared: the job ended");
        let back = ended.changed(&Change::Start { base: Base::Nothing, ids: 4 });
        assert_eq!((back.job_version, back.next_id_bound), (2, ended.next_id_bound + 4));
        assert_eq!(back.restore_point(), None);
    }

    #[test]
    fn damaged_and_contradictory_records_are_errors() {
        let mut record = Record { version: 1, writer: "w".into(), state: Box::new(state(1, None)) };
        let bytes = encode_record(&record);
        assert_eq!(decode_record::<JobState>(&bytes).as_ref(), Ok(&record));
        for i in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[i] ^= 0x10;
            assert!(decode_record::<JobState>(&damaged).is_err());
            assert!(decode_record::<JobState>(&bytes[..i]).is_err());
        }
        for (ids, bound) in [(vec![3, 2], 9), (vec![2, 2], 9), (vec![2, 3], 3), (vec![], u64::MAX)] {
            record.state.retained = ids.into_iter().map(completed).collect();
            record.state.next_id_bound = bound;
            assert!(
                matches!(decode_record::<JobState>(&encode_record(&record)), Err(Malformed::Inconsistent(_))),
                "{record:?}"
            );
        }
    }

    /// A store of versions and two writers on it, driven step by step in any order, with any call's answer lost before or
    /// after its effect, puts that land late, and old versions deleted at any time.
    #[derive(Default)]
    struct World {
        versions: BTreeMap<u64, Record>,
        late: Vec<Record>,
        /// Every record that a writer was told has landed.
        landed: Vec<Record>,
        /// Of each version, the content it had when it was the highest.
        truth: BTreeMap<u64, Record>,
    }

    impl World {
        fn newest(&self) -> u64 {
            self.versions.keys().next_back().copied().unwrap_or(0)
        }

        fn create(&mut self, record: &Record) -> Fact {
            if self.versions.contains_key(&record.version) {
                return Fact::Exists;
            }
            if record.version > self.newest() {
                self.truth.insert(record.version, record.clone());
            }
            self.versions.insert(record.version, record.clone());
            Fact::Created
        }

        fn step(&mut self, append: &mut Append, fault: u8) {
            let record = append.record().clone();
            let fact = match (append.next(), fault) {
                (_, 1) => Fact::Unknown,
                (Step::Put, 2) => {
                    self.create(&record);
                    Fact::Unknown
                }
                (Step::Put, 3) => {
                    self.late.push(record);
                    Fact::Unknown
                }
                (Step::Put, _) => self.create(&record),
                (Step::Read, _) => match self.versions.get(&record.version) {
                    Some(found) => Fact::Content(Ok(found.clone())),
                    None => Fact::Gone,
                },
                (Step::List, _) => Fact::Newest(self.newest()),
                (Step::Done(_), _) => return,
            };
            append.learn(fact);
            if *append.next() == Step::Done(Outcome::Landed) {
                self.landed.push(append.record().clone());
            }
        }

        fn trim(&mut self) {
            let keep = self.newest().saturating_sub(2);
            self.versions.retain(|version, _| *version > keep);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn what_landed_is_the_truth_whatever_fails(
            script in proptest::collection::vec((0usize..3, 0u8..5, 0u8..6), 1..200),
        ) {
            let mut world = World::default();
            let mut writers: Vec<Option<Append>> = vec![None, None, None];
            let mut nonce = 0;
            for (who, fault, other) in script {
                match other {
                    0 => world.trim(),
                    1 if !world.late.is_empty() => {
                        let record = world.late.remove(0);
                        world.create(&record);
                    }
                    _ => {}
                }
                let append = writers[who].get_or_insert_with(|| {
                    nonce += 1;
                    let version = world.newest();
                    let state = state(1, world.versions.get(&version).map(|r| &*r.state));
                    Append::new(Record { version: version + 1, writer: nonce.to_string(), state: Box::new(state) })
                });
                world.step(append, fault);
                if matches!(append.next(), Step::Done(_)) {
                    writers[who] = None;
                }
            }
            // Each record that its writer may act on was the highest when it was created, and nothing else ever was that
            // version: nobody acts on a record that history does not contain.
            for record in &world.landed {
                prop_assert_eq!(world.truth.get(&record.version), Some(record));
            }
            let epochs: Vec<_> = world.truth.values().map(|record| record.state.epoch).collect();
            prop_assert!(epochs.is_sorted_by(|a, b| a < b), "{:?}", epochs);
        }
    }
}
