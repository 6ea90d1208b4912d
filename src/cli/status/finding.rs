//! What the command found, for a person: a fact, and what to do about it.

use std::error::Error as StdError;

use outboxd::error::Error;
use serde::{Serialize, Serializer};

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) text: String,
    pub(super) hint: Option<String>,
}

impl Finding {
    pub(super) fn new(text: impl Into<String>, hint: impl Into<String>) -> Finding {
        Finding {
            text: text.into(),
            hint: Some(hint.into()),
        }
    }

    /// One that explains itself.
    pub(super) fn plain(text: impl Into<String>) -> Finding {
        Finding {
            text: text.into(),
            hint: None,
        }
    }

    /// In one line.
    pub(super) fn line(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{} ({hint})", self.text),
            None => self.text.clone(),
        }
    }
}

impl Finding {
    /// One for each problem of the error.
    pub(super) fn all(error: &Error) -> Vec<Finding> {
        if error.problems().is_empty() {
            return vec![Finding::from(error)];
        }
        let code = error.code();
        let problems = error.problems().iter();
        problems
            .map(|(text, hint)| Finding::new(format!("{code}: {text}"), hint))
            .collect()
    }
}

impl From<&Error> for Finding {
    fn from(error: &Error) -> Finding {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Finding {
            text,
            hint: error.hint().map(str::to_owned),
        }
    }
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.line())
    }
}
