//! The value of the register: what is refused and why, and what any order of changes keeps.

use proptest::prelude::*;

use super::*;
use crate::checkpoint::log::{Record, decode_record, encode_record};

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn cluster(nodes: u16) -> ClusterState {
    (0..nodes).fold(ClusterState::default(), |state, node| {
        state.joined(&format!("node-{node}"), "disk-1", address(node)).unwrap()
    })
}

fn spec(name: &str, partitions: u16, backups: u16) -> TableSpec {
    TableSpec { name: name.into(), kind: Kind::Transactional, partitions, backups }
}

fn alive(state: &ClusterState) -> BTreeSet<NodeId> {
    state.nodes().collect()
}

#[test]
fn copies_are_spread_evenly_over_tables() {
    let state = cluster(4);
    let state = state.table_created(&spec("a", 6, 1), false, &alive(&state)).unwrap();
    let state = state.table_created(&spec("b", 10, 2), false, &alive(&state)).unwrap();
    for (node, load) in state.load() {
        assert_eq!(load.primaries, 4, "node {node}: {load:?}");
        assert!((10..=11).contains(&load.copies), "node {node}: {load:?}");
    }
    assert_eq!(state.check(), Ok(()));
    let few = cluster(1);
    let few = few.table_created(&spec("a", 2, 2), false, &alive(&few)).unwrap();
    assert!(few.partitions().all(|(_, table, view)| view.backups.is_empty() && table.backups == 2));
    assert_eq!(cluster(0).table_created(&spec("a", 1, 0), false, &BTreeSet::new()), Err(Refused::NoNodes));
}

#[test]
fn names_and_numbers_are_refused_by_name() {
    let state = cluster(2);
    let all = alive(&state);
    let state = state.table_created(&spec("a", 1, 0), false, &all).unwrap();
    let refused = |spec: TableSpec| state.table_created(&spec, false, &all).unwrap_err().to_string();
    assert_eq!(refused(spec("a", 1, 0)), "table \"a\" exists");
    assert_eq!(refused(spec("a/b", 1, 0)), "\"a/b\": a name has 1 to 64 letters, digits, '-', '_' or '.'");
    assert_eq!(refused(spec("b", 0, 0)), "tables without a partition: 1, the limit is 0");
    assert_eq!(refused(spec("b", 1025, 0)), "partitions: 1025, the limit is 1024");
    assert_eq!(refused(spec("b", 1, 7)), "backups: 7, the limit is 6");
    assert_eq!(state.table_dropped("b").unwrap_err().to_string(), "there is no table \"b\"");
    let again = state.table_dropped("a").unwrap().table_created(&spec("a", 1, 0), false, &all).unwrap();
    assert_eq!(again.table("a").unwrap().0, state.table("a").unwrap().0 + 1, "ids are not used again");
}

#[test]
fn hidden_tables_are_published_together_or_not_at_all() {
    let state = cluster(1);
    let all = alive(&state);
    let state = state.table_created(&spec("a", 1, 0), true, &all).unwrap();
    let state = state.table_created(&spec("b", 1, 0), true, &all).unwrap();
    assert_eq!(state.table("a"), None);
    let taken = state.table_created(&spec("b", 1, 0), false, &all).unwrap();
    assert_eq!(taken.tables_published(&[0, 1].into()), Err(Refused::TableExists { name: "b".into() }));
    let seen = state.tables_published(&[0, 1].into()).unwrap();
    assert!(seen.table("a").is_some() && seen.table("b").is_some());
    assert!(seen.hidden_dropped(&[0].into()).is_err(), "it is not hidden any more");
    assert!(state.hidden_dropped(&[0, 1, 7].into()).unwrap().tables.is_empty());
}

#[test]
fn a_node_with_another_disk_has_lost_its_copies() {
    let state = cluster(2);
    let state = state.table_created(&spec("a", 1, 1), false, &alive(&state)).unwrap();
    let alone = state.table_created(&spec("b", 1, 0), false, &[0].into()).unwrap();
    let same = alone.joined("node-0", "disk-1", address(9)).unwrap();
    assert_eq!((same.members[0].address, &same.tables), (address(9), &alone.tables));
    let lost = alone.joined("node-0", "disk-2", address(0)).unwrap();
    let view = lost.view(PartitionId { table: 0, number: 0 }).unwrap();
    assert_eq!((view.number, view.primary, view.backups.len()), (2, 1, 0));
    let only = lost.view(PartitionId { table: 1, number: 0 }).unwrap();
    assert_eq!((only.number, only.primary), (2, 0), "nobody else can have it, and it is no new partition");
}

#[test]
fn views_change_together_and_name_what_they_replace() {
    let state = cluster(3);
    let state = state.table_created(&spec("a", 2, 1), false, &alive(&state)).unwrap();
    let [first, second] = [0, 1].map(|number| PartitionId { table: 0, number });
    let next = |partition| {
        let view = state.view(partition).unwrap();
        view.next(view.primary, |node| node != view.primary)
    };
    let primary = state.view(first).unwrap().primary;
    let mut views = BTreeMap::from([(first, next(first))]);
    let changed = state.changed_views(&views, primary).unwrap();
    assert!(changed.view(first).unwrap().backups.is_empty());
    let late = changed.changed_views(&views, primary).unwrap_err();
    let source = IllegalView::Outdated { replaces: 1, current: 2 };
    assert_eq!(late, Refused::View { partition: first, source });
    views.insert(second, PartitionView { number: 5, ..next(second) });
    assert!(state.changed_views(&views, primary).is_err(), "all or none");
    let stranger = PartitionView { learner: Some(9), ..next(first) };
    assert_eq!(state.changed_views(&[(first, stranger)].into(), primary), Err(Refused::NotAMember(9)));
}

#[test]
fn a_cut_is_started_by_every_primary_or_given_up() {
    let state = cluster(3);
    let state = state.table_created(&spec("a", 2, 0), false, &[0, 1].into()).unwrap();
    let cut = state.cut_announced(2).unwrap();
    assert_eq!((cut.last_cut, cut.cut_announced(0)), (1, Err(Refused::CutUnderWay { cut: 1 })));
    let partly = BTreeMap::from([(0, 1), (1, 0)]);
    assert_eq!(cut.cut_started(1, &partly), Err(Refused::NotStarted { cut: 1, missing: [1].into() }));
    let done = cut.cut_started(1, &[(0, 1), (1, 2)].into()).unwrap();
    assert_eq!(done.fate(1), Some(Fate::StartedEverywhere));
    assert_eq!(done.cut_given_up(1), Err(Refused::CutNotUnderWay { cut: 1 }), "one end only");
    let mut state = cut.cut_given_up(1).unwrap();
    for _ in 0..REMEMBERED_CUTS {
        state = state.cut_announced(0).unwrap();
        state = state.cut_given_up(state.last_cut).unwrap();
    }
    assert_eq!((state.fate(1), state.check()), (None, Ok(())));
}

#[test]
fn operations_have_one_owner_and_pins_do_not_go_back() {
    let state = cluster(2).operation_begun("create x", "Announced", 0).unwrap();
    assert_eq!(state.operation_stepped(0, 1, "Cutting"), Err(Refused::NotTheOwner { id: 0, owner: 0 }));
    let taken = state.operation_taken_over(0, 0, 1).unwrap();
    assert_eq!(taken.operation_taken_over(0, 0, 1), Err(Refused::NotTheOwner { id: 0, owner: 1 }));
    assert_eq!(taken.operation_stepped(0, 1, "Cutting").unwrap().operations[&0].step, "Cutting");
    let done = taken.operation_forgotten(0).unwrap();
    assert_eq!(
        done.operation_begun("x", "y", 0).unwrap().operations.keys().copied().collect::<Vec<_>>(),
        [1]
    );
    let state = state.cut_announced(0).unwrap().cut_given_up(1).unwrap().cut_announced(0).unwrap();
    assert!(state.pinned("chain", 3).is_err());
    let state = state.pinned("chain", 2).unwrap();
    assert_eq!(state.pinned("chain", 1), Err(Refused::Pin { chain: "chain".into(), from: 2, to: 1 }));
    let broken = state.pin_broken("chain").unwrap();
    assert!(broken.pinned("chain", 2).is_err() && broken.unpinned("chain").pinned("chain", 2).is_ok());
}

/// Any changes in any order, those that are refused left out.
fn grown(steps: Vec<(u8, u16, u16)>) -> ClusterState {
    steps.into_iter().fold(cluster(3), |state, (what, a, b)| {
        let all: BTreeSet<NodeId> = state.nodes().collect();
        let name = format!("t{}", a % 3);
        let partition = PartitionId { table: u32::from(a % 4), number: b % 3 };
        let changed = match what {
            0 => state.joined(&format!("node-{}", a % 5), &format!("disk-{}", b % 2), address(a)),
            1 => state.table_created(&spec(&name, a % 4, b % 3), b % 2 == 0, &all),
            2 => state.table_dropped(&name),
            3 => state.cut_announced(a % 3),
            4 => state.cut_given_up(state.last_cut),
            5 => state.cut_started(state.last_cut, &all.iter().map(|node| (*node, state.last_cut)).collect()),
            6 => state.operation_begun("x", "y", a % 3),
            7 => state.pinned("chain", u64::from(a)),
            8 => state.tables_published(&[u32::from(a % 4)].into()),
            _ => match state.view(partition) {
                None => return state,
                Some(view) => {
                    let mut next = view.next(view.primary, |node| node == b % 5 && node != view.primary);
                    let free = all.iter().copied().find(|node| !next.names(*node));
                    next.learner = next.learner.or(free);
                    state.changed_views(&[(partition, next)].into(), view.primary)
                }
            },
        };
        changed.unwrap_or(state)
    })
}

proptest! {
    #[test]
    fn whatever_is_changed_the_value_does_not_contradict_itself(
        steps in proptest::collection::vec((0u8..12, 0u16..16, 0u16..16), 0..40),
        at in 0usize..4096,
    ) {
        let state = grown(steps);
        prop_assert_eq!(state.check(), Ok(()));
        let record = Record { version: 7, writer: "w".into(), state: Box::new(state) };
        let bytes = encode_record(&record);
        let decoded = decode_record(&bytes);
        prop_assert_eq!(decoded.as_ref(), Ok(&record));
        let mut damaged = bytes.to_vec();
        let at = at % damaged.len();
        damaged[at] ^= 0x20;
        prop_assert!(decode_record::<ClusterState>(&damaged).is_err());
        prop_assert!(decode_record::<crate::checkpoint::job_state::JobState>(&bytes).is_err(), "another kind");
    }

    #[test]
    fn contradictions_are_found(steps in proptest::collection::vec((0u8..12, 0u16..16, 0u16..16), 0..40), which in 0u8..6) {
        let mut state = grown(steps);
        match which {
            0 => state.last_cut += 1,
            1 => state.members.push(state.members[0].clone()),
            2 => state.next_table = u32::MAX,
            3 => { state.pins.insert("p".into(), Pin { cut: state.last_cut + 1, broken: false }); }
            4 => { state.operations.insert(9999, Operation { id: 9999, kind: String::new(), step: String::new(), owner: 0 }); }
            _ => {
                let view = PartitionView { number: 1, primary: 77, backups: Vec::new(), learner: None };
                let table = Table { name: "z".into(), kind: Kind::Atomic, backups: 0, hidden: false, views: vec![view] };
                state.tables.insert(state.next_table, table);
                state.next_table += 1;
            }
        }
        prop_assert!(state.check().is_err());
    }
}
