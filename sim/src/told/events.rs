//! An event of a run as a line: virtual time, node, kind, and what there is to say of it.

use cutwater_io::sim::Event;

use super::clock;

/// How wide a line on the screen may be, in characters; the rest of a longer one is cut.
const WIDTH: usize = 160;

/// An event in one line, as a screen takes it.
pub(crate) fn line(event: &Event) -> String {
    lines(event, WIDTH)
}

/// The same with nothing cut, for files.
pub(crate) fn whole_line(event: &Event) -> String {
    lines(event, usize::MAX)
}

fn lines(event: &Event, width: usize) -> String {
    let node = format!("n{}", event.node);
    let mut text = format!("{}  {node:<4} {:<14} ", clock(event.at_ns / 1000), event.kind);
    let mut lines = event.detail.lines();
    text.push_str(lines.next().unwrap_or_default());
    if text.chars().count() > width {
        text = text.chars().take(width - 1).collect();
        text.push('…');
    }
    // A panic brings its backtrace.
    for more in lines {
        text.push_str("\n    ");
        text.push_str(more);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_line_on_the_screen_has_a_limit_one_in_a_file_has_none_and_both_go_on_below() {
        let event = |detail: &str| Event {
            at_ns: 1_234_567_890,
            node: 2,
            kind: "disk.sync".into(),
            detail: detail.into(),
            facts: BTreeMap::new(),
        };
        assert_eq!(line(&event("/wal")), "00:00:01.234567  n2   disk.sync      /wal");
        let long = "é".repeat(500);
        assert_eq!(line(&event(&long)).chars().count(), WIDTH);
        assert!(whole_line(&event(&long)).ends_with(&long));
        for told in [line, whole_line] {
            assert_eq!(told(&event("a\nb")).lines().nth(1), Some("    b"));
        }
    }
}
