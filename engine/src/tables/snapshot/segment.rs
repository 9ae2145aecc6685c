//! A file of a partition: its rows at a cut, or a part of its log.
//!
//! ```text
//! file:   magic "CWSR" (rows) or "CWSL" (log), version u16 LE | block.. | footer
//! frame:  kind u8 ('B', 'F') | payload length u32 LE | payload | masked CRC-32C of all before in this frame, u32 LE
//! block:  a frame of one or more items, one after the other, postcard
//! footer: a frame of postcard: items, blocks, place of the first and of the last item, length and xxh3-128 of all before it
//! ```
//! Rows are in the order of their keys, each once; entries of a log in the order of their indexes, without a gap. The files of a
//! partition follow each other in the same way.
//!
//! Pure, over bytes. Who writes closes a file when [`Writer::is_full`], so that it fits in memory while it travels. Who reads feeds what
//! came so far and takes items out, and holds a block and a chunk at most. Bytes that are read are hostile: a length is believed as far as
//! there are bytes; order, counts and sums are checked; an error says what is wrong at which byte.
//!
//! *Not modelled*: compression; an index (a file is always read as a whole).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use xxhash_rust::xxh3::Xxh3;

use super::layout::Content;
use crate::store::coding::masked_crc32c;
use crate::tables::entry::Entry;
use crate::tables::ids::LogIndex;
use crate::tables::rows::{MAX_KEY_BYTES, MAX_VALUE_BYTES, Row};

#[cfg(test)]
mod tests;

const VERSION: u16 = 1;
const HEADER_BYTES: usize = 6;
/// Kind and length of a frame.
const FRAME_HEADER_BYTES: usize = 5;
const CHECKSUM_BYTES: usize = 4;
const BLOCK: u8 = b'B';
const FOOTER: u8 = b'F';
/// A block is closed when it has this many bytes.
const BLOCK_BYTES: usize = 32 << 10;
/// A file is full when it has this many bytes.
const FILE_BYTES: usize = 16 << 20;
/// The longest payload of a frame: a block and one item more, which may be the longest transaction with all that it read.
pub const MAX_FRAME_BYTES: usize = 32 << 20;

/// What a file is made of.
pub trait Item: Serialize + DeserializeOwned {
    /// What it is.
    const CONTENT: Content;
    /// How a file of it begins.
    const MAGIC: [u8; 4];
    /// What the items are in the order of.
    type Place: Clone + std::fmt::Debug + PartialEq + Serialize + DeserializeOwned;
    /// Where it belongs.
    fn place(&self) -> Self::Place;
    /// True if an item at `next` may come right after one at `place`.
    fn follows(place: &Self::Place, next: &Self::Place) -> bool;
    /// Whether it can be at all.
    ///
    /// # Errors
    /// What is wrong with it.
    fn check(&self) -> Result<(), &'static str>;
}

/// A row with its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyedRow {
    /// The key.
    pub key: Bytes,
    /// The row.
    pub row: Row,
}

/// An entry with its index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Indexed {
    /// Where in the partition's log.
    pub index: LogIndex,
    /// The entry.
    pub entry: Entry,
}

impl Item for KeyedRow {
    const CONTENT: Content = Content::Rows;
    const MAGIC: [u8; 4] = *b"CWSR";
    type Place = Bytes;

    fn place(&self) -> Bytes {
        self.key.clone()
    }

    fn follows(place: &Bytes, next: &Bytes) -> bool {
        place < next
    }

    fn check(&self) -> Result<(), &'static str> {
        match self {
            _ if self.key.len() > MAX_KEY_BYTES => Err("a key that is too long"),
            _ if self.row.value.len() > MAX_VALUE_BYTES => Err("a value that is too long"),
            _ if self.row.version == 0 => Err("a row that no entry wrote"),
            _ => Ok(()),
        }
    }
}

impl Item for Indexed {
    const CONTENT: Content = Content::Log;
    const MAGIC: [u8; 4] = *b"CWSL";
    type Place = LogIndex;

    fn place(&self) -> LogIndex {
        self.index
    }

    fn follows(place: &LogIndex, next: &LogIndex) -> bool {
        place.checked_add(1) == Some(*next)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.index == 0 { Err("an entry at index 0") } else { Ok(()) }
    }
}

/// What a whole file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary<P> {
    /// Its length.
    pub len_bytes: u64,
    /// CRC-32C of the whole.
    pub crc32c: u32,
    /// xxh3-128 of the whole.
    pub xxh3: u128,
    /// How many items it has.
    pub items: u64,
    /// Places of the first and of the last item; `None` if it has none.
    pub range: Option<(P, P)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Footer<P> {
    items: u64,
    blocks: u64,
    range: Option<(P, P)>,
    len_bytes: u64,
    xxh3: u128,
}

/// An item that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// Longer than a frame may be.
    #[error("an item of {len_bytes} bytes, {MAX_FRAME_BYTES} are the limit of a frame")]
    TooLong {
        /// Its length, encoded.
        len_bytes: usize,
    },
    /// Nobody would read it.
    #[error("{0}")]
    Invalid(&'static str),
}

/// Builds a file.
#[derive(Debug)]
pub struct Writer<I: Item> {
    file: BytesMut,
    block: Vec<u8>,
    items: u64,
    blocks: u64,
    range: Option<(I::Place, I::Place)>,
    /// Where the file before it ended.
    before: Option<I::Place>,
}

impl<I: Item> Default for Writer<I> {
    fn default() -> Self {
        let mut file = BytesMut::new();
        file.put_slice(&I::MAGIC);
        file.put_u16_le(VERSION);
        Writer { file, block: Vec::new(), items: 0, blocks: 0, range: None, before: None }
    }
}

impl<I: Item> Writer<I> {
    /// Appends an item.
    ///
    /// # Errors
    /// If it is over a limit.
    ///
    /// # Panics
    /// If items are not in order: a store gives them in order.
    pub fn push(&mut self, item: &I) -> Result<(), Unwritable> {
        item.check().map_err(Unwritable::Invalid)?;
        let before = self.block.len();
        let encoded = postcard::to_extend(item, std::mem::take(&mut self.block));
        self.block = encoded.expect("rows and entries hold nothing that cannot be encoded");
        let len_bytes = self.block.len() - before;
        if len_bytes > MAX_FRAME_BYTES - BLOCK_BYTES {
            self.block.truncate(before);
            return Err(Unwritable::TooLong { len_bytes });
        }
        let place = item.place();
        let before = self.range.as_ref().map(|(_, last)| last).or(self.before.as_ref());
        assert!(before.is_none_or(|before| I::follows(before, &place)), "{place:?} after {before:?}");
        match &mut self.range {
            None => self.range = Some((place.clone(), place)),
            Some((_, last)) => *last = place,
        }
        self.items += 1;
        if self.block.len() >= BLOCK_BYTES {
            self.close_block();
        }
        Ok(())
    }

    /// For the file that goes on from this one.
    pub fn next_file(&self) -> Writer<I> {
        Writer {
            before: self.range.as_ref().map(|(_, last)| last.clone()).or_else(|| self.before.clone()),
            ..Writer::default()
        }
    }

    /// True if it has any items.
    pub fn has_items(&self) -> bool {
        self.items > 0
    }

    /// True if the file should be finished and another begun.
    pub fn is_full(&self) -> bool {
        self.file.len() + self.block.len() >= FILE_BYTES
    }

    fn close_block(&mut self) {
        if !self.block.is_empty() {
            frame(&mut self.file, BLOCK, &self.block);
            self.block.clear();
            self.blocks += 1;
        }
    }

    /// The file, and what it is.
    pub fn finish(mut self) -> (Bytes, Summary<I::Place>) {
        self.close_block();
        let mut hash = Xxh3::new();
        hash.update(&self.file);
        let (items, blocks, range) = (self.items, self.blocks, self.range);
        let len_bytes = self.file.len() as u64;
        let footer = Footer { items, blocks, range: range.clone(), len_bytes, xxh3: hash.digest128() };
        let before = self.file.len();
        frame(
            &mut self.file,
            FOOTER,
            &postcard::to_stdvec(&footer).expect("numbers and places can be encoded"),
        );
        hash.update(&self.file[before..]);
        let file = self.file.freeze();
        let (len_bytes, crc32c) = (file.len() as u64, crc32c::crc32c(&file));
        (file, Summary { len_bytes, crc32c, xxh3: hash.digest128(), items, range })
    }
}

fn frame(file: &mut BytesMut, kind: u8, payload: &[u8]) {
    let begin = file.len();
    file.put_u8(kind);
    file.put_u32_le(u32::try_from(payload.len()).expect("checked when it was pushed"));
    file.put_slice(payload);
    let crc = masked_crc32c(&file[begin..]);
    file.put_u32_le(crc);
}

/// Bytes that are not what a writer writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset_bytes}: {what}")]
pub struct Malformed {
    /// Where in the file: where the item or frame begins that is wrong.
    pub offset_bytes: u64,
    /// What is wrong.
    pub what: Wrong,
}

/// What can be wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It begins otherwise.
    #[error("not a file of {0:?}")]
    Foreign(Content),
    /// Written by another version of this program.
    #[error("version {found}, this program reads {VERSION}")]
    Version {
        /// The version found.
        found: u16,
    },
    /// Damaged.
    #[error("checksum {found:08x}, computed {computed:08x}")]
    Checksum {
        /// As stored.
        found: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// A frame that no writer writes.
    #[error("a frame of {len_bytes} bytes, {MAX_FRAME_BYTES} are the limit")]
    TooLong {
        /// What it claims.
        len_bytes: u32,
    },
    /// The file ends too early.
    #[error("it ends within a frame or before its footer")]
    Truncated,
    /// The sums are right and the content is not: the writer was wrong.
    #[error("{0}")]
    Content(&'static str),
}

/// Takes a file apart as its bytes come.
pub struct Reader<I: Item> {
    buffer: BytesMut,
    /// How many bytes were taken out of the buffer.
    taken_bytes: u64,
    /// The block being read, and where its rest begins in the file.
    block: Bytes,
    block_offset_bytes: u64,
    hash: Xxh3,
    crc32c: u32,
    items: u64,
    blocks: u64,
    range: Option<(I::Place, I::Place)>,
    has_header: bool,
    has_footer: bool,
}

impl<I: Item> Default for Reader<I> {
    fn default() -> Self {
        Reader {
            buffer: BytesMut::new(),
            taken_bytes: 0,
            block: Bytes::new(),
            block_offset_bytes: 0,
            hash: Xxh3::new(),
            crc32c: 0,
            items: 0,
            blocks: 0,
            range: None,
            has_header: false,
            has_footer: false,
        }
    }
}

impl<I: Item> Reader<I> {
    /// The next bytes of the file.
    pub fn feed(&mut self, chunk: &[u8]) {
        self.crc32c = crc32c::crc32c_append(self.crc32c, chunk);
        self.buffer.extend_from_slice(chunk);
    }

    /// The next item; `None` if more bytes are needed for it, or there is no more.
    ///
    /// # Errors
    /// If the bytes are not those of a file. Nothing more can be read then.
    pub fn next_item(&mut self) -> Result<Option<I>, Malformed> {
        while self.block.is_empty() {
            if !self.has_header && !self.header()? {
                return Ok(None);
            }
            if self.has_footer && !self.buffer.is_empty() {
                return self.wrong(Wrong::Content("bytes after the footer"));
            }
            let Some((kind, payload)) = self.frame()? else { return Ok(None) };
            match kind {
                BLOCK if payload.is_empty() => return self.wrong(Wrong::Content("a block without items")),
                BLOCK => {
                    self.blocks += 1;
                    self.block_offset_bytes = self.taken_bytes - (CHECKSUM_BYTES + payload.len()) as u64;
                    self.block = payload;
                }
                _ => self.footer(&payload)?,
            }
        }
        self.item().map(Some)
    }

    fn header(&mut self) -> Result<bool, Malformed> {
        let known = self.buffer.len().min(I::MAGIC.len());
        if self.buffer[..known] != I::MAGIC[..known] {
            return self.wrong(Wrong::Foreign(I::CONTENT));
        }
        if self.buffer.len() < HEADER_BYTES {
            return Ok(false);
        }
        let found = u16::from_le_bytes([self.buffer[4], self.buffer[5]]);
        if found != VERSION {
            return self.wrong(Wrong::Version { found });
        }
        self.hash.update(&self.buffer[..HEADER_BYTES]);
        self.take(HEADER_BYTES);
        self.has_header = true;
        Ok(true)
    }

    fn take(&mut self, len: usize) -> BytesMut {
        self.taken_bytes += len as u64;
        self.buffer.split_to(len)
    }

    /// The next frame, if it is there as a whole. Its kind is known, and its bytes are counted into the hash, unless it is the footer.
    fn frame(&mut self) -> Result<Option<(u8, Bytes)>, Malformed> {
        let Some(mut header) = self.buffer.get(..FRAME_HEADER_BYTES) else { return Ok(None) };
        let (kind, len_bytes) = (header.get_u8(), header.get_u32_le());
        if kind != BLOCK && kind != FOOTER {
            return self.wrong(Wrong::Content("neither a block nor the footer"));
        }
        let payload_bytes = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        if payload_bytes > MAX_FRAME_BYTES {
            return self.wrong(Wrong::TooLong { len_bytes });
        }
        let covered = FRAME_HEADER_BYTES + payload_bytes;
        if self.buffer.len() < covered + CHECKSUM_BYTES {
            return Ok(None);
        }
        let mut stored = &self.buffer[covered..covered + CHECKSUM_BYTES];
        let (found, computed) = (stored.get_u32_le(), masked_crc32c(&self.buffer[..covered]));
        if found != computed {
            return self.wrong(Wrong::Checksum { found, computed });
        }
        if kind == BLOCK {
            self.hash.update(&self.buffer[..covered + CHECKSUM_BYTES]);
        }
        let frame = self.take(covered + CHECKSUM_BYTES).freeze();
        Ok(Some((kind, frame.slice(FRAME_HEADER_BYTES..covered))))
    }

    fn item(&mut self) -> Result<I, Malformed> {
        let Ok((item, rest)) = postcard::take_from_bytes::<I>(&self.block) else {
            return self.wrong_item("an item that cannot be decoded");
        };
        let len = self.block.len() - rest.len();
        if let Err(what) = item.check() {
            return self.wrong_item(what);
        }
        let place = item.place();
        match &mut self.range {
            None => self.range = Some((place.clone(), place)),
            Some((_, last)) if I::follows(last, &place) => *last = place,
            Some(_) => return self.wrong_item("items out of order"),
        }
        self.block.advance(len);
        self.block_offset_bytes += len as u64;
        self.items += 1;
        Ok(item)
    }

    fn footer(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        let begin = self.taken_bytes - (FRAME_HEADER_BYTES + payload.len() + CHECKSUM_BYTES) as u64;
        let wrong = |what| Err(Malformed { offset_bytes: begin, what: Wrong::Content(what) });
        let Ok((footer, [])) = postcard::take_from_bytes::<Footer<I::Place>>(payload) else {
            return wrong("a footer that cannot be decoded");
        };
        let (items, blocks, range) = (self.items, self.blocks, self.range.clone());
        let read = Footer { items, blocks, range, len_bytes: begin, xxh3: self.hash.digest128() };
        if footer != read {
            return wrong("a footer that tells of another file");
        }
        // As it was read: the encoding of a value is unique, and so are the bytes.
        let encoded = postcard::to_stdvec(&footer).expect("it was decoded");
        if encoded != payload {
            return wrong("a footer that no writer writes");
        }
        let mut whole = BytesMut::new();
        frame(&mut whole, FOOTER, payload);
        self.hash.update(&whole);
        self.has_footer = true;
        Ok(())
    }

    /// What the file was, when all of its bytes were fed and all items taken.
    ///
    /// # Errors
    /// If it has no end.
    pub fn finish(self) -> Result<Summary<I::Place>, Malformed> {
        if !self.has_footer || !self.block.is_empty() {
            return Err(Malformed { offset_bytes: self.taken_bytes, what: Wrong::Truncated });
        }
        if !self.buffer.is_empty() {
            return self.wrong(Wrong::Content("bytes after the footer"));
        }
        let Reader { taken_bytes, crc32c, hash, items, range, .. } = self;
        Ok(Summary { len_bytes: taken_bytes, crc32c, xxh3: hash.digest128(), items, range })
    }

    fn wrong<T>(&self, what: Wrong) -> Result<T, Malformed> {
        Err(Malformed { offset_bytes: self.taken_bytes, what })
    }

    fn wrong_item<T>(&self, what: &'static str) -> Result<T, Malformed> {
        Err(Malformed { offset_bytes: self.block_offset_bytes, what: Wrong::Content(what) })
    }
}

/// Reads a file that is in memory.
///
/// # Errors
/// If the bytes are not those of a file.
pub fn read_all<I: Item>(bytes: &[u8]) -> Result<(Vec<I>, Summary<I::Place>), Malformed> {
    let mut reader = Reader::default();
    reader.feed(bytes);
    let mut items = Vec::new();
    while let Some(item) = reader.next_item()? {
        items.push(item);
    }
    Ok((items, reader.finish()?))
}
