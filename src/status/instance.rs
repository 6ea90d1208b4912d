//! Which instance this is: host, version, database.

use std::fs;

use serde::Serialize;

/// The process and what it serves.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Instance {
    /// The name of the machine or container.
    pub host: String,
    /// The process id on it.
    pub pid: u32,
    /// outboxd's version.
    pub version: &'static str,
    /// The servers, the database and the role, such as `db.example:5432/orders as outboxd`.
    pub database: String,
    /// Seconds since the start.
    pub uptime_seconds: f64,
}

impl Instance {
    /// `database`: in words, without a secret.
    pub(crate) fn new(database: String) -> Self {
        Instance {
            host: host(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION"),
            database,
            uptime_seconds: 0.0,
        }
    }
}

/// The kernel's host name; a container has its own.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok());
    let name = name.map(|name| name.trim().to_owned());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "?".to_owned())
}
