//! The Grafana dashboard, and the compose file that provisions it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use crate::support::fixture::Fixture;
use crate::support::outboxd::Outboxd;
use crate::support::prometheus::Prometheus;
use crate::support::wait::wait_until;
use crate::support::{kafka, postgres};

const LIMIT: Duration = Duration::from_secs(60);

/// What a healthy run need not show.
const MAY_BE_EMPTY: [&str; 1] = ["Time until the slot is lost"];

fn read(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn yaml(name: &str) -> Result<Yaml> {
    let documents = YamlLoader::load_from_str(&read(name)?)?;
    documents.into_iter().next().context("it is empty")
}

fn dashboard() -> Result<Value> {
    Ok(serde_json::from_str(&read(
        "docker/grafana/dashboards/outboxd.json",
    )?)?)
}

/// Each query with the title of its panel, for all outboxes and a rate over ten seconds.
fn queries(dashboard: &Value) -> Result<Vec<(String, String)>> {
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let title = panel["title"].as_str().context("no title")?;
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().context("no query")?;
            let mut query = query.replace("$__rate_interval", "10s");
            for variable in ["job", "database", "slot"] {
                query = query.replace(&format!("${variable}"), ".+");
            }
            ensure!(!query.contains('$'), "{title}: {query}");
            queries.push((title.to_owned(), query));
        }
    }
    Ok(queries)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_dashboard_returns_data() -> Result<()> {
    let server = postgres::private(postgres::turn(17), &["max_slot_wal_keep_size = 1GB"])?;
    let fixture = Fixture::create(&server, kafka::shared()).await?;
    let outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_until_ready(LIMIT).await?;
    let Some(prometheus) = Prometheus::start("groups: []\n", &[fixture.settings.http()]).await?
    else {
        return Ok(());
    };
    let queries = queries(&dashboard()?)?;
    ensure!(queries.len() > 20, "the queries are found");
    wait_until("data for each query", LIMIT, async || {
        let topic = &fixture.topic;
        fixture.database.insert("a", topic, "{}").await?;
        let mut empty = BTreeSet::new();
        for (title, query) in &queries {
            if prometheus.query(query).await?.is_empty() {
                empty.insert(title.as_str());
            }
        }
        Ok(if empty.iter().all(|title| MAY_BE_EMPTY.contains(title)) {
            Ok(())
        } else {
            Err(format!("empty: {empty:?}"))
        })
    })
    .await
    .with_context(|| outboxd.log())?;
    let sums = [
        "sum(rate(outbox_events_processed_total{status=\"published\"}[10s])) > 0",
        "histogram_quantile(0.99, sum by (le) \
             (rate(outbox_processing_duration_seconds_bucket[10s]))) < 60",
    ];
    for query in sums {
        ensure!(!prometheus.query(query).await?.is_empty(), "{query}");
    }
    Ok(())
}

#[test]
fn the_variables_and_panels_are_whole() -> Result<()> {
    let dashboard = dashboard()?;
    let variables = dashboard["templating"]["list"].as_array();
    let names = variables.context("no variables")?.iter();
    let names: Vec<&str> = names.filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(names, ["datasource", "job", "database", "slot"]);
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let place = &panel["gridPos"];
        let right = place["x"].as_u64().zip(place["w"].as_u64());
        let (x, width) = right.with_context(|| format!("{panel}"))?;
        ensure!(x + width <= 24, "{panel}");
        ensure!(ids.insert(panel["id"].as_u64()), "{panel}");
    }
    Ok(())
}

/// The file of this repository that a container of compose finds at `target`.
fn mounted(service: &Yaml, target: &str) -> Result<String> {
    let volumes = service["volumes"].as_vec().context("no volumes")?;
    let volumes = volumes.iter().filter_map(Yaml::as_str);
    let mut found = volumes.filter_map(|volume| {
        let (source, rest) = volume.split_once(':')?;
        let inside = target.strip_prefix(rest.trim_end_matches(":ro"))?;
        Some(format!("docker/{}{inside}", source.strip_prefix("./")?))
    });
    found
        .next()
        .with_context(|| format!("{target} is not mounted"))
}

#[test]
fn compose_gives_prometheus_its_rules_and_grafana_its_dashboard() -> Result<()> {
    let compose = yaml("docker/compose.yaml")?;
    let services = &compose["services"];
    let config = mounted(&services["prometheus"], "/etc/prometheus/prometheus.yaml")?;
    let config = yaml(&config)?;
    let rules = config["rule_files"][0].as_str().context("no rules")?;
    let rules = mounted(&services["prometheus"], &format!("/etc/prometheus/{rules}"))?;
    assert_eq!(rules, "docker/alerts.yaml");
    let scraped = &config["scrape_configs"][0];
    let job = scraped["job_name"].as_str().context("no job")?;
    ensure!(
        job.contains("outboxd"),
        "the alerts know the job by its name"
    );
    let target = scraped["static_configs"][0]["targets"][0].as_str();
    assert_eq!(target, Some("outboxd:9464"));
    ensure!(!services["outboxd"].is_badvalue(), "no service outboxd");

    let grafana = &services["grafana"];
    let provisioning = "/etc/grafana/provisioning";
    let provider = mounted(grafana, &format!("{provisioning}/dashboards/outboxd.yaml"))?;
    let provider = yaml(&provider)?;
    let folder = provider["providers"][0]["options"]["path"].as_str();
    let file = format!("{}/outboxd.json", folder.context("no folder")?);
    assert_eq!(
        mounted(grafana, &file)?,
        "docker/grafana/dashboards/outboxd.json"
    );
    let source = mounted(
        grafana,
        &format!("{provisioning}/datasources/prometheus.yaml"),
    )?;
    let source = yaml(&source)?;
    let url = source["datasources"][0]["url"].as_str();
    assert_eq!(url, Some("http://prometheus:9090"));
    Ok(())
}

#[tokio::test]
async fn the_writer_of_compose_writes_an_event_and_has_a_profile_of_its_own() -> Result<()> {
    let compose = yaml("docker/compose.yaml")?;
    let writer = &compose["services"]["demo-writer"];
    assert_eq!(writer["profiles"][0].as_str(), Some("demo-writer"));
    let config = writer["configs"][0]["source"]
        .as_str()
        .context("no script")?;
    let script = compose["configs"][config]["content"].as_str();
    let (statement, watch) = script
        .and_then(|it| it.split_once("\\watch"))
        .context("it is written once")?;
    ensure!(watch.trim() == "0.2", "five a second: {watch}");
    let server = postgres::shared(postgres::turn(17));
    let fixture = Fixture::create(server, kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    session.batch_execute(statement).await?;
    assert_eq!(fixture.database.unpublished().await?, 1);
    Ok(())
}
