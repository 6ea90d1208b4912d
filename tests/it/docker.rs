//! docker/ as a user runs it: the image, and everything of compose.yaml in containers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::docker::{self, Docker, file};
use crate::support::ephemeral::free_port;
use crate::support::outboxd::get;
use crate::support::wait::{wait_for, wait_until};

const LIMIT: Duration = Duration::from_secs(120);

/// Resident memory of outboxd in its container, under the load of these tests.
const MEMORY_MAX: f64 = 64.0 * 1024.0 * 1024.0;

/// A loop that commits one event after another; it lasts longer than the tests wait for a flow.
const LOAD: &str = "DO $$ BEGIN FOR i IN 1..50000 LOOP \
     PERFORM outbox.write_event('Load' || i % 7, 'orders', jsonb_build_object('number', i)); \
     COMMIT; END LOOP; END $$";

#[test]
fn the_image_holds_one_program_without_a_shell_and_runs_as_no_root() -> Result<()> {
    let Some(docker) = docker::lent("the image")? else {
        return Ok(());
    };
    let image = docker.build(&[])?;
    let version = docker.run(&["run", "--rm", &image, "--version"])?;
    assert_eq!(
        version.trim(),
        concat!("outboxd ", env!("CARGO_PKG_VERSION"))
    );
    let format = "{{.Config.User}} {{.Config.Entrypoint}} {{.Config.Cmd}} {{.Config.Healthcheck}}";
    let said = docker.run(&["image", "inspect", "--format", format, &image])?;
    assert_eq!(said.trim(), "65532:65532 [outboxd] [run] <nil>");
    let shell = docker.run(&["run", "--rm", "--entrypoint", "sh", &image, "-c", "true"]);
    ensure!(shell.is_err(), "it has a shell");
    let help = docker.run(&["run", "--rm", &image, "--help"])?;
    ensure!(help.contains("doctor") && !help.contains("demo"), "{help}");
    let size = docker.run(&["image", "inspect", "--format", "{{.Size}}", &image])?;
    println!("the image has {size} bytes");
    ensure!(size.trim().parse::<u64>()? < 100_000_000, "{size}");
    Ok(())
}

/// A digest would do in the place of the tag, and only a registry gives one.
#[test]
fn the_base_images_are_arguments_of_the_build() -> Result<()> {
    let Some(docker) = docker::lent("the arguments of the image")? else {
        return Ok(());
    };
    let text = std::fs::read_to_string(file("Dockerfile"))?;
    for argument in ["BUILD_IMAGE", "BASE_IMAGE"] {
        let line = format!("ARG {argument}=");
        let default = text.lines().find_map(|it| it.strip_prefix(&line));
        let default = default.with_context(|| line.clone())?;
        docker.build(&["--build-arg", &format!("{argument}={default}")])?;
        // A name without a colon and a tag, so that nothing is asked for it.
        let wrong = docker.build(&["--build-arg", &format!("{argument}=No/Such")]);
        let said = format!("{:#}", wrong.map(drop).unwrap_err());
        ensure!(said.contains("No/Such"), "{said}");
    }
    Ok(())
}

/// Everything of compose.yaml, at ports of its own.
struct Stack {
    docker: &'static Docker,
    compose: String,
    ports: BTreeMap<&'static str, u16>,
    _folder: tempfile::TempDir,
}

impl Stack {
    fn set(docker: &'static Docker) -> Result<Stack> {
        let image = docker.build(&[])?;
        let folder = tempfile::tempdir()?;
        let mut ports = BTreeMap::new();
        let mut text = format!("services:\n  init: {{ image: {image} }}\n");
        for (service, inside) in [
            ("postgres", 5432),
            ("kafka", 29092),
            ("outboxd", 9464),
            ("prometheus", 9090),
            ("grafana", 3000),
        ] {
            let port = free_port()?;
            ports.insert(service, port);
            let image = match service {
                "outboxd" => format!("\n    image: {image}"),
                _ => String::new(),
            };
            text.push_str(&format!(
                "  {service}:{image}\n    ports: !override [\"127.0.0.1:{port}:{inside}\"]\n"
            ));
        }
        let override_file = folder.path().join("override.yaml");
        std::fs::write(&override_file, text)?;
        Ok(Stack {
            docker,
            compose: format!(
                "docker compose -p {} -f docker/compose.yaml -f {}",
                docker.project(),
                override_file.display()
            ),
            ports,
            _folder: folder,
        })
    }

    fn compose(&self, arguments: &str) -> Result<String> {
        self.docker.shell(&format!("{} {arguments}", self.compose))
    }

    /// The command at the head of compose.yaml that contains `word`, as it stands there.
    fn documented(&self, word: &str) -> Result<String> {
        let text = std::fs::read_to_string(file("compose.yaml"))?;
        let head: Vec<&str> = text
            .lines()
            .map_while(|line| line.strip_prefix('#'))
            .collect();
        let head = head.join("\n").replace("\\\n", " ");
        let command = head.lines().find(|line| line.contains(word));
        let command = command.with_context(|| format!("no command with {word}"))?;
        let (_, rest) = command
            .split_once("docker compose -f docker/compose.yaml")
            .context("not a command of Compose")?;
        Ok(rest.to_owned())
    }

    async fn get(&self, service: &str, path: &str) -> Result<(u16, String)> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.ports[service]));
        get(address, path).await
    }

    async fn json(&self, service: &str, path: &str) -> Result<Value> {
        let (code, body) = self.get(service, path).await?;
        ensure!(code == 200, "{path}: {code} {body}");
        serde_json::from_str(&body).with_context(|| body)
    }

    fn state(&self, service: &str, field: &str) -> Result<String> {
        let id = self.compose(&format!("ps -aq {service}"))?;
        let field = format!("{{{{.State.{field}}}}}");
        let said = self
            .docker
            .run(&["inspect", "--format", &field, id.trim()])?;
        Ok(said.trim().to_owned())
    }

    async fn wait_until_healthy(&self) -> Result<()> {
        for service in ["postgres", "outboxd"] {
            wait_until(&format!("the health of {service}"), LIMIT, async || {
                let health = self.state(service, "Health.Status")?;
                Ok(if health == "healthy" {
                    Ok(())
                } else {
                    Err(health)
                })
            })
            .await
            .with_context(|| self.compose("logs --tail 20").unwrap_or_default())?;
        }
        Ok(())
    }

    fn sql(&self, statement: &str) -> Result<i64> {
        let said = self.compose(&format!(
            "exec -T postgres psql -X -U postgres -d orders -Atc \"{statement}\""
        ))?;
        Ok(said.trim().parse()?)
    }

    fn load(&self) -> Result<Child> {
        let statement = LOAD.replace('$', "\\$");
        self.docker.begin(&format!(
            "{} exec -T postgres psql -X -U postgres -d orders -c \"{statement}\"",
            self.compose
        ))
    }

    /// Waits until outboxd has published some hundred further events.
    async fn wait_for_flow(&self) -> Result<()> {
        let published = async || {
            let status = self.json("outboxd", "/status").await?;
            status["published_total"].as_u64().context("no figure")
        };
        let before = published().await?;
        wait_until("a flow of events", LIMIT, async || {
            let now = published().await?;
            let flows = now > before + 300;
            Ok(if flows {
                Ok(())
            } else {
                Err(format!("{now} after {before}"))
            })
        })
        .await
    }

    async fn wait_until_all_is_marked(&self) -> Result<()> {
        let left = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL";
        wait_until("every row to be marked", LIMIT, async || {
            Ok(match self.sql(left)? {
                0 => Ok(()),
                left => Err(format!("{left} rows are not")),
            })
        })
        .await
    }

    /// How often each of these many rows' events is in Kafka: the consumer reads until nothing has
    /// come for ten seconds, and starts again where a busy machine has sent it less than all.
    async fn copies(&self, rows: i64) -> Result<BTreeMap<i64, usize>> {
        let consumer = self.documented("kafka-console-consumer")?;
        wait_until("all events in Kafka", LIMIT, async || {
            let said = self.compose(&format!("{consumer} --timeout-ms 10000"))?;
            let mut copies = BTreeMap::new();
            // The consumer's own log, which says that the time is over, is among the records.
            for rest in said.lines().filter_map(|it| it.split("outbox_id:").nth(1)) {
                let id = rest.split([',', '\t']).next().unwrap_or_default();
                *copies.entry(id.parse()?).or_default() += 1;
            }
            let found = copies.len() as i64;
            let all = found == rows;
            Ok(if all {
                Ok(copies)
            } else {
                Err(format!("{found} of {rows}"))
            })
        })
        .await
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // The lender removes what is left.
        let _ = self.compose("down --volumes --timeout 5");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compose_publishes_through_a_stop_without_a_duplicate_and_a_killed_database_without_a_loss()
-> Result<()> {
    let Some(docker) = docker::lent("docker/compose.yaml")? else {
        return Ok(());
    };
    let stack = Stack::set(docker)?;
    stack.compose("up -d")?;
    stack.wait_until_healthy().await?;
    stack.compose(&stack.documented("psql -U postgres orders")?)?;
    let consumer = stack.documented("kafka-console-consumer")?;
    let record = stack.compose(&format!("{consumer} --max-messages 1"))?;
    ensure!(
        record.contains("OrderCreated\t{\"number\": 7}") && record.contains("outbox_id:1"),
        "{record}"
    );
    watched(&stack).await?;
    stopped_under_load(&stack).await?;
    killed_under_load(&stack).await
}

/// Prometheus scrapes outboxd and has the alerts, and Grafana the dashboard and its source.
async fn watched(stack: &Stack) -> Result<()> {
    let query = "/api/v1/query?query=up%7Bjob%3D%22outboxd%22%7D";
    let proxy = format!("/api/datasources/proxy/uid/prometheus{query}");
    for (service, path) in [("prometheus", query), ("grafana", &proxy)] {
        wait_until("a scrape", LIMIT, async || {
            let found = stack.json(service, path).await;
            let up = |it: &Value| it["data"]["result"][0]["value"][1] == "1";
            Ok(match found {
                Ok(found) if up(&found) => Ok(()),
                other => Err(format!("{service}: {other:?}")),
            })
        })
        .await?;
    }
    let rules = stack.json("prometheus", "/api/v1/rules").await?;
    let loaded = rules["data"]["groups"][0]["rules"].as_array();
    let written = std::fs::read_to_string(file("alerts.yaml"))?;
    let written = written.matches("- alert:").count();
    assert_eq!(loaded.context("no rules")?.len(), written);
    let health = stack.json("grafana", "/api/health").await?;
    assert_eq!(health["database"], "ok");
    let shown = stack.json("grafana", "/api/dashboards/uid/outboxd").await?;
    let text = std::fs::read_to_string(file("grafana/dashboards/outboxd.json"))?;
    let expected: Value = serde_json::from_str(&text)?;
    assert_eq!(shown["dashboard"]["title"], expected["title"]);
    assert_eq!(shown["meta"]["provisioned"], true);
    Ok(())
}

/// `compose stop` ends outboxd in good order, and the next start repeats nothing.
async fn stopped_under_load(stack: &Stack) -> Result<()> {
    let mut load = stack.load()?;
    stack.wait_for_flow().await?;
    stack.compose("stop")?;
    load.wait()?;
    assert_eq!(stack.state("outboxd", "ExitCode")?, "0");
    stack.compose("up -d")?;
    stack.wait_until_healthy().await?;
    stack.wait_until_all_is_marked().await?;
    let rows = stack.sql("SELECT count(*) FROM outbox.outbox")?;
    ensure!(rows > 300, "{rows} rows are too light a load");
    let copies = stack.copies(rows).await?;
    let twice: Vec<_> = copies.iter().filter(|(_, count)| **count > 1).collect();
    ensure!(twice.is_empty(), "{twice:?}");
    Ok(())
}

/// outboxd goes on when the database is there again, in the same container.
async fn killed_under_load(stack: &Stack) -> Result<()> {
    let mut load = stack.load()?;
    stack.wait_for_flow().await?;
    let container = stack.state("outboxd", "StartedAt")?;
    stack.compose("kill postgres")?;
    load.wait()?;
    wait_for("the loss to be noticed", LIMIT, async || {
        Ok((stack.get("outboxd", "/readyz").await?.0 == 503).then_some(()))
    })
    .await?;
    stack.compose("start postgres")?;
    stack.wait_until_healthy().await?;
    stack.compose(&stack.documented("psql -U postgres orders")?)?;
    stack.wait_until_all_is_marked().await?;
    assert_eq!(stack.state("outboxd", "StartedAt")?, container);
    let rows = stack.sql("SELECT count(*) FROM outbox.outbox")?;
    let copies = stack.copies(rows).await?;
    ensure!(copies.values().all(|count| *count <= 2), "{copies:?}");
    let metrics = stack.get("outboxd", "/metrics").await?.1;
    let resident = metrics
        .lines()
        .find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    let resident: f64 = resident.context("no figure")?.parse()?;
    println!("outboxd has {resident} bytes resident");
    ensure!(resident < MEMORY_MAX, "{resident}");
    Ok(())
}
