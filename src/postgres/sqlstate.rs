//! The meaning of a Postgres error: one table from SQLSTATE to code, disposition and hint.
//!
//! SQL and replication connections both use it, so the same error reads the same on either. The
//! message's text is ignored, since it is translated and changes between versions. A state that is
//! not in the table is transient: a retry loses nothing, ending or skipping might. The codes:
//! <https://www.postgresql.org/docs/current/errcodes-appendix.html>.

use std::error::Error as StdError;
use std::fmt;

use tokio_postgres::error::{DbError, SqlState};

use crate::error::{Code, Disposition, Error};
use crate::postgres::error_text::{self, shortened, without_values};

/// An error as the server reported it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`, untranslated where the server sends that form.
    pub severity: String,
    /// The SQLSTATE, five characters.
    pub code: String,
    /// The primary message, without the values that it quotes.
    pub message: String,
    /// The detail. It may quote a row, so it is printed only for states that are not about rows.
    pub detail: Option<String>,
    /// The server's own hint.
    pub hint: Option<String>,
    /// The function of the server's source that reported it. Unlike the message it is never
    /// translated.
    pub routine: Option<String>,
}

impl ServerError {
    /// The server's error without what a trigger or a function of the users has written.
    pub(super) fn to_log(server: &DbError) -> Self {
        match error_text::in_place_of_message(server) {
            Some(message) => ServerError {
                message,
                detail: None,
                hint: None,
                ..ServerError::from(server)
            },
            None => ServerError::from(server),
        }
    }

    /// The server's error that is the cause of `error`.
    pub(crate) fn of(error: &Error) -> Option<&ServerError> {
        error.source()?.downcast_ref()
    }

    /// Whether the server failed at the data that it decoded, and not at the connection.
    pub(crate) fn is_undecodable(&self) -> bool {
        fails_at_data(&self.code)
    }

    /// Whether a statement failed because it cannot print a row: too large (program_limit_exceeded,
    /// or internal_error where the server refuses the allocation), damaged (data_corrupted,
    /// index_corrupted), or a value that a function cannot take (class 22). Narrower than
    /// [`is_unreadable`]: other states of class 54 concern the statement instead of one row.
    pub(crate) fn is_unprintable_row(&self) -> bool {
        let is_of_a_value = ["22", "XX"].iter().any(|it| self.code.starts_with(it));
        is_of_a_value || self.code == "54000"
    }

    /// Whether the server could not read a file: io_error or undefined_file. A single row may be
    /// the reason, or the server's disk.
    pub(crate) fn is_of_a_file(&self) -> bool {
        ["58030", "58P01"].contains(&self.code.as_str())
    }

    /// Whether a statement may have failed because its table was altered since it was made:
    /// undefined_column, undefined_table, feature_not_supported (a cached plan whose result would
    /// change its type), invalid_sql_statement_name, datatype_mismatch.
    pub(crate) fn may_be_of_altered_table(&self) -> bool {
        let states = ["42703", "42P01", "0A000", "26000", "42804"];
        states.contains(&self.code.as_str())
    }

    /// datatype_mismatch, undefined_function, invalid_text_representation, cannot_coerce: an
    /// expression does not fit the type of a column.
    pub(crate) fn is_of_a_type(&self) -> bool {
        ["42804", "42883", "22P02", "42846"].contains(&self.code.as_str())
    }

    /// insufficient_privilege.
    pub(crate) fn is_of_privileges(&self) -> bool {
        self.code == "42501"
    }

    /// query_canceled: the statement took longer than its limit.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.code == "57014"
    }

    /// lock_not_available: the statement waited longer than `lock_timeout`.
    pub(crate) fn is_of_a_lock(&self) -> bool {
        self.code == "55P03"
    }

    /// undefined_object: the slot, or the publication as of the position that is decoded.
    pub(crate) fn is_undefined_object(&self) -> bool {
        self.code == "42704"
    }

    /// object_not_in_prerequisite_state: an invalid slot, among others.
    pub(crate) fn is_not_in_prerequisite_state(&self) -> bool {
        self.code == "55000"
    }

    /// Whether the server continues without a publication that does not exist at its position:
    /// Postgres 18 sends a warning there. Older servers fail with undefined_object instead.
    pub(crate) fn is_skipped_publication(&self) -> bool {
        self.code == "55000" && self.routine.as_deref() == Some("LoadPublications")
    }

    fn detail_to_show(&self) -> Option<&str> {
        let about_the_server = ["28", "42704", "53", "55", "57"];
        let shown = about_the_server
            .iter()
            .any(|class| self.code.starts_with(class));
        self.detail.as_deref().filter(|_| shown)
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(detail) = self.detail_to_show() {
            write!(f, ": {detail}")?;
        }
        write!(f, " (SQLSTATE {})", self.code)
    }
}

impl StdError for ServerError {}

impl From<&DbError> for ServerError {
    fn from(error: &DbError) -> Self {
        ServerError {
            severity: shortened(error.severity()),
            code: shortened(error.code().code()),
            message: shortened(&without_values(error.code().code(), error.message())),
            detail: error.detail().map(shortened),
            hint: error.hint().map(shortened),
            routine: error.routine().map(shortened),
        }
    }
}

struct Rule {
    /// A whole SQLSTATE, or its first two characters for a class. The longest match wins.
    state: &'static str,
    code: Code,
    disposition: Disposition,
    hint: Option<&'static str>,
}

const fn fatal(state: &'static str, code: Code, hint: &'static str) -> Rule {
    Rule {
        state,
        code,
        disposition: Disposition::Fatal,
        hint: Some(hint),
    }
}

const fn transient(state: &'static str, code: Code, hint: Option<&'static str>) -> Rule {
    Rule {
        state,
        code,
        disposition: Disposition::Transient,
        hint,
    }
}

const POOLER: &str = "connect to Postgres itself, not to a connection pooler";
const STOPPING: Option<&str> = Some("the server is stopping or starting");
const SLOTS: &str = "drop unused slots (see pg_replication_slots), or raise \
                     max_replication_slots and restart the server";
const NO_PUBLICATION: &str = "`outboxd init` creates the publication, `outboxd run` the slot";
const SLOT_STATE: &str = "check wal_status, database and plugin of the slot in \
                          pg_replication_slots, and that wal_level is logical";
const RIGHTS: &str = "the role lacks a right on what the message names: `outboxd doctor` says \
                      which, and `outboxd init --role` gives those that publishing needs";
const LIMIT: Option<&str> =
    Some("raise max_connections and max_wal_senders, or close idle connections");

/// The one table. Kept in the order of the manual's appendix.
const RULES: &[Rule] = &[
    transient("08", Code::Connect, None),
    fatal("08P01", Code::Connect, POOLER),
    fatal(
        "0A",
        Code::Config,
        "the server does not support this: check its version, and whether it is a standby",
    ),
    fatal("22", Code::Write, "a value is not valid for the statement"),
    fatal(
        "22023",
        Code::Config,
        "the server rejects the value of a setting or an option",
    ),
    fatal(
        "23",
        Code::Write,
        "a constraint of the table rejects the change",
    ),
    transient("25", Code::Write, None),
    transient(
        "25006",
        Code::Connect,
        Some("the server is read-only: a standby, or not promoted yet"),
    ),
    transient("25P03", Code::Connect, None),
    transient("25P04", Code::Connect, None),
    fatal(
        "28",
        Code::Connect,
        "check the role, and that pg_hba.conf lets it connect to the database from this host",
    ),
    fatal(
        "28P01",
        Code::Connect,
        "check user and password of the connection",
    ),
    fatal(
        "3D",
        Code::Connect,
        "check the database name of the connection",
    ),
    fatal(
        "3F",
        Code::Config,
        "run `outboxd init`, or check the table's name",
    ),
    transient("40", Code::Write, None),
    fatal(
        "42",
        Code::Config,
        "the table does not match the settings: run `outboxd init`",
    ),
    fatal("42501", Code::Config, RIGHTS),
    fatal(
        "42703",
        Code::Config,
        "the table lacks a column: compare it with `outboxd init --print-sql`",
    ),
    fatal("42704", Code::Slot, NO_PUBLICATION),
    transient(
        "42710",
        Code::Slot,
        Some("it already exists: another instance created it first"),
    ),
    fatal(
        "42P01",
        Code::Config,
        "run `outboxd init`, or check the table's name",
    ),
    transient(
        "53",
        Code::Connect,
        Some("the server is short of memory, disk or connections"),
    ),
    transient("53300", Code::Connect, LIMIT),
    fatal("53400", Code::Slot, SLOTS),
    fatal(
        "54",
        Code::Write,
        "the row is larger than the server can print or send",
    ),
    fatal("55000", Code::Slot, SLOT_STATE),
    transient(
        "55006",
        Code::Slot,
        Some("another process reads the slot: active_pid in pg_replication_slots names it"),
    ),
    transient(
        "55P03",
        Code::Write,
        Some("another session holds a lock on it"),
    ),
    transient("57014", Code::Write, None),
    transient("57", Code::Connect, STOPPING),
    fatal("57P04", Code::Connect, "the database was dropped"),
    transient("57P05", Code::Connect, None),
    transient("58", Code::Connect, None),
    fatal(
        "58P01",
        Code::Slot,
        "a file of the server is missing, often WAL of a slot: see pg_replication_slots",
    ),
    fatal(
        "P0",
        Code::Write,
        "a trigger or function rejected the change",
    ),
    transient("XX", Code::Replication, Some("see the server's log")),
    fatal(
        "XX001",
        Code::Replication,
        "data of the server is corrupted: see the server's log",
    ),
    fatal(
        "XX002",
        Code::Replication,
        "an index of the server is corrupted: see the server's log",
    ),
];

/// The library's error for `server`. `context` names what was being done, without a full stop.
///
/// A refused log-in (28xxx, 3D000) is fatal here; a caller that was connected before may retry.
pub(crate) fn classify(context: impl Into<String>, server: ServerError) -> Error {
    let rule = RULES
        .iter()
        .filter(|rule| server.code.starts_with(rule.state))
        .max_by_key(|rule| rule.state.len());
    let error = match rule {
        Some(Rule {
            code,
            disposition: Disposition::Fatal,
            ..
        }) => Error::fatal(*code, context),
        Some(Rule { code, .. }) => Error::transient(*code, context),
        None => Error::transient(Code::Write, context),
    };
    let hint = rule.and_then(|rule| rule.hint).or(server.hint.as_deref());
    match hint.map(str::to_owned) {
        Some(hint) => error.with_hint(hint).with_source(server),
        None => error.with_source(server),
    }
}

/// The library's error for a server that has warned that it continues without the publication.
pub(crate) fn skipped_publication(context: impl Into<String>, server: ServerError) -> Error {
    let error = Error::fatal(Code::Slot, context);
    error.with_hint(NO_PUBLICATION).with_source(server)
}

/// Classes of states that a single row causes by its values, a constraint or a trigger.
const OF_THE_ROW: [&str; 12] = [
    "09", "20", "21", "22", "23", "27", "2F", "38", "39", "44", "54", "P0",
];

/// All other classes of the manual's appendix: they concern the statement, the table or the server.
const NOT_OF_THE_ROW: [&str; 32] = [
    "00", "01", "02", "03", "08", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "24", "25", "26", "28",
    "2B", "2D", "34", "3B", "3D", "3F", "40", "42", "53", "55", "57", "58", "72", "F0", "HV", "XX",
];

/// Whether a change failed because of one row alone. A class that Postgres does not define comes
/// from a trigger.
pub(crate) fn is_of_the_row(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|state| {
        let class = state.code().get(..2).unwrap_or_default();
        OF_THE_ROW.contains(&class) || !NOT_OF_THE_ROW.contains(&class)
    })
}

/// Whether a change failed in a way that a statement can fail by itself, such as for a name that
/// does not exist. A trigger can cause the same state.
pub(crate) fn is_of_the_statement(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|server| {
        let error = classify("", ServerError::from(server));
        !error.is_transient() && error.code() != Code::Connect
    })
}

/// Whether a lock of another session was in the way, or a time limit ended the statement.
pub(crate) fn is_lock_conflict(error: &tokio_postgres::Error) -> bool {
    let states = [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::QUERY_CANCELED,
    ];
    error.code().is_some_and(|state| states.contains(state))
}

/// Whether a row cannot be read because of its content: its text is larger than the server can
/// hold, or the row is corrupted.
pub(crate) fn is_unreadable(error: &tokio_postgres::Error) -> bool {
    error
        .code()
        .is_some_and(|state| fails_at_data(state.code()))
}

/// data_exception, program_limit_exceeded, internal_error with data_corrupted.
fn fails_at_data(state: &str) -> bool {
    ["22", "54", "XX"]
        .iter()
        .any(|class| state.starts_with(class))
}

#[cfg(test)]
#[path = "tests/sqlstate.rs"]
mod tests;
