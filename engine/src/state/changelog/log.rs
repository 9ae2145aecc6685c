//! The log of one subtask's changes, and what its checkpoints are built on. Pure: facts in, the parts of checkpoints out.
//!
//! Changes are appended to a *tail*. Sealing closes the tail as a *piece*, which is uploaded once, with others or alone, and is
//! a segment from then on. The tail is sealed when it has grown long or old, at each barrier, and where a materialisation
//! begins: so pieces never straddle a place at which some log begins or ends.
//!
//! A checkpoint is built on one materialisation, which is fixed when it begins and may have yet to be uploaded, and takes the pieces
//! from there to its barrier. The rules, each of which some engine has broken:
//! - **What is built on never goes backwards.** A checkpoint is built on the newest materialisation that is ready, or on the one
//!   that some checkpoint whose fate is open waits for, if that is newer. What a completed checkpoint did without dies with
//!   those before it, so nothing may come back to it.
//! - **Truncation follows confirmation.** A materialisation that is ready makes the log before it superfluous only once a checkpoint
//!   that is built on it is known to be complete, and only below all that is open (FLINK-28440). It does follow: a log that is
//!   never truncated is FLINK-25261. What is not uploaded of a log that nothing will ask for again need not be kept, though: its
//!   bytes are let go at once, so that they do not count as waiting.
//! - **Who has spoken of a file does not delete it.** An object is *owned* here from its upload until an acknowledgement names it; from
//!   then on it is the registry's, whatever becomes of the checkpoint, because the next one may name it again. What is owned and
//!   needed by nothing is [garbage](Log::garbage) (FLINK-25511).
//! - **Numbers of checkpoints and of materialisations do not meet**: their types differ (FLINK-25524, FLINK-32908).
//!
//! All ends are exclusive (FLINK-25997). [`Log::check`] holds after every step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::frame;
use crate::checkpoint::changelog::{Changelog, LogSegment, MaterialisationId};
use crate::checkpoint::snapshot::{CheckpointId, StoreFile};

/// See the module.
#[derive(Debug)]
pub struct Log {
    /// Sequence number of the next change.
    next: u64,
    /// Encoded changes from `tail_from` to `next`.
    tail: Vec<u8>,
    tail_from: u64,
    /// Sealed, in order and without a gap, up to `tail_from`.
    pieces: VecDeque<Piece>,
    /// Those that are ready: the newest, and those that checkpoints under way are built on.
    bases: BTreeMap<MaterialisationId, Base>,
    running: BTreeMap<MaterialisationId, Running>,
    last_materialisation: MaterialisationId,
    last_upload: UploadId,
    open: BTreeMap<CheckpointId, Open>,
    last_checkpoint: Option<CheckpointId>,
    /// Where the log of the newest checkpoint begins that is known to be complete.
    confirmed: u64,
    owned: BTreeSet<String>,
}

/// Number of an upload of pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UploadId(u64);

#[derive(Debug)]
struct Piece {
    from: u64,
    to: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Here alone.
    Waiting(Bytes),
    /// Nowhere, as no checkpoint will ask for it.
    Superfluous,
    /// Under way.
    Uploading(Bytes, UploadId),
    /// An object, or part of one.
    There(Box<LogSegment>),
}

/// A materialisation that is ready.
#[derive(Clone, Debug)]
struct Base {
    /// The first change that it does not hold.
    seq: u64,
    files: Vec<StoreFile>,
}

/// A materialisation that is being uploaded.
#[derive(Clone, Debug)]
struct Running {
    seq: u64,
    /// Objects that it references instead of uploading them.
    reused: BTreeSet<String>,
}

/// A checkpoint whose fate is not known.
#[derive(Clone, Debug)]
struct Open {
    base: MaterialisationId,
    from: u64,
    to: u64,
    /// Its part was given out.
    is_handed: bool,
}

/// What a log begins with.
#[derive(Clone, Debug)]
pub enum Beginning {
    /// No state at all, which needs no materialisation.
    Nothing,
    /// A snapshot of exactly this subtask, whose files are in the store as they are.
    Restored {
        /// All files of the snapshot's store.
        files: Vec<StoreFile>,
        /// Its log, which was replayed into the store.
        changelog: Option<Changelog>,
    },
    /// State that no snapshot holds as it is.
    Copied,
}

/// Pieces to be uploaded as one object.
#[derive(Clone, Debug)]
pub struct Upload {
    /// Which.
    pub id: UploadId,
    /// Sequence numbers, from and to, and the framed changes.
    pub pieces: Vec<(u64, u64, Bytes)>,
}

/// The part of a checkpoint, when all of it is in the object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// The base.
    pub files: Vec<StoreFile>,
    /// What the base does not hold.
    pub changelog: Changelog,
}

impl Log {
    /// Of a subtask whose state is what `beginning` says.
    ///
    /// # Panics
    /// If the changelog of a restored snapshot was not checked.
    pub fn new(beginning: Beginning) -> Log {
        let mut log = Log {
            next: 0,
            tail: Vec::new(),
            tail_from: 0,
            pieces: VecDeque::new(),
            bases: BTreeMap::new(),
            running: BTreeMap::new(),
            last_materialisation: MaterialisationId(0),
            last_upload: UploadId(0),
            open: BTreeMap::new(),
            last_checkpoint: None,
            confirmed: 0,
            owned: BTreeSet::new(),
        };
        match beginning {
            Beginning::Nothing => log.adopt(Vec::new(), None),
            Beginning::Restored { files, changelog } => log.adopt(files, changelog),
            Beginning::Copied => {}
        }
        log.check();
        log
    }

    fn adopt(&mut self, files: Vec<StoreFile>, changelog: Option<Changelog>) {
        let materialisation = MaterialisationId(0);
        let Changelog { materialisation, base_seq, to, segments } =
            changelog.unwrap_or(Changelog { materialisation, base_seq: 0, to: 0, segments: Vec::new() });
        (self.next, self.tail_from, self.confirmed) = (to, to, base_seq);
        self.last_materialisation = materialisation;
        self.bases.insert(materialisation, Base { seq: base_seq, files });
        self.pieces = segments
            .into_iter()
            .map(|segment| {
                let (from, to) = (segment.from, segment.to);
                Piece { from, to, content: Content::There(Box::new(segment)) }
            })
            .collect();
    }

    /// A change: what a key of the store holds from now on, or that it holds nothing.
    pub fn append(&mut self, key: &[u8], value: Option<&[u8]>) {
        frame::put_change(&mut self.tail, key, value);
        self.next = self.next.checked_add(1).expect("nobody counts that far");
    }

    /// Sequence number of the next change.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// How many bytes of changes are not sealed.
    pub fn tail_bytes(&self) -> usize {
        self.tail.len()
    }

    /// How many bytes are in memory because they are not in the object store.
    pub fn waiting_bytes(&self) -> usize {
        let pieces = self.pieces.iter().map(|piece| match &piece.content {
            Content::Waiting(bytes) | Content::Uploading(bytes, _) => bytes.len(),
            Content::There(_) | Content::Superfluous => 0,
        });
        self.tail.len() + pieces.sum::<usize>()
    }

    /// Closes the tail, if there is one.
    pub fn seal(&mut self) {
        if self.tail_from == self.next {
            return;
        }
        let (from, to) = (self.tail_from, self.next);
        let content = Content::Waiting(frame::seal(from, to, &std::mem::take(&mut self.tail)));
        self.pieces.push_back(Piece { from, to, content });
        self.tail_from = to;
        self.check();
    }

    /// The next pieces that somebody needs and nobody uploads, as many as make an object of about `max_bytes`.
    pub fn take_upload(&mut self, max_bytes: usize) -> Option<Upload> {
        // A base that is ready makes what is before it superfluous, but for checkpoints on an older one.
        let ready = self.bases.values().next_back().map(|base| base.seq);
        let begun = self.running.values().map(|running| running.seq).min();
        let needed = self.open.values().map(|open| open.from).chain(ready.or(begun)).min().unwrap_or(0);
        let id = UploadId(self.last_upload.0 + 1);
        let (mut pieces, mut sum_bytes) = (Vec::new(), 0);
        for piece in self.pieces.iter_mut().filter(|piece| piece.to > needed) {
            let Content::Waiting(bytes) = &piece.content else { continue };
            if sum_bytes >= max_bytes {
                break;
            }
            sum_bytes += bytes.len();
            pieces.push((piece.from, piece.to, bytes.clone()));
            piece.content = Content::Uploading(bytes.clone(), id);
        }
        if pieces.is_empty() {
            return None;
        }
        self.last_upload = id;
        Some(Upload { id, pieces })
    }

    /// An upload is done: where each of its pieces is.
    pub fn uploaded(&mut self, upload: UploadId, segments: Vec<LogSegment>) {
        self.owned.extend(segments.iter().map(|segment| segment.handle.path.clone()));
        for segment in segments {
            // It may have been truncated meanwhile.
            let piece = self.pieces.iter_mut().find(|piece| piece.from == segment.from);
            if let Some(piece) = piece.filter(|piece| piece.is_of(upload)) {
                assert_eq!(piece.to, segment.to, "an upload changes no range");
                piece.content = Content::There(Box::new(segment));
            }
        }
        self.check();
    }

    /// An upload failed: its pieces wait again. Returns the checkpoints that cannot be had without them, which are given up.
    pub fn upload_failed(&mut self, upload: UploadId) -> Vec<CheckpointId> {
        let mut lost: Option<(u64, u64)> = None;
        for piece in self.pieces.iter_mut().filter(|piece| piece.is_of(upload)) {
            if let Content::Uploading(bytes, _) = &piece.content {
                piece.content = Content::Waiting(bytes.clone());
            }
            lost = Some((lost.map_or(piece.from, |(from, _)| from), piece.to));
        }
        let Some((from, to)) = lost else { return Vec::new() };
        self.give_up(|open| open.from < to && from < open.to)
    }

    /// True if there is anything that no materialisation holds or will hold.
    pub fn is_behind(&self) -> bool {
        let begun = self.running.values().map(|running| running.seq).max();
        let ready = self.bases.values().next_back().map(|base| base.seq);
        begun.max(ready).is_none_or(|seq| seq < self.next)
    }

    /// Of how many pieces the log of a checkpoint would be that begins now.
    pub fn pieces(&self) -> usize {
        let begun = self.running.values().map(|running| running.seq).max();
        let ready = self.bases.values().next_back().map(|base| base.seq);
        let from = begun.max(ready).unwrap_or(0);
        self.pieces.iter().rev().take_while(|piece| piece.to > from).count()
    }

    /// True if a materialisation is being uploaded.
    pub fn is_materialising(&self) -> bool {
        !self.running.is_empty()
    }

    /// Files that the next materialisation may reference instead of uploading them, unless it shall stand alone.
    pub fn reusable(&self) -> &[StoreFile] {
        self.bases.values().next_back().map_or(&[], |base| base.files.as_slice())
    }

    /// The number of the next one.
    pub fn next_materialisation(&self) -> MaterialisationId {
        MaterialisationId(self.last_materialisation.0.saturating_add(1))
    }

    /// True if the fate of the checkpoint is open.
    pub fn is_open(&self, checkpoint: CheckpointId) -> bool {
        self.open.contains_key(&checkpoint)
    }

    /// A materialisation of all that was changed so far begins, which references some files of [`Log::reusable`].
    pub fn materialise<'a>(&mut self, reused: impl Iterator<Item = &'a StoreFile>) -> MaterialisationId {
        self.seal();
        let id = self.next_materialisation();
        self.last_materialisation = id;
        let reused = reused.map(|file| file.handle.path.clone()).collect();
        self.running.insert(id, Running { seq: self.next, reused });
        self.check();
        id
    }

    /// A materialisation is uploaded. `fresh` are the objects that were made for it.
    pub fn materialised(&mut self, id: MaterialisationId, files: Vec<StoreFile>, fresh: Vec<String>) {
        let Running { seq, .. } = self.running.remove(&id).expect("it was begun");
        self.owned.extend(fresh);
        self.bases.insert(id, Base { seq, files });
        self.forget_bases();
        self.check();
    }

    /// A materialisation failed. Returns the checkpoints that waited for it, which are given up.
    pub fn materialisation_failed(&mut self, id: MaterialisationId) -> Vec<CheckpointId> {
        self.running.remove(&id);
        self.give_up(|open| open.base == id)
    }

    /// What a checkpoint that begins now is built on; if `None`, a materialisation must begin first.
    pub fn basis(&self) -> Option<MaterialisationId> {
        let ready = self.bases.keys().next_back().copied();
        let floor = self.open.values().map(|open| open.base).max();
        ready.max(floor).or(self.running.keys().next_back().copied())
    }

    /// A checkpoint begins with all that was changed so far, on a materialisation.
    ///
    /// # Panics
    /// If ids do not grow, or if there is no such materialisation or it is older than one that was built on.
    pub fn begin(&mut self, checkpoint: CheckpointId, base: MaterialisationId) {
        self.seal();
        assert!(self.last_checkpoint < Some(checkpoint), "checkpoint {checkpoint} begins out of order");
        assert!(self.basis() <= Some(base), "checkpoint {checkpoint} goes back to {base}");
        self.last_checkpoint = Some(checkpoint);
        let ready = self.bases.get(&base).map(|base| base.seq);
        let from = ready.or(self.running.get(&base).map(|running| running.seq)).expect("it was begun");
        self.open.insert(checkpoint, Open { base, from, to: self.next, is_handed: false });
        self.check();
    }

    /// The parts that have become whole since this was asked last, oldest first.
    pub fn take_parts(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        let ids: Vec<CheckpointId> = self.open.keys().copied().collect();
        for id in ids {
            let open = &self.open[&id];
            let Some(part) = (!open.is_handed).then(|| self.part(id, open)).flatten() else { continue };
            assert_eq!(part.changelog.check(), Ok(()), "{part:?}");
            parts.push(part);
            self.open.get_mut(&id).expect("seen above").is_handed = true;
        }
        parts
    }

    fn part(&self, checkpoint: CheckpointId, open: &Open) -> Option<Part> {
        let Base { seq: base_seq, files } = self.bases.get(&open.base)?.clone();
        let within = self.pieces.iter().filter(|piece| open.from < piece.to && piece.from < open.to);
        let segments = within.map(|piece| match &piece.content {
            Content::There(segment) => Some(LogSegment::clone(segment)),
            Content::Waiting(_) | Content::Uploading(..) => None,
            Content::Superfluous => panic!("checkpoint {checkpoint} needs {}..{}", piece.from, piece.to),
        });
        let segments = segments.collect::<Option<Vec<_>>>()?;
        let changelog = Changelog { materialisation: open.base, base_seq, to: open.to, segments };
        Some(Part { checkpoint, files, changelog })
    }

    /// The coordinator is told of these objects, and owns them from now on.
    pub fn acknowledged<'a>(&mut self, paths: impl Iterator<Item = &'a str>) {
        for path in paths {
            self.owned.remove(path);
        }
    }

    /// The checkpoint is complete. What is not one of ours (a savepoint) changes nothing, and neither does one that is older than another
    /// that is known to be complete. Returns true if the log was truncated.
    pub fn complete(&mut self, checkpoint: CheckpointId) -> bool {
        let Some(done) = self.open.remove(&checkpoint) else { return false };
        self.confirmed = self.confirmed.max(done.from);
        self.forget_bases();
        self.truncate()
    }

    /// The checkpoint will never be complete. Its log and its base stay: the next one is built on them.
    pub fn abort(&mut self, checkpoint: CheckpointId) {
        self.open.remove(&checkpoint);
        self.forget_bases();
        self.truncate();
    }

    fn truncate(&mut self) -> bool {
        let open = self.open.values().map(|open| open.from).min();
        let limit = open.map_or(self.confirmed, |from| from.min(self.confirmed));
        let before = self.pieces.len();
        while self.pieces.front().is_some_and(|piece| piece.to <= limit) {
            self.pieces.pop_front();
        }
        self.check();
        self.pieces.len() < before
    }

    fn give_up(&mut self, is_lost: impl Fn(&Open) -> bool) -> Vec<CheckpointId> {
        // A part that was given out was whole.
        let lost = self.open.extract_if(.., |_, open| !open.is_handed && is_lost(open)).map(|(id, _)| id);
        let lost = lost.collect();
        self.forget_bases();
        self.truncate();
        lost
    }

    fn forget_bases(&mut self) {
        let newest = self.bases.keys().next_back().copied();
        let open = &self.open;
        self.bases.retain(|id, _| Some(*id) == newest || open.values().any(|open| open.base == *id));
        self.let_go();
    }

    /// Lets go of the bytes of pieces that no checkpoint will ask for, as what is built on never goes backwards.
    fn let_go(&mut self) {
        let Some(ready) = self.bases.values().next_back().map(|base| base.seq) else { return };
        let needed = self.open.values().map(|open| open.from).chain([ready]).min().expect("one at least");
        for piece in self.pieces.iter_mut().take_while(|piece| piece.to <= needed) {
            if matches!(piece.content, Content::Waiting(_)) {
                piece.content = Content::Superfluous;
            }
        }
    }

    /// Objects that are owned and that nothing needs any more. They are not owned any longer.
    pub fn garbage(&mut self) -> Vec<String> {
        if self.owned.is_empty() {
            return Vec::new();
        }
        let files = self.bases.values().flat_map(|base| &base.files).map(|file| file.handle.path.as_str());
        let reused = self.running.values().flat_map(|running| &running.reused).map(String::as_str);
        let segments = self.pieces.iter().filter_map(|piece| match &piece.content {
            Content::There(segment) => Some(segment.handle.path.as_str()),
            Content::Waiting(_) | Content::Uploading(..) | Content::Superfluous => None,
        });
        let needed: BTreeSet<&str> = files.chain(reused).chain(segments).collect();
        self.owned.extract_if(.., |path| !needed.contains(path.as_str())).collect()
    }

    /// What holds after every step.
    ///
    /// # Panics
    /// If it does not.
    pub fn check(&self) {
        let mut at = self.pieces.front().map_or(self.tail_from, |piece| piece.from);
        let begin = at;
        for piece in &self.pieces {
            assert!(piece.from == at && piece.to > at, "the log goes on with {} at {at}", piece.from);
            at = piece.to;
        }
        assert_eq!(at, self.tail_from, "the sealed log ends where the tail begins");
        assert_eq!(self.tail.is_empty(), self.tail_from == self.next, "the tail holds what is not sealed");
        let newest = self.bases.values().next_back().map(|base| base.seq);
        let needed = self.open.values().map(|open| open.from).chain(newest).min();
        assert!(
            needed.is_none_or(|needed| begin <= needed),
            "the log begins at {begin}, needed is {needed:?}"
        );
        for (id, open) in &self.open {
            let base = self.bases.get(&open.base).map(|base| base.seq);
            let base = base.or(self.running.get(&open.base).map(|running| running.seq));
            assert_eq!(base, Some(open.from), "the log of checkpoint {id} begins where its base ends");
        }
    }
}

impl Piece {
    fn is_of(&self, upload: UploadId) -> bool {
        matches!(&self.content, Content::Uploading(_, id) if *id == upload)
    }
}

#[cfg(test)]
mod tests;
