//! The system calls of the runner: processes, pipes, signals. All unsafe code of the crate is here.
#![expect(unsafe_code, reason = "fork, poll, wait4, personality and signals have no safe form in std")]

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// The two sides of a fork.
pub(crate) enum Forked {
    /// In the child: where its report goes.
    Child(PipeWriter),
    /// In the parent.
    Parent(Child),
}

/// A child of the parent.
pub(crate) struct Child {
    pid: libc::pid_t,
    /// Its report.
    pub(crate) report: PipeReader,
    /// What it wrote to stdout and stderr, kept in memory; a branch has that of its parent.
    said: Option<OwnedFd>,
    /// Its trace so far, if it is recorded, kept in memory.
    trace: Option<OwnedFd>,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The signal that ended it, or 0.
    pub(crate) signal: i32,
    /// CPU time it took, in microseconds.
    pub(crate) cpu_us: u64,
}

/// How much of the trace of a child that gave no report is read, in bytes.
const TRACE_BYTES: usize = 16 << 20;

/// The last bytes of a file, at most `max_bytes`.
fn tail(file: &OwnedFd, max_bytes: usize) -> Vec<u8> {
    let fd = file.as_raw_fd();
    // SAFETY: a plain system call on our own descriptor.
    let end = unsafe { libc::lseek(fd, 0, libc::SEEK_END) }.max(0);
    let from = end.saturating_sub(max_bytes as libc::off_t).max(0);
    let mut bytes = vec![0u8; usize::try_from(end - from).unwrap_or(0)];
    // SAFETY: the pointer and the length are those of a live, writable buffer.
    let n = unsafe { libc::pread(fd, bytes.as_mut_ptr().cast(), bytes.len(), from) };
    bytes.truncate(usize::try_from(n).unwrap_or(0));
    bytes
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A file in memory.
fn in_memory() -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string; a new descriptor belongs to nobody else.
    unsafe {
        let fd = check(libc::memfd_create(c"cutwater".as_ptr(), libc::MFD_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// In a child that is recorded: where its trace goes; -1 elsewhere.
static TRACE: AtomicI32 = AtomicI32::new(-1);

/// Forks. The process must have one thread. The trace of a child that is `recorded` outlives it, see [`keep_trace`].
pub(crate) fn fork(recorded: bool) -> io::Result<Forked> {
    let said = in_memory()?;
    let trace = recorded.then(in_memory).transpose()?;
    match branch()? {
        Forked::Parent(child) => Ok(Forked::Parent(Child { said: Some(said), trace, ..child })),
        Forked::Child(send) => {
            // SAFETY: plain system calls on descriptors of this process. A child leaves Ctrl-C to its parent, and keeps what
            // it says from the terminal.
            unsafe {
                libc::signal(libc::SIGINT, libc::SIG_IGN);
                libc::dup2(said.as_raw_fd(), 1);
                libc::dup2(said.as_raw_fd(), 2);
            }
            if let Some(trace) = trace {
                // It stays open for the rest of this process.
                TRACE.store(trace.into_raw_fd(), Ordering::Relaxed);
            }
            Ok(Forked::Child(send))
        }
    }
}

/// Adds to the trace of this child, which is readable however the child ends.
pub(crate) fn keep_trace(bytes: &[u8]) {
    let fd = TRACE.load(Ordering::Relaxed);
    if fd >= 0 {
        // SAFETY: the pointer and the length are those of a live buffer. Memory that runs out costs a part of a story.
        unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    }
}

/// Forks in the middle of a simulation: the child is a copy of the run, and goes on on its own. To be called by the thread
/// that runs the simulation; any other may only wait for it.
pub(crate) fn branch() -> io::Result<Forked> {
    let (report, send) = io::pipe()?;
    // SAFETY: a plain system call.
    let parent = unsafe { libc::getpid() };
    // SAFETY: this thread is the only one of its process that runs, so that the child starts with every lock free but those
    // of this thread, which goes on in the child.
    let pid = check(unsafe { libc::fork() })?;
    if pid > 0 {
        return Ok(Forked::Parent(Child { pid, report, said: None, trace: None }));
    }
    // SAFETY: plain system calls. A child outlives its parent by nothing, not even if that died before it could ask for it.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != parent {
            exit_now(1);
        }
    }
    Ok(Forked::Child(send))
}

/// Makes branches cheaper. A fork copies the page tables of memory that the process has written to, and leaves those of its
/// code out: every child would fault each page of code in again, which takes about a fifth of the life of a short one. So
/// one byte of each mapped file is written, as it is; from then on the kernel copies its page tables like those of data.
///
/// # Errors
/// The kernel does not let a process write to its own code through `/proc`; then branches are slower, nothing else.
#[expect(clippy::disallowed_types, reason = "the memory of this process is no part of a simulation")]
pub(crate) fn keep_code_mapped() -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let memory = std::fs::File::options().read(true).write(true).open("/proc/self/mem")?;
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        // `from-to rwxp offset device inode path`: private and not writable, of a file.
        let mut fields = line.split_whitespace();
        let (Some(range), Some(mode), Some(path)) = (fields.next(), fields.next(), fields.nth(3)) else {
            continue;
        };
        let from = range.split('-').next().and_then(|from| u64::from_str_radix(from, 16).ok());
        let Some(from) = from.filter(|_| mode.starts_with("r-") && path.starts_with('/')) else { continue };
        let mut byte = [0];
        memory.read_exact_at(&mut byte, from)?;
        memory.write_all_at(&byte, from)?;
    }
    Ok(())
}

/// This process ends by [`ALARM`] unless this is called again within so many seconds of real time.
pub(crate) fn alarm(seconds: u32) {
    // SAFETY: a plain system call; the signal ends the process.
    unsafe { libc::alarm(seconds) };
}

/// The signal of [`alarm`].
pub(crate) const ALARM: i32 = libc::SIGALRM;

/// Real time in milliseconds, from the kernel itself: inside of a simulation the C library tells virtual time.
pub(crate) fn real_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live value of the right type.
    unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

impl Child {
    /// Kills it.
    pub(crate) fn kill(&self) {
        // SAFETY: the child was not waited for yet, so its number is its own.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// Waits for its end.
    pub(crate) fn wait(&self) -> Ended {
        let mut status = 0;
        // SAFETY: `rusage` is plain numbers, for which zero is a value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        loop {
            // SAFETY: both pointers are to live values of the right types.
            if unsafe { libc::wait4(self.pid, &raw mut status, 0, &raw mut usage) } == self.pid {
                break;
            }
            if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                break;
            }
        }
        let signal = if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 };
        let us = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
        Ended { signal, cpu_us: us(usage.ru_utime) + us(usage.ru_stime) }
    }

    /// The last of what it said, at most `max_bytes`.
    pub(crate) fn said(&self, max_bytes: usize) -> String {
        let Some(said) = &self.said else { return String::new() };
        String::from_utf8_lossy(&tail(said, max_bytes)).trim().to_string()
    }

    /// The last of its trace, if it was recorded: what it gave to [`keep_trace`], at most `TRACE_BYTES`.
    pub(crate) fn trace(&self) -> Option<Vec<u8>> {
        self.trace.as_ref().map(|trace| tail(trace, TRACE_BYTES))
    }
}

/// Which of `fds` can be read (or are at their end); none if `timeout_ms` passes or a signal comes.
pub(crate) fn readable(fds: &[&PipeReader], timeout_ms: i32) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    // SAFETY: the pointer and the count are those of a live vector.
    let n = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout_ms) };
    if n < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(polled.iter().map(|p| n > 0 && p.revents != 0).collect())
}

/// Ends this process at once: no destructors, no handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: it does not return.
    unsafe { libc::_exit(code) }
}

/// CPU time of this process so far, in microseconds.
pub(crate) fn cpu_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live value of the right type.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

/// Asks that processes started from here on have the same addresses every time; false if the system refuses.
pub(crate) fn fix_addresses() -> bool {
    // SAFETY: plain system calls; 0xffffffff only asks.
    unsafe {
        let now = libc::personality(0xffff_ffff);
        now >= 0 && libc::personality((now | libc::ADDR_NO_RANDOMIZE) as libc::c_ulong) >= 0
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C is noted, see [`interrupted`]; a second one ends the process.
pub(crate) fn catch_interrupt() {
    extern "C" fn note(_: libc::c_int) {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            exit_now(130);
        }
    }
    // SAFETY: the handler only touches an atomic, or exits.
    unsafe { libc::signal(libc::SIGINT, note as extern "C" fn(libc::c_int) as libc::sighandler_t) };
}

/// True once Ctrl-C was pressed.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// A reader at the end of a broken pipe (`cutwater list | head`) ends this process quietly.
pub(crate) fn end_quietly_on_broken_pipe() {
    // SAFETY: restores the default of the system.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
