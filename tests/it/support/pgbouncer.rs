//! A real PgBouncer before a Postgres server, from Debian's package.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::debian::package;
use super::ephemeral::{Guard, free_port, is_root, new_folder};
use super::postgres::{Server, Session};
use super::wait::wait_until;

/// See the module's head. It ends with this value.
pub(crate) struct PgBouncer {
    guard: Guard,
    port: u16,
}

impl PgBouncer {
    /// Starts one with these lines of its section `pgbouncer`; `None` where there is none.
    pub(crate) async fn before(server: &Server, lines: &[&str]) -> Result<Option<PgBouncer>> {
        let Some(package) = package("pgbouncer", &["libc-ares", "libevent-"]) else {
            return Ok(None);
        };
        let folder = new_folder("pgbouncer", None)?;
        let port = free_port()?;
        let config = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = trust\n\
             auth_file = users\n{}\n",
            server.port(),
            lines.join("\n")
        );
        // It gives root's rights up, and reads its files as another user.
        fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
        fs::write(folder.join("config"), config)?;
        fs::write(
            folder.join("users"),
            "\"postgres\" \"\"\n\"outboxd\" \"\"\n",
        )?;
        let libraries = package
            .join("usr/lib")
            .join(format!("{}-linux-gnu", std::env::consts::ARCH));
        let mut words = vec![
            "env".to_owned(),
            format!("LD_LIBRARY_PATH={}", libraries.display()),
            package.join("usr/sbin/pgbouncer").display().to_string(),
            "config".to_owned(),
        ];
        if is_root() {
            words.extend(["-u".to_owned(), "nobody".to_owned()]);
        }
        let mut guard = Guard::new(&folder, None, "KILL")?;
        guard.start(&words)?;
        let pgbouncer = PgBouncer { guard, port };
        wait_until("PgBouncer to answer", Duration::from_secs(30), async || {
            let log = pgbouncer.log();
            ensure!(pgbouncer.guard.pid().is_some(), "{log}");
            Ok(
                match Session::open(&pgbouncer.url("postgres", "postgres")).await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(format!("{error:#}; {log}")),
                },
            )
        })
        .await?;
        Ok(Some(pgbouncer))
    }

    /// A connection string.
    pub(crate) fn url(&self, database: &str, user: &str) -> String {
        format!("postgresql://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Its log.
    pub(crate) fn log(&self) -> String {
        self.guard.log()
    }
}
