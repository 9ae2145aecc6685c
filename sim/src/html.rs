//! Pages that open from a disk, without a network: escaping, and what their looks have in common.
//!
//! Everything that comes from a run (names, paths, errors, keys) is hostile: it goes into a page as text through
//! [`escape`], or as data through [`embed`], and never in any other way.

use serde::Serialize;

/// Colours and type of all pages, light and dark.
pub(crate) const THEME: &str = include_str!("theme.css");

/// `text` as content or attribute value of an element.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // No control characters in HTML.
            c if c.is_control() && c != '\n' && c != '\t' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// `data` as JSON that cannot end the `<script>` element it stands in.
pub(crate) fn embed(data: &impl Serialize) -> String {
    let json = serde_json::to_string(data).expect("what is drawn is plain data");
    // Inside of JSON these occur in strings only, where an escape means the same.
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "</script><img src=x onerror=\"alert('1')\">&\u{1b}[31m\u{2028}";

    #[test]
    fn hostile_text_stays_text() {
        assert_eq!(
            escape(HOSTILE),
            "&lt;/script&gt;&lt;img src=x onerror=&quot;alert(&#39;1&#39;)&quot;&gt;&amp;\u{fffd}[31m\u{2028}"
        );
        let json = embed(&HOSTILE);
        assert!(!json.contains(['<', '>', '\u{2028}']), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), HOSTILE);
    }
}
