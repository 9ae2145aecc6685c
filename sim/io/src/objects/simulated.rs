//! The simulated store; see `sim::objects`.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::prefix::PrefixStore;

use super::OpenError;
use crate::sim::objects::SimStore;

pub(super) fn open(url: &str) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let place = url
        .strip_prefix("sim://")
        .ok_or_else(|| OpenError::UnknownScheme { url: url.into(), known: "sim://" })?;
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.is_empty() {
        return Err(OpenError::Store { url: url.into(), source: "no bucket is named".into() });
    }
    let store = SimStore::new(bucket);
    if prefix.is_empty() { Ok(Arc::new(store)) } else { Ok(Arc::new(PrefixStore::new(store, prefix))) }
}
