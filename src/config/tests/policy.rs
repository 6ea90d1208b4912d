//! Settings that depend on each other, units, and default names.

use super::*;

#[test]
fn keeping_rows_skips_the_backlog_and_does_not_go_with_publishing_it() {
    let config = build(with("after_publish", "keep")).unwrap();
    assert_eq!(
        (config.after_publish, config.backlog),
        (AfterPublish::Keep, Backlog::Skip)
    );
    let error = only_error(build(
        with("backlog", "publish").or(with("after_publish", "keep")),
    ));
    assert!(
        error.starts_with("OUTBOX_BACKLOG cannot be publish with"),
        "{error}"
    );
    build(with("backlog", "halt").or(with("after_publish", "keep"))).unwrap();
}

#[test]
fn a_lost_slot_is_healed_unless_nothing_is_marked_or_a_person_wants_to_decide() {
    for after_publish in ["mark", "delete"] {
        let config = build(with("after_publish", after_publish)).unwrap();
        assert_eq!(config.on_slot_loss, OnSlotLoss::Heal);
    }
    let halts = with("on_slot_loss", "halt");
    assert_eq!(build(halts).unwrap().on_slot_loss, OnSlotLoss::Halt);
    let keeps = with("after_publish", "keep");
    assert_eq!(build(keeps).unwrap().on_slot_loss, OnSlotLoss::Halt);
    let error = only_error(build(
        with("on_slot_loss", "heal").or(with("after_publish", "keep")),
    ));
    assert!(
        error.starts_with("OUTBOX_ON_SLOT_LOSS cannot be heal with OUTBOX_AFTER_PUBLISH=keep"),
        "{error}"
    );
}

#[test]
fn polling_goes_with_marks_and_deletes_and_with_nothing_that_is_about_a_slots_making() {
    assert_eq!(build(valid()).unwrap().source, Source::Slot);
    for after_publish in ["mark", "delete"] {
        let settings = with("source", "poll").or(with("after_publish", after_publish));
        assert_eq!(build(settings).unwrap().source, Source::Poll);
    }
    let polls = |name, value| only_error(build(with(name, value).or(with("source", "poll"))));
    let error = polls("after_publish", "keep");
    assert!(
        error.starts_with("OUTBOX_AFTER_PUBLISH cannot be keep with OUTBOX_SOURCE=poll"),
        "{error}"
    );
    for backlog in ["skip", "halt"] {
        let error = polls("backlog", backlog);
        assert!(
            error.starts_with("OUTBOX_BACKLOG cannot be skip or halt with OUTBOX_SOURCE=poll"),
            "{error}"
        );
    }
    build(with("backlog", "publish").or(with("source", "poll"))).unwrap();
}

#[test]
fn old_rows_are_deleted_where_a_mark_tells_what_is_published() {
    assert_eq!(build(valid()).unwrap().retain, None);
    assert_eq!(build(with("retain", "off")).unwrap().retain, None);
    let config = build(with("retain", "7d").or(with("source", "poll"))).unwrap();
    assert_eq!(config.retain, Some(Duration::from_secs(7 * 86_400)));
    assert_eq!(config.retain_partitions, OldPartitions::Drop);
    let detach = with("retain", "1h").or(with("retain_partitions", "detach"));
    let detach = build(detach).unwrap().retain_partitions;
    assert_eq!(detach, OldPartitions::Detach);
    assert_eq!(config.retain_share, None);
    for (text, thousandths) in [("0.1%", 1), ("2.5 %", 25), ("50%", 500)] {
        let config = build(with("retain", "7d").or(with("retain_share", text))).unwrap();
        assert_eq!(config.retain_share, Some(thousandths), "{text}");
    }
    for text in [
        "0%",
        "51%",
        "2",
        "1.25%",
        "-1%",
        "+1%",
        ".5%",
        "%",
        "99999999999%",
    ] {
        let found = only_error(build(with("retain", "7d").or(with("retain_share", text))));
        assert!(found.contains("from 0.1% to 50%"), "{text}: {found}");
    }
    for (settings, error) in [
        (with("retain", "59m"), "OUTBOX_RETAIN `59m` is out of range"),
        (
            with("retain", "7d").or(with("after_publish", "keep")),
            "OUTBOX_RETAIN does not go with OUTBOX_AFTER_PUBLISH=keep: no row shows",
        ),
        (
            with("retain", "7d").or(with("after_publish", "delete")),
            "OUTBOX_RETAIN does not go with OUTBOX_AFTER_PUBLISH=delete",
        ),
        (
            with("retain_partitions", "detach"),
            "OUTBOX_RETAIN_PARTITIONS says nothing without OUTBOX_RETAIN",
        ),
        (
            with("retain_share", "5%"),
            "OUTBOX_RETAIN_SHARE says nothing without OUTBOX_RETAIN",
        ),
    ] {
        let found = only_error(build(settings));
        assert!(found.starts_with(error), "{found}");
    }
}

#[test]
fn a_start_position_goes_with_a_slot_and_rows_that_are_kept() {
    let keeps = || with("start_lsn", "16/B374D848").or(with("after_publish", "keep"));
    let start = build(keeps()).unwrap().start_lsn;
    assert_eq!(
        start.map(|lsn| lsn.to_string()).as_deref(),
        Some("16/B374D848")
    );
    assert_eq!(build(valid()).unwrap().start_lsn, None);
    for mode in ["mark", "delete"] {
        let other = with("start_lsn", "0/1").or(with("after_publish", mode));
        let error = only_error(build(other));
        assert!(
            error.starts_with("OUTBOX_START_LSN goes only with OUTBOX_AFTER_PUBLISH=keep"),
            "{error}"
        );
    }
    let error = only_error(build(with("start_lsn", "0/1").or(with("source", "poll"))));
    assert!(
        error.starts_with("OUTBOX_START_LSN does not go with OUTBOX_SOURCE=poll"),
        "{error}"
    );
    for wrong in ["0/0", "16", "16-B374D848"] {
        let error = only_error(build(
            with("start_lsn", wrong).or(with("after_publish", "keep")),
        ));
        assert!(error.contains("is no position in the WAL"), "{error}");
    }
}

#[test]
fn the_brokers_may_be_missing_where_only_postgres_is_asked() {
    let settings = Settings {
        kafka_brokers: None,
        ..valid()
    };
    assert!(only_error(build(settings.clone())).starts_with("KAFKA_BROKERS is not set"));
    assert_eq!(
        Config::build(settings, false, &nothing).unwrap().brokers,
        ""
    );
}

#[test]
fn sizes_and_times_have_the_units_that_people_write() {
    for (text, bytes) in [
        ("1048576", 1 << 20),
        ("2 MiB", 2 << 20),
        ("1gib", 1 << 30),
        ("20MB", 20_000_000),
    ] {
        assert_eq!(
            build(with("memory_limit", text)).unwrap().memory_limit,
            bytes,
            "{text}"
        );
    }
    for (text, ms) in [
        ("500ms", 500),
        ("5s", 5_000),
        ("1m", 60_000),
        ("1h", 3_600_000),
    ] {
        let interval = build(with("process_interval", text))
            .unwrap()
            .process_interval;
        assert_eq!(interval, Duration::from_millis(ms), "{text}");
    }
}

#[test]
fn a_default_slot_is_a_valid_name_and_two_long_names_stay_apart() {
    let slot = |database: &str| {
        let slot = parse::default_slot(database, &TableName::default());
        parse::slot_name(&slot).unwrap_or_else(|wrong| panic!("{database}: {wrong:?}"));
        slot
    };
    assert_eq!(slot("orders"), "outboxd_orders");
    assert_eq!(slot("Orders-EU.1"), "outboxd_orders_eu_1");
    assert_eq!(slot("bücher"), "outboxd_b_cher");
    assert_eq!(slot(&"x".repeat(55)).len(), 63);
    let (a, b) = (
        format!("{}a", "x".repeat(62)),
        format!("{}b", "x".repeat(62)),
    );
    assert_eq!(slot(&a).len(), 63);
    assert_ne!(slot(&a), slot(&b));
}

#[test]
fn two_tables_never_have_the_same_default_slot() {
    let tables = [
        ("outbox", "outbox"),
        ("billing", "outbox"),
        ("billing", "outbox_2"),
        ("billing_outbox", "2"),
        ("Billing", "outbox"),
        ("billing", "Outbox"),
        ("bill", "ing_outbox"),
        ("bücher", "outbox"),
        ("b\u{e0}cher", "outbox"),
        ("a_b", "c"),
        ("a", "b_c"),
    ];
    let slot = |(schema, name): (&str, &str)| {
        let table = TableName {
            schema: schema.to_owned(),
            name: name.to_owned(),
        };
        let slot = parse::default_slot("orders", &table);
        parse::slot_name(&slot).unwrap_or_else(|wrong| panic!("{slot}: {wrong:?}"));
        slot
    };
    assert_eq!(slot(("outbox", "outbox")), "outboxd_orders");
    assert_eq!(slot(("billing", "outbox")), "outboxd_orders_billing_outbox");
    let slots: std::collections::BTreeSet<String> = tables.into_iter().map(slot).collect();
    assert_eq!(slots.len(), tables.len(), "{slots:?}");
    let long = "x".repeat(60);
    assert_ne!(slot((&long, "a")), slot((&long, "b")));
}

#[test]
fn two_tables_never_have_the_same_default_publication() {
    let publication = |schema: &str, name: &str| {
        let table = TableName {
            schema: schema.to_owned(),
            name: name.to_owned(),
        };
        let publication = parse::default_publication(&table);
        parse::name_of("publication", &publication)
            .unwrap_or_else(|wrong| panic!("{publication}: {wrong:?}"))
    };
    assert_eq!(publication("outbox", "outbox"), "outboxd");
    assert_eq!(publication("billing", "outbox"), "outboxd_billing_outbox");
    let long = "x".repeat(60);
    let all: std::collections::BTreeSet<String> = [
        ("outbox", "outbox"),
        ("outbox", "events"),
        ("a_b", "c"),
        ("a", "b_c"),
        ("a", "B_c"),
        (&long, "a"),
        (&long, "b"),
    ]
    .map(|(schema, name)| publication(schema, name))
    .into();
    assert_eq!(all.len(), 7, "{all:?}");
}
