//! When checkpoints are taken, and how many are kept.

use std::time::Duration;

use clap::{Args, ValueEnum};
use cutwater_engine::checkpoint::coordinator::CheckpointConfig;
use cutwater_engine_cli::web::view;

use super::duration;
use crate::output::{Failure, Usage};

/// When checkpoints are taken.
#[derive(Args, Clone, Debug)]
pub(crate) struct CheckpointOptions {
    /// From one checkpoint to the next.
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    interval: Duration,
    /// From the completion of one to the next, at least.
    #[arg(long, default_value = "0", value_parser = duration::parse)]
    min_pause: Duration,
    /// A checkpoint that takes longer is given up.
    #[arg(long, default_value = "10m", value_parser = duration::parse)]
    timeout: Duration,
    /// How many may fail in a row before the job is restarted.
    #[arg(long, default_value_t = 0)]
    tolerable_failures: u32,
    /// How many completed ones are kept.
    #[arg(long, default_value_t = 1)]
    retained: usize,
    /// How many may be under way at once.
    #[arg(long, default_value_t = 1)]
    max_concurrent: usize,
    /// What becomes of them when the job is cancelled.
    #[arg(long, value_enum, default_value_t = Retention::RetainOnCancel)]
    retention: Retention,
}

/// What becomes of checkpoints when the job is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Retention {
    RetainOnCancel,
    DeleteOnCancel,
    Never,
}

impl CheckpointOptions {
    /// What the coordinator is told.
    pub(crate) fn config(&self) -> Result<CheckpointConfig, Failure> {
        if self.interval.is_zero() || self.timeout.is_zero() {
            return Err(Usage("--interval and --timeout must be more than 0".into()).into());
        }
        if self.retained == 0 || self.max_concurrent == 0 {
            return Err(Usage("--retained and --max-concurrent must be at least 1".into()).into());
        }
        if self.retention != Retention::RetainOnCancel {
            return Err(Usage(
                "--retention: this version keeps checkpoints: only retain-on-cancel is possible".into(),
            )
            .into());
        }
        Ok(CheckpointConfig {
            interval: self.interval,
            min_pause: self.min_pause,
            timeout: self.timeout,
            tolerable_failures: self.tolerable_failures,
            retained: self.retained,
            max_concurrent: self.max_concurrent,
        })
    }

    /// The same for people.
    pub(crate) fn view(&self, storage: &str) -> view::Config {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        view::Config {
            interval_ms: ms(self.interval),
            timeout_ms: ms(self.timeout),
            min_pause_ms: ms(self.min_pause),
            max_concurrent: self.max_concurrent as u64,
            tolerable_failures: self.tolerable_failures.into(),
            retained: self.retained as u64,
            retain_on_cancel: self.retention == Retention::RetainOnCancel,
            storage: storage.into(),
        }
    }
}
