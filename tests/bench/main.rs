//! The benchmarks: outboxd beside the other programs that do its work, on the same WAL, in one run.
//!
//! Every figure is measured at the processes: seconds from the start of a process until Kafka has
//! all events, CPU and memory from `/proc`. Each contender publishes the same events, and a run in
//! which an event did not arrive exactly once is an error and not a figure. Contenders take turns,
//! round by round, so that a change of the machine's speed affects all of them; the tables show
//! medians.
#![allow(clippy::unwrap_used, clippy::large_futures, missing_docs)]

mod connect;
mod contender;
mod debezium;
mod drain;
mod growth;
mod latency;
mod load;
mod plot;
mod poller;
mod report;
mod stage;
mod table;
mod usage;
mod writers;

#[path = "../it/support/mod.rs"]
mod support;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use crate::report::Report;

/// What to measure, and at which size.
#[derive(Debug, Parser)]
#[command(name = "tests/bench/run")]
pub(crate) struct Options {
    /// Parts to run; all if none is named.
    parts: Vec<Part>,
    /// Small loads, one round: checks that everything runs, measures nothing.
    #[arg(long)]
    quick: bool,
    /// Rounds: how often each contender runs.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Scale every load to this percentage.
    #[arg(long, default_value_t = 100)]
    percent: u64,
    /// Only contenders whose names contain one of these.
    #[arg(long)]
    only: Vec<String>,
    /// Only loads whose names contain one of these.
    #[arg(long)]
    load: Vec<String>,
    /// The outboxd to measure, if not the one of this build.
    #[arg(long, default_value = support::outboxd::PROGRAM)]
    program: PathBuf,
    /// Another build of outboxd, as a further contender.
    #[arg(long, value_name = "PROGRAM")]
    against: Vec<PathBuf>,
    /// The same program with this variable set, as a further contender.
    #[arg(long, value_name = "NAME=VALUE")]
    with: Vec<String>,
    /// Write tables and plots to this folder.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// The processors of each, as `taskset -c` takes them, such as `0 1 1`.
    #[arg(long, num_args = 3, value_names = ["SERVER", "BROKER", "CONTENDER"])]
    pin: Vec<String>,
    /// Major version of Postgres.
    #[arg(long, default_value_t = 17)]
    postgres: u32,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Publish a backlog as fast as possible.
    Drain,
    /// Latency of single events, start times, memory of an idle program.
    Latency,
    /// Time and memory over the size of a backlog, lag under steady load.
    Growth,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    /// Rounds to measure.
    pub(crate) fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds.max(1) }
    }

    /// Records that a broker takes before the first measurement.
    pub(crate) fn warm_up(&self) -> usize {
        if self.quick { 2_000 } else { 4_000_000 }
    }

    /// The number of events of a load that has this many at full size.
    pub(crate) fn scaled(&self, events: u64) -> u64 {
        let percent = if self.quick { 2 } else { self.percent };
        (events * percent / 100).max(10)
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(poller::WORD) {
        let (database, brokers) = (words.next(), words.next());
        return poller::run(&database.unwrap_or_default(), &brokers.unwrap_or_default()).await;
    }
    let options = Options::parse();
    let mut report = Report::new(options.out.clone());
    if options.wants(Part::Drain) {
        drain::run(&options, &mut report).await?;
    }
    if options.wants(Part::Latency) {
        latency::run(&options, &mut report).await?;
    }
    if options.wants(Part::Growth) {
        growth::run(&options, &mut report).await?;
    }
    Ok(())
}

/// Whether a name contains one of the filters; true without filters.
pub(crate) fn chosen(name: &str, filters: &[String]) -> bool {
    filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
}
