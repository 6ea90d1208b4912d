//! Carries out in the database what the engine asks for, one thing at a time, beside everything else.
//!
//! Owns the write-back with its connection: at rest here, or inside the work that is out. Decides nothing; what the work has shown, or
//! that it failed, goes back to the engine together with the work. Work is about the place that was current when it began, and about no
//! other, however late it comes to run.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use crate::config::Config;
use crate::engine::dead_letters::Sight;
use crate::engine::output::Work;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::metrics::{Metrics, OTHER_TOPICS};
use crate::outbox::{Place, WriteBack};

/// What has come back.
pub(crate) struct Done {
    pub(crate) generation: u64,
    pub(crate) work: Work,
    pub(crate) result: Result<Option<Sight>>,
    /// Where the log stood after the work, if that was asked for and the work is done.
    pub(crate) position: Option<Lsn>,
}

type Running = Pin<Box<dyn Future<Output = (WriteBack, Done)>>>;

/// See the module's head.
pub(crate) struct DatabaseWorker {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    place: Option<Place>,
    resting: Option<WriteBack>,
    running: Option<Running>,
}

impl DatabaseWorker {
    /// Connects to nothing yet.
    pub(crate) fn new(config: &Arc<Config>, metrics: Arc<Metrics>) -> Self {
        DatabaseWorker {
            resting: Some(WriteBack::new(Arc::clone(config))),
            config: Arc::clone(config),
            metrics,
            place: None,
            running: None,
        }
    }

    /// What work is about that begins from now on.
    pub(crate) fn use_place(&mut self, place: Option<Place>) {
        self.place = place;
    }

    /// Begins this work; [`done`](DatabaseWorker::done) tells how it went and, if `asks_position`, where the log stood after it.
    pub(crate) fn begin(&mut self, generation: u64, mut work: Work, asks_position: bool) {
        let Some(mut write_back) = self.resting.take() else {
            debug_assert!(false, "one thing at a time");
            return;
        };
        write_back.aim(self.place.clone());
        let metrics = Arc::clone(&self.metrics);
        self.running = Some(Box::pin(async move {
            let mut result = perform(&mut write_back, &mut work, &metrics).await;
            let mut position = None;
            if asks_position && result.is_ok() {
                match write_back.write_milestone().await {
                    Ok(stood) => position = Some(stood),
                    Err(error) => result = Err(error),
                }
            }
            let done = Done {
                generation,
                work,
                result,
                position,
            };
            (write_back, done)
        }));
    }

    /// Drops the work that is out; its connection goes with it.
    pub(crate) fn forget(&mut self) {
        if self.running.take().is_some() {
            self.resting = Some(WriteBack::new(Arc::clone(&self.config)));
        }
    }

    /// Waits until no work is out any more, and forgets how it went.
    pub(crate) async fn finish(&mut self) {
        if self.running.is_some() {
            self.done().await;
        }
    }

    /// Waits for the work that is out; for ever when there is none. Cancel-safe.
    pub(crate) async fn done(&mut self) -> Done {
        let (write_back, done) = match &mut self.running {
            Some(running) => running.await,
            None => std::future::pending().await,
        };
        self.running = None;
        self.resting = Some(write_back);
        done
    }
}

impl fmt::Debug for DatabaseWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running = self.running.is_some();
        f.debug_struct("DatabaseWorker")
            .field("running", &running)
            .finish_non_exhaustive()
    }
}

async fn perform(
    write_back: &mut WriteBack,
    work: &mut Work,
    metrics: &Metrics,
) -> Result<Option<Sight>> {
    match work {
        Work::Mark(marks) => write_back.write(marks).await?,
        Work::File(letters) => write_back.file(letters).await?,
        Work::Close(closings) => write_back.close(closings).await?,
        Work::Count(rows) => write_back.count_attempts(rows).await?,
        Work::Look { with_keys } => {
            let requests = write_back.requests().await?;
            let parked = match with_keys {
                true => Some(write_back.parked_keys().await?),
                false => None,
            };
            if let Some(counts) = write_back.counts_if_due().await? {
                metrics.dead_letters(&counts);
            }
            return Ok(Some(Sight { requests, parked }));
        }
    }
    Ok(None)
}

/// Tells of the events that are filed for the first time by this work, and gives the topics under which they are counted.
pub(crate) fn dead(work: &Work) -> Vec<String> {
    let Work::File(letters) = work else {
        return Vec::new();
    };
    let new = letters
        .iter()
        .filter(|letter| letter.known.is_none() && !letter.parked);
    new.map(|letter| {
        let topic = letter.record.as_ref().map(|record| record.topic());
        tracing::warn!(
            event_id = letter.row,
            topic,
            code = letter.fault.code,
            error = letter.fault.message,
            attempts = letter.attempts,
            "event is a dead letter"
        );
        // Names that are no topics' are as many as there are mistakes.
        let is_topic = !letter.fault.code.starts_with("TOPIC_");
        topic
            .filter(|_| is_topic)
            .unwrap_or(OTHER_TOPICS)
            .to_owned()
    })
    .collect()
}
