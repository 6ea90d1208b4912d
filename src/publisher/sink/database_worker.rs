//! Carries out the engine's database work, one piece at a time, while everything else goes on.
//!
//! Owns the write-back with its connection, idle or inside the work under way. Decides nothing: the
//! result of the work goes back to the engine together with the work. Work is about the table that
//! was current when it began, and no other, however late it runs.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::Config;
use crate::engine::output::{DatabaseWork, PendingRequests};
use crate::error::Result;
use crate::lsn::Lsn;
use crate::metrics::OTHER_TOPICS;
use crate::outbox::pause::RequestedPause;
use crate::outbox::{Counted, NewDeadLetter, Outcome, RetentionStep, TableLocation, WriteBack};
use crate::postgres::Background;
use crate::status::{OpenDeadLetters, Pause, StatusBoard};

/// Work that has ended.
pub(crate) struct Done {
    pub(crate) generation: u64,
    pub(crate) work: DatabaseWork,
    pub(crate) result: Result<Option<PendingRequests>>,
    /// The WAL position after the work, if that was needed and the work succeeded.
    pub(crate) position: Option<Lsn>,
    pub(crate) took: Duration,
}

/// See the module's head.
pub(crate) struct DatabaseWorker {
    config: Arc<Config>,
    board: Arc<StatusBoard>,
    place: Option<TableLocation>,
    resting: Option<WriteBack>,
    running: Option<Background<(WriteBack, Done)>>,
}

impl DatabaseWorker {
    /// Connects to nothing yet.
    pub(crate) fn new(config: &Arc<Config>, board: Arc<StatusBoard>) -> Self {
        DatabaseWorker {
            resting: Some(WriteBack::new(Arc::clone(config))),
            config: Arc::clone(config),
            board,
            place: None,
            running: None,
        }
    }

    /// Sets the table for work that begins from now on.
    pub(crate) fn use_place(&mut self, place: Option<TableLocation>) {
        if place.is_none() {
            show_rows(None, &self.board);
        }
        self.place = place;
    }

    /// Begins this work; [`done`](DatabaseWorker::done) returns its result and, if
    /// `needs_position`, the WAL position after it.
    pub(crate) fn begin(&mut self, generation: u64, mut work: DatabaseWork, needs_position: bool) {
        let Some(mut write_back) = self.resting.take() else {
            debug_assert!(false, "one piece of work at a time");
            return;
        };
        write_back.aim(self.place.clone());
        let board = Arc::clone(&self.board);
        self.running = Some(Background::begin(async move {
            let began = Instant::now();
            let mut result = perform(&mut write_back, &mut work, &board).await;
            if result.is_err() && matches!(work, DatabaseWork::ReadRequests { .. }) {
                show_rows(None, &board);
                write_back.count_rows_again();
            }
            let mut position = None;
            if needs_position && result.is_ok() {
                match write_back.emit_logical_message().await {
                    Ok(lsn) => position = Some(lsn),
                    Err(error) => result = Err(error),
                }
            }
            let done = Done {
                generation,
                work,
                result,
                position,
                took: began.elapsed(),
            };
            (write_back, done)
        }));
    }

    /// Cancels the work under way; its connection closes with it.
    pub(crate) fn clear(&mut self) {
        if self.running.take().is_some() {
            self.resting = Some(WriteBack::new(Arc::clone(&self.config)));
        }
    }

    /// Waits for the work under way, if any, and ignores its result.
    pub(crate) async fn finish(&mut self) {
        if self.running.is_some() {
            self.done().await;
        }
    }

    /// Waits for the work under way; forever if there is none. Cancel-safe.
    pub(crate) async fn done(&mut self) -> Done {
        let (write_back, done) = match &mut self.running {
            Some(running) => running.ended().await,
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
    work: &mut DatabaseWork,
    board: &StatusBoard,
) -> Result<Option<PendingRequests>> {
    match work {
        DatabaseWork::Mark(marks) => write_back.write(marks).await?,
        DatabaseWork::File(dead_letters) => write_back.file(dead_letters).await?,
        DatabaseWork::Close(closings) => write_back.close(closings).await?,
        DatabaseWork::CountAttempts(rows) => write_back.count_attempts(rows).await?,
        DatabaseWork::Retain(step) => {
            let done = step.insert(write_back.retain().await?);
            show_retention(done, board);
            return Ok(None);
        }
        DatabaseWork::ReadRequests { with_keys } => {
            let requests = write_back.requests().await?;
            let parked = match with_keys {
                true => Some(write_back.parked_keys().await?),
                false => None,
            };
            show_figures(write_back, board).await?;
            return Ok(Some(PendingRequests {
                requests,
                parked,
                paused: None,
            }));
        }
        DatabaseWork::ReadPause { stands_still } => {
            let pause = write_back.pause(*stands_still).await?;
            let paused = Some(pause.is_some());
            if pause.is_some() {
                // No request about dead letters is read meanwhile.
                show_figures(write_back, board).await?;
            }
            board.pause(pause.map(shown_pause));
            return Ok(Some(PendingRequests {
                paused,
                ..PendingRequests::default()
            }));
        }
    }
    // The work is done, whatever becomes of a figure: reading requests counts again.
    let counted = write_back.counts_if_changed().await.unwrap_or(None);
    show_dead_letters(counted, board);
    Ok(None)
}

async fn show_figures(write_back: &mut WriteBack, board: &StatusBoard) -> Result<()> {
    show_dead_letters(write_back.counts_if_due().await?, board);
    if let Some(counted) = write_back.rows_if_due().await? {
        show_rows(counted, board);
    }
    Ok(())
}

/// A pause for the board.
pub(crate) fn shown_pause(pause: RequestedPause) -> (Pause, Option<Duration>) {
    let RequestedPause {
        reason,
        since,
        lasted,
        by,
        limit,
    } = pause;
    let seconds = lasted.as_secs_f64();
    let pause = Pause {
        reason,
        since,
        by,
        seconds,
    };
    (pause, limit)
}

fn show_dead_letters(counted: Option<(OpenDeadLetters, u64)>, board: &StatusBoard) {
    if let Some((open, rows)) = counted {
        board.update(|status| {
            status.dead_letter_rows = rows;
            status.dead_letters = open;
        });
    }
}

/// Shown here, since a result may be ignored where a session begins.
fn show_retention(step: &RetentionStep, board: &StatusBoard) {
    board.update(|status| {
        let retention = status.retention.get_or_insert_default();
        retention.deleted_rows += step.rows;
        retention.deleted_dead_letters += step.dead_letters;
        if let Some(pass) = &step.pass {
            let wall = SystemTime::now().duration_since(UNIX_EPOCH);
            retention.last_pass = Some(wall.unwrap_or_default().as_secs_f64());
            retention.oldest_row_seconds = pass.oldest_seconds;
        }
    });
    let Some(pass) = &step.pass else { return };
    tracing::info!(
        rows = pass.rows,
        dead_letters = pass.dead_letters,
        steps = pass.steps,
        longest_ms = pass.longest.as_millis() as u64,
        oldest_seconds = pass.oldest_seconds.map(|age| age as u64),
        "old rows deleted"
    );
    if let Some(reason) = &pass.reason {
        tracing::warn!(
            pages = pass.passed_over,
            reason,
            "pages with old rows were passed over, and are tried in the next pass"
        );
    }
}

/// `None`: how many there are is not known.
fn show_rows(counted: Option<Counted>, board: &StatusBoard) {
    board.update(|status| {
        status.unpublished_rows = counted.map(|counted| counted.rows.unsigned_abs());
        status.unpublished_more = counted.is_some_and(|counted| counted.is_cut);
    });
}

/// The dead letters that this work has filed for the first time, those behind a parked key left
/// out.
pub(crate) fn newly_filed(work: &DatabaseWork) -> impl Iterator<Item = &NewDeadLetter> {
    let filed = match work {
        DatabaseWork::File(dead_letters) => dead_letters.as_slice(),
        _ => &[],
    };
    let is_new = |it: &&NewDeadLetter| it.known.is_none() && !it.parked;
    filed.iter().filter(is_new)
}

/// How many rows this work has filed because the table refuses their marks.
pub(crate) fn refused_marks(work: &DatabaseWork) -> usize {
    let marks = match work {
        DatabaseWork::Mark(marks) => marks.as_slice(),
        _ => &[],
    };
    let filed = marks.iter().filter(|mark| mark.outcome == Outcome::Filed);
    filed.count()
}

/// The topic that a dead letter is counted under.
pub(crate) fn counted_topic(dead_letter: &NewDeadLetter) -> &str {
    let topic = dead_letter.record.as_ref().map(|record| record.topic());
    // Invalid topic names are not bounded, so they have no counters of their own.
    let is_topic = !dead_letter.rejection.code.starts_with("TOPIC_");
    topic.filter(|_| is_topic).unwrap_or(OTHER_TOPICS)
}
