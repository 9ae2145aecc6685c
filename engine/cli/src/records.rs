//! The records of a file that is framed as a log: a log, or a MANIFEST.

use bytes::Bytes;
use cutwater_engine::store::log::{LogEnd, LogReader};
use serde_json::json;

use super::output::{Failure, Output};

/// Hands each record to `show`, with its offset. Where it cannot be read on is shown, and what follows is not read: recovery
/// would not apply it either.
pub(crate) fn each(
    data: &[u8],
    log_number: u64,
    out: &mut Output,
    mut show: impl FnMut(u64, &Bytes, &mut Output) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut reader = LogReader::new(data, log_number);
    loop {
        let at = reader.offset();
        match reader.next_record() {
            Ok(record) => show(at, &Bytes::from(record.into_owned()), out)?,
            Err(LogEnd::Clean { valid_bytes }) if valid_bytes == data.len() as u64 => return Ok(()),
            Err(LogEnd::Clean { valid_bytes }) => {
                let text = format!("  {valid_bytes:>10}  it ends in a record that is not whole");
                return Ok(out.say(&text, &json!({ "at_bytes": valid_bytes, "end": "torn" }))?);
            }
            Err(LogEnd::Damaged(damage)) => {
                let text = format!("  {:>10}  not whole: {}", damage.offset_bytes, damage.what);
                let json = json!({ "at_bytes": damage.offset_bytes, "end": "damaged", "what": damage.what });
                return Ok(out.say(&text, &json)?);
            }
        }
    }
}
