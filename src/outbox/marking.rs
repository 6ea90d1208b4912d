//! How the rows of one table are recognised as unpublished and marked as published: the SQL that
//! the write-back, the dead letters and the readers of the table share.
//!
//! A table may lack a counter of attempts and a time of creation, and with `delete` and `keep` also
//! the column of the mark: without it every row is unpublished. A counter at the end of its range
//! stays there, because a mark must not fail for a figure.

use crate::config::AfterPublish;
use crate::outbox::row_key::RowKey;
use crate::outbox::row_name;
use crate::postgres::TableShape;
use crate::postgres::table_shape::row_mark::RowMark;
use crate::postgres::table_shape::{is_table, may_change_rows};

/// See the module's head. Statements call the table `t`.
#[derive(Debug, Clone)]
pub(crate) struct Marking {
    after_publish: AfterPublish,
    table: String,
    /// The name is still that of the table that this was made for.
    ours: String,
    may_be_undone: String,
    mark: Option<RowMark>,
    key: RowKey,
    /// An expression for what names a row `t` beside its id, and its type.
    created: String,
    has_created: bool,
    created_type: &'static str,
    /// The column that counts attempts and its type, if the table has one that can be written.
    counter: Option<(String, String)>,
}

impl Marking {
    /// For a table of this shape.
    pub(crate) fn new(after_publish: AfterPublish, shape: &TableShape) -> Self {
        let counter = shape.attempts();
        let counter = counter.filter(|column| !column.generated);
        Marking {
            after_publish,
            table: shape.name.quoted(),
            ours: is_table(&shape.name, shape.oid),
            may_be_undone: may_change_rows(shape.oid),
            mark: RowMark::of(shape),
            key: RowKey::of(shape),
            created: row_name::created(shape, "t"),
            has_created: row_name::has_created(shape),
            created_type: row_name::created_type(shape),
            counter: counter.map(|column| (column.quoted(), column.base_type.clone())),
        }
    }

    /// Whether rows are marked or deleted.
    pub(crate) fn writes(&self) -> bool {
        self.after_publish != AfterPublish::Keep
    }

    /// How statements name rows.
    pub(crate) fn key(&self) -> &RowKey {
        &self.key
    }

    /// A condition: the row `t` is one of those that `$1` names, ascending ids, each once, with
    /// their times in `$2`. A time of [`CreatedAt::ANY`](crate::outbox::CreatedAt::ANY) is not
    /// compared.
    ///
    /// A join with the ids would leave the planner the choice to read every unpublished row.
    pub(crate) fn is_named(&self) -> String {
        let (created, kind) = (&self.created, self.created_type);
        let named = self.key.is_any("t", "$1");
        match self.has_created {
            true => format!(
                "{named} AND ($2::{kind}[])[{place}] IN ('-infinity', {created})",
                place = self.key.place("t", "$1"),
            ),
            false => format!("{named} AND $2::{kind}[] IS NOT NULL"),
        }
    }

    /// What names the row `t` beside its id; null if that is nothing.
    pub(crate) fn created(&self) -> &str {
        &self.created
    }

    /// An expression: the row `alias` is unpublished.
    pub(crate) fn unpublished(&self, alias: &str) -> String {
        match &self.mark {
            Some(mark) => mark.unpublished(&format!("{alias}.")),
            None => "true".to_owned(),
        }
    }

    /// An expression: the row `alias` is published; `None` if the table does not tell.
    pub(crate) fn is_published(&self, alias: &str) -> Option<String> {
        let mark = self.mark.as_ref();
        mark.map(|mark| mark.is_published(&format!("{alias}.")))
    }

    /// The statement by which a person marks rows as published, up to its condition; `None` if the
    /// table has no mark.
    pub(crate) fn by_hand(&self) -> Option<String> {
        let mark = self.mark.as_ref()?;
        Some(format!("UPDATE {} SET {}", self.table, mark.by_hand()))
    }

    /// A condition for the row `alias`: it is unpublished, and of the table that this was made for.
    pub(crate) fn candidates(&self, alias: &str) -> String {
        format!("{} AND {}", self.unpublished(alias), self.ours)
    }

    /// The statement that marks or deletes rows of the table `t`, up to `RETURNING`. `from` brings
    /// the condition, and `attempts` is the number of attempts to count.
    pub(crate) fn statement(&self, from: &str, condition: &str, attempts: &str) -> String {
        let table = &self.table;
        let mark = self.mark.as_ref();
        let mark = mark.filter(|_| self.after_publish != AfterPublish::Delete);
        let Some(mark) = mark else {
            let using = from.replacen("FROM", "USING", 1);
            return format!("DELETE FROM {table} AS t {using} WHERE {condition}");
        };
        let counted = self.counted(attempts);
        let counted = counted.map_or_else(String::new, |counted| format!(", {counted}"));
        let set = mark.assignment();
        format!("UPDATE {table} AS t SET {set}{counted} {from} WHERE {condition}")
    }

    /// An expression for `RETURNING` of that statement: the row counts as published from now on.
    pub(crate) fn is_marked(&self) -> String {
        match (self.after_publish, self.is_published("t")) {
            (AfterPublish::Delete, _) | (_, None) => "true".to_owned(),
            (_, Some(is_published)) => is_published,
        }
    }

    /// The assignment that counts attempts; `None` if the table has no counter.
    pub(crate) fn counted(&self, attempts: &str) -> Option<String> {
        let (column, kind) = self.counter.as_ref()?;
        let known = format!("coalesce(t.{column}, 0)");
        let count = match kind.as_str() {
            "smallint" => format!("least({known}::bigint + {attempts}, 32767)::smallint"),
            "integer" => format!("least({known}::bigint + {attempts}, 2147483647)::integer"),
            "bigint" => format!("{known} + least({attempts}, 9223372036854775807 - {known})"),
            _ => format!("{known} + {attempts}"),
        };
        Some(format!("{column} = {count}"))
    }

    /// A condition: the name is still that of the table that this was made for.
    pub(crate) fn is_ours(&self) -> &str {
        &self.ours
    }

    /// An expression for `RETURNING` of a statement that marks or deletes rows: the table may have
    /// changed them once more. See [`may_change_rows`].
    pub(crate) fn may_be_undone(&self) -> &str {
        &self.may_be_undone
    }

    /// The table's name, quoted.
    pub(crate) fn table(&self) -> &str {
        &self.table
    }
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
    use crate::postgres::table_shape::TIMESTAMP;

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
}
