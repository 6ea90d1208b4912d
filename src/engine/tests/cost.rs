//! The cost of one event from the bytes of the WAL to the producer and back, without sockets and
//! without Kafka.
//!
//! Three stages, each on the real code: `decode` turns bytes into an event, `route` an event into a
//! record, `track` is all that the engine does until the event is settled. Time varies between
//! machines and hours, instruction counts do not: the test counts instructions under callgrind,
//! with a ceiling for each stage. The counts are of the profile that the tests are built with,
//! debug assertions included; `tests/bench/run counts` counts those of the program as
//! shipped (profile `dist`), and `tests/bench/run micro` measures its time.
//!
//! A table that settings describe is compared with the table of the defaults. Both rows have seven
//! columns, of which one is null, with the same key, payload and time, and both records have seven
//! headers. The configured table has what its settings are for: an id of text, which is thirty
//! bytes longer, a topic that a template makes, and a header of a column. So nothing is left out
//! that would make the comparison easier.
#![allow(clippy::unwrap_used)]

use std::env;
use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use criterion::{Criterion, Throughput};

use crate::config::mapping::{ColumnName, KeyRule, NamedColumn, Piece, Template, TopicRule};
use crate::config::{AfterPublish, Mapping, OnPoison};
use crate::engine::Engine;
use crate::engine::dispatch::Admission;
use crate::engine::offer::Offer;
use crate::engine::output::{DeliveryResult, Limits};
use crate::engine::record_checks::{self, RecordFacts};
use crate::engine::required_parts::RequiredParts;
use crate::engine::topics::topic::{MetadataAnswer, TopicLimits};
use crate::engine::tracker::{InFlight, Ticket};
use crate::lsn::Lsn;
use crate::outbox::{Columns, Event, EventSource, Router, RowName, TopicName};
use crate::pgoutput::{Message, Relation, RelationColumn, ReplicaIdentity, Timestamp, golden};

const PER_TRANSACTION: u64 = 10;
/// The variable that passes a table, a stage and a number of transactions to the test's child
/// process.
const ORDER: &str = "OUTBOXD_MEASURE";
const MS: Duration = Duration::from_millis(1);

/// A configured table takes at most this much more than the default one, all stages together.
const CONFIGURED_PERCENT_MAX: u64 = 10;

const TABLES: [&str; 2] = ["default", "configured"];

/// The most instructions per event of the default table in each stage, somewhat above the present
/// count.
const CEILINGS: [(&str, u64); 3] = [("decode", 2_250), ("route", 2_050), ("track", 1_460)];

fn run(table: &str, stage: &str, transactions: u64) -> u64 {
    let mut work = DatabaseWork::new(Table::named(table));
    (0..transactions).map(|_| work.transaction(stage)).sum()
}

/// A table, a row of it, and how it is read.
struct Table {
    relation: Relation,
    mapping: Mapping,
    /// The columns before the payload and behind it.
    row: (&'static [&'static str], &'static [Option<&'static str>]),
    topic: &'static str,
}

impl Table {
    fn named(name: &str) -> Table {
        let mut table = match name {
            "default" => Table::of_defaults(),
            "configured" => Table::configured(),
            other => panic!("no table {other}"),
        };
        // An outbox always has one: its database and table, unless a setting names another.
        table.mapping.source_id = "shop.outbox".to_owned();
        table
    }

    fn of_defaults() -> Table {
        let relation = golden::bytes(golden::OUTBOX_RELATION);
        let Message::Relation(relation) = Message::decode(&relation).unwrap() else {
            panic!("not a relation")
        };
        let behind = &[Some("2024-05-06 07:08:09.123456"), Some("0"), None];
        Table {
            relation,
            mapping: Mapping::default(),
            row: (&["123456", "key123", "orders"], behind),
            topic: "orders",
        }
    }

    /// Debezium's columns, with a time and a mark as the default table has them.
    fn configured() -> Table {
        const ID: &str = "0190163d-8694-739b-aea5-966c26f8ad91";
        let columns = [
            ("id", 2950),
            ("aggregatetype", 1043),
            ("aggregateid", 1043),
            ("type", 1043),
            ("payload", 3802),
            ("created_at", 1114),
            ("processed_at", 1114),
        ];
        let columns = columns.map(|(name, type_id)| RelationColumn {
            key: name == "id",
            name: name.to_owned(),
            type_id,
            type_modifier: -1,
        });
        let topic = vec![
            Piece::Text("outbox.event.".to_owned()),
            Piece::Column("aggregatetype".to_owned()),
        ];
        let mut mapping = Mapping {
            topic: TopicRule::Template(Template { pieces: topic }),
            key: KeyRule::Column("aggregateid".to_owned()),
            ..Mapping::default()
        };
        mapping.columns.event_type = ColumnName::none();
        mapping.columns.payload = "payload".to_owned();
        mapping.columns.published.column = ColumnName::given("processed_at");
        mapping.columns.header_columns = vec![NamedColumn {
            column: "type".to_owned(),
            name: "eventType".to_owned(),
        }];
        Table {
            relation: Relation {
                id: 1,
                namespace: "shop".to_owned(),
                name: "outbox".to_owned(),
                replica_identity: ReplicaIdentity::Default,
                columns: columns.into(),
            },
            mapping,
            row: (
                &[ID, "orders", "key123", "key123"],
                &[Some("2024-05-06 07:08:09.123456"), None],
            ),
            topic: "outbox.event.orders",
        }
    }
}

/// One transaction of ten events, repeated.
struct DatabaseWork {
    columns: Columns,
    insert: Vec<u8>,
    router: Router,
    engine: Engine,
    topic: Option<TopicName<'static>>,
    row: RowName,
    lsn: u64,
    tickets: Vec<Ticket>,
    done: Vec<InFlight>,
}

impl DatabaseWork {
    fn new(table: Table) -> Self {
        let Table { mapping, topic, .. } = table;
        let mut engine = Engine::new(limits(&mapping));
        engine.reset(Lsn::new(100));
        engine.topic(TopicName::new(topic).ok());
        engine.session_started(MS);
        let known = MetadataAnswer::Known(TopicLimits::default());
        engine.topics_answered(MS, Some(vec![(topic.to_owned(), known)]));
        let insert = insert(table.relation.id, table.row);
        let columns = Columns::of_relation(&table.relation, &mapping).unwrap();
        let row = decoded(&columns, &insert).row_name().unwrap();
        DatabaseWork {
            columns,
            insert,
            router: Router::new(&mapping),
            engine,
            topic: TopicName::new(topic).ok(),
            row,
            lsn: 1_000,
            tickets: Vec::new(),
            done: Vec::new(),
        }
    }

    /// Passes ten events through one stage; the sum of the results keeps the compiler from removing
    /// the work.
    fn transaction(&mut self, stage: &str) -> u64 {
        match stage {
            "decode" => (0..PER_TRANSACTION)
                .map(|_| decoded(&self.columns, &self.insert).id.len() as u64)
                .sum(),
            "route" => self.route(),
            "track" => self.track(),
            other => panic!("no stage {other}"),
        }
    }

    fn route(&mut self) -> u64 {
        self.lsn += 1_000;
        let event = decoded(&self.columns, &self.insert);
        let required = &self.engine.limits.required;
        let mut sum = 0;
        for index in 0..PER_TRANSACTION {
            let origin = EventSource::Stream {
                commit_lsn: Lsn::new(self.lsn),
                index: index as u32,
                committed_at: Timestamp::from_postgres_micros(self.lsn as i64),
            };
            let event = black_box(&event);
            let parts = self.router.prepare(event, origin).unwrap();
            let record = self.router.assemble(&parts, event, origin);
            assert!(record_checks::own_rejection(&record, required).is_none());
            sum += (record.size() + RecordFacts::of(&record).wire_bytes) as u64;
        }
        sum
    }

    fn track(&mut self) -> u64 {
        self.lsn += 1_000;
        let engine = &mut self.engine;
        engine.begin(Lsn::new(self.lsn));
        for _ in 0..PER_TRANSACTION {
            engine.change().unwrap();
            let facts = RecordFacts {
                topic: black_box(self.topic),
                key: Some(b"key"),
                wire_bytes: 600,
                placing: None,
            };
            let offered = engine.offer(Offer {
                row: Some(self.row.clone()),
                xid: 1,
                bytes: 1_000,
                since_micros: 1,
                sent_micros: 1,
                from_table: false,
                facts,
                signature: &|| None,
                rejection: None,
            });
            let offered = offered.unwrap();
            assert_eq!(offered.admission, Admission::Send);
            self.tickets.push(offered.ticket);
        }
        engine.commit(Lsn::new(self.lsn), Lsn::new(self.lsn + 10));
        for ticket in self.tickets.drain(..) {
            let result = DeliveryResult {
                ticket,
                failure: None,
                suspicion: 0,
                record: None,
            };
            engine.delivery_finished(MS, result, &mut self.done);
        }
        engine.poll(MS);
        while engine.output().is_some() {}
        assert_eq!(engine.resume_at(), Lsn::new(self.lsn + 10));
        self.done.drain(..).map(|done| u64::from(done.bytes)).sum()
    }
}

fn decoded<'a>(columns: &'a Columns, insert: &'a [u8]) -> Event<'a> {
    let Message::Insert(insert) = Message::decode(black_box(insert)).unwrap() else {
        panic!("not an insert")
    };
    columns.event_from_tuple(insert.new).unwrap()
}

fn limits(mapping: &Mapping) -> Limits {
    Limits {
        after_publish: AfterPublish::Keep,
        retain: None,
        retain_share: None,
        batch_size: 10,
        process_interval: MS * 5_000,
        memory_limit: 16 << 20,
        spreads: false,
        required: RequiredParts::of(mapping),
        attempts: 3,
        on_poison: OnPoison::DeadLetter,
        resolves: true,
        dead_letters_per_minute: 100,
        parked_keys_max: 1_000,
        auto_creates_topics: false,
        compresses: false,
        batch_bytes: 1_000_000,
        status_interval: MS * 10_000,
        receive_timeout: MS * 25_000,
        transactions: None,
    }
}

/// An event like those in the benchmarks' loads.
fn insert(relation: u32, (before, behind): (&[&str], &[Option<&str>])) -> Vec<u8> {
    let payload = format!(
        r#"{{"line": 1, "note": "{}", "order": 1, "status": "created"}}"#,
        "x".repeat(290)
    );
    let mut columns: Vec<Option<&str>> = before.iter().copied().map(Some).collect();
    columns.push(Some(&payload));
    columns.extend(behind);
    let mut bytes = vec![b'I'];
    bytes.extend(relation.to_be_bytes());
    bytes.push(b'N');
    bytes.extend((columns.len() as u16).to_be_bytes());
    for column in columns {
        match column {
            Some(text) => {
                bytes.push(b't');
                bytes.extend((text.len() as u32).to_be_bytes());
                bytes.extend(text.as_bytes());
            }
            None => bytes.push(b'n'),
        }
    }
    bytes
}

/// Counts the instructions of this program for this many transactions.
fn instructions(table: &str, stage: &str, transactions: u64) -> u64 {
    // The harness names a test by its path without the crate's name.
    let (_, tests) = module_path!().split_once("::").unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", &format!("{tests}::workload"), "--ignored"])
        .env(ORDER, format!("{table} {stage} {transactions}"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    let line = text
        .lines()
        .find_map(|line| line.split("Collected : ").nth(1));
    line.unwrap_or_else(|| panic!("callgrind counted nothing: {text}"))
        .trim()
        .parse()
        .unwrap()
}

/// The instructions of one event.
fn each(table: &str, stage: &str) -> u64 {
    let (few, many) = (100, 600);
    let more = instructions(table, stage, many) - instructions(table, stage, few);
    more / ((many - few) * PER_TRANSACTION)
}

/// Whether this machine can count. What cannot run is named in the summary.
fn has_valgrind() -> bool {
    if Command::new("valgrind").arg("--version").output().is_ok() {
        return true;
    }
    eprintln!("not offered here: instruction counts need valgrind");
    if let Some(list) = env::var_os("OUTBOXD_TEST_NOT_OFFERED") {
        let mut options = OpenOptions::new();
        let mut list = options.append(true).create(true).open(list).unwrap();
        writeln!(list, "instruction counts need valgrind").unwrap();
    }
    false
}

#[test]
#[ignore = "the child process of the tests below"]
fn workload() {
    let order = env::var(ORDER).unwrap();
    let (table, order) = order.split_once(' ').unwrap();
    let (stage, transactions) = order.split_once(' ').unwrap();
    black_box(run(table, stage, transactions.parse().unwrap()));
}

#[test]
fn an_event_costs_no_more_instructions_than_it_did() {
    if !has_valgrind() {
        return;
    }
    let mut too_dear = Vec::new();
    for (stage, ceiling) in CEILINGS {
        let each = each("default", stage);
        println!("{stage}: {each} instructions an event, at most {ceiling}");
        if each > ceiling {
            too_dear.push(format!(
                "{stage} takes {each} instructions an event, at most {ceiling} are allowed"
            ));
        }
    }
    assert!(too_dear.is_empty(), "{}", too_dear.join("\n"));
}

#[test]
fn an_event_of_a_configured_table_costs_at_most_a_tenth_more_instructions() {
    if !has_valgrind() {
        return;
    }
    let [default, configured] = TABLES.map(|table| {
        let stages = CEILINGS.map(|(stage, _)| (stage, each(table, stage)));
        println!("{table}: {stages:?}");
        stages.iter().map(|(_, each)| each).sum::<u64>()
    });
    println!("{configured} instructions an event, {default} by default");
    assert!(
        configured * 100 <= default * (100 + CONFIGURED_PERCENT_MAX),
        "an event of a configured table takes {configured} instructions, {default} by default"
    );
}

/// The comparison is of like with like.
#[test]
fn both_tables_have_records_of_the_same_shape() {
    for table in TABLES {
        let mut work = DatabaseWork::new(Table::named(table));
        let event = decoded(&work.columns, &work.insert);
        let origin = EventSource::Stream {
            commit_lsn: Lsn::new(1),
            index: 0,
            committed_at: Timestamp::from_postgres_micros(0),
        };
        let record = work.router.record(&event, origin).unwrap();
        assert_eq!(Some(record.topic), work.topic.map(TopicName::as_str));
        assert_eq!(record.key, Some(b"key123".as_slice()), "{table}");
        assert_eq!(record.value.unwrap().len(), 346, "{table}");
        assert_eq!(record.headers().count(), 7, "{table}");
    }
}

#[test]
#[ignore = "a measurement of time: tests/bench/run micro"]
fn micro() {
    let mut criterion = Criterion::default().without_plots();
    for table in TABLES {
        let mut group = criterion.benchmark_group(format!("{table} event"));
        group.throughput(Throughput::Elements(PER_TRANSACTION));
        for (stage, _) in CEILINGS {
            let mut work = DatabaseWork::new(Table::named(table));
            group.bench_function(stage, |bencher| bencher.iter(|| work.transaction(stage)));
        }
        group.finish();
    }
}
