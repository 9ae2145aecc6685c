//! What a keyed snapshot is made of when its changes are logged: a materialised base, and the log from there on.
//!
//! A *materialisation* is an incremental snapshot of a store that no checkpoint asked for. It has a number of its own, never that
//! of a checkpoint (Flink confused the two in FLINK-25524 and FLINK-32908): several checkpoints are built on one
//! materialisation, and some materialisations are part of none.
//!
//! Every change of a subtask's state has a sequence number. All ranges are from the first included to the last excluded. A base
//! holds all changes below `base_seq`; the segments hold those from there to `to`, each once, in order, without a gap.
//!
//! Pure data, like [`super::snapshot`].

use serde::{Deserialize, Serialize};

use super::snapshot::{FileHandle, Segment};

/// No sequence number or materialisation is above this: what says so was not written by a task, and counting on from it would end.
const NUMBER_MAX: u64 = u64::MAX / 4;

/// Number of a materialisation; grows within one run of a task, and goes on after a restore with the same key groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MaterialisationId(pub u64);

impl std::fmt::Display for MaterialisationId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "m{}", self.0)
    }
}

/// A part of the log: changes that follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSegment {
    /// Sequence number of the first change.
    pub from: u64,
    /// Sequence number after the last change.
    pub to: u64,
    /// The object, which may hold other segments besides. It is shared like a table, and owned by the same registry.
    pub handle: FileHandle,
    /// Where in the object the segment is.
    pub part: Segment,
}

/// The log of a keyed snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changelog {
    /// Which materialisation the files of the snapshot are.
    pub materialisation: MaterialisationId,
    /// The first change that is not in those files.
    pub base_seq: u64,
    /// The first change that is not in the snapshot.
    pub to: u64,
    /// The changes between the two, in order.
    pub segments: Vec<LogSegment>,
}

impl Changelog {
    /// How long the log is.
    pub fn len_bytes(&self) -> u64 {
        self.segments.iter().fold(0, |sum, segment| sum.saturating_add(segment.part.len_bytes))
    }

    /// Why this cannot be what a task wrote: a number that nobody counts to, a gap, an overlap, or a segment outside of its object or over another.
    ///
    /// # Errors
    /// The reason.
    pub fn check(&self) -> Result<(), String> {
        if self.to > NUMBER_MAX || self.materialisation.0 > NUMBER_MAX {
            return Err(format!("{} and change {} are beyond {NUMBER_MAX}", self.materialisation, self.to));
        }
        let mut next = self.base_seq;
        let mut before: Option<&LogSegment> = None;
        for segment in &self.segments {
            let LogSegment { from, to, handle, part } = segment;
            let path = &handle.path;
            if *from != next {
                return Err(format!("the log goes on with change {from} in {path}, not with {next}"));
            }
            if to <= from {
                return Err(format!("the segment {from}..{to} in {path} is empty"));
            }
            if part.end_within(handle.len_bytes).is_none() {
                return Err(format!("the segment {from}..{to} lies outside of its object {path}"));
            }
            // In one object segments lie in the order of their changes.
            if let Some(before) = before.filter(|before| before.handle.path == *path)
                && before.part.offset_bytes.saturating_add(before.part.len_bytes) > part.offset_bytes
            {
                return Err(format!("the segment {from}..{to} lies over another one of {path}"));
            }
            next = *to;
            before = Some(segment);
        }
        if next != self.to {
            return Err(format!("the log ends before change {next}, not {}", self.to));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(path: &str, from: u64, to: u64, offset_bytes: u64) -> LogSegment {
        let handle = FileHandle { path: path.into(), len_bytes: 20, crc32c: 0 };
        LogSegment { from, to, handle, part: Segment { offset_bytes, len_bytes: 10, crc32c: 0 } }
    }

    #[test]
    fn a_log_has_neither_gap_nor_overlap() {
        let log = |base_seq, to, segments: &[LogSegment]| {
            let segments = segments.to_vec();
            Changelog { materialisation: MaterialisationId(1), base_seq, to, segments }.check()
        };
        assert_eq!(log(5, 5, &[]), Ok(()));
        assert_eq!(log(5, 9, &[segment("a", 5, 7, 0), segment("a", 7, 9, 10)]), Ok(()));
        assert!(log(5, 6, &[]).is_err(), "nothing of 5..6");
        assert!(log(4, 7, &[segment("a", 5, 7, 0)]).is_err(), "the log does not begin at the base");
        assert!(log(5, 8, &[segment("a", 5, 7, 0)]).is_err(), "the end is missing");
        assert!(log(5, 9, &[segment("a", 5, 7, 0), segment("b", 8, 9, 0)]).is_err(), "a gap");
        assert!(log(5, 9, &[segment("a", 5, 7, 0), segment("b", 6, 9, 0)]).is_err(), "an overlap");
        assert!(log(5, 9, &[segment("a", 5, 7, 0), segment("a", 7, 9, 5)]).is_err(), "bytes twice");
        assert!(log(5, 7, &[segment("a", 5, 7, 11)]).is_err(), "beyond the object");
        assert!(log(5, 7, &[segment("a", 5, 7, u64::MAX)]).is_err());
        assert!(log(5, 5, &[segment("a", 5, 5, 0)]).is_err(), "an empty segment");
        assert!(log(u64::MAX, u64::MAX, &[]).is_err(), "the next change would have no number");
        let materialisation = MaterialisationId(u64::MAX);
        let far = Changelog { materialisation, base_seq: 0, to: 0, segments: Vec::new() };
        assert!(far.check().is_err(), "the next materialisation would have no number");
    }
}
