//! Oracle `durability`: writers with keys of their own, atomic batches, one log.
//!
//! A writer waits for each answer before it writes again, so that at most its last batch of a life of the process is
//! without one. Each acknowledged batch has a sequence number. Since there is one log, what a crash leaves is a *cut*: a
//! sequence number up to which everything is there and after which nothing is. A batch without an answer may be on either
//! side, unless a reader saw what it wrote: then it was in the log, and durable if it was to be. What a recovery has shown is
//! durable: a later crash may not take it back.
//!
//! The oracle knows nothing of the store; it compares maps.

use std::collections::{BTreeMap, BTreeSet};

use cutwater_sim::scenario::Violation;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Keys and values.
pub type Content = BTreeMap<Vec<u8>, Vec<u8>>;
/// What could be read of some keys.
pub type Readable = BTreeMap<Vec<u8>, Option<Vec<u8>>>;
/// Keys and what becomes of them.
pub type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// An atomic change by one writer.
#[derive(Clone, Debug)]
pub struct Batch {
    actor: usize,
    changes: Changes,
    /// It is to be durable before it is acknowledged.
    wants_sync: bool,
    /// Once acknowledged.
    sequence: Option<u64>,
    /// Somebody read what it wrote.
    was_shown: bool,
}

/// Names a batch of this life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchId {
    actor: usize,
    index: usize,
}

/// What was written, and what is known of it.
#[derive(Clone, Debug, Default)]
pub struct Batches {
    writers: BTreeMap<usize, Writer>,
    /// Everything up to this sequence number is in tables.
    flushed: u64,
    /// The syncs of the log that were reported done, oldest first.
    synced: Vec<Synced>,
    /// Everything that was ever written.
    ever: BTreeSet<(Vec<u8>, Vec<u8>)>,
}

/// A place in the logs of a store, which are numbered in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The log.
    pub log: u64,
    /// Where in it. Bytes.
    pub offset_bytes: u64,
}

/// A sync of the log that was reported done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Everything up to this sequence number was durable then.
    pub sequence: u64,
    /// When it was answered, in microseconds of virtual time.
    pub at_us: u64,
    /// Where the logs ended when it was asked for.
    pub asked_at: Place,
    /// Where they ended when it was answered.
    pub answered_at: Place,
}

/// Answers closer together than this are of one sync, in microseconds: no sync is that quick.
const ONE_SYNC_US: u64 = 20;

#[derive(Clone, Debug, Default)]
struct Writer {
    /// What the last recovery showed.
    base: Content,
    /// What was attempted since, in order.
    batches: Vec<Batch>,
    /// The base with all acknowledged batches.
    content: Content,
}

impl Batch {
    /// What `actor` is about to write, durably if it `wants_sync`.
    pub fn new(actor: usize, changes: Changes, wants_sync: bool) -> Batch {
        Batch { actor, changes, wants_sync, sequence: None, was_shown: false }
    }

    fn apply(&self, content: &mut Content) {
        for (key, value) in &self.changes {
            match value {
                Some(value) => content.insert(key.clone(), value.clone()),
                None => content.remove(key),
            };
        }
    }
}

/// Whether a batch that was shown and not acknowledged must be there.
type Owes = fn(&Batch) -> bool;

impl Writer {
    /// The state after the first `count` batches, for each count.
    fn states(&self) -> Vec<Content> {
        let mut states = vec![self.base.clone()];
        for batch in &self.batches {
            let mut next = states.last().expect("there is the base").clone();
            batch.apply(&mut next);
            states.push(next);
        }
        states
    }

    /// How many batches a cut at `sequence` includes: one number, or two if the last has no answer.
    fn counts_at(&self, sequence: u64) -> Vec<usize> {
        let included = self.batches.iter().take_while(|b| b.sequence.is_some_and(|s| s <= sequence)).count();
        let unanswered = self.batches.get(included).is_some_and(|b| b.sequence.is_none());
        if unanswered { vec![included, included + 1] } else { vec![included] }
    }

    /// The values that a key has after the first `count` batches, and after each later one.
    fn values_since(&self, count: usize, key: &[u8]) -> Vec<Option<&Vec<u8>>> {
        let mut values = vec![self.base.get(key)];
        for batch in &self.batches {
            let changes = batch.changes.iter().filter(|(changed, _)| changed == key);
            let last = *values.last().expect("there is the base");
            values.push(changes.map(|(_, value)| value.as_ref()).next_back().unwrap_or(last));
        }
        values.split_off(count)
    }

    /// The batch that has no answer yet.
    fn waiting(&mut self) -> Option<&mut Batch> {
        self.batches.last_mut().filter(|batch| batch.sequence.is_none())
    }

    /// True if the batch without an answer must be there all the same.
    fn owes_all(&self, owes_shown: Owes) -> bool {
        self.batches
            .last()
            .is_some_and(|batch| batch.sequence.is_none() && batch.was_shown && owes_shown(batch))
    }

    fn acknowledged(&self) -> impl Iterator<Item = u64> {
        self.batches.iter().filter_map(|batch| batch.sequence)
    }
}

impl Batches {
    /// A batch is about to be written.
    ///
    /// # Panics
    /// If the writer still waits for an answer.
    pub fn attempt(&mut self, batch: Batch) -> BatchId {
        let writer = self.writers.entry(batch.actor).or_default();
        let waits = writer.batches.last().is_some_and(|b| b.sequence.is_none());
        assert!(!waits, "a writer waits for its answer");
        let id = BatchId { actor: batch.actor, index: writer.batches.len() };
        let values = batch.changes.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
        self.ever.extend(values);
        writer.batches.push(batch);
        id
    }

    /// The batch was acknowledged; its last change has this sequence number.
    ///
    /// # Errors
    /// If the number is not above that of the writer's batch before.
    pub fn acknowledge(&mut self, id: BatchId, sequence: u64) -> Result<(), Violation> {
        let writer = self.writers.get_mut(&id.actor).expect("a batch has a writer");
        let before = writer.acknowledged().max().unwrap_or(0);
        if sequence <= before {
            return Err(Violation::new("durability", "sequence numbers grow")
                .of("batch")
                .expected(format!("more than {before}"))
                .found(sequence));
        }
        let batch = &mut writer.batches[id.index];
        batch.sequence = Some(sequence);
        batch.apply(&mut writer.content);
        Ok(())
    }

    /// The batch was refused, and the store has said since that nothing will come of it.
    ///
    /// # Errors
    /// If somebody has read what it wrote.
    pub fn give_up(&mut self, id: BatchId) -> Result<(), Violation> {
        let writer = self.writers.get_mut(&id.actor).expect("a batch has a writer");
        assert_eq!(id.index + 1, writer.batches.len(), "a writer waits for its answer");
        match writer.batches.pop() {
            Some(batch) if batch.was_shown => {
                Err(Violation::new("durability", "what was read of a write comes of it")
                    .of("batch")
                    .expected("that it is there")
                    .found("that it was given up"))
            }
            _ => Ok(()),
        }
    }

    /// Everything up to `sequence` was reported to be in tables.
    pub fn flushed(&mut self, sequence: u64) {
        self.flushed = self.flushed.max(sequence);
    }

    /// Everything was reported durable in the log as far as it says.
    pub fn synced(&mut self, synced: Synced) {
        match self.synced.last_mut() {
            Some(last) if synced.at_us - last.at_us < ONE_SYNC_US => {
                last.sequence = synced.sequence.max(last.sequence);
                last.asked_at = synced.asked_at.min(last.asked_at);
                last.answered_at = synced.answered_at.max(last.answered_at);
            }
            Some(last) if last.sequence >= synced.sequence => return,
            _ => self.synced.push(synced),
        }
        // One that waited longer may have been asked for before others: what it vouches for is taken to be no more.
        let asked_at = self.synced.last().expect("just added").asked_at;
        for earlier in self.synced.iter_mut().rev().skip(1).take_while(|earlier| earlier.asked_at > asked_at)
        {
            earlier.asked_at = asked_at;
        }
    }

    /// The syncs of the log in this life of the process, oldest first.
    pub fn syncs(&self) -> &[Synced] {
        &self.synced
    }

    /// The last `count` syncs of the log do not count, nor what readers saw of later ones.
    pub fn forgive_syncs(&mut self, count: usize) {
        self.synced.truncate(self.synced.len().saturating_sub(count));
        if count > 0 {
            self.writers.values_mut().filter_map(Writer::waiting).for_each(|batch| batch.was_shown = false);
        }
    }

    fn durable(&self) -> u64 {
        self.flushed.max(self.synced.last().map_or(0, |synced| synced.sequence))
    }

    /// The highest sequence number that was acknowledged in this life of the process.
    pub fn acknowledged(&self) -> u64 {
        self.writers.values().flat_map(Writer::acknowledged).max().unwrap_or(0)
    }

    /// A digest of what a recovery is held against.
    pub fn digest(&self) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(&self.durable().to_le_bytes());
        for (actor, writer) in &self.writers {
            hash.update(&(*actor as u64).to_le_bytes());
            hash.update(&digest(&writer.base).to_le_bytes());
            for batch in &writer.batches {
                // One without an answer that nobody saw only ever permits more.
                let Some(sequence) = batch.sequence.or(batch.was_shown.then_some(u64::MAX)) else { continue };
                hash.update(&sequence.to_le_bytes());
                for (key, value) in &batch.changes {
                    hash.update(&xxh3_64(key).to_le_bytes());
                    hash.update(&value.as_deref().map_or(0, xxh3_64).to_le_bytes());
                }
            }
        }
        hash.digest()
    }

    /// What a writer must read: its acknowledged writes.
    pub fn content_of(&mut self, actor: usize) -> &Content {
        &self.writers.entry(actor).or_default().content
    }

    /// How many batches of a writer were acknowledged in this life of the process.
    pub fn answered(&self, actor: usize) -> usize {
        self.writers.get(&actor).map_or(0, |writer| writer.acknowledged().count())
    }

    /// The keys that a writer waits for an answer to have written.
    pub fn keys_being_written(&self, actor: usize) -> Vec<Vec<u8>> {
        let last = self.writers.get(&actor).and_then(|writer| writer.batches.last());
        let waiting = last.filter(|batch| batch.sequence.is_none());
        waiting.map_or(Vec::new(), |batch| batch.changes.iter().map(|(key, _)| key.clone()).collect())
    }

    /// Judges what somebody read of another writer's key: a read that began when so many batches were `answered`, and that is
    /// over now. The write may be without an answer; from now on it is known that it was shown.
    ///
    /// # Errors
    /// If the key had no such value in between.
    pub fn judge_foreign_read(
        &mut self,
        actor: usize,
        answered: usize,
        key: &[u8],
        found: &Option<Vec<u8>>,
    ) -> Result<(), Violation> {
        let possible =
            self.writers.get(&actor).map_or(vec![None], |writer| writer.values_since(answered, key));
        if !possible.contains(&found.as_ref()) {
            let expected: Vec<String> = possible.into_iter().map(show).collect();
            return Err(Violation::new("model", "a read returns what another has written")
                .of("key")
                .expected(format!("{} = {}", show(Some(key)), expected.join(" or ")))
                .found(show(found.as_ref())));
        }
        if let Some(value) = found {
            self.shown(&Content::from([(key.to_vec(), value.clone())]));
        }
        Ok(())
    }

    /// A reader saw these keys and values, now or not long ago: values are unique, so a batch that wrote one was visible.
    pub fn shown(&mut self, found: &Content) {
        for batch in self.writers.values_mut().filter_map(Writer::waiting) {
            let is_there = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| {
                value.as_ref().is_some_and(|value| found.get(key) == Some(value))
            };
            batch.was_shown |= batch.changes.iter().any(is_there);
        }
    }

    /// Judges what a new life of the process found, and goes on from there. `keeps_all` says that nothing acknowledged may
    /// be missing, synced or not. Returns a line for the story.
    ///
    /// # Errors
    /// If no cut explains it.
    pub fn recover(&mut self, found: &Content, keeps_all: bool) -> Result<String, Violation> {
        let least = if keeps_all { self.acknowledged() } else { self.durable() };
        let owes_shown: Owes = if keeps_all { |_| true } else { |batch| batch.wants_sync };
        let cuts = self.cuts_from(least);
        let Some(cut) = self.find_cut(found, &cuts, owes_shown)? else {
            return Err(match self.find_cut(found, &cuts, |_| false)? {
                Some(_) => self.unhappened(found, owes_shown),
                None => self.explain(found, least, keeps_all),
            });
        };
        let (written, lost) = (
            self.acknowledged(),
            self.writers.values().flat_map(Writer::acknowledged).filter(|&s| s > cut).count(),
        );
        self.begin_anew(found);
        Ok(format!(
            "{} keys; of {written} sequence numbers up to {cut} are there, {lost} unsynced batches are lost",
            found.len()
        ))
    }

    /// From here on there is `content`, and it is durable.
    pub fn begin_anew(&mut self, content: &Content) {
        for (&actor, writer) in &mut self.writers {
            writer.base = part(content, actor);
            writer.content = writer.base.clone();
            writer.batches.clear();
        }
        self.flushed = 0;
        self.synced.clear();
    }

    /// As [`Batches::recover`], where all that is known is that nothing may be made up.
    ///
    /// # Errors
    /// If something is there that was never written.
    pub fn recover_anything(&mut self, found: &Content) -> Result<(), Violation> {
        for (key, value) in found {
            if !self.ever.contains(&(key.clone(), value.clone())) {
                return Err(never_written(key, value));
            }
        }
        self.begin_anew(found);
        Ok(())
    }

    /// Judges keys that could be read of a store of which nothing else can be known: nothing is made up.
    ///
    /// # Errors
    /// If something is.
    pub fn was_written(&self, found: &Readable) -> Result<(), Violation> {
        for (key, value) in found {
            if let Some(value) = value
                && !self.ever.contains(&(key.clone(), value.clone()))
            {
                return Err(never_written(key, value));
            }
        }
        Ok(())
    }

    /// Judges keys that could be read although others could not: some cut explains them all.
    ///
    /// # Errors
    /// If none does.
    pub fn judge_readable(&self, found: &Readable, syncs_forgiven: usize) -> Result<(), Violation> {
        let mut lenient = self.clone();
        lenient.forgive_syncs(syncs_forgiven);
        let agrees = |writer: &Writer, actor: usize, count: usize| {
            let state = &writer.states()[count];
            let prefix = format!("writer{actor}/").into_bytes();
            let keys = found.iter().filter(|(key, _)| key.starts_with(&prefix));
            keys.into_iter().all(|(key, value)| state.get(key) == value.as_ref())
        };
        let explains = |cut: &u64| {
            lenient.writers.iter().all(|(&actor, writer)| {
                writer.counts_at(*cut).into_iter().any(|count| agrees(writer, actor, count))
            })
        };
        let least = lenient.durable();
        match lenient.cuts_from(least).iter().any(explains) {
            true => Ok(()),
            false => {
                Err(Violation::new("durability", "what can be read of a damaged store is of one moment")
                    .of("keys")
                    .expected(format!("one cut at {least} or after for {} keys", found.len()))
                    .found("none fits"))
            }
        }
    }

    /// Where recovery may have ended, the latest first.
    fn cuts_from(&self, least: u64) -> Vec<u64> {
        let mut cuts: Vec<u64> =
            self.writers.values().flat_map(Writer::acknowledged).filter(|&s| s >= least).collect();
        cuts.push(least);
        cuts.sort_unstable();
        cuts.reverse();
        cuts
    }

    /// Judges a copy that was made as of `sequence` while writers went on.
    ///
    /// # Errors
    /// If it is not the state after exactly the batches up to there.
    pub fn judge_cut(&self, oracle: &str, found: &Content, sequence: u64) -> Result<(), Violation> {
        match self.find_cut(found, &[sequence], |_| false)? {
            Some(_) => Ok(()),
            None => {
                Err(self.difference(found, sequence, oracle, "a copy is the state at its sequence number"))
            }
        }
    }

    /// The first of `cuts` that explains `found`, with all batches that were shown and are owed.
    fn find_cut(&self, found: &Content, cuts: &[u64], owes_shown: Owes) -> Result<Option<u64>, Violation> {
        self.no_phantoms(found)?;
        let parts: Vec<(&Writer, Vec<bool>)> = self
            .writers
            .iter()
            .map(|(&actor, writer)| {
                let part = part(found, actor);
                (writer, writer.states().iter().map(|state| *state == part).collect())
            })
            .collect();
        let explains = |&&cut: &&u64| {
            parts.iter().all(|(writer, equal)| {
                let least = if writer.owes_all(owes_shown) { writer.batches.len() } else { 0 };
                writer.counts_at(cut).into_iter().any(|count| count >= least && equal[count])
            })
        };
        Ok(cuts.iter().find(explains).copied())
    }

    /// Every key belongs to a writer, and every value was written to its key.
    fn no_phantoms(&self, found: &Content) -> Result<(), Violation> {
        for (key, value) in found {
            let written = self.writers.values().any(|writer| {
                writer.base.get(key) == Some(value)
                    || writer
                        .batches
                        .iter()
                        .any(|b| b.changes.iter().any(|(k, v)| k == key && v.as_ref() == Some(value)))
            });
            if !written {
                return Err(never_written(key, value));
            }
        }
        Ok(())
    }

    fn explain(&self, found: &Content, least: u64, keeps_all: bool) -> Violation {
        let property = if keeps_all {
            "a kill loses nothing that was acknowledged"
        } else if self.find_cut(found, &self.all_cuts(), |_| false).is_ok_and(|cut| cut.is_some()) {
            "what was acknowledged as durable is recovered"
        } else {
            "what is recovered is a prefix of what was written"
        };
        self.difference(found, least, "durability", property)
    }

    /// What is found lacks something that a reader was shown.
    fn unhappened(&self, found: &Content, owes_shown: Owes) -> Violation {
        let owed = self.writers.values().filter(|writer| writer.owes_all(owes_shown));
        let changes = owed.flat_map(|writer| writer.batches.last()).flat_map(|batch| &batch.changes);
        let violation = Violation::new("durability", "what a reader was shown is still there").of("key");
        match changes.into_iter().find(|(key, value)| found.get(key) != value.as_ref()) {
            Some((key, value)) => violation
                .expected(format!("{} = {}", show(Some(key)), show(value.as_ref())))
                .found(show(found.get(key))),
            None => violation.expected("one cut for all writers with what was shown").found("none fits"),
        }
    }

    fn all_cuts(&self) -> Vec<u64> {
        std::iter::once(0).chain(self.writers.values().flat_map(Writer::acknowledged)).collect()
    }

    /// Names the first key that differs from the state at `sequence`.
    fn difference(&self, found: &Content, sequence: u64, oracle: &str, property: &str) -> Violation {
        let mut expected = Content::new();
        for writer in self.writers.values() {
            expected.extend(writer.states().swap_remove(writer.counts_at(sequence)[0]));
        }
        let key = expected.keys().chain(found.keys()).find(|key| expected.get(*key) != found.get(*key));
        let violation = Violation::new(oracle, property).of("key");
        match key {
            Some(key) => violation
                .expected(format!(
                    "at sequence {sequence}, {} = {}",
                    show(Some(key)),
                    show(expected.get(key))
                ))
                .found(show(found.get(key))),
            None => violation
                .expected(format!("one cut for all writers, at {sequence} or after"))
                .found("none fits"),
        }
    }
}

fn never_written(key: &[u8], value: &[u8]) -> Violation {
    Violation::new("durability", "what is there was written")
        .of("key")
        .expected(format!("{} = something that was written", show(Some(key))))
        .found(show(Some(value)))
}

/// A digest of keys and values.
pub fn digest(content: &Content) -> u64 {
    let mut hash = Xxh3::new();
    for (key, value) in content {
        hash.update(&xxh3_64(key).to_le_bytes());
        hash.update(&xxh3_64(value).to_le_bytes());
    }
    hash.digest()
}

/// The keys of one writer.
fn part(content: &Content, actor: usize) -> Content {
    let from = format!("writer{actor}/").into_bytes();
    let to = format!("writer{actor}0").into_bytes();
    content.range(from..to).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Bytes for people: without the padding.
pub fn show(bytes: Option<impl AsRef<[u8]>>) -> String {
    match bytes {
        None => "nothing".into(),
        Some(bytes) => {
            let bytes = bytes.as_ref();
            let text: String =
                bytes.iter().take(60).flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect();
            text.trim_end_matches('.').to_owned()
        }
    }
}

#[cfg(test)]
mod tests;
