//! The name of a table: two identifiers by the rules of SQL, read from text and quoted for SQL.
//!
//! Both parts are required, since outboxd uses no search path. A name that Postgres would truncate
//! is refused, because the truncated name could be that of another table.

use std::fmt;
use std::str::FromStr;

use postgres_protocol::escape::escape_identifier;

use crate::error::{Code, Error, Result, shown};
use crate::fnv::fnv1a_32;

/// Postgres truncates longer names silently, so they are refused.
/// <https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS>
pub(crate) const NAME_BYTES_MAX: usize = 63;

/// A table by its full name; the empty search path of outboxd's sessions requires both parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

    /// The dead-letter table of this outbox. No two names of a schema have the same: the beginning
    /// of a long one is followed by the digest of the whole.
    pub fn dead_letter(&self) -> TableName {
        self.beside(match self.name.as_str() {
            "outbox" => "dead_letter".to_owned(),
            _ => self.own_name("", SUFFIX),
        })
    }

    /// The table of outboxd's state for this outbox. No two names of a schema have the same.
    pub fn state(&self) -> TableName {
        self.beside(match self.name.as_str() {
            "outbox" => "outboxd_state".to_owned(),
            // The plain name is that of the outbox `outbox`.
            "outboxd" => self.digested("", STATE),
            _ => self.own_name("", STATE),
        })
    }

    /// The function of this outbox's schema that writes events into it. No two names of a schema
    /// have the same.
    pub fn write_event(&self) -> String {
        match self.name.as_str() {
            "outbox" => "write_event".to_owned(),
            _ => self.long_write_event(),
        }
    }

    /// Its name where another outbox of the schema has the function `write_event`.
    pub fn long_write_event(&self) -> String {
        self.own_name("", "_write_event")
    }

    /// The index of this table that has the suffix. No two names of a schema have the same.
    pub fn index(&self, suffix: &str) -> TableName {
        self.beside(self.own_name("idx_", suffix))
    }

    /// A name that is derived from the table's and that Postgres does not truncate.
    fn own_name(&self, prefix: &str, suffix: &str) -> String {
        let name = self.name.as_str();
        if prefix.len() + name.len() + suffix.len() <= NAME_BYTES_MAX {
            return format!("{prefix}{name}{suffix}");
        }
        self.digested(prefix, suffix)
    }

    /// The same with the digest of the whole name.
    fn digested(&self, prefix: &str, suffix: &str) -> String {
        let name = self.name.as_str();
        let end = format!("_{:08x}{suffix}", fnv1a_32(&[name.as_bytes()]));
        let room = NAME_BYTES_MAX - prefix.len() - end.len();
        format!("{prefix}{}{end}", beginning(name, room))
    }

    /// The name that earlier versions used, if it was another: the beginning without a digest.
    pub(crate) fn earlier_dead_letter(&self) -> Option<TableName> {
        let name = self.name.as_str();
        (name.len() + SUFFIX.len() > NAME_BYTES_MAX).then(|| {
            let kept = beginning(name, NAME_BYTES_MAX - SUFFIX.len());
            self.beside(format!("{kept}{SUFFIX}"))
        })
    }

    /// The name in the same schema.
    pub(crate) fn beside(&self, name: impl Into<String>) -> TableName {
        TableName {
            schema: self.schema.clone(),
            name: name.into(),
        }
    }
}

const SUFFIX: &str = "_dead_letter";
const STATE: &str = "_state";

/// At most this many bytes of a name. Postgres would truncate what is too long by itself, and so
/// the suffix, which distinguishes the two tables.
fn beginning(name: &str, bytes: usize) -> &str {
    &name[..name.floor_char_boundary(bytes)]
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

/// Takes one identifier off the front, by the rules of SQL.
pub(crate) fn identifier(text: &str) -> Option<(String, &str)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn dead_letter(name: &str) -> String {
        let outbox = TableName {
            schema: "s".to_owned(),
            name: name.to_owned(),
        };
        let table = outbox.dead_letter();
        assert_eq!(table.schema, "s");
        assert!(table.name.len() <= NAME_BYTES_MAX, "{}", table.name);
        assert_ne!(table.name, name);
        table.name
    }

    #[test]
    fn functions_and_indexes_are_named_after_their_table() {
        let table = |name: &str| TableName {
            schema: "s".to_owned(),
            name: name.to_owned(),
        };
        let index = |name: &str| table(name).index("_unpublished_id").name;
        assert_eq!(table("outbox").write_event(), "write_event");
        assert_eq!(table("Events").write_event(), "Events_write_event");
        assert_eq!(index("outbox"), "idx_outbox_unpublished_id");
        let long = |end: &str| format!("{}{end}", "e".repeat(58));
        for (one, other) in [
            (
                table(&long("a")).write_event(),
                table(&long("b")).write_event(),
            ),
            (index(&long("a")), index(&long("b"))),
        ] {
            assert_ne!(one, other);
            assert!(one.len() <= NAME_BYTES_MAX && other.len() <= NAME_BYTES_MAX);
        }
    }

    #[test]
    fn two_outboxes_never_share_their_dead_letters_however_long_their_names_are() {
        assert_eq!(dead_letter("outbox"), "dead_letter");
        assert_eq!(dead_letter("Events"), "Events_dead_letter");
        let fits = "e".repeat(51);
        assert_eq!(dead_letter(&fits), format!("{fits}_dead_letter"));
        let long = |end: &str| dead_letter(&format!("{fits}{end}"));
        assert_ne!(long("_orders"), long("_invoices"));
        assert!(long("_orders").ends_with("_dead_letter"));
        let umlauts = "\u{f6}".repeat(31);
        assert_ne!(dead_letter(&umlauts), dead_letter(&format!("{umlauts}x")));
    }

    #[test]
    fn two_outboxes_never_share_their_state() {
        let state = |name: &str| TableName::default().beside(name).state().name;
        assert_eq!(state("outbox"), "outboxd_state");
        assert_eq!(state("orders"), "orders_state");
        assert_ne!(state("outboxd"), state("outbox"));
        let (a, b) = ("a".repeat(62), "a".repeat(63));
        assert_ne!(state(&a), state(&b));
        assert!(state(&b).len() <= NAME_BYTES_MAX);
    }
}
