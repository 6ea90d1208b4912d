//! The set-up of the database before the first event: the SQL of `sql/`, filled in for one
//! configuration.
//!
//! The slot is not part of it. A slot decodes each change with the catalog of that time, so the
//! publisher creates it after the publication, together with the first read of the table. Every
//! step is safe to repeat and leaves existing objects as they are.

use postgres_protocol::escape::escape_identifier;

use crate::config::TableName;
use crate::error::Result;
use crate::postgres::session::Session;
use crate::postgres::sqlstate::ServerError;
use crate::postgres::table_shape::TableShape;

const SCHEMA: &str = include_str!("../../sql/schema.sql");
const CHECKS: &str = include_str!("../../sql/checks.sql");
const FUNCTION: &str = include_str!("../../sql/write_event.sql");
const DEAD_LETTER: &str = include_str!("../../sql/dead_letter.sql");
const PUBLICATION: &str = include_str!("../../sql/publication.sql");
const ROLE: &str = include_str!("../../sql/role.sql");
const ROLE_REPLICATION: &str = include_str!("../../sql/role_replication.sql");
const ROLE_DELETE: &str = include_str!("../../sql/role_delete.sql");

const PUBLISHED_AT: &str = "published_at";
const TIMES_ATTEMPTED: &str = "times_attempted";
/// As `role.sql` lists them.
const WRITTEN: &str = "times_attempted, published_at";

const CREATE_INDEX: &str = "CREATE INDEX IF NOT EXISTS";
const CREATE_INDEX_CONCURRENTLY: &str = "CREATE INDEX CONCURRENTLY IF NOT EXISTS";

/// The objects to create, and the role that will use them.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    /// The outbox table.
    pub table: &'a TableName,
    /// The publication; `None` with polling, which needs neither a publication nor a role with
    /// REPLICATION.
    pub publication: Option<&'a str>,
    /// The role that outboxd will connect as, if it is to be created.
    pub role: Option<&'a str>,
    /// Whether that role may delete rows.
    pub delete: bool,
    /// Whether constraints of the table reject events that can never be published.
    pub checks: bool,
    /// The table, if it is there already: what is about columns that it lacks is left out.
    pub existing: Option<&'a TableShape>,
}

/// One step of the set-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its purpose, in a few words.
    pub purpose: &'static str,
    /// The statements. Each index is a step of its own, since a concurrent build cannot share a
    /// transaction.
    pub sql: String,
}

impl Setup<'_> {
    /// All steps in order. `in_use`: the table may be large and written to, so indexes are built
    /// concurrently.
    pub fn steps(&self, in_use: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut step = |purpose, sql: &str| {
            steps.push(Step {
                purpose,
                sql: self.fill_in(sql),
            })
        };
        let (indexes, tables): (Vec<_>, Vec<_>) = body(SCHEMA)
            .split_inclusive(";\n")
            .partition(|statement| statement.contains(CREATE_INDEX));
        step("schema and table", &tables.concat());
        let indexes = indexes.into_iter().filter(|_| self.has_published_at());
        for index in indexes {
            let create = if in_use {
                CREATE_INDEX_CONCURRENTLY
            } else {
                CREATE_INDEX
            };
            step("index", &index.replace(CREATE_INDEX, create));
        }
        if self.checks {
            step("constraints", &self.checks_sql());
        }
        step("table of dead letters", body(DEAD_LETTER));
        step("function write_event", body(FUNCTION));
        if self.publication.is_some() {
            step("publication", body(PUBLICATION));
        }
        if self.role.is_some() {
            step("role", &self.role_sql());
        }
        steps
    }

    /// Runs one step.
    ///
    /// # Errors
    /// Of the server; where the role lacks a right, the hint names it.
    pub async fn run(&self, session: &Session, step: &Step) -> Result<()> {
        let what = format!("creating {}", step.purpose);
        session.run(&what, &step.sql).await.map_err(|error| {
            let denied = ServerError::of(&error).is_some_and(ServerError::is_of_privileges);
            match denied {
                true => error.with_hint(self.missing_right(step.purpose)),
                false => error,
            }
        })
    }

    /// The right that a step needs.
    fn missing_right(&self, purpose: &str) -> String {
        let (schema, table) = (&self.table.schema, &self.table);
        let right = match purpose {
            "schema and table" => format!(
                "CREATE on the database, or CREATE on the schema {schema} where that exists"
            ),
            "index" | "constraints" => format!("to own {table}"),
            "publication" => format!("CREATE on the database, and to own {table}"),
            "role" => "to be a superuser (from Postgres 16 on CREATEROLE and REPLICATION)".into(),
            _ => format!("CREATE on the schema {schema}"),
        };
        format!("the role needs {right}; or give what `outboxd init --print-sql` prints to a DBA")
    }

    fn has_column(&self, name: &str) -> bool {
        let column = |shape: &TableShape| shape.column(name).is_some_and(|it| !it.generated);
        self.existing.is_none_or(column)
    }

    fn has_published_at(&self) -> bool {
        self.has_column(PUBLISHED_AT)
    }

    fn checks_sql(&self) -> String {
        match self.has_published_at() {
            true => body(CHECKS).to_owned(),
            false => body(CHECKS).replace("published_at IS NOT NULL OR ", ""),
        }
    }

    /// The columns that the role writes. A row can be locked only by a role that may update one of
    /// its columns.
    fn written_columns(&self) -> String {
        let written = [TIMES_ATTEMPTED, PUBLISHED_AT].into_iter();
        let written: Vec<&str> = written.filter(|name| self.has_column(name)).collect();
        match written.is_empty() {
            true => "id".to_owned(),
            false => written.join(", "),
        }
    }

    fn role_sql(&self) -> String {
        let role = body(ROLE).replace(WRITTEN, &self.written_columns());
        let mut parts = vec![role.as_str()];
        if self.publication.is_some() {
            parts.push(body(ROLE_REPLICATION));
        }
        if self.delete {
            parts.push(body(ROLE_DELETE));
        }
        parts.join("\n")
    }

    fn fill_in(&self, sql: &str) -> String {
        sql.trim()
            .replace("{{schema}}", &escape_identifier(&self.table.schema))
            .replace("{{table}}", &self.table.quoted())
            .replace("{{dead_letter}}", &self.table.dead_letter().quoted())
            .replace(
                "{{publication}}",
                &escape_identifier(self.publication.unwrap_or_default()),
            )
            .replace(
                "{{role}}",
                &escape_identifier(self.role.unwrap_or_default()),
            )
    }

    /// The name of each object, and whether the database has it. The difference between before and
    /// after shows which objects were created.
    pub async fn inventory(&self, session: &Session) -> Result<Vec<(String, bool)>> {
        let TableName { schema, name } = self.table;
        let dead_letter = self.table.dead_letter();
        let exists: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
            schema,
            name,
            &self.publication,
            &self.role,
            &dead_letter.name,
        ];
        let row = session
            .row("reading which objects exist", INVENTORY, exists)
            .await?;
        let mut things = vec![
            (format!("schema {schema}"), row.get(0)),
            (format!("table {}", self.table), row.get(1)),
        ];
        if self.has_published_at() {
            let index = |name| format!("index {schema}.{name}");
            things.push((index("idx_outbox_unpublished"), row.get(2)));
            things.push((index("idx_outbox_unpublished_id"), row.get(3)));
        }
        things.push((format!("table {dead_letter}"), row.get(8)));
        things.push((format!("function {schema}.write_event"), row.get(4)));
        if let Some(publication) = self.publication {
            things.push((format!("publication {publication}"), row.get(5)));
        }
        if self.checks {
            things.push((format!("constraints of {}", self.table), row.get(7)));
        }
        if let Some(role) = self.role {
            things.push((format!("role {role}"), row.get(6)));
        }
        Ok(things)
    }
}

const INVENTORY: &str = "
    SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1),
           EXISTS (SELECT FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = $2),
           EXISTS (SELECT FROM pg_catalog.pg_indexes WHERE schemaname = $1 AND tablename = $2
                      AND indexname = 'idx_outbox_unpublished'),
           EXISTS (SELECT FROM pg_catalog.pg_indexes WHERE schemaname = $1 AND tablename = $2
                      AND indexname = 'idx_outbox_unpublished_id'),
           EXISTS (SELECT FROM pg_catalog.pg_proc AS p
                     JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
                    WHERE n.nspname = $1 AND p.proname = 'write_event'),
           EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = $3),
           EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $4),
           EXISTS (SELECT FROM pg_catalog.pg_constraint AS c
                     JOIN pg_catalog.pg_class AS t ON t.oid = c.conrelid
                     JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace
                    WHERE n.nspname = $1 AND t.relname = $2
                      AND c.conname = 'outbox_payload_at_most_10_mib'),
           EXISTS (SELECT FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = $5)";

/// A file without its head, which says how to run it by hand.
fn body(file: &str) -> &str {
    file.split_once("\n\n").map_or(file, |(_head, body)| body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup<'a>(table: &'a TableName, role: Option<&'a str>) -> Setup<'a> {
        Setup {
            table,
            publication: Some("out\"boxd"),
            role,
            delete: false,
            checks: true,
            existing: None,
        }
    }

    fn table() -> TableName {
        TableName {
            schema: "outbox".to_owned(),
            name: "My Outbox".to_owned(),
        }
    }

    #[test]
    fn no_placeholder_is_left_and_names_are_quoted() {
        let table = table();
        let steps = setup(&table, Some("relay")).steps(false);
        let sql: String = steps.iter().map(|step| step.sql.as_str()).collect();
        assert!(!sql.contains("{{") && !sql.contains("}}"), "{sql}");
        for name in ["\"outbox\".\"My Outbox\"", "\"out\"\"boxd\"", "\"relay\""] {
            assert!(sql.contains(name), "{name} is missing in {sql}");
        }
    }

    #[test]
    fn every_index_is_a_step_of_one_statement() {
        let table = table();
        for (in_use, create) in [(false, CREATE_INDEX), (true, CREATE_INDEX_CONCURRENTLY)] {
            let steps = setup(&table, None).steps(in_use);
            let indexes: Vec<_> = steps
                .iter()
                .filter(|step| step.purpose == "index")
                .collect();
            assert_eq!(indexes.len(), 2);
            for index in indexes {
                assert!(index.sql.contains(create), "{}", index.sql);
                assert_eq!(index.sql.matches(';').count(), 1, "{}", index.sql);
            }
            // The dead-letter table is new, so its indexes need no concurrent build.
            let rest = steps
                .iter()
                .filter(|step| !["index", "table of dead letters"].contains(&step.purpose));
            assert!(
                rest.into_iter()
                    .all(|step| !step.sql.contains("CREATE INDEX"))
            );
        }
    }

    #[test]
    fn what_is_about_columns_that_the_table_lacks_is_left_out() {
        let table = table();
        let text = |shape: &TableShape| {
            let setup = Setup {
                existing: Some(shape),
                ..setup(&table, Some("relay"))
            };
            let steps = setup.steps(true);
            steps.into_iter().map(|step| step.sql).collect::<String>()
        };
        let bare = text(&TableShape::of_columns(1, &[("id", "bigint")]));
        assert!(!bare.contains(CREATE_INDEX_CONCURRENTLY), "{bare}");
        assert!(bare.contains("UPDATE (id)"), "{bare}");
        assert!(!bare.contains("published_at IS NOT NULL"), "{bare}");
        let marked = text(&TableShape::of_columns(
            1,
            &[("published_at", "timestamptz")],
        ));
        assert!(marked.contains("UPDATE (published_at)"), "{marked}");
        assert!(marked.contains(CREATE_INDEX_CONCURRENTLY), "{marked}");
    }

    #[test]
    fn the_role_is_made_only_when_named_and_deletes_only_when_told() {
        let table = table();
        let role_of = |setup: Setup<'_>| {
            setup
                .steps(false)
                .into_iter()
                .find(|step| step.purpose == "role")
                .map(|step| step.sql)
        };
        assert_eq!(role_of(setup(&table, None)), None);
        let marks = role_of(setup(&table, Some("relay"))).unwrap_or_default();
        assert!(
            !marks.lines().any(|line| line.starts_with("GRANT DELETE")),
            "{marks}"
        );
        let deletes = role_of(Setup {
            delete: true,
            ..setup(&table, Some("relay"))
        });
        let deletes = deletes.unwrap_or_default();
        assert!(
            deletes.lines().any(|line| line.starts_with("GRANT DELETE")),
            "{deletes}"
        );
        let polls = Setup {
            publication: None,
            ..setup(&table, Some("relay"))
        };
        assert!(
            polls
                .steps(false)
                .iter()
                .all(|step| step.purpose != "publication")
        );
        let polls = role_of(polls).unwrap_or_default().to_uppercase();
        assert!(
            polls.contains("LOGIN") && !polls.contains("REPLICATION"),
            "{polls}"
        );
    }
}
