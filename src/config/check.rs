//! Reads the settings one by one and gathers what is wrong with them.

use crate::config::connection_options::Env;
use crate::config::database::Database;
use crate::config::error::{InvalidValue, SettingError};
use crate::config::variables;

/// Gathers faults; after one, the default stands in so that the rest can be checked too.
pub(super) struct Check {
    pub(super) errors: Vec<SettingError>,
}

impl Check {
    pub(super) fn or<T>(
        &mut self,
        setting: &str,
        given: Option<String>,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, InvalidValue>,
    ) -> T {
        match given.as_deref().map(|text| parse(text.trim())) {
            None => default,
            Some(Ok(value)) => value,
            Some(Err(wrong)) => {
                self.errors.push(wrong.of(setting));
                default
            }
        }
    }

    pub(super) fn required(
        &mut self,
        setting: &str,
        given: Option<String>,
        needed: bool,
        parse: impl FnOnce(&str) -> Result<String, InvalidValue>,
    ) -> String {
        if given.is_none() && needed {
            let wrong = InvalidValue::new(
                "is not set",
                "name the bootstrap servers as host:port,host:port",
            );
            self.errors.push(wrong.of(setting));
        }
        self.or(setting, given, String::new(), parse)
    }

    pub(super) fn database(
        &mut self,
        url: Option<String>,
        password_file: Option<String>,
        env: Env<'_>,
    ) -> Option<Database> {
        let Some(url) = url else {
            let hint = "write postgresql://user@host:5432/database";
            self.errors
                .push(InvalidValue::new("is not set", hint).of(variables::DATABASE_URL));
            return None;
        };
        Database::parse(url.trim(), password_file.as_deref(), env, &mut self.errors)
    }
}
