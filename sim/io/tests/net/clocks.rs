//! Clocks of nodes: drift, jumps, timers that keep to them, nodes that are slow, and what healing does.
#![cfg(madsim)]

use std::time::Duration;

use crate::support::*;
use cutwater_io::sim::NodeId;
use cutwater_io::{fs, time};

const N1: NodeId = NodeId(1);
const SECOND: Duration = Duration::from_secs(1);

/// How long a second of node 1 lasts in truth, and how long node 1 takes it for, in microseconds.
async fn a_second(world: &World) -> (u64, u64) {
    let before = world.env.now_ns();
    let own = world.on(1, async {
        let start = time::now();
        time::sleep(SECOND).await;
        start.elapsed()
    });
    let own = own.await.expect("runs");
    ((world.env.now_ns() - before) / 1000, own.as_micros() as u64)
}

/// `found` is `expected`, or up to two milliseconds more (the floor of a sleep, and the polls in between).
fn about(found: u64, expected: u64) {
    assert!((expected..expected + 2_000).contains(&found), "{found} us, expected {expected}");
}

#[test]
fn timers_keep_to_the_clock_of_their_node() {
    run(Setup::default(), |world| async move {
        for (ppm, truth) in [(0, 1_000_000), (250_000, 800_000), (-200_000, 1_250_000)] {
            world.env.clocks().drift(N1, ppm);
            let (took, own) = a_second(&world).await;
            about(took, truth);
            about(own, 1_000_000);
        }
        world.env.clocks().heal();
        about(a_second(&world).await.0, 1_000_000);
        assert!(time::now().as_micros() * 1000 <= world.env.now_ns(), "the harness lives by true time");
    });
}

#[test]
fn a_timer_that_is_under_way_is_never_early_when_its_clock_bends() {
    run(Setup::default(), |world| async move {
        for ppm in [-500_000, 500_000] {
            let own = world.on(1, async {
                let start = time::now();
                time::sleep(SECOND).await;
                start.elapsed()
            });
            sleep_ms(300).await;
            world.env.clocks().drift(N1, ppm);
            assert!(own.await.expect("runs") >= SECOND);
            world.env.clocks().drift(N1, 0);
        }
    });
}

#[test]
fn a_timeout_is_by_the_clock_of_the_node_too() {
    run(Setup::default(), |world| async move {
        world.env.clocks().drift(N1, 500_000);
        let before = world.env.now_ns();
        let never = std::future::pending::<()>();
        let limited = world.on(1, async move { time::timeout(SECOND * 3, never).await });
        assert_eq!(limited.await.expect("runs"), Err(time::Elapsed));
        about((world.env.now_ns() - before) / 1000, 2_000_000);
        let ready = world.on(1, async { time::timeout(SECOND, std::future::ready(7)).await });
        assert_eq!(ready.await.expect("runs"), Ok(7));
    });
}

#[test]
fn wall_clocks_jump_alone_and_monotonic_ones_never() {
    run(Setup::default(), |world| async move {
        let read = |world: &World, n| {
            let read = world.on(n, async { (time::unix_time(), time::now()) });
            async move { read.await.expect("runs") }
        };
        let clocks = world.env.clocks();
        let (_, monotonic) = read(&world, 1).await;
        clocks.jump(N1, 3_600_000_000);
        let ((ahead, later), (other, _)) = (read(&world, 1).await, read(&world, 2).await);
        assert_eq!((ahead - other).as_secs(), 3600 - u64::from(ahead < other + SECOND * 3600));
        assert!(later - monotonic < SECOND);
        clocks.jump(N1, -3_600_000_000 - 60_000_000);
        let ((behind, latest), (other, _)) = (read(&world, 1).await, read(&world, 2).await);
        assert!((59..=60).contains(&(other - behind).as_secs()), "{:?}", other - behind);
        assert!(latest >= later);
        clocks.jump(N1, i64::MIN);
        assert_eq!(read(&world, 1).await.0, Duration::ZERO, "before 1970 there is nothing");
        clocks.heal();
        let ((healed, _), (other, _)) = (read(&world, 1).await, read(&world, 2).await);
        assert!(other >= healed && other - healed < SECOND);
    });
}

#[test]
fn a_clock_that_is_off_from_the_start_stays_so() {
    run(Setup::default(), |world| async move {
        let clocks = world.env.clocks();
        let error_us = |n| clocks.wall_error_us(NodeId(n), world.env.now_ns());
        clocks.set_off(N1, -5_000_000);
        clocks.jump(N1, 1_000_000);
        clocks.jump(NodeId(2), 1_000_000);
        assert_eq!((error_us(1), error_us(2)), (-4_000_000, 1_000_000));
        clocks.heal();
        assert_eq!((error_us(1), error_us(2)), (-5_000_000, 0), "it is no fault");
        let monotonic = world.on(1, async { time::now().as_micros() }).await.expect("runs");
        assert!(monotonic * 1000 <= world.env.now_ns(), "timers know nothing of it");
    });
}

#[test]
fn a_drifting_wall_clock_goes_with_its_oscillator() {
    run(Setup::default(), |world| async move {
        world.env.clocks().drift(N1, 100_000);
        sleep_ms(10_000).await;
        let error_us = world.env.clocks().wall_error_us(N1, world.env.now_ns());
        assert!((1_000_000..1_001_000).contains(&error_us), "{error_us} us");
    });
}

/// How long ten small files with their syncs take on node 1, in true microseconds.
async fn some_files(world: &World, name: &'static str) -> u64 {
    let before = world.env.now_ns();
    let work = world.on(1, async move {
        for i in 0..10 {
            let file = fs::File::create(format!("/{name}{i}")).await.expect("creates");
            file.write_all_at(&[1; 100], 0).await.expect("writes");
            file.sync_data().await.expect("syncs");
        }
    });
    work.await.expect("runs");
    (world.env.now_ns() - before) / 1000
}

#[test]
fn a_slow_node_is_slow_until_it_is_healed() {
    run(Setup::default(), |world| async move {
        let usual = some_files(&world, "a").await;
        world.env.clocks().slow_down(N1, 10);
        let slow = some_files(&world, "b").await;
        assert!(slow > usual * 4, "{slow} us instead of {usual}");
        about(a_second(&world).await.0, 10_000_000);
        // A timer that is late because of it is not late for longer.
        let timer = world.on(1, time::sleep(SECOND * 10));
        sleep_ms(12_000).await;
        world.env.clocks().heal();
        let healed = world.env.now_ns();
        timer.await.expect("runs");
        assert!(world.env.now_ns() - healed < 25_000_000);
        let usual_again = some_files(&world, "c").await;
        assert!(usual_again < slow / 2, "{usual_again} us, {slow} when it was slow");
    });
}

#[test]
fn a_stall_of_a_disk_that_is_under_way_can_be_cut_short() {
    run(Setup::default(), |world| async move {
        world.env.disks().stall(N1, world.env.now_ns() / 1000 + 60_000_000);
        let work = world.on(1, async { fs::File::create("/f").await.map(drop) });
        sleep_ms(500).await;
        world.env.disks().stall(N1, 0);
        work.await.expect("runs").expect("creates");
        assert!(world.now_ms() < 600, "it took {} ms", world.now_ms());
    });
}

mod odd {
    cutwater_io::points! {
        buggify ONE = "test.one": "a choice";
        buggify TWO = "test.two": "another";
    }
}

/// Which of a hundred passings fire, for both sites, on node 1.
async fn firings(world: &World) -> [Vec<bool>; 2] {
    let passings = world.on(1, async {
        [odd::ONE, odd::TWO].map(|site| (0..100).map(|_| cutwater_io::buggify!(site)).collect())
    });
    passings.await.expect("runs")
}

#[test]
fn buggify_fires_where_it_is_armed_and_as_the_key_says() {
    let fired = |armed: &'static [&'static str], seed| {
        let setup = Setup { seed, ..Default::default() };
        let scenario = move |world: World| async move {
            world.env.arm(armed.iter().map(|site| (*site).to_string()));
            let fired = firings(&world).await;
            assert_eq!(world.env.sometimes_seen().values().sum::<u64>(), count(&fired[0]) + count(&fired[1]));
            world.env.arm([]);
            assert_eq!(firings(&world).await.map(|f| count(&f)), [0, 0], "healed");
            fired
        };
        run(setup, scenario)
    };
    fn count(fired: &[bool]) -> u64 {
        fired.iter().filter(|fired| **fired).count() as u64
    }
    assert_eq!(fired(&[], 1).0.map(|f| count(&f)), [0, 0], "nothing is armed in a new world");
    let (both, digest) = fired(&["test.one", "test.two"], 1);
    assert!(both.iter().all(|f| (10..45).contains(&count(f))), "{both:?}");
    assert_ne!(both[0], both[1]);
    assert_eq!(fired(&["test.one", "test.two"], 1).1, digest);
    // What one site does is no other's business.
    assert_eq!(fired(&["test.two"], 1).0, [vec![false; 100], both[1].clone()]);
    assert_ne!(fired(&["test.two"], 2).0[1], both[1]);
}
