//! The integration tests: one binary, a module a promise, on real servers.
#![allow(clippy::unwrap_used, clippy::large_futures, missing_docs)]

mod audit;
mod backlog;
mod brokers;
mod commands;
mod config;
mod crash;
mod ddl;
mod dead_letter_table;
mod demo;
mod failover;
mod idle;
mod large;
mod layers;
mod lifecycle;
mod outage;
mod poison;
mod poll;
mod postgres;
mod publish;
mod refusals;
mod refused;
mod replication;
mod restart;
mod rows;
mod services;
mod slot_loss;
mod standby;
mod stop;
mod support;
mod undecodable;
mod writer;
