//! Schema, table, constraints, dead letters and publication: what is there of them.

use postgres_protocol::escape::escape_identifier;

use crate::postgres::facts::dead_letter_table;
use crate::postgres::setup::found::{Found, FoundPublication};
use crate::postgres::setup::part::{Act, Kind, Part, Todo};
use crate::postgres::setup::sql;
use crate::postgres::setup::wanted::Setup;
use crate::postgres::{preflight, publication};

pub(super) fn schema(setup: &Setup<'_>, found: &Found) -> Part {
    let schema = &setup.config.table.schema;
    let thing = format!("schema {schema}");
    if found.schema.is_some() {
        return Part::there(Kind::Schema, thing);
    }
    let (server, quoted) = (&found.server, escape_identifier(schema));
    let create = format!("CREATE SCHEMA IF NOT EXISTS {quoted}");
    let owner = escape_identifier(&server.role);
    let todo = Todo {
        acts: vec![Act::plain(create.clone())],
        statement: format!("{create} AUTHORIZATION {owner}"),
        by: server.database_owner.clone(),
        right: format!(
            "CREATE on the database, or CREATE on the schema {schema} where that exists"
        ),
    };
    Part::of(Kind::Schema, thing, lacks_on_database(found), todo)
}

fn lacks_on_database(found: &Found) -> Option<String> {
    let server = &found.server;
    let lacks = || {
        format!(
            "role {} lacks CREATE on database {}",
            server.role, server.database
        )
    };
    (!server.may_create).then(lacks)
}

/// How a thing is created in the schema, and the right to do so if the role lacks it. The statement
/// for a person gives the right, since the other is long.
pub(super) fn in_schema(
    setup: &Setup<'_>,
    found: &Found,
    create: String,
) -> (Option<String>, Todo) {
    let name = &setup.config.table.schema;
    let (role, quoted) = (&found.server.role, escape_identifier(name));
    let may_create = found.schema.as_ref().is_none_or(|schema| schema.may_create);
    let lacks = (!may_create).then(|| format!("role {role} lacks CREATE on schema {name}"));
    let owner = found.schema.as_ref().map(|schema| schema.owner.clone());
    let todo = Todo {
        acts: vec![Act::plain(create)],
        statement: format!(
            "GRANT USAGE, CREATE ON SCHEMA {quoted} TO {} -- then `outboxd init`",
            escape_identifier(role)
        ),
        by: owner.unwrap_or_else(|| role.clone()),
        right: format!("CREATE on the schema {name}"),
    };
    (lacks, todo)
}

pub(super) fn table(setup: &Setup<'_>, found: &Found) -> Part {
    let table = &setup.config.table;
    let thing = format!("table {table}");
    let Some(relation) = &found.relation else {
        if !setup.is_conventional() {
            let why =
                "it is not there, and OUTBOX_COLUMNS names columns of another table".to_owned();
            let todo = Todo {
                statement: "create the table, or set OUTBOX_TABLE to the one that has them"
                    .to_owned(),
                by: "its owner".to_owned(),
                ..Todo::default()
            };
            return Part::left(Kind::Table, thing, why, todo);
        }
        let (lacks, todo) = in_schema(setup, found, sql::table(setup));
        return Part::of(Kind::Table, thing, lacks, todo);
    };
    let kind = match relation.kind.as_str() {
        "r" | "p" => return Part::there(Kind::Table, thing),
        "v" if setup.publication().is_none() => {
            return Part::there(Kind::Table, format!("view {table}"));
        }
        "v" => "VIEW",
        "m" => "MATERIALIZED VIEW",
        "f" => "FOREIGN TABLE",
        "S" => "SEQUENCE",
        "i" | "I" => "INDEX",
        _ => "TYPE",
    };
    let other = escape_identifier(&format!("{}_of_another", table.name));
    let todo = Todo {
        statement: match kind {
            "VIEW" => "set OUTBOX_SOURCE=poll, or OUTBOX_TABLE to the table behind it".to_owned(),
            _ => format!(
                "ALTER {kind} {} RENAME TO {other} -- or set OUTBOX_TABLE",
                table.quoted()
            ),
        },
        by: relation.owner.clone(),
        ..Todo::default()
    };
    let why = format!("{table} is a {}", kind.to_lowercase());
    Part::left(Kind::Table, thing, why, todo)
}

pub(super) fn checks(setup: &Setup<'_>, found: &Found) -> Part {
    let table = &setup.config.table;
    let thing = format!("constraints of {table}");
    let wanted = sql::constraints(found.has_column("published_at"));
    let missing = wanted
        .into_iter()
        .filter(|(name, _)| !found.constraints.iter().any(|it| it == name));
    let clauses: Vec<String> = missing.map(|(_, clause)| clause).collect();
    if clauses.is_empty() {
        return Part::there(Kind::Index, thing);
    }
    let alter = format!("ALTER TABLE {} {}", table.quoted(), clauses.join(", "));
    let right = format!("to own {table}");
    let todo = Todo::statement(alter, found.table_owner(), right);
    let lacks = (!found.owns_table()).then(|| found.lacks_ownership(table));
    Part::of(Kind::Index, thing, lacks, todo)
}

pub(super) fn dead_letters(setup: &Setup<'_>, found: &Found) -> Part {
    let letters = setup.config.table.dead_letter();
    let thing = format!("table {letters}");
    let (lacks, mut todo) = in_schema(setup, found, sql::dead_letters(setup));
    let Some(there) = &found.dead_letters else {
        return Part::of(Kind::DeadLetters, thing, lacks, todo);
    };
    todo.by = there.owner.clone();
    if let Some(strange) = there.strangeness() {
        todo.statement = dead_letter_table::make_room(&letters);
        let why = format!("it {strange}: it is not outboxd's, and stays as it is");
        return Part::left(Kind::DeadLetters, thing, why, todo);
    }
    if !there.is_earlier() {
        return Part::there(Kind::DeadLetters, thing);
    }
    todo.right = format!("to own {letters}");
    todo.statement = format!(
        "ALTER TABLE {} OWNER TO {} -- then `outboxd init`",
        letters.quoted(),
        escape_identifier(&found.server.role)
    );
    let lacks = (!there.is_owned).then(|| found.does_not_own(&letters, &there.owner));
    let thing = format!("column table_oid of {letters}");
    Part::of(Kind::Other, thing, lacks, todo)
}

/// Only a pause needs it, so an unrelated table of that name stays as it is.
pub(super) fn state(setup: &Setup<'_>, found: &Found) -> Part {
    let state = setup.config.table.state();
    let thing = format!("table {state}");
    match &found.state {
        None => {
            let (lacks, todo) = in_schema(setup, found, sql::state(setup));
            Part::of(Kind::State, thing, lacks, todo)
        }
        Some(there) if there.is_ours => Part::there(Kind::State, thing),
        Some(_) => {
            let why = "it is not outboxd's, so `outboxd pause` cannot be used".to_owned();
            Part::kept(Kind::State, thing, why)
        }
    }
}

/// The publication, and one of an earlier name that publishes the table.
pub(super) fn publication(setup: &Setup<'_>, found: &Found) -> Vec<Part> {
    let Some(name) = setup.publication() else {
        return Vec::new();
    };
    if let Some(there) = &found.publication {
        return vec![existing(setup, found, there, name).after(&[Kind::Table])];
    }
    let table = &setup.config.table;
    let thing = format!("publication {name}");
    let mut todo = publication_todo(setup, found, publication::create_sql(name, table));
    let database = &found.server.database;
    let owner = found.table_owner();
    todo.by = format!("a superuser, or {owner} with CREATE on database {database}");
    let lacks = lacks_on_database(found);
    let lacks = lacks.or_else(|| (!found.owns_table()).then(|| found.lacks_ownership(table)));
    let mut parts = vec![Part::of(Kind::Other, thing, lacks, todo).after(&[Kind::Table])];
    parts.extend(found.publishers.iter().map(|other| {
        let why =
            format!("it publishes {table} as well; to use it on, set OUTBOX_PUBLICATION={other}");
        Part::kept(Kind::Other, format!("publication {other}"), why)
    }));
    parts
}

fn publication_todo(setup: &Setup<'_>, found: &Found, statement: String) -> Todo {
    let table = &setup.config.table;
    let right = format!("CREATE on the database, and to own {table}");
    Todo::statement(statement, found.table_owner(), right)
}

/// A publication of that name is there: it publishes the table, or lacks it, or does harm.
fn existing(setup: &Setup<'_>, found: &Found, there: &FoundPublication, name: &str) -> Part {
    let table = &setup.config.table;
    let (thing, needed) = (
        format!("publication {name}"),
        preflight::needed_columns(setup.config),
    );
    let problems = match &found.shape {
        Some(shape) => there.state.problems(name, shape, &needed),
        None => Vec::new(),
    };
    if found.shape.is_some() && problems.is_empty() {
        return Part::there(Kind::Other, thing);
    }
    let sql = format!(
        "ALTER PUBLICATION {} ADD TABLE {}",
        escape_identifier(name),
        table.quoted()
    );
    let mut todo = publication_todo(setup, found, sql);
    if there.is_empty && would_do(found, there, name, &needed) {
        let (role, owner) = (&found.server.role, &there.owner);
        todo.by = format!("a superuser, or {owner} if it owns {table}");
        todo.right = format!("to own the publication {name} and {table}");
        let stranger = || format!("publication {name} belongs to {owner}, not to {role}");
        let lacks = (!there.is_owned).then(stranger);
        let lacks = lacks.or_else(|| (!found.owns_table()).then(|| found.lacks_ownership(table)));
        let thing = format!("{table} in publication {name}");
        return Part::of(Kind::Other, thing, lacks, todo);
    }
    todo.by = there.owner.clone();
    let why = problems.iter().map(|it| it.problem.as_str());
    let why = why.collect::<Vec<_>>().join("; ");
    if there.is_empty {
        let flags = "publish = 'insert', publish_via_partition_root = true";
        let name = escape_identifier(name);
        todo.statement = format!("ALTER PUBLICATION {name} SET ({flags}) -- then `outboxd init`");
    } else if !problems.is_empty() {
        let hints = problems.iter().map(|it| it.hint.as_str());
        todo.statement = hints.collect::<Vec<_>>().join("; ");
    }
    let why = match why.is_empty() {
        true => format!("it is there, and does not contain {table}"),
        false => why,
    };
    Part::left(Kind::Other, thing, why, todo)
}

/// Whether the publication would be right once it has the table.
fn would_do(found: &Found, there: &FoundPublication, name: &str, needed: &[&str]) -> bool {
    let Some(shape) = &found.shape else {
        return there.state.insert;
    };
    let mut state = there.state.clone();
    if !shape.partitioned || there.via_root {
        state.relations.push(shape.name.clone());
        state.missing.clear();
    }
    state.problems(name, shape, needed).is_empty()
}
