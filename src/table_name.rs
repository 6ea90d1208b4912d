//! The name of a table: two identifiers by the rules of SQL, read from text and quoted for SQL.
//!
//! Both parts are required, since outboxd uses no search path. A name that Postgres would truncate
//! is refused, because the truncated name could be that of another table.

use std::fmt;
use std::str::FromStr;

use postgres_protocol::escape::escape_identifier;

use crate::error::{Code, Error, Result, shown};

/// Postgres truncates longer names silently, so they are refused.
/// <https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS>
pub(crate) const NAME_BYTES_MAX: usize = 63;

/// A table by its full name; the empty search path of outboxd's sessions requires both parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableName {
    /// The schema, as in the catalog.
    pub schema: String,
    /// The table, as in the catalog.
    pub name: String,
}

/// `outbox.outbox`.
impl Default for TableName {
    fn default() -> Self {
        TableName {
            schema: "outbox".to_owned(),
            name: "outbox".to_owned(),
        }
    }
}

impl TableName {
    /// The name for SQL, both parts quoted.
    pub fn quoted(&self) -> String {
        let (schema, name) = (&self.schema, &self.name);
        format!("{}.{}", escape_identifier(schema), escape_identifier(name))
    }

    /// The dead-letter table of this outbox.
    pub fn dead_letter(&self) -> TableName {
        const SUFFIX: &str = "_dead_letter";
        let name = if self.name == "outbox" {
            "dead_letter".to_owned()
        } else {
            // Postgres would truncate the suffix, which distinguishes the two tables.
            let kept = self.name.floor_char_boundary(NAME_BYTES_MAX - SUFFIX.len());
            format!("{}{SUFFIX}", &self.name[..kept])
        };
        TableName {
            schema: self.schema.clone(),
            name,
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

impl FromStr for TableName {
    type Err = Error;

    /// Reads `schema.name` by the rules of SQL: folded to lower case unless quoted.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            invalid(
                format!("{} is not the full name of a table", shown(text)),
                "write schema.name, and put a part with capitals or special characters in double \
                 quotes",
            )
        };
        let (schema, rest) = identifier(text).ok_or_else(invalid)?;
        let (name, rest) = rest
            .strip_prefix('.')
            .and_then(identifier)
            .ok_or_else(invalid)?;
        if !rest.is_empty() {
            return Err(invalid());
        }
        Ok(TableName {
            schema: name_of("schema", &schema)?,
            name: name_of("table", &name)?,
        })
    }
}

/// Takes one identifier off the front.
fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let inside = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let end = text.find(|c| !inside(c)).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let begins_well = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
        return begins_well.then(|| (name.to_lowercase(), rest));
    };
    let mut name = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

/// A name, taken literally.
pub(crate) fn name_of(what: &str, text: &str) -> Result<String> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.contains('\0') {
        return Err(invalid(
            format!("{} is not the name of a {what}", shown(text)),
            format!("write a name of 1 to {NAME_BYTES_MAX} bytes"),
        ));
    }
    Ok(text.to_owned())
}

fn invalid(problem: String, hint: impl Into<String>) -> Error {
    Error::fatal(Code::Config, problem).with_hint(hint)
}
