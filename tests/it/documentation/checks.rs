//! Blocks that need no server: settings, manifests, and command lines that build.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use outboxd::config::{Config, Settings};
use yaml_rust2::YamlLoader;

use super::blocks::{Block, Role};
use super::reference::{setting_names, unknown_settings};
use super::{read, root};
use crate::support::outboxd::PROGRAM;

/// Checks a block as its language or role says; blocks of other kinds pass.
pub(super) fn check(block: &Block) -> Result<()> {
    match (block.language.as_str(), block.role) {
        ("toml", _) => settings(&block.text),
        ("yaml", _) => manifest(&block.text),
        ("sh", Some(Role::Build)) => block.text.lines().try_for_each(command_line),
        _ => Ok(()),
    }
}

/// Loads the text as a settings file; nothing connects. A password file that it names below
/// `/run/secrets` exists.
fn settings(text: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (file, password) = (
        folder.path().join("outboxd.toml"),
        folder.path().join("password"),
    );
    std::fs::write(&password, "password")?;
    let named = format!("password_file = \"{}", password.display());
    let lines = text
        .lines()
        .map(|line| match line.split_once("_file = \"/run/secrets/") {
            Some(("database_password" | "kafka_password", _)) => {
                let setting = line.split("password_file").next().unwrap_or_default();
                format!("{setting}{named}\"\n")
            }
            _ => format!("{line}\n"),
        });
    std::fs::write(&file, lines.collect::<String>())?;
    Config::from_settings(Settings::load(&file))?;
    Ok(())
}

fn manifest(text: &str) -> Result<()> {
    let documents = YamlLoader::load_from_str(text)?;
    ensure!(!documents.is_empty(), "it is empty");
    let unknown = unknown_settings(text, &setting_names());
    ensure!(unknown.is_empty(), "no such settings: {unknown:?}");
    Ok(())
}

/// Whether outboxd has this command with these flags: with `--help` it does nothing else.
pub(super) fn accepted(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(PROGRAM);
    let output = command
        .args(arguments)
        .arg("--help")
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "outboxd {arguments:?}: {said}");
    Ok(())
}

/// A command line that builds the project: its program, flags and files exist.
fn command_line(line: &str) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["cargo", command, ref rest @ ..] => {
            let split = rest.iter().position(|word| *word == "--");
            let (flags, arguments) = rest.split_at(split.unwrap_or(rest.len()));
            cargo_has(command, flags)?;
            match (command, arguments) {
                ("run", ["--", arguments @ ..]) => accepted(arguments),
                ("install", []) => has_manifest(flags),
                _ => bail!("cargo {command} is not checked here"),
            }
        }
        [script @ ("tests/run" | "tests/bench/run"), ref flags @ ..] => script_has(script, flags),
        [script @ "tests/supply", command, ref file @ ..] => {
            ensure!(file.len() <= 1, "{script} {command} takes one file");
            script_has(script, &[])?;
            let known = read(script)?.contains(&format!("case [\"{command}\""));
            ensure!(known, "{script} has no {command}");
            Ok(())
        }
        _ => bail!("\"{line}\" is not checked here"),
    }
}

fn cargo_has(command: &str, flags: &[&str]) -> Result<()> {
    let output = Command::new(env!("CARGO"))
        .args([command, "--help"])
        .output()?;
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    let known: BTreeSet<&str> = help.split([' ', '\n', ',', '[', '=']).collect();
    let flags = flags.iter().filter(|word| word.starts_with('-'));
    let unknown: Vec<&&str> = flags.filter(|flag| !known.contains(**flag)).collect();
    ensure!(unknown.is_empty(), "cargo {command} has no {unknown:?}");
    Ok(())
}

/// `--path FOLDER` names a package.
fn has_manifest(flags: &[&str]) -> Result<()> {
    let path = flags.iter().skip_while(|flag| **flag != "--path").nth(1);
    let folder = path.context("no --path")?;
    ensure!(
        root().join(folder).join("Cargo.toml").is_file(),
        "no package in {folder}"
    );
    Ok(())
}

fn script_has(script: &str, flags: &[&str]) -> Result<()> {
    let mode = root().join(script).metadata()?.permissions().mode();
    ensure!(mode & 0o111 != 0, "{script} is not executable");
    let text = read(script)?;
    let flags = flags.iter().filter(|word| word.starts_with('-'));
    let unknown: Vec<&&str> = flags.filter(|flag| !text.contains(**flag)).collect();
    ensure!(unknown.is_empty(), "{script} has no {unknown:?}");
    Ok(())
}

#[test]
fn a_wrong_block_is_refused() {
    assert!(settings("database_url = \"postgres://a@b/c\"\nkafka_brokers = \"a:1\"\n").is_ok());
    assert!(settings("database_uri = \"postgres://a@b/c\"\n").is_err());
    assert!(manifest("a: [1, 2]\n").is_ok());
    assert!(manifest("a: [1, 2\n").is_err());
    assert!(manifest("env: [{ name: OUTBOX_TABEL, value: x }]\n").is_err());
    assert!(command_line("tests/run --all").is_ok());
    for wrong in [
        "tests/run --none",
        "cargo run -- dmeo",
        "cargo install --pth .",
        "tests/supply bom x.json",
        "ls",
    ] {
        assert!(command_line(wrong).is_err(), "{wrong}");
    }
}
