//! outboxd publishes a transactional outbox from Postgres to Kafka by reading the write-ahead log.
//!
//! One event's way through the house, one type an arrow:
//!
//! ```text
//! WAL → XLogData → pgoutput::Message → outbox::Event → outbox::Record → kafka delivery → tracker → write-back → flush LSN → StandbyStatusUpdate
//! ```
//!
//! The rooms, lower ones first; a room uses only rooms above its own line in this list:
//!
//! - [`lsn`], [`error`], `backoff`: words that everybody uses.
//! - [`config`], [`metrics`]: settings, validated together before anything connects; names and counters.
//! - [`pgoutput`]: pure decoder, bytes in, messages out. [`replication`]: our client for the streaming replication protocol.
//!   [`postgres`]: the SQL side: connections, TLS, slot, publication.
//! - [`outbox`]: what a row means: [`outbox::Event`], [`outbox::Record`], write-back, [`outbox::Writer`] for services in Rust.
//!   [`kafka`]: where records go.
//! - [`publisher`]: the pure engine, its driver, and [`publisher::Publisher`]: start, stop, status.
//! - [`http`]: metrics, health and the status page.

mod backoff;
pub mod config;
mod engine;
#[cfg(feature = "ephemeral")]
#[doc(hidden)]
pub mod ephemeral;
pub mod error;
mod fnv;
#[doc(hidden)]
pub mod format;
pub mod http;
pub mod kafka;
pub mod lsn;
pub mod metrics;
pub mod outbox;
pub mod pgoutput;
pub mod postgres;
pub mod publisher;
pub mod replication;
mod status;

/// The Rust blocks of the manual, which `cargo test` compiles.
#[cfg(doctest)]
mod manual {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/library.md")]
    mod library {}
}
