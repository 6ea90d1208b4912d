//! The select list by which a row of the table prints as it does in the stream, cut at the longest
//! value that is wanted.
//!
//! A jsonb of some kilobytes may print as hundreds of megabytes. The server prints it, since only
//! then its length is known, and sends it only up to a limit.

use postgres_protocol::escape::escape_identifier;

/// The bytes as stored of a value that is printed although it is wanted only up to a length: no
/// short value is stored longer. A numeric of ten bytes prints as 131,072 digits.
const STORED_BYTES_MAX: usize = 16 << 10;

/// How a column is selected so that it prints as in the stream. The stream's session has
/// `TimeZone=UTC` and `bytea_output=hex`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Printing {
    /// A cast to text prints what the output function prints.
    Cast,
    /// `bytea`.
    Hex,
    /// `timestamptz`: the SQL session keeps the time zone of the writers, the stream is in UTC.
    Utc,
    /// A cast to text may print something else, as for `bpchar`, `boolean` and `inet`.
    Output,
}

impl Printing {
    pub(super) fn of_type_id(id: u32) -> Self {
        match id {
            17 => Printing::Hex,
            1184 => Printing::Utc,
            _ => Printing::Output,
        }
    }

    pub(super) fn of_type_name(name: &str) -> Self {
        match name {
            "bytea" => Printing::Hex,
            "timestamp with time zone" => Printing::Utc,
            "bigint"
            | "integer"
            | "smallint"
            | "text"
            | "character varying"
            | "json"
            | "jsonb"
            | "uuid"
            | "numeric"
            | "timestamp without time zone" => Printing::Cast,
            _ => Printing::Output,
        }
    }

    fn expression(self, column: &str) -> String {
        match self {
            Printing::Cast => format!("{column}::text"),
            Printing::Hex => format!("'\\x' || pg_catalog.encode({column}, 'hex')"),
            // The zone stands before the era, and infinity has none.
            Printing::Utc => format!(
                "CASE WHEN pg_catalog.isfinite({column}) \
                 THEN pg_catalog.regexp_replace(({column} AT TIME ZONE 'UTC')::text, \
                                                '( BC)?$', '+00\\1') \
                 ELSE {column}::text END"
            ),
            Printing::Output => {
                let text = format!("pg_catalog.format('%s', {column})");
                format!("CASE WHEN {column} IS NOT NULL THEN {text} END")
            }
        }
    }
}

/// An expression of this type as the stream prints it.
pub(super) fn text_of(type_name: &str, expression: &str) -> String {
    Printing::of_type_name(type_name).expression(expression)
}

/// What happens to a value that prints as more bytes than this.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    /// It reads as null, and the position of its column is selected as well.
    Shown(usize),
    /// It reads as null.
    Silent(usize),
}

/// A column of the select list.
pub(super) struct SelectedColumn<'a> {
    pub(super) name: &'a str,
    pub(super) printing: Printing,
    pub(super) limit: Limit,
}

/// Each value unless it is too long, and behind them the position of the first that is. They are
/// selected from [`printed`].
pub(super) fn expressions(columns: &[SelectedColumn<'_>]) -> String {
    let (mut values, mut too_long) = (Vec::new(), String::new());
    for (at, column) in columns.iter().enumerate() {
        let length = format!("pg_catalog.octet_length(v.c{at})");
        let (Limit::Shown(limit) | Limit::Silent(limit)) = column.limit;
        values.push(format!("CASE WHEN {length} <= {limit} THEN v.c{at} END"));
        if let Limit::Shown(limit) = column.limit {
            too_long.push_str(&format!(" WHEN {length} > {limit} THEN {at}"));
        }
    }
    format!("{}, CASE{too_long} END", values.join(", "))
}

/// A subquery that prints the columns of the table `o`, each once. `OFFSET 0` keeps the planner
/// from merging it into the select list, which names each value twice.
pub(super) fn printed(columns: &[SelectedColumn<'_>]) -> String {
    let values = columns.iter().enumerate().map(|(at, column)| {
        let name = format!("o.{}", escape_identifier(column.name));
        let value = column.printing.expression(&name);
        match column.limit {
            Limit::Shown(_) => format!("{value} AS c{at}"),
            Limit::Silent(_) => format!(
                "CASE WHEN pg_catalog.pg_column_size(o.{}) <= {STORED_BYTES_MAX} \
                 THEN {value} END AS c{at}",
                escape_identifier(column.name)
            ),
        }
    });
    let values: Vec<_> = values.collect();
    format!("LATERAL (SELECT {} OFFSET 0) AS v", values.join(", "))
}
