//! Operators: what is done with each record, given what is remembered.
//!
//! A [`KeyedOperator`] remembers by key, a [`PlainOperator`] by subtask. Both must keep nothing between records but that state:
//! the operator itself is not part of a checkpoint. Records and timers of a task are processed one after the other, each to
//! its end before a barrier is looked at.
//!
//! These take bytes. The typed functions that jobs are made of are in [`super::functions`].

use std::ops::{Deref, DerefMut};

use async_trait::async_trait;

use super::Error;
use super::record::Record;
use crate::state::operator_state::OperatorState;
use crate::state::{KeyedState, Timer};

/// What an operator is told about the record or timer at hand.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Time of the record or timer, in milliseconds.
    pub time_ms: i64,
    /// No record up to and including this time follows, in milliseconds.
    pub watermark_ms: i64,
    /// Which input the record came from; 0 for timers.
    pub input: u8,
}

/// What a keyed operator works with: its state, at the key of the record or timer. State descriptors take it as it is.
pub struct Context<'a> {
    pub(crate) state: &'a mut KeyedState,
    pub(crate) moment: Moment,
    pub(crate) late: &'a mut u64,
}

impl Context<'_> {
    /// See [`Moment::time_ms`].
    pub fn time_ms(&self) -> i64 {
        self.moment.time_ms
    }

    /// See [`Moment::watermark_ms`].
    pub fn watermark_ms(&self) -> i64 {
        self.moment.watermark_ms
    }

    /// See [`Moment::input`].
    pub fn input(&self) -> u8 {
        self.moment.input
    }

    /// A record came after the watermark had passed it, and is dropped.
    pub fn drop_late(&mut self) {
        *self.late += 1;
    }
}

impl Deref for Context<'_> {
    type Target = KeyedState;
    fn deref(&self) -> &KeyedState {
        self.state
    }
}

impl DerefMut for Context<'_> {
    fn deref_mut(&mut self) -> &mut KeyedState {
        self.state
    }
}

/// An operator with state by key, of one subtask.
#[async_trait]
pub trait KeyedOperator: Send {
    /// Processes a record and appends what it emits.
    ///
    /// # Errors
    /// If the state fails, or the record is not one of those the operator takes: the task fails.
    async fn process(
        &mut self,
        record: Record,
        context: &mut Context<'_>,
        out: &mut Vec<Record>,
    ) -> Result<(), Error>;

    /// A timer is due. Timers fire in the order of their times, before those downstream hear of the watermark.
    ///
    /// # Errors
    /// As [`KeyedOperator::process`].
    async fn on_timer(
        &mut self,
        timer: Timer,
        context: &mut Context<'_>,
        out: &mut Vec<Record>,
    ) -> Result<(), Error>;
}

/// An operator with state of its subtask or none.
pub trait PlainOperator: Send {
    /// Processes a record and appends what it emits.
    ///
    /// # Errors
    /// If the record is not one of those the operator takes, or the state holds something else: the task fails.
    fn process(
        &mut self,
        record: Record,
        moment: Moment,
        state: &mut OperatorState,
        out: &mut Vec<Record>,
    ) -> Result<(), Error>;
}
