//! How long files and functions may be, how deep folders may lie and how much they may hold.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::lexer::word;
use super::{Source, files, sources, without_tests};

/// The longest file, tests not counted.
const FILE_LINES_MAX: usize = 400;

/// The longest function, from its first line to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// The folders above a file, `src` included.
const FOLDERS_MAX: usize = 3;

/// The longest line.
const COLUMNS_MAX: usize = 100;

/// The files of one folder.
const FILES_MAX: usize = 18;

#[test]
fn files_stay_short_and_folders_flat() -> Result<()> {
    let mut problems = Vec::new();
    let mut folders: BTreeMap<String, usize> = BTreeMap::new();
    for (path, text) in files()? {
        let lines = without_tests(&text).lines().count();
        if lines > FILE_LINES_MAX {
            problems.push(format!("{path}: {lines} lines, at most {FILE_LINES_MAX}"));
        }
        if path.split('/').count() > FOLDERS_MAX {
            problems.push(format!("{path}: more than {FOLDERS_MAX} folders deep"));
        }
        let folder = path.rsplit_once('/').map_or("src", |(folder, _)| folder);
        *folders.entry(folder.to_owned()).or_default() += 1;
    }
    let crowded = folders.iter().filter(|(_, count)| **count > FILES_MAX);
    problems.extend(crowded.map(|(it, count)| format!("{it}: {count} files, at most {FILES_MAX}")));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

/// Code, comments and texts of the program and of its tests. rustfmt keeps the code but for the
/// names of tests, and an address and a raw literal cannot be broken.
#[test]
fn lines_stay_within_a_hundred_columns() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> = ["src", "tests", "examples"].map(|it| root.join(it)).into();
    let (mut problems, mut count) = (Vec::new(), 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                count += 1;
                let text = fs::read_to_string(&path)?;
                let wide = text.lines().enumerate().filter(|(_, line)| is_wide(line));
                problems.extend(wide.map(|(at, _)| format!("{}:{}", path.display(), at + 1)));
            }
        }
    }
    assert!(count > 100, "the sources are found");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

fn is_wide(line: &str) -> bool {
    let start = line.trim_start();
    let cannot_break = line.contains("https://")
        || start.starts_with("r#\"")
        || start.starts_with("async fn ")
        || start.starts_with("fn ");
    line.chars().count() > COLUMNS_MAX && !cannot_break
}

/// A function and its lines.
#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    first: usize,
    lines: usize,
}

/// The functions of a file that have a body.
fn functions(source: &Source) -> Vec<Function> {
    let code = &source.code;
    let mut functions = Vec::new();
    for (place, _) in code.match_indices("fn ") {
        let name = word(&code[place + "fn ".len()..]);
        let is_word = code[..place].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        // `impl Fn(…)` and `fn(…)` are types.
        if is_word || name.is_empty() {
            continue;
        }
        let Some(length) = body_end(&code[place..]) else {
            continue;
        };
        functions.push(Function {
            name: name.to_owned(),
            first: code[..place].matches('\n').count() + 1,
            lines: code[place..place + length].lines().count(),
        });
    }
    functions
}

/// Where the first block of this text ends; `None` for a declaration without one.
fn body_end(text: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0_usize, 0_usize);
    for (place, c) in text.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.saturating_sub(1),
            ';' if braces == 0 && brackets == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 {
                    return Some(place + 1);
                }
            }
            _ => {}
        }
    }
    None
}

#[test]
fn functions_stay_short() -> Result<()> {
    let mut problems = Vec::new();
    for source in sources()? {
        for Function { name, first, lines } in functions(&source) {
            if lines > FUNCTION_LINES_MAX {
                let place = format!("src/{}:{first}", source.path);
                problems.push(format!(
                    "{place}: {name} has {lines} lines, at most {FUNCTION_LINES_MAX}"
                ));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

#[test]
fn a_function_is_measured_from_its_first_line_to_its_last() {
    let text = "trait T {\n    fn declared(&self) -> [u8; 2];\n}\nfn short() {}\n\
                fn long(a: [u8; 2], f: fn(u8)) -> u8\nwhere\n{\n    if a == b { \"}\" }\n}\n";
    let found = functions(&Source::new("a.rs", text));
    let short = Function {
        name: "short".to_owned(),
        first: 4,
        lines: 1,
    };
    let long = Function {
        name: "long".to_owned(),
        first: 5,
        lines: 5,
    };
    assert_eq!(found, [short, long]);
}
