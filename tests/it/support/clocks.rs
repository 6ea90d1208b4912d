//! Clocks that a test sets: a shared library between a program and the C library shifts those that
//! the program reads.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::ephemeral::Binaries;
use super::outboxd::Settings;

const SHIFT: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Nanoseconds that are added to CLOCK_MONOTONIC and to CLOCK_REALTIME. */
static volatile int64_t *shift;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("CLOCK_SHIFT");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return;
    void *map = mmap(0, 16, PROT_READ, MAP_SHARED, file, 0);
    if (map != MAP_FAILED) shift = map;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (result || !shift) return result;
    int64_t add = clock == CLOCK_REALTIME ? shift[1] : clock == CLOCK_MONOTONIC ? shift[0] : 0;
    int64_t nanos = (int64_t)time->tv_sec * 1000000000 + time->tv_nsec + add;
    time->tv_sec = nanos / 1000000000;
    time->tv_nsec = nanos % 1000000000;
    return 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"#;

/// The shifts of one program's clocks.
pub(crate) struct Clocks {
    folder: tempfile::TempDir,
}

impl Clocks {
    pub(crate) fn new() -> Result<Clocks> {
        let folder = tempfile::tempdir()?;
        // Servers run as another user.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let source = folder.path().join("shift.c");
        std::fs::write(&source, SHIFT)?;
        let library = folder.path().join("shift.so");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .status()?;
        ensure!(built.success(), "cc failed");
        let clocks = Clocks { folder };
        clocks.shift(0, 0)?;
        Ok(clocks)
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }

    /// The settings with which the program reads these clocks.
    pub(crate) fn of(&self, settings: Settings) -> Settings {
        settings
            .set("LD_PRELOAD", self.file("shift.so").display().to_string())
            .set("CLOCK_SHIFT", self.file("shift").display().to_string())
    }

    /// Programs of a server that reads these clocks.
    pub(crate) fn of_server(&self, binaries: Binaries) -> Result<Binaries> {
        let real = binaries.dir.join("postgres");
        let script = format!(
            "#!/bin/sh\nLD_PRELOAD='{}' CLOCK_SHIFT='{}' exec '{}' \"$@\"\n",
            self.file("shift.so").display(),
            self.file("shift").display(),
            real.display()
        );
        let postgres = self.file("postgres");
        std::fs::write(&postgres, script)?;
        std::fs::set_permissions(&postgres, Permissions::from_mode(0o755))?;
        symlink(binaries.dir.join("initdb"), self.file("initdb"))?;
        let dir = self.folder.path().to_path_buf();
        Ok(Binaries { dir, ..binaries })
    }

    /// Shifts both clocks by these seconds, from the next reading on.
    pub(crate) fn shift(&self, monotonic: i64, wall: i64) -> Result<()> {
        let nanos = [monotonic, wall].map(|seconds| (seconds * 1_000_000_000).to_ne_bytes());
        // In place: the program has mapped the file.
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.file("shift"))?;
        std::os::unix::fs::FileExt::write_all_at(&file, &nanos.concat(), 0)?;
        Ok(())
    }
}
