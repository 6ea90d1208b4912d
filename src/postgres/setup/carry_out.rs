//! Carries the plan out: the steps one by one, each a transaction of its own, and then a second
//! look at what is there.
//!
//! What a step could not do is left to do, with its reason, and the others go on. A step ends the
//! whole only when the connection is lost.

use crate::config::TableName;
use crate::error::{Code, Error, Result};
use crate::postgres::lock_wait::{LockWait, is_lock};
use crate::postgres::server_settings::ServerSettings;
use crate::postgres::session::Session;
use crate::postgres::setup::found::Found;
use crate::postgres::setup::part::{
    Act, Kind, Line, Outcome, Part, State, Todo, Undone, drop_index,
};
use crate::postgres::setup::plan::plan;
use crate::postgres::setup::wanted::Setup;
use crate::postgres::sqlstate::ServerError;

/// Errors of a statement that met another one that makes the same thing: duplicate_object,
/// duplicate_table, duplicate_schema, duplicate_function, unique_violation, and internal_error for
/// a row of the catalog that both update.
const RACES: [&str; 6] = ["42710", "42P07", "42P06", "42723", "23505", "XX000"];

/// What is there, and what [`create`] would make. Changes nothing.
///
/// # Errors
/// Of the session, and fatal for a database that cannot be used.
pub async fn look(
    session: &Session,
    setup: &Setup<'_>,
    waits: &mut LockWait<'_>,
) -> Result<Vec<Line>> {
    refuse_encoding(session, setup).await?;
    let found = find(session, setup, waits).await?;
    Ok(plan(setup, &found).into_iter().map(Part::line).collect())
}

/// Makes what is missing, and says of each thing what became of it.
///
/// # Errors
/// As [`look`]; what a single step cannot do is in its line.
pub async fn create(
    session: &Session,
    setup: &Setup<'_>,
    waits: &mut LockWait<'_>,
) -> Result<Vec<Line>> {
    refuse_encoding(session, setup).await?;
    waits.take_turn().await?;
    let found = find(session, setup, waits).await?;
    let mut tried = Vec::new();
    let mut absent: Vec<Kind> = Vec::new();
    for part in plan(setup, &found) {
        let undone = match &part.state {
            State::Missing(todo) => match part.needs.iter().find(|kind| absent.contains(kind)) {
                Some(kind) => {
                    let why = format!("it needs {}", kind_in_words(*kind));
                    Some(todo.clone().undone(why, false, false))
                }
                None => make(session, waits, &part.thing, todo).await?,
            },
            State::There | State::Kept(_) | State::Left { .. } => None,
        };
        if undone.is_some() || matches!(part.state, State::Left { .. }) {
            absent.push(part.kind);
        }
        tried.push((part, undone));
    }
    let found = find(session, setup, waits).await?;
    let now = plan(setup, &found);
    let lines = tried.into_iter();
    Ok(lines
        .map(|(part, undone)| conclude(part, undone, &now))
        .collect())
}

fn kind_in_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Schema => "the schema",
        Kind::Table => "the table",
        Kind::DeadLetters => "the table of dead letters",
        Kind::State => "the table of outboxd's state",
        Kind::Role => "the role",
        Kind::Index | Kind::Other => "what is left above",
    }
}

/// Before anything is created, since nothing in such a database can be published.
async fn refuse_encoding(session: &Session, setup: &Setup<'_>) -> Result<()> {
    let settings = ServerSettings::read(session, &setup.config.database).await?;
    let problem = settings.encoding_problem();
    problem.map_or(Ok(()), |it| {
        Err(Error::fatal(Code::Config, it.problem).with_hint(it.hint))
    })
}

async fn find(session: &Session, setup: &Setup<'_>, waits: &mut LockWait<'_>) -> Result<Found> {
    let what = format!("reading what is there of {}", setup.config.table);
    let read = async || Found::read(session, setup).await;
    waits.run(&what, read).await
}

/// What became of a part that was tried, by a look at what is there after it.
fn conclude(part: Part, undone: Option<Undone>, now: &[Part]) -> Line {
    let after = now.iter().find(|it| it.thing == part.thing);
    let is_there = after.is_none_or(|it| it.state == State::There);
    let outcome = match part.state {
        State::There => Outcome::Exists,
        State::Kept(why) => Outcome::Kept(why),
        // Such as a publication of all tables, which has the new one.
        State::Left { .. } if after.is_some() && is_there => Outcome::Exists,
        State::Left {
            why,
            is_right,
            todo,
        } => Outcome::ToDo(todo.undone(why, is_right, false)),
        State::Missing(todo) => match undone {
            Some(_) if after.is_some() && is_there => Outcome::Exists,
            Some(undone) => Outcome::ToDo(match after.map(|it| &it.state) {
                // What was begun may have left something that goes first.
                Some(State::Missing(todo)) => Undone {
                    statement: todo.statement.clone(),
                    ..undone
                },
                _ => undone,
            }),
            None if is_there => Outcome::Created,
            None => {
                let why = "the server accepted it and it is not there".to_owned();
                Outcome::ToDo(todo.undone(why, true, false))
            }
        },
    };
    Line {
        thing: part.thing,
        outcome,
    }
}

/// Runs the statements of one part; what is left to do if one cannot be run.
async fn make(
    session: &Session,
    waits: &mut LockWait<'_>,
    thing: &str,
    todo: &Todo,
) -> Result<Option<Undone>> {
    let what = format!("creating {thing}");
    for act in &todo.acts {
        let done = match (&act.builds, &act.concurrently_on) {
            (Some(index), Some(table)) => build(session, waits, &what, act, index, table).await,
            (_, Some(table)) => match waits.until_quiet(&what, table).await {
                Ok(()) => run(session, waits, &what, act).await,
                Err(error) => Err(error),
            },
            (_, None) => run(session, waits, &what, act).await,
        };
        let Err(error) = done else { continue };
        if error.code() == Code::Connect && ServerError::of(&error).is_none() {
            return Err(error);
        }
        let is_right = ServerError::of(&error).is_some_and(ServerError::is_of_privileges);
        let undone = todo.clone();
        return Ok(Some(undone.undone(
            error.reason(),
            is_right,
            error.is_transient(),
        )));
    }
    Ok(None)
}

/// Runs one statement, once more if another session has made the same thing meanwhile.
async fn run(session: &Session, waits: &mut LockWait<'_>, what: &str, act: &Act) -> Result<()> {
    let once = async || session.run(what, &act.sql).await;
    let is_race =
        |error: &Error| ServerError::of(error).is_some_and(|it| RACES.contains(&it.code.as_str()));
    match waits.run(what, once).await {
        Err(error) if is_race(&error) => waits.run(what, once).await,
        result => result,
    }
}

/// Builds an index beside running transactions. An attempt that fails leaves it invalid, and it is
/// removed before the next.
async fn build(
    session: &Session,
    waits: &mut LockWait<'_>,
    what: &str,
    act: &Act,
    index: &TableName,
    table: &TableName,
) -> Result<()> {
    let remove = drop_index(index);
    let remove = async || session.run(what, &remove).await;
    let create = async || session.run(what, &act.sql).await;
    let mut is_begun = false;
    loop {
        waits.until_quiet(what, table).await?;
        if is_begun {
            match waits.attempt(&remove).await {
                (Err(error), named) if is_lock(&error) => {
                    waits.again(what, &named).await?;
                    continue;
                }
                (result, _) => result?,
            }
        }
        is_begun = true;
        match waits.attempt(&create).await {
            (Ok(()), _) => return Ok(()),
            (Err(error), named) if is_lock(&error) => waits.again(what, &named).await?,
            (Err(error), _) => {
                // What cannot be removed now is found as invalid, and named, by the next look.
                let _best_effort = waits.attempt(&remove).await;
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(thing: &str, statement: &str) -> Part {
        let todo = Todo::statement(statement.to_owned(), "a".to_owned(), "b".to_owned());
        Part::of(Kind::Other, thing.to_owned(), None, todo)
    }

    #[test]
    fn what_became_of_a_step_is_what_a_second_look_finds() {
        let there = [Part::there(Kind::Other, "role a".to_owned())];
        let gone: [Part; 0] = [];
        let still = [missing("role a", "DROP; CREATE")];
        let failed = Undone {
            why: "a lock".to_owned(),
            statement: "CREATE".to_owned(),
            by: "a".to_owned(),
            right: None,
            may_pass: true,
        };
        let part = || missing("role a", "CREATE");
        assert_eq!(conclude(part(), None, &there).outcome, Outcome::Created);
        assert_eq!(conclude(part(), None, &gone).outcome, Outcome::Created);
        let silent = conclude(part(), None, &still).outcome;
        assert!(matches!(silent, Outcome::ToDo(undone) if undone.right.is_some()));
        // Another session has made it meanwhile.
        let other = conclude(part(), Some(failed.clone()), &there).outcome;
        assert_eq!(other, Outcome::Exists);
        let left = conclude(part(), Some(failed), &still).outcome;
        assert!(
            matches!(&left, Outcome::ToDo(undone) if undone.statement == "DROP; CREATE"),
            "{left:?}"
        );
    }
}
