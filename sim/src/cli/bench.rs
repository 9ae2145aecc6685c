//! `cutwater bench`: how much a second of CPU time buys.
//!
//! Seeds of each scenario are run one after the other, from 0, until their time is over; nothing is recorded. All rates are
//! per second of CPU time of the plans' processes (their start included), so that they mean the same on a busy machine. The
//! last line measures the model of the disk alone: all crash states of twelve unsynced appends on the laxest file system,
//! each state built, listed and told apart from the others.

use std::path::Path;
use std::time::{Duration, Instant};

use cutwater_io::sim::Key;
use cutwater_io::sim::disk::{Config, Disk, OpenMode, Personality, enumerate_states};
use serde::Serialize;

use super::campaign::{Campaign, Tally};
use super::{BenchArgs, HELD, INTERRUPTED, Registry, Usage, VIOLATED};
use crate::runner::{Job, Pool, What, process};
use crate::scenario::Scenario;

/// A plan that takes longer has no place in a bench.
const LIMIT: Duration = Duration::from_secs(60);
/// How long the model of the disk is measured, in microseconds of CPU time.
const CRASH_STATES_US: u64 = 500_000;
/// Appends in the log whose crash states are enumerated.
const APPENDS: u64 = 12;
const SECTOR_BYTES: u32 = 512;

/// A line of `--json`; rates are per second of CPU time.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Measured<'a> {
    Scenario {
        scenario: &'a str,
        plans: u64,
        violated: u64,
        cpu_us: u64,
        virtual_s: f64,
        plans_per_cpu_hour: f64,
        events: f64,
        disk_calls: f64,
        frames: f64,
        object_requests: f64,
    },
    CrashStates {
        /// Distinct states per second.
        states: f64,
        /// Sets of operations that lead to them, per second.
        sets: f64,
    },
}

#[expect(
    clippy::disallowed_methods,
    reason = "a bench is bounded in real time, too: its machine may be busy"
)]
fn real_now() -> Instant {
    Instant::now()
}

pub(super) fn run(registry: &Registry<'_>, args: &BenchArgs) -> Result<u8, Usage> {
    let scenarios = registry.scenarios(&args.scenarios)?;
    process::catch_interrupt();
    let mut campaign = Campaign::default();
    for scenario in &scenarios {
        measure(*scenario, args.seconds, &mut campaign)
            .map_err(|e| Usage(format!("cannot start a process: {e}")))?;
    }
    let mut lines: Vec<Measured<'_>> =
        campaign.scenarios.iter().map(|(name, tally)| rates(name, tally)).collect();
    lines.push(crash_states());
    if args.json {
        for line in &lines {
            println!("{}", serde_json::to_string(line).expect("numbers are plain data"));
        }
    } else {
        print!("{}", text(&lines));
    }
    if process::interrupted() {
        eprintln!("cutwater: interrupted: what was measured is short, or missing");
        return Ok(INTERRUPTED);
    }
    Ok(if campaign.failures.is_empty() { HELD } else { VIOLATED })
}

/// Runs seeds of a scenario for so many seconds of CPU time; on a busy machine for ten times as many at most.
fn measure(scenario: &dyn Scenario, seconds: u64, campaign: &mut Campaign) -> std::io::Result<()> {
    let start = real_now();
    let (mut cpu_us, mut seed) = (0, 0);
    while cpu_us < seconds * 1_000_000 && start.elapsed().as_secs() < seconds * 10 && !process::interrupted()
    {
        let outcome = Pool::run(Job::new(scenario, What::Seed(seed)), LIMIT)?;
        cpu_us += outcome.report.cpu_us;
        campaign.add(&outcome.report);
        seed += 1;
    }
    Ok(())
}

fn rates<'a>(scenario: &'a str, tally: &Tally) -> Measured<'a> {
    let cpu_s = tally.cpu_us.max(1) as f64 / 1e6;
    let rate = |n: u64| n as f64 / cpu_s;
    Measured::Scenario {
        scenario,
        plans: tally.plans,
        violated: tally.violated,
        cpu_us: tally.cpu_us,
        virtual_s: tally.virtual_us as f64 / 1e6 / cpu_s,
        plans_per_cpu_hour: rate(tally.plans) * 3600.0,
        events: rate(tally.events),
        disk_calls: rate(tally.work.disk_calls),
        frames: rate(tally.work.frames),
        object_requests: rate(tally.work.object_requests),
    }
}

fn crash_states() -> Measured<'static> {
    let disk = appended();
    let (mut states, mut sets) = (0, 0);
    let start_us = process::cpu_us();
    let mut spent_us = 0;
    while spent_us < CRASH_STATES_US {
        let found = enumerate_states(&disk);
        states += found.trees.len() as u64;
        sets += found.sets;
        spent_us = process::cpu_us() - start_us;
    }
    let rate = |n: u64| n as f64 * 1e6 / spent_us.max(1) as f64;
    Measured::CrashStates { states: rate(states), sets: rate(sets) }
}

/// A disk on which a file was appended to, sector by sector, and never synced.
fn appended() -> Disk {
    let config = Config {
        personality: Personality::PosixMin,
        sector_bytes: SECTOR_BYTES,
        writeback_interval_us_max: 0,
        ..Config::default()
    };
    let mut disk = Disk::new(Key::root(0), config);
    let mode = OpenMode { read: true, write: true, create: true, create_new: false, truncate: false };
    let fd = disk.open(Path::new("/log"), mode).expect("an empty disk takes a file");
    let sync = disk.begin_sync_dir(Path::new("/")).expect("there is a root");
    disk.finish_sync(&sync).expect("nothing fails on this disk");
    for i in 0..APPENDS {
        let sector = vec![b'a' + i as u8; SECTOR_BYTES as usize];
        disk.write_at(fd, &sector, i * u64::from(SECTOR_BYTES)).expect("nothing fails on this disk");
    }
    disk
}

fn text(lines: &[Measured<'_>]) -> String {
    let mut text = format!(
        "{:<14} {:>6} {:>9} {:>12} {:>9} {:>10} {:>8} {:>15}\n",
        "per CPU second",
        "plans",
        "virtual s",
        "plans/CPU h",
        "events",
        "disk calls",
        "frames",
        "object requests"
    );
    for line in lines {
        text.push_str(&match line {
            Measured::Scenario {
                scenario,
                plans,
                virtual_s,
                plans_per_cpu_hour,
                events,
                disk_calls,
                frames,
                object_requests,
                violated,
                ..
            } => {
                let violated =
                    if *violated > 0 { format!("  {violated} of {plans} violated") } else { String::new() };
                format!(
                    "{scenario:<14} {plans:>6} {virtual_s:>9.1} {plans_per_cpu_hour:>12.0} {events:>9.0} {disk_calls:>10.0} \
                     {frames:>8.0} {object_requests:>15.0}{violated}\n"
                )
            }
            Measured::CrashStates { states, sets } => {
                format!("{:<14} {states:.0} of {APPENDS} appends, from {sets:.0} sets of operations\n", "crash states")
            }
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second_of_cpu_time() {
        let mut tally = Tally { plans: 10, cpu_us: 500_000, virtual_us: 20_000_000, ..Tally::default() };
        tally.work.frames = 300;
        let found = states_of(&appended());
        assert_eq!(found, (8191, 53_248), "the log that the litmus table measures, too");
        insta::assert_snapshot!(text(&[
            rates("store", &tally),
            Measured::CrashStates { states: 1000.4, sets: 6500.0 }
        ]));
    }

    fn states_of(disk: &Disk) -> (usize, u64) {
        let found = enumerate_states(disk);
        (found.trees.len(), found.sets)
    }
}
