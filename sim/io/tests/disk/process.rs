//! Processes and machines that die: what a killed process, a failed power supply and a late destructor leave on the disk.
#![cfg(madsim)]
#![expect(
    clippy::disallowed_methods,
    reason = "each run has a fresh thread, so that no thread-local state outlives it"
)]

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cutwater_io::fs::{self, File};
use cutwater_io::sim::{
    Config, Crash, CrashKind, Damage, Env, Errno, FsyncFail, Injector, Key, NodeId, Passing, PointAction,
    Quiet, Site, SiteAction, SiteFault, Survivors, SyncEnd, disk,
};
use futures::FutureExt;
use madsim::runtime::{Handle, NodeHandle, Runtime};

const N1: NodeId = NodeId(1);

fn run<T, F>(injector: Box<dyn Injector>, scenario: impl FnOnce(Arc<Env>) -> F + Send + 'static) -> T
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    std::thread::spawn(move || {
        let mut runtime = Runtime::with_seed_and_config(1, madsim::Config::default());
        runtime.add_simulator::<Env>();
        runtime.set_time_limit(Duration::from_secs(600));
        runtime.block_on(async {
            let env = Env::install(Config {
                key: Key::root(1),
                record: true,
                disk: disk::Config { writeback_interval_us_max: 0, ..disk::Config::default() },
                net: Default::default(),
                objects: Default::default(),
                classify: |path| if path.extension().is_some_and(|e| e == "log") { "wal" } else { "other" },
                injector,
            });
            let result = scenario(env).await;
            Handle::current().kill("n1");
            madsim::time::sleep(Duration::from_millis(1)).await;
            result
        })
    })
    .join()
    .expect("the run did not panic")
}

fn node() -> NodeHandle {
    Handle::current().create_node().name("n1").build()
}

const KILL: Crash = Crash { kind: CrashKind::ProcessKill, down_us: 0 };

fn power_fail(survivors: Survivors) -> Crash {
    Crash { kind: CrashKind::PowerFail(survivors), down_us: 0 }
}

/// Strikes the n-th call at a site.
struct Strike {
    name: &'static str,
    nth: u64,
    fault: SiteFault,
}

impl Injector for Strike {
    fn at_site(&mut self, site: &Site<'_>) -> SiteAction {
        if site.name == self.name && site.nth == self.nth {
            SiteAction::Strike(self.fault.clone())
        } else {
            SiteAction::Proceed
        }
    }
    fn at_point(&mut self, _: &Passing) -> PointAction {
        PointAction::Proceed
    }
}

async fn write_log(sync: bool) -> io::Result<File> {
    fs::create_dir("/db").await?;
    let file = File::create_new("/db/1.log").await?;
    file.write_all_at(b"written", 0).await?;
    if sync {
        file.sync_data().await?;
        fs::sync_dir("/db").await?;
        fs::sync_dir("/").await?;
    }
    Ok(file)
}

fn content(env: &Env, path: &str) -> Option<Vec<u8>> {
    env.disks().listing(N1).get(path).map(disk::Seen::bytes)
}

#[test]
fn a_killed_process_loses_nothing_that_it_wrote() {
    run(Box::new(Quiet), |env| async move {
        let (n1, held) = (node(), Arc::new(Mutex::new(None)));
        let keep = held.clone();
        n1.spawn(async move {
            let file = write_log(false).await.unwrap();
            assert!(file.try_lock().await.unwrap());
            *keep.lock().unwrap() = Some(file);
        })
        .await
        .unwrap();
        assert_eq!(env.disks().open_fd_count(N1), 1);
        env.crash(N1, KILL);
        assert_eq!(env.disks().open_fd_count(N1), 0);
        madsim::time::sleep(Duration::from_millis(1)).await;
        Handle::current().restart("n1");
        assert_eq!(content(&env, "/db/1.log").unwrap(), b"written");
        let n1 = Handle::current().get_node("n1").expect("it was restarted");
        let locked = n1.spawn(async { File::open("/db/1.log").await.unwrap().try_lock().await.unwrap() });
        assert!(locked.await.unwrap(), "the lock ended with its process");
        drop(held.lock().unwrap().take());
    });
}

#[test]
fn a_power_failure_keeps_what_was_synced_and_its_choice_of_the_rest() {
    for (synced, survivors, there) in
        [(false, Survivors::None, false), (false, Survivors::All, true), (true, Survivors::None, true)]
    {
        run(Box::new(Quiet), move |env| async move {
            node().spawn(async move { drop(write_log(synced).await.unwrap()) }).await.unwrap();
            env.crash(N1, power_fail(survivors));
            assert_eq!(content(&env, "/db/1.log").is_some(), there);
            let record = env.disks().last_crash(N1).unwrap();
            assert_eq!(record.lost.is_empty(), there);
            assert!(there || record.story().contains("lost name /db/1.log"), "{}", record.story());
        });
    }
}

/// A write-ahead log that flushes itself when it is dropped: by its own handle, by path, and in a task.
struct Flusher(Option<File>);

impl Drop for Flusher {
    fn drop(&mut self) {
        let file = self.0.take().expect("dropped once");
        assert!(file.write_at(b"FLUSHED", 0).now_or_never().is_none(), "by its own handle");
        assert!(file.sync_all().now_or_never().is_none());
        for attempt in 0..3 {
            assert!(fs::remove_file("/db/1.log").now_or_never().is_none(), "by path, attempt {attempt}");
        }
        cutwater_io::task::spawn(async { fs::remove_file("/db/1.log").await });
        cutwater_io::task::spawn(async move { file.write_all_at(b"FLUSHED", 0).await });
    }
}

#[test]
fn a_destructor_that_writes_after_the_crash_has_no_effect() {
    for crash in [KILL, power_fail(Survivors::All), power_fail(Survivors::None)] {
        run(Box::new(Quiet), move |env| async move {
            let n1 = node();
            n1.spawn(async {
                let _flusher = Flusher(Some(write_log(true).await.unwrap()));
                std::future::pending::<()>().await;
            });
            madsim::time::sleep(Duration::from_secs(10)).await;
            env.crash(N1, crash);
            let after_crash = env.disks().listing(N1);
            assert_eq!(content(&env, "/db/1.log").unwrap(), b"written");
            madsim::time::sleep(Duration::from_millis(1)).await;
            Handle::current().restart("n1");
            madsim::time::sleep(Duration::from_secs(10)).await;
            assert_eq!(env.disks().listing(N1), after_crash);
            assert!(env.stale_calls() >= 5, "{} stale calls", env.stale_calls());
            assert_eq!(env.disks().snapshot(N1).log().len(), 0);
        });
    }
}

#[test]
fn a_crash_during_a_sync_forces_nothing_and_after_it_everything() {
    for (fault, there) in [
        (SiteFault::CrashBefore(power_fail(Survivors::None)), false),
        (SiteFault::CrashAfter(power_fail(Survivors::None)), true),
    ] {
        run(Box::new(Strike { name: "disk.sync", nth: 2, fault }), move |env| async move {
            node().spawn(async {
                let file = write_log(true).await.unwrap();
                file.write_all_at(b"again!!", 0).await.unwrap();
                file.sync_data().await.unwrap();
                unreachable!("the node died");
            });
            let (node, _) = env.next_crash().await;
            assert_eq!(node, N1);
            let expected = if there { b"again!!" } else { b"written" };
            assert_eq!(content(&env, "/db/1.log").unwrap(), expected);
        });
    }
}

#[test]
fn faults_at_sites_reach_the_caller() {
    let fail = |errno: Errno| SiteFault::Fail(errno);
    let fsync = SiteFault::Fsync(FsyncFail::XFS);
    for (name, fault, code) in [
        ("disk.open", fail(Errno::Eio), libc::EIO),
        ("disk.mkdir", fail(Errno::Enospc), libc::ENOSPC),
        ("disk.sync", fsync, libc::EIO),
        ("disk.sync_dir", fail(Errno::Eio), libc::EIO),
        ("disk.write", fail(Errno::Enospc), libc::ENOSPC),
        ("disk.sync", fail(Errno::Enospc), libc::ENOSPC),
    ] {
        run(Box::new(Strike { name, nth: 1, fault }), move |_| async move {
            let result = node().spawn(async { write_log(true).await.map(drop) }).await.unwrap();
            assert_eq!(result.unwrap_err().raw_os_error(), Some(code), "{name}");
        });
    }
    for (name, fault) in [
        ("disk.write", SiteFault::Short),
        ("disk.write", fail(Errno::Eintr)),
        ("disk.sync", SiteFault::Delay(3_000_000)),
    ] {
        run(Box::new(Strike { name, nth: 1, fault }), move |env| async move {
            node().spawn(async { write_log(true).await.map(drop) }).await.unwrap().unwrap();
            assert_eq!(content(&env, "/db/1.log").unwrap(), b"written", "{name}");
            assert!(env.recorded().iter().any(|e| e.kind == "fault.strike"));
        });
    }
}

#[test]
fn what_a_sync_is_about_is_decided_when_it_is_called() {
    run(Box::new(Quiet), |env| async move {
        node()
            .spawn(async {
                let file = write_log(true).await.unwrap();
                file.write_all_at(b"one", 0).await.unwrap();
                let mut sync = std::pin::pin!(file.sync_data());
                assert!(futures::poll!(sync.as_mut()).is_pending());
                file.write_all_at(b"two", 4096).await.unwrap();
                sync.await.unwrap();
            })
            .await
            .unwrap();
        env.crash(N1, power_fail(Survivors::None));
        assert_eq!(content(&env, "/db/1.log").unwrap(), b"onetten");
    });
}

#[test]
fn a_stalled_disk_answers_when_the_stall_is_over() {
    run(Box::new(Quiet), |env| async move {
        env.disks().stall(N1, 5_000_000);
        node().spawn(async { write_log(true).await.map(drop) }).await.unwrap().unwrap();
        assert!(env.now_ns() >= 5_000_000_000);
    });
}

#[test]
fn a_slow_disk_takes_its_time_for_every_call() {
    let took_ns = |factor: u32| {
        run(Box::new(Quiet), move |env| async move {
            env.disks().slow(N1, factor, 60_000_000);
            node().spawn(async { write_log(true).await.map(drop) }).await.unwrap().unwrap();
            env.now_ns()
        })
    };
    let (normal, slow) = (took_ns(1), took_ns(100));
    assert!(slow > 30 * normal, "{slow} ns after {normal} ns");
}

#[test]
fn a_slow_call_ends_with_the_phase_that_slows_it() {
    let took_ns = run(Box::new(Quiet), |env| async move {
        env.disks().slow(N1, 1_000_000, 2_000_000);
        env.clocks().slow_down(N1, 1_000);
        let log = node().spawn(async { write_log(true).await.map(drop) });
        madsim::time::sleep(Duration::from_secs(3)).await;
        env.clocks().slow_down(N1, 1);
        log.await.unwrap().unwrap();
        env.now_ns()
    });
    assert!((3_000_000_000..3_200_000_000).contains(&took_ns), "{took_ns} ns");
}

#[test]
fn damage_reaches_the_reader_and_the_ledger() {
    let rot = SiteFault::Damage(Damage::BitRot { sectors: 1 });
    run(Box::new(Strike { name: "disk.read", nth: 2, fault: rot }), |env| async move {
        node()
            .spawn(async {
                drop(write_log(true).await.unwrap());
                for rotten in [false, true, true] {
                    assert_eq!(fs::read("/db/1.log").await.unwrap() != b"written", rotten);
                }
            })
            .await
            .unwrap();
        let ledger = env.disks().ledger(N1);
        assert_eq!((ledger.len(), ledger[0].served, ledger[0].class), (1, 2, "wal"));
        assert_eq!(ledger[0].to_string(), "BitRot in /db/1.log (wal), bytes 0..4096");
        assert!(env.recorded().iter().any(|event| event.kind == "disk.served_damage"));
    });
    let lost = SiteFault::Damage(Damage::LostWrite);
    run(Box::new(Strike { name: "disk.write", nth: 1, fault: lost }), |env| async move {
        let read = node().spawn(async {
            drop(write_log(true).await.unwrap());
            fs::read("/db/1.log").await.unwrap()
        });
        assert_eq!(read.await.unwrap(), [0; 7]);
        assert_eq!(env.disks().damage_served(N1), 1);
        assert!(!env.disks().damage_at_rest(&env, N1, "wal", 1, Damage::Eio), "it is damaged already");
    });
}

#[test]
fn a_crash_in_the_middle_of_a_sync_can_leave_garbage_and_one_after_it_cannot() {
    // What is not forced is the directory, the file, its content and its length, in that order: the content is lost.
    let rest = Box::new(Survivors::Losing(vec![2]));
    let crash = power_fail(Survivors::MidSync { end: SyncEnd::Garbage(0), rest });
    for (fault, name, garbage) in [
        (SiteFault::CrashBefore(crash.clone()), "disk.sync", true),
        (SiteFault::CrashAfter(crash.clone()), "disk.sync", false),
        (SiteFault::CrashAfter(crash), "disk.write", false),
    ] {
        run(Box::new(Strike { name, nth: 1, fault }), move |env| async move {
            node().spawn(async { write_log(true).await.map(drop) });
            madsim::time::sleep(Duration::from_secs(1)).await;
            let left = content(&env, "/db/1.log");
            let is_garbage = left.is_some_and(|left| left != b"written" && left != [0; 7]);
            assert_eq!(is_garbage, garbage);
            assert_eq!(env.disks().last_crash(N1).unwrap().garbage.is_some(), garbage);
        });
    }
}

#[test]
fn a_sync_that_is_given_up_or_fails_is_not_under_way() {
    let eio = SiteFault::Fail(Errno::Eio);
    run(Box::new(Strike { name: "disk.sync", nth: 2, fault: eio }), |env| async move {
        node()
            .spawn(async {
                let file = write_log(false).await.unwrap();
                assert!(file.sync_data().now_or_never().is_none(), "it takes time, and is given up");
                assert!(file.sync_data().await.is_err());
            })
            .await
            .unwrap();
        let rest = Box::new(Survivors::Losing(vec![2]));
        env.crash(N1, power_fail(Survivors::MidSync { end: SyncEnd::Garbage(0), rest }));
        assert_eq!(env.disks().last_crash(N1).unwrap().garbage, None);
    });
}

#[test]
fn a_machine_can_come_back_with_another_disk() {
    run(Box::new(Quiet), |env| async move {
        node().spawn(async { write_log(true).await.map(drop) }).await.unwrap().unwrap();
        let image = env.disks().snapshot(N1);
        env.crash(N1, power_fail(Survivors::None));
        let new = disk::Disk::new(Key::root(2), image.config().clone());
        env.disks().replace(N1, new);
        assert_eq!(content(&env, "/db/1.log"), None);
        env.disks().replace(N1, image);
        assert_eq!(content(&env, "/db/1.log").unwrap(), b"written", "an old image");
    });
}

#[test]
fn two_runs_of_one_plan_agree() {
    let digest = || {
        run(Box::new(Quiet), |env| async move {
            node().spawn(async { write_log(true).await.map(drop) }).await.unwrap().unwrap();
            env.crash(N1, power_fail(Survivors::Each { permille: 500, key: 7 }));
            env.digest()
        })
    };
    assert_eq!(digest(), digest());
}

/// What came of a call.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// It had its effect, and nothing else.
    Done,
    Failed,
    /// It had its effect, and the node died of it.
    Died,
    /// It seemed to have its effect, and the medium is damaged.
    Damaged,
}

/// A call that is struck, and has to wait for its disk. While it waits the world is healed, or it is not.
fn struck(name: &'static str, nth: u64, fault: SiteFault, heals: bool) -> Came {
    run(Box::new(Strike { name, nth, fault }), move |env| async move {
        let life = env.incarnation(N1);
        let (disks, started) = (env.clone(), Arc::new(Mutex::new(false)));
        let starts = started.clone();
        let call = node().spawn(async move {
            let file = write_log(true).await?;
            let mut read = [0; 7];
            if name == "disk.sync" {
                file.write_all_at(b"CHANGED", 0).await?;
            }
            disks.disks().stall(N1, cutwater_io::time::now().as_micros() + 50_000);
            *starts.lock().unwrap() = true;
            match name {
                "disk.sync" => file.sync_data().await,
                "disk.sync_dir" => fs::sync_dir("/db").await,
                "disk.write" => file.write_all_at(b"CHANGED", 0).await,
                "disk.read" => file.read_exact_at(&mut read, 0).await,
                _ => unreachable!("{name}"),
            }?;
            assert!(name != "disk.read" || !heals || read == *b"written", "{read:?}");
            io::Result::Ok(())
        });
        madsim::time::sleep(Duration::from_millis(40)).await;
        assert!(*started.lock().unwrap() && env.incarnation(N1) == life, "the call is under way");
        if heals {
            env.disks().heal();
        }
        let ended = madsim::time::timeout(Duration::from_secs(1), call).await;
        if env.incarnation(N1) != life {
            return Came::Died;
        }
        if ended.expect("the disk answers again").expect("it did not panic").is_err() {
            return Came::Failed;
        }
        if !env.disks().ledger(N1).is_empty() {
            return Came::Damaged;
        }
        env.crash(N1, power_fail(Survivors::None));
        let left = content(&env, "/db/1.log").expect("its name is durable");
        assert_eq!(left == b"CHANGED", name == "disk.sync", "what a sync forced is there: {left:?}");
        Came::Done
    })
}

/// In the second phase of a run everything works: neither does a call fail then, nor a node die, of what struck it before.
#[test]
fn nothing_strikes_after_the_heal() {
    let cases = [
        ("disk.sync", 2, SiteFault::Fsync(FsyncFail::EXT4), Came::Failed),
        ("disk.sync", 2, SiteFault::Fsync(FsyncFail::XFS_SHUTDOWN), Came::Failed),
        ("disk.sync", 2, SiteFault::Fail(Errno::Enospc), Came::Failed),
        ("disk.sync", 2, SiteFault::Damage(Damage::LostWrite), Came::Damaged),
        ("disk.sync", 2, SiteFault::CrashAfter(KILL), Came::Died),
        ("disk.sync", 2, SiteFault::CrashAfter(power_fail(Survivors::None)), Came::Died),
        ("disk.sync_dir", 3, SiteFault::Fsync(FsyncFail::BTRFS_READONLY), Came::Failed),
        ("disk.sync_dir", 3, SiteFault::CrashAfter(KILL), Came::Died),
        ("disk.write", 2, SiteFault::Damage(Damage::LostWrite), Came::Damaged),
        ("disk.write", 2, SiteFault::CrashAfter(KILL), Came::Died),
        ("disk.read", 1, SiteFault::Damage(Damage::Eio), Came::Failed),
        ("disk.read", 1, SiteFault::CrashAfter(KILL), Came::Died),
    ];
    for (name, nth, fault, bites) in cases {
        assert_eq!(struck(name, nth, fault.clone(), false), bites, "{name}: {fault:?}");
        assert_eq!(struck(name, nth, fault.clone(), true), Came::Done, "{name} after the heal: {fault:?}");
    }
}
