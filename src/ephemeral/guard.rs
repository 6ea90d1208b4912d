//! A process that cannot outlive its owner.
//!
//! The owner holds one end of a pipe, a short `sh` script the other. The kernel closes the pipe
//! however the owner ends, `kill -9` included; the script then ends its process and removes the
//! folder. The script has its own process group, so Ctrl-C at a terminal reaches the owner alone.
//! It blocks only in `read`, so it always notices the end of the pipe.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::OFlags;

use crate::ephemeral::owner::Owner;

/// `$1` is the folder, `$2` the signal that ends the process after the owner has gone. The file
/// `pid` exists while the process lives, and `exited` after it has ended.
const SCRIPT: &str = r#"
dir=$1 last=$2 started=
cd "$dir" || exit 1
while IFS= read -r line; do
    case $line in
    "start "*)
        eval "set -- ${line#start }"
        rm -f pid exited
        started=1
        (
            sh -c 'echo $$ >"$0/new" && mv "$0/new" "$0/pid" && echo "pid $$" >&3 &&
                exec "$@" 3>&-' "$dir" "$@" 3>&1 >>log 2>&1 </dev/null
            code=$?
            rm -f pid
            : >exited
            echo "exit $code"
        ) &
        ;;
    "kill "*)
        [ ! -s pid ] || kill -s "${line#kill }" "$(cat pid)"
        ;;
    esac
done
await() {
    tries=$1
    until [ -e exited ] || [ -s "$2" ] || [ "$tries" -le 0 ]; do
        sleep 0.05
        tries=$((tries - 1))
    done
}
if [ -n "$started" ]; then
    await 100 pid
    if pid=$(cat pid); then
        kill -s "$last" "$pid"
        kill -s CONT "$pid"
        await 200 exited
        [ -e exited ] || kill -s KILL "$pid"
        await 100 exited
    fi
fi
cd /
rm -rf "$dir" || { sleep 1; rm -rf "$dir"; }
"#;

/// The limit for the script's own clean-up.
const CLEANUP_LIMIT: Duration = Duration::from_secs(30);

/// The owner's end: starts, signals and awaits one process at a time. Dropping it ends the process
/// and removes the folder.
#[derive(Debug)]
pub struct Guard {
    dir: PathBuf,
    child: Child,
    orders: Option<ChildStdin>,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Starting,
    Running(u32),
    Exited(i32),
    /// The guard itself has ended.
    Gone,
}

impl Guard {
    /// Takes over `dir`, which must belong to `owner`; `last` is the signal that ends the process
    /// after the owner has gone.
    pub fn new(dir: &Path, owner: Option<Owner>, last: &str) -> Result<Guard> {
        let mut command = Command::new("sh");
        command
            .args(["-c", SCRIPT, "sh"])
            .arg(dir)
            .arg(last)
            .current_dir("/")
            .process_group(0);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if let Some(Owner { uid, gid }) = owner {
            command.uid(uid).gid(gid).env("HOME", dir);
        }
        let mut child = command.spawn().context("cannot start sh")?;
        let orders = child.stdin.take();
        let news = BufReader::new(child.stdout.take().context("the guard has no stdout")?);
        let state = Arc::new((Mutex::new(State::Idle), Condvar::new()));
        let writer = Arc::clone(&state);
        thread::spawn(move || {
            let number = |text: &str| text.parse().unwrap_or_default();
            for line in news.lines().map_while(Result::ok) {
                let next = match line.split_once(' ') {
                    Some(("pid", pid)) => State::Running(number(pid)),
                    Some(("exit", code)) => State::Exited(number(code) as i32),
                    _ => continue,
                };
                *lock(&writer.0) = next;
                writer.1.notify_all();
            }
            *lock(&writer.0) = State::Gone;
            writer.1.notify_all();
        });
        Ok(Guard {
            dir: dir.to_path_buf(),
            child,
            orders,
            state,
        })
    }

    /// Starts a program from the `PATH`, or by its path; its output goes to [`log`](Guard::log).
    /// Returns the process ID.
    pub fn start<S: AsRef<OsStr>>(&mut self, command: &[S]) -> Result<u32> {
        if let State::Starting | State::Running(_) = *lock(&self.state.0) {
            bail!("a process is already running");
        }
        let mut order = String::from("start");
        for word in command {
            let word = word
                .as_ref()
                .to_str()
                .context("an argument of the command is not UTF-8")?;
            if word.contains('\n') {
                bail!("an argument of the command contains a line break");
            }
            order.push_str(&format!(" '{}'", word.replace('\'', r"'\''")));
        }
        *lock(&self.state.0) = State::Starting;
        self.order(&order)?;
        let started = self.until(Duration::from_secs(30), |state| state != State::Starting);
        match started {
            Some(State::Running(pid)) => Ok(pid),
            _ => bail!("the process did not start: {}", self.last_words()),
        }
    }

    /// Sends a signal by its short name, such as `TERM`; no effect on a process that has ended.
    pub fn signal(&mut self, name: &str) -> Result<()> {
        self.order(&format!("kill {name}"))
    }

    /// The process ID while the process runs.
    pub fn pid(&self) -> Option<u32> {
        match *lock(&self.state.0) {
            State::Running(pid) => Some(pid),
            _ => None,
        }
    }

    /// Waits for the end of the process. Returns its exit code as a shell does (128 plus the number
    /// of the signal that killed it), or `None` if it still runs after `limit`.
    pub fn wait(&self, limit: Duration) -> Option<i32> {
        match self.until(limit, |state| {
            matches!(state, State::Exited(_) | State::Gone)
        }) {
            Some(State::Exited(code)) => Some(code),
            _ => None,
        }
    }

    /// The output of all processes so far.
    pub fn log(&self) -> String {
        read(&self.dir.join("log"))
    }

    /// The end of the log, for an error message.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// The folder, which exists as long as the guard.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn order(&mut self, line: &str) -> Result<()> {
        let orders = self.orders.as_mut().context("the guard has ended")?;
        writeln!(orders, "{line}").context("the guard of a process has ended")
    }

    fn until(&self, limit: Duration, reached: impl Fn(State) -> bool) -> Option<State> {
        let (state, changed) = &*self.state;
        let waited = changed.wait_timeout_while(lock(state), limit, |state| !reached(*state));
        let (state, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
        (!timed_out.timed_out()).then_some(*state)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.orders.take());
        let end = Instant::now() + CLEANUP_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The text of a file that another user may have replaced: a link is not followed.
pub(super) fn read(path: &Path) -> String {
    let no_link = OFlags::NOFOLLOW.bits().cast_signed();
    let mut bytes = Vec::new();
    let opened = File::options().read(true).custom_flags(no_link).open(path);
    let _as_far_as_it_is_there = opened.and_then(|mut file| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
