//! Writeback: what the kernel writes of its own accord.
//!
//! At keyed intervals a random part of what is pending reaches the medium, and all that has been pending for longer than
//! the longest interval. That mixes old and new on the medium, and keeps the log short. No task does it: the disk looks at
//! the clock whenever it is used. To reach the medium by writeback is no promise, but what was written stays written.

use super::Disk;
use super::log::MicroOp;
use super::model::Config;
use crate::sim::Key;

/// A log longer than this is written back without waiting for the interval.
const PENDING_OPS_MAX: usize = 50_000;

/// When writeback comes next.
#[derive(Clone, Debug)]
pub struct Writeback {
    next_us: u64,
    count: u64,
}

impl Writeback {
    pub(super) fn new(key: &Key, config: &Config) -> Writeback {
        Writeback { next_us: interval_us(key, config, 0), count: 0 }
    }
}

fn interval_us(key: &Key, config: &Config, count: u64) -> u64 {
    match config.writeback_interval_us_max {
        0 => u64::MAX,
        max => key.draw("disk.writeback_interval", &[count]).between(0, max),
    }
}

impl Disk {
    /// Tells the disk what time it is, in microseconds of virtual time. To be called before each operation.
    pub fn tick(&mut self, now_us: u64) {
        self.now_us = now_us;
        let due = now_us >= self.writeback.next_us;
        if due || self.log.len() > PENDING_OPS_MAX {
            self.write_back();
            self.writeback.count += 1;
            let interval_us = interval_us(&self.key, &self.config, self.writeback.count);
            self.writeback.next_us = now_us.saturating_add(interval_us);
        }
    }

    /// Each old operation, and each other with a chance that is drawn too, with what must be there before it. A log that
    /// is too long is written whole.
    fn write_back(&mut self) {
        let mut draw = self.key.draw("disk.writeback", &[self.writeback.count]);
        let everything = self.log.len() > PENDING_OPS_MAX;
        let permille = *draw.pick(&[0, 100, 500, 900, 1000]);
        let old_us = self.now_us.saturating_sub(self.config.writeback_interval_us_max);
        let chosen: Vec<_> = (self.log.in_order().iter())
            .filter(|op| everything || draw.chance(permille) || op.issued_us < old_us)
            .map(MicroOp::key)
            .collect();
        self.force(chosen);
    }
}
