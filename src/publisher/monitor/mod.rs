//! Monitors a session beside the stream: slot, walsender, catalogs, and the audit of the table.

pub(crate) mod audit;
pub(crate) mod health_monitor;
pub(crate) mod inspector;
pub(crate) mod problems;
pub(crate) mod query_schedule;
pub(crate) mod session_monitor;
mod slot_forecast;
pub(crate) mod slot_reader;
