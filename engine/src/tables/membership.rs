//! Who is taken for dead, and which changes of views this node proposes. Pure: what was heard and the time go in, proposals come out.
//!
//! Suspicion decides only *when* somebody tries. That two nodes never both serve a partition is the register's doing and the views', so a wrong
//! suspicion costs a change of view, never a row.
//!
//! Who is suspected is told to the copies, which do what is urgent by themselves: take over from a primary, go on without a backup
//! ([`super::replica`]). Here is what can wait, for partitions that this node leads:
//! - a copy that is more than there should be is put out of the view;
//! - where copies are missing, the node that bears least is invited;
//! - and when the same have been suspected for a while and no copy is missing or too many, one step of balance in the whole cluster: to invite a node that
//!   bears less by two than one that has a copy (which then is one too many), or to hand a partition over to a backup that leads fewer by two.
//!   All nodes find the same step in the same state, and only the primary concerned takes it. If each looked for its own, they would all
//!   turn to the same idle node, find it overburdened, and turn away again, for ever.
//!
//! After a move a partition is left alone for a while, longer each time that it did not help, and there is one learner on a node at a time: a
//! cluster under strain is not strained further by its repair.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::cluster_state::{ClusterState, Load, Table};
use super::ids::{NodeId, PartitionId, View};
use super::replica::PartitionView;

/// Times, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembershipConfig {
    /// Silence after which a node is suspected.
    pub suspect_after_us: u64,
    /// How long a partition is left alone after a proposal, at first.
    pub pause_us: u64,
    /// And in the end.
    pub pause_max_us: u64,
    /// How long the same must have been suspected before anything is moved for balance.
    pub calm_us: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Membership {
    own: NodeId,
    config: MembershipConfig,
    /// When each node was last heard of, or first known.
    heard_us: BTreeMap<NodeId, u64>,
    /// Since when the same are suspected.
    calm_since_us: u64,
    suspected: BTreeSet<NodeId>,
    tried: BTreeMap<PartitionId, Tried>,
}

/// What a node does about a partition that it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// Let a node become a copy.
    Invite(NodeId),
    /// Ask the register for this view.
    View(PartitionView),
}

#[derive(Clone, Copy, Debug)]
struct Tried {
    view: View,
    until_us: u64,
    pause_us: u64,
}

impl Membership {
    /// Of the node `own`, which starts now: it has heard of nobody yet, and suspects nobody for as long as it takes.
    pub fn new(own: NodeId, config: MembershipConfig, now_us: u64) -> Membership {
        Membership {
            own,
            config,
            heard_us: BTreeMap::new(),
            calm_since_us: now_us,
            suspected: BTreeSet::new(),
            tried: BTreeMap::new(),
        }
    }

    /// A node was heard.
    pub fn heard(&mut self, node: NodeId, now_us: u64) {
        let last = self.heard_us.entry(node).or_insert(now_us);
        *last = now_us.max(*last);
    }

    /// Who is taken for dead.
    pub fn suspects(&mut self, state: &ClusterState, now_us: u64) -> BTreeSet<NodeId> {
        let mut suspects = BTreeSet::new();
        for node in state.nodes().filter(|node| *node != self.own) {
            let heard_us = *self.heard_us.entry(node).or_insert(now_us);
            if now_us.saturating_sub(heard_us) >= self.config.suspect_after_us {
                suspects.insert(node);
            }
        }
        if suspects != self.suspected {
            self.suspected.clone_from(&suspects);
            self.calm_since_us = now_us;
        }
        suspects
    }

    /// Who is there.
    pub fn alive(&mut self, state: &ClusterState, now_us: u64) -> BTreeSet<NodeId> {
        let suspects = self.suspects(state, now_us);
        state.nodes().filter(|node| !suspects.contains(node)).collect()
    }

    /// What to do about the partitions in `led`: those that this node leads and that are open.
    pub fn moves(
        &mut self,
        state: &ClusterState,
        led: &BTreeSet<PartitionId>,
        now_us: u64,
    ) -> BTreeMap<PartitionId, Move> {
        let suspects = self.suspects(state, now_us);
        let is_calm = now_us.saturating_sub(self.calm_since_us) >= self.config.calm_us;
        let step = if is_calm { step_of_balance(state, &suspects) } else { None };
        let mut loads = state.load();
        let mut learners: BTreeSet<NodeId> =
            state.partitions().filter_map(|(_, _, view)| view.learner).collect();
        self.tried.retain(|partition, _| state.view(*partition).is_some());
        let mut moves = BTreeMap::new();
        for (partition, table, view) in state.partitions() {
            let is_tried = self.tried.get(&partition).is_some_and(|tried| now_us < tried.until_us);
            if is_tried || view.primary != self.own || view.learner.is_some() || !led.contains(&partition) {
                continue;
            }
            let free: BTreeSet<NodeId> = loads
                .keys()
                .copied()
                .filter(|node| !view.names(*node) && !suspects.contains(node) && !learners.contains(node))
                .collect();
            let of_balance = step.clone().filter(|(of, _)| *of == partition).map(|(_, chosen)| chosen);
            let chosen = match view.backups.len().cmp(&usize::from(table.backups)) {
                Ordering::Greater => self.surplus(view, &loads),
                Ordering::Less => {
                    let least = free.into_iter().min_by_key(|node| (loads[node], *node));
                    least.map(Move::Invite).or(of_balance)
                }
                Ordering::Equal => of_balance,
            };
            let Some(chosen) = chosen else { continue };
            match &chosen {
                Move::Invite(node) => {
                    learners.insert(*node);
                    loads.entry(*node).or_default().copies += 1;
                }
                Move::View(next) if next.primary != self.own => {
                    loads.entry(self.own).or_default().primaries -= 1;
                    loads.entry(next.primary).or_default().primaries += 1;
                }
                Move::View(_) => {}
            }
            self.try_again_later(partition, view.number, now_us);
            moves.insert(partition, chosen);
        }
        moves
    }

    /// The pause grows as long as the partition's view stays the same.
    fn try_again_later(&mut self, partition: PartitionId, view: View, now_us: u64) {
        let first_us = self.config.pause_us;
        let tried = self.tried.entry(partition).or_insert(Tried { view, until_us: 0, pause_us: first_us });
        if tried.view == view {
            tried.until_us = now_us + tried.pause_us;
            tried.pause_us = (tried.pause_us * 2).min(self.config.pause_max_us.max(first_us));
        } else {
            *tried = Tried { view, until_us: now_us + first_us, pause_us: first_us * 2 };
        }
    }

    /// One copy too many: that of the node that bears most goes.
    fn surplus(&self, view: &PartitionView, loads: &BTreeMap<NodeId, Load>) -> Option<Move> {
        let most = view.in_sync().max_by_key(|node| (loads[node].copies, *node))?;
        let primary = match most == self.own {
            true => *view.backups.iter().min_by_key(|node| (loads[*node].primaries, **node))?,
            false => self.own,
        };
        Some(Move::View(view.next(primary, |node| node == most)))
    }
}

/// The step that the cluster takes next towards balance: the same for all who know the same state. Each makes the loads of two nodes
/// more alike, so it ends.
fn step_of_balance(state: &ClusterState, suspects: &BTreeSet<NodeId>) -> Option<(PartitionId, Move)> {
    let alive = state.members.len() - suspects.len();
    let is_at_rest = |(_, table, view): (PartitionId, &Table, &PartitionView)| {
        view.learner.is_none() && view.backups.len() == usize::from(table.backups).min(alive - 1)
    };
    if !state.partitions().all(is_at_rest) {
        return None;
    }
    let loads = state.load();
    let copies = |node: NodeId| loads[&node].copies;
    let primaries = |node: NodeId| loads[&node].primaries;
    let invite = |(partition, _, view): (PartitionId, &Table, &PartitionView)| {
        let most = view.in_sync().map(copies).max()?;
        let free = state.nodes().filter(|node| !view.names(*node) && !suspects.contains(node));
        let least = free.min_by_key(|node| (copies(*node), *node)).filter(|node| copies(*node) + 1 < most)?;
        Some((most - copies(least), partition, Move::Invite(least)))
    };
    let hand_over = |(partition, _, view): (PartitionId, &Table, &PartitionView)| {
        let most = primaries(view.primary);
        let heir = view.backups.iter().copied().min_by_key(|node| (primaries(*node), *node));
        let heir = heir.filter(|heir| primaries(*heir) + 1 < most)?;
        Some((most - primaries(heir), partition, Move::View(view.next(heir, |_| false))))
    };
    let largest = |steps: &mut dyn Iterator<Item = (usize, PartitionId, Move)>| {
        steps.max_by_key(|(gain, partition, _)| (*gain, std::cmp::Reverse(*partition)))
    };
    let step = largest(&mut state.partitions().filter_map(invite));
    step.or_else(|| largest(&mut state.partitions().filter_map(hand_over)))
        .map(|(_, partition, chosen)| (partition, chosen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::cluster_state::{Kind, TableSpec};
    use proptest::prelude::*;

    const CONFIG: MembershipConfig =
        MembershipConfig { suspect_after_us: 100, pause_us: 50, pause_max_us: 400, calm_us: 200 };

    fn cluster(nodes: u16, partitions: u16, backups: u16, on: &[NodeId]) -> ClusterState {
        let state = (0..nodes).fold(ClusterState::default(), |state, node| {
            state.joined(&format!("node-{node}"), "disk", ([127, 0, 0, 1], node).into()).unwrap()
        });
        let spec = TableSpec { name: "t".into(), kind: Kind::Transactional, partitions, backups };
        state.table_created(&spec, false, &on.iter().copied().collect()).unwrap()
    }

    const FIRST: PartitionId = PartitionId { table: 0, number: 0 };

    fn led(state: &ClusterState, node: NodeId) -> BTreeSet<PartitionId> {
        state
            .partitions()
            .filter(|(_, _, view)| view.primary == node)
            .map(|(partition, _, _)| partition)
            .collect()
    }

    #[test]
    fn who_is_silent_is_suspected_and_a_new_node_suspects_nobody() {
        let state = cluster(3, 1, 2, &[0, 1, 2]);
        let mut membership = Membership::new(0, CONFIG, 1000);
        assert_eq!(membership.suspects(&state, 1000), BTreeSet::new());
        membership.heard(1, 1050);
        assert_eq!(membership.suspects(&state, 1099), BTreeSet::new());
        assert_eq!(membership.suspects(&state, 1100), [2].into());
        assert_eq!(membership.alive(&state, 1150), [0].into(), "and never itself");
    }

    #[test]
    fn what_does_not_help_is_tried_less_and_less_often() {
        let mut state = cluster(2, 1, 1, &[0]);
        let mut primary = Membership::new(0, CONFIG, 0);
        primary.heard(1, 5000);
        let led = led(&state, 0);
        let mut tries = |state: &ClusterState, from: u64| -> Vec<u64> {
            (from..from + 1700).filter(|now| !primary.moves(state, &led, *now).is_empty()).collect()
        };
        assert_eq!(tries(&state, 100), [100, 150, 250, 450, 850, 1250, 1650]);
        let view = state.view(FIRST).unwrap();
        state = state.changed_views(&[(FIRST, view.next(0, |_| false))].into(), 0).unwrap();
        assert_eq!(tries(&state, 2050)[..3], [2050, 2100, 2200], "another view, another beginning");
    }

    #[test]
    fn what_is_not_open_is_left_alone() {
        let state = cluster(2, 1, 1, &[0]);
        assert!(Membership::new(0, CONFIG, 0).moves(&state, &BTreeSet::new(), 0).is_empty());
        assert!(
            Membership::new(1, CONFIG, 0).moves(&state, &[FIRST].into(), 0).is_empty(),
            "nor what others lead"
        );
        let moves = Membership::new(0, CONFIG, 0).moves(&state, &[FIRST].into(), 0);
        assert_eq!(moves, [(FIRST, Move::Invite(1))].into());
    }

    /// All primaries do as they are told, and every learner learns at once.
    fn settle(mut state: ClusterState, dead: Option<NodeId>) -> (ClusterState, usize) {
        let nodes: Vec<NodeId> = state.nodes().filter(|node| Some(*node) != dead).collect();
        let mut members: Vec<Membership> =
            nodes.iter().map(|node| Membership::new(*node, CONFIG, 0)).collect();
        for member in &mut members {
            member.suspects(&state, 0);
        }
        let mut changes = 0;
        for round in 1..300u64 {
            let now_us = 100 + round * 60;
            // All decide by the same state, as they do who read the register at the same time.
            let seen = state.clone();
            for member in &mut members {
                for node in &nodes {
                    member.heard(*node, now_us);
                }
                for (partition, chosen) in member.moves(&seen, &led(&seen, member.own), now_us) {
                    changes += 1;
                    let view = seen.view(partition).unwrap();
                    let next = match chosen {
                        Move::View(next) => next,
                        Move::Invite(node) => {
                            PartitionView { learner: Some(node), ..view.next(member.own, |_| false) }
                        }
                    };
                    state = state.changed_views(&[(partition, next)].into(), member.own).expect("allowed");
                }
            }
            let learned: Vec<(PartitionId, PartitionView)> = state
                .partitions()
                .filter_map(|(partition, _, view)| {
                    let learner = view.learner?;
                    let mut next = view.next(view.primary, |_| false);
                    next.learner = None;
                    next.backups.push(learner);
                    Some((partition, next))
                })
                .collect();
            for (partition, view) in learned {
                let primary = view.primary;
                state = state.changed_views(&[(partition, view)].into(), primary).unwrap();
            }
        }
        (state, changes)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_comes_to_rest_with_all_copies_and_in_balance(
            nodes in 1u16..6, on in 1u16..6, partitions in 1u16..9, backups in 0u16..3, dead in 0u16..6,
        ) {
            let on: Vec<NodeId> = (0..on.min(nodes)).collect();
            let state = cluster(nodes, partitions, backups, &on);
            let is_idle = state.partitions().all(|(_, _, view)| !view.names(dead));
            let dead = (dead < nodes && is_idle).then_some(dead);
            let (state, changes) = settle(state, dead);
            prop_assert!(changes < 200, "it does not come to rest");
            let alive = usize::from(nodes) - usize::from(dead.is_some());
            for (_, _, view) in state.partitions() {
                prop_assert_eq!(view.backups.len(), usize::from(backups).min(alive - 1));
                prop_assert!(view.in_sync().all(|node| dead != Some(node)));
            }
            if dead.is_none() && alive > usize::from(backups) {
                let copies: Vec<usize> = state.load().values().map(|load| load.copies).collect();
                prop_assert!(copies.iter().max().unwrap() - copies.iter().min().unwrap() <= 2, "{:?}", copies);
            }
        }
    }
}
