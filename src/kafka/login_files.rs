//! The files with passwords, keys and certificates, of which each is read once for a new client.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{Config, InvalidValue, Secret, whole_file};
use crate::fnv::fnv1a_64;
use crate::kafka::connection_hint;

/// The most files of a folder that are read.
const FILES_MAX: usize = 1_000;

/// A digest of the contents of the password file, of all files and folders that `ssl.*.location`
/// names, and of the system's authorities where those count. It changes when one of them is
/// renewed; a file that is not there counts too.
pub(crate) fn digest(config: &Config) -> u64 {
    let is_path = |name: &str| name.starts_with("ssl.") && name.ends_with(".location");
    let named = config.kafka_properties.iter();
    let named = named.filter(|(name, _)| is_path(name));
    let named = named.map(|(_, path)| PathBuf::from(path.expose()));
    let password = config.kafka_login.password_file.clone();
    let all = named.chain(password).chain(default_authorities(config));
    all.fold(0, |digest, path| add(digest, &path))
}

/// The secret that is the whole content of a file, without the end of the line.
pub(super) fn secret(path: &Path) -> Result<Secret<String>, InvalidValue> {
    whole_file(path)
}

/// The system's certificate authorities, a file or a folder: that of `SSL_CERT_FILE` or
/// `SSL_CERT_DIR`, or the first of the usual places. A vendored OpenSSL knows none of them.
pub(super) fn system_authorities() -> Option<PathBuf> {
    let named = |variable| {
        env::var_os(variable)
            .map(PathBuf::from)
            .filter(|it| it.exists())
    };
    if let Some(named) = named("SSL_CERT_FILE").or_else(|| named("SSL_CERT_DIR")) {
        return Some(named);
    }
    let found = openssl_probe::probe();
    found
        .cert_file
        .or_else(|| found.cert_dir.into_iter().next())
}

/// The system's authorities, if the brokers' certificates are judged by them.
pub(super) fn default_authorities(config: &Config) -> Option<PathBuf> {
    let uses_tls = connection_hint::protocol(config).ends_with("SSL");
    let is_named = config.kafka_properties.iter().any(|(name, value)| {
        let is_probe = value.expose() == "probe" || value.expose().is_empty();
        name == "ssl.ca.pem" || (name == "ssl.ca.location" && !is_probe)
    });
    (uses_tls && !is_named).then(system_authorities).flatten()
}

fn add(digest: u64, path: &Path) -> u64 {
    let name = path.as_os_str().as_encoded_bytes();
    let with = |bytes: &[u8]| fnv1a_64(&[&digest.to_le_bytes(), name, bytes]);
    if let Ok(content) = fs::read(path) {
        return with(&content);
    }
    let Ok(entries) = fs::read_dir(path) else {
        return with(b"");
    };
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort_unstable();
    let files = files.iter().filter(|path| path.is_file()).take(FILES_MAX);
    files.fold(with(b"/"), |digest, file| add(digest, file))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::Secret;
    use crate::kafka::tests::producer::config;

    #[test]
    fn a_renewed_file_or_one_of_a_folder_changes_the_digest_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("ca.pem"), folder.path().join("other"));
        let mut config = config("127.0.0.1:1");
        let before = digest(&config);
        for (name, path) in [
            ("ssl.ca.location", folder.path()),
            ("ssl.key.location", file.as_path()),
            ("log.location", other.as_path()),
        ] {
            let path = Secret::new(path.to_str().unwrap().to_owned());
            config.kafka_properties.push((name.to_owned(), path));
        }
        let missing = digest(&config);
        assert_ne!(missing, before);
        fs::write(&file, "one").unwrap();
        let one = digest(&config);
        assert_ne!(one, missing);
        assert_eq!(digest(&config), one);
        fs::write(&file, "two").unwrap();
        assert_ne!(digest(&config), one);
        fs::write(&file, "one").unwrap();
        assert_eq!(digest(&config), one);
        config.kafka_login.password_file = Some(other.clone());
        let without = digest(&config);
        assert_ne!(without, one);
        fs::write(&other, "password").unwrap();
        assert_ne!(digest(&config), without);
    }

    #[test]
    fn the_systems_authorities_count_for_tls_where_none_are_named() {
        let with = |properties: &[(&str, &str)]| {
            let mut config = config("127.0.0.1:1");
            for (name, value) in properties {
                let value = Secret::new((*value).to_owned());
                config.kafka_properties.push(((*name).to_owned(), value));
            }
            default_authorities(&config)
        };
        assert_eq!(with(&[]), None);
        let tls = ("security.protocol", "sasl_ssl");
        assert_eq!(with(&[tls]), system_authorities());
        assert_eq!(
            with(&[tls, ("ssl.ca.location", "probe")]),
            system_authorities()
        );
        assert_eq!(with(&[tls, ("ssl.ca.location", "/a.pem")]), None);
        assert_eq!(with(&[tls, ("ssl.ca.pem", "-----")]), None);
    }
}
