//! The status page in a real browser, in the states that a person on call meets.
//!
//! `OUTBOXD_TEST_PICTURES=FOLDER` keeps a picture of each state.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::MutexGuard;

use crate::support::browser::Browser;
use crate::support::fixture::Fixture;
use crate::support::heavy;
use crate::support::kafka;
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database};
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);
const PATTERN: Pattern = Pattern {
    rows: 5,
    rest: Duration::from_millis(20),
};

/// Problems of the page as it is shown now, one a line: what does not fit a phone, what has too
/// little contrast (WCAG AA), what has no name for a screen reader, what came from elsewhere.
const EXAMINE: &str = r#"
const problems = [];
const parse = (colour) => colour.match(/[\d.]+/g).map(Number);
const luminance = ([r, g, b]) => {
  const part = (c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
};
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let texts = 0;
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.getClientRects().length) continue;
  texts += 1;
  const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(ground(element))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < 4.5) problems.push(`contrast ${contrast.toFixed(1)}: ${walker.currentNode.data}`);
}
if (texts < 30) problems.push(`only ${texts} texts`);
const root = document.documentElement;
if (root.scrollWidth > root.clientWidth) problems.push(`${root.scrollWidth} px wide`);
if (document.querySelectorAll("h1").length !== 1) problems.push("not one h1");
if (!document.querySelector("main")) problems.push("no main");
if (!root.lang) problems.push("no language");
for (const image of document.querySelectorAll("svg, meter"))
  if (!image.getAttribute("aria-label")) problems.push(`no name: ${image.outerHTML}`);
for (const table of document.querySelectorAll("table"))
  if (!table.querySelector("th[scope=col]")) problems.push("a table without headings");
for (const { name } of performance.getEntriesByType("resource"))
  if (!name.startsWith(location.origin)) problems.push(`from elsewhere: ${name}`);
if (getComputedStyle(document.body).maxWidth === "none") problems.push("no style");
return problems.join("\n");
"#;

/// The page in both colour schemes, on a desk and on a phone, has none of these problems.
fn examine(browser: &Browser, name: &str) -> Result<()> {
    let folder = std::env::var_os("OUTBOXD_TEST_PICTURES").map(PathBuf::from);
    for (device, width, height) in [("desk", 1_200, 900), ("phone", 390, 844)] {
        for scheme in ["light", "dark"] {
            browser.look(width, height, scheme)?;
            let problems = browser.run(EXAMINE)?;
            assert_eq!(problems, "", "{name} on a {device}, {scheme}");
            browser.picture(folder.as_deref(), &format!("{name}-{device}-{scheme}"))?;
        }
    }
    Ok(())
}

fn has(part: &str, text: &str) -> String {
    format!("return document.querySelector({part:?}).innerText.includes({text:?})")
}

/// A browser, and the turn of a test that loads the machine; `None` where there is no browser.
async fn browser() -> Result<Option<(Browser, MutexGuard<'static, ()>)>> {
    let turn = heavy().await;
    Ok(Browser::start()?.map(|browser| (browser, turn)))
}

/// An outboxd that has come to this phase.
async fn started(settings: &Settings, phase: &str) -> Result<Outboxd> {
    let outboxd = Outboxd::spawn(settings)?;
    outboxd.wait_for_phase(phase, LIMIT).await?;
    Ok(outboxd)
}

fn open(browser: &Browser, outboxd: &Outboxd) -> Result<()> {
    browser.open(&outboxd.page())
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_it_shows_rates_and_keeps_scroll_and_selection() -> Result<()> {
    let Some((browser, _turn)) = browser().await? else {
        return Ok(());
    };
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let mut outboxd = started(&fixture.settings, "streaming").await?;
    let writers = Writers::start(&fixture.database, &fixture.topic, 2, PATTERN);
    outboxd
        .wait_for_status("a rate and a latency", LIMIT, |status| {
            let flow = &status["flow"];
            flow["events_per_second"].as_f64() > Some(20.0) && flow["p50_seconds"].is_f64()
        })
        .await?;
    browser.look(1_200, 500, "light")?;
    open(&browser, &outboxd)?;
    browser.wait_for(&has("h1", " events/s, "))?;
    browser.wait_for(&has("#topics", &fixture.topic))?;
    browser.wait_for("return document.querySelectorAll('#flow .line[d*=M]').length === 4")?;
    let marked = browser.run(
        "scrollTo(0, 300); getSelection().selectAllChildren(document.querySelector('#instance dd'));
         window.before = document.querySelector('#counters').innerText;
         return [scrollY, getSelection().toString()]",
    )?;
    assert_eq!(marked[0], 300);
    browser.wait_for("return document.querySelector('#counters').innerText !== window.before")?;
    let after = browser.run("return [scrollY, getSelection().toString()]")?;
    assert_eq!(after, marked);
    browser.run("getSelection().removeAllRanges(); scrollTo(0, 0)")?;
    // The lines of the charts have a length by then.
    let is_long = "document.querySelector('#flow .l1').getAttribute('d').split('L').length > 4";
    browser.wait_for(&format!("return {is_long}"))?;
    examine(&browser, "healthy")?;
    writers.stop().await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    browser.wait_for("return !document.querySelector('#away').hidden")?;
    browser.wait_for(&has("#away", "outboxd has not answered since"))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_that_is_away_for_twenty_seconds_is_the_first_sentence() -> Result<()> {
    let Some((browser, _turn)) = browser().await? else {
        return Ok(());
    };
    let mut kafka = kafka::private(&[])?;
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let topic = kafka.topic("events", 4).await?;
    let settings = Settings::new(&database, &kafka)?;
    init(&settings).await?;
    let mut outboxd = started(&settings, "streaming").await?;
    let writers = Writers::start(&database, &topic, 2, PATTERN);
    outboxd
        .wait_for_status("a rate", LIMIT, |status| {
            status["flow"]["events_per_second"].as_f64() > Some(50.0)
        })
        .await?;
    writers.stop().await?;
    database.all_marked(LIMIT).await?;
    kafka.freeze()?;
    for _ in 0..300 {
        database.insert("a", &topic, "{}").await?;
    }
    open(&browser, &outboxd)?;
    browser.wait_for(&has("h1", "300 events are held, nothing is lost"))?;
    outboxd
        .wait_for_status("twenty seconds of waiting", LIMIT, |status| {
            status["waiting"]["seconds"].as_f64() > Some(20.0)
        })
        .await?;
    browser.wait_for(&has("#problems", "waiting for kafka"))?;
    browser.wait_for("return document.querySelector('#headline').className === 'attention'")?;
    examine(&browser, "kafka-away")?;
    kafka.thaw()?;
    browser.wait_for(&has("h1", "Healthy"))?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_stand_there_with_their_reasons_and_the_command() -> Result<()> {
    let Some((browser, _turn)) = browser().await? else {
        return Ok(());
    };
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let mut outboxd = started(&fixture.settings, "streaming").await?;
    let writers = Writers::start(&fixture.database, &fixture.topic, 2, PATTERN);
    for topic in ["no <such> topic", "no <such> topic", "ordrs"] {
        fixture.database.insert("a", topic, "{}").await?;
    }
    open(&browser, &outboxd)?;
    browser.wait_for(&has("h1", " events/s, "))?;
    browser.wait_for(&has("h1", "3 events are dead letters"))?;
    browser.wait_for(&has("#letters", "TOPIC_UNKNOWN"))?;
    browser.wait_for(&has("#letters", "no <such> topic"))?;
    browser.wait_for(&has("#letters", "outboxd dead-letter list"))?;
    browser.wait_for("return document.querySelector('#headline').className === 'attention'")?;
    examine(&browser, "dead-letters")?;
    writers.stop().await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stands_by_says_that_another_publishes() -> Result<()> {
    let Some((browser, _turn)) = browser().await? else {
        return Ok(());
    };
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let mut first = started(&fixture.settings, "streaming").await?;
    let settings = Settings::new(&fixture.database, fixture.kafka)?;
    let mut second = started(&settings, "standby").await?;
    open(&browser, &second)?;
    browser.wait_for(&has("h1", "Standing by: another instance publishes"))?;
    browser.wait_for(&has("#headline", "held by server process"))?;
    browser.wait_for("return document.querySelector('#headline').className === 'healthy'")?;
    examine(&browser, "standing-by")?;
    assert_eq!(first.stop(LIMIT).await?, 0, "{}", first.log());
    browser.wait_for(&has("h1", "Healthy"))?;
    assert_eq!(second.stop(LIMIT).await?, 0, "{}", second.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_backlog_shows_its_rate() -> Result<()> {
    let Some((browser, _turn)) = browser().await? else {
        return Ok(());
    };
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    fixture.database.fill(&fixture.topic, 20_000).await?;
    let lock = fixture.database.connect().await?;
    lock.batch_execute("BEGIN; UPDATE outbox.outbox SET times_attempted = 0 WHERE id = 19999")
        .await?;
    let publish = fixture.settings.clone().set("OUTBOX_BACKLOG", "publish");
    let mut outboxd = started(&publish, "backlog").await?;
    open(&browser, &outboxd)?;
    let has_rate =
        "/the backlog: .*[1-9].* so far, [1-9]/.test(document.querySelector('h1').innerText)";
    browser.wait_for(&format!("return {has_rate}"))?;
    browser.wait_for(&has("#topics", &fixture.topic))?;
    examine(&browser, "backlog")?;
    lock.batch_execute("COMMIT")
        .await
        .context("the lock ends")?;
    lock.close().await;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    browser.wait_for(&has("h1", "Healthy"))?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}
