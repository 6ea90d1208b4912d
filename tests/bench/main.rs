//! The benchmarks: outboxd beside the other ways to do its work, on the same log, in one run.
//!
//! Every figure is taken from outside, at the processes: seconds from the start of a process until Kafka has all events, CPU and
//! memory from `/proc`. Each contender has the same events to publish, and a run whose events did not arrive exactly once
//! each is an error and not a figure. Contenders take turns, round by round, so that a machine that changes its mood
//! changes it for all of them; the tables show medians.
#![allow(clippy::unwrap_used, clippy::large_futures, missing_docs)]

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

/// What to measure, and how much of it.
#[derive(Debug, Parser)]
#[command(name = "tests/bench/run")]
pub(crate) struct Options {
    /// Which parts; all of them if none is named.
    parts: Vec<Part>,
    /// Small loads, once: shows that everything runs, measures nothing.
    #[arg(long)]
    quick: bool,
    /// How often each contender has its turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Shrinks every load to so many percent.
    #[arg(long, default_value_t = 100)]
    percent: u64,
    /// Only the contenders whose names contain one of these.
    #[arg(long)]
    only: Vec<String>,
    /// Only the loads whose names contain one of these.
    #[arg(long)]
    load: Vec<String>,
    /// The outboxd to measure, if not the one that was built with this.
    #[arg(long, default_value = support::outboxd::PROGRAM)]
    program: PathBuf,
    /// Another build of outboxd that takes part in everything.
    #[arg(long, value_name = "PROGRAM")]
    against: Vec<PathBuf>,
    /// The same program once more, with a variable of its own: `NAME=VALUE`.
    #[arg(long, value_name = "NAME=VALUE")]
    with: Vec<String>,
    /// Keeps tables and plots in this folder.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Major version of Postgres.
    #[arg(long, default_value_t = 17)]
    postgres: u32,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// A backlog is published as fast as possible.
    Drain,
    /// Single events on their way, starts, and an idle program.
    Latency,
    /// Time over the size of a backlog, and the lag under steady load.
    Growth,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    /// How often each contender has its turn.
    pub(crate) fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds.max(1) }
    }

    /// How many records a broker has had before it is measured.
    pub(crate) fn warm_up(&self) -> usize {
        if self.quick { 2_000 } else { 4_000_000 }
    }

    /// So many events of a load that has so many at full size.
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

/// Whether a name contains one of these; any does if there are none.
pub(crate) fn chosen(name: &str, filters: &[String]) -> bool {
    filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
}
