//! The file that remembers what a fence took away, for as long as the fence stands.
//!
//! It is on disk before the first right is taken. A file that exists belongs to a fence that was
//! not taken back, and is never overwritten. It holds names of roles and columns, and no secret.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cutover::Fence;
use crate::error::{Code, Error, Result};

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The database of the table.
    pub database: String,
    /// The server's system identifier, where the login may read it.
    pub system_id: Option<String>,
    /// What was set.
    pub fence: Fence,
}

impl Record {
    /// Where the record of this table is kept by default: in the working folder.
    pub fn default_path(database: &str, table: &str) -> PathBuf {
        let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
        let name = format!("outboxd-cutover-{database}-{table}.json");
        let plain = name.chars().map(|c| if is_plain(c) { c } else { '_' });
        PathBuf::from(plain.collect::<String>())
    }

    /// Writes the record, through to the disk.
    ///
    /// # Errors
    /// `CONFIG_ERROR`: there is a file of this name, or it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(io::Error::from);
        let written = text.and_then(|text| {
            let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        });
        written.map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    "an earlier fence was not taken back: `outboxd cutover --undo` does it"
                }
                _ => "name a file that can be written with --record",
            };
            let message = format!("cannot write {}", path.display());
            Error::fatal(Code::Config, message)
                .with_source(error)
                .with_hint(hint)
        })
    }

    /// Reads the record; `None` if there is no such file.
    ///
    /// # Errors
    /// `CONFIG_ERROR`: the file cannot be read, or is no record.
    pub fn read(path: &Path) -> Result<Option<Record>> {
        let failed = |error: io::Error| {
            let message = format!("cannot read {}", path.display());
            Error::fatal(Code::Config, message)
                .with_source(error)
                .with_hint("name the file that `outboxd cutover` has written with --record")
        };
        match fs::read_to_string(path) {
            Ok(text) => {
                let record = serde_json::from_str(&text).map_err(io::Error::from);
                record.map(Some).map_err(failed)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Removes the file: the fence was taken back.
    ///
    /// # Errors
    /// `CONFIG_ERROR`: the file cannot be removed.
    pub fn remove(path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(|error| {
            let message = format!("cannot remove {}", path.display());
            Error::fatal(Code::Config, message)
                .with_source(error)
                .with_hint("the rights are restored: remove the file by hand")
        })
    }
}
