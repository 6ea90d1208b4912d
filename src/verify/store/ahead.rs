//! Reads buckets on a second thread while the caller is at work on the ones before.

use std::sync::mpsc::sync_channel;
use std::thread::{Builder, scope};

use crate::error::{Code, Error, Result};

/// Calls `take` with each bucket's number and what `read` returns for it, in their order. One more
/// bucket is in memory than the one at work.
///
/// # Errors
/// The first one of `read` or `take`, or the system refuses a thread.
pub(in crate::verify) fn each<T: Send>(
    buckets: usize,
    read: impl Fn(usize) -> Result<T> + Send,
    mut take: impl FnMut(usize, T) -> Result<()>,
) -> Result<()> {
    scope(|scope| {
        // The thread ends when its receiver has gone, which is before the scope's end.
        let (sender, receiver) = sync_channel(0);
        let work = move || {
            let mut each = (0..buckets).map(read);
            let _all_are_read = each.all(|bucket| sender.send(bucket).is_ok());
        };
        let thread = Builder::new().name("verify".to_owned());
        thread.spawn_scoped(scope, work).map_err(|error| {
            let message = "cannot start the thread that reads the temporary files";
            Error::fatal(Code::Lifecycle, message).with_source(error)
        })?;
        let mut buckets = receiver.into_iter().enumerate();
        buckets.try_for_each(|(number, bucket)| take(number, bucket?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Error {
        Error::fatal(Code::Lifecycle, "of the test")
    }

    #[test]
    fn every_bucket_comes_in_its_place() {
        let mut taken = Vec::new();
        let each = each(
            100,
            |number| Ok(number * 2),
            |number, twice| {
                taken.push((number, twice));
                Ok(())
            },
        );
        assert!(each.is_ok());
        let expected: Vec<_> = (0..100).map(|number| (number, number * 2)).collect();
        assert_eq!(taken, expected);
    }

    #[test]
    fn an_error_of_either_side_ends_both() {
        let read = |number| match number {
            7 => Err(failed()),
            _ => Ok(()),
        };
        let mut count = 0;
        let ended = each(100, read, |_, ()| {
            count += 1;
            Ok(())
        });
        assert!(ended.is_err());
        assert_eq!(count, 7);
        let ended = each(
            100,
            |_| Ok(()),
            |number, ()| match number {
                3 => Err(failed()),
                _ => Ok(()),
            },
        );
        assert!(ended.is_err());
    }
}
