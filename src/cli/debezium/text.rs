//! Writes an import as a settings file. What a person has to know stands in its comments. Pure.

use std::fmt::Write as _;

use crate::cli::debezium::imported::{Imported, Note, Setting};

/// The longest line of a comment.
const WIDTH: usize = 98;

/// How to hand over: outboxd begins at the position where the connector stopped, in a copy of its
/// slot. `SLOT` is the connector's.
const HAND_OVER: [&str; 6] = [
    "While the connector runs, `outboxd init` with this file makes the publication and, with \
     --role, the role.",
    "Let the connector publish events for a minute more, so that its slot moves past the new \
     publication.",
    "Stop the connector.",
    "Read where it stopped: SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name \
     = 'SLOT'.",
    "Start `outboxd run --start-lsn LSN` with that position. It copies the slot and publishes the \
     events behind the position; it refuses to start where that would leave a gap. At later \
     starts --start-lsn has no effect.",
    "Once its log says `streaming`, drop the connector's slot, so that the server keeps no WAL \
     for it: SELECT pg_drop_replication_slot('SLOT').",
];

/// What consumers may see twice.
const OVERLAP: &str = "A connector confirms with a delay, also at a clean stop. Events that it had \
                       sent and not confirmed come a second time, with the same header id.";

/// The whole file.
pub(super) fn file(imported: &Imported) -> String {
    let mut text = String::new();
    let of = match &imported.name {
        Some(name) => format!("the Debezium connector {}", quoted(name)),
        None => "a Debezium connector".to_owned(),
    };
    comment(&mut text, "", &format!("Settings of outboxd, from {of}."));
    text.push('\n');
    for setting in &imported.settings {
        line(&mut text, setting);
    }
    columns(&mut text, imported);
    if imported.lacks_topics {
        text.push_str("\n[topics]\n");
        let what = "Write a line for each value. Until then, its events become dead letters.";
        comment(&mut text, "", what);
        text.push_str("\"VALUE\" = \"TOPIC\"\n");
    }
    if !imported.kafka.is_empty() {
        text.push_str("\n[kafka]\n");
        for (name, value) in &imported.kafka {
            let _ = writeln!(text, "{name} = {}", quoted(value));
        }
    }
    notes(
        &mut text,
        "What consumers see differently:",
        &imported.differences,
    );
    notes(
        &mut text,
        "Options without a counterpart:",
        &imported.left_out,
    );
    if !imported.unknown.is_empty() {
        text.push('\n');
        let names = imported.unknown.join(", ");
        let all = format!("Options that are unknown here, and were left out: {names}");
        comment(&mut text, "", &all);
    }
    text.push('\n');
    comment(
        &mut text,
        "",
        "Handing over without a gap, while services write:",
    );
    for (number, step) in HAND_OVER.iter().enumerate() {
        let step = step.replace("SLOT", imported.slot.as_deref().unwrap_or("debezium"));
        comment(&mut text, &format!("{}. ", number + 1), &step);
    }
    comment(&mut text, "", OVERLAP);
    text
}

fn line(text: &mut String, setting: &Setting) {
    let Setting { name, value, open } = setting;
    match open {
        Some(why) => {
            comment(text, "", &format!("{why}:"));
            let _ = writeln!(text, "# {name} = {}", quoted(value));
        }
        None => {
            let _ = writeln!(text, "{name} = {}", quoted(value));
        }
    }
}

/// The members of `[columns]`. One that comes several times is a list.
fn columns(text: &mut String, imported: &Imported) {
    let mut members: Vec<(&str, Vec<&str>)> = Vec::new();
    for (member, value) in &imported.columns {
        match members.iter_mut().find(|(known, _)| known == member) {
            Some((_, values)) => values.push(value),
            None => members.push((member, vec![value])),
        }
    }
    if !members.is_empty() {
        text.push_str("\n[columns]\n");
    }
    for (member, values) in members {
        let quoted: Vec<String> = values.into_iter().map(quoted).collect();
        let value = match quoted.as_slice() {
            [only] => only.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let _ = writeln!(text, "{member} = {value}");
    }
}

/// Notes with the same text become one.
fn notes(text: &mut String, heading: &str, notes: &[Note]) {
    if notes.is_empty() {
        return;
    }
    let _ = write!(text, "\n# {heading}\n");
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for note in notes {
        match groups.iter_mut().find(|(known, _)| *known == note.text) {
            Some((_, options)) => options.push(&note.option),
            None => groups.push((&note.text, vec![&note.option])),
        }
    }
    for (what, options) in groups {
        comment(text, "- ", &format!("{}: {what}", options.join(", ")));
    }
}

/// A comment of as many lines as it needs; the first begins with a mark.
fn comment(text: &mut String, mark: &str, what: &str) {
    let indent = " ".repeat(mark.len());
    let mut line = format!("# {mark}");
    let mut is_empty = true;
    for word in what.split_whitespace() {
        let word = word.replace(char::is_control, "?");
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = format!("# {indent}");
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(&word);
        is_empty = false;
    }
    text.push_str(&line);
    text.push('\n');
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
