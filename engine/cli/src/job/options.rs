//! When checkpoints are taken, and how many are kept.

use std::time::Duration;

use cutwater_io::time::micros;

use clap::{Args, ValueEnum};
use cutwater_engine::checkpoint::barrier::Alignment;
use cutwater_engine::checkpoint::coordinator::CheckpointConfig;
use cutwater_engine::checkpoint::job_state;
use cutwater_engine::state::changelog::ChangelogOptions;

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
    /// What becomes of them when the job is cancelled. A job that finishes deletes them, whatever is said here.
    #[arg(long, value_enum, default_value_t = Retention::RetainOnCancel)]
    retention: Retention,
    /// Barriers overtake the records before them, which become part of the checkpoint.
    #[arg(long)]
    unaligned: bool,
    /// Barriers overtake only after they have waited so long.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, conflicts_with = "unaligned")]
    aligned_timeout: Option<Duration>,
    /// Changes of keyed state are logged: a checkpoint is a snapshot of some time ago and the log since then.
    #[arg(long)]
    changelog: bool,
    /// From one snapshot under the log to the next.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse, requires = "changelog")]
    materialise_every: Duration,
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
        let config = CheckpointConfig {
            interval: self.interval,
            min_pause: self.min_pause,
            timeout: self.timeout,
            tolerable_failures: self.tolerable_failures,
            retained: self.retained,
            max_concurrent: self.max_concurrent,
            alignment: match self.aligned_timeout {
                _ if self.unaligned => Alignment::Unaligned,
                Some(timeout) => Alignment::AlignedFor { timeout_us: micros(timeout) },
                None => Alignment::Aligned,
            },
            retention: match self.retention {
                Retention::RetainOnCancel => job_state::Retention::RetainOnCancellation,
                Retention::DeleteOnCancel => job_state::Retention::DeleteOnCancellation,
                Retention::Never => job_state::Retention::Never,
            },
            changelog: self.changelog.then(|| ChangelogOptions {
                materialise_every: self.materialise_every,
                ..ChangelogOptions::default()
            }),
        };
        config.check().map_err(|what| Usage(format!("checkpoints: {what}")))?;
        Ok(config)
    }
}
