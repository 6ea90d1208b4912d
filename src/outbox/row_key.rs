//! The SQL about ids: how a statement names rows of a table by what identifies them, whether that
//! is an integer, another type or several columns.
//!
//! Every statement passes ids as `bigint` where the id is one integer column, and as the text of
//! [`RowId`](crate::outbox::RowId) otherwise. The text is cast to the columns' types, so that their
//! index serves.

use postgres_protocol::escape::escape_literal;

use crate::config::Mapping;
use crate::outbox::row_id::{IdKind, RowId};
use crate::outbox::select_list::text_of;
use crate::postgres::TableShape;
use crate::postgres::table_shape::{Column, identifier};

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowKey {
    columns: Vec<KeyColumn>,
    kind: IdKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyColumn {
    /// Its name, quoted where that is needed.
    name: String,
    /// The type that a text is cast to.
    cast: String,
    /// The type that decides how it prints.
    printed: String,
}

impl KeyColumn {
    fn of(name: &str, column: Option<&Column>) -> Self {
        let base = column.map_or("bigint", |column| &column.base_type);
        // Without a length these types cut what is cast to them.
        let cast = match base {
            "character" => "pg_catalog.bpchar",
            "bit" => "bit varying",
            base => base,
        };
        KeyColumn {
            name: identifier(name),
            cast: cast.to_owned(),
            printed: column.map_or("bigint", Column::printed_type).to_owned(),
        }
    }

    fn text(&self, alias: &str) -> String {
        text_of(&self.printed, &format!("{alias}.{}", self.name))
    }
}

impl RowKey {
    /// The key of this table.
    pub(crate) fn of(shape: &TableShape) -> Self {
        let names = shape.mapping.columns.id.iter();
        let columns: Vec<_> = names
            .map(|name| KeyColumn::of(name, shape.column(name)))
            .collect();
        let is_number = shape.id_is_integer() || shape.id_columns().is_empty();
        let kind = match is_number && columns.len() == 1 {
            true => IdKind::Number,
            false => IdKind::Text,
        };
        RowKey { columns, kind }
    }

    /// What the ids are.
    pub(crate) fn kind(&self) -> IdKind {
        self.kind
    }

    /// The type of an id as a parameter and as a result.
    pub(crate) fn parameter(&self) -> &'static str {
        match self.kind {
            IdKind::Number => "bigint",
            IdKind::Text => "text",
        }
    }

    /// An expression of that type: the id of the row `alias`.
    pub(crate) fn value(&self, alias: &str) -> String {
        match (&self.columns[..], self.kind) {
            ([only], IdKind::Number) => format!("{alias}.{}::bigint", only.name),
            _ => self.text(alias),
        }
    }

    /// An expression: the text of the id of the row `alias`, as it is printed everywhere.
    pub(crate) fn text(&self, alias: &str) -> String {
        match &self.columns[..] {
            [only] => only.text(alias),
            several => {
                let texts = several.iter().map(|column| column.text(alias));
                let texts = texts.collect::<Vec<_>>().join(", ");
                format!("pg_catalog.jsonb_build_array({texts})::text")
            }
        }
    }

    /// A condition: the row `alias` has the id that an expression of the
    /// [`parameter`](RowKey::parameter)'s type gives.
    pub(crate) fn is(&self, alias: &str, id: &str) -> String {
        let parts = self.columns.iter().zip(self.parts(id));
        let equal = parts.map(|(column, part)| format!("{alias}.{} = {part}", column.name));
        equal.collect::<Vec<_>>().join(" AND ")
    }

    /// The values of the columns in an expression for an id, each with its type.
    fn parts(&self, id: &str) -> Vec<String> {
        match (&self.columns[..], self.kind) {
            (_, IdKind::Number) => vec![id.to_owned()],
            ([only], IdKind::Text) => vec![format!("({id})::{}", only.cast)],
            (several, IdKind::Text) => {
                let part = |(at, column): (usize, &KeyColumn)| {
                    format!("(({id})::pg_catalog.jsonb ->> {at})::{}", column.cast)
                };
                several.iter().enumerate().map(part).collect()
            }
        }
    }

    /// An id as an expression of the parameter's type, for a statement without parameters.
    pub(crate) fn literal(&self, id: &RowId) -> String {
        match id {
            RowId::Number(number) => format!("({number})::bigint"),
            RowId::Text(_) => format!("{}::text", escape_literal(&id.to_string())),
        }
    }

    /// An expression: how many of the columns' values an expression for an id lacks. Fails if the
    /// expression is no id of this table.
    pub(crate) fn lacks(&self, id: &str) -> String {
        format!("pg_catalog.num_nulls({})", self.parts(id).join(", "))
    }

    /// A condition: the id of the row `alias` is in an array of ids.
    pub(crate) fn is_any(&self, alias: &str, ids: &str) -> String {
        match (&self.columns[..], self.kind) {
            ([only], IdKind::Number) => format!("{alias}.{} = ANY ({ids}::bigint[])", only.name),
            ([only], IdKind::Text) => {
                format!(
                    "{alias}.{} = ANY ({ids}::text[]::{}[])",
                    only.name, only.cast
                )
            }
            _ => {
                let parts = self.parts("k.id").join(", ");
                format!(
                    "({}) IN (SELECT {parts} FROM pg_catalog.unnest({ids}::text[]) AS k (id))",
                    self.list(alias)
                )
            }
        }
    }

    /// For a statement that begins with texts which may be no ids of this table: what it selects of
    /// the text as `id` of the relation `named`, and the condition that the row `alias` is one of
    /// those.
    pub(crate) fn named_by_text(&self, text: &str, alias: &str, named: &str) -> (String, String) {
        let ids = format!("ARRAY(SELECT id FROM {named})");
        if self.kind == IdKind::Number {
            let in_range = "BETWEEN -9223372036854775808 AND 9223372036854775807";
            let id = format!(
                "CASE WHEN {text} ~ '^-?[0-9]{{1,19}}$' \
                      THEN CASE WHEN {text}::numeric {in_range} THEN {text}::bigint END END"
            );
            return (id, self.is_any(alias, &ids));
        }
        let pattern = match &self.columns[..] {
            [only] => match only.cast.as_str() {
                "text" | "character varying" => Some(""),
                "uuid" => Some("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"),
                "numeric" => Some("^-?[0-9]+([.][0-9]+)?$"),
                _ => None,
            },
            _ => None,
        };
        match pattern {
            Some("") => (text.to_owned(), self.is_any(alias, &ids)),
            Some(pattern) => {
                let id = format!("CASE WHEN {text} ~ '{pattern}' THEN {text} END");
                (id, self.is_any(alias, &ids))
            }
            // Whether such a text can be cast is not known before.
            None => {
                let is_named = format!("{} IN (SELECT id FROM {named})", self.text(alias));
                (text.to_owned(), is_named)
            }
        }
    }

    /// A condition: two rows have the same id.
    pub(crate) fn same(&self, alias: &str, other: &str) -> String {
        let same = self.columns.iter();
        let same = same.map(|column| format!("{alias}.{0} = {other}.{0}", column.name));
        same.collect::<Vec<_>>().join(" AND ")
    }

    /// The columns of the row `alias`, for a select or an order.
    pub(crate) fn list(&self, alias: &str) -> String {
        let columns = self.columns.iter();
        let columns = columns.map(|column| format!("{alias}.{}", column.name));
        columns.collect::<Vec<_>>().join(", ")
    }

    /// The same for the reverse order.
    pub(crate) fn list_descending(&self, alias: &str) -> String {
        let columns = self.columns.iter();
        let columns = columns.map(|column| format!("{alias}.{} DESC", column.name));
        columns.collect::<Vec<_>>().join(", ")
    }

    /// An expression: the place of the id of the row `alias` in an array of ids that ascend, each
    /// once, and that has it.
    pub(crate) fn place(&self, alias: &str, ids: &str) -> String {
        let value = self.value(alias);
        match self.kind {
            IdKind::Number => format!("pg_catalog.width_bucket({value}, {ids}::bigint[])"),
            // The order of texts in outboxd is that of their bytes.
            IdKind::Text => {
                format!("pg_catalog.width_bucket(({value}) COLLATE \"C\", {ids}::text[])")
            }
        }
    }

    /// A condition: the id of the row `alias` stands to an expression for an id as this operator
    /// says, in the order of the columns' types.
    pub(crate) fn compares(&self, alias: &str, operator: &str, id: &str) -> String {
        let (list, ids) = (self.list(alias), self.typed_parts(id));
        match self.columns.len() > 1 {
            true => format!("({list}) {operator} ({ids})"),
            false => format!("{list} {operator} {ids}"),
        }
    }

    fn typed_parts(&self, id: &str) -> String {
        let id = format!("{id}::{}", self.parameter());
        self.parts(&id).join(", ")
    }

    /// Whether the id is one column.
    pub(crate) fn is_single(&self) -> bool {
        self.columns.len() == 1
    }

    /// The names of the columns, for a person.
    pub(crate) fn names(&self) -> String {
        let names = self.columns.iter().map(|column| column.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    }
}

/// The order in which rows are read from the table, and how a read goes on behind a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadOrder {
    key: RowKey,
    column: Option<OrderColumn>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct OrderColumn {
    name: String,
    type_name: String,
    printed: String,
    not_null: bool,
}

impl ReadOrder {
    /// The order of this table: that of a named column and then the id, or of the id alone.
    pub(crate) fn of(shape: &TableShape) -> Self {
        let column = order_column(&shape.mapping, shape).map(|column| OrderColumn {
            name: identifier(&column.name),
            type_name: column.base_type.clone(),
            printed: column.printed_type().to_owned(),
            not_null: column.not_null,
        });
        ReadOrder {
            key: RowKey::of(shape),
            column,
        }
    }

    /// What orders the rows `alias`.
    pub(crate) fn by(&self, alias: &str) -> String {
        let ids = self.key.list(alias);
        match &self.column {
            Some(column) => format!("{alias}.{}, {ids}", column.name),
            None => ids,
        }
    }

    /// The reverse of [`by`](ReadOrder::by).
    pub(crate) fn by_descending(&self, alias: &str) -> String {
        let ids = self.key.list_descending(alias);
        match &self.column {
            Some(column) => format!("{alias}.{} DESC, {ids}", column.name),
            None => ids,
        }
    }

    /// The column that orders the rows, for a person.
    pub(crate) fn column_name(&self) -> Option<&str> {
        self.column.as_ref().map(|column| column.name.as_str())
    }

    /// A condition without parameters: the row `alias` comes behind the one with this id and this
    /// [`text`](ReadOrder::text).
    pub(crate) fn follows(&self, alias: &str, id: &RowId, text: Option<&str>) -> String {
        let id = self.key.literal(id);
        let text = text.map(escape_literal);
        let unordered = |id: &str| self.is_unordered(alias, id);
        let is_behind = |text: &str| self.is_behind(alias, &id, text);
        match (&self.column, text) {
            (None, _) => is_behind("NULL"),
            (Some(_), None) => unordered(&id).unwrap_or_else(|| "false".to_owned()),
            (Some(_), Some(text)) => match unordered("NULL") {
                Some(unordered) => format!("({} OR {unordered})", is_behind(&text)),
                None => is_behind(&text),
            },
        }
    }

    /// An expression: the text of the ordering column of the row `alias`; null without one.
    pub(crate) fn text(&self, alias: &str) -> String {
        let text =
            |column: &OrderColumn| text_of(&column.printed, &format!("{alias}.{}", column.name));
        self.column
            .as_ref()
            .map_or_else(|| "NULL::text".to_owned(), text)
    }

    /// A condition: the row `alias` comes behind the one with this id and this
    /// [`text`](ReadOrder::text), and its ordering column is not null.
    pub(crate) fn is_behind(&self, alias: &str, id: &str, text: &str) -> String {
        let Some(column) = &self.column else {
            let by_id = self.is_behind_id(alias, id);
            return format!("{by_id} AND {text}::text IS NULL");
        };
        let name = format!("{alias}.{}", column.name);
        let of_type = format!("{text}::text::{}", column.type_name);
        let (list, ids) = (self.key.list(alias), self.ids(id));
        format!("({name}, {list}) > ({of_type}, {ids})")
    }

    /// A condition: the ordering column of the row `alias` is null, and the row comes behind the
    /// one with this id; a null id stands for the row before the first of these. `None` if there
    /// are no such rows. They come last, and a condition about both kinds would use no index.
    pub(crate) fn is_unordered(&self, alias: &str, id: &str) -> Option<String> {
        let column = self.column.as_ref().filter(|column| !column.not_null)?;
        Some(format!(
            "{alias}.{} IS NULL AND ({id}::{} IS NULL OR {})",
            column.name,
            self.key.parameter(),
            self.is_behind_id(alias, id)
        ))
    }

    fn is_behind_id(&self, alias: &str, id: &str) -> String {
        self.key.compares(alias, ">", id)
    }

    fn ids(&self, id: &str) -> String {
        self.key.typed_parts(id)
    }
}

/// The column that a setting names for the order of reads.
fn order_column<'s>(mapping: &Mapping, shape: &'s TableShape) -> Option<&'s Column> {
    let name = mapping.columns.order.as_deref()?;
    shape.column(name).filter(|column| column.can_select)
}
