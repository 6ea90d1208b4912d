//! What the program is made of: the third-party notices name it, and the oldest Rust compiles it.
//! `tests/supply` checks the rest, with tools that it installs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const NOTICES: &str = "docs/third-party-notices.txt";

/// The targets of the notices, as in .cargo/about.toml.
const TARGETS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// What the texts of the C libraries say, each in a line of its own.
const C_LIBRARIES: [(&str, &str); 9] = [
    ("librdkafka", "librdkafka - Apache Kafka C driver library"),
    ("lz4", "LZ4 Library"),
    (
        "cJSON",
        "Copyright (c) 2009-2017 Dave Gamble and cJSON contributors",
    ),
    ("tinycthread", "Copyright (c) 2012 Marcus Geelnard"),
    ("zlib", "Jean-loup Gailly        Mark Adler"),
    ("Zstandard", "For Zstandard software"),
    (
        "jemalloc",
        "Copyright (C) 2002-present Jason Evans <jasone@canonware.com>.",
    ),
    (
        "xz",
        "Permission to use, copy, modify, and/or distribute this",
    ),
    ("OpenSSL", "https://www.apache.org/licenses/"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn notices() -> Result<String> {
    std::fs::read_to_string(root().join(NOTICES)).context(NOTICES)
}

fn cargo(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(env!("CARGO"));
    let output = command.args(arguments).current_dir(root()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo {arguments:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The crates that the program is built from, as `name version`.
fn crates() -> Result<BTreeSet<String>> {
    let mut crates = BTreeSet::new();
    for target in TARGETS {
        let tree = "tree --locked -e normal,build --prefix none --format {p} --target";
        let tree: Vec<&str> = tree.split(' ').chain([target]).collect();
        let lines = cargo(&tree)?;
        // Such as `bytes v1.12.2`, with a path or `(proc-macro)` after it.
        let found = lines.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
            Some(format!("{name} {version}"))
        });
        crates.extend(found);
    }
    ensure!(crates.len() > 100, "not found: {crates:?}");
    Ok(crates)
}

#[test]
fn the_notices_name_every_crate_of_the_program_and_no_other() -> Result<()> {
    let notices = notices()?;
    let (list, texts) = notices.split_once("\nLicenses\n").context("no licenses")?;
    let (_, list) = list.split_once("\nCrates\n").context("no crates")?;
    let listed = list.lines().filter_map(|line| line.split_once(": "));
    let listed: BTreeSet<String> = listed.map(|(name, _)| name.to_owned()).collect();
    let crates = crates()?;
    let stale: Vec<_> = listed.symmetric_difference(&crates).collect();
    assert!(
        stale.is_empty(),
        "{NOTICES} is stale, run tests/supply notices: {stale:?}"
    );
    // Each has a text, too.
    let users = texts.lines().filter_map(|line| line.strip_prefix("  "));
    let users = users.map(|line| line.split(',').next().unwrap_or_default());
    let users: BTreeSet<&str> = users.collect();
    let without = crates.iter().filter(|name| !users.contains(name.as_str()));
    assert_eq!(without.collect::<Vec<_>>(), [""; 0]);
    Ok(())
}

#[test]
fn the_notices_have_the_texts_of_the_c_libraries() -> Result<()> {
    let notices = notices()?;
    for (library, text) in C_LIBRARIES {
        let has = notices.lines().any(|line| line.contains(text));
        assert!(has, "{library}: \"{text}\"");
    }
    Ok(())
}

/// A version of Rust, such as `1.94`, without the patch.
fn minor(version: &str) -> Result<(u32, u32)> {
    let mut numbers = version.split('.').map(str::parse);
    let mut next = || numbers.next().context("no number");
    Ok((next()??, next()??))
}

/// Clippy's `incompatible_msrv`, an error in Cargo.toml, says the same of the crate's own code.
#[test]
fn no_dependency_needs_a_newer_rust_than_the_crate_names() -> Result<()> {
    let metadata = "metadata --locked --format-version 1 --filter-platform";
    let metadata: Vec<&str> = metadata.split(' ').chain([TARGETS[0]]).collect();
    let metadata: Value = serde_json::from_str(&cargo(&metadata)?)?;
    let own = minor(env!("CARGO_PKG_RUST_VERSION"))?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let (mut count, mut newer) = (0, Vec::new());
    for package in packages {
        // Half of the crates do not say.
        if let Some(version) = package["rust_version"].as_str() {
            count += 1;
            if minor(version)? > own {
                newer.push(format!("{} {version}", package["name"]));
            }
        }
    }
    assert!(count > 100, "the versions are found");
    assert_eq!(newer, [""; 0]);
    assert!(minor("1.95.1")? > minor("1.94")? && minor("1.100")? > minor("1.95")?);
    Ok(())
}
