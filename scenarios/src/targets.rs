//! What fuzzers call: everything that reads bytes which others wrote, and the reader of plans.
//!
//! Each target takes any bytes and must return: no panic, no allocation beyond what the bytes justify. Where a format is
//! guarded by a checksum, bytes are tried as they are and again behind a right checksum, as a fuzzer does not guess one. What
//! decodes is encoded again where there is an encoder, and must come back as it was.
//!
//! libFuzzer runs them from `fuzz/`; `tests/targets.rs` runs the same functions over the committed seeds and random bytes.

mod snapshots;

use std::path::Path;
use std::sync::Arc;

use arbitrary::Unstructured;
use bytes::Bytes;
use cutwater_engine::checkpoint::job_state::JobState;
use cutwater_engine::checkpoint::{log as job_log, metadata};
use cutwater_engine::cluster::rpc;
use cutwater_engine::flink;
use cutwater_engine::state::canonical;
use cutwater_engine::store::batch::DecodedBatch;
use cutwater_engine::store::blob::format::{self, HEADER_BYTES, Header, RecordHeader};
use cutwater_engine::store::blob::{BlobIndex, BlobReader, BlobWriter, Stored};
use cutwater_engine::store::coding::masked_crc32c;
use cutwater_engine::store::key::{InternalKey, MAX_SEQUENCE, Tag, ValueKind};
use cutwater_engine::store::log::{LogEnd, LogReader, LogWriter};
use cutwater_engine::store::table::block::{Block, BlockBuilder};
use cutwater_engine::store::table::data_block::{DataBlock, Place};
use cutwater_engine::store::table::filter::{self, Filter};
use cutwater_engine::store::table::format::{
    Checksum, FOOTER_BYTES, Footer, Handle, append_trailer, check_trailer,
};
use cutwater_engine::store::table::properties::{
    Counts, Properties, build as build_properties, global_sequence_at,
};
use cutwater_engine::store::table::{Caching, Compression, Table, TableBuilder, TableIter};
use cutwater_engine::store::tombstones::RangeTombstone;
use cutwater_engine::store::version::{VersionEdit, VersionSet};
use cutwater_engine::store::{FamilyOptions, Seek, version};
use cutwater_engine::stream::record::Decoder;
use cutwater_engine::stream::sink::decode_output;
use cutwater_io::fs::{self, OpenOptions};
use cutwater_io::sim::Env;
use cutwater_sim::Plan;
use serde::{Serialize, de::DeserializeOwned};
use xxhash_rust::xxh3::xxh3_64;

/// A name and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("plan", plan),
    ("wal_record", wal_record),
    ("write_batch", write_batch),
    ("manifest_edit", manifest_edit),
    ("block", block),
    ("filter", filter),
    ("properties", properties),
    ("table", table),
    ("blob", blob),
    ("rpc_frame", rpc_frame),
    ("checkpoint_metadata", checkpoint_metadata),
    ("flink_metadata", flink_metadata),
    ("sink_output", sink_output),
    ("canonical_state", canonical_state),
    ("snapshot_file", snapshots::file),
    ("snapshot_document", snapshots::document),
];

/// Runs the target of this name.
///
/// # Panics
/// If there is none, or if the target has found something.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.unwrap_or_else(|| panic!("there is no target {name}")).1(bytes);
}

/// Bytes make a valid plan that survives being written down; the same bytes as a plan file are refused or valid.
fn plan(bytes: &[u8]) {
    for scenario in crate::ALL {
        let vocabulary = scenario.vocabulary();
        let plan = Plan::arbitrary(scenario.name(), &vocabulary, &mut Unstructured::new(bytes))
            .expect("any bytes make a plan");
        plan.validate(&vocabulary).expect("what is made of bytes is valid");
        assert_eq!(Plan::from_json(&plan.to_json()).expect("a plan is read back"), plan);
        // A file that is nearly a plan: the bytes in the place of a part of it.
        let mut text = plan.to_json();
        if let Ok(hostile) = std::str::from_utf8(bytes) {
            read_plan(hostile);
            let at = bytes.len().min(text.len());
            if text.is_char_boundary(at) {
                text.insert_str(at, hostile);
                read_plan(&text);
            }
        }
    }
}

fn read_plan(text: &str) {
    let Ok(plan) = Plan::from_json(text) else { return };
    let scenario = crate::ALL.iter().find(|scenario| scenario.name() == plan.scenario);
    let Some(scenario) = scenario else { return };
    if plan.validate(&scenario.vocabulary()).is_ok() {
        assert_eq!(Plan::from_json(&plan.to_json()).expect("a plan is read back"), plan);
    }
}

/// A log of any bytes is read to its end; a log of whole records gives them back.
fn wal_record(bytes: &[u8]) {
    let mut reader = LogReader::new(bytes, 7);
    let mut read = 0;
    let end = loop {
        match reader.next_record() {
            Ok(record) => read += record.len(),
            Err(end) => break end,
        }
    };
    assert!(read <= bytes.len(), "{read} bytes of records in a log of {}", bytes.len());
    if let LogEnd::Damaged(damage) = end {
        assert!(damage.offset_bytes <= bytes.len() as u64, "{damage:?}");
        let _ = reader.intact_record_after(damage.record_offset_bytes);
    }
    for mut writer in [LogWriter::new(), LogWriter::recyclable(7)] {
        let mut log = Vec::new();
        let (one, other) = bytes.split_at(bytes.len() / 3);
        writer.add_record(one, &mut log);
        writer.add_record(other, &mut log);
        let mut reader = LogReader::new(&log, 7);
        assert_eq!(reader.next_record().as_deref(), Ok(one));
        assert_eq!(reader.next_record().as_deref(), Ok(other));
        assert_eq!(reader.next_record(), Err(LogEnd::Clean { valid_bytes: log.len() as u64 }));
    }
}

fn write_batch(bytes: &[u8]) {
    let decoded = DecodedBatch::decode(&Bytes::copy_from_slice(bytes));
    if let Ok(batch) = decoded {
        assert!(batch.records.len() <= bytes.len(), "more records than bytes");
    }
}

fn manifest_edit(bytes: &[u8]) {
    let Ok(edit) = version::decode(bytes) else { return };
    let again = version::encode(&edit);
    assert_eq!(version::decode(&again).as_ref(), Ok(&edit), "an edit is read back");
    if let Ok(version) = version::Version::empty(7).apply(&edit) {
        let _ = version.check();
    }
    // After others, as one of several families.
    let mut set = VersionSet::new(7);
    for part in [&bytes[..bytes.len() / 2], bytes] {
        let Ok(edit) = version::decode(part) else { continue };
        let family =
            VersionEdit { column_family_add: Some("one".to_owned()), column_family: 1, ..edit.clone() };
        let edits = [family, VersionEdit { column_family: 1, ..edit.clone() }, edit];
        for edit in edits {
            if let Ok(next) = set.apply(std::slice::from_ref(&edit), |_| 7) {
                let _ = next.check();
                set = next;
            }
        }
        let mut again = VersionSet::new(7);
        for edit in set.snapshot(9) {
            again = again.apply(&[edit], |_| 7).expect("what a new MANIFEST begins with can be applied");
        }
        assert_eq!(again.files().count(), set.files().count(), "a new MANIFEST has the same tables");
    }
}

fn block(bytes: &[u8]) {
    if bytes.len() >= FOOTER_BYTES {
        let _ = Footer::decode(&bytes[bytes.len() - FOOTER_BYTES..]);
    }
    let Ok(block) = Block::new(Bytes::copy_from_slice(bytes)) else { return };
    let mut iter = block.iter();
    while let Ok(Some((key, value))) = iter.next_entry() {
        assert!(key.len() + value.len() <= bytes.len() * bytes.len() + 1);
    }
    let end = InternalKey { user_key: Bytes::from_static(&[0xff; 16]), tag: Tag(0) };
    let place = Place { after: None, up_to: &end, sequences: &(0..=u64::MAX) };
    let Ok(block) = DataBlock::new(block, &place) else { return };
    let mut cursor = block.cursor();
    let _ = cursor.seek(&bytes[..bytes.len().min(8)], Tag(u64::MAX)) && cursor.advance();
    let mut is_on_entry = cursor.last();
    while is_on_entry {
        is_on_entry = cursor.retreat();
    }
}

/// A filter of any bytes is none or answers; one over keys that the bytes say denies none of them.
fn filter(bytes: &[u8]) {
    if let Some(filter) = Filter::new(Bytes::copy_from_slice(bytes)) {
        let _ = bytes.chunks(8).filter(|key| filter.may_contain(key)).count();
    }
    let Some((bits, keys)) = bytes.split_first() else { return };
    let hashes: Vec<u64> = keys.chunks(4).map(filter::hash).collect();
    let built = filter::build(&hashes, u32::from(*bits % 64) + 1);
    let filter = Filter::new(built.into()).expect("a filter is read back");
    assert!(keys.chunks(4).all(|key| filter.may_contain(key)), "a filter denies no key of its own");
}

/// The properties of a table: a block of any bytes; a block of names that are known, each with what the bytes say.
fn properties(bytes: &[u8]) {
    let of_any = Bytes::copy_from_slice(bytes);
    if let Some(at) = global_sequence_at(&of_any) {
        assert!(at.len() == 8 && at.end <= bytes.len(), "{at:?}");
    }
    if let Ok(block) = Block::new(of_any) {
        let _ = Properties::decode(&block);
    }
    let mut right = Vec::new();
    build_properties(&Counts::default(), &mut right);
    let right = Block::new(right.into()).expect("a block is read back");
    assert_eq!(Properties::decode(&right).expect("they are right").entries, Some(0));
    let (mut builder, mut iter) = (BlockBuilder::new(usize::MAX), right.iter());
    let mut values = bytes.split(|byte| *byte == b'\n');
    while let Ok(Some((name, value))) = iter.next_entry() {
        builder.add(name, values.next().filter(|hostile| !hostile.is_empty()).unwrap_or(&value));
    }
    let mut hostile = Vec::new();
    builder.finish(&mut hostile);
    let _ = Properties::decode(&Block::new(hostile.into()).expect("a block is read back"));
}

/// A file of any bytes; a file of which one block after the other is what the bytes say, behind a right checksum; a right
/// table with some of its bytes changed; a right one with range tombstones over each other, which hide what they must.
fn table(bytes: &[u8]) {
    for checksum in [Checksum::Crc32c, Checksum::Xxh3] {
        let _ = check_trailer(bytes, checksum);
    }
    let mut sealed = bytes.to_vec();
    append_trailer(&mut sealed, 0, Compression::None);
    assert_eq!(check_trailer(&sealed, Checksum::Crc32c), Ok(bytes.len()));
    let mut candidates = vec![bytes.to_vec(), with_footer(bytes), changed(bytes)];
    let ranges = ranges(bytes);
    candidates.extend((!ranges.is_empty()).then(|| with_ranges(&ranges)));
    simulate(async move {
        for (i, candidate) in candidates.into_iter().enumerate() {
            let path = format!("/{i}.sst");
            let path = Path::new(&path);
            let options = OpenOptions::new().create(true).truncate(true).write(true);
            let file = options.open(path).await.expect("a new disk");
            file.write_all_at(&candidate, 0).await.expect("a new disk has room");
            let len_bytes = candidate.len() as u64;
            let largest = InternalKey { user_key: Bytes::from_static(&[0xff; 16]), tag: Tag(0) };
            let meta =
                version::FileMeta { len_bytes, largest, largest_sequence: u64::MAX, ..Default::default() };
            let Ok(table) = Table::open(path, &meta, None).await else { continue };
            if i == 3 {
                hides_what_it_must(&ranges, &table);
            }
            let mut iter = TableIter::new(Arc::new(table), Caching::Pass);
            let mut moved = iter.seek(Seek::First).await;
            while let Ok(true) = moved {
                moved = iter.next().await;
            }
            let probe = &candidate[..candidate.len().min(4)];
            let _ = iter.seek(Seek::NotBefore(probe, Tag(u64::MAX))).await;
            let mut moved = iter.seek(Seek::Before(probe, Tag(0))).await;
            while let Ok(true) = moved {
                moved = iter.prev().await;
            }
        }
    });
}

/// From this key on, up to that one, what is not newer than this sequence number.
type Range = (u8, u8, u64);

/// Range tombstones, three bytes for each.
fn ranges(bytes: &[u8]) -> Vec<Range> {
    let ranges = bytes.chunks_exact(3).take(64).map(|of| (of[0], of[1], u64::from(of[2]) + 1));
    let mut ranges: Vec<Range> = ranges.filter(|(begin, end, _)| begin < end).collect();
    // The newest first of those that begin together.
    ranges.sort_by_key(|(begin, _, sequence)| (*begin, u64::MAX - sequence));
    ranges.dedup_by_key(|(begin, _, sequence)| (*begin, *sequence));
    ranges
}

/// A table of range tombstones that are not cut where they overlap, as RocksDB writes them.
fn with_ranges(ranges: &[Range]) -> Vec<u8> {
    let mut builder = TableBuilder::new(&FamilyOptions::default(), 0, 1, "store");
    for (begin, end, sequence) in ranges {
        let (begin, end) = (Bytes::from(vec![*begin]), Bytes::from(vec![*end]));
        builder.add_range_tombstone(&RangeTombstone { begin, end, sequence: *sequence });
    }
    builder.finish().1
}

fn hides_what_it_must(ranges: &[Range], table: &Table) {
    for key in 0..=u8::MAX {
        for up_to in [0, 1, 40, 200, u64::MAX] {
            let over = ranges.iter().filter(|(begin, end, _)| (*begin..*end).contains(&key));
            let newest = over.map(|range| range.2).filter(|sequence| *sequence <= up_to).max();
            assert_eq!(table.tombstones().covering(&[key], up_to), newest.unwrap_or(0), "{key} {up_to}");
        }
    }
}

/// `bytes` as a block that is index, metaindex and data in one, with the footer that says so.
fn with_footer(bytes: &[u8]) -> Vec<u8> {
    let handle = Handle { offset_bytes: 0, len_bytes: bytes.len() as u64 };
    let mut file = bytes.to_vec();
    append_trailer(&mut file, 0, Compression::None);
    Footer::encode(handle, handle, &mut file);
    file
}

/// A right table, changed where `bytes` say.
fn changed(bytes: &[u8]) -> Vec<u8> {
    let options = FamilyOptions { block_bytes: 64, ..FamilyOptions::default() };
    let mut builder = TableBuilder::new(&options, 0, 1, "store");
    for i in 0..20u64 {
        let key = Bytes::from(format!("key{i:02}"));
        builder.add(&key, Tag::new(MAX_SEQUENCE - i, ValueKind::Value), b"a value of some bytes");
    }
    let (_, mut file) = builder.finish();
    change(&mut file, bytes);
    file
}

/// Changes a file where `bytes` say: two of them for the place, one for the change.
fn change(file: &mut [u8], bytes: &[u8]) {
    for change in bytes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % file.len();
        file[at] ^= change[2];
    }
}

/// No file of a test claims that a value of it is longer. Bytes.
const COMPRESSED_MAX_BYTES: usize = 4 << 10;

/// The parts of a blob file; a file of any bytes; a right one with some of its bytes changed; one with a value that is what the
/// first byte calls compressed. The index that names a value is what the bytes say, or a right one.
fn blob(bytes: &[u8]) {
    let _ = (Header::decode(bytes), RecordHeader::decode(bytes), format::Footer::decode(bytes));
    let named = BlobIndex::decode(bytes);
    if let Ok(index) = named {
        assert_eq!(BlobIndex::decode(&index.encode()), Ok(index), "an index is read back");
    }
    let bytes = bytes.to_vec();
    simulate(async move {
        let path = Path::new("/000007.blob");
        let compression = if bytes.len().is_multiple_of(2) { Compression::None } else { Compression::Lz4 };
        let stored = |value| Stored::of(value, compression).expect("it is short");
        let mut writer = BlobWriter::create(path, 7, 0, compression).await.expect("a new disk");
        let right = writer.add(b"key", &stored(b"a value of some bytes")).await.expect("a new disk has room");
        writer.add(b"other", &stored(&[b'.'; 100])).await.expect("a new disk has room");
        let meta = writer.finish().await.expect("a new disk has room");
        let mut changed = fs::read(path).await.expect("it was written");
        change(&mut changed, &bytes);
        let (hostile, hostile_index, hostile_meta) = compressed(&bytes);
        let as_it_is = version::BlobAddition {
            total_bytes: (bytes.len() as u64).saturating_sub((HEADER_BYTES + format::FOOTER_BYTES) as u64),
            ..version::BlobAddition::default()
        };
        let files = [(changed, meta), (bytes, as_it_is), (hostile, hostile_meta)];
        for (content, meta) in files {
            let file = OpenOptions::new().truncate(true).write(true).open(path).await.expect("it is there");
            file.write_all_at(&content, 0).await.expect("a new disk has room");
            let Ok(reader) = BlobReader::open(path, 0, &meta).await else { continue };
            let _ = reader.verify(&meta).await;
            for index in named.iter().chain([&right, &hostile_index]) {
                let Ok(stored) = reader.get_stored(b"key", index).await else { continue };
                let claimed_bytes = stored.claimed_bytes();
                if let Ok(value) = reader.get(b"key", index).await {
                    assert_eq!(Some(value.len() as u64), claimed_bytes, "a value has the length it claims");
                }
            }
        }
    });
}

/// A blob file with one value, right in all but what the value is compressed from.
fn compressed(bytes: &[u8]) -> (Vec<u8>, BlobIndex, version::BlobAddition) {
    let Some((compression, value)) = bytes.split_first() else { return Default::default() };
    let (key, value) = (b"key", &value[..value.len().min(COMPRESSED_MAX_BYTES)]);
    let mut file = Vec::new();
    Header { family: 0, compression: *compression }.encode(&mut file);
    RecordHeader::of(key, value).encode(&mut file);
    file.extend_from_slice(key);
    let offset_bytes = file.len() as u64;
    file.extend_from_slice(value);
    let total_bytes = (file.len() - HEADER_BYTES) as u64;
    format::Footer { count: 1 }.encode(&mut file);
    let index =
        BlobIndex { file: 7, offset_bytes, value_bytes: value.len() as u64, compression: *compression };
    let meta = version::BlobAddition { number: 7, total_count: 1, total_bytes, ..Default::default() };
    (file, index, meta)
}

fn simulate(future: impl Future<Output = ()> + 'static) {
    let runtime = madsim::runtime::Runtime::new();
    runtime.add_simulator::<Env>();
    runtime.block_on(future);
}

fn rpc_frame(bytes: &[u8]) {
    fn read<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
        let Ok(message) = rpc::decode::<T>(bytes) else { return };
        let frame = rpc::encode(&message);
        assert_eq!(rpc::decode::<T>(&frame).expect("a message is read back"), message);
    }
    read::<rpc::ToCoordinator>(bytes);
    read::<rpc::FromCoordinator>(bytes);
    let mut decoder = Decoder::new(Bytes::copy_from_slice(bytes));
    while let Ok(Some(_)) = decoder.element() {}
}

/// Checkpoint metadata, and records of the job log.
fn checkpoint_metadata(bytes: &[u8]) {
    for content in [bytes.to_vec(), enveloped(*b"CWCM", bytes)] {
        if let Ok(decoded) = metadata::decode(&content, "chk-1/_metadata") {
            let again = metadata::encode(&decoded);
            assert_eq!(metadata::decode(&again, "again").as_ref(), Ok(&decoded), "metadata is read back");
            let _ = metadata::files(&decoded);
        }
    }
    for content in [bytes.to_vec(), enveloped(*b"CWJL", bytes)] {
        if let Ok(record) = job_log::decode_record::<JobState>(&content) {
            let again = job_log::encode_record(&record);
            assert_eq!(
                job_log::decode_record::<JobState>(&again).as_ref(),
                Ok(&record),
                "a record is read back"
            );
        }
    }
}

/// Metadata of Flink's checkpoints: any bytes, and any bytes behind the right first ones of each version.
fn flink_metadata(bytes: &[u8]) {
    let behind = |version: u8| [&flink::MAGIC[..], &[0, 0, 0, version], &[0; 8], bytes].concat();
    for content in [bytes.to_vec(), behind(3), behind(4), behind(5), behind(6)] {
        match flink::decode(&content) {
            Ok(metadata) => {
                assert!(metadata.handles().len() <= content.len(), "a handle takes a byte at least")
            }
            Err(error) => assert!(error.offset <= content.len(), "{error}"),
        }
    }
}

/// The envelope of the coordinator's objects around any body.
fn enveloped(magic: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = [&magic[..], &1u16.to_le_bytes(), body].concat();
    bytes.extend(masked_crc32c(&bytes).to_le_bytes());
    bytes
}

fn sink_output(bytes: &[u8]) {
    let _ = decode_output(bytes);
    let mut sealed = [b"CWO1".as_slice(), bytes].concat();
    sealed.extend(xxh3_64(&sealed).to_le_bytes());
    if let Ok(records) = decode_output(&sealed) {
        let len: usize = records.iter().map(|record| record.key.len() + record.value.len()).sum();
        assert!(len <= bytes.len(), "records of {len} bytes in {}", bytes.len());
    }
}

/// A file of a canonical savepoint as it is; then as a block and as an index behind right sums. The last four bytes say how many
/// entries the block claims to have.
fn canonical_state(bytes: &[u8]) {
    let whole = Bytes::copy_from_slice(bytes);
    if let Ok(entries) = canonical::read_all(&whole) {
        let mut writer = canonical::Writer::default();
        for entry in &entries {
            assert!(writer.push(&entry.store_key(), &entry.value), "{entry:?}");
        }
        assert_eq!(canonical::read_all(&writer.finish()).as_ref(), Ok(&entries));
    }
    let Some((entries, body)) = bytes.split_last_chunk::<4>().map(|(body, entries)| (entries, body)) else {
        return;
    };
    let sealed: Bytes = [body, &masked_crc32c(body).to_le_bytes()].concat().into();
    let (entries, len_bytes) =
        (u32::from_le_bytes(*entries), u32::try_from(sealed.len()).unwrap_or(u32::MAX));
    let handle = canonical::BlockHandle { key_group: 0, offset_bytes: 6, len_bytes, entries };
    if let Ok(entries) = canonical::read_block(&sealed, &handle) {
        let len: usize = entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
        assert!(len <= body.len(), "entries of {len} bytes in {}", body.len());
    }
    let mut file = [b"CWKS\x01\x00".as_slice(), &sealed].concat();
    let index_at = (file.len() as u64).to_le_bytes();
    let len_bytes = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    file.extend_from_slice(body);
    file.extend([&index_at[..], &len_bytes, &masked_crc32c(body).to_le_bytes(), b"CWKSEND1"].concat());
    let _ = canonical::read_all(&file.into());
}
