//! An object store in memory whose puts fail as told: before their effect, after it, with an effect that comes later, or with
//! a conflict.

use std::collections::VecDeque;
use std::sync::Mutex;

use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::*;

/// What happens to a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It has no effect, and an error.
    Before,
    /// It has its effect, and an error.
    After,
    /// It has an error, and its effect when [`Flaky::land`] is called.
    Late,
    /// It has no effect, and is said to have met an object (S3's 409, as this crate reports it).
    Conflict,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Flaky {
    inner: InMemory,
    faults: Mutex<VecDeque<Fault>>,
    late: Mutex<Vec<(Path, PutPayload, PutOptions)>>,
}

impl Flaky {
    /// The next puts fail like that.
    pub fn fail(&self, faults: &[Fault]) {
        self.faults.lock().unwrap().extend(faults);
    }

    /// Puts that are late have their effect, such as it is now.
    pub async fn land(&self) {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        for (path, payload, options) in late {
            let _ = self.inner.put_opts(&path, payload, options).await;
        }
    }
}

fn failed() -> Error {
    Error::Generic { store: "flaky", source: "injected".into() }
}

impl std::fmt::Display for Flaky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("flaky")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Flaky {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::None => self.inner.put_opts(path, payload, options).await,
            Fault::Before => Err(failed()),
            Fault::After => {
                let _ = self.inner.put_opts(path, payload, options).await;
                Err(failed())
            }
            Fault::Conflict => {
                Err(Error::AlreadyExists { path: path.to_string(), source: "409 Conflict".into() })
            }
            Fault::Late => {
                self.late.lock().unwrap().push((path.clone(), payload, options));
                Err(failed())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
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
