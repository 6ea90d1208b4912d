//! The integration tests: one binary, a module a promise, on real servers.
#![allow(clippy::unwrap_used, clippy::large_futures, missing_docs)]

mod commands;
mod config;
mod layers;
mod postgres;
mod publish;
mod replication;
mod rows;
mod services;
mod support;
mod writer;
