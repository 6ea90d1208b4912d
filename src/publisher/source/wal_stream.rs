//! One session: reads the slot's stream, feeds the engine, carries out its outputs. The engine
//! decides.
//!
//! One task owns socket, decoder and timers, so no part of a session outlives it. Messages are
//! decoded in place in the connection's buffer and forwarded from there: no channel, no copy and no
//! allocation for an event.
//!
//! Under backlog the task sleeps for a moment after each short read. A server that decodes wakes
//! its reader for every message, and spends more than half of its time on it; a reader that lets
//! bytes gather makes the server faster. The task forwards what it has read only a few hundred
//! times a second: records that reach the producer together leave it in few requests, and a broker
//! spends its time on requests. When the stream is nearly idle, every message is read and forwarded
//! at once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::engine::output::{End, Intake, SessionOutput};
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::publisher::monitor::session_monitor::SessionMonitor;
use crate::publisher::sink::forwarder::Forwarder;
use crate::publisher::source::event_decoder::{Decoder, HandledRows};
use crate::publisher::source::read_pacer::ReadPacer;
use crate::replication::{Frame, ReplicationClient, StandbyStatusUpdate};

/// How often the status is updated.
const SHOW: Duration = Duration::from_millis(250);

/// How many messages of one turn read the socket again: reports, marks and deadlines wait
/// meanwhile.
const TURN: usize = 2048;

/// How many messages are forwarded between two readings of the clock: what was read before the
/// machine was suspended must not go out afterwards.
const CLOCK_EVERY: usize = 64;

/// See the module's head.
pub(crate) struct Stream<'a> {
    forwarder: &'a mut Forwarder,
    client: &'a mut ReplicationClient,
    session_monitor: SessionMonitor<'a>,
    decoder: Decoder<'a>,
    read_pacer: ReadPacer,
    shown: Instant,
}

impl<'a> Stream<'a> {
    /// A session that has just begun. `table` is the object id of the outbox.
    pub(crate) fn new(
        config: &'a Config,
        forwarder: &'a mut Forwarder,
        client: &'a mut ReplicationClient,
        session_monitor: SessionMonitor<'a>,
        handled_rows: &'a mut HandledRows,
        table: u32,
    ) -> Self {
        let read_pacer = ReadPacer::new(client.transport());
        let decoder = Decoder {
            config,
            handled_rows,
            table,
            tables: HashMap::new(),
            begin: None,
            has_events: false,
        };
        Stream {
            forwarder,
            client,
            session_monitor,
            decoder,
            read_pacer,
            shown: Instant::now(),
        }
    }

    /// Streams until the engine ends the session, or an error does.
    ///
    /// # Errors
    /// Of the connection and the stream. After a transient one a new session can go on.
    pub(crate) async fn run(&mut self, stop: &CancellationToken) -> Result<End> {
        let now = self.forwarder.tick();
        self.forwarder.engine.session_started(now);
        let end = self.turn_until_over(stop).await;
        self.forwarder.engine.session_ended();
        end
    }

    /// The transaction that the server was sending.
    pub(crate) fn transaction(&self) -> Option<Lsn> {
        self.decoder.begin.as_ref().map(|begin| begin.final_lsn)
    }

    async fn turn_until_over(&mut self, stop: &CancellationToken) -> Result<End> {
        loop {
            let now = self.forwarder.tick();
            self.forwarder.engine.check_session(now);
            if stop.is_cancelled() {
                self.forwarder.engine.stop();
            }
            self.read(now)?;
            self.forwarder.take_reports();
            self.session_monitor.turn(now, self.forwarder)?;
            self.forwarder.engine.poll(now);
            if let Some(end) = self.carry_out()? {
                self.client.try_flush()?;
                return Ok(end);
            }
            let flushed = self.client.try_flush()?;
            self.show();
            self.wait(stop, flushed).await?;
        }
    }

    /// Takes in the messages that are ready, until there are no more or enough is in flight.
    fn read(&mut self, now: Duration) -> Result<()> {
        if self.forwarder.engine.intake() != Intake::Paused {
            self.take_in(now)?;
        }
        let mut count = 0;
        loop {
            if count % CLOCK_EVERY == CLOCK_EVERY - 1 {
                let now = self.forwarder.tick();
                self.forwarder.engine.check_session(now);
            }
            let intake = self.forwarder.engine.intake();
            if intake == Intake::Paused {
                return Ok(());
            }
            count += 1;
            if count <= TURN && self.read_pacer.should_read(count) {
                self.take_in(now)?;
            }
            match self.client.next()? {
                None => return Ok(()),
                Some(Frame::XLogData { payload, .. }) if intake == Intake::Open => {
                    self.decoder.take(payload, self.forwarder)?;
                }
                Some(Frame::XLogData { .. }) => {}
                Some(Frame::Keepalive {
                    wal_end,
                    reply_requested,
                    ..
                }) => {
                    self.forwarder
                        .engine
                        .keepalive(now, wal_end, reply_requested);
                }
                Some(Frame::CopyDone) => {
                    return Err(Error::transient(
                        Code::Replication,
                        "the server ended the stream",
                    ));
                }
            }
        }
    }

    fn take_in(&mut self, now: Duration) -> Result<()> {
        let bytes = self.client.try_read()?;
        if bytes > 0 {
            self.read_pacer.read(now, bytes);
            self.forwarder.engine.received(now);
        }
        Ok(())
    }

    /// Lets bytes gather before they are forwarded.
    fn gather(&mut self) -> Result<()> {
        let began = self.forwarder.tick();
        loop {
            if let Some(sleep) = self.read_pacer.sleep() {
                // A timer of the runtime is too coarse: a millisecond at least.
                std::thread::sleep(sleep);
            }
            let now = self.forwarder.tick();
            self.take_in(now)?;
            if self.read_pacer.is_enough(now, began, self.client.unread()) {
                return Ok(());
            }
        }
    }

    fn carry_out(&mut self) -> Result<Option<End>> {
        while let Some(output) = self.forwarder.output()? {
            match output {
                SessionOutput::Status {
                    write,
                    flush,
                    ask_reply,
                } => {
                    let reply_requested = ask_reply;
                    self.client.queue_status(StandbyStatusUpdate {
                        write,
                        flush,
                        apply: flush,
                        reply_requested,
                    });
                }
                SessionOutput::InspectWalsender => self.session_monitor.inspect_walsender(),
                SessionOutput::End(end) => return Ok(Some(end)),
            }
        }
        Ok(None)
    }

    /// Waits until there is something to do: for a moment under backlog, otherwise for bytes, a
    /// report or a deadline.
    async fn wait(&mut self, stop: &CancellationToken, flushed: bool) -> Result<()> {
        let intake = self.forwarder.engine.intake();
        let unreported = self.forwarder.engine.unreported_count();
        let now = self.forwarder.tick();
        let hold = self.read_pacer.hold(now, unreported);
        let backlog = intake != Intake::Paused && self.read_pacer.backlog(now);
        if backlog {
            self.gather()?;
        }
        self.session_monitor.set_stopping(intake == Intake::Discard);
        // Reading flushes queued updates too; without it they still have to go out.
        let reading = !backlog && hold.is_none() && intake != Intake::Paused;
        let rest = self.forwarder.rest(hold.unwrap_or(SHOW));
        let stopping = stop.is_cancelled();
        tokio::select! {
            biased;
            () = stop.cancelled(), if !stopping => {}
            observation = self.session_monitor.next() => {
                self.session_monitor.handle(observation?, self.forwarder)?;
            }
            () = self.forwarder.progressed() => {}
            result = socket(self.client, reading), if reading || !flushed => result?,
            () = tokio::task::yield_now(), if backlog => {}
            () = tokio::time::sleep(rest), if !backlog => {}
        }
        Ok(())
    }

    fn show(&mut self) {
        if self.shown.elapsed() >= SHOW {
            self.shown = Instant::now();
            self.forwarder.show();
        }
    }
}

/// Waits for bytes to read, or until queued updates are written. Cancel-safe.
async fn socket(client: &mut ReplicationClient, reading: bool) -> Result<()> {
    if reading {
        client.readable().await
    } else {
        client.flush().await
    }
}
