//! The sentence for each state, as a person on call reads it.

use super::*;
use crate::status::{DeadLetterGroup, OpenDeadLetters, Pause, Problem, SlotHealth};

fn streaming() -> Status {
    let names = ("outboxd_orders".to_owned(), "outboxd".to_owned());
    let mut status = Status::new(String::new(), Some(names), "outbox.outbox");
    status.phase = Phase::Streaming;
    status.kafka_has_answered = true;
    status.flow.events_per_second = 240.2;
    status.flow.p50_seconds = Some(0.0031);
    status.flow.last_event_seconds = Some(0.1);
    status
}

fn waiting(on: &'static str, seconds: f64) -> Option<Waiting> {
    Some(Waiting {
        on,
        detail: "why".to_owned(),
        seconds,
    })
}

fn letters(open: i64) -> OpenDeadLetters {
    OpenDeadLetters {
        open,
        groups: Vec::<DeadLetterGroup>::new(),
        ..OpenDeadLetters::default()
    }
}

fn problem(loses_events: bool) -> Problem {
    Problem {
        name: "not-published",
        detail: "the table left the publication".to_owned(),
        hint: "put it back".to_owned(),
        loses_events,
    }
}

fn text(status: &Status) -> (Level, String) {
    let headline = Headline::of(status, None);
    (headline.level, headline.text)
}

#[test]
fn events_that_flow_have_a_rate_and_a_latency() {
    let mut status = streaming();
    let expected = "Healthy: 240 events/s, 3 ms behind".to_owned();
    assert_eq!(text(&status), (Level::Healthy, expected));
    status.flow.events_per_second = 0.25;
    status.flow.p50_seconds = None;
    assert_eq!(text(&status).1, "Healthy: 0.2 events/s");
    status.flow.events_per_second = 0.0;
    status.flow.last_event_seconds = Some(241.0);
    assert_eq!(
        text(&status).1,
        "Healthy: idle, the last event was 4 min ago"
    );
    status.flow.last_event_seconds = None;
    assert_eq!(text(&status).1, "Healthy: no event since the start");
}

#[test]
fn a_kafka_that_does_not_answer_is_named_with_what_is_held() {
    let mut status = streaming();
    status.in_flight_records = 2_999;
    status.waiting = waiting("kafka", 4.0);
    assert_eq!(text(&status).0, Level::Healthy);
    for (seconds, level) in [(20.0, Level::Attention), (68.0, Level::Bad)] {
        status.waiting = waiting("kafka", seconds);
        let headline = Headline::of(&status, None);
        assert_eq!(
            (headline.level, headline.detail.as_deref()),
            (level, Some("why"))
        );
    }
    assert_eq!(
        text(&status).1,
        "Kafka has not answered for 1 min; 2\u{202f}999 events are held, nothing is lost"
    );
    status.in_flight_records = 1;
    assert!(
        text(&status)
            .1
            .ends_with("1 event is held, nothing is lost")
    );
    status.kafka_has_answered = false;
    status.waiting = waiting("kafka", 12.0);
    let headline = Headline::of(&status, Some("no Kafka broker has answered yet"));
    assert_eq!(headline.level, Level::Bad);
    assert!(
        headline.text.starts_with("No Kafka broker has answered"),
        "{headline:?}"
    );
}

#[test]
fn dead_letters_and_warnings_call_for_attention_and_leave_it_healthy() {
    let mut status = streaming();
    status.dead_letters = letters(32);
    let headline = Headline::of(&status, None);
    assert_eq!(headline.level, Level::Attention);
    assert_eq!(
        headline.text,
        "Healthy: 240 events/s, 3 ms behind; 32 events are dead letters"
    );
    assert!(
        headline
            .detail
            .is_some_and(|detail| detail.contains("dead-letter summary"))
    );
    status.dead_letters = letters(1);
    assert!(text(&status).1.ends_with("; 1 event is a dead letter"));
    status.dead_letters = letters(0);
    status.problems = vec![problem(false)];
    let headline = Headline::of(&status, None);
    assert_eq!(headline.level, Level::Attention);
    assert!(
        headline
            .detail
            .is_some_and(|detail| detail.contains("put it back"))
    );
}

#[test]
fn a_problem_that_loses_events_comes_before_every_wait() {
    let mut status = streaming();
    status.problems = vec![problem(false), problem(true)];
    status.waiting = waiting("kafka", 600.0);
    let headline = Headline::of(&status, Some("x"));
    assert_eq!(headline.level, Level::Bad);
    assert_eq!(
        headline.text,
        "Events may be missing: the table left the publication"
    );
    assert_eq!(headline.detail.as_deref(), Some("put it back"));
}

#[test]
fn a_server_that_cannot_be_reached_is_bad_after_a_minute() {
    let mut status = streaming();
    status.phase = Phase::Reconnecting;
    status.last_error = Some("CONNECT_ERROR: refused".to_owned());
    for (seconds, level, start) in [
        (1.0, Level::Attention, "Connecting to Postgres"),
        (
            30.0,
            Level::Attention,
            "Postgres has not let outboxd in for 30 s",
        ),
        (
            90.0,
            Level::Bad,
            "Postgres has not let outboxd in for 1 min",
        ),
    ] {
        status.waiting = waiting("postgres", seconds);
        let headline = Headline::of(&status, Some("not connected"));
        assert_eq!(headline.level, level);
        assert!(headline.text.starts_with(start), "{headline:?}");
        assert_eq!(headline.detail, status.last_error);
    }
}

#[test]
fn one_that_stands_by_is_healthy_unless_a_stranger_holds_the_lock() {
    let mut status = streaming();
    status.phase = Phase::Standby;
    status.waiting = waiting("lock", 1e6);
    let expected = "Standing by: another instance publishes".to_owned();
    assert_eq!(text(&status), (Level::Healthy, expected));
    status.waiting = waiting("foreign-lock", 1.0);
    assert_eq!(text(&status).0, Level::Bad);
    for (on, has_detail) in [("lock", true), ("foreign-lock", true), ("postgres", false)] {
        status.waiting = waiting(on, 1.0);
        assert_eq!(
            Headline::of(&status, None).detail.is_some(),
            has_detail,
            "{on}"
        );
    }
}

#[test]
fn every_wait_and_phase_has_a_sentence_of_its_own() {
    let mut seen = std::collections::BTreeSet::new();
    for on in [
        "kafka",
        "write-back",
        "standby",
        "decoding",
        "snapshot",
        "postgres",
        "other",
    ] {
        let mut status = streaming();
        status.waiting = waiting(on, 7.0);
        let (level, text) = text(&status);
        assert_eq!(level, Level::Attention, "{text}");
        assert!(seen.insert(text));
    }
    for phase in [
        Phase::Backlog,
        Phase::Stopping,
        Phase::Stopped,
        Phase::Failed,
    ] {
        let mut status = streaming();
        status.phase = phase;
        assert!(seen.insert(text(&status).1));
    }
}

#[test]
fn what_has_no_name_and_is_not_ready_shows_the_reason() {
    let headline = Headline::of(&streaming(), Some("the loop does not turn"));
    assert_eq!(headline.level, Level::Bad);
    assert_eq!(headline.detail.as_deref(), Some("the loop does not turn"));
}

#[test]
fn a_backlog_says_how_far_it_is_beside_a_wait_that_does_not_hold_it_up() {
    let mut status = streaming();
    status.phase = Phase::Backlog;
    status.published_total = 14_000;
    status.flow.events_per_second = 6_089.4;
    status.waiting = waiting("write-back", 12.0);
    let headline = Headline::of(&status, Some("publishing the backlog"));
    assert_eq!(
        headline.text,
        "Publishing the backlog: 14\u{202f}000 events so far, 6\u{202f}089 a second"
    );
    assert_eq!(
        headline.detail.as_deref(),
        Some("waiting for write-back: why")
    );
    for held_up in [waiting("kafka", 12.0), waiting("write-back", 61.0)] {
        status.waiting = held_up;
        assert!(
            !text(&status).1.starts_with("Publishing"),
            "{:?}",
            text(&status)
        );
    }
}

#[test]
fn a_pause_says_by_whom_and_why_and_what_it_costs() {
    let mut status = streaming();
    status.paused = Some(Pause {
        reason: Some("migration".to_owned()),
        since: "2026-12-01 15:40:02+00".to_owned(),
        by: "alice".to_owned(),
        seconds: 185.0,
    });
    status.slot_health = Some(SlotHealth {
        lag_bytes: 0,
        retained_bytes: 5 << 30,
        safe_wal_size: Some(1 << 30),
        wal_status: None,
        wal_bytes_per_second: None,
        seconds_until_lost: Some(7_200.0),
        active: true,
    });
    let headline = Headline::of(&status, None);
    assert_eq!(headline.level, Level::Attention);
    assert_eq!(headline.text, "Paused by alice for 3 min: migration");
    let cost = "the slot retains 5.0 GiB of WAL, and is lost in 2 h at this rate";
    assert_eq!(headline.detail.as_deref(), Some(cost));
}
