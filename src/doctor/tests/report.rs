//! The catalogue's order, and what a check says that did not run.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use super::*;
use crate::config::Settings;

fn config(source: &str, after_publish: &str) -> Config {
    Config::from_settings(Settings {
        database_url: Some("postgresql://nobody@localhost/none".to_owned()),
        kafka_brokers: Some("localhost:9092".to_owned()),
        source: Some(source.to_owned()),
        after_publish: Some(after_publish.to_owned()),
        ..Settings::default()
    })
    .unwrap()
}

#[test]
fn a_check_stands_behind_those_that_it_needs_and_no_two_have_one_name() {
    let mut before = HashSet::new();
    let mut texts = HashSet::new();
    for entry in CATALOGUE {
        for needed in entry.name.needs() {
            assert!(before.contains(needed), "{needed:?} of {:?}", entry.name);
        }
        assert!(before.insert(entry.name));
        assert!(texts.insert(entry.name.as_str()), "{:?}", entry.name);
    }
}

#[test]
fn the_manual_lists_every_check_in_this_order() {
    let manual = include_str!("../../../docs/operations.md");
    let (_, table) = manual.split_once("| check | examines |").unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let names = rows.filter_map(|row| row.split('`').nth(1));
    let expected = CATALOGUE.iter().map(|entry| entry.name.as_str());
    assert_eq!(Vec::from_iter(names), Vec::from_iter(expected));
}

#[test]
fn a_check_that_did_not_run_names_the_one_that_fails_before_it() {
    let found = vec![
        Check::ok(Name::Reachable, "it answers"),
        Check::fails(Name::Login, "refused", "a password"),
    ];
    let report = Report::complete(found, &config("slot", "mark"));
    let of = |name: Name| report.checks.iter().find(|it| it.name == name).unwrap();
    assert_eq!(of(Name::Slot).verdict, Verdict::CannotSay);
    assert_eq!(
        of(Name::Slot).reason,
        "not reached: it needs the check login"
    );
    assert!(of(Name::Bootstrap).reason.contains("time"));
    assert_eq!(of(Name::Slot).fix, None);
    assert_eq!(report.count(Verdict::Fails), 1);
    assert_eq!(report.verdict(), Verdict::Fails);
    let names: Vec<Name> = report.checks.iter().map(|it| it.name).collect();
    // No old row is deleted here, and nothing is sent in transactions.
    let all = CATALOGUE.iter().map(|it| it.name);
    let is_elsewhere = |name: &Name| matches!(name, Name::Retention | Name::Progress);
    let all: Vec<Name> = all.filter(|name| !is_elsewhere(name)).collect();
    assert_eq!(names, all);
}

#[test]
fn a_poller_has_no_checks_of_slots_and_keep_none_of_marks() {
    let poll = Report::complete(Vec::new(), &config("poll", "mark"));
    assert!(poll.checks.iter().all(|it| it.name != Name::Slot));
    assert!(poll.checks.iter().any(|it| it.name == Name::Triggers));
    let keep = Report::complete(Vec::new(), &config("slot", "keep"));
    assert!(keep.checks.iter().all(|it| it.name != Name::Triggers));
}

#[test]
fn the_worst_verdict_is_that_of_the_report_and_what_cannot_be_said_is_none() {
    let verdict = |checks: Vec<Check>| Report { checks }.verdict();
    let ok = Check::ok(Name::Clock, "same");
    let unseen = Check::cannot_say(Name::Wal, "no right", "GRANT");
    let warning = Check::warning(Name::Tls, "none", "set it");
    assert_eq!(verdict(vec![ok.clone(), unseen.clone()]), Verdict::Ok);
    assert_eq!(verdict(vec![ok, warning.clone()]), Verdict::Warning);
    let fails = Check::fails(Name::Slot, "lost", "heal");
    assert_eq!(
        verdict(vec![warning, fails.clone(), unseen]),
        Verdict::Fails
    );
    let json = serde_json::to_value(&fails).unwrap();
    let expected = serde_json::json!({
        "side": "postgres", "check": "slot", "verdict": "fails", "reason": "lost", "fix": "heal",
    });
    assert_eq!(json, expected);
}
