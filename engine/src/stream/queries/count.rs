//! A running count by key: for each record the how many-th of its key it is.

use async_trait::async_trait;
use bytes::Bytes;

use crate::state::{KeyedState, StateId};
use crate::stream::Error;
use crate::stream::operator::KeyedOperator;
use crate::stream::record::Record;

/// The count of a key, u64 big endian.
const COUNT: StateId = StateId(0);

/// Counts, and hands (key, count) to `emit`.
pub struct Count {
    /// For errors.
    pub name: &'static str,
    /// What is sent on.
    pub emit: fn(key: &Bytes, count: u64) -> Record,
}

#[async_trait]
impl KeyedOperator for Count {
    async fn process(
        &mut self,
        record: Record,
        state: &mut KeyedState,
        out: &mut Vec<Record>,
    ) -> Result<(), Error> {
        let before = match state.get(COUNT, &record.key).await? {
            None => 0,
            Some(stored) => {
                let stored = stored.as_slice().try_into();
                let what = || "whose stored count is not 8 bytes".to_string();
                u64::from_be_bytes(stored.map_err(|_| Error::Record { operator: self.name, what: what() })?)
            }
        };
        let count = before + 1;
        state.put(COUNT, &record.key, &count.to_be_bytes()).await?;
        out.push((self.emit)(&record.key, count));
        Ok(())
    }
}

/// A record of two numbers.
pub fn record(key: u64, value: u64) -> Record {
    let number = |n: u64| Bytes::copy_from_slice(&n.to_be_bytes());
    Record { key: number(key), value: number(value) }
}

/// The two numbers of a record.
pub fn numbers(record: &Record) -> Option<(u64, u64)> {
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
    Some((number(&record.key)?, number(&record.value)?))
}
