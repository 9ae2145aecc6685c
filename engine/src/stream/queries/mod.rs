//! Queries: the jobs that can be run by name. Coordinator and workers are built with the same set.

use crate::cluster::rpc::JobSpec;

use super::graph::JobGraph;

pub mod bid_counts;
pub mod bid_histogram;
pub mod count;
pub mod nexmark_bids;

/// The names that [`build`] knows.
pub const NAMES: &[&str] = &[bid_counts::NAME, bid_histogram::NAME];

/// A job cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownQuery {
    /// There is no query of that name.
    #[error("query {name:?}: this build knows {}", NAMES.join(", "))]
    Name {
        /// The name.
        name: String,
    },
    /// A parameter is out of range or not one of the query's.
    #[error("query {query}: parameter {parameter}: {what}")]
    Parameter {
        /// The query.
        query: &'static str,
        /// The parameter.
        parameter: String,
        /// What is wrong.
        what: String,
    },
}

/// The graph of a job.
///
/// # Errors
/// If there is no such query or a parameter does not fit.
pub fn build(job: &JobSpec) -> Result<JobGraph, UnknownQuery> {
    match job.query.as_str() {
        bid_counts::NAME => bid_counts::build(job),
        bid_histogram::NAME => bid_histogram::build(job),
        name => Err(UnknownQuery::Name { name: name.into() }),
    }
}

/// The committed records of a job that has run to its end, as numbers ([`count::numbers`]), with how often each occurs.
///
/// # Errors
/// As [`build`].
pub fn expected(job: &JobSpec) -> Result<std::collections::BTreeMap<(u64, u64), u64>, UnknownQuery> {
    match job.query.as_str() {
        bid_counts::NAME => bid_counts::expected(job),
        bid_histogram::NAME => bid_histogram::expected(job),
        name => Err(UnknownQuery::Name { name: name.into() }),
    }
}
