//! Writeback: what the kernel writes of its own accord.
//!
//! At keyed moments a random part of what is pending reaches the medium, and all that has been pending for longer than
//! the longest interval. The moments do not depend on what is done, and each operation is drawn by itself. That mixes old and new on the medium, and keeps the log short. No task does it: the disk looks at
//! the clock whenever it is used. To reach the medium by writeback is no promise, but what was written stays written.

use super::Disk;
use super::model::Config;
use crate::sim::Key;

/// A log longer than this is written back without waiting for the interval.
const PENDING_OPS_MAX: usize = 50_000;

/// When writeback comes next: once in each half of the longest interval, at a moment of its own.
#[derive(Clone, Debug)]
pub struct Writeback {
    next_us: u64,
}

impl Writeback {
    pub(super) fn new(key: &Key, config: &Config) -> Writeback {
        Writeback { next_us: moment_us(key, config, 0) }
    }
}

fn period_us(config: &Config) -> u64 {
    (config.writeback_interval_us_max / 2).max(1)
}

fn moment_us(key: &Key, config: &Config, period: u64) -> u64 {
    if config.writeback_interval_us_max == 0 {
        return u64::MAX;
    }
    let length = period_us(config);
    period.saturating_mul(length).saturating_add(key.hash("disk.writeback_moment", &[period]) % length)
}

impl Disk {
    /// Tells the disk what time it is, in microseconds of virtual time. To be called before each operation.
    pub fn tick(&mut self, now_us: u64) {
        self.now_us = now_us;
        if now_us >= self.writeback.next_us {
            let period = now_us / period_us(&self.config);
            let due = |period| moment_us(&self.key, &self.config, period);
            let (latest, next) =
                if due(period) <= now_us { (period, period + 1) } else { (period.saturating_sub(1), period) };
            self.writeback.next_us = due(next);
            self.write_back(latest);
        } else if self.log.len() > PENDING_OPS_MAX {
            self.write_back(now_us / period_us(&self.config));
        }
    }

    /// Each old operation, and each other with a chance that is drawn too, with what must be there before it. A log that
    /// is too long is written whole. Nothing is written where there is no space for it, or by a file system that has given
    /// up.
    fn write_back(&mut self, period: u64) {
        if !self.works() || self.free_on_medium_sectors() == Some(0) {
            return;
        }
        let key = self.key.child("disk.writeback", &[period]);
        let everything = self.log.len() > PENDING_OPS_MAX;
        let permille = *key.draw("permille", &[]).pick(&[0, 100, 500, 900, 1000]);
        let old_us = self.now_us.saturating_sub(self.config.writeback_interval_us_max);
        let pending = self.log.in_order();
        let chosen: Vec<_> = (pending.iter().zip(self.idents(&pending)))
            .filter(|(op, ident)| everything || op.issued_us < old_us || key.chance("op", ident, permille))
            .map(|(op, _)| op.key())
            .collect();
        self.force(chosen);
    }
}
