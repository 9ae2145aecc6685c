//! What a compaction filter may take away, and what not.
//!
//! In plans with a filter each change of a key is also made to its shadow, a key of its own right behind it, in the same batch. The
//! filter leaves keys alone, and decides of a shadow by its bytes: it stays, it goes when a compaction meets it, or it gets a mark. So
//! whatever is read at any one moment, after a crash, in a checkpoint or a backup: a shadow is what its key is, or is gone if it may
//! go; it is there, if it may not; and there is none of a key that is not there, nor an older one. Who holds a snapshot sees all of
//! its shadows stay as they were.

use cutwater_engine::store::{CompactionFilter, Decision, FilterWith};
use cutwater_sim::scenario::Violation;
use xxhash_rust::xxh3::xxh3_64;

use super::content::{same, show};
use crate::oracle::batches::Content;

/// Ends the key of a shadow, and the value of one that was changed. No other key or value ends so.
const MARK: u8 = b'~';

/// The shadow of a key.
pub(super) fn shadow_of(key: &[u8]) -> Vec<u8> {
    [key, &[MARK]].concat()
}

/// The key that it is the shadow of, if it is one.
pub(super) fn is_shadow(key: &[u8]) -> Option<&[u8]> {
    key.strip_suffix(&[MARK])
}

/// See the module.
#[derive(Debug)]
struct Shadows {
    filters_flushes: bool,
}

/// The filter of the plans that have one; it is asked in flushes, too, or not.
pub(super) fn filter(filters_flushes: bool) -> FilterWith {
    FilterWith::new(Shadows { filters_flushes })
}

fn fate(key: &[u8], unmarked: &[u8]) -> Decision {
    match xxh3_64(&[key, unmarked].concat()) % 3 {
        0 => Decision::Keep,
        1 => Decision::Remove,
        _ => Decision::Change([unmarked, &[MARK]].concat()),
    }
}

impl CompactionFilter for Shadows {
    fn name(&self) -> &str {
        "shadows"
    }

    fn decide(&self, _level: usize, key: &[u8], value: &[u8]) -> Decision {
        match (is_shadow(key), value.strip_suffix(&[MARK])) {
            (Some(_), None) => fate(key, value),
            _ => Decision::Keep,
        }
    }

    fn decide_by_key(&self, _level: usize, key: &[u8]) -> Option<Decision> {
        is_shadow(key).is_none().then_some(Decision::Keep)
    }

    fn filters_flushes(&self) -> bool {
        self.filters_flushes
    }
}

/// Compares shadows with what was read together with them.
pub(super) fn judge(content: &Content, shadows: &Content) -> Result<(), Violation> {
    let wrong = |property: &str, key: &[u8], expected: Option<&Vec<u8>>| {
        let found = shadows.get(&shadow_of(key));
        Err(Violation::new("filter", property)
            .of("key")
            .expected(format!("{} = {}", show(Some(key)), show(expected)))
            .found(show(found)))
    };
    for (key, value) in content {
        let shadow = shadow_of(key);
        let (found, fate) = (shadows.get(&shadow), fate(&shadow, value));
        let is_right = match (&fate, found) {
            (Decision::Remove, None) => true,
            (Decision::Change(changed), Some(found)) => found == value || found == changed,
            (Decision::Keep | Decision::Remove, Some(found)) => found == value,
            (_, None) => false,
        };
        if !is_right {
            return wrong(
                "a filter takes and changes what it says, and nothing comes back",
                key,
                Some(value),
            );
        }
    }
    let of_nothing =
        shadows.keys().filter_map(|shadow| is_shadow(shadow)).find(|key| !content.contains_key(*key));
    of_nothing.map_or(Ok(()), |key| wrong("what was deleted does not come back", key, None))
}

/// Compares the shadows that a snapshot shows with what it showed before.
pub(super) fn judge_again(before: &Content, after: &Content) -> Result<(), Violation> {
    same("filter", "a snapshot does not see what a filter does", before, after)
}
