//! Settings as a person gives them, and the errors for those that are not valid.

#![allow(clippy::unwrap_used)]

use clap::{Args, Command, FromArgMatches};
use proptest::prelude::*;

use super::*;
use crate::error::{Code, Error};

const URL: &str = "postgres://outboxd@db.example/orders";

/// An empty environment.
fn nothing(_: &str) -> Option<String> {
    None
}

fn valid() -> Settings {
    Settings {
        database_url: Some(URL.to_owned()),
        kafka_brokers: Some("kafka.example:9092".to_owned()),
        ..Settings::default()
    }
}

fn build(settings: Settings) -> Result<Config, SettingErrors> {
    Config::build(settings, true, &nothing)
}

/// `valid()` with one setting as the file would give it.
fn with(name: &str, value: &str) -> Settings {
    file(&format!("{name} = {value:?}")).or(valid())
}

fn file(text: &str) -> Settings {
    Settings::parse(text, "outboxd.toml")
}

fn flags(arguments: &[&str]) -> Settings {
    let command = Settings::augment_args(Command::new("outboxd").no_binary_name(true));
    let matches = command.try_get_matches_from(arguments).unwrap();
    Settings::from_arg_matches(&matches).unwrap()
}

fn messages(errors: &SettingErrors) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn only_error(result: Result<Config, SettingErrors>) -> String {
    let errors = messages(&result.unwrap_err());
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors[0].clone()
}

fn database(url: &str) -> Result<Database, SettingErrors> {
    database_in(url, &nothing)
}

fn database_in(url: &str, env: Env<'_>) -> Result<Database, SettingErrors> {
    let settings = Settings {
        database_url: Some(url.to_owned()),
        ..Settings::default()
    };
    Config::build(settings, false, env).map(|config| config.database)
}

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
    assert_eq!(config.key, KeyRule::Column("event_type".to_owned()));
    assert!(!config.auto_create_topics && !config.compresses());
    assert_eq!(config.memory_limit, 16 << 20);
    assert_eq!(config.http_listen.unwrap().to_string(), "127.0.0.1:9464");
    assert_eq!(
        (config.log.as_str(), config.log_format),
        ("info", LogFormat::Text)
    );
    assert_eq!(config.log_summary, Some(Duration::from_secs(60)));
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
    assert_eq!(config.key, KeyRule::Pointer("/order/id".to_owned()));
    assert!(config.auto_create_topics);
    assert_eq!((config.memory_limit, config.http_listen), (64 << 20, None));
    assert_eq!(config.log, "info,outboxd=debug");
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.log_summary, None);
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
         delivery = 'exactly-once'
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
            "outboxd.toml: delivery",
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
fn kafka_properties_of_flags_stand_before_those_of_the_list_and_these_before_the_file() {
    let given = flags(&[
        "--kafka-properties=linger.ms=2,debug=broker,topic,client.id=listed",
        "--kafka=linger.ms=1",
        "--kafka=sasl.password=a=b",
    ]);
    let file =
        file("[kafka]\nlinger.ms = 3\n'client.id' = 'filed'\nsocket.keepalive.enable = true");
    let config = build(given.or(file).or(valid())).unwrap();
    let properties: Vec<String> = config
        .kafka_properties
        .iter()
        .map(|(name, value)| format!("{name}={}", value.expose()))
        .collect();
    assert_eq!(
        properties,
        [
            "client.id=listed",
            "debug=broker,topic",
            "linger.ms=1",
            "sasl.password=a=b",
            "socket.keepalive.enable=true",
        ]
    );
}

#[test]
fn properties_of_javas_clients_are_refused_with_what_to_set_instead() {
    let jaas = "sasl.jaas.config=org.example.Login required username=\"u\" password=\"hunter2\";";
    let error = only_error(build(flags(&["--kafka", jaas]).or(valid())));
    let problem = "KAFKA_PROPERTIES has sasl.jaas.config, which is a property of Java's clients";
    assert!(error.starts_with(problem), "{error}");
    assert!(error.contains("sasl.username and sasl.password"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    let error = only_error(build(
        flags(&["--kafka", "ssl.truststore.location=/etc/trust.jks"]).or(valid()),
    ));
    assert!(error.contains("ssl.ca.location"), "{error}");
}

#[test]
fn kafka_properties_that_carry_a_guarantee_are_refused_by_name_with_the_reason() {
    for name in [
        "enable.idempotence",
        "acks",
        "request.required.acks",
        "message.timeout.ms",
        "delivery.timeout.ms",
        "transactional.id",
        "max.in.flight",
        "max.in.flight.requests.per.connection",
        "retries",
        "message.send.max.retries",
        "partitioner",
        "enable.gapless.guarantee",
        "queue.buffering.max.messages",
        "queue.buffering.max.kbytes",
        "queue.buffering.max.ms",
        "dr_cb",
        "dr_msg_cb",
        "delivery.report.only.error",
        "bootstrap.servers",
        "metadata.broker.list",
    ] {
        let error = only_error(build(flags(&["--kafka", &format!("{name}=1")]).or(valid())));
        assert!(
            error.starts_with(&format!("KAFKA_PROPERTIES may not set {name}: ")),
            "{error}"
        );
    }
    for allowed in [
        "message.max.bytes=20000000",
        "compression.type=zstd",
        "linger.ms=5",
    ] {
        build(flags(&["--kafka", allowed]).or(valid())).unwrap();
    }
    for broken in ["nothing", "a b=c", "=x"] {
        let error = only_error(build(flags(&["--kafka", broken]).or(valid())));
        assert!(!error.contains(broken), "{error}");
    }
}

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

#[test]
fn urls_and_key_value_strings_say_the_same_of_a_database() {
    for (text, described) in [
        ("postgres://u:p@h:1/d", "h:1/d as u"),
        ("postgresql://u:p%40%2F@h/d%20x", "h:5432/d x as u"),
        ("host=h port=1 user=u password='p q' dbname=d", "h:1/d as u"),
        ("postgres://u@%2Ftmp:6/d", "/tmp:6/d as u"),
        ("postgres:///d?host=/tmp&user=u&port=7", "/tmp:7/d as u"),
        ("postgres://u@a:1,b:2/d", "a:1,b:2/d as u"),
        ("postgres://u@a,b/d?port=9", "a:9,b:9/d as u"),
        (
            "postgres://u@[::1]:3/d?application_name=x@y",
            "::1:3/d as u",
        ),
        ("hostaddr=127.0.0.1 user=u", "127.0.0.1:5432/u as u"),
        ("postgres://u@h", "h:5432/u as u"),
        ("postgres://u:a?b@h/d", "h:5432/d as u"),
        ("user=u  host = h dbname='it\\'s'", "h:5432/it's as u"),
    ] {
        let found = database(text).unwrap_or_else(|errors| panic!("{text}: {errors}"));
        assert_eq!(found.describe(), described, "{text}");
    }
    let database = database("postgres://u:p%40%2F:x@h/d").unwrap();
    assert_eq!(database.pg.get_password(), Some(&b"p@/:x"[..]));
}

#[test]
fn what_the_url_leaves_open_comes_from_libpqs_variables() {
    let env = |name: &str| {
        let value = match name {
            "PGHOST" => "/sockets",
            "PGPORT" => "6000",
            "PGUSER" => "alice",
            "PGDATABASE" => "orders",
            "PGPASSWORD" => "hunter2",
            "PGSSLMODE" => "require",
            "PGCONNECT_TIMEOUT" => "7",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let found = database_in("postgres://", &env).unwrap();
    assert_eq!(found.describe(), "/sockets:6000/orders as alice");
    assert_eq!(found.pg.get_password(), Some(&b"hunter2"[..]));
    assert_eq!(found.tls.mode, SslMode::Require);
    assert_eq!(
        found.pg.get_connect_timeout(),
        Some(&Duration::from_secs(7))
    );
    let found = database_in("postgres://bob:own@h:1/d?sslmode=disable", &env).unwrap();
    assert_eq!(found.describe(), "h:1/d as bob");
    assert_eq!(found.pg.get_password(), Some(&b"own"[..]));
    assert_eq!(found.tls.mode, SslMode::Disable);
}

#[test]
fn tls_options_follow_libpq() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display().to_string();
    let with = |query: String| database(&format!("{URL}?{query}"));
    let tls = |query: String| with(query).unwrap().tls;
    assert_eq!(tls(String::new()), TlsSettings::default());
    assert_eq!(
        tls("sslmode=verify-full".to_owned()).mode,
        SslMode::VerifyFull
    );
    assert_eq!(tls("ssl=true".to_owned()).mode, SslMode::Require);
    let verified = tls(format!("sslmode=require&sslrootcert={path}"));
    assert_eq!(
        verified.mode,
        SslMode::VerifyCa,
        "a root certificate verifies the chain"
    );
    assert_eq!(verified.root_cert.as_deref(), Some(file.path()));
    let system = tls("sslrootcert=system".to_owned());
    assert_eq!((system.mode, system.root_cert), (SslMode::VerifyFull, None));
    let client = tls(format!("sslcert={path}&sslkey={path}"));
    assert_eq!(client.cert.as_deref(), Some(file.path()));
    for (query, error) in [
        (
            "sslmode=allow".to_owned(),
            "has an sslmode that outboxd does not support",
        ),
        (
            format!("sslcert={path}"),
            "has one of sslcert and sslkey without the other",
        ),
        (
            "sslrootcert=/nowhere/root.crt".to_owned(),
            "has a sslrootcert that cannot be read",
        ),
        (
            "sslrootcert=system&sslmode=require".to_owned(),
            "has sslrootcert=system with a weaker",
        ),
        (
            "sslnegotiation=direct".to_owned(),
            "asks for sslnegotiation=direct with a weak",
        ),
    ] {
        let errors = with(query).unwrap_err().to_string();
        assert!(
            errors.starts_with(&format!("DATABASE_URL {error}")),
            "{errors}"
        );
    }
}

#[test]
fn each_wrong_option_of_a_url_is_named() {
    for (url, error) in [
        ("", "is not set"),
        ("db.example", "is not a libpq connection string"),
        ("postgres://u@h/d?port", "is not a libpq connection string"),
        ("postgres://u%zz@h/d", "is not a libpq connection string"),
        ("postgres://u@h:port/d", "has a port that is not valid"),
        (
            "postgres://u@h/d?connect_timeout=soon",
            "has a connect_timeout that is not valid",
        ),
        (
            "postgres://u@h/d?tcp_user_timeout=soon",
            "has a tcp_user_timeout that is not a number",
        ),
        (
            "postgres://u@h/d?service=x",
            "has the option service, which outboxd does not support",
        ),
        (
            "postgres://u@h/d?pgbouncer=true",
            "has an option that libpq does not know",
        ),
        (
            "postgres://u@h/d?target_session_attrs=standby",
            "has a target_session_attrs that",
        ),
        ("postgres://h/d", "names no user"),
        (
            "host=a,b port=1,2,3 user=u",
            "has more ports than hosts, or fewer",
        ),
        ("host=a,,b user=u", "has an empty host in its list"),
        (
            "host=a,b hostaddr=127.0.0.1 user=u",
            "has different numbers of host and hostaddr",
        ),
    ] {
        let errors = messages(&database(url).unwrap_err());
        assert_eq!(errors.len(), 1, "{url}: {errors:#?}");
        assert!(
            errors[0].starts_with(&format!("DATABASE_URL {error}")),
            "{url}: {}",
            errors[0]
        );
    }
}

#[test]
fn libpqs_words_are_translated() {
    let found = database(&format!("{URL}?tcp_user_timeout=1500&keepalives_count=4")).unwrap();
    assert_eq!(
        found.pg.get_tcp_user_timeout(),
        Some(&Duration::from_secs(2))
    );
    assert_eq!(found.pg.get_keepalives_retries(), Some(4));
    let quiet = "gssencmode=prefer&client_encoding=UTF8&fallback_application_name=x";
    database(&format!("{URL}?{quiet}")).unwrap();
    let primary = tokio_postgres::config::TargetSessionAttrs::ReadWrite;
    for text in [
        "postgres://u@a,b/d",
        "postgres://u@a/d?target_session_attrs=primary",
    ] {
        assert_eq!(
            database(text).unwrap().pg.get_target_session_attrs(),
            primary,
            "{text}"
        );
    }
}

#[test]
fn a_password_file_gives_the_password_of_the_line_that_matches() {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(
        b"# comment\nother:*:*:*:wrong\nh:5432:d:bob:wrong\n\
          h:5432:*:u:it\\:s:all\nlocalhost:*:*:*:socket\n",
    )
    .unwrap();
    let path = file.path().display().to_string();
    let env = |name: &str| (name == "PGPASSFILE").then(|| path.clone());
    let password = |url: &str| {
        database_in(url, &env)
            .unwrap()
            .pg
            .get_password()
            .map(<[u8]>::to_vec)
    };
    assert_eq!(password("postgres://u@h/d").unwrap(), b"it:s:all");
    assert_eq!(password("postgres://u@x,h/d").unwrap(), b"it:s:all");
    assert_eq!(password("host=/run/pg user=u").unwrap(), b"socket");
    assert_eq!(password("postgres://u@h:1/d"), None);
    assert_eq!(password("postgres://u:own@h/d").unwrap(), b"own");
    let named = database(&format!("postgres://u@h/d?passfile={path}")).unwrap();
    assert_eq!(named.pg.get_password(), Some(&b"it:s:all"[..]));
}

#[cfg(unix)]
#[test]
fn a_password_file_that_others_may_read_is_a_fault() {
    use std::os::unix::fs::PermissionsExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
    let path = file.path().display().to_string();
    let env = |name: &str| (name == "PGPASSFILE").then(|| path.clone());
    let error = database_in("postgres://u@h/d", &env)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("PGPASSFILE names a password file that others may read"),
        "{error}"
    );
}

#[test]
fn the_password_can_be_a_file_of_its_own_but_not_in_two_places() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    std::fs::write(&path, "hunter2 \n").unwrap();
    let given = |url: &str, path: &std::path::Path| Settings {
        database_url: Some(url.to_owned()),
        database_password_file: Some(path.display().to_string()),
        ..valid()
    };
    let config = build(given("postgres://u@h/d", &path)).unwrap();
    assert_eq!(config.database.pg.get_password(), Some(&b"hunter2 "[..]));
    let error = only_error(build(given("postgres://u:p@h/d", &path)));
    assert!(
        error.starts_with("DATABASE_PASSWORD_FILE names a password and DATABASE_URL"),
        "{error}"
    );
    let error = only_error(build(given(
        "postgres://u@h/d",
        &folder.path().join("none"),
    )));
    assert!(
        error.starts_with("DATABASE_PASSWORD_FILE cannot be read: "),
        "{error}"
    );
}

const SECRET: &str = "Zq7Kw9Xv";

/// Whether the text contains four characters of the secret in a row.
fn reveals(text: &str) -> bool {
    (0..=SECRET.len() - 4).any(|at| text.contains(&SECRET[at..at + 4]))
}

#[test]
fn topics_are_created_by_our_setting_or_by_librdkafkas_which_means_the_same() {
    let given = |setting: Option<&str>, property: Option<&str>| {
        let property = property.map(|value| format!("allow.auto.create.topics={value}"));
        build(Settings {
            auto_create_topics: setting.map(str::to_owned),
            kafka: property.into_iter().collect(),
            ..valid()
        })
    };
    for (setting, property, creates) in [
        (None, None, false),
        (Some("true"), None, true),
        (Some("false"), None, false),
        (None, Some("true"), true),
        (None, Some("1"), true),
        (None, Some("FALSE"), false),
        (Some("true"), Some("true"), true),
        (Some("false"), Some("false"), false),
    ] {
        let config = given(setting, property).unwrap();
        assert_eq!(
            config.auto_creates_topics(),
            creates,
            "{setting:?} {property:?}"
        );
    }
    for (setting, property) in [("true", "false"), ("false", "true")] {
        let errors = given(Some(setting), Some(property)).unwrap_err();
        assert_eq!(
            errors.to_string(),
            "OUTBOX_AUTO_CREATE_TOPICS contradicts allow.auto.create.topics, which means \
             the same; remove the property"
        );
    }
    let errors = given(Some("yes"), None).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "OUTBOX_AUTO_CREATE_TOPICS `yes` is not one of its choices; write true or false"
    );
}

#[test]
fn a_codec_other_than_none_compresses() {
    for (name, value, compresses) in [
        ("compression.codec", "zstd", true),
        ("compression.type", "lz4", true),
        ("compression.codec", "none", false),
        ("linger.ms", "5", false),
    ] {
        let config = build(Settings {
            kafka: vec![format!("{name}={value}")],
            ..valid()
        });
        assert_eq!(config.unwrap().compresses(), compresses, "{name}={value}");
    }
}

#[test]
fn nothing_that_can_be_printed_holds_a_secret() {
    let settings = Settings {
        database_url: Some(format!("postgres://u:{SECRET}@h/d")),
        kafka: vec![format!("sasl.password={SECRET}")],
        kafka_properties: Some(format!("ssl.key.password={SECRET}")),
        ..valid()
    };
    assert!(!reveals(&format!("{settings:?}")));
    let config = build(settings).unwrap();
    assert!(!reveals(&format!(
        "{config:?} {:?} {}",
        config.database, config.database
    )));
    assert!(
        format!("{config:?}").contains("sasl.password"),
        "names are shown"
    );
    // A connection string that went to the wrong setting.
    for name in [
        "kafka_brokers",
        "table",
        "slot",
        "key",
        "http_listen",
        "log",
        "after_publish",
        "source",
    ] {
        let message = build(with(name, &format!("postgres://u:{SECRET}@h/d"))).unwrap_err();
        assert!(
            !reveals(&format!("{message} {message:?}")),
            "{name}: {message}"
        );
    }
    let file = file(&format!(
        "database_url = \"postgres://u:{SECRET}@h/d\" x\n[kafka]\na = '{SECRET}"
    ));
    let error = Error::from(build(file).unwrap_err());
    assert!(
        !reveals(&format!("{error} {error:?} {}", error.report())),
        "{error}"
    );
}

/// One character too many or too few, anywhere in a connection string of one of three forms.
fn broken_connection_string() -> impl Strategy<Value = String> {
    let forms = prop::sample::select(vec![
        format!("postgres://user:{SECRET}@db.example:5432/orders?sslmode=require&port=1"),
        format!("host=db.example password={SECRET} user=u port=5432 connect_timeout=3"),
        format!("password='{SECRET}' host=db.example user=u sslmode=verify-full dbname=orders"),
    ]);
    let signs: Vec<char> = r#" '"\:/?#@&=%[],;"#.chars().collect();
    let sign = prop::option::of(prop::sample::select(signs));
    (forms, 0..70_usize, sign).prop_map(|(mut text, at, sign)| {
        let at = at.min(text.len() - 1);
        match sign {
            Some(sign) => text.insert(at, sign),
            None => {
                text.remove(at);
            }
        }
        text
    })
}

proptest! {
    #[test]
    fn whatever_is_said_of_a_broken_connection_string_its_password_is_not(
        text in broken_connection_string(),
    ) {
        if let Err(errors) = database(&text) {
            let error = Error::from(errors.clone());
            let message = format!("{errors} {errors:?} {error:?} {}", error.report());
            prop_assert!(!reveals(&message), "{message}");
        }
    }
}
