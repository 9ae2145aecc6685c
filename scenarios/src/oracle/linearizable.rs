//! Oracle `linearizable`: reads, writes, deletes and compare-and-sets of single keys, whose values are unique in their key.
//!
//! With unique values it is known which write each read saw, and the question is one of intervals (Gibbons & Korach, "Testing Shared
//! Memories", 1997). The calls that write or read one value form a *block*, which nothing can come between. A compare-and-set ends the
//! block of the value that it expected and begins that of its own, so such blocks are chained into one. Then
//! - within a block no call may be over before one begins that belongs before it, and
//! - of two blocks, one must be able to come before the other as a whole: not both may have a call that is over before one of the other begins.
//!
//! The second is enough: if blocks must precede each other in a circle, the one with the latest call makes a circle with its successor.
//! Two sorted passes find such a pair, so a key takes the time of sorting its calls.
//!
//! A call with an unknown outcome has happened if somebody saw its value, then at any time after it was made; it is left out else.
//!
//! Deletes: an absent row does not say which delete it is of. If a key may have been deleted, each reader of nothing is a block of its
//! own (which no value may enclose), and there must be a delete that can explain it. That is sound, and does not find everything; for
//! keys that are never deleted the verdict is exact.

#[cfg(test)]
mod tests;
mod zones;

use std::collections::{BTreeMap, BTreeSet};

use cutwater_sim::scenario::Violation;

use super::calls::{Interval, Outcome};
use zones::{Block, Zone};

/// A call on one key, as its client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The client.
    pub actor: u16,
    /// The key.
    pub key: String,
    /// When.
    pub interval: Interval,
    /// How it ended.
    pub outcome: Outcome,
    /// What it asked for and was told.
    pub action: Action,
}

/// What a call does; `None` is that there is no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The row was read. Counts only if it is done. A compare-and-set that was refused and told the value is this.
    Read(Option<u64>),
    /// The row is written, with a value unique in its key.
    Write(u64),
    /// The row is removed.
    Delete,
    /// The row is changed if it holds what is expected.
    CompareAndSet {
        /// What must be there.
        expected: Option<u64>,
        /// What is there then; a value unique in its key.
        new: Option<u64>,
    },
    /// A compare-and-set was refused, and not told for what. Counts only if it is done.
    Mismatch {
        /// What was not there.
        expected: Option<u64>,
    },
}

impl Action {
    /// The value that it writes.
    fn written(self) -> Option<u64> {
        match self {
            Action::Write(value) | Action::CompareAndSet { new: Some(value), .. } => Some(value),
            _ => None,
        }
    }

    /// The value that it claims to have seen.
    fn seen(self) -> Option<u64> {
        match self {
            Action::Read(value) | Action::CompareAndSet { expected: value, .. } => value,
            _ => None,
        }
    }

    /// True if the row is gone after it.
    fn removes(self) -> bool {
        matches!(self, Action::Delete | Action::CompareAndSet { new: None, .. })
    }
}

/// Judges a history of any keys.
///
/// # Errors
/// What has no explanation, with the calls that contradict each other.
///
/// # Panics
/// If a value is written twice to a key: the workload is wrong then.
pub fn check(calls: &[Call]) -> Result<(), Violation> {
    let mut by_key: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        by_key.entry(&call.key).or_default().push(call);
    }
    by_key.into_values().try_for_each(|calls| Key::new(calls)?.check())
}

fn violation(property: &str) -> Violation {
    Violation::new("linearizable", property).of("call")
}

fn name(call: &Call) -> String {
    let value = |value: Option<u64>| value.map_or("nothing".to_owned(), |value| value.to_string());
    let what = match call.action {
        Action::Read(found) => format!("read {}", value(found)),
        Action::Write(new) => format!("wrote {new}"),
        Action::Delete => "deleted it".into(),
        Action::CompareAndSet { expected, new } => format!("changed {} to {}", value(expected), value(new)),
        Action::Mismatch { expected } => format!("did not find {}", value(expected)),
    };
    let doubt = if call.outcome == Outcome::Unknown { " (if it did)" } else { "" };
    format!("client {} {what}{doubt}, {}", call.actor, call.interval)
}

/// The calls on one key, and who wrote what.
struct Key<'a> {
    calls: Vec<&'a Call>,
    /// Of each value that was there.
    writers: BTreeMap<u64, &'a Call>,
    /// A row that is not there may have been deleted, and not only not written yet.
    may_be_removed: bool,
}

impl<'a> Key<'a> {
    fn new(calls: Vec<&'a Call>) -> Result<Key<'a>, Violation> {
        let mut written: BTreeMap<u64, &Call> = BTreeMap::new();
        for call in &calls {
            if let Some(value) = call.action.written() {
                assert!(written.insert(value, call).is_none(), "{value} is written to {} twice", call.key);
            }
        }
        // Done, or seen by one that has happened.
        let mut open: Vec<&Call> =
            calls.iter().copied().filter(|call| call.outcome == Outcome::Done).collect();
        let mut writers: BTreeMap<u64, &Call> =
            open.iter().filter_map(|call| Some((call.action.written()?, *call))).collect();
        while let Some(reader) = open.pop() {
            let Some(value) = reader.action.seen() else { continue };
            match written.get(&value) {
                None => {
                    let found = format!("{}: {}", reader.key, name(reader));
                    return Err(violation("what is read was written by somebody").found(found));
                }
                Some(writer) if writer.outcome == Outcome::Failed => {
                    let found =
                        format!("{}: {}, though it failed; {}", reader.key, name(writer), name(reader));
                    return Err(violation("nobody sees a write that failed").found(found));
                }
                Some(writer) => {
                    if writers.insert(value, writer).is_none() {
                        open.push(writer);
                    }
                }
            }
        }
        let may_be_removed = calls.iter().any(|c| c.action.removes() && c.outcome != Outcome::Failed);
        Ok(Key { calls, writers, may_be_removed })
    }

    fn check(&self) -> Result<(), Violation> {
        let blocks = self.blocks()?;
        for block in &blocks {
            block.check_order()?;
        }
        let mut zones: Vec<Zone<'_>> = blocks.iter().filter_map(Block::zone).collect();
        self.check_mismatches(&zones)?;
        if self.may_be_removed {
            let alone = |call: &&&Call| self.found_nothing(call) || call.action == Action::Delete;
            zones.extend(self.done().filter(|call| alone(&call)).map(Zone::of));
            self.check_vanished()?;
        }
        zones::check_pairs(zones)
    }

    fn done(&self) -> impl Iterator<Item = &'a Call> {
        self.calls.iter().copied().filter(|call| call.outcome == Outcome::Done)
    }

    fn found_nothing(&self, call: &Call) -> bool {
        matches!(call.action, Action::Read(None) | Action::CompareAndSet { expected: None, .. })
    }

    /// Calls by the value that they belong to, chained where one value was changed into another.
    fn blocks(&self) -> Result<Vec<Block<'a>>, Violation> {
        let is_of = |value: Option<u64>| value.is_some() || !self.may_be_removed;
        let mut readers: BTreeMap<Option<u64>, Vec<&Call>> = BTreeMap::new();
        let mut changes: BTreeMap<Option<u64>, &Call> = BTreeMap::new();
        for call in self.done().chain(self.writers.values().copied().filter(|c| c.outcome != Outcome::Done)) {
            match call.action {
                Action::Read(value) if is_of(value) => readers.entry(value).or_default().push(call),
                Action::CompareAndSet { expected, .. } if is_of(expected) => {
                    if let Some(other) = changes.insert(expected, call) {
                        let found = format!("{}: {}; {}", call.key, name(other), name(call));
                        return Err(violation("a value is changed into one other").found(found));
                    }
                }
                _ => {}
            }
        }
        let is_begin = |call: &&Call| match call.action {
            Action::CompareAndSet { expected, .. } => !is_of(expected),
            _ => true,
        };
        let begins = self.writers.values().copied().filter(is_begin).map(Some);
        let initial = (!self.may_be_removed).then_some(None);
        let mut chained = BTreeSet::new();
        let mut blocks = Vec::new();
        for begin in begins.chain(initial) {
            let mut block = Block { is_initial: begin.is_none(), phases: Vec::new() };
            let mut call = begin;
            loop {
                block.phases.extend(call.map(|call| vec![call]));
                let value = match call {
                    Some(call) if call.action.removes() => break,
                    Some(call) => call.action.written(),
                    None => None,
                };
                chained.extend(value);
                block.phases.extend(readers.remove(&value));
                let Some(change) = changes.remove(&value) else { break };
                call = Some(change);
            }
            blocks.push(block);
        }
        match self.writers.iter().find(|(value, _)| !chained.contains(value)) {
            None => Ok(blocks),
            Some((_, call)) => Err(violation("values do not come from each other in a circle")
                .found(format!("{}: {}", call.key, name(call)))),
        }
    }

    /// A comparison that failed lies not within the time in which the value was certainly there.
    fn check_mismatches(&self, zones: &[Zone<'_>]) -> Result<(), Violation> {
        let mut within: BTreeMap<Option<u64>, &Zone<'_>> = BTreeMap::new();
        // A chain has several values, each for a part of its time, so only blocks of one value say something.
        for zone in zones.iter().filter(|zone| zone.value.is_some()) {
            within.extend(zone.value.map(|value| (value, zone)));
        }
        for call in self.done() {
            let Action::Mismatch { expected } = call.action else { continue };
            if let Some(zone) = within.get(&expected).filter(|zone| zone.encloses(call)) {
                return Err(violation("a comparison fails only if something else is there").found(format!(
                    "{}: {}; between {}",
                    call.key,
                    name(call),
                    zone.in_words()
                )));
            }
        }
        Ok(())
    }

    /// Who found nothing after a value was there can be explained by a delete in between.
    fn check_vanished(&self) -> Result<(), Violation> {
        let mut values: Vec<&Call> =
            self.done().filter(|c| c.action.seen().or(c.action.written()).is_some()).collect();
        values.sort_by_key(|call| zones::end_us(call));
        let latest = zones::running_max(&values, |call| zones::begin_us(call));
        let may_remove = |call: &&&Call| call.action.removes() && call.outcome != Outcome::Failed;
        let mut deletes: Vec<&Call> = self.calls.iter().filter(may_remove).copied().collect();
        deletes.sort_by_key(|call| zones::begin_us(call));
        let longest = zones::running_max(&deletes, |call| zones::end_us(call));
        for call in self.done().filter(|call| self.found_nothing(call)) {
            let over = values.partition_point(|value| zones::end_us(value) < zones::begin_us(call));
            let Some(there) = over.checked_sub(1).map(|at| values[latest[at]]) else { continue };
            let begun = deletes.partition_point(|delete| zones::begin_us(delete) <= zones::end_us(call));
            let explains = |delete: &Call| zones::end_us(delete) >= zones::begin_us(there);
            if !begun.checked_sub(1).is_some_and(|at| explains(deletes[longest[at]])) {
                return Err(violation("a row does not vanish")
                    .expected("a delete between the two")
                    .found(format!("{}: {}; {}", call.key, name(there), name(call))));
            }
        }
        Ok(())
    }
}
