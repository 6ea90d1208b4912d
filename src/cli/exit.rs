//! Failed commands: the printed error and the exit code.
//!
//! 0: success, or stopped by a signal; 1: fatal; 2: usage or configuration; 3: a transient problem
//! that outlasted the command. A command may have further ones, as its [`Verdict`].

use std::error::Error as StdError;
use std::io;

use outboxd::config::{SettingError, SettingErrors};
use outboxd::error::{Code, Error};

use crate::cli::log;

/// Fatal: a restart alone does not help.
const FATAL: u8 = 1;
/// The command line or the configuration has to be fixed.
pub(crate) const USAGE: u8 = 2;
/// The command may succeed later.
pub(crate) const TRANSIENT: u8 = 3;

/// An answer of a command that is not the good one, with an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{}", .lines.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join("; "))]
pub(crate) struct Verdict {
    code: u8,
    /// Each with what to do about it.
    lines: Vec<(String, Option<String>)>,
}

impl Verdict {
    pub(crate) fn new(code: u8, lines: Vec<(String, Option<String>)>) -> Verdict {
        Verdict { code, lines }
    }
}

/// Lets a panic write an object where the log is in JSON. Without unwinding, this is the last line.
pub(crate) fn watch_panics() {
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !log::is_json() {
            return otherwise(panic);
        }
        log::print(Failure::new(None, &panic.to_string(), None).json());
    }));
}

/// The exit code for the error.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<SettingErrors>() {
        return USAGE;
    }
    if let Some(verdict) = error.downcast_ref::<Verdict>() {
        return verdict.code;
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

/// Prints one line for each error, and below it one for what to do, on standard error; with a log
/// in JSON, one object for each error.
pub(crate) fn print(error: &anyhow::Error) {
    let failures = failures(error);
    let lines = failures.iter().map(|failure| match log::is_json() {
        true => failure.json(),
        false => failure.text(),
    });
    log::print(lines.collect());
}

/// What a command failed of, on one line, and what to do about it.
pub(crate) struct Failure {
    code: Option<Code>,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: Option<Code>, message: &str, hint: Option<&str>) -> Failure {
        Failure {
            code,
            message: one_line(message),
            hint: hint.map(one_line),
        }
    }

    fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.message);
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        text
    }

    /// With the fields of the log's lines.
    pub(crate) fn json(&self) -> String {
        let mut line = serde_json::json!({
            "timestamp": log::timestamp(),
            "level": "ERROR",
            "message": self.message,
            "target": "outboxd",
        });
        if let Some(code) = self.code {
            line["code"] = code.as_str().into();
        }
        if let Some(hint) = &self.hint {
            line["hint"] = hint.as_str().into();
        }
        format!("{line}\n")
    }
}

fn failures(error: &anyhow::Error) -> Vec<Failure> {
    if let Some(errors) = error.downcast_ref::<SettingErrors>() {
        let failure = |error: &SettingError| {
            let text = format!("{}: {} {}", Code::Config, error.setting(), error.problem());
            Failure::new(Some(Code::Config), &text, Some(error.hint()))
        };
        return errors.iter().map(failure).collect();
    }
    if let Some(verdict) = error.downcast_ref::<Verdict>() {
        let lines = verdict.lines.iter();
        return lines
            .map(|(text, hint)| Failure::new(None, text, hint.as_deref()))
            .collect();
    }
    let several = error
        .downcast_ref::<Error>()
        .filter(|it| !it.problems().is_empty());
    if let Some(several) = several {
        let code = several.code();
        let failure = |(text, hint): &(String, String)| {
            Failure::new(Some(code), &format!("{code}: {text}"), Some(hint))
        };
        return several.problems().iter().map(failure).collect();
    }
    let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
    let causes = || {
        let causes = error.chain();
        causes.filter_map(|cause| cause.downcast_ref::<Error>())
    };
    let hint = causes().find_map(Error::hint);
    let code = causes().next().map(Error::code);
    vec![Failure::new(code, &chain.join(": "), hint)]
}

/// What a server or a person has named may hold line ends and the escape sequences of terminals.
fn one_line(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let escaped = words.chars().map(|c| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_two_lines_for_people_and_one_object_for_machines() {
        let escaped = Failure::new(None, "slot \x1b[2J\u{9b}x", None).text();
        assert_eq!(escaped, "error: slot \\u{1b}[2J\\u{9b}x\n");
        let message = "CONFIG_ERROR: no\n\"table\"";
        let failure = Failure::new(Some(Code::Config), message, Some("run outboxd init"));
        let text = "error: CONFIG_ERROR: no \"table\"\nhint: run outboxd init\n";
        assert_eq!(failure.text(), text);
        let line = failure.json();
        assert!(line.ends_with('\n') && line.lines().count() == 1, "{line}");
        let line: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
        assert_eq!(line["message"], "CONFIG_ERROR: no \"table\"");
        assert_eq!(line["hint"], "run outboxd init");
        assert_eq!(line["code"], "CONFIG_ERROR");
        assert_eq!(line["level"], "ERROR");
    }
}
