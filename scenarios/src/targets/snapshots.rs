//! What reads the files and documents of cluster snapshots, and what stands of their operations in the register.

use bytes::Bytes;
use cutwater_engine::store::coding::masked_crc32c;
use cutwater_engine::tables::snapshot::document::Document;
use cutwater_engine::tables::snapshot::layout::Layout;
use cutwater_engine::tables::snapshot::operation::Record;
use cutwater_engine::tables::snapshot::segment::{Indexed, Item, KeyedRow, Reader, Writer, read_all};
use cutwater_engine::tables::snapshot::{create, delete, restore};
use serde::{Serialize, de::DeserializeOwned};

use super::enveloped;

/// A file of a partition as it is, and as a block behind a right sum; whole, and byte by byte.
pub(super) fn file(bytes: &[u8]) {
    file_of::<KeyedRow>(bytes);
    file_of::<Indexed>(bytes);
}

fn file_of<I: Item + Clone + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok((items, summary)) = read_all::<I>(bytes) {
        assert!(items.len() <= bytes.len(), "an item takes a byte at least");
        let mut writer = Writer::default();
        for item in &items {
            writer.push(item).expect("it was within the limits when it was read");
        }
        let (again, same) = writer.finish();
        let read = read_all::<I>(&again).expect("what was written is read");
        assert_eq!((&read.0, &read.1), (&items, &same), "a file is read back");
        assert_eq!((summary.items, &summary.range), (same.items, &same.range));
    }
    let header = [&I::MAGIC[..], &1u16.to_le_bytes()].concat();
    let len_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut block = [&b"B"[..], &len_bytes, bytes].concat();
    block.extend(masked_crc32c(&block).to_le_bytes());
    for content in [[&header[..], bytes].concat(), [&header[..], &block].concat()] {
        let whole = read_all::<I>(&content).map(|(items, _)| items);
        let mut reader = Reader::<I>::default();
        let mut items = Vec::new();
        let mut failed = None;
        for byte in &content {
            reader.feed(std::slice::from_ref(byte));
            loop {
                match reader.next_item() {
                    Ok(Some(item)) => items.push(item),
                    Ok(None) => break,
                    Err(error) => {
                        failed.get_or_insert(error);
                        break;
                    }
                }
            }
            if failed.is_some() {
                break;
            }
        }
        let slowly = failed.map_or_else(|| reader.finish().map(|_| items), Err);
        assert_eq!(whole.is_ok(), slowly.is_ok(), "{whole:?}, byte by byte {slowly:?}");
    }
}

/// A document as it is and in a right envelope; and the register's text of each operation.
pub(super) fn document(bytes: &[u8]) {
    let layout = Layout::new("root", "s").expect("a name");
    for content in [bytes.to_vec(), enveloped(*b"CWTS", bytes)] {
        for number in [0, 1] {
            let object = layout.document(number);
            if let Ok(document) = Document::decode(&layout, &object, &content) {
                let again: Bytes = document.encode();
                assert_eq!(
                    Document::decode(&layout, &object, &again).as_ref(),
                    Ok(&document),
                    "a document is read back"
                );
            }
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = layout.parse(text);
    let _ = layout.parse(&format!("root/s/{text}"));
    record::<create::Request, create::Step>(text);
    record::<restore::Request, restore::Step>(text);
    record::<delete::Request, delete::Step>(text);
    if let Ok(record) = Record::<create::Request, create::Step>::decode(text) {
        let _ = create::Create::resume(1, &record).map(|create| create.next());
    }
    if let Ok(record) = Record::<restore::Request, restore::Step>::decode(text) {
        let _ = restore::Restore::resume(&record).map(|restore| restore.next());
    }
}

fn record<R, S>(text: &str)
where
    R: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    S: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let Ok(record) = Record::<R, S>::decode(text) else { return };
    let again = Record::<R, S>::decode(&record.encode());
    assert_eq!(again.ok().as_ref(), Some(&record), "a record is read back");
}
