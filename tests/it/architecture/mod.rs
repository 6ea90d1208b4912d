//! The map of the house: which room may use which, how long a file may be, how deep a folder may lie.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The rooms from the lowest to the highest step. A room uses lower steps, and of its own step only what [`BESIDE`] lists.
const STEPS: [&[&str]; 7] = [
    &[
        "lsn",
        "error",
        "backoff",
        "fnv",
        "format",
        "status",
        "ephemeral",
    ],
    &["config", "metrics"],
    &["replication", "postgres", "pgoutput"],
    &["outbox", "kafka"],
    &["engine"],
    &["publisher", "http"],
    &["cli", "main"],
];

/// The engine is pure: it may know words and no room that does anything.
const ENGINE_USES: [&str; 6] = ["lsn", "error", "backoff", "config", "outbox", "engine"];

/// Arrows between rooms of one step.
const BESIDE: [(&str, &str); 4] = [
    ("replication", "postgres"),
    ("kafka", "outbox"),
    ("http", "publisher"),
    ("main", "cli"),
];

/// The longest file, tests not counted.
const LINES_MAX: usize = 400;

fn step(room: &str) -> Option<usize> {
    STEPS.iter().position(|rooms| rooms.contains(&room))
}

/// Why `from` may not use `to`.
fn fault(from: &str, to: &str) -> Option<String> {
    let (Some(lower), Some(upper)) = (step(to), step(from)) else {
        return Some(format!(
            "{from} → {to}: not a room of the map (a path names its room)"
        ));
    };
    if from == "engine" && !ENGINE_USES.contains(&to) {
        return Some(format!("{from} → {to}: the engine does nothing itself"));
    }
    // The program is another crate and sees the library from outside: its `crate::` means itself.
    let inside = from == to || BESIDE.contains(&(from, to));
    let allowed = inside || (lower < upper && !matches!(from, "cli" | "main"));
    (!allowed).then(|| format!("{from} → {to} goes against the map"))
}

/// The code of a file without its comments and without its tests.
fn code(text: &str) -> Vec<&str> {
    let tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..tests].lines().collect()
}

/// The rooms that this code names after `crate::`.
fn rooms_used(lines: &[&str]) -> BTreeSet<String> {
    let code: Vec<&str> = lines
        .iter()
        .map(|line| line.split_once("//").map_or(*line, |(code, _)| code))
        .collect();
    let code = code.join("\n");
    let mut rooms = BTreeSet::new();
    for (place, _) in code.match_indices("crate::") {
        let before = code[..place].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '$')) {
            continue;
        }
        let path = &code[place + "crate::".len()..];
        match path.strip_prefix('{') {
            Some(group) => rooms.extend(first_names(group)),
            None => rooms.extend(name(path)),
        }
    }
    rooms
}

fn name(path: &str) -> Option<String> {
    let end = path
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(path.len());
    (end > 0).then(|| path[..end].to_owned())
}

/// Of `a::b, c::{d, e}, f};` the names a, c and f.
fn first_names(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, true);
    for (place, c) in group.char_indices() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if start && !c.is_whitespace() => {
                names.extend(name(&group[place..]));
                start = false;
            }
            _ => {}
        }
    }
    names
}

/// Every source file but those that hold nothing but tests, by its path below `src`.
fn sources() -> Result<Vec<(PathBuf, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut files) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                files.push((
                    path.strip_prefix(&root)?.to_path_buf(),
                    fs::read_to_string(&path)?,
                ));
            }
        }
    }
    let tests: BTreeSet<PathBuf> = files.iter().flat_map(test_files).collect();
    files.retain(|(path, _)| !path.ancestors().any(|it| tests.contains(it)));
    assert!(files.len() > 5, "the sources are found");
    Ok(files)
}

/// The files that this one declares as modules of its tests: those of `#[cfg(test)] mod name;`.
fn test_files((path, text): &(PathBuf, String)) -> Vec<PathBuf> {
    let declared = text.split("#[cfg(test)]\n").skip(1);
    let names = declared.filter_map(|rest| rest.trim_start().strip_prefix("mod ")?.split_once(';'));
    let names = names
        .map(|(name, _)| name)
        .filter(|name| !name.contains(char::is_whitespace));
    // A module of tests is a file, or a folder.
    names
        .flat_map(|name| {
            [
                path.with_file_name(format!("{name}.rs")),
                path.with_file_name(name),
            ]
        })
        .collect()
}

#[test]
fn rooms_use_only_rooms_below_them() -> Result<()> {
    let mut faults = Vec::new();
    for (path, text) in sources()? {
        let first = path.components().next().context("a path")?;
        let room = Path::new(first.as_os_str())
            .with_extension("")
            .display()
            .to_string();
        if room == "lib" {
            continue;
        }
        let used = rooms_used(&code(&text));
        let against = used.iter().filter_map(|other| fault(&room, other));
        faults.extend(against.map(|fault| format!("{}: {fault}", path.display())));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

#[test]
fn files_stay_short_and_folders_flat() -> Result<()> {
    let mut faults = Vec::new();
    for (path, text) in sources()? {
        let count = code(&text).len();
        if count > LINES_MAX {
            faults.push(format!(
                "{}: {count} lines, the most is {LINES_MAX}",
                path.display()
            ));
        }
        if path.components().count() > 3 {
            faults.push(format!(
                "{}: a folder inside a folder of a room",
                path.display()
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// What is waited for must not depend on a clock that somebody sets: it tells how long an event took, and Postgres what time it is here.
#[test]
fn the_wall_clock_is_read_for_figures_alone() -> Result<()> {
    const FIGURES: [&str; 2] = ["publisher/sink/forwarder.rs", "replication/message.rs"];
    let mut readers = Vec::new();
    for (path, text) in sources()? {
        if code(&text).iter().any(|line| line.contains("SystemTime")) {
            readers.push(path.display().to_string());
        }
    }
    readers.sort_unstable();
    assert_eq!(readers, FIGURES);
    Ok(())
}

#[test]
fn an_arrow_against_the_map_is_seen() {
    let text = "use crate::{config::Config, publisher::{Status, engine},\n    lsn};\n// crate::http\nfn f() -> crate::kafka::Report {}\n\
                #[cfg(test)]\nmod tests { use crate::cli; }";
    let used = rooms_used(&code(text));
    assert_eq!(
        Vec::from_iter(&used),
        ["config", "kafka", "lsn", "publisher"]
    );
    let faults: Vec<String> = used.iter().filter_map(|to| fault("outbox", to)).collect();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(fault("kafka", "outbox").is_none() && fault("replication", "postgres").is_none());
    assert!(fault("postgres", "replication").is_some() && fault("cli", "publisher").is_some());
    assert!(fault("http", "Publisher").is_some(), "a name of no room");
    let head = "#[cfg(test)]\nmod lock_tests;\n#[cfg(test)]\nmod tests {\n    use x;\n}\n";
    let file = (PathBuf::from("outbox/mod.rs"), head.to_owned());
    let expected = ["outbox/lock_tests.rs", "outbox/lock_tests"].map(PathBuf::from);
    assert_eq!(test_files(&file), expected);
}

/// Statements are written in the rooms that know the tables and the catalogs they name.
#[test]
fn publisher_and_engine_hold_no_sql() -> Result<()> {
    const WORDS: [&str; 3] = ["SELECT", "UPDATE", "INSERT"];
    let mut faults = Vec::new();
    for (path, text) in sources()? {
        if !path.starts_with("publisher") && !path.starts_with("engine") {
            continue;
        }
        let literals = string_literals(&code(&text).join("\n"));
        let sql = literals.iter().filter(|literal| {
            let mut words = literal.split(|c: char| !c.is_alphanumeric() && c != '_');
            words.any(|word| WORDS.contains(&word))
        });
        faults.extend(sql.map(|literal| format!("{}: {literal:?}", path.display())));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
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
