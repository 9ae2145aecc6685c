//! Named places in the system under test.
//!
//! [`point!`](crate::point) marks a place between two durable states: where faults like to strike, and what coverage is
//! measured on. [`sometimes!`](crate::sometimes) and [`reachable!`](crate::reachable) name what a campaign must have seen;
//! one that never saw it proved nothing about it. [`never!`](crate::never) names what no run may see. [`buggify!`](crate::buggify)
//! is true now and then where the system has a choice, and makes it take the one that nobody tests. All of them cost nothing in a
//! real build.
//!
//! A crate declares its names once, with [`points!`](macro@crate::points), so that they can be listed and cannot be misspelt.

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Between two durable states; faults may strike here.
    Point,
    /// A condition that must hold at least once in a campaign.
    Sometimes,
    /// A condition that must not hold: a run in which it does has failed.
    Never,
    /// A choice that the system is free to make otherwise.
    Buggify,
}

impl Kind {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Point => "point",
            Kind::Sometimes => "sometimes",
            Kind::Never => "never",
            Kind::Buggify => "buggify",
        }
    }
}

/// A named place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Dotted name, from the general to the particular.
    pub name: &'static str,
    /// What it stands for.
    pub kind: Kind,
    /// One line of explanation.
    pub about: &'static str,
}

/// Declares points: constants, and a table `ALL` of them.
///
/// ```
/// cutwater_io::points! {
///     point MANIFEST_APPLY = "manifest.apply": "an edit is durable and not yet visible";
///     sometimes TORN_TAIL = "wal.torn_tail": "recovery met a torn tail";
///     never LOST_TWICE = "manifest.lost_twice": "both copies of the MANIFEST are unreadable";
///     buggify EARLY_FLUSH = "memtable.early_flush": "a memtable is flushed long before it is full";
/// }
/// assert_eq!(ALL.len(), 4);
/// assert_eq!(MANIFEST_APPLY.name, "manifest.apply");
/// ```
#[macro_export]
macro_rules! points {
    ($($kind:ident $id:ident = $name:literal : $about:literal;)*) => {
        $(
            #[doc = $about]
            pub const $id: $crate::points::Point = $crate::points::Point {
                name: $name, kind: $crate::points!(@kind $kind), about: $about,
            };
        )*
        /// All names declared here.
        pub const ALL: &[$crate::points::Point] = &[$($id),*];
    };
    (@kind point) => { $crate::points::Kind::Point };
    (@kind sometimes) => { $crate::points::Kind::Sometimes };
    (@kind never) => { $crate::points::Kind::Never };
    (@kind buggify) => { $crate::points::Kind::Buggify };
}

/// Passes a point: in the simulation a fault may strike here, and the node may never get past it.
#[macro_export]
macro_rules! point {
    ($point:expr) => {
        if $crate::SIMULATED {
            $crate::points::pass($point).await;
        }
    };
}

/// Records that a condition which must hold somewhere in a campaign did hold.
#[macro_export]
macro_rules! sometimes {
    ($point:expr, $condition:expr) => {
        if $crate::SIMULATED && $condition {
            $crate::points::saw($point);
        }
    };
}

/// Records that a place which must be reached somewhere in a campaign was reached.
#[macro_export]
macro_rules! reachable {
    ($point:expr) => {
        $crate::sometimes!($point, true)
    };
}

/// Records that a condition which must never hold did hold. The run goes on, for an oracle may know more of what came of it, and
/// has failed whatever the oracles say.
#[macro_export]
macro_rules! never {
    ($point:expr, $condition:expr) => {
        if $crate::SIMULATED && $condition {
            $crate::points::saw($point);
        }
    };
}

/// True now and then, where the system may choose: flush early, look again later, do things in another order. What it does
/// then must be as right as what it does otherwise.
///
/// Two levels, as in FoundationDB: a plan arms a site (one in four, see `cutwater_sim::Plan`), and an armed site fires at one
/// passing in four. So runs differ in *which* oddities they have, and one that has an oddity has it often. Never true in a
/// real build, nor after the world was healed.
#[macro_export]
macro_rules! buggify {
    ($point:expr) => {
        $crate::SIMULATED && $crate::points::fires($point)
    };
}

#[doc(hidden)]
pub async fn pass(point: Point) {
    #[cfg(madsim)]
    crate::sim::pass_point(point).await;
    #[cfg(not(madsim))]
    let _ = point;
}

#[doc(hidden)]
pub fn saw(point: Point) {
    // A pure state machine says `sometimes!` and `never!` too, and must be testable without any world.
    #[cfg(madsim)]
    if madsim::runtime::Handle::try_current().is_ok() {
        crate::sim::Env::current().saw(point);
    }
    #[cfg(not(madsim))]
    let _ = point;
}

#[doc(hidden)]
pub fn fires(point: Point) -> bool {
    // As for `saw`: a pure machine may ask, and is tested without any world.
    #[cfg(madsim)]
    return madsim::runtime::Handle::try_current().is_ok() && crate::sim::Env::current().fires(point);
    #[cfg(not(madsim))]
    {
        let _ = point;
        false
    }
}

#[cfg(test)]
mod tests {
    mod declared {
        crate::points! {
            point MANIFEST_APPLY = "manifest.apply": "an edit is durable and not yet visible";
            sometimes TORN_TAIL = "wal.torn_tail": "recovery met a torn tail";
            never LOST_TWICE = "manifest.lost_twice": "both copies of the MANIFEST are unreadable";
        }
    }

    #[test]
    fn names_are_declared_once_and_listed() {
        assert_eq!(declared::ALL, [declared::MANIFEST_APPLY, declared::TORN_TAIL, declared::LOST_TWICE]);
        assert_eq!(declared::MANIFEST_APPLY.name, "manifest.apply");
        assert_eq!(declared::TORN_TAIL.kind, super::Kind::Sometimes);
        assert_eq!(declared::LOST_TWICE.kind.name(), "never");
    }
}
