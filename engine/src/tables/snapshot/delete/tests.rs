//! The machine against a world in which owners die at every step; what is there is a whole chain at every moment.

use proptest::prelude::*;

use super::*;

fn names() -> Vec<String> {
    let layout = Layout::new("root", "s").unwrap();
    let partition = crate::tables::ids::PartitionId { table: 1, number: 0 };
    let file = |cut, content| layout.file(cut, partition, content, "ab");
    let content = super::super::layout::Content::Log;
    let mut names: Vec<String> = (0..4).map(|number| layout.document(number)).collect();
    names.extend((1..4).map(|cut| file(cut, content)));
    names.push(layout.draft(5, "cd"));
    names.push("root/s/mine.txt".into());
    names
}

fn record() -> Record<Request, Step> {
    let request = Request { root: "root".into(), name: "s".into() };
    Record { request, step: Step::Checking, cancel: false }
}

/// What is there is a chain with its files, or no document at all.
fn judge(objects: &[String]) {
    let layout = Layout::new("root", "s").unwrap();
    let there: Vec<bool> = (0..4).map(|number| objects.contains(&layout.document(number))).collect();
    assert!(there.is_sorted_by(|a, b| a >= b), "a hole: {there:?}");
    let files = objects.iter().filter(|path| matches!(layout.parse(path), Some(Object::File { .. }))).count();
    assert!(!there[0] || files == 3, "a document without its files");
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let listed = |objects: Vec<String>, busy| {
        let mut delete = Delete::resume(&record()).unwrap();
        delete.learn(Fact::Listed { objects, busy });
        delete.next()
    };
    let busy = listed(names(), Some((4, "restore s".into())));
    assert_eq!(busy, Action::Record(Step::Failed(Reason::Busy { id: 4, kind: "restore s".into() })));
    let nothing = listed(vec!["root/s/mine.txt".into()], None);
    assert_eq!(nothing, Action::Record(Step::Failed(Reason::NoSnapshot)));
    assert_eq!(listed(names(), None), Action::Record(Step::Deleting));
    let cancelled = Record { cancel: true, ..record() };
    assert_eq!(Delete::resume(&cancelled).unwrap().next(), Action::Record(Step::Cancelled));
    let late = Record { step: Step::Deleting, ..cancelled };
    assert_eq!(Delete::resume(&late).unwrap().next(), Action::List);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn it_goes_on_to_the_end(script in proptest::collection::vec((0u8..8, any::<bool>()), 0..60)) {
        let mut objects = names();
        let mut register = record();
        let mut delete = Delete::resume(&register).unwrap();
        let faults = script.into_iter().map(Some).chain(std::iter::repeat_n(None, 60));
        for fault in faults {
            let (fault, cancel) = fault.unwrap_or((9, false));
            if cancel && fault == 0 {
                register.cancel = true;
                delete.learn(Fact::Cancel);
            }
            let action = delete.next();
            let fact = match (&action, fault) {
                (_, 1) => Fact::Again,
                (Action::List, _) => Fact::Listed { objects: objects.clone(), busy: None },
                (Action::Record(step), _) => {
                    register.step = step.clone();
                    Fact::Recorded
                }
                (Action::Delete(path), _) => {
                    objects.retain(|other| other != path);
                    Fact::Deleted
                }
                (Action::End(_), _) => break,
            };
            judge(&objects);
            if fault == 2 {
                delete = Delete::resume(&register).unwrap();
            } else {
                delete.learn(fact);
            }
        }
        match register.step {
            Step::Done => prop_assert_eq!(objects, ["root/s/mine.txt"]),
            Step::Cancelled => prop_assert_eq!(objects, names()),
            step => prop_assert!(false, "{:?}", step),
        }
    }
}
