//! What a file system promises about the order in which things reach the medium, beyond the little that all promise.
//!
//! A personality is data: ordering rules that the log turns into edges when an operation is issued, and forcing rules that
//! say what a sync carries along. A further file system is a further row; nothing else has to know of it.
//!
//! | rule | `posix_min` | `btrfs` | `xfs` | `ext4_ordered` | `rocksdb_fi` |
//! |---|---|---|---|---|---|
//! | new sectors before the length that uncovers them | no | yes | yes | yes | yes |
//! | all operations on a file in one order | no | no | no | no | yes |
//! | names (link, unlink, rename) in one order | no | no | yes | yes | no |
//! | earlier names before later lengths | no | no | yes | yes | no |
//! | contents before a rename over an existing file | no | no | no | yes (`auto_da_alloc`) | no |
//! | fsync of a file carries | nothing else | its own new names | all names up to its last | all names so far | nothing else |
//! | fsync of a directory carries | its own names | its own names | all names up to its last | all names so far | its own names |
//! | a removal of a name is durable | when synced | when synced | when synced | when synced | at once |
//! | wrong bytes are | read | `EIO` (checksums) | read | read | read |
//!
//! `ext4_ordered` is ext4 with `data=ordered`, one linear journal and no fast commits. `xfs` has strictly ordered metadata
//! and flushes nothing when a file is replaced. `btrfs` gives an fsynced file its name and promises nothing of other
//! names. `posix_min` grants what POSIX grants and no more. The states that a crash may leave on them include each other,
//! from left to right: what fails on `xfs` fails on `btrfs` and on `posix_min`.
//!
//! `rocksdb_fi` stands outside of that row: it is the model of RocksDB's `FaultInjectionTestFS`, which undoes names made
//! since the last sync of their directory, cuts appended bytes at the end only, and makes removals durable at once. It
//! tells whether a bug would have been found by RocksDB's own crash tests.
//!
//! Not modelled: fast commits, `nobarrier`, `data=writeback`, `data=journal` (but see how its syncs fail), f2fs, ZFS.

use serde::{Deserialize, Serialize};

/// The kind of file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Personality {
    /// The least that POSIX grants.
    #[default]
    PosixMin,
    /// btrfs.
    Btrfs,
    /// xfs.
    Xfs,
    /// ext4 with `data=ordered`.
    Ext4Ordered,
    /// As RocksDB's crash tests have it.
    RocksdbFi,
}

/// The rules of a personality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Newly allocated sectors reach the medium before the length that uncovers them.
    pub data_before_size: bool,
    /// Whatever is done to one file reaches the medium in the order of issue.
    pub file_in_order: bool,
    /// Links, unlinks and renames reach the medium in the order of their issue.
    pub names_in_order: bool,
    /// Earlier links, unlinks and renames reach the medium before later lengths.
    pub names_before_size: bool,
    /// What is pending of a file reaches the medium before a rename that puts it in the place of another.
    pub contents_before_replace: bool,
    /// An unlink is on the medium as soon as it is done.
    pub unlink_is_durable: bool,
    /// Bytes that are not those that were written are an error, not data.
    pub checksums: bool,
    /// The names that a sync of a file's metadata carries along.
    pub file_sync_names: NamesForced,
    /// The names that a sync of a directory forces.
    pub dir_sync_names: NamesForced,
}

/// Which pending links, unlinks and renames a sync forces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamesForced {
    /// None.
    None,
    /// Those of what is synced: the names in a directory, the links and renames that lead to a file.
    Own,
    /// All up to the last that concerns what is synced: a name in the directory, a link, unlink or rename of the file.
    UpToOwn,
    /// All that were issued.
    All,
}

const POSIX_MIN: Rules = Rules {
    data_before_size: false,
    file_in_order: false,
    names_in_order: false,
    names_before_size: false,
    contents_before_replace: false,
    unlink_is_durable: false,
    checksums: false,
    file_sync_names: NamesForced::None,
    dir_sync_names: NamesForced::Own,
};

impl Personality {
    /// All of them: first the laxest, each stricter than the one before, and the one outside of that order.
    pub const ALL: &[Personality] = &[
        Personality::PosixMin,
        Personality::Btrfs,
        Personality::Xfs,
        Personality::Ext4Ordered,
        Personality::RocksdbFi,
    ];

    /// Its name in tables and documents.
    pub fn name(self) -> &'static str {
        match self {
            Personality::PosixMin => "posix_min",
            Personality::Btrfs => "btrfs",
            Personality::Xfs => "xfs",
            Personality::Ext4Ordered => "ext4_ordered",
            Personality::RocksdbFi => "rocksdb_fi",
        }
    }

    /// The rules.
    pub fn rules(self) -> Rules {
        match self {
            Personality::PosixMin => POSIX_MIN,
            Personality::Btrfs => Rules {
                data_before_size: true,
                checksums: true,
                file_sync_names: NamesForced::Own,
                ..POSIX_MIN
            },
            Personality::Xfs => Rules {
                data_before_size: true,
                names_in_order: true,
                names_before_size: true,
                file_sync_names: NamesForced::UpToOwn,
                dir_sync_names: NamesForced::UpToOwn,
                ..POSIX_MIN
            },
            Personality::Ext4Ordered => Rules {
                data_before_size: true,
                names_in_order: true,
                names_before_size: true,
                contents_before_replace: true,
                file_sync_names: NamesForced::All,
                dir_sync_names: NamesForced::All,
                ..POSIX_MIN
            },
            Personality::RocksdbFi => {
                Rules { data_before_size: true, file_in_order: true, unlink_is_durable: true, ..POSIX_MIN }
            }
        }
    }
}
