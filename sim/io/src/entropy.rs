//! Randomness that the plan decides.
//!
//! Each draw names its purpose. In the simulation the n-th draw of a node for a purpose is a function of (plan, node,
//! purpose, n), so that removing one event of a plan does not re-roll the others. In a real build it is the operating
//! system's.

/// 64 random bits.
pub fn u64(purpose: &'static str) -> u64 {
    let mut bytes = [0; 8];
    fill(purpose, &mut bytes);
    u64::from_le_bytes(bytes)
}

/// Random bytes.
pub fn fill(purpose: &'static str, bytes: &mut [u8]) {
    imp::fill(purpose, bytes);
}

/// A random (version 4) UUID in its usual form of 36 characters.
pub fn uuid(purpose: &'static str) -> String {
    let mut b = [0; 16];
    fill(purpose, &mut b);
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: String = b.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(not(madsim))]
mod imp {
    #[expect(unsafe_code, reason = "getrandom(2) has no wrapper in std")]
    pub(super) fn fill(_purpose: &'static str, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            // SAFETY: the pointer and the length are those of a live, writable slice.
            let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
            match usize::try_from(n) {
                Ok(n) => bytes = &mut bytes[n..],
                Err(_) => {
                    let error = std::io::Error::last_os_error();
                    assert!(error.kind() == std::io::ErrorKind::Interrupted, "getrandom: {error}");
                }
            }
        }
    }
}

#[cfg(madsim)]
mod imp {
    pub(super) fn fill(purpose: &'static str, bytes: &mut [u8]) {
        crate::sim::Env::current().fill_entropy(purpose, bytes);
    }
}
