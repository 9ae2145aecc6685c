//! Scenario `checkpoint`: a job on a cluster, broken while it takes checkpoints.
//!
//! One to three coordinator candidates and two to four workers run a Nexmark query with a known answer. Checkpoints follow
//! each other closely, so that most of what breaks breaks in the middle of one: a worker dies between its snapshot and its
//! upload, a leader between the metadata and the register, a put of the register has no answer or lands late, a paused
//! leader wakes up after another took over, a sink dies between the durable checkpoint and its commit.
//!
//! What must hold stands with the oracles, see [`crate::oracle::job`] and [`crate::cluster`]: epochs and ids only grow; a
//! listed checkpoint is whole as long as it is listed and restores cold; its state is exactly the effect of the input before
//! its positions; output is committed only of durable checkpoints, and in the end it is the known answer; nothing is left
//! over; once nothing breaks, the job ends.
//!
//! *Not in it*: savepoints and what else users do to a job ([`crate::savepoint`]), regional restarts.

use std::path::Path;

use cutwater_io::points::Kind;
use cutwater_sim::faults::Devices;
use cutwater_sim::plan::Plan;
use cutwater_sim::scenario::{Demands, OracleInfo, Scenario, Violation};
use cutwater_sim::shrink::Personalities;
use cutwater_sim::vocabulary::{Verb, Vocabulary};
use cutwater_sim::world::World;
use futures::future::LocalBoxFuture;

use crate::cluster::{self, Cluster};
use crate::manage;

/// See the module.
pub struct CheckpointScenario;

impl Scenario for CheckpointScenario {
    fn name(&self) -> &'static str {
        "checkpoint"
    }

    fn about(&self) -> &'static str {
        "a job on a cluster: crashes, partitions and lost answers in the middle of checkpoints"
    }

    fn vocabulary(&self) -> Vocabulary {
        Vocabulary {
            roles: cluster::roles(),
            actors: 1..=2,
            ops: 1..=12,
            verbs: vec![
                manage::checkpoint_verb().always(),
                Verb::new(
                    "inspect",
                    "restore the latest checkpoint on a machine of its own, and judge its state",
                ),
            ],
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
            horizon_us: 2_000_000..=12_000_000,
        }
    }

    fn oracles(&self) -> &'static [OracleInfo] {
        cluster::ORACLES
    }

    fn demands(&self) -> Demands {
        let of = |kind| {
            [
                cutwater_engine::checkpoint::points::ALL,
                cutwater_engine::cluster::points::ALL,
                cutwater_engine::stream::points::ALL,
            ]
            .into_iter()
            .flatten()
            .filter(move |point| point.kind == kind)
            .map(|point| point.name)
            .collect()
        };
        Demands {
            after_plans: 1000,
            delivered: cluster::faults(),
            points: of(Kind::Point),
            sometimes: vec![
                "coordinator.took_over",
                "coordinator.deposed",
                "coordinator.restored",
                "coordinator.worker_silent",
                "checkpoint.aborted",
                "checkpoint.expired",
                "checkpoint.swept",
                "log.resolved_landed",
                "log.resolved_lost",
                "stream.aligned_blocked",
                "stream.overtaken_input",
                "stream.overtaken_output",
                "stream.alignment_timed_out",
                "stream.in_flight.persisted",
                "stream.in_flight.replayed",
                "stream.sink.recommitted",
                "state.upload.reused",
                "state.upload.damaged",
                "state.log.uploaded_early",
                "state.materialised.under_load",
                "state.log.truncated",
                "state.log.never_named",
                "state.log.replayed",
                "log.superseded",
            ]
            .into_iter()
            .chain(cluster::points().into_iter().filter(|p| p.kind == Kind::Buggify).map(|p| p.name))
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
