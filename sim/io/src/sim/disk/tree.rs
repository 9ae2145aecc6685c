//! A file tree: inodes, directories and sectors.
//!
//! Everything is keyed by inode, never by path: a file that is renamed or unlinked while open stays the same file. All maps
//! are persistent (`imbl`), so that a clone costs a few reference counts and shares everything until one side changes;
//! harvesting crash images depends on that. Inode numbers are never used twice in the life of a disk.
//!
//! The operations here are total: they can be applied in any permissible subset of the order in which they were issued.
//! A sector of an unknown inode makes the inode, a name in an unknown directory makes the directory; what cannot be
//! reached from the root in the end is dropped by [`Tree::settle`]. There is no lost+found.
//!
//! Not modelled: symbolic links, owners, modes, times, extended attributes.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use xxhash_rust::xxh3::Xxh3;

/// The number of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ino(pub u64);

/// The root directory.
pub const ROOT: Ino = Ino(1);

/// A name inside a directory.
pub type Name = Arc<str>;

/// The content of a sector.
pub type Sector = Arc<[u8]>;

/// A file or a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// How many names lead here. The root has none.
    pub nlink: u32,
    /// What it is.
    pub body: Body,
}

/// What an inode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A file. A sector that is missing reads as zeros.
    File {
        /// Length in bytes.
        len_bytes: u64,
        /// The allocated sectors by number. On a tree that was not settled some may lie beyond the length.
        sectors: OrdMap<u64, Sector>,
    },
    /// A directory.
    Dir {
        /// Names in it.
        entries: OrdMap<Name, Ino>,
    },
}

impl Inode {
    fn file() -> Inode {
        Inode { nlink: 0, body: Body::File { len_bytes: 0, sectors: OrdMap::new() } }
    }

    fn dir() -> Inode {
        Inode { nlink: 0, body: Body::Dir { entries: OrdMap::new() } }
    }

    /// True for a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir { .. })
    }
}

/// A tree of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    sector_bytes: u32,
    inodes: OrdMap<Ino, Inode>,
    used_sectors: u64,
}

/// A tree as its users see it: every path, with what is there. Equal listings cannot be told apart by reading.
pub type Listing = BTreeMap<String, Seen>;

/// What is seen at a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// A directory.
    Dir,
    /// A file.
    File {
        /// Length in bytes.
        len_bytes: u64,
        /// The sectors that are not all zeros, cut at the length.
        sectors: BTreeMap<u64, Sector>,
        /// Size of a sector in bytes.
        sector_bytes: u32,
    },
}

impl Seen {
    /// The contents of a file; nothing for a directory.
    pub fn bytes(&self) -> Vec<u8> {
        let Seen::File { len_bytes, sectors, sector_bytes } = self else { return Vec::new() };
        let mut bytes = vec![0; *len_bytes as usize];
        for (number, sector) in sectors {
            let at = (number * u64::from(*sector_bytes)) as usize;
            bytes[at..at + sector.len()].copy_from_slice(sector);
        }
        bytes
    }
}

impl Tree {
    /// Only a root.
    pub fn new(sector_bytes: u32) -> Tree {
        Tree { sector_bytes, inodes: OrdMap::unit(ROOT, Inode::dir()), used_sectors: 0 }
    }

    /// Size of a sector in bytes.
    pub fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }

    /// Allocated sectors.
    pub fn used_sectors(&self) -> u64 {
        self.used_sectors
    }

    /// An inode.
    pub fn inode(&self, ino: Ino) -> Option<&Inode> {
        self.inodes.get(&ino)
    }

    /// What `name` in `dir` leads to.
    pub fn entry(&self, dir: Ino, name: &str) -> Option<Ino> {
        self.entries(dir)?.get(name).copied()
    }

    /// The names in a directory; `None` if it is not one.
    pub fn entries(&self, dir: Ino) -> Option<&OrdMap<Name, Ino>> {
        match &self.inodes.get(&dir)?.body {
            Body::Dir { entries } => Some(entries),
            Body::File { .. } => None,
        }
    }

    /// Length of a file in bytes, 0 for a directory; `None` if there is no such inode.
    pub fn len_bytes(&self, ino: Ino) -> Option<u64> {
        match &self.inodes.get(&ino)?.body {
            Body::File { len_bytes, .. } => Some(*len_bytes),
            Body::Dir { .. } => Some(0),
        }
    }

    /// A sector of a file, if it is allocated.
    pub fn sector(&self, ino: Ino, number: u64) -> Option<&Sector> {
        match &self.inodes.get(&ino)?.body {
            Body::File { sectors, .. } => sectors.get(&number),
            Body::Dir { .. } => None,
        }
    }

    /// The numbers of the allocated sectors of a file.
    pub fn sector_numbers(&self, ino: Ino) -> impl Iterator<Item = u64> {
        let sectors = match &self.inodes[&ino].body {
            Body::File { sectors, .. } => Some(sectors),
            Body::Dir { .. } => None,
        };
        sectors.into_iter().flat_map(|sectors| sectors.keys().copied())
    }

    /// Makes `name` in `dir` lead to `ino`, and returns what it led to before.
    pub fn set_entry(&mut self, dir: Ino, name: &Name, ino: Ino, is_dir: bool) -> Option<Ino> {
        let inode =
            self.inodes.entry(ino).or_insert_with(|| if is_dir { Inode::dir() } else { Inode::file() });
        assert!(inode.is_dir() == is_dir, "{ino:?} changed from file to directory or back");
        inode.nlink += 1;
        let old = self.entries_mut(dir).insert(name.clone(), ino);
        self.unlinked(old)
    }

    /// Removes `name` from `dir`, and returns what it led to.
    pub fn remove_entry(&mut self, dir: Ino, name: &str) -> Option<Ino> {
        let old = self.entries_mut(dir).remove(name);
        self.unlinked(old)
    }

    fn unlinked(&mut self, old: Option<Ino>) -> Option<Ino> {
        if let Some(ino) = old {
            let inode = self.inodes.get_mut(&ino).expect("an entry leads to an inode");
            assert!(inode.nlink > 0, "{ino:?} lost a name that it did not have");
            inode.nlink -= 1;
        }
        old
    }

    /// Sets the content of a sector.
    pub fn put_sector(&mut self, ino: Ino, number: u64, content: Sector) {
        assert!(content.len() == self.sector_bytes as usize, "a sector of {} bytes", content.len());
        let (_, sectors) = self.file_mut(ino);
        if sectors.insert(number, content).is_none() {
            self.used_sectors += 1;
        }
    }

    /// Zeros a sector from `from_byte` on; from its start, the sector is freed.
    pub fn zero_sector(&mut self, ino: Ino, number: u64, from_byte: u32) {
        let (_, sectors) = self.file_mut(ino);
        if from_byte == 0 {
            if sectors.remove(&number).is_some() {
                self.used_sectors -= 1;
            }
        } else if let Some(sector) = sectors.get_mut(&number)
            && sector[from_byte as usize..].iter().any(|byte| *byte != 0)
        {
            let mut content = sector.to_vec();
            content[from_byte as usize..].fill(0);
            *sector = content.into();
        }
    }

    /// Sets the length, and frees the sectors beyond it.
    pub fn set_len(&mut self, ino: Ino, new_len_bytes: u64) {
        let first_beyond = new_len_bytes.div_ceil(u64::from(self.sector_bytes));
        let (len_bytes, sectors) = self.file_mut(ino);
        *len_bytes = new_len_bytes;
        let before = sectors.len();
        if sectors.get_max().is_some_and(|(last, _)| *last >= first_beyond) {
            let (kept, _, _) = sectors.split_lookup(&first_beyond);
            *sectors = kept;
        }
        let freed = before - sectors.len();
        self.used_sectors -= freed as u64;
    }

    /// Drops an inode and its sectors.
    pub fn free(&mut self, ino: Ino) {
        if let Some(Inode { body: Body::File { sectors, .. }, .. }) = self.inodes.remove(&ino) {
            self.used_sectors -= sectors.len() as u64;
        }
    }

    fn file_mut(&mut self, ino: Ino) -> (&mut u64, &mut OrdMap<u64, Sector>) {
        match &mut self.inodes.entry(ino).or_insert_with(Inode::file).body {
            Body::File { len_bytes, sectors } => (len_bytes, sectors),
            Body::Dir { .. } => panic!("{ino:?} is a directory"),
        }
    }

    fn entries_mut(&mut self, ino: Ino) -> &mut OrdMap<Name, Ino> {
        match &mut self.inodes.entry(ino).or_insert_with(Inode::dir).body {
            Body::Dir { entries } => entries,
            Body::File { .. } => panic!("{ino:?} is a file"),
        }
    }

    /// Takes over the content that a file has in `other` (none, if it is not there), as it is seen; names stay as they are.
    pub fn take_file(&mut self, other: &Tree, ino: Ino) {
        let nlink = self.inodes.get(&ino).map_or(0, |inode| inode.nlink);
        self.free(ino);
        let mut inode = other.inodes.get(&ino).cloned().unwrap_or_else(Inode::file);
        inode.nlink = nlink;
        if let Body::File { sectors, .. } = &inode.body {
            self.used_sectors += sectors.len() as u64;
        }
        self.inodes.insert(ino, inode);
        self.hide_beyond_end(ino);
    }

    /// Frees the sectors beyond the end of a file, and zeros the rest of its last one.
    fn hide_beyond_end(&mut self, ino: Ino) {
        let len_bytes = self.len_bytes(ino).expect("the inode exists");
        self.set_len(ino, len_bytes);
        let size = u64::from(self.sector_bytes);
        let from_byte = (len_bytes % size) as u32;
        if from_byte > 0 {
            self.zero_sector(ino, len_bytes / size, from_byte);
        }
    }

    /// What a mount after a crash finds: only what can be reached from the root, nothing beyond the ends of files.
    pub fn settle(&mut self) {
        let mut settled = Tree { inodes: OrdMap::new(), ..*self };
        settled.used_sectors = 0;
        let mut todo = vec![ROOT];
        while let Some(ino) = todo.pop() {
            if settled.inodes.contains_key(&ino) {
                continue;
            }
            let inode = self.inodes[&ino].clone();
            match &inode.body {
                Body::Dir { entries } => todo.extend(entries.values()),
                Body::File { sectors, .. } => settled.used_sectors += sectors.len() as u64,
            }
            settled.inodes.insert(ino, inode);
        }
        settled.recount_links();
        let files: Vec<Ino> =
            settled.inodes.iter().filter(|(_, inode)| !inode.is_dir()).map(|(ino, _)| *ino).collect();
        files.into_iter().for_each(|ino| settled.hide_beyond_end(ino));
        *self = settled;
    }

    /// Names in directories that were dropped no longer count.
    fn recount_links(&mut self) {
        let mut links: BTreeMap<Ino, u32> = BTreeMap::new();
        for inode in self.inodes.values() {
            if let Body::Dir { entries } = &inode.body {
                for ino in entries.values() {
                    *links.entry(*ino).or_default() += 1;
                }
            }
        }
        let wrong: Vec<Ino> = (self.inodes.iter())
            .filter(|(ino, inode)| inode.nlink != links.get(ino).copied().unwrap_or(0))
            .map(|(ino, _)| *ino)
            .collect();
        for ino in wrong {
            self.inodes.get_mut(&ino).expect("just seen").nlink = links.get(&ino).copied().unwrap_or(0);
        }
    }

    /// Every path with what is seen there.
    pub fn listing(&self) -> Listing {
        let mut listing = Listing::new();
        self.walk(|path, ino| {
            listing.insert(path.to_owned(), self.seen(ino));
        });
        listing
    }

    /// A hash of what is seen: names, lengths and contents. Trees with equal listings have equal hashes; how they came about
    /// (inode numbers, sectors of zeros that are allocated or not, names that share an inode) does not matter.
    pub fn hash(&self) -> u128 {
        let mut hasher = Xxh3::new();
        self.walk(|path, ino| {
            hasher.update(&(path.len() as u64).to_le_bytes());
            hasher.update(path.as_bytes());
            let Body::File { len_bytes, .. } = &self.inodes[&ino].body else {
                hasher.update(&u64::MAX.to_le_bytes());
                return;
            };
            hasher.update(&len_bytes.to_le_bytes());
            let mut count = 0u64;
            for (number, content) in self.visible_sectors(ino) {
                hasher.update(&number.to_le_bytes());
                hasher.update(content);
                count += 1;
            }
            hasher.update(&count.to_le_bytes());
        });
        hasher.digest128()
    }

    /// The sectors of a file that are not all zeros, cut at its end; none of a directory.
    fn visible_sectors(&self, ino: Ino) -> impl Iterator<Item = (u64, &[u8])> {
        let (len_bytes, sectors) = match &self.inodes[&ino].body {
            Body::File { len_bytes, sectors } => (*len_bytes, Some(sectors)),
            Body::Dir { .. } => (0, None),
        };
        let size = u64::from(self.sector_bytes);
        (sectors.into_iter().flatten())
            .take_while(move |(number, _)| **number * size < len_bytes)
            .map(move |(number, sector)| {
                let visible = (len_bytes - number * size).min(size) as usize;
                (*number, &sector[..visible])
            })
            .filter(|(_, content)| content.iter().any(|byte| *byte != 0))
    }

    /// Calls `visit` with each path and its inode, parents first, the root not at all.
    pub fn walk(&self, mut visit: impl FnMut(&str, Ino)) {
        let mut todo = vec![(String::new(), ROOT)];
        while let Some((path, dir)) = todo.pop() {
            for (name, ino) in self.entries(dir).into_iter().flatten() {
                let child = format!("{path}/{name}");
                visit(&child, *ino);
                if self.inodes.get(ino).is_some_and(Inode::is_dir) {
                    todo.push((child, *ino));
                }
            }
        }
    }

    /// What is seen at an inode.
    ///
    /// # Panics
    /// If there is no such inode.
    pub fn seen(&self, ino: Ino) -> Seen {
        let Body::File { len_bytes, sectors } = &self.inodes[&ino].body else { return Seen::Dir };
        let seen = |(number, content): (u64, &[u8])| {
            let whole = sectors[&number].len() == content.len();
            (number, if whole { sectors[&number].clone() } else { content.into() })
        };
        let sectors = self.visible_sectors(ino).map(seen).collect();
        Seen::File { len_bytes: *len_bytes, sectors, sector_bytes: self.sector_bytes }
    }
}
