//! A problem at the server, and its fix.

use crate::error::Code;

/// A problem at the server, and its fix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerProblem {
    pub(crate) code: Code,
    /// For metrics and status: the same word for the same kind of problem.
    pub(crate) name: &'static str,
    /// Whether the slot never delivers events that are committed while the problem stands.
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

    /// The same problem, of a kind with a name of its own.
    pub(crate) fn named(self, name: &'static str) -> Self {
        ServerProblem { name, ..self }
    }

    /// The same problem, of a kind that keeps events from the slot.
    pub(crate) fn gap(self, name: &'static str) -> Self {
        ServerProblem {
            name,
            loses_events: true,
            ..self
        }
    }
}
