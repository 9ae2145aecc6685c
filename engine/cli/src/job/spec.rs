//! A job as it is typed.

use std::collections::BTreeMap;

use clap::Args;
use cutwater_engine::cluster::rpc::JobSpec;
use cutwater_engine::stream::graph::JobGraph;
use cutwater_engine::stream::queries;

use crate::output::{Failure, Usage};

/// What the job computes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Query {
    /// What the job computes: bid_counts, bid_histogram, or one of Nexmark's q0 to q8.
    #[arg(long, default_value = queries::bid_counts::NAME)]
    query: String,
    /// A parameter of the query, as often as there are parameters. Each has partitions, events_per_partition and
    /// events_per_second (of each partition; 0 is no limit).
    #[arg(long = "param", value_name = "NAME=NUMBER", value_parser = parameter)]
    parameters: Vec<(String, u64)>,
}

fn parameter(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=NUMBER is wanted")?;
    let value = value.parse().map_err(|_| format!("{value:?} is no whole number"))?;
    Ok((name.into(), value))
}

impl Query {
    /// The job, and its graph. What does not fit is bad usage.
    pub(crate) fn job(&self, name: &str) -> Result<(JobSpec, JobGraph), Failure> {
        let mut parameters = BTreeMap::new();
        for (name, value) in &self.parameters {
            if parameters.insert(name.clone(), *value).is_some() {
                return Err(Usage(format!("--param {name} is given twice")).into());
            }
        }
        let job = JobSpec { name: name.into(), query: self.query.clone(), parameters };
        let graph = queries::build(&job).map_err(|error| Usage(error.to_string()))?;
        Ok((job, graph))
    }
}
