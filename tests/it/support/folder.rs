//! A folder that ends with its value.

use std::fs::{self, Permissions};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::ephemeral::new_folder;

/// A new folder, removed when the value is dropped, however its test ends.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(kind: &str) -> Result<Folder> {
        Ok(Folder(new_folder(kind, None)?))
    }

    /// A folder that other users can write to: root's Postgres runs as another user.
    pub(crate) fn open_to_all(kind: &str) -> Result<Folder> {
        let folder = Folder::new(kind)?;
        fs::set_permissions(&folder.0, Permissions::from_mode(0o777))?;
        Ok(folder)
    }

    /// What is in it.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.0)?;
        let name = |entry: std::io::Result<fs::DirEntry>| {
            Ok(entry?.file_name().to_string_lossy().into_owned())
        };
        entries.map(name).collect()
    }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
