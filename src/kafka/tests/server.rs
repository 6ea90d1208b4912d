//! A real Kafka for the tests of this module's crate-private parts: the same as the integration
//! tests'.
#![allow(dead_code, reason = "it is used in part")]

use crate::ephemeral;

#[path = "../../../tests/it/support/kafka.rs"]
mod kafka;
#[path = "../../../tests/it/support/process.rs"]
mod process;

pub(crate) use kafka::{Kafka, private, shared};
