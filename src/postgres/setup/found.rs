//! What is there before the first change: objects by what they are, their owners, and the rights of
//! the session's role and of the role that will publish.

use std::collections::BTreeSet;
use std::fmt::Display;

use tokio_postgres::Row;

use crate::config::TableName;
use crate::error::Result;
use crate::postgres::facts::dead_letter_table::{self, DeadLetterTable};
use crate::postgres::facts::state_table::{self, StateTable};
use crate::postgres::publication::{self, PublicationState};
use crate::postgres::session::{Columns, Session};
use crate::postgres::setup::relations::{
    FoundIndex, Leaf, Relation, Schema, index_of, leaf_of, name_of, relation_of, schema_of,
};
use crate::postgres::setup::wanted::{COLUMNS_OF_EVENTS, Setup};
use crate::postgres::setup::{catalog, sql};
use crate::postgres::table_shape::{self, TableShape};

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) server: Server,
    pub(super) schema: Option<Schema>,
    /// What has the table's name, a table or not.
    pub(super) relation: Option<Relation>,
    pub(super) shape: Option<TableShape>,
    /// Of the table and of its leaf partitions.
    pub(super) indexes: Vec<FoundIndex>,
    /// The partitions that hold rows.
    pub(super) leaves: Vec<Leaf>,
    /// Relations that have a name like those of outboxd's indexes.
    pub(super) names: BTreeSet<TableName>,
    /// The constraints of the table.
    pub(super) constraints: Vec<String>,
    pub(super) dead_letters: Option<DeadLetterTable>,
    pub(super) state: Option<StateTable>,
    pub(super) functions: Vec<FoundFunction>,
    pub(super) publication: Option<FoundPublication>,
    /// Other publications of outboxd's kind that publish the table.
    pub(super) publishers: Vec<String>,
    pub(super) role: Option<FoundRole>,
    pub(super) replication_role: Option<FoundRole>,
    /// Whether the provider has a role in the place of REPLICATION.
    pub(super) has_provider_role: bool,
}

/// The session's role and its database.
#[derive(Debug, Clone, Default)]
pub(super) struct Server {
    pub(super) role: String,
    pub(super) is_superuser: bool,
    pub(super) creates_roles: bool,
    pub(super) database: String,
    pub(super) database_owner: String,
    /// Whether the role may create schemas and publications.
    pub(super) may_create: bool,
    pub(super) version: i32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FoundFunction {
    pub(super) name: String,
    /// The types of its arguments.
    pub(super) arguments: String,
    pub(super) source: String,
    pub(super) is_owned: bool,
    pub(super) owner: String,
}

#[derive(Debug, Clone)]
pub(super) struct FoundPublication {
    pub(super) owner: String,
    pub(super) is_owned: bool,
    /// It has no table, no schema, and is not for all tables.
    pub(super) is_empty: bool,
    pub(super) via_root: bool,
    pub(super) state: PublicationState,
}

/// The role that will publish.
#[derive(Debug, Clone, Default)]
pub(super) struct FoundRole {
    pub(super) may_log_in: bool,
    pub(super) may_replicate: bool,
    pub(super) may_use_schema: bool,
    pub(super) may_select: bool,
    /// The columns of the table that it may update.
    pub(super) may_update: Vec<String>,
    pub(super) may_delete: bool,
    pub(super) may_file: bool,
    /// It may read and write outboxd's state.
    pub(super) may_keep_state: bool,
    pub(super) may_delete_letters: bool,
}

impl Found {
    /// Reads it all. Changes nothing.
    pub(super) async fn read(session: &Session, setup: &Setup<'_>) -> Result<Found> {
        let table = &setup.config.table;
        let server = session
            .row("reading the session's role", catalog::SERVER, &[])
            .await?;
        let schema = session
            .row_if_any("reading the schema", catalog::SCHEMA, &[&table.schema])
            .await?;
        let what = format!("reading what is there of {table}");
        let named: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[&table.schema, &table.name];
        let relation = session.row_if_any(&what, catalog::RELATION, named).await?;
        let provider = session
            .row("reading the roles", catalog::PROVIDER, &[])
            .await?;
        let mut found = Found {
            schema: schema.as_ref().map(schema_of).transpose()?,
            relation: relation.as_ref().map(relation_of).transpose()?,
            shape: table_shape::read(session, table, &setup.config.mapping).await?,
            dead_letters: dead_letter_table::read(session, &table.dead_letter()).await?,
            state: state_table::read(session, &table.state()).await?,
            functions: functions(session, table).await?,
            role: role(session, setup, setup.role).await?,
            replication_role: role(session, setup, setup.replication_role).await?,
            has_provider_role: provider.column(0)?,
            server: server_of(&server)?,
            ..Found::default()
        };
        found.read_table(session).await?;
        if let Some(name) = setup.publication() {
            found.read_publication(session, name).await?;
        }
        Ok(found)
    }

    /// What belongs to the table, if that is there.
    async fn read_table(&mut self, session: &Session) -> Result<()> {
        let Some(shape) = &self.shape else {
            return Ok(());
        };
        let what = format!("reading the indexes of {}", shape.name);
        if shape.partitioned {
            let leaves = session
                .rows(&what, catalog::LEAVES, &[&shape.partitions])
                .await?;
            self.leaves = leaves.iter().map(leaf_of).collect::<Result<_>>()?;
        }
        let mut tables: Vec<u32> = self.leaves.iter().map(|leaf| leaf.oid).collect();
        tables.push(shape.oid);
        let indexes = session.rows(&what, catalog::INDEXES, &[&tables]).await?;
        self.indexes = indexes.iter().map(index_of).collect::<Result<_>>()?;
        let names = session.rows(&what, catalog::NAMES, &[]).await?;
        let name = |row: &Row| name_of(row, 0);
        self.names = names.iter().map(name).collect::<Result<_>>()?;
        let constraints = session
            .rows(&what, catalog::CONSTRAINTS, &[&shape.oid])
            .await?;
        let name = |row: &Row| row.column(0);
        self.constraints = constraints.iter().map(name).collect::<Result<_>>()?;
        Ok(())
    }

    async fn read_publication(&mut self, session: &Session, name: &str) -> Result<()> {
        let what = format!("reading publication {name}");
        let schemas = match self.server.version >= 150_000 {
            true => catalog::NO_SCHEMA,
            false => "true",
        };
        let sql = catalog::publication_sql(schemas);
        if let Some(row) = session.row_if_any(&what, &sql, &[&name]).await? {
            let state = match &self.shape {
                Some(shape) => publication::inspect(session, name, shape).await?,
                None => publication::flags(session, name, &[])
                    .await?
                    .map(|it| it.state),
            };
            if let Some(state) = state {
                self.publication = Some(FoundPublication {
                    owner: row.column(0)?,
                    is_owned: row.column(1)?,
                    is_empty: row.column(2)?,
                    via_root: row.column(3)?,
                    state,
                });
            }
        }
        if let Some(oid) = self.table_oid() {
            let rows = session
                .rows(&what, catalog::PUBLISHERS, &[&oid, &name])
                .await?;
            let publisher = |row: &Row| row.column(0);
            self.publishers = rows.iter().map(publisher).collect::<Result<_>>()?;
        }
        Ok(())
    }

    pub(super) fn table_oid(&self) -> Option<u32> {
        self.shape.as_ref().map(|shape| shape.oid)
    }

    pub(super) fn is_partitioned(&self) -> bool {
        self.shape.as_ref().is_some_and(|shape| shape.partitioned)
    }

    /// Whether the table has the column, or will have it.
    /// The table's shape; that of the configuration for a table that is still to be made.
    pub(super) fn shape_or_assumed(&self, setup: &Setup<'_>) -> Option<TableShape> {
        let is_made = self.relation.is_none() && setup.is_conventional();
        let assumed = || is_made.then(|| setup.assumed_shape());
        self.shape.clone().or_else(assumed)
    }

    pub(super) fn has_column(&self, name: &str) -> bool {
        let of_new = COLUMNS_OF_EVENTS.contains(&name);
        let column = |shape: &TableShape| shape.column(name).is_some_and(|it| !it.generated);
        self.shape.as_ref().map_or(of_new, column)
    }

    /// Whether the session's role has the rights of the table's owner, or will have them.
    pub(super) fn owns_table(&self) -> bool {
        self.relation.as_ref().is_none_or(|table| table.is_owned)
    }

    pub(super) fn table_owner(&self) -> String {
        let owner = self.relation.as_ref().map(|table| table.owner.clone());
        owner.unwrap_or_else(|| self.server.role.clone())
    }

    pub(super) fn lacks_ownership(&self, table: &TableName) -> String {
        self.does_not_own(table, &self.table_owner())
    }

    /// Why the session's role may not change a thing of another owner.
    pub(super) fn does_not_own(&self, thing: impl Display, owner: &str) -> String {
        let role = &self.server.role;
        format!("role {role} does not own {thing}, which belongs to {owner}")
    }

    /// The first name that no relation has, or else the last.
    pub(super) fn free_name(&self, names: Vec<TableName>) -> TableName {
        let free = names.iter().position(|name| !self.names.contains(name));
        let last = names.len().saturating_sub(1);
        names
            .into_iter()
            .nth(free.unwrap_or(last))
            .unwrap_or_default()
    }
}

fn server_of(row: &Row) -> Result<Server> {
    Ok(Server {
        role: row.column(0)?,
        is_superuser: row.column(1)?,
        creates_roles: row.column(2)?,
        database: row.column(3)?,
        database_owner: row.column(4)?,
        may_create: row.column(5)?,
        version: row.column(6)?,
    })
}

async fn functions(session: &Session, table: &TableName) -> Result<Vec<FoundFunction>> {
    let names = sql::function_names(table);
    let what = format!("reading the functions of schema {}", table.schema);
    let rows = session
        .rows(
            &what,
            catalog::FUNCTIONS,
            &[&table.schema, &names, &sql::MARK],
        )
        .await?;
    let function = |row: &Row| {
        Ok(FoundFunction {
            name: row.column(0)?,
            arguments: row.column(1)?,
            source: row.column(2)?,
            is_owned: row.column(3)?,
            owner: row.column(4)?,
        })
    };
    rows.iter().map(function).collect()
}

async fn role(
    session: &Session,
    setup: &Setup<'_>,
    name: Option<&str>,
) -> Result<Option<FoundRole>> {
    let Some(name) = name else {
        return Ok(None);
    };
    let table = &setup.config.table;
    let (letters, state) = (table.dead_letter(), table.state());
    let named: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &name,
        &table.schema,
        &table.name,
        &letters.name,
        &state.name,
    ];
    let row = session
        .row_if_any(&format!("reading role {name}"), catalog::ROLE, named)
        .await?;
    row.map(|row| {
        Ok(FoundRole {
            may_log_in: row.column(0)?,
            may_replicate: row.column(1)?,
            may_use_schema: row.column(2)?,
            may_select: row.column(3)?,
            may_update: row.column(4)?,
            may_delete: row.column(5)?,
            may_file: row.column(6)?,
            may_keep_state: row.column(7)?,
            may_delete_letters: row.column(8)?,
        })
    })
    .transpose()
}

#[cfg(test)]
impl Found {
    /// A table of these columns that the session's role owns, and nothing else.
    pub(super) fn of_table(columns: &[(&str, &str)]) -> Found {
        let owned = |kind: &str| Relation {
            kind: kind.to_owned(),
            owner: "postgres".to_owned(),
            is_owned: true,
        };
        Found {
            shape: Some(TableShape::of_columns(1, columns)),
            relation: Some(owned("r")),
            ..Found::of_nothing()
        }
    }

    /// An empty schema.
    pub(super) fn of_nothing() -> Found {
        Found {
            server: Server {
                role: "postgres".to_owned(),
                is_superuser: true,
                creates_roles: true,
                database: "orders".to_owned(),
                database_owner: "postgres".to_owned(),
                may_create: true,
                version: 170_000,
            },
            schema: Some(Schema {
                owner: "postgres".to_owned(),
                is_owned: true,
                may_create: true,
            }),
            ..Found::default()
        }
    }

    /// Makes the table a partitioned one with these partitions.
    pub(super) fn partition(&mut self, leaves: &[(u32, &str)]) {
        if let Some(shape) = &mut self.shape {
            shape.partitioned = true;
        }
        let leaf = |&(oid, name): &(u32, &str)| Leaf {
            oid,
            name: TableName::default().beside(name),
        };
        self.leaves = leaves.iter().map(leaf).collect();
    }
}
