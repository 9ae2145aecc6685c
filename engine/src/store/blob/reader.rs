//! Reads values from a blob file that is finished.
//!
//! RocksDB looks at a blob file when a value of it is asked for, and at nothing of it when the store is opened. Here every file of a
//! version is looked at when the store is opened: that it is there, has the length that its records make, and begins and ends as
//! one. A value is read with its record, and both checksums and the key are compared each time, so a record that a stray write
//! put there is not taken for the one that was asked for.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use cutwater_io::fs::File;

use super::format::{
    BlobIndex, FOOTER_BYTES, Footer, HEADER_BYTES, Header, RECORD_HEADER_BYTES, RecordHeader, file_bytes,
};
use super::stored::Stored;
use crate::store::error::{Error, IoContext};
use crate::store::table::Compression;
use crate::store::verify::verify_whole;
use crate::store::version::BlobAddition;

fn check_header(path: &Path, family: u32, bytes: &[u8]) -> Result<(Header, Compression), Error> {
    let header = Header::decode(bytes).map_err(|m| Error::malformed(path, 0, m))?;
    if header.family != family {
        let what = format!("it holds values of family {}, not of {family}", header.family);
        return Err(Error::corruption(path, 8, what));
    }
    Ok((header, header.method(path)?))
}

/// An open blob file.
#[derive(Debug)]
pub struct BlobReader {
    file: File,
    path: PathBuf,
    number: u64,
    header: Header,
    compression: Compression,
    len_bytes: u64,
}

impl BlobReader {
    /// Opens the file at `path`, which must be the one of this family that `meta` describes.
    ///
    /// # Errors
    /// I/O, damage, or a kind of blob that is not supported.
    pub async fn open(path: &Path, family: u32, meta: &BlobAddition) -> Result<BlobReader, Error> {
        let file = File::open(path).await.during("open", path)?;
        let len_bytes = file.len().await.during("stat", path)?;
        let expected_bytes = file_bytes(meta);
        if len_bytes != expected_bytes {
            let what = format!("the file has {len_bytes} bytes, the MANIFEST says {expected_bytes}");
            return Err(Error::corruption(path, len_bytes.min(expected_bytes), what));
        }
        let mut bytes = [0; HEADER_BYTES];
        file.read_exact_at(&mut bytes, 0).await.during("read", path)?;
        let (header, compression) = match check_header(path, family, &bytes) {
            Ok(checked) => checked,
            // The header has no checksum: whether a kind of file is not supported or bits of it are wrong, the MANIFEST may know.
            Err(error) => {
                if let Some(crc32c) = meta.crc32c() {
                    verify_whole(path, len_bytes, crc32c).await?;
                }
                return Err(error);
            }
        };
        let footer_at = len_bytes - FOOTER_BYTES as u64;
        let mut bytes = [0; FOOTER_BYTES];
        file.read_exact_at(&mut bytes, footer_at).await.during("read", path)?;
        let footer = Footer::decode(&bytes).map_err(|m| Error::malformed(path, footer_at, m))?;
        if footer.count != meta.total_count {
            let what =
                format!("it ends after {} values, the MANIFEST says {}", footer.count, meta.total_count);
            return Err(Error::corruption(path, footer_at, what));
        }
        Ok(BlobReader { file, path: path.to_owned(), number: meta.number, header, compression, len_bytes })
    }

    /// The value of `key` that `index` names.
    ///
    /// # Errors
    /// I/O, or damage of the file or of the index.
    pub async fn get(&self, key: &[u8], index: &BlobIndex) -> Result<Vec<u8>, Error> {
        let stored = self.get_stored(key, index).await?;
        self.decompress(index, stored)
    }

    /// The value of `index`, once it was read.
    pub(crate) fn decompress(&self, index: &BlobIndex, stored: Stored<'_>) -> Result<Vec<u8>, Error> {
        stored.into_value().map_err(|m| Error::malformed(&self.path, index.offset_bytes, m))
    }

    /// As [`BlobReader::get`], but not decompressed.
    ///
    /// # Errors
    /// I/O, or damage of the file or of the index.
    pub async fn get_stored(&self, key: &[u8], index: &BlobIndex) -> Result<Stored<'static>, Error> {
        let corruption = |what: &str| Error::corruption(&self.path, index.offset_bytes, what);
        if index.file != self.number || index.compression != self.header.compression {
            return Err(corruption("a table names a value in it that it cannot have"));
        }
        let values_end = self.len_bytes - FOOTER_BYTES as u64;
        let record = index.record(key.len()).filter(|(_, end)| *end <= values_end);
        let Some((begins, ends)) = record else {
            return Err(corruption("a table names a value that lies outside of it"));
        };
        let len_bytes =
            usize::try_from(ends - begins).map_err(|_| corruption("a value too long to be read"))?;
        let mut record = vec![0; len_bytes];
        self.file.read_exact_at(&mut record, begins).await.during("read", &self.path)?;
        let (head, rest) = record.split_at(RECORD_HEADER_BYTES);
        let header = RecordHeader::decode(head).map_err(|m| Error::malformed(&self.path, begins, m))?;
        let (found_key, value) = rest.split_at(key.len());
        if (header.key_bytes, header.value_bytes) != (key.len() as u64, index.value_bytes) || found_key != key
        {
            return Err(corruption("a record of another key or another length"));
        }
        if !header.matches(key, value) {
            return Err(corruption("a value with a wrong checksum"));
        }
        Ok(Stored { bytes: Cow::Owned(value.to_vec()), compression: self.compression })
    }

    /// Reads all records, and decompresses their values.
    ///
    /// # Errors
    /// As [`BlobReader::get`]; or if the records are not those that the MANIFEST counts.
    pub async fn verify(&self, meta: &BlobAddition) -> Result<(), Error> {
        let end = self.len_bytes - FOOTER_BYTES as u64;
        let (mut at, mut count) = (HEADER_BYTES as u64, 0);
        while at < end {
            let corruption = |what: &str| Error::corruption(&self.path, at, what);
            let mut head = [0; RECORD_HEADER_BYTES];
            if end - at < RECORD_HEADER_BYTES as u64 {
                return Err(corruption("a record is cut off"));
            }
            self.file.read_exact_at(&mut head, at).await.during("read", &self.path)?;
            let header = RecordHeader::decode(&head).map_err(|m| Error::malformed(&self.path, at, m))?;
            let len_bytes = header.key_bytes.checked_add(header.value_bytes);
            let left = end - at - RECORD_HEADER_BYTES as u64;
            let Some(len_bytes) = len_bytes.filter(|len| *len <= left) else {
                return Err(corruption("a record goes past the end"));
            };
            let mut body =
                vec![0; usize::try_from(len_bytes).map_err(|_| corruption("a record too long to be read"))?];
            self.file
                .read_exact_at(&mut body, at + RECORD_HEADER_BYTES as u64)
                .await
                .during("read", &self.path)?;
            let (key, value) = body.split_at(header.key_bytes as usize);
            if !header.matches(key, value) {
                return Err(corruption("a value with a wrong checksum"));
            }
            let stored = Stored { bytes: Cow::Borrowed(value), compression: self.compression };
            stored.into_value().map_err(|m| Error::malformed(&self.path, at, m))?;
            at += RECORD_HEADER_BYTES as u64 + len_bytes;
            count += 1;
        }
        if count != meta.total_count {
            let what = format!("it holds {count} values, the MANIFEST says {}", meta.total_count);
            return Err(Error::corruption(&self.path, 0, what));
        }
        Ok(())
    }
}
