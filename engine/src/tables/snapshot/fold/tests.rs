//! Logs that a partition may have, folded from cut to cut and to times between, against a model that knows what every transaction did.

use proptest::prelude::*;

use super::*;
use crate::tables::ids::PartitionId;
use crate::tables::rows::Row;

/// The rows themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Whole(BTreeMap<Bytes, Row>);

impl Rows for Whole {
    fn version(&self, key: &[u8]) -> Option<LogIndex> {
        self.0.get(key).map(|row| row.version)
    }

    fn set(&mut self, key: &Bytes, version: LogIndex, value: Option<&Bytes>) {
        match value {
            Some(value) => drop(self.0.insert(key.clone(), Row { version, value: value.clone() })),
            None => drop(self.0.remove(key)),
        }
    }

    fn content(&self) -> Content {
        let mut content = Content::default();
        self.0.iter().for_each(|(key, row)| content.add(key, &row.value));
        content
    }
}

/// What took effect, in the order of the log.
#[derive(Clone, Debug)]
struct Effect {
    index: LogIndex,
    generation: CutId,
    /// `None` of a repair.
    time: Option<u64>,
    changes: Vec<Change>,
}

/// A cut as its document tells of it.
#[derive(Clone, Copy, Debug)]
struct At {
    cut: CutId,
    mark: LogIndex,
    since: LogIndex,
    settled: LogIndex,
    closed: u64,
}

struct Open {
    tx: TxId,
    index: LogIndex,
    changes: Vec<Change>,
    generation: CutId,
    prepared_at: u64,
}

/// A partition that follows the rules, and all that is known of it.
#[derive(Default)]
struct Partition {
    log: Vec<Entry>,
    effects: Vec<Effect>,
    open: Vec<Open>,
    live: Whole,
    cuts: Vec<At>,
    now: u64,
    next: u128,
}

impl Partition {
    fn push(&mut self, entry: Entry) -> LogIndex {
        self.log.push(entry);
        self.log.len() as u64
    }

    fn changes(&mut self, choice: u8) -> Vec<Change> {
        let keys = [choice & 3, (choice >> 2) & 3];
        let keys = if keys[0] < keys[1] { keys.to_vec() } else { vec![keys[0]] };
        let is_locked = |key: &u8| self.open.iter().any(|open| open.changes.iter().any(|c| c.key[0] == *key));
        let free = keys.into_iter().filter(|key| !is_locked(key));
        let value = (choice & 0x30 != 0).then(|| Bytes::from(self.log.len().to_string()));
        free.map(|key| Change { key: Bytes::copy_from_slice(&[key]), value: value.clone() }).collect()
    }

    fn effect(&mut self, index: LogIndex, generation: CutId, time: Option<u64>, changes: Vec<Change>) {
        for change in &changes {
            self.live.set(&change.key, index, change.value.as_ref());
        }
        self.effects.push(Effect { index, generation, time, changes });
    }

    fn cut(&self) -> CutId {
        self.cuts.last().map_or(0, |at| at.cut)
    }

    fn step(&mut self, what: u8, choice: u8) {
        self.now += 1;
        self.next += 1;
        let (tx, now, cut) = (TxId(self.next), self.now, self.cut());
        let time = HybridTime(now);
        let changes = self.changes(choice);
        match what {
            0 => {
                // Numbers are left out where a cut was given up.
                let index = self.log.len() as u64 + 1;
                let since = self.open.iter().map(|open| open.index).min().unwrap_or(index);
                let cut = cut + 1 + u64::from(choice & 1);
                self.cuts.push(At { cut, mark: index, since, settled: index, closed: now });
                self.push(Entry::Mark { cut, since });
            }
            1..=4 => {
                let index = self.push(Entry::Write { tx, time, changes: changes.clone() });
                self.effect(index, cut, Some(now), changes);
            }
            5..=7 => {
                let partition = PartitionId { table: 1, number: 0 };
                let (decider, participants, reads) = (partition, vec![partition], vec![]);
                let entry = Entry::Prepare { tx, decider, participants, reads, changes: changes.clone() };
                let index = self.push(entry);
                self.open.push(Open { tx, index, changes, generation: cut, prepared_at: now });
            }
            8..=11 if !self.open.is_empty() => {
                let Open { tx, changes, generation: least, prepared_at, .. } =
                    self.open.remove(usize::from(choice) % self.open.len());
                let generations: Vec<CutId> =
                    self.cuts.iter().map(|at| at.cut).filter(|cut| *cut > least).chain([least]).collect();
                let generation = generations[usize::from(choice >> 1) % generations.len()];
                let started = self.cuts.iter().find(|at| at.cut == generation).map_or(0, |at| at.closed);
                let earliest = started.max(prepared_at) + 1;
                let decided = earliest + (now - earliest.min(now)) * u64::from(choice & 3) / 4;
                let commit = choice & 0x40 == 0;
                let time = HybridTime(decided.min(now));
                let index = self.push(Entry::Finish { tx, commit, generation, time });
                for at in self.cuts.iter_mut().filter(|at| at.cut > generation) {
                    at.settled = index;
                }
                if commit {
                    self.effect(index, generation, Some(time.0), changes);
                }
            }
            12 if changes.len() == 1 => {
                let Change { key, value } = changes[0].clone();
                let version = self.live.version(&key);
                let seen = if choice & 0x40 == 0 { vec![version] } else { vec![Some(u64::MAX)] };
                let index = self.push(Entry::Repair { key, seen: seen.clone(), value });
                if seen[0] == version {
                    self.effect(index, cut, None, changes);
                }
            }
            13 => drop(self.push(Entry::Forget { tx })),
            _ => {}
        }
    }

    fn run(script: &[(u8, u8)]) -> Partition {
        let mut partition = Partition::default();
        script.iter().for_each(|(what, choice)| partition.step(*what, *choice));
        while !partition.open.is_empty() {
            partition.step(8, 0);
        }
        partition
    }

    /// What the wanted effects come to.
    fn rows(&self, wanted: impl Fn(&Effect) -> bool) -> Whole {
        let mut rows = Whole::default();
        for effect in self.effects.iter().filter(|effect| wanted(effect)) {
            effect.changes.iter().for_each(|c| rows.set(&c.key, effect.index, c.value.as_ref()));
        }
        rows
    }

    fn at_cut(&self, cut: CutId) -> Whole {
        self.rows(|effect| effect.generation < cut)
    }

    fn step_between(&self, from: At, to: At, until: Option<u64>) -> Step {
        let until = until.map(HybridTime);
        let (since, settled) = (from.since, to.settled);
        Step { from: from.cut, from_mark: from.mark, since, to: to.cut, to_mark: to.mark, settled, until }
    }

    fn entries(&self, step: Step) -> impl Iterator<Item = Indexed> {
        let entry =
            |index: LogIndex| Indexed { index, entry: self.log[usize::try_from(index).unwrap() - 1].clone() };
        (step.since..=step.settled).map(entry)
    }

    /// The rows at a cut, and on with logs.
    fn fold(&self, base: At, steps: &[Step]) -> Result<(Whole, Digests), FoldError> {
        let (mut whole, mut digests) = (Fold::new(Whole::default()), Fold::new(Digests::default()));
        for (key, row) in self.at_cut(base.cut).0 {
            whole.base(KeyedRow { key: key.clone(), row: row.clone() });
            digests.base(KeyedRow { key, row });
        }
        for step in steps {
            whole.begin(*step);
            digests.begin(*step);
            for entry in self.entries(*step) {
                assert_eq!(whole.entry(entry.clone()), digests.entry(entry.clone()));
                if matches!((&step.until, &entry.entry), (Some(_), Entry::Repair { .. }))
                    && entry.index > step.from_mark
                    && entry.index < step.to_mark
                {
                    return Err(FoldError::Untimed { index: entry.index });
                }
            }
            whole.end()?;
            digests.end()?;
        }
        assert_eq!(whole.rows().content(), digests.rows().content());
        Ok((whole.rows().clone(), digests.rows().clone()))
    }
}

fn scripts() -> impl Strategy<Value = Vec<(u8, u8)>> {
    proptest::collection::vec((0u8..14, any::<u8>()), 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn every_cut_is_reached_from_every_one_before(script in scripts()) {
        let partition = Partition::run(&script);
        for (at, from) in partition.cuts.iter().enumerate() {
            let mut steps = Vec::new();
            for pair in partition.cuts[at..].windows(2) {
                steps.push(partition.step_between(pair[0], pair[1], None));
                let (whole, _) = partition.fold(*from, &steps).unwrap();
                prop_assert_eq!(&whole, &partition.at_cut(pair[1].cut), "step by step to {:?}", pair[1]);
                // One log over several cuts does as well.
                let direct = partition.step_between(*from, pair[1], None);
                prop_assert_eq!(&partition.fold(*from, &[direct]).unwrap().0, &whole);
            }
        }
    }

    #[test]
    fn every_time_between_cuts_is_reached_or_refused(script in scripts(), times in proptest::collection::vec(0u64..130, 8)) {
        let partition = Partition::run(&script);
        let latest = |at: &At| {
            let before = partition.effects.iter().filter(|effect| effect.generation < at.cut);
            before.filter_map(|effect| effect.time).max().unwrap_or(0)
        };
        for time in times {
            let Some(begin) = partition.cuts.iter().rposition(|at| latest(at) <= time) else { continue };
            let Some(end) = partition.cuts.iter().position(|at| at.closed >= time) else { continue };
            let cuts = &partition.cuts[begin..=end.max(begin)];
            let step = |pair: &[At]| partition.step_between(pair[0], pair[1], Some(time));
            let steps: Vec<Step> = cuts.windows(2).map(step).collect();
            match partition.fold(cuts[0], &steps) {
                Ok((whole, _)) => {
                    let is_early = |effect: &Effect| {
                        effect.time.map_or(effect.generation < cuts[0].cut, |at| at <= time)
                    };
                    prop_assert_eq!(whole, partition.rows(is_early));
                }
                Err(error) => {
                    let is_untimed = matches!(error, FoldError::Untimed { .. });
                    prop_assert!(is_untimed, "{}", error);
                }
            }
        }
    }

    #[test]
    fn a_log_with_a_hole_is_refused(script in scripts(), hole in 0usize..200) {
        let partition = Partition::run(&script);
        prop_assume!(partition.cuts.len() > 1);
        let step = partition.step_between(partition.cuts[0], partition.cuts[1], None);
        let entries: Vec<Indexed> = partition.entries(step).collect();
        let missing = hole % entries.len();
        let mut fold = Fold::new(Digests::default());
        fold.begin(step);
        let mut rest = entries.into_iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, entry)| entry);
        let failed = rest.find_map(|entry| fold.entry(entry).err());
        let failed = failed.or_else(|| fold.end().err());
        let is_gap = matches!(failed, Some(FoldError::Gap { .. }));
        prop_assert!(is_gap, "{:?}", failed);
    }
}

#[test]
fn marks_are_where_the_document_says() {
    let mut fold = Fold::new(Digests::default());
    let step = Step { from: 1, from_mark: 5, since: 5, to: 2, to_mark: 6, settled: 6, until: None };
    fold.begin(step);
    let mark = |index, cut| Indexed { index, entry: Entry::Mark { cut, since: index } };
    assert_eq!(fold.entry(mark(5, 2)), Err(FoldError::NoMark { index: 5, cut: 1 }));
    let mut fold = Fold::new(Digests::default());
    fold.begin(step);
    fold.entry(mark(5, 1)).unwrap();
    assert_eq!(fold.entry(mark(6, 3)), Err(FoldError::NoMark { index: 6, cut: 2 }));
}

#[test]
fn a_transaction_that_is_decided_and_not_finished_is_noticed() {
    let mut fold = Fold::new(Digests::default());
    fold.begin(Step { from: 1, from_mark: 1, since: 1, to: 2, to_mark: 4, settled: 4, until: None });
    let partition = PartitionId { table: 1, number: 0 };
    let tx = TxId(9);
    let (participants, reads, changes) = (vec![partition], vec![], vec![]);
    let entries = [
        Entry::Mark { cut: 1, since: 1 },
        Entry::Prepare { tx, decider: partition, participants, reads, changes },
        Entry::Decide { tx, commit: true, generation: 1, time: HybridTime(3) },
        Entry::Mark { cut: 2, since: 2 },
    ];
    for (index, entry) in (1..).zip(entries) {
        fold.entry(Indexed { index, entry }).unwrap();
    }
    assert_eq!(fold.end(), Err(FoldError::Unsettled { tx, generation: 1 }));
}
