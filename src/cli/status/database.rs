//! The database's side of the status: the slot or the poller, the rows, and what a start would
//! refuse, as the server reports it.

use outboxd::OpenDeadLetters;
use outboxd::config::{Config, Source};
use outboxd::error::Result;
use outboxd::format::bytes;
use outboxd::lsn::Lsn;
use outboxd::outbox::{DeadLetters, UnpublishedCount};
use outboxd::postgres::slot::{self, Slot};
use outboxd::postgres::{self, Session, advisory_lock, preflight, table_shape, wal_bytes};
use serde::Serialize;

use crate::cli::status::finding::Finding;

/// What the database knows. Everything but names is absent if it cannot be asked.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct DatabaseSide {
    pub(super) database: String,
    pub(super) table: String,
    /// `slot` or `poll`; for the latter everything about slot and WAL is absent.
    pub(super) source: &'static str,
    pub(super) publication: Option<String>,
    pub(super) slot: Option<String>,
    pub(super) slot_exists: Option<bool>,
    /// The server process that reads the slot or holds the poller's lock.
    pub(super) active_pid: Option<i32>,
    pub(super) confirmed_lsn: Option<String>,
    pub(super) restart_lsn: Option<String>,
    pub(super) lag_bytes: Option<i64>,
    pub(super) retained_bytes: Option<i64>,
    pub(super) wal_status: Option<String>,
    pub(super) safe_wal_size: Option<i64>,
    pub(super) failover: Option<bool>,
    pub(super) invalidation_reason: Option<String>,
    /// Absent if rows are not marked as published, or the table cannot be read; so are the others.
    pub(super) unpublished_rows: Option<i64>,
    /// Whether there are more than `unpublished_rows`.
    pub(super) unpublished_more: bool,
    /// Those of them that the publisher will send.
    pub(super) waiting_rows: Option<i64>,
    /// Those of them that wait behind a dead letter of their key.
    pub(super) held_rows: Option<i64>,
    /// Those of them that wait for the decision about a dead letter, the held ones included.
    pub(super) dead_letter_rows: Option<i64>,
    /// The open dead letters; absent if their table cannot be read.
    pub(super) dead_letters: Option<OpenDeadLetters>,
    /// All WAL that the server has written, for a rate.
    #[serde(skip)]
    pub(super) wal_bytes: Option<i64>,
    /// The server's system identifier; absent where the role may not read it.
    #[serde(skip)]
    pub(super) system_id: Option<u64>,
    #[serde(skip)]
    pub(super) problems: Vec<Finding>,
    /// Why it cannot be asked.
    #[serde(skip)]
    pub(super) error: Option<Finding>,
}

impl DatabaseSide {
    /// Asks the database over this session, or over a new one, which stays for the next time.
    pub(super) async fn ask(config: &Config, session: &mut Option<Session>) -> DatabaseSide {
        let streams = config.source == Source::Slot;
        let mut side = DatabaseSide {
            database: config.database.describe(),
            table: config.table.to_string(),
            source: if streams { "slot" } else { "poll" },
            publication: streams.then(|| config.publication.clone()),
            slot: streams.then(|| config.slot.clone()),
            ..DatabaseSide::default()
        };
        let read = async {
            let open = match session.take() {
                Some(open) => open,
                None => {
                    let limit = config.operation_timeout;
                    postgres::connect(&config.database, "outboxd status", limit).await?
                }
            };
            side.read(config, &open).await?;
            *session = Some(open);
            Ok(())
        };
        let read: Result<()> = Box::pin(read).await;
        side.error = read.err().as_ref().map(Finding::from);
        side
    }

    async fn read(&mut self, config: &Config, session: &Session) -> Result<()> {
        match preflight::check(session, config).await {
            Ok(_) => {}
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => self.problems.extend(Finding::all(&error)),
        }
        if config.source == Source::Slot {
            // What keeps the slot from being read is among the problems above.
            if let Ok(slot) = slot::read(session, &config.slot).await {
                self.problems
                    .extend(slot_problem(&config.slot, slot.as_ref()));
                self.slot_exists = Some(slot.is_some());
                if let Some(slot) = slot {
                    self.show(slot);
                }
            }
            self.wal_bytes = wal_bytes(session).await.ok();
        } else {
            self.active_pid = advisory_lock::holder(session, &config.slot).await?;
            if self.active_pid.is_none() {
                let text = format!("no process polls {}", config.table);
                self.problems
                    .push(Finding::new(text, "is outboxd running?"));
            }
        }
        let server = postgres::server(session).await;
        let known = server.ok().map(|server| server.lineage.system_id);
        self.system_id = known.filter(|system_id| *system_id != 0);
        let shape = table_shape::read(session, &config.table, &config.mapping).await;
        if let Some(shape) = shape.ok().flatten() {
            let count = UnpublishedCount::read(session, config, &shape).await;
            if let Some(count) = count.ok().flatten() {
                self.unpublished_rows = Some(count.rows);
                self.unpublished_more = count.is_cut;
                self.waiting_rows = Some(count.waiting());
                self.held_rows = Some(count.held);
                self.dead_letter_rows = Some(count.held + count.dead);
            }
            let open = DeadLetters::new(config, &shape).open(session).await;
            self.dead_letters = open.ok();
        }
        Ok(())
    }

    fn show(&mut self, slot: Slot) {
        let text = |lsn: Option<Lsn>| lsn.map(|lsn| lsn.to_string());
        self.active_pid = slot.active_pid;
        self.confirmed_lsn = text(slot.confirmed_flush);
        self.restart_lsn = text(slot.restart);
        self.lag_bytes = Some(slot.lag_bytes);
        self.retained_bytes = Some(slot.retained_bytes);
        self.wal_status = slot.wal_status;
        self.safe_wal_size = slot.safe_wal_size;
        self.failover = slot.failover;
        self.invalidation_reason = slot.invalidation_reason;
    }

    /// The rows that have a dead letter of their own.
    pub(super) fn dead_rows(&self) -> Option<i64> {
        Some(self.dead_letter_rows? - self.held_rows?)
    }
}

fn slot_problem(name: &str, slot: Option<&Slot>) -> Option<Finding> {
    let Some(slot) = slot else {
        let text = format!("replication slot {name} does not exist");
        return Some(Finding::new(text, "`outboxd run` creates it"));
    };
    if slot.is_lost() {
        let reason = slot.invalidation_reason.as_deref();
        let reason = reason.unwrap_or("its WAL was removed");
        let text = format!("replication slot {name} is lost: {reason}");
        let hint = "the running outboxd heals it, or ends (OUTBOX_ON_SLOT_LOSS): see its log";
        return Some(Finding::new(text, hint));
    }
    if slot.active_pid.is_none() {
        let text = format!("no process reads replication slot {name}");
        return Some(Finding::new(text, "is outboxd running?"));
    }
    let left = slot.safe_wal_size.map_or(0, |left| left.max(0));
    slot.is_near_loss().then(|| {
        let left = bytes(left);
        let text = format!("replication slot {name} is nearly lost: {left} of WAL left until then");
        Finding::new(
            text,
            "find what outboxd waits for, and raise max_slot_wal_keep_size",
        )
    })
}
