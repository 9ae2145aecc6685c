//! Paths and URLs that people type, as paths in object stores.

use cutwater_engine::checkpoint::fsck::Located;
use cutwater_io::objects;

use super::output::{Failure, Usage};

/// A plain path, a `file:` or an `s3://` URL.
pub(crate) fn locate(place: &str) -> Result<Located, Failure> {
    if let Some(rest) = place.strip_prefix("s3://") {
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        let root = format!("s3://{bucket}");
        let store = objects::open(&root)?;
        return Ok(Located { store, root, path: path.into() });
    }
    let path = match place.strip_prefix("file:") {
        Some(rest) => format!("/{}", rest.trim_start_matches('/')),
        None if place.contains("://") => {
            return Err(Usage(format!("{place}: a path, a file:// or an s3:// URL is wanted")).into());
        }
        None => place.to_owned(),
    };
    // Names with `..` in them mean nothing to an object store.
    let found = std::fs::canonicalize(&path).map_err(|error| Usage(format!("{path}: {error}")))?;
    let path = found.to_str().ok_or_else(|| Usage(format!("{}: no text", found.display())))?;
    Ok(Located {
        store: objects::open("file:///")?,
        root: "file://".into(),
        path: path.trim_start_matches('/').into(),
    })
}

/// What a process is told as its object store: a URL, or a plain path of a directory.
pub(crate) fn objects_url(place: &str) -> Result<String, Failure> {
    if place.contains("://") {
        return Ok(place.to_owned());
    }
    // The store wants an absolute path.
    let path = std::path::absolute(place).map_err(|error| Usage(format!("{place}: {error}")))?;
    Ok(format!("file://{}", path.display()))
}
