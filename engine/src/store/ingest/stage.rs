//! Gives a table that was checked a file of the store's own: a link to it, or a copy.

use std::path::Path;

use cutwater_io::fs::{self, File};
use cutwater_io::{sometimes, task};

use super::points;
use crate::store::error::{Error, IoContext};
use crate::store::verify::{READ_BYTES, crc32c_of};
use crate::store::version::FileMeta;

/// Makes `target` the table that `source` is and that `file` describes. Its content is durable on return, its name is not.
pub(super) async fn stage(source: &Path, target: &Path, file: &FileMeta, links: bool) -> Result<(), Error> {
    if links {
        match fs::hard_link(source, target).await {
            Ok(()) => return settle(source, target, file).await,
            // Another file system, or one without links; or an error that the copy meets as well.
            Err(error) => tracing::info!(source = %source.display(), %error, "a link is refused"),
        }
        sometimes!(points::LINK_REFUSED, true);
    }
    copy(source, target, file).await
}

/// Whoever wrote it need not have made it durable. And what the checksum was made of must be what is there: a disk may have answered
/// that one read wrongly, and the MANIFEST would hold it against the table for ever.
async fn settle(source: &Path, target: &Path, file: &FileMeta) -> Result<(), Error> {
    let linked = File::open(target).await.during("open", target)?;
    linked.sync_data().await.during("sync", target)?;
    match file.crc32c() == Some(crc32c_of(source, file.len_bytes).await?) {
        true => Ok(()),
        false => Err(changed(source)),
    }
}

fn changed(path: &Path) -> Error {
    Error::corruption(path, 0, "it has changed since it was checked")
}

async fn copy(source: &Path, target: &Path, file: &FileMeta) -> Result<(), Error> {
    let from = File::open(source).await.during("open", source)?;
    let to = File::create_new(target).await.during("create", target)?;
    let (mut crc32c, mut at) = (0, 0);
    let mut buffer = vec![0; READ_BYTES];
    while at < file.len_bytes {
        let left = usize::try_from(file.len_bytes - at).unwrap_or(usize::MAX).min(READ_BYTES);
        from.read_exact_at(&mut buffer[..left], at).await.during("read", source)?;
        to.write_all_at(&buffer[..left], at).await.during("write", target)?;
        crc32c = crc32c::crc32c_append(crc32c, &buffer[..left]);
        at += left as u64;
        task::yield_now().await;
    }
    if file.crc32c() != Some(crc32c) {
        return Err(changed(source));
    }
    to.sync_data().await.during("sync", target)
}
