//! Where a person meets open dead letters: status, metric, page and commands, at once.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::outboxd::{Outboxd, command};
use crate::support::postgres;
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
/// Filing, and counting within a second of it; the rest is for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn an_open_dead_letter_shows_everywhere_at_once_and_leaves_outboxd_ready() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    fixture.database.insert("a", &fixture.topic, "{}").await?;
    fixture.all_marked(LIMIT).await?;
    outboxd.wait_until_ready(LIMIT).await?;
    let (_, page) = outboxd.get("/").await?;
    assert!(page.contains("None is open."), "{page}");

    for _ in 0..3 {
        fixture.database.insert("a", "no such topic", "{}").await?;
    }
    let status = outboxd
        .wait_for_status("three open dead letters", AT_ONCE, |status| {
            status["dead_letters"]["open"] == 3
        })
        .await?;
    let shown = &status["dead_letters"];
    assert_eq!(shown["states"]["dead"], 3, "{shown}");
    let group = &shown["groups"][0];
    assert_eq!(
        (&group["count"], &group["state"]),
        (&3.into(), &"dead".into())
    );
    let code = group["code"].as_str().context("a code")?.to_owned();
    let metric = outboxd
        .metric("outboxd_dead_letters{state=\"dead\"}")
        .await?;
    assert_eq!(metric, Some(3.0));
    assert_eq!(outboxd.get("/readyz").await?.0, 200);
    let (_, page) = outboxd.get("/").await?;
    for cell in ["no such topic", &code, "dead", "3"] {
        assert!(
            page.contains(&format!(">{cell}</td>")),
            "{cell} is not in {page}"
        );
    }
    assert!(page.contains("3 open, the oldest for"), "{page}");
    let words = format!("3 × no such topic {code} (dead)");

    let text = |arguments: &'static [&'static str]| async {
        let output = command(&fixture.settings, arguments, LIMIT).await?;
        assert!(output.status.success(), "{output:?}");
        anyhow::Ok(String::from_utf8(output.stdout)?)
    };
    let status = text(&["status"]).await?;
    assert!(
        status.contains("3 open, the oldest for") && status.contains(&words),
        "{status}"
    );
    let json: Value = serde_json::from_str(&text(&["status", "--json"]).await?)?;
    assert_eq!(json["dead_letters"]["open"], 3, "{json}");
    let summary = text(&["dead-letter", "summary"]).await?;
    assert!(summary.contains(&words), "{summary}");

    // The first of a topic and code has a line at once; the others share one ten seconds later.
    let words = [
        "WARN",
        "events filed as dead letters",
        "no such topic",
        &code,
    ];
    outboxd.wait_for_log(&words, LIMIT).await?;
    let filed = |log: &str| {
        let lines = log
            .lines()
            .filter(|line| words.iter().all(|it| line.contains(it)));
        let counts = lines.filter_map(|line| line.split_once("count=")?.1.split(' ').next());
        counts.map(str::parse).collect::<Result<Vec<u64>, _>>()
    };
    wait_until("a line for each of them", LIMIT, async || {
        let counts = filed(&outboxd.log())?;
        let all = counts.iter().sum::<u64>() == 3 && counts.len() <= 2;
        Ok(all.then_some(()).ok_or(format!("{counts:?}")))
    })
    .await?;

    text(&["dead-letter", "discard", "--all", "--yes"]).await?;
    let status = outboxd
        .wait_for_status("no open dead letter", LIMIT, |status| {
            status["dead_letters"]["open"] == 0
        })
        .await?;
    assert_eq!(
        status["dead_letters"]["oldest_seconds"],
        Value::Null,
        "{status}"
    );
    assert_eq!(text(&["dead-letter", "summary"]).await?, "none open\n");
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}
