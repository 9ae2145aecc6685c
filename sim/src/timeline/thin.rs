//! Which events of a long story are kept: a page that a browser opens quickly holds so many and no more.
//!
//! What is rare and decides (faults, lives, oracles, operations, phases, logs) is kept first. Of the rest, what is near the
//! violation (or the end) is worth most: it is filled up from there, backwards, and then with what comes after it.

use std::collections::BTreeMap;

use cutwater_io::sim::Event;

use super::model::Told;

/// The most events in a page.
const EVENTS_MAX: usize = 20_000;
/// The longest detail of an event, in characters.
const DETAIL_MAX: usize = 4_000;

/// Kinds of which there are many, by their beginnings.
const COMMON: [&str; 4] = ["disk.", "net.", "point", "objects."];

/// What is left of a story.
pub(super) struct Thinned {
    pub(super) events: Vec<Told>,
    /// The new position of each event, if it is kept.
    pub(super) kept: Vec<Option<usize>>,
    /// What was taken out.
    pub(super) left_out: Vec<String>,
}

/// Thins a story in which an oracle objects at the event `violation`.
pub(super) fn thin(story: &[Event], violation: Option<usize>) -> Thinned {
    let keep = choose(story, violation, EVENTS_MAX);
    let mut events = Vec::new();
    let mut gone: BTreeMap<&str, u64> = BTreeMap::new();
    let mut kept = Vec::with_capacity(story.len());
    for (event, keep) in story.iter().zip(&keep) {
        if !keep {
            *gone.entry(&event.kind).or_default() += 1;
            kept.push(None);
            continue;
        }
        kept.push(Some(events.len()));
        events.push(Told { t: event.at_ns, n: event.node, k: event.kind.clone(), d: cut(&event.detail) });
    }
    let left_out = if gone.is_empty() {
        Vec::new()
    } else {
        let kinds: Vec<String> = gone.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        vec![format!(
            "{} of {} events are not listed, the farthest from the end of the story: {}",
            gone.values().sum::<u64>(),
            story.len(),
            kinds.join(", ")
        )]
    };
    Thinned { events, kept, left_out }
}

fn choose(story: &[Event], violation: Option<usize>, max: usize) -> Vec<bool> {
    if story.len() <= max {
        return vec![true; story.len()];
    }
    let middle = violation.map_or(story.len(), |i| i + 1);
    let backwards_then_on = (0..middle).rev().chain(middle..story.len());
    let (common, rare): (Vec<usize>, Vec<usize>) = backwards_then_on.partition(|i| is_common(&story[*i]));
    let mut keep = vec![false; story.len()];
    rare.into_iter().chain(common).take(max).for_each(|i| keep[i] = true);
    keep
}

fn is_common(event: &Event) -> bool {
    event.kind != "disk.power_fail" && COMMON.iter().any(|kind| event.kind.starts_with(kind))
}

fn cut(detail: &str) -> String {
    match detail.char_indices().nth(DETAIL_MAX) {
        Some((end, _)) => format!("{}… ({} bytes in all)", &detail[..end], detail.len()),
        None => detail.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, i: u64) -> Event {
        Event { at_ns: i, node: 1, kind: kind.into(), detail: "x".into(), facts: BTreeMap::new() }
    }

    #[test]
    fn what_decides_stays_and_so_does_what_came_just_before_it() {
        let story: Vec<Event> = (0..100)
            .map(|i| {
                event(
                    if i == 3 {
                        "crash"
                    } else if i == 70 {
                        "oracle"
                    } else {
                        "disk.read"
                    },
                    i,
                )
            })
            .collect();
        let keep = choose(&story, Some(70), 10);
        let kept: Vec<usize> = (0..100).filter(|i| keep[*i]).collect();
        assert_eq!(kept, [3, 62, 63, 64, 65, 66, 67, 68, 69, 70]);
        assert_eq!(choose(&story, None, 1000), vec![true; 100]);
    }

    #[test]
    fn a_page_says_what_it_left_out() {
        let story: Vec<Event> = (0..EVENTS_MAX as u64 + 5).map(|i| event("net.send", i)).collect();
        let thinned = thin(&story, None);
        assert_eq!(thinned.events.len(), EVENTS_MAX);
        assert_eq!(thinned.kept[4], None);
        assert_eq!(thinned.kept[5], Some(0));
        assert!(thinned.left_out[0].starts_with("5 of 20005 events"), "{:?}", thinned.left_out);
        assert_eq!(cut(&"é".repeat(DETAIL_MAX + 1)).chars().filter(|c| *c == 'é').count(), DETAIL_MAX);
    }
}
