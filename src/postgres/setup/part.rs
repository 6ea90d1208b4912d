//! One thing of the plan: whether it is there, missing, unrelated, or beyond the rights of the
//! session's role; and what became of it.

use crate::config::TableName;

/// What became of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Such as `table outbox.outbox`.
    pub thing: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was there.
    Exists,
    /// It was made.
    Created,
    /// It is not there, and would be made.
    Missing,
    /// Something of that name is there that is not outboxd's, and stays; nothing needs it.
    Kept(String),
    /// A person has to do it.
    ToDo(Undone),
}

/// What is left to do, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undone {
    /// Why it was not done.
    pub why: String,
    /// The statements that do it.
    pub statement: String,
    /// Who may run them.
    pub by: String,
    /// The right with which outboxd could have done it, where one is missing.
    pub right: Option<String>,
    /// Whether the reason may pass by itself, such as a lock.
    pub may_pass: bool,
}

/// Groups of parts that others need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Schema,
    Table,
    Index,
    DeadLetters,
    State,
    Role,
    /// Needed by none.
    Other,
}

/// One thing of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) kind: Kind,
    pub(super) thing: String,
    pub(super) state: State,
    /// What must be there before it.
    pub(super) needs: &'static [Kind],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    There,
    Kept(String),
    Missing(Todo),
    /// It cannot be made by this role, or because of something that is there.
    Left {
        why: String,
        /// Whether a right is all that is missing.
        is_right: bool,
        todo: Todo,
    },
}

/// How a thing is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Todo {
    /// Each is run by itself.
    pub(super) acts: Vec<Act>,
    /// For a person, on one line.
    pub(super) statement: String,
    /// Who may run it.
    pub(super) by: String,
    /// The right that it needs.
    pub(super) right: String,
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Act {
    pub(super) sql: String,
    /// The table whose other transactions it waits for, holding up nothing itself.
    pub(super) concurrently_on: Option<TableName>,
    /// The index that it leaves invalid if it fails.
    pub(super) builds: Option<TableName>,
}

impl Act {
    pub(super) fn plain(sql: impl Into<String>) -> Act {
        Act {
            sql: sql.into(),
            concurrently_on: None,
            builds: None,
        }
    }

    /// The concurrent build of an index.
    pub(super) fn building(sql: String, on: &TableName, index: TableName) -> Act {
        Act {
            sql,
            concurrently_on: Some(on.clone()),
            builds: Some(index),
        }
    }

    /// The concurrent removal of an index.
    pub(super) fn dropping(index: &TableName, on: &TableName) -> Act {
        Act {
            sql: drop_index(index),
            concurrently_on: Some(on.clone()),
            builds: None,
        }
    }
}

/// The statement that removes an index beside running transactions.
pub(super) fn drop_index(index: &TableName) -> String {
    format!("DROP INDEX CONCURRENTLY IF EXISTS {}", index.quoted())
}

impl Todo {
    /// One statement, which a person would run as well.
    pub(super) fn statement(sql: String, by: String, right: String) -> Todo {
        Todo {
            statement: sql.clone(),
            acts: vec![Act::plain(sql)],
            by,
            right,
        }
    }

    pub(super) fn undone(self, why: String, is_right: bool, may_pass: bool) -> Undone {
        Undone {
            why,
            statement: self.statement,
            by: self.by,
            right: is_right.then_some(self.right),
            may_pass,
        }
    }
}

impl Part {
    fn new(kind: Kind, thing: String, state: State) -> Part {
        let needs: &[Kind] = match kind {
            Kind::Table | Kind::DeadLetters | Kind::State => &[Kind::Schema],
            Kind::Index => &[Kind::Table],
            Kind::Schema | Kind::Role | Kind::Other => &[],
        };
        Part {
            kind,
            thing,
            state,
            needs,
        }
    }

    pub(super) fn there(kind: Kind, thing: String) -> Part {
        Part::new(kind, thing, State::There)
    }

    pub(super) fn kept(kind: Kind, thing: String, why: String) -> Part {
        Part::new(kind, thing, State::Kept(why))
    }

    pub(super) fn left(kind: Kind, thing: String, why: String, todo: Todo) -> Part {
        let is_right = false;
        Part::new(
            kind,
            thing,
            State::Left {
                why,
                is_right,
                todo,
            },
        )
    }

    /// A thing that is missing; `lacks` says which right the role lacks to make it.
    pub(super) fn of(kind: Kind, thing: String, lacks: Option<String>, todo: Todo) -> Part {
        let state = match lacks {
            None => State::Missing(todo),
            Some(why) => State::Left {
                why,
                is_right: true,
                todo,
            },
        };
        Part::new(kind, thing, state)
    }

    pub(super) fn after(self, needs: &'static [Kind]) -> Part {
        Part { needs, ..self }
    }

    /// What is to be said of a part that nothing has been tried for.
    pub(super) fn line(self) -> Line {
        let outcome = match self.state {
            State::There => Outcome::Exists,
            State::Kept(why) => Outcome::Kept(why),
            State::Missing(_) => Outcome::Missing,
            State::Left {
                why,
                is_right,
                todo,
            } => Outcome::ToDo(todo.undone(why, is_right, false)),
        };
        Line {
            thing: self.thing,
            outcome,
        }
    }
}
