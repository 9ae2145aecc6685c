//! Merge operands: a change of a value that is written without reading it.
//!
//! An operand lies over the value that it changes, and over earlier operands, until somebody needs the result: a read puts them
//! together, and a compaction that meets the value below them, or knows that there is none, writes the result in their place. What
//! they mean says the [`MergeOperator`] of the family, which must be the same whenever the store is opened (RocksDB's
//! `MergeOperator`; its partial merges, which put operands together without the value, are not done here).

use std::fmt::Debug;
use std::sync::Arc;

use super::error::Error;
use super::iter::Entry;
use super::key::{Tag, ValueKind};
use super::options::FamilyOptions;
use super::retention::Retention;

/// Puts a value and its operands together.
///
/// Compactions decide when: they put the older operands and the value together, and whoever reads later puts the newer ones on the
/// result. So it must give the same for the same, and it must not matter where the operands are parted:
/// `merge(base, [a, b]) == merge(merge(base, [a]), [b])`, and if one side refuses, so must the other. An operator that breaks this
/// (a mean, the largest three operands) gives answers that depend on when compactions ran. Nor may its meaning change under its
/// name: the name stands in tables, and is not compared with anything.
pub trait MergeOperator: Debug + Send + Sync {
    /// Its name, as it stands in tables.
    fn name(&self) -> &str;

    /// The value of `key` after `operands`, the oldest first, on `base`, or on nothing. `None` if they make no sense: reads of the
    /// key then fail, and compactions leave it as it is.
    fn merge(&self, key: &[u8], base: Option<&[u8]>, operands: &[&[u8]]) -> Option<Vec<u8>>;
}

/// The operator of a family. Two are the same if they have the same name.
#[derive(Clone, Debug)]
pub struct MergeWith(Arc<dyn MergeOperator>);

impl MergeWith {
    /// This one.
    pub fn new(operator: impl MergeOperator + 'static) -> MergeWith {
        MergeWith(Arc::new(operator))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0.name()
    }
}

impl PartialEq for MergeWith {
    fn eq(&self, other: &MergeWith) -> bool {
        self.name() == other.name()
    }
}

impl Eq for MergeWith {}

/// Appends each operand to the value, behind a delimiter. RocksDB's `StringAppendOperator`.
#[derive(Clone, Debug)]
pub struct Append {
    delimiter: Vec<u8>,
}

impl Append {
    /// With this between value and operand, and between operands.
    pub fn new(delimiter: &[u8]) -> Append {
        Append { delimiter: delimiter.to_vec() }
    }
}

impl MergeOperator for Append {
    fn name(&self) -> &str {
        "StringAppendOperator"
    }

    fn merge(&self, _key: &[u8], base: Option<&[u8]>, operands: &[&[u8]]) -> Option<Vec<u8>> {
        let parts: Vec<&[u8]> = base.into_iter().chain(operands.iter().copied()).collect();
        Some(parts.join(&self.delimiter[..]))
    }
}

/// The value of a key that has operands.
///
/// # Errors
/// [`Error::Unmergeable`].
pub(crate) fn fold(
    with: Option<&MergeWith>,
    key: &[u8],
    base: Option<&[u8]>,
    oldest_first: &[Vec<u8>],
) -> Result<Vec<u8>, Error> {
    let unmergeable = |what: String| Error::Unmergeable { key: key.to_vec(), what };
    let Some(operator) = with else {
        return Err(unmergeable("its family was opened without a merge operator".to_owned()));
    };
    let operands: Vec<&[u8]> = oldest_first.iter().map(Vec::as_slice).collect();
    let merged = operator.0.merge(key, base, &operands);
    merged.ok_or_else(|| unmergeable(format!("{} refuses it", operator.name())))
}

/// The operands of a key that a compaction has met, and that no snapshot tells apart: the newest first, without a gap.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    key: Vec<u8>,
    newest_first: Vec<(Tag, Vec<u8>)>,
}

impl Chain {
    pub(crate) fn is_empty(&self) -> bool {
        self.newest_first.is_empty()
    }

    /// True if the entry belongs to the chain, or there is none.
    pub(crate) fn goes_on(&self, entry: &Entry<'_>, retention: &Retention) -> bool {
        self.newest_first.first().is_none_or(|(newest, _)| {
            self.key[..] == *entry.user_key && retention.are_together(newest.sequence(), entry.tag.sequence())
        })
    }

    /// True if the entry is an operand that can be put together with others.
    pub(crate) fn takes(&self, entry: &Entry<'_>, options: &FamilyOptions) -> bool {
        entry.tag.kind() == Some(ValueKind::Merge) && options.merge_operator.is_some()
    }

    pub(crate) fn push(&mut self, entry: &Entry<'_>) {
        if self.is_empty() {
            self.key.clear();
            self.key.extend_from_slice(entry.user_key);
        }
        self.newest_first.push((entry.tag, entry.value.to_vec()));
    }

    pub(crate) fn clear(&mut self) {
        self.newest_first.clear();
    }

    /// True if nothing lies below it.
    pub(crate) fn is_over_nothing(&self, retention: &Retention) -> bool {
        let oldest = self.newest_first.last().map_or(0, |(tag, _)| tag.sequence());
        retention.is_over_nothing(&self.key, oldest)
    }

    /// What its operands make of a value, or of none; nothing if the operator refuses that.
    pub(crate) fn merged(&self, options: &FamilyOptions, base: Option<&[u8]>) -> Option<Vec<u8>> {
        let oldest_first: Vec<Vec<u8>> = self.newest_first.iter().rev().map(|(_, v)| v.clone()).collect();
        fold(options.merge_operator.as_ref(), &self.key, base, &oldest_first).ok()
    }

    /// The entry that has the merged value: as new as its newest operand.
    pub(crate) fn entry<'e>(&'e self, value: &'e [u8]) -> Entry<'e> {
        let (newest, _) = self.newest_first.first().expect("there is an operand");
        Entry { user_key: &self.key, tag: Tag::new(newest.sequence(), ValueKind::Value), value }
    }

    /// Its entries as they are.
    pub(crate) fn operands(&self) -> impl Iterator<Item = Entry<'_>> {
        self.newest_first.iter().map(|(tag, value)| Entry { user_key: &self.key, tag: *tag, value })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_does_not_matter_where_operands_are_parted(
            delimiter in prop::collection::vec(any::<u8>(), 0..3),
            base in prop::option::of(prop::collection::vec(any::<u8>(), 0..5)),
            operands in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 1..6),
            at: prop::sample::Index,
        ) {
            let with = MergeWith::new(Append::new(&delimiter));
            let (older, newer) = operands.split_at(at.index(operands.len()) + 1);
            let whole = fold(Some(&with), b"k", base.as_deref(), &operands).unwrap();
            let part = fold(Some(&with), b"k", base.as_deref(), older).unwrap();
            let parted = if newer.is_empty() { part } else { fold(Some(&with), b"k", Some(&part), newer).unwrap() };
            prop_assert_eq!(whole, parted);
        }
    }

    #[test]
    fn operands_are_appended_in_their_order() {
        let with = MergeWith::new(Append::new(b", "));
        let operands = [b"b".to_vec(), b"c".to_vec()];
        assert_eq!(fold(Some(&with), b"k", Some(b"a"), &operands).unwrap(), b"a, b, c");
        assert_eq!(fold(Some(&with), b"k", None, &operands).unwrap(), b"b, c");
        let error = fold(None, b"k", None, &operands).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the value of key k cannot be merged: its family was opened without a merge operator"
        );
    }
}
