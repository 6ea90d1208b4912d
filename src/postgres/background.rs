//! Work with a transaction in the database goes on whatever its owner waits for.
//!
//! A transaction holds locks between its statements. If the owner of the work waited for a
//! statement that needs one of them, and the work went on only in the owner's turns, neither would
//! ever end. So it is a task of its own.

use tokio::task::JoinHandle;

/// Work that runs beside its owner, and is cancelled with it.
#[derive(Debug)]
pub(crate) struct Background<T>(JoinHandle<T>);

impl<T: Send + 'static> Background<T> {
    /// Begins the work.
    pub(crate) fn begin(work: impl Future<Output = T> + Send + 'static) -> Self {
        Background(tokio::spawn(work))
    }

    /// Waits for its end. Cancel-safe; not to be called again behind the end.
    pub(crate) async fn ended(&mut self) -> T {
        match (&mut self.0).await {
            Ok(value) => value,
            // Only the owner cancels it, when nothing waits for it any more.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_while_its_owner_waits_for_something_else() {
        let (holds, held) = oneshot::channel();
        let mut work = Background::begin(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let _received = holds.send(());
            7
        });
        // The owner waits for what only the work brings, and not for the work.
        let brought = timeout(Duration::from_secs(10), held).await;
        assert!(brought.is_ok_and(|it| it.is_ok()));
        assert_eq!(work.ended().await, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_its_owner() {
        let (holds, held) = oneshot::channel::<()>();
        let work = Background::begin(async move {
            let _kept = holds;
            std::future::pending::<()>().await;
        });
        drop(work);
        let ended = timeout(Duration::from_secs(10), held).await;
        assert!(ended.is_ok_and(|it| it.is_err()), "what it held is dropped");
    }
}
