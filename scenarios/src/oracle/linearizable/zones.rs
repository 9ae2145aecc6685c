//! Blocks of calls that nothing comes between, and the zones of time that they take.

use cutwater_sim::scenario::Violation;

use super::{Action, Call, Outcome, name, violation};

/// Later than everything.
const NEVER: i128 = i128::MAX;
/// Before everything.
const EVER: i128 = -1;

/// When the call was made.
pub(super) fn begin_us(call: &Call) -> i128 {
    i128::from(call.interval.invoked_us)
}

/// Until when it had its effect.
pub(super) fn end_us(call: &Call) -> i128 {
    let answered = call.interval.answered_us.filter(|_| call.outcome == Outcome::Done);
    answered.map_or(NEVER, i128::from)
}

/// Of each prefix, where the greatest is.
pub(super) fn running_max<T>(of: &[T], key: impl Fn(&T) -> i128) -> Vec<usize> {
    let mut greatest = 0;
    let step = |(at, one): (usize, &T)| {
        if key(one) > key(&of[greatest]) {
            greatest = at;
        }
        greatest
    };
    of.iter().enumerate().map(step).collect()
}

/// Calls in the order in which their values follow each other: all of a phase are before all of the next, and within one they have
/// no order.
#[derive(Debug)]
pub(super) struct Block<'a> {
    /// It begins with the row that nobody has written yet.
    pub is_initial: bool,
    pub phases: Vec<Vec<&'a Call>>,
}

impl<'a> Block<'a> {
    /// No call is over before one begins that belongs before it.
    pub fn check_order(&self) -> Result<(), Violation> {
        let mut latest: Option<&Call> = None;
        for phase in &self.phases {
            for call in phase {
                if let Some(before) = latest.filter(|before| end_us(call) < begin_us(before)) {
                    let found = format!("{}: {}; only then {}", call.key, name(call), name(before));
                    return Err(violation("a value is there from its write to the next").found(found));
                }
            }
            let last = phase.iter().copied().max_by_key(|call| begin_us(call));
            latest = latest.into_iter().chain(last).max_by_key(|call| begin_us(call));
        }
        Ok(())
    }

    /// `None` if it has no calls: then nothing is known of it.
    pub fn zone(&self) -> Option<Zone<'a>> {
        let calls = || self.phases.iter().flatten().copied();
        let first_over = calls().min_by_key(|call| end_us(call))?;
        let last_begun = calls().max_by_key(|call| begin_us(call))?;
        let changes = calls().filter(|call| matches!(call.action, Action::CompareAndSet { .. })).count();
        let first = calls().next().filter(|_| !self.is_initial);
        let value = match first {
            _ if changes
                > usize::from(first.is_some_and(|c| matches!(c.action, Action::CompareAndSet { .. }))) =>
            {
                None
            }
            Some(call) => Some(call.action.written()),
            None => Some(None),
        };
        Some(Zone { first_over: (!self.is_initial).then_some(first_over), last_begun, value })
    }
}

/// What is known of when a block was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zone<'a> {
    /// The call that is over first: the block begins before. `None` if it was there from the beginning.
    first_over: Option<&'a Call>,
    /// The call that begins last: the block ends after.
    last_begun: &'a Call,
    /// The value of the block if it is but one, which may be that there is nothing.
    pub value: Option<Option<u64>>,
}

impl<'a> Zone<'a> {
    /// Of one call alone.
    pub fn of(call: &'a Call) -> Zone<'a> {
        Zone { first_over: Some(call), last_begun: call, value: None }
    }

    fn begun_us(&self) -> i128 {
        self.first_over.map_or(EVER, end_us)
    }

    fn still_us(&self) -> i128 {
        begin_us(self.last_begun)
    }

    /// A part of this block is over before a part of the other begins.
    fn must_precede(&self, other: &Zone<'_>) -> bool {
        self.begun_us() < other.still_us()
    }

    /// The call took place while the block was certainly there.
    pub fn encloses(&self, call: &Call) -> bool {
        self.begun_us() < begin_us(call) && end_us(call) < self.still_us()
    }

    pub fn in_words(&self) -> String {
        let from = self.first_over.map_or("the beginning".to_owned(), name);
        format!("{from}; and {}", name(self.last_begun))
    }
}

/// Of any two blocks one can come before the other.
pub(super) fn check_pairs(mut zones: Vec<Zone<'_>>) -> Result<(), Violation> {
    zones.sort_by_key(Zone::begun_us);
    // Of each prefix, the two that last longest.
    let mut longest: Vec<[Option<usize>; 2]> = Vec::with_capacity(zones.len());
    let mut two = [None, None];
    for (at, zone) in zones.iter().enumerate() {
        let exceeds =
            |other: Option<usize>| other.is_none_or(|other| zone.still_us() > zones[other].still_us());
        if exceeds(two[0]) {
            two = [Some(at), two[0]];
        } else if exceeds(two[1]) {
            two[1] = Some(at);
        }
        longest.push(two);
    }
    for (at, zone) in zones.iter().enumerate() {
        let before = zones.partition_point(|other| other.must_precede(zone));
        let Some(candidates) = before.checked_sub(1).map(|last| longest[last]) else { continue };
        let other = candidates.into_iter().flatten().find(|other| *other != at).map(|other| &zones[other]);
        if let Some(other) = other.filter(|other| zone.must_precede(other)) {
            return Err(contradiction(zone, other));
        }
    }
    Ok(())
}

fn contradiction(one: &Zone<'_>, other: &Zone<'_>) -> Violation {
    let mut calls: Vec<&Call> = Vec::new();
    for call in
        [one.first_over, Some(other.last_begun), other.first_over, Some(one.last_begun)].into_iter().flatten()
    {
        if !calls.iter().any(|known| std::ptr::eq(*known, call)) {
            calls.push(call);
        }
    }
    calls.sort_by_key(|call| (begin_us(call), end_us(call)));
    let words: Vec<String> = calls.into_iter().map(name).collect();
    violation("a value that was replaced does not come back")
        .expected("an order of the calls that explains what they saw")
        .found(format!("{}: {}", one.last_begun.key, words.join("; ")))
}
