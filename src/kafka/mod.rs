//! The Kafka side: one idempotent producer, and a few requests about the cluster and its topics.
//!
//! This module knows records, tickets and reports; it knows no slot, no LSN and no outbox row. It
//! owns librdkafka: its properties (`client_config`), its tokens (`login`), its events (`context`),
//! the wake-ups between its threads and our task (`waking_producer`), and the meaning of Kafka's
//! error codes (`DeliveryError`, `ErrorAction`).
//!
//! The guarantee that the modules above rely on: **each record that `Producer::send` accepts ends
//! with exactly one `DeliveryReport`**, whether delivered, refused or purged, and of two records
//! of one partition the earlier is appended first.

mod admin;
mod certificate;
mod client_config;
mod connection_hint;
mod context;
mod delivery_error;
mod delivery_report;
mod error_table;
mod login;
mod login_files;
mod metadata;
mod producer;
mod reach;
mod reader;
pub(crate) mod survey;
mod suspect_partitions;
mod topic_facts;
pub(crate) mod topic_rights;
mod topic_settings;
mod transactions;
mod waking_producer;

#[cfg(test)]
mod tests;

pub use admin::{ClusterInfo, create_topics, delete_topics, reachable};
pub(crate) use connection_hint::{hint as connection_hint, protocol as security_protocol};
pub(crate) use context::LastError;
pub(crate) use delivery_error::DeliveryError;
pub(crate) use delivery_report::DeliveryReport;
pub(crate) use error_table::ErrorAction;
pub(crate) use login_files::digest as login_files_digest;
pub(crate) use metadata::{MetadataClient, TopicAnswer};
pub(crate) use producer::{Producer, SendError};
pub(crate) use reach::KafkaReach;
pub(crate) use reader::ends::{Seen, read_ends};
pub(crate) use reader::whole_end::{WholeEnd, read_whole_end};
pub(crate) use reader::{Ends, Listing, Span, TopicReader, reader_token};
pub(crate) use topic_facts::TopicFacts;
pub(crate) use transactions::{
    Commit, CommitResult, TransactionalId, Unfit, last_value, unfit_for_progress,
};
