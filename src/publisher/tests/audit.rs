//! Audits with lists and answers by hand.

use super::*;
use crate::config::Settings;
use crate::outbox::CreatedAt;

const S: Duration = Duration::from_secs(1);

fn audit() -> Audit {
    Audit {
        interval: Some(S * 60),
        halts: false,
        missed_max: MISSED_MAX,
        state: State::Resting,
        due: Duration::ZERO,
        open: BTreeSet::new(),
        missed_total: 0,
        audits_total: 0,
    }
}

fn lsn(position: u64) -> Lsn {
    Lsn::new(position)
}

fn rows(ids: &[i64]) -> Vec<RowName> {
    ids.iter().copied().map(RowName::of_id).collect()
}

/// An audit at `now` that lists these and finds those of them left.
fn run(audit: &mut Audit, now: Duration, listed: &[i64], left: &[i64]) -> AuditResult {
    assert_eq!(audit.query(now, lsn(0)), Some(AuditQuery::List));
    audit.listed(now, rows(listed), lsn(100));
    if listed.is_empty() {
        return AuditResult::Clean;
    }
    assert_eq!(audit.query(now, lsn(99)), None);
    assert_eq!(
        audit.query(now, lsn(100)),
        Some(AuditQuery::StillUnpublished(rows(listed)))
    );
    audit.left(now, rows(left).into_iter(), &RowSet::default())
}

#[test]
fn a_row_that_is_unpublished_behind_the_confirmed_position_was_missed() {
    let mut audit = audit();
    assert_eq!(
        run(&mut audit, S, &[3, 4, 5], &[4]),
        AuditResult::Publish(rows(&[4]))
    );
    assert_eq!((audit.open_count(), audit.missed_total()), (1, 1));
    audit.sent(S * 2);
    assert_eq!(audit.query(S * 3, lsn(100)), None);
    assert_eq!(run(&mut audit, S * 4, &[], &[]), AuditResult::Clean);
    assert_eq!((audit.open_count(), audit.missed_total()), (0, 1));
    assert_eq!(audit.query(S * 63, lsn(100)), None);
    assert_eq!(audit.query(S * 64, lsn(100)), Some(AuditQuery::List));
    assert_eq!(audit.audits_total(), 2);
}

#[test]
fn nothing_is_judged_before_the_slot_has_confirmed_the_position() {
    let mut audit = audit();
    assert_eq!(audit.query(S, lsn(500)), Some(AuditQuery::List));
    audit.listed(S, rows(&[1]), lsn(501));
    assert_eq!(audit.query(S * 1_000, lsn(500)), None);
    assert_eq!(
        audit.query(S * 1_000, lsn(501)),
        Some(AuditQuery::StillUnpublished(rows(&[1])))
    );
}

#[test]
fn a_row_unsettled_is_not_missed_and_one_that_is_being_mended_not_twice() {
    let mut audit = audit();
    assert_eq!(
        run(&mut audit, S, &[7], &[7]),
        AuditResult::Publish(rows(&[7]))
    );
    audit.sent(S);
    // The row is locked, so its mark waits.
    let now = S * 3;
    assert_eq!(audit.query(now, lsn(0)), Some(AuditQuery::List));
    audit.listed(now, rows(&[7]), lsn(200));
    assert_eq!(
        audit.query(now, lsn(200)),
        Some(AuditQuery::StillUnpublished(rows(&[7])))
    );
    let unsettled = rows(&[7]).into_iter().collect();
    assert_eq!(
        audit.left(now, rows(&[7]).into_iter(), &unsettled),
        AuditResult::Clean
    );
    assert_eq!((audit.open_count(), audit.missed_total()), (1, 1));
}

#[test]
fn a_row_that_was_given_the_id_of_one_on_the_list_is_not_missed() {
    let created = CreatedAt::of_text("2026-01-31 12:00:00");
    let new = RowName {
        id: 7.into(),
        created,
    };
    let mut audit = audit();
    assert_eq!(audit.query(S, lsn(0)), Some(AuditQuery::List));
    audit.listed(S, rows(&[7]), lsn(100));
    assert!(audit.query(S, lsn(100)).is_some());
    let unsettled = RowSet::default();
    let found = audit.left(S, [new].into_iter(), &unsettled);
    assert_eq!(found, AuditResult::Clean);
}

#[test]
fn too_many_halt_unless_they_were_asked_for() {
    let many: Vec<i64> = (1..=1_001).collect();
    let mut one = audit();
    assert_eq!(
        run(&mut one, S, &many, &many),
        AuditResult::Halt(rows(&many))
    );
    let mut one = audit();
    let few = many[..1_000].to_vec();
    assert_eq!(
        run(&mut one, S, &many, &few),
        AuditResult::Publish(rows(&few))
    );
    let mut asked = Audit {
        missed_max: usize::MAX,
        ..audit()
    };
    assert_eq!(
        run(&mut asked, S, &many, &many),
        AuditResult::Publish(rows(&many))
    );
}

#[test]
fn with_halt_one_is_enough() {
    let mut audit = Audit {
        halts: true,
        ..audit()
    };
    assert_eq!(
        run(&mut audit, S, &[9], &[9]),
        AuditResult::Halt(rows(&[9]))
    );
}

#[test]
fn of_a_list_that_is_cut_off_only_what_it_reaches_is_seen_as_published() {
    let mut audit = audit();
    let low = rows(&(1..=10_000).map(|id| id * 2).collect::<Vec<_>>());
    audit.open = rows(&[5, 10_001]).into_iter().collect();
    assert_eq!(audit.query(S, lsn(0)), Some(AuditQuery::List));
    audit.listed(S, low.clone(), lsn(9));
    assert_eq!(audit.open, rows(&[]).into_iter().collect());
    audit.open = rows(&[5, 20_001]).into_iter().collect();
    audit.at_once(S);
    assert_eq!(audit.query(S, lsn(0)), Some(AuditQuery::List));
    audit.listed(S, low.clone(), lsn(9));
    assert_eq!(audit.open, rows(&[20_001]).into_iter().collect());
}

#[test]
fn a_new_session_starts_over_and_a_failed_query_is_repeated() {
    let mut audit = audit();
    assert_eq!(audit.query(S, lsn(0)), Some(AuditQuery::List));
    audit.failed(S);
    assert_eq!(audit.query(S * 5, lsn(0)), None);
    assert_eq!(audit.query(S * 6, lsn(0)), Some(AuditQuery::List));
    audit.at_once(S * 7);
    // The audit under way belongs to the session before.
    audit.listed(S * 7, rows(&[1]), lsn(1));
    assert_eq!(audit.query(S * 7, lsn(1)), Some(AuditQuery::List));
}

#[test]
fn where_nothing_is_marked_nothing_is_audited() {
    let mut audit = Audit {
        interval: None,
        ..audit()
    };
    assert_eq!(audit.query(S * 1_000, lsn(1)), None);
}

#[test]
fn the_mode_and_the_policy_decide_whether_and_how_the_slot_is_audited() {
    let audit_of = |mode: &str, on_slot_loss: Option<&str>| {
        let config = Config::from_settings(Settings {
            database_url: Some("postgres://outboxd@db/orders".to_owned()),
            kafka_brokers: Some("kafka:9092".to_owned()),
            after_publish: Some(mode.to_owned()),
            on_slot_loss: on_slot_loss.map(str::to_owned),
            ..Settings::default()
        });
        Audit::new(&config.expect("the settings are valid"))
    };
    let due = |audit: &mut Audit| audit.query(S, lsn(1)).is_some();
    assert!(!due(&mut audit_of("keep", None)));
    for (policy, halts) in [("heal", false), ("halt", true)] {
        let mut audit = audit_of("mark", Some(policy));
        let result = run(&mut audit, S, &[9], &[9]);
        assert_eq!(result == AuditResult::Halt(rows(&[9])), halts, "{policy}");
    }
}
