//! The program: parses the command line, runs the command and exits with its exit code.
//!
//! One thread runs the whole publisher: it reads one stream and feeds one producer, and librdkafka
//! has its own threads.

mod cli;

use std::process::ExitCode;
use std::time::Duration;

use crate::cli::{exit, parse};

/// librdkafka allocates here too, nine times for every record in flight.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    exit::watch_panics();
    let cli = match parse::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return ExitCode::from(code),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            exit::print(&anyhow::Error::new(e).context("cannot start the runtime"));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(cli.execute());
    // A call into librdkafka that does not return must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended {
        Err(error) if !exit::is_broken_pipe(&error) => {
            exit::print(&error);
            ExitCode::from(exit::exit_code(&error))
        }
        _ => ExitCode::SUCCESS,
    }
}
