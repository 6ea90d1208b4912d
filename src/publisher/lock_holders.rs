//! What the holders of the locks mean for an instance that does not hold them. Pure.
//!
//! Another instance of the same slot and table is what a standby waits for. An instance with
//! another table, or with another slot on this table, never passes for one: waiting for it would
//! last for ever, and taking over its slot would skip its events. Neither does a session that is
//! not outboxd, whatever it calls itself: the role of an instance may stream or read the table.
//!
//! Earlier versions hold the slot's lock alone. They are known by their name or by the slot that
//! they read.

use crate::config::Config;
use crate::error::{Code, Error};
use crate::postgres::advisory_lock::{Holder, end_sql};
use crate::postgres::walsender::APPLICATION_NAME;

/// See the module's head.
#[derive(Debug)]
pub(crate) enum LockState {
    /// Nothing holds them.
    Free,
    /// An instance of the same slot and table publishes.
    Sibling(i32),
    /// A session that is not outboxd holds one of them.
    Foreign(ForeignHolder),
    /// An outboxd that must not run beside this one.
    Refused(Error),
}

/// A session that is not outboxd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignHolder {
    pub(crate) detail: String,
    pub(crate) hint: String,
}

/// Judges the holders of the locks of the configured slot and table.
pub(crate) fn judge(holders: &[Holder], config: &Config) -> LockState {
    if let Some(error) = holders.iter().find_map(|holder| refused(holder, config)) {
        return LockState::Refused(error);
    }
    let foreign = holders.iter().find(|holder| !is_sibling(holder, config));
    if let Some(holder) = foreign {
        return LockState::Foreign(describe(holder));
    }
    match holders.iter().find_map(|holder| holder.pid) {
        Some(pid) => LockState::Sibling(pid),
        None => LockState::Free,
    }
}

fn is_outboxd(holder: &Holder) -> bool {
    holder.application.starts_with(APPLICATION_NAME)
}

fn is_sibling(holder: &Holder, config: &Config) -> bool {
    if holder.pid.is_none() || !holder.has_slot || !holder.may_publish {
        return false;
    }
    // A dropped table was the same until it was recreated.
    let shares_table = |known: bool, name: &Option<String>| known || name.is_none();
    match &holder.table {
        Some(table) => shares_table(table.is_ours, &table.name),
        None => is_outboxd(holder) || holder.slots.contains(&config.slot),
    }
}

fn refused(holder: &Holder, config: &Config) -> Option<Error> {
    let pid = holder.pid?;
    let table = holder.table.as_ref()?;
    let (slot, ours) = (&config.slot, &config.table);
    if holder.has_slot {
        let other = table.name.as_ref().filter(|_| !table.is_ours)?;
        let message = format!(
            "the lock of slot {slot} is held for table {other} (server process {pid}), and not for \
             {ours}"
        );
        let hint = "give each table its own OUTBOX_SLOT and OUTBOX_PUBLICATION, or stop the other \
                    outboxd";
        return Some(Error::fatal(Code::Config, message).with_hint(hint));
    }
    if !is_outboxd(holder) {
        return None;
    }
    let through = match holder.slots.as_slice() {
        [] => "without this slot's lock".to_owned(),
        slots => format!("through slot {}", slots.join(", ")),
    };
    let message = format!(
        "another outboxd (server process {pid}) publishes table {ours} {through}, and each event \
         would be sent twice"
    );
    let hint = format!("stop it, or give both the same OUTBOX_SLOT: here it is {slot}");
    Some(Error::fatal(Code::Config, message).with_hint(hint))
}

fn describe(holder: &Holder) -> ForeignHolder {
    let Some(pid) = holder.pid else {
        return ForeignHolder {
            detail: "held by a prepared transaction, which is not outboxd".to_owned(),
            hint: "find it in pg_prepared_xacts, then COMMIT PREPARED or ROLLBACK PREPARED"
                .to_owned(),
        };
    };
    let (role, application) = (&holder.role, &holder.application);
    ForeignHolder {
        detail: format!(
            "held by server process {pid} of role {role} (application `{}`), which is not outboxd",
            application.escape_debug()
        ),
        hint: end_sql(pid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::postgres::advisory_lock::LockedTable;

    fn config() -> Config {
        Config::from_settings(Settings {
            database_url: Some("postgres://outboxd@db/orders".to_owned()),
            kafka_brokers: Some("kafka:9092".to_owned()),
            ..Settings::default()
        })
        .expect("the settings are valid")
    }

    fn holder(application: &str, has_slot: bool, table: Option<(Option<&str>, bool)>) -> Holder {
        Holder {
            pid: Some(7),
            application: application.to_owned(),
            role: "somebody".to_owned(),
            has_slot,
            table: table.map(|(name, is_ours)| LockedTable {
                name: name.map(str::to_owned),
                is_ours,
            }),
            slots: Vec::new(),
            may_publish: true,
        }
    }

    fn judged(holder: Holder) -> String {
        match judge(&[holder], &config()) {
            LockState::Free => "free".to_owned(),
            LockState::Sibling(pid) => format!("sibling {pid}"),
            LockState::Foreign(found) => format!("foreign: {}", found.detail),
            LockState::Refused(error) => format!("refused: {}", error.message()),
        }
    }

    #[test]
    fn only_an_instance_of_this_slot_and_this_table_is_waited_for_as_a_sibling() {
        assert!(matches!(judge(&[], &config()), LockState::Free));
        let ours = Some((Some("outbox.outbox"), true));
        assert_eq!(judged(holder("outboxd", true, ours)), "sibling 7");
        assert_eq!(
            judged(holder("outboxd", true, Some((None, false)))),
            "sibling 7"
        );
        // An earlier version holds the slot's lock alone.
        assert_eq!(judged(holder("outboxd", true, None)), "sibling 7");
        let mut renamed = holder("", true, None);
        renamed.slots.push("outboxd_orders".to_owned());
        assert_eq!(judged(renamed), "sibling 7");
    }

    #[test]
    fn another_table_and_another_slot_on_this_table_are_refused_by_name() {
        let other = judged(holder(
            "outboxd",
            true,
            Some((Some("billing.outbox"), false)),
        ));
        assert!(other.starts_with("refused: "), "{other}");
        assert!(
            other.contains("billing.outbox") && other.contains("outboxd_orders"),
            "{other}"
        );
        let mut twice = holder("outboxd", false, Some((Some("outbox.outbox"), true)));
        twice.slots.push("other".to_owned());
        let twice = judged(twice);
        assert!(
            twice.starts_with("refused: ") && twice.contains("slot other"),
            "{twice}"
        );
    }

    #[test]
    fn a_session_that_is_not_outboxd_is_named_and_never_a_sibling() {
        let by_hand = judged(holder("psql", true, None));
        assert!(
            by_hand.contains("process 7") && by_hand.contains("somebody"),
            "{by_hand}"
        );
        let squatter = Holder {
            may_publish: false,
            ..holder("outboxd", true, Some((Some("outbox.outbox"), true)))
        };
        let squatter = judged(squatter);
        assert!(squatter.starts_with("foreign: "), "{squatter}");
        let table = judged(holder("psql", false, Some((Some("outbox.outbox"), true))));
        assert!(table.starts_with("foreign: "), "{table}");
        let prepared = Holder {
            pid: None,
            ..holder("", true, None)
        };
        assert!(judged(prepared).contains("prepared transaction"));
        // Beside a sibling it is named too: a shared lock keeps the next instance out.
        let both = [
            holder("outboxd", true, Some((Some("t"), true))),
            holder("psql", true, None),
        ];
        assert!(matches!(judge(&both, &config()), LockState::Foreign(_)));
    }
}
