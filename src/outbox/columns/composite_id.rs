//! The text of an id of several columns: the JSON array of their texts, as Postgres prints a
//! `jsonb`. Statements compare it with `jsonb_build_array(a, b)::text`.

use std::fmt::Write as _;

use crate::outbox::TextValue;

/// The id of these parts; empty if one of them is null.
pub(super) fn text(parts: &[Option<TextValue<'_>>]) -> String {
    let mut text = String::from("[");
    for (at, part) in parts.iter().enumerate() {
        let part = part.and_then(TextValue::as_str);
        let Some(part) = part else {
            return String::new();
        };
        if at > 0 {
            text.push_str(", ");
        }
        append(part, &mut text);
    }
    text.push(']');
    text
}

/// Appends a JSON string with the escapes that Postgres writes, and no others.
fn append(part: &str, text: &mut String) {
    text.push('"');
    for c in part.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            // Writing to a string cannot fail.
            '\0'..' ' => drop(write!(text, "\\u{:04x}", u32::from(c))),
            _ => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right-hand sides come from `SELECT jsonb_build_array(…)::text`.
    #[test]
    fn parts_are_joined_and_escaped_as_postgres_does() {
        for (parts, expected) in [
            (["a", "b"], r#"["a", "b"]"#),
            (["7", ""], r#"["7", ""]"#),
            (["ä\"", "\\/"], r#"["ä\"", "\\/"]"#),
            (
                ["\u{8}\u{c}\n\r\t", "\u{1}\u{1f}\u{7f}"],
                "[\"\\b\\f\\n\\r\\t\", \"\\u0001\\u001f\u{7f}\"]",
            ),
        ] {
            let parts = parts.map(|part| Some(TextValue::Verbatim(part.as_bytes())));
            assert_eq!(text(&parts), expected);
        }
        assert_eq!(text(&[Some(TextValue::Verbatim(b"a")), None]), "");
    }
}
