//! stub
use super::OpenError;
use object_store::ObjectStore;
use std::sync::Arc;
pub(super) fn open(url: &str) -> Result<Arc<dyn ObjectStore>, OpenError> {
    Err(OpenError::UnknownScheme { url: url.into(), known: "sim://" })
}
