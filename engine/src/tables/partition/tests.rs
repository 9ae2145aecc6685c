//! Partitions on their own, against a model: a fold is a fold however it is cut up, and what is admitted is serializable.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::tables::entry::Entry;
use crate::tables::ids::{HybridTime, LogIndex, PartitionId, TxId};
use crate::tables::rows::{Change, Content, Read, Row};

const HERE: PartitionId = PartitionId { table: 7, number: 1 };
const ELSEWHERE: PartitionId = PartitionId { table: 7, number: 2 };
const NOW: HybridTime = HybridTime(5);

/// A primary with its rows, which applies when it is told to.
pub(super) struct Site {
    pub(super) partition: Partition,
    pub(super) admission: Admission,
    pub(super) rows: BTreeMap<Bytes, Row>,
    pub(super) log: Vec<Entry>,
}

impl Site {
    pub(super) fn new(id: PartitionId) -> Site {
        let partition = Partition::new(id, Folded::default());
        let admission = Admission::new(&partition);
        Site { partition, admission, rows: BTreeMap::new(), log: Vec::new() }
    }

    /// What the store says of all keys now.
    pub(super) fn facts(&self, keys: impl IntoIterator<Item = Bytes>) -> Facts {
        let version = |key: Bytes| (key.clone(), self.rows.get(&key).map(|row| row.version));
        Facts { as_of: self.partition.applied(), versions: keys.into_iter().map(version).collect() }
    }

    pub(super) fn admit(&mut self, request: &Request, facts: &Facts) -> Result<Admitted, Refused> {
        let admitted = self.admission.admit(request, facts, NOW)?;
        if let Admitted::Append(entry) = &admitted {
            self.log.push(entry.clone());
            assert_eq!(self.admission.next_index(), self.log.len() as LogIndex + 1);
        }
        Ok(admitted)
    }

    /// Applies the next entry, if there is one.
    pub(super) fn apply(&mut self) -> Option<Applied> {
        let entry = self.log.get(self.partition.applied() as usize)?;
        let applied = fold(&mut self.partition, &mut self.rows, entry);
        self.admission.applied(self.partition.applied());
        Some(applied)
    }
}

/// Applies an entry as a store does: it knows no row but those that are needed.
pub(super) fn fold(partition: &mut Partition, rows: &mut BTreeMap<Bytes, Row>, entry: &Entry) -> Applied {
    let needs = partition.needs(entry);
    let known: BTreeMap<Bytes, Row> =
        needs.into_iter().filter_map(|key| Some((key.clone(), rows.get(key)?.clone()))).collect();
    let applied = partition.apply(partition.applied() + 1, entry, |key| known.get(key));
    for RowChange { key, row } in &applied.changes {
        match row {
            Some(row) => drop(rows.insert(key.clone(), row.clone())),
            None => drop(rows.remove(key)),
        }
    }
    applied
}

pub(super) fn content_of(rows: &BTreeMap<Bytes, Row>) -> Content {
    let mut content = Content::default();
    rows.iter().for_each(|(key, row)| content.add(key, &row.value));
    content
}

pub(super) fn key(k: u8) -> Bytes {
    Bytes::from(vec![b'a' + k])
}

fn put(k: u8, value: &'static str) -> Change {
    Change { key: key(k), value: Some(Bytes::from_static(value.as_bytes())) }
}

fn write(tx: u128, reads: Vec<Read>, changes: Vec<Change>) -> Request {
    Request::Write { tx: TxId(tx), reads, changes }
}

fn prepare(tx: u128, decider: PartitionId, reads: Vec<Read>, changes: Vec<Change>) -> Request {
    Request::Prepare { tx: TxId(tx), decider, participants: vec![HERE, ELSEWHERE], reads, changes }
}

fn finish(tx: u128, commit: bool) -> Request {
    Request::Finish { tx: TxId(tx), commit, generation: 0, time: NOW }
}

fn site() -> Site {
    Site::new(HERE)
}

fn settle(site: &mut Site) {
    while site.apply().is_some() {}
}

#[test]
fn a_prepared_transaction_keeps_others_out_even_before_it_is_applied() {
    let mut site = site();
    let facts = site.facts([key(0), key(1)]);
    let read = |k| Read { key: key(k), version: None };
    let appended = site.admit(&prepare(1, ELSEWHERE, vec![read(0)], vec![put(1, "x")]), &facts).unwrap();
    assert!(matches!(appended, Admitted::Append(Entry::Prepare { .. })));
    let locked = |k| Err(Refused::Conflict(Conflict::Locked { key: key(k), by: TxId(1) }));
    assert_eq!(site.admit(&write(2, vec![], vec![put(0, "y")]), &facts), locked(0), "it is read");
    assert_eq!(site.admit(&write(2, vec![read(1)], vec![]), &facts), locked(1), "it is to be changed");
    assert_eq!(site.admit(&prepare(2, ELSEWHERE, vec![], vec![put(1, "y")]), &facts), locked(1));
    assert!(site.admit(&prepare(3, ELSEWHERE, vec![read(0)], vec![]), &facts).is_ok(), "readers share");
    assert_eq!(site.partition.may_read(&key(1)), Ok(()), "not applied yet, so nobody can have decided");
    settle(&mut site);
    assert_eq!(site.partition.may_read(&key(1)), Err(TxId(1)));
    site.admit(&finish(1, true), &facts).unwrap();
    assert!(site.admit(&write(2, vec![], vec![put(1, "y")]), &facts).is_ok());
    settle(&mut site);
    assert_eq!(site.rows[&key(1)], Row { version: 4, value: Bytes::from_static(b"y") });
}

#[test]
fn versions_are_judged_with_what_is_appended_and_not_applied() {
    let mut site = site();
    let facts = site.facts([key(0)]);
    site.admit(&write(1, vec![], vec![put(0, "x")]), &facts).unwrap();
    let read = |version| vec![Read { key: key(0), version }];
    let changed = |read, found| Err(Refused::Conflict(Conflict::Changed { key: key(0), read, found }));
    assert_eq!(site.admit(&write(2, read(None), vec![]), &facts), changed(None, Some(1)));
    settle(&mut site);
    assert_eq!(site.admit(&write(2, read(None), vec![]), &facts), changed(None, Some(1)), "facts of before");
    assert!(site.admit(&write(2, read(Some(1)), vec![put(0, "y")]), &facts).is_ok());
    site.admit(&write(3, vec![], vec![Change { key: key(0), value: None }]), &facts).unwrap();
    assert_eq!(site.admit(&write(4, read(Some(2)), vec![]), &facts), changed(Some(2), None));
}

#[test]
fn facts_that_may_miss_something_are_refused() {
    let mut site = site();
    let old = site.facts([key(0)]);
    for tx in 0..5000 {
        let facts = site.facts([]);
        site.admit(&write(tx, vec![], vec![put(0, "x")]), &facts).unwrap();
        settle(&mut site);
    }
    let request = write(9999, vec![Read { key: key(0), version: None }], vec![]);
    assert!(matches!(site.admit(&request, &old), Err(Refused::Stale { as_of: 0, .. })));
    let request = write(9999, vec![Read { key: key(0), version: Some(5000) }], vec![]);
    assert!(site.admit(&request, &site.facts([key(0)])).is_ok());
}

#[test]
fn the_same_again_is_answered_alike_and_not_done_twice() {
    let mut site = site();
    let facts = site.facts([key(0), key(1)]);
    let request = write(1, vec![Read { key: key(0), version: None }], vec![put(0, "x")]);
    site.admit(&request, &facts).unwrap();
    let known = |index, state| Ok(Admitted::Known { index, state });
    let ended = Known::Ended(Outcome { index: 1, commit: true, generation: 0 });
    assert_eq!(site.admit(&request, &facts), known(1, ended.clone()), "not applied yet");
    settle(&mut site);
    assert_eq!(site.admit(&request, &facts), known(1, ended));
    let prepared = prepare(2, HERE, vec![], vec![put(1, "x")]);
    site.admit(&prepared, &facts).unwrap();
    assert_eq!(site.admit(&prepared, &facts), known(2, Known::Prepared));
    let decide = |commit| Request::Decide { tx: TxId(2), commit };
    site.admit(&decide(true), &facts).unwrap();
    settle(&mut site);
    let again = site.admit(&decide(false), &facts);
    let Ok(Admitted::Known { index: 3, state: Known::Decided(decision) }) = again else {
        panic!("the first word holds: {again:?}")
    };
    assert!(decision.commit);
    let Decision { commit, generation, time, .. } = decision;
    let finished = Request::Finish { tx: TxId(2), commit, generation, time };
    site.admit(&finished, &facts).unwrap();
    settle(&mut site);
    assert!(matches!(site.admit(&finished, &facts), Ok(Admitted::Known { state: Known::Ended(_), .. })));
    site.admit(&Request::Forget { tx: TxId(2) }, &facts).unwrap();
    settle(&mut site);
    assert_eq!(site.admit(&Request::Forget { tx: TxId(2) }, &facts), Ok(Admitted::Nothing));
    let ended = Known::Ended(Outcome { index: 3, commit: true, generation: 0 });
    assert_eq!(site.admit(&decide(false), &facts), known(3, ended));
    assert_eq!(site.log.len(), 5);
}

#[test]
fn what_is_unknown_to_its_decider_is_aborted_and_what_was_settled_is_not_prepared_any_more() {
    let mut site = site();
    let facts = site.facts([key(0)]);
    assert_eq!(site.admit(&Request::Decide { tx: TxId(1), commit: true }, &facts), Ok(Admitted::Unknown));
    assert!(site.partition.ledger().is_unknown(TxId(1)));
    site.admit(&Request::Settle { tx: TxId(2) }, &facts).unwrap();
    settle(&mut site);
    let answer = site.admit(&prepare(2, ELSEWHERE, vec![], vec![put(0, "x")]), &facts);
    let aborted = Known::Ended(Outcome { index: 1, commit: false, generation: 0 });
    assert_eq!(answer, Ok(Admitted::Known { index: 1, state: aborted }));
    site.admit(&prepare(3, ELSEWHERE, vec![], vec![put(0, "x")]), &facts).unwrap();
    settle(&mut site);
    let prepared = Admitted::Known { index: 2, state: Known::Prepared };
    assert_eq!(site.admit(&Request::Settle { tx: TxId(3) }, &facts), Ok(prepared));
}

#[test]
fn orders_out_of_place_are_refused_by_name() {
    let mut site = site();
    let facts = site.facts([key(0)]);
    let mark = |cut| Request::Mark { cut };
    site.admit(&mark(3), &facts).unwrap();
    assert_eq!(site.admit(&mark(3), &facts), Err(Refused::OldCut { cut: 3, last: 3 }));
    assert_eq!(site.admit(&mark(2), &facts), Err(Refused::OldCut { cut: 2, last: 3 }));
    site.admit(&prepare(1, ELSEWHERE, vec![], vec![put(0, "x")]), &facts).unwrap();
    let early = site.admit(&finish(1, true), &facts);
    assert_eq!(early, Err(Refused::BeforeItsCut { tx: TxId(1), cut: 3, generation: 0 }));
    assert!(site.admit(&finish(1, false), &facts).is_ok(), "an abort is on no side");
    assert_eq!(site.admit(&finish(1, true), &facts), Err(Refused::Contradicts { tx: TxId(1) }));
    site.admit(&prepare(2, HERE, vec![], vec![put(0, "x")]), &facts).unwrap();
    assert!(matches!(site.admit(&finish(2, true), &facts), Err(Refused::Malformed(_))), "not decided");
    let load = |at, next| Request::Load { operation: 9, at, next, changes: vec![put(5, "x")] };
    site.admit(&load(0, 4), &facts).unwrap();
    assert_eq!(site.admit(&load(0, 4), &facts), Ok(Admitted::Nothing));
    assert_eq!(site.admit(&load(5, 6), &facts), Err(Refused::LoadGap { operation: 9, at: 5, expected: 4 }));
}

#[test]
fn limits_are_refused_by_name() {
    let mut site = site();
    let facts = Facts::default();
    let mut refused = |changes: Vec<Change>| site.admit(&write(1, vec![], changes), &facts).unwrap_err();
    let of = |key: usize, value: usize| Change {
        key: Bytes::from(vec![b'k'; key]),
        value: Some(Bytes::from(vec![b'v'; value])),
    };
    let limit = |what, value, limit| Refused::Limit { what, value, limit };
    assert_eq!(refused(vec![of(65537, 0)]), limit("bytes of a key", 65537, 65536));
    assert_eq!(refused(vec![of(1, (4 << 20) + 1)]), limit("bytes of a value", (4 << 20) + 1, 4 << 20));
    assert_eq!(refused(vec![of(1, 4 << 20)]), limit("bytes of a transaction", (4 << 20) + 1, 4 << 20));
    assert!(matches!(refused(vec![of(1, 1), of(1, 2)]), Refused::Malformed(_)), "a key twice");
    let participants: Vec<_> = (0..1025).map(|number| PartitionId { table: 7, number }).collect();
    let (tx, decider) = (TxId(1), HERE);
    let prepare = Request::Prepare { tx, decider, participants, reads: vec![], changes: vec![] };
    assert_eq!(site.admit(&prepare, &facts), Err(limit("participants of a transaction", 1025, 1024)));
}

#[test]
fn a_repair_never_overwrites_what_it_has_not_seen() {
    let mut site = site();
    let facts = site.facts([key(0)]);
    let repair = |seen| Request::Repair { key: key(0), seen, value: Some(Bytes::from_static(b"r")) };
    site.admit(&write(1, vec![], vec![put(0, "x")]), &facts).unwrap();
    assert!(matches!(site.admit(&repair(vec![None]), &facts), Err(Refused::Conflict(_))));
    site.admit(&repair(vec![None, Some(1)]), &facts).unwrap();
    settle(&mut site);
    assert_eq!(site.rows[&key(0)], Row { version: 2, value: Bytes::from_static(b"r") });
    // A copy folds the same, whatever a primary may have thought.
    let late = Entry::Repair { key: key(0), seen: vec![Some(1)], value: None };
    let applied = fold(&mut site.partition, &mut site.rows, &late);
    assert_eq!((applied.changes, applied.effects), (vec![], vec![Effect::Repaired(false)]));
}

/// One thing a client or a primary does, as drawn.
type Drawn = (u8, u8, u8, u8);

/// Drives a site with what was drawn, and judges each commit by the rows as they are in the order of the log.
struct Drive {
    site: Site,
    next_tx: u128,
    reads: BTreeMap<TxId, Vec<Read>>,
    old_facts: Facts,
    committed: usize,
    refused: usize,
}

impl Drive {
    fn new() -> Drive {
        let site = site();
        let old_facts = site.facts((0..4).map(key));
        Drive { site, next_tx: 0, reads: BTreeMap::new(), old_facts, committed: 0, refused: 0 }
    }

    fn happen(&mut self, (what, a, b, c): Drawn) {
        match what % 16 {
            0..6 => self.begin(a, b, c),
            6..9 => self.end(a, c),
            9..13 => self.apply(),
            13 => self.old_facts = self.site.facts((0..4).map(key)),
            14 => {
                let cut = self.site.admission.ledger().generation() + u64::from(a % 3);
                drop(self.site.admit(&Request::Mark { cut }, &Facts::default()));
            }
            _ => {
                let seen = vec![self.old_facts.versions[&key(a % 4)]];
                let value = (c % 3 > 0).then(|| Bytes::from(vec![c]));
                let facts = self.old_facts.clone();
                drop(self.site.admit(&Request::Repair { key: key(a % 4), seen, value }, &facts));
            }
        }
    }

    /// A transaction of one phase or of two, by facts of now or of before.
    fn begin(&mut self, a: u8, b: u8, c: u8) {
        self.next_tx += 1;
        let now = self.site.facts((0..4).map(key));
        let facts = if c & 1 == 0 { now } else { self.old_facts.clone() };
        let has = |bits: u8| (0..4u8).filter(move |k| bits & (1 << k) != 0);
        let reads: Vec<Read> =
            has(a).map(|k| Read { key: key(k), version: facts.versions[&key(k)] }).collect();
        let value = |k: u8| (b & 16 == 0 || k > 0).then(|| Bytes::from(vec![c, k]));
        let changes = has(b).map(|k| Change { key: key(k), value: value(k) }).collect();
        let request = match c & 6 {
            0 => write(self.next_tx, reads.clone(), changes),
            2 => prepare(self.next_tx, HERE, reads.clone(), changes),
            _ => prepare(self.next_tx, ELSEWHERE, reads.clone(), changes),
        };
        match self.site.admit(&request, &facts) {
            Ok(_) => drop(self.reads.insert(TxId(self.next_tx), reads)),
            Err(Refused::Conflict(_) | Refused::Stale { .. }) => self.refused += 1,
            Err(other) => panic!("{other}"),
        }
    }

    /// Decides, finishes or forgets one that was prepared.
    fn end(&mut self, a: u8, c: u8) {
        let ledger = self.site.admission.ledger();
        let known: Vec<TxId> = ledger.prepared().keys().chain(ledger.decided().keys()).copied().collect();
        let Some(tx) = known.get(usize::from(a) % known.len().max(1)).copied() else { return };
        let request = match (ledger.prepared().get(&tx), ledger.decided().get(&tx)) {
            (None, Some(_)) => Request::Forget { tx },
            (Some(_), Some(Decision { commit, generation, time, .. })) => {
                Request::Finish { tx, commit: *commit, generation: *generation, time: *time }
            }
            (Some(prepared), None) if prepared.decider == HERE => Request::Decide { tx, commit: c & 3 > 0 },
            _ => {
                let generation = ledger.generation();
                Request::Finish { tx, commit: c & 3 > 0, generation, time: HybridTime(9) }
            }
        };
        self.site.admit(&request, &Facts::default()).unwrap();
    }

    fn apply(&mut self) {
        let before = self.site.rows.clone();
        let Some(applied) = self.site.apply() else { return };
        for effect in applied.effects {
            let (Effect::Written(tx) | Effect::Finished(tx, true)) = effect else { continue };
            self.committed += 1;
            for Read { key, version } in &self.reads[&tx] {
                assert_eq!(
                    before.get(key).map(|row| row.version),
                    *version,
                    "{tx} read {key:?}, and it changed"
                );
            }
        }
        assert_eq!(self.site.partition.content(), content_of(&self.site.rows));
    }
}

fn stored_and_back(partition: &Partition) -> Partition {
    let bytes = postcard::to_stdvec(partition.folded()).unwrap();
    Partition::new(partition.id(), postcard::from_bytes(&bytes).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Every transaction commits on the rows that it has read, in the order of the log; and who folds the log alone, with a pause at
    /// any place in which the state is stored, comes to the same.
    #[test]
    fn commits_are_serial_in_the_order_of_the_log(
        drawn in prop::collection::vec(any::<Drawn>(), 0..120),
        pause in 0usize..100,
    ) {
        let mut drive = Drive::new();
        drawn.into_iter().for_each(|drawn| drive.happen(drawn));
        while drive.site.partition.applied() < drive.site.log.len() as LogIndex {
            drive.apply();
        }
        prop_assert_eq!(drive.site.partition.ledger(), drive.site.admission.ledger());
        let (mut partition, mut rows) = (Partition::new(HERE, Folded::default()), BTreeMap::new());
        for (i, entry) in drive.site.log.iter().enumerate() {
            if i == pause {
                partition = stored_and_back(&partition);
            }
            fold(&mut partition, &mut rows, entry);
        }
        prop_assert_eq!(&partition, &drive.site.partition);
        prop_assert_eq!(&rows, &drive.site.rows);
        prop_assert_eq!(&stored_and_back(&partition), &partition);
    }
}
