//! Where events go: to Kafka, and back to their row.

mod database_worker;
pub(crate) mod forwarder;
mod gauges;
mod kafka_adapter;
pub(crate) mod table_rows;
mod topic_counters;
mod without_lock;
