//! The tracker against a model that keeps everything and computes every answer from its whole
//! history.
//!
//! The model is the definition: walk the received items in order, stop at the first transaction
//! that is not both closed and settled, and confirm the last position before it. The tracker must
//! agree with the model after every step.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use crate::engine::tracker::violation::Violation;
use crate::engine::tracker::{ENTRY_BYTES, InFlight, Ticket, Tracker};
use crate::lsn::Lsn;
use crate::outbox::RowName;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    InFlight,
    Acknowledged,
    Settled,
}

#[derive(Debug, Clone)]
struct Event {
    ticket: Ticket,
    accepted: InFlight,
    progress: Progress,
}

#[derive(Debug)]
enum Item {
    Transaction {
        commit: u64,
        end: Option<u64>,
        /// For each change, whether it is an event.
        changes: Vec<bool>,
        tickets: Vec<Ticket>,
    },
    Keepalive(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Between,
    Inside,
    /// Inside a transaction that is sent again, with this many changes received in this session.
    Resumed(usize),
    Cut,
}

#[derive(Debug)]
struct Model {
    start: u64,
    items: Vec<Item>,
    /// Keepalives received inside the open transaction, in this session.
    inside: Vec<u64>,
    events: Vec<Event>,
    phase: Phase,
    /// The position up to which the server has sent.
    server: u64,
    next_ticket: Ticket,
    /// Tickets from before the last reset.
    stale: Vec<Ticket>,
}

impl Model {
    fn new(start: u64) -> Self {
        Model {
            start,
            items: Vec::new(),
            inside: Vec::new(),
            events: Vec::new(),
            phase: Phase::Between,
            server: start,
            next_ticket: 0,
            stale: Vec::new(),
        }
    }

    fn progress(&self, ticket: Ticket) -> Progress {
        let known = self.events.iter().find(|event| event.ticket == ticket);
        known.unwrap().progress
    }

    fn is_done(&self, item: &Item) -> bool {
        match item {
            Item::Keepalive(_) => true,
            Item::Transaction { end, tickets, .. } => {
                let settled = |ticket: &Ticket| self.progress(*ticket) == Progress::Settled;
                end.is_some() && tickets.iter().all(settled)
            }
        }
    }

    fn position(item: &Item) -> u64 {
        match item {
            Item::Keepalive(position) => *position,
            Item::Transaction { end, .. } => end.unwrap_or(0),
        }
    }

    fn flushed(&self) -> u64 {
        let done = self.items.iter().take_while(|item| self.is_done(item));
        done.map(Model::position).fold(self.start, u64::max)
    }

    fn complete(&self) -> u64 {
        let positions = self.items.iter().map(Model::position);
        positions.fold(self.start, u64::max)
    }

    fn received(&self) -> u64 {
        let inside = self.inside.iter().copied();
        inside.fold(self.complete(), u64::max)
    }

    fn waiting_transactions(&self) -> usize {
        let waiting = self.items.iter().skip_while(|item| self.is_done(item));
        waiting
            .filter(|item| matches!(item, Item::Transaction { .. }))
            .count()
    }

    fn in_state(&self, progress: Progress) -> impl Iterator<Item = &Event> {
        let events = self.events.iter();
        events.filter(move |event| event.progress == progress)
    }

    fn first_ticket(&self) -> Ticket {
        let mut unsettled = self.events.iter();
        unsettled
            .find(|event| event.progress != Progress::Settled)
            .map_or(self.next_ticket, |event| event.ticket)
    }

    fn open(&mut self) -> (u64, &mut Option<u64>, &mut Vec<bool>, &mut Vec<Ticket>) {
        match self.items.last_mut() {
            Some(Item::Transaction {
                commit,
                end,
                changes,
                tickets,
            }) => (*commit, end, changes, tickets),
            other => panic!("no open transaction but {other:?}"),
        }
    }

    fn last_commit(&self) -> Option<u64> {
        self.items.iter().rev().find_map(|item| match item {
            Item::Transaction {
                commit,
                end: Some(_),
                ..
            } => Some(*commit),
            _ => None,
        })
    }
}

/// The next step; numbers are mapped to what is possible in the present state.
#[derive(Debug, Clone)]
enum Step {
    Begin(Gap),
    Change { event: bool, bytes: u32 },
    Commit(Gap),
    Keepalive(Gap),
    OldKeepalive(u64),
    Row { bytes: u32 },
    Acknowledge(prop::sample::Index),
    Settle(prop::sample::Index),
    StaleReport(prop::sample::Index),
    Interrupt,
    Reset(Gap),
    Unlawful(u8),
}

#[derive(Debug, Clone, Copy)]
enum Gap {
    None,
    Some(u16),
    Huge(u64),
}

impl Gap {
    fn after(self, position: u64) -> u64 {
        match self {
            Gap::None => position,
            Gap::Some(bytes) => position.saturating_add(u64::from(bytes)),
            Gap::Huge(bytes) => position.saturating_add(bytes),
        }
    }
}

fn gap() -> impl Strategy<Value = Gap> {
    prop_oneof![
        10 => Just(Gap::None),
        10 => (1u16..).prop_map(Gap::Some),
        1 => any::<u64>().prop_map(|bytes| Gap::Huge(bytes / 4)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![0u32..500, Just(u32::MAX)];
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => gap().prop_map(Step::Begin),
        16 => (any::<bool>(), bytes.clone())
            .prop_map(|(event, bytes)| Step::Change { event, bytes }),
        8 => gap().prop_map(Step::Commit),
        6 => gap().prop_map(Step::Keepalive),
        1 => any::<u64>().prop_map(Step::OldKeepalive),
        1 => bytes.prop_map(|bytes| Step::Row { bytes }),
        12 => index().prop_map(Step::Acknowledge),
        12 => index().prop_map(Step::Settle),
        2 => index().prop_map(Step::StaleReport),
        3 => Just(Step::Interrupt),
        1 => gap().prop_map(Step::Reset),
        2 => any::<u8>().prop_map(Step::Unlawful),
    ]
}

/// Tracker and model, driven together.
struct Pair {
    tracker: Tracker,
    model: Model,
    transaction_bytes: usize,
}

impl Pair {
    fn new(start: u64) -> Self {
        let mut probe = Tracker::new(Lsn::INVALID);
        probe.begin(Lsn::new(1)).unwrap();
        let mut tracker = Tracker::new(Lsn::INVALID);
        tracker.reset(Lsn::new(start));
        Pair {
            tracker,
            model: Model::new(start),
            transaction_bytes: probe.bytes(),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Begin(gap) => self.begin(*gap),
            Step::Change { event, bytes } => self.change(*event, *bytes),
            Step::Commit(gap) => self.commit(*gap),
            Step::Keepalive(gap) => {
                let highest = match self.model.phase {
                    Phase::Between => gap.after(self.model.server),
                    _ => self.model.open().0.max(self.model.server),
                };
                self.keepalive(highest);
            }
            Step::OldKeepalive(at) => self.keepalive(at % self.model.server.max(1)),
            Step::Row { bytes } => {
                let accepted = self.next_event(*bytes);
                let ticket = self.tracker.accept_row(accepted.clone());
                self.enter(ticket, accepted);
            }
            Step::Acknowledge(index) => self.acknowledge(index),
            Step::Settle(index) => self.settle(index),
            Step::StaleReport(index) if !self.model.stale.is_empty() => {
                let ticket = *index.get(&self.model.stale);
                assert!(self.tracker.acknowledge(ticket).is_none());
                self.tracker.settle(ticket);
            }
            Step::StaleReport(_) => {}
            Step::Interrupt => {
                self.tracker.interrupt();
                self.model.inside.clear();
                self.model.phase = match self.model.phase {
                    Phase::Between => Phase::Between,
                    _ => Phase::Cut,
                };
            }
            Step::Reset(gap) => self.reset(*gap),
            Step::Unlawful(kind) => self.unlawful(*kind),
        }
        self.compare();
    }

    fn next_event(&self, bytes: u32) -> InFlight {
        InFlight {
            row: Some(RowName::of_id(self.model.next_ticket as i64)),
            xid: 7,
            untried: false,
            bytes,
            topic: 3,
            since_micros: -1,
            sent_micros: self.model.next_ticket,
        }
    }

    fn enter(&mut self, ticket: Ticket, accepted: InFlight) {
        assert_eq!(ticket, self.model.next_ticket);
        self.model.next_ticket += 1;
        self.model.events.push(Event {
            ticket,
            accepted,
            progress: Progress::InFlight,
        });
    }

    fn begin(&mut self, gap: Gap) {
        match self.model.phase {
            Phase::Cut => {
                let commit = self.model.open().0;
                assert_eq!(self.tracker.begin(Lsn::new(commit)), Ok(()));
                self.model.phase = Phase::Resumed(0);
            }
            Phase::Between => {
                let commit = gap.after(self.model.server.max(self.model.complete()));
                if commit >= u64::MAX - 1 || commit == 0 || Some(commit) <= self.model.last_commit()
                {
                    return;
                }
                assert_eq!(self.tracker.begin(Lsn::new(commit)), Ok(()));
                self.model.items.push(Item::Transaction {
                    commit,
                    end: None,
                    changes: Vec::new(),
                    tickets: Vec::new(),
                });
                self.model.phase = Phase::Inside;
            }
            Phase::Inside | Phase::Resumed(_) => {}
        }
    }

    fn change(&mut self, event: bool, bytes: u32) {
        let known = self.known_changes();
        let sent = match self.model.phase {
            Phase::Between | Phase::Cut => return,
            Phase::Inside => known,
            Phase::Resumed(sent) => sent,
        };
        let index = self.tracker.change().unwrap();
        if let Phase::Resumed(sent) = &mut self.model.phase {
            *sent += 1;
        }
        if sent < known {
            assert_eq!(index, None, "change {sent} was accepted before");
            return;
        }
        assert_eq!(index, Some(sent as u32));
        self.model.open().2.push(event);
        if event {
            let accepted = self.next_event(bytes);
            let ticket = self.tracker.accept(accepted.clone()).unwrap();
            self.enter(ticket, accepted);
            self.model.open().3.push(ticket);
        }
    }

    fn known_changes(&mut self) -> usize {
        match self.model.phase {
            Phase::Between => 0,
            _ => self.model.open().2.len(),
        }
    }

    /// The server resends all of a transaction before its Commit.
    fn commit(&mut self, gap: Gap) {
        while let Phase::Resumed(sent) = self.model.phase
            && sent < self.known_changes()
        {
            self.change(false, 0);
        }
        if !matches!(self.model.phase, Phase::Inside | Phase::Resumed(_)) {
            return;
        }
        let commit = self.model.open().0;
        let end = gap.after(commit + 1);
        let (commit_lsn, end_lsn) = (Lsn::new(commit), Lsn::new(end));
        assert_eq!(self.tracker.commit(commit_lsn, end_lsn), Ok(()));
        *self.model.open().1 = Some(end);
        self.model.inside.clear();
        self.model.phase = Phase::Between;
        self.model.server = end;
    }

    fn keepalive(&mut self, wal_end: u64) {
        let highest = match self.model.phase {
            Phase::Between => u64::MAX,
            _ => self.model.open().0,
        };
        let wal_end = wal_end.min(highest);
        assert_eq!(self.tracker.keepalive(Lsn::new(wal_end)), Ok(()));
        match self.model.phase {
            Phase::Between => {
                self.model.items.push(Item::Keepalive(wal_end));
                self.model.server = self.model.server.max(wal_end);
            }
            Phase::Inside | Phase::Resumed(_) => self.model.inside.push(wal_end),
            Phase::Cut => {}
        }
    }

    fn acknowledge(&mut self, index: &prop::sample::Index) {
        let in_flight: Vec<usize> = (0..self.model.events.len())
            .filter(|&at| self.model.events[at].progress == Progress::InFlight)
            .collect();
        if in_flight.is_empty() {
            return;
        }
        let event = &mut self.model.events[*index.get(&in_flight)];
        event.progress = Progress::Acknowledged;
        let accepted = self.tracker.acknowledge(event.ticket).unwrap();
        assert_eq!(accepted.row, event.accepted.row);
    }

    fn settle(&mut self, index: &prop::sample::Index) {
        let acknowledged: Vec<usize> = (0..self.model.events.len())
            .filter(|&at| self.model.events[at].progress == Progress::Acknowledged)
            .collect();
        if acknowledged.is_empty() {
            return;
        }
        let event = &mut self.model.events[*index.get(&acknowledged)];
        event.progress = Progress::Settled;
        self.tracker.settle(event.ticket);
    }

    fn reset(&mut self, gap: Gap) {
        let start = gap.after(self.model.flushed());
        self.tracker.reset(Lsn::new(start));
        let mut fresh = Model::new(start);
        fresh.next_ticket = self.model.next_ticket;
        fresh.stale = self.model.stale.split_off(0);
        fresh
            .stale
            .extend(self.model.events.iter().map(|event| event.ticket));
        self.model = fresh;
    }

    /// Messages that violate the protocol are rejected, and change nothing.
    fn unlawful(&mut self, kind: u8) {
        let lsn = Lsn::new;
        let event = self.next_event(1);
        match self.model.phase {
            Phase::Between => {
                let outside = Violation::OutsideTransaction;
                assert_eq!(self.tracker.change(), Err(outside("a change")));
                assert_eq!(self.tracker.accept(event), Err(outside("an event")));
                let result = self.tracker.commit(lsn(1), lsn(2));
                assert_eq!(result, Err(outside("a commit")));
                let complete = self.model.complete();
                if complete > 0 {
                    let below = complete - 1 - u64::from(kind).min(complete - 1);
                    let result = self.tracker.begin(lsn(below));
                    assert!(
                        matches!(result, Err(Violation::OutOfOrder { .. })),
                        "{result:?}"
                    );
                }
            }
            Phase::Inside | Phase::Resumed(_) => {
                let commit = self.model.open().0;
                let next = lsn(commit + 1);
                assert_eq!(self.tracker.begin(next), Err(Violation::Nested(next)));
                let other = lsn(commit - u64::from(kind).clamp(1, commit));
                assert!(self.tracker.commit(other, next).is_err());
                if let Phase::Resumed(sent) = self.model.phase
                    && sent < self.known_changes()
                {
                    let result = self.tracker.commit(lsn(commit), next);
                    assert!(
                        result.is_err(),
                        "transaction {commit} was resent incompletely"
                    );
                }
            }
            Phase::Cut => {
                let commit = self.model.open().0;
                let next = commit + u64::from(kind).clamp(1, u64::MAX - commit);
                assert!(self.tracker.begin(lsn(next)).is_err());
                assert!(self.tracker.keepalive(lsn(next)).is_err());
                assert!(self.tracker.change().is_err());
                assert!(self.tracker.accept(event).is_err());
                assert!(self.tracker.commit(lsn(commit), lsn(next)).is_err());
            }
        }
    }

    fn compare(&self) {
        let (tracker, model) = (&self.tracker, &self.model);
        assert_eq!(tracker.flushed(), Lsn::new(model.flushed()), "flushed");
        assert_eq!(tracker.complete(), Lsn::new(model.complete()), "complete");
        assert_eq!(tracker.received(), Lsn::new(model.received()), "received");
        assert_eq!(tracker.next_ticket(), model.next_ticket);
        let unsettled = (model.next_ticket - model.first_ticket()) as usize;
        let in_flight_bytes: usize = model
            .in_state(Progress::InFlight)
            .map(|event| event.accepted.bytes as usize)
            .sum();
        assert_eq!(tracker.in_flight_bytes(), in_flight_bytes);
        let in_flight = model.in_state(Progress::InFlight).count() as u64;
        assert_eq!(tracker.in_flight_count(), in_flight);
        let waiting = model.waiting_transactions();
        let bytes = in_flight_bytes + unsettled * ENTRY_BYTES + waiting * self.transaction_bytes;
        assert_eq!(tracker.bytes(), bytes);
        let oldest = model.in_state(Progress::InFlight).next();
        assert_eq!(
            tracker
                .oldest_in_flight()
                .map(|(_, event)| event.row.clone()),
            oldest.map(|event| event.accepted.row.clone())
        );
        assert_eq!(tracker.is_open(), model.phase != Phase::Between);
        assert!(tracker.event(model.next_ticket).is_none());
        for event in &model.events {
            let expected =
                (event.ticket >= model.first_ticket()).then_some(event.accepted.row.clone());
            let found = tracker
                .event(event.ticket)
                .map(|accepted| accepted.row.clone());
            assert_eq!(found, expected);
        }
        for ticket in &model.stale {
            assert!(tracker.event(*ticket).is_none());
        }
    }
}

fn start() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        0u64..1 << 40,
        (0u64..1000).prop_map(|below| u64::MAX - below),
        (0u64..1 << 20).prop_map(|below| u64::MAX - below),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1_500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_answer_is_that_of_a_model_which_remembers_everything(
        start in start(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut pair = Pair::new(start);
        pair.compare();
        for step in &steps {
            pair.step(step);
        }
    }
}

fn event() -> InFlight {
    InFlight {
        row: Some(RowName::of_id(1)),
        xid: 1,
        untried: false,
        bytes: 10,
        topic: 0,
        since_micros: 0,
        sent_micros: 0,
    }
}

#[test]
fn commits_with_no_byte_between_them_are_confirmed_one_by_one() {
    let lsn = Lsn::new;
    let mut tracker = Tracker::new(lsn(100));
    let tickets: Vec<Ticket> = [(100, 150), (150, 200)]
        .map(|(commit, end)| {
            tracker.begin(lsn(commit)).unwrap();
            assert_eq!(tracker.change(), Ok(Some(0)));
            let ticket = tracker.accept(event()).unwrap();
            tracker.commit(lsn(commit), lsn(end)).unwrap();
            ticket
        })
        .into();
    for ticket in tickets.iter().rev() {
        assert!(tracker.acknowledge(*ticket).is_some());
    }
    tracker.settle(tickets[1]);
    assert_eq!(tracker.flushed(), lsn(100));
    tracker.settle(tickets[0]);
    assert_eq!(tracker.flushed(), lsn(200));
}

#[test]
fn a_million_empty_transactions_leave_nothing_behind() {
    let mut tracker = Tracker::new(Lsn::new(1));
    for commit in 1..=1_000_000 {
        tracker.begin(Lsn::new(commit)).unwrap();
        let end = Lsn::new(commit + 1);
        tracker.commit(Lsn::new(commit), end).unwrap();
        assert_eq!(tracker.flushed(), end);
    }
    assert_eq!(tracker.bytes(), 0);
    assert_eq!(tracker.bytes(), 0);
}

#[test]
fn a_transaction_cut_twice_is_skipped_up_to_the_farthest_change_handed_over() {
    let lsn = Lsn::new;
    let mut tracker = Tracker::new(lsn(1));
    tracker.begin(lsn(10)).unwrap();
    for _ in 0..5 {
        assert!(tracker.change().unwrap().is_some());
    }
    tracker.interrupt();
    tracker.begin(lsn(10)).unwrap();
    for _ in 0..2 {
        assert_eq!(tracker.change(), Ok(None));
    }
    tracker.interrupt();
    tracker.begin(lsn(10)).unwrap();
    for _ in 0..5 {
        assert_eq!(tracker.change(), Ok(None));
    }
    assert_eq!(tracker.change(), Ok(Some(5)));
    tracker.commit(lsn(10), lsn(20)).unwrap();
    tracker.begin(lsn(20)).unwrap();
    assert_eq!(tracker.change(), Ok(Some(0)));
}
