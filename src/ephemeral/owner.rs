//! The user that the files and servers of this process belong to.

use std::os::unix::fs::MetadataExt;
use std::sync::LazyLock;
use std::{env, fs};

use anyhow::{Context, Result};

/// Whether files made by this process belong to root.
pub fn is_root() -> bool {
    static ROOT: LazyLock<bool> = LazyLock::new(|| {
        // A new file belongs to the effective user: the only check that needs no call into libc.
        let probe = env::temp_dir().join(format!(".outboxd-{:016x}", fastrand::u64(..)));
        let owner = fs::File::create_new(&probe).and_then(|file| file.metadata());
        let _ = fs::remove_file(&probe);
        owner.is_ok_and(|owner| owner.uid() == 0)
    });
    *ROOT
}

/// A user and its group.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Owner {
    /// The user to run a Postgres server as: `None` is the user of this process.
    pub(super) fn of_a_server() -> Result<Option<Owner>> {
        if !is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        let named = |wanted: &str| {
            let line = users
                .lines()
                .find(|line| line.split(':').next() == Some(wanted))?;
            let mut ids = line.split(':').skip(2);
            Some(Owner {
                uid: ids.next()?.parse().ok()?,
                gid: ids.next()?.parse().ok()?,
            })
        };
        let owner = named("postgres").or_else(|| named("nobody"));
        owner
            .map(Some)
            .context("Postgres refuses to run as root: run outboxd as another user")
    }
}
