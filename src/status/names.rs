//! The names that status, metrics and alerts share. A name is a contract: alerts match it.

use crate::status::Phase;

/// Every named wait.
pub(crate) const WAITS: [&str; 8] = [
    "kafka",
    "postgres",
    "write-back",
    "standby",
    "snapshot",
    "decoding",
    "lock",
    "foreign-lock",
];

/// The problem of a partition that is not made ahead, or not taken away.
pub(crate) const PARTITIONS: &str = "partitions";

/// Every kind of problem.
pub(crate) const PROBLEMS: [&str; 12] = [
    "not-published",
    "publication-missing",
    "table-missing",
    "table-unlogged",
    "table-inherited",
    "configuration",
    "synchronous-standby",
    "slot-nearly-lost",
    "topics-parked",
    "missed-events",
    "partitions",
    "somebody-else-publishes",
];

/// Another program marks rows as published, so it publishes their events too.
pub(crate) const SOMEBODY_ELSE_PUBLISHES: &str = "somebody-else-publishes";

/// Every value of the server's `wal_status`.
pub(crate) const WAL_STATUSES: [&str; 4] = ["reserved", "extended", "unreserved", "lost"];

impl Phase {
    /// All phases.
    pub(crate) const ALL: [Phase; 9] = [
        Phase::Connecting,
        Phase::Standby,
        Phase::Backlog,
        Phase::Streaming,
        Phase::Polling,
        Phase::Reconnecting,
        Phase::Stopping,
        Phase::Stopped,
        Phase::Failed,
    ];

    /// The name in status and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Phase::Connecting => "connecting",
            Phase::Standby => "standby",
            Phase::Backlog => "backlog",
            Phase::Streaming => "streaming",
            Phase::Polling => "polling",
            Phase::Reconnecting => "reconnecting",
            Phase::Stopping => "stopping",
            Phase::Stopped => "stopped",
            Phase::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_has_one_name_in_status_and_metrics() -> Result<(), serde_json::Error> {
        for phase in Phase::ALL {
            let name = serde_json::to_value(phase)?;
            assert_eq!(name, phase.as_str());
        }
        Ok(())
    }
}
