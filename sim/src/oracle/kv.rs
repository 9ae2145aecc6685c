//! Durability and model of a key-value store with a single log, judged from the outside.
//!
//! One writer issues batches; each is applied as a whole or not at all. What a crash may leave is a **prefix** of the
//! batches that were issued: not shorter than what was synced, not with a hole. After the death of a mere process the
//! prefix also has everything that was acknowledged, synced or not. Reads must be what the batches up to there give.
//!
//! A batch whose fate is unknown (an error, no answer before the crash) may be there or not; the checker follows both
//! until something that is seen decides.
//!
//! *Not judged*: concurrent writers (give each its own keys and history), reads while a write is under way.

use std::collections::{BTreeMap, BTreeSet};

use crate::scenario::Violation;

/// A key or a value.
pub type Bytes = Vec<u8>;
/// The content of a store.
pub type Content = BTreeMap<Bytes, Bytes>;

/// How many possible pasts are followed at once; beyond that the history is not decided.
const PASTS_MAX: usize = 4096;

/// What happened, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvHistory {
    /// The events.
    pub events: Vec<KvEvent>,
    /// The store makes what it recovered durable before it opens (RocksDB flushes it, unless told to avoid that).
    pub recovery_is_durable: bool,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// A batch was issued: puts, and deletes (`None`), applied in order.
    Write {
        /// Keys with their new values.
        batch: Vec<(Bytes, Option<Bytes>)>,
        /// What the writer was told.
        ack: Ack,
    },
    /// Everything acknowledged so far was synced.
    Synced,
    /// A key was read.
    Read {
        /// The key.
        key: Bytes,
        /// What was found.
        found: Option<Bytes>,
    },
    /// Everything was read.
    Scan {
        /// What was found.
        found: Content,
    },
    /// The store died, and was opened again with this content.
    Recovered {
        /// The machine lost its power; otherwise only the process died.
        power_failed: bool,
        /// What was found.
        found: Content,
    },
}

/// What the writer of a batch was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// It is applied and durable, and all before it.
    Synced,
    /// It is applied, and durable some time later.
    Buffered,
    /// An error, or nothing.
    Unknown,
}

/// One way in which things may have gone: the batches that took effect, and how many of them are certainly durable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Past {
    applied: Vec<usize>,
    durable: usize,
}

struct Checker<'a> {
    batches: Vec<&'a [(Bytes, Option<Bytes>)]>,
    /// By batch: whether the writer was told that it is applied.
    acknowledged: Vec<bool>,
    pasts: BTreeSet<Past>,
}

/// Judges a history.
///
/// # Errors
/// The first event that no past explains: `durability` for a recovery, `model` for a read.
pub fn check(history: &KvHistory) -> Result<(), Violation> {
    let mut checker = Checker {
        batches: Vec::new(),
        acknowledged: Vec::new(),
        pasts: BTreeSet::from([Past { applied: Vec::new(), durable: 0 }]),
    };
    for event in &history.events {
        match event {
            KvEvent::Write { batch, ack } => checker.write(batch, *ack),
            KvEvent::Synced => checker.synced(),
            KvEvent::Read { key, found } => {
                checker.keep(|content| content.get(key) == found.as_ref()).map_err(|expected| {
                    let expected = expected.get(key).map_or_else(|| "nothing".into(), |v| show(v));
                    Violation::new("model", "a read returns what was written last")
                        .of("key")
                        .expected(format!("{} = {expected}", show(key)))
                        .found(found.as_ref().map_or_else(|| "nothing".into(), |v| show(v)))
                })?;
            }
            KvEvent::Scan { found } => {
                checker.keep(|content| content == found).map_err(|expected| {
                    let (expected, found) = difference(&expected, found);
                    Violation::new("model", "a scan returns what was written last")
                        .of("content")
                        .expected(expected)
                        .found(found)
                })?;
            }
            KvEvent::Recovered { power_failed, found } => {
                checker.recovered(*power_failed, found, history.recovery_is_durable)?;
            }
        }
        if checker.pasts.len() > PASTS_MAX {
            return Ok(());
        }
    }
    Ok(())
}

impl<'a> Checker<'a> {
    fn write(&mut self, batch: &'a [(Bytes, Option<Bytes>)], ack: Ack) {
        let number = self.batches.len();
        self.batches.push(batch);
        self.acknowledged.push(ack != Ack::Unknown);
        let mut pasts = BTreeSet::new();
        for past in &self.pasts {
            let mut with = past.clone();
            with.applied.push(number);
            if ack == Ack::Synced {
                with.durable = with.applied.len();
            }
            pasts.insert(with);
            if ack == Ack::Unknown {
                pasts.insert(past.clone());
            }
        }
        self.pasts = pasts;
    }

    fn synced(&mut self) {
        let all = |past: &Past| Past { durable: past.applied.len(), ..past.clone() };
        self.pasts = self.pasts.iter().map(all).collect();
    }

    /// Keeps the pasts whose content is `right`; gives the content of one if none is.
    fn keep(&mut self, right: impl Fn(&Content) -> bool) -> Result<(), Content> {
        let kept: BTreeSet<Past> =
            self.pasts.iter().filter(|past| right(&self.content(&past.applied))).cloned().collect();
        if kept.is_empty() {
            return Err(self.pasts.first().map_or_else(Content::new, |past| self.content(&past.applied)));
        }
        self.pasts = kept;
        Ok(())
    }

    /// Keeps the prefixes of pasts that explain what was found.
    fn recovered(
        &mut self,
        power_failed: bool,
        found: &Content,
        makes_durable: bool,
    ) -> Result<(), Violation> {
        let mut pasts = BTreeSet::new();
        for past in &self.pasts {
            // What is the least that must have survived.
            let acknowledged =
                past.applied.iter().rposition(|batch| self.acknowledged[*batch]).map_or(0, |last| last + 1);
            let least = if power_failed { past.durable } else { past.durable.max(acknowledged) };
            let mut content = Content::new();
            for len in 0..=past.applied.len() {
                if len > 0 {
                    self.apply(past.applied[len - 1], &mut content);
                }
                if len >= least && content == *found {
                    // What comes back after a power failure was read from the medium.
                    let durable = if makes_durable || power_failed { len } else { past.durable };
                    pasts.insert(Past { applied: past.applied[..len].to_vec(), durable });
                }
            }
        }
        if pasts.is_empty() {
            return Err(self.lost(power_failed, found));
        }
        self.pasts = pasts;
        Ok(())
    }

    /// Says how what was found is not a prefix.
    fn lost(&self, power_failed: bool, found: &Content) -> Violation {
        let past = self.pasts.last().expect("there is always a past");
        let durable = self.content(&past.applied[..past.durable]);
        let (expected, seen) = difference(&durable, found);
        let property = if power_failed {
            "a power failure leaves a prefix of the batches, with all that was synced"
        } else {
            "the death of a process leaves all that was acknowledged"
        };
        Violation::new("durability", property)
            .of("content")
            .expected(format!(
                "a prefix of {} batches, at least {} long, there {expected}",
                past.applied.len(),
                past.durable
            ))
            .found(seen)
    }

    fn content(&self, applied: &[usize]) -> Content {
        let mut content = Content::new();
        for &batch in applied {
            self.apply(batch, &mut content);
        }
        content
    }

    fn apply(&self, batch: usize, content: &mut Content) {
        for (key, value) in self.batches[batch] {
            match value {
                Some(value) => content.insert(key.clone(), value.clone()),
                None => content.remove(key),
            };
        }
    }
}

/// The first key in which two contents differ, from both sides.
fn difference(expected: &Content, found: &Content) -> (String, String) {
    let keys: BTreeSet<&Bytes> = expected.keys().chain(found.keys()).collect();
    for key in keys {
        let (a, b) = (expected.get(key), found.get(key));
        if a != b {
            let side = |v: Option<&Bytes>| {
                format!("{} = {}", show(key), v.map_or_else(|| "nothing".into(), |v| show(v)))
            };
            return (side(a), side(b));
        }
    }
    ("the same content".into(), format!("{} keys", found.len()))
}

fn show(bytes: &[u8]) -> String {
    let mut text: String =
        bytes.iter().take(32).flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect();
    if bytes.len() > 32 {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(key: &str, value: &str, ack: Ack) -> KvEvent {
        KvEvent::Write { batch: vec![(key.into(), Some(value.into()))], ack }
    }

    fn content(pairs: &[(&str, &str)]) -> Content {
        pairs.iter().map(|(k, v)| (Bytes::from(*k), Bytes::from(*v))).collect()
    }

    fn lost_power(pairs: &[(&str, &str)]) -> KvEvent {
        KvEvent::Recovered { power_failed: true, found: content(pairs) }
    }

    fn judge(events: Vec<KvEvent>) -> Result<(), Violation> {
        check(&KvHistory { events, recovery_is_durable: false })
    }

    #[test]
    fn what_was_synced_must_survive_and_the_rest_may() {
        let writes =
            || vec![put("a", "1", Ack::Synced), put("b", "2", Ack::Buffered), put("c", "3", Ack::Buffered)];
        let after = |pairs: &[(&str, &str)]| {
            let mut events = writes();
            events.push(lost_power(pairs));
            judge(events)
        };
        assert_eq!(after(&[("a", "1")]), Ok(()));
        assert_eq!(after(&[("a", "1"), ("b", "2")]), Ok(()));
        assert_eq!(after(&[("a", "1"), ("b", "2"), ("c", "3")]), Ok(()));
        assert_eq!(after(&[]).unwrap_err().oracle, "durability");
        let hole = after(&[("a", "1"), ("c", "3")]);
        assert_eq!(hole.unwrap_err().oracle, "durability", "a hole is no prefix");
        assert!(after(&[("a", "1"), ("x", "9")]).is_err(), "nobody wrote x");
    }

    #[test]
    fn a_process_that_dies_takes_nothing_along() {
        let died = |found: &[(&str, &str)]| {
            let died = KvEvent::Recovered { power_failed: false, found: content(found) };
            judge(vec![put("a", "1", Ack::Buffered), put("b", "2", Ack::Unknown), died])
        };
        assert_eq!(died(&[("a", "1")]), Ok(()));
        assert_eq!(died(&[("a", "1"), ("b", "2")]), Ok(()));
        assert!(died(&[]).is_err());
    }

    #[test]
    fn an_unknown_batch_is_there_or_not_but_not_both() {
        let first = vec![put("a", "1", Ack::Synced), put("a", "2", Ack::Unknown)];
        let mut there = first.clone();
        there.extend([
            KvEvent::Read { key: "a".into(), found: Some("2".into()) },
            KvEvent::Read { key: "a".into(), found: Some("1".into()) },
        ]);
        assert_eq!(judge(there).unwrap_err().oracle, "model");
        let mut gone = first;
        gone.extend([KvEvent::Scan { found: content(&[("a", "1")]) }, lost_power(&[("a", "2")])]);
        assert_eq!(judge(gone).unwrap_err().oracle, "durability", "it was seen not to be there");
    }

    #[test]
    fn what_was_recovered_may_be_lost_again_unless_recovery_syncs() {
        let events = vec![
            put("a", "1", Ack::Buffered),
            KvEvent::Recovered { power_failed: false, found: content(&[("a", "1")]) },
            lost_power(&[]),
        ];
        assert_eq!(judge(events.clone()), Ok(()));
        assert!(check(&KvHistory { events, recovery_is_durable: true }).is_err());
    }

    #[test]
    fn what_came_back_after_a_power_failure_stays() {
        let back = |pairs| vec![put("a", "1", Ack::Buffered), lost_power(&[("a", "1")]), lost_power(pairs)];
        assert_eq!(judge(back(&[("a", "1")])), Ok(()));
        assert!(judge(back(&[])).is_err());
    }

    #[test]
    fn an_explicit_sync_and_deletes_count() {
        let delete = KvEvent::Write { batch: vec![("a".into(), None)], ack: Ack::Buffered };
        let events =
            |end| vec![put("a", "1", Ack::Buffered), delete.clone(), KvEvent::Synced, lost_power(end)];
        assert_eq!(judge(events(&[])), Ok(()));
        assert!(judge(events(&[("a", "1")])).is_err(), "a deleted key came back");
    }

    proptest! {
        /// A store that is right by construction is never accused; one that loses a synced batch always is.
        #[test]
        fn right_stores_pass_and_forgetful_ones_do_not(
            steps in prop::collection::vec((0u8..4, 0u8..5, 0u16..1000), 1..40),
        ) {
            let mut events = Vec::new();
            let mut states = vec![Content::new()];
            let mut durable = 0;
            for (i, (what, key, draw)) in steps.into_iter().enumerate() {
                if what == 3 {
                    let kept = durable + usize::from(draw) % (states.len() - durable);
                    states.truncate(kept + 1);
                    durable = kept;
                    events.push(KvEvent::Recovered { power_failed: true, found: states[kept].clone() });
                } else {
                    let (key, value) = (vec![key], i.to_string().into_bytes());
                    let mut next = states[states.len() - 1].clone();
                    next.insert(key.clone(), value.clone());
                    states.push(next);
                    let ack = if what == 0 { Ack::Synced } else { Ack::Buffered };
                    if ack == Ack::Synced {
                        durable = states.len() - 1;
                    }
                    events.push(KvEvent::Write { batch: vec![(key, Some(value))], ack });
                }
            }
            prop_assert_eq!(judge(events.clone()), Ok(()));
            events.push(put("synced", "1", Ack::Synced));
            events.push(KvEvent::Recovered { power_failed: true, found: states[states.len() - 1].clone() });
            prop_assert!(judge(events).is_err());
        }
    }
}
