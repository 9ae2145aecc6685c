//! One partition: what its log comes to. Pure, and the same on every copy.
//!
//! - [`Ledger`] is all that follows from the entries alone: prepared transactions and their locks, decisions, marks, what is
//!   remembered of ended transactions.
//! - [`Partition`] adds what depends on the rows: which of them change, and the sum over them, now and at each cut.
//! - [`Admission`] is the primary's side: what may be appended, given what is appended already and not yet applied.
//!
//! The rows themselves lie in the store. Who folds an entry asks [`Partition::needs`] which rows it touches, reads those, and
//! is told what becomes of them.
//!
//! The state at cut `k` is the fold up to `Mark{k}` and the `Finish` entries after it whose generation is below `k`. A key that such
//! an entry changes was locked from before the mark until then, so the row that it replaces is the one at the mark: that is why
//! [`Cut::content`] can be kept as the log goes by.
//!
//! Not here: rows, I/O, who may ask for what (the kind of the table, the view of the asker).

mod admission;
#[cfg(test)]
mod cut_tests;
mod fold;
mod ledger;
mod locks;
mod request;
#[cfg(test)]
mod tests;

pub use admission::Admission;
pub use fold::{Applied, Cut, Effect, Folded, Partition, RowChange, Sums, commit_time};
pub use ledger::{Decision, Ledger, Mark, Outcome, Prepared, Waiting};
pub use locks::{Held, Locks};
pub use request::{Admitted, Conflict, Facts, Known, Refused, Request};

/// So many of the last outcomes a partition remembers, to answer those who ask again.
pub const REMEMBERED_OUTCOMES: usize = 1024;

/// So many of the last cuts a partition knows. An older one that has still not settled is not known any more, and cannot be saved.
pub const REMEMBERED_CUTS: usize = 16;

/// The most partitions in a transaction.
pub const MAX_PARTICIPANTS: usize = 1024;
