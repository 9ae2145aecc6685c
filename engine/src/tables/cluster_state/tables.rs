//! Tables and the assignment of their partitions.
//!
//! A new table's copies go to the nodes that bear least, one partition after the other, so the assignment is balanced over all tables
//! and the same for whoever computes it. With fewer nodes than copies it begins with those that are there; the rest are learners
//! later ([`crate::tables::membership`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{ClusterState, Load, MAX_BACKUPS, MAX_PARTITIONS, MAX_TABLES, Refused, check_name, limit};
use crate::tables::ids::{NodeId, PartitionId, TableId};
use crate::tables::replica::PartitionView;

/// What may be done with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Transactions over any partitions of any transactional tables.
    Transactional,
    /// Operations on single keys.
    Atomic,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Unique among those that are not hidden.
    pub name: String,
    /// What may be done with it.
    pub kind: Kind,
    /// How many backups each partition should have.
    pub backups: u16,
    /// It is being restored: nobody sees it.
    pub hidden: bool,
    /// Who holds each partition.
    pub views: Vec<PartitionView>,
}

/// What a table shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSpec {
    /// Its name.
    pub name: String,
    /// What may be done with it.
    pub kind: Kind,
    /// From 1 to [`MAX_PARTITIONS`].
    pub partitions: u16,
    /// Up to [`MAX_BACKUPS`].
    pub backups: u16,
}

impl Table {
    /// The partition of a key: the hash of the key, and nothing that could differ from one node to the next.
    pub fn partition_of(&self, key: &[u8]) -> u16 {
        let count = u64::try_from(self.views.len()).expect("few partitions");
        u16::try_from(xxhash_rust::xxh3::xxh3_64(key) % count).expect("below the number of partitions")
    }
}

impl ClusterState {
    /// The table of that name that users see.
    pub fn table(&self, name: &str) -> Option<(TableId, &Table)> {
        let found = self.tables.iter().find(|(_, table)| !table.hidden && table.name == name);
        found.map(|(id, table)| (*id, table))
    }

    /// A table is made, hidden or not, on the nodes `alive`. Its id is [`ClusterState::next_table`] as it was.
    ///
    /// # Errors
    /// If the name cannot be or is taken, a number is out of its range, or no node is there.
    pub fn table_created(
        &self,
        spec: &TableSpec,
        hidden: bool,
        alive: &BTreeSet<NodeId>,
    ) -> Result<ClusterState, Refused> {
        let TableSpec { name, kind, partitions, backups } = spec;
        check_name(name)?;
        if !hidden && self.table(name).is_some() {
            return Err(Refused::TableExists { name: name.clone() });
        }
        limit("tables", self.tables.len() + 1, MAX_TABLES)?;
        limit("partitions", (*partitions).into(), MAX_PARTITIONS.into())?;
        limit("backups", (*backups).into(), MAX_BACKUPS.into())?;
        if *partitions == 0 {
            return Err(Refused::Limit { what: "tables without a partition", value: 1, limit: 0 });
        }
        for &node in alive {
            self.must_be_member(node)?;
        }
        let views = self.assign(*partitions, *backups, alive)?;
        let mut next = self.clone();
        let table = Table { name: name.clone(), kind: *kind, backups: *backups, hidden, views };
        next.tables.insert(self.next_table, table);
        next.next_table += 1;
        Ok(next)
    }

    fn assign(
        &self,
        partitions: u16,
        backups: u16,
        alive: &BTreeSet<NodeId>,
    ) -> Result<Vec<PartitionView>, Refused> {
        let all = self.load();
        let mut loads: BTreeMap<NodeId, Load> =
            alive.iter().map(|node| (*node, all.get(node).copied().unwrap_or_default())).collect();
        let mut views = Vec::new();
        for _ in 0..partitions {
            let least = |key: fn(&Load) -> (usize, usize), taken: &[NodeId]| {
                let free = loads.iter().filter(|(node, _)| !taken.contains(node));
                free.min_by_key(|(node, load)| (key(load), **node)).map(|(node, _)| *node)
            };
            let primary = least(|load| (load.primaries, load.copies), &[]).ok_or(Refused::NoNodes)?;
            let mut copies = vec![primary];
            while copies.len() <= backups.into() {
                let Some(backup) = least(|load| (load.copies, load.primaries), &copies) else { break };
                copies.push(backup);
            }
            for copy in &copies {
                let load = loads.get_mut(copy).expect("chosen from these");
                load.copies += 1;
                load.primaries += usize::from(*copy == primary);
            }
            views.push(PartitionView { number: 1, primary, backups: copies.split_off(1), learner: None });
        }
        Ok(views)
    }

    /// A table is gone, with all its rows. Nodes remove their copies when they see it.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn table_dropped(&self, name: &str) -> Result<ClusterState, Refused> {
        let (id, _) = self.table(name).ok_or_else(|| Refused::TableUnknown { name: name.into() })?;
        let mut next = self.clone();
        next.tables.remove(&id);
        Ok(next)
    }

    /// Hidden tables are seen under their names: all of them at once.
    ///
    /// # Errors
    /// If a name is taken, or there is no such hidden table.
    pub fn tables_published(&self, tables: &BTreeSet<TableId>) -> Result<ClusterState, Refused> {
        let mut next = self.clone();
        for id in tables {
            let table = self.tables.get(id).filter(|table| table.hidden);
            let name = &table.ok_or_else(|| Refused::TableUnknown { name: id.to_string() })?.name;
            if next.table(name).is_some() {
                return Err(Refused::TableExists { name: name.clone() });
            }
            next.tables.get_mut(id).expect("it is there").hidden = false;
        }
        Ok(next)
    }

    /// Hidden tables are gone: what made them has failed.
    ///
    /// # Errors
    /// If one of them is there and not hidden.
    pub fn hidden_dropped(&self, tables: &BTreeSet<TableId>) -> Result<ClusterState, Refused> {
        let mut next = self.clone();
        for id in tables {
            if next.tables.remove(id).is_some_and(|table| !table.hidden) {
                return Err(Refused::TableUnknown { name: format!("{id}, hidden") });
            }
        }
        Ok(next)
    }

    pub(super) fn check_tables(&self) -> Result<(), String> {
        if self.tables.len() > MAX_TABLES || self.next_table > TableId::MAX / 2 {
            return Err(format!("{} tables below {}", self.tables.len(), self.next_table));
        }
        let seen: Vec<&str> = self.tables.values().filter(|t| !t.hidden).map(|t| t.name.as_str()).collect();
        if seen.iter().collect::<BTreeSet<_>>().len() != seen.len() {
            return Err(format!("tables have the same name: {seen:?}"));
        }
        for (id, table) in &self.tables {
            check_name(&table.name).map_err(|error| error.to_string())?;
            let partitions = table.views.len();
            if *id >= self.next_table
                || partitions == 0
                || partitions > MAX_PARTITIONS.into()
                || table.backups > MAX_BACKUPS
            {
                return Err(format!("table {id} has {partitions} partitions and {} backups", table.backups));
            }
        }
        self.partitions().try_for_each(|(partition, _, view)| self.check_view(partition, view))
    }

    fn check_view(&self, partition: PartitionId, view: &PartitionView) -> Result<(), String> {
        view.check().map_err(|error| format!("partition {partition}: {error}"))?;
        let is_member = |node: NodeId| usize::from(node) < self.members.len();
        let plausible =
            (1..u64::MAX / 2).contains(&view.number) && view.in_sync().chain(view.learner).all(is_member);
        if plausible { Ok(()) } else { Err(format!("partition {partition} has the view {view:?}")) }
    }
}
