//! The rows that are messages, as a condition in SQL: the same comparison of printed text that
//! decides for the stream.

use postgres_protocol::escape::escape_literal;

use crate::config::mapping::{Condition, RowFilter, Test};
use crate::outbox::select_list::text_of;
use crate::postgres::TableShape;

/// A condition: the row `alias` is a message; `None` if every row is one.
pub(crate) fn condition(shape: &TableShape, alias: &str) -> Option<String> {
    of(&shape.mapping.filter, shape, alias)
}

/// The same for another filter over columns of the table.
pub(in crate::outbox) fn of(filter: &RowFilter, shape: &TableShape, alias: &str) -> Option<String> {
    let RowFilter { conditions } = filter;
    let all = conditions.iter().map(|it| one(shape, alias, it));
    let all = all.collect::<Vec<_>>().join(" AND ");
    (!all.is_empty()).then_some(all)
}

fn one(shape: &TableShape, alias: &str, condition: &Condition) -> String {
    let column = shape.column(&condition.column);
    let printed = column.map_or("text", |column| column.printed_type());
    let name = format!(
        "{alias}.{}",
        crate::postgres::table_shape::identifier(&condition.column)
    );
    let text = text_of(printed, &name);
    let literals = |list: &[String]| {
        let literals = list.iter().map(|it| escape_literal(it));
        literals.collect::<Vec<_>>().join(", ")
    };
    match &condition.test {
        Test::OneOf(list) => format!("coalesce({text} IN ({}), false)", literals(list)),
        Test::NoneOf(list) => format!("coalesce({text} NOT IN ({}), false)", literals(list)),
        Test::Null => format!("{name} IS NULL"),
        Test::NotNull => format!("{name} IS NOT NULL"),
    }
}

/// A condition with the filter, for a table that may have one.
pub(crate) fn and_is_message(shape: &TableShape, alias: &str) -> String {
    condition(shape, alias).map_or_else(String::new, |it| format!(" AND {it}"))
}
