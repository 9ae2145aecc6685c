//! Who must be before whom, and the shortest cycle among them.

use std::collections::VecDeque;
use std::rc::Rc;

use cutwater_sim::scenario::Violation;

use super::{Transaction, name, violation};

/// From how many transactions of a component the shortest cycle is looked for.
const STARTS_MAX: usize = 256;

/// Why one transaction is before another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Both wrote the key, in this order.
    WriteWrite(Versions),
    /// The second read what the first wrote.
    WriteRead(Versions),
    /// The first read what the second then changed.
    ReadWrite(Versions),
    /// The first was answered before the second began.
    RealTime,
}

/// A key and two of its versions; `None` is that there is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Versions {
    pub key: Rc<str>,
    /// What was read or overwritten.
    pub old: Option<u64>,
    /// What was written then.
    pub new: Option<u64>,
}

#[derive(Clone, Debug)]
struct Edge {
    to: usize,
    kind: Kind,
}

/// Nodes are transactions, and after them moments: joints that stand for an edge from each of many to each of many.
#[derive(Debug)]
pub(super) struct Graph {
    transactions: usize,
    edges: Vec<Vec<Edge>>,
}

/// A step of a cycle, from one transaction to the next.
#[derive(Clone, Debug)]
struct Step {
    from: usize,
    to: usize,
    kind: Kind,
}

/// Which edges are looked at.
type Allowed = fn(&Kind) -> bool;

/// From the gravest phenomenon to the mildest.
const STAGES: [Allowed; 4] = [
    |kind| matches!(kind, Kind::WriteWrite(_)),
    |kind| matches!(kind, Kind::WriteWrite(_) | Kind::WriteRead(_)),
    |kind| !matches!(kind, Kind::RealTime),
    |_| true,
];

impl Graph {
    pub fn new(transactions: usize) -> Graph {
        Graph { transactions, edges: vec![Vec::new(); transactions] }
    }

    /// Another joint.
    pub fn add_moment(&mut self) -> usize {
        self.edges.push(Vec::new());
        self.edges.len() - 1
    }

    /// `from` is before `to`. Of an edge over a joint the last part says why.
    pub fn edge(&mut self, from: usize, to: usize, kind: Kind) {
        if from != to {
            self.edges[from].push(Edge { to, kind });
        }
    }

    /// Looks for a cycle.
    pub fn check(&self, transactions: &[Transaction]) -> Result<(), Violation> {
        for allowed in STAGES {
            let components = self.components(allowed);
            if let Some(component) = components.iter().min_by_key(|component| component.len()) {
                return Err(told(transactions, &self.shortest_cycle(component, allowed)));
            }
        }
        Ok(())
    }

    /// The strongly connected components of more than one node (Tarjan 1972, without recursion), each sorted.
    fn components(&self, allowed: Allowed) -> Vec<Vec<usize>> {
        const NEW: usize = usize::MAX;
        let nodes = self.edges.len();
        let (mut index, mut low) = (vec![NEW; nodes], vec![NEW; nodes]);
        let mut is_open = vec![false; nodes];
        let (mut open, mut found, mut next) = (Vec::new(), Vec::new(), 0);
        for root in 0..nodes {
            if index[root] != NEW {
                continue;
            }
            // Of each node on the path, the next edge to look at.
            let mut path = vec![(root, 0)];
            while let Some((node, at)) = path.last_mut() {
                let node = *node;
                if *at == 0 {
                    (index[node], low[node]) = (next, next);
                    next += 1;
                    open.push(node);
                    is_open[node] = true;
                }
                let edge = self.edges[node].get(*at);
                *at += 1;
                match edge {
                    Some(edge) if !allowed(&edge.kind) => {}
                    Some(edge) if index[edge.to] == NEW => path.push((edge.to, 0)),
                    Some(edge) if is_open[edge.to] => low[node] = low[node].min(index[edge.to]),
                    Some(_) => {}
                    None => {
                        path.pop();
                        if let Some((above, _)) = path.last() {
                            low[*above] = low[*above].min(low[node]);
                        }
                        if low[node] == index[node] {
                            let begin = open.iter().rposition(|other| *other == node).expect("it is open");
                            let mut component = open.split_off(begin);
                            component.iter().for_each(|node| is_open[*node] = false);
                            component.sort_unstable();
                            if component.len() > 1 {
                                found.push(component);
                            }
                        }
                    }
                }
            }
        }
        found
    }

    fn shortest_cycle(&self, component: &[usize], allowed: Allowed) -> Vec<Step> {
        let starts = component.iter().filter(|node| **node < self.transactions).take(STARTS_MAX);
        let cycles = starts.filter_map(|start| self.cycle_from(*start, component, allowed));
        cycles.min_by_key(Vec::len).expect("each node of a component is on a cycle")
    }

    /// The cycle through `start` with the fewest transactions: breadth first, where a way into a joint costs nothing.
    fn cycle_from(&self, start: usize, component: &[usize], allowed: Allowed) -> Option<Vec<Step>> {
        let place = |node: usize| component.binary_search(&node).ok();
        let mut cost = vec![usize::MAX; component.len()];
        let mut came: Vec<Option<(usize, &Kind)>> = vec![None; component.len()];
        let mut queue = VecDeque::from([(0, start)]);
        while let Some((so_far, node)) = queue.pop_front() {
            if node == start && so_far > 0 {
                break;
            }
            if node != start && place(node).is_some_and(|at| cost[at] < so_far) {
                continue;
            }
            for edge in self.edges[node].iter().filter(|edge| allowed(&edge.kind)) {
                let Some(at) = place(edge.to) else { continue };
                let is_joint = edge.to >= self.transactions;
                let with = so_far + usize::from(!is_joint);
                if with < cost[at] {
                    cost[at] = with;
                    came[at] = Some((node, &edge.kind));
                    if is_joint {
                        queue.push_front((with, edge.to))
                    } else {
                        queue.push_back((with, edge.to))
                    }
                }
            }
        }
        let mut steps = Vec::new();
        let mut to = start;
        loop {
            let (mut from, kind) = came[place(to)?]?;
            while from >= self.transactions {
                from = came[place(from)?]?.0;
            }
            steps.push(Step { from, to, kind: kind.clone() });
            if from == start {
                steps.reverse();
                return Some(steps);
            }
            to = from;
        }
    }
}

fn told(transactions: &[Transaction], cycle: &[Step]) -> Violation {
    let steps: Vec<String> = cycle.iter().map(|step| in_words(transactions, step)).collect();
    violation(phenomenon(cycle))
        .expected("an order of the transactions that explains what they saw")
        .found(steps.join("; "))
}

/// What the cycle is called in the literature.
fn phenomenon(cycle: &[Step]) -> &'static str {
    let key = |step: &Step| match &step.kind {
        Kind::WriteWrite(at) | Kind::WriteRead(at) | Kind::ReadWrite(at) => Some(at.key.clone()),
        Kind::RealTime => None,
    };
    let has = |wanted: fn(&Kind) -> bool| cycle.iter().filter(|step| wanted(&step.kind)).count();
    let reads_then_writes = has(|kind| matches!(kind, Kind::ReadWrite(_)));
    if has(|kind| matches!(kind, Kind::RealTime)) > 0 {
        "the order of transactions agrees with real time"
    } else if reads_then_writes > 0 && cycle.iter().all(|step| key(step) == key(&cycle[0])) {
        "no update is lost"
    } else if reads_then_writes > 1 {
        "no cycle of transactions that overwrite what others have read (G2-item)"
    } else if reads_then_writes == 1 {
        "a transaction sees one state (G-single)"
    } else if has(|kind| matches!(kind, Kind::WriteRead(_))) > 0 {
        "information does not flow in a circle (G1c)"
    } else {
        "writes of transactions do not interleave (G0)"
    }
}

fn in_words(transactions: &[Transaction], step: &Step) -> String {
    let (from, to) = (name(transactions, step.from), name(transactions, step.to));
    let value = |value: Option<u64>| value.map_or("nothing".to_owned(), |value| value.to_string());
    match &step.kind {
        Kind::WriteWrite(Versions { key, old, new }) => {
            format!("{from} wrote {} to {key}, and {to} after it {}", value(*old), value(*new))
        }
        Kind::WriteRead(Versions { key, old, .. }) => {
            format!("{from} wrote {} to {key}, which {to} read", value(*old))
        }
        Kind::ReadWrite(Versions { key, old, new }) => {
            format!("{from} read {} in {key}, after which {to} wrote {}", value(*old), value(*new))
        }
        Kind::RealTime => format!("{from} was over before {to} began"),
    }
}
