//! The cost of one event from the bytes of the WAL to the producer and back, without sockets and
//! without Kafka.
//!
//! Three stages, each on the real code: `decode` turns bytes into an event, `route` an event into a
//! record, `track` is all that the engine does until the event is settled. Time varies between
//! machines and hours, instruction counts do not: the test counts instructions under callgrind,
//! with a ceiling for each stage. The counts are of the profile that the tests are built with,
//! debug assertions included; `tests/bench/run counts` counts those of the program as
//! shipped (profile `dist`), and `tests/bench/run micro` measures its time.
#![allow(clippy::unwrap_used)]

use std::env;
use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use criterion::{Criterion, Throughput};

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
use crate::pgoutput::{Message, Timestamp, golden};

const PER_TRANSACTION: u64 = 10;
/// The variable that passes a stage and a number of transactions to the test's child process.
const ORDER: &str = "OUTBOXD_MEASURE";
const MS: Duration = Duration::from_millis(1);

/// The most instructions per event in each stage, somewhat above the present count.
const CEILINGS: [(&str, u64); 3] = [("decode", 3_000), ("route", 2_800), ("track", 1_350)];

fn run(stage: &str, transactions: u64) -> u64 {
    let mut work = DatabaseWork::new();
    (0..transactions).map(|_| work.transaction(stage)).sum()
}

/// One transaction of ten events, repeated.
struct DatabaseWork {
    columns: Columns,
    insert: Vec<u8>,
    router: Router,
    engine: Engine,
    topic: Option<TopicName<'static>>,
    lsn: u64,
    tickets: Vec<Ticket>,
    done: Vec<InFlight>,
}

impl DatabaseWork {
    fn new() -> Self {
        let mapping = Mapping::default();
        let relation = golden::bytes(golden::OUTBOX_RELATION);
        let Message::Relation(relation) = Message::decode(&relation).unwrap() else {
            panic!("not a relation")
        };
        let mut engine = Engine::new(Limits {
            after_publish: AfterPublish::Keep,
            batch_size: 10,
            process_interval: MS * 5_000,
            memory_limit: 16 << 20,
            spreads: false,
            required: RequiredParts::of(&mapping),
            attempts: 3,
            on_poison: OnPoison::DeadLetter,
            dead_letters_per_minute: 100,
            parked_keys_max: 1_000,
            auto_creates_topics: false,
            compresses: false,
            batch_bytes: 1_000_000,
            status_interval: MS * 10_000,
            receive_timeout: MS * 25_000,
        });
        engine.reset(Lsn::new(100));
        engine.topic(TopicName::new("orders").ok());
        engine.session_started(MS);
        let known = MetadataAnswer::Known(TopicLimits::default());
        engine.topics_answered(MS, Some(vec![("orders".to_owned(), known)]));
        DatabaseWork {
            columns: Columns::of_relation(&relation, &mapping).unwrap(),
            insert: insert(relation.id),
            router: Router::new(&mapping),
            engine,
            topic: TopicName::new("orders").ok(),
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
                .map(|_| self.decode().topic.len() as u64)
                .sum(),
            "route" => self.route(),
            "track" => self.track(),
            other => panic!("no stage {other}"),
        }
    }

    fn decode(&self) -> Event<'_> {
        let Message::Insert(insert) = Message::decode(black_box(&self.insert)).unwrap() else {
            panic!("not an insert")
        };
        self.columns.event_from_tuple(insert.new).unwrap()
    }

    fn route(&mut self) -> u64 {
        self.lsn += 1_000;
        let insert = std::mem::take(&mut self.insert);
        let Message::Insert(message) = Message::decode(&insert).unwrap() else {
            panic!("not an insert")
        };
        let event = self.columns.event_from_tuple(message.new).unwrap();
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
        self.insert = insert;
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
                row: Some(RowName::of_id(1)),
                xid: 1,
                bytes: 1_000,
                since_micros: 1,
                sent_micros: 1,
                from_table: false,
                facts,
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

/// An event like those in the benchmarks' loads.
fn insert(relation: u32) -> Vec<u8> {
    let payload = format!(
        r#"{{"line": 1, "note": "{}", "order": 1, "status": "created"}}"#,
        "x".repeat(290)
    );
    let columns = [
        Some("123456"),
        Some("key123"),
        Some("orders"),
        Some(payload.as_str()),
        Some("2024-05-06 07:08:09.123456"),
        Some("0"),
        None,
    ];
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
fn instructions(stage: &str, transactions: u64) -> u64 {
    // The harness names a test by its path without the crate's name.
    let (_, tests) = module_path!().split_once("::").unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", &format!("{tests}::workload"), "--ignored"])
        .env(ORDER, format!("{stage} {transactions}"))
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

#[test]
#[ignore = "the child process of the test below"]
fn workload() {
    let order = env::var(ORDER).unwrap();
    let (stage, transactions) = order.split_once(' ').unwrap();
    black_box(run(stage, transactions.parse().unwrap()));
}

#[test]
fn an_event_costs_no_more_instructions_than_it_did() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("not offered here: instruction counts need valgrind");
        if let Some(list) = env::var_os("OUTBOXD_TEST_NOT_OFFERED") {
            let mut list = OpenOptions::new()
                .append(true)
                .create(true)
                .open(list)
                .unwrap();
            writeln!(list, "instruction counts need valgrind").unwrap();
        }
        return;
    }
    let (few, many) = (100, 600);
    let mut too_dear = Vec::new();
    for (stage, ceiling) in CEILINGS {
        let more = instructions(stage, many) - instructions(stage, few);
        let each = more / ((many - few) * PER_TRANSACTION);
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
#[ignore = "a measurement of time: tests/bench/run micro"]
fn micro() {
    let mut criterion = Criterion::default().without_plots();
    let mut group = criterion.benchmark_group("event");
    group.throughput(Throughput::Elements(PER_TRANSACTION));
    for (stage, _) in CEILINGS {
        let mut work = DatabaseWork::new();
        group.bench_function(stage, |bencher| bencher.iter(|| work.transaction(stage)));
    }
    group.finish();
}
