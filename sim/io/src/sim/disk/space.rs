//! How much fits: sectors of what processes see, unlinked files that are still open included.
//!
//! A write takes what fits and then fails with `ENOSPC`; so does a new name on a full disk (a directory has to grow).
//! Removing a name always works, and frees nothing while the file is open.
//!
//! Not modelled: space that is freed only once the journal commits, errors that come as late as the sync.

use std::io;

use super::Disk;
use super::path::os;

impl Disk {
    /// Bytes in allocated sectors.
    pub fn used_bytes(&self) -> u64 {
        self.vol.used_sectors() * u64::from(self.sector_bytes())
    }

    /// Sets the size; `None` for no limit. It may be less than what is used already.
    pub fn set_capacity(&mut self, bytes: Option<u64>) {
        self.capacity_bytes = bytes;
    }

    /// True if another sector fits.
    pub(super) fn has_space(&self) -> bool {
        self.capacity_bytes
            .is_none_or(|capacity| self.used_bytes() + u64::from(self.sector_bytes()) <= capacity)
    }

    pub(super) fn check_space_for_name(&self) -> io::Result<()> {
        if self.has_space() { Ok(()) } else { Err(os(libc::ENOSPC)) }
    }
}
