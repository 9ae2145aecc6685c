//! All points of the engine, for lists and coverage.

use cutwater_io::points::Point;

/// Every point and `sometimes!` of the engine, in order of name.
pub fn all() -> Vec<Point> {
    let mut all = [
        crate::checkpoint::points::ALL,
        crate::cluster::points::ALL,
        crate::state::points::ALL,
        crate::store::points::ALL,
        crate::store::points::of_backups::ALL,
        crate::store::points::of_families::ALL,
        crate::store::points::of_filters::ALL,
        crate::stream::points::ALL,
    ]
    .concat();
    all.sort();
    all
}
