//! `demo`: runs end to end, from a transaction to a consumer, with nothing to install.
//!
//! It consists of a temporary Postgres, librdkafka's in-process mock cluster (or a given Kafka), a
//! shop that writes orders, the publisher of `run`, and a consumer. It leaves nothing behind,
//! however it ends: the server and its folder are removed with this process, the mock cluster is
//! part of it, and a real cluster gets one topic with a new name, which is deleted at the end.

mod args;
mod screen;
mod shop;
mod stage;
mod tally;

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use outboxd::config::LogFormat;
use outboxd::format::{bytes, count};
use outboxd::postgres::{Columns, slot};
use outboxd::publisher::{Phase, Publisher, Status};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use tokio::sync::{mpsc, watch};

use crate::cli::demo::screen::{Event, Screen, millis};
use crate::cli::demo::shop::Plan;
use crate::cli::demo::stage::{Stage, Task};
use crate::cli::demo::tally::{Arrival, Order, Tally};
use crate::cli::log::Log;
use crate::cli::process::{HttpServer, Signals};

pub(crate) use crate::cli::demo::args::Args;

/// Without an arrival for this long, although events were committed, the demo fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// The wait for a start after a signal; the guard removes whatever is left after that.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Runs the demo.
pub(crate) async fn execute(args: Args) -> Result<()> {
    let mut signals = Signals::new()?;
    // Only warnings, unless OUTBOX_LOG is set.
    let filter = std::env::var("OUTBOX_LOG").unwrap_or_else(|_| "warn".to_owned());
    let _log = Log::start(&filter, LogFormat::Text)?;
    let screen = Screen::new(args.rate);
    let Some(mut stage) = build(&args, &screen, &mut signals).await? else {
        return Ok(());
    };
    let shown = Box::pin(show(&mut stage, &args, &screen, &mut signals)).await;
    let cleared = Box::pin(stage.clear()).await;
    shown?;
    cleared?;
    Ok(screen.fact("removed", "everything that the demo created")?)
}

/// `None` after a signal. The start is then waited for, since only a started server can be removed.
async fn build(args: &Args, screen: &Screen, signals: &mut Signals) -> Result<Option<Stage>> {
    let mut building = Box::pin(Stage::build(args, screen));
    tokio::select! {
        stage = &mut building => return Ok(Some(stage?)),
        _ = signals.next() => {}
    }
    let stage = tokio::select! {
        stage = tokio::time::timeout(GIVE_UP, building) => stage,
        number = signals.next() => std::process::exit(128 + number),
    };
    if let Ok(Ok(stage)) = stage {
        Box::pin(stage.clear()).await?;
    }
    Ok(None)
}

/// Publishes and shows the events, and stops the publisher in every case.
async fn show(
    stage: &mut Stage,
    args: &Args,
    screen: &Screen,
    signals: &mut Signals,
) -> Result<()> {
    let mut publisher = Publisher::new(stage.config.clone());
    let listener = stage.take_listener()?;
    let page = listener
        .local_addr()
        .context("cannot read the status page's address")?;
    let http = HttpServer::start(listener, &[], &publisher);
    publisher.start().await?;
    let shown = async {
        if !is_streaming(&mut publisher, signals).await? {
            return Ok(None);
        }
        let slot = &stage.config.slot;
        screen.fact("outboxd", &format!("streams from the slot {slot}"))?;
        screen.fact("page", &format!("http://{page}/"))?;
        screen.blank()?;
        watch(stage, args, screen, &mut publisher, signals)
            .await
            .map(Some)
    };
    let shown = Box::pin(shown).await;
    let stopped = tokio::select! {
        stopped = publisher.stop() => stopped,
        number = signals.next() => std::process::exit(128 + number),
    };
    http.stop().await;
    let watched = shown?;
    stopped?;
    match watched {
        Some((tally, took)) => sum_up(stage, screen, &tally, took).await,
        None => Ok(()),
    }
}

/// Starts the shop and consumes its events until the plan is complete or a signal arrives, and then
/// until the last committed event has arrived. Returns the elapsed time too.
async fn watch(
    stage: &Stage,
    args: &Args,
    screen: &Screen,
    publisher: &mut Publisher,
    signals: &mut Signals,
) -> Result<(Tally, Duration)> {
    let consumer = stage.consumer().await?;
    let (lag, _watching) = stage.watch_slot().await?;
    let (stop, stopped) = watch::channel(false);
    let (sender, mut orders) = mpsc::channel(1_000);
    let plan = Plan {
        topic: stage.topic.clone(),
        events: (args.events > 0).then_some(args.events),
        rate: args.rate,
    };
    let session = stage.connect().await?;
    let mut trading = Task(tokio::spawn(shop::trade(session, plan, sender, stopped)));

    let mut tally = Tally::default();
    let (mut is_trading, mut is_reported, mut shown) = (true, false, 0);
    let started = Instant::now();
    let mut arrived_at = started;
    let mut second = tokio::time::interval(Duration::from_secs(1));
    screen.heads()?;
    while is_trading || tally.waiting() > 0 {
        tokio::select! {
            biased;
            number = signals.next() => {
                if is_reported {
                    std::process::exit(128 + number);
                }
                is_reported = true;
                stop.send_replace(true);
            }
            Some(order) = orders.recv() => note(&mut tally, screen, &order)?,
            message = consumer.recv() => {
                // A consumer's errors are connection errors: librdkafka reconnects, or the silence
                // is noticed.
                let Ok(message) = message else { continue };
                // The shop announces each event before it arrives, but the runtime may deliver that
                // only now.
                while let Ok(order) = orders.try_recv() {
                    note(&mut tally, screen, &order)?;
                }
                arrived_at = Instant::now();
                arrive(&mut tally, screen, &message, arrived_at, *lag.borrow())?;
            }
            ended = trading.ended(), if is_trading => {
                ended?.context("the shop failed")?;
                is_trading = false;
            }
            ended = publisher.ended() => return Err(unexpected_end(ended)),
            _ = second.tick() => {
                sum_up_second(screen, &tally, &mut shown, *lag.borrow())?;
                if tally.waiting() > 0 && arrived_at.elapsed() > PATIENCE {
                    let (waiting, state) = (tally.waiting(), state(publisher));
                    bail!("{waiting} committed events have not arrived: {state}");
                }
            }
        }
    }
    sum_up_second(screen, &tally, &mut shown, *lag.borrow())?;
    Ok((tally, started.elapsed()))
}

fn sum_up_second(screen: &Screen, tally: &Tally, shown: &mut u64, lag: i64) -> io::Result<()> {
    let new = tally.arrived - *shown;
    if screen.shows_each() || new == 0 {
        return Ok(());
    }
    *shown = tally.arrived;
    screen.second(tally, new, lag)
}

async fn sum_up(stage: &Stage, screen: &Screen, tally: &Tally, took: Duration) -> Result<()> {
    let session = stage.connect().await?;
    let sql = "SELECT count(*), count(*) FILTER (WHERE published_at IS NULL) FROM outbox.outbox";
    let row = session.row("counting the rows", sql, &[]).await?;
    let (rows, unmarked): (i64, i64) = (row.column(0)?, row.column(1)?);
    let slot = slot::read(&session, &stage.config.slot).await?;
    let lag = slot.context("the slot no longer exists")?.lag_bytes;
    let Tally {
        arrived,
        again,
        orders_rolled_back,
        ..
    } = tally;
    let seconds = took.as_secs_f64();

    screen.blank()?;
    let (events, again) = (count(*arrived, "event"), count(*again, "duplicate"));
    let text = format!("{events} in {seconds:.1} s, none missing, {again}");
    screen.fact("published", &text)?;
    let orders = count(*orders_rolled_back, "order");
    let text = format!("{orders}, none of them published");
    screen.fact("rolled back", &text)?;
    if let Some(latencies) = tally.latencies(usize::MAX) {
        let [p50, p99, longest] = latencies.map(millis);
        let text = format!("p50 {p50}, p99 {p99}, max {longest}");
        screen.fact("commit to consumer", &text)?;
    }
    let rows = count(rows.unsigned_abs(), "row");
    let text = format!("{rows}, {unmarked} not marked as published");
    screen.fact("outbox", &text)?;
    Ok(screen.fact("slot lag", &bytes(lag))?)
}

/// Waits until the publisher streams and Kafka has answered it; false when a signal comes first.
async fn is_streaming(publisher: &mut Publisher, signals: &mut Signals) -> Result<bool> {
    let started = Instant::now();
    let is_ready = |status: &Status| status.phase == Phase::Streaming && status.kafka_has_answered;
    while !is_ready(&publisher.status()) {
        if started.elapsed() > PATIENCE {
            bail!(
                "the publisher did not start streaming: {}",
                state(publisher)
            );
        }
        tokio::select! {
            ended = publisher.ended() => return Err(unexpected_end(ended)),
            _ = signals.next() => return Ok(false),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
    Ok(true)
}

fn unexpected_end(ended: outboxd::error::Result<()>) -> anyhow::Error {
    match ended {
        Ok(()) => anyhow!("the publisher ended unexpectedly"),
        Err(error) => error.into(),
    }
}

/// The publisher's state in words.
fn state(publisher: &Publisher) -> String {
    let status = publisher.status();
    match (status.waiting, status.last_error) {
        (Some(waiting), _) => format!("it is waiting for {} ({})", waiting.on, waiting.detail),
        (None, Some(error)) => error,
        (None, None) => format!("it is {:?}", status.phase).to_lowercase(),
    }
}

fn note(tally: &mut Tally, screen: &Screen, order: &Order) -> Result<()> {
    tally.note(order);
    Ok(screen.rolled_back(order)?)
}

fn arrive(
    tally: &mut Tally,
    screen: &Screen,
    message: &BorrowedMessage<'_>,
    now: Instant,
    lag: i64,
) -> Result<()> {
    let id = outbox_id(message).context("a record has no outbox_id header")?;
    match tally.arrive(id, now) {
        Arrival::Again => Ok(()),
        Arrival::NeverCommitted => bail!("event {id} was published although it was rolled back"),
        Arrival::New {
            number,
            event_type,
            latency,
        } if screen.shows_each() => {
            let (partition, offset) = (message.partition(), message.offset());
            Ok(screen.event(&Event {
                number,
                event_type,
                partition,
                offset,
                latency,
                lag,
            })?)
        }
        Arrival::New { .. } => Ok(()),
    }
}

fn outbox_id(message: &BorrowedMessage<'_>) -> Option<i64> {
    let header = message
        .headers()?
        .iter()
        .find(|header| header.key == "outbox_id")?;
    std::str::from_utf8(header.value?).ok()?.parse().ok()
}
