//! Parses the command line, and prints what is wrong with it.

use std::ffi::OsString;
use std::io::{self, Write};

use clap::FromArgMatches as _;
use outboxd::config::may_be_secret;
use outboxd::error::Code;

use crate::cli::exit::{Failure, USAGE};
use crate::cli::{Cli, command_line, log, terminal};

const LOG_FORMAT: &str = "OUTBOX_LOG_FORMAT";

/// Parses the command line. If that ends the program, prints the reason and returns the exit code.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Cli, u8> {
    let arguments: Vec<OsString> = arguments.collect();
    log::asked_for(log_format(&arguments, std::env::var(LOG_FORMAT).ok()).as_deref());
    let parsed = command_line()
        .try_get_matches_from(&arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let error = match parsed {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    if !error.use_stderr() {
        let _ = error.print();
        return Err(0);
    }
    let mut text = match terminal::takes_colours(&io::stderr()) && !log::is_json() {
        true => error.render().ansi().to_string(),
        false => error.render().to_string(),
    };
    // clap's word for a hint.
    text = text.replace("  tip:", "hint:").replace("tip:", "hint:");
    // clap quotes unknown arguments, and one may be a misplaced connection string.
    let arguments = arguments.iter().map(|argument| argument.to_string_lossy());
    for secret in arguments.filter(|argument| may_be_secret(argument)) {
        text = text.replace(&*secret, "…");
    }
    if log::is_json() {
        let message = text.strip_prefix("error: ").unwrap_or(&text);
        text = Failure::new(Some(Code::Config), message, None).json();
    }
    let _ = write!(io::stderr(), "{text}");
    Err(USAGE)
}

/// The format of the log that the command line asks for, or else the variable. Read before the
/// command line is parsed, since that may fail.
fn log_format(arguments: &[OsString], variable: Option<String>) -> Option<String> {
    let mut format = variable;
    let mut arguments = arguments.iter().map(|argument| argument.to_string_lossy());
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix("--log-format") {
            Some("") => format = arguments.next().map(Into::into),
            Some(value) => format = value.strip_prefix('=').map(str::to_owned).or(format),
            None => {}
        }
    }
    format
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_the_log_is_known_before_the_command_line_is_parsed() {
        let asked = |arguments: &[&str], variable: Option<&str>| {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            log_format(&arguments, variable.map(str::to_owned))
        };
        let json = Some("json".to_owned());
        assert_eq!(asked(&["outboxd", "run"], None), None);
        assert_eq!(asked(&["outboxd", "run"], Some("json")), json);
        assert_eq!(
            asked(&["outboxd", "run", "--log-format", "json"], None),
            json
        );
        assert_eq!(asked(&["outboxd", "--log-format=json"], Some("text")), json);
        assert_eq!(asked(&["outboxd", "--log-formats=x"], Some("json")), json);
        assert_eq!(asked(&["outboxd", "--log-format"], Some("json")), None);
    }
}
