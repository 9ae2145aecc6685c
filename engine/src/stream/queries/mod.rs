//! Queries: the jobs that can be run by name. Coordinator and workers are built with the same set.
//!
//! Each says, besides its graph, what must have been committed when it has run to its end: computed from the events alone,
//! by a plain function that shares nothing with the operators. So no answer depends on how partitions interleave.

use std::collections::BTreeMap;

use crate::cluster::rpc::JobSpec;

use super::graph::JobGraph;
use super::record::Record;

pub mod bid_counts;
pub mod bid_histogram;
pub mod count;
pub mod nexmark_bids;
pub mod nexmark_events;
pub mod parameters;
pub mod q0;
pub mod q1;
pub mod q2;
pub mod q3;
pub mod q4;
pub mod q5;
pub mod q6;
pub mod q7;
pub mod q8;
pub mod winning_bids;

/// Records with how often each occurs.
pub type Rows = BTreeMap<Record, u64>;

/// A job by name.
struct Query {
    name: &'static str,
    build: fn(&JobSpec) -> Result<JobGraph, UnknownQuery>,
    expected: fn(&JobSpec) -> Result<Rows, UnknownQuery>,
}

const QUERIES: [Query; 11] = [
    Query { name: bid_counts::NAME, build: bid_counts::build, expected: bid_counts::expected },
    Query { name: bid_histogram::NAME, build: bid_histogram::build, expected: bid_histogram::expected },
    Query { name: q0::NAME, build: q0::build, expected: q0::expected },
    Query { name: q1::NAME, build: q1::build, expected: q1::expected },
    Query { name: q2::NAME, build: q2::build, expected: q2::expected },
    Query { name: q3::NAME, build: q3::build, expected: q3::expected },
    Query { name: q4::NAME, build: q4::build, expected: q4::expected },
    Query { name: q5::NAME, build: q5::build, expected: q5::expected },
    Query { name: q6::NAME, build: q6::build, expected: q6::expected },
    Query { name: q7::NAME, build: q7::build, expected: q7::expected },
    Query { name: q8::NAME, build: q8::build, expected: q8::expected },
];

/// The names that [`build`] knows.
pub const NAMES: [&str; QUERIES.len()] = {
    let (mut names, mut i) = ([""; QUERIES.len()], 0);
    while i < names.len() {
        names[i] = QUERIES[i].name;
        i += 1;
    }
    names
};

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

fn query(job: &JobSpec) -> Result<&'static Query, UnknownQuery> {
    const KNOWN: &[Query] = &QUERIES;
    KNOWN
        .iter()
        .find(|query| query.name == job.query)
        .ok_or_else(|| UnknownQuery::Name { name: job.query.clone() })
}

/// The graph of a job.
///
/// # Errors
/// If there is no such query or a parameter does not fit.
pub fn build(job: &JobSpec) -> Result<JobGraph, UnknownQuery> {
    (query(job)?.build)(job)
}

/// The committed records of a job that has run to its end, each with how often it occurs.
///
/// # Errors
/// As [`build`].
pub fn expected(job: &JobSpec) -> Result<Rows, UnknownQuery> {
    (query(job)?.expected)(job)
}

/// A record as people may read it: two numbers, or text.
pub fn describe(record: &Record) -> String {
    match count::numbers(record) {
        Some((key, value)) => format!("({key}, {value})"),
        None => String::from_utf8_lossy(&record.value).into_owned(),
    }
}
