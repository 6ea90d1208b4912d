//! The name of a table: two identifiers by the rules of SQL, read from text and quoted for SQL.
//!
//! Both halves are needed, since no search path is relied upon. A name that Postgres would cut to
//! its limit is refused, because the cut could make it another table's.

use std::fmt;
use std::str::FromStr;

use postgres_protocol::escape::escape_identifier;

use crate::error::{Code, Error, Result, shown};

/// Postgres cuts longer names silently, so they are refused.
/// <https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS>
pub(crate) const NAME_BYTES_MAX: usize = 63;

/// A table by its full name; the empty search path of our sessions needs both halves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableName {
    /// The schema, as it stands in the catalogue.
    pub schema: String,
    /// The table, as it stands in the catalogue.
    pub name: String,
}

impl TableName {
    /// The name for an SQL text, both halves quoted.
    pub fn quoted(&self) -> String {
        let (schema, name) = (&self.schema, &self.name);
        format!("{}.{}", escape_identifier(schema), escape_identifier(name))
    }

    /// The table of the dead letters that belongs to this outbox.
    pub fn dead_letter(&self) -> TableName {
        const SUFFIX: &str = "_dead_letter";
        let name = if self.name == "outbox" {
            "dead_letter".to_owned()
        } else {
            // Postgres would cut the end off, and with it what tells the two tables apart.
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
                "write schema.name, with double quotes round a half that has capitals or signs",
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

/// A name that is taken as it stands.
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
