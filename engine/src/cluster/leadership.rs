//! When a candidate tries to become the leader: a pure machine.
//!
//! The register names the leader. A candidate reads it now and then and pings the address named there; while the leader
//! answers, or the register changes, the candidate waits. Without a sign of life for a lease, plus a drawn jitter so that
//! candidates seldom collide, it takes over: it creates the next version of the register with a higher epoch.
//!
//! Clocks decide only when somebody tries. That at most one leads at each epoch, and that a deposed leader changes nothing, is
//! the register's doing; an impatient candidate costs a restart of the job, never its state.

use std::net::SocketAddr;
use std::time::Duration;

use cutwater_io::time::micros;

use crate::checkpoint::log::Record;

/// See the module.
#[derive(Clone, Debug)]
pub struct Leadership {
    own_address: SocketAddr,
    lease_us: u64,
    jitter_us: u64,
    last_sign_us: u64,
    version_seen: u64,
    leader: Option<SocketAddr>,
}

/// What a candidate found out in one round.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The register, if it could be read; the inner option is empty if there is none yet.
    pub register: Option<Option<Record>>,
    /// The leader named there answered as such, with this epoch.
    pub pong: Option<u64>,
}

/// What a candidate does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Move {
    /// Look again after this many microseconds.
    Wait {
        /// At least 1.
        us: u64,
    },
    /// Create the version after `previous`.
    TakeOver {
        /// What was read.
        previous: Option<Record>,
    },
}

impl Leadership {
    /// A candidate at `own_address`. `jitter` is any number.
    pub fn new(own_address: SocketAddr, lease: Duration, jitter: u64, now_us: u64) -> Leadership {
        let lease_us = micros(lease).max(1);
        Leadership {
            own_address,
            lease_us,
            jitter_us: jitter % (lease_us / 2 + 1),
            last_sign_us: now_us,
            version_seen: 0,
            leader: None,
        }
    }

    /// The leader as last heard of.
    pub fn leader(&self) -> Option<SocketAddr> {
        self.leader.filter(|leader| *leader != self.own_address)
    }

    /// Takes in what was found out, and says what to do.
    pub fn observe(&mut self, observation: Observation, now_us: u64) -> Move {
        let look_again = Move::Wait { us: (self.lease_us / 4).max(1) };
        let Some(register) = observation.register else { return look_again };
        let Some(record) = register else { return Move::TakeOver { previous: None } };
        self.leader = Some(record.state.leader);
        // A leader that only commits checkpoints is alive too.
        if record.version > self.version_seen
            || observation.pong.is_some_and(|epoch| epoch >= record.state.epoch)
        {
            self.version_seen = record.version;
            self.last_sign_us = now_us;
        }
        // Nobody leads at an address that is ours: it was an earlier life of this process.
        let own = record.state.leader == self.own_address;
        if own || now_us.saturating_sub(self.last_sign_us) >= self.lease_us + self.jitter_us {
            return Move::TakeOver { previous: Some(record) };
        }
        look_again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::job_state::{Base, JobState};

    fn record(version: u64, port: u16) -> Record {
        let state = JobState::taken_over(None, ([127, 0, 0, 1], port).into(), 1, 8, 1, Base::Newest);
        Record { version, writer: "w".into(), state: Box::new(state) }
    }

    fn look(leadership: &mut Leadership, record: &Record, pong: Option<u64>, now_us: u64) -> bool {
        let register = Some(Some(record.clone()));
        matches!(leadership.observe(Observation { register, pong }, now_us), Move::TakeOver { .. })
    }

    #[test]
    fn takes_over_only_after_a_silent_lease() {
        let mut leadership = Leadership::new(([127, 0, 0, 1], 1).into(), Duration::from_millis(100), 7, 0);
        let leader = record(1, 2);
        assert!(!look(&mut leadership, &leader, None, 1_000), "just started");
        assert!(!look(&mut leadership, &leader, Some(1), 90_000));
        assert!(!look(&mut leadership, &leader, None, 150_000));
        assert!(!look(&mut leadership, &record(2, 2), None, 180_000), "the register has changed");
        assert!(
            !look(&mut leadership, &record(2, 2), Some(0), 270_000),
            "an answer from an older epoch is no sign"
        );
        assert!(look(&mut leadership, &record(2, 2), None, 280_007));
        assert_eq!(leadership.leader(), Some(([127, 0, 0, 1], 2).into()));
    }

    #[test]
    fn a_new_job_and_a_former_life_need_no_waiting() {
        let mut leadership = Leadership::new(([127, 0, 0, 1], 1).into(), Duration::from_millis(100), 0, 0);
        let nothing = Observation { register: Some(None), pong: None };
        assert_eq!(leadership.observe(nothing, 0), Move::TakeOver { previous: None });
        assert!(look(&mut leadership, &record(5, 1), None, 1));
        let unreadable = Observation { register: None, pong: None };
        assert!(
            matches!(leadership.observe(unreadable, 1 << 40), Move::Wait { .. }),
            "never without the register"
        );
    }
}
