//! What an operator's task does with records, watermarks and timers; barriers are in [`super::operator`].
//!
//! A watermark that advances fires the timers that have become due, in the order of their times, before it goes on
//! downstream: what they emit is not late there. There may be any number of them, and so the firing stops whenever the
//! output has no room, and goes on when it has; the input waits meanwhile, a barrier that overtakes does not. (Flink's
//! interruptible timers.) A snapshot that is taken in between holds the timers that have not fired: the watermark comes again
//! after a restore. Every other call runs to its end before the task looks at anything else.

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
    /// What goes downstream once the timers that it makes due have fired.
    held_back: Option<Progress>,
    out: Vec<Record>,
    processed: u32,
    /// Records that were dropped because they came too late.
    late: u64,
}

impl Processing {
    pub(super) fn new(channels: usize) -> Processing {
        Processing {
            watermarks: Watermarks::new(channels),
            held_back: None,
            out: Vec::new(),
            processed: 0,
            late: 0,
        }
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
        assert!(!self.is_firing(), "timers fire before the records behind their watermark");
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
        self.held_back = self.watermarks.watermark(channel, time_ms);
        self.go_on(body, output).await
    }

    pub(super) async fn idle(
        &mut self,
        channel: usize,
        body: &mut Body<'_>,
        output: &mut Emitter,
    ) -> Result<(), Error> {
        self.held_back = self.watermarks.idle(channel);
        self.go_on(body, output).await
    }

    /// True if timers are due, and the output had no room for what they emit.
    pub(super) fn is_firing(&self) -> bool {
        self.held_back.is_some()
    }

    /// Fires what is due, as long as the output has room.
    pub(super) async fn go_on(&mut self, body: &mut Body<'_>, output: &mut Emitter) -> Result<(), Error> {
        let Some(progress) = self.held_back else { return Ok(()) };
        if let (Progress::Watermark(watermark_ms), Body::Keyed(operator, state)) = (progress, body) {
            while let Some(timer) = state.pop_timer(watermark_ms).await? {
                let moment = Moment { time_ms: timer.time_ms, watermark_ms, input: 0 };
                let mut context = Context { state, moment, late: &mut self.late };
                operator.on_timer(timer, &mut context, &mut self.out).await?;
                sometimes!(points::TIMER_FIRED, true);
                self.emit(output).await?;
                if !output.is_ready() {
                    sometimes!(points::TIMERS_INTERRUPTED, true);
                    return Ok(());
                }
            }
        }
        self.held_back = None;
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
