//! One comparison from start to end: what is read when, and what proves what.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::config::mapping::{Piece, Template, TimestampRule, TopicRule};
use crate::config::{AfterPublish, Config, Mapping, Source};
use crate::error::{Code, Error, Result};
use crate::kafka::{self, MetadataClient, TopicAnswer};
use crate::outbox::{Router, RowWindow, WindowRows, time_and_estimate};
use crate::postgres::{self, Session, slot, table_shape};
use crate::verify::compare::{Comparison, Options};
use crate::verify::join::Rules;
use crate::verify::judge::{Access, Cleanup, Proof, SLACK, TopicState};
use crate::verify::progress::Progress;
use crate::verify::records::{Plan, Thread};
use crate::verify::report::Report;
use crate::verify::request::Request;
use crate::verify::strays::Scope;
use crate::verify::{rows, strays};

/// The interval at which the slot's position is read while it is waited for.
const LOOK: Duration = Duration::from_millis(200);

/// How often Kafka is asked for the settings of topics.
const SETTINGS_TRIES: usize = 5;

/// Rows in a bucket, as estimated.
const BUCKET: u64 = 20_000;

/// Compares.
///
/// # Errors
/// Of the table, the servers or the disk. What is found is no error.
pub async fn verify(config: &Config, request: &Request, progress: &Progress) -> Result<Report> {
    let began = Instant::now();
    let limit = config.operation_timeout;
    let session = postgres::connect(&config.database, "outboxd verify", limit).await?;
    let shape = table_shape::read(&session, &config.table, &config.mapping).await?;
    let Some(shape) = shape else {
        let message = format!("there is no table {}", config.table);
        let error = Error::fatal(Code::Config, message);
        return Err(error.with_hint("run `outboxd init`, or set OUTBOX_TABLE"));
    };
    let (read_at, estimate) = time_and_estimate(&session, &shape).await?;
    let limits = request.window(read_at);
    let mut window = WindowRows::new(config, &shape, &limits)?;
    progress.expect_rows(estimate);
    let buckets = (estimate / BUCKET).clamp(256, 2_048) as usize;
    let has_send_times = config.mapping.timestamp == TimestampRule::Now;
    let plan = Plan {
        folder: request.folder.clone(),
        buckets,
        // A record may be a little older than its row, by another clock.
        since: limits
            .since
            .filter(|_| has_send_times)
            .map(|since| since.saturating_sub(SLACK)),
        wait: request.wait,
        source: Router::cloud_events_source(&config.mapping.source_id),
    };
    let token = kafka::reader_token(config).await?;
    let thread = Thread::start(config, token, plan, progress.clone())?;
    for topic in fixed_topics(&config.mapping).chain(request.also_topics.iter().cloned()) {
        thread.read(&topic);
    }
    let place = (request.folder.as_path(), buckets);
    let found = |topic: &str| thread.read(topic);
    let rows = rows::read(&session, config, &mut window, place, progress, found).await?;
    let proof = proof(&session, config, &window, request.wait).await?;
    let mut records = thread.finish().await?;
    let notes = cleanup(config, &mut records.topics).await?;
    let letters = rows::letters(&session, &shape, place).await?;
    let unsent = rows
        .oldest_unmarked
        .filter(|_| proof.is_marked || proof.not_due.is_some());
    let complete_until = unsent.into_iter().chain([read_at]).min();
    let options = Options {
        folder: &request.folder,
        rules: Rules {
            exclusive: request.exclusive,
            is_deleted: config.after_publish == AfterPublish::Delete,
        },
        is_whole: limits == RowWindow::default(),
        events_max: request.events_max,
    };
    let (mut comparison, sides) = Comparison::new(options, rows, records, letters)?;
    comparison.compare(&sides, &proof, progress)?;
    let scope = Scope {
        window: &limits,
        is_deleted: config.after_publish == AfterPublish::Delete,
        exclusive: request.exclusive,
    };
    strays::judge(&mut comparison, &session, &window, &scope).await?;
    let mut report = comparison.report;
    report.notes = notes;
    report.read_at = read_at;
    report.complete_until = complete_until.unwrap_or(read_at);
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

/// The topics that the settings name, whatever rows there are.
fn fixed_topics(mapping: &Mapping) -> impl Iterator<Item = String> {
    let of_template = |template: &Template| match &template.pieces[..] {
        [Piece::Text(text)] => Some(text.clone()),
        _ => None,
    };
    let topics = &mapping.topics;
    let rule = match &mapping.topic {
        TopicRule::Template(template) if topics.entries.is_empty() => of_template(template),
        _ => None,
    };
    let other = topics.other.as_ref().and_then(of_template);
    let mapped = topics.entries.values().cloned();
    mapped.chain(rule).chain(other)
}

/// What proves that rows which were read have been sent.
async fn proof(
    session: &Session,
    config: &Config,
    window: &WindowRows,
    wait: Duration,
) -> Result<Proof> {
    let is_marked = config.after_publish == AfterPublish::Mark || config.source == Source::Poll;
    Ok(Proof {
        is_marked,
        not_due: match is_marked {
            true => None,
            false => not_passed(session, config, window, wait).await?,
        },
        has_send_times: config.mapping.timestamp == TimestampRule::Now,
        first_start: (config.after_publish == AfterPublish::Keep).then_some(None),
    })
}

/// Waits until the slot has passed all rows that were read. Returns why it has not.
async fn not_passed(
    session: &Session,
    config: &Config,
    window: &WindowRows,
    wait: Duration,
) -> Result<Option<&'static str>> {
    let position = window.position(session).await?;
    let deadline = Instant::now() + wait;
    loop {
        let Some(slot) = slot::read(session, &config.slot).await? else {
            return Ok(Some(
                "rows are not marked, and there is no slot that has passed them",
            ));
        };
        if slot.confirmed_flush.is_some_and(|at| at >= position) {
            return Ok(None);
        }
        if Instant::now() >= deadline {
            return Ok(Some(
                "rows are not marked, and the slot has not passed them in time",
            ));
        }
        sleep(LOOK).await;
    }
}

/// Finds how topics are cleaned. Returns what a person should know.
async fn cleanup(config: &Config, topics: &mut [TopicState]) -> Result<Vec<String>> {
    let readable = |topic: &&mut TopicState| topic.access == Access::Readable;
    let client = MetadataClient::new(config);
    for attempt in 0..SETTINGS_TRIES {
        let unknown = |topic: &&TopicState| {
            topic.access == Access::Readable && topic.cleanup == Cleanup::Unknown
        };
        let names: Vec<String> = topics
            .iter()
            .filter(unknown)
            .map(|it| it.name.clone())
            .collect();
        if names.is_empty() {
            break;
        }
        if attempt > 0 {
            sleep(LOOK).await;
        }
        for (name, answer) in client.ask(&names).await? {
            let TopicAnswer::Known(facts) = answer else {
                continue;
            };
            // Settings come all together, or not at all.
            if facts.max_message_bytes.is_none() {
                continue;
            }
            for topic in topics.iter_mut().filter(readable) {
                if topic.name == name {
                    topic.cleanup = match facts.compacted {
                        true => Cleanup::Compacted,
                        false => Cleanup::Kept,
                    };
                }
            }
        }
    }
    let acls = "kafka-acls.sh --add --allow-principal User:NAME --operation";
    let note = |topic: &TopicState| match (&topic.access, topic.cleanup) {
        (Access::Forbidden(_), _) => Some(format!(
            "the Kafka user may not read topic {0}: {acls} Read --operation Describe --topic {0}",
            topic.name
        )),
        (Access::Readable, Cleanup::Unknown) => Some(format!(
            "the Kafka user may not see the settings of topic {0}: {acls} DescribeConfigs \
             --topic {0}",
            topic.name
        )),
        _ => None,
    };
    Ok(topics.iter().filter_map(note).collect())
}
