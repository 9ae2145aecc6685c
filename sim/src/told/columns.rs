//! Text that fits a screen: long lines go on below, indented, and are broken between words only.
//!
//! The width does not depend on the terminal: what is printed is also kept in files, and two runs must print the same.

/// How wide a line may be.
const COLUMNS: usize = 100;

/// `text` with its long lines broken. What goes on stands two columns further in than its line, and at least at `indent`.
pub(crate) fn folded(text: &str, indent: usize) -> String {
    let mut folded = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        fold_line(line, indent, &mut folded);
    }
    folded
}

fn fold_line(line: &str, indent: usize, folded: &mut String) {
    let own = line.len() - line.trim_start_matches(' ').len();
    let indent = indent.max(own + 2);
    let mut used = 0;
    // Spaces belong to the word after them, so that columns inside of a line stay as they are.
    let mut rest = line;
    while !rest.is_empty() {
        let spaces = rest.len() - rest.trim_start_matches(' ').len();
        let end = rest[spaces..].find(' ').map_or(rest.len(), |i| spaces + i);
        let (word, after) = rest.split_at(end);
        let wide = width(word);
        if used > own && used + wide > COLUMNS {
            folded.push('\n');
            folded.push_str(&" ".repeat(indent));
            folded.push_str(&word[spaces..]);
            used = indent + wide - spaces;
        } else {
            folded.push_str(word);
            used += wide;
        }
        rest = after;
    }
}

/// How many columns a text takes: colours take none.
fn width(text: &str) -> usize {
    let mut width = 0;
    let mut in_colour = false;
    for c in text.chars() {
        match c {
            '\x1b' => in_colour = true,
            'm' if in_colour => in_colour = false,
            '\n' => {}
            _ if in_colour => {}
            _ => width += 1,
        }
    }
    width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_goes_on_below_and_a_short_one_stays() {
        let short = "  name      value\n\n  two  columns\n";
        assert_eq!(folded(short, 12), short);
        let long = format!("  name      {}\n    deeper {}\n", "word ".repeat(30), "x".repeat(200));
        let text = folded(&long, 12);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().take(2).all(|line| line.chars().count() <= COLUMNS), "{text}");
        assert!(lines[1].starts_with("            word"), "{text}");
        assert_eq!(lines[3], format!("            {}", "x".repeat(200)), "a word is never broken");
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), long.split_whitespace().collect::<Vec<_>>());
        let painted = format!("\x1b[31m{}\x1b[0m", "é".repeat(COLUMNS));
        assert_eq!(folded(&painted, 2), painted);
    }
}
