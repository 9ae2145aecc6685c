//! What is written is read back, and what is damaged is found.

use super::*;
use proptest::prelude::*;

fn row(key: &[u8], value: &[u8]) -> KeyedRow {
    let row = Row { version: 7, value: Bytes::copy_from_slice(value) };
    KeyedRow { key: Bytes::copy_from_slice(key), row }
}

fn mark(index: LogIndex) -> Indexed {
    Indexed { index, entry: Entry::Mark { cut: index, since: index } }
}

fn written<I: Item>(items: &[I]) -> (Bytes, Summary<I::Place>) {
    let mut writer = Writer::default();
    for item in items {
        writer.push(item).unwrap();
    }
    writer.finish()
}

#[test]
fn an_empty_file_is_a_file() {
    let (bytes, summary) = written::<KeyedRow>(&[]);
    assert_eq!((summary.items, &summary.range), (0, &None));
    assert_eq!(read_all::<KeyedRow>(&bytes), Ok((vec![], summary)));
    let found = read_all::<Indexed>(&bytes).unwrap_err();
    assert_eq!(found, Malformed { offset_bytes: 0, what: Wrong::Foreign(Content::Log) });
}

#[test]
fn every_flipped_byte_and_every_missing_end_is_found() {
    let rows: Vec<KeyedRow> = (0..20u8).map(|i| row(&[i], &[i; 1800])).collect();
    let (bytes, summary) = written(&rows);
    assert_eq!(read_all(&bytes), Ok((rows, summary)));
    for at in 0..bytes.len() {
        assert!(read_all::<KeyedRow>(&bytes[..at]).is_err(), "{at} bytes are enough");
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1 << (at % 8);
        assert!(read_all::<KeyedRow>(&damaged).is_err(), "byte {at} is not looked at");
    }
    let longer = [&bytes[..], b"F"].concat();
    let found = read_all::<KeyedRow>(&longer).unwrap_err();
    assert_eq!(found.offset_bytes, bytes.len() as u64);
    assert_eq!(found.what, Wrong::Content("bytes after the footer"));
}

#[test]
fn a_length_without_bytes_allocates_nothing() {
    let mut reader = Reader::<KeyedRow>::default();
    let mut bytes = KeyedRow::MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.push(BLOCK);
    bytes.extend(u32::try_from(MAX_FRAME_BYTES).unwrap().to_le_bytes());
    reader.feed(&bytes);
    assert_eq!(reader.next_item(), Ok(None));
    assert!(reader.buffer.capacity() < 1024);
    let what = reader.finish().unwrap_err().what;
    assert_eq!(what, Wrong::Truncated);
    let claimed = bytes.len() - 1;
    bytes[claimed] = 0xff;
    let found = read_all::<KeyedRow>(&bytes).unwrap_err();
    assert_eq!((found.offset_bytes, matches!(found.what, Wrong::TooLong { .. })), (6, true));
}

#[test]
fn logs_have_no_gap_and_rows_have_an_order() {
    let forged = |items: &[Indexed]| {
        let mut file = BytesMut::from(&Indexed::MAGIC[..]);
        file.put_u16_le(VERSION);
        let block: Vec<u8> = items.iter().flat_map(|item| postcard::to_stdvec(item).unwrap()).collect();
        frame(&mut file, BLOCK, &block);
        read_all::<Indexed>(&file).unwrap_err()
    };
    let entry = postcard::to_stdvec(&mark(1)).unwrap().len() as u64;
    let found = forged(&[mark(1), mark(3)]);
    let begin = (HEADER_BYTES + FRAME_HEADER_BYTES) as u64 + entry;
    assert_eq!(found, Malformed { offset_bytes: begin, what: Wrong::Content("items out of order") });
    assert_eq!(forged(&[mark(0)]).what, Wrong::Content("an entry at index 0"));
    assert_eq!(forged(&[mark(1)]).what, Wrong::Truncated);
}

#[test]
fn what_nobody_would_read_is_not_written() {
    let mut writer = Writer::<KeyedRow>::default();
    let long = writer.push(&row(&vec![0; MAX_KEY_BYTES + 1], b""));
    assert_eq!(long, Err(Unwritable::Invalid("a key that is too long")));
    assert!(!writer.has_items());
    let mut writer = Writer::<Indexed>::default();
    let changes =
        vec![crate::tables::rows::Change { key: Bytes::new(), value: Some(vec![0; MAX_FRAME_BYTES].into()) }];
    let entry = Entry::Load { operation: 1, next: 1, changes };
    assert!(matches!(writer.push(&Indexed { index: 1, entry }), Err(Unwritable::TooLong { .. })));
    writer.push(&mark(1)).unwrap();
    assert_eq!(read_all::<Indexed>(&writer.finish().0).unwrap().0, [mark(1)]);
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_however_it_comes(
        lengths in proptest::collection::vec(0usize..9000, 0..40),
        chunk in 1usize..50_000,
    ) {
        let rows: Vec<KeyedRow> = (0u16..).zip(&lengths).map(|(i, len)| row(&i.to_be_bytes(), &vec![7; *len])).collect();
        let (bytes, summary) = written(&rows);
        let mut reader = Reader::<KeyedRow>::default();
        let mut read = Vec::new();
        for chunk in bytes.chunks(chunk) {
            reader.feed(chunk);
            while let Some(item) = reader.next_item().unwrap() {
                read.push(item);
            }
        }
        prop_assert_eq!(reader.finish(), Ok(summary.clone()));
        prop_assert_eq!(read, rows);
        prop_assert_eq!(summary.xxh3, xxhash_rust::xxh3::xxh3_128(&bytes));
        prop_assert_eq!(summary.crc32c, crc32c::crc32c(&bytes));
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
        let mut whole = Indexed::MAGIC.to_vec();
        whole.extend(VERSION.to_le_bytes());
        whole.extend(&bytes);
        let _ = read_all::<Indexed>(&bytes);
        let _ = read_all::<Indexed>(&whole);
    }
}
