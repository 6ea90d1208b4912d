//! The second part: the latency of an event without a backlog, the time of a start, the memory of
//! an idle program.
//!
//! An event's latency runs from the insert, by the database's clock, until a consumer has the
//! record, by the same machine's clock; it includes the commit. The writers keep their rate in any
//! case, so a contender that falls behind is also measured on the events that wait.

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
    let stage = Stage::start(options, report).await?;
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

/// What publishes an event.
enum Way<'a> {
    /// Its writer, after the commit: the limit of the machine, where commit and record are
    /// independent.
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
    /// The latency of every event in seconds, sorted.
    times: Vec<f64>,
    /// Percent of one core; not measured for the writer.
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
    let rates = [200, 2_000, 5_000].into_iter();
    let rates = rates.filter(|rate| chosen(&format!("rate {rate}/s"), &options.load));
    let mut cases: Vec<(&Way, u64, Vec<Run>)> = Vec::new();
    for way in &ways {
        cases.extend(rates.clone().map(|rate| (way, rate, Vec::new())));
    }
    if let Some((last, _, _)) = cases.last() {
        // Warms up the consumer's path for the first contender as for the last.
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
    let load = Load::empty(stage, 1).await?;
    load.rewind("run").await?;
    let (mut running, sender) = match way {
        Way::Writer(producer) => (None, Some(producer)),
        Way::Contender(contender) => {
            let running = contender.start(stage, &load, "run").await?;
            running.walsender(&load, "run").await?;
            (Some(running), None)
        }
    };
    // The first event opens the contender's connections to the broker.
    write(&load, rate, 1, 1, sender).await?;
    until_arrived(stage, &load, rate).await?;
    stage.settle().await?;
    let over = Arc::new(AtomicBool::new(false));
    let consumer = consumer(stage, &load)?;
    let stop = Arc::clone(&over);
    let events = (rate * seconds) as usize;
    let reading = thread::spawn(move || read(&consumer, events, &stop));
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

/// A consumer that starts at the present ends of the partitions.
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
    // Lets the first fetch start before the first event.
    let idle = consumer.poll(Duration::from_millis(500));
    ensure!(idle.is_none(), "unexpected record");
    Ok(consumer)
}

/// The latency of each event in seconds, until `over` is set, so many have come and none follows.
/// The marker of a transaction may stand in a topic before its records are there for a reader.
fn read(consumer: &BaseConsumer, events: usize, over: &AtomicBool) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    let mut came_at = Instant::now();
    loop {
        let last = over.load(Ordering::Relaxed);
        match consumer.poll(Duration::from_millis(200)) {
            Some(message) => {
                let message = message?;
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
                let value: Value = serde_json::from_slice(message.payload().context("no value")?)?;
                // Debezium may wrap the payload in a JSON string.
                let value = match &value {
                    Value::String(text) => serde_json::from_str(text)?,
                    _ => value,
                };
                let at = value["at"].as_f64().context("no time in an event")?;
                times.push(now - at);
                came_at = Instant::now();
            }
            None if last && (times.len() >= events || came_at.elapsed() > LIMIT) => {
                return Ok(times);
            }
            None => {}
        }
    }
}

/// Measures from the start of the process until a waiting event is acknowledged, and then the idle
/// memory.
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
            let load = Load::empty(stage, 1).await?;
            load.rewind("run").await?;
            write(&load, 1, 1, 1, None).await?;
            let mut running = first_event(stage, contender, &load, 1, &mut first).await?;
            running.kill()?;
            write(&load, 1, 1, 1, None).await?;
            // An event that was acknowledged and not yet confirmed may be sent again.
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
    let running = contender.start(stage, load, "run").await?;
    let offsets = contender.offsets(events);
    while stage.records(&load.topics)? < offsets {
        ensure!(began.elapsed() < LIMIT, "{}: no event", contender.name);
        running.must_run()?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.push(began.elapsed().as_secs_f64() * 1e3);
    Ok(running)
}
