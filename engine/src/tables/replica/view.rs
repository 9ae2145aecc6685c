//! The copies of a partition that count: a value of the register, and which value may follow which.
//!
//! The whole of replication rests on what [`PartitionView::may_become`] lets through: a primary was in sync in the view
//! before, so it has every committed entry; and only a primary brings anybody in, because only it knows who has them all.

use serde::{Deserialize, Serialize};

use crate::tables::ids::{NodeId, View};

/// Who holds a partition. (PacificA's configuration.)
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionView {
    /// From 1; grows by one with each change.
    pub number: View,
    /// Who numbers the entries.
    pub primary: NodeId,
    /// Who else has every committed entry. In the order in which they take over.
    pub backups: Vec<NodeId>,
    /// Who is being brought there.
    pub learner: Option<NodeId>,
}

/// Why a view may not follow another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IllegalView {
    /// Another change came first.
    #[error("it replaces view {replaces}, but the view is {current}")]
    Outdated {
        /// The view that it would replace.
        replaces: View,
        /// The view there is.
        current: View,
    },
    /// The primary might lack committed entries.
    #[error("node {0} would be primary and was not in sync")]
    PrimaryNotInSync(NodeId),
    /// A backup might lack committed entries.
    #[error("node {0} would be a backup and was neither in sync nor the learner")]
    BackupNotInSync(NodeId),
    /// Only the primary knows whether the learner has everything.
    #[error("node {0} would become a backup, which only the primary of both views may propose")]
    NotThePrimarysWord(NodeId),
    /// A node has two roles.
    #[error("node {0} is named twice")]
    NamedTwice(NodeId),
}

impl PartitionView {
    /// The primary, then the backups.
    pub fn in_sync(&self) -> impl Iterator<Item = NodeId> {
        std::iter::once(self.primary).chain(self.backups.iter().copied())
    }

    /// True of the primary and the backups.
    pub fn is_in_sync(&self, node: NodeId) -> bool {
        self.in_sync().any(|copy| copy == node)
    }

    /// True of everybody named.
    pub fn names(&self, node: NodeId) -> bool {
        self.is_in_sync(node) || self.learner == Some(node)
    }

    /// The next view, without the nodes of `gone`, with `primary`. Without a learner if it is gone or has another primary.
    ///
    /// # Panics
    /// If `primary` is gone or not in sync.
    pub fn next(&self, primary: NodeId, gone: impl Fn(NodeId) -> bool) -> PartitionView {
        assert!(self.is_in_sync(primary) && !gone(primary), "a primary that is there and in sync");
        PartitionView {
            number: self.number + 1,
            primary,
            backups: self.in_sync().filter(|copy| *copy != primary && !gone(*copy)).collect(),
            learner: self.learner.filter(|learner| primary == self.primary && !gone(*learner)),
        }
    }

    /// Whether `next` may follow, when `proposer` asks for it.
    ///
    /// # Errors
    /// What a committed entry could be lost by, or two primaries come of.
    pub fn may_become(&self, next: &PartitionView, proposer: NodeId) -> Result<(), IllegalView> {
        if next.number != self.number + 1 {
            return Err(IllegalView::Outdated {
                replaces: next.number.saturating_sub(1),
                current: self.number,
            });
        }
        if !self.is_in_sync(next.primary) {
            return Err(IllegalView::PrimaryNotInSync(next.primary));
        }
        let stays = proposer == self.primary && next.primary == self.primary;
        for backup in &next.backups {
            match self.is_in_sync(*backup) {
                true => {}
                false if self.learner != Some(*backup) => return Err(IllegalView::BackupNotInSync(*backup)),
                false if !stays => return Err(IllegalView::NotThePrimarysWord(*backup)),
                false => {}
            }
        }
        next.check()
    }

    /// Whether each node has one role.
    ///
    /// # Errors
    /// [`IllegalView::NamedTwice`].
    pub fn check(&self) -> Result<(), IllegalView> {
        let mut named: Vec<NodeId> = self.in_sync().chain(self.learner).collect();
        named.sort_unstable();
        match named.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(IllegalView::NamedTwice(pair[0])),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(number: View, primary: NodeId, backups: &[NodeId], learner: Option<NodeId>) -> PartitionView {
        PartitionView { number, primary, backups: backups.to_vec(), learner }
    }

    #[test]
    fn only_who_has_every_committed_entry_leads_or_follows() {
        let now = view(3, 1, &[2, 4], Some(5));
        let refused = |next: PartitionView, proposer| now.may_become(&next, proposer).unwrap_err();
        assert_eq!(now.may_become(&view(4, 1, &[2], Some(5)), 1), Ok(()), "a silent backup is dropped");
        assert_eq!(now.may_become(&view(4, 2, &[4], None), 2), Ok(()), "a silent primary is replaced");
        assert_eq!(now.may_become(&view(4, 1, &[2, 4, 5], None), 1), Ok(()), "the learner has everything");
        assert_eq!(refused(view(5, 2, &[4], None), 2), IllegalView::Outdated { replaces: 4, current: 3 });
        assert_eq!(refused(view(4, 5, &[2], None), 5), IllegalView::PrimaryNotInSync(5));
        assert_eq!(refused(view(4, 1, &[2, 6], None), 1), IllegalView::BackupNotInSync(6));
        assert_eq!(refused(view(4, 2, &[4, 5], None), 2), IllegalView::NotThePrimarysWord(5));
        assert_eq!(refused(view(4, 1, &[2, 5], None), 2), IllegalView::NotThePrimarysWord(5));
        assert_eq!(refused(view(4, 1, &[2, 2], None), 1), IllegalView::NamedTwice(2));
        assert_eq!(refused(view(4, 1, &[2], Some(2)), 1), IllegalView::NamedTwice(2));
    }

    #[test]
    fn the_next_view_leaves_out_who_is_gone() {
        let now = view(3, 1, &[2, 4], Some(5));
        assert_eq!(now.next(1, |node| node == 4), view(4, 1, &[2], Some(5)));
        assert_eq!(now.next(2, |node| node == 1), view(4, 2, &[4], None), "the learner knew another primary");
        assert_eq!(now.next(4, |_| false), view(4, 4, &[1, 2], None));
    }
}
