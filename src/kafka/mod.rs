//! Where records go: one idempotent producer, and the few questions that outboxd asks a cluster.
//!
//! This room knows records, tickets and reports; it knows no slot, no LSN and no outbox row. It
//! owns librdkafka: its settings (`settings`), its events (`events`), how it and our task
//! wake each other (`wake`) and the meaning of the broker's error codes ([`Refusal`], [`Action`]).
//!
//! The promise that everything above is built on: **each record that [`Producer::send`] accepts
//! ends with exactly one [`Report`]**, be it delivered, refused or purged, and of two records of
//! one partition the earlier is appended first.

mod action;
mod admin;
mod catalog;
mod events;
mod producer;
mod refusal;
mod settings;
mod suspicion;
mod wake;
mod wire;

pub use action::Action;
pub use admin::{ClusterInfo, create_topics, delete_topics, reachable};
pub(crate) use catalog::{Catalog, TopicAnswer};
pub use events::{Health, LastError};
pub use producer::{Producer, Report, SendError};
pub use refusal::Refusal;
pub(crate) use wire::wire_size;

#[cfg(test)]
mod broker_tests;
#[cfg(test)]
mod catalog_tests;
#[cfg(test)]
mod producer_tests;
#[cfg(test)]
mod test_server;
