//! Asks the server whether it accepts a statement, without running it: EXPLAIN resolves its names
//! and types, and checks the role's rights.

use std::error::Error as StdError;

use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Error};

/// Explains the statement with null for each of its parameters.
///
/// # Errors
/// The server's reason to refuse it.
pub(super) async fn explain(client: &Client, sql: &str) -> Result<(), Error> {
    let statement = client.prepare(&format!("EXPLAIN {sql}")).await?;
    let nulls = vec![Null; statement.params().len()];
    let nulls: Vec<_> = nulls
        .iter()
        .map(|null| null as &(dyn ToSql + Sync))
        .collect();
    client.query(&statement, &nulls).await.map(drop)
}

/// SQL null, as a value of any type.
#[derive(Debug, Clone, Copy)]
struct Null;

impl ToSql for Null {
    fn to_sql(
        &self,
        _type: &Type,
        _out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        Ok(IsNull::Yes)
    }

    fn accepts(_type: &Type) -> bool {
        true
    }

    to_sql_checked!();
}
