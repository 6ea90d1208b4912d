//! What the server says of our slot and our walsender, over SQL, beside the stream, and what the overseer sees of catalogs and table. Looks,
//! and tells the engine; decides nothing.
//!
//! The end of the SQL connection is news as well: a server that shuts down ends it first, while its walsender still waits for
//! us. So it ends the session, at once, and the server can go down.

use std::pin::Pin;
use std::time::Duration;

use crate::engine::output::Walsender;
use crate::error::{Code, Error, Result};
use crate::postgres::Session;
use crate::postgres::slot::{self, Slot};
use crate::postgres::walsender::{self, WalsenderActivity};
use crate::publisher::monitor::health_monitor::HealthMonitor;
use crate::publisher::monitor::inspector::Answer;
use crate::publisher::sink::forwarder::Forwarder;
use crate::status::SlotHealth;

/// How often the slot is looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// The same while stopping, when only the slot's position is waited for.
const HASTE: Duration = Duration::from_millis(20);

/// How long a look at a silent walsender may take. With the silence before it, it is less than the server's patience with us.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Debug)]
pub(crate) enum Observation {
    Slot(Option<Slot>),
    Walsender(Walsender),
    Answer(Result<Answer>),
    /// Whether the walsender waits for a standby.
    Standby(bool),
}

type Look<'a> = Pin<Box<dyn Future<Output = Result<Observation>> + 'a>>;

/// See the module's head.
pub(crate) struct SessionMonitor<'a> {
    session: &'a Session,
    slot: &'a str,
    walsender: i32,
    kept: bool,
    hasty: bool,
    look: Look<'a>,
    health_monitor: HealthMonitor<'a>,
}

impl<'a> SessionMonitor<'a> {
    /// `walsender` is the process that serves the replication connection; `kept`: standbys keep the slot, and it may have to wait for
    /// them.
    pub(crate) fn new(
        session: &'a Session,
        slot: &'a str,
        walsender: i32,
        kept: bool,
        health_monitor: HealthMonitor<'a>,
    ) -> Self {
        let look = look_at_slot(session, slot, Duration::ZERO);
        SessionMonitor {
            session,
            slot,
            walsender,
            kept,
            hasty: false,
            look,
            health_monitor,
        }
    }

    /// Looks at the slot's position without pause, or no more.
    pub(crate) fn hasten(&mut self, hasty: bool) {
        if hasty && !self.hasty {
            self.look = look_at_slot(self.session, self.slot, HASTE);
        }
        self.hasty = hasty;
    }

    /// Looks at the walsender next.
    pub(crate) fn look_at_walsender(&mut self) {
        self.look = Box::pin(look_at_walsender(self.session, self.walsender));
    }

    /// Does what is due beside the stream; see [`HealthMonitor::turn`].
    pub(crate) fn turn(&mut self, now: Duration, forwarder: &mut Forwarder) -> Result<()> {
        self.health_monitor.turn(now, forwarder)
    }

    /// The next sight. Cancel-safe.
    ///
    /// # Errors
    /// When the SQL connection has ended.
    pub(crate) async fn seen(&mut self) -> Result<Observation> {
        tokio::select! {
            biased;
            () = self.session.closed() => Err(self.session.end_error("watching the slot")),
            seen = &mut self.look => {
                let pause = if self.hasty { HASTE } else { INTERVAL };
                self.look = match &seen {
                    Ok(Observation::Slot(_)) if self.kept && !self.hasty => {
                        Box::pin(look_for_standby(self.session, self.walsender))
                    }
                    _ => look_at_slot(self.session, self.slot, pause),
                };
                seen
            }
            told = self.health_monitor.told() => Ok(Observation::Answer(told)),
        }
    }

    /// Passes on what was seen.
    ///
    /// # Errors
    /// Of the overseer.
    pub(crate) fn tell(&mut self, seen: Observation, forwarder: &mut Forwarder) -> Result<()> {
        let now = forwarder.tick();
        match seen {
            Observation::Answer(told) => return self.health_monitor.hear(now, told, forwarder),
            Observation::Walsender(walsender) => forwarder.engine.walsender(now, walsender),
            Observation::Standby(waits) => forwarder.engine.set_waits_for_standby(waits),
            Observation::Slot(slot) => {
                self.health_monitor.slot(slot.as_ref(), forwarder);
                let position = slot.as_ref().and_then(|slot| slot.confirmed_flush);
                forwarder.engine.slot_position(position);
                forwarder
                    .board
                    .update(|status| status.slot_health = slot.map(health));
            }
        }
        Ok(())
    }
}

fn health(slot: Slot) -> SlotHealth {
    SlotHealth {
        lag_bytes: slot.lag_bytes,
        retained_bytes: slot.retained_bytes,
        safe_wal_size: slot.safe_wal_size,
        wal_status: slot.wal_status,
        active: slot.active_pid.is_some(),
    }
}

fn look_at_slot<'a>(session: &'a Session, slot: &'a str, pause: Duration) -> Look<'a> {
    Box::pin(async move {
        tokio::time::sleep(pause).await;
        slot::read(session, slot).await.map(Observation::Slot)
    })
}

async fn look_for_standby(session: &Session, pid: i32) -> Result<Observation> {
    let activity = walsender::activity(session, pid).await?;
    let waits = activity == Some(WalsenderActivity::WaitsForStandby);
    Ok(Observation::Standby(waits))
}

async fn look_at_walsender(session: &Session, pid: i32) -> Result<Observation> {
    let look = walsender::activity(session, pid);
    let Ok(activity) = tokio::time::timeout(LOOK_LIMIT, look).await else {
        let message =
            format!("the server has said nothing on either connection for {LOOK_LIMIT:?}");
        return Err(Error::transient(Code::Connect, message));
    };
    Ok(Observation::Walsender(match activity? {
        None => Walsender::Gone,
        Some(WalsenderActivity::WaitsForStandby) => Walsender::Standby,
        Some(WalsenderActivity::Idle) => Walsender::Idle,
        Some(WalsenderActivity::Busy) => Walsender::Busy,
    }))
}
