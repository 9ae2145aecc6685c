//! The register of a job on an object store that fails in all the ways that leave a writer in doubt.

use crate::common;
use cutwater_engine::checkpoint::job_state::{Base, CompletedCheckpoint, JobState};
use cutwater_engine::checkpoint::layout::Layout;
use cutwater_engine::checkpoint::log::{KEEP_VERSIONS, Outcome, Record, encode_record};
use cutwater_engine::checkpoint::metadata;
use cutwater_engine::checkpoint::read::{ReadError, load_metadata, newest_record};
use cutwater_engine::checkpoint::snapshot::{CheckpointId, CheckpointMetadata};
use cutwater_engine::checkpoint::write::{append, trim, trim_all, write_metadata};
use cutwater_io::objects::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::time::Duration;

use crate::flaky::{Fault, Flaky};

fn layout() -> Layout {
    Layout::new("job").unwrap()
}

/// What `writer` proposes after having read `previous`.
fn proposal(previous: Option<&Record>, writer: &str) -> Record {
    let state = JobState::taken_over(
        previous.map(|r| &*r.state),
        "127.0.0.1:1".parse().unwrap(),
        16,
        8,
        2,
        Base::Newest,
    );
    Record { version: previous.map_or(0, |r| r.version) + 1, writer: writer.into(), state: Box::new(state) }
}

async fn newest(store: &dyn ObjectStore) -> Option<Record> {
    newest_record(store, &layout()).await.unwrap()
}

/// Writes `n` versions on top of what is there.
async fn grow(store: &dyn ObjectStore, n: u64) -> Record {
    for _ in 0..n {
        let record = proposal(newest(store).await.as_ref(), "other");
        assert_eq!(append(store, &layout(), record.clone()).await, Outcome::Landed);
        trim(store, &layout(), record.version, KEEP_VERSIONS).await;
    }
    newest(store).await.unwrap()
}

#[test]
fn an_unknown_outcome_is_resolved() {
    common::block_on(async {
        let store = Flaky::default();
        assert_eq!(newest(&store).await, None);
        for faults in [
            vec![Fault::Before],
            vec![Fault::After],
            vec![Fault::Late],
            vec![Fault::Before, Fault::After, Fault::Late],
            vec![Fault::Late, Fault::After],
        ] {
            store.fail(&faults);
            let record = proposal(newest(&store).await.as_ref(), &format!("{faults:?}"));
            assert_eq!(append(&store, &layout(), record.clone()).await, Outcome::Landed, "{faults:?}");
            store.land().await;
            assert_eq!(newest(&store).await, Some(record), "a late put changes nothing");
        }
    });
}

#[test]
fn of_two_writers_exactly_one_wins_however_puts_fail() {
    common::block_on(async {
        let kinds = [Fault::None, Fault::Before, Fault::After, Fault::Late];
        futures::future::join_all((0..256).map(|script| async move {
            let store = Flaky::default();
            let base = grow(&store, 1).await;
            let faults: Vec<_> = (0..4).map(|i| kinds[script >> (2 * i) & 3]).collect();
            store.fail(&faults);
            let (a, b) = (proposal(Some(&base), "a"), proposal(Some(&base), "b"));
            let layout = layout();
            let outcomes =
                futures::join!(append(&store, &layout, a.clone()), append(&store, &layout, b.clone()));
            store.land().await;
            let truth = newest(&store).await.unwrap();
            match outcomes {
                (Outcome::Landed, Outcome::Lost(found)) => assert_eq!((&*found, &truth), (&a, &a)),
                (Outcome::Lost(found), Outcome::Landed) => assert_eq!((&*found, &truth), (&b, &b)),
                outcomes => panic!("{faults:?}: {outcomes:?}"),
            }
        }))
        .await;
    });
}

#[test]
fn a_trimmed_version_cannot_be_won_again() {
    common::block_on(async {
        let store = Flaky::default();
        let base = grow(&store, 1).await;
        // A writer that was paused since, and one whose put is still on its way.
        let zombie = proposal(Some(&base), "zombie");
        store.fail(&[Fault::Late]);
        let late = proposal(Some(&base), "late");
        let options = object_store::PutMode::Create.into();
        let path = Path::from(layout().log(late.version));
        assert!(store.put_opts(&path, encode_record(&late).into(), options).await.is_err());

        let truth = grow(&store, KEEP_VERSIONS + 3).await;
        assert_eq!(append(&store, &layout(), zombie.clone()).await, Outcome::Superseded);
        assert_eq!(newest(&store).await.as_ref(), Some(&truth));
        trim_all(&store, &layout(), truth.version, KEEP_VERSIONS).await;
        store.land().await;
        assert_eq!(newest(&store).await.as_ref(), Some(&truth));
        assert!(store.head(&path).await.is_ok(), "it landed");
        trim_all(&store, &layout(), truth.version, KEEP_VERSIONS).await;
        assert!(store.head(&path).await.is_err(), "and was removed");
        assert_eq!(newest(&store).await.as_ref(), Some(&truth));
    });
}

#[test]
fn damage_to_the_newest_version_is_an_error_and_never_an_older_one() {
    common::block_on(async {
        let store = Flaky::default();
        let truth = grow(&store, 3).await;
        let path = layout().log(truth.version);
        let mut bytes = encode_record(&truth).to_vec();
        bytes[20] ^= 1;
        for damaged in [bytes, Vec::new(), encode_record(&proposal(None, "x")).to_vec()] {
            store.put(&Path::from(path.as_str()), damaged.into()).await.unwrap();
            let error = newest_record::<JobState>(&store, &layout()).await.unwrap_err();
            assert!(matches!(&error, ReadError::Record { path: at, .. } if *at == path), "{error}");
            let outcome = append(&store, &layout(), proposal(Some(&proposal(None, "x")), "y")).await;
            assert_ne!(outcome, Outcome::Landed);
        }
    });
}

#[test]
fn metadata_is_written_once() {
    common::block_on(async {
        let store = Flaky::default();
        let metadata = |id, at| CheckpointMetadata {
            job: "job".into(),
            id: CheckpointId(id),
            description: String::new(),
            savepoint: None,
            max_parallelism: 8,
            triggered_unix_ms: at,
            completed_unix_ms: at,
            vertices: Vec::new(),
        };
        let (limit, layout) = (Duration::from_secs(1), layout());
        for (id, fault) in [(1, Fault::After), (2, Fault::Late), (3, Fault::Before), (4, Fault::Conflict)] {
            store.fail(&[fault]);
            let handle = write_metadata(&store, layout.metadata(CheckpointId(id)), &metadata(id, 0), limit)
                .await
                .unwrap();
            store.land().await;
            let completed =
                CompletedCheckpoint { id: CheckpointId(id), metadata: handle.clone(), is_savepoint: false };
            assert_eq!(load_metadata(&store, &completed).await.unwrap(), metadata(id, 0));
            let error = write_metadata(&store, layout.metadata(CheckpointId(id)), &metadata(id, 9), limit)
                .await
                .unwrap_err();
            assert!(matches!(error, ReadError::OtherContent { .. }), "{error}");
            // Somebody put something else there, well formed as it is.
            let path = Path::from(handle.path.as_str());
            store.put(&path, metadata::encode(&metadata(id, 9)).into()).await.unwrap();
            let error = load_metadata(&store, &completed).await.unwrap_err();
            assert!(error.to_string().starts_with(&handle.path), "{error}");
        }
    });
}
