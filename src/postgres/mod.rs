//! The SQL side of Postgres: sessions, and what we ask and change of slots, publications and the
//! table's shape.
//!
//! Refused: connection poolers, servers that do not accept writes, and any use of log positions or
//! row ids before [`Server::lineage`] was compared: after a failover both come again with another
//! meaning. Values are read with `Row::get`, which panics on another type than asked for: every
//! column's type is fixed by the statement's own casts.

pub mod advisory_lock;
mod pooler;
pub mod preflight;
mod problem;
pub mod publication;
mod server;
mod session;
pub mod setup;
pub mod slot;
pub(crate) mod snapshot;
mod sql_error;
pub(crate) mod sqlstate;
pub mod table_shape;
pub(crate) mod tls;
mod wal;
pub(crate) mod walsender;

pub(crate) use self::preflight::Inspection;
pub(crate) use self::problem::ServerProblem;
pub(crate) use self::server::postmaster_start_sql;
pub use self::server::{Lineage, Server, server};
pub(crate) use self::session::is_out_of_time;
pub use self::session::{Session, connect, drive};
pub(crate) use self::sql_error::sql_error;
pub use self::sqlstate::ServerError;
pub(crate) use self::sqlstate::{is_lock_conflict, is_of_the_row, is_unreadable, row_error};
pub use self::table_shape::TableShape;
pub(crate) use self::wal::{emit_logical_message, log_position};
