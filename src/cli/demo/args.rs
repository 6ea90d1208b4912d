//! The arguments of `demo`.

use std::path::PathBuf;

use outboxd::config::listen_address;

/// The arguments of `demo`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  outboxd demo
  outboxd demo --events 0 --rate 200
  outboxd demo --kafka-brokers localhost:9092")]
pub(crate) struct Args {
    /// Number of events to publish; 0 continues until Ctrl-C
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) events: u64,

    /// Events per second; above 20, one line per second summarizes them
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,

    /// Kafka to use instead of the in-process one: host:port,host:port
    #[arg(
        long,
        env = "KAFKA_BROKERS",
        hide_env_values = true,
        value_name = "LIST"
    )]
    pub(crate) kafka_brokers: Option<String>,

    /// librdkafka properties for that Kafka: key=value,key=value
    #[arg(
        long,
        env = "KAFKA_PROPERTIES",
        hide_env_values = true,
        value_name = "LIST"
    )]
    pub(crate) kafka_properties: Option<String>,

    /// Address of metrics, health and the status page [default: 127.0.0.1:9464, or a free port]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) http_listen: Option<String>,

    /// Directory of the Postgres server programs [default: found on this machine, or downloaded
    /// once]
    #[arg(long, value_name = "DIR")]
    pub(crate) postgres_bin: Option<PathBuf>,
}

/// The demo always serves its page.
fn address(text: &str) -> Result<String, String> {
    listen_address(text)?.ok_or_else(|| "the demo cannot do without its page".to_owned())
}
