//! Documents and listings of a snapshot in an object store: the edge that carries out what the machines decide.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use cutwater_io::objects::Path;
use cutwater_io::{entropy, time};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::chain::Link;
use super::create::Draft;
use super::document::{self, Document, DocumentError};
use super::layout::{Layout, Object};
use crate::checkpoint::read::CALL_TIMEOUT;
use crate::tables::ids::CutId;

/// The longest document that is read, in bytes.
const MAX_DOCUMENT_BYTES: u64 = 64 << 20;

/// The store failed, and may not do so another time.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It said so.
    #[error("{path}: {source}")]
    Failed {
        /// The object or prefix.
        path: String,
        /// What it said.
        source: object_store::Error,
    },
    /// It did not answer.
    #[error("{path}: no answer within {CALL_TIMEOUT:?}")]
    TimedOut {
        /// The object or prefix.
        path: String,
    },
}

/// What there is where a document should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Absent,
    /// A document.
    Document(Box<Link>),
    /// Something that cannot be used.
    Unusable(DocumentError),
}

/// What came of putting a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there now, and was not before.
    Created,
    /// There was something already.
    Exists,
    /// It may be there, or come to be there later.
    Unknown,
}

/// The objects of one snapshot.
#[derive(Clone, Debug)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    layout: Layout,
}

impl Objects {
    /// Of this snapshot.
    pub fn new(store: Arc<dyn ObjectStore>, layout: Layout) -> Objects {
        Objects { store, layout }
    }

    /// How they are named.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// All of them, in order.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(&self) -> Result<Vec<String>, StoreError> {
        let prefix = self.layout.prefix();
        let listed = self.store.list(Some(&Path::from(prefix.as_str())));
        let names = listed.map_ok(|meta| meta.location.to_string()).try_collect::<Vec<String>>();
        let mut names = call(&prefix, names).await?;
        names.sort();
        Ok(names)
    }

    /// The numbers of the increments that there are; 0 if there is a full snapshot. In order.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn numbers(&self) -> Result<Vec<u64>, StoreError> {
        let names = self.list().await?;
        let numbers = names.iter().filter_map(|name| match self.layout.parse(name)? {
            Object::Snapshot => Some(0),
            Object::Increment { number } => Some(number),
            Object::File { .. } | Object::Draft { .. } => None,
        });
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The document of the full snapshot (0) or of an increment.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn document(&self, number: u64) -> Result<Found, StoreError> {
        let path = self.layout.document(number);
        let Some(bytes) = self.read(&path).await? else { return Ok(Found::Absent) };
        Ok(match Document::decode(&self.layout, &path, &bytes) {
            Ok(document) => Found::Document(Box::new(Link { document, xxh3: document::checksum(&bytes) })),
            Err(error) => Found::Unusable(error),
        })
    }

    /// Puts a document under a new name of its cut, and says where.
    ///
    /// # Errors
    /// If the store fails: then it may be there, and is swept with what else no document names.
    pub async fn put_draft(&self, document: &Document) -> Result<Draft, StoreError> {
        let unique = entropy::uuid("tables.snapshot.draft").replace('-', "");
        let path = self.layout.draft(document.cut, &unique);
        let bytes = document.encode();
        let xxh3 = document::checksum(&bytes);
        match self.create(&path, bytes).await? {
            Put::Created => Ok(Draft { path, xxh3 }),
            // Nobody else draws this name: S3 answers a conflict of two requests so.
            _ => Err(StoreError::TimedOut { path }),
        }
    }

    /// Puts a draft where the document of that number belongs, if nothing is there. A draft that is gone was published, and then swept.
    ///
    /// # Errors
    /// If the draft cannot be read.
    pub async fn publish(&self, draft: &Draft, number: u64) -> Result<Put, StoreError> {
        match self.read(&draft.path).await? {
            Some(bytes) if document::checksum(&bytes) == draft.xxh3 => {
                let path = self.layout.document(number);
                Ok(self.create(&path, bytes).await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "whether a document was put is not known");
                    Put::Unknown
                }))
            }
            Some(_) => {
                let source =
                    object_store::Error::Generic { store: "cutwater", source: "a damaged draft".into() };
                Err(StoreError::Failed { path: draft.path.clone(), source })
            }
            None => Ok(Put::Exists),
        }
    }

    async fn create(&self, path: &str, bytes: Bytes) -> Result<Put, StoreError> {
        let location = Path::from(path);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = async {
            match self.store.put_opts(&location, bytes.into(), options).await {
                Ok(_) => Ok(Put::Created),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::Exists),
                Err(error) => Err(error),
            }
        };
        call(path, put).await
    }

    async fn read(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        let location = Path::from(path);
        let read = async {
            let answer = match self.store.get(&location).await {
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                other => other?,
            };
            if answer.meta.size > MAX_DOCUMENT_BYTES {
                let source = format!("{} bytes are more than {MAX_DOCUMENT_BYTES}", answer.meta.size).into();
                return Err(object_store::Error::Generic { store: "cutwater", source });
            }
            answer.bytes().await.map(Some)
        };
        call(path, read).await
    }

    /// Deletes an object. That there is none is as good.
    ///
    /// # Errors
    /// If the store fails: then it may be there, or be deleted later.
    pub async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let location = Path::from(path);
        let delete = async {
            match self.store.delete(&location).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                other => other,
            }
        };
        call(path, delete).await
    }

    /// Deletes what no document names of this cut and of earlier ones, and says how much that was. If a document cannot be read, only of
    /// this cut: what the document names is not known.
    ///
    /// # Errors
    /// If the store fails: then some may be there.
    pub async fn sweep(&self, cut: CutId) -> Result<usize, StoreError> {
        let listed = self.list().await?;
        let (mut named, mut is_known) = (BTreeSet::new(), true);
        for path in &listed {
            let number = match self.layout.parse(path) {
                Some(Object::Snapshot) => 0,
                Some(Object::Increment { number }) => number,
                _ => continue,
            };
            match self.document(number).await? {
                Found::Document(link) => {
                    let files = link.document.parts.into_iter().flat_map(|part| part.files);
                    named.extend(files.map(|file| file.path));
                }
                Found::Unusable(_) => is_known = false,
                Found::Absent => {}
            }
        }
        let is_swept = |path: &String| match self.layout.parse(path) {
            Some(Object::File { cut: of, .. } | Object::Draft { cut: of }) => {
                (of == cut || is_known && of < cut) && !named.contains(path)
            }
            _ => false,
        };
        let swept: Vec<&String> = listed.iter().filter(|path| is_swept(path)).collect();
        for path in &swept {
            self.delete(path).await?;
        }
        Ok(swept.len())
    }
}

async fn call<T>(path: &str, call: impl Future<Output = object_store::Result<T>>) -> Result<T, StoreError> {
    match time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(StoreError::Failed { path: path.into(), source }),
        Err(time::Elapsed) => Err(StoreError::TimedOut { path: path.into() }),
    }
}
