//! A script of SQL as its single statements, as psql sends them: some refuse to share a message
//! with others.

/// The statements of a script, without those that are empty.
pub(super) fn statements(script: &str) -> Vec<String> {
    let (mut statements, mut current) = (Vec::new(), String::new());
    let mut rest = script;
    while let Some(first) = rest.chars().next() {
        let length = quoted(rest).unwrap_or(first.len_utf8());
        let is_comment = rest.starts_with("--");
        if first == ';' {
            statements.push(std::mem::take(&mut current));
        } else if !is_comment {
            current.push_str(&rest[..length]);
        }
        rest = &rest[length..];
    }
    statements.push(current);
    let statements = statements.iter().map(|it| it.trim().to_owned());
    statements.filter(|it| !it.is_empty()).collect()
}

/// The length of the comment, literal, quoted name or dollar-quoted text at the start of this text.
fn quoted(text: &str) -> Option<usize> {
    let end = if text.starts_with("--") {
        return Some(text.find('\n').unwrap_or(text.len()));
    } else if text.starts_with(['\'', '"']) {
        text[..1].to_owned()
    } else {
        let tag = text.strip_prefix('$')?.find('$')?;
        let tag = &text[..tag + 2];
        let inside = &tag[1..tag.len() - 1];
        let is_tag = inside.chars().all(|c| c.is_alphabetic() || c == '_');
        is_tag.then(|| tag.to_owned())?
    };
    let length = text[end.len()..].find(&end);
    Some(length.map_or(text.len(), |at| at + 2 * end.len()))
}

#[test]
fn a_script_is_split_where_psql_splits_it() {
    let script = "BEGIN; -- no; statement\nINSERT INTO \"a;b\" VALUES ('it''s; $1');\n\
                  DO $x$ BEGIN; END $x$;\nSELECT $1, $2";
    let expected = [
        "BEGIN",
        "INSERT INTO \"a;b\" VALUES ('it''s; $1')",
        "DO $x$ BEGIN; END $x$",
        "SELECT $1, $2",
    ];
    assert_eq!(statements(script), expected);
}
