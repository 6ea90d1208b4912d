//! The statements that are prepared on one session, by their text: what runs again and again is
//! parsed once.
//!
//! A migration can make a prepared statement useless, because it may not return other types than
//! before. Such a statement is forgotten, and prepared again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Statement};

/// More than a session needs. Beyond it all are forgotten, so that memory stays bounded.
const STATEMENTS_MAX: usize = 100;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct StatementCache {
    known: Mutex<HashMap<String, Statement>>,
}

impl StatementCache {
    /// The statement, prepared on this session before or by this call.
    pub(super) async fn get(&self, client: &Client, sql: &str) -> Result<Statement, Error> {
        let known = self.with(|known| known.get(sql).cloned());
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = client.prepare(sql).await?;
        self.with(|known| {
            if known.len() >= STATEMENTS_MAX {
                known.clear();
            }
            known.insert(sql.to_owned(), statement.clone());
        });
        Ok(statement)
    }

    /// Runs a statement; once more if it was prepared before a migration.
    pub(super) async fn run<T, F: Future<Output = Result<T, Error>>>(
        &self,
        client: &Client,
        sql: &str,
        run: impl Fn(Statement) -> F,
    ) -> Result<T, Error> {
        match run(self.get(client, sql).await?).await {
            Err(error) if is_stale(&error) => {
                self.with(|known| known.remove(sql));
                run(self.get(client, sql).await?).await
            }
            result => result,
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<String, Statement>) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// `cached plan must not change result type`, or the server does not know the statement any more.
fn is_stale(error: &Error) -> bool {
    let states = [
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::INVALID_SQL_STATEMENT_NAME,
    ];
    error.code().is_some_and(|state| states.contains(state))
}
