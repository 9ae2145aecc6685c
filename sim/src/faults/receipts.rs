//! Receipts: for each class of faults, how many a plan armed, how many were delivered, how many the system lived to see.
//!
//! *Delivered*: the fault struck (its place was reached before the safety phase ended) and did something; damage counts once
//! there is a defect on the medium, or a reader got something else than it should. *Observed*: afterwards the node
//! that was struck made another call or passed another point, or started again; a partition held a packet, an outage
//! refused a request, a reader was served damage. A fault that no node was there to notice proves nothing about the system;
//! a class that was never delivered makes a campaign void.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::FaultClass;

/// Counts of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// In the plan.
    pub armed: u64,
    /// Struck.
    pub delivered: u64,
    /// Noticed by the system.
    pub observed: u64,
}

/// Counts by class.
pub type Receipts = BTreeMap<FaultClass, Receipt>;

/// Adds `more` to `sum`.
pub fn add(sum: &mut Receipts, more: &Receipts) {
    for (class, receipt) in more {
        let total = sum.entry(*class).or_default();
        total.armed += receipt.armed;
        total.delivered += receipt.delivered;
        total.observed += receipt.observed;
    }
}
