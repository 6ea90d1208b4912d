//! The waits and the backlog on the board, and their lines in the log. `wait_log` and `backlog`
//! decide which lines are due.

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::format::age;
use crate::status::backlog::BacklogLog;
use crate::status::pause::{self, Pause, PauseLog};
use crate::status::wait_log::{Figures, Lasted, Line, WaitLog};
use crate::status::{LOCK, Sample, SlotHealth, Status, StatusBoard, WAIT_SHOWS, Waiting};

/// What a turn of the publisher shows beside its figures.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Events published since the start.
    pub(crate) published: u64,
    /// The last interval, if one has ended.
    pub(crate) sample: Option<Sample>,
    pub(crate) wait: ShownWait,
}

/// What a turn says of the wait.
#[derive(Debug)]
pub(crate) enum ShownWait {
    /// Its caller has set it.
    Unchanged,
    None,
    /// One of this name, which keeps its start.
    Named(&'static str, String),
    /// One that has lasted for this time, whatever the board has shown meanwhile.
    Lasted(&'static str, String, Duration),
}

/// Lines that are written after the locks: about waits, with the detail of the present one, and
/// about the backlog.
#[derive(Default)]
struct Lines {
    waits: Vec<Line>,
    detail: String,
    backlog: Option<String>,
}

impl StatusBoard {
    /// Shows a turn of the publisher; `change` sets its figures.
    pub(crate) fn show(&self, turn: Turn, change: impl FnOnce(&mut Status)) {
        self.turn();
        let mut status = self.lock();
        let mut lines = Lines::default();
        if status.waiting.is_none() && status.paused.is_none() {
            let published = turn.published;
            lines.backlog = self.learn(&mut status, |backlog, now| {
                backlog.published(now, published)
            });
        }
        if let Some(sample) = turn.sample {
            self.sample(&mut status, sample);
        }
        self.change(&mut status, change);
        self.set_wait(&mut status, turn.wait, &mut lines);
        drop(status);
        lines.write();
    }

    /// Sets the named wait. A wait of the same name keeps its start.
    pub(crate) fn wait(&self, waiting: Option<(&'static str, String)>) {
        let wait = waiting.map_or(ShownWait::None, |(on, detail)| ShownWait::Named(on, detail));
        let lines = self.wait_is(&mut self.lock(), wait);
        lines.write();
    }

    /// Sets a named wait if there is none.
    pub(crate) fn wait_unless_named(&self, on: &'static str, detail: &str) {
        if self.lock().waiting.is_none() {
            self.wait(Some((on, detail.to_owned())));
        }
    }

    /// There is a session that holds the lock: a wait for it is over.
    pub(crate) fn has_session(&self) {
        let mut status = self.lock();
        let figures = figures(&status);
        let (waits, was_shown) = self.waits().has_session(Instant::now(), figures);
        if was_shown {
            status.waiting = None;
        }
        drop(status);
        write(&waits, "");
    }

    /// The wait that the board shows goes on, if it shows one.
    pub(crate) fn wait_goes_on(&self) {
        let waiting = self.lock().waiting.clone();
        self.wait(waiting.map(|waiting| (waiting.on, waiting.detail)));
    }

    fn wait_is(&self, status: &mut Status, wait: ShownWait) -> Lines {
        let mut lines = Lines::default();
        self.set_wait(status, wait, &mut lines);
        lines
    }

    fn set_wait(&self, status: &mut Status, wait: ShownWait, lines: &mut Lines) {
        let (now, figures) = (Instant::now(), figures(status));
        let (on, detail, lasted) = match wait {
            ShownWait::Unchanged => return,
            ShownWait::None => {
                lines.waits = self.waits().shows_none(now, figures);
                status.waiting = None;
                return;
            }
            ShownWait::Named(on, detail) => (on, detail, Lasted::SinceNamed),
            ShownWait::Lasted(on, detail, lasted) => (on, detail, Lasted::For(lasted)),
        };
        let mut waits = self.waits();
        lines.waits = waits.shows(now, on, lasted, figures);
        lines.detail.clone_from(&detail);
        let lasted = now - waits.began().unwrap_or(now);
        drop(waits);
        if lasted >= WAIT_SHOWS && on != LOCK {
            self.note(&format!("waiting for {on}"), &detail, None);
        }
        let seconds = lasted.as_secs_f64();
        status.waiting = Some(Waiting {
            on,
            detail,
            seconds,
        });
    }

    /// Bytes of WAL between the slot's position and the server's, if known.
    pub(crate) fn lag_bytes(&self) -> Option<i64> {
        lag_bytes(&self.lock())
    }

    /// The slot was read. While the publisher waits, or is paused, that says what is behind.
    pub(crate) fn slot_read(&self, slot: Option<SlotHealth>) {
        let lag = slot.as_ref().map(|slot| slot.lag_bytes);
        self.lock().slot_health = slot;
        match lag {
            Some(lag) => self.wal_behind(lag),
            None => self.backlog(|backlog, _| backlog.forget()),
        }
    }

    /// So many bytes of WAL are between the slot's position and the server's.
    pub(crate) fn wal_behind(&self, bytes: i64) {
        let is_sent = {
            let status = self.lock();
            status.waiting.is_none() && status.paused.is_none()
        };
        if is_sent {
            self.backlog(|backlog, now| backlog.wal(now, bytes.max(0) as u64));
        }
    }

    /// Takes in what is known of the backlog, logs the line that is due, and shows the backlog.
    pub(crate) fn backlog(&self, learn: impl FnOnce(&mut BacklogLog, Instant) -> Option<String>) {
        let backlog = self.learn(&mut self.lock(), learn);
        let lines = Lines {
            backlog,
            ..Lines::default()
        };
        lines.write();
    }

    fn learn(
        &self,
        status: &mut Status,
        learn: impl FnOnce(&mut BacklogLog, Instant) -> Option<String>,
    ) -> Option<String> {
        let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        let line = learn(&mut backlog, Instant::now());
        status.backlog = backlog.present();
        line
    }

    /// Whether a pause is requested was read: the pause and its limit.
    pub(crate) fn pause(&self, read: Option<(Pause, Option<Duration>)>) {
        let lines = {
            let read = read.as_ref().map(|(pause, limit)| (pause, *limit));
            self.pause_log().read(Instant::now(), read)
        };
        let mut status = self.lock();
        status.paused = read.map(|(pause, _)| pause);
        let (pause, slot) = (status.paused.clone(), status.slot_health.clone());
        drop(status);
        for line in lines {
            write_pause(line, pause.as_ref(), slot.as_ref());
        }
    }

    /// For how long the pause has lasted.
    pub(super) fn pause_lasts(&self) -> Option<Duration> {
        self.pause_log().lasted(Instant::now())
    }

    fn pause_log(&self) -> MutexGuard<'_, PauseLog> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn waits(&self) -> MutexGuard<'_, WaitLog> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn write(&self) {
        if let Some(line) = &self.backlog {
            tracing::info!("{line}");
        }
        write(&self.waits, &self.detail);
    }
}

fn figures(status: &Status) -> Figures {
    Figures {
        held: status.in_flight_records + status.unmarked_records,
        published: status.published_total,
        lag_bytes: lag_bytes(status),
        kafka_has_answered: status.kafka_has_answered,
    }
}

fn lag_bytes(status: &Status) -> Option<i64> {
    status.slot_health.as_ref().map(|slot| slot.lag_bytes)
}

fn write_pause(line: pause::Line, pause: Option<&Pause>, slot: Option<&SlotHealth>) {
    let by = pause.map(|pause| pause.by.as_str());
    let reason = pause.and_then(|pause| pause.reason.as_deref());
    let since = pause.map(|pause| pause.since.as_str());
    match line {
        pause::Line::Paused => tracing::info!(by, reason, since, "paused, publishing nothing new"),
        pause::Line::Resumed { lasted } => {
            let seconds = lasted.as_secs();
            tracing::info!(seconds, "resumed, publishing goes on");
        }
        pause::Line::TooLong => {
            let lasted = pause.map_or(0.0, |pause| pause.seconds);
            let (seconds, lasted) = (lasted as u64, age(lasted));
            let cost = pause::cost(slot).map_or_else(String::new, |cost| format!(", {cost}"));
            tracing::warn!(
                by,
                reason,
                seconds,
                "paused for {lasted}, longer than the limit{cost}: `outboxd resume` ends it"
            );
        }
    }
}

/// Logs lines about waits; `detail` is that of the wait that the board shows.
fn write(lines: &[Line], detail: &str) {
    for line in lines {
        let text = line.text();
        match *line {
            Line::Lasts {
                on,
                lasted,
                figures,
            } => {
                let (seconds, held) = (lasted.as_secs(), figures.held);
                if on == LOCK {
                    tracing::info!(wait = on, detail, "{text}");
                } else {
                    tracing::warn!(wait = on, seconds, held, detail, "{text}");
                }
            }
            Line::Over {
                on,
                lasted,
                published,
            } => {
                let seconds = lasted.as_secs();
                tracing::info!(wait = on, seconds, published, "{text}");
            }
        }
    }
}
