//! Comparisons at an interval, beside a publisher: on a thread of their own with a runtime of its
//! own, so that they never delay it.
//!
//! Each compares what was created since the one before, and what was pending then; the first looks
//! one interval back. A comparison that fails is repeated at the next interval, over the longer
//! time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::metrics::Metrics;
use crate::verify::moment::Moment;
use crate::verify::progress::Progress;
use crate::verify::report::{Finding, Kind, OVERLAP, Report};
use crate::verify::request::Request;
use crate::verify::run::verify;

/// How long the slot is waited for.
const WAIT: Duration = Duration::from_secs(30);

/// The events of a kind that are logged.
const LOGGED_MAX: usize = 10;

/// The comparisons. Dropping it ends them after the one that runs.
#[derive(Debug)]
pub struct Schedule {
    _alive: Sender<()>,
}

/// Begins comparisons at this interval, those times left out when `is_due` is false.
///
/// # Errors
/// The system refuses a thread.
pub fn schedule(
    config: &Config,
    every: Duration,
    metrics: Arc<Metrics>,
    is_due: impl Fn() -> bool + Send + 'static,
) -> Result<Schedule> {
    let (alive, ended) = channel();
    let config = config.clone();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => repeat(&config, every, &metrics, &is_due, &ended, &runtime),
            Err(error) => tracing::error!(%error, "no runtime to compare table and topics"),
        }
    };
    let thread = std::thread::Builder::new().name("verify-every".to_owned());
    thread.spawn(work).map_err(|error| {
        let message = "cannot start the thread that compares table and topics";
        Error::fatal(Code::Lifecycle, message).with_source(error)
    })?;
    Ok(Schedule { _alive: alive })
}

fn repeat(
    config: &Config,
    every: Duration,
    metrics: &Metrics,
    is_due: &impl Fn() -> bool,
    ended: &Receiver<()>,
    runtime: &tokio::runtime::Runtime,
) {
    let mut since = Moment::Ago(every + OVERLAP);
    while matches!(ended.recv_timeout(every), Err(RecvTimeoutError::Timeout)) {
        if !is_due() {
            continue;
        }
        let request = request(since, std::env::temp_dir());
        match runtime.block_on(verify(config, &request, &Progress::default())) {
            Ok(report) => {
                since = report.follow();
                show(&report, metrics);
            }
            Err(error) => {
                metrics.verify.failed();
                let (hint, error) = (error.hint().unwrap_or_default(), error.reason());
                tracing::warn!(hint, error, "could not compare the table with the topics");
            }
        }
    }
}

fn request(since: Moment, folder: PathBuf) -> Request {
    Request {
        from_id: None,
        to_id: None,
        since: Some(since),
        until: None,
        also_topics: Vec::new(),
        exclusive: false,
        wait: WAIT,
        events_max: LOGGED_MAX,
        folder,
    }
}

fn show(report: &Report, metrics: &Metrics) {
    for kind in Kind::ALL {
        metrics.verify.events(kind.as_str(), report.count(kind));
    }
    metrics
        .verify
        .completed(report.read_at as f64 / 1_000_000.0);
    for Finding {
        kind,
        id,
        topic,
        place,
        reason,
    } in report.findings.iter().filter(|it| it.kind.is_wrong())
    {
        let (partition, offset) = place.unzip();
        let kind = kind.as_str();
        tracing::error!(
            kind,
            id,
            topic,
            partition,
            offset,
            reason,
            "an event is wrong in Kafka"
        );
    }
    tracing::info!(
        matched = report.matched,
        wrong = report.wrong(),
        unknown = report.count(Kind::Unknown),
        pending = report.pending,
        seconds = report.seconds,
        "compared the table with the topics"
    );
}
