//! Judges the replication slot: its state, the WAL behind it, what standbys keep of it, and who
//! holds outboxd's lock. Pure.

use std::collections::HashMap;

use crate::config::{Config, OnSlotLoss, Source};
use crate::doctor::catalogue::Name;
use crate::doctor::report::Check;
use crate::doctor::server::integer;
use crate::format::{age, bytes};
use crate::postgres::advisory_lock::Holder;
use crate::postgres::facts::{Standbys, WalRate};
use crate::postgres::slot::Slot;
use crate::postgres::walsender::APPLICATION_NAME;

/// The settings that these checks read.
pub(super) const SETTINGS: [&str; 4] = [
    "max_slot_wal_keep_size",
    "idle_replication_slot_timeout",
    "synchronized_standby_slots",
    "server_version_num",
];

/// The first version whose standbys keep logical slots.
const FAILOVER_SLOTS: i64 = 170_000;

/// A slot that is lost sooner at the present rate is worth a word.
const LOST_SOON: f64 = 6.0 * 3_600.0;

/// The slot itself.
pub(super) fn slot(slot: Option<&Slot>, config: &Config) -> Check {
    const NAME: Name = Name::Slot;
    let name = &config.slot;
    let Some(slot) = slot else {
        let reason = format!("{name} does not exist yet: `outboxd run` creates it");
        return Check::ok(NAME, reason);
    };
    if slot.is_lost() {
        let why = slot.invalidation_reason.as_deref();
        let why = why.unwrap_or("its WAL was removed");
        let reason = format!("{name} is lost: {why}");
        return match config.on_slot_loss {
            OnSlotLoss::Heal => Check::warning(
                NAME,
                reason,
                "start `outboxd run`: it creates the slot again and publishes what was missed from \
                 the table",
            ),
            _ => Check::fails(
                NAME,
                reason,
                "set OUTBOX_ON_SLOT_LOSS=heal, or run `outboxd drop --yes` and start again",
            ),
        };
    }
    match slot.active_pid {
        Some(pid) => Check::ok(
            NAME,
            format!(
                "process {pid} reads {name}, which is {} behind",
                bytes(slot.lag_bytes)
            ),
        ),
        None => Check::warning(
            NAME,
            format!(
                "no process reads {name}, and the server retains {} of WAL for it",
                bytes(slot.retained_bytes)
            ),
            "start `outboxd run`; if the slot is not needed any more, run `outboxd drop --yes`",
        ),
    }
}

/// How much WAL the slot may retain, and how long that lasts at the present rate.
pub(super) fn wal(slot: Option<&Slot>, settings: &HashMap<String, String>, rate: WalRate) -> Check {
    const NAME: Name = Name::Wal;
    let written = format!(
        "the server writes {}/s of WAL now",
        bytes(rate.per_second() as i64)
    );
    if slot.is_some_and(|slot| slot.wal_status.as_deref() == Some("unreserved")) {
        return Check::fails(
            NAME,
            format!("the next checkpoint may remove WAL that the slot needs; {written}"),
            "ALTER SYSTEM SET max_slot_wal_keep_size to a larger value; SELECT pg_reload_conf()",
        );
    }
    let limit = integer(settings, "max_slot_wal_keep_size").filter(|limit| *limit >= 0);
    let Some(limit) = limit else {
        return Check::warning(
            NAME,
            format!(
                "max_slot_wal_keep_size is -1: while outboxd is away, WAL fills the disk; {written}"
            ),
            "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf(); choose \
             what the disk can hold",
        );
    };
    let whole = limit.saturating_mul(1 << 20);
    let left = slot
        .and_then(|slot| slot.safe_wal_size)
        .unwrap_or(whole)
        .max(0);
    let seconds = left as f64 / rate.per_second();
    let time = match seconds.is_finite() {
        true => format!(
            "at this rate a slot that is not read is lost in {}",
            age(seconds)
        ),
        false => "at this rate a slot is never lost".to_owned(),
    };
    let reason = format!("{} of WAL are left; {written}, and {time}", bytes(left));
    let is_near = slot.is_some_and(Slot::is_near_loss);
    match is_near || seconds < LOST_SOON {
        true => Check::warning(
            NAME,
            reason,
            "ALTER SYSTEM SET max_slot_wal_keep_size to a larger value; SELECT pg_reload_conf()",
        ),
        false => Check::ok(NAME, reason),
    }
}

/// A server that invalidates slots which are not read for some time.
pub(super) fn idle_timeout(settings: &HashMap<String, String>) -> Check {
    match integer(settings, "idle_replication_slot_timeout") {
        None => Check::ok(
            Name::IdleSlot,
            "this version of Postgres has no such setting",
        ),
        Some(0) => Check::ok(Name::IdleSlot, "a slot that is not read is kept"),
        Some(seconds) => Check::warning(
            Name::IdleSlot,
            format!(
                "a slot that is not read for {} is lost at the next checkpoint",
                age(seconds as f64)
            ),
            "ALTER SYSTEM SET idle_replication_slot_timeout = 0, or to longer than outboxd may be \
             away; SELECT pg_reload_conf()",
        ),
    }
}

/// What becomes of the slot after a failover.
pub(super) fn failover(
    slot: Option<&Slot>,
    settings: &HashMap<String, String>,
    standbys: &Standbys,
) -> Vec<Check> {
    const NAME: Name = Name::Failover;
    let version = integer(settings, "server_version_num").unwrap_or_default();
    let has_standbys = standbys.connected > 0 || !standbys.slots.is_empty();
    if version < FAILOVER_SLOTS {
        let reason = match has_standbys {
            true => {
                "standbys of this version keep no logical slot: after a failover outboxd publishes \
                 what was missed from the table"
            }
            false => "there is no standby",
        };
        return vec![Check::ok(NAME, reason)];
    }
    let named = settings.get("synchronized_standby_slots");
    let named = named.map_or("", String::as_str).split(',').map(str::trim);
    let mut checks = Vec::new();
    for name in named.filter(|name| !name.is_empty()) {
        let name = name.trim_matches('"');
        let found = standbys.slots.iter().find(|(slot, _)| slot == name);
        let problem = match found {
            None => "does not exist",
            Some((_, false)) => "is read by no standby",
            Some((_, true)) => continue,
        };
        checks.push(Check::fails(
            NAME,
            format!(
                "the stream waits for slot {name} of synchronized_standby_slots, which {problem}"
            ),
            "start that standby, or take the slot out: ALTER SYSTEM SET synchronized_standby_slots \
             = ''; SELECT pg_reload_conf()",
        ));
    }
    if slot.is_some_and(|slot| slot.failover == Some(false)) {
        checks.push(Check::warning(
            NAME,
            "the slot has no failover flag, so standbys do not keep it",
            "restart outboxd: it sets the flag when it starts to stream",
        ));
    }
    if checks.is_empty() {
        let reason = match has_standbys {
            true => "standbys keep the slot, where sync_replication_slots is on",
            false => "there is no standby",
        };
        checks.push(Check::ok(NAME, reason));
    }
    checks
}

/// The sessions that hold the lock of this slot or table.
pub(super) fn lock(holders: &[Holder], config: &Config) -> Check {
    const NAME: Name = Name::Lock;
    let shown = |holder: &Holder| match holder.pid {
        Some(pid) => format!("process {pid} ({})", holder.application),
        None => "a prepared transaction".to_owned(),
    };
    let is_outboxd = |holder: &Holder| holder.application.starts_with(APPLICATION_NAME);
    if let Some(foreign) = holders.iter().find(|holder| !is_outboxd(holder)) {
        return Check::fails(
            NAME,
            format!("{} holds outboxd's lock and is not outboxd", shown(foreign)),
            foreign.pid.map_or_else(
                || "end it: see pg_prepared_xacts".to_owned(),
                |pid| format!("end it: SELECT pg_terminate_backend({pid})"),
            ),
        );
    }
    let is_other = |holder: &&Holder| {
        let table = holder.table.as_ref();
        !holder.has_slot || table.is_some_and(|table| !table.is_ours && table.name.is_some())
    };
    if let Some(other) = holders.iter().find(is_other) {
        let table = other.table.as_ref().and_then(|it| it.name.as_deref());
        return Check::fails(
            NAME,
            format!(
                "{} is an outboxd with another slot or table ({})",
                shown(other),
                table.unwrap_or("unknown")
            ),
            "give each table its own OUTBOX_SLOT and OUTBOX_PUBLICATION, or stop that outboxd",
        );
    }
    match holders.first() {
        Some(holder) => Check::ok(NAME, format!("{} publishes", shown(holder))),
        None if config.source == Source::Poll => {
            Check::ok(NAME, format!("no process polls {} now", config.table))
        }
        None => Check::ok(NAME, "no outboxd publishes now"),
    }
}

#[cfg(test)]
#[path = "tests/slot.rs"]
mod tests;
