//! Which rows may be deleted, and how often a pass looks for them.
//!
//! A row may be deleted that is a message of this outbox, is published, is old and has no open dead
//! letter. Its age counts from the time of its mark, or from its creation where the mark is no
//! time.

use std::time::Duration;

use crate::config::Config;
use crate::outbox::dead_letter::{OPEN, is_about};
use crate::outbox::marking::Marking;
use crate::outbox::row_filter::and_is_message;
use crate::outbox::row_key::RowKey;
use crate::postgres::TableShape;
use crate::postgres::table_shape::is_table;
use crate::postgres::table_shape::row_mark::{age_column, now_of};

const HOUR: Duration = Duration::from_secs(3_600);

/// The time between the beginnings of two passes that delete what is older than `retain`.
pub(crate) fn pass_interval(retain: Duration) -> Duration {
    (retain / 10).max(HOUR)
}

/// Conditions for a row `t`, and its time.
#[derive(Debug)]
pub(super) struct Rule {
    /// It is published, and of the table that this was made for.
    pub(super) published: String,
    /// No open dead letter is about it.
    pub(super) no_dead_letter: String,
    /// What its age counts from.
    pub(super) time: String,
    /// The present time, of the same type.
    pub(super) now: String,
}

impl Rule {
    /// For a table of this shape; `None` if nothing shows how old a published row is.
    pub(super) fn new(config: &Config, shape: &TableShape) -> Option<Self> {
        let marking = Marking::new(config.after_publish, shape);
        let column = age_column(shape)?;
        let dead_letters = config.table.dead_letter().quoted();
        Some(Rule {
            published: format!(
                "{}{} AND {}",
                marking.is_published("t")?,
                and_is_message(shape, "t"),
                is_table(&shape.name, shape.oid)
            ),
            no_dead_letter: format!(
                "NOT EXISTS (SELECT FROM {dead_letters} AS d \
                              WHERE d.outbox_id = {id} AND d.{OPEN} AND {about})",
                id = RowKey::of(shape).text("t"),
                about = is_about(shape, "t"),
            ),
            time: format!("t.{}", column.quoted()),
            now: now_of(shape, column),
        })
    }
}

/// A condition: the row `t` is older than `$4` seconds.
pub(super) fn is_old(time: &str, now: &str) -> String {
    format!("{time} < {now} - $4::float8 * INTERVAL '1 second'")
}

/// A condition: the row `t` may be deleted. `$4` is the age in seconds.
pub(super) fn deletable(config: &Config, shape: &TableShape) -> Option<String> {
    let rule = Rule::new(config, shape)?;
    let Rule {
        published,
        no_dead_letter,
        time,
        now,
    } = &rule;
    Some(format!(
        "{published} AND {no_dead_letter} AND {}",
        is_old(time, now)
    ))
}
