//! The page of metrics, as a scraper gets it.

use super::*;
use crate::status::{Problem, SlotHealth, Status, Waiting};

/// What every series of the page says.
const COMMON: &str = "database=\"orders\",slot=\"outboxd_orders\"";

fn metrics() -> Metrics {
    Metrics::new("orders", "outboxd_orders")
}

fn status() -> Status {
    let names = ("outboxd_orders".to_owned(), "outboxd".to_owned());
    Status::new(String::new(), Some(names), "outbox.outbox")
}

fn slot() -> SlotHealth {
    SlotHealth {
        lag_bytes: 1,
        retained_bytes: 2,
        safe_wal_size: Some(3),
        wal_status: Some("reserved".to_owned()),
        wal_bytes_per_second: Some(4.5),
        seconds_until_lost: Some(5.5),
        active: true,
    }
}

/// A line such as `name{label="value"} 1`, without the labels that every series has.
fn has(metrics: &Metrics, line: &str) {
    let text = metrics.render(TextFormat::OpenMetrics);
    let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap_or(line.len()));
    let wanted = match rest.strip_prefix('{') {
        Some(labels) => format!("{name}{{{COMMON},{labels}"),
        None => format!("{name}{{{COMMON}}}{rest}"),
    };
    assert!(
        text.lines().any(|found| found == wanted),
        "{wanted} is not in\n{text}"
    );
}

fn is_shown(metrics: &Metrics, name: &str) -> bool {
    let sample = |line: &str| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with([' ', '{']))
    };
    metrics.render(TextFormat::OpenMetrics).lines().any(sample)
}

/// The series that are known before a session, a slot and an event.
const FROM_THE_START: [&str; 33] = [
    ERRORS,
    IN_FLIGHT_RECORDS,
    IN_FLIGHT_BYTES,
    OLDEST_UNACKNOWLEDGED,
    WRITE_BACK_PENDING,
    RECONNECTS,
    SLOT_BOOTSTRAPS,
    SLOT_HEALS,
    TRANSACTIONS,
    PARTITION_REWINDS,
    PRODUCER_REPLACEMENTS,
    LOG_LINES_DROPPED,
    BUILD_INFO,
    WAITING,
    MISSED_EVENTS,
    MISSED_EVENTS_OPEN,
    AUDITS,
    VERIFY_EVENTS,
    VERIFY_COMPLETED,
    VERIFY_FAILURES,
    TROUBLES,
    READY,
    ROLE,
    PHASE,
    CPU_SECONDS,
    RESIDENT_MEMORY,
    VIRTUAL_MEMORY,
    OPEN_FDS,
    MAX_FDS,
    START_TIME,
    "outboxd_write_back_duration_seconds_bucket",
    "outboxd_write_back_duration_seconds_sum",
    "outboxd_write_back_duration_seconds_count",
];

#[test]
fn every_series_is_there_from_the_start_unless_its_value_is_not_known() {
    let metrics = metrics();
    metrics.show(&status());
    for name in FROM_THE_START {
        assert!(is_shown(&metrics, name), "{name}");
    }
    for code in Code::ALL {
        has(
            &metrics,
            &format!("outbox_errors_total{{code=\"{code}\"}} 0"),
        );
    }
    for wait in crate::status::WAITS {
        has(
            &metrics,
            &format!("outboxd_waiting_seconds{{wait=\"{wait}\"}} 0.0"),
        );
    }
    for problem in crate::status::PROBLEMS {
        has(
            &metrics,
            &format!("outboxd_trouble{{trouble=\"{problem}\"}} 0"),
        );
    }
    has(&metrics, "outboxd_phase{phase=\"connecting\"} 1");
    has(&metrics, "outboxd_phase{phase=\"streaming\"} 0");
    has(&metrics, "outboxd_role{role=\"active\"} 0");
    has(&metrics, "outboxd_role{role=\"standby\"} 0");
    has(&metrics, "outboxd_ready 0");
}

#[test]
fn every_named_metric_is_there_once_it_has_a_value() {
    let metrics = metrics();
    let topic = metrics.topic("orders");
    topic.published(7);
    topic.published(8);
    topic.failed(1);
    topic.observe(0.003);
    metrics.error(Code::Publish);
    metrics.errors_by(Code::Write, 3);
    metrics.published_at(12.5);
    metrics.marked(Duration::from_millis(3));
    let mut status = status();
    status.phase = Phase::Streaming;
    status.kafka_has_answered = true;
    status.slot_health = Some(slot());
    status.waiting = Some(Waiting {
        on: "kafka",
        detail: String::new(),
        seconds: 1.5,
    });
    status.dead_letters.states.insert("dead".to_owned(), 4);
    status.unpublished_rows = Some(6);
    status.audits_total = 2;
    metrics.show(&status);
    has(&metrics, "outboxd_ready 1");
    status.problems = vec![Problem {
        name: "not-published",
        detail: String::new(),
        hint: String::new(),
        loses_events: true,
    }];
    metrics.show(&status);
    let histogram = "outbox_processing_duration_seconds_count";
    let known = [
        EVENTS_PROCESSED,
        PUBLISHED_BYTES,
        histogram,
        SLOT_LAG,
        RETAINED_WAL,
        SAFE_WAL_SIZE,
        WAL_STATUS,
        SLOT_ACTIVE,
        DEAD_LETTERS,
        UNPUBLISHED_ROWS,
    ];
    for name in FROM_THE_START.iter().chain(&known) {
        assert!(is_shown(&metrics, name), "{name}");
    }
    let events = "outbox_events_processed_total{topic=\"orders\"";
    has(&metrics, &format!("{events},status=\"published\"}} 2"));
    has(&metrics, &format!("{events},status=\"failed\"}} 1"));
    for line in [
        "outboxd_published_bytes_total{topic=\"orders\"} 15",
        "outbox_errors_total{code=\"PUBLISH_ERROR\"} 1",
        "outbox_errors_total{code=\"WRITE_ERROR\"} 3",
        "outboxd_last_published_timestamp_seconds 12.5",
        "outboxd_write_back_duration_seconds_count 1",
        "outboxd_wal_status{status=\"reserved\"} 1",
        "outboxd_wal_status{status=\"lost\"} 0",
        "outboxd_wal_bytes_per_second 4.5",
        "outboxd_slot_until_lost_seconds 5.5",
        "outboxd_trouble{trouble=\"not-published\"} 1",
        "outboxd_waiting_seconds{wait=\"kafka\"} 1.5",
        "outboxd_dead_letters{state=\"dead\"} 4",
        "outboxd_audits_total 2",
        "outboxd_unpublished_rows 6",
        "outboxd_role{role=\"active\"} 1",
        "outboxd_phase{phase=\"streaming\"} 1",
        "outboxd_ready 0",
    ] {
        has(&metrics, line);
    }
    assert!(
        metrics
            .render(TextFormat::OpenMetrics)
            .ends_with("\n# EOF\n")
    );
}

/// OpenMetrics forbids it, and strict parsers refuse the whole page.
#[test]
fn no_two_families_share_a_name() {
    let metrics = metrics();
    let page = metrics.render(TextFormat::OpenMetrics);
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut names: Vec<&str> = types.filter_map(|it| it.split(' ').next()).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert!(names.len() == count && count > 20, "{names:?}");
    assert!(!page.contains("_total_total") && !names.iter().any(|it| it.ends_with("_total")));
}

#[test]
fn a_state_that_ends_goes_back_to_0() {
    let metrics = metrics();
    let mut status = status();
    let problem = |name| Problem {
        name,
        detail: String::new(),
        hint: String::new(),
        loses_events: true,
    };
    status.problems = vec![problem("table-missing"), problem("not-on-the-list")];
    metrics.show(&status);
    has(&metrics, "outboxd_trouble{trouble=\"table-missing\"} 1");
    has(&metrics, "outboxd_trouble{trouble=\"not-on-the-list\"} 1");
    status.problems.clear();
    metrics.show(&status);
    has(&metrics, "outboxd_trouble{trouble=\"table-missing\"} 0");
    has(&metrics, "outboxd_trouble{trouble=\"not-on-the-list\"} 0");
}

#[test]
fn an_instance_that_waits_for_the_other_is_ready_and_shows_nothing_of_when_it_published() {
    let metrics = metrics();
    let mut status = status();
    status.phase = Phase::Streaming;
    status.dead_letters.states.insert("dead".to_owned(), 4);
    status.problems = vec![Problem {
        name: "table-missing",
        detail: String::new(),
        hint: String::new(),
        loses_events: true,
    }];
    status.missed_events = 3;
    status.unpublished_rows = Some(5);
    metrics.show(&status);
    has(&metrics, "outboxd_unpublished_rows 5");
    has(&metrics, "outboxd_dead_letters{state=\"dead\"} 4");
    has(&metrics, "outboxd_missed_events_open 3");
    status.phase = Phase::Standby;
    metrics.show(&status);
    assert!(!is_shown(&metrics, DEAD_LETTERS));
    assert!(!is_shown(&metrics, UNPUBLISHED_ROWS));
    has(&metrics, "outboxd_trouble{trouble=\"table-missing\"} 0");
    has(&metrics, "outboxd_missed_events_open 0");
    has(&metrics, "outboxd_role{role=\"standby\"} 1");
    has(&metrics, "outboxd_role{role=\"active\"} 0");
    has(&metrics, "outboxd_ready 1");
}

#[test]
fn durations_fall_into_buckets_from_half_a_millisecond_to_a_minute() {
    let metrics = metrics();
    let topic = metrics.topic("orders");
    for seconds in [-1.0, 0.0004, 0.003, 59.0, 600.0] {
        topic.observe(seconds);
    }
    let bucket = |le: &str, count: u32| {
        let name = "outbox_processing_duration_seconds_bucket";
        has(
            &metrics,
            &format!("{name}{{le=\"{le}\",topic=\"orders\"}} {count}"),
        );
    };
    bucket("0.0005", 2);
    bucket("0.005", 3);
    bucket("60.0", 4);
    bucket("+Inf", 5);
}

#[test]
fn topics_beyond_the_limit_share_one_label() {
    let metrics = metrics();
    for i in 0..TOPICS_MAX + 50 {
        metrics.topic(&format!("t{i}")).published(1);
    }
    metrics.topic("t0").published(1);
    has(
        &metrics,
        "outbox_events_processed_total{topic=\"t0\",status=\"published\"} 2",
    );
    has(
        &metrics,
        "outbox_events_processed_total{topic=\"(other)\",status=\"published\"} 50",
    );
    let text = metrics.render(TextFormat::OpenMetrics);
    let topics = text
        .lines()
        .filter(|line| line.contains("status=\"published\""))
        .count();
    assert_eq!(topics, TOPICS_MAX + 1);
}

#[test]
fn what_is_no_longer_known_is_absent_and_not_stale() {
    let metrics = metrics();
    let mut status = status();
    status.slot_health = Some(SlotHealth {
        wal_status: Some("extended".to_owned()),
        ..slot()
    });
    metrics.show(&status);
    status.slot_health = Some(SlotHealth {
        safe_wal_size: None,
        wal_status: Some("lost".to_owned()),
        ..slot()
    });
    metrics.show(&status);
    has(&metrics, "outboxd_slot_lag_bytes 1");
    let text = metrics.render(TextFormat::OpenMetrics);
    assert!(!text.contains("outboxd_safe_wal_size_bytes 3"), "{text}");
    assert!(
        text.contains("status=\"extended\"} 0") && text.contains("status=\"lost\"} 1"),
        "{text}"
    );
    status.slot_health = None;
    metrics.show(&status);
    let text = metrics.render(TextFormat::OpenMetrics);
    let shown = |name: &&str| text.lines().any(|line| line.starts_with(name));
    let slot = [SLOT_LAG, RETAINED_WAL, WAL_STATUS, SLOT_ACTIVE];
    assert_eq!(slot.iter().find(|name| shown(name)), None, "{text}");
}

#[test]
fn no_name_can_break_the_format() {
    let odd = Metrics::new("a\"b", "c\\d\ne");
    let page = odd.render(TextFormat::OpenMetrics);
    let line = "outboxd_ready{database=\"a\\\"b\",slot=\"c\\\\d\\ne\"} 0";
    assert!(page.lines().any(|found| found == line), "{page}");
    let metrics = metrics();
    metrics.topic("a\"b\\c\nd").published(1);
    has(
        &metrics,
        "outbox_events_processed_total{topic=\"a\\\"b\\\\c\\nd\",status=\"published\"} 1",
    );
}
