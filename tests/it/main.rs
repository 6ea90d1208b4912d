//! The integration tests: one binary, a module a promise, on real servers.
#![allow(clippy::unwrap_used, clippy::large_futures, missing_docs)]

mod config;
mod layers;
mod publish;
mod rows;
mod services;
mod support;
mod writer;
