//! libFuzzer target `blob`; what it does is in `scenarios/src/targets.rs`, where `cargo test` runs it, too.
//!
//! It simulates a disk, and a thread that simulates has the clock of the simulation. libFuzzer asks the clock on the main thread
//! whether an input takes too long, at any moment; so that is not the thread that simulates.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| std::thread::scope(|scope| {
    let run = scope.spawn(|| cutwater_scenarios::targets::run("blob", bytes));
    run.join().expect("a panic ends the process");
}));
