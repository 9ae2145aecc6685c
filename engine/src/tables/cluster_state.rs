//! What all nodes of a cluster agree on: the value of its [register](crate::checkpoint::log). And every change of it, as a pure function.
//!
//! Here are the members, the tables and who holds their partitions, the last cuts, the operations on snapshots, and up to where logs are
//! kept. Rows are not: what changes with every transaction is in the logs of partitions.
//!
//! A change is `&ClusterState -> Result<ClusterState, Refused>`. Whoever loses the put reads what won, and asks the function again: so each
//! function judges what it finds, and nothing that its caller remembers. What it guarantees of the result is [`ClusterState::check`].
//!
//! Numbers (of tables, cuts, operations, views) only grow and are never used again. So a message that names one cannot be taken for a word
//! about another, however late it comes.
//!
//! Not here: who is alive ([`super::membership`] judges that), and when to do what.

mod cuts;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::ids::{CutId, NodeId, PartitionId, TableId};
use super::replica::{IllegalView, PartitionView};
use crate::checkpoint::log::Value;

pub use cuts::{Cut, Fate};
pub use tables::{Kind, Table, TableSpec};

/// The most members of a cluster.
pub const MAX_MEMBERS: usize = 1024;

/// The most tables.
pub const MAX_TABLES: usize = 1024;

/// The most partitions of a table.
pub const MAX_PARTITIONS: u16 = 1024;

/// The most backups of a table: seven copies in all.
pub const MAX_BACKUPS: u16 = 6;

/// So many ended cuts are remembered.
pub const REMEMBERED_CUTS: usize = 16;

/// The most operations that are remembered.
pub const MAX_OPERATIONS: usize = 64;

/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// The value of the register.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// Indexed by [`NodeId`]; only grows.
    pub members: Vec<Member>,
    /// All that there are, seen or hidden.
    pub tables: BTreeMap<TableId, Table>,
    /// The id of the next table.
    pub next_table: TableId,
    /// The number of the last cut; 0 before the first.
    pub last_cut: CutId,
    /// The last cuts.
    pub cuts: BTreeMap<CutId, Cut>,
    /// What is being done with snapshots, and what was done last.
    pub operations: BTreeMap<u64, Operation>,
    /// The id of the next operation.
    pub next_operation: u64,
    /// Of each chain of snapshots, from where logs are kept for its next increment.
    pub pins: BTreeMap<String, Pin>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Unique in the cluster.
    pub name: String,
    /// The identity of its disk: a node that comes back with another has lost its copies.
    pub incarnation: String,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Something that is done with snapshots, by whichever node owns it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Unique.
    pub id: u64,
    /// What is done, and to what.
    pub kind: String,
    /// How far it is.
    pub step: String,
    /// Who does it.
    pub owner: NodeId,
}

/// From where logs are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Entries from this cut on are kept.
    pub cut: CutId,
    /// They are not any more: it would have taken too much room. The chain cannot be continued.
    pub broken: bool,
}

/// What a node has to bear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Load {
    /// Copies, with those that are being made.
    pub copies: usize,
    /// Partitions of which it is primary.
    pub primaries: usize,
}

/// Why a change is refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A name that cannot be.
    #[error("{name:?}: a name has 1 to {MAX_NAME_BYTES} letters, digits, '-', '_' or '.'")]
    Name {
        /// As given.
        name: String,
    },
    /// More than a limit allows.
    #[error("{what}: {value}, the limit is {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// What there would be.
        value: usize,
        /// What is allowed.
        limit: usize,
    },
    /// There is no such member.
    #[error("node {0} is no member")]
    NotAMember(NodeId),
    /// There is no node that could hold a copy.
    #[error("no node is there to hold a copy")]
    NoNodes,
    /// There is such a table.
    #[error("table {name:?} exists")]
    TableExists {
        /// Its name.
        name: String,
    },
    /// There is no such table.
    #[error("there is no table {name:?}")]
    TableUnknown {
        /// As given.
        name: String,
    },
    /// There is no such partition.
    #[error("there is no partition {0}")]
    PartitionUnknown(PartitionId),
    /// The view may not follow the one there is.
    #[error("partition {partition}: {source}")]
    View {
        /// Of which partition.
        partition: PartitionId,
        /// Why not.
        source: IllegalView,
    },
    /// The last cut has not ended.
    #[error("cut {cut} is under way")]
    CutUnderWay {
        /// The last cut.
        cut: CutId,
    },
    /// The cut has ended, or there was none.
    #[error("cut {cut} is not under way")]
    CutNotUnderWay {
        /// As given.
        cut: CutId,
    },
    /// Somebody has not started the cut.
    #[error("cut {cut}: nodes {missing:?} have not started it")]
    NotStarted {
        /// The cut.
        cut: CutId,
        /// Who has not.
        missing: BTreeSet<NodeId>,
    },
    /// There is no such operation.
    #[error("there is no operation {0}")]
    OperationUnknown(u64),
    /// It belongs to another.
    #[error("operation {id} is owned by node {owner}")]
    NotTheOwner {
        /// The operation.
        id: u64,
        /// Who owns it.
        owner: NodeId,
    },
    /// A pin cannot go back to logs that may be gone, nor be mended.
    #[error("the pin of {chain:?} cannot go from cut {from} to cut {to}")]
    Pin {
        /// Of which chain.
        chain: String,
        /// Where it is.
        from: CutId,
        /// Where it should go.
        to: CutId,
    },
}

/// Checks a name of a member, table or chain.
pub(super) fn check_name(name: &str) -> Result<(), Refused> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_name = !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.chars().all(allowed);
    if is_name { Ok(()) } else { Err(Refused::Name { name: name.into() }) }
}

fn limit(what: &'static str, value: usize, limit: usize) -> Result<(), Refused> {
    if value <= limit { Ok(()) } else { Err(Refused::Limit { what, value, limit }) }
}

impl ClusterState {
    /// The member of that name.
    pub fn member(&self, name: &str) -> Option<NodeId> {
        let at = self.members.iter().position(|member| member.name == name)?;
        Some(NodeId::try_from(at).expect("there are few members"))
    }

    /// All members.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        0..NodeId::try_from(self.members.len()).expect("there are few members")
    }

    /// Who holds a partition.
    pub fn view(&self, partition: PartitionId) -> Option<&PartitionView> {
        self.tables.get(&partition.table)?.views.get(usize::from(partition.number))
    }

    /// Every partition with its table and view.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, &Table, &PartitionView)> {
        self.tables.iter().flat_map(|(id, table)| {
            table
                .views
                .iter()
                .zip(0u16..)
                .map(move |(view, number)| (PartitionId { table: *id, number }, table, view))
        })
    }

    /// What each member bears.
    pub fn load(&self) -> BTreeMap<NodeId, Load> {
        let mut loads: BTreeMap<NodeId, Load> = self.nodes().map(|node| (node, Load::default())).collect();
        for (_, _, view) in self.partitions() {
            for node in view.in_sync().chain(view.learner) {
                loads.entry(node).or_default().copies += 1;
            }
            loads.entry(view.primary).or_default().primaries += 1;
        }
        loads
    }

    /// A node takes part: new, or come back, perhaps to another address. If its disk is another, it has lost its copies and is
    /// taken out of every view that has a copy left. (Where it has the only one, it stays named, and the partition is refused.)
    ///
    /// # Errors
    /// If the name cannot be, or there are too many members.
    pub fn joined(
        &self,
        name: &str,
        incarnation: &str,
        address: SocketAddr,
    ) -> Result<ClusterState, Refused> {
        check_name(name)?;
        let mut next = self.clone();
        let member = Member { name: name.into(), incarnation: incarnation.into(), address };
        match self.member(name) {
            Some(node) => {
                let known = &mut next.members[usize::from(node)];
                let lost = known.incarnation != member.incarnation;
                *known = member;
                if lost {
                    next.forget_copies(node);
                }
            }
            None => {
                limit("members", self.members.len() + 1, MAX_MEMBERS)?;
                next.members.push(member);
            }
        }
        Ok(next)
    }

    fn forget_copies(&mut self, node: NodeId) {
        for view in self.tables.values_mut().flat_map(|table| &mut table.views) {
            if !view.names(node) {
                continue;
            }
            let left = view.in_sync().find(|copy| *copy != node);
            *view = match left {
                Some(primary) => view.next(primary, |copy| copy == node),
                // Its replica sees that it has never been in a view before this one, and refuses.
                None => view.next(node, |_| false),
            };
        }
    }

    /// Partitions get the views that `proposer` asks for: all of them, or none.
    ///
    /// # Errors
    /// If one may not follow the view there is.
    pub fn changed_views(
        &self,
        views: &BTreeMap<PartitionId, PartitionView>,
        proposer: NodeId,
    ) -> Result<ClusterState, Refused> {
        let mut next = self.clone();
        for (&partition, view) in views {
            let table = next.tables.get_mut(&partition.table);
            let current = table.and_then(|table| table.views.get_mut(usize::from(partition.number)));
            let current = current.ok_or(Refused::PartitionUnknown(partition))?;
            current.may_become(view, proposer).map_err(|source| Refused::View { partition, source })?;
            if let Some(node) =
                view.in_sync().chain(view.learner).find(|n| usize::from(*n) >= self.members.len())
            {
                return Err(Refused::NotAMember(node));
            }
            *current = view.clone();
        }
        Ok(next)
    }

    /// An operation begins. Its id is [`ClusterState::next_operation`] as it was.
    ///
    /// # Errors
    /// If too many are under way, or the owner is no member.
    pub fn operation_begun(&self, kind: &str, step: &str, owner: NodeId) -> Result<ClusterState, Refused> {
        self.must_be_member(owner)?;
        limit("operations", self.operations.len() + 1, MAX_OPERATIONS)?;
        let mut next = self.clone();
        let id = self.next_operation;
        next.next_operation += 1;
        next.operations.insert(id, Operation { id, kind: kind.into(), step: step.into(), owner });
        Ok(next)
    }

    /// An operation gets on, by its owner.
    ///
    /// # Errors
    /// If there is none of that id, or somebody else has taken it over.
    pub fn operation_stepped(&self, id: u64, owner: NodeId, step: &str) -> Result<ClusterState, Refused> {
        let mut next = self.clone();
        let operation = next.operations.get_mut(&id).ok_or(Refused::OperationUnknown(id))?;
        if operation.owner != owner {
            return Err(Refused::NotTheOwner { id, owner: operation.owner });
        }
        operation.step = step.into();
        Ok(next)
    }

    /// An operation goes from an owner who is taken for dead to another.
    ///
    /// # Errors
    /// If there is none of that id, it has another owner than `from`, or `to` is no member.
    pub fn operation_taken_over(&self, id: u64, from: NodeId, to: NodeId) -> Result<ClusterState, Refused> {
        self.must_be_member(to)?;
        let mut next = self.clone();
        let operation = next.operations.get_mut(&id).ok_or(Refused::OperationUnknown(id))?;
        if operation.owner != from {
            return Err(Refused::NotTheOwner { id, owner: operation.owner });
        }
        operation.owner = to;
        Ok(next)
    }

    /// An operation is forgotten.
    ///
    /// # Errors
    /// If there is none of that id.
    pub fn operation_forgotten(&self, id: u64) -> Result<ClusterState, Refused> {
        let mut next = self.clone();
        next.operations.remove(&id).map(|_| next).ok_or(Refused::OperationUnknown(id))
    }

    /// Logs are kept from `cut` on, for the next increment of `chain`.
    ///
    /// # Errors
    /// If the chain's pin is above that or broken, or there was no such cut.
    pub fn pinned(&self, chain: &str, cut: CutId) -> Result<ClusterState, Refused> {
        check_name(chain)?;
        if let Some(pin) = self.pins.get(chain).filter(|pin| pin.broken || pin.cut > cut) {
            return Err(Refused::Pin { chain: chain.into(), from: pin.cut, to: cut });
        }
        if cut == 0 || cut > self.last_cut {
            return Err(Refused::CutNotUnderWay { cut });
        }
        let mut next = self.clone();
        next.pins.insert(chain.into(), Pin { cut, broken: false });
        Ok(next)
    }

    /// The logs that a chain needs are given up: it cannot be continued.
    ///
    /// # Errors
    /// If it has no pin.
    pub fn pin_broken(&self, chain: &str) -> Result<ClusterState, Refused> {
        let mut next = self.clone();
        match next.pins.get_mut(chain) {
            Some(pin) => pin.broken = true,
            None => return Err(Refused::Pin { chain: chain.into(), from: 0, to: 0 }),
        }
        Ok(next)
    }

    /// A chain needs no logs any more.
    pub fn unpinned(&self, chain: &str) -> ClusterState {
        let mut next = self.clone();
        next.pins.remove(chain);
        next
    }

    fn must_be_member(&self, node: NodeId) -> Result<(), Refused> {
        if usize::from(node) < self.members.len() { Ok(()) } else { Err(Refused::NotAMember(node)) }
    }

    fn check_members(&self) -> Result<(), String> {
        let names: BTreeSet<&str> = self.members.iter().map(|member| member.name.as_str()).collect();
        if names.len() != self.members.len() || self.members.len() > MAX_MEMBERS {
            return Err(format!("{} names of {} members", names.len(), self.members.len()));
        }
        names.into_iter().try_for_each(|name| check_name(name).map_err(|error| error.to_string()))
    }

    fn check_operations(&self) -> Result<(), String> {
        // Whoever stores numbers near the end of their range did not count up to them.
        let (last, max) = (self.next_operation, u64::MAX / 2);
        if last > max || self.operations.len() > MAX_OPERATIONS {
            return Err(format!("{} operations below {last}", self.operations.len()));
        }
        for (id, operation) in &self.operations {
            if *id != operation.id || *id >= last || usize::from(operation.owner) >= self.members.len() {
                return Err(format!("operation {id} is {operation:?}, and the next is {last}"));
            }
        }
        for (chain, pin) in &self.pins {
            check_name(chain).map_err(|error| error.to_string())?;
            if pin.cut == 0 || pin.cut > self.last_cut {
                return Err(format!(
                    "{chain:?} is pinned at cut {}, and the last is {}",
                    pin.cut, self.last_cut
                ));
            }
        }
        Ok(())
    }
}

impl Value for ClusterState {
    const MAGIC: [u8; 4] = *b"CWCS";

    fn check(&self) -> Result<(), String> {
        self.check_members()?;
        self.check_tables()?;
        self.check_cuts()?;
        self.check_operations()
    }
}
