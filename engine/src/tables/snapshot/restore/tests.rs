//! The machine against a world in which owners die at every step, and go on as if they had not.

use proptest::prelude::*;

use super::*;
use crate::tables::ids::HybridTime;
use crate::tables::snapshot::document::{self, Kind};

type Register = Record<Request, Step>;

struct World {
    register: Register,
    owner: u32,
    documents: BTreeMap<u64, Found>,
    /// By id: the name, and whether users see it.
    tables: BTreeMap<TableId, (String, bool)>,
    next_table: TableId,
    /// What partitions hold, as far as they have loaded.
    held: BTreeMap<PartitionId, Content>,
    is_damaged: bool,
    /// Copies of this partition come out otherwise.
    is_wrong: bool,
    ends: u32,
}

fn content() -> Content {
    Content { rows: 3, sum: 5 }
}

/// A table of two partitions.
fn found() -> Found {
    let mut document = document::tests::document(Kind::Full, 1);
    document.tables[0].partitions = 2;
    let mut part = document.parts[0].clone();
    part.partition.number = 1;
    document.parts.push(part);
    let layout = document.check().unwrap();
    for part in &mut document.parts {
        part.content = content();
        part.copies[0].content = content();
        let path = layout.file(1, part.partition, super::super::layout::Content::Rows, "a");
        part.files = vec![document::FileRef { path, len_bytes: 100, crc32c: 1, xxh3: 1, items: 3 }];
    }
    let xxh3 = document::checksum(&document.encode());
    Found::Document(Box::new(Link { document, xxh3 }))
}

impl World {
    fn new() -> World {
        let request = Request {
            root: "root".into(),
            name: "s".into(),
            target: Target::Increment(0),
            tables: None,
            suffix: "_restored".into(),
        };
        World {
            register: Record { request, step: Step::Validating, cancel: false },
            owner: 0,
            documents: [(0, found())].into(),
            tables: [(1, ("t".into(), true))].into(),
            next_table: 2,
            held: BTreeMap::new(),
            is_damaged: false,
            is_wrong: false,
            ends: 0,
        }
    }

    fn sight(&self) -> Sight {
        let names = self.tables.values().filter(|(_, is_visible)| *is_visible).map(|(name, _)| name.clone());
        let (documents, names) = (self.documents.clone(), names.collect());
        Sight { documents, names, busy: None, free_bytes: Some(1000) }
    }

    fn change(&mut self, owner: u32, step: Step) -> Option<Fact> {
        if owner != self.owner {
            return Some(Fact::NotMine);
        }
        assert!(!is_end(&self.register.step), "{:?}, then {step:?}", self.register.step);
        self.ends += u32::from(is_end(&step));
        self.register.step = step;
        None
    }

    fn perform(&mut self, owner: u32, action: Action) -> Fact {
        match action {
            Action::Look => Fact::Seen(Box::new(self.sight())),
            Action::Check(_) if self.is_damaged => Fact::Checked(Some((2, "a hole".into()))),
            Action::Check(_) => Fact::Checked(None),
            Action::Hide(tables) => {
                let new: BTreeMap<TableId, TableId> =
                    tables.iter().zip(self.next_table..).map(|(table, new)| (table.id, new)).collect();
                if let Some(fact) = self.change(owner, Step::Loading { tables: new.clone() }) {
                    return fact;
                }
                for table in tables {
                    self.tables.insert(self.next_table, (format!("{}_restored", table.name), false));
                    self.next_table += 1;
                }
                Fact::Hidden(new)
            }
            Action::Load(missing) => {
                let (partition, _) = missing.into_iter().next().expect("some are missing");
                if !self.tables.contains_key(&partition.table) {
                    return Fact::Failed(Reason::NoCopy { partition });
                }
                self.held.insert(partition, content());
                Fact::Loaded(partition, content())
            }
            Action::Record(step) => self.change(owner, *step).unwrap_or(Fact::Recorded),
            Action::Sum(missing) => {
                let partition = missing.into_iter().next().expect("some are missing");
                let Some(content) = self.held.get(&partition).copied() else {
                    return Fact::Failed(Reason::NoCopy { partition });
                };
                let other = if self.is_wrong { Content::default() } else { content };
                let copies = vec![Copy { node: 0, content }, Copy { node: 1, content: other }];
                Fact::Held(partition, copies)
            }
            Action::Publish(tables) => {
                let names: Vec<String> = tables
                    .iter()
                    .map(|id| self.tables.get(id).map(|(name, _)| name.clone()))
                    .collect::<Option<_>>()
                    .unwrap_or_default();
                let taken = names
                    .iter()
                    .find(|name| self.tables.values().any(|(other, visible)| *visible && other == *name));
                if let Some(table) = taken.filter(|_| owner == self.owner).cloned() {
                    return Fact::Failed(Reason::TableThere { table });
                }
                if let Some(fact) = self.change(owner, Step::Done { tables: tables.clone() }) {
                    return fact;
                }
                for id in tables {
                    self.tables.get_mut(&id).expect("it was made").1 = true;
                }
                Fact::Recorded
            }
            Action::Drop { tables, end } => {
                if let Some(fact) = self.change(owner, *end) {
                    return fact;
                }
                for id in tables {
                    let (_, is_visible) = self.tables.remove(&id).expect("it was made");
                    assert!(!is_visible, "only hidden tables are dropped");
                    self.held.retain(|partition, _| partition.table != id);
                }
                Fact::Recorded
            }
            Action::End(_) => Fact::Again,
        }
    }
}

fn finish(world: &mut World) -> End {
    world.owner += 1;
    let mut restore = Restore::resume(&world.register).unwrap();
    for _ in 0..100 {
        let action = restore.next();
        if let Action::End(end) = action {
            return end;
        }
        let fact = world.perform(world.owner, action);
        restore.learn(fact);
    }
    panic!("it does not end: {:?}", restore.step());
}

fn judge(world: &World, end: &End) {
    assert_eq!(world.ends, 1, "it ends once");
    let hidden = world.tables.values().filter(|(_, is_visible)| !is_visible).count();
    assert_eq!(hidden, 0, "{end:?}: {:?}", world.tables);
    let restored: Vec<TableId> = world.tables.keys().copied().filter(|id| (2..100).contains(id)).collect();
    if *end == End::Done {
        assert_eq!(restored.len(), 1);
        for number in 0..2 {
            assert_eq!(world.held[&PartitionId { table: restored[0], number }], content());
        }
    } else {
        assert_eq!(restored, [] as [TableId; 0], "{end:?}");
        assert!(world.held.is_empty());
    }
}

#[test]
fn tables_come_back_under_other_names() {
    let mut world = World::new();
    assert_eq!(finish(&mut world), End::Done);
    judge(&world, &End::Done);
    assert_eq!(world.tables[&2], ("t_restored".into(), true));
    assert_eq!(world.register.step, Step::Done { tables: [2].into() });
    let text = world.register.encode();
    assert_eq!(Register::decode(&text).unwrap(), world.register);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let refused = |change: fn(&mut World, &mut Sight)| {
        let mut world = World::new();
        let mut sight = world.sight();
        change(&mut world, &mut sight);
        let mut restore = Restore::resume(&world.register).unwrap();
        restore.learn(Fact::Seen(Box::new(sight)));
        let Action::Drop { tables, end } = restore.next() else { panic!("{:?}", restore.next()) };
        let Step::Failed(reason) = *end else { panic!("{end:?}") };
        assert!(tables.is_empty());
        reason.to_string()
    };
    assert_eq!(
        refused(|_, sight| sight.busy = Some((3, "create s".into()))),
        "operation 3 (create s) is under way"
    );
    assert_eq!(refused(|_, sight| sight.documents.clear()), "there is no snapshot of that name");
    let there = refused(|world, _| world.register.request.suffix.clear());
    assert_eq!(there, "there is a table t already: restore it under another name");
    assert!(
        refused(|world, _| world.register.request.tables = Some(vec!["u".into()])).contains("no table u")
    );
    assert!(
        refused(|world, _| world.register.request.target = Target::Increment(1))
            .contains("increment 1 is missing")
    );
    let early = refused(|world, _| world.register.request.target = Target::Time(HybridTime(99)));
    assert!(early.contains("the earliest that can is 100 us"), "{early}");
    let late = refused(|world, _| world.register.request.target = Target::Time(HybridTime(151)));
    assert!(late.contains("the latest that can is 150 us"), "{late}");
    assert!(refused(|_, sight| sight.free_bytes = Some(199)).contains("it takes up to 200 bytes"));
}

#[test]
fn a_time_at_a_cut_is_that_cut() {
    let mut world = World::new();
    world.register.request.target = Target::Time(HybridTime(120));
    assert_eq!(finish(&mut world), End::Done);
}

#[test]
fn damage_and_differences_end_it_without_a_trace() {
    let mut world = World::new();
    world.is_damaged = true;
    let end = finish(&mut world);
    assert_eq!(end, End::Failed(Reason::Damaged { defects: 2, first: "a hole".into() }));
    judge(&world, &end);
    let mut world = World::new();
    world.is_wrong = true;
    let end = finish(&mut world);
    assert!(matches!(end, End::Failed(Reason::NotEqual { .. })), "{end:?}");
    judge(&world, &end);
}

#[test]
fn a_partition_that_loads_something_else_is_noticed() {
    let mut world = World::new();
    let mut restore = Restore::resume(&world.register).unwrap();
    let missing = loop {
        match restore.next() {
            Action::Load(missing) => break missing,
            action => restore.learn(world.perform(0, action)),
        }
    };
    let partition = *missing.keys().next().unwrap();
    restore.learn(Fact::Loaded(partition, Content::default()));
    assert!(matches!(restore.next(), Action::Drop { .. }));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Again,
    DiesBefore,
    DiesAfter,
    Fails,
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        12 => Just(Fault::None),
        2 => Just(Fault::Again),
        2 => Just(Fault::DiesBefore),
        2 => Just(Fault::DiesAfter),
        1 => Just(Fault::Fails),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn it_ends_with_all_tables_or_without_a_trace(script in proptest::collection::vec((faults(), 0u8..24), 0..40)) {
        let mut world = World::new();
        let mut machines = vec![(0, Restore::resume(&world.register).unwrap())];
        for (fault, event) in script {
            match event {
                0 => drop(world.tables.insert(100, ("t_restored".into(), world.register.step == Step::Validating || !is_end(&world.register.step)))),
                1 => world.is_wrong = !is_end(&world.register.step),
                2 => {
                    world.owner += 1;
                    machines.push((world.owner, Restore::resume(&world.register).unwrap()));
                }
                3 => {
                    world.register.cancel = true;
                    if let Some((_, restore)) = machines.last_mut().filter(|(owner, _)| *owner == world.owner) {
                        restore.learn(Fact::Cancel);
                    }
                }
                _ => {}
            }
            world.tables.retain(|id, (_, is_visible)| *id != 100 || *is_visible);
            let at = if event > 18 { usize::from(event) % machines.len() } else { machines.len() - 1 };
            let (owner, restore) = &mut machines[at];
            let action = restore.next();
            match fault {
                Fault::Again => restore.learn(Fact::Again),
                Fault::Fails => restore.learn(Fact::Failed(Reason::Other("broken".into()))),
                Fault::None => {
                    let fact = world.perform(*owner, action);
                    restore.learn(fact);
                }
                Fault::DiesBefore | Fault::DiesAfter => {
                    if fault == Fault::DiesAfter {
                        world.perform(*owner, action);
                    }
                    machines.remove(at);
                    world.owner += 1;
                    machines.push((world.owner, Restore::resume(&world.register).unwrap()));
                }
            }
        }
        let end = finish(&mut world);
        judge(&world, &end);
        // What those who are no longer owners do now changes nothing that counts.
        for (owner, mut restore) in machines {
            for _ in 0..50 {
                let action = restore.next();
                if matches!(action, Action::End(_)) {
                    break;
                }
                restore.learn(world.perform(owner, action));
            }
        }
        judge(&world, &end);
    }
}
