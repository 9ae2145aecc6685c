//! Which faults a plan has: for each class of the vocabulary whether it exists in this plan, how many there are, and where
//! each strikes.

use cutwater_io::points::Kind;
use cutwater_io::sim::{
    Crash, CrashKind, Damage, Draw, Errno, FsyncFail, SiteFault, Survivors, SyncEnd, ViewAfterFailure,
};

use super::choose::{Choose, Source};
use crate::faults::{FaultClass, sites};
use crate::plan::{Act, Anchor, DELAY_MAX_US, Fault, Plan};
use crate::vocabulary::Vocabulary;

/// A state that lasts less than a round of heartbeats is noticed by nobody, and tests nothing (TigerBeetle's stability):
/// none is drawn shorter, in microseconds, unless the whole run is short.
const STABLE_US_MIN: u64 = 50_000;
/// The largest drift that is drawn, in parts per million: ten per cent, two hundred times what a quartz does. A system that
/// states a bound for its leases states at least this one.
const DRAWN_DRIFT_PPM_MAX: u64 = 100_000;
/// The longest jump of a wall clock that is drawn, in microseconds: an hour, as of a machine with a wrong time zone.
const JUMP_US_MAX: u64 = 3_600_000_000;
/// Of a thousand power failures, how many leave garbage of a sync under way.
const GARBAGE_PERMILLE: u64 = 250;
/// How syncs fail: as file systems have it, none that lies. Those that take the whole file system along are rarer.
const FSYNC_FAILURES: &[FsyncFail] = &[
    FsyncFail::EXT4,
    FsyncFail::XFS,
    FsyncFail::BTRFS,
    FsyncFail { view: ViewAfterFailure::RevertOld, ..FsyncFail::EXT4 },
    FsyncFail::EXT4,
    FsyncFail::XFS,
    FsyncFail::BTRFS_READONLY,
    FsyncFail::XFS_SHUTDOWN,
];

/// What faults are drawn for: the parts of a plan that they refer to.
struct Frame<'a> {
    vocabulary: &'a Vocabulary,
    points: Vec<&'static str>,
    nodes: u64,
    horizon_us: u64,
    ops: Vec<u32>,
}

/// Adds the faults of a plan that has some.
pub(super) fn add(plan: &mut Plan, vocabulary: &Vocabulary, source: &mut Source<'_, '_>) {
    let frame = Frame::of(plan, vocabulary);
    if frame.nodes == 0 {
        return;
    }
    for &class in &vocabulary.faults {
        let count = source.choose(class.name(), &[], |c| if c.chance(500) { c.log_between(1, 6) } else { 0 });
        for i in 0..count {
            if let Some((mut at, mut act)) = source.choose(class.name(), &[1, i], |c| frame.fault(class, c)) {
                if class == FaultClass::PowerFail {
                    source.choose("mid_sync", &[i], |c| frame.mid_sync(&mut at, &mut act, c));
                }
                plan.faults.push(Fault { id: plan.faults.len() as u32, at, act });
            }
        }
    }
}

/// One fault of `class` for `plan`, if its nodes can have one.
pub(crate) fn one(
    plan: &Plan,
    vocabulary: &Vocabulary,
    class: FaultClass,
    draw: &mut Draw,
) -> Option<(Anchor, Act)> {
    let frame = Frame::of(plan, vocabulary);
    if frame.nodes == 0 {
        return None;
    }
    let (mut at, mut act) = frame.fault(class, draw)?;
    if class == FaultClass::PowerFail {
        frame.mid_sync(&mut at, &mut act, draw);
    }
    Some((at, act))
}

impl<'a> Frame<'a> {
    fn of(plan: &Plan, vocabulary: &'a Vocabulary) -> Frame<'a> {
        Frame {
            vocabulary,
            points: vocabulary.points.iter().filter(|p| p.kind == Kind::Point).map(|p| p.name).collect(),
            nodes: plan.node_count(vocabulary),
            horizon_us: plan.horizon_us,
            ops: plan.ops.iter().map(|op| op.id).collect(),
        }
    }
}

impl Frame<'_> {
    /// A fault of this class, if these nodes can have one.
    fn fault(&self, class: FaultClass, c: &mut dyn Choose) -> Option<(Anchor, Act)> {
        use FaultClass as F;
        match class {
            F::ProcessKill | F::PowerFail => Some(self.crash(class, c)),
            F::DiskError => {
                let fault = c
                    .pick(&[SiteFault::Fail(Errno::Eio), SiteFault::Fail(Errno::Eintr), SiteFault::Short])
                    .clone();
                Some(self.at_sites_of("disk.", fault, c))
            }
            F::DiskFull if c.chance(500) => Some(self.at_site(SiteFault::Fail(Errno::Enospc), c)),
            F::DiskFull => {
                let late = c.chance(300);
                Some(self.state(c, |node, for_us| Act::DiskFull { node, for_us, late }))
            }
            F::FsyncFailure => {
                let failure = *c.pick(FSYNC_FAILURES);
                Some(self.at_site(SiteFault::Fsync(failure), c))
            }
            F::DiskSlow if c.chance(500) => {
                let us = self.delay(c);
                Some(self.at_sites_of("disk.", SiteFault::Delay(us), c))
            }
            F::DiskSlow if c.chance(500) => {
                let factor = c.log_between(10, 100) as u32;
                Some(self.state(c, |node, for_us| Act::DiskSlow { node, factor, for_us }))
            }
            F::DiskSlow => Some(self.state(c, |node, for_us| Act::DiskStall { node, for_us })),
            F::ReadError if c.chance(500) => Some(self.at_site(SiteFault::Damage(Damage::Eio), c)),
            F::ReadError => Some(self.rot(Damage::Eio, c)),
            F::BitRot => {
                let damage = Damage::BitRot { sectors: c.log_between(1, 8) as u16 };
                Some(if c.chance(500) {
                    self.at_site(SiteFault::Damage(damage), c)
                } else {
                    self.rot(damage, c)
                })
            }
            F::LostWrite => {
                let damage = *c.pick(&[Damage::LostWrite, Damage::Misdirect]);
                Some(self.at_site(SiteFault::Damage(damage), c))
            }
            F::StaleRead => {
                let damage = *c.pick(&[Damage::StaleRead, Damage::BitFlipOnce]);
                Some(self.at_site(SiteFault::Damage(damage), c))
            }
            F::Partition => self.partition(true, c),
            F::PartitionOneWay => self.partition(false, c),
            F::NetStall => self.pair(c, |a, b, for_us| Act::Stall { a, b, for_us }),
            F::SlowLink => {
                let factor = c.log_between(10, 500) as u32;
                self.pair(c, |a, b, for_us| Act::SlowLink { a, b, factor, for_us })
            }
            F::Swizzle => self.swizzle(c),
            F::HalfOpen => self.pair(c, |believes, forgets, _| Act::HalfOpen { believes, forgets }),
            F::NetReset if self.nodes < 2 || c.chance(500) => Some(self.at_site(SiteFault::Reset, c)),
            F::NetReset => self.pair(c, |a, b, _| Act::Reset { a, b }),
            F::ConnectHang => Some(self.at_site(SiteFault::Hang, c)),
            F::Pause if c.chance(500) && !self.points.is_empty() => {
                let us = self.delay(c);
                Some((self.at_point(c), Act::Delay { us }))
            }
            F::Pause => Some(self.state(c, |node, for_us| Act::Pause { node, for_us })),
            F::SlowNode => {
                let factor = c.log_between(2, 50) as u32;
                Some(self.state(c, |node, for_us| Act::SlowNode { node, factor, for_us }))
            }
            F::ClockDrift => {
                let size = c.log_between(100, DRAWN_DRIFT_PPM_MAX) as i32;
                let ppm = if c.chance(500) { -size } else { size };
                Some(self.state(c, |node, for_us| Act::ClockDrift { node, ppm, for_us }))
            }
            F::ClockJump => {
                let size = c.log_between(1_000, JUMP_US_MAX) as i64;
                let us = if c.chance(500) { -size } else { size };
                Some(self.state(c, |node, _| Act::ClockJump { node, us }))
            }
            F::StoreFailBefore => Some(self.at_site(SiteFault::FailBefore, c)),
            F::StoreFailAfter => Some(self.at_site(SiteFault::FailAfter, c)),
            F::StoreLateLanding => {
                let us = self.duration(c) as u32;
                Some(self.at_site(SiteFault::LateLand(us), c))
            }
            F::StoreThrottle if c.chance(500) => Some(self.at_site(SiteFault::Throttle, c)),
            F::StoreThrottle => Some(self.state(c, |_, for_us| Act::ThrottleStore { for_us })),
            F::StoreBody => {
                let fault = c.pick(&[SiteFault::Short, SiteFault::StallBody]).clone();
                Some(self.at_sites_of("objects.", fault, c))
            }
            F::StoreOutage => Some(self.state(c, |_, for_us| Act::Outage { for_us })),
            F::StoreIsolation => Some(self.state(c, |node, for_us| Act::IsolateFromStore { node, for_us })),
            F::StoreAuth => Some(self.state(c, |node, for_us| Act::ExpireCredentials { node, for_us })),
            F::BeyondBudget => None,
        }
    }

    /// A crash: half of them at points, a quarter at calls that change something durable, a quarter at times.
    fn crash(&self, class: FaultClass, c: &mut dyn Choose) -> (Anchor, Act) {
        let kind = match class {
            FaultClass::ProcessKill => CrashKind::ProcessKill,
            _ => CrashKind::PowerFail(survivors(c)),
        };
        let crash = Crash { kind, down_us: self.duration(c) as u32 };
        match c.between(0, 3) {
            0 => (self.at_time(c), Act::Crash { node: self.some_node(c), crash }),
            1 => {
                let fault =
                    if c.chance(500) { SiteFault::CrashAfter(crash) } else { SiteFault::CrashBefore(crash) };
                let with_store = self.vocabulary.faults.iter().any(|f| FaultClass::OF_STORE.contains(f));
                let stores =
                    if with_store && c.chance(300) { sites::STORE_CHANGES } else { sites::DISK_CHANGES };
                let site = *c.pick(stores);
                (self.site(site, c), Act::Site(fault))
            }
            _ if self.points.is_empty() => (self.at_time(c), Act::Crash { node: self.some_node(c), crash }),
            _ => (self.at_point(c), Act::Crash { node: 0, crash }),
        }
    }

    /// A quarter of the power failures leave garbage of a sync under way, whatever survives; half of these strike a sync.
    fn mid_sync(&self, at: &mut Anchor, act: &mut Act, c: &mut dyn Choose) {
        let Some(crash) = act.crash_mut() else { return };
        if with_garbage(crash, c) && c.chance(500) {
            let crash = crash.clone();
            *at = self.site("disk.sync", c);
            *act = Act::Site(SiteFault::CrashBefore(crash));
        }
    }

    /// A state that lasts: anchored to a time, a point, or an operation.
    fn state(&self, c: &mut dyn Choose, act: impl FnOnce(u64, u64) -> Act) -> (Anchor, Act) {
        let for_us = self.stable(c);
        let at = self.moment(c);
        let passing = matches!(at, Anchor::Point { .. });
        let node = if passing && c.chance(500) { 0 } else { self.some_node(c) };
        (at, act(node, for_us))
    }

    /// Damage to something that lies on a disk.
    fn rot(&self, damage: Damage, c: &mut dyn Choose) -> (Anchor, Act) {
        let at = self.moment(c);
        let passing = matches!(at, Anchor::Point { .. });
        let node = if passing && c.chance(500) { 0 } else { self.some_node(c) };
        let classes = &self.vocabulary.classes;
        let any = classes.is_empty() || c.chance(500);
        let class = if any { String::new() } else { (*c.pick(classes)).into() };
        (at, Act::Rot { node, class, nth: c.between(1, 1000) as u32, damage })
    }

    fn partition(&self, both: bool, c: &mut dyn Choose) -> Option<(Anchor, Act)> {
        if self.nodes < 2 {
            return None;
        }
        let for_us = self.stable(c);
        let (mut from, mut to): (Vec<u64>, Vec<u64>) = (1..=self.nodes).partition(|_| c.chance(500));
        // Nobody is cut off from nobody: then the last changes over.
        if to.is_empty() {
            to.extend(from.pop());
        } else if from.is_empty() {
            from.extend(to.pop());
        }
        Some((self.moment(c), Act::Partition { from, to, both, for_us }))
    }

    fn pair(&self, c: &mut dyn Choose, act: impl FnOnce(u64, u64, u64) -> Act) -> Option<(Anchor, Act)> {
        if self.nodes < 2 {
            return None;
        }
        let for_us = self.stable(c);
        let a = self.some_node(c);
        let b = (a + c.between(0, self.nodes - 2)) % self.nodes + 1;
        Some((self.moment(c), act(a, b, for_us)))
    }

    /// Half of the nodes, one after the other, and back.
    fn swizzle(&self, c: &mut dyn Choose) -> Option<(Anchor, Act)> {
        if self.nodes < 2 {
            return None;
        }
        let for_us = self.stable(c);
        let mut left: Vec<u64> = (1..=self.nodes).collect();
        let nodes = (0..self.nodes.div_ceil(2))
            .map(|_| left.remove(c.between(0, left.len() as u64 - 1) as usize))
            .collect();
        Some((self.moment(c), Act::Swizzle { nodes, for_us }))
    }

    fn at_site(&self, fault: SiteFault, c: &mut dyn Choose) -> (Anchor, Act) {
        self.at_sites_of("", fault, c)
    }

    fn at_sites_of(&self, prefix: &str, fault: SiteFault, c: &mut dyn Choose) -> (Anchor, Act) {
        let places: Vec<&str> = sites::ALL
            .iter()
            .copied()
            .filter(|site| site.starts_with(prefix) && sites::allows(site, &fault))
            .collect();
        let site = *c.pick(&places);
        (self.site(site, c), Act::Site(fault))
    }

    /// A call: half of them the first after a point, the others counted.
    fn site(&self, site: &str, c: &mut dyn Choose) -> Anchor {
        let classes = &self.vocabulary.classes;
        // The network has addresses, not files: no class of the system's tells them apart.
        let any = classes.is_empty() || site.starts_with("net.") || c.chance(500);
        let class = if any { String::new() } else { (*c.pick(classes)).into() };
        if !self.points.is_empty() && c.chance(500) {
            let (point, node) = ((*c.pick(&self.points)).into(), self.any_node(c));
            return Anchor::After { point, node, nth: c.log_between(1, 12) as u32, site: site.into(), class };
        }
        let reach = if any { 200 } else { 40 };
        Anchor::Site { site: site.into(), class, node: self.any_node(c), nth: c.log_between(1, reach) as u32 }
    }

    fn at_point(&self, c: &mut dyn Choose) -> Anchor {
        let point = (*c.pick(&self.points)).into();
        Anchor::Point { point, node: self.any_node(c), nth: c.log_between(1, 12) as u32 }
    }

    fn at_time(&self, c: &mut dyn Choose) -> Anchor {
        Anchor::Time { at_us: c.between(0, self.horizon_us) }
    }

    /// Half of the moments are passings of points, a quarter operations, a quarter times.
    fn moment(&self, c: &mut dyn Choose) -> Anchor {
        match c.between(0, 3) {
            1 if !self.ops.is_empty() => Anchor::Op { op: *c.pick(&self.ops) },
            2.. if !self.points.is_empty() => self.at_point(c),
            _ => self.at_time(c),
        }
    }

    fn some_node(&self, c: &mut dyn Choose) -> u64 {
        c.between(1, self.nodes)
    }

    /// A node, or as often any.
    fn any_node(&self, c: &mut dyn Choose) -> u64 {
        if c.chance(500) { self.some_node(c) } else { 0 }
    }

    /// How long one call is held up.
    fn delay(&self, c: &mut dyn Choose) -> u32 {
        self.duration(c).min(DELAY_MAX_US) as u32
    }

    /// How long a state lasts: long enough that somebody can notice.
    fn stable(&self, c: &mut dyn Choose) -> u64 {
        self.duration(c).max(STABLE_US_MIN.min(self.horizon_us / 4))
    }

    /// Mostly short: from a millisecond to a quarter of the horizon.
    fn duration(&self, c: &mut dyn Choose) -> u64 {
        c.log_between(1_000, (self.horizon_us / 4).clamp(1_000, 4_000_000_000))
    }
}

/// In a quarter of the power failures a sync that is under way leaves garbage, whatever survives; true if in this one.
pub(crate) fn with_garbage(crash: &mut Crash, c: &mut dyn Choose) -> bool {
    let CrashKind::PowerFail(survivors) = &mut crash.kind else { return false };
    let leaves = c.chance(GARBAGE_PERMILLE);
    if leaves {
        let end = SyncEnd::Garbage(c.between(0, u64::from(u16::MAX)) as u16);
        let rest = Box::new(std::mem::replace(survivors, Survivors::None));
        *survivors = Survivors::MidSync { end, rest };
    }
    leaves
}

/// What survives a power failure.
pub(crate) fn survivors(c: &mut dyn Choose) -> Survivors {
    match c.between(0, 5) {
        0 => Survivors::None,
        1 => Survivors::All,
        2 => Survivors::Prefix(c.between(0, 1000) as u16),
        3 => Survivors::AllBut(c.between(0, u64::from(u16::MAX)) as u16),
        4 => Survivors::Only(c.between(0, u64::from(u16::MAX)) as u16),
        _ => Survivors::Each {
            permille: c.between(50, 950) as u16,
            key: c.between(0, u64::from(u32::MAX)) as u32,
        },
    }
}
