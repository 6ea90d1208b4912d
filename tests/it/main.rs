//! The integration tests: one binary, one module a promise, on real servers.
#![allow(clippy::unwrap_used, clippy::large_futures, missing_docs)]

// The alerts for Prometheus: their rules, and a Prometheus beside an outboxd in a fault.
mod alerts;
// The source itself: layers, circles of imports, sizes.
mod architecture;
// Events that the slot missed, and the audit that finds them.
mod audit;
// The first start on a table with unpublished rows.
mod backlog;
// Three brokers: restarts, too few replicas, partitions without a leader.
mod broker_cluster;
// A walsender that is busy with changes of other tables.
mod busy_walsender;
// Clocks that stand still or jump.
mod clocks;
// The commands init, status, dead-letter and drop, as an operator types them.
mod commands;
// From a poller to outboxd and back, beside a real poller.
mod cutover;
// A setting's effect on the built program: flags, variables, the file, secrets.
mod config;
// The process killed under load.
mod crash;
// The Grafana dashboard, and the compose file around it.
mod dashboard;
// What became of a retry, and deleting closed dead letters.
mod dead_letter_commands;
// The dead-letter table over SQL: rows that refuse their mark, filing, requests.
mod dead_letter_table;
// Open dead letters as status, metric, page and commands show them.
mod dead_letters_shown;
// Beside a real Debezium: the same records, the import, the hand-over.
mod debezium;
// The command demo, and what it leaves behind.
mod demo;
// A full disk under Postgres or Kafka.
mod disk_full;
// The command doctor: planted faults on both sides, and healthy set-ups.
mod doctor;
// The image, the compose file, and a database that is killed in it.
mod docker;
// Every block of README.md and docs/ runs, and its tables are complete.
mod documentation;
// The tests that faults.md and docs/guarantees.md name exist.
mod documents;
// OUTBOX_DELIVERY=exactly-once.
mod exactly_once;
mod exactly_once_cluster;
mod exactly_once_heal;
// The end of a Kafka transaction that reaches its broker late.
mod exactly_once_late;
// A kill at each request to Kafka, and between commit, mark and confirmation.
mod exactly_once_steps;
// The programs in examples/, and the crate without the publisher.
mod examples;
// A failover that loses the slot, and a server restored from older files.
mod failover;
// A failover with a slot that standbys keep.
mod failover_slot;
// Whom the built program answers over HTTP.
mod http;
// Nothing to publish for a long time.
mod hostile;
mod idle;
// `init` and `drop` beside what is there: other people's objects, locks, missing rights.
mod init;
// A Kafka that does not let the user write.
mod kafka_access;
// Each kind of log-in to Kafka: accepted, refused, renewed.
mod kafka_logins;
// What is wrong on the way to Kafka: one line each, with a hint.
mod kafka_mistakes;
// Kafka frozen or away as a whole.
mod kafka_outage;
// What outboxd does about events that Kafka rejects.
mod kafka_rejections;
// Very large transactions and events.
mod large;
// Start, standing by, marks, metrics and health of one process.
mod lifecycle;
// What the log tells by itself: waits, backlogs, a line a minute.
mod log_lines;
// What stands in a line of the log: its form, and no row's values.
mod log_contents;
// What a mark really did: tables that undo, swallow or refuse it.
mod marks;
// The page of metrics, read by strict parsers.
mod metrics;
// DDL on the outbox while outboxd publishes.
mod migrations;
// Several instances on one slot: takeover, freeze, lost sessions.
mod multiple_instances;
// The network to Postgres or Kafka: cut, half open, slow.
mod network;
// A partitioned outbox.
mod partitions;
// A password that a command prints, and that changes while outboxd runs.
mod password_command;
// A pause that a person requests, and its end.
mod pause;
// What would be sent next, shown without moving anything.
mod peek;
// Many events that cannot be published among many that can.
mod poison;
// OUTBOX_SOURCE=poll.
mod poll;
// Managed servers, simulated; poolers and proxies; ways to name a server.
mod providers;
// The main promise: the committed events, whole and in order.
mod publish;
// What Kafka has is not sent again after a death of the process.
mod read_back;
// Partition, time, key and value where settings take them from the row.
mod records;
// `outboxd replay`.
mod replay;
// The same with OUTBOX_DELIVERY=exactly-once.
mod replay_exactly_once;
// The library's replication client on a real walsender.
mod replication_client;
// Postgres restarted or shut down.
mod restart;
// OUTBOX_RETAIN: what is deleted, and what stays.
mod retention;
// An instance that was cut off, and another that has published meanwhile.
mod returning_instance;
// Column types: stream and table give the same bytes.
mod row_formats;
// What names a row beside its id, where ids come again.
mod row_identity;
// Names in the role's search_path that hide those of the catalog.
mod search_path;
// Nothing that the program prints holds a secret, and every password works.
mod secrets;
// Kafka with TLS and passwords.
mod secured;
// Settings of database and role that would change what outboxd sends and receives.
mod session_settings;
// Replication sessions that are terminated or idle, and long open transactions.
mod sessions;
// A transaction that Postgres cannot decode.
mod skip_transaction;
// A slot that is dropped, invalidated or nearly lost.
mod slot_loss;
// The library's SQL side: sessions, slot, publication, start-up checks.
mod sql_session;
// What cannot work: exit code, message, hint.
mod startup_errors;
// The command status: both sides, the exit code, --watch.
mod status;
// The page at /, in a real browser.
mod status_page;
// SIGTERM and a second signal.
mod stop;
// What the program is made of: notices, and the oldest Rust.
mod supply;
// Not tests: servers, the program, the oracle, waiting.
mod support;
// A synchronous standby that is absent.
mod synchronous_standby;
// Outbox tables of other projects, by configuration.
mod tables;
// The test servers themselves.
mod test_servers;
// One topic that fails while others do not: deleted, forbidden, quota.
mod topic_faults;
// Rows that the server cannot print.
mod two_logins;
mod unreadable_rows;
// What an earlier version left behind.
mod upgrade;
// Odd values, rows and shapes of the table.
mod values;
// The command verify: planted faults, what is not known, windows.
mod verify;
// Writing events: Writer, outbox.write_event, the role's rights.
mod writer;
