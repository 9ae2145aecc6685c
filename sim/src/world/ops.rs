//! The operations of one client.

use std::collections::VecDeque;

use super::World;
use crate::faults::injector::Order;
use crate::plan::Op;
use crate::told::words;
use cutwater_io::sim::{NodeId, Told};

/// The operations of one client, in order of time. An operation comes when its time has come and the one before is done:
/// a slow system makes a client late, never the plan.
pub struct Ops {
    world: World,
    left: VecDeque<Op>,
}

impl Ops {
    pub(super) fn new(world: World, actor: u16) -> Ops {
        let mut left: Vec<Op> = world.plan().ops.iter().filter(|op| op.actor == actor).cloned().collect();
        left.sort_by_key(|op| (op.at_us, op.id));
        Ops { world, left: left.into() }
    }

    /// The next operation, once its time has come; none is left in a branch of a census. Faults that are anchored to it strike as it is returned.
    ///
    /// # Cancel safety
    /// Dropping the future takes no operation: a process that dies while it waits leaves it to the next one.
    pub async fn next(&mut self) -> Option<Op> {
        let at_us = self.left.front()?.at_us;
        let faults = &self.world.inner.faults;
        if faults.cut_us().is_none() {
            let moved = std::pin::pin!(faults.next_cut());
            let due = std::pin::pin!(self.world.until(at_us));
            futures::future::select(due, moved).await;
        }
        if faults.cut_us().is_some() {
            return None;
        }
        let op = self.left.pop_front()?;
        faults.issued(op.id);
        let value = format!("#{} client {}: {} {:?}", op.id, op.actor, op.verb, op.args);
        self.world.note_in_words("op", &value, || {
            let words = words::op(&op, &self.world.inner.vocabulary);
            Told::from(format!("#{} {words}", op.id))
                .with("op", u64::from(op.id))
                .with("actor", u64::from(op.actor))
                .with("verb", op.verb.as_str())
        });
        for fault in self.world.inner.op_faults.get(&op.id).into_iter().flatten() {
            let order = Order { fault: fault.clone(), passed_by: NodeId(0) };
            // The receiver lives as long as the run.
            let _ = self.world.inner.orders.unbounded_send(order);
        }
        Some(op)
    }
}
