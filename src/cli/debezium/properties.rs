//! Reads options from the two forms of file that connectors are configured with: Java's
//! `.properties`, and the JSON of Kafka Connect. Pure.
//!
//! No error quotes the text: it may hold a password.

use serde_json::Value;

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) problem: String,
    pub(super) hint: &'static str,
}

/// The options in their order, and the connector's name if it stands outside of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) name: Option<String>,
    pub(super) pairs: Vec<(String, String)>,
}

/// Reads a file of either form.
pub(super) fn read(text: &str) -> Result<Options, Unreadable> {
    let text = text.trim_start_matches('\u{feff}');
    let options = match text.trim_start().starts_with('{') {
        true => json(text)?,
        false => Options {
            name: None,
            pairs: lines(text).iter().map(|line| pair(line)).collect(),
        },
    };
    match options.pairs.is_empty() {
        true => Err(Unreadable {
            problem: "it has no options".to_owned(),
            hint: "name a connector's .properties file, or its JSON",
        }),
        false => Ok(options),
    }
}

/// An object of options, or one that has them as its member `config`.
fn json(text: &str) -> Result<Options, Unreadable> {
    let whole: Value = serde_json::from_str(text).map_err(|error| Unreadable {
        problem: format!("line {} is no valid JSON", error.line()),
        hint: "name the JSON that Kafka Connect's REST API takes",
    })?;
    let name = whole.get("name").and_then(Value::as_str);
    let name = name.map(str::to_owned);
    let config = whole.get("config").unwrap_or(&whole);
    let no_text = |name: &str| Unreadable {
        problem: format!("the option {name} is no text"),
        hint: "give each option as a text, a number or a boolean",
    };
    let Some(members) = config.as_object() else {
        return Err(no_text("config"));
    };
    let mut pairs = Vec::new();
    for (name, value) in members {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Null => continue,
            Value::Array(_) | Value::Object(_) => return Err(no_text(name)),
        };
        pairs.push((name.clone(), value));
    }
    Ok(Options { name, pairs })
}

/// The logical lines: comments are left out, and a line that ends with a backslash goes on.
fn lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begun: Option<String> = None;
    for line in text.split(['\n', '\r']) {
        let line = line.trim_start_matches([' ', '\t', '\u{c}']);
        if begun.is_none() && (line.is_empty() || line.starts_with(['#', '!'])) {
            continue;
        }
        let mut whole = begun.take().unwrap_or_default();
        let backslashes = line.len() - line.trim_end_matches('\\').len();
        if backslashes % 2 == 1 {
            whole.push_str(&line[..line.len() - 1]);
            begun = Some(whole);
        } else {
            whole.push_str(line);
            lines.push(whole);
        }
    }
    lines.extend(begun);
    lines
}

/// Takes a line apart at the first `=`, `:` or space that is not escaped.
fn pair(line: &str) -> (String, String) {
    let mut is_escaped = false;
    let end = line.find(|c: char| {
        let ends = !is_escaped && matches!(c, '=' | ':' | ' ' | '\t' | '\u{c}');
        is_escaped = c == '\\' && !is_escaped;
        ends
    });
    let (name, rest) = line.split_at(end.unwrap_or(line.len()));
    let spaces = [' ', '\t', '\u{c}'];
    let rest = rest.trim_start_matches(spaces);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (unescaped(name), unescaped(rest.trim_start_matches(spaces)))
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match rest.next() {
            Some('t') => plain.push('\t'),
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('f') => plain.push('\u{c}'),
            Some('u') => {
                let digits: String = rest.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok();
                plain.push(code.and_then(char::from_u32).unwrap_or('\u{fffd}'));
            }
            Some(other) => plain.push(other),
            None => {}
        }
    }
    plain
}

/// A line of a `.properties` file.
pub(super) fn line(name: &str, value: &str) -> String {
    let mut line = format!("{name}=");
    for (at, c) in value.chars().enumerate() {
        match c {
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            ' ' if at == 0 => line.push_str("\\ "),
            ' '..='~' => line.push(c),
            // Java's older readers take the file for ISO 8859-1.
            _ => {
                let units = c.encode_utf16(&mut [0; 2]).to_vec();
                units
                    .iter()
                    .for_each(|unit| line.push_str(&format!("\\u{unit:04x}")));
            }
        }
    }
    line
}
