//! What the tests stand on: real servers, the built program, an independent oracle, and waits with
//! a deadline.
//!
//! Servers come from this machine where it has them, or from the folders that
//! `OUTBOXD_TEST_POSTGRES_BIN_15`, `OUTBOXD_TEST_POSTGRES_BIN_17` and `OUTBOXD_TEST_KAFKA_DIR`
//! name; otherwise they are downloaded once into a cache folder. Every server and process ends with
//! the test process, however that ends.
//!
//! Starting and stopping a server blocks the thread: a test whose own tasks must run meanwhile uses
//! `#[tokio::test(flavor = "multi_thread")]`.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod browser;
pub(crate) mod certificates;
pub(crate) mod clocks;
pub(crate) mod debezium;
pub(crate) mod debian;
pub(crate) mod docker;
pub(crate) mod fixture;
pub(crate) mod folder;
pub(crate) mod identity_provider;
pub(crate) mod kafka;
pub(crate) mod kafka_proxy;
pub(crate) mod oracle;
pub(crate) mod outboxd;
pub(crate) mod pgbouncer;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod prometheus;
pub(crate) mod provider;
pub(crate) mod proxy;
pub(crate) mod secrets;
pub(crate) mod session_proxy;
pub(crate) mod writers;
pub(crate) use ::outboxd::ephemeral;
pub(crate) mod wait;

use std::fs::OpenOptions;
use std::future::Future;
use std::io::Write;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::LocalSet;

/// For tests that load the machine or measure time: one of them runs at a time.
pub(crate) async fn heavy() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// Runs all cases at once, and fails with every case that failed, each under its name.
///
/// One thread runs them: their futures need not be [`Send`].
pub(crate) async fn run_cases<Case>(cases: impl IntoIterator<Item = (String, Case)>) -> Result<()>
where
    Case: Future<Output = Result<()>> + 'static,
{
    let runs = LocalSet::new();
    let all: Vec<_> = cases
        .into_iter()
        .map(|(name, case)| runs.spawn_local(async move { case.await.context(name) }))
        .collect();
    runs.await;
    let mut failed = Vec::new();
    for run in all {
        if let Err(error) = run.await? {
            failed.push(format!("{error:?}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}

/// Whether a test that takes minutes runs: only with `tests/run --all`. Otherwise it is named in
/// the summary of `tests/run`.
pub(crate) fn is_long_run(what: &str) -> bool {
    let runs = std::env::var_os("OUTBOXD_TEST_ALL").is_some();
    if !runs {
        note("left out", what, "OUTBOXD_TEST_LEFT_OUT");
    }
    runs
}

/// Names in the summary of `tests/run` a test that needs a feature this machine lacks.
pub(crate) fn not_offered(what: &str) {
    note("not offered here", what, "OUTBOXD_TEST_NOT_OFFERED");
}

/// Prints the line and appends it to the file that the variable `list` names.
fn note(how: &str, what: &str, list: &str) {
    eprintln!("{how}: {what}");
    if let Some(path) = std::env::var_os(list) {
        let list = OpenOptions::new().append(true).create(true).open(path);
        let written = list.and_then(|mut list| writeln!(list, "{what}"));
        written.expect("the list can be written");
    }
}
