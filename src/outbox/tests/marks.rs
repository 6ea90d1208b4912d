//! What a mark did, against a model of the table.

use std::cell::RefCell;
use std::convert::Infallible;

use super::*;
use crate::outbox::CreatedAt;

#[derive(Debug, Clone, Copy, Default)]
struct Row {
    created: Option<CreatedAt>,
    xid: u32,
    visible: bool,
    locked: bool,
    published: bool,
    /// A trigger suppresses the mark.
    swallows: bool,
    /// A trigger undoes the mark.
    undoes: bool,
    marks: u32,
}

type Event = (usize, fn(&mut Row));

/// A model of the table. Before the statement of this number, `event` happens.
struct Table {
    rows: RefCell<HashMap<i64, Row>>,
    statements: RefCell<Vec<&'static str>>,
    event: Option<Event>,
    has_trigger: bool,
}

impl Table {
    fn new(rows: &[(i64, Row)]) -> Self {
        Table {
            rows: RefCell::new(rows.iter().copied().collect()),
            statements: RefCell::default(),
            event: None,
            has_trigger: true,
        }
    }

    fn begin(&self, statement: &'static str) {
        let mut statements = self.statements.borrow_mut();
        if let Some((number, event)) = self.event
            && number == statements.len()
        {
            self.rows.borrow_mut().values_mut().for_each(event);
        }
        statements.push(statement);
    }

    fn mark_row(row: &mut Row) -> bool {
        if row.swallows || row.published {
            return false;
        }
        row.published = !row.undoes;
        row.marks += 1;
        true
    }

    /// The visible row of this name.
    fn named<'r>(rows: &'r HashMap<i64, Row>, name: &RowName) -> Option<&'r Row> {
        let row = rows.get(&number(&name.id)).filter(|row| row.visible)?;
        let is_known = name.created != CreatedAt::UNKNOWN;
        (!is_known || row.created == Some(name.created)).then_some(row)
    }

    async fn outcome(&self, id: i64) -> Outcome {
        self.outcome_of(RowName::of_id(id)).await
    }

    async fn outcome_of(&self, row: RowName) -> Outcome {
        self.settled(row).await.outcome
    }

    /// The mark of a row that no outboxd has tried to mark.
    async fn settled(&self, row: RowName) -> Mark {
        let xid = self
            .rows
            .borrow()
            .get(&number(&row.id))
            .map_or(7, |row| row.xid);
        let mut marks = [Mark {
            ticket: 1,
            row,
            xid,
            marker: Marker::Untried,
            outcome: Outcome::Open,
        }];
        let Ok(()) = settle(self, &mut marks).await;
        let [mark] = marks;
        mark
    }
}

fn number(id: &RowId) -> i64 {
    id.number().unwrap_or(0)
}

impl MarkedTable for Table {
    type Error = Infallible;

    async fn mark(&self, names: &[RowName]) -> Result<Option<Changed>, Infallible> {
        self.begin("mark");
        let mut rows = self.rows.borrow_mut();
        let mut found = names
            .iter()
            .filter_map(|name| Some((name, Table::named(&rows, name)?)));
        if found.any(|(_, row)| row.locked) {
            return Ok(None);
        }
        let mut ids = HashSet::new();
        for name in names {
            if Table::named(&rows, name).is_some()
                && let Some(row) = rows.get_mut(&number(&name.id))
                && Table::mark_row(row)
            {
                ids.insert(name.id.clone());
            }
        }
        Ok(Some(Changed {
            ids,
            may_be_undone: self.has_trigger,
        }))
    }

    async fn mark_free(&self, names: &[RowName]) -> Result<HashSet<RowId>, Infallible> {
        self.begin("mark free");
        let mut free = HashSet::new();
        let mut rows = self.rows.borrow_mut();
        for name in names {
            if Table::named(&rows, name).is_some_and(|row| !row.locked && !row.published)
                && let Some(row) = rows.get_mut(&number(&name.id))
            {
                free.insert(name.id.clone());
                Table::mark_row(row);
            }
        }
        Ok(free)
    }

    async fn look(&self, names: &[RowName]) -> Result<HashMap<RowId, bool>, Infallible> {
        self.begin("look");
        let rows = self.rows.borrow();
        let seen = names.iter();
        let seen = seen.filter_map(|name| Some((name.id.clone(), Table::named(&rows, name)?)));
        Ok(seen.map(|(id, row)| (id, !row.published)).collect())
    }

    async fn try_mark(
        &self,
        names: &[RowName],
    ) -> Result<(HashSet<RowId>, HashMap<RowId, bool>), Infallible> {
        self.begin("try");
        let before = self.rows.borrow().clone();
        let found = (self.mark_free(names).await?, self.look(names).await?);
        *self.rows.borrow_mut() = before;
        Ok(found)
    }

    async fn running(&self, xids: &[u32]) -> Result<HashSet<u32>, Infallible> {
        self.begin("running");
        let rows = self.rows.borrow();
        let running = rows.values().filter(|row| !row.visible).map(|row| row.xid);
        Ok(running.filter(|xid| xids.contains(xid)).collect())
    }
}

const THERE: Row = Row {
    created: None,
    xid: 7,
    visible: true,
    locked: false,
    published: false,
    swallows: false,
    undoes: false,
    marks: 0,
};

#[tokio::test]
async fn a_row_is_settled_when_it_is_seen_published_or_gone() {
    let table = Table::new(&[(1, THERE)]);
    assert_eq!(table.outcome(1).await, Outcome::Settled);
    assert_eq!(*table.statements.borrow(), ["mark", "look"]);
    let published = Row {
        published: true,
        ..THERE
    };
    let table = Table::new(&[(1, published)]);
    assert_eq!(table.outcome(1).await, Outcome::Settled);
    assert_eq!(table.rows.borrow()[&1].marks, 0, "not marked again");
    assert_eq!(Table::new(&[]).outcome(1).await, Outcome::Settled);
}

#[tokio::test]
async fn a_table_without_a_trigger_is_looked_at_only_for_rows_that_were_not_changed() {
    let mut table = Table::new(&[(1, THERE)]);
    table.has_trigger = false;
    assert_eq!(table.outcome(1).await, Outcome::Settled);
    assert_eq!(*table.statements.borrow(), ["mark"]);
    assert_eq!(table.outcome(1).await, Outcome::Settled);
    let rest = ["mark", "running", "mark free", "look"];
    assert_eq!(table.statements.borrow()[1..], rest);
}

/// The ids of a truncated table begin again while marks wait.
#[tokio::test]
async fn a_new_row_with_the_id_of_one_that_is_gone_is_not_marked() {
    let created = CreatedAt::of_text("2026-01-31 12:00:00");
    let old = RowName {
        id: RowId::Number(1),
        created,
    };
    let new = Row {
        created: Some(CreatedAt::of_text("2026-01-31 12:00:01")),
        ..THERE
    };
    for locked in [false, true] {
        let table = Table::new(&[(1, Row { locked, ..new })]);
        assert_eq!(table.outcome_of(old.clone()).await, Outcome::Settled);
        assert_eq!(table.rows.borrow()[&1].marks, 0);
    }
    let same = Row {
        created: Some(created),
        ..THERE
    };
    let table = Table::new(&[(1, same)]);
    assert_eq!(table.outcome_of(old.clone()).await, Outcome::Settled);
    assert_eq!(table.rows.borrow()[&1].marks, 1);
}

#[test]
fn each_call_names_an_id_once_and_no_mark_is_dropped() {
    let mark = |(ticket, id)| Mark {
        ticket,
        row: RowName::of_id(id),
        xid: 7,
        marker: Marker::Outboxd,
        outcome: Outcome::Open,
    };
    let ids = [5, 3, 5, 1, 3, 5, 9];
    let mut marks: Vec<Mark> = (0..).zip(ids).map(mark).collect();
    let mut rest = &mut marks[..];
    for expected in [vec![1, 3, 5, 9], vec![3, 5], vec![5]] {
        let count = once_each(rest);
        let (part, behind) = rest.split_at_mut(count);
        assert_eq!(
            part.iter().map(|it| number(&it.row.id)).collect::<Vec<_>>(),
            expected
        );
        rest = behind;
    }
    assert!(rest.is_empty());
    let mut tickets: Vec<u64> = marks.iter().map(|mark| mark.ticket).collect();
    tickets.sort_unstable();
    assert_eq!(tickets, [0, 1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_row_that_is_not_visible_is_not_marked() {
    let hidden = Row {
        visible: false,
        ..THERE
    };
    let table = Table::new(&[(1, hidden)]);
    assert_eq!(table.outcome(1).await, Outcome::Hidden);
    assert_eq!(judge(None, false, true), Outcome::Hidden);
}

/// Whenever the row of a running transaction becomes visible, it is marked or stays open.
#[tokio::test]
async fn a_row_that_becomes_visible_between_two_statements_is_not_taken_for_a_deleted_one() {
    for number in 0..6 {
        let hidden = Row {
            visible: false,
            ..THERE
        };
        let mut table = Table::new(&[(1, hidden)]);
        table.event = Some((number, |row| row.visible = true));
        let outcome = table.outcome(1).await;
        let published = table.rows.borrow()[&1].published;
        assert_eq!(
            outcome == Outcome::Settled,
            published,
            "before {number}: {outcome:?}"
        );
        assert_ne!(outcome, Outcome::Refused, "before {number}");
    }
}

#[tokio::test]
async fn transactions_are_looked_up_before_the_mark_that_decides() {
    let hidden = Row {
        visible: false,
        ..THERE
    };
    let table = Table::new(&[(1, hidden)]);
    table.outcome(1).await;
    let statements = table.statements.borrow();
    assert_eq!(
        *statements,
        ["mark", "look", "running", "mark free", "look"]
    );
}

/// A person removes the mark so that the event is published again.
#[tokio::test]
async fn a_mark_that_another_session_removes_meanwhile_is_not_set_again() {
    let mut removed = Vec::new();
    for number in 0..4 {
        let mut table = Table::new(&[(1, THERE)]);
        table.event = Some((number, |row| row.published = false));
        assert_eq!(table.outcome(1).await, Outcome::Settled, "before {number}");
        let row = table.rows.borrow()[&1];
        assert_eq!(row.marks, 1, "before {number}");
        removed.push(!row.published);
    }
    assert_eq!(removed, [false, true, false, false]);
}

#[tokio::test]
async fn a_row_that_is_free_and_stays_unpublished_has_refused_its_mark() {
    let swallows = Row {
        swallows: true,
        ..THERE
    };
    let undoes = Row {
        undoes: true,
        ..THERE
    };
    for row in [swallows, undoes] {
        assert_eq!(Table::new(&[(1, row)]).outcome(1).await, Outcome::Refused);
        let locked = Row {
            locked: true,
            ..row
        };
        let table = Table::new(&[(1, locked), (2, THERE)]);
        assert_eq!(table.outcome(1).await, Outcome::Open);
        assert_eq!(table.outcome(2).await, Outcome::Settled);
    }
}

/// Before the statement of this number another program marks the row, and removes its lock.
async fn marked_before(statement: usize, row: Row) -> (Outcome, Marker) {
    let mut table = Table::new(&[(1, row)]);
    table.event = Some((statement, |row| (row.published, row.locked) = (true, false)));
    let mark = table.settled(RowName::of_id(1)).await;
    (mark.outcome, mark.marker)
}

#[tokio::test]
async fn a_row_that_another_program_has_marked_is_told_from_one_that_was_marked_here() {
    let other = (Outcome::Settled, Marker::Other);
    assert_eq!(marked_before(0, THERE).await, other);
    let locked = Row {
        locked: true,
        ..THERE
    };
    // Its mark is committed before the second statement of ours, and behind it.
    assert_eq!(marked_before(2, locked).await, other);
    assert_eq!(marked_before(3, locked).await, other);
    let ours = (Outcome::Settled, Marker::Outboxd);
    assert_eq!(
        marked_before(1, THERE).await,
        ours,
        "marked by the first statement"
    );
    assert_eq!(marked_before(9, THERE).await, ours);
}

#[tokio::test]
async fn a_row_that_is_gone_or_that_outboxd_may_have_marked_is_no_evidence() {
    let gone = Table::new(&[]).settled(RowName::of_id(1)).await;
    assert_eq!(
        (gone.outcome, gone.marker),
        (Outcome::Settled, Marker::Untried)
    );
    let published = Row {
        published: true,
        ..THERE
    };
    let table = Table::new(&[(1, published)]);
    let mut marks = [Marker::Outboxd, Marker::Trying].map(|marker| Mark {
        ticket: 1,
        row: RowName::of_id(1),
        xid: 7,
        marker,
        outcome: Outcome::Open,
    });
    for mark in &mut marks {
        let Ok(()) = settle(&table, std::slice::from_mut(mark)).await;
        assert_eq!(
            (mark.outcome, mark.marker),
            (Outcome::Settled, Marker::Outboxd)
        );
    }
}

/// The one that goes first may have been marked under the id of the other one.
#[tokio::test]
async fn rows_of_one_id_in_a_batch_are_no_evidence() {
    let table = Table::new(&[(1, THERE)]);
    let mut marks = [1, 2].map(|ticket| Mark {
        ticket,
        row: RowName::of_id(1),
        xid: 7,
        marker: Marker::Untried,
        outcome: Outcome::Open,
    });
    let Ok(()) = settle(&table, &mut marks).await;
    assert!(
        marks.iter().all(|mark| mark.marker == Marker::Outboxd),
        "{marks:?}"
    );
}
