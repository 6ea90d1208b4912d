//! How the rows of one table are recognised as unpublished and marked as published: the SQL that
//! the write-back, the dead letters and the readers of the table share.
//!
//! A table may lack `times_attempted` and `created_at`, and with `delete` and `keep` also
//! `published_at`: without it every row is unpublished. A counter at the end of its range stays
//! there, because a mark must not fail for a figure.
//!
//! The mark's time is in the table's own convention. A `timestamp` has no time zone, and its
//! meaning is that of the writers: where the default of `created_at` names a zone, the mark is in
//! that zone, otherwise in the session's. A writer in another zone gives a `created_at` that is
//! ahead by up to 26 hours; its row is marked with the time right behind that, so that
//! `CHECK (published_at > created_at)` holds. A time that is further ahead is no time zone.

use crate::config::AfterPublish;
use crate::outbox::row_name;
use crate::postgres::TableShape;
use crate::postgres::table_shape::{TIMESTAMP, is_table};

/// See the module's head. Statements call the table `t`.
#[derive(Debug, Clone)]
pub(crate) struct Marking {
    after_publish: AfterPublish,
    table: String,
    /// The name is still that of the table that this was made for.
    ours: String,
    has_published_at: bool,
    id_is_integer: bool,
    /// An expression for what names a row `t` beside its id, and its type.
    created: String,
    has_created: bool,
    created_type: &'static str,
    time: String,
    /// The type of `times_attempted`, if the table has such a column that can be written.
    counter: Option<String>,
}

impl Marking {
    /// For a table of this shape.
    pub(crate) fn new(after_publish: AfterPublish, shape: &TableShape) -> Self {
        let counter = shape.column("times_attempted");
        let counter = counter.filter(|column| !column.generated);
        Marking {
            after_publish,
            table: shape.name.quoted(),
            ours: is_table(&shape.name, shape.oid),
            has_published_at: shape.column("published_at").is_some(),
            id_is_integer: shape.id_is_integer(),
            created: row_name::created(shape, "t"),
            has_created: row_name::has_created(shape),
            created_type: row_name::created_type(shape),
            time: time(shape),
            counter: counter.map(|column| column.base_type.clone()),
        }
    }

    /// Whether rows are marked or deleted.
    pub(crate) fn writes(&self) -> bool {
        self.after_publish != AfterPublish::Keep
    }

    /// Whether ids are compared as integers.
    pub(crate) fn id_is_integer(&self) -> bool {
        self.id_is_integer
    }

    /// A condition: the row `t` is one of those that `$1` names, ascending ids, each once, with
    /// their times in `$2`. A time of [`CreatedAt::ANY`](crate::outbox::CreatedAt::ANY) is not
    /// compared.
    ///
    /// A join with the ids would leave the planner the choice to read every unpublished row.
    pub(crate) fn is_named(&self) -> String {
        let (created, kind) = (&self.created, self.created_type);
        let named = "t.id = ANY ($1::bigint[])";
        match self.has_created {
            true => format!(
                "{named} AND ($2::{kind}[])[pg_catalog.width_bucket(t.id::bigint, $1::bigint[])] \
                 IN ('-infinity', {created})"
            ),
            false => format!("{named} AND $2::{kind}[] IS NOT NULL"),
        }
    }

    /// What names the row `t` beside its id; null if that is nothing.
    pub(crate) fn created(&self) -> &str {
        &self.created
    }

    /// Whether rows can be told apart by a mark.
    pub(crate) fn has_published_at(&self) -> bool {
        self.has_published_at
    }

    /// An expression: the row `alias` is unpublished.
    pub(crate) fn unpublished(&self, alias: &str) -> String {
        match self.has_published_at {
            true => format!("{alias}.published_at IS NULL"),
            false => "true".to_owned(),
        }
    }

    /// A condition for the row `alias`: it is unpublished, and of the table that this was made for.
    pub(crate) fn candidates(&self, alias: &str) -> String {
        format!("{} AND {}", self.unpublished(alias), self.ours)
    }

    /// The statement that marks or deletes rows of the table `t`, up to `RETURNING`. `from` brings
    /// the condition, and `attempts` is the number of attempts to count.
    pub(crate) fn statement(&self, from: &str, condition: &str, attempts: &str) -> String {
        let table = &self.table;
        if self.after_publish == AfterPublish::Delete {
            let using = from.replacen("FROM", "USING", 1);
            return format!("DELETE FROM {table} AS t {using} WHERE {condition}");
        }
        let time = &self.time;
        let counted = self.counted(attempts);
        let counted = counted.map_or_else(String::new, |counted| format!(", {counted}"));
        format!("UPDATE {table} AS t SET published_at = {time}{counted} {from} WHERE {condition}")
    }

    /// An expression for `RETURNING` of that statement: the row counts as published from now on.
    pub(crate) fn is_marked(&self) -> &'static str {
        match self.after_publish {
            AfterPublish::Delete => "true",
            _ => "t.published_at IS NOT NULL",
        }
    }

    /// The assignment that counts attempts; `None` if the table has no counter.
    pub(crate) fn counted(&self, attempts: &str) -> Option<String> {
        let known = "coalesce(t.times_attempted, 0)";
        let count = match self.counter.as_deref()? {
            "smallint" => format!("least({known}::bigint + {attempts}, 32767)::smallint"),
            "integer" => format!("least({known}::bigint + {attempts}, 2147483647)::integer"),
            "bigint" => format!("{known} + least({attempts}, 9223372036854775807 - {known})"),
            _ => format!("{known} + {attempts}"),
        };
        Some(format!("times_attempted = {count}"))
    }

    /// A condition: the name is still that of the table that this was made for.
    pub(crate) fn is_ours(&self) -> &str {
        &self.ours
    }

    /// The table's name, quoted.
    pub(crate) fn table(&self) -> &str {
        &self.table
    }
}

/// The expression for the time of a mark.
fn time(shape: &TableShape) -> String {
    let published = shape.column("published_at").map(|it| it.base_type.as_str());
    let created = shape.column("created_at");
    let is_local = published == Some(TIMESTAMP);
    let zone = created.filter(|created| is_local && created.base_type == TIMESTAMP);
    let zone = zone.and_then(|created| zone_of(created.default.as_deref()?));
    let now = match (zone, is_local) {
        (Some(zone), _) => format!("pg_catalog.timezone('{zone}', CURRENT_TIMESTAMP)"),
        (None, true) => "LOCALTIMESTAMP".to_owned(),
        (None, false) => "CURRENT_TIMESTAMP".to_owned(),
    };
    match (created, published) {
        (Some(created), Some(published)) if created.is_time() => {
            // Comparisons between these types take every value; a cast does not.
            let created = "t.created_at";
            format!(
                "CASE WHEN {created} >= {now} AND {created} <= {now} + INTERVAL '26 hours' \
                 THEN {created}::{published} + INTERVAL '1 microsecond' ELSE {now} END"
            )
        }
        _ => now,
    }
}

/// The time zone that a column's default names, as in `timezone('utc'::text, now())` or
/// `(now() AT TIME ZONE 'utc'::text)`.
fn zone_of(default: &str) -> Option<&str> {
    let markers = ["timezone('", "AT TIME ZONE '"];
    let after = markers.iter().find_map(|it| default.split_once(it));
    let (zone, _) = after?.1.split_once('\'')?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_/+-:".contains(c);
    (!zone.is_empty() && zone.chars().all(is_plain)).then_some(zone)
}

#[cfg(test)]
impl Marking {
    /// The marking of a table with these columns, each with its type.
    pub(crate) fn of_columns(after_publish: AfterPublish, columns: &[(&str, &str)]) -> Self {
        Marking::new(after_publish, &TableShape::of_columns(4711, columns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::table_shape::TIMESTAMPTZ;

    fn marking(after_publish: AfterPublish, columns: &[(&str, &str)]) -> Marking {
        Marking::of_columns(after_publish, columns)
    }

    #[test]
    fn without_published_at_every_row_is_unpublished() {
        let delete = marking(AfterPublish::Delete, &[("id", "bigint")]);
        assert_eq!(delete.unpublished("t"), "true");
        let sql = delete.statement("", "t.id = 1", "1");
        assert!(!sql.contains("published_at"), "{sql}");
        let columns = [("id", "bigint"), ("published_at", TIMESTAMP)];
        let mark = marking(AfterPublish::Mark, &columns);
        assert_eq!(mark.unpublished("t"), "t.published_at IS NULL");
        assert_eq!(mark.counted("1"), None);
        let sql = mark.statement("", "t.id = 1", "1");
        assert!(
            !sql.contains("times_attempted") && !sql.contains("created_at"),
            "{sql}"
        );
    }

    #[test]
    fn a_zone_is_found_in_a_default_that_names_one_and_in_no_other() {
        for (default, zone) in [
            ("timezone('utc'::text, now())", Some("utc")),
            (
                "(now() AT TIME ZONE 'Europe/Berlin'::text)",
                Some("Europe/Berlin"),
            ),
            ("(CURRENT_TIMESTAMP AT TIME ZONE 'UTC'::text)", Some("UTC")),
            ("CURRENT_TIMESTAMP", None),
            ("'2024-01-01 00:00:00'::timestamp without time zone", None),
            ("timezone('a b'::text, now())", None),
            ("timezone(''::text, now())", None),
        ] {
            assert_eq!(zone_of(default), zone, "{default}");
        }
    }

    #[test]
    fn a_writers_time_zone_moves_the_mark_and_a_zone_of_the_table_sets_it() {
        let column = |kind| [("created_at", kind), ("published_at", TIMESTAMP)];
        let local = marking(AfterPublish::Mark, &column(TIMESTAMP)).time;
        assert!(
            local.contains("LOCALTIMESTAMP") && local.contains("26 hours"),
            "{local}"
        );
        let epoch = marking(AfterPublish::Mark, &column("bigint")).time;
        assert_eq!(epoch, "LOCALTIMESTAMP");
        let alone = marking(AfterPublish::Mark, &[("published_at", TIMESTAMPTZ)]).time;
        assert_eq!(alone, "CURRENT_TIMESTAMP");
    }
}
