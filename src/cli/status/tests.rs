use std::time::Duration;

use outboxd::OpenDeadLetters;
use serde_json::json;

use super::*;

fn instance(not_ready: Option<&str>, status: Value) -> Instance {
    Instance {
        address: "127.0.0.1:9464".to_owned(),
        error: None,
        ready: Some(not_ready.is_none()),
        not_ready: not_ready.map(str::to_owned),
        status: Some(status),
    }
}

fn silent() -> Instance {
    Instance {
        error: Some("no outboxd answers at 127.0.0.1:9464: refused".to_owned()),
        ready: None,
        status: None,
        ..instance(None, Value::Null)
    }
}

fn report(database: DatabaseSide, instance: Option<Instance>) -> Report {
    Report::new("now".to_owned(), database, instance, None)
}

fn with_problem() -> DatabaseSide {
    DatabaseSide {
        problems: vec![Finding::new("no process reads it", "is outboxd running?")],
        ..DatabaseSide::default()
    }
}

fn lines(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(Finding::line).collect()
}

#[test]
fn health_needs_both_sides_and_a_problem_of_either_outweighs_what_is_not_known() {
    let well = || Some(instance(None, json!({"phase": "streaming"})));
    let cut_off = DatabaseSide {
        error: Some(Finding::plain("refused")),
        ..DatabaseSide::default()
    };
    let waits = || Some(instance(Some("waiting for kafka for 61 s"), json!({})));
    for (database, instance, healthy) in [
        (DatabaseSide::default(), well(), Some(true)),
        (DatabaseSide::default(), None, Some(true)),
        (DatabaseSide::default(), Some(silent()), None),
        (cut_off.clone(), well(), None),
        (cut_off.clone(), waits(), Some(false)),
        (with_problem(), well(), Some(false)),
        (with_problem(), Some(silent()), Some(false)),
        (DatabaseSide::default(), waits(), Some(false)),
    ] {
        let report = report(database, instance);
        assert_eq!(report.healthy, healthy, "{report:?}");
        assert_eq!(report.verdict().is_ok(), healthy == Some(true));
    }
}

#[test]
fn a_report_says_when_the_database_judges_alone() {
    let judge = |instance| report(DatabaseSide::default(), instance).judged_by;
    assert_eq!(judge(None), "database alone");
    assert_eq!(judge(Some(silent())), "database and outboxd");
}

#[test]
fn dead_letters_and_short_waits_deserve_attention_and_are_not_unhealthy() {
    let mut open = OpenDeadLetters::default();
    (open.open, open.oldest_seconds) = (2, Some(130.0));
    let database = DatabaseSide {
        dead_letters: Some(open),
        ..DatabaseSide::default()
    };
    let status = json!({
        "waiting": {"on": "kafka", "detail": "topic orders", "seconds": 12.4},
        "in_flight_records": 3,
        "troubles": [{"name": "topics-parked", "detail": "one topic", "remedy": "retry"}],
    });
    let found = report(database, Some(instance(None, status)));
    assert_eq!(found.healthy, Some(true));
    assert_eq!(
        lines(&found.attention),
        [
            "waiting for kafka for 12 s: topic orders; 3 events in flight",
            "topics-parked: one topic (retry)",
            "dead letters: 2 open, the oldest for 2 min (`outboxd dead-letter summary` names \
             topics and reasons)",
        ]
    );
}

#[test]
fn what_keeps_it_from_being_ready_is_told_once_and_the_wait_for_another_instance_never() {
    let status = json!({
        "waiting": {"on": "kafka", "detail": "topic orders", "seconds": 70.0},
        "troubles": [{"name": "not-published", "detail": "row filter", "remedy": "drop it"}],
    });
    let not_ready = "not-published: row filter (drop it); waiting for kafka: topic orders";
    let found = report(
        DatabaseSide::default(),
        Some(instance(Some(not_ready), status)),
    );
    assert_eq!(lines(&found.attention), [""; 0]);
    assert_eq!(found.problems.len(), 1);
    let standby = json!({"waiting": {"on": "lock", "detail": "pid 7", "seconds": 900.0}});
    let found = report(DatabaseSide::default(), Some(instance(None, standby)));
    assert_eq!(lines(&found.attention), [""; 0]);
}

#[test]
fn an_outboxd_of_another_server_says_nothing_about_this_one() {
    let database = DatabaseSide {
        system_id: Some(7),
        ..DatabaseSide::default()
    };
    let theirs = instance(Some("waiting"), json!({"system_id": "8"}));
    let found = report(database.clone(), Some(theirs));
    assert_eq!(found.healthy, None);
    assert!(lines(&found.unknown)[0].contains("reads another server"));
    let ours = instance(None, json!({"system_id": "7"}));
    assert_eq!(report(database, Some(ours)).healthy, Some(true));
}

#[test]
fn rates_come_from_two_samples_and_a_counter_that_fell_has_none() {
    let at = Instant::now();
    let sample = |seconds, published, wal_bytes| Sample {
        at: at + Duration::from_secs(seconds),
        published,
        wal_bytes,
    };
    let earlier = sample(0, Some(100), Some(1_000));
    let rates = sample(2, Some(150), Some(5_000)).since(&earlier);
    assert_eq!(rates.events_per_second, Some(25.0));
    assert_eq!(rates.wal_bytes_per_second, Some(2_000.0));
    let rates = sample(4, Some(3), None).since(&earlier);
    assert_eq!(
        (rates.events_per_second, rates.wal_bytes_per_second),
        (None, None)
    );
}
