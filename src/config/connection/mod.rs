//! A connection string by libpq's rules: its two forms, its options, services, the password file,
//! the authentication methods that it allows.

pub(in crate::config) mod conninfo;
pub(in crate::config) mod options;
pub(in crate::config) mod passfile;
pub(in crate::config) mod require_auth;
pub(in crate::config) mod service_file;

pub use self::require_auth::{AuthMethod, RequireAuth};
