//! How a column shows that a row of the outbox is published, in SQL: the type of the column decides
//! whether the mark is a time, true, 1, or a constant that a setting gives.
//!
//! The mark's time is in the table's own convention. A `timestamp` has no time zone, and its
//! meaning is that of the writers: where the default of the time of creation names a zone, the mark
//! is in that zone, otherwise in the session's. A writer in another zone gives a time of creation
//! that is ahead by up to 26 hours; its row is marked with the time right behind that, so that
//! `CHECK (published_at > created_at)` holds. A time that is further ahead is no time zone.

use postgres_protocol::escape::escape_literal;

use crate::postgres::table_shape::shape::{Column, TIMESTAMP, TableShape};

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowMark {
    column: String,
    /// The value that is written.
    value: String,
    kind: MarkKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum MarkKind {
    /// A time: null in an unpublished row.
    Time,
    /// Null or false in an unpublished row.
    Boolean,
    /// Null or 0 in an unpublished row.
    Number,
    /// This text in a published row, and anything else in an unpublished one.
    Constant(String),
}

impl RowMark {
    /// The mark of this table, if it has one.
    pub(crate) fn of(shape: &TableShape) -> Option<Self> {
        let column = shape.published()?;
        let constant = shape.mapping.columns.published.constant.as_deref();
        let (kind, value) = match constant.map(escape_literal) {
            Some(literal) => (MarkKind::Constant(literal.clone()), literal),
            None if column.base_type == "boolean" => (MarkKind::Boolean, "true".to_owned()),
            None if column.is_integer() => (MarkKind::Number, "1".to_owned()),
            None => (MarkKind::Time, time(shape)),
        };
        Some(RowMark {
            column: column.quoted(),
            value,
            kind,
        })
    }

    /// A condition that is never null: the row `row` is unpublished. `row` ends with a dot, or is
    /// empty.
    pub(crate) fn unpublished(&self, row: &str) -> String {
        let column = format!("{row}{}", self.column);
        match &self.kind {
            MarkKind::Time => format!("{column} IS NULL"),
            MarkKind::Boolean => format!("{column} IS NOT TRUE"),
            MarkKind::Number => format!("({column} IS NULL OR {column} = 0)"),
            MarkKind::Constant(literal) => format!("{column} IS DISTINCT FROM {literal}"),
        }
    }

    /// The opposite.
    pub(crate) fn is_published(&self, row: &str) -> String {
        let column = format!("{row}{}", self.column);
        match &self.kind {
            MarkKind::Time => format!("{column} IS NOT NULL"),
            MarkKind::Boolean => format!("{column} IS TRUE"),
            MarkKind::Number => format!("coalesce({column} <> 0, false)"),
            MarkKind::Constant(literal) => format!("{column} IS NOT DISTINCT FROM {literal}"),
        }
    }

    /// The assignment that marks the row `t`.
    pub(crate) fn assignment(&self) -> String {
        format!("{} = {}", self.column, self.value)
    }

    /// The assignment for a person.
    pub(crate) fn by_hand(&self) -> String {
        let value = match self.kind {
            MarkKind::Time => "CURRENT_TIMESTAMP",
            MarkKind::Boolean | MarkKind::Number | MarkKind::Constant(_) => &self.value,
        };
        format!("{} = {value}", self.column)
    }

    /// Whether an index with this predicate, as the catalog prints it, has every unpublished row.
    pub(crate) fn is_predicate(&self, printed: &str) -> bool {
        bare(printed) == bare(&self.unpublished(""))
    }
}

/// An expression without what the server adds when it prints one: casts, quotes and parentheses.
fn bare(expression: &str) -> String {
    let casts = [
        "::text",
        "::character varying",
        "::bpchar",
        "::smallint",
        "::integer",
        "::bigint",
    ];
    let mut text = expression.to_owned();
    for cast in casts {
        text = text.replace(cast, "");
    }
    text.retain(|c| !"()\"".contains(c));
    text
}

/// The column that the age of a published row counts from: its mark, or its creation where the mark
/// is no time. `None` if the table has neither.
pub(crate) fn age_column(shape: &TableShape) -> Option<&Column> {
    let has_constant = shape.mapping.columns.published.constant.is_some();
    let mark = shape.published()?;
    let mark = Some(mark).filter(|mark| mark.is_timestamp() && !has_constant);
    mark.or_else(|| shape.created().filter(|created| created.is_timestamp()))
}

/// The expression for the present time as a value of this column.
pub(crate) fn now_of(shape: &TableShape, column: &Column) -> String {
    now_in(shape, column.base_type == TIMESTAMP)
}

/// The same; a time without a zone is in that of the time of creation.
fn now_in(shape: &TableShape, is_local: bool) -> String {
    let created = shape.created();
    let zone = created.filter(|created| is_local && created.base_type == TIMESTAMP);
    let zone = zone.and_then(|created| created.zone.as_deref());
    match (zone, is_local) {
        (Some(zone), _) => format!("pg_catalog.timezone('{zone}', CURRENT_TIMESTAMP)"),
        (None, true) => "LOCALTIMESTAMP".to_owned(),
        (None, false) => "CURRENT_TIMESTAMP".to_owned(),
    }
}

/// The expression for the time of a mark.
fn time(shape: &TableShape) -> String {
    let published = shape.published().map(|it| it.base_type.as_str());
    let created = shape.created();
    let now = now_in(shape, published == Some(TIMESTAMP));
    match (created, published) {
        (Some(created), Some(published)) if Column::is_time(created) => {
            // Comparisons between these types take every value; a cast does not.
            let created = format!("t.{}", created.quoted());
            format!(
                "CASE WHEN {created} >= {now} AND {created} <= {now} + INTERVAL '26 hours' \
                 THEN {created}::{published} + INTERVAL '1 microsecond' ELSE {now} END"
            )
        }
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::table_shape::TIMESTAMPTZ;

    #[test]
    fn a_writers_time_zone_moves_the_mark_and_a_zone_of_the_table_sets_it() {
        let column = |kind| [("created_at", kind), ("published_at", TIMESTAMP)];
        let time_of = |columns: &[(&str, &str)]| time(&TableShape::of_columns(1, columns));
        let local = time_of(&column(TIMESTAMP));
        assert!(
            local.contains("LOCALTIMESTAMP") && local.contains("26 hours"),
            "{local}"
        );
        let epoch = time_of(&column("bigint"));
        assert_eq!(epoch, "LOCALTIMESTAMP");
        let alone = time_of(&[("published_at", TIMESTAMPTZ)]);
        assert_eq!(alone, "CURRENT_TIMESTAMP");
    }

    #[test]
    fn the_type_decides_what_the_mark_is() {
        let mark = |kind| {
            let shape = TableShape::of_columns(1, &[("published_at", kind)]);
            let mark = RowMark::of(&shape).expect("the table has a mark");
            (
                mark.unpublished("t."),
                mark.is_published("t."),
                mark.assignment(),
            )
        };
        for (kind, unpublished, published, assignment) in [
            (
                TIMESTAMPTZ,
                "t.published_at IS NULL",
                "t.published_at IS NOT NULL",
                "CURRENT_TIMESTAMP",
            ),
            (
                "boolean",
                "t.published_at IS NOT TRUE",
                "t.published_at IS TRUE",
                "true",
            ),
            (
                "smallint",
                "(t.published_at IS NULL OR t.published_at = 0)",
                "coalesce(t.published_at <> 0, false)",
                "1",
            ),
        ] {
            let expected = (
                unpublished.to_owned(),
                published.to_owned(),
                format!("published_at = {assignment}"),
            );
            assert_eq!(mark(kind), expected, "{kind}");
        }
    }

    /// As `pg_get_expr` prints them on Postgres 17.
    #[test]
    fn an_index_is_recognised_by_what_the_catalog_prints() {
        let shape = TableShape::of_columns(1, &[("published_at", "smallint")]);
        let mark = RowMark::of(&shape).expect("the table has a mark");
        assert!(mark.is_predicate("((published_at IS NULL) OR (published_at = 0))"));
        assert!(!mark.is_predicate("(published_at IS NULL)"));
        let mut mapping = crate::config::Mapping::default();
        mapping.columns.published.constant = Some("Succeeded".to_owned());
        mapping.columns.published.column = crate::config::mapping::ColumnName::given("StatusName");
        let columns = [("StatusName", "character varying")];
        let shape = TableShape::of_mapping(1, &columns, mapping);
        let mark = RowMark::of(&shape).expect("the table has a mark");
        let printed = "((\"StatusName\")::text IS DISTINCT FROM 'Succeeded'::text)";
        assert!(mark.is_predicate(printed));
    }
}
