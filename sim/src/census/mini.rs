//! All short sequences of operations.
//!
//! Most crash bugs of storage engines need only a few operations on an empty store, if every crash between them is tried
//! (Mohan et al., *Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing*, OSDI 2018). A scenario offers an
//! alphabet of operations with fixed arguments; this goes through all words up to a length. Operations that name one of
//! several alike keys are told apart only by which key came first: a word whose first key is not the first one is a
//! renaming of another word.

use std::collections::BTreeMap;

use crate::plan::{Op, Plan, VERSION};
use crate::vocabulary::Vocabulary;

/// What a scenario offers for a census of all short sequences.
#[derive(Clone, Debug)]
pub struct MiniWorkload {
    /// The operations.
    pub letters: Vec<Letter>,
    /// Settings that differ from their defaults.
    pub knobs: BTreeMap<&'static str, u64>,
    /// From one operation to the next, in microseconds.
    pub gap_us: u64,
    /// From the last operation to the horizon, in microseconds.
    pub rest_us: u64,
}

/// An operation of a mini workload.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The verb.
    pub verb: &'static str,
    /// Its arguments.
    pub args: Vec<u64>,
    /// Which of the keys that are alike it names, from 0.
    pub key: Option<u8>,
}

impl Letter {
    /// An operation.
    pub fn new(verb: &'static str, args: &[u64]) -> Letter {
        Letter { verb, args: args.to_vec(), key: None }
    }

    /// It names this one of the keys that are alike.
    pub fn of_key(self, key: u8) -> Letter {
        Letter { key: Some(key), ..self }
    }
}

impl MiniWorkload {
    /// The plans of all words of up to `length` letters, shorter ones first. The seed of a plan is its place in this order.
    pub fn plans<'a>(
        &'a self,
        scenario: &'a str,
        vocabulary: &'a Vocabulary,
        length: usize,
    ) -> impl Iterator<Item = Plan> + 'a {
        let words = (1..=length).flat_map(|length| self.words(length));
        words.enumerate().map(|(i, word)| self.plan(scenario, vocabulary, i as u64, &word))
    }

    /// The words of one length, as places in the alphabet.
    fn words(&self, length: usize) -> impl Iterator<Item = Vec<usize>> {
        let letters = self.letters.len();
        let count = letters.checked_pow(u32::try_from(length).unwrap_or(u32::MAX)).unwrap_or(usize::MAX);
        (0..count)
            .map(move |number| {
                let mut word = vec![0; length];
                let mut left = number;
                for place in word.iter_mut().rev() {
                    *place = left % letters;
                    left /= letters;
                }
                word
            })
            .filter(|word| self.is_canonical(word))
    }

    /// Keys come in their order.
    fn is_canonical(&self, word: &[usize]) -> bool {
        let mut known = 0;
        word.iter().filter_map(|&place| self.letters[place].key).all(|key| {
            let in_order = key <= known;
            known = known.max(key + 1);
            in_order
        })
    }

    fn plan(&self, scenario: &str, vocabulary: &Vocabulary, seed: u64, word: &[usize]) -> Plan {
        let ops = word.iter().enumerate().map(|(i, &place)| Op {
            id: i as u32,
            at_us: (i as u64 + 1) * self.gap_us,
            actor: 0,
            verb: self.letters[place].verb.into(),
            args: self.letters[place].args.clone(),
        });
        Plan {
            version: VERSION,
            scenario: scenario.into(),
            seed,
            schedule_seed: 0,
            key: 0,
            horizon_us: word.len() as u64 * self.gap_us + self.rest_us,
            topology: vocabulary.roles.iter().map(|role| (role.name.into(), *role.count.start())).collect(),
            knobs: self.knobs.iter().map(|(name, value)| ((*name).into(), *value)).collect(),
            buggify: Vec::new(),
            ops: ops.collect(),
            faults: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_once_but_for_the_names_of_keys() {
        let letters = vec![
            Letter::new("put", &[0]).of_key(0),
            Letter::new("put", &[1]).of_key(1),
            Letter::new("flush", &[]),
        ];
        let mini = MiniWorkload { letters, knobs: BTreeMap::new(), gap_us: 10, rest_us: 5 };
        assert_eq!(mini.words(1).collect::<Vec<_>>(), [[0], [2]]);
        assert_eq!(mini.words(2).collect::<Vec<_>>(), [[0, 0], [0, 1], [0, 2], [2, 0], [2, 2]]);
        assert_eq!(mini.words(3).filter(|word| word[0] == 1).count(), 0);
    }
}
