//! Joins: two keyed streams that meet by key.
//!
//! - In windows: when a window is over, its items of both sides are handed to a function together ([`super::job::Joined`]).
//! - Without windows: a [`super::functions::CoProcessFunction`] remembers what it needs of either side, for as long as it
//!   needs it.
//!
//! The order of a side's items is that of their arrival, which differs between runs if they come over several channels: a
//! function whose result shall not differ does not depend on it.

use std::sync::Arc;

use async_trait::async_trait;

use super::Error;
use super::functions::{Collector, decode};
use super::operator::{Context, KeyedOperator};
use super::record::Record;
use super::window::{Window, Windows, timed, window_of};
use crate::state::{Data, ListState, Timer};

/// What is made of the items of a key on both sides of a window; both may be empty, but not at once.
pub(crate) type JoinFn<K, L, R, O> = dyn Fn(&K, Window, Vec<L>, Vec<R>) -> Vec<O> + Send + Sync;

/// The operator of joins in windows.
pub(crate) struct WindowJoin<K, L, R, O> {
    pub(crate) uid: String,
    pub(crate) windows: Windows,
    pub(crate) join: Arc<JoinFn<K, L, R, O>>,
}

impl<K, L: Data, R: Data, O> WindowJoin<K, L, R, O> {
    const LEFT: ListState<L> = ListState::new("left");
    const RIGHT: ListState<R> = ListState::new("right");
}

#[async_trait]
impl<K: Data, L: Data, R: Data, O: Data> KeyedOperator for WindowJoin<K, L, R, O> {
    async fn process(
        &mut self,
        record: Record,
        context: &mut Context<'_>,
        _: &mut Vec<Record>,
    ) -> Result<(), Error> {
        timed(&self.uid, &record)?;
        let mut is_late = true;
        for window in self.windows.assign(record.time_ms) {
            if window.last_ms() <= context.watermark_ms() {
                continue;
            }
            is_late = false;
            let namespace = window.namespace();
            if record.input == 0 {
                Self::LEFT.add_in(context, &namespace, &decode(&self.uid, &record.value)?).await?;
            } else {
                Self::RIGHT.add_in(context, &namespace, &decode(&self.uid, &record.value)?).await?;
            }
            context.set_timer(window.last_ms(), &namespace).await?;
        }
        if is_late {
            context.drop_late();
        }
        Ok(())
    }

    async fn on_timer(
        &mut self,
        timer: Timer,
        context: &mut Context<'_>,
        out: &mut Vec<Record>,
    ) -> Result<(), Error> {
        let window = window_of(&self.uid, &timer)?;
        let left = Self::LEFT.get_in(context, &timer.namespace).await?;
        let right = Self::RIGHT.get_in(context, &timer.namespace).await?;
        Self::LEFT.clear_in(context, &timer.namespace).await?;
        Self::RIGHT.clear_in(context, &timer.namespace).await?;
        let key = decode(&self.uid, &timer.key)?;
        let mut out = Collector::new(out, window.last_ms());
        (self.join)(&key, window, left, right).into_iter().for_each(|item| out.collect(item));
        out.finish(&self.uid)
    }
}
