//! A temporary Postgres server: it runs in its own folder and is removed with the process that
//! started it.
//!
//! Owns one server from start to removal; [`find`] and [`fetch`] provide its programs, and a
//! [`Guard`] ends it. It never touches an existing server: it starts, signals and removes only its
//! own. Postgres refuses to run as root, so under root the server, its folder and its guard belong
//! to another user, who writes the files in it. Root follows no link there.
//!
//! Everything here blocks; asynchronous callers use `spawn_blocking`.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, bail};

mod binaries;
mod guard;
mod owner;

pub use binaries::{Binaries, cached, fetch, find};
pub use guard::Guard;
pub use owner::{Owner, is_root};

/// The limit for `initdb` and a start, on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(120);

/// The limit for a stop.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The options of a new server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Lines of `postgresql.conf`, which override those of every temporary server.
    pub config: &'a [&'a str],
    /// The password of the user `postgres`, for SCRAM; without one every local connection is
    /// trusted.
    pub password: Option<&'a str>,
    /// Whether it listens on its Unix socket alone, in a folder that only its user may enter.
    pub socket_only: bool,
}

/// A shutdown mode: <https://www.postgresql.org/docs/current/server-shutdown.html>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Waits until all clients have disconnected.
    Smart,
    /// Ends the clients' sessions.
    Fast,
    /// Writes no checkpoint: the next start recovers.
    Immediate,
}

/// A running or stopped server, removed on drop.
#[derive(Debug)]
pub struct Server {
    binaries: Binaries,
    port: u16,
    owner: Option<Owner>,
    guard: Guard,
}

impl Server {
    /// Creates a database cluster in a new folder and starts a server on it, on a free port of
    /// 127.0.0.1 and a Unix socket.
    pub fn start(binaries: &Binaries, options: Options<'_>) -> Result<Server> {
        let owner = Owner::of_a_server()?;
        let dir = new_folder("pg", owner)?;
        let guard = Guard::new(&dir, owner, "QUIT")?;
        let mut server = Server {
            binaries: binaries.clone(),
            port: free_port()?,
            owner,
            guard,
        };
        server.initialise(options)?;
        server.resume()?;
        Ok(server)
    }

    fn initialise(&mut self, options: Options<'_>) -> Result<()> {
        let initdb = self.binaries.dir.join("initdb");
        let mut command = vec![initdb.to_string_lossy().into_owned()];
        let settings = "-D data -U postgres -E UTF8 --locale=C --no-sync -A";
        command.extend(settings.split(' ').map(str::to_owned));
        if let Some(password) = options.password {
            self.write("password", password)?;
            command.extend(["scram-sha-256", "--pwfile=password"].map(str::to_owned));
        } else {
            command.push("trust".to_owned());
        }
        self.guard.start(&command)?;
        if self.guard.wait(START_LIMIT) != Some(0) {
            bail!(
                "initdb of Postgres {} failed: {}",
                self.binaries.version,
                self.guard.last_words()
            );
        }
        let sockets = self.socket_dir().display().to_string();
        let mut lines = vec![
            match options.socket_only {
                true => "listen_addresses = ''".to_owned(),
                false => "listen_addresses = '127.0.0.1'".to_owned(),
            },
            format!("unix_socket_directories = '{sockets}'"),
            "wal_level = logical".to_owned(),
        ];
        lines.extend(options.config.iter().map(|line| (*line).to_owned()));
        self.configure(&lines)
    }

    /// Adds lines to `postgresql.conf`. They take effect at the next start, or at
    /// [`reload`](Server::reload) where Postgres allows.
    pub fn configure<S: AsRef<str>>(&self, lines: &[S]) -> Result<()> {
        let mut text = String::new();
        for line in lines {
            text.push('\n');
            text.push_str(line.as_ref());
        }
        text.push('\n');
        self.write_by("cat >>\"$1\"", "data/postgresql.conf", &text)
    }

    /// Writes a file below the server's folder, readable by the server's user only; the data
    /// directory is `data`.
    pub fn write(&self, name: &str, contents: &str) -> Result<()> {
        self.write_by("umask 077; cat >\"$1\" && chmod 600 \"$1\"", name, contents)
    }

    /// Writes by this command of a shell, as the server's user: where that is not the user of this
    /// process, a link in the folder leads no further than the server's user may go.
    fn write_by(&self, script: &str, name: &str, contents: &str) -> Result<()> {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh", name]);
        shell.current_dir(self.guard.dir()).stdin(Stdio::piped());
        shell.stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some(Owner { uid, gid }) = self.owner {
            shell.uid(uid).gid(gid);
        }
        let mut child = shell.spawn().context("cannot start sh")?;
        if let Some(mut input) = child.stdin.take() {
            // A shell that cannot open the file does not read; its own error says why.
            let _read_or_not = input.write_all(contents.as_bytes());
        }
        let ended = child.wait_with_output().context("cannot wait for sh")?;
        if !ended.status.success() {
            let why = String::from_utf8_lossy(&ended.stderr).into_owned();
            bail!("cannot write {name} of the server: {}", why.trim());
        }
        Ok(())
    }

    /// Makes the server reload its configuration.
    pub fn reload(&mut self) -> Result<()> {
        self.guard.signal("HUP")
    }

    /// Starts the server again after a stop or a crash, on the same port; returns when it accepts
    /// connections.
    pub fn resume(&mut self) -> Result<()> {
        let end = Instant::now() + START_LIMIT;
        let postgres = self
            .binaries
            .dir
            .join("postgres")
            .to_string_lossy()
            .into_owned();
        let port = self.port.to_string();
        let attempts = 40;
        for _ in 0..attempts {
            let pid = self.guard.start(&[&postgres, "-D", "data", "-p", &port])?;
            while self.guard.pid() == Some(pid) && Instant::now() < end {
                if self.is_ready(pid) {
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(10));
            }
            if self.guard.pid().is_some() {
                break;
            }
            // After a crash the server starts only once the last process of its predecessor has
            // ended.
            thread::sleep(Duration::from_millis(250));
        }
        let Binaries { version, .. } = &self.binaries;
        bail!(
            "Postgres {version} did not start: {}",
            self.guard.last_words()
        )
    }

    /// As `pg_ctl --wait` does, reads the state from the eighth line of `postmaster.pid`; the first
    /// line names the server's process.
    fn is_ready(&self, pid: u32) -> bool {
        let text = guard::read(&self.data_dir().join("postmaster.pid"));
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let this = lines.first().is_some_and(|line| *line == pid.to_string());
        this && lines
            .get(7)
            .is_some_and(|state| matches!(*state, "ready" | "standby"))
    }

    /// A server on a copy of this one's files; this server must be stopped, and the new one is not
    /// started.
    pub fn copy(&self, config: &[&str]) -> Result<Server> {
        let dir = new_folder("pg", self.owner)?;
        let guard = Guard::new(&dir, self.owner, "QUIT")?;
        let copy = Server {
            binaries: self.binaries.clone(),
            port: free_port()?,
            owner: self.owner,
            guard,
        };
        copy_files(&self.data_dir(), &copy.data_dir())?;
        let sockets = copy.socket_dir().display().to_string();
        let mut lines = vec![format!("unix_socket_directories = '{sockets}'")];
        lines.extend(config.iter().map(|line| (*line).to_owned()));
        copy.configure(&lines)?;
        Ok(copy)
    }

    /// Keeps a copy of this server's files for [`put_back`](Server::put_back). The server must be
    /// stopped.
    pub fn keep_copy(&self) -> Result<()> {
        copy_files(&self.data_dir(), &self.guard.dir().join("kept"))
    }

    /// Replaces the files with the copy, as a restored volume does. The server must be stopped.
    pub fn put_back(&self) -> Result<()> {
        fs::remove_dir_all(self.data_dir()).context("cannot remove the data directory")?;
        copy_files(&self.guard.dir().join("kept"), &self.data_dir())
    }

    /// Requests a stop, without waiting for it.
    pub fn begin_stop(&mut self, how: Stop) -> Result<()> {
        self.guard.signal(match how {
            Stop::Smart => "TERM",
            Stop::Fast => "INT",
            Stop::Immediate => "QUIT",
        })
    }

    /// Waits until the server has stopped; false if it has not within `limit`.
    pub fn wait_stopped(&self, limit: Duration) -> bool {
        self.guard.wait(limit).is_some()
    }

    /// Stops the server; the folder stays, for [`resume`](Server::resume).
    pub fn stop(&mut self, how: Stop) -> Result<()> {
        self.begin_stop(how)?;
        if !self.wait_stopped(STOP_LIMIT) {
            bail!("Postgres did not stop: {}", self.guard.last_words());
        }
        Ok(())
    }

    /// Kills the postmaster as `kill -9` does; its child processes end by themselves soon after.
    pub fn kill(&mut self) -> Result<()> {
        self.guard.signal("KILL")?;
        if !self.wait_stopped(STOP_LIMIT) {
            bail!("Postgres did not end after SIGKILL");
        }
        Ok(())
    }

    /// Sends the postmaster a signal, such as `STOP` or `CONT`.
    pub fn signal(&mut self, name: &str) -> Result<()> {
        self.guard.signal(name)
    }

    /// The postmaster's process ID while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.guard.pid()
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// As the server prints it: `17.11`.
    pub fn version(&self) -> &str {
        &self.binaries.version
    }

    /// The directory of the Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.guard.dir()
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.guard.dir().join("data")
    }

    /// The server's log.
    pub fn log(&self) -> String {
        self.guard.log()
    }

    /// A connection string over TCP.
    pub fn url(&self, database: &str, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// A connection string over the Unix socket.
    pub fn unix_url(&self, database: &str, user: &str) -> String {
        let folder = self.socket_dir().display().to_string().replace('/', "%2F");
        format!("postgres://{user}@{folder}:{}/{database}", self.port)
    }
}

/// Copies a folder with owners and modes.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    if !copied.context("cannot start cp")?.success() {
        bail!("cannot copy {} to {}", from.display(), to.display());
    }
    Ok(())
}

/// A new folder that `owner` can reach and remove, with a path short enough for a Unix socket.
pub fn new_folder(kind: &str, owner: Option<Owner>) -> Result<PathBuf> {
    let open_to_all =
        |dir: &Path, bits| fs::metadata(dir).is_ok_and(|found| found.mode() & bits == bits);
    let usable = |dir: &Path| {
        let reachable = || dir.ancestors().all(|above| open_to_all(above, 0o1));
        let short = dir.as_os_str().len() < 60;
        short && (owner.is_none() || (open_to_all(dir, 0o3) && reachable()))
    };
    let places = [
        env::temp_dir(),
        PathBuf::from("/tmp"),
        PathBuf::from("/var/tmp"),
    ];
    let place = places.iter().find(|dir| dir.is_dir() && usable(dir));
    let place =
        place.context("no temporary directory that other users can write to: set TMPDIR")?;
    let dir = place.join(format!("outboxd-{kind}-{:012x}", fastrand::u64(..) >> 16));
    let made = DirBuilder::new().mode(0o700).create(&dir);
    made.with_context(|| format!("cannot create {}", dir.display()))?;
    if let Some(Owner { uid, gid }) = owner {
        chown(&dir, Some(uid), Some(gid))?;
    }
    Ok(dir)
}

/// A free TCP port below those that the kernel assigns to outgoing connections, so that it stays
/// free while a server is stopped.
pub fn free_port() -> Result<u16> {
    static TAKEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..1000 {
        let port = fastrand::u16(12_000..32_000);
        if !taken.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            taken.insert(port);
            return Ok(port);
        }
    }
    bail!("no free TCP port on 127.0.0.1")
}
