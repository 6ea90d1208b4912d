//! Exactly once: gives each session a producer of its own, with transactions, and begins where the
//! progress record says.
//!
//! A session that holds the lock first shuts out every earlier producer of its slot, then reads the
//! progress record, and then compares it with the slot. Nothing of an earlier session is used: what
//! it had committed is in the record, and what it had not is sent again. The engine decides (see
//! `engine::exactly_once`).

use crate::config::{OnSlotLoss, RefusalKind};
use crate::engine::exactly_once::progress::{Progress, ProgressKey};
use crate::engine::exactly_once::start::{SlotFacts, Start, StartFacts, decide};
use crate::engine::exactly_once::timeline;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::postgres::{self, Server, Session};
use crate::publisher::slot_loss::SlotLoss;
use crate::publisher::source::kafka_copies::KafkaCopies;
use crate::publisher::supervisor::Supervisor;
use crate::replication::ReplicationClient;

impl Supervisor {
    /// Shuts out every earlier producer of the slot, and reads the progress record. Does nothing at
    /// least once.
    ///
    /// # Errors
    /// Transient: the brokers or the server do not answer. Fatal: they refuse, or the record is not
    /// understood.
    pub(in crate::publisher) async fn open_transactions(
        &mut self,
        session: &Session,
        client: &mut ReplicationClient,
        server: &Server,
    ) -> Result<()> {
        let Some(settings) = self.config.exactly_once.clone() else {
            return Ok(());
        };
        self.resume.invalidate();
        let key = ProgressKey {
            system_id: server.lineage.system_id,
            slot: self.config.slot.clone(),
        };
        let topic = &settings.progress_topic;
        let progress = self.forwarder.begin_producer(key, topic).await?;
        let timeline = server.lineage.timeline;
        self.opened = Some(StartFacts {
            slot: SlotFacts::Missing,
            timeline,
            wal_end: postgres::log_position(session).await?,
            switched_at: switched_at(client, progress.as_ref(), timeline).await?,
            publication: self.config.publication.clone(),
            answer: settings.answer,
            heals: self.config.on_slot_loss == OnSlotLoss::Heal,
            progress,
        });
        Ok(())
    }

    /// A slot is about to be created, because there is none.
    ///
    /// # Errors
    /// Fatal: the progress record shows that there was one.
    pub(in crate::publisher) fn permit_new_slot(&mut self) -> Result<()> {
        let Some(facts) = &mut self.opened else {
            return Ok(());
        };
        decide(facts).map_err(|refusal| refusal.into_error())?;
        facts.slot = SlotFacts::Created(Lsn::INVALID);
        Ok(())
    }

    /// What finds the rows that Kafka has, if a lost slot is healed, and how the slot was lost. A
    /// slot that is gone left no trace but its progress record.
    pub(in crate::publisher) fn healing(
        &self,
        loss: Option<SlotLoss>,
    ) -> (Option<KafkaCopies>, Option<SlotLoss>) {
        let facts = self.opened.as_ref().filter(|it| it.heals);
        let recorded = facts.and_then(|facts| {
            let progress = facts.progress.as_ref()?;
            Some((facts, progress.position, progress.unmarked_from()?))
        });
        let Some((facts, reported, from)) = recorded else {
            return (None, loss);
        };
        let answer = RefusalKind::SlotMissing.at(reported);
        let copies = (facts.answer != Some(answer)).then(|| KafkaCopies::new(from, answer));
        (copies, Some(loss.unwrap_or(SlotLoss::Gone { reported })))
    }

    /// Begins at the progress record, with a slot at `confirmed`. Does nothing at least once.
    ///
    /// # Errors
    /// Fatal: record and slot contradict each other, and a person has to decide.
    pub(in crate::publisher) fn begin_transactions(&mut self, confirmed: Lsn) -> Result<()> {
        let Some(mut facts) = self.opened.take() else {
            return Ok(());
        };
        facts.slot = match facts.slot {
            SlotFacts::Created(_) => SlotFacts::Created(confirmed),
            SlotFacts::Missing | SlotFacts::Confirmed(_) => SlotFacts::Confirmed(confirmed),
        };
        let (mut progress, is_new) = match decide(&facts).map_err(|refusal| refusal.into_error())? {
            Start::Continue(progress) => (progress, false),
            Start::Begin(progress) => (progress, true),
            Start::CreateSlot => return Ok(()),
        };
        let position = progress.position;
        match is_new {
            true => tracing::info!(lsn = %position, "no progress is recorded, beginning here"),
            false => tracing::info!(lsn = %position, %confirmed, "progress read from Kafka"),
        }
        let rows = std::mem::take(&mut progress.rows);
        let forwarder = &mut self.forwarder;
        let engine = &mut forwarder.engine;
        engine.transactions_begun(progress, confirmed, is_new);
        for row in rows {
            forwarder.mark_recorded(row.name(), row.xid);
        }
        Ok(())
    }

    /// A session has ended: its producer is given up, and memory with it.
    pub(in crate::publisher) async fn close_transactions(&mut self) {
        if self.config.exactly_once.is_none() {
            return;
        }
        self.forwarder.give_producer_up().await;
        self.resume.invalidate();
    }
}

/// Where the server's history left the timeline of the progress record, if that is an ancestor.
async fn switched_at(
    client: &mut ReplicationClient,
    progress: Option<&Progress>,
    timeline: u32,
) -> Result<Option<Lsn>> {
    let Some(progress) = progress.filter(|it| it.timeline < timeline) else {
        return Ok(None);
    };
    let rows = client
        .query(&format!("TIMELINE_HISTORY {timeline}"))
        .await?;
    let history = rows
        .into_iter()
        .next()
        .and_then(|row| row.into_iter().nth(1)?);
    Ok(history.and_then(|history| timeline::switched_at(&history, progress.timeline)))
}
