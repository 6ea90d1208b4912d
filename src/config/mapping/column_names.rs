//! The meanings of the table's columns, by their names.

/// The name of a column that has a meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnName {
    /// `None` if no column has this meaning.
    pub name: Option<String>,
    /// A setting names it, so that the table must have it. Otherwise it is the name that is looked
    /// for, and a table without such a column has none with this meaning.
    pub given: bool,
}

impl ColumnName {
    /// The name that is looked for without a setting.
    pub fn default_of(name: &str) -> Self {
        ColumnName {
            name: Some(name.to_owned()),
            given: false,
        }
    }

    /// The name that a setting gives.
    pub fn given(name: &str) -> Self {
        ColumnName {
            name: Some(name.to_owned()),
            given: true,
        }
    }

    /// A setting says that no column has this meaning.
    pub fn none() -> Self {
        ColumnName {
            name: None,
            given: true,
        }
    }

    /// The name, if any column may have this meaning.
    pub fn as_deref(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

/// The column with a row's own headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadersColumn {
    /// Its name; the column holds a JSON object, as `jsonb`, `json` or text.
    pub column: ColumnName,
    /// Where in it the object is, as a JSON pointer (RFC 6901); the whole value without one.
    pub pointer: Option<String>,
}

/// The column that shows whether a row is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedColumn {
    /// Its name.
    pub column: ColumnName,
    /// The text that marks a row as published, where the column's type is text. Otherwise the type
    /// decides: the time, true, or 1.
    pub constant: Option<String>,
}

/// A column, and the name under which its value is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedColumn {
    /// The column.
    pub column: String,
    /// The header, or the member of the envelope.
    pub name: String,
}

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ColumnNames {
    /// What identifies a row; several columns are a composite key. Never empty.
    pub id: Vec<String>,
    /// The kind of event.
    pub event_type: ColumnName,
    /// The payload.
    pub payload: String,
    /// The row's own headers.
    pub headers: HeadersColumn,
    /// When the writer says the event happened.
    pub created: ColumnName,
    /// Whether the row is published.
    pub published: MarkedColumn,
    /// The count of attempts.
    pub attempts: ColumnName,
    /// What orders the rows when they are read from the table; `None` is the id.
    pub order: Option<String>,
    /// Columns that are sent as headers.
    pub header_columns: Vec<NamedColumn>,
    /// Columns that are sent with the payload, as members of one JSON object; if there are any, the
    /// payload is its member `payload`.
    pub envelope: Vec<NamedColumn>,
}

impl Default for ColumnNames {
    fn default() -> Self {
        ColumnNames {
            id: vec!["id".to_owned()],
            event_type: ColumnName::default_of("event_type"),
            payload: "event_payload".to_owned(),
            headers: HeadersColumn {
                column: ColumnName::default_of("headers"),
                pointer: None,
            },
            created: ColumnName::default_of("created_at"),
            published: MarkedColumn {
                column: ColumnName::default_of("published_at"),
                constant: None,
            },
            attempts: ColumnName::default_of("times_attempted"),
            order: None,
            header_columns: Vec::new(),
            envelope: Vec::new(),
        }
    }
}
