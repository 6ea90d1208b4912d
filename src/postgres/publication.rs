//! The publication: whether it publishes every event of the outbox, and does no harm.
//!
//! outboxd's publication has only inserts, of whole rows. Refused: a table that is not in the
//! publication; rows published under the names of partitions (a new one may be created at any
//! time); a row filter or a column list that hides what outboxd needs; and updates or deletes
//! published together with either, or without a replica identity, because then every UPDATE and
//! DELETE of the table fails, the write-back included. A publication that is changed or created
//! again after the slot leaves a gap without an error, so the publication comes first. See
//! <https://www.postgresql.org/docs/current/logical-replication-publication.html>.

use postgres_protocol::escape::escape_identifier;
use tokio_postgres::types::ToSql;

use crate::config::TableName;
use crate::error::{Code, Error, Result};
use crate::postgres::problem::ServerProblem;
use crate::postgres::session::{Columns, Session};
use crate::postgres::table_shape::{Column, TableShape};

/// The one row filter that hides no event: every row is inserted unpublished.
const HARMLESS_FILTER: &str = "(published_at IS NULL)";

/// The name of problems that keep events from the slot.
const NOT_PUBLISHED: &str = "not-published";

/// A publication, as far as it concerns one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicationState {
    /// Whether inserts are published.
    pub insert: bool,
    /// Whether updates or deletes are published, which outboxd does not need.
    pub update_or_delete: bool,
    /// The tables under whose names the rows arrive: the table itself, or its partitions where
    /// `publish_via_partition_root` is off. Empty when the table is not published.
    pub relations: Vec<TableName>,
    /// Partitions that are not published.
    pub missing: Vec<TableName>,
    /// A row filter (Postgres 15 and later).
    pub row_filter: Option<String>,
    /// A column list (Postgres 15 and later).
    pub columns: Option<Vec<String>>,
    /// All columns that are published, generated ones included. Empty before Postgres 18, which
    /// publishes no generated column.
    pub generated: Vec<String>,
}

impl PublicationState {
    /// What keeps the events of `table`, with the columns `needed`, from being published.
    pub(crate) fn problems(
        &self,
        name: &str,
        table: &TableShape,
        needed: &[&str],
    ) -> Vec<ServerProblem> {
        let mut problems = Vec::new();
        let publication = escape_identifier(name);
        let whole = format!(
            "ALTER PUBLICATION {publication} SET TABLE {}",
            table.name.quoted()
        );
        let only_inserts = format!("ALTER PUBLICATION {publication} SET (publish = 'insert')");
        if !self.insert {
            let problem = format!("publication {name} does not publish inserts");
            problems.push(ServerProblem::slot(problem, only_inserts.clone()).gap(NOT_PUBLISHED));
        }
        if self.relations.is_empty() {
            let add = format!(
                "ALTER PUBLICATION {publication} ADD TABLE {}",
                table.name.quoted()
            );
            let problem = format!("publication {name} does not contain {}", table.name);
            problems.push(ServerProblem::slot(problem, add).gap(NOT_PUBLISHED));
            return problems;
        }
        if table.partitioned && !self.relations.contains(&table.name) {
            let problem = format!(
                "publication {name} sends rows of {} under the names of its partitions",
                table.name
            );
            let root =
                format!("ALTER PUBLICATION {publication} SET (publish_via_partition_root = true)");
            problems.push(ServerProblem::slot(problem, root).gap(NOT_PUBLISHED));
        }
        if let Some(partition) = self.missing.first() {
            let problem = format!("publication {name} does not contain partition {partition}");
            problems.push(ServerProblem::slot(problem, whole.clone()).gap(NOT_PUBLISHED));
        }
        if let Some(filter) = self
            .row_filter
            .as_deref()
            .filter(|&filter| filter != HARMLESS_FILTER)
        {
            let problem = format!("publication {name} hides events by its row filter {filter}");
            problems.push(ServerProblem::slot(problem, whole.clone()).gap(NOT_PUBLISHED));
        }
        let hidden: Vec<_> = self
            .columns
            .iter()
            .flat_map(|list| absent(needed, list))
            .collect();
        if !hidden.is_empty() {
            let problem = format!("publication {name} leaves out {}", hidden.join(", "));
            problems.push(ServerProblem::slot(problem, whole).gap(NOT_PUBLISHED));
        }
        problems.extend(self.generated_problems(name, table, needed));
        let partial = self.row_filter.is_some() || self.columns.is_some();
        if self.update_or_delete && (partial || !table.replica_identity) {
            let problem = format!(
                "publication {name} makes every update of {} fail",
                table.name
            );
            problems.push(ServerProblem::slot(problem, only_inserts));
        }
        problems
    }
}

impl PublicationState {
    /// Generated columns of `table` that are `needed` and not published. `headers` is read where
    /// the table has it.
    fn generated_problems(
        &self,
        name: &str,
        table: &TableShape,
        needed: &[&str],
    ) -> Vec<ServerProblem> {
        let is_read = |column: &str| needed.contains(&column) || column == "headers";
        let generated = table.columns.iter().filter(|column| column.generated);
        let missing = generated
            .filter(|column| is_read(&column.name) && !self.generated.contains(&column.name));
        let stored = format!(
            "make it an ordinary column that the writers fill, or from Postgres 18 on, where it is \
             STORED: ALTER PUBLICATION {} SET (publish_generated_columns = stored)",
            escape_identifier(name)
        );
        let problem = |column: &Column| {
            let column = &column.name;
            ServerProblem::config(
                format!(
                    "{}.{column} is a generated column, which publication {name} does not send",
                    table.name
                ),
                stored.clone(),
            )
        };
        missing.map(problem).collect()
    }
}

fn absent<'a>(needed: &[&'a str], list: &[String]) -> Vec<&'a str> {
    needed
        .iter()
        .copied()
        .filter(|name| !list.iter().any(|listed| listed == name))
        .collect()
}

const PUBLICATION: &str = "
    SELECT p.pubinsert, p.pubupdate OR p.pubdelete,
           (SELECT pg_catalog.bool_or(pg_catalog.to_jsonb(r) ->> 'prattrs' IS NOT NULL)
              FROM pg_catalog.pg_publication_rel AS r
             WHERE r.prpubid = p.oid AND r.prrelid = ANY ($2)),
           pg_catalog.to_jsonb(p) ? 'pubgencols'
      FROM pg_catalog.pg_publication AS p
     WHERE p.pubname = $1";

/// The view resolves FOR ALL TABLES, FOR TABLES IN SCHEMA and partition roots; before Postgres 15
/// it has neither column list nor row filter.
const RELATIONS: &str = "
    SELECT c.oid = $2, t.pubname IS NOT NULL, n.nspname::text, c.relname::text,
           pg_catalog.to_jsonb(t) ->> 'rowfilter',
           ARRAY(SELECT pg_catalog.jsonb_array_elements_text(
                            coalesce(pg_catalog.to_jsonb(t) -> 'attnames', '[]')))
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_publication_tables AS t
        ON t.pubname = $1 AND t.schemaname = n.nspname AND t.tablename = c.relname
     WHERE c.oid = $2 OR (c.oid = ANY ($3) AND c.relkind <> 'p')
     ORDER BY c.oid <> $2, n.nspname, c.relname";

/// Reads how the publication `name` publishes `table`; `None` when there is no such publication.
pub async fn inspect(
    session: &Session,
    name: &str,
    table: &TableShape,
) -> Result<Option<PublicationState>> {
    let Some(found) = flags(session, name, &table.family).await? else {
        return Ok(None);
    };
    let mut state = found.state;
    let what = format!("reading publication {name}");
    let parameters: [&(dyn ToSql + Sync); 3] = [&name, &table.oid, &table.partitions];
    let rows = session.rows(&what, RELATIONS, &parameters).await?;
    for row in rows {
        let (is_root, published): (bool, bool) = (row.column(0)?, row.column(1)?);
        let relation = TableName {
            schema: row.column(2)?,
            name: row.column(3)?,
        };
        if !published {
            if !is_root {
                state.missing.push(relation);
            }
            continue;
        }
        state.relations.push(relation);
        state.row_filter = state.row_filter.or(row.column(4)?);
        let columns: Vec<String> = row.column(5)?;
        if found.publishes_generated && state.generated.is_empty() {
            state.generated.clone_from(&columns);
        }
        if found.has_list && state.columns.is_none() {
            state.columns = Some(columns);
        }
        if is_root {
            break;
        }
    }
    Ok(Some(state))
}

/// A publication without its tables.
#[derive(Debug)]
pub(crate) struct Flags {
    pub(crate) state: PublicationState,
    /// Whether one of the tables has a column list.
    pub(crate) has_list: bool,
    /// Whether this version of Postgres can publish generated columns.
    publishes_generated: bool,
}

/// What the publication `name` publishes of the tables that it has.
pub(crate) async fn flags(session: &Session, name: &str, tables: &[u32]) -> Result<Option<Flags>> {
    let what = format!("reading publication {name}");
    let row = session
        .row_if_any(&what, PUBLICATION, &[&name, &tables])
        .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let state = PublicationState {
        insert: row.column(0)?,
        update_or_delete: row.column(1)?,
        relations: Vec::new(),
        missing: Vec::new(),
        row_filter: None,
        columns: None,
        generated: Vec::new(),
    };
    Ok(Some(Flags {
        state,
        has_list: row.column::<Option<bool>>(2)? == Some(true),
        publishes_generated: row.column(3)?,
    }))
}

/// Creates the publication `name` for inserts into `table`. The role must own the table and have
/// CREATE on the database.
pub async fn create(session: &Session, name: &str, table: &TableName) -> Result<()> {
    let sql = create_sql(name, table);
    session
        .run(&format!("creating publication {name}"), &sql)
        .await
}

pub(crate) fn create_sql(name: &str, table: &TableName) -> String {
    let (name, table) = (escape_identifier(name), table.quoted());
    let with = "(publish = 'insert', publish_via_partition_root = true)";
    format!("CREATE PUBLICATION {name} FOR TABLE {table} WITH {with}")
}

/// Fails unless the session's role may drop the publication `name`, or there is none.
pub async fn check_owner(session: &Session, name: &str) -> Result<()> {
    const SQL: &str = "SELECT pg_catalog.pg_get_userbyid(pubowner)::text, current_user::text
           FROM pg_catalog.pg_publication
          WHERE pubname = $1 AND NOT pg_catalog.pg_has_role(pubowner, 'USAGE')";
    let what = format!("reading the owner of publication {name}");
    let Some(row) = session.row_if_any(&what, SQL, &[&name]).await? else {
        return Ok(());
    };
    let (owner, role): (String, String) = (row.column(0)?, row.column(1)?);
    let problem = format!("publication {name} belongs to {owner}, and {role} may not drop it");
    Err(Error::fatal(Code::Config, problem)
        .with_hint(format!("connect as {owner}, or as a superuser")))
}

/// What the publication `name` publishes beside `table` and its partitions: some of the tables, or
/// all.
pub async fn others(session: &Session, name: &str, table: &TableName) -> Result<Vec<String>> {
    const SQL: &str = "
        SELECT 'all tables' FROM pg_catalog.pg_publication AS p
         WHERE p.pubname = $1 AND p.puballtables
         UNION ALL
        (SELECT t.schemaname::text || '.' || t.tablename::text
           FROM pg_catalog.pg_publication_tables AS t
           JOIN pg_catalog.pg_publication AS p ON p.pubname = t.pubname
           JOIN pg_catalog.pg_namespace AS n ON n.nspname = t.schemaname
           JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
          WHERE t.pubname = $1 AND NOT p.puballtables
            AND NOT EXISTS (
                SELECT FROM pg_catalog.pg_class AS o
                  JOIN pg_catalog.pg_namespace AS m ON m.oid = o.relnamespace
                 WHERE m.nspname = $2 AND o.relname = $3
                   AND (o.oid = c.oid
                        OR c.oid IN (SELECT f.relid FROM pg_catalog.pg_partition_tree(o.oid) AS f)))
          ORDER BY 1 LIMIT 3)";
    let what = format!("reading what publication {name} publishes");
    let rows = session
        .rows(&what, SQL, &[&name, &table.schema, &table.name])
        .await?;
    rows.iter().map(|row| row.column(0)).collect()
}

/// Whether there is a publication of that name.
pub async fn exists(session: &Session, name: &str) -> Result<bool> {
    const SQL: &str = "SELECT FROM pg_catalog.pg_publication WHERE pubname = $1";
    let what = format!("reading publication {name}");
    Ok(session.row_if_any(&what, SQL, &[&name]).await?.is_some())
}

/// Drops the publication `name`; false when there is none. A slot that uses it gets stuck: drop the
/// slot first.
pub async fn drop(session: &Session, name: &str) -> Result<bool> {
    if !exists(session, name).await? {
        return Ok(false);
    }
    let sql = format!("DROP PUBLICATION IF EXISTS {}", escape_identifier(name));
    session
        .run(&format!("dropping publication {name}"), &sql)
        .await?;
    Ok(true)
}
