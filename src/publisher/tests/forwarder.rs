//! A forwarder without a server: its broker never answers.

use std::sync::Arc;

use crate::config::{Config, Settings};
use crate::error::{Code, Error, Result};
use crate::metrics::Metrics;
use crate::publisher::sink::forwarder::Forwarder;
use crate::status::{Status, StatusBoard};

/// With this memory, or the default, and its configuration.
pub(crate) fn forwarder(memory_limit: Option<&str>) -> Result<(Arc<Config>, Forwarder)> {
    let config = Config::from_settings(Settings {
        database_url: Some("postgresql://outboxd@localhost/orders".to_owned()),
        kafka_brokers: Some("127.0.0.1:1".to_owned()),
        memory_limit: memory_limit.map(str::to_owned),
        ..Settings::default()
    });
    let config = Arc::new(config.map_err(|error| Error::fatal(Code::Config, error.to_string()))?);
    let board = StatusBoard::new(Status::new(String::new(), None, "outbox.outbox"));
    let metrics = Arc::new(Metrics::new("orders", "outboxd_orders"));
    let forwarder = Forwarder::new(&config, metrics, Arc::new(board))?;
    Ok((config, forwarder))
}
