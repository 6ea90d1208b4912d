//! The third part: how time and memory grow with a backlog, and how far the slot lags behind
//! writers under steady load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::contender::{self, Contender};
use crate::load::{Load, Shape};
use crate::plot::{Axis, Scale, Series, lines};
use crate::report::Report;
use crate::stage::Stage;
use crate::support::wait::wait_for;
use crate::table::{Table, median};
use crate::writers::write;
use crate::{Options, chosen};

const MIB: f64 = (1 << 20) as f64;
/// Events in each transaction of the steady writers.
const ROWS: u64 = 10;
/// Time limit for publishing what the probe wrote.
const CAUGHT_UP_LIMIT: Duration = Duration::from_secs(600);
/// More transactions a second than can be published.
const UNLIMITED: u64 = 1_000_000;

/// Adds two tables and two plots.
pub(crate) async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let stage = Stage::start(options, report).await?;
    let contenders: Vec<Contender> = contender::all(options)?
        .into_iter()
        .filter(|contender| contender.name.contains("keep"))
        .collect();
    if chosen("backlog", &options.load) {
        backlog(&stage, &contenders, options, report).await?;
    }
    if chosen("lag", &options.load) {
        lag(&stage, &contenders, options, report).await?;
    }
    Ok(())
}

async fn backlog(
    stage: &Stage,
    contenders: &[Contender],
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let mut table = Table::new(
        "Time and memory over a backlog",
        &[
            "contender",
            "events",
            "s",
            "events/s",
            "µs CPU an event",
            "peak MiB",
        ],
    );
    let mut seconds: Vec<Series> = contenders
        .iter()
        .map(|contender| Series {
            name: contender.name.clone(),
            points: Vec::new(),
        })
        .collect();
    for events in [10_000, 100_000, 1_000_000, 10_000_000] {
        let shape = Shape {
            name: "backlog",
            title: "",
            events,
            per_transaction: 10,
            filler: 290,
            topics: 1,
        };
        let load = Load::create(stage, &shape, options).await?;
        for (contender, series) in contenders.iter().zip(&mut seconds) {
            let measured = contender.run(stage, &load).await?;
            let events = load.events as f64;
            series.points.push((events, measured.seconds));
            table.row([
                contender.name.clone(),
                load.events.to_string(),
                format!("{:.2}", measured.seconds),
                format!("{:.0}", events / measured.seconds),
                format!("{:.1}", measured.contender.cpu.as_secs_f64() * 1e6 / events),
                format!("{:.1}", measured.contender.peak_bytes as f64 / MIB),
            ]);
        }
    }
    report.add(table)?;
    let axis = |label| Axis {
        label,
        scale: Scale::Log,
    };
    let svg = lines(
        "Seconds from start to the last acknowledgement",
        axis("events in the backlog"),
        axis("s"),
        &seconds,
    );
    report.plot("backlog.svg", &svg)
}

/// Measures the rate at which the publisher keeps up with the writers, and then the lag at 80 % of
/// that rate.
async fn lag(
    stage: &Stage,
    contenders: &[Contender],
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let (probe, seconds) = if options.quick { (1, 3) } else { (10, 60) };
    let mut table = Table::new(
        "The slot's lag under steady load",
        &[
            "contender",
            "limit events/s",
            "80 % of it",
            "written events/s",
            "lag MiB p50",
            "p99",
            "most",
        ],
    );
    let mut all = Vec::new();
    for contender in contenders {
        let load = Load::empty(stage, 1).await?;
        load.rewind("run").await?;
        let mut running = contender.start(stage, &load, "run").await?;
        running.walsender(&load, "run").await?;
        write(&load, 1, ROWS, 1, None).await?;
        let before = stage.records(&load.topics)?;
        let began = Instant::now();
        let writing = tokio::time::timeout(
            Duration::from_secs(probe),
            write(&load, UNLIMITED, ROWS, probe, None),
        );
        ensure!(writing.await.is_err(), "the writers found no limit");
        let published = stage.records(&load.topics)? - before;
        let limit = published as f64 / began.elapsed().as_secs_f64();
        wait_for("the publisher to catch up", CAUGHT_UP_LIMIT, async || {
            Ok((load.lag("run").await? <= 1 << 20).then_some(()))
        })
        .await?;
        let rate = limit * 0.8;
        let mut points = Vec::new();
        let began = Instant::now();
        let mut writing = std::pin::pin!(write(
            &load,
            (rate / ROWS as f64) as u64,
            ROWS,
            seconds,
            None
        ));
        loop {
            tokio::select! {
                written = &mut writing => break written?,
                () = tokio::time::sleep(Duration::from_millis(250)) => {
                    let lag = load.lag("run").await? as f64 / MIB;
                    points.push((began.elapsed().as_secs_f64(), lag));
                }
            }
        }
        // Below the target rate where the machine is too slow.
        let written = rate * seconds as f64 / began.elapsed().as_secs_f64();
        running.stop()?;
        let mut lags: Vec<f64> = points.iter().map(|point| point.1).collect();
        lags.sort_by(f64::total_cmp);
        let last = lags.last().context("no lag was seen")?;
        let late = lags[(lags.len() - 1) * 99 / 100];
        table.row([
            contender.name.clone(),
            format!("{limit:.0}"),
            format!("{rate:.0}"),
            format!("{written:.0}"),
            format!("{:.1}", median(lags.clone())),
            format!("{late:.1}"),
            format!("{last:.1}"),
        ]);
        all.push(Series {
            name: contender.name.clone(),
            points,
        });
    }
    report.add(table)?;
    let axis = |label| Axis {
        label,
        scale: Scale::Linear,
    };
    let svg = lines(
        "WAL behind the confirmed position at 80 % of the limit",
        axis("s"),
        axis("MiB"),
        &all,
    );
    report.plot("lag.svg", &svg)
}
