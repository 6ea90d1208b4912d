//! The functions that write events.
//!
//! A function is outboxd's if it has outboxd's words in it, and this outbox's if it inserts into
//! this table. Any other function stays, and none is created under a name that it has: whatever the
//! arguments are, the new one could take its calls. A second outbox in a schema has functions that
//! are named after its table.

use crate::config::TableName;
use crate::postgres::setup::found::{Found, FoundFunction};
use crate::postgres::setup::part::{Act, Kind, Part, Todo};
use crate::postgres::setup::wanted::Setup;
use crate::postgres::setup::{objects, sql};

const PLAIN: &str = "text, text, jsonb";
const WITH_HEADERS: &str = "text, text, jsonb, jsonb, text";

/// What precedes the key's column in the function that has one.
const BEFORE_KEY: &str = "(event_type, topic, event_payload, headers, ";

impl FoundFunction {
    /// Whether it is outboxd's, for this table.
    fn is_for(&self, table: &TableName) -> bool {
        self.source.contains(sql::MARK) && self.table().as_ref() == Some(table)
    }

    /// The table that it inserts into.
    fn table(&self) -> Option<TableName> {
        let (_, name) = self.source.split_once("INSERT INTO ")?;
        let (name, _) = name.split_once(" (event_type")?;
        name.trim().parse().ok()
    }

    /// The column that it writes the key into, as it is quoted.
    fn key(&self) -> Option<&str> {
        key_of(&self.source)
    }
}

/// The functions that are there, or missing.
pub(super) fn parts(setup: &Setup<'_>, found: &Found) -> Vec<Part> {
    let table = &setup.config.table;
    let shown =
        |name: &str, arguments: &str| format!("function {}.{name}({arguments})", table.schema);
    let there = found
        .functions
        .iter()
        .find(|it| it.arguments == PLAIN && it.is_for(table));
    let name = match there {
        Some(function) => function.name.clone(),
        None => match free_name(found, table) {
            Ok(name) => name,
            Err(stranger) => {
                let why = "it is not outboxd's; a plain INSERT writes an event as well".to_owned();
                let thing = shown(&stranger.name, &stranger.arguments);
                return vec![Part::kept(Kind::Other, thing, why)];
            }
        },
    };
    let thing = shown(&name, PLAIN);
    let mut parts = vec![match there {
        Some(_) => Part::there(Kind::Other, thing),
        None => created(setup, found, thing, sql::function(setup, &name, false)),
    }];
    let key = setup.key_column();
    if found.has_column("headers") || has_column(found, key) {
        parts.push(with_headers(
            setup,
            found,
            &name,
            shown(&name, WITH_HEADERS),
        ));
    }
    parts
}

fn has_column(found: &Found, name: &str) -> bool {
    let shape = found.shape.as_ref();
    shape.is_some_and(|shape| shape.column(name).is_some())
}

/// The name for a new function, or the function that is in the way.
fn free_name<'f>(found: &'f Found, table: &TableName) -> Result<String, &'f FoundFunction> {
    let mut in_the_way = None;
    for name in sql::function_names(table) {
        let of_name = || found.functions.iter().filter(|it| it.name == name);
        if let Some(stranger) = of_name().find(|it| !it.source.contains(sql::MARK)) {
            return Err(stranger);
        }
        match of_name().find(|it| !it.is_for(table)) {
            None => return Ok(name),
            Some(of_another) => in_the_way = Some(of_another),
        }
    }
    in_the_way.map_or_else(|| Ok(table.write_event()), Err)
}

/// The function that takes headers and a key as well.
fn with_headers(setup: &Setup<'_>, found: &Found, name: &str, thing: String) -> Part {
    let mut same = found.functions.iter().filter(|it| it.name == name);
    let there = same.find(|it| it.arguments == WITH_HEADERS);
    let create = sql::function(setup, name, true);
    let Some(there) = there else {
        return created(setup, found, thing, create);
    };
    if !there.is_for(&setup.config.table) {
        return Part::kept(Kind::Other, thing, "it is not outboxd's".to_owned());
    }
    let wanted = sql::function_body(setup, name, true);
    let has_key = has_column(found, setup.key_column());
    if there.source == wanted || !has_key || there.key() == key_of(&wanted) {
        return Part::there(Kind::Other, thing);
    }
    let key = there.key().unwrap_or_default();
    let unaltered = wanted.replace(
        &format!(", {})\n", key_of(&wanted).unwrap_or_default()),
        &format!(", {key})\n"),
    );
    if there.source != unaltered {
        let why = format!("it writes the key into {key}, and its text was altered");
        return Part::kept(Kind::Other, thing, why);
    }
    let replace = create.replacen("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1);
    let thing = format!("{thing} with the key {}", setup.key_column());
    let todo = Todo {
        statement: format!("DROP FUNCTION {}", signature(setup, name)),
        acts: vec![Act::plain(replace)],
        by: there.owner.clone(),
        right: "to own the function".to_owned(),
    };
    let lacks = (!there.is_owned).then(|| found.does_not_own("the function", &there.owner));
    Part::of(Kind::Other, thing, lacks, todo).after(&[Kind::Table])
}

fn key_of(source: &str) -> Option<&str> {
    let (_, key) = source.split_once(BEFORE_KEY)?;
    key.split_once(")\n").map(|(key, _)| key)
}

fn signature(setup: &Setup<'_>, name: &str) -> String {
    let function = setup.config.table.beside(name);
    format!("{}({WITH_HEADERS})", function.quoted())
}

fn created(setup: &Setup<'_>, found: &Found, thing: String, create: String) -> Part {
    let (lacks, todo) = objects::in_schema(setup, found, create);
    Part::of(Kind::Other, thing, lacks, todo).after(&[Kind::Table])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Settings};
    use crate::postgres::setup::part::State;

    const COLUMNS: [(&str, &str); 3] = [("id", "bigint"), ("headers", "jsonb"), ("k", "uuid")];

    fn config(table: &str, key: &str) -> Config {
        Config::without_kafka(Settings {
            database_url: Some("postgresql://postgres@localhost/orders".to_owned()),
            table: Some(table.to_owned()),
            key: Some(key.to_owned()),
            ..Settings::default()
        })
        .expect("the settings are right")
    }

    fn function(config: &Config, name: &str, with_headers: bool) -> FoundFunction {
        let setup = setup(config);
        FoundFunction {
            name: name.to_owned(),
            arguments: if with_headers { WITH_HEADERS } else { PLAIN }.to_owned(),
            source: sql::function_body(&setup, name, with_headers),
            is_owned: true,
            owner: "postgres".to_owned(),
        }
    }

    fn setup(config: &Config) -> Setup<'_> {
        Setup {
            config,
            role: None,
            replication_role: None,
            checks: false,
            partitioned: None,
        }
    }

    fn list(config: &Config, functions: Vec<FoundFunction>) -> Vec<(String, &'static str)> {
        let found = Found {
            functions,
            ..Found::of_table(&COLUMNS)
        };
        let state = |part: Part| match part.state {
            State::There => (part.thing, "there"),
            State::Kept(_) => (part.thing, "kept"),
            State::Missing(_) => (part.thing, "missing"),
            State::Left { .. } => (part.thing, "left"),
        };
        parts(&setup(config), &found)
            .into_iter()
            .map(state)
            .collect()
    }

    #[test]
    fn a_function_is_known_by_its_words_and_its_table() {
        let default = config("outbox.outbox", "column:event_type");
        let plain = "function outbox.write_event(text, text, jsonb)".to_owned();
        assert_eq!(list(&default, vec![])[0], (plain.clone(), "missing"));
        let both = [false, true].map(|headers| function(&default, "write_event", headers));
        let there = list(&default, both.to_vec());
        assert_eq!(there[0], (plain, "there"));
        assert_eq!(there[1].1, "there");
        // By whatever name.
        let renamed = list(&default, vec![function(&default, "emit", false)]);
        assert_eq!(renamed[0].0, "function outbox.emit(text, text, jsonb)");
        assert_eq!(renamed[0].1, "there");
        // Unquoted names, as a person writes them.
        let mut by_hand = function(&default, "write_event", false);
        by_hand.source = by_hand
            .source
            .replace("\"outbox\".\"outbox\"", "outbox.outbox");
        assert_eq!(list(&default, vec![by_hand])[0].1, "there");
    }

    #[test]
    fn an_unrelated_function_stays_and_no_function_is_created_beside_it() {
        let default = config("outbox.outbox", "column:event_type");
        for arguments in [PLAIN, "text", "character varying, text, json"] {
            let theirs = FoundFunction {
                name: "write_event".to_owned(),
                arguments: arguments.to_owned(),
                source: "BEGIN INSERT INTO outbox.outbox (event_type, topic) END".to_owned(),
                ..FoundFunction::default()
            };
            let thing = format!("function outbox.write_event({arguments})");
            assert_eq!(list(&default, vec![theirs]), [(thing, "kept")]);
        }
    }

    #[test]
    fn another_outbox_of_the_schema_has_a_function_of_its_own() {
        let [default, events] = ["outbox.outbox", "outbox.events"];
        let [default, events] = [default, events].map(|it| config(it, "column:event_type"));
        let first = function(&default, "write_event", false);
        let second = list(&events, vec![first]);
        assert_eq!(
            second[0].0,
            "function outbox.events_write_event(text, text, jsonb)"
        );
        assert_eq!(second[0].1, "missing");
        // An earlier version gave the second the name of the first.
        let taken = list(&default, vec![function(&events, "write_event", false)]);
        assert_eq!(
            taken[0].0,
            "function outbox.outbox_write_event(text, text, jsonb)"
        );
        let kept = list(&events, vec![function(&events, "write_event", false)]);
        assert_eq!(kept[0].1, "there");
    }

    #[test]
    fn another_key_replaces_a_function_that_is_unaltered() {
        let [with_k, with_none] = ["column:k", "column:event_type"];
        let [with_k, with_none] = [with_k, with_none].map(|key| config("outbox.outbox", key));
        let plain = function(&with_none, "write_event", false);
        let old = function(&with_none, "write_event", true);
        let list_with = |config: &Config, old: &FoundFunction| {
            list(config, vec![plain.clone(), old.clone()]).remove(1)
        };
        let (thing, state) = list_with(&with_k, &old);
        assert!(
            thing.ends_with(" with the key k") && state == "missing",
            "{thing}"
        );
        assert_eq!(
            list_with(&with_k, &function(&with_k, "write_event", true)).1,
            "there"
        );
        // Without a key in the configuration, the one that is there stays.
        assert_eq!(
            list_with(&with_none, &function(&with_k, "write_event", true)).1,
            "there"
        );
        let mut altered = old;
        altered.source.push_str("-- ours");
        assert_eq!(list_with(&with_k, &altered).1, "kept");
    }
}
