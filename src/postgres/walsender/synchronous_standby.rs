//! Whether the server counts outboxd as a synchronous standby, or could.
//!
//! Commits of the whole server would then wait for outboxd, which has none of their data: the write
//! of its own marks would wait for itself, and a commit would count as replicated although no
//! standby has it. The server takes any walsender whose `application_name` fits
//! `synchronous_standby_names`, so outboxd reads that setting itself: only some roles see
//! `sync_priority`.
//! See <https://www.postgresql.org/docs/current/runtime-config-replication.html>.

use crate::error::{Code, Error, Result};
use crate::postgres::problem::ServerProblem;
use crate::postgres::session::{Columns, Session};
use crate::postgres::walsender::APPLICATION_NAME;

/// The problem's name.
const NAME: &str = "synchronous-standby";

/// The setting; whether this walsender has a priority already; the other walsenders as the setting
/// may name them, where the role sees them.
const READ: &str = "
    SELECT pg_catalog.current_setting('synchronous_standby_names'),
           coalesce(pg_catalog.bool_or(r.sync_priority > 0)
                        FILTER (WHERE r.pid = $1), false),
           pg_catalog.string_agg(DISTINCT pg_catalog.quote_ident(r.application_name), ', ')
               FILTER (WHERE pg_catalog.lower(r.application_name) <> $2)
      FROM pg_catalog.pg_stat_replication AS r";

/// Why outboxd must not stream, if the server would count it as a synchronous standby. `walsender`
/// is the process that serves the stream, if there is one.
pub(crate) async fn problem(
    session: &Session,
    walsender: Option<i32>,
) -> Result<Option<ServerProblem>> {
    let what = "reading synchronous_standby_names";
    let row = session
        .row(what, READ, &[&walsender, &APPLICATION_NAME])
        .await?;
    let (names, counted): (String, bool) = (row.column(0)?, row.column(1)?);
    if !counted && !fits(&names, APPLICATION_NAME) {
        return Ok(None);
    }
    let others: Option<String> = row.column(2)?;
    let others = others.unwrap_or_else(|| "standby_1, standby_2".to_owned());
    let problem = format!(
        "synchronous_standby_names = '{names}' makes {APPLICATION_NAME} a synchronous standby, \
         for which commits would wait"
    );
    let hint = format!(
        "name the standbys and not {APPLICATION_NAME}, such as: \
         ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 ({others})'; \
         SELECT pg_reload_conf()"
    );
    Ok(Some(ServerProblem::config(problem, hint).named(NAME)))
}

/// Whether there is this problem and no other.
pub(crate) fn is_the_only(problems: &[ServerProblem]) -> bool {
    !problems.is_empty() && problems.iter().all(|problem| problem.name == NAME)
}

/// Checks that outboxd may stream.
///
/// # Errors
/// Transient: [`problem`] found one, which passes as soon as the setting is changed.
pub(crate) async fn check(session: &Session, walsender: i32) -> Result<()> {
    match problem(session, Some(walsender)).await? {
        Some(found) => Err(Error::transient(Code::Slot, found.problem).with_hint(found.hint)),
        None => Ok(()),
    }
}

/// Whether this value of the setting names a standby: `*` names every one, and case does not count.
/// The keywords and numbers of the value are no names that a walsender of outboxd has.
fn fits(setting: &str, name: &str) -> bool {
    let mut rest = setting.chars().peekable();
    while let Some(first) = rest.next() {
        let mut found = String::new();
        match first {
            '"' => {
                while let Some(c) = rest.next() {
                    if c == '"' && rest.next_if_eq(&'"').is_none() {
                        break;
                    }
                    found.push(c);
                }
            }
            '*' => found.push('*'),
            c if is_of_a_name(c) => {
                found.push(c);
                while let Some(c) = rest.next_if(|c| is_of_a_name(*c)) {
                    found.push(c);
                }
            }
            _ => {}
        }
        if found == "*" || found.eq_ignore_ascii_case(name) {
            return true;
        }
    }
    false
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_that_names_outboxd_or_any_standby_fits() {
        for setting in [
            "*",
            "\"*\"",
            "outboxd",
            " OutboxD ",
            "\"OUTBOXD\"",
            "a, outboxd",
            "2 (a, b, *)",
            "FIRST 1 (outboxd)",
            "first 2 (a,outboxd,b)",
            "ANY 1 (a, \"outboxd\")",
            "any 3(a,b,\"*\")",
        ] {
            assert!(fits(setting, "outboxd"), "{setting}");
        }
        assert!(fits("\"a\"\"b\"", "a\"b"));
    }

    #[test]
    fn other_names_do_not_fit_however_similar() {
        for setting in [
            "",
            "standby",
            "outboxd_2",
            "my_outboxd",
            "\"outboxd \"",
            "\"an outboxd\"",
            "FIRST 1 (a, b)",
            "ANY 2 (any, first, outboxd2)",
            "\"a\"\"outboxd\"",
            "\"a, outboxd\"",
        ] {
            assert!(!fits(setting, "outboxd"), "{setting}");
        }
    }
}
