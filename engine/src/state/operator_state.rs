//! The state of a subtask that is not keyed: small lists and tables in memory.
//!
//! It is part of the subtask's acknowledgement as it is (Flink: `DefaultOperatorStateBackend`, whose snapshots are small, too).
//! At a restore it is handed out by its kind, whatever the old and the new parallelism ([`redistribute`], pure):
//!
//! | kind | each subtask gets |
//! |---|---|
//! | list | every p-th element of all subtasks' lists in turn |
//! | union | all elements of all subtasks |
//! | broadcast | the table of one subtask: all have the same, as all were told the same |
//!
//! Leaves out: state larger than [`MAX_STATE_BYTES`], which would have to travel as files.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use super::{Data, Error};

/// A subtask's part of a checkpoint may not have more, in bytes: it travels in one message.
pub const MAX_STATE_BYTES: usize = 1 << 20;

/// How a state is handed out at a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Redistribution {
    /// Each element to one subtask.
    List,
    /// Each element to all.
    Union,
    /// The same table to all.
    Broadcast,
}

/// One state of a subtask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorPart {
    /// What the operator calls it.
    pub name: String,
    /// What it is.
    pub kind: Redistribution,
    /// Key and value of each entry; elements of lists have no key.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct OperatorState {
    operator: String,
    parts: BTreeMap<String, (Redistribution, Entries)>,
}

/// In a list the keys are running numbers.
type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

impl OperatorState {
    /// Of an operator, from what it is handed.
    ///
    /// # Errors
    /// If a state is handed over with two kinds.
    pub fn new(
        operator: &str,
        parts: impl IntoIterator<Item = OperatorPart>,
    ) -> Result<OperatorState, Error> {
        let mut state = OperatorState { operator: operator.into(), parts: BTreeMap::new() };
        for OperatorPart { name, kind, entries } in parts {
            let part = state.part(&name, kind)?;
            for (key, value) in entries {
                match kind {
                    Redistribution::Broadcast => drop(part.insert(key, value)),
                    Redistribution::List | Redistribution::Union => push(part, value),
                }
            }
        }
        Ok(state)
    }

    /// What belongs to a checkpoint.
    ///
    /// # Errors
    /// If it is too large.
    pub fn snapshot(&self) -> Result<Vec<OperatorPart>, Error> {
        let lens =
            self.parts.values().flat_map(|(_, entries)| entries).map(|(key, value)| key.len() + value.len());
        let len_bytes: usize = lens.sum();
        if len_bytes > MAX_STATE_BYTES {
            let what = format!("{len_bytes} bytes of state, more than {MAX_STATE_BYTES}");
            return Err(Error::OperatorState { operator: self.operator.clone(), state: "all".into(), what });
        }
        let part = |(name, (kind, entries)): (&String, &(Redistribution, Entries))| {
            let key =
                |key: &Vec<u8>| if *kind == Redistribution::Broadcast { key.clone() } else { Vec::new() };
            let entries = entries.iter().map(|(k, value)| (key(k), value.clone())).collect();
            OperatorPart { name: name.clone(), kind: *kind, entries }
        };
        Ok(self.parts.iter().map(part).collect())
    }

    fn part(&mut self, name: &str, kind: Redistribution) -> Result<&mut Entries, Error> {
        let operator = self.operator.clone();
        if !self.parts.contains_key(name) {
            self.parts.insert(name.into(), (kind, Entries::new()));
        }
        let (known, entries) = self.parts.get_mut(name).expect("it was inserted");
        if *known == kind {
            return Ok(entries);
        }
        let what = format!("is used as {kind:?} and kept as {known:?}");
        Err(Error::OperatorState { operator, state: name.into(), what })
    }

    fn wrong(&self, state: &str, error: impl std::fmt::Display) -> Error {
        Error::OperatorState { operator: self.operator.clone(), state: state.into(), what: error.to_string() }
    }
}

fn push(entries: &mut Entries, value: Vec<u8>) {
    let next = entries
        .last_key_value()
        .map_or(0, |(key, _)| u64::from_be_bytes(key.as_slice().try_into().expect("lists are numbered")) + 1);
    entries.insert(next.to_be_bytes().to_vec(), value);
}

/// What each of `parallelism` subtasks gets of what the subtasks before had.
pub fn redistribute<'a>(
    subtasks: impl Iterator<Item = &'a [OperatorPart]>,
    parallelism: u16,
) -> Vec<Vec<OperatorPart>> {
    // By name and kind, and in the order of the subtasks.
    let mut all: BTreeMap<(&str, Redistribution), Vec<&OperatorPart>> = BTreeMap::new();
    for part in subtasks.flatten() {
        all.entry((&part.name, part.kind)).or_default().push(part);
    }
    let mut handed = vec![Vec::new(); usize::from(parallelism)];
    for ((name, kind), parts) in all {
        let elements = || parts.iter().flat_map(|part| &part.entries).cloned();
        for (i, handed) in handed.iter_mut().enumerate() {
            let entries = match kind {
                Redistribution::List => elements().skip(i).step_by(usize::from(parallelism)).collect(),
                Redistribution::Union => elements().collect(),
                Redistribution::Broadcast => parts[i % parts.len()].entries.clone(),
            };
            handed.push(OperatorPart { name: name.into(), kind, entries });
        }
    }
    handed
}

/// Elements of a subtask; at a restore each goes to one subtask (list) or to all (union).
#[derive(Debug)]
pub struct OperatorListState<T> {
    name: &'static str,
    kind: Redistribution,
    of: PhantomData<fn() -> T>,
}

/// A table that is the same in all subtasks: it may only be changed by what was broadcast to all.
#[derive(Debug)]
pub struct BroadcastState<K, V> {
    name: &'static str,
    of: PhantomData<fn() -> (K, V)>,
}

impl<T: Data> OperatorListState<T> {
    /// A list that is split at a restore.
    pub const fn new(name: &'static str) -> Self {
        OperatorListState { name, kind: Redistribution::List, of: PhantomData }
    }

    /// A list of which at a restore each subtask gets all there was.
    pub const fn union(name: &'static str) -> Self {
        OperatorListState { name, kind: Redistribution::Union, of: PhantomData }
    }

    /// The elements.
    ///
    /// # Errors
    /// If the state holds something else.
    pub fn get(&self, state: &mut OperatorState) -> Result<Vec<T>, Error> {
        let part = state.part(self.name, self.kind)?;
        let decoded: Result<Vec<T>, _> = part.values().map(|bytes| postcard::from_bytes(bytes)).collect();
        decoded.map_err(|error| state.wrong(self.name, error))
    }

    /// Appends an element.
    ///
    /// # Errors
    /// As [`OperatorListState::get`].
    pub fn add(&self, state: &mut OperatorState, element: &T) -> Result<(), Error> {
        let bytes = postcard::to_allocvec(element).map_err(|error| state.wrong(self.name, error))?;
        push(state.part(self.name, self.kind)?, bytes);
        Ok(())
    }

    /// Replaces all elements.
    ///
    /// # Errors
    /// As [`OperatorListState::get`].
    pub fn set(&self, state: &mut OperatorState, elements: &[T]) -> Result<(), Error> {
        state.part(self.name, self.kind)?.clear();
        elements.iter().try_for_each(|element| self.add(state, element))
    }
}

impl<K: Data, V: Data> BroadcastState<K, V> {
    /// Under a name that is unique in the operator.
    pub const fn new(name: &'static str) -> Self {
        BroadcastState { name, of: PhantomData }
    }

    /// What is under `key`.
    ///
    /// # Errors
    /// If the state holds something else.
    pub fn get(&self, state: &mut OperatorState, key: &K) -> Result<Option<V>, Error> {
        let key = postcard::to_allocvec(key).map_err(|error| state.wrong(self.name, error))?;
        let part = state.part(self.name, Redistribution::Broadcast)?;
        let decoded = part.get(&key).map(|bytes| postcard::from_bytes(bytes)).transpose();
        decoded.map_err(|error| state.wrong(self.name, error))
    }

    /// Sets what is under `key`.
    ///
    /// # Errors
    /// As [`BroadcastState::get`].
    pub fn put(&self, state: &mut OperatorState, key: &K, value: &V) -> Result<(), Error> {
        let encoded = postcard::to_allocvec(key).and_then(|key| Ok((key, postcard::to_allocvec(value)?)));
        let (key, value) = encoded.map_err(|error| state.wrong(self.name, error))?;
        state.part(self.name, Redistribution::Broadcast)?.insert(key, value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPEN: OperatorListState<u64> = OperatorListState::new("open");
    const ALL: OperatorListState<u64> = OperatorListState::union("all");
    const RULES: BroadcastState<String, u64> = BroadcastState::new("rules");

    proptest! {
        #[test]
        fn state_is_handed_out_by_its_kind(
            lists in proptest::collection::vec(proptest::collection::vec(any::<u64>(), 0..6), 1..5), new in 1u16..6,
        ) {
            let snapshots: Vec<Vec<OperatorPart>> = lists.iter().map(|list| {
                let mut state = OperatorState::new("op", []).unwrap();
                OPEN.set(&mut state, list).unwrap();
                list.iter().for_each(|n| ALL.add(&mut state, n).unwrap());
                RULES.put(&mut state, &"limit".into(), &7).unwrap();
                state.snapshot().unwrap()
            }).collect();
            let handed = redistribute(snapshots.iter().map(Vec::as_slice), new);
            prop_assert_eq!(handed.len(), usize::from(new));
            let (mut open, mut sorted) = (Vec::new(), lists.concat());
            for parts in handed {
                let mut state = OperatorState::new("op", parts).unwrap();
                let own = OPEN.get(&mut state).unwrap();
                prop_assert!(own.len().abs_diff(sorted.len() / usize::from(new)) <= 1, "evenly");
                open.extend(own);
                prop_assert_eq!(ALL.get(&mut state).unwrap(), lists.concat());
                prop_assert_eq!(RULES.get(&mut state, &"limit".into()).unwrap(), Some(7));
            }
            open.sort_unstable();
            sorted.sort_unstable();
            prop_assert_eq!(open, sorted, "each once");
        }
    }

    #[test]
    fn a_state_that_changes_its_kind_or_grows_too_large_is_an_error() {
        let mut state = OperatorState::new("op", []).unwrap();
        OPEN.add(&mut state, &1).unwrap();
        let other: OperatorListState<u64> = OperatorListState::union("open");
        let error = other.get(&mut state).unwrap_err().to_string();
        assert_eq!(error, "operator op, state open: is used as Union and kept as List");
        let large: OperatorListState<String> = OperatorListState::new("large");
        large.add(&mut state, &"x".repeat(MAX_STATE_BYTES)).unwrap();
        assert!(state.snapshot().is_err());
    }
}
