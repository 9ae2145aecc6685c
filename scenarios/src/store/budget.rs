//! What damage may cost although the store does everything right: what no witness tells from a torn tail.
//!
//! Behind each sync of a log stands a mark that says so (see `cutwater_engine::store::wal`). To hide the sync from recovery,
//! damage must strike the mark, and those of all later syncs, and the records of the sync itself or something before them
//! that no mark vouches for. A power failure takes the last mark without any damage, as nothing had synced it yet. So each
//! sync that may be missing takes a damage of its own, at the place of that sync or behind it; only *wide* damage (a run of
//! sectors, or a sector that something else was written to) can take several. Damage in what was durable earlier, in other logs
//! or in the logs of another directory, takes nothing: it must be refused.
//!
//! The newest edit of a MANIFEST is witnessed by the seal behind it, and by nothing else. Damage that strikes both, at the very
//! end of the one MANIFEST that was read, hides the edit.
//!
//! Where exactly the records of a sync lie is not known here. They lie between where the logs ended when it was asked for
//! and where they ended when it was answered.

use std::ops::Range;

use cutwater_engine::store::log::LogReader;
use cutwater_engine::store::version;
use cutwater_io::sim::disk::Ino;

use crate::oracle::batches::{Place, Synced};

/// Damage in a log that a reader was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) log: u64,
    /// Where in it.
    pub(super) bytes: Range<u64>,
    /// It may strike all that is there. Other damage strikes one record.
    pub(super) is_wide: bool,
}

impl Hit {
    fn reaches(&self, place: Place) -> bool {
        Place { log: self.log, offset_bytes: self.bytes.end } > place
    }

    fn touches(&self, synced: &Synced) -> bool {
        let begin = Place { log: self.log, offset_bytes: self.bytes.start };
        begin < synced.answered_at && self.reaches(synced.asked_at)
    }
}

/// How many of the last of these syncs may be missing.
pub(super) fn syncs_forgiven(syncs: &[Synced], hits: &[Hit], power_failed: bool) -> usize {
    let marked = syncs.len() - usize::from(power_failed).min(syncs.len());
    let may_miss = |count: &usize| {
        let first = syncs.len() - count;
        let from = durable_to(syncs, first);
        let (wide, narrow): (Vec<&Hit>, Vec<&Hit>) =
            hits.iter().filter(|hit| hit.reaches(from)).partition(|hit| hit.is_wide);
        let marks = syncs.get(first..marked).unwrap_or_default();
        let left = marks.iter().filter(|synced| !wide.iter().any(|hit| hit.touches(synced))).count();
        narrow.len() >= left + usize::from(wide.is_empty())
    };
    (1..=syncs.len()).take_while(may_miss).count()
}

/// True if what was logged after the last sync may be missing, although no power failed.
pub(super) fn hides_the_unsynced(syncs: &[Synced], hits: &[Hit]) -> bool {
    let from = durable_to(syncs, syncs.len());
    hits.iter().any(|hit| hit.reaches(from))
}

/// True if something else may be read where no mark vouches for the log.
pub(super) fn may_replace_the_end(syncs: &[Synced], hits: &[Hit], power_failed: bool) -> bool {
    let marked = syncs.len() - usize::from(power_failed).min(syncs.len());
    let from = durable_to(syncs, marked);
    hits.iter().any(|hit| hit.is_wide && hit.reaches(from))
}

/// To where the first `count` syncs vouch for the logs, at least.
fn durable_to(syncs: &[Synced], count: usize) -> Place {
    count.checked_sub(1).map_or(Place::default(), |last| syncs[last].asked_at)
}

/// The last edit of a MANIFEST, which is a record, or several that hold together (an atomic group), and its seal, if it was
/// sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ManifestEnd {
    pub(super) ino: Ino,
    records: [Range<u64>; 2],
    /// The begin of a group behind them, whose writer died before its last edit.
    cut_off: Option<Range<u64>>,
}

impl ManifestEnd {
    /// `content` is what was written, undamaged. Nothing if it has fewer records.
    pub(super) fn of(ino: Ino, content: &[u8]) -> Option<ManifestEnd> {
        let mut reader = LogReader::new(content, 0);
        let mut records = [None, None];
        // Where a group began whose last edit has not come.
        let mut open: Option<u64> = None;
        loop {
            let begin = reader.offset();
            let Ok(record) = reader.next_record() else { break };
            let begin = open.take().unwrap_or(begin);
            if version::decode(&record).is_ok_and(|edit| edit.atomic_group_remaining > Some(0)) {
                open = Some(begin);
            } else {
                records = [records[1].take(), Some(begin..reader.offset())];
            }
        }
        let [Some(edit), Some(seal)] = records else { return None };
        let cut_off = open.map(|begin| begin..reader.offset());
        Some(ManifestEnd { ino, records: [edit, seal], cut_off })
    }

    /// True if damage at these places of the file may hide both: wide damage, or two of any kind.
    pub(super) fn is_hidden_by(&self, damage: &[(Range<u64>, bool)]) -> bool {
        let struck = |record: &Range<u64>| {
            let touches =
                |(bytes, _): &&(Range<u64>, bool)| bytes.start < record.end && record.start < bytes.end;
            damage.iter().filter(touches).collect::<Vec<_>>()
        };
        let [edit, seal] = self.records.each_ref().map(struck);
        let is_one = |one: &[&(Range<u64>, bool)]| matches!(one, [(_, false)]);
        let same_one = is_one(&edit) && is_one(&seal) && std::ptr::eq(edit[0], seal[0]);
        // What is whole behind them tells that they were there.
        let hides_the_rest = self.cut_off.as_ref().is_none_or(|part| !struck(part).is_empty());
        !edit.is_empty() && !seal.is_empty() && !same_one && hides_the_rest
    }
}

#[cfg(test)]
mod tests {
    use cutwater_engine::store::log::LogWriter;
    use cutwater_engine::store::version::VersionEdit;

    use super::*;

    /// Syncs of 100 bytes each, record and mark, in one log.
    fn syncs(log: u64, count: u64) -> Vec<Synced> {
        let place = |offset_bytes| Place { log, offset_bytes };
        let synced = |i| Synced {
            sequence: i + 1,
            at_us: i * 1000,
            asked_at: place(i * 100),
            answered_at: place(i * 100 + 100),
        };
        (0..count).map(synced).collect()
    }

    fn narrow(log: u64, bytes: Range<u64>) -> Hit {
        Hit { log, bytes, is_wide: false }
    }

    fn wide(log: u64, bytes: Range<u64>) -> Hit {
        Hit { log, bytes, is_wide: true }
    }

    #[test]
    fn damage_to_what_was_durable_before_forgives_nothing() {
        let syncs = syncs(7, 5);
        for power_failed in [false, true] {
            assert_eq!(syncs_forgiven(&syncs, &[], power_failed), 0);
            let old = [narrow(7, 100..300), narrow(6, 400..500), wide(7, 0..300), wide(6, 0..5000)];
            assert_eq!(syncs_forgiven(&syncs, &old, power_failed), 0, "in a durable prefix, in an old log");
            assert!(!hides_the_unsynced(&syncs, &old));
            assert!(!may_replace_the_end(&syncs, &old, power_failed));
        }
    }

    #[test]
    fn each_sync_takes_a_damage_of_its_own_and_a_power_failure_takes_a_mark() {
        let syncs = syncs(7, 5);
        let last = narrow(7, 400..500);
        assert_eq!(syncs_forgiven(&syncs, std::slice::from_ref(&last), true), 1);
        assert_eq!(syncs_forgiven(&syncs, std::slice::from_ref(&last), false), 0, "its mark is there");
        assert_eq!(syncs_forgiven(&syncs, &[last.clone(), last.clone()], false), 1);
        assert_eq!(syncs_forgiven(&syncs, &[last.clone(), narrow(7, 300..400)], true), 2);
        assert_eq!(syncs_forgiven(&syncs, &[last.clone(), narrow(7, 100..200)], true), 1, "a mark between");
        assert_eq!(
            syncs_forgiven(&syncs, &[narrow(8, 0..100)], true),
            1,
            "the next log has the last records"
        );
        assert_eq!(syncs_forgiven(&syncs, &vec![last; 9], true), 5, "no more than there are");
        assert_eq!(syncs_forgiven(&[], &[narrow(7, 0..100)], true), 0);
    }

    #[test]
    fn wide_damage_takes_what_it_touches() {
        let syncs = syncs(7, 5);
        assert_eq!(syncs_forgiven(&syncs, &[wide(7, 200..500)], true), 3);
        assert_eq!(syncs_forgiven(&syncs, &[wide(7, 200..500)], false), 3);
        assert_eq!(syncs_forgiven(&syncs, &[wide(7, 200..400)], false), 0, "the last mark is behind it");
        assert_eq!(syncs_forgiven(&syncs, &[wide(7, 200..400)], true), 3, "the last mark is gone");
        assert!(may_replace_the_end(&syncs, &[wide(7, 300..400)], true));
        assert!(!may_replace_the_end(&syncs, &[wide(7, 300..400)], false));
    }

    #[test]
    fn what_no_sync_forced_may_be_missing() {
        let syncs = syncs(7, 5);
        assert!(hides_the_unsynced(&syncs, &[narrow(7, 500..600)]));
        assert!(hides_the_unsynced(&[], &[narrow(7, 0..100)]));
    }

    #[test]
    fn an_edit_of_a_manifest_is_hidden_only_with_its_seal() {
        let (mut framing, mut content) = (LogWriter::new(), Vec::new());
        for len in [500, 100, 8] {
            framing.add_record(&vec![1; len], &mut content);
        }
        let end = ManifestEnd::of(Ino(1), &content).unwrap();
        assert_eq!(end.records, [507..614, 614..629]);
        assert!(end.is_hidden_by(&[(512..1024, true)]), "a run");
        assert!(end.is_hidden_by(&[(512..1024, false), (512..1024, false)]), "two in one sector");
        assert!(!end.is_hidden_by(&[(512..1024, false)]), "one bit");
        assert!(!end.is_hidden_by(&[(0..507, true), (512..1024, false)]), "elsewhere");
        let torn = [&content[..], &[3; 100]].concat();
        assert_eq!(ManifestEnd::of(Ino(1), &torn), Some(end), "a torn record behind them");
        assert_eq!(ManifestEnd::of(Ino(1), &content[..507]), None);
        let group_begins = content.len() as u64;
        for remaining in [2, 1, 0] {
            let part = VersionEdit { atomic_group_remaining: Some(remaining), ..VersionEdit::default() };
            framing.add_record(&version::encode(&part), &mut content);
        }
        let seal_begins = content.len() as u64;
        framing.add_record(&[1; 8], &mut content);
        let end = ManifestEnd::of(Ino(1), &content).unwrap();
        assert_eq!(end.records, [group_begins..seal_begins, seal_begins..content.len() as u64], "a group");
        let part = VersionEdit { atomic_group_remaining: Some(1), ..VersionEdit::default() };
        framing.add_record(&version::encode(&part), &mut content);
        let part_begins = content.len() as u64 - 1;
        let cut_off = ManifestEnd::of(Ino(1), &content).unwrap();
        assert_eq!(cut_off.records, end.records, "a group that was cut off is no edit");
        let both = group_begins..seal_begins + 1;
        assert!(end.is_hidden_by(&[(both.clone(), true)]) && !cut_off.is_hidden_by(&[(both, true)]));
        assert!(cut_off.is_hidden_by(&[(group_begins..part_begins, true)]));
    }
}
