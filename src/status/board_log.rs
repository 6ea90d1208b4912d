//! The waits and the backlog on the board, and their lines in the log. `wait_log` and `backlog`
//! decide which lines are due.

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::status::backlog::BacklogLog;
use crate::status::wait_log::{Figures, Lasted, Line, WaitLog};
use crate::status::{LOCK, SlotHealth, Status, StatusBoard, WAIT_SHOWS, Waiting};

impl StatusBoard {
    /// Sets the named wait. A wait of the same name keeps its start.
    pub(crate) fn wait(&self, waiting: Option<(&'static str, String)>) {
        match waiting {
            Some((on, detail)) => self.set_wait(on, detail, Lasted::SinceNamed),
            None => {
                let figures = self.figures();
                let lines = self.waits().shows_none(Instant::now(), figures);
                write(&lines, "");
                self.lock().waiting = None;
            }
        }
    }

    /// Sets a named wait if there is none.
    pub(crate) fn wait_unless_named(&self, on: &'static str, detail: &str) {
        if self.lock().waiting.is_none() {
            self.wait(Some((on, detail.to_owned())));
        }
    }

    /// Sets a named wait that has lasted for this time, whatever the board has shown meanwhile.
    pub(crate) fn wait_for(&self, on: &'static str, detail: String, lasted: Duration) {
        self.set_wait(on, detail, Lasted::For(lasted));
    }

    /// There is a session that holds the lock: a wait for it is over.
    pub(crate) fn has_session(&self) {
        let figures = self.figures();
        let (lines, was_shown) = self.waits().has_session(Instant::now(), figures);
        write(&lines, "");
        if was_shown {
            self.lock().waiting = None;
        }
    }

    /// The wait that the board shows goes on, if it shows one.
    pub(crate) fn wait_goes_on(&self) {
        let waiting = self.lock().waiting.clone();
        self.wait(waiting.map(|waiting| (waiting.on, waiting.detail)));
    }

    fn set_wait(&self, on: &'static str, detail: String, lasted: Lasted) {
        let (now, figures) = (Instant::now(), self.figures());
        let mut waits = self.waits();
        let lines = waits.shows(now, on, lasted, figures);
        let began = waits.began().unwrap_or(now);
        drop(waits);
        write(&lines, &detail);
        let lasted = now - began;
        if lasted >= WAIT_SHOWS && on != LOCK {
            self.note(&format!("waiting for {on}"), &detail, None);
        }
        let seconds = lasted.as_secs_f64();
        self.lock().waiting = Some(Waiting {
            on,
            detail,
            seconds,
        });
    }

    fn figures(&self) -> Figures {
        let status = self.lock();
        Figures {
            held: status.in_flight_records + status.unmarked_records,
            published: status.published_total,
            lag_bytes: lag_bytes(&status),
            kafka_has_answered: status.kafka_has_answered,
        }
    }

    /// Bytes of WAL between the slot's position and the server's, if known.
    pub(crate) fn lag_bytes(&self) -> Option<i64> {
        lag_bytes(&self.lock())
    }

    /// The slot was read. While the publisher waits, the wait says what is behind.
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
        if self.lock().waiting.is_none() {
            self.backlog(|backlog, now| backlog.wal(now, bytes.max(0) as u64));
        }
    }

    /// So many events have been published since the start.
    pub(crate) fn published(&self, published: u64) {
        if self.lock().waiting.is_none() {
            self.backlog(|backlog, now| backlog.published(now, published));
        }
    }

    /// Takes in what is known of the backlog, logs the line that is due, and shows the backlog.
    pub(crate) fn backlog(&self, learn: impl FnOnce(&mut BacklogLog, Instant) -> Option<String>) {
        let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        let line = learn(&mut backlog, Instant::now());
        self.lock().backlog = backlog.present();
        drop(backlog);
        if let Some(line) = line {
            tracing::info!("{line}");
        }
    }

    pub(super) fn waits(&self) -> MutexGuard<'_, WaitLog> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lag_bytes(status: &Status) -> Option<i64> {
    status.slot_health.as_ref().map(|slot| slot.lag_bytes)
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
