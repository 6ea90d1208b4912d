//! One error type for the whole library: a code to look up, a message that names the thing, what to
//! do, and the cause.
//!
//! The message never repeats its source and never contains a secret: connection strings do not
//! enter errors. The place that creates an error decides whether it ends the publisher or is
//! retried ([`Disposition`]).

use std::error::Error as StdError;
use std::fmt;

/// The result of every fallible function of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// The kind of thing that failed. The printed form is stable: alerts and the label of
/// `outbox_errors_total` use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Code {
    /// A setting is wrong, or the thing that it names (such as a table without a needed column).
    /// Exit code 2.
    Config,
    /// A server could not be reached, or refused the connection.
    Connect,
    /// The replication slot or the publication is not usable.
    Slot,
    /// The server broke the replication protocol, or a stream ended.
    Replication,
    /// Kafka rejected an event.
    Publish,
    /// The outbox table could not be read or written.
    Write,
    /// Start or stop was called at the wrong time, or a stop took too long.
    Lifecycle,
}

impl Code {
    /// All codes.
    pub(crate) const ALL: [Code; 7] = [
        Code::Config,
        Code::Connect,
        Code::Slot,
        Code::Replication,
        Code::Publish,
        Code::Write,
        Code::Lifecycle,
    ];

    /// The stable name, such as `PUBLISH_ERROR`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::Config => "CONFIG_ERROR",
            Code::Connect => "CONNECT_ERROR",
            Code::Slot => "SLOT_ERROR",
            Code::Replication => "REPLICATION_ERROR",
            Code::Publish => "PUBLISH_ERROR",
            Code::Write => "WRITE_ERROR",
            Code::Lifecycle => "LIFECYCLE_ERROR",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an error means for the publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It may pass by itself: outboxd retries with back-off.
    Transient,
    /// It will not pass without a person: the publisher ends.
    Fatal,
}

/// An error of this library: code, message, what to do, and the cause as
/// [`source`](StdError::source).
pub struct Error(Box<Inner>);

struct Inner {
    code: Code,
    disposition: Disposition,
    message: String,
    hint: Option<String>,
    /// Several problems at once, each with what to do.
    problems: Vec<(String, String)>,
    /// The code of the dead letter that the error makes of its event, if it is not the usual one.
    #[cfg(feature = "publisher")]
    rejection_code: Option<&'static str>,
    source: Option<Source>,
}

impl Error {
    /// An error that ends the publisher. `message` names the thing, without a full stop and without
    /// the cause.
    pub(crate) fn fatal(code: Code, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            code,
            disposition: Disposition::Fatal,
            message: message.into(),
            hint: None,
            problems: Vec::new(),
            #[cfg(feature = "publisher")]
            rejection_code: None,
            source: None,
        }))
    }

    /// A fatal error for several problems, each with what to do about it. The message has them all.
    pub(crate) fn of_problems(code: Code, problems: Vec<(String, String)>) -> Self {
        let all = problems
            .iter()
            .map(|(text, hint)| format!("{text} ({hint})"));
        let mut error = Error::fatal(code, all.collect::<Vec<_>>().join("; "));
        error.0.problems = problems;
        error
    }

    /// An error that is retried.
    pub(crate) fn transient(code: Code, message: impl Into<String>) -> Self {
        let mut error = Error::fatal(code, message);
        error.0.disposition = Disposition::Transient;
        error
    }

    /// Makes the error transient, where the caller knows that it may pass.
    pub(crate) fn into_transient(mut self) -> Self {
        self.0.disposition = Disposition::Transient;
        self
    }

    /// Adds what the reader can do about it.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the code of the dead letter that the error makes of its event.
    #[cfg(feature = "publisher")]
    pub(crate) fn with_rejection_code(mut self, code: &'static str) -> Self {
        self.0.rejection_code = Some(code);
        self
    }

    /// The code of the dead letter that the error makes of its event, if it is not the usual one.
    #[cfg(feature = "publisher")]
    pub(crate) fn rejection_code(&self) -> Option<&'static str> {
        self.0.rejection_code
    }

    /// Adds the cause.
    pub(crate) fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The kind of thing that failed.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Whether it may pass by itself.
    pub fn disposition(&self) -> Disposition {
        self.0.disposition
    }

    /// Whether it may pass by itself.
    pub fn is_transient(&self) -> bool {
        self.0.disposition == Disposition::Transient
    }

    /// What went wrong, without code, cause and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The problems of an error that has several, each with what to do about it; otherwise none.
    pub fn problems(&self) -> &[(String, String)] {
        &self.0.problems
    }

    /// All of the error in one line: `CODE: message: cause: cause of the cause (what to do)`.
    pub fn report(&self) -> String {
        format!("{}: {}", self.0.code, self.describe())
    }

    /// The message and its causes, without code and hint.
    pub(crate) fn reason(&self) -> String {
        let mut line = self.0.message.clone();
        let mut cause = StdError::source(self);
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }

    /// The report without the code, for a place that shows the code in a field of its own.
    pub fn describe(&self) -> String {
        let mut line = self.reason();
        if let Some(hint) = self.hint() {
            line.push_str(" (");
            line.push_str(hint);
            line.push(')');
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("code", &self.0.code)
            .field("disposition", &self.0.disposition)
            .field("message", &self.0.message)
            .field("hint", &self.0.hint)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// The text as an error may quote it: on one line, and replaced if it is long or may be secret.
pub(crate) fn shown(text: &str) -> String {
    if text.len() > 80 || may_be_secret(text) {
        "the value".to_owned()
    } else {
        format!("`{}`", text.escape_debug())
    }
}

/// Whether the text could be a connection string, given to the wrong setting or argument.
#[doc(hidden)]
pub fn may_be_secret(text: &str) -> bool {
    text.contains('@') || text.contains("://") || text.contains("password")
}

/// The first error of this type among the causes.
pub(crate) fn cause_of<E: StdError + 'static>(error: &dyn StdError) -> Option<&E> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_code_message_causes_and_remedy_in_one_line() {
        let io = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused");
        let error = Error::transient(Code::Connect, "no connection to Postgres at db:5432")
            .with_source(io)
            .with_hint("is the server up?");
        assert_eq!(
            error.report(),
            "CONNECT_ERROR: no connection to Postgres at db:5432: connection refused \
             (is the server up?)"
        );
        assert_eq!(
            error.describe(),
            "no connection to Postgres at db:5432: connection refused (is the server up?)"
        );
        assert!(error.is_transient());
    }
}
