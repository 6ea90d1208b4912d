//! The table of SQLSTATEs, row by row.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::error::Disposition::{Fatal, Transient};
use crate::postgres::slot::{classify_replication, needs_replication};

fn server(code: &str) -> ServerError {
    ServerError {
        severity: "ERROR".into(),
        code: code.into(),
        message: "refused".into(),
        detail: Some("Failing row contains (4711)".into()),
        ..ServerError::default()
    }
}

#[test]
fn every_state_that_the_matrix_names_has_its_code_and_disposition() {
    let expected = [
        ("08000", Code::Connect, Transient),
        ("08006", Code::Connect, Transient),
        ("08P01", Code::Connect, Fatal),
        ("0A000", Code::Config, Fatal),
        ("22023", Code::Config, Fatal),
        ("22P02", Code::Write, Fatal),
        ("23514", Code::Write, Fatal),
        ("25006", Code::Connect, Transient),
        ("25P03", Code::Connect, Transient),
        ("28000", Code::Connect, Fatal),
        ("28P01", Code::Connect, Fatal),
        ("3D000", Code::Connect, Fatal),
        ("3F000", Code::Config, Fatal),
        ("40001", Code::Write, Transient),
        ("40P01", Code::Write, Transient),
        ("42501", Code::Config, Fatal),
        ("42601", Code::Config, Fatal),
        ("42703", Code::Config, Fatal),
        ("42704", Code::Slot, Fatal),
        ("42710", Code::Slot, Transient),
        ("42P01", Code::Config, Fatal),
        ("53100", Code::Connect, Transient),
        ("53200", Code::Connect, Transient),
        ("53300", Code::Connect, Transient),
        ("53400", Code::Slot, Fatal),
        ("54000", Code::Write, Fatal),
        ("55000", Code::Slot, Fatal),
        ("55006", Code::Slot, Transient),
        ("55P03", Code::Write, Transient),
        ("57014", Code::Write, Transient),
        ("57P01", Code::Connect, Transient),
        ("57P02", Code::Connect, Transient),
        ("57P03", Code::Connect, Transient),
        ("57P04", Code::Connect, Fatal),
        ("58030", Code::Connect, Transient),
        ("58P01", Code::Slot, Fatal),
        ("P0001", Code::Write, Fatal),
        ("XX000", Code::Replication, Transient),
        ("XX001", Code::Replication, Fatal),
        ("ZZ999", Code::Write, Transient),
    ];
    for (state, code, disposition) in expected {
        let error = classify("doing it", server(state));
        assert_eq!(
            (error.code(), error.disposition()),
            (code, disposition),
            "{state}"
        );
    }
}

#[test]
fn a_missing_right_is_replication_only_where_a_command_needs_it() {
    let hint = |error: &Error| error.hint().unwrap_or_default().to_owned();
    let plain = hint(&classify("granting", server("42501")));
    assert!(
        !plain.contains("REPLICATION") && plain.contains("doctor"),
        "{plain}"
    );
    let needs = "the role needs REPLICATION";
    let command = classify_replication("streaming", server("42501"));
    assert!(hint(&command).starts_with(needs), "{command:?}");
    let function = needs_replication(classify("dropping a slot", server("42501")));
    assert!(hint(&function).starts_with(needs), "{function:?}");
    let other = classify_replication("streaming", server("55006"));
    assert!(!hint(&other).contains(needs), "{other:?}");
}

#[test]
fn every_fatal_state_says_what_to_do() {
    for rule in RULES.iter().filter(|rule| rule.disposition == Fatal) {
        let state = format!("{:0<5}", rule.state);
        assert!(
            classify("doing it", server(&state)).hint().is_some(),
            "{state}"
        );
    }
}

#[test]
fn no_state_has_two_rules() {
    let mut states: Vec<_> = RULES.iter().map(|rule| rule.state).collect();
    states.sort_unstable();
    states.dedup();
    assert_eq!(states.len(), RULES.len());
}

#[test]
fn a_detail_that_may_quote_a_row_is_not_printed_and_one_about_a_slot_is() {
    let row = classify("marking rows", server("23514")).report();
    assert!(!row.contains("4711"), "{row}");
    let slot = ServerError {
        detail: Some("This slot has been invalidated".into()),
        ..server("55000")
    };
    let slot = classify("starting replication", slot).report();
    assert!(
        slot.contains("This slot has been invalidated (SQLSTATE 55000)"),
        "{slot}"
    );
}

#[test]
fn where_the_table_has_no_advice_the_servers_own_is_passed_on() {
    let advised = ServerError {
        hint: Some("Retry it.".into()),
        ..server("40001")
    };
    assert_eq!(classify("doing it", advised).hint(), Some("Retry it."));
}

/// The states of `all` for which the predicate holds.
fn holding(all: &[&'static str], predicate: fn(&ServerError) -> bool) -> Vec<&'static str> {
    let states = all.iter().copied();
    states.filter(|state| predicate(&server(state))).collect()
}

#[test]
fn only_what_the_server_fails_at_while_it_decodes_is_undecodable() {
    let all = [
        "22021", "54000", "54001", "XX000", "XX001", "08006", "42704", "55000", "57014", "57P01",
    ];
    let undecodable = holding(&all, ServerError::is_undecodable);
    assert_eq!(undecodable, ["22021", "54000", "54001", "XX000", "XX001"]);
    assert!(all.iter().all(|state| {
        let of_a_statement = fails_at_data(SqlState::from_code(state).code());
        of_a_statement == undecodable.contains(state)
    }));
}

#[test]
fn only_what_a_row_can_cause_is_a_rows_fault() {
    let all = [
        "54000", "XX000", "22003", "22P05", "54001", "XX001", "42P01", "57014", "08006",
    ];
    let unprintable = holding(&all, ServerError::is_unprintable_row);
    assert_eq!(unprintable, ["54000", "XX000", "22003", "22P05", "XX001"]);
}

#[test]
fn a_slot_or_publication_that_is_not_there_and_one_that_cannot_be_used_have_a_state_each() {
    let all = ["42704", "42P01", "42703", "55000", "55006"];
    assert_eq!(holding(&all, ServerError::is_undefined_object), ["42704"]);
    let unusable = holding(&all, ServerError::is_not_in_prerequisite_state);
    assert_eq!(unusable, ["55000"]);
}

#[test]
fn a_servers_error_is_found_only_where_it_is_the_cause() {
    let error = Error::fatal(Code::Write, "reading").with_source(server("54000"));
    assert_eq!(ServerError::of(&error), Some(&server("54000")));
    assert_eq!(
        ServerError::of(&Error::fatal(Code::Write, "no cause")),
        None
    );
}

#[test]
fn a_message_that_quotes_a_value_is_kept_without_it() {
    let shown = |state, message| without_values(state, message);
    for (state, message, expected) in [
        (
            "22P02",
            "invalid input syntax for type integer: \"4111 \"secret\"\"",
            "invalid input syntax for type integer: \"…\"",
        ),
        (
            "22003",
            "value \"4111\" is out of range for type integer",
            "value \"…\" is out of range for type integer",
        ),
        ("22007", "cut: \"4111", "cut: \"…\""),
        ("22012", "division by zero", "division by zero"),
        (
            "22023",
            "invalid value for parameter \"TimeZone\": \"x\"",
            "invalid value for parameter \"TimeZone\": \"x\"",
        ),
        (
            "23514",
            "new row for relation \"outbox\" violates check constraint \"c\"",
            "new row for relation \"outbox\" violates check constraint \"c\"",
        ),
    ] {
        assert_eq!(shown(state, message), expected);
    }
}
