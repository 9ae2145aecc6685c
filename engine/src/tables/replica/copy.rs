//! What a copy has and knows, whatever its role: its log, what of it is durable and committed, and what it has asked the register for.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::{Effect, Found, Options, Violation};
use super::message::{LogShape, Message, RowsTaken};
use super::view::PartitionView;
use crate::tables::entry::Entry;
use crate::tables::ids::{LogIndex, NodeId, View};
use crate::tables::rows::Change;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) me: NodeId,
    pub(super) now_us: u64,
    pub(super) view: Option<PartitionView>,
    /// A higher view that was heard of.
    pub(super) ahead: Option<View>,
    pub(super) promised: View,
    /// Promised before this life began.
    pub(super) promised_before: View,
    pub(super) promise_durable: View,
    pub(super) log: LogShape,
    /// The log up to here is durable.
    pub(super) durable: LogIndex,
    pub(super) commit: LogIndex,
    pub(super) rows: Option<RowsTaken>,
    /// The latest entries of the log, up to the last.
    cache: VecDeque<(Arc<Entry>, usize)>,
    cached_bytes: usize,
    next_step: u64,
    steps: VecDeque<(u64, Step)>,
    pub(super) asked: Option<(PartitionView, u64)>,
    pub(super) refreshed_us: Option<u64>,
    pub(super) fault: Option<Violation>,
    pub(super) effects: Vec<Effect>,
}

/// What becomes durable with a step.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Promise(View),
    Log(LogIndex),
    Rows(RowsTaken, Option<View>),
}

impl Copy {
    pub(super) fn new(me: NodeId, found: Found) -> Copy {
        let Found { promised, log, applied, rows } = found;
        Copy {
            me,
            now_us: 0,
            view: None,
            ahead: None,
            promised,
            promised_before: promised,
            promise_durable: promised,
            durable: log.last,
            commit: applied,
            log,
            rows,
            cache: VecDeque::new(),
            cached_bytes: 0,
            next_step: 1,
            steps: VecDeque::new(),
            asked: None,
            refreshed_us: None,
            fault: None,
            effects: Vec::new(),
        }
    }

    pub(super) fn number(&self) -> View {
        self.view.as_ref().map_or(0, |view| view.number)
    }

    pub(super) fn is_in_sync(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.is_in_sync(self.me))
    }

    /// The view, for those who have a duty in it.
    pub(super) fn in_view(&self) -> &PartitionView {
        self.view.as_ref().expect("a duty comes with a view")
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        self.effects.push(Effect::Send { to, message });
    }

    pub(super) fn violated(&mut self, violation: Violation) {
        self.fault = Some(violation.clone());
        self.effects.push(Effect::Fault(violation));
    }

    pub(super) fn new_step(&mut self, step: Step) -> u64 {
        let number = self.next_step;
        self.next_step += 1;
        self.steps.push_back((number, step));
        number
    }

    pub(super) fn promise(&mut self, view: View) {
        if view > self.promised {
            self.promised = view;
            let step = self.new_step(Step::Promise(view));
            self.effects.push(Effect::Promise { step, view });
        }
    }

    /// True once nothing that is said in this view can be unsaid by a crash.
    pub(super) fn has_promised(&self) -> bool {
        self.promise_durable >= self.number()
    }

    pub(super) fn persist(&mut self, entries: Vec<Arc<Entry>>) {
        let first = self.log.last + 1;
        for entry in &entries {
            self.log.push(entry);
            let len_bytes = len_bytes(entry);
            self.cached_bytes += len_bytes;
            self.cache.push_back((entry.clone(), len_bytes));
        }
        let step = self.new_step(Step::Log(self.log.last));
        self.effects.push(Effect::Persist { step, first, entries });
    }

    pub(super) fn truncate(&mut self, last: LogIndex) {
        assert!(last >= self.commit, "entry {} is committed and would go", self.commit);
        for _ in last..self.log.last {
            self.cached_bytes -= self.cache.pop_back().map_or(0, |(_, len_bytes)| len_bytes);
        }
        self.log.truncate(last);
        self.durable = self.durable.min(last);
        // What is on its way to the disk and goes again is not durable when it arrives.
        for (_, step) in &mut self.steps {
            if let Step::Log(end) = step {
                *end = last.min(*end);
            }
        }
        let step = self.new_step(Step::Log(last));
        self.effects.push(Effect::Truncate { step, last });
    }

    /// The disk has done everything up to a step.
    pub(super) fn steps_durable(&mut self, step: u64) {
        while let Some((number, done)) = self.steps.front().cloned()
            && number <= step
        {
            self.steps.pop_front();
            match done {
                Step::Promise(view) => self.promise_durable = self.promise_durable.max(view),
                Step::Log(last) => self.durable = self.durable.max(last),
                Step::Rows(taken, view) => self.rows_durable(taken, view),
            }
        }
    }

    /// From here on there is no log, and no rows but those of this index that come.
    pub(super) fn begin_rows(&mut self, index: LogIndex) {
        self.log = LogShape::default();
        (self.durable, self.commit) = (0, 0);
        self.cache.clear();
        self.cached_bytes = 0;
        self.steps.retain(|(_, step)| !matches!(step, Step::Log(_)));
        self.rows = Some(RowsTaken { index, after: None });
    }

    /// Forgets entries that can be read from the disk, the oldest first.
    pub(super) fn evict(&mut self, options: &Options) {
        while self.cached_bytes > options.cache_bytes && self.cache_begin() <= self.durable {
            self.cached_bytes -= self.cache.pop_front().map_or(0, |(_, len_bytes)| len_bytes);
        }
    }

    /// Index of the first entry in memory.
    pub(super) fn cache_begin(&self) -> LogIndex {
        self.log.last + 1 - self.cache.len() as LogIndex
    }

    /// Entries behind `previous` that go in one message; nothing if they are not in memory.
    pub(super) fn cached(&self, previous: LogIndex, max_bytes: usize) -> Option<Vec<Arc<Entry>>> {
        let skip = usize::try_from((previous + 1).checked_sub(self.cache_begin())?).ok()?;
        let mut sum_bytes = 0;
        let fits = |(i, (_, len_bytes)): &(usize, &(Arc<Entry>, usize))| {
            sum_bytes += len_bytes;
            *i == 0 || sum_bytes <= max_bytes
        };
        let entries = self.cache.iter().skip(skip).enumerate().take_while(fits);
        Some(entries.map(|(_, (entry, _))| entry.clone()).collect())
    }

    /// True while rows are on their way to the disk.
    pub(super) fn is_installing(&self) -> bool {
        self.steps.iter().any(|(_, step)| matches!(step, Step::Rows(..)))
    }

    pub(super) fn rows_durable(&mut self, taken: RowsTaken, whole_in: Option<View>) {
        let Some(view) = whole_in else {
            self.rows = Some(taken);
            return;
        };
        let index = taken.index;
        self.rows = None;
        self.log = LogShape { before: index, last: index, opens: [(index, view)].into() };
        (self.durable, self.commit) = (index, index);
    }

    /// Asks the register for a view, unless it was asked just now.
    pub(super) fn ask(&mut self, options: &Options, next: PartitionView) {
        let asked_now =
            |(asked, at): &(PartitionView, u64)| *asked == next && self.now_us < at + options.retry_us;
        if self.has_promised() && self.ahead.is_none() && !self.asked.as_ref().is_some_and(asked_now) {
            self.asked = Some((next.clone(), self.now_us));
            self.effects.push(Effect::Propose(next));
        }
    }

    pub(super) fn refresh(&mut self, options: &Options) {
        if self.refreshed_us.is_none_or(|at| self.now_us >= at + options.retry_us) {
            self.refreshed_us = Some(self.now_us);
            self.effects.push(Effect::Refresh);
        }
    }
}

/// Roughly what an entry takes in a message. Bytes.
pub(super) fn len_bytes(entry: &Entry) -> usize {
    const FIXED_BYTES: usize = 48;
    let of = |changes: &[Change]| -> usize {
        changes.iter().map(|c| c.key.len() + c.value.as_ref().map_or(0, |value| value.len()) + 8).sum()
    };
    FIXED_BYTES
        + match entry {
            Entry::Write { changes, .. } | Entry::Load { changes, .. } => of(changes),
            Entry::Prepare { participants, reads, changes, .. } => {
                let reads: usize = reads.iter().map(|read| read.key.len() + 16).sum();
                participants.len() * 8 + reads + of(changes)
            }
            Entry::Repair { key, seen, value } => {
                key.len() + seen.len() * 10 + value.as_ref().map_or(0, |value| value.len())
            }
            Entry::Decide { .. }
            | Entry::Finish { .. }
            | Entry::Forget { .. }
            | Entry::Mark { .. }
            | Entry::Open { .. } => 0,
        }
}
