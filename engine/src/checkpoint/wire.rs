//! The state of a subtask as it is written: how a build knows what an older one wrote.
//!
//! Bodies are not self-describing, so the variants here only ever grow at the end, and none of them changes. Keyed state without a
//! changelog keeps the form that it had before there were any; metadata in which there is one says a higher format version
//! ([`super::metadata`]), so that an older build refuses it by name.

use serde::{Deserialize, Serialize};

use super::changelog::Changelog;
use super::snapshot::{
    InFlight, KeyGroupRange, KeyedSnapshot, SinkSnapshot, SourceSnapshot, StateFormat, StateSchema,
    StoreFile, SubtaskState,
};
use crate::state::operator_state::OperatorPart;

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum SubtaskWire {
    Source(SourceSnapshot),
    Keyed(KeyedWire),
    Sink(SinkSnapshot),
    Plain(Vec<OperatorPart>),
    InFlight(InFlight),
    Logged(KeyedWire, Changelog),
}

/// A keyed snapshot but for its changelog.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyedWire {
    range: KeyGroupRange,
    states: Vec<StateSchema>,
    format: StateFormat,
    shared: Vec<StoreFile>,
    private: Vec<StoreFile>,
    in_flight: Option<InFlight>,
}

impl KeyedWire {
    fn with(self, changelog: Option<Changelog>) -> SubtaskState {
        let KeyedWire { range, states, format, shared, private, in_flight } = self;
        SubtaskState::Keyed(KeyedSnapshot { range, states, format, shared, private, changelog, in_flight })
    }
}

impl From<SubtaskWire> for SubtaskState {
    fn from(wire: SubtaskWire) -> SubtaskState {
        match wire {
            SubtaskWire::Source(source) => SubtaskState::Source(source),
            SubtaskWire::Keyed(keyed) => keyed.with(None),
            SubtaskWire::Sink(sink) => SubtaskState::Sink(sink),
            SubtaskWire::Plain(parts) => SubtaskState::Plain(parts),
            SubtaskWire::InFlight(in_flight) => SubtaskState::InFlight(in_flight),
            SubtaskWire::Logged(keyed, changelog) => keyed.with(Some(changelog)),
        }
    }
}

impl From<SubtaskState> for SubtaskWire {
    fn from(state: SubtaskState) -> SubtaskWire {
        match state {
            SubtaskState::Source(source) => SubtaskWire::Source(source),
            SubtaskState::Keyed(keyed) => {
                let KeyedSnapshot { range, states, format, shared, private, changelog, in_flight } = keyed;
                let keyed = KeyedWire { range, states, format, shared, private, in_flight };
                match changelog {
                    None => SubtaskWire::Keyed(keyed),
                    Some(changelog) => SubtaskWire::Logged(keyed, changelog),
                }
            }
            SubtaskState::Sink(sink) => SubtaskWire::Sink(sink),
            SubtaskState::Plain(parts) => SubtaskWire::Plain(parts),
            SubtaskState::InFlight(in_flight) => SubtaskWire::InFlight(in_flight),
        }
    }
}
