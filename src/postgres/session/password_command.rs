//! A password that a command prints, such as a token that is valid for some minutes.
//!
//! The command runs before each connection, since the next token may be another one.

use std::borrow::Cow;
use std::time::Duration;

use crate::config::Database;
use crate::error::Result;
use crate::secret_command;

/// The database with the password of its command, if it has one. `limit` is that of the command.
///
/// # Errors
/// Transient: the command has no password now.
pub(crate) async fn with_password(
    database: &Database,
    limit: Duration,
) -> Result<Cow<'_, Database>> {
    let Some(command) = &database.password_command else {
        return Ok(Cow::Borrowed(database));
    };
    let password = secret_command::run(command.setting, &command.command, limit).await?;
    let mut database = database.clone();
    database.pg.password(password.expose());
    Ok(Cow::Owned(database))
}
