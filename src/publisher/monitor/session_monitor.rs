//! Reads the session's slot and walsender over SQL, beside the stream, and reports them, and the
//! answers of the health monitor, to the engine.
//!
//! A walsender that has become a synchronous standby, or could, ends the session at once: commits
//! of the whole server would wait for it. The end of the SQL connection ends the session too, at
//! once: a server that shuts down closes it first, while its walsender still waits for outboxd. So
//! the server can shut down.

use std::pin::Pin;
use std::time::Duration;

use crate::engine::output::Walsender;
use crate::error::{Code, Error, Result};
use crate::postgres::Session;
use crate::postgres::slot::{self, Slot};
use crate::postgres::walsender::synchronous_standby;
use crate::postgres::walsender::{self, WalsenderActivity};
use crate::publisher::monitor::health_monitor::HealthMonitor;
use crate::publisher::monitor::inspector::Answer;
use crate::publisher::monitor::slot_forecast::SlotForecast;
use crate::publisher::monitor::slot_reader::SlotReader;
use crate::publisher::sink::forwarder::Forwarder;
use crate::status::SlotHealth;

/// How often the slot is read.
const INTERVAL: Duration = Duration::from_secs(2);
/// The same while stopping, when only the slot's position is waited for.
const INTERVAL_STOPPING: Duration = Duration::from_millis(20);

/// How long the inspection of a silent walsender may take. With the silence before it, this is less
/// than `wal_sender_timeout`.
const INSPECT_LIMIT: Duration = Duration::from_secs(10);

/// The result of a read.
#[derive(Debug)]
pub(crate) enum Observation {
    Slot(Option<Slot>),
    Walsender(Walsender),
    Answer(Result<Answer>),
    /// Whether the walsender waits for a standby.
    Standby(bool),
}

type Read<'a> = Pin<Box<dyn Future<Output = Result<Observation>> + 'a>>;

/// See the module's head.
pub(crate) struct SessionMonitor<'a> {
    session: &'a Session,
    slot: &'a str,
    walsender: i32,
    kept: bool,
    stopping: bool,
    read: Read<'a>,
    health_monitor: HealthMonitor<'a>,
    forecast: SlotForecast,
    slot_reader: SlotReader,
}

impl<'a> SessionMonitor<'a> {
    /// `walsender` is the process that serves the replication connection; `kept`: the slot is a
    /// failover slot, which may have to wait for standbys.
    pub(crate) fn new(
        session: &'a Session,
        slot: &'a str,
        walsender: i32,
        kept: bool,
        health_monitor: HealthMonitor<'a>,
    ) -> Self {
        let read = read_slot(session, slot, walsender, Duration::ZERO);
        SessionMonitor {
            session,
            slot,
            walsender,
            kept,
            stopping: false,
            read,
            health_monitor,
            forecast: SlotForecast::default(),
            slot_reader: SlotReader::default(),
        }
    }

    /// Reads the slot's position continuously while stopping.
    pub(crate) fn set_stopping(&mut self, stopping: bool) {
        if stopping && !self.stopping {
            self.read = self.read_slot(INTERVAL_STOPPING);
        }
        self.stopping = stopping;
    }

    fn read_slot(&self, pause: Duration) -> Read<'a> {
        read_slot(self.session, self.slot, self.walsender, pause)
    }

    /// Inspects the walsender next.
    pub(crate) fn inspect_walsender(&mut self) {
        self.read = Box::pin(inspect_walsender(self.session, self.walsender));
    }

    /// Does what is due beside the stream; see [`HealthMonitor::turn`].
    pub(crate) fn turn(&mut self, now: Duration, forwarder: &mut Forwarder) -> Result<()> {
        self.health_monitor.turn(now, forwarder)
    }

    /// The next observation. Cancel-safe.
    ///
    /// # Errors
    /// When the SQL connection has ended.
    pub(crate) async fn next(&mut self) -> Result<Observation> {
        tokio::select! {
            biased;
            () = self.session.closed() => Err(self.session.end_error("monitoring the slot")),
            observation = &mut self.read => {
                let pause = if self.stopping { INTERVAL_STOPPING } else { INTERVAL };
                self.read = match &observation {
                    Ok(Observation::Slot(_)) if self.kept && !self.stopping => {
                        Box::pin(read_standby(self.session, self.walsender))
                    }
                    _ => self.read_slot(pause),
                };
                observation
            }
            answer = self.health_monitor.answer() => Ok(Observation::Answer(answer)),
        }
    }

    /// Passes an observation on.
    ///
    /// # Errors
    /// Of the health monitor; transient where another process reads the slot, or none.
    pub(crate) fn handle(
        &mut self,
        observation: Observation,
        forwarder: &mut Forwarder,
    ) -> Result<()> {
        let now = forwarder.tick();
        match observation {
            Observation::Answer(answer) => {
                return self.health_monitor.handle(now, answer, forwarder);
            }
            Observation::Walsender(walsender) => forwarder.engine.walsender(now, walsender),
            Observation::Standby(waits) => forwarder.engine.set_waits_for_standby(waits),
            Observation::Slot(slot) => {
                self.health_monitor.slot(slot.as_ref(), forwarder);
                let position = slot.as_ref().and_then(|slot| slot.confirmed_flush);
                forwarder.engine.slot_position(position);
                if let Some(slot) = &slot {
                    self.forecast.read(now, slot);
                    // The walsender holds the lock too, and reads begin one after another.
                    if slot.active_pid == Some(self.walsender) {
                        forwarder.engine.lock_proven();
                    }
                    if self.slot_reader.has_ended(slot.active_pid) {
                        let message = "the slot shows that the server has ended the stream";
                        return Err(Error::transient(Code::Replication, message));
                    }
                }
                let health = slot.map(|slot| health(slot, &self.forecast));
                forwarder.board.slot_read(health);
            }
        }
        Ok(())
    }
}

fn health(slot: Slot, forecast: &SlotForecast) -> SlotHealth {
    SlotHealth {
        lag_bytes: slot.lag_bytes,
        retained_bytes: slot.retained_bytes,
        safe_wal_size: slot.safe_wal_size,
        wal_status: slot.wal_status,
        wal_bytes_per_second: forecast.wal_bytes_per_second(),
        seconds_until_lost: forecast.seconds_until_lost(),
        active: slot.active_pid.is_some(),
    }
}

fn read_slot<'a>(session: &'a Session, slot: &'a str, walsender: i32, pause: Duration) -> Read<'a> {
    Box::pin(async move {
        tokio::time::sleep(pause).await;
        synchronous_standby::check(session, walsender).await?;
        slot::read(session, slot).await.map(Observation::Slot)
    })
}

async fn read_standby(session: &Session, pid: i32) -> Result<Observation> {
    let activity = walsender::activity(session, pid).await?;
    let waits = activity == Some(WalsenderActivity::WaitsForStandby);
    Ok(Observation::Standby(waits))
}

async fn inspect_walsender(session: &Session, pid: i32) -> Result<Observation> {
    let activity = walsender::activity(session, pid);
    let Ok(activity) = tokio::time::timeout(INSPECT_LIMIT, activity).await else {
        let message =
            format!("the server has sent nothing on either connection for {INSPECT_LIMIT:?}");
        return Err(Error::transient(Code::Connect, message));
    };
    Ok(Observation::Walsender(match activity? {
        None => Walsender::Gone,
        Some(WalsenderActivity::WaitsForStandby) => Walsender::Standby,
        Some(WalsenderActivity::Idle) => Walsender::Idle,
        Some(WalsenderActivity::Busy) => Walsender::Busy,
    }))
}
