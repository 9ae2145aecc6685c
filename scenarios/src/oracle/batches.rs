//! Oracle `durability`: writers with keys of their own, atomic batches, one log.
//!
//! A writer waits for each answer before it writes again, so that at most its last batch of a life of the process is
//! without one. Each acknowledged batch has a sequence number. Since there is one log, what a crash leaves is a *cut*: a
//! sequence number up to which everything is there and after which nothing is. A batch without an answer may be on either
//! side. What a recovery has shown is durable: a later crash may not take it back.
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
    /// Once acknowledged.
    sequence: Option<u64>,
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
    /// Everything up to these sequence numbers was durable in the log, each with the time in microseconds.
    synced: Vec<(u64, u64)>,
    /// Everything that was ever written.
    ever: BTreeSet<(Vec<u8>, Vec<u8>)>,
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
    /// What `actor` is about to write.
    pub fn new(actor: usize, changes: Changes) -> Batch {
        Batch { actor, changes, sequence: None }
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

    /// Everything up to `sequence` was reported to be in tables.
    pub fn flushed(&mut self, sequence: u64) {
        self.flushed = self.flushed.max(sequence);
    }

    /// Everything up to `sequence` was reported durable in the log.
    pub fn synced(&mut self, sequence: u64, now_us: u64) {
        match self.synced.last_mut() {
            Some((last, at_us)) if now_us - *at_us < ONE_SYNC_US => *last = sequence.max(*last),
            Some((last, _)) if *last >= sequence => {}
            _ => self.synced.push((sequence, now_us)),
        }
    }

    /// The last `count` syncs of the log do not count.
    pub fn forgive_syncs(&mut self, count: usize) {
        self.synced.truncate(self.synced.len().saturating_sub(count));
    }

    fn durable(&self) -> u64 {
        self.flushed.max(self.synced.last().map_or(0, |(sequence, _)| *sequence))
    }

    /// The highest sequence number that was acknowledged in this life of the process.
    pub fn acknowledged(&self) -> u64 {
        self.writers.values().flat_map(Writer::acknowledged).max().unwrap_or(0)
    }

    /// A digest of what a recovery is held against. A batch that waits for its answer is not in it: it only ever permits
    /// more.
    pub fn digest(&self) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(&self.durable().to_le_bytes());
        for (actor, writer) in &self.writers {
            hash.update(&(*actor as u64).to_le_bytes());
            hash.update(&digest(&writer.base).to_le_bytes());
            for batch in &writer.batches {
                let Some(sequence) = batch.sequence else { continue };
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

    /// Judges what a new life of the process found, and goes on from there. `keeps_all` says that nothing acknowledged may
    /// be missing, synced or not. Returns a line for the story.
    ///
    /// # Errors
    /// If no cut explains it.
    pub fn recover(&mut self, found: &Content, keeps_all: bool) -> Result<String, Violation> {
        let least = if keeps_all { self.acknowledged() } else { self.durable() };
        let cuts = self.cuts_from(least);
        let Some(cut) = self.find_cut(found, &cuts)? else {
            return Err(self.explain(found, least, keeps_all));
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
        match self.find_cut(found, &[sequence])? {
            Some(_) => Ok(()),
            None => {
                Err(self.difference(found, sequence, oracle, "a copy is the state at its sequence number"))
            }
        }
    }

    /// The first of `cuts` that explains `found`.
    fn find_cut(&self, found: &Content, cuts: &[u64]) -> Result<Option<u64>, Violation> {
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
            parts.iter().all(|(writer, equal)| writer.counts_at(cut).into_iter().any(|count| equal[count]))
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
        } else if self.find_cut(found, &self.all_cuts()).is_ok_and(|cut| cut.is_some()) {
            "what was acknowledged as durable is recovered"
        } else {
            "what is recovered is a prefix of what was written"
        };
        self.difference(found, least, "durability", property)
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
mod tests {
    use super::*;

    fn write(batches: &mut Batches, actor: usize, key: &str, value: &str, sequence: Option<u64>) {
        let key = format!("writer{actor}/{key}").into_bytes();
        let id = batches.attempt(Batch::new(actor, vec![(key, Some(value.into()))]));
        if let Some(sequence) = sequence {
            batches.acknowledge(id, sequence).unwrap();
        }
    }

    fn content(pairs: &[(&str, &str)]) -> Content {
        pairs.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect()
    }

    /// Writer 0 wrote a=1 (1, durable), a=2 (3); writer 1 wrote b=1 (2), and waits for b=2.
    fn sample() -> Batches {
        let mut batches = Batches::default();
        write(&mut batches, 0, "a", "1", Some(1));
        write(&mut batches, 1, "b", "1", Some(2));
        write(&mut batches, 0, "a", "2", Some(3));
        write(&mut batches, 1, "b", "2", None);
        batches.synced(1, 0);
        batches
    }

    #[test]
    fn every_legal_cut_is_accepted() {
        for legal in [
            &[("writer0/a", "1")][..],
            &[("writer0/a", "1"), ("writer1/b", "1")],
            &[("writer0/a", "2"), ("writer1/b", "1")],
            &[("writer0/a", "2"), ("writer1/b", "2")],
        ] {
            sample().recover(&content(legal), false).unwrap_or_else(|v| panic!("{legal:?}: {v}"));
        }
    }

    #[test]
    fn what_is_no_cut_is_refused() {
        let cases: [(&[(&str, &str)], &str); 4] = [
            (&[], "what was acknowledged as durable is recovered"),
            (&[("writer0/a", "2")], "what is recovered is a prefix of what was written"),
            (&[("writer0/a", "3")], "what is there was written"),
            (&[("writer0/a", "1"), ("other", "1")], "what is there was written"),
        ];
        for (found, property) in cases {
            let violation = sample().recover(&content(found), false).unwrap_err();
            assert_eq!(violation.property, property, "{found:?}");
        }
    }

    #[test]
    fn a_kill_keeps_all_that_was_acknowledged() {
        let lost = content(&[("writer0/a", "1"), ("writer1/b", "1")]);
        assert!(sample().recover(&lost, false).is_ok());
        assert!(sample().recover(&lost, true).is_err());
        let kept = content(&[("writer0/a", "2"), ("writer1/b", "1")]);
        assert!(sample().recover(&kept, true).is_ok());
    }

    #[test]
    fn what_a_recovery_showed_stays() {
        let mut batches = sample();
        let shown = content(&[("writer0/a", "2"), ("writer1/b", "1")]);
        batches.recover(&shown, false).unwrap();
        assert!(batches.clone().recover(&shown, false).is_ok());
        assert!(batches.recover(&content(&[("writer0/a", "1"), ("writer1/b", "1")]), false).is_err());
    }

    #[test]
    fn a_copy_is_exact() {
        let at_two = content(&[("writer0/a", "1"), ("writer1/b", "1")]);
        assert!(sample().judge_cut("checkpoint", &at_two, 2).is_ok());
        assert!(sample().judge_cut("checkpoint", &at_two, 3).is_err());
        assert!(
            sample().judge_cut("checkpoint", &at_two, 1).is_err(),
            "writer 1's first batch is after the cut"
        );
    }

    #[test]
    fn sequence_numbers_grow() {
        let mut batches = Batches::default();
        write(&mut batches, 0, "a", "1", Some(5));
        let id = batches.attempt(Batch::new(0, vec![]));
        assert!(batches.acknowledge(id, 5).is_err());
    }
}
