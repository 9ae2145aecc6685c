//! What a compaction takes, and where it goes.

use std::sync::Arc;

use crate::store::key::InternalKey;
use crate::store::version::FileMeta;

/// Tables of one level that are disjoint and in order; of level 0 it is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) level: usize,
    pub(crate) tables: Vec<Arc<FileMeta>>,
}

impl Run {
    /// Tables of a level. Those of level 0 overlap, and are a run each.
    pub(crate) fn of(level: usize, tables: Vec<Arc<FileMeta>>) -> Vec<Run> {
        match level {
            0 => tables.into_iter().map(|table| Run { level, tables: vec![table] }).collect(),
            _ if tables.is_empty() => Vec::new(),
            _ => vec![Run { level, tables }],
        }
    }
}

/// A compaction that should be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compaction {
    /// What is merged, the newest first. There is some.
    pub(crate) inputs: Vec<Run>,
    /// Where the outputs go; to level 0 one table.
    pub(crate) output_level: usize,
    /// Tables with what is older than the inputs.
    pub(crate) deeper: Vec<Arc<FileMeta>>,
}

impl Compaction {
    /// The uppermost level that takes part.
    pub(crate) fn level(&self) -> usize {
        self.inputs.first().map_or(0, |run| run.level)
    }

    /// All inputs, with their levels.
    pub(crate) fn files(&self) -> impl Iterator<Item = (usize, &Arc<FileMeta>)> {
        self.inputs.iter().flat_map(|run| run.tables.iter().map(|table| (run.level, table)))
    }

    /// What the inputs take. Bytes.
    pub(crate) fn input_bytes(&self) -> u64 {
        self.files().map(|(_, file)| file.len_bytes).sum()
    }

    /// True if the only input can go down as it is.
    pub(crate) fn is_trivial_move(&self) -> bool {
        self.files().count() == 1 && self.output_level != self.level()
    }

    /// Where the next compaction of the uppermost level should go on, if this one takes from it what is next in turn.
    pub(crate) fn cursor(&self) -> Option<InternalKey> {
        let level = self.level();
        let upper = self.files().filter(|(of, _)| *of == level && level != self.output_level);
        upper.map(|(_, file)| &file.largest).max().cloned()
    }
}
