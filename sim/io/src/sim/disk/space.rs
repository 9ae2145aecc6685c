//! How much fits: sectors of what processes see, unlinked files that are still open included.
//!
//! A write takes what fits and then fails with `ENOSPC`; so does a new name on a full disk (a directory has to grow).
//! Removing a name always works, and frees nothing while the file is open.
//!
//! On a disk that is provisioned thinly space is missed *late*: writes are taken, and the sync that has no space for new
//! sectors loses some of them for good, as with delayed allocation.
//!
//! Not modelled: space that is freed only once the journal commits, quotas.

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

    /// From now on a missing sector is noticed when it is synced, or again when it is written.
    pub fn set_late_enospc(&mut self, late: bool) {
        self.late_enospc = late;
    }

    /// Bytes in sectors that are allocated on the medium.
    pub fn used_on_medium_bytes(&self) -> u64 {
        self.dur.used_sectors() * u64::from(self.sector_bytes())
    }

    /// How many more sectors a thinly provisioned disk has; `None` if it is not one or has no limit.
    pub(super) fn free_on_medium_sectors(&self) -> Option<u64> {
        let capacity = self.capacity_bytes.filter(|_| self.late_enospc)?;
        Some(capacity.saturating_sub(self.used_on_medium_bytes()) / u64::from(self.sector_bytes()))
    }

    /// True if another sector fits.
    pub(super) fn has_space(&self) -> bool {
        if self.late_enospc {
            return true;
        }
        self.capacity_bytes
            .is_none_or(|capacity| self.used_bytes() + u64::from(self.sector_bytes()) <= capacity)
    }

    pub(super) fn check_space_for_name(&self) -> io::Result<()> {
        if self.has_space() { Ok(()) } else { Err(os(libc::ENOSPC)) }
    }
}
