//! Decodes one message of the stream and passes its event to the forwarder, or to another receiver.

use std::collections::{HashMap, HashSet};

use crate::config::Config;
use crate::engine::tracker::TransactionName;
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::{Columns, Event, EventSource, RowName, RowSet};
use crate::pgoutput::{Begin, Insert, Message, Relation};
use crate::publisher::sink::forwarder::Forwarder;

/// Rows that are handled, though the stream may deliver them again.
#[derive(Debug, Default)]
pub(crate) struct HandledRows {
    /// Published from the table while the slot was being created.
    pub(crate) rows: RowSet,
    /// Filed as dead letters, each with the commit position of its event: a later row may have its
    /// id.
    pub(crate) filed: HashMap<Lsn, HashSet<String>>,
    /// The stream delivers none of them behind this position.
    pub(crate) until: Lsn,
}

impl HandledRows {
    /// A transaction begins that was committed at this position.
    pub(crate) fn begin(&mut self, commit_lsn: Lsn) {
        if commit_lsn > self.until {
            *self = HandledRows::default();
        }
    }

    /// Whether the event with this id that was committed at this position is handled. `row` is
    /// none where the row was in a table that was dropped since; its dead letter remains.
    pub(crate) fn contains(&self, row: Option<&RowName>, id: &str, commit_lsn: Lsn) -> bool {
        let is_sent = row.is_some_and(|row| self.rows.contains(row));
        let filed = self.filed.get(&commit_lsn);
        is_sent || filed.is_some_and(|ids| ids.contains(id))
    }
}

/// Receives what is decoded, in the order of the stream.
pub(in crate::publisher) trait Receiver {
    /// A transaction begins.
    fn begin(&mut self, transaction: TransactionName);
    /// Counts a change of the transaction; its index, or `None` if the change is passed over.
    fn change(&mut self) -> Option<u32>;
    /// An event of the change that was counted last.
    fn insert(
        &mut self,
        event: &Event<'_>,
        row: Option<RowName>,
        origin: EventSource,
        xid: u32,
    ) -> Result<()>;
    /// The transaction ends.
    fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn, has_events: bool);
    /// A message could not be taken: nothing behind it may be.
    fn fail(&mut self);
}

impl Receiver for Forwarder {
    fn begin(&mut self, transaction: TransactionName) {
        self.engine.begin(transaction);
    }

    fn change(&mut self) -> Option<u32> {
        self.engine.change()
    }

    fn insert(
        &mut self,
        event: &Event<'_>,
        row: Option<RowName>,
        origin: EventSource,
        xid: u32,
    ) -> Result<()> {
        let since_micros = match origin {
            EventSource::Stream { committed_at, .. } => committed_at.unix_micros(),
            EventSource::Table => 0,
        };
        self.forward(event, row, origin, xid, since_micros)
    }

    fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn, has_events: bool) {
        self.engine.commit(commit_lsn, end_lsn);
        if has_events {
            self.metrics.transactions.inc();
        }
    }

    fn fail(&mut self) {
        self.skipped = true;
    }
}

/// Decodes the messages of one session and passes their events on.
pub(in crate::publisher) struct Decoder<'a> {
    pub(in crate::publisher) config: &'a Config,
    pub(in crate::publisher) handled_rows: &'a mut HandledRows,
    /// The object id of the current table; the stream may still deliver rows of a dropped table of
    /// this name.
    pub(in crate::publisher) table: u32,
    /// By relation id; `None` for a table of the publication that is not the outbox.
    pub(in crate::publisher) tables: HashMap<u32, Option<Columns>>,
    pub(in crate::publisher) begin: Option<Begin>,
    pub(in crate::publisher) has_events: bool,
}

impl Decoder<'_> {
    /// Decodes a message and passes its event on. After an error no session may go on behind it.
    pub(in crate::publisher) fn take(
        &mut self,
        payload: &[u8],
        receiver: &mut impl Receiver,
    ) -> Result<()> {
        let taken = self.decode(payload, receiver);
        if taken.is_err() {
            receiver.fail();
        }
        taken
    }

    fn decode(&mut self, payload: &[u8], receiver: &mut impl Receiver) -> Result<()> {
        match Message::decode(payload)? {
            Message::Begin(begin) => {
                self.handled_rows.begin(begin.final_lsn);
                receiver.begin(TransactionName {
                    commit_lsn: begin.final_lsn,
                    xid: begin.xid,
                    committed_micros: begin.committed_at.unix_micros(),
                });
                self.begin = Some(begin);
            }
            Message::Insert(insert) => self.insert(&insert, receiver)?,
            Message::Commit(commit) => {
                self.begin = None;
                let has_events = std::mem::take(&mut self.has_events);
                receiver.commit(commit.commit_lsn, commit.end_lsn, has_events);
            }
            Message::Relation(relation) => self.relation(&relation)?,
            // Every change has an index, so that an index names the same change in every session.
            Message::Update(_) | Message::Delete(_) | Message::Truncate(_) => {
                receiver.change();
            }
            Message::Type(_) | Message::Origin(_) | Message::Message(_) => {}
        }
        Ok(())
    }

    fn relation(&mut self, relation: &Relation) -> Result<()> {
        let ours = self.config.table.schema == relation.namespace
            && self.config.table.name == relation.name;
        let columns = ours
            .then(|| Columns::of_relation(relation, &self.config.mapping))
            .transpose()?;
        self.tables.insert(relation.id, columns);
        Ok(())
    }

    fn insert(&mut self, insert: &Insert<'_>, receiver: &mut impl Receiver) -> Result<()> {
        let Some(index) = receiver.change() else {
            return Ok(());
        };
        let Some(begin) = self.begin else {
            return Ok(());
        };
        let Some(columns) = self.tables.get(&insert.relation_id) else {
            let message = format!(
                "an insert into relation {} without a Relation message",
                insert.relation_id
            );
            return Err(Error::fatal(Code::Replication, message));
        };
        let Some(columns) = columns else {
            return Ok(());
        };
        let mut event = columns.event_from_tuple(insert.new)?;
        if insert.relation_id != self.table {
            // Its row is gone, and another row may have the id by now.
            event.row_id = None;
        }
        let row = event.row_name();
        let handled_rows = &self.handled_rows;
        let is_handled = handled_rows.contains(row.as_ref(), &event.id, begin.final_lsn);
        if event.published || !event.is_message || is_handled {
            return Ok(());
        }
        self.has_events = true;
        let (commit_lsn, committed_at) = (begin.final_lsn, begin.committed_at);
        receiver.insert(
            &event,
            row,
            EventSource::Stream {
                commit_lsn,
                index,
                committed_at,
            },
            begin.xid,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::golden;
    use crate::publisher::sink::forwarder_tests::forwarder;

    /// The relation of the golden bytes.
    const RELATION: u32 = 0x4009;

    /// A Begin at this position.
    fn begin(commit: u64) -> Vec<u8> {
        let mut bytes = golden::bytes(golden::BEGIN);
        bytes[1..9].copy_from_slice(&commit.to_be_bytes());
        bytes
    }

    /// The Commit of a transaction that ends ten bytes behind its position.
    fn commit(commit: u64) -> Vec<u8> {
        let mut bytes = golden::bytes(golden::COMMIT);
        bytes[2..10].copy_from_slice(&commit.to_be_bytes());
        bytes[10..18].copy_from_slice(&(commit + 10).to_be_bytes());
        bytes
    }

    /// The forwarder behind these messages, and the result of the last one. `table` is the object
    /// id of the outbox. Kafka is not there, so events wait.
    async fn decoded(
        table: u32,
        mut handled_rows: HandledRows,
        messages: &[Vec<u8>],
    ) -> Result<(Forwarder, Result<()>)> {
        let (config, mut forwarder) = forwarder(None)?;
        let mut decoder = Decoder {
            config: &config,
            handled_rows: &mut handled_rows,
            table,
            tables: HashMap::new(),
            begin: None,
            has_events: false,
        };
        for relation in [
            golden::OUTBOX_RELATION,
            golden::ENUM_RELATION,
            golden::FULL_RELATION,
        ] {
            decoder.take(&golden::bytes(relation), &mut forwarder)?;
        }
        let mut taken = Ok(());
        for message in messages {
            taken = decoder.take(message, &mut forwarder);
        }
        Ok((forwarder, taken))
    }

    /// How many rows are to be marked after an insert into the relation, if this is the object id
    /// of the outbox now.
    async fn rows_to_mark(table: u32) -> Result<usize> {
        let insert = golden::bytes(golden::OUTBOX_INSERT);
        let messages = [begin(100), insert];
        let (forwarder, _) = decoded(table, HandledRows::default(), &messages).await?;
        assert_eq!(forwarder.engine.stats().in_flight_count, 1);
        let rows = forwarder.engine.unsettled_rows();
        Ok(usize::from(rows.contains(&RowName::of_id(1))))
    }

    #[tokio::test]
    async fn every_kind_of_change_has_an_index_and_nothing_else_has() -> Result<()> {
        for (message, index) in [
            (golden::INSERT_NULL, 1),
            (golden::UPDATE, 1),
            (golden::UPDATE_KEY, 1),
            (golden::UPDATE_FULL, 1),
            (golden::DELETE_KEY, 1),
            (golden::DELETE_FULL, 1),
            (golden::TRUNCATE, 1),
            (golden::TYPE, 0),
            (golden::ORIGIN, 0),
            (golden::ENUM_RELATION, 0),
            (golden::MESSAGE_TRANSACTIONAL, 0),
            (golden::MESSAGE_ALONE, 0),
        ] {
            let messages = [begin(100), golden::bytes(message)];
            let (mut forwarder, taken) =
                decoded(RELATION, HandledRows::default(), &messages).await?;
            taken?;
            assert_eq!(forwarder.engine.change(), Some(index), "{message}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_handled_row_is_left_out_up_to_the_last_transaction_that_may_bring_it() -> Result<()>
    {
        let insert = || golden::bytes(golden::OUTBOX_INSERT);
        let transaction = |at| [begin(at), insert(), commit(at)];
        for (until, expected) in [(99, 2), (100, 1), (199, 1), (200, 0)] {
            let mut handled_rows = HandledRows::default();
            handled_rows.rows.insert(RowName::of_id(1));
            handled_rows.until = Lsn::new(until);
            let messages = [transaction(100), transaction(200)].concat();
            let (forwarder, taken) = decoded(RELATION, handled_rows, &messages).await?;
            taken?;
            let count = forwarder.engine.stats().in_flight_count;
            assert_eq!(count, expected, "until {until}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_filed_row_is_left_out_in_the_transaction_of_its_dead_letter_alone() -> Result<()> {
        let transaction = |at| [begin(at), golden::bytes(golden::OUTBOX_INSERT), commit(at)];
        let messages = [transaction(100), transaction(200)].concat();
        let dropped = RELATION + 1;
        for (table, filed_at, expected) in [
            (RELATION, 100, 1),
            (RELATION, 200, 1),
            (RELATION, 150, 2),
            (dropped, 100, 1),
        ] {
            let mut handled_rows = HandledRows::default();
            let of_commit = handled_rows.filed.entry(Lsn::new(filed_at));
            of_commit.or_default().insert("1".to_owned());
            handled_rows.until = Lsn::new(200);
            let (forwarder, taken) = decoded(table, handled_rows, &messages).await?;
            taken?;
            let count = forwarder.engine.stats().in_flight_count;
            assert_eq!(count, expected, "filed at {filed_at}, table {table}");
        }
        Ok(())
    }

    /// Another publisher has sent it, or a mark has moved its row to another partition.
    #[tokio::test]
    async fn an_event_that_arrives_marked_is_not_sent() -> Result<()> {
        let mut marked = golden::bytes(golden::OUTBOX_INSERT);
        assert_eq!(marked.pop(), Some(b'n'), "published_at is the last column");
        marked.extend(b"t\0\0\0\x132024-05-06 07:08:10");
        for (insert, count) in [(golden::bytes(golden::OUTBOX_INSERT), 1), (marked, 0)] {
            let messages = [begin(100), insert, commit(100)];
            let (forwarder, taken) = decoded(RELATION, HandledRows::default(), &messages).await?;
            taken?;
            assert_eq!(forwarder.engine.stats().in_flight_count, count);
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_change_that_cannot_be_decoded_is_known_as_skipped() -> Result<()> {
        let mut short = golden::bytes(golden::INSERT_NULL);
        short[1..5].copy_from_slice(&RELATION.to_be_bytes());
        for message in [short, golden::bytes(golden::INSERT_BINARY)] {
            let messages = [begin(100), message];
            let (forwarder, taken) = decoded(RELATION, HandledRows::default(), &messages).await?;
            assert!(taken.is_err() && forwarder.skipped);
        }
        Ok(())
    }

    #[tokio::test]
    async fn an_event_of_a_dropped_table_is_sent_and_no_row_of_its_id_is_marked() -> Result<()> {
        assert_eq!(rows_to_mark(RELATION).await?, 1);
        assert_eq!(rows_to_mark(RELATION + 1).await?, 0);
        Ok(())
    }
}
