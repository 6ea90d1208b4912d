//! What is wrong with the settings, all of it at once, so that a person mends a configuration in
//! one go.
//!
//! A fault never holds a secret: [`shown`] decides which texts may be quoted, and what comes from a
//! connection string or a Kafka property is not quoted at all.

use std::fmt;

use crate::error::{Code, Error};

/// What is wrong with a value and what to do about it; becomes a [`Fault`] where the name of the
/// setting is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) problem: String,
    pub(crate) remedy: String,
}

impl Wrong {
    pub(crate) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Wrong {
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    pub(crate) fn of(self, setting: impl Into<String>) -> Fault {
        Fault {
            setting: setting.into(),
            problem: self.problem,
            remedy: self.remedy,
        }
    }
}

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    setting: String,
    problem: String,
    remedy: String,
}

impl Fault {
    /// The setting, by its environment variable or, where only a file can hold it, by its place in
    /// the file.
    pub fn setting(&self) -> &str {
        &self.setting
    }

    /// What is wrong with it.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// What to do about it.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}; {}", self.setting, self.problem, self.remedy)
    }
}

/// Everything that is wrong with the settings; never empty. Printed as one line a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// `Ok` when nothing is wrong.
    pub(crate) fn unless_none(faults: Vec<Fault>) -> Result<(), Faults> {
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Faults(faults))
        }
    }

    /// The faults, in the order of the manual's table of settings.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

impl From<Faults> for Error {
    fn from(faults: Faults) -> Error {
        let message = match faults.0.as_slice() {
            [only] => format!("{} {}", only.setting, only.problem),
            all => all
                .iter()
                .map(Fault::to_string)
                .collect::<Vec<_>>()
                .join(". "),
        };
        let error = Error::fatal(Code::Config, message);
        match faults.0.as_slice() {
            [only] => error.hint(only.remedy.clone()),
            _ => error,
        }
    }
}

/// The text as a fault may quote it: on one line, and not if it is long or may be secret.
pub(crate) fn shown(text: &str) -> String {
    if text.len() > 80 || may_be_secret(text) {
        "the value".to_owned()
    } else {
        format!("`{}`", text.escape_debug())
    }
}

/// Whether the text could be a connection string that went to the wrong setting.
pub(crate) fn may_be_secret(text: &str) -> bool {
    text.contains('@') || text.contains("://") || text.contains("password")
}
