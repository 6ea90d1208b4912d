//! The second part: how long an event is under way when there is no backlog, how soon a start is of use, what an idle
//! program weighs.
//!
//! The time of an event runs from the insert, by the database's clock, to the moment when a consumer has it, by the same machine's
//! clock; the commit that follows the insert is in it. The writers keep to their rate whatever happens: who falls behind is
//! not spared the events that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::FutureProducer;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::contender::{self, Contender, Running};
use crate::load::Load;
use crate::report::Report;
use crate::stage::Stage;
use crate::support::wait::wait_for;
use crate::table::{Table, median};
use crate::writers::write;
use crate::{Options, chosen};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: f64 = (1 << 20) as f64;

/// Adds a table of latencies and one of starts.
pub(crate) async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let stage = Stage::set(options, report).await?;
    let contenders: Vec<Contender> = contender::all(options)?
        .into_iter()
        .filter(Contender::publishes)
        .collect();
    report.add(rates(&stage, &contenders, options).await?)?;
    if chosen("start", &options.load) {
        report.add(starts(&stage, &contenders, options).await?)?;
    }
    Ok(())
}

/// What brings an event to Kafka.
enum Way<'a> {
    /// Its writer, after the commit: what the machine allows, with a commit and a record that know nothing of each other.
    Writer(FutureProducer),
    Contender(&'a Contender),
}

impl Way<'_> {
    fn name(&self) -> &str {
        match self {
            Way::Writer(_) => "the writer itself",
            Way::Contender(contender) => &contender.name,
        }
    }
}

/// One run at one rate.
#[derive(Debug)]
struct Run {
    /// Of every event, in seconds, in their order.
    times: Vec<f64>,
    /// Percent of a core; a writer's own is not told apart.
    cpu: Option<f64>,
}

impl Run {
    fn ms(&self, share: f64) -> f64 {
        self.times[((self.times.len() - 1) as f64 * share) as usize] * 1e3
    }
}

async fn rates(stage: &Stage, contenders: &[Contender], options: &Options) -> Result<Table> {
    let mut table = Table::new(
        "Insert to consumer",
        &[
            "contender",
            "tx/s",
            "events",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "most ms",
            "CPU % of a core",
        ],
    );
    let mut settings = stage.kafka.client();
    settings
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "0");
    let seconds = if options.quick { 2 } else { 20 };
    let mut ways = vec![Way::Writer(settings.create()?)];
    ways.extend(contenders.iter().map(Way::Contender));
    let rates = [200, 2_000].into_iter();
    let rates = rates.filter(|rate| chosen(&format!("rate {rate}"), &options.load));
    let mut cases: Vec<(&Way, u64, Vec<Run>)> = Vec::new();
    for way in &ways {
        cases.extend(rates.clone().map(|rate| (way, rate, Vec::new())));
    }
    if let Some((last, _, _)) = cases.last() {
        // The path of a consumer is to be warm for the first as it is for the last.
        at_rate(stage, last, 2_000, seconds).await?;
    }
    for _ in 0..options.rounds() {
        for (way, rate, runs) in &mut cases {
            runs.push(at_rate(stage, way, *rate, seconds).await?);
        }
    }
    for (way, rate, runs) in cases {
        let of = |share: f64| {
            let middle = median(runs.iter().map(|run| run.ms(share)).collect());
            format!("{middle:.2}")
        };
        let cpu: Option<Vec<f64>> = runs.iter().map(|run| run.cpu).collect();
        table.row([
            way.name().to_owned(),
            rate.to_string(),
            (rate * seconds).to_string(),
            of(0.5),
            of(0.95),
            of(0.99),
            of(1.0),
            cpu.map_or_else(|| "–".to_owned(), |cpu| format!("{:.1}", median(cpu))),
        ]);
    }
    Ok(table)
}

async fn at_rate(stage: &Stage, way: &Way<'_>, rate: u64, seconds: u64) -> Result<Run> {
    let load = Load::none(stage, 1).await?;
    load.rewind("run").await?;
    let (mut running, sender) = match way {
        Way::Writer(producer) => (None, Some(producer)),
        Way::Contender(contender) => {
            let running = contender.start(stage, &load, "run")?;
            running.walsender(&load, "run").await?;
            (Some(running), None)
        }
    };
    // Its connections to the broker are made with the first event.
    write(&load, rate, 1, 1, sender).await?;
    until_arrived(stage, &load, rate).await?;
    stage.settle().await?;
    let over = Arc::new(AtomicBool::new(false));
    let consumer = consumer(stage, &load)?;
    let told = Arc::clone(&over);
    let reading = thread::spawn(move || read(&consumer, &told));
    let began = Instant::now();
    let before = running.as_ref().map(Running::usage).transpose()?;
    write(&load, rate, 1, seconds, sender).await?;
    until_arrived(stage, &load, rate * (seconds + 1)).await?;
    let after = running.as_ref().map(Running::usage).transpose()?;
    let cpu = before.zip(after).map(|(before, after)| {
        let used = after.cpu - before.cpu;
        used.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0
    });
    over.store(true, Ordering::Relaxed);
    let mut times = reading
        .join()
        .map_err(|_| anyhow::anyhow!("the consumer panicked"))??;
    if let Some(running) = &mut running {
        running.stop()?;
    }
    ensure!(
        times.len() as u64 == rate * seconds,
        "{} events were consumed",
        times.len()
    );
    times.sort_by(f64::total_cmp);
    Ok(Run { times, cpu })
}

async fn until_arrived(stage: &Stage, load: &Load, events: u64) -> Result<()> {
    wait_for("the events to arrive", LIMIT, async || {
        Ok((stage.records(&load.topics)? as u64 >= events).then_some(()))
    })
    .await
}

/// A consumer that sees what comes from now on.
fn consumer(stage: &Stage, load: &Load) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = stage
        .kafka
        .client()
        .set("group.id", "latency")
        .set("enable.auto.commit", "false")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for topic in &load.topics.names {
        for partition in 0..load.topics.partitions {
            let (_, high) = consumer.fetch_watermarks(topic, partition, LIMIT)?;
            assignment.add_partition_offset(topic, partition, Offset::Offset(high))?;
        }
    }
    consumer.assign(&assignment)?;
    // The first fetch is under way before the first event.
    let idle = consumer.poll(Duration::from_millis(500));
    ensure!(idle.is_none(), "an event nobody wrote");
    Ok(consumer)
}

/// The seconds that each event was under way, until told that all are there and none comes any more.
fn read(consumer: &BaseConsumer, over: &AtomicBool) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    loop {
        let last = over.load(Ordering::Relaxed);
        match consumer.poll(Duration::from_millis(200)) {
            Some(message) => {
                let message = message?;
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
                let value: Value = serde_json::from_slice(message.payload().context("no value")?)?;
                // Debezium may wrap a payload that it takes for text.
                let value = match &value {
                    Value::String(text) => serde_json::from_str(text)?,
                    _ => value,
                };
                let at = value["at"].as_f64().context("no time in an event")?;
                times.push(now - at);
            }
            None if last => return Ok(times),
            None => {}
        }
    }
}

/// From the start of the process to the moment when an event that waits is acknowledged; and what it weighs afterwards.
async fn starts(stage: &Stage, contenders: &[Contender], options: &Options) -> Result<Table> {
    let mut table = Table::new(
        "Start",
        &[
            "contender",
            "start to first event ms",
            "after kill -9 ms",
            "idle MiB",
        ],
    );
    for contender in contenders {
        let (mut first, mut again, mut idle) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..options.rounds() {
            let load = Load::none(stage, 1).await?;
            load.rewind("run").await?;
            write(&load, 1, 1, 1, None).await?;
            let mut running = first_event(stage, contender, &load, 1, &mut first).await?;
            running.kill()?;
            write(&load, 1, 1, 1, None).await?;
            // What was acknowledged and not yet confirmed may come again.
            let mut running = first_event(stage, contender, &load, 2, &mut again).await?;
            tokio::time::sleep(Duration::from_secs(if options.quick { 1 } else { 10 })).await;
            idle.push(running.usage()?.resident_bytes as f64 / MIB);
            running.stop()?;
        }
        table.row([
            contender.name.clone(),
            format!("{:.0}", median(first)),
            format!("{:.0}", median(again)),
            format!("{:.1}", median(idle)),
        ]);
    }
    Ok(table)
}

async fn first_event(
    stage: &Stage,
    contender: &Contender,
    load: &Load,
    events: i64,
    times: &mut Vec<f64>,
) -> Result<Running> {
    let began = Instant::now();
    let running = contender.start(stage, load, "run")?;
    while stage.records(&load.topics)? < events {
        ensure!(began.elapsed() < LIMIT, "{}: no event", contender.name);
        running.must_run()?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.push(began.elapsed().as_secs_f64() * 1e3);
    Ok(running)
}
