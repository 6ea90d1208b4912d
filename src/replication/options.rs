//! How a session is opened, and over what.

use std::time::Duration;

/// The time-outs and the name of a session.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// After this much silence from the client the server ends the stream, which frees its locks
    /// and the slot.
    pub wal_sender_timeout: Duration,
    /// The same while the session does not stream.
    pub idle_session_timeout: Duration,
    /// How long the server may take to answer a command, except the creation of a slot.
    pub command_timeout: Duration,
    /// The session's name in `pg_stat_activity` and in the server's log.
    pub application_name: String,
}

/// The transport below a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP, with or without TLS.
    Tcp,
    /// A Unix socket.
    Unix,
}
