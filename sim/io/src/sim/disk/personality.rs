//! What a file system promises about the order in which things reach the medium, beyond the little that all promise.
//!
//! A personality is data: ordering rules that the log turns into edges when an operation is issued, and forcing rules that
//! say what a sync carries along. A further file system is a further row; nothing else has to know of it.
//!
//! | rule | `posix_min` | `ext4_ordered` |
//! |---|---|---|
//! | new sectors before the length that uncovers them | no | yes |
//! | names (link, unlink, rename) in one order | no | yes |
//! | earlier names before later lengths | no | yes |
//! | contents before a rename over an existing file | no | yes (`auto_da_alloc`) |
//! | fsync of a file carries | nothing else | all names so far |
//! | fsync of a directory carries | its own names | all names so far |
//!
//! `ext4_ordered` is ext4 with `data=ordered`, one linear journal and no fast commits. `posix_min` grants what POSIX
//! grants and no more, so that its crash states include those of every other personality.

use serde::{Deserialize, Serialize};

/// The kind of file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Personality {
    /// The least that POSIX grants.
    #[default]
    PosixMin,
    /// ext4 with `data=ordered`.
    Ext4Ordered,
}

/// The rules of a personality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Newly allocated sectors reach the medium before the length that uncovers them.
    pub data_before_size: bool,
    /// Links, unlinks and renames reach the medium in the order of their issue.
    pub names_in_order: bool,
    /// Earlier links, unlinks and renames reach the medium before later lengths.
    pub names_before_size: bool,
    /// What is pending of a file reaches the medium before a rename that puts it in the place of another.
    pub contents_before_replace: bool,
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
    /// Those of the directory that is synced.
    OfDir,
    /// All that were issued.
    All,
}

impl Personality {
    /// The rules.
    pub fn rules(self) -> Rules {
        match self {
            Personality::PosixMin => Rules {
                data_before_size: false,
                names_in_order: false,
                names_before_size: false,
                contents_before_replace: false,
                checksums: false,
                file_sync_names: NamesForced::None,
                dir_sync_names: NamesForced::OfDir,
            },
            Personality::Ext4Ordered => Rules {
                data_before_size: true,
                names_in_order: true,
                names_before_size: true,
                contents_before_replace: true,
                checksums: false,
                file_sync_names: NamesForced::All,
                dir_sync_names: NamesForced::All,
            },
        }
    }
}
