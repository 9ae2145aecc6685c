//! The records of a file that is framed as a log: a log, or a MANIFEST.

use std::io;

use bytes::Bytes;
use cutwater_engine::store::log::{LogEnd, LogReader};
use serde_json::json;

use super::output::{Failure, Output};

/// Hands each record to `show`, with its offset. Where it cannot be read on is shown. An end that is torn is what a crash leaves.
///
/// # Errors
/// If a record is damaged, once that was shown. What follows is not: whether it counts is for recovery to say.
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
            Err(LogEnd::Clean { valid_bytes }) => return Ok(torn(valid_bytes, out)?),
            Err(LogEnd::Unsupported { offset_bytes, what }) => {
                let text = format!("  {offset_bytes:>10}  not read here: {what}");
                let json = json!({ "at_bytes": offset_bytes, "end": "unsupported", "what": what });
                out.say(&text, &json)?;
                out.flush()?;
                return Err(format!("{what}, at byte {offset_bytes}, which is not supported").into());
            }
            Err(LogEnd::Damaged(damage)) if !reader.intact_record_after(damage.record_offset_bytes) => {
                return Ok(torn(damage.record_offset_bytes, out)?);
            }
            Err(LogEnd::Damaged(damage)) => {
                let text =
                    format!("  {:>10}  not whole, and records follow: {}", damage.offset_bytes, damage.what);
                let json = json!({ "at_bytes": damage.offset_bytes, "end": "damaged", "what": damage.what });
                out.say(&text, &json)?;
                out.flush()?;
                return Err(format!("a record is not whole at byte {}", damage.offset_bytes).into());
            }
        }
    }
}

fn torn(at_bytes: u64, out: &mut Output) -> io::Result<()> {
    let text = format!("  {at_bytes:>10}  it ends in a record that is not whole");
    out.say(&text, &json!({ "at_bytes": at_bytes, "end": "torn" }))
}
