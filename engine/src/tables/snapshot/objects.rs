//! Documents and listings of a snapshot in an object store: the edge that carries out what the machines decide.

use std::sync::Arc;

use bytes::Bytes;
use cutwater_io::objects::Path;
use cutwater_io::time;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::chain::Link;
use super::document::{self, Document, DocumentError};
use super::layout::{Layout, Object};
use crate::checkpoint::read::CALL_TIMEOUT;

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
        self.list_under(self.layout.prefix()).await
    }

    async fn list_under(&self, prefix: String) -> Result<Vec<String>, StoreError> {
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
            Object::File { .. } => None,
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
        let location = Path::from(path.as_str());
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
        let Some(bytes) = call(&path, read).await? else { return Ok(Found::Absent) };
        Ok(match Document::decode(&self.layout, &path, &bytes) {
            Ok(document) => Found::Document(Box::new(Link { document, xxh3: document::checksum(&bytes) })),
            Err(error) => Found::Unusable(error),
        })
    }

    /// Puts a document, if there is none.
    pub async fn put(&self, document: &Document) -> Put {
        let path = self.layout.document(document.number());
        let bytes: Bytes = document.encode();
        let location = Path::from(path.as_str());
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = async {
            match self.store.put_opts(&location, bytes.into(), options).await {
                Ok(_) => Ok(Put::Created),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::Exists),
                Err(error) => Err(error),
            }
        };
        call(&path, put).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "whether a document was put is not known");
            Put::Unknown
        })
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

    /// Deletes the files of a cut, and says how many there were.
    ///
    /// # Errors
    /// If the store fails: then some may be there.
    pub async fn delete_cut(&self, cut: crate::tables::ids::CutId) -> Result<usize, StoreError> {
        let names = self.list_under(self.layout.cut_prefix(cut)).await?;
        for name in &names {
            self.delete(name).await?;
        }
        Ok(names.len())
    }
}

async fn call<T>(path: &str, call: impl Future<Output = object_store::Result<T>>) -> Result<T, StoreError> {
    match time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(StoreError::Failed { path: path.into(), source }),
        Err(time::Elapsed) => Err(StoreError::TimedOut { path: path.into() }),
    }
}
