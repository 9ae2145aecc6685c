//! Faults and operations in words.
//!
//! A plan, and the trace of a run for programs, have them as data. A person reads what happens to whom, and what comes of it.
//! Node 0 is nobody in particular: the one that passed there.

use cutwater_io::sim::{
    Crash, CrashKind, Damage, Errno, FsyncFail, FsyncReport, MetaAfterFailure, SiteFault, Survivors, SyncEnd,
    ViewAfterFailure,
};

use super::clock;
use crate::plan::{Act, Anchor, Fault, Op};
use crate::vocabulary::Vocabulary;

/// What a fault does, and where.
pub(crate) fn fault(fault: &Fault) -> String {
    let (act, place) = (act_at(&fault.act, &fault.at), place(&fault.at));
    let preposition = match &fault.act {
        Act::Site(SiteFault::CrashBefore(_)) => "before",
        Act::Site(SiteFault::CrashAfter(_)) => "after",
        _ => "at",
    };
    // What is said in several parts is over there.
    let comma = if act.contains(',') { "," } else { "" };
    format!("{act}{comma} {preposition} {place}")
}

/// What a fault does at a place; whom it strikes is not said twice.
fn act_at(act: &Act, at: &Anchor) -> String {
    match (act, at) {
        (
            Act::Crash { node, crash },
            Anchor::Point { node: there, .. }
            | Anchor::Site { node: there, .. }
            | Anchor::After { node: there, .. },
        ) if node == there => crash_of(0, crash),
        _ => self::act(act),
    }
}

/// Where a fault strikes.
pub(crate) fn place(anchor: &Anchor) -> String {
    let of = |node: &u64| if *node == 0 { String::new() } else { format!(" of n{node}") };
    let call = |site: &str, class: &str| {
        if class.is_empty() { site.to_string() } else { format!("{site} {class}") }
    };
    match anchor {
        Anchor::Time { at_us } => clock(*at_us),
        Anchor::Point { point, node, nth } => format!("point {point} #{nth}{}", of(node)),
        Anchor::Site { site, class, node, nth } => format!("{} #{nth}{}", call(site, class), of(node)),
        Anchor::After { point, node, nth, site, class } => {
            format!("the first {} after point {point} #{nth}{}", call(site, class), of(node))
        }
        Anchor::Op { op } => format!("op {op}"),
    }
}

/// What a fault does.
pub(crate) fn act(act: &Act) -> String {
    match act {
        Act::Site(fault) => site_fault(fault),
        Act::Crash { node, crash } => crash_of(*node, crash),
        Act::Delay { us } => held_up(*us),
        Act::Pause { node, for_us } => format!("{} is paused for {}", name(*node), ms(*for_us)),
        Act::Partition { from, to, both, for_us } => {
            let (from, to, long) = (names(from), names(to), ms(*for_us));
            if *both {
                format!("nothing gets through between {from} and {to} for {long}")
            } else {
                format!("nothing gets from {from} to {to} for {long}")
            }
        }
        Act::Stall { a, b, for_us } => {
            format!("connections between {} and {} stand still for {}", name(*a), name(*b), ms(*for_us))
        }
        Act::Reset { a, b } => format!("connections between {} and {} break", name(*a), name(*b)),
        Act::SlowLink { a, b, factor, for_us } => format!(
            "everything between {} and {} takes {factor} times as long for {}",
            name(*a),
            name(*b),
            ms(*for_us)
        ),
        Act::Swizzle { nodes, for_us } => {
            format!("one after the other {} are cut off and come back within {}", names(nodes), ms(*for_us))
        }
        Act::HalfOpen { believes, forgets } => format!(
            "{} forgets its connections to {}, which still believes in them",
            name(*forgets),
            name(*believes)
        ),
        Act::SlowNode { node, factor, for_us } => {
            format!("calls and timers of {} take {factor} times as long for {}", name(*node), ms(*for_us))
        }
        Act::ClockDrift { node, ppm, for_us } => {
            let how = if *ppm < 0 { "slow" } else { "fast" };
            let (ppm, long) = (ppm.unsigned_abs(), ms(*for_us));
            format!("the clocks of {} run {ppm} ppm {how} for {long}", name(*node))
        }
        Act::ClockJump { node, us } => {
            let how = if *us < 0 { "back" } else { "forward" };
            format!("the wall clock of {} jumps {} {how}", name(*node), ms(us.unsigned_abs()))
        }
        Act::DiskFull { node, for_us, late } => {
            let noticed = if *late { ", which only its syncs notice" } else { "" };
            format!("the disk of {} is full for {}{noticed}", name(*node), ms(*for_us))
        }
        Act::DiskStall { node, for_us } => {
            format!("the disk of {} answers nothing for {}", name(*node), ms(*for_us))
        }
        Act::DiskSlow { node, factor, for_us } => {
            format!("the disk of {} takes {factor} times as long for {}", name(*node), ms(*for_us))
        }
        Act::Rot { node, class, damage, .. } => {
            let file = if class.is_empty() { "a file".into() } else { format!("a file of class {class}") };
            format!("on the disk of {}, in {file}, {}", name(*node), self::damage(*damage))
        }
        Act::Outage { for_us } => format!("the object store answers nobody for {}", ms(*for_us)),
        Act::ThrottleStore { for_us } => {
            format!("the object store tells everybody to slow down for {}", ms(*for_us))
        }
        Act::IsolateFromStore { node, for_us } => {
            format!("{} does not reach the object store for {}", name(*node), ms(*for_us))
        }
        Act::ExpireCredentials { node, for_us } => {
            format!("the object store refuses {} for {}", name(*node), ms(*for_us))
        }
    }
}

/// What becomes of a call.
pub(crate) fn site_fault(fault: &SiteFault) -> String {
    match fault {
        SiteFault::Fail(Errno::Eio) => "the call fails (EIO)".into(),
        SiteFault::Fail(Errno::Enospc) => "the call finds no space (ENOSPC)".into(),
        SiteFault::Fail(Errno::Eintr) => "the call is interrupted (EINTR)".into(),
        SiteFault::Short => "only a part gets through".into(),
        SiteFault::Fsync(failure) => failed_sync(failure),
        SiteFault::Delay(us) => format!("the call takes {} longer", ms(u64::from(*us))),
        SiteFault::CrashBefore(crash) | SiteFault::CrashAfter(crash) => crash_of(0, crash),
        SiteFault::Reset => "the connection breaks".into(),
        SiteFault::Hang => "the call never returns".into(),
        SiteFault::FailBefore => "the request fails and has no effect".into(),
        SiteFault::FailAfter => "the request takes effect and its answer is lost".into(),
        SiteFault::LateLand(us) => {
            format!("the request fails and takes effect {} later", ms(u64::from(*us)))
        }
        SiteFault::StallBody => "the body of the answer stands still half way".into(),
        SiteFault::Throttle => "the object store says slow down".into(),
        SiteFault::Damage(damage) => self::damage(*damage),
    }
}

/// A task that passes a point stands still.
pub(crate) fn held_up(us: u32) -> String {
    format!("a task is held up for {}", ms(u64::from(us)))
}

/// How a node dies: 0 for one that is named elsewhere.
pub(crate) fn crash_of(node: u64, crash: &Crash) -> String {
    let down = if crash.down_us == 0 {
        String::new()
    } else {
        format!(", down for {}", ms(u64::from(crash.down_us)))
    };
    match &crash.kind {
        CrashKind::ProcessKill if node == 0 => format!("the process is killed{down}"),
        CrashKind::ProcessKill => format!("the process of n{node} is killed{down}"),
        CrashKind::PowerFail(survivors) => {
            let on = if node == 0 { String::new() } else { format!(" on n{node}") };
            format!("power fails{on}, {}{down}", lost(survivors))
        }
    }
}

fn lost(survivors: &Survivors) -> String {
    match survivors {
        Survivors::None => "all that was not synced is lost".into(),
        Survivors::All => "nothing is lost".into(),
        Survivors::Prefix(_)
        | Survivors::AllBut(_)
        | Survivors::Only(_)
        | Survivors::Each { .. }
        | Survivors::Losing(_) => "a part of what was not synced is lost".into(),
        Survivors::MidSync { end: SyncEnd::Garbage(_), rest } => {
            format!("{}, a sector that a sync was writing is garbage", lost(rest))
        }
        Survivors::MidSync { end: SyncEnd::LandsLater, rest } => {
            format!("{}, what a sync was writing lands at the next crash", lost(rest))
        }
    }
}

fn failed_sync(failure: &FsyncFail) -> String {
    let FsyncFail { view, meta, report } = failure;
    let told = match report {
        FsyncReport::EachOpenFd => "the sync fails",
        FsyncReport::NextSync => "the sync loses its data and the next one says so",
        FsyncReport::FirstCallerOnly => "the sync fails for its caller alone",
    };
    let view = match view {
        ViewAfterFailure::KeepNew => "the new bytes stay readable",
        ViewAfterFailure::RevertOld => "the old bytes are back",
    };
    let meta = match meta {
        MetaAfterFailure::CommitSize => "the new length can still become durable",
        MetaAfterFailure::NoSize => "the new length is lost",
        MetaAfterFailure::Shutdown => "the file system shuts down",
        MetaAfterFailure::Readonly => "the file system is read-only",
    };
    format!("{told}, {view}, {meta}")
}

fn damage(damage: Damage) -> String {
    match damage {
        Damage::Eio => "a sector cannot be read any more".into(),
        Damage::BitRot { sectors: 0 | 1 } => "a bit of a sector is wrong in every read".into(),
        Damage::BitRot { sectors } => format!("a bit of each of {sectors} sectors is wrong in every read"),
        Damage::BitFlipOnce => "a bit is wrong in this read alone".into(),
        Damage::LostWrite => "a sector is acknowledged and never written".into(),
        Damage::Misdirect => "a sector is written to another place".into(),
        Damage::StaleRead => "a sector is read once as it was before".into(),
    }
}

/// What a client does; arguments have the names that the vocabulary gives them.
pub(crate) fn op(op: &Op, vocabulary: &Vocabulary) -> String {
    format!("client {}: {}", op.actor, call(op, vocabulary))
}

/// What is called, and with what.
pub(crate) fn call(op: &Op, vocabulary: &Vocabulary) -> String {
    let names = vocabulary.verb(&op.verb).map(|verb| verb.args.as_slice()).unwrap_or_default();
    let mut text = op.verb.clone();
    for (i, value) in op.args.iter().enumerate() {
        text.push_str(&match names.get(i) {
            Some(arg) => format!(" {}={value}", arg.name),
            None => format!(" {value}"),
        });
    }
    text
}

pub(crate) fn ms(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

fn name(node: u64) -> String {
    if node == 0 { "the node".into() } else { format!("n{node}") }
}

fn names(nodes: &[u64]) -> String {
    nodes.iter().map(|node| name(*node)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::Verb;

    /// Every act, and every choice that is worded in its own way.
    fn acts() -> Vec<Act> {
        let crash = |kind, down_us| Crash { kind, down_us };
        let power = |survivors| crash(CrashKind::PowerFail(survivors), 0);
        let mid_sync = |end| Survivors::MidSync { end, rest: Box::new(Survivors::All) };
        let fsync = |failure| Act::Site(SiteFault::Fsync(failure));
        let lies = FsyncFail { report: FsyncReport::FirstCallerOnly, ..FsyncFail::EXT4 };
        let rot = |node, class: &str, damage| Act::Rot { node, class: class.into(), nth: 0, damage };
        let for_us = 1_500;
        let site = [
            SiteFault::Fail(Errno::Eio),
            SiteFault::Fail(Errno::Enospc),
            SiteFault::Fail(Errno::Eintr),
            SiteFault::Short,
            SiteFault::Delay(250),
            SiteFault::CrashBefore(crash(CrashKind::ProcessKill, 0)),
            SiteFault::CrashAfter(crash(CrashKind::PowerFail(Survivors::None), 7_000)),
            SiteFault::Reset,
            SiteFault::Hang,
            SiteFault::FailBefore,
            SiteFault::FailAfter,
            SiteFault::LateLand(90),
            SiteFault::StallBody,
            SiteFault::Throttle,
            SiteFault::Damage(Damage::Eio),
            SiteFault::Damage(Damage::BitRot { sectors: 0 }),
            SiteFault::Damage(Damage::BitRot { sectors: 3 }),
            SiteFault::Damage(Damage::BitFlipOnce),
            SiteFault::Damage(Damage::LostWrite),
            SiteFault::Damage(Damage::Misdirect),
            SiteFault::Damage(Damage::StaleRead),
        ];
        let mut acts: Vec<Act> = site.into_iter().map(Act::Site).collect();
        acts.extend([
            fsync(FsyncFail::EXT4),
            fsync(FsyncFail::EXT4_JOURNAL),
            fsync(FsyncFail::XFS),
            fsync(FsyncFail::XFS_SHUTDOWN),
            fsync(FsyncFail::BTRFS_READONLY),
            fsync(lies),
            Act::Crash { node: 2, crash: crash(CrashKind::ProcessKill, 7_000) },
            Act::Crash { node: 2, crash: power(Survivors::All) },
            Act::Crash { node: 0, crash: power(Survivors::Losing(vec![1])) },
            Act::Crash { node: 0, crash: power(mid_sync(SyncEnd::Garbage(1))) },
            Act::Crash { node: 0, crash: power(mid_sync(SyncEnd::LandsLater)) },
            Act::Delay { us: 40 },
            Act::Pause { node: 0, for_us },
            Act::Partition { from: vec![1, 2], to: vec![3], both: true, for_us },
            Act::Partition { from: vec![1, 2], to: vec![3], both: false, for_us },
            Act::Stall { a: 1, b: 2, for_us },
            Act::Reset { a: 1, b: 2 },
            Act::SlowLink { a: 1, b: 2, factor: 10, for_us },
            Act::Swizzle { nodes: vec![1, 3], for_us },
            Act::HalfOpen { believes: 1, forgets: 2 },
            Act::SlowNode { node: 1, factor: 10, for_us },
            Act::ClockDrift { node: 1, ppm: 200, for_us },
            Act::ClockDrift { node: 1, ppm: -200, for_us },
            Act::ClockJump { node: 1, us: 3_000 },
            Act::ClockJump { node: 1, us: -3_000 },
            Act::DiskFull { node: 1, for_us, late: false },
            Act::DiskFull { node: 1, for_us, late: true },
            Act::DiskStall { node: 1, for_us },
            Act::DiskSlow { node: 1, factor: 10, for_us },
            rot(1, "", Damage::Eio),
            rot(1, "wal", Damage::BitRot { sectors: 2 }),
            Act::Outage { for_us },
            Act::ThrottleStore { for_us },
            Act::IsolateFromStore { node: 1, for_us },
            Act::ExpireCredentials { node: 1, for_us },
        ]);
        acts
    }

    #[test]
    fn a_person_can_read_every_fault() {
        let site =
            |class: &str, node| Anchor::Site { site: "disk.sync".into(), class: class.into(), node, nth: 2 };
        let at = Anchor::Point { point: "log.synced".into(), node: 1, nth: 2 };
        let after = Anchor::After {
            point: "log.synced".into(),
            node: 0,
            nth: 2,
            site: "disk.write".into(),
            class: "wal".into(),
        };
        let places = [Anchor::Time { at_us: 61_000_042 }, at, site("", 0), site("wal", 1), after];
        let mut faults: Vec<Fault> = (acts().into_iter())
            .map(|act| {
                let at = if matches!(act, Act::Site(_)) { site("", 1) } else { Anchor::Op { op: 3 } };
                Fault { id: 0, at, act }
            })
            .collect();
        faults.extend(places.map(|at| Fault { id: 0, at, act: Act::Pause { node: 0, for_us: 1 } }));
        let crash = |node| Act::Crash { node, crash: Crash { kind: CrashKind::ProcessKill, down_us: 0 } };
        faults.extend([1, 2].map(|node| Fault { id: 0, at: site("wal", 1), act: crash(node) }));
        let told: Vec<String> = faults.iter().map(fault).collect();
        // What a value looks like in Rust is for programs.
        for text in &told {
            assert!(!text.contains(['{', '[', '_']) && !text.contains("::"), "{text}");
        }
        let distinct: std::collections::BTreeSet<&String> = told.iter().collect();
        assert_eq!(distinct.len(), told.len(), "two faults have one wording");
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn arguments_have_names_where_there_are_any() {
        let vocabulary = Vocabulary {
            roles: vec![],
            actors: 1..=1,
            ops: 0..=1,
            verbs: vec![Verb::new("put", "writes").arg("key", 0..=7)],
            knobs: vec![],
            points: vec![],
            classes: vec![],
            faults: vec![],
            horizon_us: 1..=1,
        };
        let told = |verb: &str, args: &[u64]| {
            op(&Op { id: 0, at_us: 0, actor: 1, verb: verb.into(), args: args.into() }, &vocabulary)
        };
        assert_eq!(told("put", &[3]), "client 1: put key=3");
        assert_eq!(told("put", &[3, 4]), "client 1: put key=3 4");
        assert_eq!(told("get", &[3]), "client 1: get 3");
    }
}
