//! A local directory, or S3 with the feature `s3`.
#![expect(clippy::disallowed_methods, reason = "this is the real side of the seam")]

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use super::OpenError;

pub(super) fn open(url: &str) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Store { url: url.into(), source };
    if let Some(dir) = url.strip_prefix("file://") {
        std::fs::create_dir_all(dir).map_err(|e| failed(e.into()))?;
        let store = LocalFileSystem::new_with_prefix(dir).map_err(|e| failed(e.into()))?;
        return Ok(Arc::new(store.with_fsync(true)));
    }
    #[cfg(feature = "s3")]
    if let Some(place) = url.strip_prefix("s3://") {
        let prefix = place.split_once('/').map_or("", |(_, prefix)| prefix);
        let store = object_store::aws::AmazonS3Builder::from_env()
            .with_url(url)
            .build()
            .map_err(|e| failed(e.into()))?;
        return Ok(Arc::new(object_store::prefix::PrefixStore::new(store, prefix)));
    }
    let known =
        if cfg!(feature = "s3") { "file:// and s3://" } else { "file:// (s3:// with the feature `s3`)" };
    Err(OpenError::UnknownScheme { url: url.into(), known })
}
