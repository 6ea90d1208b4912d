//! What a new session is: its server process, and whether it is one of its own.

use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;

use crate::config::Database;
use crate::error::{Code, Error, Result};
use crate::postgres::pooler;
use crate::postgres::session::{GRACE, Session, drive};

/// The simple protocol: a pooler may not know prepared statements.
const PROCESS: &str = "SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery()";

impl Session {
    /// Reads the server process. Where another one was announced, or none, a second session by `pg`
    /// shows whether a pooler shares the first.
    ///
    /// # Errors
    /// Fatal: a pooler shares it. Transient: the server is a standby; those of either session.
    pub(super) async fn identify(
        &mut self,
        database: &Database,
        pg: &tokio_postgres::Config,
    ) -> Result<()> {
        let what = "reading the server process";
        let messages = self
            .bounded(what, self.client.simple_query(PROCESS))
            .await?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((row.get(0)?.parse().ok()?, row.get(1)?)),
            _ => None,
        });
        let (pid, in_recovery) = row.ok_or_else(|| Error::fatal(Code::Connect, what))?;
        self.backend_pid = pid;
        if in_recovery == "t" {
            let message = format!("{} is a standby", database.describe());
            return Err(Error::transient(Code::Connect, message)
                .with_hint("the server is read-only: a standby, or not promoted yet"));
        }
        let announced = pooler::announced_pid(&self.cancel).await.map_err(|error| {
            Error::fatal(Code::Connect, "cannot read the connection's cancel key")
                .with_source(error)
        })?;
        if announced == pid {
            return Ok(());
        }
        match self.evidence_of_sharing(pg).await? {
            None => {
                tracing::debug!(pid, announced, "a proxy stands before the server");
                Ok(())
            }
            Some(evidence) => {
                let database = database.describe();
                let message = format!("{database} is a connection pooler: {evidence}");
                Err(Error::fatal(Code::Connect, message).with_hint(
                    "connect to Postgres itself, or let the pooler give each client a server \
                     session of its own",
                ))
            }
        }
    }

    async fn evidence_of_sharing(&self, pg: &tokio_postgres::Config) -> Result<Option<String>> {
        let what = "a second session beside the first";
        let opened = self.bounded(what, pg.connect(self.tls.clone())).await?;
        let (other, connection) = opened;
        let task = tokio::spawn(drive(connection));
        let compared = self
            .bounded(what, pooler::evidence(&self.client, &other))
            .await;
        drop(other);
        // The session ends by itself, and with this task at the latest.
        let mut task = task;
        if timeout(GRACE, &mut task).await.is_err() {
            task.abort();
        }
        compared
    }
}
