//! Oracle of attempts: when a checkpoint may fail, what must follow, and when a job may start over.
//!
//! A job can be right in all that it commits and be wrong in how it gets there: checkpoints that fail for no reason, a job that
//! goes on although none completes. No object tells of that, so this oracle also counts the points that coordinators pass. It
//! looks whenever the register changes, and at the end:
//! - Tasks never acknowledge what a coordinator must refuse, such as a reference to a file that was given up.
//! - A job starts over when more checkpoints have expired in a row than it tolerates.
//! - A job that nothing disturbs is deployed once.
//! - Nothing is deployed between the metadata of a checkpoint and its listing: what to restore from is not certain then.
//!
//! Points are counted over all coordinators. A leader that was deposed and does not know it goes on for a while, so the second rule
//! grants each leader that may be alive the whole number, and the third is judged as long as there can be only one.

use std::collections::BTreeMap;

use cutwater_engine::checkpoint::points as checkpoint_points;
use cutwater_engine::checkpoint::snapshot::CheckpointId;
use cutwater_engine::cluster::points as cluster_points;
use cutwater_io::points::Point;
use cutwater_io::sim::Env;
use cutwater_sim::scenario::Violation;

const GIVEN_UP: [Point; 4] = [
    cluster_points::WORKER_SILENT,
    cluster_points::WORKER_OVERDUE,
    cluster_points::LEADER_SILENT,
    cluster_points::TOOK_OVER,
];

/// How often coordinators passed what matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Parts of checkpoints that could not be taken.
    pub refused: u64,
    /// References to files that were given up.
    pub condemned: u64,
    /// Checkpoints that were not acknowledged in time.
    pub expired: u64,
    /// Who was given up for being silent or late: workers by leaders, and leaders by workers and by candidates.
    pub given_up: u64,
    /// Attempts about to be deployed.
    pub deployed: u64,
}

impl Passed {
    /// So far in this run.
    pub fn so_far(env: &Env) -> Passed {
        let (points, sometimes) = (env.points_passed(), env.sometimes_seen());
        let seen = |point: Point| sometimes.get(point.name).copied().unwrap_or(0);
        Passed {
            refused: seen(checkpoint_points::REFUSED),
            condemned: seen(checkpoint_points::CONDEMNED_REFERENCE),
            expired: seen(checkpoint_points::EXPIRED),
            given_up: GIVEN_UP.iter().copied().map(seen).sum(),
            deployed: points.get(cluster_points::BEFORE_DEPLOY.name).copied().unwrap_or(0),
        }
    }
}

/// What the register says, as far as it matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Register {
    /// The leader's; each has its own, counted from 1.
    pub epoch: u64,
    /// The newest checkpoint that is listed.
    pub newest: Option<CheckpointId>,
}

/// See the module.
#[derive(Debug)]
pub struct AttemptOracle {
    candidates: u64,
    tolerable_failures: u64,
    max_concurrent: u64,
    /// When the newest checkpoint was listed, or the last attempt deployed.
    since: Passed,
    newest: Option<CheckpointId>,
    /// Attempts deployed when the metadata of a checkpoint was written.
    written: BTreeMap<CheckpointId, u64>,
}

impl AttemptOracle {
    /// Watches a job with so many coordinator candidates from before its first object.
    pub fn new(candidates: u64, tolerable_failures: u64, max_concurrent: u64) -> AttemptOracle {
        AttemptOracle {
            candidates,
            tolerable_failures,
            max_concurrent,
            since: Passed::default(),
            newest: None,
            written: BTreeMap::new(),
        }
    }

    /// The metadata of a checkpoint was written.
    pub fn written(&mut self, id: CheckpointId, passed: Passed) {
        self.written.insert(id, passed.deployed);
    }

    /// This much was passed, and this is in the register.
    ///
    /// # Errors
    /// What does not hold any more.
    pub fn look(&mut self, passed: Passed, register: Register) -> Result<(), Violation> {
        let broken = |property: &str| Violation::new("attempts", property);
        if passed.refused + passed.condemned > 0 {
            return Err(broken("what a task acknowledges can be part of a checkpoint")
                .of("acknowledgement")
                .expected("no task that names what it cannot know of, or what was given up")
                .found(format!("{passed:?}")));
        }
        let is_new = register.newest != self.newest;
        let leaders = self.candidates.min(register.epoch).max(1);
        let (expired, expired_max) = (passed.expired - self.since.expired, self.expired_max(leaders, is_new));
        if passed.deployed == self.since.deployed && expired > expired_max {
            return Err(broken("a job whose checkpoints expire starts over")
                .of("attempt")
                .expected(format!("at most {expired_max} in a row before {register:?}"))
                .found(expired));
        }
        if is_new || passed.deployed != self.since.deployed {
            self.since = passed;
        }
        self.newest = register.newest;
        let Some(id) = register.newest.filter(|_| is_new) else { return Ok(()) };
        let written = self.written.get(&id).copied();
        self.written.retain(|other, _| *other > id);
        match written {
            Some(before) if leaders == 1 && before != passed.deployed => {
                Err(broken("nothing is deployed while the fate of a checkpoint is open")
                    .of("attempt")
                    .expected(format!("none between the metadata and the listing of checkpoint {id}"))
                    .found(passed.deployed - before))
            }
            _ => Ok(()),
        }
    }

    /// How many checkpoints may have expired since the last was listed or an attempt deployed.
    fn expired_max(&self, leaders: u64, is_listed: bool) -> u64 {
        let in_a_row = self.tolerable_failures + self.max_concurrent;
        match self.max_concurrent {
            // The last of them ends the attempt: it lists no more.
            1 => leaders * in_a_row - u64::from(is_listed),
            // All that are under way may expire at once. And others may while one is being listed: the leader begins to count
            // anew when it hears of that.
            _ => leaders * in_a_row * 2,
        }
    }
}

/// Judges the end of a run in which nothing failed, and nobody asked for another parallelism. A network is never quick all the
/// time, and limits may be short: what was too late for its limit may end an attempt, and each time it does a point is passed.
///
/// # Errors
/// If the job was started over for no reason.
pub fn judge_undisturbed(passed: Passed) -> Result<(), Violation> {
    let late = passed.expired + passed.given_up;
    if (1..=1 + late).contains(&passed.deployed) {
        return Ok(());
    }
    Err(Violation::new("attempts", "a job that nothing disturbs is deployed once")
        .of("attempt")
        .expected(format!("1, and {late} more at most for what came too late"))
        .found(passed.deployed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(expired: u64, deployed: u64) -> Passed {
        Passed { expired, deployed, ..Passed::default() }
    }

    fn register(epoch: u64, newest: u64) -> Register {
        Register { epoch, newest: (newest > 0).then_some(CheckpointId(newest)) }
    }

    fn property(result: Result<(), Violation>) -> String {
        result.expect_err("it does not hold").property
    }

    #[test]
    fn a_job_starts_over_only_for_a_reason() {
        assert_eq!(judge_undisturbed(passed(0, 1)), Ok(()));
        assert_eq!(judge_undisturbed(passed(2, 3)), Ok(()));
        assert_eq!(judge_undisturbed(Passed { given_up: 1, ..passed(1, 3) }), Ok(()));
        for (expired, deployed) in [(0, 0), (0, 2), (2, 4)] {
            let judged = judge_undisturbed(passed(expired, deployed));
            assert_eq!(property(judged), "a job that nothing disturbs is deployed once");
        }
    }

    #[test]
    fn a_part_is_never_refused() {
        for bad in [Passed { refused: 1, ..Passed::default() }, Passed { condemned: 1, ..Passed::default() }]
        {
            let mut oracle = AttemptOracle::new(1, 9, 1);
            assert_eq!(oracle.look(Passed::default(), register(1, 0)), Ok(()));
            assert!(property(oracle.look(bad, register(1, 0))).contains("can be part of a checkpoint"));
        }
    }

    #[test]
    fn expiries_in_a_row_end_an_attempt() {
        let mut oracle = AttemptOracle::new(1, 2, 1);
        assert_eq!(oracle.look(passed(0, 1), register(1, 0)), Ok(()));
        assert_eq!(oracle.look(passed(3, 1), register(1, 0)), Ok(()), "the third ends it");
        assert_eq!(oracle.look(passed(4, 2), register(1, 0)), Ok(()), "another attempt");
        assert_eq!(oracle.look(passed(6, 2), register(1, 1)), Ok(()), "one completed");
        assert_eq!(oracle.look(passed(9, 2), register(1, 1)), Ok(()));
        assert!(property(oracle.look(passed(10, 2), register(1, 1))).contains("starts over"));
    }

    #[test]
    fn an_attempt_that_is_over_lists_nothing() {
        for (expired, holds) in [(2, true), (3, false)] {
            let mut oracle = AttemptOracle::new(1, 2, 1);
            assert_eq!(oracle.look(passed(expired, 0), register(1, 1)).is_ok(), holds);
        }
    }

    #[test]
    fn a_deposed_leader_is_granted_as_much() {
        for (candidates, epoch, most) in [(2, 1, 4), (2, 2, 8), (2, 9, 8), (1, 9, 4)] {
            let mut oracle = AttemptOracle::new(candidates, 0, 2);
            assert_eq!(oracle.look(passed(most, 0), register(epoch, 0)), Ok(()));
            assert!(oracle.look(passed(most + 1, 0), register(epoch, 0)).is_err());
        }
    }

    #[test]
    fn nothing_is_deployed_before_the_last_checkpoint_is_decided() {
        for (epoch, holds) in [(1, false), (2, true)] {
            let mut oracle = AttemptOracle::new(2, 0, 1);
            oracle.written(CheckpointId(1), passed(0, 1));
            assert_eq!(oracle.look(passed(0, 1), register(epoch, 1)), Ok(()));
            oracle.written(CheckpointId(2), passed(0, 1));
            assert_eq!(oracle.look(passed(0, 2), register(epoch, 1)), Ok(()), "it may still be aborted");
            assert_eq!(oracle.look(passed(0, 2), register(epoch, 2)).is_ok(), holds);
        }
    }
}
