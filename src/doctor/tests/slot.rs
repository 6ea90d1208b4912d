//! The slot's state and the WAL behind it.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::Settings;
use crate::doctor::report::Verdict;
use crate::lsn::Lsn;
use crate::postgres::advisory_lock::LockedTable;

fn config(on_slot_loss: &str) -> Config {
    Config::from_settings(Settings {
        database_url: Some("postgresql://nobody@localhost/none".to_owned()),
        kafka_brokers: Some("localhost:9092".to_owned()),
        on_slot_loss: Some(on_slot_loss.to_owned()),
        ..Settings::default()
    })
    .unwrap()
}

fn settings(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

const RATE: WalRate = WalRate {
    bytes: 1 << 20,
    seconds: 1.0,
};

#[test]
fn a_lost_slot_fails_unless_outboxd_heals_it() {
    let mut lost = Slot::at(Lsn::new(1));
    lost.wal_status = Some("lost".to_owned());
    lost.invalidation_reason = Some("idle_timeout".to_owned());
    let heals = slot(Some(&lost), &config("heal"));
    assert_eq!(heals.verdict, Verdict::Warning);
    assert!(heals.reason.contains("idle_timeout"));
    assert_eq!(slot(Some(&lost), &config("halt")).verdict, Verdict::Fails);
    assert_eq!(slot(None, &config("heal")).verdict, Verdict::Ok);
    let mut unread = Slot::at(Lsn::new(1));
    assert_eq!(
        slot(Some(&unread), &config("heal")).verdict,
        Verdict::Warning
    );
    unread.active_pid = Some(7);
    assert_eq!(slot(Some(&unread), &config("heal")).verdict, Verdict::Ok);
}

#[test]
fn the_time_until_a_slot_is_lost_follows_from_the_rate() {
    let limited = settings(&[("max_slot_wal_keep_size", "60")]);
    let soon = wal(None, &limited, RATE);
    assert_eq!(soon.verdict, Verdict::Warning);
    assert!(soon.reason.contains("lost in 1 min"), "{}", soon.reason);
    let idle = WalRate { bytes: 0, ..RATE };
    let never = wal(None, &limited, idle);
    assert_eq!(never.verdict, Verdict::Ok);
    assert!(never.reason.contains("never lost"), "{}", never.reason);
    let unlimited = settings(&[("max_slot_wal_keep_size", "-1")]);
    assert_eq!(wal(None, &unlimited, idle).verdict, Verdict::Warning);
    let mut near = Slot::at(Lsn::new(1));
    near.safe_wal_size = Some(1);
    near.retained_bytes = 1_000;
    assert_eq!(wal(Some(&near), &limited, idle).verdict, Verdict::Warning);
    near.wal_status = Some("unreserved".to_owned());
    assert_eq!(wal(Some(&near), &unlimited, idle).verdict, Verdict::Fails);
    let empty = WalRate {
        bytes: 5,
        seconds: 0.0,
    };
    assert_eq!(empty.per_second(), 0.0);
}

#[test]
fn a_server_that_invalidates_idle_slots_is_a_warning() {
    let of = |pairs| idle_timeout(&settings(pairs));
    assert_eq!(of(&[]).verdict, Verdict::Ok);
    assert_eq!(
        of(&[("idle_replication_slot_timeout", "0")]).verdict,
        Verdict::Ok
    );
    let hour = of(&[("idle_replication_slot_timeout", "3600")]);
    assert_eq!(hour.verdict, Verdict::Warning);
    assert!(hour.reason.contains("1 h"), "{}", hour.reason);
}

#[test]
fn the_stream_waits_for_standbys_that_are_named_and_absent() {
    let version = ("server_version_num", "170005");
    let named = settings(&[version, ("synchronized_standby_slots", "a, \"b\",c")]);
    let standbys = Standbys {
        slots: vec![("a".to_owned(), true), ("b".to_owned(), false)],
        connected: 1,
    };
    let checks = failover(None, &named, &standbys);
    assert_eq!(checks.len(), 2, "{checks:?}");
    assert!(checks[0].reason.contains("slot b") && checks[0].reason.contains("no standby"));
    assert!(checks[1].reason.contains("slot c") && checks[1].reason.contains("not exist"));
    let mut plain = Slot::at(Lsn::new(1));
    plain.failover = Some(false);
    let alone = failover(Some(&plain), &settings(&[version]), &Standbys::default());
    assert_eq!(alone[0].verdict, Verdict::Warning);
    let old = settings(&[("server_version_num", "150018")]);
    assert_eq!(
        failover(Some(&plain), &old, &standbys)[0].verdict,
        Verdict::Ok
    );
}

#[test]
fn only_outboxd_with_this_slot_and_table_may_hold_the_lock() {
    let holder = |application: &str, has_slot: bool, is_ours: bool| Holder {
        pid: Some(7),
        application: application.to_owned(),
        role: "r".to_owned(),
        has_slot,
        table: Some(LockedTable {
            name: Some("outbox.other".to_owned()),
            is_ours,
        }),
        slots: Vec::new(),
        may_publish: true,
    };
    let config = config("heal");
    assert_eq!(lock(&[], &config).verdict, Verdict::Ok);
    assert_eq!(
        lock(&[holder("outboxd", true, true)], &config).verdict,
        Verdict::Ok
    );
    for other in [
        holder("psql", true, true),
        holder("outboxd", true, false),
        holder("outboxd", false, true),
    ] {
        assert_eq!(lock(&[other], &config).verdict, Verdict::Fails);
    }
}
