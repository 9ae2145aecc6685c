//! Whether a job of a cluster logs the changes of its state, and how eagerly.
//!
//! The option is that of a coordinator's process. Where only every other candidate has it, a takeover switches it: what was written with a
//! log is restored without one, and the reverse.

use std::time::Duration;

use cutwater_engine::state::changelog::ChangelogOptions;
use cutwater_sim::vocabulary::Knob;
use cutwater_sim::world::World;

/// Settings of the log.
pub(crate) fn knobs() -> [Knob; 4] {
    [
        Knob::new(
            "changelog",
            "0: checkpoints are files of stores, 1: changes are logged, 2: every other candidate has them logged",
            0,
            0..=2,
        ),
        Knob::new(
            "materialise_ms",
            "from one materialisation of a logged store to the next, in milliseconds",
            500,
            20..=5000,
        ),
        Knob::new(
            "log_upload_bytes",
            "logged changes that are uploaded before a checkpoint asks for them, in bytes",
            1024,
            64..=16 << 10,
        ),
        Knob::new(
            "log_upload_ms",
            "the same by the age of the first of them, in milliseconds",
            100,
            20..=2000,
        ),
    ]
}

/// What the candidate of that index says of the log.
pub(crate) fn options(world: &World, index: u64) -> Option<ChangelogOptions> {
    let is_logged = match world.knob("changelog") {
        0 => false,
        1 => true,
        _ => index.is_multiple_of(2),
    };
    let ms = |name| Duration::from_millis(world.knob(name));
    is_logged.then(|| ChangelogOptions {
        materialise_every: ms("materialise_ms"),
        upload_bytes: usize::try_from(world.knob("log_upload_bytes")).expect("a small number"),
        upload_every: ms("log_upload_ms"),
    })
}
