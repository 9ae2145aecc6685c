//! Locks of prepared transactions: shared for what they read, alone for what they change. Nobody waits for one: who finds a
//! key locked is refused. So there are no queues here, and nothing can deadlock.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::tables::ids::TxId;

/// Who holds a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// They have read it.
    Shared(BTreeSet<TxId>),
    /// It will change it.
    Alone(TxId),
}

/// The locks of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locks(BTreeMap<Bytes, Held>);

impl Locks {
    /// Who holds `key`.
    pub fn held(&self, key: &[u8]) -> Option<&Held> {
        self.0.get(key)
    }

    /// True if nothing is locked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who stands in the way of `tx` reading `key`.
    pub fn against_read(&self, key: &[u8]) -> Option<TxId> {
        match self.0.get(key) {
            Some(Held::Alone(by)) => Some(*by),
            Some(Held::Shared(_)) | None => None,
        }
    }

    /// Who stands in the way of a change of `key`.
    pub fn against_change(&self, key: &[u8]) -> Option<TxId> {
        match self.0.get(key) {
            Some(Held::Alone(by)) => Some(*by),
            Some(Held::Shared(by)) => by.first().copied(),
            None => None,
        }
    }

    /// Locks what `tx` reads and changes; a key that it does both with, it holds alone.
    ///
    /// # Panics
    /// If somebody stands in the way: it was to be refused before.
    pub fn take<'a>(
        &mut self,
        tx: TxId,
        reads: impl IntoIterator<Item = &'a Bytes>,
        changes: impl IntoIterator<Item = &'a Bytes>,
    ) {
        for key in changes {
            let before = self.0.insert(key.clone(), Held::Alone(tx));
            assert!(before.is_none(), "{tx} is to change a key that is held: {before:?}");
        }
        for key in reads {
            match self.0.entry(key.clone()).or_insert_with(|| Held::Shared(BTreeSet::new())) {
                Held::Shared(by) => drop(by.insert(tx)),
                Held::Alone(by) => assert_eq!(*by, tx, "a key is read that somebody holds alone"),
            }
        }
    }

    /// Gives back what `tx` holds of `keys`.
    pub fn release<'a>(&mut self, tx: TxId, keys: impl IntoIterator<Item = &'a Bytes>) {
        for key in keys {
            let is_free = match self.0.get_mut(key) {
                Some(Held::Shared(by)) => {
                    by.remove(&tx);
                    by.is_empty()
                }
                Some(Held::Alone(by)) => *by == tx,
                None => false,
            };
            if is_free {
                self.0.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&'static str]) -> Vec<Bytes> {
        names.iter().map(|name| Bytes::from_static(name.as_bytes())).collect()
    }

    #[test]
    fn readers_share_and_writers_do_not() {
        let mut locks = Locks::default();
        locks.take(TxId(1), &keys(&["a", "b"]), &keys(&["b"]));
        locks.take(TxId(2), &keys(&["a"]), &[]);
        assert_eq!(locks.against_read(b"a"), None);
        assert_eq!(locks.against_change(b"a"), Some(TxId(1)));
        assert_eq!(locks.against_read(b"b"), Some(TxId(1)), "read and changed: held alone");
        locks.release(TxId(1), &keys(&["a", "b", "b"]));
        assert_eq!(locks.against_change(b"b"), None);
        assert_eq!(locks.against_change(b"a"), Some(TxId(2)));
        locks.release(TxId(2), &keys(&["a"]));
        assert!(locks.is_empty());
    }

    #[test]
    #[should_panic(expected = "is held")]
    fn a_lock_is_never_taken_over() {
        let mut locks = Locks::default();
        locks.take(TxId(1), &[], &keys(&["a"]));
        locks.take(TxId(2), &[], &keys(&["a"]));
    }
}
