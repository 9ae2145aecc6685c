//! What an operator's task does with records, watermarks and timers; barriers are in [`super::operator`].
//!
//! A watermark that advances fires the timers that have become due, in the order of their times, before it goes on
//! downstream: what they emit is not late there. Each call runs to its end before the task looks at anything else.

use std::time::Duration;

use cutwater_io::{sometimes, time};

use super::RECORDS_PER_CHARGE;
use crate::state::KeyedState;
use crate::state::operator_state::OperatorState;
use crate::stream::emit::Emitter;
use crate::stream::operator::{Context, KeyedOperator, Moment, PlainOperator};
use crate::stream::record::Record;
use crate::stream::watermark::{Progress, Watermarks};
use crate::stream::{Error, points};

/// An operator with what it remembers.
pub(super) enum Body<'a> {
    /// By key.
    Keyed(Box<dyn KeyedOperator>, &'a mut KeyedState),
    /// By subtask.
    Plain(Box<dyn PlainOperator>, OperatorState),
}

/// See the module.
pub(super) struct Processing {
    watermarks: Watermarks,
    out: Vec<Record>,
    processed: u32,
    /// Records that were dropped because they came too late.
    late: u64,
}

impl Processing {
    pub(super) fn new(channels: usize) -> Processing {
        Processing { watermarks: Watermarks::new(channels), out: Vec::new(), processed: 0, late: 0 }
    }

    pub(super) fn late(&self) -> u64 {
        self.late
    }

    pub(super) async fn record(
        &mut self,
        record: Record,
        body: &mut Body<'_>,
        output: &mut Emitter,
    ) -> Result<(), Error> {
        let watermark_ms = self.watermarks.current_ms();
        let moment = Moment { time_ms: record.time_ms, watermark_ms, input: record.input };
        match body {
            Body::Keyed(operator, state) => {
                state.set_key(record.key.clone())?;
                let before = self.late;
                let mut context = Context { state, moment, late: &mut self.late };
                operator.process(record, &mut context, &mut self.out).await?;
                sometimes!(points::LATE_DROPPED, self.late > before);
            }
            Body::Plain(operator, state) => operator.process(record, moment, state, &mut self.out)?,
        }
        self.emit(output).await
    }

    pub(super) async fn watermark(
        &mut self,
        channel: usize,
        time_ms: i64,
        body: &mut Body<'_>,
        output: &mut Emitter,
    ) -> Result<(), Error> {
        let progress = self.watermarks.watermark(channel, time_ms);
        self.progress(progress, body, output).await
    }

    pub(super) async fn idle(
        &mut self,
        channel: usize,
        body: &mut Body<'_>,
        output: &mut Emitter,
    ) -> Result<(), Error> {
        let progress = self.watermarks.idle(channel);
        self.progress(progress, body, output).await
    }

    async fn progress(
        &mut self,
        progress: Option<Progress>,
        body: &mut Body<'_>,
        output: &mut Emitter,
    ) -> Result<(), Error> {
        let Some(progress) = progress else { return Ok(()) };
        if let (Progress::Watermark(watermark_ms), Body::Keyed(operator, state)) = (progress, body) {
            while let Some(timer) = state.pop_timer(watermark_ms).await? {
                let moment = Moment { time_ms: timer.time_ms, watermark_ms, input: 0 };
                let mut context = Context { state, moment, late: &mut self.late };
                operator.on_timer(timer, &mut context, &mut self.out).await?;
                sometimes!(points::TIMER_FIRED, true);
                self.emit(output).await?;
            }
        }
        output.time(progress);
        Ok(())
    }

    async fn emit(&mut self, output: &mut Emitter) -> Result<(), Error> {
        for record in self.out.drain(..) {
            output.emit(&record)?;
        }
        self.processed += 1;
        if self.processed >= RECORDS_PER_CHARGE {
            self.processed = 0;
            time::charge(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}
