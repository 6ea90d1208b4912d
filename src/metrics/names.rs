//! The names of metrics, labels and label values: the contract with dashboards and alerts.

/// Events by topic and outcome.
pub(crate) const EVENTS_PROCESSED: &str = "outbox_events_processed_total";
/// Bytes of the events that Kafka has acknowledged, by topic.
pub(crate) const PUBLISHED_BYTES: &str = "outboxd_published_bytes_total";
/// When Kafka last acknowledged an event.
pub(crate) const LAST_PUBLISHED: &str = "outboxd_last_published_timestamp_seconds";
/// From commit to acknowledgement, by topic.
pub(crate) const PROCESSING_DURATION: &str = "outbox_processing_duration_seconds";
/// Errors by code.
pub(crate) const ERRORS: &str = "outbox_errors_total";
/// Bytes of WAL between the slot's confirmed position and the server's.
pub(crate) const SLOT_LAG: &str = "outboxd_slot_lag_bytes";
/// Bytes of WAL that the server keeps for the slot.
pub(crate) const RETAINED_WAL: &str = "outboxd_retained_wal_bytes";
/// Bytes of WAL that may still be written before the slot is lost; absent without a limit.
pub(crate) const SAFE_WAL_SIZE: &str = "outboxd_safe_wal_size_bytes";
/// How fast the server writes WAL.
pub(crate) const WAL_RATE: &str = "outboxd_wal_bytes_per_second";
/// When the slot is lost if `safe_wal_size` goes on shrinking.
pub(crate) const UNTIL_LOST: &str = "outboxd_slot_until_lost_seconds";
/// 1 for the slot's `wal_status`.
pub(crate) const WAL_STATUS: &str = "outboxd_wal_status";
/// 1 while a session holds the slot.
pub(crate) const SLOT_ACTIVE: &str = "outboxd_slot_active";
/// Records that Kafka has not acknowledged yet.
pub(crate) const IN_FLIGHT_RECORDS: &str = "outboxd_in_flight_records";
/// Their bytes.
pub(crate) const IN_FLIGHT_BYTES: &str = "outboxd_in_flight_bytes";
/// How long the oldest of them has waited.
pub(crate) const OLDEST_UNACKNOWLEDGED: &str = "outboxd_oldest_unacknowledged_seconds";
/// Rows that are published and not written back yet.
pub(crate) const WRITE_BACK_PENDING: &str = "outboxd_write_back_pending_rows";
/// Rows of the table that are unpublished.
pub(crate) const UNPUBLISHED_ROWS: &str = "outboxd_unpublished_rows";
/// How long a batch of marks took.
pub(crate) const WRITE_BACK_DURATION: &str = "outboxd_write_back_duration_seconds";
/// 1 while `/readyz` is 200.
pub(crate) const READY: &str = "outboxd_ready";
/// 1 while a pause lasts.
pub(crate) const PAUSED: &str = "outboxd_paused";
/// 1 for the role of this instance.
pub(crate) const ROLE: &str = "outboxd_role";
/// 1 for the phase of this instance.
pub(crate) const PHASE: &str = "outboxd_phase";
/// Sessions that had to be opened again.
pub(crate) const RECONNECTS: &str = "outboxd_reconnects_total";
/// Slots created on a first start.
pub(crate) const SLOT_BOOTSTRAPS: &str = "outboxd_slot_bootstraps_total";
/// Slots created again after a loss.
pub(crate) const SLOT_HEALS: &str = "outboxd_slot_heals_total";
/// Transactions with events that were received whole.
pub(crate) const TRANSACTIONS: &str = "outboxd_transactions_total";
/// Partitions that were rewound: records sent again, in order, because one of them was rejected.
pub(crate) const PARTITION_REWINDS: &str = "outboxd_partition_rewinds_total";
/// Producers that took the place of one that had failed or stalled.
pub(crate) const PRODUCER_REPLACEMENTS: &str = "outboxd_producer_replacements_total";
/// Events of the last comparison of the table with the topics, by verdict.
pub(crate) const VERIFY_EVENTS: &str = "outboxd_verify_events";
/// When the last comparison that was completed has read the rows; 0 before the first.
pub(crate) const VERIFY_COMPLETED: &str = "outboxd_verify_completed_timestamp_seconds";
/// Comparisons that failed.
pub(crate) const VERIFY_FAILURES: &str = "outboxd_verify_failures_total";
/// Events that the slot skipped.
pub(crate) const MISSED_EVENTS: &str = "outboxd_missed_events_total";
/// Those of them that are not published yet.
pub(crate) const MISSED_EVENTS_OPEN: &str = "outboxd_missed_events_open";
/// Completed audits of the slot against the table.
pub(crate) const AUDITS: &str = "outboxd_audits_total";
/// Rows that another program has marked as published.
pub(crate) const FOREIGN_MARKS: &str = "outboxd_foreign_marks_total";
/// 1 for each open problem of slot, publication or table.
pub(crate) const TROUBLES: &str = "outboxd_trouble";
/// 1, with the version as label.
pub(crate) const BUILD_INFO: &str = "outboxd_build_info";
/// How long the named wait has lasted.
pub(crate) const WAITING: &str = "outboxd_waiting_seconds";
/// Open dead letters by state.
pub(crate) const DEAD_LETTERS: &str = "outboxd_dead_letters";
/// Published rows that retention has deleted.
pub(crate) const RETENTION_DELETED: &str = "outboxd_retention_deleted_rows_total";
/// When the last pass of retention ended.
pub(crate) const RETENTION_LAST_PASS: &str = "outboxd_retention_last_pass_timestamp_seconds";
/// The age of the oldest published row that it has left.
pub(crate) const RETENTION_OLDEST: &str = "outboxd_retention_oldest_row_seconds";
/// Log lines that found no reader and were dropped.
pub(crate) const LOG_LINES_DROPPED: &str = "outboxd_log_lines_dropped_total";

/// CPU time of the process.
pub(crate) const CPU_SECONDS: &str = "process_cpu_seconds_total";
/// Resident memory of the process.
pub(crate) const RESIDENT_MEMORY: &str = "process_resident_memory_bytes";
/// Virtual memory of the process.
pub(crate) const VIRTUAL_MEMORY: &str = "process_virtual_memory_bytes";
/// Open file descriptors.
pub(crate) const OPEN_FDS: &str = "process_open_fds";
/// The most file descriptors that may be open.
pub(crate) const MAX_FDS: &str = "process_max_fds";
/// When the process started.
pub(crate) const START_TIME: &str = "process_start_time_seconds";

/// The label for the database.
pub(crate) const DATABASE: &str = "database";
/// The label for the slot, or for the lock of a poller.
pub(crate) const SLOT: &str = "slot";
/// The label for topics.
pub(crate) const TOPIC: &str = "topic";
/// The label for an event's outcome and for `wal_status`.
pub(crate) const STATUS: &str = "status";
/// The label for error codes.
pub(crate) const CODE: &str = "code";
/// The label for the state of dead letters.
pub(crate) const STATE: &str = "state";
/// The label for problems.
pub(crate) const TROUBLE: &str = "trouble";
/// The label for named waits.
pub(crate) const WAIT: &str = "wait";
/// The label for roles.
pub(crate) const ROLE_LABEL: &str = "role";
/// The instance that publishes.
pub(crate) const ACTIVE: &str = "active";
/// An instance that waits to take over.
pub(crate) const STANDBY: &str = "standby";
/// The label for phases.
pub(crate) const PHASE_LABEL: &str = "phase";
/// The label for the version.
pub(crate) const VERSION: &str = "version";

/// The outcome of an event that is in Kafka.
pub(crate) const PUBLISHED: &str = "published";
/// The outcome of an event that Kafka rejected.
pub(crate) const FAILED: &str = "failed";

/// How many topics have a label of their own.
pub(crate) const TOPICS_MAX: usize = 200;
/// The label of all further topics; not a valid topic name, so it cannot be one.
pub(crate) const OTHER_TOPICS: &str = "(other)";

/// The labels of one series.
pub(super) type Labels = Vec<(&'static str, String)>;

pub(super) fn stem(counter: &'static str) -> &'static str {
    counter.strip_suffix("_total").unwrap_or(counter)
}
