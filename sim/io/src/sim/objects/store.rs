//! What processes hold: a bucket behind the trait of the crate `object_store`.

use std::ops::Range;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::poll_fn;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use madsim::time::TimeHandle;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::RequestError;
use super::bucket::{Answer, Operation};
use super::requests::{Caller, Fate, RequestId};
use crate::sim::{Env, SiteAction, SiteFault};

/// What a node does for a request itself, in microseconds; a slow one takes longer.
const CALL_US: u64 = 1000;

/// A bucket, as seen by whichever node asks.
#[derive(Clone, Debug)]
pub(crate) struct SimStore {
    bucket: Arc<str>,
}

/// A request whose caller waits. When its future is dropped, the request stays under way.
struct Call {
    env: Arc<Env>,
    caller: Caller,
    id: RequestId,
    answered: bool,
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.answered || TimeHandle::try_current().is_none() {
            return;
        }
        if self.env.incarnation(self.caller.node) != self.caller.incarnation {
            self.env.stale_call();
        }
        self.env.objects.run(&self.env, |requests| requests.abandon(self.id));
    }
}

impl SimStore {
    pub(crate) fn new(bucket: &str) -> SimStore {
        SimStore { bucket: bucket.into() }
    }

    /// Sends a request and waits for its answer; also says what becomes of the answer's body.
    async fn call(&self, operation: Operation) -> Result<(Answer, Body)> {
        let env = Env::current();
        let node = Env::node();
        let caller = Caller { node, incarnation: env.incarnation(node) };
        let target = operation.target().to_string();
        let (mut fate, mut crash, mut body) = (Fate::Normal { delay_us: 0 }, None, Body::Whole);
        if let SiteAction::Strike(fault) =
            env.at_site(operation.site(), env.classify(FsPath::new(&target)), &target)
        {
            match fault {
                SiteFault::CrashBefore(crash) => env.crash_here(crash).await,
                SiteFault::CrashAfter(after) => crash = Some(after),
                SiteFault::Delay(delay_us) => fate = Fate::Normal { delay_us },
                SiteFault::FailBefore | SiteFault::Fail(_) => fate = Fate::FailBefore,
                SiteFault::FailAfter => fate = Fate::FailAfter,
                SiteFault::LateLand(after_us) => fate = Fate::LateLand { after_us },
                SiteFault::Reset => fate = Fate::Reset,
                SiteFault::Hang => fate = Fate::Hang,
                SiteFault::Throttle => fate = Fate::Throttle,
                SiteFault::Short => body = Body::Truncated,
                SiteFault::StallBody => body = Body::Stalled,
                // Faults of disks mean nothing here.
                SiteFault::Fsync(_) | SiteFault::Damage(_) => {}
            }
        }
        let drag_us = env.clocks().drag_us(node, CALL_US);
        if drag_us > 0 {
            madsim::time::sleep(Duration::from_micros(drag_us)).await;
        }
        let now_ns = env.now_ns();
        let bucket = &self.bucket;
        let id = env.objects.run(&env, |requests| requests.submit(caller, bucket, operation, fate, now_ns));
        let mut call = Call { env, caller, id, answered: false };
        let answer =
            poll_fn(|cx| match call.env.objects.run(&call.env, |requests| requests.answer(id, cx.waker())) {
                Some(answer) => Poll::Ready(answer),
                None => Poll::Pending,
            })
            .await;
        call.answered = true;
        if let Some(crash) = crash {
            call.env.crash_here(crash).await;
        }
        Ok((answer?, body))
    }

    async fn write(&self, operation: Operation) -> Result<PutResult> {
        match self.call(operation).await? {
            (Answer::Written { etag }, _) => {
                Ok(PutResult { e_tag: Some(etag), version: None, extensions: Default::default() })
            }
            (other, _) => unreachable!("a write is answered by {other:?}"),
        }
    }

    async fn page(
        &self,
        prefix: Path,
        after: Option<Path>,
        is_level: bool,
    ) -> Result<(Vec<ObjectMeta>, bool)> {
        let keys = Env::current().objects.requests().config.page_keys;
        match self.call(Operation::ListPage { prefix, after, keys, is_level }).await? {
            (Answer::Page { objects, more }, _) => Ok((objects, more)),
            (other, _) => unreachable!("a listing is answered by {other:?}"),
        }
    }

    /// All pages from `after` on, each asked for when the one before is used up. An error ends it.
    fn pages(
        &self,
        prefix: Option<&Path>,
        after: Option<Path>,
        is_level: bool,
    ) -> BoxStream<'static, Result<Vec<ObjectMeta>>> {
        let (store, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        stream::try_unfold(Some(after), move |after| {
            let (store, prefix) = (store.clone(), prefix.clone());
            async move {
                let Some(after) = after else { return Ok(None) };
                let (objects, more) = store.page(prefix, after, is_level).await?;
                let next = if more { objects.last().map(|o| Some(o.location.clone())) } else { None };
                Ok(Some((objects, next)))
            }
        })
        .boxed()
    }

    fn list_after(
        &self,
        prefix: Option<&Path>,
        after: Option<Path>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix, after, false)
            .map_ok(|objects| stream::iter(objects.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }
}

impl std::fmt::Display for SimStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sim://{}", self.bucket)
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let PutOptions { mode, attributes, .. } = opts;
        self.write(Operation::Put { key: location.clone(), bytes: payload.into(), attributes, mode }).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (key, attributes) = (location.clone(), opts.attributes);
        match self.call(Operation::CreateUpload { key: key.clone(), attributes }).await? {
            (Answer::Upload { id }, _) => {
                Ok(Box::new(SimUpload { store: self.clone(), key, upload: id, parts: 0 }))
            }
            (other, _) => unreachable!("the start of an upload is answered by {other:?}"),
        }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.call(Operation::Get { key: location.clone(), options }).await? {
            (Answer::Found { meta, bytes, range, attributes }, body) => Ok(GetResult {
                payload: GetResultPayload::Stream(body.stream(bytes)),
                meta,
                range,
                attributes,
                extensions: Default::default(),
            }),
            (other, _) => unreachable!("a read is answered by {other:?}"),
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges {
            let options = GetOptions::new().with_range(Some(range.clone()));
            parts.push(self.get_opts(location, options).await?.bytes().await?);
        }
        Ok(parts)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let key = location?;
                    store.call(Operation::Delete { key: key.clone() }).await?;
                    Ok(key)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_after(prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_after(prefix, Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let root = prefix.cloned().unwrap_or_default();
        let mut common_prefixes: Vec<Path> = Vec::new();
        let mut objects = Vec::new();
        let mut pages = self.pages(prefix, None, true);
        while let Some(page) = pages.try_next().await? {
            for object in page {
                let mut rest = object.location.prefix_match(&root).into_iter().flatten();
                let first = rest.next();
                if rest.next().is_none() {
                    drop(rest);
                    objects.push(object);
                } else if let Some(first) = first {
                    common_prefixes.push(root.clone().join(first));
                }
            }
        }
        Ok(ListResult { common_prefixes, objects, extensions: Default::default() })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.write(Operation::Copy { from: from.clone(), to: to.clone(), mode: options.mode }).await.map(drop)
    }
}

/// What becomes of the body of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Whole,
    /// It breaks off half way.
    Truncated,
    /// It stands still half way, until the client gives up.
    Stalled,
}

impl Body {
    fn stream(self, bytes: Bytes) -> BoxStream<'static, Result<Bytes>> {
        if self == Body::Whole {
            return stream::iter([Ok(bytes)]).boxed();
        }
        let half = bytes.slice(..bytes.len() / 2);
        let rest = async move {
            if self == Body::Stalled {
                let patience_us = Env::current().objects.requests().config.timeout_us;
                madsim::time::sleep(Duration::from_micros(patience_us.into())).await;
            }
            Err(Error::from(RequestError::Timeout))
        };
        stream::iter([Ok(half)]).chain(stream::once(rest)).boxed()
    }
}

/// A multipart upload.
#[derive(Debug)]
struct SimUpload {
    store: SimStore,
    key: Path,
    upload: u64,
    parts: usize,
}

#[async_trait]
impl MultipartUpload for SimUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (key, upload, part) = (self.key.clone(), self.upload, self.parts);
        self.parts += 1;
        let store = self.store.clone();
        Box::pin(async move {
            store.call(Operation::PutPart { key, upload, part, bytes: data.into() }).await.map(drop)
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (key, upload, parts) = (self.key.clone(), self.upload, self.parts);
        self.store.write(Operation::CompleteUpload { key, upload, parts }).await
    }

    async fn abort(&mut self) -> Result<()> {
        let (key, upload) = (self.key.clone(), self.upload);
        self.store.call(Operation::AbortUpload { key, upload }).await.map(drop)
    }
}
