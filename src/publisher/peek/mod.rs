//! Peek: shows the events that would be sent next, and moves nothing.
//!
//! Of a slot, a copy is read that the server drops with the connection. The copy has the slot's
//! position, and confirming nothing to it changes neither `confirmed_flush_lsn` nor `restart_lsn`
//! of the slot, which a publisher may read meanwhile. Of the table, the unpublished rows are read.
//! Both ways use the publisher's own parts: the decoder of the stream, the statements of the table,
//! the router, and the checks of a record that need no broker.
//!
//! Takes no lock of outboxd's and connects to no broker. So it does not know what Kafka would
//! refuse: a topic that does not exist, a record that is too large for its topic. An event that is
//! in flight at a running publisher is shown until it is confirmed.

mod event;
mod options;
mod record;
mod stream;
mod table;

use crate::config::{Config, Source};
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::dead_letter::of_events::of_events;
use crate::postgres::slot::{self, Slot};
use crate::postgres::{self, Session};
use crate::publisher::peek::options::APPLICATION_NAME;
use crate::publisher::peek::record::Records;
use crate::publisher::peek::stream::SlotReader;
use crate::publisher::peek::table::TableReader;

pub use event::{OpenDeadLetter, PeekedEvent, Refusal, Shown};
pub use options::{PeekEnd, PeekOptions, PeekSource};

/// Shows the next events in their order, each by a call of `show`.
///
/// # Errors
/// `SLOT_ERROR` when the slot does not exist, is lost or has passed the position to begin at;
/// `CONFIG_ERROR` when the role lacks a right or the table is no outbox; those of the connections,
/// and of `show`.
pub async fn peek<E: From<Error>>(
    config: &Config,
    options: &PeekOptions,
    mut show: impl FnMut(PeekedEvent) -> Result<(), E>,
) -> Result<PeekEnd, E> {
    let (database, limit) = (&config.database, config.operation_timeout);
    let connected = postgres::connect_for_slots(database, APPLICATION_NAME, limit).await;
    let session = connected?;
    let slot = match options.from {
        Some(PeekSource::Table) => None,
        from => slot_to_read(&session, config, from).await?,
    };
    if options.lsn.is_some() && slot.is_none() {
        let message = "a position is one of the slot, and the table would be read";
        return Err(Error::fatal(Code::Config, message)
            .with_hint("leave --lsn out, or add --from slot")
            .into());
    }
    let records = Records::new(config, options);
    let mut reader = match slot {
        Some(slot) => Reader::Slot(Box::new(
            SlotReader::open(config, &session, &slot, options.lsn, records).await?,
        )),
        None => Reader::Table(Box::new(
            TableReader::open(config, &session, records).await?,
        )),
    };
    let mut shown = 0;
    while shown < options.count {
        let mut page = match &mut reader {
            Reader::Slot(reader) => reader.page(options.count - shown).await?,
            Reader::Table(reader) => reader.page(&session, options.count - shown).await?,
        };
        if page.is_empty() {
            break;
        }
        name_dead_letters(&session, config, &mut page).await?;
        shown += page.len();
        page.into_iter().try_for_each(&mut show)?;
    }
    Ok(reader.close(shown).await)
}

enum Reader<'a> {
    Slot(Box<SlotReader<'a>>),
    Table(Box<TableReader>),
}

impl Reader<'_> {
    async fn close(self, shown: usize) -> PeekEnd {
        match self {
            Reader::Slot(reader) => reader.close(shown).await,
            Reader::Table(reader) => PeekEnd {
                source: PeekSource::Table,
                shown,
                from: None,
                to: None,
                is_all: reader.is_over(),
            },
        }
    }
}

/// The slot to read; `None` if the table is to be read.
async fn slot_to_read(
    session: &Session,
    config: &Config,
    from: Option<PeekSource>,
) -> Result<Option<Slot>> {
    let name = &config.slot;
    let asked = from == Some(PeekSource::Slot);
    if config.source == Source::Poll && !asked {
        return Ok(None);
    }
    let found = slot::read(session, name).await?;
    let Some(found) = found else {
        let message = format!("slot {name} does not exist");
        let hint = "`outboxd run` creates it; --from table shows the rows that it would send first";
        return match asked {
            true => Err(Error::fatal(Code::Slot, message).with_hint(hint)),
            false => Ok(None),
        };
    };
    if found.is_lost() {
        let message = format!("slot {name} is lost and cannot be read");
        return Err(Error::fatal(Code::Slot, message).with_hint(
            "`outboxd run` creates it again and publishes from the table, unless \
             OUTBOX_ON_SLOT_LOSS=halt; --from table shows those rows",
        ));
    }
    Ok(Some(found))
}

/// Adds the open dead letters to the events that have one.
async fn name_dead_letters(
    session: &Session,
    config: &Config,
    page: &mut [PeekedEvent],
) -> Result<()> {
    let ids: Vec<&str> = page.iter().map(|event| event.id.as_str()).collect();
    let letters = of_events(session, &config.table, &ids).await?;
    for event in page {
        let lsn = event.lsn;
        let is_of = |filed: Option<Lsn>| filed.is_none() || lsn.is_none() || filed == lsn;
        let letter = letters
            .iter()
            .find(|letter| letter.outbox_id == event.id && is_of(letter.commit_lsn));
        event.dead_letter = letter.map(|letter| OpenDeadLetter {
            id: letter.id,
            state: letter.state.clone(),
            error_code: letter.error_code.clone(),
        });
    }
    Ok(())
}
