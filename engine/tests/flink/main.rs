//! Checkpoints and savepoints that Flink 1.20.1 and 2.2.0 left (`fixtures`, written by `make`): what Flink reads in their metadata is what
//! is read here, every file is where the metadata says, and no damage of the metadata does more than an error.
#![cfg(not(madsim))]
#![expect(clippy::disallowed_methods, reason = "fixtures lie on the real disk")]

mod fixture;

use std::collections::{BTreeMap, BTreeSet};

use cutwater_engine::flink::keyed::KeyedHandle;
use cutwater_engine::flink::operator::{Mode, SubtaskState};
use cutwater_engine::flink::{Metadata, StreamHandle, decode};
use fixture::{Fixture, names};
use proptest::prelude::*;

/// The same lines that `Make.java` writes of what Flink reads.
fn describe(metadata: &Metadata) -> BTreeSet<String> {
    let operators = metadata.operators.iter().map(|operator| {
        let subtasks = operator.subtasks.as_ref().map_or(0, Vec::len);
        format!(
            "operator {} parallelism {} max {} subtasks {subtasks} finished {}",
            operator.id,
            operator.parallelism,
            operator.max_parallelism,
            operator.subtasks.is_none(),
        )
    });
    operators.chain([format!("checkpoint {}", metadata.checkpoint)]).collect()
}

#[test]
fn what_flink_reads_is_what_is_read_here() {
    for name in names() {
        let fixture = Fixture::unpack(&name);
        let mut described: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut file = String::new();
        for line in fixture.text("described").lines() {
            match line.strip_prefix("# ./") {
                Some(path) => path.clone_into(&mut file),
                None => {
                    let line = line.split(" bytes ").next().unwrap();
                    described.entry(file.clone()).or_default().insert(line.into());
                }
            }
        }
        assert!(!described.is_empty(), "{name}");
        for (path, lines) in described {
            let metadata =
                decode(&fixture.bytes(&path)).unwrap_or_else(|error| panic!("{name}: {path}: {error}"));
            assert_eq!(describe(&metadata), lines, "{name}: {path}");
            assert_eq!(metadata.trailing_bytes, 0, "{name}: {path}");
        }
    }
}

/// States of subtasks, of all operators.
fn states(metadata: &Metadata) -> impl Iterator<Item = &SubtaskState> {
    let subtasks = metadata.operators.iter().filter_map(|operator| operator.subtasks.as_ref()).flatten();
    subtasks.filter_map(|subtask| subtask.state.as_ref())
}

#[test]
fn each_kind_of_handle_is_there_and_means_what_it_should() {
    let incremental = Fixture::unpack("incremental").metadata("_metadata");
    assert_eq!(incremental.version, 4);
    let properties = incremental.properties.as_ref().unwrap();
    assert_eq!(properties.kind, "Checkpoint");
    assert_eq!((properties.flags["discardCancelled"], properties.flags["discardSubsumed"]), (false, true));
    let keyed: Vec<_> = states(&incremental).filter_map(|state| state.managed_keyed.as_ref()).collect();
    assert_eq!(keyed.len(), 2);
    let mut ranges = Vec::new();
    for handle in keyed {
        let KeyedHandle::Incremental { range, shared, private, meta, .. } = handle else {
            panic!("{handle:?}")
        };
        ranges.push(range.to_string());
        let names: Vec<&str> = shared.iter().chain(private).map(|file| file.name.as_str()).collect();
        assert!(names.iter().any(|name| name.ends_with(".sst")) && names.contains(&"CURRENT"), "{names:?}");
        assert!(matches!(meta, Some(StreamHandle::Relative { .. } | StreamHandle::File { .. })), "{meta:?}");
    }
    ranges.sort_unstable();
    assert_eq!(ranges, ["0..=1", "2..=3"]);
    let operator =
        states(&incremental).find_map(|state| state.managed_operator.as_ref()?.parts.first().cloned());
    assert!(operator.is_some());
    let modes: Vec<_> = states(&incremental)
        .filter_map(|state| state.managed_operator.as_ref())
        .flat_map(|handle| &handle.parts)
        .filter(|part| part.name == "remembered")
        .map(|part| (part.mode, part.offsets.len()))
        .collect();
    assert_eq!(modes, [(Mode::Union, 2), (Mode::Union, 2)]);
    let third = Fixture::unpack("incremental").metadata("_metadata_v3");
    assert_eq!((third.version, third.properties), (3, None));
    assert_eq!(third.operators, incremental.operators);
    let finished = incremental.operators.iter().filter(|operator| operator.subtasks.is_none()).count();
    assert_eq!(finished, 1, "the source of a few numbers");

    let inline = Fixture::unpack("inline").metadata("_metadata");
    assert!(inline.handles().iter().all(|(_, handle)| matches!(handle, StreamHandle::Bytes { .. })));

    let canonical = Fixture::unpack("canonical").metadata("_metadata");
    let whole = |state: &SubtaskState| {
        matches!(state.managed_keyed, Some(KeyedHandle::Whole { is_canonical: true, .. }))
    };
    assert_eq!(states(&canonical).filter(|state| whole(state)).count(), 2);
    let properties = canonical.properties.unwrap();
    assert_eq!((&properties.kind[..], properties.format.as_deref()), ("Savepoint", Some("CANONICAL")));

    let changelog = Fixture::unpack("changelog").metadata("_metadata");
    let changes = states(&changelog).filter_map(|state| state.managed_keyed.as_ref()).collect::<Vec<_>>();
    for handle in changes {
        let KeyedHandle::Changelog { changes, .. } = handle else { panic!("{handle:?}") };
        assert!(
            changes.iter().all(|change| matches!(change, KeyedHandle::ChangesInFiles { .. })),
            "{changes:?}"
        );
    }

    let unaligned = Fixture::unpack("unaligned").metadata("_metadata");
    assert!(states(&unaligned).any(|state| !state.inputs.is_empty()), "records were under way");

    let merged = Fixture::unpack("merged").metadata("_metadata");
    assert_eq!(merged.version, 6);
    assert!(merged.handles().iter().any(|(_, handle)| matches!(handle, StreamHandle::Segment { .. })));
    let named =
        |operator: &&cutwater_engine::flink::operator::Operator| operator.uid.as_deref() == Some("counts");
    let counts = merged.operators.iter().find(named).unwrap();
    assert_eq!(counts.name.as_deref(), Some("Counts \u{e4}\u{1f30a}"));
    let fifth = Fixture::unpack("merged").metadata("_metadata_v5");
    assert_eq!((fifth.version, &fifth.operators), (5, &merged.operators));

    let unaligned = Fixture::unpack("unaligned-6").metadata("_metadata");
    assert_eq!(unaligned.version, 6);
    assert!(states(&unaligned).any(|state| !state.inputs.is_empty()), "records were under way");
}

#[test]
fn every_beginning_and_every_changed_byte_is_an_error_or_something_else() {
    for name in names() {
        let fixture = Fixture::unpack(&name);
        let path = fixture.find("_metadata");
        let bytes = fixture.bytes(&path);
        let whole = decode(&bytes).unwrap();
        for len in 0..bytes.len() {
            let error = decode(&bytes[..len]).unwrap_err();
            assert!(error.offset <= len, "{name}: cut at {len}: {error}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x81;
            if let Ok(metadata) = decode(&changed) {
                let _ = metadata.handles();
                let _ = whole == metadata;
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_behind_a_header_are_safe(version in 3..=6i32, bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let header = [&[0x49, 0x60, 0x67, 0x2d][..], &version.to_be_bytes(), &7i64.to_be_bytes(), &[0; 4]].concat();
        if let Ok(metadata) = decode(&[header, bytes].concat()) {
            prop_assert!(metadata.handles().len() < 400);
        }
    }

    #[test]
    fn small_numbers_in_any_order_are_safe(bytes in prop::collection::vec(0u8..18, 0..600), version in 3..=6i32) {
        let header = [&[0x49, 0x60, 0x67, 0x2d][..], &version.to_be_bytes(), &7i64.to_be_bytes(), &[0; 4]].concat();
        let _ = decode(&[header, bytes].concat());
    }
}
