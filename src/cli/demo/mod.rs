//! `demo`: the whole way from a transaction to a consumer, with nothing to install.
//!
//! A Postgres of its own, librdkafka's in-process mock cluster (or a Kafka that is named), a shop
//! that writes orders, the publisher that `run` runs, and a consumer. It leaves nothing behind,
//! however it ends: the server and its folder go with this process, the mock cluster is part of it,
//! and a real cluster gets one topic of a new name, which is deleted at the end.

mod args;
mod screen;
mod shop;
mod stage;
mod tally;

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use outboxd::config::LogFormat;
use outboxd::postgres::slot;
use outboxd::publisher::{Phase, Publisher};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use tokio::sync::{mpsc, watch};

use crate::cli::demo::screen::{Event, Screen, bytes, millis};
use crate::cli::demo::shop::Plan;
use crate::cli::demo::stage::{Stage, Task};
use crate::cli::demo::tally::{Arrival, Order, Tally};
use crate::cli::process::{HttpServer, Signals, init_log};

pub(crate) use crate::cli::demo::args::Args;

/// When no event arrives for so long although some are committed, something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a start that is no longer wanted is waited for; what it leaves, its guard removes.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Runs it.
pub(crate) async fn execute(args: Args) -> Result<()> {
    let mut signals = Signals::new()?;
    // Only what is wrong, unless more is asked for.
    let filter = std::env::var("OUTBOX_LOG").unwrap_or_else(|_| "warn".to_owned());
    init_log(&filter, LogFormat::Text)?;
    let screen = Screen::new(args.rate);
    let Some(mut stage) = build(&args, &screen, &mut signals).await? else {
        return Ok(());
    };
    let shown = Box::pin(show(&mut stage, &args, &screen, &mut signals)).await;
    let cleared = Box::pin(stage.clear()).await;
    shown?;
    cleared?;
    Ok(screen.fact("removed", "everything that was started or made")?)
}

/// `None` when a signal came. What is being started is then waited for, since it can only be
/// removed when it is there.
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

/// Publishes and shows it, and stops the publisher, however it goes.
async fn show(
    stage: &mut Stage,
    args: &Args,
    screen: &Screen,
    signals: &mut Signals,
) -> Result<()> {
    let mut publisher = Publisher::new(stage.config.clone());
    let listener = stage.take_listener()?;
    let page = listener.local_addr().context("where the page is served")?;
    let http = HttpServer::start(listener, &publisher);
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

/// Has orders written and consumes their events until the plan is fulfilled or a signal comes, and
/// then until the last committed event has arrived. Tells how long it took.
async fn watch(
    stage: &Stage,
    args: &Args,
    screen: &Screen,
    publisher: &mut Publisher,
    signals: &mut Signals,
) -> Result<(Tally, Duration)> {
    let consumer = stage.consumer().await?;
    let (lag, _looking) = stage.look_at_slot().await?;
    let (stop, stopped) = watch::channel(false);
    let (teller, mut orders) = mpsc::channel(1_000);
    let plan = Plan {
        topic: stage.topic.clone(),
        events: (args.events > 0).then_some(args.events),
        rate: args.rate,
    };
    let session = stage.connect().await?;
    let mut trading = Task(tokio::spawn(shop::trade(session, plan, teller, stopped)));

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
                // A consumer's errors are those of its connections: librdkafka mends them, or the
                // silence is noticed.
                let Ok(message) = message else { continue };
                // What arrives was told of before, though the runtime may have kept it back until
                // now.
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
            ended = publisher.ended() => return Err(by_itself(ended)),
            _ = second.tick() => {
                sum_up_second(screen, &tally, &mut shown, *lag.borrow())?;
                if tally.waiting() > 0 && arrived_at.elapsed() > PATIENCE {
                    let (waiting, state) = (tally.waiting(), state(publisher));
                    bail!("{waiting} committed events do not arrive: {state}");
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
    let count = "SELECT count(*), count(*) FILTER (WHERE published_at IS NULL) FROM outbox.outbox";
    let row = session.row("counting the rows", count, &[]).await?;
    let (rows, unmarked): (i64, i64) = (row.get(0), row.get(1));
    let slot = slot::read(&session, &stage.config.slot).await?;
    let lag = slot.context("the slot is gone")?.lag_bytes;
    let Tally {
        arrived,
        again,
        orders_rolled_back,
        ..
    } = tally;
    let seconds = took.as_secs_f64();

    screen.blank()?;
    let text = format!("{arrived} events in {seconds:.1} s, none missing, {again} twice");
    screen.fact("published", &text)?;
    let text = format!("{orders_rolled_back} orders, none of them sent");
    screen.fact("rolled back", &text)?;
    if let Some(latencies) = tally.latencies(usize::MAX) {
        let [p50, p99, longest] = latencies.map(millis);
        let text = format!("p50 {p50}, p99 {p99}, longest {longest}");
        screen.fact("commit to consumer", &text)?;
    }
    let text = format!("{rows} rows, {unmarked} not marked as published");
    screen.fact("outbox", &text)?;
    Ok(screen.fact("slot lag", &bytes(lag))?)
}

/// Waits until the publisher streams; false when a signal comes first.
async fn is_streaming(publisher: &mut Publisher, signals: &mut Signals) -> Result<bool> {
    let started = Instant::now();
    while publisher.status().phase != Phase::Streaming {
        if started.elapsed() > PATIENCE {
            bail!("the publisher does not get to stream: {}", state(publisher));
        }
        tokio::select! {
            ended = publisher.ended() => return Err(by_itself(ended)),
            _ = signals.next() => return Ok(false),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
    Ok(true)
}

fn by_itself(ended: outboxd::error::Result<()>) -> anyhow::Error {
    match ended {
        Ok(()) => anyhow!("the publisher has ended by itself"),
        Err(error) => error.into(),
    }
}

/// What the publisher says of itself.
fn state(publisher: &Publisher) -> String {
    let status = publisher.status();
    match (status.waiting, status.last_error) {
        (Some(waiting), _) => format!("it waits for {} ({})", waiting.on, waiting.detail),
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
    let id = outbox_id(message).context("a record has no header outbox_id")?;
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
