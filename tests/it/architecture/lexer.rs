//! Rust text without comments and without the contents of literals, so that a search finds code.

/// The same text with a space for each character of a comment or a literal. Line breaks stay, so
/// that lines keep their numbers.
pub(super) fn blank(text: &str) -> String {
    let mut blanked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(length) = comment(rest).or_else(|| literal(rest)) {
            let spaces = rest[..length].chars();
            blanked.extend(spaces.map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
            continue;
        }
        // A whole word at once, so that its last letter is not the prefix of a literal.
        let length = word(rest).len().max(first.len_utf8());
        blanked.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    blanked
}

/// The word at the start of this text, which may be empty.
pub(super) fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

/// The length of the comment at the start of this text.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    let inner = text.strip_prefix("/*")?;
    Some(inner.find("*/").map_or(text.len(), |end| end + 4))
}

/// The length of the string or character literal at the start of this text.
fn literal(text: &str) -> Option<usize> {
    if text.starts_with('\'') {
        return character(text);
    }
    let prefix = ["br", "cr", "b", "c", "r", ""]
        .into_iter()
        .find(|prefix| text.starts_with(prefix))?;
    let rest = &text[prefix.len()..];
    if prefix == "b" && rest.starts_with('\'') {
        return Some(1 + character(rest)?);
    }
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let contents = rest[hashes..].strip_prefix('"')?;
    let start = text.len() - contents.len();
    if prefix.ends_with('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        let length = contents.find(&end).map(|at| at + end.len());
        return Some(start + length.unwrap_or(contents.len()));
    }
    if hashes > 0 {
        return None;
    }
    let mut is_escaped = false;
    let end = contents.find(|c: char| {
        let ends = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    });
    Some(end.map_or(text.len(), |end| start + end + 1))
}

/// The length of a character literal; `None` for a lifetime, which has no second quote.
fn character(text: &str) -> Option<usize> {
    let mut characters = text.char_indices().skip(1);
    let (_, first) = characters.next()?;
    if first == '\\' {
        characters.next();
        return characters
            .find(|(_, c)| *c == '\'')
            .map(|(place, _)| place + 1);
    }
    let (place, next) = characters.next()?;
    (next == '\'').then_some(place + 1)
}

#[test]
fn comments_and_literals_are_blank_and_code_stays() {
    let text = r##"let a = "x // \" }"; // crate::http
let b: &'a str = r#"crate::"kafka" {"#; let c = ['{', '\'', '\u{7d}', b'{'];
/* crate::cli
*/ for r in "s" {}"##;
    let code = blank(text);
    let words: Vec<&str> = code.split_whitespace().collect();
    let expected = "let a = ; let b: &'a str = ; let c = [ , , , ]; for r in {}";
    assert_eq!(words.join(" "), expected);
    assert_eq!(code.lines().count(), text.lines().count());
}
