//! The checkpoint coordinator, driven purely: random facts in any order, and after each decision the invariants.

mod world;

use cutwater_engine::checkpoint::coordinator::{Acknowledged, Decision};
use cutwater_engine::checkpoint::snapshot::*;
use cutwater_engine::cluster::rpc::{Attempt, Declined, TaskId};
use proptest::prelude::*;

use crate::common;
use world::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn whatever_happens_every_retained_checkpoint_restores(
        retain in 1usize..4,
        max_concurrent in 1usize..3,
        tolerable in 0u32..4,
        script in proptest::collection::vec((0u8..12, 0usize..1000), 1..300),
    ) {
        common::block_on(async move {
            let mut world = World::new(retain, max_concurrent, tolerable);
            for (op, pick) in script {
                world.step(op, pick);
                world.check();
            }
            // Left alone, checkpoints complete again, and then the registry is what the retained ones imply.
            world.restart();
            let before = world.register.latest().map(|c| c.id);
            for _ in 0..retain + 2 {
                world.now_us += 20_000;
                for op in [0, 6] {
                    world.step(op, 1);
                    world.settle();
                }
            }
            assert!(world.register.latest().map(|c| c.id) > before);
            let registered: Vec<_> = world.machine.registry().entries().keys().cloned().collect();
            assert_eq!(registered, world.folded().entries().keys().cloned().collect::<Vec<_>>());
        });
    }

    #[test]
    fn acknowledgements_commute_and_repeat(order in Just(tasks()).prop_shuffle(), repeat in 0usize..6) {
        let run = |order: &[TaskId]| {
            let order = order.to_vec();
            common::block_on(async move {
                let (mut world, id) = triggered(0);
                for task in order {
                    let shared = [layout().shared(ATTEMPT, &format!("t{}", task.subtask))];
                    let state = part(ATTEMPT, id, task, &shared);
                    let (_, decisions) = world.machine.acknowledge(ATTEMPT, id, task, state, 1);
                    world.execute(decisions);
                }
                world.writes
            })
        };
        let mut repeated = order.clone();
        repeated.insert(repeat, order[repeat]);
        let expected = run(&tasks());
        prop_assert_eq!(expected.len(), 1);
        prop_assert_eq!(&run(&order), &expected);
        prop_assert_eq!(&run(&repeated), &expected);
    }
}

/// A world with one checkpoint under way.
fn triggered(tolerable: u32) -> (World, CheckpointId) {
    let mut world = World::new(1, 1, tolerable);
    world.now_us = 50_000;
    world.step(0, 0);
    let id = world.triggered[0];
    (world, id)
}

#[test]
fn stale_and_foreign_acknowledgements_complete_nothing() {
    common::block_on(async {
        let (mut world, id) = triggered(9);
        let old = Attempt { epoch: 0, number: 9 };
        let source = task(0, 0);
        let (outcome, decisions) = world.machine.acknowledge(old, id, source, part(old, id, source, &[]), 1);
        assert_eq!((outcome, decisions), (Acknowledged::Stale, vec![]));
        // A table of an older attempt that no retained checkpoint names may have been swept.
        let keyed = task(1, 0);
        let foreign = [layout().shared(old, "x")];
        let state = part(ATTEMPT, id, keyed, &foreign);
        let (outcome, decisions) = world.machine.acknowledge(ATTEMPT, id, keyed, state, 1);
        assert!(matches!(outcome, Acknowledged::Refused(_)), "{outcome:?}");
        assert!(
            matches!(&decisions[..], [Decision::Forget(of), Decision::Note(_)] if *of == id),
            "{decisions:?}"
        );
        // Of a checkpoint that was never triggered.
        let never = CheckpointId(9);
        let state = part(ATTEMPT, never, source, &[]);
        let (outcome, _) = world.machine.acknowledge(ATTEMPT, never, source, state, 1);
        assert!(matches!(outcome, Acknowledged::Refused(_)), "{outcome:?}");
    });
}

#[test]
fn a_segment_outside_of_its_object_is_refused() {
    common::block_on(async {
        for (offset_bytes, is_taken) in [(0, true), (1, false), (u64::MAX, false)] {
            let (mut world, id) = triggered(9);
            let keyed = task(1, 0);
            let mut state = part(ATTEMPT, id, keyed, &[layout().shared(ATTEMPT, "merged")]);
            let SubtaskState::Keyed(snapshot) = &mut state else { unreachable!() };
            let len_bytes = snapshot.shared[0].handle.len_bytes;
            snapshot.shared[0].segment = Some(Segment { offset_bytes, len_bytes, crc32c: 0 });
            let (outcome, _) = world.machine.acknowledge(ATTEMPT, id, keyed, state, 1);
            assert_eq!(outcome == Acknowledged::Taken, is_taken, "{outcome:?}");
        }
    });
}

#[test]
fn a_late_acknowledgement_leaves_its_tables_to_the_registry() {
    common::block_on(async {
        let (mut world, id) = triggered(9);
        let decisions = world.machine.decline(ATTEMPT, id, task(1, 0), &failed(), 1);
        world.execute(decisions);
        let table = layout().shared(ATTEMPT, "late");
        let state = part(ATTEMPT, id, task(1, 0), std::slice::from_ref(&table));
        let (outcome, decisions) = world.machine.acknowledge(ATTEMPT, id, task(1, 0), state, 1);
        assert_eq!(outcome, Acknowledged::Late);
        assert_eq!(decisions, [Decision::Delete(vec![layout().private(id, ATTEMPT, task(1, 0), "u")])]);
        world.machine.deleted();
        assert!(world.machine.registry().contains(&table));
        world.now_us += 50_000;
        for op in [0, 6] {
            world.step(op, 0);
            world.settle();
        }
        assert!(world.deleted.contains(&table), "it dies when a later checkpoint completes");
    });
}

/// The part of an aborted checkpoint comes after its base was given up: nobody is at fault, and nobody needs that base. A part
/// of a checkpoint under way that names it would be refused.
#[test]
fn a_late_part_may_build_on_what_was_given_up_since() {
    common::block_on(async {
        let (mut world, id) = triggered(0);
        for _ in 0..3 {
            for task in tasks() {
                world.acknowledge(*world.triggered.last().unwrap(), task, None);
            }
            world.settle();
            world.now_us += 50_000;
            world.step(0, 0);
        }
        let base = world.bases[&(id, task(1, 0))][0].clone();
        assert!(world.deleted.contains(&base), "{:?}", world.deleted);
        let late = CheckpointId(id.0 + 1);
        let own = layout().shared(ATTEMPT, "late");
        let state = part(ATTEMPT, late, task(1, 0), &[base.clone(), own.clone()]);
        let (outcome, decisions) = world.machine.acknowledge(ATTEMPT, late, task(1, 0), state, 1);
        assert_eq!(outcome, Acknowledged::Late);
        world.execute(decisions);
        assert!(!world.machine.registry().contains(&base) && world.machine.registry().contains(&own));
    });
}

/// A barrier may overtake the notification of a completion: then a task builds on a base that is retained no more. Found by
/// thinking: checkpoint 2 uploads again what 1 had (it had not heard of 1), hears of 1, and at 3 names a table of 1 that
/// was deleted when 2 completed.
#[test]
fn a_table_that_was_given_up_cannot_come_back() {
    common::block_on(async {
        let (mut world, first) = triggered(9);
        for base in [None, None, Some(first)] {
            let id = *world.triggered.last().unwrap();
            for task in tasks() {
                world.acknowledge(id, task, base);
            }
            world.settle();
            world.now_us += 50_000;
            world.step(0, 0);
        }
        assert_eq!(world.register.latest().map(|c| c.id), Some(CheckpointId(2)));
        assert!(world.aborted.contains(&CheckpointId(3)));
        world.check();
    });
}

#[test]
fn a_checkpoint_in_the_register_s_hands_neither_expires_nor_aborts() {
    common::block_on(async {
        let (mut world, id) = triggered(0);
        world.step(6, 0);
        world.step(7, 1);
        world.now_us += 10_000_000;
        assert_eq!(world.machine.tick(world.now_us, 1), []);
        assert_eq!(world.machine.decline(ATTEMPT, id, task(1, 0), &failed(), 1), []);
        assert_eq!(world.machine.stop("lost", 1), []);
        assert!(!world.machine.is_settled());
        world.land();
        assert!(world.machine.is_settled());
        assert_eq!(world.notified, [], "its tasks are gone, and a restore commits");
        assert_eq!(world.retained_ids(), [id]);
    });
}

/// What a task has passed over because a newer barrier overtook it is nobody's failure, and not counted.
#[test]
fn exactly_one_failure_too_many_restarts() {
    common::block_on(async {
        let mut world = World::new(1, 1, 2);
        let mut failures = 0;
        for why in [Declined::Superseded, failed()].iter().cycle().take(6) {
            world.now_us += 50_000;
            world.step(0, 0);
            let id = *world.triggered.last().unwrap();
            let decisions = world.machine.decline(ATTEMPT, id, task(1, 0), why, 1);
            failures += u32::from(*why == failed());
            let restarts = decisions.iter().any(|d| matches!(d, Decision::Restart(_)));
            assert_eq!(restarts, failures == 3, "{why}");
            world.execute(decisions);
        }
        assert_eq!(failures, 3);
    });
}

#[test]
fn the_last_checkpoint_is_one_triggered_after_the_end_of_input() {
    common::block_on(async {
        let (mut world, _) = triggered(3);
        world.machine.request_last();
        for expected in [None, Some(CheckpointId(2))] {
            world.step(6, 0);
            world.settle();
            assert_eq!(world.machine.last_checkpoint(), expected);
            let decisions = world.machine.tick(world.now_us, 1);
            world.execute(decisions);
        }
        assert_eq!(world.triggered, [CheckpointId(1), CheckpointId(2)], "nothing follows the last one");
    });
}
