//! The operations of one client.

use std::collections::VecDeque;

use super::World;
use crate::faults::injector::Order;
use crate::plan::Op;
use cutwater_io::sim::NodeId;

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

    /// The next operation, once its time has come. Faults that are anchored to it strike as it is returned.
    ///
    /// # Cancel safety
    /// Dropping the future takes no operation: a process that dies while it waits leaves it to the next one.
    pub async fn next(&mut self) -> Option<Op> {
        let at_us = self.left.front()?.at_us;
        self.world.until(at_us).await;
        let op = self.left.pop_front()?;
        let text = format!("#{} client {}: {} {:?}", op.id, op.actor, op.verb, op.args);
        self.world.note_with("op", &text, |told| {
            told.with("op", u64::from(op.id))
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
