//! Scenario `damage`: the store of [`crate::store`], on a disk that damages what was durable.
//!
//! The same machine, store and writers. But sectors of its files cannot be read any more, have wrong bits, lose writes that
//! were acknowledged, take writes that were meant for elsewhere, give what stood there before. It is the only copy, so the
//! store cannot repair anything; it can be honest. What must hold (fault budget F2: refuse):
//! - **honesty**: an error says corruption, and names a file of which a reader was served damage; there is none otherwise,
//!   and no process dies of damage;
//! - **model**: whatever is answered is right. Keys beside the damage are read as ever;
//! - **scrub**: a scrub passes no table that has lasting damage;
//! - **durability**: history is not silently shortened: what a sync had forced is recovered, or the store refuses to open.
//!   (What a single sync cannot promise, and what is beyond the budget, says the module `store::budget`.)
//! - **checkpoint**: a checkpoint or backup that was not damaged opens with its content. A backup shares nothing with the
//!   store; a checkpoint shares its tables, by hard link, and so their damage.
//! - **liveness**: damage that struck a single read is gone at the next attempt; a store that goes on refusing is replaced by
//!   its newest whole copy, and works.
//!
//! Only crashes and passing disk errors come along; failed syncs and full disks are the business of `store`.

use std::path::Path;

use cutwater_engine::store::points;
use cutwater_io::points::{Kind, Point};
use cutwater_sim::faults::{Devices, FaultClass};
use cutwater_sim::plan::Plan;
use cutwater_sim::scenario::{Demands, OracleInfo, Scenario, Violation};
use cutwater_sim::vocabulary::{Verb, Vocabulary};
use cutwater_sim::world::World;
use futures::future::LocalBoxFuture;

use crate::store::{Medium, StoreScenario, points, run};
use cutwater_sim::shrink::Personalities;

/// See the module.
pub struct DamageScenario;

/// What a store can pass whose disk is never full.
fn own_points() -> impl Iterator<Item = Point> {
    points().filter(|point| !points::OF_SPACE.contains(point))
}

impl Scenario for DamageScenario {
    fn name(&self) -> &'static str {
        "damage"
    }

    fn about(&self) -> &'static str {
        "one store on a disk that rots: bad sectors, wrong bits, lost, misdirected and stale data"
    }

    fn vocabulary(&self) -> Vocabulary {
        use FaultClass as F;
        let mut vocabulary = StoreScenario.vocabulary();
        vocabulary.points = own_points().collect();
        vocabulary.verbs.push(Verb::new("scrub", "have the store check every byte of its tables"));
        vocabulary.faults = vec![
            F::ProcessKill,
            F::PowerFail,
            F::DiskError,
            F::ReadError,
            F::BitRot,
            F::LostWrite,
            F::StaleRead,
        ];
        vocabulary
    }

    fn oracles(&self) -> &'static [OracleInfo] {
        &[
            OracleInfo {
                name: "honesty",
                about: "corruption is reported only where a reader was served damage, and then as such",
            },
            OracleInfo { name: "model", about: "whatever is read is right, beside the damage too" },
            OracleInfo {
                name: "filter",
                about: "a filter takes what it says, and no snapshot sees any of it",
            },
            OracleInfo { name: "scrub", about: "a scrub passes no table that has lasting damage" },
            OracleInfo {
                name: "durability",
                about: "what was synced is recovered, or refused; it is never silently missing",
            },
            OracleInfo {
                name: "checkpoint",
                about: "a checkpoint opens with its content, or refuses what is damaged",
            },
            OracleInfo {
                name: "backup",
                about: "a backup restores what it was taken of, or refuses what is damaged",
            },
            OracleInfo { name: "structure", about: "levels disjoint, no file that nothing names" },
            OracleInfo {
                name: "liveness",
                about: "once nothing breaks, the store, or its newest whole copy, works within 60 s",
            },
        ]
    }

    fn demands(&self) -> Demands {
        Demands {
            after_plans: 1000,
            delivered: self.vocabulary().faults,
            points: own_points().filter(|p| p.kind == Kind::Point).map(|p| p.name).collect(),
            sometimes: [points::WAL_REFUSED, points::MANIFEST_REFUSED, points::BLOCK_REFUSED]
                .map(|p| p.name)
                .into(),
            ..Demands::default()
        }
    }

    fn personalities(&self) -> Option<Personalities> {
        Some(crate::PERSONALITIES)
    }

    fn classify(&self) -> fn(&Path) -> &'static str {
        crate::classify
    }

    fn devices(&self, plan: &Plan) -> Devices {
        crate::devices(plan)
    }

    fn run<'a>(&'a self, world: &'a World) -> LocalBoxFuture<'a, Result<(), Violation>> {
        Box::pin(run(world, Medium::Damaged))
    }
}
