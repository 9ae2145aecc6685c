//! A running count by key: for each item the how many-th of its key it is.

use async_trait::async_trait;
use bytes::Bytes;

use crate::state::{Data, ValueState};
use crate::stream::Error;
use crate::stream::functions::{Collector, ProcessFunction};
use crate::stream::operator::Context;
use crate::stream::record::Record;

/// The count of a key.
pub const COUNT: ValueState<u64> = ValueState::new("count");

/// Emits (key, count).
#[derive(Clone, Copy, Debug)]
pub struct Count;

#[async_trait]
impl<T: Data> ProcessFunction<u64, T> for Count {
    type Out = (u64, u64);

    async fn process(
        &mut self,
        key: &u64,
        _: T,
        context: &mut Context<'_>,
        out: &mut Collector<'_, (u64, u64)>,
    ) -> Result<(), Error> {
        let count = COUNT.get(context).await?.unwrap_or(0) + 1;
        COUNT.put(context, &count).await?;
        out.collect((*key, count));
        Ok(())
    }
}

/// A record of two numbers, big endian.
pub fn record(key: u64, value: u64) -> Record {
    let number = |n: u64| Bytes::copy_from_slice(&n.to_be_bytes());
    Record::new(number(key), number(value))
}

/// The two numbers of a record.
pub fn numbers(record: &Record) -> Option<(u64, u64)> {
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
    Some((number(&record.key)?, number(&record.value)?))
}
