//! Scenario `savepoint`: a job that its users stop, cancel and bring back.
//!
//! The same cluster as in [`crate::checkpoint`]. What the plan does is what people do to a job over months: they ask for savepoints
//! in either format, stop it with one (draining it or not), cancel it, start it from what it left, claiming that or not, and
//! delete what they think is not needed any more. All of it is broken as checkpoints are: the leader dies between the wish
//! and its listing, between the savepoint and the end of the job, between the end and the deletion of the checkpoints; a
//! worker dies while a source has stopped reading for a savepoint that will never be.
//!
//! What must hold is what must hold in `checkpoint`, over all starts of the job; and what the list says of a checkpoint is
//! final. A savepoint that is listed as present is whole as long as it is. See [`crate::manage`] for what is brought back.

use std::path::Path;

use cutwater_io::points::Kind;
use cutwater_sim::faults::Devices;
use cutwater_sim::plan::Plan;
use cutwater_sim::scenario::{Demands, OracleInfo, Scenario, Violation};
use cutwater_sim::shrink::Personalities;
use cutwater_sim::vocabulary::Vocabulary;
use cutwater_sim::world::World;
use futures::future::LocalBoxFuture;

use crate::cluster::{self, Cluster};
use crate::manage;

/// See the module.
pub struct SavepointScenario;

impl Scenario for SavepointScenario {
    fn name(&self) -> &'static str {
        "savepoint"
    }

    fn about(&self) -> &'static str {
        "users stop a job, cancel it and bring it back: savepoints, claim modes, retention"
    }

    fn vocabulary(&self) -> Vocabulary {
        Vocabulary {
            roles: cluster::roles(),
            actors: 1..=2,
            ops: 2..=12,
            verbs: manage::verbs(),
            knobs: cluster::knobs(),
            points: cluster::points(),
            classes: vec![
                "table",
                "manifest",
                "current",
                "other",
                "register",
                "checkpoint",
                "shared",
                "sink",
            ],
            faults: cluster::faults(),
            horizon_us: 3_000_000..=15_000_000,
        }
    }

    fn oracles(&self) -> &'static [OracleInfo] {
        cluster::ORACLES
    }

    fn demands(&self) -> Demands {
        Demands {
            after_plans: 1000,
            delivered: cluster::faults(),
            points: cutwater_engine::checkpoint::points::ALL
                .iter()
                .filter(|point| point.kind == Kind::Point)
                .map(|point| point.name)
                .collect(),
            sometimes: vec![
                "checkpoint.savepoint_completed",
                "checkpoint.stopped",
                "checkpoint.claimed_deleted",
                "coordinator.stopping_restored",
                "coordinator.started_again",
                "stream.source.stop_undone",
                "state.log.replayed",
            ],
            ..Demands::default()
        }
    }

    fn personalities(&self) -> Option<Personalities> {
        Some(crate::PERSONALITIES)
    }

    fn classify(&self) -> fn(&Path) -> &'static str {
        crate::classify
    }

    fn name_frames(&self) -> cutwater_io::sim::net::FrameNamer {
        crate::frames::name_frame
    }

    fn devices(&self, plan: &Plan) -> Devices {
        crate::devices(plan)
    }

    fn run<'a>(&'a self, world: &'a World) -> LocalBoxFuture<'a, Result<(), Violation>> {
        Box::pin(async move { Cluster::start(world).run().await })
    }
}
