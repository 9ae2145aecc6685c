//! Scenario `restore`: a job that is brought back again and again, often at another parallelism, often not the first time.
//!
//! The same cluster as in [`crate::checkpoint`], but what the plan does is end attempts: it asks for other parallelisms, and
//! the whole cluster loses power at once. So the job goes through many generations of incremental checkpoints, each restored
//! from the one before, with files of several attempts referenced side by side. Crashes are anchored to the points of a
//! restore above all: between the read of a checkpoint and its deployment, between the download and the open, in the middle of
//! clipping, before the recommit of what a sink was handed.
//!
//! What must hold is what must hold in `checkpoint`.

use std::path::Path;

use cutwater_io::points::{Kind, Point};
use cutwater_sim::faults::Devices;
use cutwater_sim::plan::Plan;
use cutwater_sim::scenario::{Demands, OracleInfo, Scenario, Violation};
use cutwater_sim::shrink::Personalities;
use cutwater_sim::vocabulary::{Verb, Vocabulary};
use cutwater_sim::world::World;
use futures::future::LocalBoxFuture;

use crate::cluster::{self, Cluster};

/// See the module.
pub struct RestoreScenario;

/// The points between the loss of an attempt and the first record of the next.
fn points() -> Vec<Point> {
    let restoring = |point: &Point| {
        ["state.restore.", "stream.sink.before_recommit", "checkpoint.after_restore_read", "coordinator."]
            .iter()
            .any(|prefix| point.name.starts_with(prefix))
    };
    let mut points: Vec<Point> =
        cluster::points().into_iter().filter(|p| p.kind != Kind::Point || restoring(p)).collect();
    points.extend(cutwater_engine::checkpoint::points::ALL);
    points.sort();
    points.dedup();
    points
}

impl Scenario for RestoreScenario {
    fn name(&self) -> &'static str {
        "restore"
    }

    fn about(&self) -> &'static str {
        "many generations of a job: rescaling, loss of the whole cluster, crashes inside the restore"
    }

    fn vocabulary(&self) -> Vocabulary {
        Vocabulary {
            roles: cluster::roles(),
            actors: 1..=1,
            ops: 2..=10,
            verbs: vec![
                Verb::new("rescale", "ask for another parallelism").arg("parallelism", 1..=4).always(),
                Verb::new("outage", "the whole cluster loses power at once")
                    .log_arg("down_us", 1_000..=500_000),
                Verb::new(
                    "inspect",
                    "restore the latest checkpoint on a machine of its own, and judge its state",
                ),
            ],
            knobs: cluster::knobs(),
            points: points(),
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
        let points = points();
        Demands {
            after_plans: 1000,
            delivered: cluster::faults(),
            points: points.iter().filter(|p| p.kind == Kind::Point).map(|p| p.name).collect(),
            sometimes: vec![
                "coordinator.scaled_up",
                "coordinator.scaled_down",
                "state.rescaled",
                "stream.in_flight.rescaled",
                "state.upload.reused",
                "state.log.replayed",
                "state.log.replayed_rescaled",
            ]
            .into_iter()
            .chain(points.iter().filter(|p| p.kind == Kind::Buggify).map(|p| p.name))
            .collect(),
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
