//! The sink's transactions over an object store that answers with errors: before a put, after it (it was applied and says
//! it was not), or not at all. Whatever the store answers, each transaction becomes visible once, with its own bytes.
#![cfg(not(madsim))]

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cutwater_engine::checkpoint::layout::Layout;
use cutwater_engine::checkpoint::snapshot::{CheckpointId, SinkTransaction};
use cutwater_engine::cluster::rpc::{Attempt, TaskId};
use cutwater_engine::state::blob::{self, Blobs, Retry};
use cutwater_engine::stream::Error;
use cutwater_engine::stream::record::Record;
use cutwater_engine::stream::sink::transactions::{Transaction, Transactions};
use cutwater_engine::stream::sink::{commit, decode_output, recommit, stage};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What a put does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    FailBefore,
    FailAfter,
    Hang,
}

#[derive(Debug, Default)]
struct Faulty {
    inner: InMemory,
    /// The last is the next; when there are none, puts succeed.
    fates: Mutex<Vec<Fate>>,
    puts: AtomicU32,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

fn lost() -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: "connection lost".into() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        let fate = self.fates.lock().unwrap().pop();
        match fate {
            Some(Fate::FailBefore) => Err(lost()),
            Some(Fate::FailAfter) => self.inner.put_opts(path, payload, options).await.and(Err(lost())),
            Some(Fate::Hang) => {
                self.inner.put_opts(path, payload, options).await?;
                futures::future::pending().await
            }
            None => self.inner.put_opts(path, payload, options).await,
        }
    }
    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("nothing is written in parts")
    }
    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(path, options).await
    }
    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

struct World {
    store: Arc<Faulty>,
    blobs: Blobs,
    layout: Layout,
}

const ATTEMPT: Attempt = Attempt { epoch: 1, number: 1 };

impl World {
    fn new() -> World {
        let store = Arc::new(Faulty::default());
        let retry = Retry {
            attempts: 4,
            first_backoff: Duration::from_millis(1),
            max_backoff: Duration::from_millis(2),
            request_timeout: Duration::from_millis(50),
        };
        World { blobs: Blobs::new(store.clone(), retry), store, layout: Layout::new("job").unwrap() }
    }

    /// The next puts meet these fates, in this order.
    fn fates(&self, fates: &[Fate]) {
        *self.store.fates.lock().unwrap() = fates.iter().rev().copied().collect();
    }

    async fn stage(&self, checkpoint: u64, transactions: Vec<Transaction>) -> Staged {
        stage(&self.blobs, &self.layout, ATTEMPT, CheckpointId(checkpoint), transactions).await
    }

    async fn objects(&self, prefix: &str) -> Vec<String> {
        let prefix = Path::from(prefix);
        self.store.list(Some(&prefix)).map(|meta| meta.unwrap().location.to_string()).collect().await
    }

    async fn committed(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for path in self.objects("job/out").await {
            let bytes = self.store.get(&Path::from(path)).await.unwrap().bytes().await.unwrap();
            records.extend(decode_output(&bytes).unwrap());
        }
        records
    }
}

type Staged = std::result::Result<Vec<SinkTransaction>, blob::Error>;

fn transaction(n: u8) -> Transaction {
    let mut transactions = Transactions::new(ATTEMPT, TaskId { vertex: 2, subtask: 0 });
    transactions.push(&record(n));
    transactions.barrier(CheckpointId(n.into())).remove(0)
}

fn record(n: u8) -> Record {
    Record::new(vec![n], Bytes::new())
}

#[tokio::test]
async fn whatever_a_put_answers_a_transaction_is_committed_once() {
    use Fate::{FailAfter, FailBefore, Hang};
    for fates in [&[FailAfter][..], &[FailBefore], &[Hang], &[FailBefore, FailBefore, Hang], &[FailBefore; 9]]
    {
        let world = World::new();
        let one = transaction(1);
        world.fates(fates);
        commit(&world.blobs, &world.layout, &one.id, one.content.clone()).await.unwrap();
        commit(&world.blobs, &world.layout, &one.id, one.content.clone()).await.unwrap();
        assert_eq!(world.committed().await, [record(1)], "{fates:?}");
        assert!(world.store.fates.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_name_taken_by_other_content_is_an_error() {
    let world = World::new();
    let (one, two) = (transaction(1), transaction(2));
    commit(&world.blobs, &world.layout, &one.id, two.content).await.unwrap();
    let error = commit(&world.blobs, &world.layout, &one.id, one.content).await.unwrap_err();
    assert!(matches!(error, Error::Output { source: blob::Error::Foreign { .. }, .. }), "{error}");
}

#[tokio::test]
async fn a_restored_transaction_is_committed_from_what_was_staged() {
    let world = World::new();
    world.fates(&[Fate::FailAfter]);
    let staged = world.stage(1, vec![transaction(1)]).await.unwrap();
    assert!(world.committed().await.is_empty(), "staged is not visible");
    // The second time as after a crash before anybody knew.
    for fates in [&[Fate::FailAfter][..], &[]] {
        world.fates(fates);
        recommit(&world.blobs, &world.layout, &staged[0]).await.unwrap();
        assert_eq!(world.committed().await, [record(1)]);
    }
    assert!(world.objects("job/sink").await.is_empty(), "what is committed needs no staged copy");
    recommit(&world.blobs, &world.layout, &staged[0]).await.unwrap();
    // Neither there nor committed: output would be lost, silently, if this were not an error.
    world.store.delete(&Path::from(world.layout.output(&staged[0].id))).await.unwrap();
    let error = recommit(&world.blobs, &world.layout, &staged[0]).await.unwrap_err();
    assert!(matches!(error, Error::Output { source: blob::Error::Missing { .. }, .. }), "{error}");
}

#[tokio::test]
async fn staging_gives_up_and_can_be_repeated() {
    let world = World::new();
    let transactions = vec![transaction(1), transaction(2)];
    // The first is staged; the first put of the second is applied, and no answer ever tells.
    world.stage(2, transactions[..1].to_vec()).await.unwrap();
    world.store.puts.store(0, Ordering::Relaxed);
    world.fates(&[&[Fate::FailAfter][..], &[Fate::FailBefore; 9]].concat());
    let error = world.stage(2, transactions[1..].to_vec()).await.unwrap_err();
    assert!(matches!(error, blob::Error::Request { what: "put", .. }), "{error}");
    assert_eq!(world.store.puts.load(Ordering::Relaxed), 4, "bounded");
    world.fates(&[]);
    let staged = world.stage(3, transactions).await.unwrap();
    assert_eq!(world.objects("job/sink/staged").await.len(), 2, "the same names, the same bytes");
    for transaction in &staged {
        world.blobs.check(&transaction.staged).await.unwrap();
    }
}
