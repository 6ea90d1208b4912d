//! The first part: a backlog in the WAL is published as fast as possible.
//!
//! Contenders that write nothing share a load. One that marks rows has its own load in each run:
//! rows whose marks were reset are not a fresh table, and the marks lie in the WAL that the next
//! contender reads.

use anyhow::Result;

use crate::contender::{self, Contender, Measured};
use crate::load::{Load, SHAPES, Shape};
use crate::plot::bars;
use crate::report::Report;
use crate::stage::Stage;
use crate::table::{Table, median};
use crate::{Options, chosen};

const MIB: f64 = (1 << 20) as f64;

/// Adds one table for each shape of load.
pub(crate) async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let stage = Stage::start(options, report).await?;
    let contenders = contender::all(options)?;
    for shape in SHAPES
        .iter()
        .filter(|shape| chosen(shape.name, &options.load))
    {
        let load = Load::create(&stage, shape, options).await?;
        let mut runs: Vec<Vec<Measured>> = vec![Vec::new(); contenders.len()];
        for round in 0..=options.rounds() {
            for turn in 0..contenders.len() {
                // Another contender begins each round.
                let at = (turn + round) % contenders.len();
                let own = match contenders[at].marks() {
                    true => Some(Load::create(&stage, shape, options).await?),
                    false => None,
                };
                let load = own.as_ref().unwrap_or(&load);
                stage.settle().await?;
                let measured = contenders[at].run(&stage, load).await?;
                eprintln!(
                    "{} round {round} {}: {:.2} s",
                    shape.name, contenders[at].name, measured.seconds
                );
                // The first round warms the caches.
                if round > 0 || options.quick {
                    runs[at].push(measured);
                }
            }
        }
        report.add(table(shape, &load, &contenders, &runs))?;
        let seconds = |runs: &[Measured]| median(runs.iter().map(|run| run.seconds).collect());
        let values: Vec<_> = contenders
            .iter()
            .zip(&runs)
            .map(|(contender, runs)| (contender.name.clone(), seconds(runs)))
            .collect();
        let svg = bars(shape.title, "s", &values);
        report.plot(&format!("drain-{}.svg", shape.name), &svg)?;
    }
    Ok(())
}

fn table(shape: &Shape, load: &Load, contenders: &[Contender], runs: &[Vec<Measured>]) -> Table {
    let events = load.events as f64;
    let of = |runs: &[Measured], figure: &dyn Fn(&Measured) -> f64| {
        median(runs.iter().map(figure).collect())
    };
    let mut table = Table::new(
        format!("{} ({} here)", shape.title, load.events),
        &[
            "contender",
            "s",
            "least",
            "most",
            "events/s",
            "× floor",
            "CPU s",
            "µs an event",
            "peak MiB",
            "walsender CPU s",
            "broker CPU s",
        ],
    );
    for (contender, own) in contenders.iter().zip(runs) {
        let seconds = of(own, &|run| run.seconds);
        let floor = contenders
            .iter()
            .zip(runs)
            .find(|(other, _)| other.is_floor() && other.transport == contender.transport);
        let ratio = floor.map(|(_, floor)| seconds / of(floor, &|run| run.seconds));
        let cpu = of(own, &|run| run.contender.cpu.as_secs_f64());
        let least = own.iter().map(|run| run.seconds).fold(f64::MAX, f64::min);
        let most = own.iter().map(|run| run.seconds).fold(0.0, f64::max);
        table.row([
            contender.name.clone(),
            format!("{seconds:.2}"),
            format!("{least:.2}"),
            format!("{most:.2}"),
            format!("{:.0}", events / seconds),
            ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
            format!("{cpu:.2}"),
            format!("{:.1}", cpu * 1e6 / events),
            format!(
                "{:.0}",
                of(own, &|run| run.contender.peak_bytes as f64 / MIB)
            ),
            format!("{:.2}", of(own, &|run| run.walsender.as_secs_f64())),
            format!("{:.2}", of(own, &|run| run.broker.as_secs_f64())),
        ]);
    }
    table
}
