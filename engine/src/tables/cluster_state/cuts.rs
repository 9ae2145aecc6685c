//! Cuts: announced, and started everywhere or given up. ([docs/snapshots.md], "The cut".)
//!
//! Who must have started a cut before it counts as started everywhere are the *primaries*: only they append entries. A node that becomes one after
//! the announcement has made the change of the register that says so, has seen the number in it, and marks it before it opens. So the question is put
//! to the register as it is when the cut ends, and a primary that died is not waited for any more once another has its place.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{ClusterState, REMEMBERED_CUTS, Refused};
use crate::tables::ids::{CutId, NodeId};

/// A cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Who announced it.
    pub by: NodeId,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// Nodes start it; who has, holds its answers back.
    Announced,
    /// Every primary has.
    StartedEverywhere,
    /// It did not get through in time. Nothing may be built on it.
    GivenUp,
}

impl ClusterState {
    /// The cut that is under way.
    pub fn cut_under_way(&self) -> Option<CutId> {
        self.cuts.get(&self.last_cut).filter(|cut| cut.fate == Fate::Announced).map(|_| self.last_cut)
    }

    /// What became of a cut: that of an old one is not remembered.
    pub fn fate(&self, cut: CutId) -> Option<Fate> {
        self.cuts.get(&cut).map(|cut| cut.fate)
    }

    /// A cut is announced: [`ClusterState::last_cut`] plus one.
    ///
    /// # Errors
    /// While one is under way.
    pub fn cut_announced(&self, by: NodeId) -> Result<ClusterState, Refused> {
        self.must_be_member(by)?;
        if let Some(cut) = self.cut_under_way() {
            return Err(Refused::CutUnderWay { cut });
        }
        let mut next = self.clone();
        next.last_cut += 1;
        next.cuts.insert(next.last_cut, Cut { by, fate: Fate::Announced });
        if next.cuts.len() > REMEMBERED_CUTS {
            next.cuts.pop_first();
        }
        Ok(next)
    }

    /// The cut was started everywhere. `started` is how far each node is known to have come.
    ///
    /// # Errors
    /// If it is not under way, or a primary has not started it.
    pub fn cut_started(
        &self,
        cut: CutId,
        started: &BTreeMap<NodeId, CutId>,
    ) -> Result<ClusterState, Refused> {
        let missing = self.cut_missing(cut, started);
        if !missing.is_empty() && self.cut_under_way() == Some(cut) {
            return Err(Refused::NotStarted { cut, missing });
        }
        self.cut_ended(cut, Fate::StartedEverywhere)
    }

    /// The primaries that are not known to have started a cut.
    pub fn cut_missing(&self, cut: CutId, started: &BTreeMap<NodeId, CutId>) -> BTreeSet<NodeId> {
        let has = |node: &NodeId| started.get(node).is_some_and(|reached| *reached >= cut);
        self.partitions().map(|(_, _, view)| view.primary).filter(|node| !has(node)).collect()
    }

    /// The cut is given up.
    ///
    /// # Errors
    /// If it is not under way.
    pub fn cut_given_up(&self, cut: CutId) -> Result<ClusterState, Refused> {
        self.cut_ended(cut, Fate::GivenUp)
    }

    fn cut_ended(&self, cut: CutId, fate: Fate) -> Result<ClusterState, Refused> {
        if self.cut_under_way() != Some(cut) {
            return Err(Refused::CutNotUnderWay { cut });
        }
        let mut next = self.clone();
        next.cuts.get_mut(&cut).expect("it is under way").fate = fate;
        Ok(next)
    }

    pub(super) fn check_cuts(&self) -> Result<(), String> {
        if self.last_cut > u64::MAX / 2 || self.cuts.len() > REMEMBERED_CUTS {
            return Err(format!("{} cuts up to {}", self.cuts.len(), self.last_cut));
        }
        if self.cuts.keys().next_back().copied().unwrap_or(0) != self.last_cut {
            return Err(format!("the last cut is {}, and {:?} are known", self.last_cut, self.cuts.keys()));
        }
        for (number, cut) in &self.cuts {
            let is_over = cut.fate != Fate::Announced || *number == self.last_cut;
            if *number == 0 || !is_over || usize::from(cut.by) >= self.members.len() {
                return Err(format!("cut {number} is {cut:?}"));
            }
        }
        Ok(())
    }
}
