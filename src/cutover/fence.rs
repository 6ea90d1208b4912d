//! Sets a fence, and lifts it, in one transaction each.
//!
//! A change of rights waits for no reader and no writer, but a statement that alters the table may
//! hold it up, so it gives up after a short time. Before the commit the server is asked whether the
//! fenced roles still read the payload: a role may have the right by another way as well.

use crate::cutover::{Catalog, Fence};
use crate::error::{Code, Error, Result};
use crate::postgres::{Columns, Session, TableShape};

const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '2s'";

const NOW: &str = "SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::int8";

/// A fence that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fenced {
    /// A time behind its commit, in microseconds of the server's clock since 1970.
    pub at: i64,
}

/// Sets the fence. `own` is outboxd's role, which has to read the table behind it.
///
/// # Errors
/// Of the server. `CONFIG_ERROR`: a role would read the table still, or `own` would not; nothing is
/// changed then.
pub async fn set(
    session: &Session,
    shape: &TableShape,
    fence: &Fence,
    own: &str,
) -> Result<Fenced> {
    change(session, &fence.statements(), || async {
        let catalog = Catalog::read(session, shape, None).await?;
        check(&catalog, fence, own)
    })
    .await
}

/// Restores the rights of before.
///
/// # Errors
/// Of the server; nothing is changed then.
pub async fn lift(session: &Session, fence: &Fence) -> Result<Fenced> {
    change(session, &fence.undo(), || async { Ok(()) }).await
}

async fn change<F>(
    session: &Session,
    statements: &[String],
    check: impl Fn() -> F,
) -> Result<Fenced>
where
    F: Future<Output = Result<()>>,
{
    let what = "changing the rights on the table";
    session.run(what, BEGIN).await?;
    let changed = async {
        for statement in statements {
            session.run(statement, statement).await?;
        }
        check().await
    };
    if let Err(error) = changed.await {
        session.run(what, "ROLLBACK").await?;
        return Err(error);
    }
    session.run(what, "COMMIT").await?;
    let at = session.row(what, NOW, &[]).await?.column(0)?;
    Ok(Fenced { at })
}

fn check(catalog: &Catalog, fence: &Fence, own: &str) -> Result<()> {
    let table = format!("{}.{}", fence.schema, fence.table);
    if let Some(role) = fence.roles.iter().find(|role| catalog.reads(role)) {
        let message = format!("role {role} would still read {table}: it has the right twice");
        let hint = "it has it from PUBLIC, from a role that it is a member of (fence that one with \
                    --role), from pg_read_all_data, or from another grantor";
        return Err(Error::fatal(Code::Config, message).with_hint(hint));
    }
    if !catalog.reads(own) && !catalog.is_superuser(own) {
        let message = format!("role {own}, which outboxd uses, would not read {table} any more");
        let hint = "`outboxd init --role outboxd` makes a role of its own: use it in DATABASE_URL";
        return Err(Error::fatal(Code::Config, message).with_hint(hint));
    }
    Ok(())
}
