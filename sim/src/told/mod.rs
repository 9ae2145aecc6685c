//! What people read: virtual time, events, faults and operations in words, and text that fits a screen.
//!
//! Each has one wording, the same on the screen, in a capsule, in a timeline and in the story of a run.

mod columns;
mod events;
mod strikes;
pub(crate) mod words;

pub(crate) use columns::folded;
pub(crate) use events::{line, whole_line};
pub(crate) use strikes::in_words;

/// Virtual time as `hh:mm:ss.uuuuuu`.
pub(crate) fn clock(us: u64) -> String {
    let s = us / 1_000_000;
    format!("{:02}:{:02}:{:02}.{:06}", s / 3600, s / 60 % 60, s % 60, us % 1_000_000)
}
