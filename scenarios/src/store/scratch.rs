//! Families that come and go while the writers write.
//!
//! The operation `family` creates one, writes to it, looks at it after a while, now and then deletes what it wrote, and drops it. Both are durable when they are
//! answered. So a process that comes up finds each one that was created and not yet to be dropped, with what was made durable
//! in it, and none that was dropped; it drops what its predecessor left.

use std::collections::BTreeMap;
use std::time::Duration;

use cutwater_engine::store::{Family, WriteOptions};
use cutwater_io::time;
use cutwater_sim::plan::Op;
use cutwater_sim::scenario::Violation;

use super::content::{same_value, show, value};
use super::families::Db;
use super::process::{Exit, Shared};

/// The only key in them.
const KEY: &[u8] = b"key";
const VALUE_BYTES: u64 = 700;

/// What is known of a family since recovery was judged the last time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was to be created, or dropped: it may be there.
    Open,
    /// It was created; the value in it, once that is durable.
    There(Option<Vec<u8>>),
    /// It was dropped.
    Gone,
}

/// By name.
pub(super) type Fates = BTreeMap<String, Fate>;

/// True if the name is one of theirs.
pub(super) fn is_one(name: &str) -> bool {
    name.starts_with("scratch")
}

impl Shared {
    pub(super) async fn come_and_go(&self, db: &Db, op: &Op) -> Result<(), Exit> {
        let name = format!("scratch{}", op.id);
        self.is(&name, Fate::Open);
        let family =
            self.tolerate("create family", db.store.create_family(&name, self.options().family).await)?;
        self.is(&name, Fate::There(None));
        let value = value(op, 0, VALUE_BYTES);
        let sync = op.id.is_multiple_of(2);
        let asked_at = self.logs_end();
        let written = family.put(KEY, &value, WriteOptions { sync, disable_wal: false }).await;
        let sequence = self.tolerate("write to family", written)?;
        match sync {
            true => self.synced(sequence, asked_at),
            false => self.tolerate("flush family", family.flush().await)?,
        }
        self.is(&name, Fate::There(Some(value.clone())));
        time::sleep(Duration::from_micros(op.args[0])).await;
        let found = self.tolerate("get of family", family.get(KEY).await)?;
        same_value("a family that others come and go beside stays as it is", KEY, &Some(value), &found)?;
        if op.id.is_multiple_of(3) {
            self.is(&name, Fate::There(None));
            self.delete_again(&family).await?;
        }
        self.is(&name, Fate::Open);
        self.tolerate("drop family", db.store.drop_family(&family).await)?;
        self.is(&name, Fate::Gone);
        Ok(())
    }

    /// What was written once can be deleted by itself, and stays away when both have met.
    async fn delete_again(&self, family: &Family) -> Result<(), Exit> {
        let logged = WriteOptions { sync: false, disable_wal: false };
        self.tolerate("single delete", family.single_delete(KEY, logged).await)?;
        self.tolerate("compact family", family.compact_all().await)?;
        let found = self.tolerate("get of family", family.get(KEY).await)?;
        Ok(same_value("what was written once and deleted is gone", KEY, &None, &found)?)
    }

    fn is(&self, name: &str, fate: Fate) {
        {
            let mut state = self.state();
            state.has_scratch = true;
            state.scratch.insert(name.to_owned(), fate);
        }
        self.owe();
    }

    /// Compares the families that a process finds with those that its predecessors made durable, and drops them. Damage that
    /// `may_hide_edits` may hide that one came or went; what is damaged in one may be refused, and is not made up.
    pub(super) async fn judge_scratch(&self, db: &Db, may_hide_edits: bool) -> Result<(), Exit> {
        let fates = self.state().scratch.clone();
        let there: Vec<String> = db.store.families().into_iter().filter(|name| is_one(name)).collect();
        if let Some(name) = there.iter().find(|name| !fates.contains_key(*name)) {
            return Err(wrong("a family that is there was created", "none", name));
        }
        for (name, fate) in fates.iter().filter(|_| !may_hide_edits) {
            self.judge_fate(db, name, fate).await?;
        }
        for name in &there {
            self.is(name, Fate::Open);
            let family = db.store.family(name).expect("it is listed");
            self.tolerate("drop family", db.store.drop_family(&family).await)?;
            self.is(name, Fate::Gone);
        }
        self.state().scratch.retain(|name, _| there.contains(name));
        self.owe();
        Ok(())
    }

    async fn judge_fate(&self, db: &Db, name: &str, fate: &Fate) -> Result<(), Exit> {
        match (fate, db.store.family(name)) {
            (Fate::There(_), None) => Err(wrong("a family that was created is there", name, "none")),
            (Fate::Gone, Some(_)) => Err(wrong("a family that was dropped is gone", "none", name)),
            (Fate::There(Some(value)), Some(family)) => {
                let found = self.tolerate("get of family", family.get(KEY).await)?;
                if found.as_ref() == Some(value) {
                    return Ok(());
                }
                let expected = format!("{} in {name}", show(Some(value)));
                Err(wrong("what was durable in a family is there", expected, show(found)))
            }
            _ => Ok(()),
        }
    }
}

fn wrong(property: &str, expected: impl ToString, found: impl ToString) -> Exit {
    Violation::new("durability", property)
        .of("family")
        .expected(expected.to_string())
        .found(found.to_string())
        .into()
}
