//! What is kept from one session to the next, and what is dropped.

use super::*;
use crate::error::Code;
use crate::outbox::{RowName, RowSet};
use crate::postgres::{ServerError, sqlstate};

fn lsn(position: u64) -> Lsn {
    Lsn::new(position)
}

fn place(timeline: u32, table: u32) -> TableLocation {
    place_since("1.5", timeline, table)
}

fn place_since(start: &str, timeline: u32, table: u32) -> TableLocation {
    TableLocation::for_tests(timeline, start, table)
}

fn tenure(process: i32) -> Tenure {
    Tenure::for_tests(process, lsn(25))
}

fn slot(wal_status: &str) -> Slot {
    Slot {
        wal_status: Some(wal_status.to_owned()),
        ..Slot::at(lsn(20))
    }
}

/// Arrived at `place(1, 5)`, streamed, and received up to 30.
fn streamed() -> ResumeState {
    let mut resume = ResumeState::new();
    assert_eq!(
        resume.arrived(&place(1, 5), &tenure(100), Lsn::INVALID, lsn(20)),
        Arrival::Known
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
        code: code.to_owned(),
        ..ServerError::default()
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
    let arrival = resume.arrived(&place(1, 5), &tenure(101), lsn(30), lsn(40));
    assert_eq!(arrival, Arrival::Known);
    assert_eq!(start(&resume), StartPosition::Own(lsn(30)));
    let arrival = resume.arrived(&place(2, 5), &tenure(102), lsn(30), lsn(40));
    let other = Arrival::Elsewhere(HistoryMismatch::OtherLineage);
    assert_eq!(arrival, other);
    assert_eq!(start(&resume), StartPosition::Slot);
    // The attempt broke off: memory is still invalid at the next one.
    let arrival = resume.arrived(&place(2, 5), &tenure(103), lsn(30), lsn(40));
    assert_eq!(arrival, Arrival::Known);
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
    let skipped = ServerError {
        code: "55000".to_owned(),
        routine: Some("LoadPublications".to_owned()),
        ..ServerError::default()
    };
    let skipped = sqlstate::skipped_publication("streaming", skipped);
    for of_publication in [refusal("42704"), skipped] {
        let mut resume = streamed();
        assert!(resume.recheck_slot(of_publication).is_transient());
        let stuck = resume.slot_found(Some(&slot("reserved")), lsn(20));
        assert!(
            matches!(stuck, Err(Some(SlotLoss::Stuck { .. }))),
            "{stuck:?}"
        );
        resume.healed(HandledRows::default());
        assert_eq!(resume.slot_found(Some(&slot("reserved")), lsn(20)), Ok(()));
    }
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
    let rows = RowSet::from_iter([RowName::of_id(1)]);
    let until = lsn(15);
    resume.healed(HandledRows {
        rows,
        until,
        ..HandledRows::default()
    });
    resume.resumed([("2".to_owned(), lsn(40)), ("3".to_owned(), lsn(10))]);
    let handled = resume.handled_rows();
    assert_eq!(handled.rows, RowSet::from_iter([RowName::of_id(1)]));
    let at = |position, id: &str| (lsn(position), [id.to_owned()].into());
    assert_eq!(handled.filed, [at(40, "2"), at(10, "3")].into());
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
fn a_restarted_server_has_to_prove_its_history_and_a_poller_forgets() {
    let mut resume = streamed();
    let restarted = place_since("2.5", 1, 5);
    let arrival = resume.arrived(&restarted, &tenure(101), lsn(30), lsn(40));
    assert_eq!(arrival, Arrival::Restarted { drawn_at: lsn(25) });
    assert_eq!(start(&resume), StartPosition::Own(lsn(30)));
    let arrival = resume.arrived(&restarted, &tenure(102), lsn(30), lsn(40));
    assert_eq!(arrival, Arrival::Known);
    let again = place_since("3.5", 1, 5);
    let arrival = resume.arrived(&again, &tenure(103), Lsn::INVALID, Lsn::INVALID);
    let forgotten = Arrival::Elsewhere(HistoryMismatch::Restarted);
    assert_eq!(arrival, forgotten);
    assert!(!resume.is_valid());
}

#[test]
fn another_history_has_handled_no_row() {
    let mut resume = streamed();
    resume.resumed([("2".to_owned(), lsn(40))]);
    resume.arrived(&place(2, 5), &tenure(101), lsn(30), lsn(40));
    assert!(resume.handled_rows().filed.is_empty());
}

#[test]
fn a_poller_may_use_its_memory_only_once_it_has_started_over() {
    let mut resume = ResumeState::new();
    // An attempt that breaks off before leaves it invalid.
    assert!(!resume.is_valid() && !resume.has_streamed());
    assert!(!resume.is_valid());
    resume.resumed([]);
    resume.streaming();
    assert!(resume.is_valid() && resume.has_streamed());
    resume.invalidate();
    assert!(!resume.is_valid() && resume.has_streamed());
}

#[test]
fn memory_is_dropped_behind_a_skipped_change_and_a_lost_producer() {
    type Event = fn(&mut ResumeState);
    let dropped: [Event; 2] = [
        |resume| resume.session_over(false, true),
        |resume| resume.session_over(true, false),
    ];
    for event in dropped {
        let mut resume = streamed();
        event(&mut resume);
        assert_eq!(start(&resume), StartPosition::Slot);
    }
    let mut resume = streamed();
    resume.session_over(false, false);
    assert_eq!(start(&resume), StartPosition::Own(lsn(30)));
}

/// Whether memory is valid when this instance returns with these tenures, one after another.
fn is_kept(tenures: &[Tenure]) -> bool {
    let mut resume = streamed();
    for tenure in tenures {
        let arrival = resume.arrived(&place(1, 5), tenure, lsn(30), lsn(40));
        assert_eq!(arrival, Arrival::Known);
    }
    resume.is_valid()
}

#[test]
fn memory_is_dropped_behind_another_holder_of_the_lock_that_was_never_seen() {
    // The slot is where it was, as if nothing had happened.
    assert!(is_kept(&[tenure(101)]));
    assert!(is_kept(&[tenure(101), tenure(102)]));
    assert!(!is_kept(&[tenure(102)]));
    assert!(!is_kept(&[tenure(101), tenure(103)]));
    // It stays dropped, until the session has a position.
    assert!(!is_kept(&[tenure(102), tenure(103)]));
}

#[test]
fn memory_is_dropped_where_the_holder_of_the_lock_has_no_number() {
    let unknown = Tenure {
        process: 101,
        number: None,
    };
    assert!(!is_kept(&[unknown]));
    assert!(!is_kept(&[unknown, tenure(101)]));
    assert!(!is_kept(&[tenure(101), unknown]));
}

#[test]
fn a_slot_that_has_to_be_created_invalidates_memory() {
    let mut resume = streamed();
    assert!(resume.slot_found(Some(&slot("reserved")), lsn(20)).is_ok());
    assert!(resume.is_valid());
    assert!(resume.slot_found(None, lsn(20)).is_err());
    assert!(!resume.is_valid());
    let mut resume = streamed();
    assert!(resume.slot_found(Some(&slot("lost")), lsn(20)).is_err());
    assert!(!resume.is_valid());
}

#[test]
fn a_wrong_setting_ends_the_publisher_until_a_session_has_streamed_and_is_waited_for_then() {
    let fatal = |code| Error::fatal(code, "no");
    let (new, streamed) = (ResumeState::new(), streamed());
    assert!(new.retries(&Error::transient(Code::Slot, "no")));
    assert!(!new.retries(&fatal(Code::Connect)) && !streamed.retries(&fatal(Code::Slot)));
    assert!(streamed.retries(&fatal(Code::Connect)), "a refused login");
    let is_waited_for = |resume: &ResumeState, waits| {
        let error = resume.opening_failed(fatal(Code::Config), waits);
        error.is_transient()
    };
    assert!(is_waited_for(&streamed, true) && !is_waited_for(&streamed, false));
    assert!(!is_waited_for(&new, true));
}
