//! No file imports itself by way of others, so that each can be read with those below it alone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::paths::Modules;
use super::{Source, sources};

/// Which file names which.
type Imports<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn imports(sources: &[Source]) -> Imports<'_> {
    let modules = Modules::new(sources);
    let named = |source| modules.named_by(source).unwrap_or_default();
    sources
        .iter()
        .map(|source| (source.path.as_str(), named(source).into_keys().collect()))
        .collect()
}

/// Every file that can be reached from this one.
fn reached<'a>(imports: &Imports<'a>, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = vec![from];
    while let Some(file) = open.pop() {
        for next in imports.get(file).into_iter().flatten().copied() {
            if reached.insert(next) {
                open.push(next);
            }
        }
    }
    reached
}

/// The circles: each a group of files of which every one leads to every other.
fn circles(sources: &[Source]) -> Vec<String> {
    let imports = imports(sources);
    let all: BTreeMap<&str, BTreeSet<&str>> = imports
        .keys()
        .map(|file| (*file, reached(&imports, file)))
        .collect();
    let mut groups = BTreeSet::new();
    for (file, reached) in &all {
        let back = reached.iter().filter(|other| all[*other].contains(file));
        let group: Vec<&str> = back.copied().collect();
        if group.len() > 1 {
            groups.insert(group);
        }
    }
    groups
        .into_iter()
        .map(|group| describe(&imports, &group))
        .collect()
}

/// A circle with its arrows, one a line.
fn describe(imports: &Imports<'_>, group: &[&str]) -> String {
    let mut lines = vec![format!("a circle of {} files:", group.len())];
    for file in group {
        let inside = imports[file].iter().filter(|other| group.contains(other));
        let targets: Vec<&str> = inside.copied().collect();
        lines.push(format!("  {file} → {}", targets.join(", ")));
    }
    lines.join("\n")
}

#[test]
fn no_imports_form_a_circle() -> Result<()> {
    let circles = circles(&sources()?);
    assert!(circles.is_empty(), "{}", circles.join("\n"));
    Ok(())
}

#[test]
fn a_circle_that_hides_behind_a_re_export_is_seen() {
    let of = |head: &str| {
        vec![
            Source::new("lib.rs", "mod room;\nmod other;"),
            Source::new("room/mod.rs", head),
            Source::new("room/inner.rs", "use crate::other::Thing;"),
            Source::new("other.rs", "use crate::room::Inner;\npub struct Thing;"),
            Source::new("alone.rs", "use crate::{other, room::Inner};"),
        ]
    };
    let found = circles(&of("mod inner;\npub use inner::Inner;"));
    assert_eq!(
        found,
        ["a circle of 2 files:\n  other.rs → room/inner.rs\n  room/inner.rs → other.rs"]
    );
    // Defined beside the re-exports instead, the same name closes no circle.
    assert_eq!(circles(&of("mod inner;\npub struct Inner;")), [""; 0]);
}
