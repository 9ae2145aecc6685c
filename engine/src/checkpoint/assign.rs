//! Who gets what at a restore: the states of a checkpoint, handed to the subtasks of the next deployment.
//!
//! Key groups follow Flink's rule: with `max` key groups and parallelism `p`, subtask `i` owns
//! `ceil(i * max / p) ..= ((i + 1) * max - 1) / p`. A keyed subtask is handed every state that overlaps its range (it
//! takes its own key groups out of each); a source subtask the positions of the partitions `n` with `n % p == i`; each
//! transaction of a sink goes to exactly one subtask; what else a subtask keeps, by the kind of each of its states
//! ([`redistribute`]). Nothing is lost and nothing is handed out twice, whatever the old
//! and the new parallelism.

use std::collections::BTreeMap;

use crate::state::operator_state::redistribute;

use super::snapshot::{
    CheckpointMetadata, KeyGroupRange, SinkTransaction, SourcePosition, SubtaskState, VertexState,
};

/// What a vertex of the job graph is to the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VertexPlan {
    /// Stable id; state is found again by it.
    pub uid: String,
    /// What it keeps.
    pub kind: VertexKind,
    /// Highest parallelism it takes, where that is less than the job's.
    pub max: Option<u16>,
}

/// What a vertex keeps between barriers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VertexKind {
    /// Positions in partitions numbered from 0.
    Source {
        /// How many there are.
        partitions: u32,
    },
    /// State by key group.
    Keyed,
    /// Transactions.
    Sink,
    /// State of its subtasks, or nothing.
    Plain,
}

impl VertexPlan {
    /// How many subtasks the vertex has in a deployment of parallelism `wanted`: at least one.
    pub fn parallelism(&self, wanted: u16) -> u16 {
        let mut parallelism = wanted.min(self.max.unwrap_or(u16::MAX));
        if let VertexKind::Source { partitions } = self.kind {
            parallelism = parallelism.min(u16::try_from(partitions).unwrap_or(u16::MAX));
        }
        parallelism.max(1)
    }
}

/// The key groups of subtask `index` of `parallelism`.
///
/// # Panics
/// If `index >= parallelism` or `parallelism > max_parallelism`: some subtask would own nothing.
pub fn key_group_range(index: u16, parallelism: u16, max_parallelism: u16) -> KeyGroupRange {
    assert!(
        index < parallelism && parallelism <= max_parallelism,
        "{index} of {parallelism}, {max_parallelism}"
    );
    let (i, p, max) = (u32::from(index), u32::from(parallelism), u32::from(max_parallelism));
    let narrow = |n: u32| u16::try_from(n).expect("less than max_parallelism");
    KeyGroupRange { first: narrow((i * max).div_ceil(p)), last: narrow(((i + 1) * max - 1) / p) }
}

/// The subtask of `parallelism` that owns `key_group`: the inverse of [`key_group_range`].
pub fn owner(key_group: u16, parallelism: u16, max_parallelism: u16) -> u16 {
    assert!(key_group < max_parallelism, "key group {key_group} of {max_parallelism}");
    let subtask = u32::from(key_group) * u32::from(parallelism) / u32::from(max_parallelism);
    u16::try_from(subtask).expect("less than parallelism")
}

/// True if `ranges`, in any order, cover each of `0..max_parallelism` exactly once.
pub fn covers_all(ranges: &[KeyGroupRange], max_parallelism: u16) -> bool {
    let mut ranges = ranges.to_vec();
    ranges.sort();
    let mut next = 0u32;
    for range in &ranges {
        if u32::from(range.first) != next || range.last < range.first {
            return false;
        }
        next = u32::from(range.last) + 1;
    }
    next == u32::from(max_parallelism)
}

/// What each subtask of a vertex starts from, in order of its index. `from` must have been validated.
pub fn restore(
    plan: &VertexPlan,
    from: &VertexState,
    parallelism: u16,
    max_parallelism: u16,
) -> Vec<Vec<SubtaskState>> {
    match plan.kind {
        VertexKind::Source { .. } => {
            let positions = from.subtasks.iter().filter_map(|state| match state {
                SubtaskState::Source(positions) => Some(positions),
                _ => None,
            });
            let parts = split_positions(positions.flatten().copied(), parallelism);
            parts.into_iter().map(|part| vec![SubtaskState::Source(part)]).collect()
        }
        VertexKind::Keyed => (0..parallelism)
            .map(|i| overlapping(&from.subtasks, key_group_range(i, parallelism, max_parallelism)))
            .collect(),
        VertexKind::Sink => {
            let transactions = from.subtasks.iter().filter_map(|state| match state {
                SubtaskState::Sink(transactions) => Some(transactions),
                _ => None,
            });
            let parts = deal(transactions.flatten().cloned(), parallelism);
            parts.into_iter().map(|part| vec![SubtaskState::Sink(part)]).collect()
        }
        VertexKind::Plain => {
            let states = from.subtasks.iter().filter_map(|state| match state {
                SubtaskState::Plain(parts) => Some(parts.as_slice()),
                _ => None,
            });
            let parts = redistribute(states, parallelism);
            parts.into_iter().map(|parts| vec![SubtaskState::Plain(parts)]).collect()
        }
    }
}

/// What each subtask of each vertex starts from; nothing at all if there is no checkpoint.
pub fn restore_all(
    plan: &[VertexPlan],
    from: Option<&CheckpointMetadata>,
    parallelism: u16,
    max_parallelism: u16,
) -> Vec<Vec<Vec<SubtaskState>>> {
    let vertices: BTreeMap<&str, &VertexState> =
        from.iter().flat_map(|m| &m.vertices).map(|v| (v.uid.as_str(), v)).collect();
    plan.iter()
        .map(|vertex| {
            let parallelism = vertex.parallelism(parallelism);
            match vertices.get(vertex.uid.as_str()) {
                Some(state) => restore(vertex, state, parallelism, max_parallelism),
                None => vec![Vec::new(); usize::from(parallelism)],
            }
        })
        .collect()
}

fn overlapping(states: &[SubtaskState], range: KeyGroupRange) -> Vec<SubtaskState> {
    let overlaps = |state: &&SubtaskState| match state {
        SubtaskState::Keyed(keyed) => keyed.range.first <= range.last && range.first <= keyed.range.last,
        _ => false,
    };
    states.iter().filter(overlaps).cloned().collect()
}

fn split_positions(
    positions: impl Iterator<Item = SourcePosition>,
    parallelism: u16,
) -> Vec<Vec<SourcePosition>> {
    let mut parts = vec![Vec::new(); usize::from(parallelism)];
    for position in positions {
        let part = position.partition % u32::from(parallelism);
        parts[usize::try_from(part).expect("less than the parallelism")].push(position);
    }
    parts.iter_mut().for_each(|part| part.sort_by_key(|position| position.partition));
    parts
}

fn deal(transactions: impl Iterator<Item = SinkTransaction>, parallelism: u16) -> Vec<Vec<SinkTransaction>> {
    let mut parts = vec![Vec::new(); usize::from(parallelism)];
    for (i, transaction) in transactions.enumerate() {
        parts[i % usize::from(parallelism)].push(transaction);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::snapshot::{FileHandle, KeyedSnapshot};
    use proptest::prelude::*;

    fn vertex(subtasks: Vec<SubtaskState>) -> VertexState {
        VertexState { uid: "v".into(), subtasks }
    }

    fn plan(kind: VertexKind) -> VertexPlan {
        VertexPlan { uid: "v".into(), kind, max: None }
    }

    proptest! {
        #[test]
        fn ranges_partition_the_key_groups_and_agree_with_routing(max in 1u16..2000, p in 1u16..300) {
            let p = p.min(max);
            let ranges: Vec<_> = (0..p).map(|i| key_group_range(i, p, max)).collect();
            prop_assert!(covers_all(&ranges, max));
            for (i, range) in (0..p).zip(&ranges) {
                for key_group in range.first..=range.last {
                    prop_assert_eq!(owner(key_group, p, max), i);
                }
            }
        }

        #[test]
        fn every_new_range_gets_exactly_the_states_it_needs(max in 1u16..200, old in 1u16..20, new in 1u16..20) {
            let (old, new) = (old.min(max), new.min(max));
            let states = (0..old).map(|i| SubtaskState::Keyed(KeyedSnapshot {
                range: key_group_range(i, old, max), states: Vec::new(), shared: Vec::new(), private: Vec::new(),
            })).collect();
            let handed = restore(&plan(VertexKind::Keyed), &vertex(states), new, max);
            prop_assert_eq!(handed.len(), usize::from(new));
            for (i, states) in (0..new).zip(&handed) {
                let range = key_group_range(i, new, max);
                let mut found = Vec::new();
                for state in states {
                    let SubtaskState::Keyed(keyed) = state else { panic!("{state:?}") };
                    let (first, last) = (keyed.range.first.max(range.first), keyed.range.last.min(range.last));
                    prop_assert!(first <= last, "a state that does not overlap");
                    found.extend(first..=last);
                }
                found.sort_unstable();
                prop_assert_eq!(found, (range.first..=range.last).collect::<Vec<_>>());
            }
        }

        #[test]
        fn positions_and_transactions_are_handed_out_once(partitions in 0u32..50, old in 1u16..9, new in 1u16..9) {
            let positions = (0..partitions).map(|partition| SourcePosition { partition, next_offset: 1 });
            let states = split_positions(positions.clone(), old).into_iter().map(SubtaskState::Source).collect();
            let mut seen = Vec::new();
            for (i, states) in (0u32..).zip(restore(&plan(VertexKind::Source { partitions }), &vertex(states), new, 16)) {
                let [SubtaskState::Source(positions)] = states.as_slice() else { panic!("{states:?}") };
                prop_assert!(positions.iter().all(|p| p.partition % u32::from(new) == i));
                seen.extend(positions.iter().copied());
            }
            seen.sort_by_key(|p| p.partition);
            prop_assert_eq!(seen, positions.collect::<Vec<_>>());

            let transaction = |n: u32| SinkTransaction {
                id: n.to_string(),
                staged: FileHandle { path: n.to_string(), len_bytes: 0, crc32c: 0 },
            };
            let states = deal((0..partitions).map(transaction), old).into_iter().map(SubtaskState::Sink).collect();
            let mut seen = Vec::new();
            for states in restore(&plan(VertexKind::Sink), &vertex(states), new, 16) {
                let [SubtaskState::Sink(transactions)] = states.as_slice() else { panic!("{states:?}") };
                seen.extend(transactions.iter().map(|t| t.id.parse::<u32>().unwrap()));
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..partitions).collect::<Vec<_>>());
        }
    }

    #[test]
    fn vertices_have_their_own_limits() {
        assert_eq!(plan(VertexKind::Source { partitions: 3 }).parallelism(8), 3);
        assert_eq!(plan(VertexKind::Source { partitions: 0 }).parallelism(8), 1);
        assert_eq!(plan(VertexKind::Keyed).parallelism(8), 8);
        assert_eq!(VertexPlan { max: Some(1), ..plan(VertexKind::Sink) }.parallelism(8), 1);
    }

    #[test]
    fn gaps_and_overlaps_are_no_cover() {
        let range = |first, last| KeyGroupRange { first, last };
        assert!(covers_all(&[range(4, 7), range(0, 3)], 8));
        assert!(!covers_all(&[range(0, 3), range(5, 7)], 8));
        assert!(!covers_all(&[range(0, 4), range(4, 7)], 8));
        assert!(!covers_all(&[range(0, 6)], 8) && !covers_all(&[], 8) && !covers_all(&[range(0, 8)], 8));
        assert!(!covers_all(&[range(0, 65535), range(1, 0)], 8));
    }
}
