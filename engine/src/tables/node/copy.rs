//! One copy of a partition on this node: a task that owns its machines and its part of the store.
//!
//! Events come through one queue and are handled in order: that is what the cut relies on ([`super::shared`]). What the replica wants done is
//! done in the order in which it says so. Entries that are to be written one after the other go to the disk together, with one sync: while one is
//! under way, what comes waits in the queue, and the next takes all of it.
//!
//! The answer to a request is due when its entry is applied here, which is after it is durable on all copies in sync. A copy that stops being
//! the primary leaves those who wait without an answer: nobody knows yet.
//!
//! An error of the store ends the node: what was written last may not be on the disk, and nothing may be said that relies on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use cutwater_io::{point, reachable, sometimes, task, time};
use tokio::sync::{mpsc, oneshot};

use super::shared::{CopyHandle, Shared};
use super::{points, serve};
use crate::store::Store;
use crate::tables::ids::{CutId, LogIndex, NodeId, PartitionId, TxId};
use crate::tables::partition::{self, Admission, Admitted, Facts, Ledger, Partition, Request};
use crate::tables::reason::Reason;
use crate::tables::replica::{self, Effect, Event, Message, PartitionView, Replica, Role, RowsTaken};
use crate::tables::rpc::{Answer, CopyReport, Payload, Question};
use crate::tables::settle::{self, Settler};
use crate::tables::storage::{self, CopyStore, HeldCopy, LogStep, Rows};

/// So many events are handled before what they want done is done.
const BATCH: usize = 64;

/// What a copy is told.
pub(super) enum CopyEvent {
    /// The register says so.
    View(PartitionView),
    /// Another copy says something.
    Message { from: NodeId, message: Box<Message> },
    /// The connection to a node broke.
    Disconnected(NodeId),
    /// A node shall become a copy.
    Invite(NodeId),
    /// Time has passed, and these are suspected.
    Tick(Arc<BTreeSet<NodeId>>),
    /// This node has started a cut.
    Cut(CutId),
    /// Somebody asks.
    Ask { question: Question, reply: oneshot::Sender<Answer> },
    /// Another partition has answered about a transaction.
    Settled { tx: TxId, from: PartitionId, answer: settle::Answer },
    /// Somebody wants to see its log.
    Log { previous: LogIndex, reply: oneshot::Sender<Answer> },
    /// Somebody wants to know how it is.
    Report(oneshot::Sender<CopyReport>),
    /// The copy is not needed any more.
    Destroy,
}

/// Somebody waits for an entry to be applied.
struct Waiter {
    request: Request,
    reply: oneshot::Sender<Answer>,
}

/// Somebody waits until it is certain that this is the primary.
struct Reading {
    question: Question,
    reply: oneshot::Sender<Answer>,
}

/// What is only there while the view is open.
struct Serving {
    admission: Admission,
    settler: Settler,
}

/// See the module.
pub(super) struct Copy {
    shared: Arc<Shared>,
    events: mpsc::UnboundedSender<CopyEvent>,
    is_ticked: Arc<AtomicBool>,
    id: PartitionId,
    replica: Replica,
    store: CopyStore,
    rows: Rows,
    serving: Option<Serving>,
    effects: VecDeque<Effect>,
    /// Rows as they were when a learner began to take them.
    held: BTreeMap<NodeId, HeldCopy>,
    waiters: BTreeMap<LogIndex, Vec<Waiter>>,
    readings: BTreeMap<u64, Reading>,
    next_reading: u64,
    cut: CutId,
}

impl Copy {
    /// Opens the copy, new or as it was left, and lets it run beside. Errors of the store end the node.
    pub async fn start(shared: &Arc<Shared>, store: &Store, id: PartitionId) -> Result<(), storage::Error> {
        let store = CopyStore::new(store.clone(), id);
        let storage::Opened { found, rows } = store.open().await?;
        let (events, queue) = mpsc::unbounded_channel();
        let copy = Copy {
            shared: shared.clone(),
            events: events.clone(),
            is_ticked: Arc::default(),
            id,
            replica: Replica::new(shared.own, shared.config.replica, found),
            store,
            rows,
            serving: None,
            effects: VecDeque::new(),
            held: BTreeMap::new(),
            waiters: BTreeMap::new(),
            readings: BTreeMap::new(),
            next_reading: 0,
            cut: 0,
        };
        shared.add_copy(id, CopyHandle { events, is_ticked: copy.is_ticked.clone() });
        let shared = shared.clone();
        task::spawn(async move {
            if let Err(error) = copy.run(queue).await {
                shared.fail(error);
            }
        });
        Ok(())
    }

    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<CopyEvent>) -> Result<(), storage::Error> {
        while let Some(event) = queue.recv().await {
            let mut next = Some(event);
            let mut handled = 0;
            while let Some(event) = next.take() {
                if matches!(event, CopyEvent::Destroy) {
                    self.store.clear().await?;
                    self.shared.destroyed(self.id);
                    return Ok(());
                }
                self.handle(event).await?;
                handled += 1;
                if handled < BATCH {
                    next = queue.try_recv().ok();
                }
            }
            self.perform().await?;
        }
        Ok(())
    }

    async fn handle(&mut self, event: CopyEvent) -> Result<(), storage::Error> {
        match event {
            CopyEvent::View(view) => {
                if self.replica.view().is_none_or(|known| known.number < view.number) {
                    self.held.clear();
                }
                self.step(Event::View(view));
            }
            CopyEvent::Message { from, message } => self.step(Event::Message { from, message: *message }),
            CopyEvent::Disconnected(node) => self.step(Event::Disconnected(node)),
            CopyEvent::Invite(node) => self.step(Event::Invite(node)),
            CopyEvent::Tick(suspects) => {
                self.is_ticked.store(false, Ordering::Relaxed);
                for node in suspects.iter() {
                    self.step(Event::Down(*node));
                }
                self.step(Event::Tick);
                self.settle().await?;
                self.trim().await?;
            }
            CopyEvent::Cut(cut) => {
                self.cut = self.cut.max(cut);
                self.mark().await?;
            }
            CopyEvent::Ask { question, reply } => self.ask(question, reply).await?,
            CopyEvent::Settled { tx, from, answer } => self.settled(tx, from, answer).await?,
            CopyEvent::Log { previous, reply } => {
                let mut entries = self.store.read_log(previous, MAX_SCAN_BYTES).await?;
                let applied = self.partition().applied().saturating_sub(previous);
                entries.truncate(usize::try_from(applied).unwrap_or(usize::MAX));
                let entries = entries.iter().map(|entry| (**entry).clone()).collect();
                answer(Some(reply), Answer::Log { first: previous + 1, entries });
            }
            CopyEvent::Report(reply) => {
                let _ = reply.send(self.report());
            }
            CopyEvent::Destroy => unreachable!("it ends the task"),
        }
        Ok(())
    }

    /// Gives an event to the replica. What it wants done is done later, in order; but who is not the primary any more stops at once.
    fn step(&mut self, event: Event) {
        for effect in self.replica.step(time::now().as_micros(), event) {
            if let Effect::Closed { stays } = effect {
                self.serving = None;
                self.shared.opened(self.id, false);
                if !stays {
                    // Those who wait learn nothing from here.
                    self.waiters.clear();
                }
            } else {
                self.effects.push_back(effect);
            }
        }
    }

    fn is_open(&self) -> bool {
        self.replica.role() == Role::Primary { open: true }
    }

    async fn perform(&mut self) -> Result<(), storage::Error> {
        while let Some(effect) = self.effects.pop_front() {
            match effect {
                Effect::Send { to, message } => {
                    // Who is not connected hears of everything again when it is.
                    self.shared.post(to, Payload::Copy { partition: self.id, message });
                }
                Effect::Promise { .. } | Effect::Persist { .. } | Effect::Truncate { .. } => {
                    self.write_log(effect).await?
                }
                Effect::Install { step, chunk } => self.install(step, chunk).await?,
                Effect::Commit { up_to } => self.apply(up_to).await?,
                Effect::ReadLog { to, session, previous, max_bytes } => {
                    let entries = self.store.read_log(previous, max_bytes).await?;
                    self.step(Event::LogRead { to, session, previous, entries });
                }
                Effect::ReadRows { to, session, taken, max_bytes } => {
                    let chunk = self.read_rows(to, taken, max_bytes).await?;
                    self.step(Event::RowsRead { to, session, chunk });
                }
                Effect::Serve { reads, at } => {
                    assert!(
                        self.partition().applied() >= at,
                        "a read is served before what it must see is applied"
                    );
                    for read in reads {
                        self.serve(read).await?;
                    }
                }
                Effect::FailReads(reads) => {
                    for read in reads {
                        let reading = self.readings.remove(&read);
                        deny(reading.map(|reading| reading.reply), Reason::NotPrimary(self.id));
                    }
                }
                Effect::Opened { view, index } => self.open(view, index).await?,
                Effect::Closed { .. } => unreachable!("it was handled at once"),
                Effect::Propose(view) => self.propose(view),
                Effect::Refresh => self.shared.refresh(),
                Effect::Fault(violation) => {
                    tracing::error!(partition = %self.id, %violation, "this copy has stopped for good");
                    self.serving = None;
                    self.waiters.clear();
                    self.readings.clear();
                }
            }
        }
        Ok(())
    }

    /// Changes the log, with all changes that follow directly: they go to the disk together.
    async fn write_log(&mut self, first: Effect) -> Result<(), storage::Error> {
        let mut steps = Vec::new();
        let mut last = 0;
        let mut next = Some(first);
        while let Some(effect) = next.take() {
            let (step, change) = match effect {
                Effect::Promise { step, view } => (step, LogStep::Promise(view)),
                Effect::Persist { step, first, entries } => (step, LogStep::Persist { first, entries }),
                Effect::Truncate { step, last } => {
                    reachable!(points::TAIL_CUT);
                    (step, LogStep::Truncate(last))
                }
                other => {
                    self.effects.push_front(other);
                    break;
                }
            };
            last = step;
            steps.push(change);
            next = self.effects.pop_front();
        }
        point!(points::BEFORE_PERSIST);
        self.store.write_log(&steps).await?;
        point!(points::PERSISTED);
        self.step(Event::Durable(last));
        Ok(())
    }

    async fn install(&mut self, step: u64, chunk: replica::RowsChunk) -> Result<(), storage::Error> {
        let is_last = chunk.end.is_some();
        self.store.install(&chunk).await?;
        point!(points::ROWS_INSTALLED);
        if is_last {
            reachable!(points::LEARNED_ROWS);
            self.rows = self.store.open().await?.rows;
        }
        self.step(Event::Durable(step));
        Ok(())
    }

    /// The next rows for a learner, all as of the moment when it began.
    async fn read_rows(
        &mut self,
        to: NodeId,
        taken: Option<RowsTaken>,
        max_bytes: usize,
    ) -> Result<replica::RowsChunk, storage::Error> {
        let goes_on = |held: &HeldCopy| taken.as_ref().is_some_and(|taken| taken.index == held.rows.index());
        if !self.held.get(&to).is_some_and(goes_on) {
            self.held.insert(to, self.rows.hold_copy());
        }
        self.held[&to].chunk(taken.as_ref(), max_bytes).await
    }

    /// Applies everything up to `up_to`, and answers those who waited for it.
    async fn apply(&mut self, up_to: LogIndex) -> Result<(), storage::Error> {
        use partition::Effect as Done;
        let mut is_about_transactions = false;
        while self.partition().applied() < up_to {
            let steps = self.rows.apply(up_to).await?;
            point!(points::APPLIED);
            for storage::Step { index, applied, .. } in steps {
                for effect in applied.effects {
                    if let Done::Decided(tx) | Done::Finished(tx, _) | Done::Forgotten(tx) = effect {
                        is_about_transactions = true;
                        if let Some(serving) = &mut self.serving {
                            serving.settler.applied(tx);
                        }
                    }
                }
                if let Some(serving) = &mut self.serving {
                    serving.admission.applied(index);
                }
                for waiter in self.waiters.remove(&index).unwrap_or_default() {
                    // Who is gone does not want to know.
                    let _ = waiter.reply.send(answer_of(&waiter.request, self.rows.partition().ledger()));
                }
            }
        }
        if is_about_transactions {
            self.settle().await?;
        }
        Ok(())
    }

    /// Shortens the log, once it has become long.
    async fn trim(&mut self) -> Result<(), storage::Error> {
        let kept = self.shared.config.kept_entries;
        let log = self.replica.log();
        if log.last - log.before <= 2 * kept || !self.effects.is_empty() || self.replica.fault().is_some() {
            return Ok(());
        }
        let applied = self.partition().applied();
        let pinned = self.shared.pinned(self.partition().ledger());
        let keep_from = self.replica.keep_from().min(applied.saturating_sub(kept)).min(pinned);
        let before = self.rows.trim(keep_from).await?;
        reachable!(points::LOG_TRIMMED);
        self.step(Event::Trimmed(before));
        Ok(())
    }

    fn partition(&self) -> &Partition {
        self.rows.partition()
    }

    async fn open(&mut self, view: u64, index: LogIndex) -> Result<(), storage::Error> {
        let is_current = self.replica.view().is_some_and(|current| current.number == view) && self.is_open();
        if !is_current {
            return Ok(());
        }
        assert_eq!(self.partition().applied(), index, "a primary opens when all of its log is applied");
        point!(points::OPENED);
        reachable!(points::PRIMARY_OPENED);
        sometimes!(points::PREPARED_INHERITED, !self.partition().ledger().prepared().is_empty());
        let settler = Settler::new(self.id, self.shared.config.pauses);
        self.shared.opened(self.id, true);
        self.serving = Some(Serving { admission: Admission::new(self.rows.partition()), settler });
        // The cut that the node is in passes here before anything else.
        self.mark().await?;
        self.settle().await
    }

    /// Marks the node's cut, if it has not passed here.
    async fn mark(&mut self) -> Result<(), storage::Error> {
        let cut = self.cut;
        let Some(serving) = &self.serving else { return Ok(()) };
        if cut > serving.admission.ledger().generation() && self.is_open() {
            self.submit(Request::Mark { cut }, None).await?;
            point!(points::MARKED);
        }
        Ok(())
    }

    async fn ask(
        &mut self,
        question: Question,
        reply: oneshot::Sender<Answer>,
    ) -> Result<(), storage::Error> {
        if let Some(fault) = self.replica.fault() {
            deny(Some(reply), Reason::Broken(fault.to_string()));
            return Ok(());
        }
        if self.serving.is_none() || !self.is_open() {
            deny(Some(reply), Reason::NotPrimary(self.id));
            return Ok(());
        }
        let waiting = self.readings.len() + self.waiters.values().map(Vec::len).sum::<usize>();
        let limit = self.shared.config.max_waiting;
        if waiting >= limit {
            reachable!(points::OVERLOADED);
            deny(Some(reply), Reason::Overloaded { waiting: waiting as u64, limit: limit as u64 });
            return Ok(());
        }
        match question {
            Question::Submit { request, .. } => self.submit(request, Some(reply)).await,
            question => {
                self.confirm(question, reply);
                Ok(())
            }
        }
    }

    /// Answers when it is certain that this is still the primary.
    fn confirm(&mut self, question: Question, reply: oneshot::Sender<Answer>) {
        self.next_reading += 1;
        self.readings.insert(self.next_reading, Reading { question, reply });
        self.step(Event::Read(self.next_reading));
    }

    async fn submit(
        &mut self,
        request: Request,
        reply: Option<oneshot::Sender<Answer>>,
    ) -> Result<(), storage::Error> {
        let facts = self.facts(&request).await?;
        let now = self.shared.now();
        let Some(serving) =
            self.serving.as_mut().filter(|_| self.replica.role() == Role::Primary { open: true })
        else {
            deny(reply, Reason::NotPrimary(self.id));
            return Ok(());
        };
        let index = serving.admission.next_index();
        match serving.admission.admit(&request, &facts, now) {
            Ok(Admitted::Append(entry)) => {
                self.wait(index, request, reply);
                self.step(Event::Append(vec![Arc::new(entry)]));
            }
            Ok(Admitted::Known { index, .. }) if index > self.partition().applied() => {
                self.wait(index, request, reply)
            }
            Ok(Admitted::Known { .. }) => answer(reply, answer_of(&request, self.partition().ledger())),
            Ok(Admitted::Unknown) => answer(reply, Answer::Unknown),
            // "There is nothing to finish here" is true only of the primary.
            Ok(Admitted::Nothing) => {
                if let Some(reply) = reply {
                    self.confirm(Question::Submit { partition: self.id, request }, reply);
                }
            }
            Err(refused) => {
                sometimes!(points::CONFLICT, matches!(refused, partition::Refused::Conflict(_)));
                deny(reply, Reason::of(refused, self.id));
            }
        }
        Ok(())
    }

    fn wait(&mut self, index: LogIndex, request: Request, reply: Option<oneshot::Sender<Answer>>) {
        if let Some(reply) = reply {
            self.waiters.entry(index).or_default().push(Waiter { request, reply });
        }
    }

    /// The versions by which a request is judged.
    async fn facts(&self, request: &Request) -> Result<Facts, storage::Error> {
        self.rows.hold().facts(request.needs()).await
    }

    /// Answers somebody who asked before it was certain that this is the primary.
    async fn serve(&mut self, read: u64) -> Result<(), storage::Error> {
        let Some(Reading { question, reply }) = self.readings.remove(&read) else { return Ok(()) };
        let answer = match question {
            Question::Read { keys, .. } => self.read(&keys).await?,
            Question::Scan { after, limit, .. } => self.scan(after, limit).await?,
            Question::Outcome { tx, .. } => {
                outcome_of(settle::outcome(self.partition().ledger(), tx), self.partition().ledger(), tx)
            }
            _ => Answer::Done,
        };
        let _ = reply.send(answer);
        Ok(())
    }

    async fn read(&self, keys: &[Bytes]) -> Result<Answer, storage::Error> {
        let held = self.rows.hold();
        let mut rows = Vec::new();
        for key in keys {
            if let Err(by) = self.partition().may_read(key) {
                return Ok(Answer::Denied(Reason::Locked { key: key.clone(), by }));
            }
            rows.push(held.get(key).await?);
        }
        Ok(Answer::Rows { rows })
    }

    async fn scan(&self, after: Option<Bytes>, limit: u32) -> Result<Answer, storage::Error> {
        let limit = usize::try_from(limit).expect("32 bits");
        let (mut rows, is_all) = self.rows.hold().scan(after.as_ref(), MAX_SCAN_BYTES).await?;
        let more = !is_all || rows.len() > limit;
        rows.truncate(limit);
        // A transaction that will change a row here may be decided: so it may be for a row that is not there yet.
        let last = rows.last().map(|(key, _)| key).filter(|_| more);
        let is_within = |key: &Bytes| {
            after.as_ref().is_none_or(|after| key > after) && last.is_none_or(|last| key <= last)
        };
        for (tx, prepared) in self.partition().ledger().prepared() {
            if let Some(change) = prepared.changes.iter().find(|change| is_within(&change.key)) {
                return Ok(Answer::Denied(Reason::Locked { key: change.key.clone(), by: *tx }));
            }
        }
        Ok(Answer::Scanned { rows, index: self.partition().applied(), more })
    }
}

/// Where an answer to a scan ends, in bytes of keys and values; at least one row is in it.
const MAX_SCAN_BYTES: usize = 1 << 20;

impl Copy {
    /// Does what is due about transactions.
    async fn settle(&mut self) -> Result<(), storage::Error> {
        let now_us = time::now().as_micros();
        let Some(serving) = self.serving.as_mut() else { return Ok(()) };
        let effects = serving.settler.tick(self.rows.partition().ledger(), now_us);
        self.settling(effects).await
    }

    async fn settled(
        &mut self,
        tx: TxId,
        from: PartitionId,
        answer: settle::Answer,
    ) -> Result<(), storage::Error> {
        let (now_us, now) = (time::now().as_micros(), self.shared.now());
        let Some(serving) = self.serving.as_mut() else { return Ok(()) };
        let effects = serving.settler.heard(tx, from, answer, self.rows.partition().ledger(), now_us, now);
        self.settling(effects).await
    }

    async fn settling(&mut self, effects: Vec<settle::Effect>) -> Result<(), storage::Error> {
        for effect in effects {
            match effect {
                settle::Effect::Submit(request) => {
                    sometimes!(
                        points::SETTLED_COMMIT,
                        matches!(request, Request::Decide { commit: true, .. })
                    );
                    sometimes!(
                        points::SETTLED_ABORT,
                        matches!(request, Request::Decide { commit: false, .. })
                    );
                    self.submit(request, None).await?;
                }
                settle::Effect::Ask(tx, partition, question) => self.ask_about(tx, partition, question),
            }
        }
        Ok(())
    }

    /// Asks another partition. Who does not answer is asked again later.
    fn ask_about(&self, tx: TxId, partition: PartitionId, question: settle::Question) {
        let question = match question {
            settle::Question::Finish { commit, generation, time } => {
                Question::Submit { partition, request: Request::Finish { tx, commit, generation, time } }
            }
            settle::Question::Settle => Question::Submit { partition, request: Request::Settle { tx } },
            settle::Question::Outcome => Question::Outcome { partition, tx },
        };
        let (shared, events) = (self.shared.clone(), self.events.clone());
        task::spawn(async move {
            let said = serve::ask_once(&shared, partition, question.clone()).await;
            let answer = said.and_then(|said| meaning(&question, said));
            if let Some(answer) = answer {
                // A copy that is gone does not want to know.
                let _ = events.send(CopyEvent::Settled { tx, from: partition, answer });
            }
        });
    }

    fn propose(&self, view: PartitionView) {
        sometimes!(
            points::TAKES_OVER,
            self.replica.view().is_some_and(|current| current.primary != view.primary)
        );
        sometimes!(points::LEARNER_BY_LOG, self.is_learned(&view));
        let (shared, id) = (self.shared.clone(), self.id);
        let own = shared.own;
        task::spawn(async move {
            let views = BTreeMap::from([(id, view)]);
            let proposed = shared.change(Box::new(move |state| state.changed_views(&views, own))).await;
            if let Err(error) = proposed {
                tracing::debug!(partition = %id, %error, "a view was not changed");
            }
        });
    }

    /// True if the view takes a learner in.
    fn is_learned(&self, view: &PartitionView) -> bool {
        let learner = self.replica.view().and_then(|current| current.learner);
        learner.is_some_and(|learner| view.backups.contains(&learner))
    }

    fn report(&self) -> CopyReport {
        let ledger = self.partition().ledger();
        let none = PartitionView { number: 0, primary: self.shared.own, backups: Vec::new(), learner: None };
        let settled = ledger.cuts().iter().filter(|(_, waiting)| waiting.settled.is_some());
        CopyReport {
            partition: self.id,
            view: self.replica.view().cloned().unwrap_or(none),
            is_open: self.serving.is_some() && self.is_open(),
            log_before: self.replica.log().before,
            applied: self.partition().applied(),
            applied_view: ledger.view(),
            content: self.partition().content(),
            prepared: ledger.prepared().len() as u64,
            decided: ledger.decided().len() as u64,
            generation: ledger.generation(),
            cuts: settled.filter_map(|(cut, _)| Some((*cut, self.partition().cut(*cut)?.content))).collect(),
        }
    }
}

fn answer(reply: Option<oneshot::Sender<Answer>>, answer: Answer) {
    if let Some(reply) = reply {
        // Who is gone does not want to know.
        let _ = reply.send(answer);
    }
}

fn deny(reply: Option<oneshot::Sender<Answer>>, reason: Reason) {
    answer(reply, Answer::Denied(reason));
}

/// The answer to a request whose entry is applied.
fn answer_of(request: &Request, ledger: &Ledger) -> Answer {
    let (Request::Write { tx, .. }
    | Request::Prepare { tx, .. }
    | Request::Decide { tx, .. }
    | Request::Settle { tx }) = request
    else {
        return Answer::Done;
    };
    if let Some(decision) = ledger.decided().get(tx) {
        return Answer::Decided {
            commit: decision.commit,
            generation: decision.generation,
            time: decision.time,
        };
    }
    if let Some(partition::Outcome { index, commit, generation }) = ledger.outcome(*tx) {
        return Answer::Ended { commit, generation, index };
    }
    if ledger.prepared().contains_key(tx) { Answer::Prepared } else { Answer::Unknown }
}

/// What a client or a participant is told of a transaction.
fn outcome_of(answer: settle::Answer, ledger: &Ledger, tx: TxId) -> Answer {
    match answer {
        settle::Answer::Decided { commit, generation, time } => Answer::Decided { commit, generation, time },
        settle::Answer::Undecided => Answer::Undecided,
        _ => match ledger.outcome(tx) {
            Some(partition::Outcome { index, commit, generation }) => {
                Answer::Ended { commit, generation, index }
            }
            None => Answer::Unknown,
        },
    }
}

/// What an answer means to who asked about a transaction; nothing if it has to be asked again.
fn meaning(question: &Question, said: Answer) -> Option<settle::Answer> {
    let is_finish = matches!(question, Question::Submit { request: Request::Finish { .. }, .. });
    let is_outcome = matches!(question, Question::Outcome { .. });
    match said {
        Answer::Done | Answer::Ended { .. } if is_finish => Some(settle::Answer::Finished),
        Answer::Decided { commit, generation, time } if is_outcome => {
            Some(settle::Answer::Decided { commit, generation, time })
        }
        Answer::Undecided if is_outcome => Some(settle::Answer::Undecided),
        // It is forgotten: whoever still asks has it from a message that came late.
        Answer::Unknown | Answer::Ended { .. } if is_outcome => Some(settle::Answer::Unknown),
        Answer::Prepared => Some(settle::Answer::Prepared),
        Answer::Ended { commit: false, .. } => Some(settle::Answer::Refuses),
        _ => None,
    }
}
