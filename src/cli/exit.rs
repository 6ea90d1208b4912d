//! Failed commands: the printed error and the exit code.
//!
//! 0: success, or stopped by a signal; 1: fatal; 2: usage or configuration; 3: a transient problem
//! that outlasted the command.

use std::error::Error as StdError;
use std::ffi::OsString;
use std::io::{self, Write};

use clap::Parser;
use outboxd::config::{SettingErrors, may_be_secret};
use outboxd::error::{Code, Error};

use crate::cli::{Cli, log};

/// Fatal: a restart alone does not help.
const FATAL: u8 = 1;
/// The command line or the configuration has to be fixed.
const USAGE: u8 = 2;
/// The command may succeed later.
const TRANSIENT: u8 = 3;

/// Parses the command line. If that ends the program, prints the reason and returns the exit code.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Cli, u8> {
    let arguments: Vec<OsString> = arguments.collect();
    let error = match Cli::try_parse_from(&arguments) {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    if !error.use_stderr() {
        let _ = error.print();
        return Err(0);
    }
    // clap quotes unknown arguments, and one may be a misplaced connection string.
    let secrets: Vec<String> = arguments
        .iter()
        .map(|argument| argument.to_string_lossy().into_owned())
        .filter(|argument| may_be_secret(argument))
        .collect();
    if secrets.is_empty() {
        let _ = error.print();
    } else {
        let mut text = error.render().to_string();
        for secret in secrets {
            text = text.replace(&secret, "…");
        }
        let _ = write!(io::stderr(), "{text}");
    }
    Err(USAGE)
}

/// The exit code for the error.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<SettingErrors>() {
        return USAGE;
    }
    match error.downcast_ref::<Error>() {
        Some(error) if error.code() == Code::Config => USAGE,
        Some(error) if error.is_transient() => TRANSIENT,
        _ => FATAL,
    }
}

/// Whether the reader of standard output has gone, as in `outboxd status | head -1`, which is no
/// failure.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &(dyn StdError + 'static)| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(broken)
}

/// Prints one line for each error and one for the hint, on standard error.
pub(crate) fn print(error: &anyhow::Error) {
    let mut text = String::new();
    if let Some(errors) = error.downcast_ref::<SettingErrors>() {
        for error in errors {
            text.push_str(&format!(
                "error: {}: {}\n",
                Code::Config,
                one_line(&error.to_string())
            ));
        }
    } else {
        let chain: Vec<String> = error
            .chain()
            .map(|cause| one_line(&cause.to_string()))
            .collect();
        text.push_str(&format!("error: {}\n", chain.join(": ")));
        let hint = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<Error>()?.hint());
        if let Some(hint) = hint {
            text.push_str(&format!("hint: {}\n", one_line(hint)));
        }
    }
    log::print(text);
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
