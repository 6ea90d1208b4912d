//! Reads the unpublished rows of the table, as a first start, healing and polling read them.

use std::collections::VecDeque;

use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::outbox::{BATCH, Batch, EventSource, Read, ReadPosition, SlowRows, UnpublishedRows};
use crate::postgres::Session;
use crate::publisher::peek::event::PeekedEvent;
use crate::publisher::peek::options::shape;
use crate::publisher::peek::record::Records;

/// The most rows that are looked through for those of a topic.
const ROWS_MAX: usize = 1_000_000;
/// The most bytes of a page, plus one event.
const PAGE_BYTES: usize = 4 << 20;

/// See the module's head.
pub(super) struct TableReader {
    rows: UnpublishedRows,
    records: Records,
    slow: SlowRows,
    batch: Option<Batch>,
    behind: Option<ReadPosition>,
    /// Rows that were read and not shown yet.
    ready: VecDeque<Read>,
    read: usize,
    is_over: bool,
}

impl TableReader {
    pub(super) async fn open(config: &Config, session: &Session, records: Records) -> Result<Self> {
        let shape = shape(session, config).await?.ok_or_else(|| {
            let message = format!("table {} does not exist", config.table);
            Error::fatal(Code::Config, message)
                .with_hint("run `outboxd init`, or check the table's name")
        })?;
        Ok(TableReader {
            rows: UnpublishedRows::new(config, &shape)?,
            records,
            slow: SlowRows::default(),
            batch: None,
            behind: None,
            ready: VecDeque::new(),
            read: 0,
            is_over: false,
        })
    }

    /// The next events, at most so many; none at the end.
    pub(super) async fn page(
        &mut self,
        session: &Session,
        most: usize,
    ) -> Result<Vec<PeekedEvent>> {
        let (mut page, mut bytes) = (Vec::new(), 0);
        while page.len() < most && bytes < PAGE_BYTES {
            let Some(read) = self.next(session, most - page.len()).await? else {
                break;
            };
            let shown = match &read {
                Read::Row(row) => self
                    .records
                    .of(&self.rows.event(row)?, EventSource::Table)?,
                Read::Unreadable { row, rejection, .. } => {
                    self.records.unreadable(&row.id, rejection)
                }
            };
            if let Some(shown) = shown {
                bytes += shown.size();
                page.push(shown);
            }
        }
        Ok(page)
    }

    /// Whether there are no more rows.
    pub(super) fn is_over(&self) -> bool {
        self.is_over && self.ready.is_empty()
    }

    async fn next(&mut self, session: &Session, wanted: usize) -> Result<Option<Read>> {
        loop {
            if let Some(read) = self.ready.pop_front() {
                return Ok(Some(read));
            }
            if let Some(batch) = &mut self.batch {
                let reads = batch.read(&self.rows, session, &mut self.slow).await?;
                if !reads.is_empty() {
                    self.read += reads.len();
                    self.ready.extend(reads);
                    continue;
                }
                self.behind = batch.next();
                self.batch = None;
                if self.behind.is_none() {
                    self.is_over = true;
                }
            }
            if self.is_over || self.read >= ROWS_MAX {
                return Ok(None);
            }
            // One more than wanted shows whether there are more.
            let limit = (wanted + 1).min(BATCH);
            let behind = self.behind.as_ref();
            self.batch = Some(self.rows.batch(session, behind, limit).await?);
        }
    }
}
