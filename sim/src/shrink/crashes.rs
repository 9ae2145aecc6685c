//! Passes over crashes and file systems: what a crash loses, two crashes to one, times to places, the strictest file system.

use std::io;

use cutwater_io::sim::{CrashKind, Survivors, SyncEnd};

use super::{Search, with_schedules};
use crate::plan::{Anchor, Plan};
use crate::verdict::Verdict;

impl Search<'_> {
    /// What the other passes do not move: a process that dies, or a power failure that loses all it may.
    pub(super) fn simplest_crashes(&mut self) -> io::Result<()> {
        for position in self.crashes() {
            let crash = self.best.faults[position].act.crash();
            if crash.is_some_and(|crash| crash.kind != CrashKind::ProcessKill) {
                let kinds = [CrashKind::ProcessKill, CrashKind::PowerFail(Survivors::None)];
                self.first_alike(kinds.map(|kind| self.with_crash(position, kind)).to_vec())?;
            }
        }
        Ok(())
    }

    /// For each power failure the fewest operations that must be lost, named one by one.
    pub(super) fn lose_least(&mut self) -> io::Result<()> {
        for position in self.crashes() {
            let fault = &self.best.faults[position];
            let Some(CrashKind::PowerFail(choice)) = fault.act.crash().map(|crash| &crash.kind) else {
                continue;
            };
            let (fault_id, choice) = (fault.id, choice.clone());
            let all = CrashKind::PowerFail(Survivors::All);
            if choice != Survivors::All {
                let simpler =
                    vec![self.with_crash(position, CrashKind::ProcessKill), self.with_crash(position, all)];
                if self.first_alike(simpler)?.is_some() {
                    continue;
                }
            }
            let (end, choice) = match choice {
                Survivors::MidSync { end, rest } => self.plainest_end(position, end, *rest)?,
                choice => (None, choice),
            };
            let losing = match choice {
                Survivors::All => continue,
                Survivors::Losing(losing) => losing,
                _ => match self.lost_by(fault_id)? {
                    Some(losing) => losing,
                    None => continue,
                },
            };
            self.fewest(position, end, losing)?;
        }
        Ok(())
    }

    /// Positions of what the crash of this fault loses when the plan is run.
    fn lost_by(&mut self, fault: u32) -> io::Result<Option<Vec<u16>>> {
        let Some((evidence, _)) = self.laboratory.observe(&self.best)? else { return Ok(None) };
        let Some(struck) = evidence.struck.iter().find(|struck| struck.fault == fault) else {
            return Ok(None);
        };
        let same = |node, at_us| node == struck.node && at_us >= struck.at_us;
        let loss = evidence.power_failures.iter().find(|loss| same(loss.node, loss.at_us));
        Ok(loss.map(|loss| loss.losing.clone()))
    }

    /// A crash in which nothing odd comes of a sync under way, else the first garbage of all.
    fn plainest_end(
        &mut self,
        position: usize,
        end: SyncEnd,
        rest: Survivors,
    ) -> io::Result<(Option<SyncEnd>, Survivors)> {
        let plain = self.with_crash(position, CrashKind::PowerFail(rest.clone()));
        if self.first_alike(vec![plain])?.is_some() {
            return Ok((None, rest));
        }
        let first = SyncEnd::Garbage(0);
        if matches!(end, SyncEnd::Garbage(1..)) {
            let kind = CrashKind::PowerFail(ending(Some(first), rest.clone()));
            let candidate = self.with_crash(position, kind);
            if self.first_alike(vec![candidate])?.is_some() {
                return Ok((Some(first), rest));
            }
        }
        Ok((Some(end), rest))
    }

    fn fewest(&mut self, position: usize, end: Option<SyncEnd>, losing: Vec<u16>) -> io::Result<()> {
        let with = |search: &Self, losing: Vec<u16>| {
            let survivors = ending(end, Survivors::Losing(losing));
            search.with_crash(position, CrashKind::PowerFail(survivors))
        };
        let explicit = with(self, losing.clone());
        if self.best != explicit && self.first_alike(vec![explicit])?.is_none() {
            return Ok(());
        }
        let mut losing = losing;
        let mut size = losing.len().div_ceil(2);
        while size > 0 && losing.len() > 1 && !self.is_over() {
            let mut start = 0;
            while start < losing.len() && losing.len() > 1 {
                let mut less = losing.clone();
                less.drain(start..(start + size).min(losing.len()));
                let candidate = with(self, less.clone());
                if self.first_alike(vec![candidate])?.is_some() {
                    losing = less;
                } else {
                    start += size;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
        Ok(())
    }

    /// Two crashes to one that loses all it may.
    pub(super) fn merge_crashes(&mut self) -> io::Result<()> {
        let mut pairs = Vec::new();
        for gone in self.crashes() {
            for left in self.crashes().into_iter().filter(|left| *left != gone) {
                pairs.push((gone, left));
            }
        }
        let candidates = pairs.into_iter().map(|(gone, left)| {
            let mut plan = self.with_crash(left, CrashKind::PowerFail(Survivors::None));
            plan.faults.remove(gone);
            plan
        });
        self.first_alike(candidates.collect()).map(drop)
    }

    /// A fault that is anchored to a time strikes at what it hit in truth, which says more than a number.
    pub(super) fn anchor_to_places(&mut self) -> io::Result<()> {
        if !self.best.faults.iter().any(|fault| matches!(fault.at, Anchor::Time { .. })) {
            return Ok(());
        }
        let Some((evidence, _)) = self.laboratory.observe(&self.best)? else { return Ok(()) };
        for near in &evidence.near {
            let Some(position) = self.best.faults.iter().position(|fault| fault.id == near.fault) else {
                continue;
            };
            let candidates = near
                .places()
                .into_iter()
                .map(|place| self.with_fault(position, |fault| fault.at = place.clone()));
            self.first_alike(candidates.collect())?;
        }
        Ok(())
    }

    /// The strictest file system on which the plan still fails.
    pub(super) fn strictest_personality(&mut self) -> io::Result<()> {
        let Some((knob, levels)) = self.subject.personalities else { return Ok(()) };
        let now = self.personality(knob);
        let stricter = levels.iter().take_while(|(value, _)| Some(*value) != now);
        let candidates = stricter.map(|(value, _)| with_knob(&self.best, knob, *value));
        self.first_alike(candidates.collect()).map(drop)
    }

    fn personality(&self, knob: &str) -> Option<u64> {
        let default = self.subject.vocabulary.knob(knob).map(|knob| knob.default);
        self.best.knobs.get(knob).copied().or(default)
    }

    /// On which file systems the plan fails alike: under its own schedule, or under one of a few others. To fail on another
    /// file system a plan may need another order of tasks, as syncs take other times there.
    pub(super) fn personalities(&mut self) -> io::Result<Vec<(&'static str, bool)>> {
        let Some((knob, levels)) = self.subject.personalities else { return Ok(Vec::new()) };
        let now = self.personality(knob);
        let mut fails_on = Vec::new();
        for (value, name) in levels {
            if Some(*value) == now {
                fails_on.push((*name, true));
                continue;
            }
            let signature = self.signature;
            let enough = |verdict: &Verdict| verdict.signature() == signature;
            let mut plans = with_schedules(&with_knob(&self.best, knob, *value));
            let all = plans.len();
            plans.truncate(usize::try_from(self.runs_left).unwrap_or(usize::MAX));
            let mut verdicts = self.laboratory.verdicts(&plans, &enough)?;
            let runs = verdicts.iter().flatten().count() as u64;
            self.runs += runs;
            self.runs_left = self.runs_left.saturating_sub(runs);
            // What the budget did not allow was not tried.
            verdicts.resize(all, None);
            fails_on.extend(fails_at_all(&verdicts, &enough).map(|fails| (*name, fails)));
        }
        Ok(fails_on)
    }

    /// Positions of the faults that are crashes.
    fn crashes(&self) -> Vec<usize> {
        (0..self.best.faults.len()).filter(|i| self.best.faults[*i].act.crash().is_some()).collect()
    }

    fn with_crash(&self, position: usize, kind: CrashKind) -> Plan {
        self.with_fault(position, |fault| {
            if let Some(crash) = fault.act.crash_mut() {
                crash.kind = kind.clone();
            }
        })
    }
}

/// `rest`, with that end of a sync under way.
fn ending(end: Option<SyncEnd>, rest: Survivors) -> Survivors {
    match end {
        Some(end) => Survivors::MidSync { end, rest: Box::new(rest) },
        None => rest,
    }
}

/// Whether any of the runs was `enough`; `None` if the time was up before that can be said.
pub(super) fn fails_at_all(verdicts: &[Option<Verdict>], enough: &dyn Fn(&Verdict) -> bool) -> Option<bool> {
    if verdicts.iter().flatten().any(enough) {
        return Some(true);
    }
    verdicts.iter().all(Option::is_some).then_some(false)
}

fn with_knob(plan: &Plan, knob: &str, value: u64) -> Plan {
    let mut plan = plan.clone();
    plan.knobs.insert(knob.into(), value);
    plan
}
