//! Whether somebody wants the publisher to stop.

use tokio::sync::watch;

/// A publisher that was dropped instead of stopped has nobody to tell; it stops all the same.
pub(crate) fn stop_requested(stop: &watch::Receiver<bool>) -> bool {
    *stop.borrow() || stop.has_changed().is_err()
}
