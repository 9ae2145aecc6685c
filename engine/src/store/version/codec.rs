//! The encoding of version edits: fields, each a tag and its content (7.8.3 `db/version_edit.cc`). A tag with bit 13 that
//! is not known is passed over; any other is refused, as is a custom field of a table with bit 6.

use super::edit::{BlobAddition, BlobGarbage, FileMeta, VersionEdit, WalAddition};
use crate::store::coding::{Cursor, Malformed, put_length_prefixed, put_varint};
use crate::store::key::InternalKey;

const COMPARATOR: u64 = 1;
const LOG_NUMBER: u64 = 2;
const NEXT_FILE_NUMBER: u64 = 3;
const LAST_SEQUENCE: u64 = 4;
const COMPACT_CURSOR: u64 = 5;
const DELETED_FILE: u64 = 6;
const NEW_FILE: u64 = 7;
const PREV_LOG_NUMBER: u64 = 9;
const MIN_LOG_NUMBER_TO_KEEP: u64 = 10;
const NEW_FILE_2: u64 = 100;
const NEW_FILE_3: u64 = 102;
const NEW_FILE_4: u64 = 103;
const COLUMN_FAMILY: u64 = 200;
const COLUMN_FAMILY_ADD: u64 = 201;
const COLUMN_FAMILY_DROP: u64 = 202;
const MAX_COLUMN_FAMILY: u64 = 203;
const IN_ATOMIC_GROUP: u64 = 300;
const BLOB_ADDITION: u64 = 400;
const BLOB_GARBAGE: u64 = 401;
const IGNORABLE: u64 = 1 << 13;
const DB_ID: u64 = 8193;
const BLOB_ADDITION_OLD: u64 = 8194;
const BLOB_GARBAGE_OLD: u64 = 8195;
const WAL_ADDITION_OLD: u64 = 8196;
const WAL_DELETION_OLD: u64 = 8197;
const WAL_ADDITION: u64 = 8199;
const WAL_DELETION: u64 = 8200;
/// Fields of this engine, which have bit 13 and a length, so that RocksDB passes them over.
const MANIFEST_NUMBER: u64 = IGNORABLE | 0x1c01;
const FOLLOWS_CRC32C: u64 = IGNORABLE | 0x1c02;

const CUSTOM_END: u64 = 1;
const CUSTOM_OLDEST_BLOB: u64 = 4;
const CUSTOM_OLDEST_ANCESTOR_TIME: u64 = 5;
const CUSTOM_CREATION_TIME: u64 = 6;
const CUSTOM_CHECKSUM: u64 = 7;
const CUSTOM_CHECKSUM_FUNCTION: u64 = 8;
const CUSTOM_EPOCH: u64 = 13;
/// A field of this engine, without bit 6.
const CUSTOM_RANGE_TOMBSTONES: u64 = 0x1c01;
const CUSTOM_PATH: u64 = 65;
const CUSTOM_MUST_KNOW: u64 = 1 << 6;

const WAL_SYNCED_BYTES: u64 = 2;
const WAL_END: u64 = 1;

/// Encodes an edit.
pub fn encode(edit: &VersionEdit) -> Vec<u8> {
    let mut out = Vec::new();
    put_text(&mut out, DB_ID, edit.db_id.as_deref());
    if let Some(number) = edit.manifest_number {
        put_framed_number(&mut out, MANIFEST_NUMBER, number);
    }
    if let Some(crc32c) = edit.follows_crc32c {
        put_framed_number(&mut out, FOLLOWS_CRC32C, u64::from(crc32c));
    }
    put_text(&mut out, COMPARATOR, edit.comparator.as_deref());
    let numbers = [
        (LOG_NUMBER, edit.log_number),
        (PREV_LOG_NUMBER, edit.prev_log_number),
        (NEXT_FILE_NUMBER, edit.next_file_number),
        (MAX_COLUMN_FAMILY, edit.max_column_family.map(u64::from)),
        (MIN_LOG_NUMBER_TO_KEEP, edit.min_log_number_to_keep),
        (LAST_SEQUENCE, edit.last_sequence),
    ];
    for (tag, value) in numbers {
        if let Some(value) = value {
            put_all(&mut out, &[tag, value]);
        }
    }
    for (level, key) in &edit.compact_cursors {
        put_all(&mut out, &[COMPACT_CURSOR, u64::from(*level)]);
        put_length_prefixed(&mut out, key);
    }
    for (level, number) in &edit.deleted_files {
        put_all(&mut out, &[DELETED_FILE, u64::from(*level), *number]);
    }
    for (level, file) in &edit.new_files {
        encode_new_file(&mut out, *level, file);
    }
    for blob in &edit.blob_additions {
        put_all(&mut out, &[BLOB_ADDITION, blob.number, blob.total_count, blob.total_bytes]);
        put_length_prefixed(&mut out, &blob.checksum_method);
        put_length_prefixed(&mut out, &blob.checksum_value);
        put_varint(&mut out, 0);
    }
    for garbage in &edit.blob_garbage {
        put_all(&mut out, &[BLOB_GARBAGE, garbage.number, garbage.count, garbage.bytes, 0]);
    }
    for wal in &edit.wal_additions {
        let mut body = Vec::new();
        put_varint(&mut body, wal.number);
        if let Some(synced_bytes) = wal.synced_bytes {
            put_all(&mut body, &[WAL_SYNCED_BYTES, synced_bytes]);
        }
        put_varint(&mut body, WAL_END);
        put_varint(&mut out, WAL_ADDITION);
        put_length_prefixed(&mut out, &body);
    }
    if let Some(number) = edit.wal_deletion {
        let mut body = Vec::new();
        put_varint(&mut body, number);
        put_varint(&mut out, WAL_DELETION);
        put_length_prefixed(&mut out, &body);
    }
    if edit.column_family != 0 {
        put_all(&mut out, &[COLUMN_FAMILY, u64::from(edit.column_family)]);
    }
    put_text(&mut out, COLUMN_FAMILY_ADD, edit.column_family_add.as_deref());
    if edit.column_family_drop {
        put_varint(&mut out, COLUMN_FAMILY_DROP);
    }
    if let Some(remaining) = edit.atomic_group_remaining {
        put_all(&mut out, &[IN_ATOMIC_GROUP, u64::from(remaining)]);
    }
    out
}

fn put_all(out: &mut Vec<u8>, values: &[u64]) {
    for value in values {
        put_varint(out, *value);
    }
}

/// A number in a field that has a length, so that who does not know it can pass it over.
fn put_framed_number(out: &mut Vec<u8>, tag: u64, value: u64) {
    let mut body = Vec::new();
    put_varint(&mut body, value);
    put_varint(out, tag);
    put_length_prefixed(out, &body);
}

fn put_text(out: &mut Vec<u8>, tag: u64, text: Option<&str>) {
    if let Some(text) = text {
        put_varint(out, tag);
        put_length_prefixed(out, text.as_bytes());
    }
}

fn encode_new_file(out: &mut Vec<u8>, level: u32, file: &FileMeta) {
    put_all(out, &[NEW_FILE_4, u64::from(level), file.number, file.len_bytes]);
    put_length_prefixed(out, &file.smallest.encode());
    put_length_prefixed(out, &file.largest.encode());
    put_all(out, &[file.smallest_sequence, file.largest_sequence]);
    put_framed_number(out, CUSTOM_OLDEST_ANCESTOR_TIME, file.oldest_ancestor_time_s);
    put_framed_number(out, CUSTOM_CREATION_TIME, file.file_creation_time_s);
    for (tag, bytes) in
        [(CUSTOM_CHECKSUM, &file.checksum[..]), (CUSTOM_CHECKSUM_FUNCTION, file.checksum_function.as_bytes())]
    {
        put_varint(out, tag);
        put_length_prefixed(out, bytes);
    }
    if file.oldest_blob_file_number != 0 {
        put_framed_number(out, CUSTOM_OLDEST_BLOB, file.oldest_blob_file_number);
    }
    if file.epoch_number != 0 {
        put_framed_number(out, CUSTOM_EPOCH, file.epoch_number);
    }
    if let Some(count) = file.range_tombstones {
        put_framed_number(out, CUSTOM_RANGE_TOMBSTONES, count);
    }
    put_varint(out, CUSTOM_END);
}

/// Decodes an edit.
///
/// # Errors
/// If a field is cut off, or is unknown and may not be passed over.
pub fn decode(bytes: &[u8]) -> Result<VersionEdit, Malformed> {
    let mut edit = VersionEdit::default();
    let mut cursor = Cursor::new(bytes);
    while !cursor.is_empty() {
        decode_field(&mut edit, &mut cursor)?;
    }
    Ok(edit)
}

fn decode_field(edit: &mut VersionEdit, c: &mut Cursor<'_>) -> Result<(), Malformed> {
    let unknown = c.malformed("an unknown field of a version edit");
    match u64::from(c.varint32()?) {
        COMPARATOR => edit.comparator = Some(text(c)?),
        LOG_NUMBER => edit.log_number = Some(c.varint64()?),
        NEXT_FILE_NUMBER => edit.next_file_number = Some(c.varint64()?),
        LAST_SEQUENCE => edit.last_sequence = Some(c.varint64()?),
        COMPACT_CURSOR => edit.compact_cursors.push((c.varint32()?, c.length_prefixed()?.to_vec())),
        DELETED_FILE => edit.deleted_files.push((c.varint32()?, c.varint64()?)),
        PREV_LOG_NUMBER => edit.prev_log_number = Some(c.varint64()?),
        MIN_LOG_NUMBER_TO_KEEP => edit.min_log_number_to_keep = Some(c.varint64()?),
        tag @ (NEW_FILE | NEW_FILE_2 | NEW_FILE_3 | NEW_FILE_4) => edit.new_files.push(new_file(c, tag)?),
        COLUMN_FAMILY => edit.column_family = c.varint32()?,
        COLUMN_FAMILY_ADD => edit.column_family_add = Some(text(c)?),
        COLUMN_FAMILY_DROP => edit.column_family_drop = true,
        MAX_COLUMN_FAMILY => edit.max_column_family = Some(c.varint32()?),
        IN_ATOMIC_GROUP => edit.atomic_group_remaining = Some(c.varint32()?),
        BLOB_ADDITION | BLOB_ADDITION_OLD => edit.blob_additions.push(blob_addition(c)?),
        BLOB_GARBAGE | BLOB_GARBAGE_OLD => {
            let garbage = BlobGarbage { number: c.varint64()?, count: c.varint64()?, bytes: c.varint64()? };
            blob_custom_fields(c)?;
            edit.blob_garbage.push(garbage);
        }
        DB_ID => edit.db_id = Some(text(c)?),
        WAL_ADDITION_OLD => edit.wal_additions.push(wal_addition(c)?),
        WAL_DELETION_OLD => edit.wal_deletion = Some(c.varint64()?),
        WAL_ADDITION => edit.wal_additions.push(wal_addition(&mut Cursor::new(c.length_prefixed()?))?),
        WAL_DELETION => edit.wal_deletion = Some(Cursor::new(c.length_prefixed()?).varint64()?),
        MANIFEST_NUMBER => edit.manifest_number = Some(Cursor::new(c.length_prefixed()?).varint64()?),
        FOLLOWS_CRC32C => edit.follows_crc32c = Some(Cursor::new(c.length_prefixed()?).varint32()?),
        tag if tag & IGNORABLE != 0 => {
            c.length_prefixed()?;
        }
        _ => return Err(unknown),
    }
    Ok(())
}

fn text(c: &mut Cursor<'_>) -> Result<String, Malformed> {
    let bad = c.malformed("a name is not UTF-8");
    String::from_utf8(c.length_prefixed()?.to_vec()).map_err(|_| bad)
}

fn internal_key(c: &mut Cursor<'_>) -> Result<InternalKey, Malformed> {
    let bad = c.malformed("an internal key of less than eight bytes");
    InternalKey::decode(c.length_prefixed()?).ok_or(bad)
}

fn new_file(c: &mut Cursor<'_>, tag: u64) -> Result<(u32, FileMeta), Malformed> {
    let (level, number) = (c.varint32()?, c.varint64()?);
    if tag == NEW_FILE_3 {
        known_path(c)?;
    }
    let mut file = FileMeta { number, len_bytes: c.varint64()?, ..FileMeta::default() };
    (file.smallest, file.largest) = (internal_key(c)?, internal_key(c)?);
    if tag != NEW_FILE {
        (file.smallest_sequence, file.largest_sequence) = (c.varint64()?, c.varint64()?);
    }
    if tag == NEW_FILE_4 {
        while custom_field(&mut file, c)? {}
    }
    Ok((level, file))
}

fn known_path(c: &mut Cursor<'_>) -> Result<(), Malformed> {
    let unknown = c.malformed("a table in another directory");
    if c.varint64()? == 0 { Ok(()) } else { Err(unknown) }
}

/// False at the end of the custom fields.
fn custom_field(file: &mut FileMeta, c: &mut Cursor<'_>) -> Result<bool, Malformed> {
    let unknown = c.malformed("an unknown field of a table that may not be passed over");
    let tag = u64::from(c.varint32()?);
    if tag == CUSTOM_END {
        return Ok(false);
    }
    let value_at = *c;
    let value = c.length_prefixed()?;
    let mut body = Cursor::new(value);
    match tag {
        CUSTOM_OLDEST_BLOB => file.oldest_blob_file_number = body.varint64()?,
        CUSTOM_OLDEST_ANCESTOR_TIME => file.oldest_ancestor_time_s = body.varint64()?,
        CUSTOM_CREATION_TIME => file.file_creation_time_s = body.varint64()?,
        CUSTOM_CHECKSUM => file.checksum = value.to_vec(),
        CUSTOM_CHECKSUM_FUNCTION => file.checksum_function = text(&mut value_at.clone())?,
        CUSTOM_EPOCH => file.epoch_number = body.varint64()?,
        CUSTOM_RANGE_TOMBSTONES => file.range_tombstones = Some(body.varint64()?),
        CUSTOM_PATH if value == [0] => {}
        tag if tag & CUSTOM_MUST_KNOW != 0 => return Err(unknown),
        _ => {}
    }
    Ok(true)
}

fn blob_addition(c: &mut Cursor<'_>) -> Result<BlobAddition, Malformed> {
    let addition = BlobAddition {
        number: c.varint64()?,
        total_count: c.varint64()?,
        total_bytes: c.varint64()?,
        checksum_method: c.length_prefixed()?.to_vec(),
        checksum_value: c.length_prefixed()?.to_vec(),
    };
    blob_custom_fields(c)?;
    Ok(addition)
}

fn blob_custom_fields(c: &mut Cursor<'_>) -> Result<(), Malformed> {
    loop {
        let unknown = c.malformed("an unknown field of a blob file that may not be passed over");
        match u64::from(c.varint32()?) {
            0 => return Ok(()),
            tag if tag & CUSTOM_MUST_KNOW != 0 => return Err(unknown),
            _ => c.length_prefixed()?,
        };
    }
}

fn wal_addition(c: &mut Cursor<'_>) -> Result<WalAddition, Malformed> {
    let mut addition = WalAddition { number: c.varint64()?, synced_bytes: None };
    loop {
        let unknown = c.malformed("an unknown field of a log");
        match u64::from(c.varint32()?) {
            WAL_END => return Ok(addition),
            WAL_SYNCED_BYTES => addition.synced_bytes = Some(c.varint64()?),
            _ => return Err(unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::key::Tag;
    use proptest::option::of;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = InternalKey> {
        (any::<Vec<u8>>(), any::<u64>()).prop_map(|(k, t)| InternalKey { user_key: k.into(), tag: Tag(t) })
    }

    fn file() -> impl Strategy<Value = FileMeta> {
        let numbers = prop::array::uniform9(any::<u64>());
        (numbers, key(), key(), any::<Vec<u8>>(), any::<String>()).prop_map(
            |(n, smallest, largest, checksum, function)| FileMeta {
                number: n[0],
                len_bytes: n[1],
                smallest,
                largest,
                smallest_sequence: n[2],
                largest_sequence: n[3],
                oldest_blob_file_number: n[4],
                oldest_ancestor_time_s: n[5],
                file_creation_time_s: n[6],
                checksum,
                checksum_function: function,
                epoch_number: n[7],
                range_tombstones: Some(n[8]).filter(|count| count % 2 == 0),
            },
        )
    }

    prop_compose! {
        fn edit()(
            numbers in prop::array::uniform7(of(any::<u64>())),
            follows_crc32c in of(any::<u32>()),
            max_column_family in of(any::<u32>()),
            texts in prop::array::uniform3(of(any::<String>())),
            compact_cursors: Vec<(u32, Vec<u8>)>,
            deleted_files: Vec<(u32, u64)>,
            new_files in prop::collection::vec((any::<u32>(), file()), 0..3),
            blobs: Vec<(u64, u64, u64, Vec<u8>, Vec<u8>)>,
            garbage: Vec<(u64, u64, u64)>,
            wals: Vec<(u64, Option<u64>)>,
            column_family: u32,
            column_family_drop: bool,
            atomic_group_remaining in of(any::<u32>()),
        ) -> VersionEdit {
            let [log_number, prev_log_number, next_file_number, last_sequence, min_log_number_to_keep, wal_deletion, manifest_number] = numbers;
            let [db_id, comparator, column_family_add] = texts;
            let blob = |(number, total_count, total_bytes, checksum_method, checksum_value)| {
                BlobAddition { number, total_count, total_bytes, checksum_method, checksum_value }
            };
            VersionEdit {
                db_id, manifest_number, follows_crc32c, comparator, log_number, prev_log_number, next_file_number, last_sequence, max_column_family,
                min_log_number_to_keep, compact_cursors, deleted_files, new_files,
                blob_additions: blobs.into_iter().map(blob).collect(),
                blob_garbage: garbage.into_iter().map(|(number, count, bytes)| BlobGarbage { number, count, bytes }).collect(),
                wal_additions: wals.into_iter().map(|(number, synced_bytes)| WalAddition { number, synced_bytes }).collect(),
                wal_deletion, column_family, column_family_add, column_family_drop, atomic_group_remaining,
            }
        }
    }

    #[test]
    fn unknown_fields_are_passed_over_only_if_they_may_be() {
        let mut ignorable = Vec::new();
        put_varint(&mut ignorable, IGNORABLE | 500);
        put_length_prefixed(&mut ignorable, b"whatever");
        assert_eq!(decode(&ignorable), Ok(VersionEdit::default()));
        assert_eq!(decode(&[99, 0]).unwrap_err().what, "an unknown field of a version edit");
    }

    proptest! {
        #[test]
        fn roundtrip(edit in edit()) {
            prop_assert_eq!(decode(&encode(&edit)), Ok(edit));
        }

        #[test]
        fn a_cut_or_changed_edit_is_read_without_panic(edit in edit(), at: prop::sample::Index, xor: u8) {
            let mut bytes = encode(&edit);
            prop_assume!(!bytes.is_empty());
            let at = at.index(bytes.len());
            let _ = decode(&bytes[..at]);
            bytes[at] ^= xor;
            let _ = decode(&bytes);
        }

        #[test]
        fn anything_is_read_without_panic(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..11], 0..80)) {
            let _ = decode(&bytes);
        }
    }
}
