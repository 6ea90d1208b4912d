//! `demo`'s components: a Postgres, a Kafka, a database ready for `run`, a consumer. Starts and
//! removes them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use outboxd::config::{Config, Settings};
use outboxd::postgres::{Session, slot};
use outboxd::{http, kafka};
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{Consumer as _, ConsumerContext, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cli::demo::args::Args;
use crate::cli::demo::screen::Screen;
use crate::cli::demo::shop;
use outboxd::ephemeral::{self, Options, Server};

const PARTITIONS: i32 = 3;

/// The limit for an answer from a given Kafka.
const ANSWER: Duration = Duration::from_secs(4);

/// The limit for the leader election of a new topic.
const READY: Duration = Duration::from_secs(20);

/// The interval at which the slot is queried.
const POLL: Duration = Duration::from_millis(200);

/// The started components, in the order in which they are dropped.
pub(crate) struct Stage {
    listener: Option<TcpListener>,
    pub(crate) config: Config,
    pub(crate) topic: String,
    /// `None` with a real cluster.
    mock: Option<MockCluster<'static, DefaultProducerContext>>,
    server: Server,
}

impl Stage {
    /// Starts everything. Problems with the arguments show first; objects in a real cluster are
    /// created last.
    #[expect(
        clippy::field_reassign_with_default,
        reason = "a field of Settings is private"
    )]
    pub(crate) async fn build(args: &Args, screen: &Screen) -> Result<Stage> {
        let listener = listen(args.http_listen.as_deref()).await?;
        let (mock, brokers, topic) = match &args.kafka_brokers {
            Some(brokers) => {
                let topic = format!("outboxd-demo-{:08x}", fastrand::u32(..));
                (None, brokers.clone(), topic)
            }
            None => {
                let mock = MockCluster::new(1).context("cannot start the mock cluster")?;
                let brokers = mock.bootstrap_servers();
                (Some(mock), brokers, "orders".to_owned())
            }
        };
        let mut settings = Settings::default();
        settings.kafka_brokers = Some(brokers);
        settings.kafka_properties = args.kafka_properties.clone().filter(|_| mock.is_none());
        // Rows are marked as published soon, so that table and slot visibly follow.
        settings.process_interval = Some("500ms".to_owned());
        if mock.is_none() {
            settings.database_url = Some("postgres://nobody@localhost/none".to_owned());
            kafka::reachable(&Config::from_settings(settings.clone())?, ANSWER).await?;
        }

        let server = start_postgres(args.postgres_bin.clone(), screen).await?;
        let url = server.unix_url(shop::DATABASE, shop::PUBLISHER) + "?sslmode=disable";
        settings.database_url = Some(url);
        let config = Config::from_settings(settings)?;
        shop::build(&server, &config).await?;
        let (port, database) = (server.port(), shop::DATABASE);
        let folder = server.socket_dir().display();
        let text = format!("{database}: psql -h {folder} -p {port} -U postgres {database}");
        screen.fact("database", &text)?;

        let place = match &mock {
            Some(mock) => {
                let made = mock.create_topic(&topic, PARTITIONS, 1);
                made.context("cannot create the topic")?;
                "inside this process, "
            }
            None => {
                kafka::create_topics(&config, &[(&topic, PARTITIONS)], ANSWER).await?;
                ""
            }
        };
        let brokers = &config.brokers;
        let text = format!("{place}{brokers}, topic {topic} with {PARTITIONS} partitions");
        screen.fact("Kafka", &text)?;
        Ok(Stage {
            listener: Some(listener),
            config,
            topic,
            mock,
            server,
        })
    }

    /// The listener that reserves the status page's address, once.
    pub(crate) fn take_listener(&mut self) -> Result<TcpListener> {
        self.listener
            .take()
            .context("the status page is already served")
    }

    /// A session of the database's owner.
    pub(crate) async fn connect(&self) -> Result<Session> {
        shop::connect(&self.server, shop::DATABASE).await
    }

    /// A consumer of the whole topic that has reached the end of each empty partition, so later
    /// arrivals are not delayed by its start.
    pub(crate) async fn consumer(&self) -> Result<StreamConsumer<Quiet>> {
        let mut settings = ClientConfig::new();
        for (name, value) in &self.config.kafka_properties {
            settings.set(name, value.expose());
        }
        settings
            .set("bootstrap.servers", &self.config.brokers)
            .set("group.id", "outboxd-demo")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            // A new topic's leader may not be known at once.
            .set("topic.metadata.refresh.fast.interval.ms", "10");
        if self.mock.is_some() {
            // A real broker answers as soon as there is a record, the mock broker only after the
            // wait.
            settings.set("fetch.wait.max.ms", "1");
        }
        let consumer: StreamConsumer<Quiet> = settings
            .create_with_context(Quiet)
            .context("cannot create a consumer")?;
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition_offset(&self.topic, partition, Offset::Beginning)?;
        }
        consumer
            .assign(&list)
            .context("cannot assign the topic to the consumer")?;
        let ends = async {
            let mut ends = 0;
            while ends < PARTITIONS {
                // Other errors are connection errors, after which librdkafka reconnects.
                if let Err(KafkaError::PartitionEOF(_)) = consumer.recv().await {
                    ends += 1;
                }
            }
        };
        let ready = tokio::time::timeout(READY, ends).await;
        ready.context("the consumer did not reach the end of the new topic")?;
        Ok(consumer)
    }

    /// Updates the slot's lag as long as the task lives.
    pub(crate) async fn watch_slot(&self) -> Result<(watch::Receiver<i64>, Task<()>)> {
        let session = self.connect().await?;
        let name = self.config.slot.clone();
        let (sender, lag) = watch::channel(0);
        let watching = tokio::spawn(async move {
            while let Ok(found) = slot::read(&session, &name).await {
                if let Some(slot) = found {
                    sender.send_replace(slot.lag_bytes);
                }
                tokio::time::sleep(POLL).await;
            }
        });
        Ok((lag, Task(watching)))
    }

    /// Stops and removes everything.
    pub(crate) async fn clear(self) -> Result<()> {
        let deleted = match self.mock {
            Some(_) => Ok(()),
            None => kafka::delete_topics(&self.config, &[&self.topic], ANSWER).await,
        };
        let server = self.server;
        tokio::task::spawn_blocking(move || drop(server))
            .await
            .context("cannot stop Postgres")?;
        Ok(deleted?)
    }
}

/// Silences the consumer, which would log each end of a partition and its connections.
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, _kind: &str, _line: &str) {}

    fn error(&self, _error: KafkaError, _reason: &str) {}
}

impl ConsumerContext for Quiet {}

/// A task that ends with its owner.
pub(crate) struct Task<T>(pub(crate) JoinHandle<T>);

impl<T> Task<T> {
    /// Its result, once. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> Result<T> {
        (&mut self.0)
            .await
            .context("a task of the demo was cancelled")
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Binds the given address, else the default of `run`, else any free port.
async fn listen(address: Option<&str>) -> Result<TcpListener> {
    if let Some(address) = address {
        return Ok(http::bind(address).await?);
    }
    match http::bind(SocketAddr::from(([127, 0, 0, 1], 9464))).await {
        Ok(listener) => Ok(listener),
        Err(_) => Ok(http::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?),
    }
}

async fn start_postgres(explicit: Option<PathBuf>, screen: &Screen) -> Result<Server> {
    let found = blocking(move || ephemeral::find(None, explicit.as_deref())).await?;
    let binaries = match found {
        Some(binaries) => binaries,
        None => {
            screen.fact("Postgres", "none found on this machine, downloading one")?;
            blocking(|| ephemeral::fetch(None)).await?
        }
    };
    let options = Options {
        socket_only: true,
        ..Options::default()
    };
    let server = blocking(move || Server::start(&binaries, options)).await?;
    let (version, port) = (server.version(), server.port());
    let folder = server.data_dir();
    screen.fact(
        "Postgres",
        &format!("{version}, socket {port}, in {}", folder.display()),
    )?;
    Ok(server)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context("the work was cancelled")?
}
