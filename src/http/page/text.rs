//! Text from outside as HTML.

use std::fmt::Write;

/// Escapes a text and shows what stands between back-quotes as code.
pub(super) fn in_code(text: &str) -> String {
    let mut html = String::new();
    for (at, piece) in text.split('`').enumerate() {
        let piece = escape(piece);
        match at % 2 {
            0 => html.push_str(&piece),
            _ => {
                let _ = write!(html, "<code>{piece}</code>");
            }
        }
    }
    html
}

/// Escapes what HTML would read as markup.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}
