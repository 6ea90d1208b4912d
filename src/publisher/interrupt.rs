//! Why a step of a table scan ended early.
//!
//! An error type, so that `?` passes on a stop like an error.

use crate::error::Error;

/// See the module's head.
#[derive(Debug)]
pub(in crate::publisher) enum Interrupt {
    /// A stop was requested.
    Stopped,
    /// The step failed.
    Failed(Error),
}

impl From<Error> for Interrupt {
    fn from(error: Error) -> Self {
        Interrupt::Failed(error)
    }
}
