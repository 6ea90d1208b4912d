//! Where events come from: the slot, or the table.

mod answer_watch;
pub(crate) mod bootstrap;
pub(crate) mod bootstrap_steps;
mod bootstrap_transactions;
mod copied_rows;
pub(crate) mod event_decoder;
pub(crate) mod kafka_copies;
pub(crate) mod poll;
pub(crate) mod poll_pass;
mod read_pacer;
pub(crate) mod table_scan;
pub(crate) mod wal_stream;
