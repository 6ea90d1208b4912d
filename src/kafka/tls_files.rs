//! The files that the Kafka properties name, of which librdkafka reads each once, for a new client.

use std::fs;
use std::path::Path;

use crate::config::Config;
use crate::fnv::fnv1a_64;

/// The most files of a folder that are read.
const FILES_MAX: usize = 1_000;

/// A digest of the contents of all files and folders that `ssl.*.location` names. It changes when
/// one of them is renewed; a file that is not there counts too.
pub(crate) fn digest(config: &Config) -> u64 {
    let is_path = |name: &str| name.starts_with("ssl.") && name.ends_with(".location");
    let named = config.kafka_properties.iter();
    let named = named.filter(|(name, _)| is_path(name));
    named.fold(0, |digest, (_, path)| add(digest, Path::new(path.expose())))
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
    }
}
