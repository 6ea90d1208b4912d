//! `require_auth`: the authentication methods that a server may use, by libpq's rules.
//!
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-REQUIRE-AUTH>

use std::fmt;

use crate::config::error::InvalidValue;

/// How a server makes a client prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthMethod {
    /// Not at all: `trust`, `peer` and `cert` of pg_hba.conf.
    None,
    /// The password itself.
    Password,
    /// An MD5 hash of the password.
    Md5,
    /// SCRAM-SHA-256, with or without channel binding.
    ScramSha256,
    /// GSSAPI or Kerberos.
    Gss,
    /// SSPI.
    Sspi,
    /// A bearer token.
    OAuth,
}

impl AuthMethod {
    const ALL: [AuthMethod; 7] = [
        AuthMethod::None,
        AuthMethod::Password,
        AuthMethod::Md5,
        AuthMethod::ScramSha256,
        AuthMethod::Gss,
        AuthMethod::Sspi,
        AuthMethod::OAuth,
    ];

    /// libpq's name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            AuthMethod::None => "none",
            AuthMethod::Password => "password",
            AuthMethod::Md5 => "md5",
            AuthMethod::ScramSha256 => "scram-sha-256",
            AuthMethod::Gss => "gss",
            AuthMethod::Sspi => "sspi",
            AuthMethod::OAuth => "oauth",
        }
    }
}

impl fmt::Display for AuthMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The methods that a server may use; by default all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequireAuth {
    /// The methods of the list, and whether they are the forbidden ones.
    list: Option<(Vec<AuthMethod>, bool)>,
}

impl RequireAuth {
    /// Reads a list such as `scram-sha-256,md5` or `!password,!md5`.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidValue> {
        let hint = "write methods such as scram-sha-256,md5, or what to refuse: !password,!md5";
        let wrong = |problem: &str| Err(InvalidValue::new(problem.to_owned(), hint));
        let (mut methods, mut forbids) = (Vec::new(), None);
        for word in text.split(',') {
            let name = word.strip_prefix('!');
            let is_forbidden = name.is_some();
            if *forbids.get_or_insert(is_forbidden) != is_forbidden {
                return wrong("has a require_auth that both demands and refuses methods");
            }
            let name = name.unwrap_or(word);
            let known = AuthMethod::ALL.into_iter().find(|it| it.as_str() == name);
            match known {
                Some(method) if methods.contains(&method) => {
                    return wrong("has a require_auth that names a method twice");
                }
                Some(method) => methods.push(method),
                None => return wrong("has a require_auth with a method that libpq does not know"),
            }
        }
        Ok(RequireAuth {
            list: forbids.map(|forbids| (methods, forbids)),
        })
    }

    /// Whether the server may use this method.
    pub(crate) fn allows(&self, method: AuthMethod) -> bool {
        match &self.list {
            Some((methods, forbids)) => methods.contains(&method) != *forbids,
            None => true,
        }
    }

    /// Whether the list demands the method by its name.
    pub(crate) fn names(&self, method: AuthMethod) -> bool {
        self.list.is_some() && self.allows(method) && !matches!(self.list, Some((_, true)))
    }
}

impl fmt::Display for RequireAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((methods, forbids)) = &self.list else {
            return f.write_str("any method");
        };
        let mark = if *forbids { "!" } else { "" };
        let words = methods.iter().map(|method| format!("{mark}{method}"));
        f.write_str(&words.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_list_demands_its_methods_or_refuses_them() {
        let any = RequireAuth::default();
        assert!(AuthMethod::ALL.into_iter().all(|method| any.allows(method)));
        assert!(!any.names(AuthMethod::Password));
        let strong = RequireAuth::parse("scram-sha-256,gss").unwrap();
        assert!(strong.allows(AuthMethod::ScramSha256) && strong.allows(AuthMethod::Gss));
        assert!(!strong.allows(AuthMethod::None) && !strong.allows(AuthMethod::Password));
        assert_eq!(strong.to_string(), "scram-sha-256,gss");
        let weak = RequireAuth::parse("password").unwrap();
        assert!(weak.names(AuthMethod::Password));
        let not = RequireAuth::parse("!md5,!none").unwrap();
        assert!(!not.allows(AuthMethod::Md5) && not.allows(AuthMethod::Password));
        assert!(!not.names(AuthMethod::Password));
        for wrong in ["", "md5,!none", "md5,md5", "kerberos", " md5", "md5,"] {
            assert!(RequireAuth::parse(wrong).is_err(), "{wrong}");
        }
    }
}
