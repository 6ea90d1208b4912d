//! The side of Kafka: a thread that reads the topics while the rows are still being read, and then
//! up to the end that they have once every row is proved to be sent.
//!
//! Topics are read one after another, in passes, since the names of some are known only by the
//! rows. A pass reads what was appended since the one before; the last begins when the rows are
//! complete.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;
use tokio::sync::oneshot;

use crate::config::{Config, Token};
use crate::error::{Code, Error, Result};
use crate::kafka::{Ends, Listing, Span, TopicReader};
use crate::verify::found::{Found, Reading};
use crate::verify::judge::{Access, Cleanup, PartitionState, SLACK, TopicState};
use crate::verify::progress::Progress;
use crate::verify::store::digest;
use crate::verify::store::entry::Entry as _;
use crate::verify::store::spill::Spill;

/// How many names of topics may wait for the thread.
const NAMES_MAX: usize = 1_024;

/// The interval at which the end of an open transaction is looked for.
const OPEN_TRANSACTION: Duration = Duration::from_millis(250);

/// Records between two reports of progress.
const REPORT: u64 = 1_000;

/// What the thread is to read.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) folder: PathBuf,
    pub(super) buckets: usize,
    /// The time of the first records in microseconds since 1970, where the window has one.
    pub(super) since: Option<i64>,
    /// How long an open transaction of another producer is waited for.
    pub(super) wait: Duration,
    /// The `source` of CloudEvents.
    pub(super) source: String,
}

/// What was read of the topics.
#[derive(Debug)]
pub(super) struct Records {
    /// Those with an id, by their ids.
    pub(super) by_id: Spill,
    /// Those that tell their order, by topic and key.
    pub(super) by_key: Spill,
    /// Those without an id, by topic and key.
    pub(super) plain: Spill,
    /// In the order of the numbers in the entries.
    pub(super) topics: Vec<TopicState>,
    pub(super) records: u64,
    pub(super) foreign: u64,
    /// Records with a key whose order nothing tells.
    pub(super) unordered: u64,
}

enum Order {
    Read(String),
    Finish,
}

/// The thread. Dropping it ends the thread.
pub(super) struct Thread {
    orders: SyncSender<Order>,
    result: oneshot::Receiver<Result<Records>>,
    cancelled: Arc<AtomicBool>,
}

impl Thread {
    /// Starts it.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn start(
        config: &Config,
        token: Option<Arc<Token>>,
        plan: Plan,
        progress: Progress,
    ) -> Result<Thread> {
        let (orders, received) = sync_channel(NAMES_MAX);
        let (sender, result) = oneshot::channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let (config, flag) = (config.clone(), Arc::clone(&cancelled));
        let work = move || {
            let reader = TopicReader::new(&config, token.as_deref(), Arc::clone(&flag));
            let read = reader.and_then(|reader| {
                let mut work = Work::new(&config, reader, plan, progress, flag)?;
                work.run(&received)?;
                Ok(work.records)
            });
            // The comparison may have ended.
            let _ = sender.send(read);
        };
        let thread = std::thread::Builder::new().name("verify".to_owned());
        thread.spawn(work).map_err(|error| {
            let message = "cannot start the thread that reads the topics";
            Error::fatal(Code::Lifecycle, message).with_source(error)
        })?;
        Ok(Thread {
            orders,
            result,
            cancelled,
        })
    }

    /// Adds a topic, once. A thread that has ended says so at [`finish`](Thread::finish).
    pub(super) fn read(&self, topic: &str) {
        let _ = self.orders.send(Order::Read(topic.to_owned()));
    }

    /// Reads all topics up to the end that they have now.
    ///
    /// # Errors
    /// Of the brokers or the disk.
    pub(super) async fn finish(mut self) -> Result<Records> {
        let _ = self.orders.send(Order::Finish);
        let ended = (&mut self.result).await;
        ended.unwrap_or_else(|_| {
            let message = "the thread that reads the topics has ended";
            Err(Error::fatal(Code::Lifecycle, message))
        })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

struct Work {
    reader: TopicReader,
    reading: Reading,
    plan: Plan,
    progress: Progress,
    cancelled: Arc<AtomicBool>,
    records: Records,
}

impl Work {
    fn new(
        config: &Config,
        reader: TopicReader,
        plan: Plan,
        progress: Progress,
        cancelled: Arc<AtomicBool>,
    ) -> Result<Work> {
        let spill = || Spill::new(&plan.folder, plan.buckets);
        Ok(Work {
            reader,
            reading: Reading::new(&config.mapping, plan.source.clone()),
            progress,
            cancelled,
            records: Records {
                by_id: spill()?,
                by_key: spill()?,
                plain: spill()?,
                topics: Vec::new(),
                records: 0,
                foreign: 0,
                unordered: 0,
            },
            plan,
        })
    }

    fn run(&mut self, orders: &Receiver<Order>) -> Result<()> {
        loop {
            match orders.recv_timeout(OPEN_TRANSACTION) {
                Ok(Order::Read(topic)) => self.add(topic)?,
                Ok(Order::Finish) => break,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(cancelled()),
            }
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(cancelled());
            }
        }
        for topic in 0..self.records.topics.len() {
            self.advance(topic, true)?;
        }
        Ok(())
    }

    /// Reads a new topic as far as it is there.
    fn add(&mut self, name: String) -> Result<()> {
        if self.records.topics.iter().any(|topic| topic.name == name) {
            return Ok(());
        }
        self.records.topics.push(TopicState {
            name,
            access: Access::Unread,
            partitions: Vec::new(),
            cleanup: Cleanup::Unknown,
            is_blocked: false,
        });
        self.advance(self.records.topics.len() - 1, false)
    }

    /// Reads what was appended to a topic since the last time.
    fn advance(&mut self, topic: usize, is_last: bool) -> Result<()> {
        let Some(state) = self.records.topics.get(topic) else {
            return Ok(());
        };
        let name = state.name.clone();
        let access = match self.reader.list(&name)? {
            Listing::Missing => Access::Missing,
            Listing::Forbidden => Access::Forbidden("Describe".to_owned()),
            Listing::Partitions(partitions) => self.read(topic, &name, &partitions, is_last)?,
        };
        if let Some(state) = self.records.topics.get_mut(topic) {
            state.access = access;
        }
        Ok(())
    }

    fn read(
        &mut self,
        topic: usize,
        name: &str,
        partitions: &[i32],
        is_last: bool,
    ) -> Result<Access> {
        self.begin(topic, name, partitions)?;
        let deadline = Instant::now() + self.plan.wait;
        let mut goals: Option<Vec<Ends>> = None;
        loop {
            let mut spans = Vec::new();
            let mut ends = Vec::with_capacity(partitions.len());
            for partition in partitions {
                let of = self.reader.ends(name, *partition)?;
                spans.extend(self.span(topic, *partition, of));
                ends.push(of);
            }
            let goals = goals.get_or_insert_with(|| ends.clone());
            match self.read_spans(topic, name, &spans) {
                Ok(()) => {}
                Err(error) if error.code() == Code::Config => {
                    return Ok(Access::Forbidden(error.message().to_owned()));
                }
                Err(error) => return Err(error),
            }
            let mut reached = ends.iter().zip(&*goals);
            let is_blocked = reached.any(|(now, goal)| now.stable < goal.high);
            let is_over = Instant::now() >= deadline;
            if !is_last || !is_blocked || is_over {
                if let Some(state) = self.records.topics.get_mut(topic) {
                    state.is_blocked = is_last && is_blocked;
                }
                return Ok(Access::Readable);
            }
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(cancelled());
            }
            std::thread::sleep(OPEN_TRANSACTION);
        }
    }

    /// Finds where partitions begin that were not read before.
    fn begin(&mut self, topic: usize, name: &str, partitions: &[i32]) -> Result<()> {
        let Some(state) = self.records.topics.get_mut(topic) else {
            return Ok(());
        };
        let is_new = |partition: &&i32| {
            let mut known = state.partitions.iter();
            !known.any(|known| known.partition == **partition)
        };
        let new: Vec<i32> = partitions.iter().filter(is_new).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        let since = self.plan.since;
        let starts = match since {
            Some(since) => self.reader.at_time(name, &new, since / 1_000)?,
            None => new.iter().map(|partition| (*partition, Some(0))).collect(),
        };
        for (partition, start) in starts {
            let from = match start {
                Some(from) => from,
                // Every record is older.
                None => self.reader.ends(name, partition)?.stable,
            };
            state.partitions.push(PartitionState {
                partition,
                from,
                next: from,
                complete_from: since,
            });
        }
        Ok(())
    }

    /// What is left to read of a partition. Records that were removed before they were read move
    /// its beginning.
    fn span(&mut self, topic: usize, partition: i32, ends: Ends) -> Option<Span> {
        let state = self.records.topics.get_mut(topic)?;
        let mut known = state.partitions.iter_mut();
        let known = known.find(|known| known.partition == partition)?;
        if ends.low > known.next {
            (known.from, known.next, known.complete_from) = (ends.low, ends.low, None);
        }
        let span = Span {
            partition,
            from: known.next,
            to: ends.stable,
        };
        known.next = known.next.max(ends.stable);
        self.progress
            .expect_records(span.to.saturating_sub(span.from).max(0) as u64);
        Some(span)
    }

    fn read_spans(&mut self, topic: usize, name: &str, spans: &[Span]) -> Result<()> {
        let (records, reading) = (&mut self.records, &self.reading);
        let (progress, before) = (&self.progress, records.records);
        let read = self.reader.read(name, spans, |record| {
            if (records.records + 1).is_multiple_of(REPORT) {
                progress.add_records(REPORT);
            }
            records.keep(topic, reading, record)
        });
        let (all, reported) = (records.records, records.records / REPORT - before / REPORT);
        progress.add_records((all - before).saturating_sub(reported * REPORT));
        read
    }
}

impl Records {
    fn keep(
        &mut self,
        topic: usize,
        reading: &Reading,
        record: &BorrowedMessage<'_>,
    ) -> Result<()> {
        self.records += 1;
        let sent_at = record.timestamp().to_millis();
        let sent_at = sent_at.map(|millis| millis.saturating_mul(1_000));
        let early_until = self.early_until(topic, record.partition(), sent_at);
        let (entry, has_id, order) = match reading.read(record, topic as u32, early_until) {
            Found::Foreign => {
                self.foreign += 1;
                return Ok(());
            }
            Found::Record {
                entry,
                has_id,
                order,
            } => (entry, has_id, order),
        };
        match order {
            Some(order) => self.by_key.push(order.place, |bytes| order.write(bytes))?,
            None if record.key().is_some() && !entry.is_replayed => self.unordered += 1,
            None => {}
        }
        match has_id {
            true => {
                let number = digest::bucket(&entry.id);
                self.by_id.push(number, |bytes| entry.write(bytes))
            }
            false => self.plain.push(entry.place, |bytes| entry.write(bytes)),
        }
    }

    /// Before which commit a record of this partition may have a copy that was not read. The first
    /// record of a partition shows from when on it is complete.
    fn early_until(&mut self, topic: usize, partition: i32, sent_at: Option<i64>) -> i64 {
        let state = self.topics.get_mut(topic);
        let state = state.and_then(|topic| {
            let mut partitions = topic.partitions.iter_mut();
            partitions.find(|it| it.partition == partition)
        });
        match state {
            Some(state) if state.from > 0 => {
                if state.complete_from.is_none() {
                    state.complete_from = sent_at;
                }
                let complete_from = state.complete_from;
                complete_from.map_or(i64::MAX, |from| from.saturating_add(SLACK))
            }
            _ => i64::MIN,
        }
    }
}

fn cancelled() -> Error {
    Error::transient(Code::Lifecycle, "the comparison was cancelled")
}
