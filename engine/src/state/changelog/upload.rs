//! From pieces of a log to segments in the object store: one object, one put, under a fresh shared name.

use std::time::Duration;

use bytes::Bytes;
use cutwater_io::{point, time};

use super::log::Upload;
use crate::checkpoint::changelog::LogSegment;
use crate::checkpoint::snapshot::Segment;
use crate::state::blob::{self, Blobs};
use crate::state::points;
use crate::state::upload::{CHARGE_BYTES, Uploaded};

/// Uploads pieces as an object at `path`.
///
/// # Errors
/// If the object store goes on failing.
pub async fn upload(
    blobs: &Blobs,
    path: String,
    upload: Upload,
    uploaded: &Uploaded,
) -> Result<Vec<LogSegment>, blob::Error> {
    let mut content = Vec::new();
    let mut parts = Vec::new();
    for (from, to, bytes) in &upload.pieces {
        let part = Segment {
            offset_bytes: content.len() as u64,
            len_bytes: bytes.len() as u64,
            crc32c: crc32c::crc32c(bytes),
        };
        parts.push((*from, *to, part));
        content.extend_from_slice(bytes);
    }
    time::charge(Duration::from_millis((content.len() as u64).div_ceil(CHARGE_BYTES))).await;
    uploaded.note(&path);
    let handle = blobs.create(&path, Bytes::from(content)).await?;
    point!(points::LOG_UPLOADED);
    Ok(parts
        .into_iter()
        .map(|(from, to, part)| LogSegment { from, to, handle: handle.clone(), part })
        .collect())
}
