//! Who gets what at a restore: the states of a checkpoint, handed to the subtasks of the next deployment.
//!
//! Key groups follow Flink's rule: with `max` key groups and parallelism `p`, subtask `i` owns
//! `ceil(i * max / p) ..= ((i + 1) * max - 1) / p`. A keyed subtask is handed every state that overlaps its range (it
//! takes its own key groups out of each); a source subtask the positions of the partitions `n` with `n % p == i`; each
//! transaction of a sink goes to exactly one subtask; what else a subtask keeps, by the kind of each of its states
//! ([`redistribute`]). Nothing is lost and nothing is handed out twice, whatever the old
//! and the new parallelism.
//!
//! What was in flight goes to the *receivers*, also what the senders had not sent yet: so it is processed before anything
//! new, and nobody has to send before it may read. It was exchanged by the key groups of the old parallelism. A subtask is
//! handed the slices of every old receiver whose key groups overlap its own, and takes the records of its own keys out of
//! them. (Flink maps old to new subtasks too, and got it wrong where a vertex keeps nothing but what was in flight:
//! FLINK-31963.)

use std::collections::BTreeMap;

use crate::state::operator_state::redistribute;

use super::snapshot::{
    CheckpointMetadata, InFlight, InFlightChannel, KeyGroupRange, KeyedSnapshot, SinkTransaction,
    SourcePosition, SubtaskState, VertexState,
};
use crate::cluster::rpc::TaskId;

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

/// What each subtask of a vertex starts from, in order of its index, but for what was in flight. `from` must have been
/// validated.
pub fn restore(
    plan: &VertexPlan,
    from: &VertexState,
    parallelism: u16,
    max_parallelism: u16,
) -> Vec<Vec<SubtaskState>> {
    match plan.kind {
        VertexKind::Source { .. } => {
            let positions = from.subtasks.iter().filter_map(|state| match state {
                SubtaskState::Source(source) => Some(&source.positions),
                _ => None,
            });
            let parts = split_positions(positions.flatten().copied(), parallelism);
            parts.into_iter().map(|part| vec![part.into()]).collect()
        }
        VertexKind::Keyed => (0..parallelism)
            .map(|i| overlapping(&from.subtasks, key_group_range(i, parallelism, max_parallelism)))
            .collect(),
        VertexKind::Sink => {
            let transactions = from.subtasks.iter().map(SubtaskState::transactions);
            let parts = deal(transactions.flatten().cloned(), parallelism);
            parts.into_iter().map(|part| vec![part.into()]).collect()
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
    let old: &[VertexState] = from.map_or(&[], |metadata| &metadata.vertices);
    let vertices: BTreeMap<&str, (u16, &VertexState)> =
        (0u16..).zip(old).map(|(index, vertex)| (vertex.uid.as_str(), (index, vertex))).collect();
    (0u16..)
        .zip(plan)
        .map(|(index, vertex)| {
            let parallelism = vertex.parallelism(parallelism);
            let Some((old_index, state)) = vertices.get(vertex.uid.as_str()) else {
                return vec![Vec::new(); usize::from(parallelism)];
            };
            let mut states = restore(vertex, state, parallelism, max_parallelism);
            for (subtask, states) in (0u16..).zip(&mut states) {
                let range = key_group_range(subtask, parallelism, max_parallelism);
                states.extend(in_flight_to(old, *old_index, index, range, max_parallelism));
            }
            states
        })
        .collect()
}

/// What was in flight to the key groups `range` of the vertex `to`, which was `old_to` in the checkpoint: first what the
/// receivers had, then what the senders had. Senders keep the number that they had in the checkpoint.
fn in_flight_to(
    old: &[VertexState],
    old_to: u16,
    to: u16,
    range: KeyGroupRange,
    max_parallelism: u16,
) -> Vec<SubtaskState> {
    let receivers = u16::try_from(old[usize::from(old_to)].subtasks.len()).expect("it was validated");
    let overlaps = |receiver: TaskId| {
        receiver.vertex == old_to && {
            let theirs = key_group_range(receiver.subtask, receivers, max_parallelism);
            theirs.first <= range.last && range.first <= theirs.last
        }
    };
    let (received, unsent): (Vec<_>, Vec<_>) = (0u16..).zip(old).partition(|(vertex, _)| *vertex == old_to);
    let states = received.into_iter().chain(unsent).flat_map(|(_, vertex)| &vertex.subtasks);
    states
        .filter_map(SubtaskState::in_flight)
        .filter_map(|InFlight { handle, channels }| {
            let channels: Vec<InFlightChannel> = channels
                .iter()
                .filter(|channel| overlaps(channel.to))
                .map(|channel| InFlightChannel { to: TaskId { vertex: to, ..channel.to }, ..*channel })
                .collect();
            let in_flight = InFlight { handle: handle.clone(), channels };
            (!in_flight.channels.is_empty()).then_some(SubtaskState::InFlight(in_flight))
        })
        .collect()
}

fn overlapping(states: &[SubtaskState], range: KeyGroupRange) -> Vec<SubtaskState> {
    let overlapping = |state: &SubtaskState| match state {
        SubtaskState::Keyed(keyed) if keyed.range.first <= range.last && range.first <= keyed.range.last => {
            Some(SubtaskState::Keyed(KeyedSnapshot { in_flight: None, ..keyed.clone() }))
        }
        _ => None,
    };
    states.iter().filter_map(overlapping).collect()
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
    use crate::checkpoint::snapshot::{CheckpointId, FileHandle, SinkSnapshot, SourceSnapshot, StateFormat};
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
                range: key_group_range(i, old, max),
                states: Vec::new(),
                format: StateFormat::store(),
                shared: Vec::new(),
                private: Vec::new(),
                changelog: None,
                in_flight: None,
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
            let states = split_positions(positions.clone(), old).into_iter().map(SubtaskState::from).collect();
            let mut seen = Vec::new();
            for (i, states) in (0u32..).zip(restore(&plan(VertexKind::Source { partitions }), &vertex(states), new, 16)) {
                let [SubtaskState::Source(source)] = states.as_slice() else { panic!("{states:?}") };
                prop_assert!(source.positions.iter().all(|p| p.partition % u32::from(new) == i));
                seen.extend(source.positions.iter().copied());
            }
            seen.sort_by_key(|p| p.partition);
            prop_assert_eq!(seen, positions.collect::<Vec<_>>());

            let transaction = |n: u32| SinkTransaction {
                id: n.to_string(),
                staged: FileHandle { path: n.to_string(), len_bytes: 0, crc32c: 0 },
            };
            let states = deal((0..partitions).map(transaction), old).into_iter().map(SubtaskState::from).collect();
            let mut seen = Vec::new();
            for states in restore(&plan(VertexKind::Sink), &vertex(states), new, 16) {
                let [state] = states.as_slice() else { panic!("{states:?}") };
                seen.extend(state.transactions().iter().map(|t| t.id.parse::<u32>().unwrap()));
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..partitions).collect::<Vec<_>>());
        }

        /// A sink keeps nothing by key, and is handed what was in flight by key groups all the same.
        #[test]
        fn what_was_in_flight_reaches_every_owner_of_its_keys(max in 4u16..40, old in 1u16..5, new in 1u16..5) {
            let task = |vertex, subtask| TaskId { vertex, subtask };
            let in_flight = |of: TaskId, channels: Vec<(TaskId, TaskId)>| InFlight {
                handle: FileHandle { path: of.to_string(), len_bytes: 100, crc32c: 0 },
                channels: channels
                    .into_iter()
                    .map(|(from, to)| InFlightChannel { from, to, offset_bytes: 0, len_bytes: 1 })
                    .collect(),
            };
            let source = |i| SubtaskState::Source(SourceSnapshot {
                positions: Vec::new(),
                in_flight: Some(in_flight(task(0, i), (0..old).map(|j| (task(0, i), task(1, j))).collect())),
            });
            let sink = |j| SubtaskState::Sink(SinkSnapshot {
                transactions: Vec::new(),
                in_flight: Some(in_flight(task(1, j), (0..old).map(|i| (task(0, i), task(1, j))).collect())),
            });
            let metadata = CheckpointMetadata {
                job: "job".into(), id: CheckpointId(1), description: String::new(),
                savepoint: None,
                max_parallelism: max, triggered_unix_ms: 0, completed_unix_ms: 0,
                vertices: vec![
                    VertexState { uid: "source".into(), subtasks: (0..old).map(source).collect() },
                    VertexState { uid: "sink".into(), subtasks: (0..old).map(sink).collect() },
                ],
            };
            let plan = [
                VertexPlan { uid: "source".into(), kind: VertexKind::Source { partitions: 8 }, max: None },
                VertexPlan { uid: "sink".into(), kind: VertexKind::Sink, max: None },
            ];
            let handed = restore_all(&plan, Some(&metadata), new, max);
            prop_assert!(handed[0].iter().flatten().all(|state| state.in_flight().is_none()), "a source has no input");
            for (k, states) in (0..new).zip(&handed[1]) {
                let range = key_group_range(k, new, max);
                let slices: Vec<(&str, InFlightChannel)> = states
                    .iter()
                    .filter_map(SubtaskState::in_flight)
                    .flat_map(|f| f.channels.iter().map(|channel| (f.handle.path.as_str(), *channel)))
                    .collect();
                for group in range.first..=range.last {
                    let to = task(1, owner(group, old, max));
                    for from in (0..old).map(|i| task(0, i)) {
                        let holders: Vec<&str> =
                            slices.iter().filter(|(_, c)| (c.from, c.to) == (from, to)).map(|(path, _)| *path).collect();
                        prop_assert_eq!(holders, [to.to_string(), from.to_string()], "the receiver's comes first");
                    }
                }
            }
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
