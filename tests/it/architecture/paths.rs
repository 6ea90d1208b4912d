//! The paths that a file of Rust names, and the files that they lead to.

use std::collections::BTreeMap;

use super::Source;
use super::lexer::word;

/// One leaf of a `use` tree, or one path of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Leaf {
    segments: Vec<String>,
    /// The name that it has in this file: of `a::b as c` it is `c`.
    name: String,
}

/// The files of `src` by the path of their module.
pub(super) struct Modules<'a> {
    by_path: BTreeMap<Vec<String>, Module<'a>>,
}

struct Module<'a> {
    file: &'a str,
    re_exports: Vec<Leaf>,
}

/// The longest chain of re-exports that is followed.
const CHAIN_MAX: usize = 8;

/// A path that leads to no file.
#[derive(Debug)]
pub(super) struct Unknown(pub(super) String);

impl<'a> Modules<'a> {
    pub(super) fn new(sources: &'a [Source]) -> Modules<'a> {
        let modules = sources.iter().map(|source| {
            let found = Module {
                file: &source.path,
                re_exports: re_exports(&source.code),
            };
            (module(&source.path), found)
        });
        Modules {
            by_path: modules.collect(),
        }
    }

    /// The files that this one names, each with the path that names it. A name that a `mod.rs`
    /// re-exports leads to the file that defines it.
    pub(super) fn named_by(
        &self,
        source: &Source,
    ) -> Result<BTreeMap<&'a str, String>, Vec<Unknown>> {
        let (mut files, mut unknown) = (BTreeMap::new(), Vec::new());
        for leaf in leaves(&source.code) {
            let path = absolute(&module(&source.path), &leaf.segments);
            match self.file(&path, 0) {
                Some(file) if file != source.path => {
                    files.insert(file, leaf.segments.join("::"));
                }
                Some(_) => {}
                None => unknown.push(Unknown(leaf.segments.join("::"))),
            }
        }
        files.extend(self.children_named_by(source));
        if unknown.is_empty() {
            Ok(files)
        } else {
            Err(unknown)
        }
    }

    /// The children that a file names by their bare names, as `child::item`. A re-export is no use.
    fn children_named_by(&self, source: &Source) -> BTreeMap<&'a str, String> {
        let parent = module(&source.path);
        let children = self.by_path.iter().filter_map(|(path, child)| {
            let (name, above) = path.split_last()?;
            let path = format!("{name}::");
            let is_named = source.code.match_indices(&path).any(|(place, _)| {
                let before = &source.code[..place];
                let line = before.rsplit('\n').next().unwrap_or_default();
                let re_exports = line.starts_with("pub") && line.ends_with(" use ");
                let goes_on = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
                !re_exports && !before.ends_with(goes_on)
            });
            (above == parent && is_named).then_some((child.file, path))
        });
        children.collect()
    }

    /// The file that defines what this path names.
    fn file(&self, path: &[String], depth: usize) -> Option<&'a str> {
        // The longest prefix that is a module; the crate's root is one, of length 0.
        let (length, module) = (0..=path.len())
            .rev()
            .find_map(|length| Some((length, self.by_path.get(&path[..length])?)))?;
        let Some(name) = path.get(length).filter(|_| depth < CHAIN_MAX) else {
            return Some(module.file);
        };
        let mut exported = module.re_exports.iter().filter(|leaf| leaf.name == *name);
        let found = exported.find_map(|leaf| {
            let target = absolute(&path[..length], &leaf.segments);
            self.file(&target, depth + 1)
        });
        // The root defines nothing of its own.
        found.or_else(|| (length > 0).then_some(module.file))
    }
}

/// `engine/mod.rs` is the module `engine`, `engine/tracker.rs` is `engine::tracker`, and `lib.rs`
/// is the root.
fn module(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs");
    let names = path
        .split('/')
        .filter(|name| !["mod", "lib"].contains(name));
    names.map(str::to_owned).collect()
}

/// A path from the crate's root; one that begins with neither `crate`, `self` nor `super` begins
/// with a child of this module.
fn absolute(module: &[String], segments: &[String]) -> Vec<String> {
    let mut base = module.to_vec();
    let mut rest = segments;
    loop {
        match rest.first().map(String::as_str) {
            Some("crate") => base.clear(),
            Some("self") => {}
            Some("super") => drop(base.pop()),
            _ => break,
        }
        rest = &rest[1..];
    }
    base.extend_from_slice(rest);
    base
}

/// The paths of a file that begin with `crate`, `self` or `super`, in `use` lines and elsewhere.
fn leaves(code: &str) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    for start in ["crate::", "self::", "super::"] {
        for (place, _) in code.match_indices(start) {
            let before = &code[..place];
            let inside = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | ':');
            // `pub(in crate::x)` names a path for visibility alone.
            if !before.ends_with(inside) && !before.ends_with("(in ") {
                tree(&code[place..], &[], &mut leaves);
            }
        }
    }
    leaves
}

/// What a file re-exports: the leaves of its `pub use` lines.
fn re_exports(code: &str) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    for (place, _) in code.match_indices("use ") {
        let line = code[..place].rfind('\n').map_or(0, |at| at + 1);
        if code[line..place].trim_start().starts_with("pub") {
            tree(&code[place + "use ".len()..], &[], &mut leaves);
        }
    }
    leaves
}

/// Reads `a::{b, c::d as e}`; gives what stands behind it.
fn tree<'t>(text: &'t str, prefix: &[String], leaves: &mut Vec<Leaf>) -> &'t str {
    let mut segments = prefix.to_vec();
    let mut rest = text.trim_start();
    loop {
        if let Some(mut group) = rest.strip_prefix('{') {
            loop {
                group = group.trim_start().trim_start_matches(',').trim_start();
                if let Some(after) = group.strip_prefix('}') {
                    return after;
                }
                let before = group.len();
                group = tree(group, &segments, leaves);
                if group.len() == before {
                    return group;
                }
            }
        }
        let name = word(rest);
        if name.is_empty() {
            // A glob names its module.
            rest = rest.strip_prefix('*').unwrap_or(rest);
            break;
        }
        rest = &rest[name.len()..];
        // `a::{self, b}` names a itself.
        if name != "self" || segments.is_empty() {
            segments.push(name.to_owned());
        }
        let Some(after) = rest.strip_prefix("::") else {
            break;
        };
        rest = after;
    }
    let mut name = segments.last().cloned().unwrap_or_default();
    if let Some(alias) = rest.strip_prefix(" as ") {
        name = word(alias).to_owned();
        rest = &alias[name.len()..];
    }
    leaves.push(Leaf { segments, name });
    rest
}

#[test]
fn paths_lead_to_the_file_that_defines_the_name() {
    let sources = [
        Source::new("lib.rs", "mod a;\npub use crate::a::Inner as Outer;"),
        Source::new("a/mod.rs", "mod inner;\npub use inner::{Inner, Other};\n"),
        Source::new("a/inner.rs", "pub struct Inner;"),
        Source::new(
            "b.rs",
            "use crate::{a::{self, Other as X}, Outer};\npub(in crate::c) fn f() {}",
        ),
    ];
    let modules = Modules::new(&sources);
    let named = modules.named_by(&sources[3]).unwrap();
    assert_eq!(
        named.into_keys().collect::<Vec<_>>(),
        ["a/inner.rs", "a/mod.rs"]
    );
    let lost = Source::new("b.rs", "fn f() -> crate::Nothing {}");
    let unknown = modules.named_by(&lost).unwrap_err();
    assert_eq!(unknown[0].0, "crate::Nothing");
}
