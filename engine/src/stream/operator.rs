//! Keyed operators: what is done with each record, given what its key remembers.

use async_trait::async_trait;

use super::Error;
use super::record::Record;
use crate::state::KeyedState;

/// An operator of one subtask. It must keep nothing between records but keyed state: the operator itself is not part of a
/// checkpoint.
#[async_trait]
pub trait KeyedOperator: Send {
    /// Processes a record and appends what it emits.
    ///
    /// # Errors
    /// If the state fails, or the record is not one of those the operator takes: the task fails.
    async fn process(
        &mut self,
        record: Record,
        state: &mut KeyedState,
        out: &mut Vec<Record>,
    ) -> Result<(), Error>;
}
