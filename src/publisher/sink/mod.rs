//! Where events go: to Kafka, and then the write-back to their rows.

mod database_worker;
mod filing_log;
pub(crate) mod forwarder;
mod gauges;
mod kafka_adapter;
mod kafka_queries;
pub(in crate::publisher) mod lasting_errors;
mod producer_care;
mod producer_replacement;
pub(in crate::publisher) mod returning_rows;
pub(crate) mod table_rows;
mod timing;
mod topic_counters;
pub(in crate::publisher) mod waits;
mod without_lock;
pub(in crate::publisher) mod work_errors;
mod work_results;

#[cfg(test)]
#[path = "../tests/forwarder.rs"]
pub(crate) mod forwarder_tests;
