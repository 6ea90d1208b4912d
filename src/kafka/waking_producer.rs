//! Wakes our task when librdkafka has something to report, and librdkafka's threads when there is
//! something to send, and gives a client its token. `unsafe` code, because rdkafka wraps none of
//! them.
//!
//! librdkafka's own threads put delivery reports, errors and log lines on the client's main queue.
//! [`rd_kafka_queue_io_event_enable`] makes it write a byte to a file descriptor when an item
//! arrives on the empty queue; the other end of that socket is in the runtime's poll set. So one
//! task waits for Postgres and Kafka at once, without a thread, channel or timer in between.
//!
//! **No wake-up is lost.** Under the queue's lock librdkafka (a) writes the byte when the length
//! goes from 0 to 1 and the flag `sent` is off, and sets the flag; (b) clears the flag whenever the
//! queue is polled. [`WakingProducer::poll_all`] first takes the bytes out of the socket, then
//! polls until the length is 0. An item that arrives after that makes the length 1 again and finds
//! the flag cleared by the last poll: a byte is written, and stays until the next `poll_all`. An
//! item that arrives earlier is polled by it. A poll of an empty queue that returns just as an item
//! arrives leaves that byte in the socket. The reverse order (poll, then take the bytes) would lose
//! the wake-up of an item that arrives in between.
//!
//! **A flush takes no report.** rdkafka receives delivery reports as events on the main queue, so
//! [`rd_kafka_flush`] serves no queue: it makes librdkafka's threads send without lingering while
//! it waits, and returns when all records are delivered or its time is over. Its shortest wait is
//! enough to send complete records.
//!
//! **It is sound.** [`rdkafka_sys::rd_kafka_queue_get_main`] takes its own reference on a queue
//! that lives as long as the client. [`Queue`] releases it on drop, and as a field before
//! `producer` it is dropped first, as librdkafka requires (everything obtained from a client is
//! released before the client is destroyed). librdkafka writes to the descriptor under the queue's
//! lock only, and switching the events off takes the same lock: after [`Queue`]'s drop there is no
//! more write, and the socket, dropped later, cannot be closed during one. The byte is copied at
//! the call. All functions used may be called from any thread, which is all that `Send` and `Sync`
//! of [`Queue`] claim.
//!
//! [`set_token`] passes texts that live until its end, and librdkafka copies them.
//!
//! [`rd_kafka_queue_io_event_enable`]: rdkafka_sys::rd_kafka_queue_io_event_enable
//! [`rd_kafka_flush`]: rdkafka_sys::rd_kafka_flush
#![allow(unsafe_code)]

use std::ffi::{CString, NulError, c_char, c_int};
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as BlockingStream;
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaRespErr;
use tokio::net::UnixStream;

use crate::config::Token;

/// The limit of a flush, in milliseconds.
const FLUSH_MS: c_int = 1;

/// Gives a client the token that it logs in with from now on, and the extensions that the broker
/// wants beside it. False if librdkafka does not take it: its mechanism is another one, or the
/// token has expired.
pub(super) fn set_token<C: ClientContext>(
    client: &Client<C>,
    token: &Token,
    extensions: &[(String, String)],
) -> Result<bool, NulError> {
    let value = CString::new(token.value.expose().as_str())?;
    let texts = extensions.iter().flat_map(|(name, value)| [name, value]);
    let texts = texts.map(|text| CString::new(text.as_str()));
    let texts: Vec<CString> = texts.collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
    // SAFETY: the client lives while it is borrowed. The texts live until the end of this function
    // and are copied. The array has the length that is given, and no text of an error is wanted.
    let set = unsafe {
        rdkafka_sys::rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.expires_ms,
            c"outboxd".as_ptr(),
            pointers.as_mut_ptr(),
            pointers.len(),
            ptr::null_mut(),
            0,
        )
    };
    Ok(set == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR)
}

/// A producer with the socket that its main queue writes to.
pub(crate) struct WakingProducer<C: ProducerContext> {
    queue: Queue,
    producer: BaseProducer<C>,
    readable: UnixStream,
    _written_by_librdkafka: BlockingStream,
}

impl<C: ProducerContext> WakingProducer<C> {
    /// Makes `producer` wake the current runtime.
    pub(crate) fn new(producer: BaseProducer<C>) -> io::Result<Self> {
        let (read_end, write_end) = BlockingStream::pair()?;
        read_end.set_nonblocking(true)?;
        write_end.set_nonblocking(true)?;
        let readable = UnixStream::from_std(read_end)?;
        let queue = Queue::of(&producer).ok_or(io::ErrorKind::Other)?;
        queue.write_to(&write_end);
        Ok(WakingProducer {
            queue,
            producer,
            readable,
            _written_by_librdkafka: write_end,
        })
    }

    pub(crate) fn producer(&self) -> &BaseProducer<C> {
        &self.producer
    }

    /// Sends lingering records now. Returns when they are delivered, after a millisecond at most.
    pub(crate) fn flush(&self) {
        let client = self.producer.client().native_ptr();
        // SAFETY: the client lives while `self.producer` is borrowed, and it is a producer. A
        // time-out before all records are delivered is no error here.
        unsafe { rdkafka_sys::rd_kafka_flush(client, FLUSH_MS) };
    }

    /// Resolves when the queue may have an item. Cancel-safe: it takes nothing from queue or
    /// socket.
    pub(crate) async fn woken(&self) {
        // Fails when the runtime is shutting down; the caller then finds an empty queue and is
        // dropped with its task.
        let _ = self.readable.readable().await;
    }

    /// Runs the context's callbacks for all items on the queue. Never waits.
    ///
    /// The loop ends: the queue has reports of records sent earlier only, and none is sent
    /// meanwhile.
    pub(crate) fn poll_all(&self) {
        let mut bytes = [0; 64];
        while matches!(self.readable.try_read(&mut bytes), Ok(taken) if taken > 0) {}
        while self.queue.len() > 0 {
            self.producer.poll(Duration::ZERO);
        }
    }
}

impl<C: ProducerContext> fmt::Debug for WakingProducer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WakingProducer").finish_non_exhaustive()
    }
}

/// A reference on a client's main queue. It must not outlive the client: see the module's head.
struct Queue(NonNull<rdkafka_sys::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues are guarded by a lock of their own; any thread may use them.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    fn of<C: ProducerContext>(producer: &BaseProducer<C>) -> Option<Queue> {
        // SAFETY: the client lives while `producer` is borrowed; the returned reference is owned
        // here.
        NonNull::new(unsafe {
            rdkafka_sys::rd_kafka_queue_get_main(producer.client().native_ptr())
        })
        .map(Queue)
    }

    fn write_to(&self, socket: &BlockingStream) {
        let byte = [1u8];
        // SAFETY: the queue is valid as long as `self`; one byte is copied from a one-byte buffer.
        unsafe {
            rdkafka_sys::rd_kafka_queue_io_event_enable(
                self.0.as_ptr(),
                socket.as_raw_fd(),
                byte.as_ptr().cast(),
                byte.len(),
            );
        }
    }

    fn len(&self) -> usize {
        // SAFETY: the queue is valid as long as `self`.
        unsafe { rdkafka_sys::rd_kafka_queue_length(self.0.as_ptr()) }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the queue is valid until it is destroyed here, and not used again. -1 switches
        // the events off.
        unsafe {
            rdkafka_sys::rd_kafka_queue_io_event_enable(self.0.as_ptr(), -1, std::ptr::null(), 0);
            rdkafka_sys::rd_kafka_queue_destroy(self.0.as_ptr());
        }
    }
}
