//! Keys of what a copy stores, and back. The one place that builds them.

use crate::tables::ids::{LogIndex, PartitionId};

/// First byte of all keys of copies: what else a node stores begins with another.
const COPIES: u8 = b'P';
const PREFIX_BYTES: usize = 7;

/// What is stored of a copy. All but the promise goes when a learner begins anew, so that has the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Kind {
    Promise = b'a',
    Begin = b'b',
    Applied = b'c',
    Ledger = b'd',
    Entry = b'e',
    Open = b'o',
    Row = b'r',
    Taken = b't',
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Promise => "promise",
            Kind::Begin => "begin of the log",
            Kind::Applied => "applied state",
            Kind::Ledger => "ledger",
            Kind::Entry => "entry",
            Kind::Open => "open",
            Kind::Row => "row",
            Kind::Taken => "progress of a learner",
        }
    }
}

fn prefix(partition: PartitionId) -> Vec<u8> {
    let mut key = vec![COPIES];
    key.extend(partition.table.to_be_bytes());
    key.extend(partition.number.to_be_bytes());
    key
}

/// A key.
pub(super) fn of(partition: PartitionId, kind: Kind, rest: &[u8]) -> Vec<u8> {
    let mut key = prefix(partition);
    key.push(kind as u8);
    key.extend(rest);
    key
}

/// The key of something at an index.
pub(super) fn at(partition: PartitionId, kind: Kind, index: LogIndex) -> Vec<u8> {
    of(partition, kind, &index.to_be_bytes())
}

/// A key behind all of a kind, and before those of the next.
pub(super) fn behind(partition: PartitionId, kind: Kind) -> Vec<u8> {
    let mut key = prefix(partition);
    key.push(kind as u8 + 1);
    key
}

/// Behind everything of a partition.
pub(super) fn behind_all(partition: PartitionId) -> Vec<u8> {
    let mut key = prefix(partition);
    key.push(u8::MAX);
    key
}

/// Where the copies begin, and where they end.
pub(super) fn copies() -> (Vec<u8>, Vec<u8>) {
    (vec![COPIES], vec![COPIES + 1])
}

/// Whose key it is; nothing if it is no copy's.
pub(super) fn partition_of(key: &[u8]) -> Option<PartitionId> {
    let (prefix, _) = key.split_at_checked(PREFIX_BYTES)?;
    let (table, number) = prefix.strip_prefix(&[COPIES])?.split_at(4);
    let (table, number) = (table.try_into().ok()?, number.try_into().ok()?);
    Some(PartitionId { table: u32::from_be_bytes(table), number: u16::from_be_bytes(number) })
}

/// What stands behind the kind.
pub(super) fn rest(key: &[u8]) -> &[u8] {
    key.get(PREFIX_BYTES + 1..).unwrap_or_default()
}

/// The index in a key; nothing if it has none.
pub(super) fn index(key: &[u8]) -> Option<LogIndex> {
    Some(LogIndex::from_be_bytes(rest(key).try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_partition_kind_and_index_and_are_read_back() {
        let id = |table, number| PartitionId { table, number };
        let keys = [
            of(id(1, 255), Kind::Promise, &[]),
            at(id(1, 255), Kind::Entry, 255),
            at(id(1, 255), Kind::Entry, 256),
            behind(id(1, 255), Kind::Entry),
            of(id(1, 255), Kind::Row, &[0xff; 9]),
            behind_all(id(1, 255)),
            of(id(1, 256), Kind::Promise, &[]),
            of(id(256, 0), Kind::Promise, &[]),
        ];
        assert!(keys.is_sorted() && (copies().0..copies().1).contains(&keys[7]));
        assert_eq!(partition_of(&keys[1]), Some(id(1, 255)));
        assert_eq!(index(&keys[2]), Some(256));
        assert_eq!(rest(&keys[4]), [0xff; 9]);
        assert_eq!(
            (partition_of(b"P123"), partition_of(b"Q123456x"), index(b"P1234567")),
            (None, None, None)
        );
    }
}
