//! The architecture that CONTRIBUTING.md describes, read from the source text: which layer may use
//! which, that no imports form a circle, how long files and functions may be, how deep folders, and
//! where SQL may stand.
//!
//! The source is read as text and never compiled here, so the tests hold for every feature and
//! platform at once. Tests inside `src` are not counted.

mod circles;
mod layers;
mod lexer;
mod paths;
mod sizes;
mod sql;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// One source file without its comments and tests.
struct Source {
    /// Its path below `src`, such as `engine/mod.rs`.
    path: String,
    /// Its code; the lines keep their numbers, and texts are blank.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        Source {
            path: path.to_owned(),
            code: lexer::blank(without_tests(text)),
        }
    }
}

/// A file's text up to its inline tests, which stand last.
fn without_tests(text: &str) -> &str {
    let is_attribute = |line: &str| line.starts_with("#[");
    let tests = text.match_indices("#[cfg(test)]\n").find(|(place, _)| {
        let mut lines = text[*place..].lines().skip_while(|line| is_attribute(line));
        lines.next() == Some("mod tests {")
    });
    &text[..tests.map_or(text.len(), |(place, _)| place)]
}

/// Every source file except those that hold nothing but tests, in the order of their paths.
fn sources() -> Result<Vec<Source>> {
    let files = files()?;
    assert!(files.len() > 5, "the sources are found");
    Ok(files
        .iter()
        .map(|(path, text)| Source::new(path, text))
        .collect())
}

/// The same as paths below `src` and whole texts.
fn files() -> Result<Vec<(String, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut files) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let name = path.strip_prefix(&root)?.display().to_string();
                files.push((name, fs::read_to_string(&path)?));
            }
        }
    }
    let tests: BTreeSet<PathBuf> = files.iter().flat_map(test_files).collect();
    files.retain(|(path, _)| !Path::new(path).ancestors().any(|it| tests.contains(it)));
    files.sort_unstable();
    Ok(files)
}

/// The files and folders that this file declares as test modules: `#[cfg(test)] mod name;`, which
/// may have a `#[path]`.
fn test_files((path, text): &(String, String)) -> Vec<PathBuf> {
    let path = Path::new(path);
    let mut files = Vec::new();
    for declared in text.split("#[cfg(test)]\n").skip(1) {
        let declared = declared.trim_start();
        if let Some(named) = declared.strip_prefix("#[path = \"") {
            files.extend(
                named
                    .split('"')
                    .next()
                    .map(|file| path.with_file_name(file)),
            );
        } else if let Some((name, _)) = declared
            .strip_prefix("mod ")
            .and_then(|rest| rest.split_once(';'))
            .filter(|(name, _)| !name.contains(char::is_whitespace))
        {
            files.push(path.with_file_name(format!("{name}.rs")));
            files.push(path.with_file_name(name));
        }
    }
    files
}

/// A wait must not depend on a clock that an administrator can set. The wall clock serves figures:
/// how old an event is, the time that a status update reports to Postgres, those of a line of the
/// log and of `status --watch`, how far the server's clock is ahead, when a pass of retention ended
/// and how long a token is valid, whose end is a point of that clock. A record with a time of its
/// own is compared with it as well, since brokers refuse a time that is far from theirs. A jump of
/// it is a sign that the machine was paused, and means no more than a new session.
#[test]
fn the_wall_clock_is_read_for_figures_alone() -> Result<()> {
    const FIGURES: [&str; 8] = [
        "cli/log.rs",
        "cli/status/mod.rs",
        "kafka/login/tokens.rs",
        "postgres/facts/server.rs",
        "publisher/clock.rs",
        "publisher/sink/database_worker.rs",
        "publisher/sink/forwarder.rs",
        "replication/message.rs",
    ];
    let mut readers = sources()?;
    readers.retain(|source| source.code.contains("SystemTime"));
    let readers: Vec<&str> = readers.iter().map(|source| source.path.as_str()).collect();
    assert_eq!(readers, FIGURES);
    Ok(())
}

#[test]
fn files_that_hold_tests_alone_are_known_by_their_declaration() {
    let head = "#[cfg(test)]\nmod lock_tests;\n#[cfg(test)]\n#[path = \"tests/slot.rs\"]\n\
                mod slot;\n#[cfg(test)]\nmod tests {\n    use x;\n}\n";
    let file = ("outbox/mod.rs".to_owned(), head.to_owned());
    let expected = ["lock_tests.rs", "lock_tests", "tests/slot.rs"];
    let expected = expected.map(|name| Path::new("outbox").join(name));
    assert_eq!(test_files(&file), expected);
    assert!(!without_tests(head).contains("use x"));
}
