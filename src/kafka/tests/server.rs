//! A real Kafka for the tests of what this room shows to its neighbours only: the integration tests' own.
#![allow(dead_code, reason = "it is used in part")]

use crate::ephemeral;

#[path = "../../../tests/it/support/kafka.rs"]
mod kafka;

pub(crate) use kafka::{Kafka, private, shared};
