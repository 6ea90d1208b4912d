//! A real Kafka for the tests of what this room shows to its neighbours only: the integration tests' own.
#![allow(dead_code, reason = "it is used in part")]

use crate::ephemeral as throwaway;

#[path = "../../../tests/it/support/kafka.rs"]
mod server;

pub(crate) use server::{Kafka, private, shared};
