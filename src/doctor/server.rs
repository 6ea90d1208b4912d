//! Judges the server as a whole: its settings, limits, transactions and clock, and outboxd's role.
//! Pure.

use std::collections::HashMap;

use postgres_protocol::escape::{escape_identifier, escape_literal};

use crate::doctor::catalogue::Name;
use crate::doctor::report::Check;
use crate::format::age;
use crate::postgres::ServerProblem;
use crate::postgres::facts::{Activity, Limits, RoleLimits, ServerNow};
use crate::postgres::preflight;
use crate::postgres::server_settings::ServerSettings;
use crate::postgres::slot::Slot;

/// The sessions that outboxd has at the most: the stream, the marks, the audit, the start-up checks
/// and one that stands by.
const SESSIONS: i64 = 5;

/// A password that expires sooner is worth a word.
const EXPIRES_SOON: f64 = 14.0 * 86_400.0;

/// A transaction that is open for longer is a long one.
pub(super) const LONG_SECONDS: f64 = 300.0;

/// A clock that differs by more makes times of events and of logs hard to compare.
const CLOCK_SECONDS: f64 = 5.0;

/// A check that fails for each problem, or is ok.
pub(super) fn of_problems(
    name: Name,
    ok: impl Into<String>,
    problems: impl IntoIterator<Item = ServerProblem>,
) -> Vec<Check> {
    let failed = |it: ServerProblem| Check::fails(name, it.problem, it.hint);
    let failed: Vec<Check> = problems.into_iter().map(failed).collect();
    match failed.is_empty() {
        true => vec![Check::ok(name, ok)],
        false => failed,
    }
}

/// The server's minor release.
pub(super) fn release(settings: &ServerSettings) -> Check {
    let (major, minor) = (settings.version / 10_000, settings.version % 10_000);
    match settings.release_problem() {
        Some(found) => Check::warning(Name::Release, found.problem, found.hint),
        None => Check::ok(Name::Release, format!("Postgres {major}.{minor}")),
    }
}

/// The role's limits on sessions and time.
pub(super) fn role_limits(role: &RoleLimits) -> Check {
    const NAME: Name = Name::RoleLimits;
    let quoted = escape_identifier(&role.name);
    if let Some(max) = role.connections_max.filter(|max| *max < SESSIONS) {
        return Check::fails(
            NAME,
            format!(
                "role {} may have {max} connections, and outboxd uses up to {SESSIONS}",
                role.name
            ),
            format!("ALTER ROLE {quoted} CONNECTION LIMIT {}", 2 * SESSIONS),
        );
    }
    let extend = || format!("ALTER ROLE {quoted} VALID UNTIL 'infinity'");
    match role.valid_seconds {
        Some(left) if left <= 0.0 => Check::warning(
            NAME,
            format!("the password of role {} has expired", role.name),
            extend(),
        ),
        Some(left) if left < EXPIRES_SOON => Check::warning(
            NAME,
            format!(
                "the password of role {} expires in {}",
                role.name,
                age(left)
            ),
            extend(),
        ),
        _ => Check::ok(
            NAME,
            format!("role {} has no limit that matters", role.name),
        ),
    }
}

/// Connections that are left for outboxd.
pub(super) fn connections(limits: &Limits) -> Check {
    let (used, max) = (limits.connections_used, limits.connections_max);
    let reason = format!("{used} of {max} connections are in use");
    match max - used < SESSIONS {
        true => Check::warning(
            Name::Connections,
            format!("{reason}, and outboxd uses up to {SESSIONS}"),
            "end idle sessions, or raise max_connections and restart the server",
        ),
        false => Check::ok(Name::Connections, reason),
    }
}

/// Slots that are left for a first start.
pub(super) fn slots(used: i64, max: i64, slot: Option<&Slot>) -> Vec<Check> {
    let ok = format!("{used} of {max} replication slots are in use");
    let problem = match slot {
        Some(_) => None,
        None => preflight::free_slots_problem(used, max),
    };
    of_problems(Name::Slots, ok, problem)
}

/// Walsenders that are left for the stream.
pub(super) fn senders(limits: &Limits, slot: Option<&Slot>) -> Check {
    let (used, max) = (limits.senders_used, limits.senders_max);
    let streams = slot.is_some_and(|slot| slot.active_pid.is_some());
    let reason = format!("{used} of {max} walsenders are in use");
    match !streams && used >= max {
        true => Check::fails(
            Name::Senders,
            reason,
            format!(
                "ALTER SYSTEM SET max_wal_senders = {} and restart the server",
                used + 2
            ),
        ),
        false => Check::ok(Name::Senders, reason),
    }
}

/// Transactions that are open for long: a new slot waits for those that have written something, and
/// VACUUM for all.
pub(super) fn transactions(activity: &Activity, role: &str) -> Check {
    const NAME: Name = Name::Transactions;
    let Some(oldest) = activity.open.first() else {
        return match activity.hidden {
            0 => Check::ok(
                NAME,
                format!("no transaction is open for more than {}", age(LONG_SECONDS)),
            ),
            count => Check::cannot_say(
                NAME,
                format!("role {role} does not see since when {count} transactions are open"),
                format!("GRANT pg_read_all_stats TO {}", escape_identifier(role)),
            ),
        };
    };
    let named = activity.open.iter().map(|it| {
        let wrote = if it.has_written { ", has written" } else { "" };
        let (pid, database, age) = (it.pid, &it.database, age(it.seconds));
        format!("pid {pid} of database {database} ({age}{wrote})")
    });
    let named = named.collect::<Vec<_>>().join(", ");
    Check::warning(
        NAME,
        format!("open for long, so that a new slot and VACUUM wait: {named}"),
        format!("end it, or SELECT pg_terminate_backend({})", oldest.pid),
    )
}

/// Prepared transactions: what is forgotten holds up new slots and VACUUM without end.
pub(super) fn prepared(activity: &Activity) -> Check {
    let Some(oldest) = activity.prepared.first() else {
        return Check::ok(Name::Prepared, "there is no prepared transaction");
    };
    let gid = escape_literal(&oldest.gid);
    let named = activity.prepared.iter().map(|it| {
        let (gid, database) = (escape_literal(&it.gid), &it.database);
        format!(
            "{} of database {database} ({})",
            gid.trim(),
            age(it.seconds)
        )
    });
    let named = named.collect::<Vec<_>>().join(", ");
    Check::warning(
        Name::Prepared,
        format!("a new slot and VACUUM wait for prepared transactions: {named}"),
        format!(
            "in database {}: COMMIT PREPARED {gid} or ROLLBACK PREPARED {gid}",
            oldest.database,
            gid = gid.trim()
        ),
    )
}

/// The clock of the server. Kafka's protocol does not show that of a broker.
pub(super) fn clock(now: ServerNow) -> Check {
    let milliseconds = (now.ahead * 1_000.0).round();
    let reason = format!(
        "the clock of Postgres is {} ms {} that of this machine; Kafka does not show its own",
        milliseconds.abs(),
        if now.ahead < 0.0 {
            "behind"
        } else {
            "ahead of"
        },
    );
    match now.ahead.abs() > CLOCK_SECONDS + now.tolerance {
        true => Check::warning(
            Name::Clock,
            reason,
            "synchronise both clocks by NTP, such as: timedatectl set-ntp true",
        ),
        false => Check::ok(Name::Clock, reason),
    }
}

/// An integer setting, if the server has it.
pub(super) fn integer(settings: &HashMap<String, String>, name: &str) -> Option<i64> {
    settings.get(name)?.parse().ok()
}

#[cfg(test)]
#[path = "tests/server.rs"]
mod tests;
