//! The messages in the copy stream: bytes to structs and back.
//!
//! Pure and bounds-checked: any input gives a message or a [`Malformed`], never a panic. A payload
//! is borrowed, not copied. See
//! <https://www.postgresql.org/docs/current/protocol-replication.html>.

use std::time::{Duration, SystemTime};

use crate::lsn::Lsn;

const X_LOG_DATA: u8 = b'w';
const KEEPALIVE: u8 = b'k';
const STATUS_UPDATE: u8 = b'r';

/// From 1970-01-01 to 2000-01-01, where Postgres' clock starts.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);

/// The encoded length of a [`StandbyStatusUpdate`], with its letter.
pub(crate) const STATUS_LEN: usize = 34;

/// One message of the stream, borrowed from the connection's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A piece of the WAL, as the output plugin wrote it.
    XLogData {
        /// The start of the piece. `0/0` on messages that the plugin writes ahead of a change; not
        /// monotonic across transactions, and no identifier.
        wal_start: Lsn,
        /// For logical replication the same as `wal_start`.
        wal_end: Lsn,
        /// The server's clock, in microseconds since 2000-01-01.
        sent_at: i64,
        /// One pgoutput message.
        payload: &'a [u8],
    },
    /// Shows that the server is alive, and may request a reply.
    Keepalive {
        /// The position that the server has decoded: everything committed before it was sent
        /// earlier.
        wal_end: Lsn,
        /// Set when the server will close the connection soon unless a status update arrives.
        reply_requested: bool,
    },
    /// The server has ended the copy, either in reply to the client or because it is shutting down.
    CopyDone,
}

/// The received and confirmed positions, reported to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandbyStatusUpdate {
    /// The end of the received WAL. Never below `flush`; if it is below the position sent, the
    /// server answers every update with a keepalive.
    pub write: Lsn,
    /// The confirmed position: the server may discard WAL before it. `0/0` confirms nothing.
    pub flush: Lsn,
    /// Matters only to synchronous replication.
    pub apply: Lsn,
    /// Requests a keepalive at once, which shows whether the server still answers.
    pub reply_requested: bool,
}

/// The bytes were not a message of the copy stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a malformed message in the replication stream (letter {letter:?}, {len} bytes)")]
pub(crate) struct Malformed {
    letter: Option<char>,
    len: usize,
}

impl<'a> Frame<'a> {
    /// Parses the body of one CopyData message.
    #[inline]
    pub(crate) fn parse(body: &'a [u8]) -> Result<Frame<'a>, Malformed> {
        Frame::read(body).ok_or_else(|| Malformed::of(body))
    }

    #[inline]
    fn read(body: &'a [u8]) -> Option<Frame<'a>> {
        let (&letter, rest) = body.split_first()?;
        match letter {
            X_LOG_DATA => {
                let (wal_start, rest) = int64(rest)?;
                let (wal_end, rest) = int64(rest)?;
                let (sent_at, payload) = int64(rest)?;
                Some(Frame::XLogData {
                    wal_start: Lsn::new(wal_start),
                    wal_end: Lsn::new(wal_end),
                    sent_at: sent_at.cast_signed(),
                    payload,
                })
            }
            KEEPALIVE => {
                let (wal_end, rest) = int64(rest)?;
                let (_clock, rest) = int64(rest)?;
                let &[reply] = rest else { return None };
                Some(Frame::Keepalive {
                    wal_end: Lsn::new(wal_end),
                    reply_requested: reply != 0,
                })
            }
            _ => None,
        }
    }
}

impl StandbyStatusUpdate {
    /// The body of the CopyData message. `clock` is [`postgres_clock`] at the time of sending.
    pub(crate) fn encode(&self, clock: i64) -> [u8; STATUS_LEN] {
        let mut bytes = [0; STATUS_LEN];
        let integers = [
            self.write.raw(),
            self.flush.raw(),
            self.apply.raw(),
            clock.cast_unsigned(),
        ];
        if let Some((letter, rest)) = bytes.split_first_mut() {
            *letter = STATUS_UPDATE;
            for (field, integer) in rest.chunks_exact_mut(8).zip(integers) {
                field.copy_from_slice(&integer.to_be_bytes());
            }
        }
        if let Some(reply) = bytes.last_mut() {
            *reply = u8::from(self.reply_requested);
        }
        bytes
    }

    /// The inverse of [`encode`](Self::encode), for test servers.
    #[cfg(test)]
    pub(crate) fn parse(body: &[u8]) -> Result<(StandbyStatusUpdate, i64), Malformed> {
        let read = || {
            let (&STATUS_UPDATE, rest) = body.split_first()? else {
                return None;
            };
            let (write, rest) = int64(rest)?;
            let (flush, rest) = int64(rest)?;
            let (apply, rest) = int64(rest)?;
            let (clock, rest) = int64(rest)?;
            let &[reply] = rest else { return None };
            let status = StandbyStatusUpdate {
                write: Lsn::new(write),
                flush: Lsn::new(flush),
                apply: Lsn::new(apply),
                reply_requested: reply != 0,
            };
            Some((status, clock.cast_signed()))
        };
        read().ok_or_else(|| Malformed::of(body))
    }
}

impl Malformed {
    fn of(body: &[u8]) -> Self {
        Malformed {
            letter: body.first().map(|&byte| char::from(byte)),
            len: body.len(),
        }
    }
}

/// Microseconds since 2000-01-01, as Postgres counts time.
pub(crate) fn postgres_clock() -> i64 {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    since_1970
        .checked_sub(POSTGRES_EPOCH)
        .map_or(0, |d| d.as_micros().try_into().unwrap_or(i64::MAX))
}

#[inline]
fn int64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*head), rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use super::*;
    use proptest::prelude::*;

    fn x_log_data(start: u64, end: u64, clock: i64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![b'w'];
        bytes.extend(start.to_be_bytes());
        bytes.extend(end.to_be_bytes());
        bytes.extend(clock.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_message_or_an_error(body: Vec<u8>) {
            let _ = Frame::parse(&body);
            let _ = StandbyStatusUpdate::parse(&body);
        }

        #[test]
        fn any_bytes_after_a_known_letter_give_a_message_or_an_error(
            letter in prop::sample::select(b"wkr".to_vec()),
            rest in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut body = vec![letter];
            body.extend(rest);
            let _ = StandbyStatusUpdate::parse(&body);
            match Frame::parse(&body) {
                Ok(Frame::XLogData { payload, .. }) => prop_assert_eq!(payload, &body[25..]),
                Ok(Frame::Keepalive { .. }) => prop_assert_eq!(body.len(), 18),
                Ok(Frame::CopyDone) => prop_assert!(false, "no CopyData holds a CopyDone"),
                Err(_) => {
                    let whole = match letter {
                        b'w' => body.len() >= 25,
                        b'k' => body.len() == 18,
                        _ => false,
                    };
                    prop_assert!(!whole, "a whole message was refused");
                }
            }
        }

        #[test]
        fn a_piece_of_log_keeps_its_positions_and_payload(
            start: u64, end: u64, clock: i64, payload: Vec<u8>,
        ) {
            let body = x_log_data(start, end, clock, &payload);
            let expected = Frame::XLogData {
                wal_start: Lsn::new(start),
                wal_end: Lsn::new(end),
                sent_at: clock,
                payload: &payload,
            };
            prop_assert_eq!(Frame::parse(&body), Ok(expected));
        }

        #[test]
        fn a_status_update_reads_back_as_written(
            write: u64, flush: u64, apply: u64, clock: i64, reply_requested: bool,
        ) {
            let status = StandbyStatusUpdate {
                write: Lsn::new(write),
                flush: Lsn::new(flush),
                apply: Lsn::new(apply),
                reply_requested,
            };
            prop_assert_eq!(StandbyStatusUpdate::parse(&status.encode(clock)), Ok((status, clock)));
        }
    }

    #[test]
    fn every_truncation_of_a_message_is_malformed() {
        let mut keepalive = vec![b'k'];
        keepalive.extend([0; 17]);
        assert!(Frame::parse(&keepalive).is_ok());
        for len in 0..keepalive.len() {
            assert!(Frame::parse(&keepalive[..len]).is_err(), "{len} bytes");
        }
        let data = x_log_data(1, 2, 3, b"");
        assert!(Frame::parse(&data).is_ok());
        for len in 0..data.len() {
            assert!(Frame::parse(&data[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn the_clock_begins_in_the_year_2000() {
        let day = 24 * 3600 * 1_000_000;
        // 2020-01-01 is 7305 days after 2000-01-01.
        assert!(postgres_clock() > 7305 * day);
    }
}
