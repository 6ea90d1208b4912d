//! The first steps of an attempt to stream: two connections to one server, the preflight checks,
//! the lock.
//!
//! Changes nothing on the server but the lock. Refuses a pair of connections to different servers:
//! positions of one mean nothing on the other.

use std::sync::Once;

use crate::config::Config;
use crate::engine::output::WAL_SENDER_TIMEOUT;
use crate::error::{Code, Error, Result};
use crate::outbox::check_statements;
use crate::postgres::walsender::APPLICATION_NAME;
use crate::postgres::{self, Lineage, Server, ServerProblem, Session, TableShape, preflight};
use crate::publisher::instance_lock::{self, Tenure};
use crate::replication::{IdentifySystem, ReplicationClient, SessionOptions};

/// Once a process: the connections of one process are all alike.
fn warn_of_clear_text(client: &ReplicationClient) {
    static WARNED: Once = Once::new();
    if client.leaves_in_clear() {
        WARNED.call_once(|| {
            tracing::warn!(
                server = client.describe(),
                "the connection to Postgres crosses a network without TLS: \
                 write sslmode=verify-full in the database URL"
            );
        });
    }
}

/// A replication connection to the server of an SQL session.
pub(in crate::publisher) struct Replication {
    pub(in crate::publisher) client: ReplicationClient,
    pub(in crate::publisher) server: Server,
    pub(in crate::publisher) identity: IdentifySystem,
}

impl Replication {
    /// Connects. `server` is that of the session.
    ///
    /// # Errors
    /// Of the connection; transient if it is to another server.
    pub(in crate::publisher) async fn open(
        config: &Config,
        server: &Server,
        application_name: &str,
    ) -> Result<Self> {
        let options = SessionOptions {
            application_name: application_name.to_owned(),
            command_timeout: config.operation_timeout,
            wal_sender_timeout: WAL_SENDER_TIMEOUT,
            idle_session_timeout: WAL_SENDER_TIMEOUT,
        };
        let mut client = ReplicationClient::connect(&config.database, &options).await?;
        client.limit_rows(config.row_bytes_max());
        warn_of_clear_text(&client);
        let identity = client.identify_system().await?;
        let lineage = Lineage {
            system_id: identity.system_id,
            timeline: identity.timeline,
        };
        let process = client.identify_process().await?;
        let found = Server {
            lineage,
            postmaster_start: process.postmaster_start,
            ..server.clone()
        };
        if !server.is_same(&found) {
            let message = "the SQL and the replication connection are on different servers";
            return Err(Error::transient(Code::Connect, message));
        }
        // The replication connection knows the lineage, whatever the role may read over SQL.
        Ok(Replication {
            client,
            server: found,
            identity,
        })
    }
}

/// One attempt's connections, all on one server.
pub(crate) struct Connections {
    pub(crate) session: Session,
    pub(crate) client: ReplicationClient,
    pub(crate) server: Server,
    pub(crate) identity: IdentifySystem,
    pub(crate) shape: TableShape,
    pub(crate) tenure: Tenure,
}

impl Connections {
    /// Carries out all steps before the slot; `None` when another session holds the lock.
    ///
    /// # Errors
    /// Of the server, and the problems found there with role, table, publication or slot. Those are
    /// left in `problems` as well (`None`: not inspected).
    pub(crate) async fn open(
        config: &Config,
        problems: &mut Option<Vec<ServerProblem>>,
    ) -> Result<Option<Self>> {
        let (database, timeout) = (&config.database, config.operation_timeout);
        let session = postgres::connect_for_slots(database, "outboxd", timeout).await?;
        let server = postgres::server(&session).await?;
        let inspection = preflight::inspect(&session, config).await?;
        *problems = Some(inspection.problems.clone());
        let shape = inspection.verdict()?;
        check_statements(&session, config, &shape).await?;
        let Replication {
            mut client,
            server,
            identity,
        } = Replication::open(config, &server, APPLICATION_NAME).await?;
        if !instance_lock::take(&mut client, &config.slot, shape.oid).await? {
            return Ok(None);
        }
        let tenure = Tenure::begin(client.backend_pid(), &session, config).await?;
        Ok(Some(Connections {
            session,
            client,
            server,
            identity,
            shape,
            tenure,
        }))
    }
}
