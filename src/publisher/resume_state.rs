//! What the publisher keeps from one session to the next, and how much of it is still valid. Pure.
//!
//! The engine holds positions and events; this holds what decides whether they may be used: where
//! they belong, and how the last session ended. The
//! supervisor reports each event by one method, and queries what follows from it.
//!
//! Memory is invalid at first. It becomes invalid again by [`invalidate`](ResumeState::invalidate),
//! by a server with another history, and by a lost slot; only
//! [`resumed`](ResumeState::resumed) makes it valid. So an attempt that breaks off on its way to
//! the stream leaves it invalid, and the next attempt starts at the slot's own position.

use crate::error::Error;
use crate::lsn::Lsn;
use crate::outbox::TableLocation;
use crate::postgres::Server;
use crate::postgres::slot::Slot;
use crate::publisher::lineage::{self, HistoryMismatch, StartPosition, TableIdentity};
use crate::publisher::slot_loss::{SlotLoss, SlotSuspicion, suspicion};
use crate::publisher::source::event_decoder::HandledRows;

/// See the module's head.
#[derive(Debug)]
pub(in crate::publisher) struct ResumeState {
    /// The server and table that memory belongs to.
    home: Option<TableIdentity>,
    /// Memory may be used.
    valid: bool,
    /// A slot loss that is not healed yet.
    unhealed: Option<SlotLoss>,
    /// What the last session's error suggests about slot and publication.
    suspicion: Option<SlotSuspicion>,
    handled_rows: HandledRows,
    /// The transaction that the server failed to decode last, and the SQLSTATE.
    failed_at: Option<(Lsn, String)>,
    /// The server process that held the lock last.
    holder: Option<(Server, i32)>,
    /// A session has streamed, or polled.
    streamed: bool,
}

impl ResumeState {
    /// Nothing is known yet.
    pub(in crate::publisher) fn new() -> Self {
        ResumeState {
            home: None,
            valid: false,
            unhealed: None,
            suspicion: None,
            handled_rows: HandledRows::default(),
            failed_at: None,
            holder: None,
            streamed: false,
        }
    }

    /// Memory has to be dropped before the next session.
    pub(in crate::publisher) fn invalidate(&mut self) {
        self.valid = false;
    }

    /// The server process `holder` holds the lock at `place`, whose WAL ends at `end` (invalid when
    /// polling); `own` is the position up to which the stream was received. Returns why memory is
    /// invalid here, if it is.
    pub(in crate::publisher) fn arrived(
        &mut self,
        place: &TableLocation,
        holder: i32,
        own: Lsn,
        end: Lsn,
    ) -> Option<HistoryMismatch> {
        self.holder = Some((place.server.clone(), holder));
        let (lineage, table) = (place.server.lineage, place.table);
        let found = TableIdentity { lineage, table };
        let home = self.home.replace(found);
        let mismatch = home.and_then(|home| lineage::compare(home, own, found, end).err());
        if mismatch.is_some() {
            self.invalidate();
        }
        mismatch
    }

    /// The server process that held the lock last.
    pub(in crate::publisher) fn holder(&self) -> Option<&(Server, i32)> {
        self.holder.as_ref()
    }

    /// The slot as it was read; `reported` is the position that the server was sent last. `Ok` if
    /// it can be streamed from. `Err` if a slot has to be created, with the loss that this heals,
    /// if any: memory is invalid then, and the loss stays until [`healed`](ResumeState::healed),
    /// even though the slot that showed it is dropped on the way.
    pub(in crate::publisher) fn slot_found(
        &mut self,
        found: Option<&Slot>,
        reported: Lsn,
    ) -> Result<(), Option<SlotLoss>> {
        let stuck = self.suspicion == Some(SlotSuspicion::NotThere);
        let loss = SlotLoss::of(found, reported, self.streamed, stuck);
        let unhealed = self.unhealed.take();
        if found.is_some() && loss.is_none() {
            return Ok(());
        }
        self.unhealed = loss.or(unhealed);
        self.invalidate();
        Err(self.unhealed.clone())
    }

    /// The slot was created. The stream may deliver these rows again.
    pub(in crate::publisher) fn healed(&mut self, handled_rows: HandledRows) {
        (self.unhealed, self.suspicion) = (None, None);
        self.handled_rows = handled_rows;
    }

    /// Where the stream starts, with a slot at `confirmed`; `reported` and `own` as above.
    pub(in crate::publisher) fn start(
        &self,
        confirmed: Lsn,
        reported: Lsn,
        own: Lsn,
    ) -> StartPosition {
        lineage::start(confirmed, reported, own, !self.valid)
    }

    /// Memory belongs to the session that begins, whether it was kept or dropped. The stream may
    /// deliver these `filed` dead letters again, each up to its commit position.
    pub(in crate::publisher) fn resumed(&mut self, filed: impl IntoIterator<Item = (i64, Lsn)>) {
        for (row, commit_lsn) in filed {
            self.handled_rows.rows.insert(row);
            self.handled_rows.until = self.handled_rows.until.max(commit_lsn);
        }
        self.valid = true;
    }

    /// Polling begins: whether memory has to be dropped first, and whether this is the first
    /// session.
    pub(in crate::publisher) fn polling(&mut self) -> (bool, bool) {
        let is_new = !std::mem::replace(&mut self.valid, true);
        let is_first = !std::mem::replace(&mut self.streamed, true);
        (is_new, is_first)
    }

    /// The stream has begun.
    pub(in crate::publisher) fn streaming(&mut self) {
        self.streamed = true;
        self.suspicion = None;
    }

    /// Whether a session has streamed, or polled: from then on a refused login is an outage and not
    /// a wrong setting.
    pub(in crate::publisher) fn has_streamed(&self) -> bool {
        self.streamed
    }

    /// The rows that the stream may deliver again though they are handled.
    pub(in crate::publisher) fn handled_rows(&mut self) -> &mut HandledRows {
        &mut self.handled_rows
    }

    /// A session ended with this error, which may be the slot's or the publication's. The next
    /// attempt checks both, so the first such error is transient. It is final if it returns
    /// although both exist.
    pub(in crate::publisher) fn recheck_slot(&mut self, error: Error) -> Error {
        let before = self.suspicion.take();
        let found = suspicion(&error).filter(|_| !error.is_transient());
        if found.is_none() || found == before {
            return error;
        }
        self.suspicion = found;
        error.into_transient()
    }

    /// The transaction that the server failed to decode in the session that ended, and its
    /// SQLSTATE, if any. Returns whether the session before failed in the same way at the same
    /// transaction.
    pub(in crate::publisher) fn decoding_failed(
        &mut self,
        failed_at: Option<(Lsn, String)>,
    ) -> bool {
        let repeats = failed_at.is_some() && failed_at == self.failed_at;
        self.failed_at = failed_at;
        repeats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::postgres::{Lineage, ServerError};

    fn lsn(position: u64) -> Lsn {
        Lsn::new(position)
    }

    fn place(timeline: u32, table: u32) -> TableLocation {
        let system_id = 7;
        TableLocation {
            server: Server {
                lineage: Lineage {
                    system_id,
                    timeline,
                },
                postmaster_start: "1.5".to_owned(),
                version: 170_000,
                in_recovery: false,
            },
            table,
        }
    }

    fn slot(wal_status: &str) -> Slot {
        Slot {
            name: "outboxd_orders".to_owned(),
            active_pid: None,
            confirmed_flush: Some(lsn(20)),
            restart: None,
            wal_status: Some(wal_status.to_owned()),
            safe_wal_size: None,
            temporary: false,
            failover: None,
            invalidation_reason: None,
            lag_bytes: 0,
            retained_bytes: 0,
        }
    }

    /// Arrived at `place(1, 5)`, streamed, and received up to 30.
    fn streamed() -> ResumeState {
        let mut resume = ResumeState::new();
        assert_eq!(
            resume.arrived(&place(1, 5), 100, Lsn::INVALID, lsn(20)),
            None
        );
        resume.resumed([]);
        resume.streaming();
        resume
    }

    fn start(resume: &ResumeState) -> StartPosition {
        resume.start(lsn(20), lsn(20), lsn(30))
    }

    fn refusal(code: &str) -> Error {
        let server = ServerError {
            severity: "ERROR".to_owned(),
            code: code.to_owned(),
            message: "no".to_owned(),
            detail: None,
            hint: None,
        };
        Error::fatal(Code::Slot, "streaming").with_source(server)
    }

    #[test]
    fn memory_is_valid_only_between_a_start_and_what_invalidates_it() {
        assert_eq!(start(&ResumeState::new()), StartPosition::Slot);
        let mut resume = streamed();
        assert_eq!(start(&resume), StartPosition::Own(lsn(30)));
        resume.invalidate();
        assert_eq!(start(&resume), StartPosition::Slot);
        resume.resumed([]);
        assert_eq!(start(&resume), StartPosition::Own(lsn(30)));
    }

    #[test]
    fn a_place_with_another_history_invalidates_memory_and_becomes_its_home() {
        let mut resume = streamed();
        assert_eq!(resume.arrived(&place(1, 5), 101, lsn(30), lsn(40)), None);
        assert_eq!(start(&resume), StartPosition::Own(lsn(30)));
        let mismatch = resume.arrived(&place(2, 5), 102, lsn(30), lsn(40));
        assert_eq!(mismatch, Some(HistoryMismatch::OtherLineage));
        assert_eq!(start(&resume), StartPosition::Slot);
        // The attempt broke off: memory is still invalid at the next one.
        assert_eq!(resume.arrived(&place(2, 5), 103, lsn(30), lsn(40)), None);
        assert_eq!(start(&resume), StartPosition::Slot);
        assert_eq!(resume.holder(), Some(&(place(2, 5).server, 103)));
    }

    #[test]
    fn a_lost_slot_stays_lost_until_it_is_healed_though_it_was_dropped_meanwhile() {
        let mut resume = ResumeState::new();
        assert_eq!(resume.slot_found(None, Lsn::INVALID), Err(None));
        let lost = resume.slot_found(Some(&slot("lost")), Lsn::INVALID);
        let loss = lost.expect_err("a lost slot cannot be streamed from");
        assert!(matches!(loss, Some(SlotLoss::Invalid { .. })), "{loss:?}");
        assert_eq!(resume.slot_found(None, Lsn::INVALID), Err(loss));
        resume.healed(HandledRows::default());
        assert_eq!(start(&resume), StartPosition::Slot);
        assert_eq!(
            resume.slot_found(Some(&slot("reserved")), Lsn::INVALID),
            Ok(())
        );
        assert_eq!(resume.slot_found(None, Lsn::INVALID), Err(None));
    }

    #[test]
    fn a_slot_that_was_streamed_from_is_lost_when_it_is_gone_or_fails_for_its_publication() {
        let mut resume = streamed();
        let gone = Some(SlotLoss::Gone { reported: lsn(20) });
        assert_eq!(resume.slot_found(None, lsn(20)), Err(gone));
        let mut resume = streamed();
        assert!(resume.recheck_slot(refusal("42704")).is_transient());
        let stuck = resume.slot_found(Some(&slot("reserved")), lsn(20));
        assert!(
            matches!(stuck, Err(Some(SlotLoss::Stuck { .. }))),
            "{stuck:?}"
        );
        resume.healed(HandledRows::default());
        assert_eq!(resume.slot_found(Some(&slot("reserved")), lsn(20)), Ok(()));
    }

    #[test]
    fn an_error_of_slot_or_publication_is_final_when_it_returns_without_a_stream_between() {
        let mut resume = streamed();
        assert!(resume.recheck_slot(refusal("55000")).is_transient());
        assert!(!resume.recheck_slot(refusal("55000")).is_transient());
        assert!(resume.recheck_slot(refusal("55000")).is_transient());
        resume.streaming();
        assert!(resume.recheck_slot(refusal("55000")).is_transient());
        assert!(!resume.recheck_slot(refusal("28000")).is_transient());
    }

    #[test]
    fn rows_that_are_filed_are_added_to_those_that_a_new_slot_may_bring_again() {
        let mut resume = ResumeState::new();
        let rows = [1].into();
        let until = lsn(15);
        resume.healed(HandledRows { rows, until });
        resume.resumed([(2, lsn(40)), (3, lsn(10))]);
        let handled = resume.handled_rows();
        assert_eq!(handled.rows, [1, 2, 3].into());
        assert_eq!(handled.until, lsn(40));
    }

    #[test]
    fn decoding_has_failed_twice_only_at_the_same_transaction_with_the_same_state() {
        let mut resume = ResumeState::new();
        let failed = |at, state: &str| Some((lsn(at), state.to_owned()));
        assert!(!resume.decoding_failed(failed(50, "XX000")));
        assert!(resume.decoding_failed(failed(50, "XX000")));
        assert!(!resume.decoding_failed(failed(50, "54000")));
        assert!(!resume.decoding_failed(failed(60, "54000")));
        assert!(!resume.decoding_failed(None));
        assert!(!resume.decoding_failed(None));
        assert!(!resume.decoding_failed(failed(60, "54000")));
    }

    #[test]
    fn polling_drops_invalid_memory_once_and_knows_its_first_session() {
        let mut resume = ResumeState::new();
        assert!(!resume.has_streamed());
        assert_eq!(resume.polling(), (true, true));
        assert!(resume.has_streamed());
        assert_eq!(resume.polling(), (false, false));
        resume.invalidate();
        assert_eq!(resume.polling(), (true, false));
    }
}
