//! One session: reads the slot's stream, feeds the engine, carries out what it decides. Decides nothing itself.
//!
//! One task owns socket, decoder and timers, so nothing of a session can outlive it. Messages are decoded where they lie in the
//! connection's buffer and handed on from there: no channel, no copy and no allocation for an event.
//!
//! Under backlog the task sleeps for a moment after each short read. A server that decodes wakes its reader for every message, and
//! spends more than half of its time on it; a reader that lets bytes gather makes the server faster. It hands on what it has read
//! only a few hundred times a second: what goes to the producer at once leaves it in few requests, and requests are what a
//! broker spends its time on. When the stream is nearly idle, every message is taken and handed on at once.

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

/// How often the board is brought up to date.
const SHOW: Duration = Duration::from_millis(250);

/// So many records without a report are a backlog as well, at the broker: where every event is a request of its own, requests
/// take all the processors there are, the server is slowed down with them, and no backlog would ever show in the stream.
const MANY: u64 = 8;
/// Messages of one turn for which the socket is looked after: reports, marks and deadlines wait meanwhile.
const TURN: usize = 2048;

/// See the module's head.
pub(crate) struct Stream<'a> {
    forwarder: &'a mut Forwarder,
    client: &'a mut ReplicationClient,
    watch: SessionMonitor<'a>,
    decoder: Decoder<'a>,
    read_pacer: ReadPacer,
    shown: Instant,
}

impl<'a> Stream<'a> {
    /// A session that has just been started. `table` is the object id of the outbox.
    pub(crate) fn new(
        config: &'a Config,
        forwarder: &'a mut Forwarder,
        client: &'a mut ReplicationClient,
        watch: SessionMonitor<'a>,
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
            watch,
            decoder,
            read_pacer,
            shown: Instant::now(),
        }
    }

    /// Streams until the engine says that it is over, or something breaks.
    ///
    /// # Errors
    /// Of the connection and the stream: transient ones are for a new session.
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
            self.forwarder.take_reports()?;
            self.watch.turn(now, self.forwarder)?;
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

    /// Takes what is there, whole messages at a time, until there is no more or enough is in flight.
    fn read(&mut self, now: Duration) -> Result<()> {
        if self.forwarder.engine.intake() != Intake::Paused {
            self.take_in(now)?;
        }
        let mut count = 0;
        loop {
            let intake = self.forwarder.engine.intake();
            if intake == Intake::Paused {
                return Ok(());
            }
            count += 1;
            if count <= TURN && self.read_pacer.is_time_to_look(count) {
                self.take_in(now)?;
            }
            match self.client.next()? {
                None => return Ok(()),
                Some(Frame::XLogData { payload, .. }) if intake == Intake::Open => {
                    let taken = self.decoder.take(payload, self.forwarder);
                    self.forwarder.skipped |= taken.is_err();
                    taken?;
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
            self.read_pacer.read(bytes);
            self.forwarder.engine.received(now);
        }
        Ok(())
    }

    /// Lets bytes gather before they are handed on.
    fn gather(&mut self) -> Result<()> {
        let began = self.forwarder.tick();
        loop {
            self.read_pacer.sleep();
            let now = self.forwarder.tick();
            self.take_in(now)?;
            if self.read_pacer.is_enough(self.client.unread(), now - began) {
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
                SessionOutput::InspectWalsender => self.watch.look_at_walsender(),
                SessionOutput::End(end) => return Ok(Some(end)),
            }
        }
        Ok(None)
    }

    /// Sleeps until there is something to do: for a moment under backlog, else until a byte, a report or a deadline.
    async fn wait(&mut self, stop: &CancellationToken, flushed: bool) -> Result<()> {
        let intake = self.forwarder.engine.intake();
        let unreported =
            self.read_pacer.is_fed() && self.forwarder.engine.unreported_count() >= MANY;
        let busy = self.read_pacer.backlog() || unreported;
        let backlog = intake != Intake::Paused && busy;
        if backlog {
            self.gather()?;
        }
        self.watch.hasten(intake == Intake::Discard);
        // Reading writes what is queued as well; without it, the reports still have to go out.
        let reading = !backlog && intake != Intake::Paused;
        let rest = self.forwarder.rest(SHOW);
        let stopping = stop.is_cancelled();
        tokio::select! {
            biased;
            () = stop.cancelled(), if !stopping => {}
            seen = self.watch.seen() => self.watch.tell(seen?, self.forwarder)?,
            result = self.forwarder.progressed() => result?,
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

/// Waits for bytes to take, or until what is queued could be written. Cancel-safe.
async fn socket(client: &mut ReplicationClient, reading: bool) -> Result<()> {
    if reading {
        client.readable().await
    } else {
        client.flush().await
    }
}
