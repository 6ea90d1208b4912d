//! The server's limits, transactions and clock.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::doctor::report::Verdict;
use crate::lsn::Lsn;
use crate::postgres::facts::{OpenTransaction, PreparedTransaction};

fn role(connections_max: Option<i64>, valid_seconds: Option<f64>) -> Check {
    role_limits(&RoleLimits {
        name: "it's".to_owned(),
        connections_max,
        valid_seconds,
    })
}

#[test]
fn a_role_needs_room_for_every_session_and_a_password_that_lasts() {
    let few = role(Some(4), None);
    assert_eq!(few.verdict, Verdict::Fails);
    let fix = few.fix.unwrap();
    assert_eq!(fix, "ALTER ROLE \"it's\" CONNECTION LIMIT 10");
    assert_eq!(role(Some(5), None).verdict, Verdict::Ok);
    assert_eq!(role(None, Some(-1.0)).verdict, Verdict::Warning);
    assert_eq!(role(None, Some(86_400.0)).verdict, Verdict::Warning);
    assert_eq!(role(None, Some(1e9)).verdict, Verdict::Ok);
}

#[test]
fn walsenders_and_slots_that_outboxd_has_already_are_not_lacking() {
    let limits = |used: i64| Limits {
        senders_used: used,
        senders_max: 2,
        connections_used: 10,
        connections_max: 14,
    };
    assert_eq!(senders(&limits(2), None).verdict, Verdict::Fails);
    assert_eq!(senders(&limits(1), None).verdict, Verdict::Ok);
    let mut slot = Slot::at(Lsn::new(1));
    assert_eq!(senders(&limits(2), Some(&slot)).verdict, Verdict::Fails);
    slot.active_pid = Some(7);
    assert_eq!(senders(&limits(2), Some(&slot)).verdict, Verdict::Ok);
    assert_eq!(connections(&limits(0)).verdict, Verdict::Warning);
    assert_eq!(slots(9, 10, None)[0].verdict, Verdict::Fails);
    assert_eq!(slots(10, 10, Some(&slot))[0].verdict, Verdict::Ok);
}

#[test]
fn a_release_that_fails_at_decoding_is_a_warning_with_the_one_to_update_to() {
    let of = |version| ServerSettings {
        in_recovery: false,
        version,
        encoding: "UTF8".to_owned(),
        wal_level: "logical".to_owned(),
        role: "outboxd".to_owned(),
        may_replicate: true,
        provider: None,
    };
    let found = release(&of(170_005));
    assert_eq!(found.verdict, Verdict::Warning);
    let fix = found.fix.unwrap();
    assert_eq!(fix, "update Postgres to 17.6 or a later minor release");
    let fine = release(&of(170_011));
    assert_eq!(
        (fine.verdict, fine.reason.as_str()),
        (Verdict::Ok, "Postgres 17.11")
    );
}

fn activity() -> Activity {
    Activity {
        open: Vec::new(),
        prepared: Vec::new(),
        hidden: 0,
    }
}

#[test]
fn long_and_prepared_transactions_are_named_and_hidden_ones_say_who_sees_them() {
    assert_eq!(transactions(&activity(), "u").verdict, Verdict::Ok);
    let hidden = Activity {
        hidden: 2,
        ..activity()
    };
    let unseen = transactions(&hidden, "u");
    assert_eq!(unseen.verdict, Verdict::CannotSay);
    assert_eq!(unseen.fix.unwrap(), "GRANT pg_read_all_stats TO \"u\"");
    let open = OpenTransaction {
        pid: 42,
        database: "shop".to_owned(),
        seconds: 7_300.0,
        has_written: true,
    };
    let long = Activity {
        open: vec![open],
        ..hidden
    };
    let named = transactions(&long, "u");
    assert_eq!(named.verdict, Verdict::Warning);
    assert!(
        named
            .reason
            .contains("pid 42 of database shop (2 h, has written)")
    );
    assert!(named.fix.unwrap().contains("pg_terminate_backend(42)"));
    let prepared_one = PreparedTransaction {
        gid: "it's".to_owned(),
        database: "shop".to_owned(),
        seconds: 5.0,
    };
    let of_prepared = prepared(&Activity {
        prepared: vec![prepared_one],
        ..activity()
    });
    assert_eq!(of_prepared.verdict, Verdict::Warning);
    assert!(
        of_prepared
            .fix
            .unwrap()
            .contains("ROLLBACK PREPARED 'it''s'")
    );
    assert_eq!(prepared(&activity()).verdict, Verdict::Ok);
}

#[test]
fn a_clock_counts_as_wrong_only_beyond_the_time_that_the_answer_took() {
    let of = |ahead: f64, tolerance: f64| clock(ServerNow { ahead, tolerance });
    assert_eq!(of(4.9, 0.0).verdict, Verdict::Ok);
    assert_eq!(of(-5.1, 0.0).verdict, Verdict::Warning);
    assert_eq!(of(6.0, 2.0).verdict, Verdict::Ok);
    assert!(of(-7.0, 0.0).reason.contains("7000 ms behind"));
}
