//! What lists tell. The longest one that was read is the order of all versions up to there; the others must begin as it does. What
//! was appended and never read comes after it, in an order that nobody knows, except that who read all of it and then appended comes first.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use cutwater_sim::scenario::Violation;

use super::graph::{Graph, Kind, Versions};
use super::{History, Operation, violation};

/// What one transaction did with the list.
struct View<'a> {
    tx: usize,
    /// What it read, without what it had appended itself.
    reads: Vec<&'a [u64]>,
    /// What it read, as it was.
    raw: Vec<&'a [u64]>,
    appended: Vec<u64>,
}

/// An element's place among those that its transaction appended.
#[derive(Clone, Copy)]
struct Place {
    tx: usize,
    nth: usize,
    of: usize,
}

/// Adds the edges that the list `key` implies.
pub(super) fn infer<'a>(
    history: &History<'a>,
    graph: &mut Graph,
    key: &'a str,
    touching: &[usize],
) -> Result<(), Violation> {
    let views = touching.iter().map(|tx| view(history, key, *tx)).collect::<Result<Vec<_>, _>>()?;
    let mut places = BTreeMap::new();
    for View { tx, appended, .. } in &views {
        let of = appended.len();
        places
            .extend(appended.iter().enumerate().map(|(nth, element)| (*element, Place { tx: *tx, nth, of })));
    }
    let order = order(history, key, &views, &places)?;
    edges(graph, key, &views, &places, &order);
    Ok(())
}

fn view<'a>(history: &History<'a>, key: &'a str, tx: usize) -> Result<View<'a>, Violation> {
    let mut view = View { tx, reads: Vec::new(), raw: Vec::new(), appended: Vec::new() };
    for operation in history.transactions[tx].operations.iter().filter(|op| op.key() == key) {
        match operation {
            Operation::Append { element, .. } => view.appended.push(*element),
            Operation::ReadList { elements, .. } => {
                let others = elements.strip_suffix(view.appended.as_slice());
                let others = others.filter(|others| others.iter().all(|e| history.writer(key, *e) != tx));
                let Some(others) = others else {
                    return Err(violation("a transaction sees its own writes").found(format!(
                        "{} had appended {:?} to {key}, and read {elements:?}",
                        history.name(tx),
                        view.appended
                    )));
                };
                view.reads.push(others);
                view.raw.push(elements);
            }
            _ => unreachable!("the key is a list"),
        }
    }
    Ok(view)
}

/// The order of the elements as far as it is known.
fn order(
    history: &History<'_>,
    key: &str,
    views: &[View<'_>],
    places: &BTreeMap<u64, Place>,
) -> Result<Vec<u64>, Violation> {
    let raw = || views.iter().flat_map(|view| view.raw.iter().map(|list| (view.tx, *list)));
    let (longest_reader, longest) = raw().max_by_key(|(_, list)| list.len()).unwrap_or((0, &[]));
    if let Some((reader, other)) = raw().find(|(_, list)| !longest.starts_with(list)) {
        return Err(violation("lists that are read agree on their order").found(format!(
            "{key}: {} read {other:?}, {} read {longest:?}",
            history.name(reader),
            history.name(longest_reader)
        )));
    }
    let distinct: BTreeSet<u64> = longest.iter().copied().collect();
    if distinct.len() < longest.len() {
        return Err(violation("an element that was appended once is there once")
            .found(format!("{key}: {} read {longest:?}", history.name(longest_reader))));
    }
    let ends_within = |list: &[u64]| list.last().is_some_and(|last| places[last].nth + 1 < places[last].of);
    let mut reads = views.iter().flat_map(|view| view.reads.iter().map(|list| (view.tx, *list)));
    if let Some((reader, list)) = reads.find(|(_, list)| ends_within(list)) {
        return Err(violation("nobody sees an intermediate state (G1b)").found(format!(
            "{key}: {} read {list:?}, without the rest of what was appended with the last",
            history.name(reader)
        )));
    }
    let follows = |pair: &[u64]| {
        let (one, other) = (places[&pair[0]], places[&pair[1]]);
        let is_next = one.tx == other.tx && one.nth + 1 == other.nth;
        is_next || one.nth + 1 == one.of && other.nth == 0
    };
    let is_whole =
        longest.first().is_none_or(|first| places[first].nth == 0) && longest.windows(2).all(follows);
    if !is_whole {
        return Err(violation("what a transaction appends stays together")
            .found(format!("{key}: {} read {longest:?}", history.name(longest_reader))));
    }
    let mut order = longest.to_vec();
    // A transaction may have read its own list before it went on appending.
    if let Some(Place { tx, nth, .. }) = order.last().map(|last| places[last]) {
        let own = views.iter().find(|view| view.tx == tx).expect("who appended is there");
        order.extend(&own.appended[nth + 1..]);
    }
    let comes_first = |view: &&View<'_>| {
        let is_unseen = view.appended.first().is_some_and(|first| !distinct.contains(first));
        is_unseen && view.reads.contains(&order.as_slice())
    };
    if let Some(first) = views.iter().find(comes_first) {
        order.extend(&first.appended);
    }
    Ok(order)
}

fn edges(graph: &mut Graph, key: &str, views: &[View<'_>], places: &BTreeMap<u64, Place>, order: &[u64]) {
    let name: Rc<str> = key.into();
    let versions = |old: Option<u64>, new: Option<u64>| Versions { key: name.clone(), old, new };
    for pair in order.windows(2) {
        let (one, other) = (places[&pair[0]].tx, places[&pair[1]].tx);
        graph.edge(one, other, Kind::WriteWrite(versions(Some(pair[0]), Some(pair[1]))));
    }
    let mut readers_of_all = Vec::new();
    for (tx, list) in views.iter().flat_map(|view| view.reads.iter().map(|list| (view.tx, *list))) {
        if let Some(last) = list.last() {
            graph.edge(places[last].tx, tx, Kind::WriteRead(versions(Some(*last), None)));
        }
        match order.get(list.len()) {
            Some(next) => {
                let read = versions(list.last().copied(), Some(*next));
                graph.edge(tx, places[next].tx, Kind::ReadWrite(read));
            }
            None => readers_of_all.push(tx),
        }
    }
    let known: BTreeSet<u64> = order.iter().copied().collect();
    let unseen = views.iter().filter_map(|view| {
        let first = *view.appended.first()?;
        (!known.contains(&first)).then_some((view.tx, first))
    });
    let unseen: Vec<(usize, u64)> = unseen.collect();
    let last = order.last().copied();
    for (tx, first) in &unseen {
        if let Some(last) = last {
            graph.edge(places[&last].tx, *tx, Kind::WriteWrite(versions(Some(last), Some(*first))));
        }
    }
    // Who read all comes before each of these. None of these is among them: it would have been the first.
    if !readers_of_all.is_empty() && !unseen.is_empty() {
        let joint = graph.add_moment();
        for tx in readers_of_all {
            graph.edge(tx, joint, Kind::ReadWrite(versions(last, None)));
        }
        for (tx, first) in unseen {
            graph.edge(joint, tx, Kind::ReadWrite(versions(last, Some(first))));
        }
    }
}
