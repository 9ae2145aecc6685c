//! What became of each bug: lines of JSON in a file, from which an interrupted run goes on, and the tables of `docs/bugs.md`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::How;
use super::bug::{Bug, Demand};
use super::find::{First, Found, Size};

/// In a document, the tables stand between these lines.
const BEGIN: &str = "<!-- tables of `planted`, see the commands above -->";
const END: &str = "<!-- end of the tables of `planted` -->";
/// In this order; scenarios that are not named come last.
const SCENARIOS: [&str; 4] = ["store", "damage", "checkpoint", "restore"];

/// What became of one bug.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub bug: String,
    pub about: String,
    pub source: String,
    pub scenario: String,
    pub demand: Demand,
    /// How it was to be looked for.
    pub how: How,
    pub ways: Vec<Found>,
    /// The first failure that was the cheapest, after shrinking.
    pub shrunk: Option<Size>,
    /// Real time that the build took, and that all of it took, in milliseconds.
    pub build_ms: u64,
    pub elapsed_ms: u64,
    /// Why it was not looked for, or not to the end.
    pub trouble: Option<String>,
}

impl Row {
    /// Of a bug that was not looked for yet.
    pub fn new(bug: &Bug, how: How) -> Row {
        Row {
            bug: bug.name.clone(),
            about: bug.about.clone(),
            source: bug.source.clone(),
            scenario: bug.scenario.clone(),
            demand: bug.demand.clone(),
            how,
            ways: Vec::new(),
            shrunk: None,
            build_ms: 0,
            elapsed_ms: 0,
            trouble: None,
        }
    }

    /// What found it with the least CPU time.
    pub fn cheapest(&self) -> Option<(&Found, &First)> {
        let with_first = self.ways.iter().filter_map(|found| Some((found, found.first.as_ref()?)));
        with_first.min_by_key(|(_, first)| first.cpu_us)
    }

    /// True if nothing more was asked than what came.
    pub fn is_as_demanded(&self) -> bool {
        self.trouble.is_none() && (self.cheapest().is_some() || matches!(self.demand, Demand::Nothing(_)))
    }

    /// For somebody who waits for it.
    pub fn brief(&self) -> String {
        let time = format!("{:.0} s, {:.0} s of them to build", ms(self.elapsed_ms), ms(self.build_ms));
        let came = match (&self.trouble, self.cheapest()) {
            (Some(trouble), _) => trouble.replace('\n', " "),
            (None, None) => format!("not found: {}", self.rates()),
            (None, Some((by, first))) => {
                format!("{} ({} s of CPU): {}; {}", by.how, seconds(first.cpu_us), first.oracle, self.rates())
            }
        };
        format!("{}: {came} ({time})", self.bug)
    }

    fn rates(&self) -> String {
        let rates = self.ways.iter().map(|f| format!("{} of {} ({})", f.failing, f.looked_at, f.how));
        rates.collect::<Vec<_>>().join(", ")
    }

    fn found(&self) -> Option<String> {
        let (by, first) = self.cheapest()?;
        let by_seed = first.plan.starts_with(&format!("{}:", self.scenario));
        let how = if by_seed { format!("{}, `{}`", by.how, first.plan) } else { by.how.clone() };
        let until = first.until.map_or("-".into(), |until| until.to_string());
        let shrunk = self.shrunk.map_or("-".into(), |Size { ops, faults }| format!("{ops} + {faults}"));
        Some(line(&[
            format!("`{}`", self.bug),
            self.about.clone(),
            self.source.clone(),
            first.oracle.clone(),
            how,
            until,
            seconds(first.cpu_us),
            self.rates(),
            shrunk,
        ]))
    }

    fn missed(&self) -> String {
        let why = match (&self.trouble, &self.demand) {
            (Some(trouble), _) => trouble.lines().next().unwrap_or_default().to_owned(),
            (None, Demand::Nothing(reason)) => reason.clone(),
            (None, Demand::Seeds(_)) => "**it ought to be found**".into(),
        };
        line(&[format!("`{}`", self.bug), self.about.clone(), self.source.clone(), self.rates(), why])
    }
}

/// The rows of a file, by bug; none if it does not exist.
pub fn read(file: &Path) -> Result<BTreeMap<String, Row>, String> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(format!("{}: {e}", file.display())),
    };
    let row = |(nth, line): (usize, &str)| {
        let row: Row =
            serde_json::from_str(line).map_err(|e| format!("{}, line {}: {e}", file.display(), nth + 1))?;
        Ok((row.bug.clone(), row))
    };
    text.lines().enumerate().map(row).collect()
}

/// Writes all rows: the file is the old one or the new one, whatever happens.
pub fn write(file: &Path, rows: &BTreeMap<String, Row>) -> Result<(), String> {
    let line = |row: &Row| serde_json::to_string(row).expect("a row is plain data") + "\n";
    let text: String = rows.values().map(line).collect();
    let new = file.with_extension("new");
    std::fs::write(&new, text)
        .and_then(|()| std::fs::rename(&new, file))
        .map_err(|e| format!("{}: {e}", file.display()))
}

/// The tables: what was found, and what was not.
pub fn tables(rows: &BTreeMap<String, Row>) -> String {
    let mut rows: Vec<&Row> = rows.values().collect();
    let rank = |row: &Row| SCENARIOS.iter().position(|name| *name == row.scenario).unwrap_or(SCENARIOS.len());
    rows.sort_by_key(|row| rank(row));
    let found: Vec<String> = rows.iter().filter_map(|row| row.found()).collect();
    let missed: Vec<String> =
        rows.iter().filter(|row| row.cheapest().is_none()).map(|row| row.missed()).collect();
    let table = |title: &str, about: &str, head: &str, lines: &[String]| {
        let rule = "|---".repeat(head.matches('|').count() - 1);
        format!("## {title}\n\n{about}\n\n{head}\n{rule}|\n{}\n", lines.join("\n"))
    };
    let mut text = table(
        &format!("Found: {} of {}", found.len(), rows.len()),
        "*Found by* is the way that took the least CPU time, *plans* and *CPU s* are what it took up to the first failure and \
         with it. *Failing* counts all that each way looked at before it ended. *Shrunk* is what is left of the first failing \
         plan: operations + faults.",
        "| bug | what | source | what fires | found by | plans | CPU s | failing | shrunk |",
        &found,
    );
    if !missed.is_empty() {
        text += "\n";
        text += &table(
            "Not found",
            "Each says why. `# demands: nothing, REASON` in its patch keeps the exit status honest.",
            "| bug | what | source | failing | why not |",
            &missed,
        );
    }
    text
}

/// The document with these tables in the place of those it has.
pub fn put_into(document: &str, tables: &str) -> Result<String, String> {
    let missing = |mark: &str| format!("has no line `{mark}`");
    let (head, rest) = document.split_once(BEGIN).ok_or_else(|| missing(BEGIN))?;
    let (_, tail) = rest.split_once(END).ok_or_else(|| missing(END))?;
    Ok(format!("{head}{BEGIN}\n\n{tables}\n{END}{tail}"))
}

/// A line of a table. A bar would begin another cell.
fn line(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |", cells.join(" | "))
}

fn seconds(us: u64) -> String {
    format!("{:.2}", us as f64 / 1e6)
}

fn ms(ms: u64) -> f64 {
    ms as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(bug: &str, scenario: &str, cpu_us: Option<u64>) -> Row {
        let first = cpu_us.map(|cpu_us| First {
            plan: format!("{scenario}:4"),
            oracle: "o: p".into(),
            until: Some(5),
            cpu_us,
        });
        let way = Found { how: "sweep".into(), looked_at: 60, failing: 1, cpu_us: 9_000_000, first };
        Row {
            bug: bug.into(),
            about: "a | b".into(),
            source: "X-1".into(),
            scenario: scenario.into(),
            demand: Demand::Nothing("no such workload".into()),
            how: How::All,
            ways: vec![way],
            shrunk: Some(Size { ops: 2, faults: 1 }),
            build_ms: 1,
            elapsed_ms: 2,
            trouble: None,
        }
    }

    fn rows(rows: impl IntoIterator<Item = Row>) -> BTreeMap<String, Row> {
        rows.into_iter().map(|row| (row.bug.clone(), row)).collect()
    }

    #[test]
    fn what_was_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rows.jsonl");
        assert_eq!(read(&file), Ok(BTreeMap::new()), "nothing was looked for yet");
        let rows = rows([row("a", "store", Some(1)), row("b", "restore", None)]);
        write(&file, &rows).unwrap();
        assert_eq!(read(&file).as_ref(), Ok(&rows));
        std::fs::write(&file, "{\n").unwrap();
        assert!(read(&file).unwrap_err().contains("rows.jsonl, line 1: "));
    }

    #[test]
    fn a_document_has_the_tables_of_the_last_run() {
        let tables = tables(&rows([
            row("a", "restore", Some(1_250_000)),
            row("b", "store", Some(10_000)),
            row("c", "store", None),
        ]));
        let at = |text: &str| tables.find(text).unwrap_or_else(|| panic!("no {text} in {tables}"));
        at("Found: 2 of 3");
        at("| `a` | a \\| b | X-1 | o: p | sweep, `restore:4` | 5 | 1.25 | 1 of 60 (sweep) | 2 + 1 |");
        at("| `c` | a \\| b | X-1 | 1 of 60 (sweep) | no such workload |");
        assert!(at("| `b` |") < at("| `a` |"), "those of the store come first");
        let document = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = put_into(&document, &tables).unwrap();
        assert!(new.starts_with("before\n") && new.ends_with("\nafter\n") && !new.contains("old"));
        assert_eq!(put_into(&new, &tables).as_ref(), Ok(&new), "it stays as it is");
        assert!(put_into("before\n", &tables).is_err());
    }
}
