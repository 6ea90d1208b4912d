//! The SQL for a person.

#![allow(clippy::unwrap_used)]

use super::part::{Part, State};
use super::plan::plan;
use super::*;
use crate::config::{Config, Settings};

fn config(change: impl FnOnce(&mut Settings)) -> Config {
    let mut settings = Settings {
        database_url: Some("postgresql://postgres@localhost/orders".to_owned()),
        table: Some("outbox.\"My Outbox\"".to_owned()),
        publication: Some("out\"boxd".to_owned()),
        ..Settings::default()
    };
    change(&mut settings);
    Config::without_kafka(settings).unwrap()
}

fn setup<'a>(config: &'a Config, role: Option<&'a str>) -> Setup<'a> {
    Setup {
        config,
        role,
        replication_role: None,
        checks: true,
        partitioned: None,
    }
}

#[test]
fn the_files_are_ascii_since_a_database_may_be_of_any_encoding() {
    for file in sql::FILES {
        let other = file.chars().find(|c| !c.is_ascii());
        assert_eq!(other, None, "{}", file.lines().next().unwrap_or_default());
        let wide = file.lines().find(|line| line.len() > 100);
        assert_eq!(wide, None);
    }
}

#[test]
fn no_placeholder_is_left_and_names_are_quoted() {
    let config = config(|_| ());
    let steps = setup(&config, Some("relay")).steps(false);
    let sql: String = steps.iter().map(|step| step.sql.as_str()).collect();
    assert!(!sql.contains("{{") && !sql.contains("}}"), "{sql}");
    for name in [
        "\"outbox\".\"My Outbox\"",
        "\"out\"\"boxd\"",
        "\"relay\"",
        "\"My Outbox_write_event\"",
        "\"idx_My Outbox_unpublished_id\"",
    ] {
        assert!(sql.contains(name), "{name} is missing in {sql}");
    }
}

#[test]
fn every_index_is_a_step_of_one_statement() {
    let config = config(|_| ());
    for (in_use, create) in [
        (false, indexes::IF_ABSENT),
        (true, indexes::CONCURRENTLY_IF_ABSENT),
    ] {
        let steps = setup(&config, None).steps(in_use);
        let is_index = |step: &&Step| step.purpose == "index";
        let found: Vec<_> = steps.iter().filter(is_index).collect();
        assert_eq!(found.len(), 2);
        for index in found {
            assert!(index.sql.contains(create), "{}", index.sql);
            assert_eq!(index.sql.matches(';').count(), 1, "{}", index.sql);
        }
        // The dead-letter table is new, so its indexes need no concurrent build.
        let mut rest = steps
            .iter()
            .filter(|step| !["index", "table of dead letters"].contains(&step.purpose));
        assert!(rest.all(|step| !step.sql.contains("CREATE INDEX")));
    }
}

#[test]
fn the_file_for_a_person_has_the_same_indexes() {
    let config = config(|settings| settings.table = None);
    let file = sql::one_line(sql::FILES[0]);
    for index in indexes::wanted(&setup(&config, None).assumed_shape()) {
        let name = config.table.index(index.suffix).name;
        let statement = index.statement(indexes::IF_ABSENT, &name, &config.table);
        let statement = statement.replace(&format!("\"{name}\""), &name);
        let statement = statement.replace("\"outbox\".\"outbox\"", "{{table}}");
        assert!(file.contains(&statement), "{statement} is missing");
    }
}

#[test]
fn the_two_functions_check_the_same() {
    let config = config(|_| ());
    let setup = setup(&config, None);
    let checks = |headers: bool| {
        let body = sql::function_body(&setup, "write_event", headers);
        let (_, rest) = body.split_once("BEGIN\n").unwrap();
        let (checks, _) = rest.split_once("        IF printed > largest").unwrap();
        checks.to_owned()
    };
    assert_eq!(checks(false), checks(true));
    for headers in [false, true] {
        let body = sql::function_body(&setup, "write_event", headers);
        assert!(body.contains(sql::MARK), "{body}");
    }
}

#[test]
fn constraints_are_those_of_the_file_and_need_no_mark() {
    let names = ["outbox_event_type_not_empty", "outbox_topic_not_empty"];
    let marked = sql::constraints(true);
    assert_eq!(marked.len(), 3);
    for (constraint, name) in marked.iter().zip(names) {
        assert_eq!(constraint.0, name);
        let begin = format!("ADD CONSTRAINT {name} CHECK (published_at IS NOT NULL OR ");
        assert!(constraint.1.starts_with(&begin), "{constraint:?}");
        assert!(constraint.1.ends_with(") NOT VALID"), "{constraint:?}");
    }
    let bare = sql::constraints(false);
    assert!(
        bare.iter()
            .all(|(_, clause)| !clause.contains("published_at"))
    );
}

#[test]
fn a_new_database_gets_all_of_it_in_an_order_in_which_it_can_be_made() {
    let config = config(|settings| settings.table = None);
    let setup = setup(&config, Some("relay"));
    let nothing = found::Found {
        schema: None,
        ..found::Found::of_nothing()
    };
    let parts = plan(&setup, &nothing);
    let things: Vec<&str> = parts.iter().map(|part| part.thing.as_str()).collect();
    assert_eq!(
        things,
        [
            "schema outbox",
            "table outbox.outbox",
            "index outbox.idx_outbox_unpublished",
            "index outbox.idx_outbox_unpublished_id",
            "constraints of outbox.outbox",
            "table outbox.dead_letter",
            "table outbox.outboxd_state",
            "function outbox.write_event(text, text, jsonb)",
            "function outbox.write_event(text, text, jsonb, jsonb, text)",
            "publication out\"boxd",
            "role relay",
            "REPLICATION of role relay",
            "USAGE of role relay on schema outbox",
            "rights of role relay on outbox.outbox",
            "rights of role relay on outbox.dead_letter",
            "rights of role relay on outbox.outboxd_state",
        ]
    );
    let is_missing = |part: &Part| matches!(part.state, State::Missing(_));
    assert!(parts.iter().all(is_missing), "{parts:#?}");
    let sql = format!("{parts:?}");
    assert!(!sql.contains("CONCURRENTLY"), "{sql}");
}

#[test]
fn a_publication_is_judged_by_what_it_publishes() {
    use crate::postgres::facts::dead_letter_table::DeadLetterTable;
    use crate::postgres::publication::PublicationState;
    let config = config(|settings| (settings.table, settings.publication) = (None, None));
    let setup = setup(&config, None);
    let state = |relations: &[&str], filter: Option<&str>| PublicationState {
        insert: true,
        update_or_delete: false,
        relations: relations.iter().map(|it| it.parse().unwrap()).collect(),
        missing: Vec::new(),
        row_filter: filter.map(str::to_owned),
        columns: None,
        generated: Vec::new(),
    };
    let outcome = |state: PublicationState, is_empty: bool, via_root: bool, partitioned: bool| {
        let columns = [("id", "bigint"), ("published_at", "timestamp")];
        let mut found = found::Found::of_table(&columns);
        if partitioned {
            found.partition(&[]);
        }
        found.dead_letters = Some(DeadLetterTable::of_columns(false, &["id"]));
        found.publication = Some(found::FoundPublication {
            owner: "someone".to_owned(),
            is_owned: true,
            is_empty,
            via_root,
            state,
        });
        let parts = plan(&setup, &found);
        let letters = parts
            .iter()
            .find(|it| it.thing == "table outbox.dead_letter");
        assert!(matches!(letters.unwrap().state, State::Left { .. }));
        let part = parts
            .into_iter()
            .find(|it| it.thing.contains("publication"));
        part.unwrap().line().outcome
    };
    let ours = ["outbox.outbox"];
    assert_eq!(
        outcome(state(&ours, None), false, true, false),
        Outcome::Exists
    );
    assert_eq!(
        outcome(state(&[], None), true, false, false),
        Outcome::Missing
    );
    let filtered = state(&ours, Some("(topic = 'a'::text)"));
    for (state, is_empty, via_root, partitioned, statement) in [
        (filtered, false, true, false, "SET TABLE"),
        (state(&[], None), false, true, false, "ADD TABLE"),
        // Rows would arrive under the names of partitions.
        (state(&[], None), true, false, true, "partition_root = true"),
    ] {
        let Outcome::ToDo(undone) = outcome(state, is_empty, via_root, partitioned) else {
            panic!("{statement}");
        };
        assert!(undone.statement.contains(statement), "{undone:?}");
        assert_eq!(undone.by, "someone");
    }
}

#[test]
fn an_unrelated_table_with_the_name_of_the_state_is_kept_and_nothing_is_granted_on_it() {
    use crate::postgres::facts::state_table::StateTable;
    let config = config(|settings| (settings.table, settings.publication) = (None, None));
    let setup = setup(&config, Some("relay"));
    for is_ours in [true, false] {
        let mut found = found::Found::of_nothing();
        found.state = Some(StateTable::of(is_ours));
        let parts = plan(&setup, &found);
        let table = parts
            .iter()
            .find(|it| it.thing == "table outbox.outboxd_state");
        let is_kept = matches!(table.unwrap().state, State::Kept(_));
        assert_eq!(is_kept, !is_ours);
        let rights = "rights of role relay on outbox.outboxd_state";
        assert_eq!(parts.iter().any(|it| it.thing == rights), is_ours);
    }
}
