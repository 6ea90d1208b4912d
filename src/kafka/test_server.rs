//! A real Kafka for the tests of what this room shows to its neighbours only: the integration tests'
//! own, since they see the library from outside.
#![allow(dead_code, reason = "it is used in part")]

#[path = "../../tests/it/support/kafka.rs"]
mod server;
#[path = "../cli/throwaway.rs"]
mod throwaway;

pub(crate) use server::{Kafka, private, shared};
