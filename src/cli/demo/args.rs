//! The arguments of `demo`.

use std::net::SocketAddr;
use std::path::PathBuf;

/// The arguments of `demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many events to publish; 0 goes on until Ctrl-C
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) events: u64,

    /// Events a second; above 20 they are shown summed up
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,

    /// A Kafka to use instead of the one inside this process: host:port,host:port
    #[arg(
        long,
        env = "KAFKA_BROKERS",
        hide_env_values = true,
        value_name = "LIST"
    )]
    pub(crate) kafka_brokers: Option<String>,

    /// Properties of librdkafka for it: key=value,key=value
    #[arg(
        long,
        env = "KAFKA_PROPERTIES",
        hide_env_values = true,
        value_name = "LIST"
    )]
    pub(crate) kafka_properties: Option<String>,

    /// Where metrics, health and the status page are served [default: 127.0.0.1:9464, or a free
    /// port]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http_listen: Option<SocketAddr>,

    /// The folder of a Postgres server's programs [default: found on this machine, or fetched once]
    #[arg(long, value_name = "DIR")]
    pub(crate) postgres_bin: Option<PathBuf>,
}
