//! Which row a dead letter is about, as a condition in SQL.
//!
//! An id does not name a row for ever: ids begin again after `TRUNCATE … RESTART IDENTITY`, in a
//! table that was recreated, and by hand. A dead letter that took a new row for its own would keep
//! it from being published, and would send it or mark it in place of the old event.
//!
//! Where both have a `created_at` of a type that tells microseconds, it decides, as it does for the
//! consumers (`outbox_id` and `outbox_created_at`): the row may be mended in every other column,
//! and may have moved to another table with a dump. Otherwise the table and the payload decide too,
//! as far as the dead letter knows them. Doubt is resolved against the dead letter: a row is then
//! published a second time, and not kept back without a word.

use crate::config::mapping::{HeaderStyle, ValueRule};
use crate::outbox::dead_letter::types::OPEN;
use crate::outbox::marking::Marking;
use crate::outbox::row_filter::and_is_message;
use crate::outbox::select_list;
use crate::postgres::TableShape;
use crate::postgres::table_shape::Column;

/// The highest count of the rows that wait.
const WAITING_MAX: i64 = 10_000;

/// The column, if outboxd's role may read it.
fn readable(column: Option<&Column>) -> Option<&Column> {
    column.filter(|column| column.can_select)
}

/// The time of creation of the row `row`, printed as in the header `outbox_created_at`; `None` if
/// the table has none.
pub(crate) fn created_at(shape: &TableShape, row: &str) -> Option<String> {
    let column = readable(shape.created())?;
    let created_at = format!("{row}.{}", column.quoted());
    Some(select_list::text_of(column.printed_type(), &created_at))
}

/// The condition for the dead letter `d`, which names the id of a row of the table `row`, to be
/// about this row.
pub(crate) fn is_about(shape: &TableShape, row: &str) -> String {
    let same_table = format!("coalesce(d.table_oid = {}, true)", shape.oid);
    let same_payload = same_payload(shape, row);
    let weak = format!("{same_table} AND (d.payload IS NULL OR coalesce({same_payload}, false))");
    let (Some(column), Some(created)) = (readable(shape.created()), created_at(shape, row)) else {
        return format!("({weak})");
    };
    let same_time = format!("d.event_created_at = {created}");
    if !column.is_timestamp() {
        return format!("(coalesce({same_time}, true) AND {weak})");
    }
    format!(
        "CASE WHEN d.event_created_at IS NOT NULL AND {row}.{name} IS NOT NULL \
              THEN {same_time} ELSE {weak} END",
        name = column.quoted(),
    )
}

/// A condition: the payload of the dead letter `d` is that of the row `row`. What is sent in place
/// of the payload tells nothing about the row.
fn same_payload(shape: &TableShape, row: &str) -> String {
    let mapping = &shape.mapping;
    let is_sent_as_it_is = mapping.value == ValueRule::Payload
        && mapping.headers != HeaderStyle::CloudEventsStructured
        && mapping.columns.envelope.is_empty();
    if !is_sent_as_it_is {
        return "true".to_owned();
    }
    let Some(column) = readable(shape.payload()) else {
        return "false".to_owned();
    };
    let payload = format!("{row}.{}", column.quoted());
    match column.base_type.as_str() {
        "bytea" => format!("d.payload = {payload}"),
        // Not printed: a few kilobytes of JSON can print as more than the server can hold. A null
        // may have been sent as an empty value, which is no JSON.
        "jsonb" => format!(
            "pg_catalog.convert_from(nullif(d.payload, ''), 'UTF8')::pg_catalog.jsonb = {payload}"
        ),
        _ => format!("d.payload = pg_catalog.convert_to({payload}::pg_catalog.text, 'UTF8')"),
    }
}

/// The statement that counts the unpublished rows that open dead letters are about: all, and those
/// that only wait behind a dead letter of their key. It begins with the ids that these name, which
/// are few. A text that is no id of the table names none.
pub(super) fn waiting_sql(shape: &TableShape, marking: &Marking) -> String {
    let key = marking.key();
    let (named, is_named) = key.named_by_text("d.outbox_id", "o", "named");
    format!(
        "WITH named AS MATERIALIZED ( \
             SELECT {named} AS id FROM {dead_letters} AS d WHERE d.{OPEN} LIMIT {WAITING_MAX}) \
         SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE filed.parked) \
           FROM {name} AS o \
          CROSS JOIN LATERAL (SELECT pg_catalog.bool_and(d.state = 'parked') AS parked \
                                FROM {dead_letters} AS d \
                               WHERE d.outbox_id = {id} AND d.{OPEN} AND {about}) AS filed \
          WHERE {is_named} AND {unpublished}{is_message} \
            AND filed.parked IS NOT NULL",
        dead_letters = shape.name.dead_letter().quoted(),
        name = shape.name.quoted(),
        id = key.text("o"),
        unpublished = marking.unpublished("o"),
        is_message = and_is_message(shape, "o"),
        about = is_about(shape, "o"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(created_at: Option<&str>, payload: &str) -> TableShape {
        let mut columns = vec![("event_payload", payload)];
        columns.extend(created_at.map(|type_name| ("created_at", type_name)));
        TableShape::of_columns(16_400, &columns)
    }

    #[test]
    fn a_time_that_tells_microseconds_decides_alone() {
        let sql = is_about(&shape(Some("timestamp without time zone"), "jsonb"), "o");
        assert!(
            sql.contains("THEN d.event_created_at = o.created_at::text"),
            "{sql}"
        );
        assert!(
            sql.contains("ELSE coalesce(d.table_oid = 16400, true)"),
            "{sql}"
        );
    }

    #[test]
    fn a_time_of_another_type_decides_with_table_and_payload() {
        let sql = is_about(&shape(Some("date"), "text"), "t");
        assert!(
            sql.contains("AND coalesce(d.table_oid = 16400, true) AND (d.payload"),
            "{sql}"
        );
        assert!(sql.contains("convert_to(t.event_payload"), "{sql}");
    }

    #[test]
    fn without_a_time_table_and_payload_decide() {
        let sql = is_about(&shape(None, "bytea"), "o");
        assert!(!sql.contains("created_at"), "{sql}");
        assert!(sql.contains("d.payload = o.event_payload"), "{sql}");
    }
}
