//! The registry of shared state: which table files are referenced, and by which checkpoint last.
//!
//! Incremental checkpoints upload a table file once and reference it from then on, so a file may die only when no
//! checkpoint needs it. The registry keys files by their physical path (as Flink since 1.16) and remembers for each the
//! newest checkpoint that used it. Every acknowledgement is registered before anybody looks at the fate of its checkpoint,
//! so files of aborted checkpoints die here too. When checkpoints are subsumed, files last used before the oldest one
//! left are unused. What the registry condemned it remembers until the next attempt: a task whose notification of a
//! completion overtook nothing may still build on an older base, and a checkpoint that references a condemned file must
//! not complete. (That memory costs about a hundred bytes for each file condemned within one attempt.)
//!
//! A new leader rebuilds it from all retained checkpoints before anything can be subsumed.

use std::collections::{BTreeMap, BTreeSet};

use super::snapshot::{CheckpointId, CheckpointMetadata, FileHandle};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    entries: BTreeMap<String, Entry>,
    condemned: BTreeSet<String>,
}

/// A registered file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The file.
    pub handle: FileHandle,
    /// The first checkpoint known to have used it.
    pub created_by: CheckpointId,
    /// The last one.
    pub last_used: CheckpointId,
}

/// Why a reference cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// The file is deleted, or about to be.
    #[error("{path} is no longer used by any checkpoint and was given up")]
    Condemned {
        /// The file.
        path: String,
    },
    /// The path is registered with another length or checksum.
    #[error("{path} is registered with another content")]
    OtherContent {
        /// The file.
        path: String,
    },
}

impl Registry {
    /// The registry that the retained checkpoints imply.
    ///
    /// # Errors
    /// If two of them disagree about a file.
    pub fn rebuilt<'a>(
        retained: impl IntoIterator<Item = &'a CheckpointMetadata>,
    ) -> Result<Registry, RegisterError> {
        let mut registry = Registry::default();
        for metadata in retained {
            for handle in metadata.vertices.iter().flat_map(|v| &v.subtasks).flat_map(|s| s.shared_files()) {
                registry.register(handle, metadata.id)?;
            }
        }
        Ok(registry)
    }

    /// Notes that `checkpoint` references the file.
    ///
    /// # Errors
    /// If the file was given up, or is another one than the path stood for before.
    pub fn register(&mut self, handle: &FileHandle, checkpoint: CheckpointId) -> Result<(), RegisterError> {
        let path = handle.path.clone();
        if self.condemned.contains(&path) {
            return Err(RegisterError::Condemned { path });
        }
        let new = || Entry { handle: handle.clone(), created_by: checkpoint, last_used: checkpoint };
        let entry = self.entries.entry(path.clone()).or_insert_with(new);
        if entry.handle != *handle {
            return Err(RegisterError::OtherContent { path });
        }
        entry.last_used = entry.last_used.max(checkpoint);
        entry.created_by = entry.created_by.min(checkpoint);
        Ok(())
    }

    /// Gives up all files that were last used before `lowest`, the oldest checkpoint that is still held, and returns their
    /// paths.
    pub fn unregister_unused(&mut self, lowest: CheckpointId) -> Vec<String> {
        let unused = self.entries.extract_if(.., |_, entry| entry.last_used < lowest).map(|(path, _)| path);
        let unused: Vec<String> = unused.collect();
        self.condemned.extend(unused.iter().cloned());
        unused
    }

    /// A new attempt starts from retained checkpoints, and so cannot know of anything condemned before.
    pub fn forget_condemned(&mut self) {
        self.condemned.clear();
    }

    /// True if the file is registered.
    pub fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// The registered files by path.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(path: &str) -> FileHandle {
        FileHandle { path: path.into(), len_bytes: 1, crc32c: 1 }
    }

    #[test]
    fn a_file_dies_with_the_last_checkpoint_that_used_it() {
        let mut registry = Registry::default();
        registry.register(&handle("a"), CheckpointId(1)).unwrap();
        registry.register(&handle("b"), CheckpointId(1)).unwrap();
        registry.register(&handle("b"), CheckpointId(2)).unwrap();
        assert_eq!(registry.unregister_unused(CheckpointId(1)), [""; 0]);
        assert_eq!(registry.unregister_unused(CheckpointId(2)), ["a"]);
        assert!(registry.contains("b") && !registry.contains("a"));
        let error = registry.register(&handle("a"), CheckpointId(3)).unwrap_err();
        assert_eq!(error, RegisterError::Condemned { path: "a".into() });
        registry.forget_condemned();
        registry.register(&handle("a"), CheckpointId(3)).unwrap();
    }

    #[test]
    fn a_path_stands_for_one_content() {
        let mut registry = Registry::default();
        registry.register(&handle("a"), CheckpointId(1)).unwrap();
        let other = FileHandle { len_bytes: 2, ..handle("a") };
        assert!(matches!(
            registry.register(&other, CheckpointId(2)),
            Err(RegisterError::OtherContent { .. })
        ));
        assert_eq!(registry.entries()["a"].last_used, CheckpointId(1));
    }
}
