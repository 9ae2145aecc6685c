//! Objects that are written once, under a name that is never used again, and checked when they are read.
//!
//! A put is create-if-absent and is repeated when its outcome is not known (an error, a time-out): a repetition that finds
//! the object there looks whether it is ours, by length and CRC-32C. So a write that was applied although an error came
//! back is a success, and one that lands late finds the name taken by the same bytes.
//!
//! A read believes nothing: the length is compared before the content is fetched, the checksum after.
//!
//! Not modelled: multipart uploads; a file of state is held in memory while it travels.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cutwater_io::{buggify, sometimes, time};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::points;
use crate::checkpoint::snapshot::{FileHandle, Segment};

/// How requests to the object store are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often a request is tried, at least once. `u32::MAX` is for ever.
    pub attempts: u32,
    /// Pause after the first failure; doubles with each.
    pub first_backoff: Duration,
    /// The longest pause.
    pub max_backoff: Duration,
    /// When a request without an answer counts as failed (it may still be applied).
    pub request_timeout: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            attempts: 6,
            first_backoff: Duration::from_millis(20),
            max_backoff: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
        }
    }
}

impl Retry {
    /// The same, without a limit to the number of attempts.
    pub fn forever(self) -> Retry {
        Retry { attempts: u32::MAX, ..self }
    }
}

/// Why an object could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is not one an object can have.
    #[error("object {path:?}: not a valid name")]
    Name {
        /// The name.
        path: String,
    },
    /// The store refused, or went on failing.
    #[error("object {path}: {what} failed: {source}")]
    Request {
        /// The object.
        path: String,
        /// Which request.
        what: &'static str,
        /// What the store said last.
        source: Box<object_store::Error>,
    },
    /// The store went on not answering.
    #[error("object {path}: {what} got no answer")]
    NoAnswer {
        /// The object.
        path: String,
        /// Which request.
        what: &'static str,
    },
    /// There is no such object.
    #[error("object {path} is missing")]
    Missing {
        /// The object.
        path: String,
    },
    /// The object is not the one that was written.
    #[error(
        "object {path}: expected {} bytes with crc32c {:08x}, found {found_len_bytes} bytes{}",
        expected.0, expected.1, found_crc32c.map(|crc| format!(" with crc32c {crc:08x}")).unwrap_or_default()
    )]
    Foreign {
        /// The object.
        path: String,
        /// Length in bytes and CRC-32C that it should have.
        expected: (u64, u32),
        /// The length it has.
        found_len_bytes: u64,
        /// The checksum it has, if the length was right.
        found_crc32c: Option<u32>,
    },
    /// A part of an object is not the one that was written.
    #[error(
        "object {path}: {} bytes from {} on should have crc32c {:08x}, and have {found_crc32c:08x}",
        expected.len_bytes, expected.offset_bytes, expected.crc32c
    )]
    ForeignSegment {
        /// The object.
        path: String,
        /// What should be there.
        expected: Segment,
        /// The checksum of what is.
        found_crc32c: u32,
    },
}

/// Access to an object store by the rules of this module.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    retry: Retry,
}

/// The answer to one request.
type Answer<T> = Result<object_store::Result<T>, time::Elapsed>;

impl Blobs {
    /// On a store.
    pub fn new(store: Arc<dyn ObjectStore>, retry: Retry) -> Blobs {
        Blobs { store, retry }
    }

    /// The same store, with other patience.
    pub fn with_retry(&self, retry: Retry) -> Blobs {
        Blobs { store: self.store.clone(), retry }
    }

    /// The patience.
    pub fn retry(&self) -> Retry {
        self.retry
    }

    /// Writes a new object. If there is one of that name with the same content, that is the object.
    ///
    /// # Errors
    /// [`Error::Foreign`] if the name is taken by other content; the store's error if it went on failing, after which the
    /// object may or may not be there, now or later.
    pub async fn create(&self, path: &str, content: Bytes) -> Result<FileHandle, Error> {
        let name = parse(path)?;
        let handle = handle(path, &content);
        let mut failures = Failures::new(self.retry);
        loop {
            let put = self.store.put_opts(&name, PutPayload::from(content.clone()), create_only());
            let error = match time::timeout(self.retry.request_timeout, put).await {
                Ok(Ok(_)) if !buggify!(points::PUT_TWICE) => return Ok(handle),
                // As if the answer had been lost.
                Ok(Ok(_)) => Error::NoAnswer { path: path.into(), what: "put" },
                Ok(Err(object_store::Error::AlreadyExists { .. })) => match self.check(&handle).await {
                    Ok(()) => {
                        sometimes!(points::UPLOAD_LANDED, failures.count > 0);
                        return Ok(handle);
                    }
                    // Deleted between the two requests: the next put decides.
                    Err(Error::Missing { .. }) => Error::Missing { path: path.into() },
                    Err(e) => return Err(e),
                },
                other => definite(path, "put", other)?,
            };
            failures.pause(error).await?;
        }
    }

    /// Reads an object and checks it.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Foreign`] if length or checksum differ, or the store's error if it went on failing.
    pub async fn read(&self, handle: &FileHandle) -> Result<Bytes, Error> {
        let name = parse(&handle.path)?;
        let mut failures = Failures::new(self.retry);
        loop {
            let request = time::timeout(self.retry.request_timeout, self.fetch(&name, handle));
            match request.await {
                Ok(Ok(Ok(content))) => return Ok(content),
                Ok(Ok(Err(foreign))) => return Err(foreign),
                Ok(Err(e)) => failures.pause(definite::<Bytes>(&handle.path, "get", Ok(Err(e)))?).await?,
                Err(e) => failures.pause(definite::<Bytes>(&handle.path, "get", Err(e))?).await?,
            }
        }
    }

    /// Reads a part of an object. Its length is checked; what is read is for the caller to check.
    ///
    /// # Errors
    /// As [`Blobs::read`].
    ///
    /// # Panics
    /// If the part is not within what the handle says.
    pub async fn read_part(&self, handle: &FileHandle, part: Range<u64>) -> Result<Bytes, Error> {
        assert!(part.start <= part.end && part.end <= handle.len_bytes, "{part:?} of {handle:?}");
        let name = parse(&handle.path)?;
        let mut failures = Failures::new(self.retry);
        loop {
            let request = time::timeout(self.retry.request_timeout, self.fetch_part(&name, &part));
            let answer = match request.await {
                Ok(Ok((size, content))) => {
                    let asked_bytes = part.end - part.start;
                    if size == handle.len_bytes && content.len() as u64 == asked_bytes {
                        return Ok(content);
                    }
                    return Err(Error::Foreign {
                        path: handle.path.clone(),
                        expected: (handle.len_bytes, handle.crc32c),
                        found_len_bytes: size,
                        found_crc32c: None,
                    });
                }
                Ok(Err(e)) => Ok(Err(e)),
                Err(e) => Err(e),
            };
            failures.pause(definite::<Bytes>(&handle.path, "get", answer)?).await?;
        }
    }

    /// Reads a segment of an object and checks it.
    ///
    /// # Errors
    /// As [`Blobs::read`]; [`Error::ForeignSegment`] if its checksum differs.
    ///
    /// # Panics
    /// If the segment is not within what the handle says.
    pub async fn read_segment(&self, handle: &FileHandle, segment: &Segment) -> Result<Bytes, Error> {
        let end = segment.offset_bytes.saturating_add(segment.len_bytes);
        let content = self.read_part(handle, segment.offset_bytes..end).await?;
        let found_crc32c = crc32c::crc32c(&content);
        if found_crc32c != segment.crc32c {
            let path = handle.path.clone();
            return Err(Error::ForeignSegment { path, expected: *segment, found_crc32c });
        }
        Ok(content)
    }

    async fn fetch_part(&self, name: &Path, part: &Range<u64>) -> object_store::Result<(u64, Bytes)> {
        let options = GetOptions { range: Some(GetRange::Bounded(part.clone())), ..GetOptions::default() };
        let answer = self.store.get_opts(name, options).await?;
        let size = answer.meta.size;
        Ok((size, answer.bytes().await?))
    }

    async fn fetch(&self, name: &Path, handle: &FileHandle) -> object_store::Result<Result<Bytes, Error>> {
        let answer = self.store.get(name).await?;
        let expected = (handle.len_bytes, handle.crc32c);
        let foreign = |found_len_bytes, found_crc32c| Error::Foreign {
            path: handle.path.clone(),
            expected,
            found_len_bytes,
            found_crc32c,
        };
        if answer.meta.size != handle.len_bytes {
            return Ok(Err(foreign(answer.meta.size, None)));
        }
        let content = answer.bytes().await?;
        let crc = crc32c::crc32c(&content);
        let found_len = content.len() as u64;
        if found_len != handle.len_bytes || crc != handle.crc32c {
            return Ok(Err(foreign(found_len, Some(crc))));
        }
        Ok(Ok(content))
    }

    /// Checks that an object is there and is the one that the handle says.
    ///
    /// # Errors
    /// As [`Blobs::read`].
    pub async fn check(&self, handle: &FileHandle) -> Result<(), Error> {
        self.read(handle).await.map(drop)
    }

    /// Deletes an object; what cannot be deleted stays an orphan, and is swept later. Gives up after a few attempts even
    /// if the patience is endless.
    pub async fn discard(&self, path: &str) {
        let Ok(name) = parse(path) else { return };
        let attempts = self.retry.attempts.min(Retry::default().attempts);
        let mut failures = Failures::new(Retry { attempts, ..self.retry });
        loop {
            let answer = time::timeout(self.retry.request_timeout, self.store.delete(&name)).await;
            let gone = matches!(answer, Ok(Ok(()) | Err(object_store::Error::NotFound { .. })));
            let failed = || definite(path, "delete", answer).unwrap_or_else(|error| error);
            if gone {
                return;
            }
            if let Err(error) = failures.pause(failed()).await {
                tracing::debug!(%error, "an orphan stays");
                return;
            }
        }
    }
}

/// The handle of content under a name.
pub fn handle(path: &str, content: &[u8]) -> FileHandle {
    FileHandle { path: path.into(), len_bytes: content.len() as u64, crc32c: crc32c::crc32c(content) }
}

fn create_only() -> PutOptions {
    PutOptions { mode: PutMode::Create, ..PutOptions::default() }
}

fn parse(path: &str) -> Result<Path, Error> {
    Path::parse(path).map_err(|_| Error::Name { path: path.into() })
}

/// `Err` if repeating the request cannot help; otherwise the error to give up with.
fn definite<T>(path: &str, what: &'static str, answer: Answer<T>) -> Result<Error, Error> {
    use object_store::Error as E;
    let path = path.to_string();
    match answer {
        Ok(Ok(_)) => unreachable!("only called with failures"),
        Err(_) => Ok(Error::NoAnswer { path, what }),
        Ok(Err(E::NotFound { .. })) => Err(Error::Missing { path }),
        Ok(Err(
            source @ (E::InvalidPath { .. }
            | E::NotSupported { .. }
            | E::NotImplemented { .. }
            | E::PermissionDenied { .. }
            | E::Unauthenticated { .. }
            | E::UnknownConfigurationKey { .. }),
        )) => Err(Error::Request { path, what, source: Box::new(source) }),
        Ok(Err(source)) => Ok(Error::Request { path, what, source: Box::new(source) }),
    }
}

/// Counts failures and paces the repetitions.
struct Failures {
    retry: Retry,
    count: u32,
    backoff: Duration,
}

impl Failures {
    fn new(retry: Retry) -> Failures {
        Failures { retry, count: 0, backoff: retry.first_backoff }
    }

    /// Waits before the next attempt, or gives up with `error`.
    async fn pause(&mut self, error: Error) -> Result<(), Error> {
        self.count = self.count.saturating_add(1);
        if self.count >= self.retry.attempts && self.retry.attempts != u32::MAX {
            return Err(error);
        }
        sometimes!(points::UPLOAD_RETRIED, true);
        tracing::debug!(%error, attempt = self.count, "will be repeated");
        let late = buggify!(points::RETRY_LATE);
        time::sleep(if late { self.retry.max_backoff } else { self.backoff }).await;
        self.backoff = (self.backoff * 2).min(self.retry.max_backoff);
        Ok(())
    }
}
