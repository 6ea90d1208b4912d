//! Something that is wrong at the server, and what mends it.

use crate::error::Code;

/// Something that is wrong, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerProblem {
    pub(super) code: Code,
    /// For metrics and status: the same word for the same kind of thing.
    pub(crate) name: &'static str,
    /// Events that are committed while it stands never come by the slot.
    pub(crate) loses_events: bool,
    pub(crate) problem: String,
    pub(crate) hint: String,
}

impl ServerProblem {
    pub(crate) fn config(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        ServerProblem {
            code: Code::Config,
            name: "configuration",
            loses_events: false,
            problem: problem.into(),
            hint: hint.into(),
        }
    }

    pub(crate) fn slot(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        ServerProblem {
            code: Code::Slot,
            ..ServerProblem::config(problem, hint)
        }
    }

    /// The same, of a kind that hides events from the slot.
    pub(crate) fn gap(self, name: &'static str) -> Self {
        ServerProblem {
            name,
            loses_events: true,
            ..self
        }
    }
}
