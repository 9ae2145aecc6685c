//! The parameters of the built-in queries.

use super::UnknownQuery;
use crate::cluster::rpc::JobSpec;

/// The name of each parameter with its default, its least and its greatest value.
const PARAMETERS: [(&str, u64, u64, u64); 5] = [
    ("partitions", 4, 1, 1 << 10),
    ("events_per_partition", 1000, 0, 1 << 40),
    ("events_per_second", 0, 0, 1 << 30),
    ("seed", 0, 0, 1 << 20),
    ("max_parallelism", 128, 1, 1 << 15),
];

/// See the module. Those that a job leaves out have a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Partitions of the source.
    pub partitions: u32,
    /// Events in each.
    pub events_per_partition: u64,
    /// How many become due in a second in each; 0 is no limit.
    pub events_per_second: u64,
    /// Which events.
    pub seed: u64,
    /// Key groups of the job.
    pub max_parallelism: u16,
}

impl Parameters {
    /// Of a job.
    ///
    /// # Errors
    /// If there is a parameter that is none of these, or a value is out of range.
    pub fn of(query: &'static str, job: &JobSpec) -> Result<Parameters, UnknownQuery> {
        let wrong = |parameter: &str, what: String| UnknownQuery::Parameter {
            query,
            parameter: parameter.into(),
            what,
        };
        if let Some(other) =
            job.parameters.keys().find(|name| !PARAMETERS.iter().any(|(known, ..)| known == name))
        {
            let known = PARAMETERS.map(|(name, ..)| name).join(", ");
            return Err(wrong(other, format!("unknown; there are {known}")));
        }
        let mut values = [0; PARAMETERS.len()];
        for (value, (name, default, least, greatest)) in values.iter_mut().zip(PARAMETERS) {
            *value = job.parameters.get(name).copied().unwrap_or(default);
            if !(least..=greatest).contains(value) {
                return Err(wrong(name, format!("{value} is not within {least}..={greatest}")));
            }
        }
        let [partitions, events_per_partition, events_per_second, seed, max_parallelism] = values;
        let fits = "within the range that was checked";
        Ok(Parameters {
            partitions: u32::try_from(partitions).expect(fits),
            events_per_partition,
            events_per_second,
            seed,
            max_parallelism: u16::try_from(max_parallelism).expect(fits),
        })
    }
}
