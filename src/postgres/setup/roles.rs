//! The role that publishes: that it is there, may log in and replicate, and has each right. Each
//! part is made by itself, and only what is missing: the role that runs `init` may be able to grant
//! on its tables and not to create roles.

use postgres_protocol::escape::escape_identifier;

use crate::config::TableName;
use crate::postgres::setup::found::{Found, FoundRole};
use crate::postgres::setup::part::{Kind, Part, Todo};
use crate::postgres::setup::wanted::Setup;
use crate::postgres::table_shape::{Column, TableShape};

/// The role of Amazon RDS and Aurora that replaces the attribute.
const PROVIDER: &str = "rds_replication";

pub(super) fn parts(setup: &Setup<'_>, found: &Found) -> Vec<Part> {
    let Some(name) = setup.role else {
        return Vec::new();
    };
    let there = found.role.clone().unwrap_or_default();
    let mut parts = vec![role(found, name, &found.role)];
    if setup.publication().is_some() {
        match setup.replication_role {
            Some(other) => parts.extend([
                role(found, other, &found.replication_role),
                replication(found, other, &found.replication_role),
            ]),
            None => parts.push(replication(found, name, &found.role)),
        }
    }
    parts.push(usage(setup, found, name, &there));
    parts.push(on_table(setup, found, name, &there));
    parts.extend(on_dead_letters(setup, found, name, &there));
    parts.extend(on_state(setup, found, name, &there));
    parts
}

fn lacks_createrole(found: &Found) -> Option<String> {
    let server = &found.server;
    let may = server.is_superuser || server.creates_roles;
    (!may).then(|| format!("role {} lacks CREATEROLE", server.role))
}

fn role(found: &Found, name: &str, there: &Option<FoundRole>) -> Part {
    let quoted = escape_identifier(name);
    let (kind, thing, sql) = match there {
        Some(role) if role.may_log_in => return Part::there(Kind::Role, format!("role {name}")),
        Some(_) => (
            Kind::Other,
            format!("LOGIN of role {name}"),
            format!("ALTER ROLE {quoted} LOGIN"),
        ),
        None => (
            Kind::Role,
            format!("role {name}"),
            format!("CREATE ROLE {quoted} LOGIN"),
        ),
    };
    let by = "a superuser, or a role with CREATEROLE".to_owned();
    let todo = Todo::statement(sql, by, "CREATEROLE".to_owned());
    Part::of(kind, thing, lacks_createrole(found), todo)
}

fn replication(found: &Found, name: &str, there: &Option<FoundRole>) -> Part {
    let quoted = escape_identifier(name);
    let (thing, sql, by, right) = match found.has_provider_role {
        true => (
            format!("membership of role {name} in {PROVIDER}"),
            format!("GRANT {PROVIDER} TO {quoted}"),
            "a member of rds_superuser".to_owned(),
            format!("to grant {PROVIDER}"),
        ),
        false => (
            format!("REPLICATION of role {name}"),
            format!("ALTER ROLE {quoted} REPLICATION"),
            "a superuser, or from Postgres 16 on a role with CREATEROLE and REPLICATION".to_owned(),
            "to be a superuser (from Postgres 16 on CREATEROLE and REPLICATION)".to_owned(),
        ),
    };
    if there.as_ref().is_some_and(|there| there.may_replicate) {
        return Part::there(Kind::Other, thing);
    }
    let lacks = match found.has_provider_role {
        true => None,
        false => lacks_createrole(found),
    };
    let todo = Todo::statement(sql, by, right);
    Part::of(Kind::Other, thing, lacks, todo).after(&[Kind::Role])
}

fn usage(setup: &Setup<'_>, found: &Found, name: &str, there: &FoundRole) -> Part {
    let schema = &setup.config.table.schema;
    let thing = format!("USAGE of role {name} on schema {schema}");
    if there.may_use_schema {
        return Part::there(Kind::Other, thing);
    }
    let [quoted, role] = [schema, name].map(escape_identifier);
    let sql = format!("GRANT USAGE ON SCHEMA {quoted} TO {role}");
    let owner = found.schema.as_ref().map(|schema| &schema.owner);
    let owner = owner.unwrap_or(&found.server.role);
    let is_owned = found.schema.as_ref().is_none_or(|schema| schema.is_owned);
    let todo = Todo::statement(sql, owner.clone(), format!("to own the schema {schema}"));
    let lacks = (!is_owned).then(|| found.does_not_own(format_args!("schema {schema}"), owner));
    Part::of(Kind::Other, thing, lacks, todo).after(&[Kind::Schema, Kind::Role])
}

/// The columns that the role writes. A row can be locked only by a role that may update one of its
/// columns.
fn written(shape: &TableShape) -> Vec<&Column> {
    let written = shape.attempts().into_iter().chain(shape.published());
    let written: Vec<_> = written.collect();
    match written.is_empty() {
        true => shape.id_columns(),
        false => written,
    }
}

fn on_table(setup: &Setup<'_>, found: &Found, name: &str, there: &FoundRole) -> Part {
    let table = &setup.config.table;
    let thing = format!("rights of role {name} on {table}");
    let mut rights = Vec::new();
    if !there.may_select {
        rights.push("SELECT".to_owned());
    }
    let shape = found.shape_or_assumed(setup);
    let written = shape.as_ref().map(written).unwrap_or_default();
    let may_update = |column: &&Column| there.may_update.contains(&column.name);
    if !written.iter().all(may_update) {
        let names = written.iter().map(|column| column.quoted());
        rights.push(format!("UPDATE ({})", names.collect::<Vec<_>>().join(", ")));
    }
    if setup.deletes() && !there.may_delete {
        rights.push("DELETE".to_owned());
    }
    if rights.is_empty() {
        return Part::there(Kind::Other, thing);
    }
    let (rights, role) = (rights.join(", "), escape_identifier(name));
    let sql = format!("GRANT {rights} ON {} TO {role}", table.quoted());
    let todo = Todo::statement(sql, found.table_owner(), format!("to own {table}"));
    let lacks = (!found.owns_table()).then(|| found.lacks_ownership(table));
    Part::of(Kind::Other, thing, lacks, todo).after(&[Kind::Table, Kind::Role])
}

/// The rights on a table of outboxd's own.
const OWN_TABLE: &str = "SELECT, INSERT, UPDATE";

/// Nothing is granted on an unrelated table.
fn on_dead_letters(
    setup: &Setup<'_>,
    found: &Found,
    name: &str,
    there: &FoundRole,
) -> Option<Part> {
    let letters = setup.config.table.dead_letter();
    let table = found.dead_letters.as_ref();
    if table.is_some_and(|table| table.strangeness().is_some()) {
        return None;
    }
    let owner = table.map(|table| (&table.owner, table.is_owned));
    let deletes = setup.retains() && !there.may_delete_letters;
    let lacks = match (there.may_file, deletes) {
        (true, false) => None,
        (true, true) => Some("DELETE"),
        (false, false) => Some(OWN_TABLE),
        (false, true) => Some("SELECT, INSERT, UPDATE, DELETE"),
    };
    let part = on_own_table(found, name, &letters, owner, lacks);
    Some(part.after(&[Kind::DeadLetters, Kind::Role]))
}

/// The same on the table of outboxd's state.
fn on_state(setup: &Setup<'_>, found: &Found, name: &str, there: &FoundRole) -> Option<Part> {
    let table = found.state.as_ref();
    if table.is_some_and(|table| !table.is_ours) {
        return None;
    }
    let owner = table.map(|table| (&table.owner, table.is_owned));
    let state = setup.config.table.state();
    let lacks = (!there.may_keep_state).then_some(OWN_TABLE);
    let part = on_own_table(found, name, &state, owner, lacks);
    Some(part.after(&[Kind::State, Kind::Role]))
}

/// The rights on a table of outboxd's own. `owner`: that of the table, and whether the session's
/// role has its rights; none where the table is not there yet. `rights`: those that the role lacks.
fn on_own_table(
    found: &Found,
    name: &str,
    table: &TableName,
    owner: Option<(&String, bool)>,
    rights: Option<&str>,
) -> Part {
    let thing = format!("rights of role {name} on {table}");
    let Some(rights) = rights else {
        return Part::there(Kind::Other, thing);
    };
    let role = escape_identifier(name);
    let sql = format!("GRANT {rights} ON {} TO {role}", table.quoted());
    let (owner, is_owned) = owner.unwrap_or((&found.server.role, true));
    let lacks = (!is_owned).then(|| found.does_not_own(table, owner));
    let todo = Todo::statement(sql, owner.clone(), format!("to own {table}"));
    Part::of(Kind::Other, thing, lacks, todo)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Settings};
    use crate::postgres::setup::part::State;
    use crate::postgres::setup::sql;

    fn config(delete: bool, poll: bool) -> Config {
        Config::without_kafka(Settings {
            database_url: Some("postgresql://postgres@localhost/orders".to_owned()),
            after_publish: delete.then(|| "delete".to_owned()),
            source: poll.then(|| "poll".to_owned()),
            ..Settings::default()
        })
        .expect("the settings are right")
    }

    /// What would be run, and why the rest would not.
    fn statements(config: &Config, found: &Found) -> Vec<String> {
        let setup = Setup {
            config,
            role: Some("relay"),
            replication_role: None,
            checks: false,
            partitioned: None,
        };
        let of_part = |part: Part| match part.state {
            State::Missing(todo) => Some(todo.statement),
            State::Left { why, .. } => Some(why),
            State::There | State::Kept(_) => None,
        };
        let parts = parts(&setup, found).into_iter();
        parts.filter_map(of_part).collect()
    }

    #[test]
    fn a_role_gets_each_part_that_it_lacks_and_no_other() {
        let all = statements(&config(false, false), &Found::of_nothing());
        let expected = [
            "CREATE ROLE \"relay\" LOGIN",
            "ALTER ROLE \"relay\" REPLICATION",
            "GRANT USAGE ON SCHEMA \"outbox\" TO \"relay\"",
            "GRANT SELECT, UPDATE (times_attempted, published_at) \
             ON \"outbox\".\"outbox\" TO \"relay\"",
            "GRANT SELECT, INSERT, UPDATE ON \"outbox\".\"dead_letter\" TO \"relay\"",
            "GRANT SELECT, INSERT, UPDATE ON \"outbox\".\"outboxd_state\" TO \"relay\"",
        ];
        assert_eq!(all, expected);
        let polls = statements(&config(true, true), &Found::of_nothing());
        assert!(
            !polls.iter().any(|sql| sql.contains("REPLICATION")),
            "{polls:?}"
        );
        assert!(polls[2].contains(", DELETE ON"), "{polls:?}");
        let role = FoundRole {
            may_log_in: true,
            may_replicate: true,
            may_use_schema: true,
            may_select: true,
            may_update: vec!["published_at".to_owned(), "times_attempted".to_owned()],
            may_delete: false,
            may_file: true,
            may_keep_state: true,
            may_delete_letters: false,
        };
        let mut found = Found::of_nothing();
        found.role = Some(role);
        assert_eq!(statements(&config(false, false), &found), [""; 0]);
        let deletes = statements(&config(true, false), &found);
        assert_eq!(
            deletes,
            ["GRANT DELETE ON \"outbox\".\"outbox\" TO \"relay\""]
        );
    }

    #[test]
    fn the_providers_role_takes_the_place_of_the_attribute() {
        let mut found = Found::of_nothing();
        found.server.is_superuser = false;
        found.has_provider_role = true;
        let all = statements(&config(false, false), &found);
        assert_eq!(all[1], "GRANT rds_replication TO \"relay\"");
        found.has_provider_role = false;
        found.server.creates_roles = false;
        let all = statements(&config(false, false), &found);
        assert_eq!(all[..2], ["role postgres lacks CREATEROLE"; 2]);
        assert!(all[2].starts_with("GRANT USAGE"), "{all:?}");
    }

    #[test]
    fn the_columns_that_the_table_has_are_what_the_role_may_update() {
        for (columns, expected) in [
            (&[("id", "bigint")][..], "UPDATE (id)"),
            (&[("published_at", "timestamptz")], "UPDATE (published_at)"),
        ] {
            let all = statements(&config(false, false), &Found::of_table(columns));
            assert!(all[3].contains(expected), "{all:?}");
        }
    }

    #[test]
    fn the_file_for_a_person_grants_the_same() {
        let config = config(true, false);
        let setup = Setup {
            config: &config,
            role: Some("relay"),
            replication_role: None,
            checks: false,
            partitioned: None,
        };
        let file = sql::role(&setup).unwrap_or_default();
        let file = sql::one_line(&file);
        let table = TableName::default().quoted();
        for sql in statements(&config, &Found::of_nothing()) {
            let in_file = match sql.strip_suffix(&format!(", DELETE ON {table} TO \"relay\"")) {
                Some(others) => file.contains(others) && file.contains("GRANT DELETE ON"),
                None => file.contains(&sql),
            };
            assert!(in_file, "{sql} is missing in {file}");
        }
    }
}
