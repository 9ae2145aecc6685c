//! The handles of a checkpoint in one list, and who names them.

use super::channel::ChannelHandle;
use super::keyed::{KeyedHandle, LocalFile};
use super::metadata::Metadata;
use super::operator::{Operator, OperatorHandle};
use super::stream::StreamHandle;

/// The role of files of changes. Flink counts neither what precedes the first change in one nor what other tasks have put there, so
/// such a file is as long as recorded, or longer.
pub const CHANGES: &str = "keyed state, changes";

/// Who names a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The operator.
    pub operator: &'a Operator,
    /// The subtask; `None` for the operator's coordinator.
    pub subtask: Option<u32>,
    /// What is in it.
    pub role: &'static str,
    /// Name of the file in a local store.
    pub local_name: Option<&'a str>,
}

impl Metadata {
    /// All handles that hold something, in the order of the metadata; what wraps another handle is not named itself.
    pub fn handles(&self) -> Vec<(Place<'_>, &StreamHandle)> {
        let mut all = Vec::new();
        for operator in &self.operators {
            let mut place =
                Place { operator, subtask: None, role: "the coordinator's state", local_name: None };
            stream(&mut all, place, operator.coordinator.as_ref());
            for subtask in operator.subtasks.iter().flatten() {
                let Some(state) = &subtask.state else { continue };
                place.subtask = Some(subtask.index);
                operator_state(
                    &mut all,
                    Place { role: "operator state", ..place },
                    state.managed_operator.as_ref(),
                );
                operator_state(
                    &mut all,
                    Place { role: "raw operator state", ..place },
                    state.raw_operator.as_ref(),
                );
                keyed(&mut all, Place { role: "keyed state", ..place }, state.managed_keyed.as_ref());
                keyed(&mut all, Place { role: "raw keyed state", ..place }, state.raw_keyed.as_ref());
                channels(&mut all, Place { role: "input channels", ..place }, &state.inputs);
                channels(&mut all, Place { role: "output channels", ..place }, &state.outputs);
            }
        }
        all
    }
}

type All<'a> = Vec<(Place<'a>, &'a StreamHandle)>;

fn stream<'a>(all: &mut All<'a>, place: Place<'a>, handle: Option<&'a StreamHandle>) {
    match handle {
        None | Some(StreamHandle::EmptySegment) => {}
        Some(StreamHandle::KeyGroups { stream: inner, .. }) => stream(all, place, inner.as_deref()),
        Some(handle) => all.push((place, handle)),
    }
}

fn operator_state<'a>(all: &mut All<'a>, place: Place<'a>, handle: Option<&'a OperatorHandle>) {
    stream(all, place, handle.and_then(|handle| handle.stream.as_ref()));
}

fn channels<'a>(all: &mut All<'a>, place: Place<'a>, handles: &'a [ChannelHandle]) {
    for handle in handles {
        stream(all, place, handle.stream.as_ref());
    }
}

fn keyed<'a>(all: &mut All<'a>, place: Place<'a>, handle: Option<&'a KeyedHandle>) {
    match handle {
        None | Some(KeyedHandle::ChangesInPlace { .. }) => {}
        Some(KeyedHandle::Whole { stream: whole, .. }) => stream(all, place, whole.as_ref()),
        Some(KeyedHandle::Incremental { meta, shared, private, .. }) => {
            stream(all, Place { role: "keyed state, its description", ..place }, meta.as_ref());
            let mut files = |role, files: &'a [LocalFile]| {
                for LocalFile { name, stream: file } in files {
                    stream(all, Place { role, local_name: Some(name), ..place }, file.as_ref());
                }
            };
            files("keyed state, shared", shared);
            files("keyed state, private", private);
        }
        Some(KeyedHandle::Changelog { base, changes, .. }) => {
            for handle in base.iter().chain(changes) {
                keyed(all, place, Some(handle));
            }
        }
        Some(KeyedHandle::ChangesInFiles { streams, .. }) => {
            for (_, file) in streams {
                stream(all, Place { role: CHANGES, ..place }, file.as_ref());
            }
        }
    }
}
