//! Finds the outbox's columns by name, and reads rows by position from then on.
//!
//! A [`Columns`] is made once for a shape of the table: from each Relation message for the stream,
//! from the catalog for the table. Reading a row is then one pass over its columns without a
//! look-up, and without an allocation unless the mapping names many extra columns, or the id is
//! long or composite. Other columns are skipped, so a table may have any number of them.
//!
//! Both sources give the same text for the same row, since consumers compare it:
//! [`Columns::select_list`] asks the SQL side for what the type's output function prints, as the
//! stream has it.
//!
//! A value that is longer than a record can be is never received: the stream's client skips it, and
//! the server leaves it out of a select. Its event is marked by [`Event::left_out`]. Text that is
//! not UTF-8 spoils its own event alone, which [`Event::not_utf8`] marks.

mod composite_id;
mod limits;
mod meaning;
mod printed_kind;
mod value;

use std::borrow::Cow;

use crate::config::mapping::Test;
use crate::config::{Mapping, TableName};
use crate::error::{Code, Error, Result};
use crate::outbox::columns::limits::{CREATED_BYTES_MAX, limit};
use crate::outbox::columns::meaning::Meaning;
use crate::outbox::columns::printed_kind::{Mark, PrintedKind};
use crate::outbox::columns::value::{Cell, Printed, Value};
use crate::outbox::select_list::{self, Printing, SelectedColumn};
use crate::outbox::{Event, Extras, IdKind, RowId, TextValue};
use crate::pgoutput::{Column, Relation, Tuple};

/// What the filter sees in place of a value that was not read: no text has a zero byte.
const NOT_READ: &[u8] = b"\0";

/// The positions of the fields of an [`Event`] in a row of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    table: String,
    slots: Vec<Slot>,
    /// The meanings of the columns that have several.
    several: Vec<Vec<Meaning>>,
    names: Vec<String>,
    mark: Mark,
    extras: usize,
    /// The number of the extra columns, and of the columns of a composite id.
    apart: usize,
    /// The id is composite, or there is a filter.
    has_to_finish: bool,
    /// How many of the extra columns a record needs; the others serve the filter alone.
    sent_extras: usize,
    /// Each with the extra column that it is about.
    conditions: Vec<(usize, Test)>,
    select_list: String,
    printed: String,
}

/// One column of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    use_of: Use,
    kind: PrintedKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    One(Meaning),
    /// The column has the meanings of this list.
    Several(usize),
}

/// A column as it is described by its source.
struct Described<'c> {
    name: &'c str,
    printing: Printing,
    kind: PrintedKind,
}

impl Columns {
    /// Finds the columns in the stream's description of the table.
    ///
    /// # Errors
    ///
    /// [`Code::Config`] when a required column is missing.
    pub fn of_relation(relation: &Relation, mapping: &Mapping) -> Result<Self> {
        let columns = relation.columns.iter().map(|column| Described {
            name: &column.name,
            printing: Printing::of_type_id(column.type_id),
            kind: PrintedKind::of_type_id(column.type_id),
        });
        let table = format!("{}.{}", relation.namespace, relation.name);
        Columns::find(table, columns.collect(), mapping, usize::MAX, |_| true)
    }

    /// Finds the columns in the catalog's description of the table: their names, and their types as
    /// `format_type` writes them. A row must then begin with the columns of
    /// [`Columns::select_list`]. A payload of more than `payload_bytes_max` is left out.
    ///
    /// # Errors
    ///
    /// [`Code::Config`] when a required column is missing.
    pub fn of_table<'c>(
        table: &TableName,
        columns: impl IntoIterator<Item = (&'c str, &'c str)>,
        mapping: &Mapping,
        payload_bytes_max: usize,
    ) -> Result<Self> {
        let columns = columns.into_iter().map(|(name, type_name)| Described {
            name,
            printing: Printing::of_type_name(type_name),
            kind: PrintedKind::of_type_name(type_name),
        });
        let is_read = |meanings: &[Meaning]| !meanings.is_empty();
        let (table, columns) = (table.to_string(), columns.collect());
        Columns::find(table, columns, mapping, payload_bytes_max, is_read)
    }

    fn find(
        table: String,
        columns: Vec<Described<'_>>,
        mapping: &Mapping,
        payload_bytes_max: usize,
        is_read: impl Fn(&[Meaning]) -> bool,
    ) -> Result<Self> {
        let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
        meaning::check(&table, &names, mapping)?;
        let extras = mapping.extra_columns();
        let place = |name: &str| extras.iter().position(|extra| *extra == name);
        let id_parts = Some(mapping.columns.id.len()).filter(|count| *count > 1);
        let conditions = mapping.filter.conditions.iter();
        let conditions = conditions.filter_map(|it| Some((place(&it.column)?, it.test.clone())));
        let mut found = Columns {
            table,
            slots: Vec::new(),
            several: Vec::new(),
            names: Vec::new(),
            mark: Mark::Present,
            extras: extras.len(),
            apart: extras.len() + id_parts.unwrap_or(0),
            has_to_finish: id_parts.is_some() || !mapping.filter.conditions.is_empty(),
            sent_extras: meaning::sent_extras(mapping),
            conditions: conditions.collect(),
            select_list: String::new(),
            printed: String::new(),
        };
        let mut selected = Vec::new();
        for column in &columns {
            let meanings = meaning::of_column(mapping, &extras, column.name);
            if !is_read(&meanings) {
                continue;
            }
            if meanings.contains(&Meaning::Published) {
                found.mark = Mark::of(column.kind, &mapping.columns.published);
            }
            selected.push(SelectedColumn {
                name: column.name,
                printing: column.printing,
                limit: limit(&meanings, column.printing, payload_bytes_max),
            });
            found.add(column, meanings);
        }
        found.select_list = select_list::expressions(&selected);
        found.printed = select_list::printed(&selected);
        Ok(found)
    }

    fn add(&mut self, column: &Described<'_>, meanings: Vec<Meaning>) {
        let use_of = match meanings[..] {
            [] => Use::One(Meaning::Other),
            [only] => Use::One(only),
            _ => {
                self.several.push(meanings);
                Use::Several(self.several.len() - 1)
            }
        };
        let kind = column.kind;
        self.slots.push(Slot { use_of, kind });
        self.names.push(column.name.to_owned());
    }

    /// The expressions of a `SELECT` whose rows [`Columns::event_from_row`] reads, from the table
    /// `o` and [`Columns::printed`]. The session must have `DateStyle=ISO` and
    /// `client_encoding=UTF8`.
    pub fn select_list(&self) -> &str {
        &self.select_list
    }

    /// The subquery that prints the columns of the table `o`. `OFFSET 0` keeps the planner from
    /// merging it into the select list, which names each value twice.
    pub fn printed(&self) -> &str {
        &self.printed
    }

    /// Reads an inserted row from the stream.
    ///
    /// # Errors
    ///
    /// [`Code::Replication`] when the row does not match the relation.
    pub fn event_from_tuple<'a>(&'a self, tuple: Tuple<'a>) -> Result<Event<'a>> {
        if tuple.len() != self.slots.len() {
            let (got, expected) = (tuple.len(), self.slots.len());
            return Err(self.malformed(format!("has {got} columns instead of {expected}")));
        }
        self.event(tuple.iter().map(|column| match column {
            Column::Text(text) => Ok(Value::Text(text)),
            Column::Null => Ok(Value::Null),
            // No insert has such a column; the replication client puts it in place of a long value.
            Column::Unchanged => Ok(Value::LeftOut),
            Column::Binary(_) => Err(self.malformed("is in binary format")),
        }))
    }

    /// Reads a row of a `SELECT` that begins with [`Columns::select_list`]. Columns behind it are
    /// ignored.
    ///
    /// # Errors
    ///
    /// [`Code::Write`] when the row is of another `SELECT`.
    pub fn event_from_row<'a>(&'a self, row: &'a tokio_postgres::Row) -> Result<Event<'a>> {
        let malformed = |cause| {
            Error::fatal(Code::Write, format!("a row of {} is malformed", self.table))
                .with_source(cause)
        };
        let left_out: Option<i32> = row.try_get(self.slots.len()).map_err(malformed)?;
        let left_out = left_out.and_then(|at| usize::try_from(at).ok());
        self.event((0..self.slots.len()).map(|at| {
            let printed: Option<Printed<'a>> = row.try_get(at).map_err(malformed)?;
            Ok(match printed {
                Some(Printed(text)) => Value::Text(text),
                None if left_out == Some(at) => Value::LeftOut,
                None => Value::Null,
            })
        }))
    }

    /// Reads the columns in order.
    fn event<'a>(&'a self, values: impl Iterator<Item = Result<Value<'a>>>) -> Result<Event<'a>> {
        let mut event = Event::of_nulls();
        if self.apart > 0 {
            event.extras = Extras::nulls(self.apart);
        }
        for (at, (slot, value)) in self.slots.iter().zip(values).enumerate() {
            let value = match value? {
                Value::Text(value) => value,
                Value::Null => continue,
                Value::LeftOut => {
                    self.leave_out(at, *slot, &mut event);
                    continue;
                }
            };
            let kind = slot.kind;
            let cell = Cell { at, kind, value };
            match slot.use_of {
                Use::One(meaning) => self.set(&mut event, meaning, cell),
                Use::Several(list) => {
                    for meaning in &self.several[list] {
                        self.set(&mut event, *meaning, cell);
                    }
                }
            }
        }
        if self.has_to_finish {
            self.finish(&mut event);
        }
        Ok(event)
    }

    /// Takes over the value of a column in one of its meanings.
    #[inline(always)]
    fn set<'a>(&'a self, event: &mut Event<'a>, meaning: Meaning, cell: Cell<'a>) {
        match meaning {
            Meaning::Other => {}
            Meaning::Id => {
                let id = self.text(event, cell).unwrap_or_default();
                event.row_id = IdKind::of(cell.kind == PrintedKind::Integer).id_of(id);
                event.id = Cow::Borrowed(id);
            }
            Meaning::IdPart(part) => {
                let text = self.text(event, cell);
                event.extras[self.extras + part] = text.map(TextValue::Text);
            }
            Meaning::EventType => event.event_type = self.text(event, cell),
            Meaning::Topic => event.topic = self.text(event, cell).unwrap_or_default(),
            Meaning::Payload => event.payload = Some(cell.printed()),
            Meaning::Created if cell.value.len() > CREATED_BYTES_MAX => {}
            Meaning::Created => event.created_at = std::str::from_utf8(cell.value).ok(),
            Meaning::Published => event.published = self.mark.is_set(cell.value),
            Meaning::Headers => event.headers = self.text(event, cell),
            Meaning::Key => event.key = Some(cell.printed()),
            Meaning::Extra(extra) => {
                let text = match extra < self.sent_extras {
                    true => self.text(event, cell),
                    false => None,
                };
                event.extras[extra] = Some(match (text, cell.printed()) {
                    (Some(text), TextValue::Verbatim(_)) => TextValue::Text(text),
                    (_, printed) => printed,
                });
            }
        }
    }

    /// Makes the composite id out of its columns, which are behind the extra ones until then, and
    /// decides whether the row is a message.
    fn finish(&self, event: &mut Event<'_>) {
        let (extras, parts) = event.extras.split_at(self.extras);
        if !parts.is_empty() {
            let id = composite_id::text(parts);
            event.row_id = (!id.is_empty()).then(|| RowId::from(id.as_str()));
            event.id = Cow::Owned(id);
            event.extras = extras.into();
        }
        if !self.conditions.is_empty() {
            self.filter(event);
        }
    }

    /// Notes that the value of a column was not read.
    fn leave_out<'a>(&'a self, at: usize, slot: Slot, event: &mut Event<'a>) {
        let meanings = match &slot.use_of {
            Use::One(meaning) => std::slice::from_ref(meaning),
            Use::Several(list) => self.several[*list].as_slice(),
        };
        for meaning in meanings {
            let is_needed = match meaning {
                Meaning::Other | Meaning::Created => false,
                Meaning::Extra(extra) => {
                    let seen = (!self.conditions.is_empty()).then_some(NOT_READ);
                    event.extras[*extra] = seen.map(TextValue::Verbatim);
                    *extra < self.sent_extras
                }
                _ => true,
            };
            if is_needed {
                event.left_out = event.left_out.or(Some(&self.names[at]));
            }
        }
    }

    /// Decides whether the row is a message.
    fn filter(&self, event: &mut Event<'_>) {
        let mut conditions = self.conditions.iter();
        event.is_message = conditions.all(|(extra, test)| {
            let value = event.extras.get(*extra).copied().flatten();
            test.holds(value.map(TextValue::text))
        });
        for extra in event.extras.iter_mut() {
            *extra = extra.filter(|value| value.text() != NOT_READ);
        }
    }

    /// The text of a column, unless it is not UTF-8.
    #[inline(always)]
    fn text<'a>(&'a self, event: &mut Event<'a>, cell: Cell<'a>) -> Option<&'a str> {
        let text = std::str::from_utf8(cell.value).ok();
        if text.is_none() {
            event.not_utf8 = event.not_utf8.or(Some(&self.names[cell.at]));
        }
        text
    }

    fn malformed(&self, what: impl std::fmt::Display) -> Error {
        let message = format!("a row of {} in the stream {what}", self.table);
        Error::fatal(Code::Replication, message)
    }
}
