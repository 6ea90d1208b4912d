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
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::contender::{self, Contender, Running};
use crate::load::Load;
use crate::report::Report;
use crate::stage::Stage;
use crate::table::{Table, median};
use crate::{Options, chosen};

const WRITERS: u64 = 4;
const LIMIT: Duration = Duration::from_secs(60);
const MIB: f64 = (1 << 20) as f64;

/// Adds a table of latencies and one of starts.
pub(crate) async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let stage = Stage::set(options, report).await?;
    let contenders: Vec<Contender> = contender::all(options)?
        .into_iter()
        .filter(Contender::publishes)
        .collect();
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
    if let Some(first) = contenders.first() {
        // The path of a consumer is to be warm for the first as it is for the last.
        at_rate(&stage, first, 200, options).await?;
    }
    for contender in &contenders {
        for rate in [200, 2_000] {
            if chosen(&format!("rate {rate}"), &options.load) {
                table.row(at_rate(&stage, contender, rate, options).await?);
            }
        }
    }
    report.add(table)?;
    if chosen("start", &options.load) {
        report.add(starts(&stage, &contenders, options).await?)?;
    }
    Ok(())
}

async fn at_rate(
    stage: &Stage,
    contender: &Contender,
    rate: u64,
    options: &Options,
) -> Result<Vec<String>> {
    let seconds = if options.quick { 2 } else { 20 };
    let load = Load::none(stage, 1).await?;
    load.rewind("run").await?;
    let mut running = contender.start(stage, &load, "run")?;
    running.walsender(&load, "run").await?;
    // Its connections to the broker are made with the first event.
    write(&load, rate, 1, 1).await?;
    until_arrived(stage, &load, rate).await?;
    let before = running.usage()?;
    let over = Arc::new(AtomicBool::new(false));
    let consumer = consumer(stage, &load)?;
    let told = Arc::clone(&over);
    let reading = thread::spawn(move || read(&consumer, &told));
    let began = Instant::now();
    write(&load, rate, 1, seconds).await?;
    until_arrived(stage, &load, rate * (seconds + 1)).await?;
    let used = running.usage()?.cpu - before.cpu;
    let share = used.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    over.store(true, Ordering::Relaxed);
    let mut times = reading
        .join()
        .map_err(|_| anyhow::anyhow!("the consumer panicked"))??;
    running.stop()?;
    ensure!(
        times.len() as u64 == rate * seconds,
        "{} events were consumed",
        times.len()
    );
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let ms = |seconds: f64| format!("{:.2}", seconds * 1e3);
    Ok(vec![
        contender.name.clone(),
        rate.to_string(),
        times.len().to_string(),
        ms(at(0.5)),
        ms(at(0.95)),
        ms(at(0.99)),
        ms(at(1.0)),
        format!("{share:.1}"),
    ])
}

/// Commits so many transactions a second, each of so many events, for so many seconds.
pub(crate) async fn write(load: &Load, rate: u64, rows: u64, seconds: u64) -> Result<()> {
    let began = tokio::time::Instant::now();
    let writer = |number: u64| {
        let (url, topic) = (
            load.database.unix_url().to_owned(),
            load.topics.names[0].clone(),
        );
        tokio::spawn(async move {
            let session = crate::support::postgres::Session::open(&url).await?;
            let insert = session
                .prepare(
                    "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                     SELECT 'key' || ($1::bigint + i) % 1000, $2, \
                            jsonb_build_object('n', $1, 'i', i, 'note', repeat('x', 290), 'at', extract(epoch FROM clock_timestamp())) \
                     FROM generate_series(1, $3::bigint) i",
                )
                .await?;
            for n in (number..rate * seconds).step_by(WRITERS as usize) {
                let due = began + Duration::from_secs_f64(n as f64 / rate as f64);
                tokio::time::sleep_until(due).await;
                session
                    .execute(&insert, &[&(n as i64), &topic, &(rows as i64)])
                    .await?;
            }
            anyhow::Ok(())
        })
    };
    let writers: Vec<_> = (0..WRITERS).map(writer).collect();
    for writer in writers {
        writer.await??;
    }
    Ok(())
}

async fn until_arrived(stage: &Stage, load: &Load, events: u64) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while (stage.records(&load.topics)? as u64) < events {
        ensure!(Instant::now() < end, "the events do not arrive");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
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
            write(&load, 1, 1, 1).await?;
            let mut running = first_event(stage, contender, &load, 1, &mut first).await?;
            running.kill()?;
            write(&load, 1, 1, 1).await?;
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
