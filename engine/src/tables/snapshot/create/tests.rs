//! The machine against a world in which owners die at every step, go on as if they had not, and puts land late.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::checkpoint::Malformed;
use crate::tables::ids::HybridTime;
use crate::tables::rows::Content;
use crate::tables::snapshot::document::{self, Copy, DocumentError, FileRef};

const ID: u64 = 7;
const PARTITIONS: u16 = 2;

type Register = Record<Request, Step>;

/// What an answer is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// No effect, and no answer.
    Again,
    /// The owner dies before it has an effect.
    DiesBefore,
    /// The owner dies after it.
    DiesAfter,
    /// It has its effect, and its answer is lost.
    AnswerLost,
    /// It has its effect later, and its answer is lost.
    Late,
    /// It fails for good.
    Fails,
}

struct World {
    register: Register,
    owner: u32,
    cut: CutId,
    documents: BTreeMap<u64, Found>,
    /// Files and drafts, by the cut they are of.
    objects: BTreeMap<String, CutId>,
    drafts: BTreeMap<String, Document>,
    late: Vec<(u64, String)>,
    late_files: Vec<(String, CutId)>,
    next_name: u32,
    ends: u32,
    is_moved: bool,
    /// What comes to be of this cut and earlier ones has come too late to be swept by this operation.
    swept: CutId,
}

fn layout() -> Layout {
    Layout::new("root", "s").unwrap()
}

fn foreign(number: u64) -> Found {
    Found::Unusable(DocumentError { object: layout().document(number), reason: Malformed::Magic })
}

impl World {
    /// With a full snapshot at cut 1 if it is an increment that is wanted.
    fn new(is_incremental: bool) -> World {
        let request = Request { root: "root".into(), name: "s".into(), is_incremental };
        let mut world = World {
            register: Record { request, step: Step::Announced, cancel: false },
            owner: 0,
            cut: 1,
            documents: BTreeMap::new(),
            objects: BTreeMap::new(),
            drafts: BTreeMap::new(),
            late: Vec::new(),
            late_files: Vec::new(),
            next_name: 0,
            ends: 0,
            is_moved: false,
            swept: 0,
        };
        if is_incremental {
            let request = Request { is_incremental: false, ..world.register.request.clone() };
            let mut create = Create::resume(1, &Record { request, ..world.register.clone() }).unwrap();
            create.step = Step::Writing { cut: 1 };
            create.learn(Fact::Seen(Box::new(world.sight())));
            let Action::Write { wanted, .. } = create.next() else { panic!("{:?}", create.next()) };
            for (partition, want) in wanted {
                create.learn(Fact::Written(Box::new(world.write(1, partition, want))));
            }
            let Action::PutDraft(document) = create.next() else { panic!("{:?}", create.next()) };
            world.documents.insert(0, found(&document));
        }
        world
    }

    fn sight(&self) -> Sight {
        let table = Table { id: 3, name: "t".into(), is_atomic: false, partitions: PARTITIONS, backups: 0 };
        Sight {
            documents: self.documents.clone(),
            tables: vec![table],
            topology: vec![Node { id: 0, name: "n0".into() }],
            busy: None,
            pin: Some((1, false)),
        }
    }

    fn name(&mut self) -> String {
        self.next_name += 1;
        format!("{:x}", self.next_name)
    }

    fn write(&mut self, cut: CutId, partition: PartitionId, want: Want) -> Part {
        let mark = cut * 10;
        let stored = match want {
            Want::Log { since } if !self.is_moved => Stored::Log { first: since, last: mark },
            _ => Stored::Rows,
        };
        let items = if let Stored::Log { first, last } = stored { last - first + 1 } else { 2 };
        let unique = self.name();
        let path = layout().file(cut, partition, stored.content(), &unique);
        self.appears(path.clone(), cut);
        let content = Content { rows: 2, sum: u128::from(cut) };
        let (latest, closed) = (HybridTime(mark), HybridTime(mark));
        Part {
            partition,
            view: 1,
            mark,
            since: mark,
            settled: mark,
            latest,
            closed,
            content,
            copies: vec![Copy { node: 0, content }],
            stored,
            files: vec![FileRef { path, len_bytes: 9, crc32c: 1, xxh3: 1, items }],
        }
    }

    fn named(&self) -> BTreeSet<String> {
        let documents = self.documents.values().filter_map(|found| match found {
            Found::Document(link) => Some(&link.document),
            _ => None,
        });
        documents.flat_map(|d| &d.parts).flat_map(|part| &part.files).map(|file| file.path.clone()).collect()
    }

    fn put(&mut self, number: u64, draft: &str) -> Put {
        if self.documents.get(&number).is_some_and(|found| *found != Found::Absent) {
            return Put::Exists;
        }
        // Whose draft was swept has been resolved before.
        let Some(document) = self.drafts.get(draft) else { return Put::Exists };
        self.documents.insert(number, found(document));
        Put::Created
    }

    fn land(&mut self) {
        for (number, draft) in std::mem::take(&mut self.late) {
            self.put(number, &draft);
        }
        for (path, cut) in std::mem::take(&mut self.late_files) {
            self.appears(path, cut);
        }
    }

    fn appears(&mut self, path: String, cut: CutId) {
        if cut > self.swept {
            self.objects.insert(path, cut);
        }
    }

    fn change(&mut self, owner: u32, step: Step) -> Option<Fact> {
        if owner != self.owner {
            return Some(Fact::NotMine);
        }
        let is_end = |step: &Step| matches!(step, Step::Done { .. } | Step::Failed(_) | Step::Cancelled);
        assert!(!is_end(&self.register.step), "{:?}, then {step:?}", self.register.step);
        self.ends += u32::from(is_end(&step));
        self.register.step = step;
        None
    }

    /// What becomes of an action; `None` if its owner died.
    fn perform(&mut self, owner: u32, action: Action, fault: Fault) -> Option<Fact> {
        let is_put = matches!(action, Action::Publish { .. });
        match fault {
            Fault::Again => return Some(Fact::Again),
            Fault::DiesBefore => return None,
            Fault::Fails => return Some(Fact::Failed(Reason::Other("broken".into()))),
            Fault::Late => {
                if let Action::Publish { draft, number } = &action {
                    self.late.push((*number, draft.path.clone()));
                    return Some(Fact::Put(Put::Unknown));
                }
                if let Action::Write { cut, wanted } = &action {
                    let before = self.objects.clone();
                    wanted.iter().for_each(|(partition, want)| drop(self.write(*cut, *partition, *want)));
                    let new = std::mem::replace(&mut self.objects, before.clone()).into_iter();
                    self.late_files.extend(new.filter(|(path, _)| !before.contains_key(path)));
                    return Some(Fact::Again);
                }
            }
            _ => {}
        }
        let fact = match action {
            Action::Look => Fact::Seen(Box::new(self.sight())),
            Action::Announce { tried } => {
                let cut = self.cut + 1;
                let changed = self.change(owner, Step::Cutting { cut, tried });
                self.cut += u64::from(changed.is_none());
                changed.unwrap_or(Fact::Announced(cut))
            }
            Action::AwaitCut(cut) if cut % 3 == 0 => Fact::GivenUp,
            Action::AwaitCut(_) => Fact::Passed,
            Action::Record(step) => self.change(owner, *step).unwrap_or(Fact::Recorded),
            Action::Write { cut, wanted } => {
                let (partition, want) = wanted.into_iter().next().expect("some are missing");
                Fact::Written(Box::new(self.write(cut, partition, want)))
            }
            Action::PutDraft(document) => {
                let path = format!("draft {}", self.name());
                self.appears(path.clone(), document.cut);
                self.drafts.insert(path.clone(), (*document).clone());
                Fact::Drafted(Draft { path, xxh3: document::checksum(&document.encode()) })
            }
            Action::Publish { draft, number } => Fact::Put(self.put(number, &draft.path)),
            Action::Read { number } => {
                Fact::Read(Box::new(self.documents.get(&number).cloned().unwrap_or(Found::Absent)))
            }
            Action::Sweep(cut) => {
                let named = self.named();
                self.swept = self.swept.max(cut);
                self.objects.retain(|path, of| *of > cut || named.contains(path));
                Fact::Swept
            }
            Action::End(_) => return Some(Fact::Again),
        };
        match fault {
            Fault::DiesAfter => None,
            Fault::AnswerLost if is_put => Some(Fact::Put(Put::Unknown)),
            _ => Some(fact),
        }
    }
}

fn found(document: &Document) -> Found {
    let xxh3 = document::checksum(&document.encode());
    Found::Document(Box::new(Link { document: document.clone(), xxh3 }))
}

/// Goes on to the end without faults.
fn finish(world: &mut World) -> End {
    world.owner += 1;
    let mut create = Create::resume(ID, &world.register).unwrap();
    for _ in 0..100 {
        let action = create.next();
        if let Action::End(end) = action {
            return end;
        }
        let fact = world.perform(world.owner, action, Fault::None).expect("nobody dies");
        create.learn(fact);
    }
    panic!("it does not end: {:?}", create.step());
}

fn judge(world: &World, end: &End) {
    let ours = |found: &Found| matches!(found, Found::Document(link) if link.document.operation == ID);
    let documents: Vec<&Found> = world.documents.values().filter(|found| ours(found)).collect();
    assert_eq!(world.ends, 1, "it ends once");
    if *end == End::Done {
        let [Found::Document(link)] = documents[..] else { panic!("done without a document: {documents:?}") };
        assert!(link.document.check().is_ok());
        for path in link.document.parts.iter().flat_map(|part| &part.files).map(|file| &file.path) {
            assert!(world.objects.contains_key(path), "{path} is missing");
        }
    } else {
        assert!(documents.is_empty(), "{end:?}, and {documents:?}");
    }
    let named = world.named();
    let left: Vec<&String> = world.objects.keys().filter(|path| !named.contains(*path)).collect();
    assert!(left.is_empty(), "{end:?}, and {left:?}");
}

#[test]
fn a_full_one_and_its_increment_are_made() {
    for is_incremental in [false, true] {
        let mut world = World::new(is_incremental);
        let end = finish(&mut world);
        assert_eq!(end, End::Done);
        judge(&world, &end);
        let number = u64::from(is_incremental);
        assert_eq!(world.register.step, Step::Done { cut: 2, number });
        let draft = Draft { path: "root/s/2/draft-a".into(), xxh3: u128::MAX };
        for step in [world.register.step.clone(), Step::Sealing { cut: 2, number, draft }] {
            let record = Record { step, ..world.register.clone() };
            assert_eq!(Register::decode(&record.encode()).unwrap(), record);
        }
    }
}

#[test]
fn a_partition_that_moved_ends_no_chain() {
    let mut world = World::new(true);
    world.is_moved = true;
    assert_eq!(finish(&mut world), End::Done);
    let Found::Document(link) = &world.documents[&1] else { panic!("no document") };
    assert!(link.document.parts.iter().all(|part| part.stored == Stored::Rows));
    assert!(link.document.warnings[0].contains("its rows are stored"));
}

#[test]
fn cuts_that_are_given_up_are_tried_again() {
    let mut world = World::new(false);
    world.cut = 2;
    assert_eq!(finish(&mut world), End::Done);
    assert_eq!(world.register.step, Step::Done { cut: 4, number: 0 });
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let refused = |is_incremental: bool, change: fn(&mut Sight)| {
        let world = World::new(is_incremental);
        let mut sight = world.sight();
        change(&mut sight);
        let mut create = Create::resume(ID, &world.register).unwrap();
        create.learn(Fact::Seen(Box::new(sight)));
        let Action::Record(step) = create.next() else { panic!("{:?}", create.next()) };
        let Step::Failed(reason) = *step else { panic!("{step:?}") };
        reason.to_string()
    };
    let busy = refused(false, |sight| sight.busy = Some((3, "restore s".into())));
    assert_eq!(busy, "operation 3 (restore s) is under way");
    assert_eq!(refused(false, |sight| sight.tables.clear()), "there are no tables");
    assert!(
        refused(false, |sight| drop(sight.documents.insert(0, foreign(0))))
            .contains("taken by something else")
    );
    assert_eq!(refused(true, |sight| sight.documents.clear()), "there is no snapshot of that name");
    assert!(refused(true, |sight| sight.pin = Some((1, true))).contains("take a full snapshot"));
    assert!(refused(true, |sight| sight.pin = Some((2, false))).contains("take a full snapshot"));
    assert!(refused(true, |sight| sight.pin = None).contains("take a full snapshot"));
    let hole = refused(true, |sight| {
        let link = sight.documents.remove(&0).unwrap();
        sight.documents.insert(2, link);
    });
    assert!(hole.contains("there is no snapshot"), "{hole}");
    let taken = World::new(true);
    let request = Request { is_incremental: false, ..taken.register.request.clone() };
    let mut create = Create::resume(ID, &Record { request, ..taken.register.clone() }).unwrap();
    create.learn(Fact::Seen(Box::new(taken.sight())));
    assert_eq!(create.next(), Action::Record(Box::new(Step::Failed(Reason::NameTaken))));
}

#[test]
fn copies_that_differ_are_no_snapshot() {
    let mut world = World::new(false);
    let mut create =
        Create::resume(ID, &Record { step: Step::Writing { cut: 2 }, ..world.register.clone() }).unwrap();
    create.learn(Fact::Seen(Box::new(world.sight())));
    let partition = PartitionId { table: 3, number: 0 };
    let mut part = world.write(2, partition, Want::Rows);
    part.copies.push(Copy { node: 1, content: Content::default() });
    create.learn(Fact::Written(Box::new(part)));
    let why = Why::Failed(Reason::CopiesDiffer { partition, cut: 2 });
    assert_eq!(create.next(), Action::Record(Box::new(Step::Undoing { cut: 2, why })));
}

#[test]
fn a_cancel_comes_in_time_or_too_late() {
    let early = Step::Writing { cut: 2 };
    let draft = Draft { path: "d".into(), xxh3: 1 };
    let late = Step::Sealing { cut: 2, number: 0, draft: draft.clone() };
    let at = |step: Step| {
        let record = Record { step, cancel: true, ..World::new(false).register };
        Create::resume(ID, &record).unwrap().next()
    };
    assert_eq!(at(early), Action::Record(Box::new(Step::Undoing { cut: 2, why: Why::Cancelled })));
    assert_eq!(at(late), Action::Publish { draft, number: 0 });
    assert_eq!(at(Step::Announced), Action::Record(Box::new(Step::Cancelled)));
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        12 => Just(Fault::None),
        2 => Just(Fault::Again),
        2 => Just(Fault::DiesBefore),
        2 => Just(Fault::DiesAfter),
        2 => Just(Fault::AnswerLost),
        2 => Just(Fault::Late),
        1 => Just(Fault::Fails),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn it_ends_whole_or_without_a_trace(
        is_incremental: bool,
        is_moved: bool,
        script in proptest::collection::vec((faults(), 0u8..24), 0..60),
    ) {
        let mut world = World::new(is_incremental);
        world.is_moved = is_moved;
        let number = u64::from(is_incremental);
        // The owner, and those who were it and do not know that they are not.
        let mut machines = vec![(0, Create::resume(ID, &world.register).unwrap())];
        for (fault, event) in script {
            match event {
                0 => world.land(),
                1 if world.register.step == Step::Announced || matches!(world.register.step, Step::Cutting { .. }) => {
                    world.documents.entry(number).or_insert_with(|| foreign(number));
                }
                2 => {
                    // An owner is taken for dead, and is not.
                    world.owner += 1;
                    machines.push((world.owner, Create::resume(ID, &world.register).unwrap()));
                }
                3 => {
                    world.register.cancel = true;
                    if let Some((_, create)) = machines.last_mut().filter(|(owner, _)| *owner == world.owner) {
                        create.learn(Fact::Cancel);
                    }
                }
                _ => {}
            }
            let at = if event > 18 { usize::from(event) % machines.len() } else { machines.len() - 1 };
            let (owner, create) = &mut machines[at];
            match world.perform(*owner, create.next(), fault) {
                Some(fact) => create.learn(fact),
                None => {
                    machines.remove(at);
                    world.owner += 1;
                    machines.push((world.owner, Create::resume(ID, &world.register).unwrap()));
                }
            }
        }
        world.land();
        let end = finish(&mut world);
        judge(&world, &end);
        // What those who are no longer owners do now changes nothing that counts.
        for (owner, mut create) in machines {
            for _ in 0..50 {
                let action = create.next();
                if matches!(action, Action::End(_) | Action::Write { .. } | Action::PutDraft(_)) {
                    break;
                }
                create.learn(world.perform(owner, action, Fault::None).expect("nobody dies"));
            }
        }
        judge(&world, &end);
    }
}
