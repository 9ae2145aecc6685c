//! Files that hold plans: a plan alone, or in a regression.

use std::io::Read;
use std::path::Path;

/// The longest such file that is read, in bytes.
const BYTES_MAX: u64 = 64 << 20;

/// The text of a file that is not too long.
#[expect(clippy::disallowed_types, reason = "a plan file lies on the real disk")]
pub(crate) fn read_file(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > BYTES_MAX {
        return Err(std::io::Error::other(format!("longer than {BYTES_MAX} bytes")));
    }
    Ok(text)
}
