//! What is known of a call, as the oracles of clients see it: how it ended, and when.

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Done,
    /// It certainly had no effect.
    Failed,
    /// It may have had its effect, or may have it later.
    Unknown,
}

/// When a call was made and answered, in microseconds of virtual time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// When it was made.
    pub invoked_us: u64,
    /// When it had an answer. Of a call whose outcome is unknown it does not bound when the effect takes place.
    pub answered_us: Option<u64>,
}

impl Interval {
    /// True if the call was over before the other was made. Calls that meet within one microsecond are concurrent: which was first
    /// nobody knows.
    pub fn precedes(&self, other: &Interval) -> bool {
        self.answered_us.is_some_and(|answered_us| answered_us < other.invoked_us)
    }
}

impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.answered_us {
            Some(answered_us) => write!(f, "{} to {answered_us} us", self.invoked_us),
            None => write!(f, "from {} us", self.invoked_us),
        }
    }
}
