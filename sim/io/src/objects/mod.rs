//! Object stores, by URL, behind the trait of the crate `object_store`.
//!
//! `file:///path` is a local directory (writes are synced), `s3://bucket/prefix` a store of S3's protocol (feature `s3`;
//! credentials from the usual `AWS_*` variables), `sim://bucket` the simulated store. The only conditional write that a
//! system may rely on is create-if-absent (`PutMode::Create`): it is what all of them offer.

use std::sync::Arc;

use object_store::ObjectStore;

#[cfg(not(madsim))]
mod real;
#[cfg(not(madsim))]
use real as imp;
#[cfg(madsim)]
mod simulated;
#[cfg(madsim)]
use simulated as imp;

pub use object_store::path::Path;

/// Why a URL does not name a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such scheme in this build.
    #[error("{url}: this build knows {known}")]
    UnknownScheme {
        /// The URL given.
        url: String,
        /// The schemes there are.
        known: &'static str,
    },
    /// The store refused.
    #[error("{url}: {source}")]
    Store {
        /// The URL given.
        url: String,
        /// What the store said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The store that `url` names.
///
/// # Errors
/// An unknown scheme, or a directory or bucket that cannot be used.
pub fn open(url: &str) -> Result<Arc<dyn ObjectStore>, OpenError> {
    imp::open(url)
}
