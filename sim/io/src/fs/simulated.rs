//! The edge between the calls of a process and its simulated disk.
//!
//! Each call asks the injector, takes virtual time, and has its effect at one moment, after the last wait. A call of a
//! process that has died (a destructor that flushes, a task that is still being torn down) has no effect, is counted, and
//! never returns. What a sync is about is decided when it is called, what it forces only when it succeeds.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::{DirEntry, Metadata, OpenOptions};
use crate::sim::disk::{Disk, Fd, OpenMode, Pace, Sync, slowed_us};
use crate::sim::{Crash, Damage, Env, Errno, FsyncFail, NodeId, SiteAction, SiteFault, Told};

/// Of so many calls on names one may be throttled.
const NAMES_BATCH: u64 = 64;
/// How often a call looks whether its disk still stalls, or is still slow, in microseconds.
const SLICE_US: u64 = 20_000;

pub(super) struct File {
    env: Weak<Env>,
    node: NodeId,
    incarnation: u64,
    fd: Fd,
    path: Arc<str>,
    class: &'static str,
    pace: Pace,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({} on {})", self.path, self.node)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if let Some(env) = self.env.upgrade()
            && env.incarnation(self.node) == self.incarnation
        {
            env.disks().with_mut(self.node, |disk| disk.close(self.fd));
        }
    }
}

/// What strikes a call besides what ends it at once.
#[derive(Default)]
struct Struck {
    short: bool,
    /// The sync finds no space for what was written.
    no_space: bool,
    fsync: Option<FsyncFail>,
    damage: Option<Damage>,
    crash_after: Option<Crash>,
}

/// A call under way.
struct Call {
    env: Arc<Env>,
    node: NodeId,
    incarnation: u64,
    name: &'static str,
    since_ns: u64,
}

impl Call {
    /// A call on names, by whatever process runs now.
    async fn on_names(name: &'static str) -> Call {
        let env = Env::current();
        let node = Env::node();
        if env.disks().may_be_down(node) {
            if madsim::runtime::Handle::current().is_exit(madsim::plugin::node()) {
                stale(&env).await;
            }
            env.disks().seen_running(node);
        }
        Call { incarnation: env.incarnation(node), since_ns: env.now_ns(), env, node, name }
    }

    async fn on_file(file: &File, name: &'static str) -> Call {
        let Some(env) = file.env.upgrade() else { std::future::pending().await };
        let since_ns = env.now_ns();
        let call = Call { env, node: file.node, incarnation: file.incarnation, name, since_ns };
        call.check_alive().await;
        call
    }

    async fn check_alive(&self) {
        if self.env.incarnation(self.node) != self.incarnation {
            stale(&self.env).await;
        }
    }

    /// Asks the injector. An error ends the call; a crash or a delay has happened when this returns.
    async fn ask(&self, class: &'static str, target: &str) -> io::Result<Struck> {
        let mut struck = Struck::default();
        let SiteAction::Strike(fault) = self.env.at_site(self.name, class, target) else { return Ok(struck) };
        match fault {
            SiteFault::Fail(Errno::Enospc) if self.name == "disk.sync" => struck.no_space = true,
            SiteFault::Fail(errno) => return Err(io::Error::from_raw_os_error(errno.raw())),
            SiteFault::Short => struck.short = true,
            SiteFault::Fsync(failure) => struck.fsync = Some(failure),
            SiteFault::Damage(damage) => struck.damage = Some(damage),
            SiteFault::Delay(us) => self.sleep_us(us.into()).await,
            SiteFault::CrashBefore(crash) => self.env.crash_here(crash).await,
            SiteFault::CrashAfter(crash) => struck.crash_after = Some(crash),
            // Faults of the other devices mean nothing to a disk.
            SiteFault::Reset
            | SiteFault::Hang
            | SiteFault::FailBefore
            | SiteFault::FailAfter
            | SiteFault::LateLand(_)
            | SiteFault::StallBody
            | SiteFault::Throttle => {}
        }
        Ok(struck)
    }

    async fn sleep_us(&self, us: u64) {
        if us == 0 {
            madsim::task::yield_now().await;
        } else {
            madsim::time::sleep(Duration::from_micros(us)).await;
        }
    }

    fn slowness(&self) -> u64 {
        self.env.disks().slowness(self.node, self.env.now_ns() / 1000)
    }

    /// Lets `us` pass, more while the disk or the node is slow, and as long as the disk stalls. Nothing happens in between from here to the effect of the call.
    async fn wait_us(&self, us: u64) {
        let slowness = self.slowness();
        if slowness > 1 {
            self.env.disks().note_met(self.node, |met| met.slowed += 1);
        }
        let slowed_us = slowed_us(us, slowness);
        let late_us = slowed_us - us + self.env.clocks().drag_us(self.node, slowed_us);
        self.sleep_us(us + late_us.min(SLICE_US)).await;
        let mut late_us = late_us.saturating_sub(SLICE_US);
        while late_us > 0 && (self.slowness() > 1 || self.env.clocks().is_slow(self.node)) {
            let slice_us = late_us.min(SLICE_US);
            self.sleep_us(slice_us).await;
            late_us -= slice_us;
        }
        let mut is_stalled = false;
        loop {
            let stalled_until_us = self.env.disks().stalled_until_us(self.node);
            let now_us = self.env.now_ns() / 1000;
            if now_us >= stalled_until_us {
                break;
            }
            if !std::mem::replace(&mut is_stalled, true) {
                self.env.disks().note_met(self.node, |met| met.stalled += 1);
            }
            self.sleep_us((stalled_until_us - now_us).min(SLICE_US)).await;
        }
        self.check_alive().await;
    }

    /// The pace of calls on names, which belong to no file.
    async fn wait_for_names(&self) {
        let nth = self.env.disks().next_names_call(self.node);
        let us = if nth.is_multiple_of(NAMES_BATCH) {
            self.env.disks().pace(self.node, "/", nth).next_call_us()
        } else {
            0
        };
        self.wait_us(us).await;
    }

    fn effect<T>(&self, change: impl FnOnce(&mut Disk) -> T) -> T {
        let now_us = self.env.now_ns() / 1000;
        let (result, bites) = self.env.disks().with_mut(self.node, |disk| {
            disk.tick(now_us);
            (change(disk), disk.take_bites())
        });
        bites.into_iter().for_each(|bite| self.env.bites(self.node, bite));
        result
    }

    /// Records the call; `payload` goes into the digest, with the outcome.
    fn record<T>(&self, target: &str, payload: [u64; 3], result: &io::Result<T>) {
        let outcome = match result {
            Ok(_) => 0,
            Err(e) => e.raw_os_error().unwrap_or(-1),
        };
        if outcome == Errno::Enospc.raw() {
            self.env.disks().note_met(self.node, |met| met.full += 1);
        }
        let mut bytes = [0; 28];
        for (slot, value) in bytes.chunks_exact_mut(8).zip(payload) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        bytes[24..].copy_from_slice(&outcome.to_le_bytes());
        let at_risk = self.env.is_recording().then(|| self.env.disks().with(self.node, Disk::at_risk) as u64);
        let took_us = (self.env.now_ns() - self.since_ns) / 1000;
        self.env.emit(self.node, self.name, &bytes, || {
            let detail = match result {
                Ok(_) => format!("{target} {payload:?}"),
                Err(e) => format!("{target} {payload:?}: {e}"),
            };
            Told::from(detail)
                .with("path", target)
                .with("took_us", took_us)
                .with_some("at_risk", at_risk)
                .with_some("error", result.as_ref().err().map(ToString::to_string))
        });
    }

    /// The damage that struck the call, unless the world was healed meanwhile.
    fn damage(&self, struck: &Struck) -> Option<Damage> {
        struck.damage.filter(|_| !self.env.disks().is_healed())
    }

    /// The end of the call, unless the node dies here. Nothing dies of a fault once the world is healed.
    async fn end(&self, struck: &Struck) {
        if let Some(crash) = struck.crash_after.clone().filter(|_| !self.env.disks().is_healed()) {
            self.env.crash_here(crash).await;
        }
    }

    /// A call that changes names: the site, the wait, the effect.
    async fn change_names<T>(
        self,
        path: &Path,
        target: &str,
        change: impl FnOnce(&mut Disk) -> io::Result<T>,
    ) -> io::Result<T> {
        let struck = self.ask(self.env.classify(path), target).await?;
        self.wait_for_names().await;
        let result = self.effect(change);
        self.record(target, [xxh3_64(target.as_bytes()), 0, 0], &result);
        self.end(&struck).await;
        result
    }

    /// The rest of a sync that has begun.
    async fn complete_sync(
        &self,
        sync: &Sync,
        struck: &Struck,
        target: &str,
        latency_us: u64,
    ) -> io::Result<()> {
        self.wait_us(latency_us).await;
        let class_of = self.env.classifier();
        let is_healed = self.env.disks().is_healed();
        let result = self.effect(|disk| {
            if is_healed {
                return disk.finish_sync(sync);
            }
            if let Some(damage) = struck.damage {
                disk.damage_sync(sync, damage, class_of(Path::new(target)), class_of);
            }
            match struck.fsync {
                Some(failure) => disk.fail_sync(sync, failure),
                None if struck.no_space => disk.fail_sync_for_space(sync),
                None => disk.finish_sync(sync),
            }
        });
        self.record(target, [xxh3_64(target.as_bytes()), latency_us, 0], &result);
        self.end(struck).await;
        result
    }
}

/// A sync of a file, until it has ended or its caller has given it up.
struct UnderWay<'a> {
    call: &'a Call,
    sync: &'a Sync,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let Call { env, node, incarnation, .. } = self.call;
        if env.incarnation(*node) == *incarnation {
            env.disks().with_mut(*node, |disk| disk.abandon_sync(self.sync));
        }
    }
}

/// The end of a call of a process that is dead: it happens to nobody.
async fn stale(env: &Env) -> ! {
    env.stale_call();
    std::future::pending().await
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl File {
    pub(super) async fn open(path: &Path, options: OpenOptions) -> io::Result<File> {
        let call = Call::on_names("disk.open").await;
        let (target, env) = (text(path), call.env.clone());
        let (node, incarnation) = (call.node, call.incarnation);
        let OpenOptions { read, write, create, create_new, truncate } = options;
        let mode = OpenMode { read, write, create, create_new, truncate };
        let opened = call.change_names(path, &target, |disk| disk.open(path, mode)).await;
        opened.map(|fd| File {
            env: Arc::downgrade(&env),
            node,
            incarnation,
            fd,
            class: env.classify(path),
            pace: env.disks().pace(node, &target, incarnation),
            path: target.into(),
        })
    }

    pub(super) async fn read_at(&self, buf: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        let call = Call::on_file(self, "disk.read").await;
        let struck = call.ask(self.class, &self.path).await?;
        call.wait_us(self.pace.next_call_us()).await;
        let len = if struck.short { buf.len().div_ceil(2) } else { buf.len() };
        let damage = call.damage(&struck);
        let (result, served) = call.effect(|disk| {
            if let Some(damage) = damage {
                disk.damage_read(self.fd, offset_bytes, len, damage, self.class);
            }
            let before = disk.damage_served();
            let result = disk.read_at(self.fd, &mut buf[..len], offset_bytes);
            (result, disk.damage_served() - before)
        });
        if served > 0 {
            call.env.emit(self.node, "disk.served_damage", &served.to_le_bytes(), || {
                format!("{} at {offset_bytes}", self.path)
            });
        }
        let seen = result.as_ref().map_or(0, |n| xxh3_64(&buf[..*n]));
        call.record(&self.path, [self.fd.0, offset_bytes, seen], &result);
        call.end(&struck).await;
        result
    }

    pub(super) async fn write_at(&self, buf: &[u8], offset_bytes: u64) -> io::Result<usize> {
        let call = Call::on_file(self, "disk.write").await;
        let struck = call.ask(self.class, &self.path).await?;
        call.wait_us(self.pace.next_call_us()).await;
        let buf = if struck.short { &buf[..buf.len().div_ceil(2)] } else { buf };
        let (class_of, damage) = (call.env.classifier(), call.damage(&struck));
        let result = call.effect(|disk| {
            let since = disk.log().next_id();
            let result = disk.write_at(self.fd, buf, offset_bytes);
            if let Some(damage) = damage {
                disk.damage_write(self.fd, since, damage, self.class, class_of);
            }
            result
        });
        let written = result.as_ref().map_or(0, |n| xxh3_64(&buf[..*n]));
        call.record(&self.path, [self.fd.0, offset_bytes, written], &result);
        call.end(&struck).await;
        result
    }

    pub(super) async fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        let call = Call::on_file(self, "disk.set_len").await;
        let struck = call.ask(self.class, &self.path).await?;
        call.wait_us(self.pace.next_call_us()).await;
        let result = call.effect(|disk| disk.set_len(self.fd, len_bytes));
        call.record(&self.path, [self.fd.0, len_bytes, 0], &result);
        call.end(&struck).await;
        result
    }

    pub(super) async fn len(&self) -> io::Result<u64> {
        let call = Call::on_file(self, "disk.len").await;
        call.wait_us(self.pace.next_call_us()).await;
        call.effect(|disk| disk.len(self.fd))
    }

    pub(super) async fn sync_data(&self) -> io::Result<()> {
        self.sync(true).await
    }

    pub(super) async fn sync_all(&self) -> io::Result<()> {
        self.sync(false).await
    }

    async fn sync(&self, data_only: bool) -> io::Result<()> {
        let call = Call::on_file(self, "disk.sync").await;
        let sync = call.effect(|disk| disk.begin_sync(self.fd, data_only))?;
        let _under_way = UnderWay { call: &call, sync: &sync };
        let struck = call.ask(self.class, &self.path).await?;
        let median_us = call.env.disks().with(self.node, |disk| disk.config().sync_latency_us_median);
        call.complete_sync(&sync, &struck, &self.path, self.pace.next_sync_us(median_us)).await
    }

    pub(super) async fn try_lock(&self) -> io::Result<bool> {
        let call = Call::on_file(self, "disk.lock").await;
        call.wait_us(self.pace.next_call_us()).await;
        let result = call.effect(|disk| disk.try_lock(self.fd));
        let taken = u64::from(matches!(result, Ok(true)));
        call.record(&self.path, [self.fd.0, taken, 0], &result);
        result
    }
}

pub(super) async fn sync_dir(path: &Path) -> io::Result<()> {
    let call = Call::on_names("disk.sync_dir").await;
    let target = text(path);
    let sync = call.effect(|disk| disk.begin_sync_dir(path))?;
    let struck = call.ask(call.env.classify(path), &target).await?;
    let disks = call.env.disks();
    let pace = disks.pace(call.node, &target, disks.next_names_call(call.node));
    let median_us = disks.with(call.node, |disk| disk.config().sync_latency_us_median);
    call.complete_sync(&sync, &struck, &target, pace.next_sync_us(median_us)).await
}

pub(super) async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let call = Call::on_names("disk.rename").await;
    let target = format!("{} -> {}", from.display(), to.display());
    call.change_names(to, &target, |disk| disk.rename(from, to)).await
}

pub(super) async fn hard_link(original: &Path, link: &Path) -> io::Result<()> {
    let call = Call::on_names("disk.link").await;
    let target = format!("{} -> {}", original.display(), link.display());
    call.change_names(link, &target, |disk| disk.hard_link(original, link)).await
}

pub(super) async fn remove_file(path: &Path) -> io::Result<()> {
    let call = Call::on_names("disk.unlink").await;
    call.change_names(path, &text(path), |disk| disk.remove_file(path)).await
}

pub(super) async fn create_dir(path: &Path) -> io::Result<()> {
    let call = Call::on_names("disk.mkdir").await;
    call.change_names(path, &text(path), |disk| disk.create_dir(path)).await
}

pub(super) async fn remove_dir(path: &Path) -> io::Result<()> {
    let call = Call::on_names("disk.unlink").await;
    call.change_names(path, &text(path), |disk| disk.remove_dir(path)).await
}

pub(super) async fn read_dir(path: &Path) -> io::Result<Vec<DirEntry>> {
    let call = Call::on_names("disk.read_dir").await;
    call.wait_for_names().await;
    call.effect(|disk| disk.read_dir(path))
}

pub(super) async fn metadata(path: &Path) -> io::Result<Metadata> {
    let call = Call::on_names("disk.stat").await;
    call.wait_for_names().await;
    call.effect(|disk| disk.metadata(path))
}
