//! Programs from Debian's packages, unpacked in the cache: nothing is installed, and no service
//! starts. Where that is not possible, the test names what is not offered.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::ephemeral::{cached, is_root};
use super::not_offered;

/// The folder of this package, unpacked together with those packages that it depends on and whose
/// names begin like this; `None` where apt does not offer it, which is named.
pub(crate) fn package(name: &str, libraries: &[&str]) -> Option<PathBuf> {
    let fill = |folder: &Path| unpack(name, libraries, folder);
    cached(&format!("debian-{name}"), fill)
        .inspect_err(|error| not_offered(&format!("Debian's package {name}: {error:#}")))
        .ok()
}

fn unpack(name: &str, libraries: &[&str], folder: &Path) -> Result<()> {
    let downloads = tempfile::tempdir()?;
    let download = || {
        let mut names = vec![name.to_owned()];
        if !libraries.is_empty() {
            names.extend(dependencies(name, libraries)?);
        }
        let mut apt = Command::new("apt-get");
        apt.args(["download", "-q"]).args(&names);
        succeeds(apt.current_dir(&downloads))
    };
    if let Err(error) = download() {
        // A new machine has no lists of packages.
        ensure!(is_root(), "{error:#}");
        succeeds(Command::new("apt-get").args(["update", "-q"]))?;
        download()?;
    }
    std::fs::create_dir(folder)?;
    for found in std::fs::read_dir(&downloads)? {
        let mut extract = Command::new("dpkg-deb");
        succeeds(extract.arg("-x").args([&found?.path(), folder]))?;
    }
    Ok(())
}

fn dependencies(name: &str, libraries: &[&str]) -> Result<Vec<String>> {
    let mut apt = Command::new("apt-cache");
    let listed = succeeds(apt.args(["depends", "--important", name]))?;
    let names = listed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    let wanted = names.filter(|name| libraries.iter().any(|it| name.starts_with(it)));
    let wanted: Vec<String> = wanted.map(str::to_owned).collect();
    ensure!(wanted.len() >= libraries.len(), "{name} needs {listed}");
    Ok(wanted)
}

fn succeeds(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}
