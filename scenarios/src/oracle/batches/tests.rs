//! Each rule of the batches with contents that keep it, and with one that breaks it.

use super::*;

fn write(batches: &mut Batches, actor: usize, key: &str, value: &str, sequence: Option<u64>) {
    let key = format!("writer{actor}/{key}").into_bytes();
    let id = batches.attempt(Batch::new(actor, vec![(key, Some(value.into()))], false));
    if let Some(sequence) = sequence {
        batches.acknowledge(id, sequence).unwrap();
    }
}

fn content(pairs: &[(&str, &str)]) -> Content {
    pairs.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect()
}

/// Writer 0 wrote a=1 (1, durable), a=2 (3); writer 1 wrote b=1 (2), and waits for b=2.
fn sample() -> Batches {
    let mut batches = Batches::default();
    write(&mut batches, 0, "a", "1", Some(1));
    write(&mut batches, 1, "b", "1", Some(2));
    write(&mut batches, 0, "a", "2", Some(3));
    write(&mut batches, 1, "b", "2", None);
    batches.synced(synced(1));
    batches
}

fn synced(sequence: u64) -> Synced {
    Synced { sequence, at_us: 0, asked_at: Place::default(), answered_at: Place::default() }
}

#[test]
fn every_legal_cut_is_accepted() {
    for legal in [
        &[("writer0/a", "1")][..],
        &[("writer0/a", "1"), ("writer1/b", "1")],
        &[("writer0/a", "2"), ("writer1/b", "1")],
        &[("writer0/a", "2"), ("writer1/b", "2")],
    ] {
        sample().recover(&content(legal), false).unwrap_or_else(|v| panic!("{legal:?}: {v}"));
    }
}

#[test]
fn what_is_no_cut_is_refused() {
    let cases: [(&[(&str, &str)], &str); 4] = [
        (&[], "what was acknowledged as durable is recovered"),
        (&[("writer0/a", "2")], "what is recovered is a prefix of what was written"),
        (&[("writer0/a", "3")], "what is there was written"),
        (&[("writer0/a", "1"), ("other", "1")], "what is there was written"),
    ];
    for (found, property) in cases {
        let violation = sample().recover(&content(found), false).unwrap_err();
        assert_eq!(violation.property, property, "{found:?}");
    }
}

#[test]
fn a_kill_keeps_all_that_was_acknowledged() {
    let lost = content(&[("writer0/a", "1"), ("writer1/b", "1")]);
    assert!(sample().recover(&lost, false).is_ok());
    assert!(sample().recover(&lost, true).is_err());
    let kept = content(&[("writer0/a", "2"), ("writer1/b", "1")]);
    assert!(sample().recover(&kept, true).is_ok());
}

#[test]
fn what_a_recovery_showed_stays() {
    let mut batches = sample();
    let shown = content(&[("writer0/a", "2"), ("writer1/b", "1")]);
    batches.recover(&shown, false).unwrap();
    assert!(batches.clone().recover(&shown, false).is_ok());
    assert!(batches.recover(&content(&[("writer0/a", "1"), ("writer1/b", "1")]), false).is_err());
}

/// Writer 0 wrote a=1 and waits for a=2, which writer 1 has read.
fn shown(wants_sync: bool) -> Batches {
    let mut batches = Batches::default();
    write(&mut batches, 0, "a", "1", Some(1));
    let change = (b"writer0/a".to_vec(), Some(b"2".to_vec()));
    batches.attempt(Batch::new(0, vec![change], wants_sync));
    batches.judge_foreign_read(0, 1, b"writer0/a", &Some(b"2".to_vec())).unwrap();
    batches
}

#[test]
fn what_a_reader_was_shown_does_not_unhappen() {
    let (old, new) = (content(&[("writer0/a", "1")]), content(&[("writer0/a", "2")]));
    for (wants_sync, keeps_all, may_be_lost) in
        [(false, false, true), (false, true, false), (true, false, false), (true, true, false)]
    {
        match shown(wants_sync).recover(&old, keeps_all) {
            Ok(_) => assert!(may_be_lost),
            Err(violation) => {
                assert!(!may_be_lost);
                assert_eq!(violation.property, "what a reader was shown is still there");
            }
        }
        assert!(shown(wants_sync).recover(&new, keeps_all).is_ok());
    }
    let mut forgiven = shown(true);
    forgiven.forgive_syncs(1);
    assert!(forgiven.recover(&old, false).is_ok());
}

#[test]
fn a_foreign_read_is_of_a_moment_while_it_went_on() {
    let mut batches = sample();
    let read = |batches: &mut Batches, answered, value: Option<&str>| {
        let value = value.map(|value| value.as_bytes().to_vec());
        batches.judge_foreign_read(1, answered, b"writer1/b", &value)
    };
    assert_eq!(batches.answered(1), 1);
    assert!(read(&mut batches, 0, None).is_ok(), "before it was written");
    assert!(read(&mut batches, 0, Some("1")).is_ok());
    assert!(read(&mut batches, 1, Some("2")).is_ok(), "not answered yet, and visible");
    assert!(read(&mut batches, 1, None).is_err(), "that was over when the read began");
    assert!(read(&mut batches, 0, Some("3")).is_err());
}

#[test]
fn a_copy_is_exact() {
    let at_two = content(&[("writer0/a", "1"), ("writer1/b", "1")]);
    assert!(sample().judge_cut("checkpoint", &at_two, 2).is_ok());
    assert!(sample().judge_cut("checkpoint", &at_two, 3).is_err());
    assert!(sample().judge_cut("checkpoint", &at_two, 1).is_err(), "writer 1's first batch is after the cut");
}

#[test]
fn sequence_numbers_grow() {
    let mut batches = Batches::default();
    write(&mut batches, 0, "a", "1", Some(5));
    let id = batches.attempt(Batch::new(0, vec![], false));
    assert!(batches.acknowledge(id, 5).is_err());
}
