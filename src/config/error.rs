//! The problems of the settings, gathered so that a person can fix a configuration in one go.
//!
//! An error never contains a secret: [`shown`](crate::error::shown) decides which texts may be
//! quoted, and nothing from a connection string or a Kafka property is quoted.

use std::fmt;

use crate::error::{Code, Error};

/// The problem of a setting that is required.
pub(crate) const NOT_SET: &str = "is not set";

/// A problem of a value and its fix; becomes a [`SettingError`] where the name of the setting is
/// known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InvalidValue {
    pub(crate) problem: String,
    pub(crate) hint: String,
}

impl InvalidValue {
    pub(crate) fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        InvalidValue {
            problem: problem.into(),
            hint: hint.into(),
        }
    }

    pub(crate) fn of(self, setting: impl Into<String>) -> SettingError {
        SettingError {
            setting: setting.into(),
            problem: self.problem,
            hint: self.hint,
        }
    }
}

impl From<Error> for InvalidValue {
    fn from(error: Error) -> InvalidValue {
        InvalidValue::new(error.message(), error.hint().unwrap_or_default())
    }
}

/// One problem of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingError {
    setting: String,
    problem: String,
    hint: String,
}

impl SettingError {
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
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}; {}", self.setting, self.problem, self.hint)
    }
}

/// Every problem of the settings; never empty. Printed as one line per problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingErrors(Vec<SettingError>);

impl SettingErrors {
    /// `Ok` when there is no problem.
    pub(crate) fn unless_none(errors: Vec<SettingError>) -> Result<(), SettingErrors> {
        if errors.is_empty() {
            Ok(())
        } else {
            Err(SettingErrors(errors))
        }
    }

    /// Adds to each setting that is not set the variable that `similar` finds for it.
    pub(crate) fn suggest(mut self, similar: impl Fn(&str) -> Option<String>) -> SettingErrors {
        for error in self.0.iter_mut().filter(|error| error.problem == NOT_SET) {
            if let Some(name) = similar(&error.setting) {
                error.hint = format!("{name} is set: did you mean {}?", error.setting);
            }
        }
        self
    }

    /// The problems: those of the file first, then in the order of the manual's table of settings.
    pub fn iter(&self) -> std::slice::Iter<'_, SettingError> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a SettingErrors {
    type Item = &'a SettingError;
    type IntoIter = std::slice::Iter<'a, SettingError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for SettingErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingErrors {}

impl From<SettingErrors> for Error {
    fn from(errors: SettingErrors) -> Error {
        let message = match errors.0.as_slice() {
            [only] => format!("{} {}", only.setting, only.problem),
            all => all
                .iter()
                .map(SettingError::to_string)
                .collect::<Vec<_>>()
                .join(". "),
        };
        let error = Error::fatal(Code::Config, message);
        match errors.0.as_slice() {
            [only] => error.with_hint(only.hint.clone()),
            _ => error,
        }
    }
}
