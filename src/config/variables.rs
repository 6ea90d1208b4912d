//! The environment variables of the settings, which errors name as well.

pub(crate) const DATABASE_URL: &str = "DATABASE_URL";
pub(crate) const DATABASE_PASSWORD_FILE: &str = "DATABASE_PASSWORD_FILE";
pub(crate) const KAFKA_BROKERS: &str = "KAFKA_BROKERS";
pub(crate) const KAFKA_PROPERTIES: &str = "KAFKA_PROPERTIES";
pub(crate) const TABLE: &str = "OUTBOX_TABLE";
pub(crate) const SLOT: &str = "OUTBOX_SLOT";
pub(crate) const PUBLICATION: &str = "OUTBOX_PUBLICATION";
pub(crate) const SOURCE: &str = "OUTBOX_SOURCE";
pub(crate) const BATCH_SIZE: &str = "OUTBOX_BATCH_SIZE";
pub(crate) const PROCESS_INTERVAL: &str = "OUTBOX_PROCESS_INTERVAL";
pub(crate) const OPERATION_TIMEOUT: &str = "OUTBOX_OPERATION_TIMEOUT";
pub(crate) const MAX_RETRIES: &str = "OUTBOX_MAX_RETRIES";
pub(crate) const AFTER_PUBLISH: &str = "OUTBOX_AFTER_PUBLISH";
pub(crate) const BACKLOG: &str = "OUTBOX_BACKLOG";
pub(crate) const ON_SLOT_LOSS: &str = "OUTBOX_ON_SLOT_LOSS";
pub(crate) const AUDIT_INTERVAL: &str = "OUTBOX_AUDIT_INTERVAL";
pub(crate) const ON_POISON: &str = "OUTBOX_ON_POISON";
pub(crate) const DEAD_LETTERS_PER_MINUTE: &str = "OUTBOX_DEAD_LETTERS_PER_MINUTE";
pub(crate) const KEY: &str = "OUTBOX_KEY";
pub(crate) const AUTO_CREATE_TOPICS: &str = "OUTBOX_AUTO_CREATE_TOPICS";
pub(crate) const MEMORY_LIMIT: &str = "OUTBOX_MEMORY_LIMIT";
pub(crate) const HTTP_LISTEN: &str = "OUTBOX_HTTP_LISTEN";
pub(crate) const HTTP_HOSTS: &str = "OUTBOX_HTTP_HOSTS";
pub(crate) const LOG: &str = "OUTBOX_LOG";
pub(crate) const LOG_FORMAT: &str = "OUTBOX_LOG_FORMAT";
pub(crate) const LOG_SUMMARY: &str = "OUTBOX_LOG_SUMMARY";
