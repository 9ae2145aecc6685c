//! However it is batched and however often it is begun, the rows are those that were recorded.

use super::super::chain::{Chain, Target};
use super::super::check::tests::{PARTITIONS, World, block_on};
use super::*;

/// Loads a partition, beginning anew after each so many batches, and gives what it came to and what was put into the log.
async fn loaded(
    world: &World,
    number: u64,
    batch_bytes: usize,
    begun_after: usize,
) -> (Content, BTreeMap<Bytes, Bytes>) {
    let chain = Chain::new(&world.links().await, number).unwrap();
    let plan = chain.plan(PARTITIONS[1], Target::Increment(number)).unwrap();
    let mut rows = BTreeMap::new();
    let mut from = 0;
    loop {
        let mut loader = Loader::new(&world.blobs, plan.clone(), from);
        for _ in 0..begun_after {
            let Some(batch) = loader.next(batch_bytes).await.unwrap() else {
                assert_eq!(plan.content(), Some(loader.content()));
                return (loader.content(), rows);
            };
            assert!(batch.next > from && batch.changes.is_sorted_by(|a, b| a.key < b.key));
            from = batch.next;
            for Change { key, value } in batch.changes {
                match value {
                    Some(value) => drop(rows.insert(key, value)),
                    None => drop(rows.remove(&key)),
                }
            }
        }
    }
}

#[test]
fn batches_and_beginnings_make_no_difference() {
    block_on(async {
        let world = World::make().await;
        for number in 0..3 {
            let whole = loaded(&world, number, usize::MAX, 9).await;
            let mut content = Content::default();
            whole.1.iter().for_each(|(key, value)| content.add(key, value));
            assert_eq!(content, whole.0);
            for (batch_bytes, begun_after) in [(1, 1), (1, 2), (20, 1), (20, 3)] {
                assert_eq!(loaded(&world, number, batch_bytes, begun_after).await, whole);
            }
        }
    });
}

#[test]
fn a_damaged_file_is_not_loaded() {
    block_on(async {
        let world = World::make().await;
        let chain = Chain::new(&world.links().await, 1).unwrap();
        let plan = chain.plan(PARTITIONS[0], Target::Increment(1)).unwrap();
        let path = plan.steps[0].to_part.files[0].path.clone();
        let mut bytes = world.get(&path).await.to_vec();
        bytes[20] ^= 1;
        world.overwrite(&path, bytes).await;
        let mut loader = Loader::new(&world.blobs, plan, 0);
        let error = loop {
            match loader.next(1).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it was loaded"),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains(&path) && error.contains("checksum"), "{error}");
    });
}
