//! Exactly once: its settings, and what does not go with it.

use super::*;
use crate::config::{Answer, RefusalKind};
use crate::lsn::Lsn;

fn exactly_once() -> Settings {
    with("delivery", "exactly-once")
}

#[test]
fn events_are_sent_at_least_once_unless_a_setting_says_otherwise() {
    assert_eq!(build(valid()).unwrap().exactly_once, None);
    let named = with("delivery", "at-least-once");
    assert!(!build(named).unwrap().is_exactly_once());
    let config = build(exactly_once()).unwrap();
    let settings = config.exactly_once.unwrap();
    assert_eq!(settings.commit_interval, Duration::from_millis(50));
    assert_eq!(settings.progress_topic, "outboxd-progress");
    assert_eq!(settings.answer, None);
    let others = (config.backlog, config.on_slot_loss);
    assert_eq!(others, (Backlog::Auto, OnSlotLoss::Halt));
}

#[test]
fn what_is_not_sent_exactly_once_is_refused_with_its_reason() {
    let error = only_error(build(exactly_once().or(with("source", "poll"))));
    let expected = "OUTBOX_SOURCE cannot be poll with OUTBOX_DELIVERY=exactly-once";
    assert!(error.starts_with(expected), "{error}");
    let heals = exactly_once().or(with("on_slot_loss", "heal"));
    let config = build(heals.clone().or(with("headers", "outboxd"))).unwrap();
    assert_eq!(config.on_slot_loss, OnSlotLoss::Heal);
    for headers in ["none", "debezium", "cloudevents"] {
        let error = only_error(build(heals.clone().or(with("headers", headers))));
        let expected = "OUTBOX_ON_SLOT_LOSS cannot be heal with OUTBOX_DELIVERY=exactly-once";
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn each_setting_is_checked() {
    for (name, value, expected) in [
        (
            "delivery",
            "once",
            "OUTBOX_DELIVERY `once` is not one of its choices",
        ),
        (
            "commit_interval",
            "6s",
            "OUTBOX_COMMIT_INTERVAL `6s` is out of range",
        ),
        ("progress_topic", "a b", "OUTBOX_PROGRESS_TOPIC the topic"),
        (
            "accept",
            "slot-ahead",
            "OUTBOX_ACCEPT `slot-ahead` answers no refused start",
        ),
    ] {
        let error = only_error(build(with(name, value)));
        assert!(error.starts_with(expected), "{error}");
    }
    let config = build(exactly_once().or(with("accept", "slot-ahead@0/15222B8"))).unwrap();
    let answer = config.exactly_once.unwrap().answer;
    assert_eq!(
        answer,
        Some(RefusalKind::SlotAhead.at(Lsn::new(0x152_22B8)))
    );
}

#[test]
fn an_answer_is_written_as_it_is_read() {
    for (kind, _) in RefusalKind::ALL {
        let answer = kind.at(Lsn::new(0x152_22B8));
        assert_eq!(answer.to_string().parse(), Ok(answer));
    }
    for wrong in ["", "slot-ahead", "slot-ahead@", "other@0/1", "slot-ahead@1"] {
        assert!(wrong.parse::<Answer>().is_err(), "{wrong}");
    }
}
