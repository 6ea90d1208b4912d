//! The statements of a fence, and those that take it back. Pure.

use postgres_protocol::escape::escape_identifier;
use serde::{Deserialize, Serialize};

/// A right to `SELECT`, as the server's catalogs have it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Grant {
    /// The role that has it.
    pub role: String,
    /// The column that it is for; `None` for the whole table.
    pub column: Option<String>,
    /// Whether the role may grant it to others.
    pub grantable: bool,
}

/// What a fence takes away, and what it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The table's schema.
    pub schema: String,
    /// The table's name.
    pub table: String,
    /// The roles that are fenced.
    pub roles: Vec<String>,
    /// The columns that they still may read.
    pub left: Vec<String>,
    /// The rights that they have before the fence.
    pub before: Vec<Grant>,
}

impl Fence {
    fn table(&self) -> String {
        let (schema, table) = (&self.schema, &self.table);
        format!("{}.{}", escape_identifier(schema), escape_identifier(table))
    }

    /// The statements that set the fence.
    pub fn statements(&self) -> Vec<String> {
        let (table, left) = (self.table(), columns(&self.left));
        let of_role = |role: &String| {
            let role = escape_identifier(role);
            [
                format!("REVOKE SELECT ON {table} FROM {role}"),
                format!("GRANT SELECT ({left}) ON {table} TO {role}"),
            ]
        };
        self.roles.iter().flat_map(of_role).collect()
    }

    /// The statements that restore the rights of before.
    pub fn undo(&self) -> Vec<String> {
        let roles = self.roles.iter();
        roles.flat_map(|role| self.undo_of(role)).collect()
    }

    /// The rights on columns that the fence gave go first, so that those of before remain.
    fn undo_of(&self, role: &str) -> Vec<String> {
        let (table, left) = (self.table(), columns(&self.left));
        let to = escape_identifier(role);
        let mut statements = vec![format!("REVOKE SELECT ({left}) ON {table} FROM {to}")];
        for grantable in [false, true] {
            let option = if grantable { " WITH GRANT OPTION" } else { "" };
            let of_role = |it: &&Grant| it.role == role && it.grantable == grantable;
            let before = || self.before.iter().filter(of_role);
            if before().any(|grant| grant.column.is_none()) {
                statements.push(format!("GRANT SELECT ON {table} TO {to}{option}"));
            }
            let names: Vec<String> = before().filter_map(|it| it.column.clone()).collect();
            if !names.is_empty() {
                let names = columns(&names);
                statements.push(format!("GRANT SELECT ({names}) ON {table} TO {to}{option}"));
            }
        }
        statements
    }
}

fn columns(names: &[String]) -> String {
    let names = names.iter().map(|name| escape_identifier(name));
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_restores_the_rights_of_table_and_columns_and_takes_those_of_the_fence() {
        let grant = |column: Option<&str>, grantable| Grant {
            role: "my app".to_owned(),
            column: column.map(str::to_owned),
            grantable,
        };
        let fence = Fence {
            schema: "outbox".to_owned(),
            table: "outbox".to_owned(),
            roles: vec!["my app".to_owned()],
            left: vec!["id".to_owned(), "times_attempted".to_owned()],
            before: vec![grant(None, true), grant(Some("id"), false)],
        };
        assert_eq!(
            fence.statements(),
            [
                r#"REVOKE SELECT ON "outbox"."outbox" FROM "my app""#,
                r#"GRANT SELECT ("id", "times_attempted") ON "outbox"."outbox" TO "my app""#,
            ]
        );
        assert_eq!(
            fence.undo(),
            [
                r#"REVOKE SELECT ("id", "times_attempted") ON "outbox"."outbox" FROM "my app""#,
                r#"GRANT SELECT ("id") ON "outbox"."outbox" TO "my app""#,
                r#"GRANT SELECT ON "outbox"."outbox" TO "my app" WITH GRANT OPTION"#,
            ]
        );
    }
}
