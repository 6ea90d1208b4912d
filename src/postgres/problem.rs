//! Something that is wrong at the server, and what mends it.

use crate::error::Code;

/// Something that is wrong, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(super) code: Code,
    /// For metrics and status: the same word for the same kind of thing.
    pub(crate) name: &'static str,
    /// Events that are committed while it stands never come by the slot.
    pub(crate) loses_events: bool,
    pub(crate) problem: String,
    pub(crate) remedy: String,
}

impl Fault {
    pub(crate) fn config(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Fault {
            code: Code::Config,
            name: "configuration",
            loses_events: false,
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    pub(crate) fn slot(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Fault {
            code: Code::Slot,
            ..Fault::config(problem, remedy)
        }
    }

    /// The same, of a kind that hides events from the slot.
    pub(crate) fn gap(self, name: &'static str) -> Self {
        Fault {
            name,
            loses_events: true,
            ..self
        }
    }
}
