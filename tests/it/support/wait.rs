//! Waits with a deadline, in place of sleeps.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Interval between two checks of a condition.
const POLL: Duration = Duration::from_millis(20);

/// Calls `attempt` until it returns a value. `None` means "not yet"; an error ends the wait at
/// once.
pub(crate) async fn wait_for<T, A>(what: &str, limit: Duration, mut attempt: A) -> Result<T>
where
    A: AsyncFnMut() -> Result<Option<T>>,
{
    wait_until(what, limit, async || {
        Ok(attempt().await?.ok_or_else(String::new))
    })
    .await
}

/// As [`wait_for`], for a condition that can report its state: the `Err` of the inner result is the
/// last state seen, and is printed at the time-out.
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
