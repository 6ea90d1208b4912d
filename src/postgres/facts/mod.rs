//! What the catalogs and statistics show about a server, for a person who examines it. Nothing here
//! judges but the shape of outboxd's own tables, and no statement changes anything.
//!
//! A column that only some roles see is an `Option`: `None` means that the role does not see it.

mod activity;
pub(crate) mod dead_letter_table;
mod provider;
mod server;
pub(crate) mod state_table;
mod table;

pub(crate) use activity::{Activity, activity};
pub(crate) use provider::Provider;
pub(crate) use server::{
    Limits, RoleLimits, ServerNow, Standbys, Transport, WalMark, WalRate, limits, now, role_limits,
    settings, standbys, transport, wal_mark, wal_rate,
};
pub(crate) use table::{TableFacts, table};

#[cfg(test)]
pub(crate) use self::{
    activity::{OpenTransaction, PreparedTransaction},
    table::{Rule, Trigger, UnpublishedIndex},
};
