//! Settings one by one, and all of them at once.

use super::*;

#[test]
fn defaults_are_those_of_the_manual() {
    let config = build(valid()).unwrap();
    assert_eq!(config.brokers, "kafka.example:9092");
    assert_eq!(config.table.to_string(), "outbox.outbox");
    assert_eq!(
        (config.slot.as_str(), config.publication.as_str()),
        ("outboxd_orders", "outboxd")
    );
    assert_eq!((config.batch_size, config.max_retries), (10, 3));
    assert_eq!(config.process_interval, Duration::from_secs(5));
    assert_eq!(config.operation_timeout, Duration::from_secs(25));
    assert_eq!(
        (config.after_publish, config.backlog),
        (AfterPublish::Mark, Backlog::Auto)
    );
    assert_eq!(config.mapping.key, KeyRule::Column("event_type".to_owned()));
    assert!(!config.auto_create_topics && !config.compresses());
    assert_eq!(config.memory_limit, 16 << 20);
    assert_eq!(config.http_listen.unwrap().to_string(), "127.0.0.1:9464");
    assert_eq!(
        (config.log.as_str(), config.log_format),
        ("info", LogFormat::Text)
    );
    assert_eq!(config.log_summary, Some(Duration::from_secs(60)));
    assert_eq!(config.verify_every, None);
    assert!(config.kafka_properties.is_empty());
}

#[test]
fn every_setting_takes_the_value_that_it_is_given() {
    let config = build(flags(&[
        "--database-url=postgres://u@h/d",
        "--kafka-brokers=[::1]:9092, b",
        "--kafka-properties=linger.ms=5",
        "--table=\"My\"\"Schema\".Events",
        "--slot=mine_1",
        "--publication=Pub",
        "--batch-size=500",
        "--process-interval=250ms",
        "--operation-timeout=2m",
        "--max-retries=7",
        "--after-publish=delete",
        "--backlog=halt",
        "--key=payload:/order/id",
        "--auto-create-topics=true",
        "--memory-limit=64MiB",
        "--http-listen=off",
        "--log=info,outboxd=debug",
        "--log-format=json",
        "--log-summary=off",
        "--verify-every=1h",
    ]))
    .unwrap();
    assert_eq!(config.database.database_name(), "d");
    assert_eq!(config.brokers, "[::1]:9092,b");
    assert_eq!(
        config.kafka_properties,
        [("linger.ms".to_owned(), Secret::new("5".to_owned()))]
    );
    assert_eq!(config.table.quoted(), "\"My\"\"Schema\".\"events\"");
    assert_eq!(
        (config.slot.as_str(), config.publication.as_str()),
        ("mine_1", "Pub")
    );
    assert_eq!((config.batch_size, config.max_retries), (500, 7));
    assert_eq!(config.process_interval, Duration::from_millis(250));
    assert_eq!(config.operation_timeout, Duration::from_secs(120));
    assert_eq!(
        (config.after_publish, config.backlog),
        (AfterPublish::Delete, Backlog::Halt)
    );
    assert_eq!(config.mapping.key, KeyRule::Pointer("/order/id".to_owned()));
    assert!(config.auto_create_topics);
    assert_eq!((config.memory_limit, config.http_listen), (64 << 20, None));
    assert_eq!(config.log, "info,outboxd=debug");
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.log_summary, None);
    assert_eq!(config.verify_every, Some(Duration::from_secs(3_600)));
}

#[test]
fn each_wrong_value_is_named_with_what_to_write() {
    for (name, value, error) in [
        ("kafka_brokers", "kafka", ""),
        (
            "kafka_brokers",
            "PLAINTEXT://a:1",
            "KAFKA_BROKERS the value is not a list of brokers",
        ),
        (
            "kafka_brokers",
            "a:1,,b:2",
            "KAFKA_BROKERS `a:1,,b:2` is not a list of brokers",
        ),
        ("kafka_brokers", "a:0", "KAFKA_BROKERS `a:0`"),
        ("kafka_brokers", "[::1]x", "KAFKA_BROKERS `[::1]x`"),
        (
            "table",
            "outbox",
            "OUTBOX_TABLE `outbox` is not the full name of a table; write schema.",
        ),
        ("table", "a.b.c", "OUTBOX_TABLE `a.b.c`"),
        ("table", "a.\"b", "OUTBOX_TABLE"),
        (
            "table",
            "a.\"\"",
            "OUTBOX_TABLE `` is not the name of a table",
        ),
        (
            "slot",
            "My-Slot",
            "OUTBOX_SLOT `My-Slot` is not a valid slot name; write 1 to 63",
        ),
        (
            "batch_size",
            "0",
            "OUTBOX_BATCH_SIZE `0` is not a whole number in the allowed range; write a whole",
        ),
        ("batch_size", "ten", "OUTBOX_BATCH_SIZE `ten`"),
        (
            "process_interval",
            "5",
            "OUTBOX_PROCESS_INTERVAL `5` is not a time; write numbers",
        ),
        (
            "process_interval",
            "0s",
            "OUTBOX_PROCESS_INTERVAL `0s` is out of range; write a time",
        ),
        (
            "operation_timeout",
            "1d",
            "OUTBOX_OPERATION_TIMEOUT `1d` is out of range",
        ),
        (
            "operation_timeout",
            "99999999999999999h",
            "OUTBOX_OPERATION_TIMEOUT",
        ),
        ("max_retries", "-1", "OUTBOX_MAX_RETRIES `-1`"),
        (
            "after_publish",
            "forget",
            "OUTBOX_AFTER_PUBLISH `forget` is not one of its choices; write mark, delete or keep",
        ),
        (
            "source",
            "wal",
            "OUTBOX_SOURCE `wal` is not one of its choices; write slot or poll",
        ),
        (
            "backlog",
            "all",
            "OUTBOX_BACKLOG `all` is not one of its choices; write publish, skip or",
        ),
        (
            "key",
            "event_type",
            "OUTBOX_KEY `event_type` is not a rule for keys; write column:NAME",
        ),
        (
            "key",
            "column:",
            "OUTBOX_KEY `` is not the name of a column",
        ),
        (
            "key",
            "payload:order",
            "OUTBOX_KEY `payload:order` contains no JSON pointer; begin the",
        ),
        (
            "key",
            "payload:/a~2",
            "OUTBOX_KEY `payload:/a~2` contains no JSON pointer",
        ),
        (
            "memory_limit",
            "1MB",
            "OUTBOX_MEMORY_LIMIT `1MB` is out of range; write a size from 1MiB",
        ),
        (
            "memory_limit",
            "lots",
            "OUTBOX_MEMORY_LIMIT `lots` is not a size",
        ),
        (
            "http_listen",
            ":9464",
            "OUTBOX_HTTP_LISTEN `:9464` is not an address to listen on; write",
        ),
        ("http_listen", "localhost:9464", ""),
        ("http_listen", "[::1]:0", ""),
        (
            "http_listen",
            "localhost",
            "OUTBOX_HTTP_LISTEN `localhost` is not an address",
        ),
        (
            "http_listen",
            "127.0.0:9464",
            "OUTBOX_HTTP_LISTEN `127.0.0:9464` is not an address",
        ),
        (
            "http_listen",
            "localhost:99999",
            "OUTBOX_HTTP_LISTEN `localhost:99999` is not an address",
        ),
        ("kafka_brokers", "a:9092,", ""),
        ("kafka_brokers", "a:9092, b:9092 ,", ""),
        ("kafka_brokers", ",", "KAFKA_BROKERS `,` is not a list"),
        (
            "kafka_brokers",
            "a:9092,,",
            "KAFKA_BROKERS `a:9092,,` is not",
        ),
        ("log", "info, outboxd=debug,", ""),
        ("process_interval", "1.5s", ""),
        ("operation_timeout", "1m30s", ""),
        ("log", "verbose", "OUTBOX_LOG `verbose` is not a log filter"),
        (
            "log",
            "outboxd=loud",
            "OUTBOX_LOG `outboxd=loud` is not a log filter; write error,",
        ),
        (
            "log_format",
            "xml",
            "OUTBOX_LOG_FORMAT `xml` is not one of its choices; write text or json",
        ),
        ("verify_every", "off", ""),
        (
            "verify_every",
            "2d",
            "OUTBOX_VERIFY_EVERY `2d` is out of range; write a time from 1s",
        ),
        ("log_summary", "5m", ""),
        (
            "log_summary",
            "0s",
            "OUTBOX_LOG_SUMMARY `0s` is out of range; write a time from 1s",
        ),
        (
            "log_summary",
            "never",
            "OUTBOX_LOG_SUMMARY `never` is not a time",
        ),
    ] {
        let result = build(with(name, value));
        if error.is_empty() {
            result.unwrap_or_else(|errors| panic!("{name} = {value}: {errors}"));
        } else {
            let message = only_error(result);
            assert!(message.starts_with(error), "{name} = {value}: {message}");
        }
    }
}

#[test]
fn all_errors_are_listed_at_once() {
    let settings = file(
        "max_retriez = 1
         deliveries = 'exactly-once'
         batch_size = 0
         http_listen = 'everywhere'
         [kafka]
         acks = 1",
    );
    let errors = build(settings).unwrap_err();
    let settings: Vec<&str> = errors.iter().map(SettingError::setting).collect();
    assert_eq!(
        settings,
        [
            "outboxd.toml: deliveries",
            "outboxd.toml: max_retriez",
            "DATABASE_URL",
            "KAFKA_BROKERS",
            "KAFKA_PROPERTIES",
            "OUTBOX_BATCH_SIZE",
            "OUTBOX_HTTP_LISTEN",
        ]
    );
    assert_eq!(
        errors.to_string().lines().count(),
        7,
        "one line per problem"
    );
    let error = Error::from(errors);
    assert_eq!((error.code(), error.is_transient()), (Code::Config, false));
    assert!(error.message().contains("OUTBOX_BATCH_SIZE `0`"), "{error}");
}

#[test]
fn flags_stand_before_the_file_and_empty_texts_say_nothing() {
    let settings = flags(&["--batch-size=20", "--log="])
        .or(file(
            "batch_size = 30\nlog = 'warn'\nmax_retries = '4'\nslot = ''",
        ))
        .or(valid());
    let config = build(settings).unwrap();
    assert_eq!((config.batch_size, config.max_retries), (20, 4));
    assert_eq!(
        (config.log.as_str(), config.slot.as_str()),
        ("warn", "outboxd_orders")
    );
}

#[test]
fn a_file_that_cannot_be_read_or_is_no_toml_is_a_fault_with_its_place() {
    let missing = Settings::load(std::path::Path::new("/nowhere/outboxd.toml"));
    let error = only_error(build(valid().or(missing)));
    assert!(
        error.starts_with("/nowhere/outboxd.toml cannot be read: "),
        "{error}"
    );
    let error = only_error(build(
        valid().or(file("slot = 'a'\ndatabase_url = 'hunter2")),
    ));
    assert!(
        error.starts_with("outboxd.toml:2 is not valid TOML; "),
        "{error}"
    );
    for (text, error) in [
        ("slot = [1]", "outboxd.toml: slot is not a single value"),
        (
            "batch_size = 1.5",
            "outboxd.toml: batch_size is not a single value",
        ),
        ("kafka = 'x'", "outboxd.toml: kafka is not a table"),
        (
            "[kafka]\na.b = [1]",
            "outboxd.toml: [kafka] a.b is not a single value",
        ),
        (
            "max-retries = 1",
            "outboxd.toml: max-retries is not a setting; did you mean max_retries?",
        ),
        (
            "OUTBOX_SLOT = 'a'",
            "outboxd.toml: OUTBOX_SLOT is not a setting; did you mean slot?",
        ),
        (
            "databse_url = 'a'",
            "outboxd.toml: databse_url is not a setting; did you mean database_url?",
        ),
        (
            "kafka_properties = 'a=b'",
            "outboxd.toml: kafka_properties is not a setting",
        ),
    ] {
        let message = only_error(build(valid().or(file(text))));
        assert!(message.starts_with(error), "{text}: {message}");
    }
}

/// Each setting that is a text is one of those that a merge keeps.
#[test]
fn every_setting_survives_a_merge_on_either_side() {
    let command = Settings::augment_args(Command::new("settings"));
    let mut count = 0;
    for argument in command.get_arguments() {
        let (id, flag) = (argument.get_id().as_str(), argument.get_long().unwrap());
        // These are lists, and are merged by their entries.
        if ["kafka", "kafka_properties"].contains(&id) {
            continue;
        }
        let given = flags(&[&format!("--{flag}=x")]);
        for mut merged in [
            given.clone().or(Settings::default()),
            Settings::default().or(given),
        ] {
            let texts = merged.texts();
            let kept = texts.into_iter().filter(|text| text.is_some());
            assert_eq!(kept.count(), 1, "{id}");
        }
        count += 1;
    }
    assert_eq!(count, Settings::default().texts().len());
}
