//! Local directories that hold nothing of value: they are removed when nobody needs them, and at the next start.

use std::path::Path;

use cutwater_io::fs;

/// Removes a directory with all that is in it, as far as it can; what stays is a waste of space and no more.
pub async fn remove(dir: &Path) {
    match fs::remove_dir_all(dir).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::debug!(dir = %dir.display(), %error, "a directory stays");
        }
        _ => {}
    }
}
