//! Writes a blob file: values one after the other, durable when it is finished. Nothing refers to it before an edit names it with
//! the table that needs it.

use std::path::{Path, PathBuf};

use cutwater_io::fs::File;

use super::format::{BlobIndex, Footer, Header, RecordHeader, file_bytes};
use super::stored::Stored;
use crate::store::error::{Error, IoContext};
use crate::store::table::Compression;
use crate::store::version::BlobAddition;

/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 64 << 10;

/// A blob file that is being written.
#[derive(Debug)]
pub struct BlobWriter {
    file: File,
    path: PathBuf,
    compression: Compression,
    meta: BlobAddition,
    pending: Vec<u8>,
    written_bytes: u64,
    /// CRC-32C of all that was written.
    crc32c: u32,
}

impl BlobWriter {
    /// Creates the file, for values that are compressed in this way.
    ///
    /// # Errors
    /// I/O; also if there is a file.
    pub async fn create(
        path: &Path,
        number: u64,
        family: u32,
        compression: Compression,
    ) -> Result<BlobWriter, Error> {
        let file = File::create_new(path).await.during("create", path)?;
        let mut pending = Vec::new();
        Header { family, compression: compression.to_u8() }.encode(&mut pending);
        let meta = BlobAddition { number, ..BlobAddition::default() };
        Ok(BlobWriter {
            file,
            path: path.to_owned(),
            compression,
            meta,
            pending,
            written_bytes: 0,
            crc32c: 0,
        })
    }

    /// Length so far, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.written_bytes + self.pending.len() as u64
    }

    /// Appends a value, and says where it lies.
    ///
    /// # Errors
    /// I/O.
    ///
    /// # Panics
    /// If the value is compressed in another way than the file's.
    pub async fn add(&mut self, key: &[u8], stored: &Stored<'_>) -> Result<BlobIndex, Error> {
        assert_eq!(stored.compression, self.compression, "a blob file has one compression");
        let value = &stored.bytes[..];
        RecordHeader::of(key, value).encode(&mut self.pending);
        self.pending.extend_from_slice(key);
        let offset_bytes = self.len_bytes();
        self.pending.extend_from_slice(value);
        self.meta.total_count += 1;
        self.meta.total_bytes += RecordHeader::record_bytes(key.len(), value.len());
        if self.pending.len() >= WRITE_BYTES {
            self.write_pending().await?;
        }
        let (value_bytes, compression) = (value.len() as u64, self.compression.to_u8());
        Ok(BlobIndex { file: self.meta.number, offset_bytes, value_bytes, compression })
    }

    async fn write_pending(&mut self) -> Result<(), Error> {
        self.file.write_all_at(&self.pending, self.written_bytes).await.during("write", &self.path)?;
        self.written_bytes += self.pending.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &self.pending);
        self.pending.clear();
        Ok(())
    }

    /// Ends the file. Its content is durable then, its name is not.
    ///
    /// # Errors
    /// I/O.
    pub async fn finish(mut self) -> Result<BlobAddition, Error> {
        Footer { count: self.meta.total_count }.encode(&mut self.pending);
        self.write_pending().await?;
        self.file.sync_data().await.during("sync", &self.path)?;
        assert_eq!(self.written_bytes, file_bytes(&self.meta), "a blob file has the length of its parts");
        Ok(self.meta.with_crc32c(self.crc32c))
    }
}
