//! The whole set-up as SQL for a person, who runs it without a look at what is there.

use crate::postgres::setup::wanted::Setup;
use crate::postgres::setup::{indexes, sql};

/// One step of the set-up, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its purpose, in a few words.
    pub purpose: &'static str,
    /// The statements. Each index is a step of its own, since a concurrent build cannot share a
    /// transaction.
    pub sql: String,
}

impl Setup<'_> {
    /// All steps in order, for a table that may be there or not. `in_use`: the table may be large
    /// and written to, so indexes are built concurrently.
    pub fn steps(&self, in_use: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut step = |purpose, sql: String| steps.push(Step { purpose, sql });
        if self.is_conventional() {
            step("schema and table", sql::tables(self));
        }
        for index in indexes::wanted(&self.assumed_shape()) {
            let name = self.config.table.index(index.suffix);
            // A partitioned table has no concurrent build.
            let build = match in_use && self.partitioned.is_none() {
                true => indexes::CONCURRENTLY_IF_ABSENT,
                false => indexes::IF_ABSENT,
            };
            let statement = index.statement(build, &name.name, &self.config.table);
            step("index", format!("{statement};"));
        }
        if self.checks && self.is_conventional() {
            step("constraints", sql::checks(self));
        }
        step("table of dead letters", sql::dead_letters(self));
        step("table of outboxd's state", sql::state(self));
        if self.is_conventional() {
            step("function write_event", sql::write_event(self));
            step(
                "function write_event with headers and key",
                sql::write_event_headers(self),
            );
        }
        if let Some(publication) = sql::publication(self) {
            step("publication", publication);
        }
        if let Some(role) = sql::role(self) {
            step("role", role);
        }
        if let Some(role) = sql::replication_role(self) {
            step("role for replication", role);
        }
        steps
    }
}
