//! The cases: tables, options and rows, and how outboxd's record is compared with Debezium's.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::compare::{PARTITIONS, View, alike};

/// Rows of one table with one set of options.
pub(super) struct Group {
    pub(super) name: &'static str,
    /// Creates `outboxevent`.
    pub(super) ddl: &'static str,
    /// Lines of options beside the common ones. `PREFIX` is the beginning of the topics.
    pub(super) options: &'static [&'static str],
    /// The ends of the topics.
    pub(super) routes: &'static [&'static str],
    pub(super) columns: &'static str,
    /// Each the values of a row.
    pub(super) rows: fn() -> Vec<String>,
    /// Further statements, whose changes are no events.
    pub(super) then: &'static str,
    pub(super) compare: fn(&View, &View) -> Result<()>,
}

pub(super) const GROUPS: [Group; 7] = [TEXT, JSONB, BYTES, ENVELOPE, EXPANDED, TOMBSTONES, TIMES];

/// Keys and values as text.
pub(super) const STRINGS: &str = "
debezium.format.key=simplestring
debezium.format.value=simplestring
debezium.sink.kafka.producer.key.serializer=org.apache.kafka.common.serialization.StringSerializer
debezium.sink.kafka.producer.value.serializer=org.apache.kafka.common.serialization.StringSerializer
";

/// Keys as text, and values as JSON without a schema.
const JSON: &str = "
debezium.format.key=simplestring
debezium.format.value=json
debezium.format.value.schemas.enable=false
debezium.sink.kafka.producer.key.serializer=org.apache.kafka.common.serialization.StringSerializer
debezium.sink.kafka.producer.value.serializer=org.apache.kafka.common.serialization.StringSerializer
";

/// The default columns in topics of this run.
pub(super) const ROUTE: &str =
    "debezium.transforms.outbox.route.topic.replacement=PREFIX\\\\${routedByValue}\n";

/// The table of Debezium's manual, with a text.
const TEXT: Group = Group {
    name: "text",
    ddl: "CREATE TABLE outboxevent (
              id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype varchar(255) NOT NULL,
              aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload text)",
    options: &[
        STRINGS,
        ROUTE,
        "debezium.transforms.outbox.table.op.invalid.behavior=warn\n",
    ],
    routes: &["Order", "Customer"],
    columns: "(aggregatetype, aggregateid, type, payload)",
    rows: || {
        let mut rows: Vec<String> = texts()
            .iter()
            .enumerate()
            .map(|(i, payload)| {
                let route = ["Order", "Customer"][i % 2];
                format!("'{route}', 'k{}', 'Created', {}", i % 5, quote(payload))
            })
            .collect();
        for key in texts().iter().filter(|text| text.chars().count() <= 255) {
            rows.push(format!("'Order', {}, 'Keyed', 'x'", quote(key)));
        }
        rows.push("'Order', 'k1', 'None', NULL".to_owned());
        rows.push("'Order', 'k1', 'Big', repeat('ab€', 180000)".to_owned());
        rows
    },
    then: "UPDATE outboxevent SET type = 'Changed' WHERE aggregateid = 'k1';
           DELETE FROM outboxevent WHERE aggregateid = 'k2'",
    compare: alike,
};

/// Columns of other names, ids that are texts, JSON as Postgres prints it, and headers.
const JSONB: Group = Group {
    name: "jsonb",
    ddl: "CREATE TABLE outboxevent (
              event_id text PRIMARY KEY, kind text NOT NULL, aggregate uuid NOT NULL,
              body jsonb NOT NULL, tenant text, version int, revision bigint, flag boolean,
              ratio float8, trace uuid)",
    options: &[
        STRINGS,
        "debezium.transforms.outbox.table.field.event.id=event_id
debezium.transforms.outbox.table.field.event.key=aggregate
debezium.transforms.outbox.table.field.event.type=kind
debezium.transforms.outbox.table.field.event.payload=body
debezium.transforms.outbox.route.by.field=kind
debezium.transforms.outbox.route.topic.regex=(.*)
debezium.transforms.outbox.route.topic.replacement=PREFIX\\\\$1.v1
debezium.transforms.outbox.table.fields.additional.placement=kind:header:eventType,tenant:header,\
version:header:v,revision:header,flag:header,ratio:header,trace:header
",
    ],
    routes: &["created.v1", "changed.v1"],
    columns: "(event_id, kind, aggregate, body, tenant, version, revision, flag, ratio, trace)",
    rows: || {
        let bodies = jsons().into_iter().chain([
            r#"[1, "a", null, [2]]"#.to_owned(),
            r#"{"big": 12345678901234567890123, "small": 1e-300, "e": 1.50e3}"#.to_owned(),
            r#""text""#.to_owned(),
            "null".to_owned(),
            "-0.0".to_owned(),
        ]);
        let headers = [
            "'größe \"1\"', 1, 9007199254740993, true, 1.5, gen_random_uuid()",
            "NULL, NULL, NULL, NULL, NULL, NULL",
            "'a,b', -2147483648, -1, false, -0.25, NULL",
        ];
        bodies
            .enumerate()
            .map(|(i, body)| {
                let kind = ["created", "changed"][i % 2];
                let key = format!("00000000-0000-4000-8000-00000000000{}", i % 4);
                let headers = headers[i % headers.len()];
                format!("'e/{i} ö', '{kind}', '{key}', {}, {headers}", quote(&body))
            })
            .collect()
    },
    then: "",
    compare: alike,
};

/// Bytes, and ids that are numbers.
const BYTES: Group = Group {
    name: "bytes",
    ddl: "CREATE TABLE outboxevent (
              id bigint PRIMARY KEY, aggregatetype text NOT NULL, aggregateid bigint NOT NULL,
              type text NOT NULL, payload bytea)",
    options: &[
        "debezium.format.key=simplestring
debezium.format.value=binary
debezium.sink.kafka.producer.key.serializer=org.apache.kafka.common.serialization.StringSerializer
debezium.sink.kafka.producer.value.serializer=org.apache.kafka.common.serialization.\
ByteArraySerializer
",
        ROUTE,
    ],
    routes: &["Order"],
    columns: "(id, aggregatetype, aggregateid, type, payload)",
    rows: || {
        let mut rows: Vec<String> = (0..32)
            .map(|i| {
                let bytes = (0..i).map(|at| format!("{:02x}", (at * 37 + i) % 256));
                let bytes: String = bytes.collect();
                format!("{i}, 'Order', {}, 'C', '\\x{bytes}'", i64::MAX - i % 3)
            })
            .collect();
        rows.push("-7, 'Order', 0, 'C', decode(repeat('00ff80', 300000), 'hex')".to_owned());
        rows
    },
    then: "",
    compare: alike,
};

/// An envelope, with a column for the partition and one for the time, which Debezium Server reads
/// and does not use.
const ENVELOPE: Group = Group {
    name: "envelope",
    ddl: "CREATE TABLE outboxevent (
              id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL,
              aggregateid text NOT NULL, type text NOT NULL, payload json, tenant text,
              version int, flag boolean, ratio float8, trace uuid, extra jsonb, raw bytea,
              shard int NOT NULL, at timestamp NOT NULL)",
    options: &[
        JSON,
        ROUTE,
        "debezium.transforms.outbox.table.field.event.timestamp=at
debezium.transforms.outbox.table.fields.additional.placement=type:envelope:eventType,\
tenant:envelope,version:envelope:v,flag:envelope,ratio:envelope,trace:envelope,extra:envelope,\
raw:envelope,tenant:header,shard:partition,shard:header
",
    ],
    routes: &["Order"],
    columns: "(aggregatetype, aggregateid, type, payload, tenant, version, flag, ratio, trace, \
              extra, raw, shard, at)",
    rows: || {
        let payloads = jsons().into_iter().map(|json| quote(&json));
        payloads
            .chain([
                "NULL".to_owned(),
                quote("null"),
                quote("[ 1,2 ]"),
                quote("\"ö\""),
            ])
            .enumerate()
            .map(|(i, payload)| {
                let columns = [
                    r#"'größe "1"', 1, true, 1.5, gen_random_uuid(), '{"z": [1]}', '\x00ff'"#,
                    "NULL, NULL, NULL, NULL, NULL, NULL, NULL",
                ][i % 2];
                let shard = i32::try_from(i).unwrap() % PARTITIONS;
                format!(
                    "'Order', 'k{}', 'Created', {payload}, {columns}, {shard}, \
                     '2024-01-02 03:04:05.678'",
                    i % 5,
                )
            })
            .collect()
    },
    then: "",
    compare: |their, our| {
        // Debezium Server sets neither the time nor the partition.
        let at = 1_704_164_645_678;
        ensure!(our.timestamp == Some(at), "at {:?}", our.timestamp);
        ensure!(
            their.timestamp > Some(at),
            "Debezium sent {:?}",
            their.timestamp
        );
        let shard = our.headers.get("shard").cloned().flatten();
        ensure!(shard == Some(our.partition.to_string()), "in {our:?}");
        let mut our = our.clone();
        our.partition = their.partition;
        alike_as_json(their, &our)
    },
};

/// JSON that Debezium expands. What it cannot expand stops it: arrays of several types, and numbers
/// beyond 64 bits.
const EXPANDED: Group = Group {
    name: "expanded",
    ddl: "CREATE TABLE outboxevent (
              id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL,
              aggregateid text NOT NULL, type text NOT NULL, payload text)",
    options: &[
        JSON,
        ROUTE,
        "debezium.transforms.outbox.table.expand.json.payload=true
debezium.transforms.outbox.table.json.payload.null.behavior=optional_bytes
debezium.transforms.outbox.route.tombstone.on.empty.payload=true
",
    ],
    routes: &["Order"],
    columns: "(aggregatetype, aggregateid, type, payload)",
    rows: || {
        let payloads = jsons().into_iter().filter(|json| json.starts_with('{'));
        let mut rows: Vec<String> = payloads
            .enumerate()
            .map(|(i, json)| format!("'Order', 'k{}', 'C', {}", i % 3, quote(&json)))
            .collect();
        rows.push("'Order', 'k1', 'C', NULL".to_owned());
        rows
    },
    then: "",
    compare: |their, our| {
        let mut their = their.clone();
        if let Some(theirs) = their.json()? {
            // Debezium leaves out what it infers no type of.
            let ours = our.json()?.context("a value")?;
            if ours == json!({"list": []}) {
                ensure!(theirs == json!({}), "{theirs}");
                their.value = our.value.clone();
            }
        }
        alike_as_json(&their, our)
    },
};

/// Tombstones, and keys from a column that may be null.
const TOMBSTONES: Group = Group {
    name: "tombstones",
    ddl: "CREATE TABLE outboxevent (
              id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL,
              aggregateid text NOT NULL, type text NOT NULL, payload text, key text)",
    options: &[
        STRINGS,
        ROUTE,
        "debezium.transforms.outbox.route.tombstone.on.empty.payload=true
debezium.transforms.outbox.table.field.event.key=key
",
    ],
    routes: &["Order"],
    columns: "(aggregatetype, aggregateid, type, payload, key)",
    rows: || {
        let payloads = ["NULL", "'x'", "''", "' '"];
        let keys = ["NULL", "'k'", "''", "'ö'"];
        let pairs = payloads
            .iter()
            .flat_map(|it| keys.iter().map(move |key| (it, key)));
        pairs
            .map(|(payload, key)| format!("'Order', 'a', 'C', {payload}, {key}"))
            .collect()
    },
    then: "",
    compare: |their, our| {
        let mut our = our.clone();
        if our
            .value
            .as_deref()
            .is_some_and(|it| it.trim_ascii().is_empty())
        {
            // Debezium takes a blank text for none, and outboxd sends it.
            ensure!(their.value.is_none(), "{their:?}");
            our.value = None;
        }
        alike(their, &our)
    },
};

/// Types whose text differs: Debezium writes numbers and base64 for them, and outboxd what Postgres
/// prints.
const TIMES: Group = Group {
    name: "times",
    ddl: "CREATE TABLE outboxevent (
              id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL,
              aggregateid text NOT NULL, type text NOT NULL, payload text, tz timestamptz,
              ts timestamp, day date, amount numeric(12, 2), many numeric)",
    options: &[
        STRINGS,
        ROUTE,
        "debezium.source.decimal.handling.mode=string
debezium.transforms.outbox.table.fields.additional.placement=tz:header,ts:header,day:header,\
amount:header,many:header
",
    ],
    routes: &["Order"],
    columns: "(aggregatetype, aggregateid, type, payload, tz, ts, day, amount, many)",
    rows: || {
        let columns = [
            "'2024-01-02 03:04:05.678901+00', '2024-01-02 03:04:05.678', '2024-01-02', 3.50, 1.25",
            "NULL, NULL, NULL, NULL, NULL",
        ];
        let rows = columns
            .iter()
            .map(|it| format!("'Order', 'k', 'C', 'x', {it}"));
        rows.collect()
    },
    then: "",
    compare: |their, our| {
        let mut their = their.clone();
        for (name, theirs, ours) in [
            (
                "tz",
                "2024-01-02T03:04:05.678901Z",
                "2024-01-02 03:04:05.678901+00",
            ),
            ("ts", "1704164645678000", "2024-01-02 03:04:05.678"),
            ("day", "19724", "2024-01-02"),
        ] {
            let header = their.headers.get_mut(name).context(name)?;
            if let Some(text) = header {
                ensure!(text == theirs, "{name}: Debezium sent {text}");
                *header = Some(ours.to_owned());
            }
        }
        alike(&their, our)
    },
};

/// As [`alike`], with values that are the same JSON: each writes its own spaces, and numbers with
/// the digits of a Java double or with those of the row.
fn alike_as_json(their: &View, our: &View) -> Result<()> {
    let (theirs, ours) = (their.json()?, our.json()?);
    ensure!(
        theirs == ours,
        "\n  Debezium {theirs:?}\n  outboxd  {ours:?}"
    );
    let mut their = their.clone();
    their.value = our.value.clone();
    alike(&their, our)
}

/// Texts of every kind.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "",
        " ",
        "a",
        "plain text",
        "größe",
        "Ĳsselmeer",
        "日本語",
        "🦀 emoji 👩‍👩‍👧",
        "\u{1}\u{7f}",
        "tab\tnew\nline\r",
        "'single'",
        "\"double\"",
        "back\\slash",
        "\\u0041",
        "null",
        "true",
        "0",
        "-1.50",
        "1e400",
        "{}",
        "[]",
        "{\"a\": 1}",
        "{\"a\":1,\"b\":[1,2.50,null]}",
        "{broken",
        "<a href=\"x\">&amp;</a>",
        "%s %d ${x} $1",
        "a,b;c|d",
        "\u{feff}bom",
        "e\u{301} combining",
        "\u{202e}right to left",
        "  padded  ",
        "x'; DROP TABLE y; --",
        "\u{fffd}",
        "\u{10ffff}",
    ]
    .map(str::to_owned)
    .into();
    texts.extend((0..6).map(|i| "0123456789".repeat(1 << (2 * i))));
    texts
}

/// JSON that Debezium can expand, and scalars are not among it.
fn jsons() -> Vec<String> {
    let mut jsons: Vec<String> = [
        r#"{"a": 1}"#,
        r#"{"a":1,"b":"two","c":true,"d":false}"#,
        r#"{"n": null, "a": 1}"#,
        r#"{"s": "größe \"1\" \\ \/ \n \u0001 🦀"}"#,
        r#"{"ö": 1, "a-b": 2, "a.b": 3, "1x": 4, "with space": 5}"#,
        r#"{"int": 2147483647, "long": 9007199254740993, "neg": -5, "zero": 0}"#,
        r#"{"half": 0.5, "two": 1.50, "tenth": 0.1, "long": 12345678.125}"#,
        r#"{"exp": 1.5e3, "small": 1e-7}"#,
        r#"{"list": [1, 2, 3]}"#,
        r#"{"list": ["a", "b"]}"#,
        r#"{"list": []}"#,
        r#"{"object": {}}"#,
        r#"{"list": [{"x": 1}, {"x": 2}]}"#,
        r#"{"a": {"b": {"c": {"d": [true, false]}}}}"#,
        r#"{"order": {"id": "o-1", "lines": [{"sku": "x", "count": 2}], "total": 12.25}}"#,
        r#"{"text": "{\"inner\": 1}"}"#,
        r#"{"text": "12"}"#,
        r#"{"empty": ""}"#,
    ]
    .map(str::to_owned)
    .into();
    jsons.extend((0..6).map(|i| format!(r#"{{"i": {i}, "s": "{}"}}"#, "xy".repeat(1 << (2 * i)))));
    jsons.push(format!(r#"{{"big": "{}"}}"#, "z".repeat(450_000)));
    jsons
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
