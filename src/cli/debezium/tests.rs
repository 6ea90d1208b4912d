//! Files of connectors, the settings that they become, and the way back.

#![allow(clippy::unwrap_used)]

use clap::{Args as _, Command, FromArgMatches as _};
use outboxd::config::mapping::{
    ColumnName, HeaderStyle, NamedColumn, NullPayload, PartitionRule, Piece, Template,
    TimestampRule, TopicRule, ValueRule,
};
use outboxd::config::{AfterPublish, KeyRule};
use proptest::prelude::*;

use super::imported::Imported;
use super::*;

/// A secret, wherever a file has one.
const SECRET: &str = "Zq7Kw9Xv";

/// A connector of Kafka Connect with the router, and these options beside the necessary ones.
fn connect(options: &str) -> String {
    format!(
        "name=orders-outbox
         connector.class=io.debezium.connector.postgresql.PostgresConnector
         database.hostname=db.example
         database.port=5433
         database.user=dbz
         database.password={SECRET}
         database.dbname=orders
         table.include.list=shop.outbox
         extended.headers.enabled=false
         key.converter=org.apache.kafka.connect.storage.StringConverter
         value.converter=org.apache.kafka.connect.storage.StringConverter
         transforms=outbox
         transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
         {options}"
    )
}

fn imported(text: &str) -> Imported {
    let imported = import::import(text).unwrap_or_else(|wrong| panic!("{}", wrong.problem));
    let printed = format!("{}{:?}", text::file(&imported), to_look_at(&imported));
    assert!(!printed.contains(SECRET), "{printed}");
    imported
}

/// The configuration that the printed file gives, with brokers and table where they are open.
fn config(text: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("outboxd.toml");
    fs::write(&file, text::file(&imported(text))).unwrap();
    let others = flags(&["--kafka-brokers=kafka:9092"]);
    Config::from_settings(Settings::load(&file).or(others)).unwrap()
}

fn flags(arguments: &[&str]) -> Settings {
    let command = Settings::augment_args(Command::new("outboxd").no_binary_name(true));
    let matches = command.try_get_matches_from(arguments).unwrap();
    Settings::from_arg_matches(&matches).unwrap()
}

/// What the import says about this option, wherever it does.
fn said(imported: &Imported, option: &str) -> String {
    let notes = imported.differences.iter().chain(&imported.left_out);
    let found: Vec<&str> = notes
        .filter(|note| note.option.ends_with(option))
        .map(|note| note.text.as_str())
        .collect();
    assert!(!found.is_empty(), "nothing is said about {option}");
    found.join(" ")
}

fn named(column: &str, name: &str) -> NamedColumn {
    NamedColumn {
        column: column.to_owned(),
        name: name.to_owned(),
    }
}

#[test]
fn a_connector_with_the_routers_defaults_is_the_preset() {
    let config = config(&connect(""));
    assert_eq!(config.table.to_string(), "shop.outbox");
    assert_eq!(config.database.database_name(), "orders");
    assert_eq!(config.database.user(), "dbz");
    assert_eq!(config.database.pg.get_ports(), [5433]);
    assert_eq!(config.after_publish, AfterPublish::Keep);
    let preset = flags(&[
        "--database-url=postgresql://dbz@db.example:5433/orders",
        "--kafka-brokers=kafka:9092",
        "--preset=debezium",
        "--table=shop.outbox",
    ]);
    let preset = Config::from_settings(preset).unwrap();
    assert_eq!(config.mapping, preset.mapping);
    let imported = imported(&connect(""));
    assert_eq!(imported.name.as_deref(), Some("orders-outbox"));
    assert!(
        imported.differences.is_empty(),
        "{:?}",
        imported.differences
    );
    assert!(imported.unknown.is_empty(), "{:?}", imported.unknown);
}

#[test]
fn every_option_of_the_router_that_has_a_counterpart_is_carried_over() {
    let config = config(&connect(
        "transforms.outbox.table.field.event.id=event_id
         transforms.outbox.table.field.event.key=aggregate_id
         transforms.outbox.table.field.event.type=kind
         transforms.outbox.table.field.event.payload=body
         transforms.outbox.table.field.event.timestamp=at
         transforms.outbox.table.expand.json.payload=true
         transforms.outbox.table.json.payload.null.behavior=optional_bytes
         transforms.outbox.table.json.payload.empty.array.behavior=optional_string
         transforms.outbox.table.fields.additional.placement=kind:header:eventType, \\
             tenant:header,version:envelope:v , shard:partition
         transforms.outbox.route.by.field=aggregate
         transforms.outbox.route.topic.replacement=events.${routedByValue}.v1
         transforms.outbox.route.tombstone.on.empty.payload=true",
    ));
    let mapping = config.mapping;
    assert_eq!(mapping.columns.id, ["event_id"]);
    assert_eq!(mapping.columns.event_type, ColumnName::given("kind"));
    assert_eq!(mapping.columns.payload, "body");
    let headers = [named("kind", "eventType"), named("tenant", "tenant")];
    assert_eq!(mapping.columns.header_columns, headers);
    assert_eq!(mapping.columns.envelope, [named("version", "v")]);
    assert_eq!(mapping.key, KeyRule::Column("aggregate_id".to_owned()));
    assert_eq!(mapping.value, ValueRule::Expanded);
    assert_eq!(mapping.null_payload, NullPayload::Tombstone);
    assert_eq!(mapping.timestamp, TimestampRule::Column("at".to_owned()));
    assert_eq!(mapping.partition, PartitionRule::Column("shard".to_owned()));
    assert_eq!(mapping.headers, HeaderStyle::Debezium);
    let pieces = vec![
        Piece::Text("events.".to_owned()),
        Piece::Column("aggregate".to_owned()),
        Piece::Text(".v1".to_owned()),
    ];
    assert_eq!(mapping.topic, TopicRule::Template(Template { pieces }));
}

#[test]
fn the_other_options_of_the_router_are_named_with_the_reason() {
    let mut options = String::new();
    for option in [
        "table.op.invalid.behavior",
        "table.field.event.schema.version",
        "table.field.additional.missing",
        "table.fields.additional.error.on.missing",
        "tracing.span.context.field",
        "tracing.operation.name",
        "tracing.with.context.field.only",
        "predicate",
        "negate",
        "no.such.option",
    ] {
        options.push_str(&format!("transforms.outbox.{option}={SECRET}\n"));
    }
    let options = format!("{options}predicates=isOutbox\npredicates.isOutbox.type=x\n");
    let imported = imported(&connect(&options));
    assert_eq!(imported.unknown, ["transforms.outbox.no.such.option"]);
    assert_eq!(imported.left_out.len(), 11, "{:?}", imported.left_out);
    assert!(said(&imported, "table.op.invalid.behavior").contains("inserts"));
    assert!(said(&imported, "tracing.operation.name").contains("spans"));
}

#[test]
fn the_topic_follows_an_expression_only_where_it_is_the_whole_value() {
    let topic = |regex: &str, replacement: &str| {
        let mut options = format!("transforms.outbox.route.topic.replacement={replacement}\n");
        if !regex.is_empty() {
            options.push_str(&format!("transforms.outbox.route.topic.regex={regex}\n"));
        }
        let text = connect(&options);
        (config(&text).mapping.topic, imported(&text).lacks_topics)
    };
    let written = |regex: &str, replacement: &str| match topic(regex, replacement) {
        (TopicRule::Template(template), false) => template.to_string(),
        other => panic!("{regex} {replacement}: {other:?}"),
    };
    let by_column = "a.${aggregatetype}";
    assert_eq!(written("", "a.${routedByValue}"), by_column);
    // In Debezium Server a dollar is escaped.
    assert_eq!(written("", "a.\\\\${routedByValue}"), by_column);
    assert_eq!(written("", "a.$${routedByValue}"), by_column);
    assert_eq!(written("(.*)", "a.$1"), by_column);
    assert_eq!(written("(.+)", "a.$0"), by_column);
    assert_eq!(written(".*", "a.$0"), by_column);
    assert_eq!(written("(?<x>.*)", "a.${x}"), by_column);
    assert_eq!(written("", "orders"), "orders");
    for (regex, replacement) in [
        ("(?<x>.*)", "a.${y}"),
        ("com\\\\.acme\\\\.(.*)", "a.$1"),
        ("(.*)-(.*)", "$2"),
        ("", "a.$2"),
    ] {
        let (topic, is_open) = topic(regex, replacement);
        assert_eq!(
            topic,
            TopicRule::Column("aggregatetype".to_owned()),
            "{regex}"
        );
        assert!(is_open, "{regex}");
    }
    // Until the topics are written, no event goes to a topic that is not meant.
    let text = connect("transforms.outbox.route.topic.regex=x(.*)");
    let topics = config(&text).mapping.topics;
    assert_eq!((topics.entries.len(), topics.other), (1, None));
}

/// The options of the Postgres connector, and those that Kafka Connect adds to each connector.
const CONNECTOR: &str = "\
advanced.metrics.enable binary.handling.mode column.exclude.list column.include.list
column.mask.hash.SHA-256.with.salt.x column.mask.with.12.chars column.propagate.source.type
column.truncate.to.20.chars config.action.reload connection.validation.timeout.ms converters
create.slot.command.timeout custom.metric.tags database.initial.statements
database.query.timeout.ms database.server.name database.sslfactory database.sslpassword
database.tcpKeepAlive datatype.propagate.source.type decimal.handling.mode driver.loginTimeout
errors.log.enable errors.log.include.messages errors.max.retries errors.retry.delay.max.ms
errors.retry.timeout errors.tolerance event.processing.failure.handling.mode
exactly.once.support executor.shutdown.timeout.ms field.name.adjustment.mode flush.lsn.source
guardrail.collections.limit.action guardrail.collections.max heartbeat.action.query
heartbeat.interval.ms heartbeat.topics.prefix hstore.handling.mode include.unknown.datatypes
incremental.snapshot.allow.schema.changes incremental.snapshot.chunk.size
incremental.snapshot.watermarking.strategy interval.handling.mode internal.log.position.check
lsn.flush.mode lsn.flush.timeout.action lsn.flush.timeout.ms max.batch.size max.queue.size
max.queue.size.in.bytes message.key.columns message.prefix.exclude.list
message.prefix.include.list money.fraction.digits notification.enabled.channels
notification.sink.topic.name offset.mismatch.strategy offsets.storage.topic
openlineage.integration.enabled plugin.name poll.interval.ms post.processors
post.processors.x.type provide.transaction.metadata publication.autocreate.mode
publication.name publish.via.partition.root query.fetch.size read.only
replica.identity.autoset.values retriable.restart.connector.wait.ms schema.exclude.list
schema.include.list schema.name.adjustment.mode schema.refresh.mode signal.data.collection
signal.enabled.channels signal.file signal.kafka.bootstrap.servers signal.kafka.topic
signal.poll.interval.ms skip.messages.without.change skipped.operations slot.drop.on.stop
slot.failover slot.max.retries slot.name slot.retry.delay.ms slot.stream.params
snapshot.delay.ms snapshot.fetch.size snapshot.include.collection.list
snapshot.isolation.mode snapshot.lock.timeout.ms snapshot.locking.mode
snapshot.locking.mode.custom.name snapshot.max.threads snapshot.mode
snapshot.mode.configuration.based.snapshot.data snapshot.mode.custom.name
snapshot.query.mode snapshot.query.mode.custom.name snapshot.select.statement.overrides
snapshot.tables.order.by.row.count sourceinfo.struct.maker status.update.interval.ms
streaming.delay.ms table.exclude.list tasks.max tasks.max.enforce time.precision.mode
tombstones.on.delete topic.cache.size topic.creation.default.partitions
topic.creation.groups topic.delimiter topic.heartbeat.prefix topic.naming.strategy topic.prefix
topic.transaction transaction.boundary transaction.metadata.factory unavailable.value.placeholder
xmin.fetch.interval.ms";

#[test]
fn every_option_of_the_connector_is_named_with_the_reason() {
    let names: Vec<&str> = CONNECTOR.split_whitespace().collect();
    let lines: Vec<String> = names
        .iter()
        .map(|name| format!("{name}={SECRET}"))
        .collect();
    let imported = imported(&connect(&lines.join("\n")));
    assert!(imported.unknown.is_empty(), "{:?}", imported.unknown);
    for name in names {
        assert!(said(&imported, name).len() > 10, "{name}");
    }
}

/// An option that is listed twice would have two reasons, of which one is never printed.
#[test]
fn no_option_is_listed_twice() {
    for groups in [options::ROUTER, options::CONNECTOR] {
        let mut names: Vec<&str> = groups.iter().flat_map(|it| it.names).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        let is_hidden = |name: &&&str| {
            let mut before = groups
                .iter()
                .take_while(|group| !group.names.contains(*name));
            before.any(|group| options::reason(std::slice::from_ref(group), name).is_some())
        };
        let hidden: Vec<&&str> = names.iter().filter(is_hidden).collect();
        assert!(hidden.is_empty(), "{hidden:?}");
    }
}

#[test]
fn debezium_server_is_read_with_its_prefixes_and_its_producer() {
    let text = format!(
        "# Debezium Server
debezium.source.connector.class=io.debezium.connector.postgresql.PostgresConnector
debezium.source.database.hostname=::1
debezium.source.database.user = app user
debezium.source.database.dbname=orders
debezium.source.database.sslmode=verify-full
debezium.source.table.include.list=shop\\\\.OutboxEvents
debezium.source.offset.storage.file.filename=data/offsets.dat
debezium.transforms=outbox
debezium.transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
debezium.transforms.outbox.route.topic.replacement=\\\\${{routedByValue}}
debezium.transforms.outbox.table.field.event.timestamp=at
debezium.format.key=simplestring
debezium.format.value=simplestring
debezium.format.header.schemas.enable=false
debezium.sink.type=kafka
debezium.sink.kafka.producer.bootstrap.servers=one:9092,two:9092
debezium.sink.kafka.producer.acks=all
debezium.sink.kafka.producer.linger.ms=7
debezium.sink.kafka.producer.max.request.size=2000000
debezium.sink.kafka.producer.compression.type=zstd
debezium.sink.kafka.producer.value.serializer=org.apache.kafka.common.StringSerializer
debezium.sink.kafka.producer.ssl.truststore.password={SECRET}
debezium.sink.kafka.producer.odd={SECRET}
quarkus.log.level=WARN
"
    );
    let config = config(&text);
    assert_eq!(config.brokers, "one:9092,two:9092");
    assert_eq!(config.table.quoted(), "\"shop\".\"OutboxEvents\"");
    assert_eq!(config.database.user(), "app user");
    let properties: Vec<(&str, &str)> = config
        .kafka_properties
        .iter()
        .map(|(name, value)| (name.as_str(), value.expose().as_str()))
        .collect();
    let expected = [
        ("compression.codec", "zstd"),
        ("linger.ms", "7"),
        ("message.max.bytes", "2000000"),
    ];
    assert_eq!(properties, expected);
    let imported = imported(&text);
    assert_eq!(imported.unknown, ["debezium.sink.kafka.producer.odd"]);
    assert!(said(&imported, "producer.acks").contains("guarantees"));
    assert!(said(&imported, "truststore.password").contains("no secret"));
    assert!(said(&imported, "table.field.event.timestamp").contains("Debezium Server does not"));
    assert!(said(&imported, "debezium.format.header").contains("text of its column"));
    assert!(said(&imported, "offset.storage.file.filename").contains("slot"));
}

#[test]
fn json_of_kafka_connect_is_read_with_and_without_its_envelope() {
    let config = r#""connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": "db", "database.port": 5432, "database.user": "u",
        "database.dbname": "orders", "table.include.list": "shop.outbox",
        "tombstones.on.delete": false, "snapshot.mode": null, "transforms": "route",
        "transforms.route.type": "io.debezium.transforms.outbox.EventRouter""#;
    for (text, name) in [
        (format!("{{{config}}}"), None),
        (
            format!("{{\"name\": \"n\", \"config\": {{{config}}}}}"),
            Some("n"),
        ),
    ] {
        let imported = imported(&text);
        assert_eq!(imported.name.as_deref(), name);
        assert!(imported.unknown.is_empty(), "{:?}", imported.unknown);
        assert!(said(&imported, "tombstones.on.delete").contains("inserts"));
        assert!(said(&imported, "value.converter").contains("the worker"));
    }
    for (text, problem) in [
        ("{", "line 1 is no valid JSON"),
        ("{\"config\": 1}", "the option config is no text"),
        ("{\"a\": [1]}", "the option a is no text"),
        ("{}", "it has no options"),
        ("# nothing\n", "it has no options"),
        ("a=b", "it has no transformation of the type io.debezium"),
        (
            "connector.class=io.debezium.connector.mysql.MySqlConnector",
            "its connector is `io.debezium.connector.mysql.MySqlConnector`, and not one",
        ),
    ] {
        let wrong = import::import(text).unwrap_err();
        assert!(
            wrong.problem.starts_with(problem),
            "{text}: {}",
            wrong.problem
        );
    }
}

#[test]
fn what_only_a_person_knows_is_left_open() {
    let text = format!(
        "database.hostname=${{env:DB_HOST}}
         database.port=${{env:DB_PORT}}
         database.password=${{file:/secrets/db.properties:{SECRET}}}
         database.user=u
         transforms=outbox
         transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
         producer.override.sasl.mechanism=PLAIN
         producer.override.security.protocol=SASL_SSL
         producer.override.sasl.jaas.config=a.b.PlainLoginModule required username=\"app\" \\
            password=\"{SECRET}\";
         table.include.list=shop.a,shop.b"
    );
    let imported = imported(&text);
    let open: Vec<&str> = imported
        .settings
        .iter()
        .filter(|setting| setting.open.is_some())
        .map(|setting| setting.name)
        .collect();
    let expected = [
        "database_url",
        "database_password_file",
        "kafka_brokers",
        "table",
        "kafka_password_file",
    ];
    assert_eq!(open, expected);
    assert!(
        imported
            .kafka
            .contains(&("sasl.username", "app".to_owned()))
    );
    let file = text::file(&imported);
    let url = "# database_url = \"postgresql://u@HOST:5432/DATABASE\"";
    assert!(file.contains(url), "{file}");
    let tls = "database.sslmode=verify-ca\ndatabase.sslrootcert=/etc/a b.pem";
    let with_tls = text::file(&import::import(&connect(tls)).unwrap());
    let query = "/orders?sslmode=verify-ca&sslrootcert=%2Fetc%2Fa%20b.pem\"";
    assert!(with_tls.contains(query), "{with_tls}");
    assert!(file.contains("outboxd run --start-lsn LSN"), "{file}");
    let lines = to_look_at(&imported);
    let both = "database_url: database.hostname has a variable, database.dbname is not set, \
                database.port has a variable";
    assert_eq!(lines[0], format!("open      {both}"));
}

#[test]
fn converters_that_change_bytes_are_named() {
    let differences = |options: &str| {
        let imported = imported(&connect(options));
        let notes = imported.differences.into_iter();
        notes
            .map(|note| format!("{}: {}", note.option, note.text))
            .collect::<Vec<_>>()
    };
    let json = "org.apache.kafka.connect.json.JsonConverter";
    assert_eq!(differences(""), [""; 0]);
    for (options, expected) in [
        (
            format!("value.converter={json}"),
            "value.converter: outboxd sends the value alone",
        ),
        (
            format!("value.converter={json}\nvalue.converter.schemas.enable=false"),
            "value.converter: outboxd sends the payload as JSON, and not as a string",
        ),
        (
            format!("key.converter={json}\nkey.converter.schemas.enable=false"),
            "key.converter: outboxd sends the key without quotes, so that it may move",
        ),
        (
            "value.converter=io.confluent.AvroConverter".to_owned(),
            "value.converter: outboxd sends",
        ),
        (
            "extended.headers.enabled=true".to_owned(),
            "extended.headers.enabled: outboxd does not send the headers that begin with",
        ),
        (
            "transforms=outbox,mask\ntransforms.mask.type=org.example.Mask".to_owned(),
            "transforms.mask.type: outboxd has no transformations of this kind",
        ),
    ] {
        let found = differences(&options);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(expected), "{found:?}");
    }
    let unexpanded = imported(&connect(
        "transforms.outbox.table.json.payload.null.behavior=ignore",
    ));
    assert!(said(&unexpanded, "null.behavior").contains("no JSON is expanded"));
    let expanded = "transforms.outbox.table.expand.json.payload=true
         transforms.outbox.table.json.payload.null.behavior=optional_bytes
         transforms.outbox.table.json.payload.empty.array.behavior=optional_string
         value.converter.schemas.enable=false\nvalue.converter=";
    let null = "value.converter: outboxd sends a null payload as a tombstone, and not as the JSON \
                null";
    assert_eq!(differences(&format!("{expanded}{json}")), [null]);
}

#[test]
fn properties_are_read_as_java_reads_them() {
    let read = |text: &str| properties::read(text).unwrap().pairs;
    let pairs = |pairs: &[(&str, &str)]| {
        let pairs = pairs
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        pairs.collect::<Vec<_>>()
    };
    let text = "\u{feff}# c\n! c\n\n a=1\r\nb : 2\nc 3\nd=\\u00e9\\t\\=\n e\\ f\\:g = h=i \n\
                long = a, \\\n   b\nslash=\\\\\nend\\";
    let expected = [
        ("a", "1"),
        ("b", "2"),
        ("c", "3"),
        ("d", "\u{e9}\t="),
        ("e f:g", "h=i "),
        ("long", "a, b"),
        ("slash", "\\"),
        ("end", ""),
    ];
    assert_eq!(read(text), pairs(&expected));
    for value in ["", " a", "a\\b", "\u{1f600} \u{e9}\n\r\t", "${x}=:#!"] {
        let line = properties::line("n", value);
        assert!(line.is_ascii(), "{line}");
        // A character beyond 16 bits is two escapes, which are read one by one.
        let read = &read(&line)[0].1;
        assert!(read == value || value.contains('\u{1f600}'), "{line}");
    }
}

#[test]
fn nothing_of_a_file_gets_out_of_its_comment_or_its_text() {
    let text = connect(
        "odd\\nslot\\ =x
         transforms.outbox.table.field.event.key=a\\\"b\\nc\\u007f
         name=x\\ny",
    );
    let imported = imported(&text);
    let file = text::file(&imported);
    assert!(toml::from_str::<toml::Table>(&file).is_ok(), "{file}");
    assert!(
        file.contains(r#"key = "column:a\"b\u000Ac\u007F""#),
        "{file}"
    );
}

/// Pieces of files, so that random ones have options in them.
const PIECES: [&str; 16] = [
    "\ntransforms.outbox.table.fields.additional.placement=",
    "\ntransforms.outbox.route.topic.replacement=",
    "\ntransforms.outbox.route.topic.regex=",
    "\nproducer.override.sasl.jaas.config=username",
    "\nproducer.override.linger.ms=",
    "\ndatabase.hostname=",
    "\ntable.include.list=",
    "\nodd\\n",
    "a:partition,b:partition:c,",
    "a:header:b,c:envelope,",
    "${routedByValue}",
    "$1",
    "(?<x>.*)",
    "=\"\\u0000",
    "\\\"\t\\",
    "shop.\"",
];

proptest! {
    #[test]
    fn any_file_becomes_settings_or_is_refused(
        pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..20),
        random in "\\PC{0,20}",
        at in 0..40_usize,
    ) {
        let mut text = connect(&pieces.concat());
        let place = text.floor_char_boundary(text.len().saturating_sub(at));
        text.insert_str(place, &random);
        if let Ok(imported) = import::import(&text) {
            let file = text::file(&imported);
            prop_assert!(toml::from_str::<toml::Table>(&file).is_ok(), "{}", file);
        }
    }
}

#[test]
fn an_export_is_read_back_as_the_same_mapping() {
    let given = [
        "--database-url=postgresql://u:p@db.example:5433/orders?sslmode=require",
        "--kafka-properties=linger.ms=7,sasl.username=u,security.protocol=SASL_SSL,\
         sasl.mechanism=PLAIN,sasl.password=hunter2",
        "--kafka-brokers=kafka:9092",
        "--preset=debezium",
        "--table=shop.\"Out.box\"",
        "--columns=id=event_id,header=kind:eventType,envelope=v:version,partition=shard,\
         timestamp=at,key=k",
        "--topic=a.${kind}.b",
        "--value=expanded",
    ];
    let original = Config::from_settings(flags(&given)).unwrap();
    let export = export::export(&original);
    let file = export.file();
    assert!(!file.contains("hunter2"), "{file}");
    let left_out: Vec<&str> = export
        .left_out
        .iter()
        .map(|(setting, _)| *setting)
        .collect();
    assert_eq!(left_out, ["KAFKA_PROPERTIES", "KAFKA_BROKERS"]);
    let again = imported(&file);
    assert!(again.unknown.is_empty(), "{:?}", again.unknown);
    let settings = format!("{:?}", again.settings);
    assert!(settings.contains("postgresql://u@db.example:5433/orders?sslmode=require"));
    assert_eq!(again.kafka[0], ("linger.ms", "7".to_owned()));
    // The table's name has a dot, which an import does not take apart.
    let table = "--table=shop.\"Out.box\"";
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("outboxd.toml");
    fs::write(
        &place,
        text::file(&again).replace(
            "[kafka]",
            "[kafka]\nsasl.username = 'u'\nsasl.password = 'p'",
        ),
    )
    .unwrap();
    let read = Settings::load(&place).or(flags(&[table, "--kafka-brokers=kafka:9092"]));
    assert_eq!(
        Config::from_settings(read).unwrap().mapping,
        original.mapping
    );
}

#[test]
fn an_export_names_what_no_option_expresses() {
    let given = [
        "--database-url=postgresql://u@db/orders",
        "--columns=id=a+b,headers=h",
        "--topic=column:kind",
        "--topics=x=y",
        "--key=payload:/id",
        "--value=payload:/data",
        "--null-payload=empty",
        "--headers=cloudevents",
        "--partition=spread",
        "--timestamp=commit",
        "--where=a = 1",
    ];
    let export = export::export(&Config::without_kafka(flags(&given)).unwrap());
    let left_out: Vec<&str> = export
        .left_out
        .iter()
        .map(|(setting, _)| *setting)
        .collect();
    let expected = [
        "OUTBOX_COLUMNS id",
        "OUTBOX_KEY",
        "OUTBOX_COLUMNS headers",
        "OUTBOX_TOPICS",
        "OUTBOX_VALUE",
        "OUTBOX_NULL_PAYLOAD",
        "OUTBOX_PARTITION",
        "OUTBOX_TIMESTAMP",
        "OUTBOX_HEADERS",
        "OUTBOX_WHERE",
        "OUTBOX_AFTER_PUBLISH",
        "KAFKA_BROKERS",
    ];
    assert_eq!(left_out, expected);
    let text = export.file();
    assert!(
        text.contains("transforms.outbox.route.by.field=kind\n"),
        "{text}"
    );
    let none = [
        "--topic=${a}.${b}",
        "--database-url=host=/run/pg user=u dbname=d",
    ];
    let export = export::export(&Config::without_kafka(flags(&none)).unwrap());
    let left_out: Vec<&str> = export
        .left_out
        .iter()
        .map(|(setting, _)| *setting)
        .collect();
    assert!(left_out.starts_with(&["DATABASE_URL"]) && left_out.contains(&"OUTBOX_TOPIC"));
}
