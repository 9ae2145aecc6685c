//! Children, up to so many at once, whose results are taken in the order in which they were started.
//!
//! What a child is told depends on the results of those before it (what was seen), so when a result is taken must not depend
//! on how quickly a machine is: a child starts when exactly those results were taken that are at least [`Window::width`]
//! places ahead of it.

use std::collections::VecDeque;
use std::io::{self, Read};

use crate::runner::process::{self, Child, Ended};

/// How long one wait lasts at most, in milliseconds; then the watchdog is wound up again.
const WAIT_MS: i32 = 500;

/// What is called now and then while children run; an error ends the wait.
pub(super) type Waiting<'a> = dyn FnMut() -> io::Result<()> + 'a;

/// A child that has ended.
pub(super) struct Ending<T> {
    /// What it was started for.
    pub(super) what: T,
    /// What it reported.
    pub(super) report: Vec<u8>,
    /// How it ended.
    pub(super) ended: Ended,
}

/// Children in order.
pub(super) struct Window<T> {
    places: VecDeque<Place<T>>,
    width: usize,
    jobs: usize,
}

struct Place<T> {
    what: T,
    child: Child,
    report: Vec<u8>,
    ended: Option<Ended>,
}

impl<T> Window<T> {
    /// Up to `jobs` children run at once, and at most `width` results are still to be taken when one starts.
    pub(super) fn new(width: usize, jobs: usize) -> Window<T> {
        Window { places: VecDeque::new(), width: width.max(1), jobs: jobs.max(1) }
    }

    /// The next result that is to be taken before another child may start; `None` once one may. `waiting` is called now and
    /// then.
    pub(super) fn before_next(&mut self, waiting: &mut Waiting<'_>) -> io::Result<Option<Ending<T>>> {
        if self.places.len() >= self.width {
            return self.take_first(waiting);
        }
        while self.places.iter().filter(|place| place.ended.is_none()).count() >= self.jobs {
            self.wait(waiting)?;
        }
        Ok(None)
    }

    /// The next result when no other child will start.
    pub(super) fn take_first(&mut self, waiting: &mut Waiting<'_>) -> io::Result<Option<Ending<T>>> {
        while self.places.front().is_some_and(|place| place.ended.is_none()) {
            self.wait(waiting)?;
        }
        let Some(place) = self.places.pop_front() else { return Ok(None) };
        let ended = place.ended.expect("it was waited for");
        Ok(Some(Ending { what: place.what, report: place.report, ended }))
    }

    /// Adds a child that was started.
    pub(super) fn push(&mut self, what: T, child: Child) {
        self.places.push_back(Place { what, child, report: Vec::new(), ended: None });
    }

    /// Ends all children.
    pub(super) fn kill(&mut self) {
        for place in self.places.drain(..).filter(|place| place.ended.is_none()) {
            place.child.kill();
            place.child.wait();
        }
    }

    fn wait(&mut self, waiting: &mut Waiting<'_>) -> io::Result<()> {
        waiting()?;
        let mut running: Vec<&mut Place<T>> =
            self.places.iter_mut().filter(|place| place.ended.is_none()).collect();
        let reports: Vec<&io::PipeReader> = running.iter().map(|place| &place.child.report).collect();
        let ready = process::readable(&reports, WAIT_MS)?;
        for (place, ready) in running.iter_mut().zip(ready) {
            if ready && place.read()? {
                place.ended = Some(place.child.wait());
            }
        }
        Ok(())
    }
}

impl<T> Place<T> {
    /// Reads what there is; true at the end.
    fn read(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 16 << 10];
        match self.child.report.read(&mut chunk) {
            Ok(0) => Ok(true),
            Ok(n) => {
                self.report.extend_from_slice(&chunk[..n]);
                Ok(false)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(e) => Err(e),
        }
    }
}
