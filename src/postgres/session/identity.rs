//! What a new session is: its server process, and whether it is one of its own.

use tokio::time::timeout;
use tokio_postgres::{Config, SimpleQueryMessage};

use crate::config::Database;
use crate::error::{Code, Error, Result};
use crate::postgres::pooler;
use crate::postgres::session::columns::other_shape;
use crate::postgres::session::open::enter;
use crate::postgres::session::{GRACE, Session, drive};
use crate::postgres::transport::{Obstacle, Reached};

/// The simple protocol: a pooler may not know prepared statements.
const PROCESS: &str = "SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery()";

impl Session {
    /// Reads the server process. Where another one was announced, or none, a second session by `pg`
    /// shows whether a pooler shares the first. `address` names the server in errors.
    ///
    /// # Errors
    /// Fatal: a pooler shares it. Transient: the server is a standby; those of either session.
    pub(super) async fn identify(
        &mut self,
        database: &Database,
        pg: &Config,
        address: &str,
    ) -> Result<()> {
        let what = "reading the server process";
        let messages = self
            .bounded(what, self.client.simple_query(PROCESS))
            .await?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let text = |at| row.try_get(at).ok().flatten();
                Some((text(0)?.parse().ok()?, text(1)?))
            }
            _ => None,
        });
        let (pid, in_recovery) = row.ok_or_else(other_shape)?;
        self.backend_pid = pid;
        if in_recovery == "t" {
            let message = format!("cannot connect to Postgres at {address}");
            return Err(Error::transient(Code::Connect, message)
                .with_source(Obstacle::ReadOnly)
                .with_hint("name the primary, or all hosts of the cluster"));
        }
        let announced = pooler::announced_pid(&self.cancel).await.map_err(|error| {
            Error::fatal(Code::Connect, "cannot read the connection's cancel key")
                .with_source(error)
        })?;
        if announced == pid {
            return Ok(());
        }
        match self.evidence_of_sharing(database, pg).await? {
            None => {
                tracing::debug!(pid, announced, "a proxy stands before the server");
                Ok(())
            }
            Some(evidence) => {
                let message = format!("{address} is a connection pooler: {evidence}");
                Err(Error::fatal(Code::Connect, message).with_hint(
                    "connect to Postgres itself, or let the pooler give each client a server \
                     session of its own",
                ))
            }
        }
    }

    async fn evidence_of_sharing(
        &self,
        database: &Database,
        pg: &Config,
    ) -> Result<Option<String>> {
        let what = "a second session beside the first";
        let second = |reached: Reached| enter(database, pg, reached);
        let (other, connection, _) = self.route.host(self.host, &second).await?;
        let mut task = tokio::spawn(drive(connection));
        let compared = self
            .bounded(what, pooler::evidence(&self.client, &other))
            .await;
        drop(other);
        // The session ends by itself, and with this task at the latest.
        if timeout(GRACE, &mut task).await.is_err() {
            task.abort();
        }
        compared
    }
}
