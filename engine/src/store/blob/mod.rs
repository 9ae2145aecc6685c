//! Key-value separation: large values lie in blob files, and tables hold where (RocksDB's integrated BlobDB, after WiscKey, Lu et
//! al., FAST 2016). A compaction moves keys and leaves the values where they are; what it drops is garbage in a blob file, and
//! the values of old files that it meets are written anew, until nothing of such a file is needed.

mod cache;
pub mod format;
mod placement;
pub mod reader;
mod stored;
pub mod writer;

pub(crate) use cache::BlobCache;
pub use format::BlobIndex;
pub(crate) use placement::{Held, Placement, Sources};
pub use reader::BlobReader;
pub use stored::Stored;
pub use writer::BlobWriter;
