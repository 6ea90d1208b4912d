//! The SQL side of Postgres: sessions, and the statements for slots, publications and the table's
//! shape.
//!
//! Refused: connection poolers, servers that do not accept writes, and any use of LSNs or row ids
//! before [`Server::lineage`] was compared, because after a failover the same LSN or id may mean
//! something else. `transport` bounds what a server may send. Every statement fixes the types of
//! its columns, and a row of other columns is an error ([`Columns`]).

pub(crate) mod error_text;
mod sql_error;
pub(crate) mod sqlstate;

#[cfg(feature = "publisher")]
pub mod advisory_lock;
#[cfg(feature = "publisher")]
mod background;
#[cfg(feature = "publisher")]
pub(crate) mod facts;
#[cfg(feature = "publisher")]
pub mod lock_wait;
#[cfg(feature = "publisher")]
mod pooler;
#[cfg(feature = "publisher")]
pub mod preflight;
#[cfg(feature = "publisher")]
mod problem;
#[cfg(feature = "publisher")]
pub mod publication;
#[cfg(feature = "publisher")]
mod server;
#[cfg(feature = "publisher")]
pub(crate) mod server_settings;
#[cfg(feature = "publisher")]
mod session;
#[cfg(feature = "publisher")]
pub mod setup;
#[cfg(feature = "publisher")]
pub mod slot;
#[cfg(feature = "publisher")]
pub(crate) mod snapshot;
#[cfg(feature = "publisher")]
pub mod table_shape;
#[cfg(feature = "publisher")]
pub(crate) mod transport;
#[cfg(feature = "publisher")]
mod wal;
#[cfg(feature = "publisher")]
pub(crate) mod walsender;

pub(crate) use self::sql_error::writers_error;
pub use self::sqlstate::ServerError;

#[cfg(feature = "publisher")]
pub(crate) use self::{
    background::Background,
    preflight::Inspection,
    problem::ServerProblem,
    server::process_sql,
    session::{ROLES_SEARCH_PATH, is_out_of_time, with_password},
    sql_error::{RowError, row_error, sql_error},
    sqlstate::{is_lock_conflict, is_of_the_row, is_of_the_statement, is_unreadable},
    transport::Obstacle,
    wal::{emit_logical_message, log_position},
};
#[cfg(feature = "publisher")]
pub use self::{
    server::{Lineage, Server, server},
    session::{Columns, Session, connect, connect_for_slots, drive},
    table_shape::TableShape,
    wal::wal_bytes,
};
