//! Reads the shape of a table from the catalog.

use std::sync::Arc;

use tokio_postgres::Row;

use crate::config::{Mapping, TableName};
use crate::error::{Error, Result};
use crate::postgres::session::Session;
use crate::postgres::sql_error::sql_error;
use crate::postgres::sqlstate::ServerError;
use crate::postgres::table_shape::shape::{Column, TableShape};

const TABLE: &str = "
    SELECT c.oid, c.relkind = 'p', c.relpersistence = 'p',
           ARRAY(SELECT relid::oid FROM pg_catalog.pg_partition_tree(c.oid) WHERE isleaf),
           ARRAY(SELECT pg_catalog.format('%I.%I', m.nspname, i.relname)
                   FROM pg_catalog.pg_inherits AS h
                   JOIN pg_catalog.pg_class AS i ON i.oid = h.inhrelid
                   JOIN pg_catalog.pg_namespace AS m ON m.oid = i.relnamespace
                  WHERE h.inhparent = c.oid AND c.relkind = 'r' ORDER BY 1),
           ARRAY(SELECT pg_catalog.format('%I.%I', m.nspname, l.relname)
                   FROM pg_catalog.pg_partition_tree(c.oid) AS t
                   JOIN pg_catalog.pg_class AS l ON l.oid = t.relid
                   JOIN pg_catalog.pg_namespace AS m ON m.oid = l.relnamespace
                  WHERE t.isleaf AND t.relid <> c.oid
                    AND (l.relpersistence <> 'p' OR l.relkind = 'f') ORDER BY 1),
           ARRAY(SELECT c.oid
                  UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(c.oid)
                  UNION SELECT relid::oid FROM pg_catalog.pg_partition_ancestors(c.oid)),
           c.relkind = 'v' OR EXISTS (SELECT FROM pg_catalog.pg_index AS i
                    CROSS JOIN LATERAL (
                        SELECT ARRAY(SELECT a.attname::text
                                       FROM pg_catalog.generate_series(
                                                0, i.indnkeyatts - 1) AS k (n)
                                       LEFT JOIN pg_catalog.pg_attribute AS a
                                         ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n]
                                      ORDER BY k.n) AS names) AS of_index
                    WHERE i.indrelid = c.oid
                      AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
                      AND of_index.names[1] = ANY ($3::text[])
                      AND (of_index.names <@ $3::text[]
                           OR c.relkind = 'p' AND of_index.names @> $3::text[])),
           c.relreplident = 'f'
             OR EXISTS (SELECT FROM pg_catalog.pg_index AS i
                         WHERE i.indrelid = c.oid
                           AND (c.relreplident = 'd' AND i.indisprimary
                                OR c.relreplident = 'i' AND i.indisreplident)),
           pg_catalog.row_security_active(c.oid),
           pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
           pg_catalog.has_table_privilege(c.oid, 'DELETE'), c.relkind = 'v'
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v')";

const COLUMNS: &str = "
    SELECT a.attnum, a.attname::text, pg_catalog.format_type(a.atttypid, NULL),
           (WITH RECURSIVE base AS (
                SELECT a.atttypid AS id
                 UNION ALL
                SELECT t.typbasetype FROM base JOIN pg_catalog.pg_type AS t ON t.oid = base.id
                 WHERE t.typtype = 'd')
            SELECT pg_catalog.format_type(t.oid, NULL)
              FROM base JOIN pg_catalog.pg_type AS t ON t.oid = base.id
             WHERE t.typtype <> 'd'),
           a.attgenerated <> '',
           coalesce(pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT'), false),
           coalesce(pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'UPDATE'), false),
           (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef AS d
             WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum),
           a.attnotnull, a.atttypid
      FROM pg_catalog.pg_attribute AS a
     WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attnum";

/// Reads the shape of `name`, whose columns mean what `mapping` says; `None` when there is no such
/// table or view. Needs no right on it.
pub async fn read(
    session: &Session,
    name: &TableName,
    mapping: &Mapping,
) -> Result<Option<TableShape>> {
    let what = format!("reading the shape of {name}");
    let table = session
        .row_if_any(
            &what,
            TABLE,
            &[&name.schema, &name.name, &mapping.columns.id],
        )
        .await?;
    let Some(table) = table else {
        return Ok(None);
    };
    let oid: u32 = table.try_get(0).map_err(|error| sql_error(&what, error))?;
    let columns = session.rows(&what, COLUMNS, &[&oid]).await?;
    shape_of(name, mapping, &table, &columns)
        .map(Some)
        .map_err(|error| sql_error(what, error))
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

fn shape_of(
    name: &TableName,
    mapping: &Mapping,
    table: &Row,
    columns: &[Row],
) -> Result<TableShape, tokio_postgres::Error> {
    let column = |row: &Row| {
        Ok(Column {
            number: row.try_get(0)?,
            name: row.try_get(1)?,
            type_name: row.try_get(2)?,
            base_type: row.try_get(3)?,
            generated: row.try_get(4)?,
            can_select: row.try_get(5)?,
            can_update: row.try_get(6)?,
            zone: row
                .try_get::<_, Option<&str>>(7)?
                .and_then(zone_of)
                .map(str::to_owned),
            not_null: row.try_get(8)?,
            type_id: row.try_get(9)?,
        })
    };
    Ok(TableShape {
        name: name.clone(),
        oid: table.try_get(0)?,
        mapping: Arc::new(mapping.clone()),
        columns: columns.iter().map(column).collect::<Result<_, _>>()?,
        partitioned: table.try_get(1)?,
        logged: table.try_get(2)?,
        partitions: table.try_get(3)?,
        children: table.try_get(4)?,
        unlogged: table.try_get(5)?,
        family: table.try_get(6)?,
        id_is_key: table.try_get(7)?,
        replica_identity: table.try_get(8)?,
        rows_hidden: table.try_get(9)?,
        can_use_schema: table.try_get(10)?,
        can_delete: table.try_get(11)?,
        is_view: table.try_get(12)?,
    })
}

/// An error of a statement that was made for a table of this shape: transient if the table was
/// altered since. The next attempt reads the shape again.
pub(crate) async fn recheck(session: &Session, shape: &TableShape, error: Error) -> Error {
    let suspicious = ServerError::of(&error).is_some_and(ServerError::may_be_of_altered_table);
    if error.is_transient() || !suspicious {
        return error;
    }
    match read(session, &shape.name, &shape.mapping).await {
        Ok(Some(found)) if found == *shape => error,
        _ => error.into_transient(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
