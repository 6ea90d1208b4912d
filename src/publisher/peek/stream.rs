//! Reads a copy of the slot, from its position to the end that the WAL had before.
//!
//! Confirms the copy's own position and nothing else. The server may be busy with a large
//! transaction, so the read ends with an error only after a time without any progress.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::engine::tracker::TransactionName;
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::{Event, EventSource, RowName};
use crate::pgoutput::Begin;
use crate::postgres::slot::Slot;
use crate::postgres::{self, Session};
use crate::publisher::connect::Replication;
use crate::publisher::peek::event::PeekedEvent;
use crate::publisher::peek::options::{APPLICATION_NAME, PeekEnd, PeekSource, shape};
use crate::publisher::peek::record::Records;
use crate::publisher::source::event_decoder::{Decoder, HandledRows, Receiver};
use crate::replication::{Frame, ReplicationClient, StandbyStatusUpdate};

/// The most events of a page.
const PAGE: usize = 100;
/// The most bytes of a page, plus one event.
const PAGE_BYTES: usize = 4 << 20;
/// How often the server is asked where it is.
const ASK: Duration = Duration::from_millis(250);
/// The shortest time without progress that ends the read: a server may be busy decoding.
const SILENCE_MIN: Duration = Duration::from_secs(25);

/// See the module's head.
pub(super) struct SlotReader<'a> {
    config: &'a Config,
    client: ReplicationClient,
    collector: Collector,
    state: DecoderState,
    from: Lsn,
    /// The highest position that the server has sent.
    sent: Lsn,
    /// When that position has moved, or a change came.
    moved_at: Instant,
}

/// What the decoder knows of the stream between two pages.
#[derive(Default)]
struct DecoderState {
    table: u32,
    tables: HashMap<u32, Option<crate::outbox::Columns>>,
    begin: Option<Begin>,
}

impl<'a> SlotReader<'a> {
    /// Copies the slot, and starts to stream from the copy at `lsn` or the copy's position.
    pub(super) async fn open(
        config: &'a Config,
        session: &Session,
        slot: &Slot,
        lsn: Option<Lsn>,
        records: Records,
    ) -> Result<Self> {
        let server = postgres::server(session).await?;
        let table = shape(session, config).await?.map_or(0, |shape| shape.oid);
        let Replication {
            mut client,
            identity,
            ..
        } = Replication::open(config, &server, APPLICATION_NAME).await?;
        let copy = format!("outboxd_peek_{:016x}", fastrand::u64(..));
        let confirmed = client.copy_to_temporary_slot(&slot.name, &copy).await?;
        let from = begin_at(&slot.name, confirmed, lsn)?;
        let mut reader = SlotReader {
            config,
            client,
            collector: Collector {
                records,
                end: identity.flush,
                index: 0,
                most: 0,
                page: Vec::new(),
                bytes: 0,
                is_over: from >= identity.flush,
            },
            state: DecoderState {
                table,
                ..DecoderState::default()
            },
            from,
            sent: Lsn::INVALID,
            moved_at: Instant::now(),
        };
        if !reader.collector.is_over {
            let publication = &config.publication;
            reader.client.start(&copy, from, publication).await?;
        }
        Ok(reader)
    }

    /// The next events, at most so many; none at the end.
    pub(super) async fn page(&mut self, most: usize) -> Result<Vec<PeekedEvent>> {
        self.collector.most = most.min(PAGE);
        self.collector.bytes = 0;
        let mut asked_at = Instant::now();
        while !self.collector.is_full() {
            if self.read()? {
                continue;
            }
            self.fail_if_silent()?;
            if asked_at.elapsed() >= ASK {
                asked_at = Instant::now();
                self.answer(true)?;
            }
            if let Ok(received) = tokio::time::timeout(ASK, self.client.readable()).await {
                received?;
            }
        }
        Ok(std::mem::take(&mut self.collector.page))
    }

    /// Takes in the messages that are ready, until the page is full. False if it has to wait.
    fn read(&mut self) -> Result<bool> {
        let received = self.client.try_read()? > 0 || self.client.unread() > 0;
        let mut handled_rows = HandledRows::default();
        let mut decoder = Decoder {
            config: self.config,
            handled_rows: &mut handled_rows,
            table: self.state.table,
            tables: std::mem::take(&mut self.state.tables),
            begin: self.state.begin.take(),
            has_events: false,
        };
        let (mut taken, mut asks) = (Ok(false), false);
        while !self.collector.is_full() {
            match self.client.next()? {
                None => break,
                Some(Frame::XLogData { payload, .. }) => {
                    self.moved_at = Instant::now();
                    taken = decoder
                        .take(payload, &mut self.collector)
                        .map(|()| received);
                }
                Some(Frame::Keepalive {
                    wal_end,
                    reply_requested,
                    ..
                }) => {
                    if wal_end > self.sent {
                        (self.sent, self.moved_at) = (wal_end, Instant::now());
                    }
                    self.collector.is_over |= wal_end >= self.collector.end;
                    asks |= reply_requested;
                    taken = Ok(true);
                }
                Some(Frame::CopyDone) => {
                    let message = "the server ended the stream";
                    return Err(Error::transient(Code::Replication, message));
                }
            }
            if taken.is_err() {
                break;
            }
        }
        (self.state.tables, self.state.begin) = (decoder.tables, decoder.begin);
        if asks {
            self.answer(false)?;
        }
        taken
    }

    fn answer(&mut self, reply_requested: bool) -> Result<()> {
        self.client.queue_status(StandbyStatusUpdate {
            write: self.from,
            flush: self.from,
            apply: self.from,
            reply_requested,
        });
        self.client.try_flush().map(drop)
    }

    fn fail_if_silent(&self) -> Result<()> {
        let limit = self.config.operation_timeout.max(SILENCE_MIN);
        if self.moved_at.elapsed() < limit {
            return Ok(());
        }
        let message = format!(
            "the server has sent nothing behind {} of slot {} within {limit:?}",
            self.sent.max(self.from),
            self.config.slot
        );
        Err(Error::transient(Code::Replication, message)
            .with_hint("it is busy decoding: raise OUTBOX_OPERATION_TIMEOUT"))
    }

    /// Ends the session, and the copy of the slot with it.
    pub(super) async fn close(self, shown: usize) -> PeekEnd {
        let end = PeekEnd {
            source: PeekSource::Slot,
            shown,
            from: Some(self.from),
            to: Some(self.collector.end),
            is_all: self.collector.is_over,
        };
        self.client.close().await;
        end
    }
}

/// Where to begin; the position of the copy if none was given.
fn begin_at(slot: &str, confirmed: Lsn, lsn: Option<Lsn>) -> Result<Lsn> {
    match lsn {
        Some(lsn) if lsn < confirmed => {
            let message = format!(
                "{lsn} is before the position of slot {slot}, {confirmed}: the server has dropped \
                 what was confirmed"
            );
            Err(Error::fatal(Code::Slot, message)
                .with_hint("leave --lsn out to begin at the slot's position"))
        }
        Some(lsn) => Ok(lsn),
        None => Ok(confirmed),
    }
}

/// Collects a page of events.
struct Collector {
    records: Records,
    end: Lsn,
    /// The index of the next change.
    index: u32,
    most: usize,
    page: Vec<PeekedEvent>,
    bytes: usize,
    /// The end is reached.
    is_over: bool,
}

impl Collector {
    fn is_full(&self) -> bool {
        self.is_over || self.page.len() >= self.most || self.bytes >= PAGE_BYTES
    }
}

impl Receiver for Collector {
    fn begin(&mut self, transaction: TransactionName) {
        self.index = 0;
        self.is_over |= transaction.commit_lsn >= self.end;
    }

    fn change(&mut self) -> Option<u32> {
        let index = self.index;
        self.index = index.saturating_add(1);
        Some(index)
    }

    fn insert(
        &mut self,
        event: &Event<'_>,
        _row: Option<RowName>,
        origin: EventSource,
        _xid: u32,
    ) -> Result<()> {
        if let Some(shown) = self.records.of(event, origin)? {
            self.bytes += shown.size();
            self.page.push(shown);
        }
        Ok(())
    }

    fn commit(&mut self, _commit_lsn: Lsn, _end_lsn: Lsn, _has_events: bool) {}

    fn fail(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_that_the_slot_has_passed_is_refused_and_named() {
        let at = |lsn| begin_at("s", Lsn::new(100), lsn);
        assert_eq!(at(None).ok(), Some(Lsn::new(100)));
        assert_eq!(at(Some(Lsn::new(100))).ok(), Some(Lsn::new(100)));
        assert_eq!(at(Some(Lsn::new(200))).ok(), Some(Lsn::new(200)));
        let error = at(Some(Lsn::new(99))).err().map(|error| error.report());
        let error = error.unwrap_or_default();
        assert!(
            error.contains("0/63 is before the position of slot s, 0/64"),
            "{error}"
        );
    }
}
