//! The arguments of `demo`.

use std::net::SocketAddr;
use std::path::PathBuf;

/// The arguments of `demo`.
#[derive(clap::Args)]
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
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http_listen: Option<SocketAddr>,

    /// Directory of the Postgres server programs [default: found on this machine, or downloaded
    /// once]
    #[arg(long, value_name = "DIR")]
    pub(crate) postgres_bin: Option<PathBuf>,
}
