//! Where SQL may stand.

use anyhow::Result;

use super::{files, without_tests};

/// Statements are written in the rooms that know the tables and the catalogs they name.
#[test]
fn publisher_and_engine_hold_no_sql() -> Result<()> {
    const WORDS: [&str; 3] = ["SELECT", "UPDATE", "INSERT"];
    let mut problems = Vec::new();
    for (path, text) in files()? {
        if !path.starts_with("publisher/") && !path.starts_with("engine/") {
            continue;
        }
        let literals = string_literals(without_tests(&text));
        let sql = literals.iter().filter(|literal| {
            let mut words = literal.split(|c: char| !c.is_alphanumeric() && c != '_');
            words.any(|word| WORDS.contains(&word))
        });
        problems.extend(sql.map(|literal| format!("{}: {literal:?}", path)));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

/// The texts between quotation marks, comments and characters left out.
fn string_literals(code: &str) -> Vec<String> {
    let mut literals = Vec::new();
    let mut rest = code;
    while let Some(place) = rest.find(['"', '/', '\'']) {
        let (before, from) = rest.split_at(place);
        rest = if from.starts_with("//") {
            from.split_once('\n').map_or("", |(_, rest)| rest)
        } else if let Some(text) = from.strip_prefix('"') {
            let is_raw = before.ends_with('r');
            let end = end_of_literal(text, is_raw).unwrap_or(text.len());
            literals.push(text[..end].to_owned());
            text.get(end + 1..).unwrap_or_default()
        } else if from.starts_with("'\"'") || from.starts_with("'\\\"'") {
            from.split_once('"').map_or("", |(_, rest)| rest)
        } else {
            &from[1..]
        };
    }
    literals
}

/// Where the quotation mark that ends this literal stands.
fn end_of_literal(text: &str, is_raw: bool) -> Option<usize> {
    let mut is_escaped = false;
    let mut characters = text.char_indices();
    let end = characters.find(|(_, c)| {
        let ends = *c == '"' && !is_escaped;
        is_escaped = !is_raw && *c == '\\' && !is_escaped;
        ends
    });
    end.map(|(place, _)| place)
}

#[test]
fn a_literal_is_seen_and_a_comment_or_a_character_is_not() {
    let text = "// \"no\"\nlet (a, b) = (\"one \\\" two\", '\"'); f(r\"\\\"); g(\"four\"); 'x'";
    assert_eq!(string_literals(text), ["one \\\" two", "\\", "four"]);
}
