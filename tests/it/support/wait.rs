//! Waiting with a deadline, in place of sleeping and hoping.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Asks `attempt` until it gives a value. `None` of it means "not yet"; an error ends the wait at once.
pub(crate) async fn wait_for<T, A>(what: &str, limit: Duration, mut attempt: A) -> Result<T>
where
    A: AsyncFnMut() -> Result<Option<T>>,
{
    wait_until(what, limit, async || {
        Ok(attempt().await?.ok_or_else(String::new))
    })
    .await
}

/// The same for a condition that can tell how far it is: the `Err` of the inner result is the state as it was last seen, and is
/// printed when the time is up.
pub(crate) async fn wait_until<T, A>(what: &str, limit: Duration, mut attempt: A) -> Result<T>
where
    A: AsyncFnMut() -> Result<Result<T, String>>,
{
    let end = Instant::now() + limit;
    loop {
        match attempt().await? {
            Ok(value) => return Ok(value),
            Err(state) if Instant::now() >= end => {
                bail!("waited {limit:?} in vain for {what}; last seen: {state}")
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}
