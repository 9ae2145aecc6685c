//! The file `_metadata` as a whole.
//!
//! ```text
//! magic: u32 | version: u32 | checkpoint: i64 | count, masters' states | count, operators | properties (from version 4)
//! ```

use super::operator::{self, Operator};
use super::properties::{self, Properties};
use super::reader::{Malformed, Reader, Reason};

/// The first four bytes.
pub const MAGIC: [u8; 4] = [0x49, 0x60, 0x67, 0x2d];

const MASTER_MAGIC: i32 = 0xc96b_1696_u32 as i32;

/// A checkpoint or a savepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Of the format.
    pub version: i32,
    /// Number of the checkpoint.
    pub checkpoint: u64,
    /// States of hooks in the coordinator.
    pub masters: Vec<MasterState>,
    /// In no order.
    pub operators: Vec<Operator>,
    /// What it was taken for. From version 4.
    pub properties: Option<Properties>,
    /// Bytes that follow; Flink does not look at them.
    pub trailing_bytes: usize,
}

/// State of a hook in the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterState {
    /// Of the hook's format.
    pub version: i32,
    /// Of the hook.
    pub name: String,
    /// As the hook serialises it.
    pub content: Vec<u8>,
}

/// What `bytes` say.
///
/// # Errors
/// If they are not metadata of version 3 to 6.
pub fn decode(bytes: &[u8]) -> Result<Metadata, Malformed> {
    let mut reader = Reader::new(bytes);
    let magic = reader.take(4, "the magic number")?;
    if magic != MAGIC {
        let found = i64::from(u32::from_be_bytes(magic.try_into().expect("as many as were asked for")));
        return Err(Reader::wrong(0, "the magic number", Reason::Unknown { found }));
    }
    let version = reader.i32("the version")?;
    if !(3..=6).contains(&version) {
        return Err(Reader::wrong(4, "the version", Reason::Version { found: version }));
    }
    let checkpoint = reader.u63("the number of the checkpoint")?;
    let count = reader.count(18, "the number of masters' states")?;
    let masters = (0..count).map(|_| master(&mut reader)).collect::<Result<_, _>>()?;
    let count = reader.count(29, "the number of operators")?;
    let operators = (0..count).map(|_| operator::read(&mut reader, version)).collect::<Result<_, _>>()?;
    let properties = (version >= 4).then(|| properties::read(&mut reader)).transpose()?;
    Ok(Metadata { version, checkpoint, masters, operators, properties, trailing_bytes: reader.left() })
}

fn master(reader: &mut Reader<'_>) -> Result<MasterState, Malformed> {
    let (offset, what) = (reader.offset(), "the magic number of a master's state");
    let magic = reader.i32(what)?;
    if magic != MASTER_MAGIC {
        return Err(Reader::wrong(offset, what, Reason::Unknown { found: magic.into() }));
    }
    let what = "a master's state";
    let count = reader.count(1, what)?;
    let mut part = reader.part(count, what)?;
    let version = part.i32("the version of a master's state")?;
    let name = part.utf("the name of a master's state")?;
    let content = part.blob("the content of a master's state")?.to_vec();
    part.end(what)?;
    Ok(MasterState { version, name, content })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(version: i32) -> Vec<u8> {
        [&MAGIC[..], &version.to_be_bytes(), &7i64.to_be_bytes(), &0i32.to_be_bytes()].concat()
    }

    #[test]
    fn an_empty_checkpoint_is_read_and_others_are_refused_by_name() {
        let empty = [header(3), vec![0; 4]].concat();
        let metadata = decode(&empty).unwrap();
        assert_eq!((metadata.checkpoint, metadata.operators.len(), metadata.trailing_bytes), (7, 0, 0));
        for (bytes, said) in [
            (&b"CWCM...."[..], "at byte 0: the magic number: 0x4357434d has no meaning"),
            (&header(2), "at byte 4: the version: version 2, versions 3 to 6 are read"),
            (&header(7), "at byte 4: the version: version 7, versions 3 to 6 are read"),
            (&header(3), "at byte 20: the number of operators: 4 bytes are wanted, 0 are left"),
        ] {
            assert_eq!(decode(bytes).unwrap_err().to_string(), said);
        }
        let many = [header(3), i32::MAX.to_be_bytes().to_vec(), vec![0; 99]].concat();
        assert!(matches!(decode(&many).unwrap_err().reason, Reason::Truncated { left: 99, .. }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(
            version in 3..=6i32,
            small in prop::collection::vec(0u8..18, 0..300),
            any in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let _ = decode(&any);
            for bytes in [[header(version), small.clone(), any.clone()], [header(version), any, small]] {
                let bytes = bytes.concat();
                match decode(&bytes) {
                    Ok(metadata) => prop_assert!(metadata.handles().len() < bytes.len()),
                    Err(error) => prop_assert!(error.offset <= bytes.len()),
                }
            }
        }
    }
}
