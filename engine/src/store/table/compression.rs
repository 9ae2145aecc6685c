//! Compression of single blocks, and of single values in blob files (7.8.3 `util/compression.h`, with the framing of format_version 2
//! and later).
//!
//! The byte behind a block names its compression. LZ4 and ZSTD blocks begin with a varint32, the length of what was
//! compressed; Snappy's own format begins with the same. All three are read, since RocksDB writes them (Snappy unless it is
//! told otherwise). Snappy and LZ4 are written. ZSTD is not: the encoder that there is in Rust alone makes blocks of 4 KiB
//! only a seventh smaller than LZ4 does, in thirty times the time (docs/store.md has the figures).
//!
//! The length that a block claims is refused before anything is allocated if its format could not get that far from the
//! bytes that are there, or if it is beyond [`MAX_BLOCK_BYTES`].

use crate::store::coding::{Cursor, Malformed, put_varint};

/// The longest content of a compressed block; a longer one is written as it is, and refused when it is read. Bytes.
pub const MAX_BLOCK_BYTES: usize = 1 << 30;

/// ZSTD's own blocks are at most this long, and none takes less than [`ZSTD_BLOCK_MIN_BYTES`]. Bytes.
const ZSTD_BLOCK_MAX_BYTES: usize = 128 << 10;
const ZSTD_BLOCK_MIN_BYTES: usize = 4;
/// What a byte of LZ4 can at most stand for. Bytes.
const LZ4_MAX_EXPANSION: usize = 255;
/// A copy of Snappy takes two bytes or more and stands for 64 at most.
const SNAPPY_MAX_EXPANSION: usize = 32;

/// How a block is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// Fast, RocksDB's default.
    Snappy,
    /// Faster and somewhat smaller.
    Lz4,
    /// Smaller and slower. Only read.
    Zstd,
}

impl Compression {
    /// The byte behind a block. LZ4HC (5) is another encoder for the format of LZ4.
    ///
    /// # Errors
    /// The name of the method that is not supported.
    pub fn from_u8(byte: u8) -> Result<Compression, &'static str> {
        match byte {
            0 => Ok(Compression::None),
            1 => Ok(Compression::Snappy),
            2 => Err("zlib"),
            3 => Err("bzip2"),
            4 | 5 => Ok(Compression::Lz4),
            6 => Err("Xpress"),
            7 => Ok(Compression::Zstd),
            _ => Err("an unknown method"),
        }
    }

    /// The byte behind a block.
    pub fn to_u8(self) -> u8 {
        match self {
            Compression::None => 0,
            Compression::Snappy => 1,
            Compression::Lz4 => 4,
            Compression::Zstd => 7,
        }
    }

    /// What the property `rocksdb.compression` says.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "NoCompression",
            Compression::Snappy => "Snappy",
            Compression::Lz4 => "LZ4",
            Compression::Zstd => "ZSTD",
        }
    }

    /// True if blocks can be written with it.
    pub fn is_written(self) -> bool {
        self != Compression::Zstd
    }

    /// The block, if it is worth it: an eighth shorter at least, as RocksDB asks for.
    ///
    /// # Panics
    /// If it is not written; the options are checked long before.
    pub fn compress(self, content: &[u8]) -> Option<Vec<u8>> {
        let block = match self {
            Compression::None => return None,
            _ => self.compress_any(content)?,
        };
        (block.len() < content.len() - content.len() / 8).then_some(block)
    }

    /// The block, however long it gets; nothing if the content is longer than [`MAX_BLOCK_BYTES`].
    ///
    /// # Panics
    /// As [`Compression::compress`].
    pub fn compress_any(self, content: &[u8]) -> Option<Vec<u8>> {
        if content.len() > MAX_BLOCK_BYTES {
            return None;
        }
        match self {
            Compression::None => Some(content.to_vec()),
            Compression::Snappy => snap::raw::Encoder::new().compress_vec(content).ok(),
            Compression::Lz4 => {
                let mut block = Vec::new();
                put_varint(&mut block, content.len() as u64);
                block.extend_from_slice(&lz4_flex::block::compress(content));
                Some(block)
            }
            Compression::Zstd => panic!("ZSTD is not written"),
        }
    }

    /// How long a block says that its content is. Not to be believed. Bytes.
    ///
    /// # Errors
    /// If it does not say.
    pub fn claimed_bytes(self, block: &[u8]) -> Result<u64, Malformed> {
        match self {
            Compression::None => Ok(block.len() as u64),
            _ => Cursor::new(block).varint32().map(u64::from),
        }
    }

    /// The content of a block, which may be anything.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decompress(self, block: &[u8]) -> Result<Vec<u8>, Malformed> {
        let bad = |what| Malformed { offset_bytes: 0, what };
        let mut cursor = Cursor::new(block);
        let claimed_bytes = match self {
            Compression::None => return Ok(block.to_vec()),
            _ => cursor.varint32()? as usize,
        };
        let compressed = &block[cursor.offset()..];
        let most_bytes = match self {
            Compression::None => compressed.len(),
            Compression::Snappy => compressed.len().saturating_mul(SNAPPY_MAX_EXPANSION),
            Compression::Lz4 => compressed.len().saturating_mul(LZ4_MAX_EXPANSION),
            Compression::Zstd => {
                (compressed.len() / ZSTD_BLOCK_MIN_BYTES).saturating_mul(ZSTD_BLOCK_MAX_BYTES)
            }
        };
        if claimed_bytes > most_bytes.min(MAX_BLOCK_BYTES) {
            return Err(bad("a compressed block claims more than it can hold"));
        }
        let mut content = vec![0; claimed_bytes];
        let len_bytes = match self {
            Compression::None => None,
            Compression::Snappy => snap::raw::Decoder::new().decompress(block, &mut content).ok(),
            Compression::Lz4 => lz4_flex::block::decompress_into(compressed, &mut content).ok(),
            Compression::Zstd => decompress_zstd(compressed, &mut content),
        };
        match len_bytes {
            Some(len_bytes) if len_bytes == claimed_bytes => Ok(content),
            Some(_) => Err(bad("a compressed block holds less than it claims")),
            None => Err(bad("a compressed block does not decompress")),
        }
    }
}

/// Nothing if the frames are wrong, or hold more than fits into `content`.
fn decompress_zstd(frames: &[u8], content: &mut [u8]) -> Option<usize> {
    let mut decoder = ruzstd::decoding::FrameDecoder::new();
    // A window longer than the content is of no use, but encoders round it up.
    decoder.set_max_window_size((2 * content.len().max(ZSTD_BLOCK_MAX_BYTES)) as u64);
    decoder.decode_all(frames, content).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Compression; 3] = [Compression::Snappy, Compression::Lz4, Compression::Zstd];

    /// As RocksDB would; ZSTD with an encoder that is good enough for tests.
    fn compressed(compression: Compression, content: &[u8]) -> Option<Vec<u8>> {
        if compression.is_written() {
            return compression.compress(content);
        }
        let mut block = Vec::new();
        put_varint(&mut block, content.len() as u64);
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        block.extend_from_slice(&ruzstd::encoding::compress_to_vec(content, level));
        Some(block)
    }

    fn what(compression: Compression, block: &[u8]) -> &'static str {
        compression.decompress(block).unwrap_err().what
    }

    #[test]
    fn a_frame_of_the_reference_encoder_is_read() {
        let text =
            b"cutwater compresses blocks, cutwater decompresses blocks, cutwater reads blocks of cutwater, \
over and over and over";
        let frame = [
            0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x73, 0xe5, 0x01, 0x00, 0xf2, 0x82, 0x0a, 0x11, 0xb0, 0xb9, 0x01,
            0xa4, 0x16, 0xe7, 0x96, 0x40, 0x58, 0xae, 0xbc, 0x61, 0xd8, 0x51, 0xc6, 0x22, 0x02, 0x68, 0xcc,
            0x7a, 0x95, 0x06, 0x22, 0x8d, 0x76, 0x3d, 0x1a, 0xec, 0xb8, 0x24, 0xc1, 0xfb, 0xdd, 0xeb, 0x29,
            0x79, 0xd6, 0x23, 0x5b, 0x28, 0x5d, 0x05, 0x00, 0x2c, 0x12, 0xf1, 0xd4, 0x43, 0x27, 0x41, 0x82,
            0x62, 0x98, 0x2f, 0xa6, 0x13,
        ];
        let mut block = vec![text.len() as u8];
        block.extend_from_slice(&frame);
        assert_eq!(Compression::Zstd.decompress(&block).unwrap(), text);
    }

    #[test]
    fn only_what_gets_shorter_is_compressed() {
        assert_eq!(Compression::None.compress(&[7; 1000]), None);
        for compression in [Compression::Snappy, Compression::Lz4] {
            assert!(compression.compress(&[7; 1000]).unwrap().len() < 100);
            let noise: Vec<u8> =
                (0..1000u64).map(|i| xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes()) as u8).collect();
            assert_eq!(compression.compress(&noise), None);
            assert_eq!(compression.compress(&[]), None);
        }
    }

    #[test]
    fn a_claimed_length_is_refused_before_it_is_allocated() {
        let mut block = Vec::new();
        put_varint(&mut block, u64::from(u32::MAX));
        block.extend_from_slice(&[0; 100]);
        for compression in ALL {
            assert_eq!(what(compression, &block), "a compressed block claims more than it can hold");
            assert_eq!(what(compression, &[0xff; 4]), "a byte is missing");
        }
        let mut short = compressed(Compression::Zstd, &[7; 1000]).unwrap();
        short[0] += 1;
        assert_eq!(what(Compression::Zstd, &short), "a compressed block holds less than it claims");
        short[0] -= 2;
        assert_eq!(what(Compression::Zstd, &short), "a compressed block does not decompress");
    }

    #[test]
    fn other_compressions_are_refused_by_name() {
        assert_eq!(
            (Compression::from_u8(2), Compression::from_u8(9)),
            (Err("zlib"), Err("an unknown method"))
        );
        assert!(
            [Compression::None, Compression::Snappy, Compression::Lz4, Compression::Zstd]
                .iter()
                .all(|c| Compression::from_u8(c.to_u8()) == Ok(*c))
        );
    }

    /// Bytes that compress: runs of few different bytes.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let run = (0u8..5, 1usize..60).prop_map(|(byte, len)| vec![byte; len]);
        prop::collection::vec(run, 0..60).prop_map(|runs| runs.concat())
    }

    #[test]
    fn what_does_not_get_shorter_is_compressed_if_it_must() {
        let noise: Vec<u8> =
            (0..1000u64).map(|i| xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes()) as u8).collect();
        for compression in [Compression::None, Compression::Snappy, Compression::Lz4] {
            for content in [&noise[..], &[], b"a"] {
                let block = compression.compress_any(content).unwrap();
                assert_eq!(compression.claimed_bytes(&block), Ok(content.len() as u64));
                assert_eq!(compression.decompress(&block).as_deref(), Ok(content));
            }
        }
    }

    proptest! {
        #[test]
        fn roundtrip(content in content()) {
            for compression in ALL {
                if let Some(block) = compressed(compression, &content) {
                    prop_assert_eq!(compression.decompress(&block), Ok(content.clone()));
                }
            }
        }

        #[test]
        fn a_damaged_block_gives_an_error_or_as_much_as_it_claims(
            content in content(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            for compression in ALL {
                let Some(mut block) = compressed(compression, &content) else { continue };
                for (at, xor) in &changes {
                    let at = at.index(block.len());
                    block[at] ^= xor;
                }
                for damaged in [&block[..], &block[..cut.index(block.len())]] {
                    if let Ok(content) = compression.decompress(damaged) {
                        prop_assert_eq!(content.len(), Cursor::new(damaged).varint32().unwrap() as usize);
                    }
                }
            }
        }

        #[test]
        fn anything_is_decompressed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for compression in ALL {
                let _ = compression.decompress(&bytes);
            }
        }
    }
}
